"""A learned Riemannian metric of codes, whose volume is large where codes of samples are."""

from math import exp, expm1, log

import torch
from torch import Tensor
from torch.nn.functional import softplus

from narrows.parts.hamiltonian import Flat, Moving
from narrows.parts.latents import DiagonalGaussian

__all__ = ["Curved", "Metric", "Riemannian", "by_volume"]

ITERATIONS = 3
"""Of a fixed point, in each implicit equation of a step."""
ONE = log(expm1(1))
"""softplus(ONE) = 1."""
MOST = 5.0
"""Of what a factor's entries are made of, lest an outlying x makes G^-1 ill-conditioned."""
MOVES, STEPS, SIZE = 20, 5, 0.5
"""Hamiltonian moves to a draw by volume, steps of each, and their size in the metric's own."""
FAR = exp(-4)
"""What a centroid weighs at twice the temperature, beyond which there is no draw by volume."""
SLICE = 1024
"""Codes that are drawn at once."""


class Metric:
    """G^-1(z) = 1/n sum_i L_i L_i' exp(-|z - c_i|² / T²) + floor I.

    Args:
        centroids: c, ``(n, dim)``.
        factors: L, ``(n, dim, dim)``.
        temperature: T.
        floor: of the eigenvalues of G^-1.
    """

    def __init__(
        self, centroids: Tensor, factors: Tensor, temperature: float, floor: float
    ) -> None:
        self.centroids, self.floor = centroids, floor
        self.reach = temperature * temperature
        self.matrices = (factors @ factors.mT / len(factors)).flatten(1)

    def near(self, z: Tensor) -> Tensor:
        """Return exp(-|z - c|² / T²), ``(batch, n)``."""
        squares = z.square().sum(1, keepdim=True) + self.centroids.square().sum(1)
        near: Tensor = ((2 * z @ self.centroids.T - squares) / self.reach).exp()
        return near

    def inverse(self, near: Tensor) -> Tensor:
        """Return G^-1(z) where the centroids are so near, ``(batch, dim, dim)``."""
        dim = self.centroids.shape[1]
        learned: Tensor = (near @ self.matrices).unflatten(1, (dim, dim))
        return learned + near.new_full((len(near), dim), self.floor).diag_embed()


class Curved(Flat):
    """Codes in a space with a metric: momenta are N(0, G(z)), and velocities G^-1(z) rho.

    Args:
        z: codes, ``(batch, dim)``.
        metric: of the space.

    Attributes:
        near: how near the centroids are.
        inverse: G^-1(z).
        root: its lower Cholesky factor.
        unroot: the inverse of that.
        tensor: G(z).
    """

    def __init__(self, z: Tensor, metric: Metric) -> None:
        super().__init__(z)
        self.metric = metric
        with torch.autocast(z.device.type, enabled=False):
            self.near = metric.near(z)
            self.inverse = metric.inverse(self.near)
            self.root: Tensor = torch.linalg.cholesky_ex(self.inverse).L  # it never waits
            one = torch.ones_like(z).diag_embed()
            self.unroot = torch.linalg.solve_triangular(self.root, one, upper=False)
            self.tensor = self.unroot.mT @ self.unroot

    def momentum(self, gamma: Tensor) -> Tensor:
        """Return the momenta here that draws of N(0, I) stand for."""
        return times(self.unroot.mT, gamma)

    def whitened(self, momentum: Tensor) -> Tensor:
        """Return the draws of N(0, I) that stand for momenta."""
        return times(self.root.mT, momentum)

    def log_prob(self, momentum: Tensor) -> Tensor:
        """Return log N(rho; 0, G(z)) in nats, ``(batch,)``."""
        return super().log_prob(self.whitened(momentum)) + self.log_volume()

    def log_volume(self) -> Tensor:
        """Return log sqrt(det G^-1(z)), ``(batch,)``."""
        return self.root.diagonal(dim1=1, dim2=2).log().sum(1)

    def slope(self, momentum: Tensor) -> Tensor:
        """Return the gradient by z of -log N(rho; 0, G(z)), ``(batch, dim)``.

        Of the energy ½ rho' G^-1 rho + ½ log det G, it is what the matrix rho rho' - G sees of
        the centroids' parts of G^-1.
        """
        seen = momentum[:, :, None] * momentum[:, None] - self.tensor
        pulls = self.near * (seen.flatten(1) @ self.metric.matrices.T)
        total = pulls.sum(1, keepdim=True)
        slope: Tensor = (pulls @ self.metric.centroids - total * self.z) / self.metric.reach
        return slope

    def drift(self, momentum: Tensor, size: Tensor) -> tuple["Curved", Tensor]:
        """Return where a generalised leapfrog step leads without a force, and its momentum.

        rho_½ = rho - size/2 slope(z, rho_½), z' = z + size/2 (G^-1(z) + G^-1(z')) rho_½,
        rho' = rho_½ - size/2 slope(z', rho_½). The first two are solved by fixed-point iterations.
        """
        half = 0.5 * size
        with torch.autocast(self.z.device.type, enabled=False):
            rho = momentum
            for _ in range(ITERATIONS):
                rho = momentum - half * self.slope(rho)
            moved = half * times(self.inverse, rho)
            start = self.z + moved
            z = start + moved
            for _ in range(ITERATIONS):
                z = start + half * times(self.metric.inverse(self.metric.near(z)), rho)
            there = Curved(z, self.metric)
            return there, rho - half * there.slope(rho)


