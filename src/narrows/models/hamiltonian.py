"""Variational autoencoders whose draws move on towards the true posterior."""

from typing import Any

import torch
from torch import Tensor

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, Positive
from narrows.net import Net, Step
from narrows.parts.hamiltonian import Leapfrog, Moving
from narrows.parts.latents import Latent
from narrows.parts.penalties import refuse_mixing

__all__ = ["HamiltonianNet", "HamiltonianVAE"]


class HamiltonianVAE(BaseAutoencoder):
    """Each draw of a Gaussian code follows the slope of log p(x, z) before it is decoded.

    E[-log p(x, z_K) - log N(rho_K) + log q(z_0 | x) + log N(gamma)]

    With z_0 ~ q(z | x), gamma ~ N(0, I) and a momentum rho_0 = gamma / sqrt(beta_0), K leapfrog
    steps of the energy -log p(x, z) + ½||rho||² lead to (z_K, rho_K). Each cools the momentum, on
    the whole by sqrt(beta_0), so that no volume changes. beta_0 < 1 and a step size for each unit
    are learned. What half a step does to a momentum is at most 5 here, lest steps diverge while
    they are too large; it keeps the bound one. The history shows -log p(x | z_K) as "nll", and the
    rest as "kl".

    Use it for a tighter bound and a posterior that is no Gaussian; not where training must be
    fast, for each step costs a pass through the decoder and one back. `transform` gives the mean
    of q(z_0 | x), which does not move.

    Args:
        leapfrogs: number of steps, K.
        step_size: largest size of a step.

    References:
        Hamiltonian Variational Auto-Encoder (Caterini et al., 2018),
        https://arxiv.org/abs/1805.11328

    >>> from narrows import HamiltonianVAE
    >>> from sklearn.datasets import load_iris
    >>> model = HamiltonianVAE(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> model.sample(3).shape
    (3, 4)
    """

    leapfrogs: Count = 3
    step_size: Positive = 0.5

    def latent(self) -> Latent:
        """Return a Gaussian whose draws move."""
        return Moving(self.latent_dim)

    def build(self, modality: Modality) -> Net:
        """Return a net with leapfrog steps before its decoder."""
        net = super().build(modality)
        refuse_mixing(self, net, "leapfrog step")
        leapfrog = Leapfrog(self.latent_dim, self.leapfrogs, self.step_size)
        return HamiltonianNet(net, leapfrog)


class HamiltonianNet(Net):
    """A net whose draws make leapfrog steps before they are decoded; the mean makes none.

    Args:
        net: with a Gaussian whose noise is that of code and momentum.
        leapfrog: the steps.
    """

    latent: Moving

    def __init__(self, net: Net, leapfrog: Leapfrog) -> None:
        super().__init__(*net.parts)
        self.leapfrog = leapfrog

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Draw a code and a momentum, and let them move; without a draw, take the mean."""
        if noise is None and not self.latent.training:
            return super().complete(batch, h, context)
        q, normal = self.latent.posterior(h), self.latent.prior()
        noise = (torch.randn_like(h) if noise is None else noise).expand_as(h)
        first, gamma = noise.chunk(2, 1)
        start = q.rsample(first)

        def energy(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            out = self.decoded(z, batch, *context)
            nll = self.likelihood.nll(out, batch.target, batch.mask)
            return nll - normal.log_prob(z), (out, nll)

        z, rho, (out, nll) = self.leapfrog(start, gamma, energy)
        kl = q.log_prob(start) + normal.log_prob(gamma) - normal.log_prob(z) - normal.log_prob(rho)
        return Step(batch, h, q, z, out, nll, {"kl": kl}, self.progress)
