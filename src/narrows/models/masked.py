"""Masked autoencoders: what is hidden is told from what is seen."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from narrows.assembly import assemble
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, Fraction, Positive
from narrows.models.plain import _Deterministic
from narrows.models.structured import _WithContext
from narrows.net import Move, Net, Step
from narrows.parts.generation import Plan
from narrows.parts.networks import ARCHITECTURES
from narrows.parts.transformers import (
    BARE,
    TokensDecoder,
    TokensEncoder,
    known,
    mean,
    scatter,
    transformer,
)

__all__ = ["MaskedAutoencoder"]


class _Masked(Net):
    """A net that tells tokens from others: a random share in `masked`, else each from the rest."""

    def masked(self, batch: Batch, ratio: float) -> Step:
        """Tell a random share of each sample from the rest; the step's mask is 1 on that share."""
        tokens = cast(TokensEncoder, self.encoder).tokens
        count = min(max(1, round(ratio * tokens.count)), max(1, tokens.count - 1))
        order = torch.rand(len(batch), tokens.count, device=batch.x.device).argsort(1)
        hidden, visible = order[:, :count], order[:, count:]
        h, out = self.tell(batch, visible, hidden)

        ones = batch.x.new_ones(*hidden.shape, tokens.values)
        mask = tokens.join(scatter(ones, hidden, tokens.count))
        mask = mask if batch.mask is None else mask * batch.mask
        nll = self.likelihood.nll(out, batch.target, mask)
        z, charges = self.latent(h)
        return Step(replace(batch, mask=mask), h, None, z, out, nll, charges, self.progress)

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Tell each quarter of the tokens from the other three."""
        tokens = cast(TokensEncoder, self.encoder).tokens
        every, out = torch.arange(tokens.count), torch.zeros(())
        for quarter in tokens.quarters():
            rest = every[~torch.isin(every, quarter)]
            places = (part.to(h.device).expand(len(h), -1) for part in (rest, quarter))
            out = out + self.tell(batch, *places)[1]
        z, charges = self.latent(h, noise)
        nll = self.likelihood.nll(out, batch.target, batch.mask)
        return Step(batch, h, None, z, out, nll, charges, self.progress)

    def reconstruct(self, batch: Batch, plan: Plan) -> Tensor:
        """Return each quarter of the tokens as the other three tell it."""
        del plan
        return self.likelihood.mean(self(batch).out)

    def networks(self) -> list[nn.Module]:
        encoder, decoder = cast(TokensEncoder, self.encoder), cast(TokensDecoder, self.decoder)
        return [encoder.blocks, *decoder.blocks]

    def tell(self, batch: Batch, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean code of the visible, and samples with the hidden told, 0 elsewhere.

        Tokens without an observed value are no more seen than the hidden ones.
        """
        encoder, decoder = cast(TokensEncoder, self.encoder), cast(TokensDecoder, self.decoder)
        visible = visible if visible.shape[1] else hidden  # a single token is told from itself
        observed = encoder.tokens.observed(batch.mask)
        seen = None if observed is None else known(observed.gather(1, visible))
        codes = encoder.see(batch.x, visible, seen)
        told = decoder.tell(codes, visible, hidden, seen)
        return mean(codes, seen), encoder.tokens.join(told)


class MaskedAutoencoder(_WithContext, _Deterministic):
    """Hides most patches of an image, or cells of a row, and learns to tell them from the rest.

    -log p(x_hidden | f(x_visible))

    A Transformer encodes the visible tokens alone, and a lighter one tells the hidden ones, whose
    loss alone counts. `transform` sees everything and takes the mean of the tokens' codes;
    `reconstruct` and `score_samples` tell each quarter of a sample from the other three. The mean
    code holds no sample: `inverse_transform`, `sample` and `interpolate` raise a `ContextError`.

    Use it to predict hidden patches or cells from those that are seen; not to compress or to
    generate. As features, its codes need far longer training than the default.

    Args:
        latent_dim: size of a token's code, and of their mean.
        architecture: the "transformer" of this model reads patches or cells, a part of them at a
            time; that of other models reads the steps of sequences.
        mask_ratio: share of the tokens that is hidden in training.
        patch_size: side of the patches of a series, image or volume; None takes an eighth of an
            image's longest side, a 64th of a series, a quarter of a volume's longest side.
        hidden: sizes of the encoder's blocks, all alike; the decoder has two of them. None takes
            three of 64.
        heads: attention heads of a block; they divide its size.

    References:
        Masked Autoencoders Are Scalable Vision Learners (He et al., 2022),
        https://arxiv.org/abs/2111.06377

    >>> from narrows import MaskedAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> MaskedAutoencoder(mask_ratio=0.5, hidden=(16,), epochs=5).fit(X).transform(X).shape
    (150, 32)
    """

    bare = BARE

    latent_dim: Count = 32
    architecture: Literal["transformer"] = "transformer"
    mask_ratio: Fraction = 0.75
    patch_size: Count | None = None
    heads: Count = 4
    batch_size: Count = 64
    learning_rate: Positive = 4e-3

    def build(self, modality: Modality) -> Net:
        """Return a net of two Transformers."""
        net = assemble(self, modality, ARCHITECTURES | {"transformer": transformer})
        return _Masked(*net.parts)

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Hide a part of each sample, and pay for it alone."""
        step = cast(_Masked, self.net_).masked(batch, self.mask_ratio)
        yield Move("autoencoder", self.objective(step), step)
