"""Autoencoders whose code has a place for each label, of which few need be known."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from narrows.data.conditions import Labels
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.errors import DataError, ParameterError
from narrows.fields import Count, NonNegative
from narrows.models.adversarial import _Matching
from narrows.models.conditional import _Labelled
from narrows.net import Net, Step, Terms
from narrows.parts.generation import Plan
from narrows.parts.latents import Distribution
from narrows.parts.matched import Matched
from narrows.parts.mixtures import GaussianMixture

__all__ = ["SemiSupervisedAdversarialAutoencoder"]


class SemiSupervisedAdversarialAutoencoder(_Labelled, _Matching):
    """Each label has a Gaussian of the prior to itself; codes of known labels are held to theirs.

    -log p(x | z) - adversarial * log D(z, y) - alpha * log p(y | z) with z = f(x)

    The last term is for known labels, p(y | z) being the share of y's Gaussian in p(z); relative
    to the share of labelled samples. The Gaussians lie on a circle in the plane of the first two
    units. The critic D is told the label y, or that it is unknown: it then compares codes with
    draws of the whole mixture, whose Gaussians are as frequent as the labels.

    `fit(X, y)` takes labels, strings or whole numbers; those that are -1, NaN, None or
    "" are unknown. `sample(n, condition="a")` draws of one kind; `predict` names the Gaussian that
    most likely made a code.

    Use it for a map of the data whose regions are known kinds, also where few labels are; not as
    a classifier alone, or where the code shall not tell the kinds apart (see ConditionalVAE).

    Args:
        alpha: weight of the known labels; 0 leaves them to the critic, as the paper does.

    References:
        Adversarial Autoencoders (Makhzani et al., 2015), section 2.3,
        https://arxiv.org/abs/1511.05644

    >>> from narrows import SemiSupervisedAdversarialAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SemiSupervisedAdversarialAutoencoder(epochs=20).fit(X, y)
    >>> model.sample(3, condition=2).shape
    (3, 4)
    """

    latent_dim: Count = 2  # of more units, reconstruction would leave these two alone
    adversarial: NonNegative = 10.0
    alpha: NonNegative = 10.0

    def describe(self, X: Any, y: Any) -> Modality:
        """Note the labels."""
        modality, labels = super().describe(X, y), self._described(y, "labels")
        if not isinstance(labels, Labels):
            raise DataError(
                "SemiSupervisedAdversarialAutoencoder takes one label a sample as y, (n,). Got "
                "numbers (n, columns): ConditionalVAE takes those."
            )
        return replace(modality, condition=labels)

    def latent(self) -> Matched:
        """Return a point code; `build` knows how many Gaussians its prior has."""
        return Matched(self.latent_dim, "mixture")

    def build(self, modality: Modality) -> Net:
        """Return a net that sees no label, and a critic that does."""
        labels: Labels = modality.condition  # type: ignore[assignment]
        net = Unconditioned(super().build(replace(modality, condition=None)))
        net.latent = Matched(self.latent_dim, "mixture", labels.width)
        net.critic = self._new_critic((self.latent_dim + labels.width + 1,))
        net.register_buffer("shares", torch.tensor(labels.shares), persistent=False)
        return net

    def objective(self, step: Step) -> Terms:
        """Add the price of codes outside the Gaussians of their labels."""
        missed = -(_hot(step.batch) * self._log_shares(step.z).log_softmax(1)).sum(1)
        labels: Labels = self.modality_.condition  # type: ignore[assignment]
        return super().objective(step) | {"label": self.alpha / labels.labelled * missed}

    def _judged(self, z: Tensor, batch: Batch) -> Tensor:
        label = _hot(batch)
        return torch.cat([z, label, 1 - label.sum(1, keepdim=True)], 1)

    def _draw_for(self, batch: Batch) -> Tensor:
        label = _hot(batch)
        anyone = self.net_.get_buffer("shares").multinomial(len(batch), replacement=True)
        return self._mixture.given(torch.where(label.sum(1) > 0, label.argmax(1), anyone))

    def sample(self, n: int = 1, *, condition: Any = None, **options: Any) -> Any:
        """Return n new samples; see `BaseAutoencoder.sample`. A fitted density knows no labels."""
        if condition is not None and options.get("density"):
            raise ParameterError(
                "density=True draws codes from a density that knows no labels. Leave `condition` "
                "at None, or `density`."
            )
        return super().sample(n, condition=condition, **options)

    def _prior_codes(self, prior: Distribution, n: int, wanted: Tensor | None) -> Tensor:
        del prior, n
        return self._mixture.given(wanted.argmax(1))  # type: ignore[union-attr]

    def _logits(self, batch: Batch) -> Tensor:
        return self._log_shares(self.net_.code(batch))

    def _log_shares(self, z: Tensor) -> Tensor:
        """Return log p(z, y) of every label, ``(batch, labels)``."""
        each = self._mixture.components.log_prob(z.unsqueeze(-2))
        return each + self.net_.get_buffer("shares").log()

    def _decode(
        self, codes: Tensor, condition: Tensor | None = None, plan: Plan | None = None
    ) -> Tensor:
        del condition  # the code itself tells
        return super()._decode(codes, None, plan)

    @property
    def _mixture(self) -> GaussianMixture:
        mixture: GaussianMixture = self.net_.latent.prior()  # type: ignore[assignment]
        return mixture


def _hot(batch: Batch) -> Tensor:
    """Return one-hot labels, all zero where they are unknown."""
    label: Tensor = batch.condition  # type: ignore[assignment]
    return label


class Unconditioned(Net):
    """A net that reconstructs without the conditions of its samples."""

    def __init__(self, net: Net) -> None:
        super().__init__(*net.parts)

    def condition(self, batch: Batch) -> None:
        """Return None: codes are decoded as they are."""
        del batch
