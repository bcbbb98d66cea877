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
        mean, logvar = self.components.mean, self.components.logvar
        rows = torch.randint(len(mean), (n,)).to(mean.device)
        noise = torch.randn(n, mean.shape[1], dtype=mean.dtype).to(mean.device)
        return DiagonalGaussian(mean[rows], logvar[rows]).rsample(noise)
