"""Stacked autoencoders: layers that learn one after the other, then together."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import nn

from narrows.data.corruption import CORRUPTIONS, corrupted
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.fields import Fraction, NonNegative, OneOf, Unless
from narrows.metrics.health import Diagnosis, Finding
from narrows.models.plain import Autoencoder
from narrows.net import Move, Net, Player, Stage, Step, Terms
from narrows.parts.latents import Point
from narrows.parts.likelihoods import Gaussian
from narrows.parts.stacked import pairs

__all__ = ["StackedAutoencoder"]

Corruption = Annotated[str, OneOf(CORRUPTIONS)]
NOT_OF_LAYERS = {
    "linear_path": "starts a whole net at its best linear code, which layers learn one by one"
}
NOT_ALONE = Finding(
    "pre-training",
    "notice",
    "No layer was pre-trained: there were too few epochs, or the net went on training.",
    "Fit anew with more epochs.",
)


class _Pair(Net):
    """A layer and its mirror: an autoencoder of what the layers below it make of a sample."""

    def __init__(self, below: Sequence[nn.Module], *parts: Any) -> None:
        super().__init__(*parts)
        self.below = tuple(below)  # no children: they rest
        self.name = f"layer_{len(below) + 1}"

    def stage(self, length: int, **corruption: Any) -> Stage:
        """Return the part of training, of so many epochs, in which this layer learns alone."""
        losses = partial(self.losses, **corruption)
        return Stage(self, self.players(), losses, start=len(self.below) * length)

    def losses(self, batch: Batch, corruption: str | None, noise: float) -> Iterator[Move]:
        """Yield the one move of this layer."""
        with torch.no_grad():
            for layer in self.below:
                h = layer(batch).to(batch.x.dtype)
                batch = replace(batch, x=h, target=h, mask=None)
        step = self(corrupted(batch, corruption, noise))
        yield Move(self.name, {self.name: step.nll}, step)

    def players(self) -> dict[str, Player]:
        return {self.name: ([self], {})}

    def statistics(self, step: Step) -> Terms:
        del step
        return {}  # the error of a layer has other units than that of the data


def stack(net: Net) -> list[_Pair]:
    """Return an autoencoder for each layer of a net and its mirror, the lowest first.

    Raises:
        ParameterError: there is one layer.
    """
    layers, found = pairs(net.encoder, net.decoder), []
    if len(layers) == 1:
        raise ParameterError(
            "StackedAutoencoder needs two layers or more; hidden=() leaves one, and nothing to "
            "stack. Give `hidden` a size or more, or use Autoencoder."
        )
    for i, (encoder, decoder) in enumerate(layers):
        latent = net.latent if i == len(layers) - 1 else Point(1)  # a point passes any h on
        likelihood = Gaussian(scale=1.0) if i else net.likelihood
        below = [encoder for encoder, _ in layers[:i]]
        found.append(_Pair(below, encoder, latent, decoder, likelihood).to(net.progress.device))
    return found


def greedy(
    together: Stage, epochs: int | None, share: float, corruption: str | None, noise: float
) -> list[Stage]:
    """Return a stage for each layer, the lowest first, and the one in which all train together.

    Args:
        together: the stage of the whole net.
        epochs: of all stages; None for no end, to which nothing leads up.
        share: of the epochs in which layers learn alone.
        corruption: what is done to their inputs.
        noise: amount of it.
    """
    layers, each = stack(together.net), 0
    if epochs is not None and share:
        each = min(max(1, round(share * epochs / len(layers))), (epochs - 1) // len(layers))
    alone = [layer.stage(each, corruption=corruption, noise=noise) for layer in layers if each]
    return [*alone, replace(together, start=each * len(layers))]


class StackedAutoencoder(Autoencoder):
    """Layers that are pre-trained one by one, from the data to the code, then all together.

    -log p(h | g(f(h))) for the layer f, its mirror g and their input h, then -log p(x | z)

    Each layer learns to reconstruct what the layers below it make of x, while all others rest; p
    is the likelihood for the first, a normal of variance 1 for the others. The history shows
    `layer_1`, `layer_2`, ... while they are pre-trained and `nll` once all train, which is when
    `patience` counts. A net that goes on training, by `partial_fit` or `warm_start`, is not
    pre-trained again.

    Use it for deep nets of sigmoids, which hardly start to learn as a whole; not with other
    activations, with which `Autoencoder` mostly gets further in as many epochs.

    Args:
        architecture: "mlp", "conv", or "auto", which takes the modality's.
        pretraining: share of the epochs in which layers learn alone, in equal numbers of at least
            one each; with fewer epochs than layers and one to fine-tune, there is none.
        corruption: what is done to the input of a layer that is pre-trained, which it then learns
            to undo; None does nothing.
        noise: amount of the corruption.

    References:
        Greedy Layer-Wise Training of Deep Networks (Bengio et al., 2007),
        https://papers.nips.cc/paper/3048-greedy-layer-wise-training-of-deep-networks
        Stacked Denoising Autoencoders (Vincent et al., 2010),
        https://jmlr.org/papers/v11/vincent10a.html

    >>> from narrows import StackedAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = StackedAutoencoder(latent_dim=2, hidden=(16,), activation="tanh", epochs=40)
    >>> model.fit(X).transform(X).shape
    (150, 2)
    >>> [next(name for name in row if name != "epoch") for row in model.history_[::10]]
    ['layer_1', 'layer_2', 'nll', 'nll']
    """

    calculates = True
    meaningless = NOT_OF_LAYERS

    architecture: Literal["auto", "mlp", "conv"] = "auto"
    pretraining: Fraction = 0.5
    corruption: Annotated[Corruption | None, Unless("pretraining", 0)] = None
    noise: Annotated[NonNegative, Unless("corruption", None)] = 0.3

    def stages(self, epochs: int | None) -> list[Stage]:
        """Return a stage for each layer, the lowest first, and one of the whole net."""
        (together,) = super().stages(epochs)
        goes_on = self.warm_start and "history_" in vars(self)
        share = 0.0 if goes_on else self.pretraining
        return greedy(together, epochs, share, self.corruption, self.noise)

    def diagnose(self) -> Diagnosis:
        """Say so where no layer was pre-trained."""
        found, alone = super().diagnose(), not self.pretraining or "layer_1" in self.history_[0]
        return found if alone else found.having(NOT_ALONE)
