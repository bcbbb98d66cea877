"""Variational autoencoders whose draws move on towards the true posterior."""

from typing import Any, cast

import torch
from torch import Tensor

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, Positive
from narrows.net import Net, Step
from narrows.parts.hamiltonian import Leapfrog, Moving
from narrows.parts.latents import Distribution, Latent
from narrows.parts.penalties import refuse_mixing
from narrows.parts.riemannian import Riemannian, by_volume

__all__ = ["HamiltonianNet", "HamiltonianVAE", "RiemannianVAE"]


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


class RiemannianVAE(HamiltonianVAE):
    """A HamiltonianVAE in a space that is wide where codes lie: its metric is learned with them.

    E[-log p(x, z_K) - log N(rho_K; 0, G(z_K)) + log q(z_0 | x) + log N(rho_0; 0, G(z_0))]

    The metric is G^-1(z) = 1/n sum_i L_i L_i' exp(-|z - c_i|² / T²) + floor * I. Its centroids c_i
    are the posterior's means of the batch in training, and of the last training samples later on.
    The encoder puts out each factor L_i beside the posterior, in bounds; the mean over centroids,
    where the papers have a sum and a network of its own, leaves their number out of L's scale.
    Generalised leapfrog steps follow -log p(x, z) - log N(rho; 0, G(z)), with heat and bound as in
    HamiltonianVAE. Their implicit equations are solved by three fixed-point iterations: volumes
    stay, and the bound is one, as far as those have settled.

    `sample` draws codes in proportion to sqrt(det G^-1(z)) instead of the prior, by Hamiltonian
    Monte Carlo, and none farther than 2 T from all centroids.

    Use it for new samples that stay near the data; not for codes of more than some tens of units,
    for the metric has the square of their number.

    Args:
        centroids: number of training samples that the metric is made of, n.
        temperature: how far a centroid reaches, T. None takes sqrt(latent_dim - 2), at least
            sqrt(1/2): where codes are normal and many, so are then the draws of `sample`, with
            the same variance.
        floor: of the metric's eigenvalues, far from every centroid.

    References:
        Geometry-Aware Hamiltonian Variational Auto-Encoder (Chadebec et al., 2020),
        https://arxiv.org/abs/2010.11518
        Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based
        Variational Autoencoder (Chadebec et al., 2022), https://arxiv.org/abs/2105.00026

    >>> from narrows import RiemannianVAE
    >>> from sklearn.datasets import load_iris
    >>> model = RiemannianVAE(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> model.sample(3).shape
    (3, 4)
    """

    centroids: Count = 200
    temperature: Positive | None = None
    floor: Positive = 0.01

    def latent(self) -> Latent:
        """Return a Gaussian whose draws move in a curved space."""
        default = max(self.latent_dim - 2, 0.5) ** 0.5
        temperature = default if self.temperature is None else self.temperature
        return Riemannian(self.latent_dim, self.centroids, temperature, self.floor)

    def _prior_codes(self, prior: Distribution, n: int, wanted: Tensor | None) -> Tensor:
        del prior, wanted
        latent = cast(Riemannian, self.net_.latent)
        return by_volume(latent.metric(latent.kept), n)


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
        noise = torch.randn_like(h[:, : 2 * self.latent.code_shape[0]]) if noise is None else noise
        first, gamma = noise.expand(len(h), -1).chunk(2, 1)
        start = q.rsample(first)

        def energy(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            out = self.decoded(z, batch, *context)
            nll = self.likelihood.nll(out, batch.target, batch.mask)
            return nll - normal.log_prob(z), (out, nll)

        here = self.latent.at(start, h if self.training else None)
        rho = here.momentum(gamma)
        there, moved, (out, nll) = self.leapfrog(here, rho, energy)
        z, drawn = there.z, q.log_prob(start) + here.log_prob(rho)
        kl = drawn - normal.log_prob(z) - there.log_prob(moved)
        return Step(batch, h, q, z, out, nll, {"kl": kl}, self.progress)