class Riemannian(Moving):
    """A Gaussian whose draws move in a space that samples curve.

    h holds (mean, logvar) of the code, and the lower triangle of a factor L of the metric, whose
    diagonal is positive. The centroids are the means of the batch in training, and of the last
    training samples otherwise.

    Args:
        dim: size of the code.
        centroids: number of training samples that are kept, and most of a batch that count.
        temperature: T of the metric.
        floor: of the eigenvalues of G^-1.
    """

    kept: Tensor
    lower: Tensor

    def __init__(self, dim: int, centroids: int, temperature: float, floor: float) -> None:
        super().__init__(dim)
        self.temperature, self.floor, self.wanted = temperature, floor, centroids
        self.width = (2 * dim + dim * (dim + 1) // 2,)
        rows, columns = torch.tril_indices(dim, dim)
        self.register_buffer("lower", dim * rows + columns, persistent=False)
        self.register_buffer("kept", torch.zeros(centroids, *self.width))

    def posterior(self, h: Tensor) -> DiagonalGaussian:
        """Return q(z | x)."""
        return super().posterior(h[:, : 2 * self.code_shape[0]])

    def at(self, z: Tensor, h: Tensor | None = None) -> Curved:
        """Return codes in the space that samples with these h curve, or those that are kept."""
        return Curved(z, self.metric(self.kept if h is None else h[: len(self.kept)]))

    def metric(self, h: Tensor) -> Metric:
        """Return the metric whose centroids are samples."""
        dim = self.code_shape[0]
        raw = h[:, 2 * dim :].to(torch.promote_types(h.dtype, torch.float32))
        raw = MOST * (raw / MOST).tanh()
        square = raw.new_zeros(len(h), dim * dim).index_copy(1, self.lower, raw)
        square = square.unflatten(1, (dim, dim))
        diagonal = softplus(square.diagonal(dim1=1, dim2=2) + ONE)
        factors = square.tril(-1) * dim**-0.5 + diagonal.diag_embed()
        with torch.autocast(h.device.type, enabled=False):
            return Metric(self.mean(h), factors, self.temperature, self.floor)

    def start(self, h: Tensor) -> None:
        """Keep the first samples, over and over if they are few."""
        self.kept.copy_(h[torch.arange(len(self.kept), device=h.device) % len(h)])

    def update(self, h: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Keep the batch in the place of the samples that were kept longest."""
        super().update(h, z, weight)
        self.kept.copy_(torch.cat([h, self.kept])[: len(self.kept)])

    def principal(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of a Gaussian, and a factor that is I."""
        gain, logvar = super().principal(noise)
        return gain, torch.cat([logvar, logvar.new_zeros(len(self.lower))])


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the product of each matrix with its vector, in full precision."""
    return (matrix * vector[:, None]).sum(2)


@torch.no_grad()
def by_volume(metric: Metric, n: int) -> Tensor:
    """Draw n codes in proportion to sqrt(det G^-1(z)), no farther from all centroids than 2 T.

    Data Augmentation in High Dimensional Low Sample Size Setting Using a Geometry-Based
    Variational Autoencoder (Chadebec et al., 2022), https://arxiv.org/abs/2105.00026: Hamiltonian
    Monte Carlo from random centroids. The noise is the same on any device.
    """
    return torch.cat([_walk(metric, min(SLICE, n - done)) for done in range(0, n, SLICE)])


def _walk(metric: Metric, n: int) -> Tensor:
    count, dim = metric.centroids.shape
    size = SIZE * (metric.reach / dim) ** 0.5
    here = Curved(metric.centroids[torch.randint(count, (n,)).to(metric.centroids.device)], metric)
    still = torch.zeros_like(here.z)
    for _ in range(MOVES):
        first, chance = torch.randn(n, dim).to(still), torch.rand(n).to(still)
        there, momentum = here, first - 0.5 * size * here.slope(still)
        for _ in range(STEPS):
            there = Curved(there.z + size * momentum, metric)
            slope = there.slope(still)
            momentum = momentum - size * slope
        momentum = momentum + 0.5 * size * slope
        lost = 0.5 * (momentum.square() - first.square()).sum(1)
        gain = there.log_volume() - here.log_volume() - lost
        taken = (chance.log() < gain) & (there.near.amax(1) >= FAR)
        here = Curved(torch.where(taken[:, None], there.z, here.z), metric)
    return here.z
