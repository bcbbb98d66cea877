"""Hierarchical variational autoencoders: codes of codes."""

from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor

from narrows.fields import Count, NonNegative, OneOf, Unless
from narrows.models.variational import _Annealed
from narrows.net import Step
from narrows.parts.hierarchy import Ladder
from narrows.parts.schedules import COURSES

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(_Annealed):
    """A ladder of Gaussian codes, each level the prior of the one below it.

    E[-log p(x | z_1)] + beta * s(t) * sum_i E[KL(q(z_i | z_i+1, x) || p(z_i | z_i+1))]

    The top level's prior is N(0, I). Each posterior is the product of the prior and of what x says
    of that level. The code is (z_1, ..., z_L), `latent_dim` values a level; `inverse_transform`
    reads z_1 alone, which holds all that the decoder gets. The weight s(t) rises from 0 to 1,
    without which upper levels may fall idle; held-out samples are charged with s = 1.

    Use it for images whose coarse and fine structure shall have codes of their own; not on small
    tables, where the upper levels stay empty.

    Args:
        levels: number of levels; 1 is the VAE.
        beta: weight of the KL divergences.

    References:
        Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282

    >>> from narrows import HierarchicalVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> HierarchicalVAE(latent_dim=2, levels=2, epochs=20).fit(X).transform(X).shape
    (150, 4)
    """

    levels: Count = 2
    beta: NonNegative = 1.0
    kl_schedule: Annotated[str, OneOf(COURSES)] = "linear"
    kl_warmup: Annotated[float, Gt(0), Le(1), Unless("kl_schedule", "constant")] = 0.1

    def latent(self) -> Ladder:
        """Return a ladder."""
        return Ladder(self.latent_dim, self.levels)

    def charge_weights(self, step: Step) -> dict[str, float | Tensor]:
        """Weigh the KL divergences of all levels."""
        return dict.fromkeys(step.charges, self.beta * self.risen(step))
