"""Mixtures: priors over codes of several components."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from narrows.parts.latents import DiagonalGaussian

__all__ = ["GaussianMixture"]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """An even mixture of diagonal normals: mean and logvar of `components` are ``(k, dim)``."""

    components: DiagonalGaussian

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""
        each = self.components.log_prob(z.unsqueeze(-2))
        return each.logsumexp(-1) - log(len(self.components.mean))

    def sample(self, n: int) -> Tensor:
        """Draw n codes; the noise is the same on any device."""
        return self.given(torch.randint(len(self.components.mean), (n,)))

    def given(self, rows: Tensor) -> Tensor:
        """Draw a code of each of these components, ``(n,)``."""
        mean, logvar = self.components.mean, self.components.logvar
        rows, n = rows.to(mean.device), len(rows)
        noise = torch.randn(n, mean.shape[1], dtype=mean.dtype).to(mean.device)
        return DiagonalGaussian(mean[rows], logvar[rows]).rsample(noise)
