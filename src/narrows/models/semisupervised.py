"""Autoencoders whose code has a place for each label, of which few need be known."""

from typing import Any, cast

import torch
from torch import Tensor

from narrows.data.conditions import Labels
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, NonNegative
from narrows.models.adversarial import _Matching
from narrows.models.conditional import _Conditioned
from narrows.net import Net, Step, Terms
from narrows.parts.generation import Plan
from narrows.parts.latents import Distribution
from narrows.parts.matched import Matched, Regions

__all__ = ["SemiSupervisedAdversarialAutoencoder"]


class SemiSupervisedAdversarialAutoencoder(_Conditioned, _Matching):
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

    told = False

    latent_dim: Count = 2  # of more units, reconstruction would leave these two alone
    adversarial: NonNegative = 10.0
    alpha: NonNegative = 10.0

    def latent(self) -> Matched:
        """Return a point code; `build` knows how many Gaussians its prior has."""
        return Matched(self.latent_dim, "mixture")

    def build(self, modality: Modality) -> Net:
        """Return a net whose prior has a Gaussian for each label."""
        net = super().build(modality)
        net.latent = Regions(self.latent_dim, labels(modality).shares)
        return Unconditioned(net)

    def objective(self, step: Step) -> Terms:
        """Add the price of codes outside the Gaussians of their labels, where they are known."""
        missed = -(hot(step.batch) * self._regions.joint(step.z).log_softmax(1)).sum(1)
        price = self.alpha / labels(self.modality_).labelled * missed
        return super().objective(step) | {"label": price}

    def _judged_shape(self, modality: Modality) -> tuple[int, ...]:
        return (self.latent_dim + labels(modality).width + 1,)

    def _judged(self, z: Tensor, batch: Batch) -> Tensor:
        label = hot(batch)
        return torch.cat([z, label, 1 - label.sum(1, keepdim=True)], 1)

    def _draw_for(self, batch: Batch) -> Tensor:
        return self._regions.given(hot(batch))

    def _prior_codes(self, prior: Distribution, n: int, wanted: Tensor | None) -> Tensor:
        return prior.sample(n) if wanted is None else self._regions.given(wanted)

    def _logits(self, batch: Batch) -> Tensor:
        return self._regions.joint(self.net_.code(batch))

    @property
    def _regions(self) -> Regions:
        return cast(Regions, self.net_.latent)


def labels(modality: Modality) -> Labels:
    """Return what is known of the labels."""
    return cast(Labels, modality.condition)


def hot(batch: Batch) -> Tensor:
    """Return one-hot labels, all zero where they are unknown."""
    return cast(Tensor, batch.condition)


class Unconditioned(Net):
    """A net that reconstructs without the conditions of its samples: the code itself tells them.

    Args:
        net: what it is made of.
    """

    def __init__(self, net: Net) -> None:
        super().__init__(*net.parts)
        self.adopt(net)

    def condition(self, batch: Batch) -> None:
        """Return None: codes are decoded as they are."""
        del batch

    def generate(self, z: Tensor, plan: Plan, *context: Any) -> Tensor:
        """Return samples for codes, whatever the condition."""
        del context
        return super().generate(z, plan)
