"""Autoencoders whose code has a place for each label, of which few need be known."""

from typing import Annotated, Any, cast

from torch import Tensor

from narrows.data.conditions import Labels
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, NonNegative, Weighs
from narrows.models.adversarial import _Matching
from narrows.models.conditional import Telling, _Conditioned
from narrows.net import Net, Step
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
        alpha: weight of the known labels, relative to their share in the first fit; 0 leaves them
            to the critic, as the paper does.

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

    takes = (Labels,)
    told = False

    latent_dim: Count = 2  # of more units, reconstruction would leave these two alone
    adversarial: NonNegative = 10.0
    alpha: Annotated[NonNegative, Weighs("label")] = 10.0

    def latent(self) -> Matched:
        """Return a point code; `build` knows how many Gaussians its prior has."""
        return Matched(self.latent_dim, "mixture")

    def build(self, modality: Modality) -> Net:
        """Return a net whose prior has a Gaussian for each label."""
        return RegionNet(super().build(modality), labels(modality))

    def _judged_shape(self, modality: Modality) -> tuple[int, ...]:
        return (self.latent_dim + labels(modality).width + 1,)

    def _prior_codes(self, prior: Distribution, n: int, wanted: Tensor | None) -> Tensor:
        regions = cast(RegionNet, self.net_).latent
        return prior.sample(n) if wanted is None else regions.given(wanted)


class RegionNet(Telling):
    """A net whose codes tell the labels of their samples, and are decoded without being told them.

    Args:
        net: what it is made of, but for the latent.
        labels: what is known of the labels.
    """

    latent: Regions

    def __init__(self, net: Net, labels: Labels) -> None:
        super().__init__(*net.parts)
        self.adopt(net)
        (dim,) = net.latent.code_shape
        self.latent, self.labelled = Regions(dim, labels.shares), labels.labelled

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Charge codes outside the Gaussians of their labels, where these are known."""
        step = super().complete(batch, h, context, noise)
        if batch.condition is None:
            return step
        return step.charging(label=self.latent.missed(step.z, batch) / self.labelled)

    def logits(self, batch: Batch) -> Tensor:
        return self.latent.joint(self.code(batch))

    def condition(self, batch: Batch) -> None:
        """Return None: codes are decoded as they are."""
        del batch

    def generate(self, z: Tensor, plan: Plan, *context: Any) -> Tensor:
        """Return samples for codes, whatever the condition."""
        del context
        return super().generate(z, plan)


def labels(modality: Modality) -> Labels:
    """Return what is known of the labels."""
    return cast(Labels, modality.condition)
