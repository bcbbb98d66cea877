"""The sphere as a code: the von Mises-Fisher distribution, its divergence and its draws."""

from dataclasses import dataclass
from fractions import Fraction
from math import lgamma, log, pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from narrows.errors import ParameterError
from narrows.parts.latents import Charges, Latent, latent

__all__ = ["Sphere", "UniformSphere", "VonMisesFisher", "log_ive"]

TERMS = 50
"""Terms of the power series of a Bessel function."""
ORDER = 12
"""Terms of its asymptotic expansion."""
FAR = 20.0
"""Where the expansion takes over from the series, in sqrt(order² + x²)."""
GRID = 256
"""Cells in which the angle of a draw is found."""
REACH = 7.0
"""How many standard deviations they span to each side."""
START = 4.0
"""Concentration for each dimension and unit of softplus(h): a wide start would drown the mean."""


def log_ive(order: float, x: Tensor) -> Tensor:
    """Return log(exp(-x) I_v(x)) for an order v ≥ 0 and x > 0, differentiable by x.

    The relative error of I is below 1e-12 in double precision.
    """
    value: Tensor = _LogIve.apply(x, order)
    return value


class _LogIve(torch.autograd.Function):
    """d/dx log I_v(x) = I_{v+1}(x) / I_v(x) + v / x (DLMF 10.29.2)."""

    @staticmethod
    def forward(x: Tensor, order: float) -> Tensor:
        return torch.where(order**2 + x.square() < FAR**2, _series(order, x), _expansion(order, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, value = ctx.saved_tensors
        ratio = torch.expm1(log_ive(ctx.order + 1, x) - value)
        return grad * (ratio + ctx.order / x), None


def _series(order: float, x: Tensor) -> Tensor:
    """sum_k (x/2)^(2k+v) / (k! Gamma(k+v+1)) (DLMF 10.25.2)."""
    k = torch.arange(TERMS, dtype=x.dtype, device=x.device)
    size = torch.lgamma(k + 1) + torch.lgamma(k + order + 1)
    return ((2 * k + order) * (x / 2).log().unsqueeze(-1) - size).logsumexp(-1) - x


def _expansion(order: float, x: Tensor) -> Tensor:
    """Debye's uniform expansion, by 1 / sqrt(v² + x²) so that it holds for v = 0 too.

    DLMF 10.41.3 with u_k(p) / v^k = r^-k poly_k(p²), p = v / r and r = sqrt(v² + x²).
    """
    r = (order**2 + x.square()).sqrt()
    coefficients = torch.tensor(_DEBYE, dtype=x.dtype, device=x.device)
    powers = torch.arange(ORDER + 1, dtype=x.dtype, device=x.device)
    polys = (order / r).square().unsqueeze(-1) ** powers @ coefficients.T
    total = (polys * r.unsqueeze(-1) ** -(powers[:-1] + 1)).sum(-1)
    exponent = order**2 / (r + x) + order * (x / (order + r)).log()  # r - x, without cancelling
    return exponent - 0.5 * (2 * pi * r).log() + total.log1p()


def _debye(terms: int) -> list[list[float]]:
    """Return the coefficients of poly_k for k = 1, 2, ..., a row each (DLMF 10.41.9).

    u_{k+1}(p) = p² (1 - p²) u_k'(p) / 2 + 1/8 ∫_0^p (1 - 5 t²) u_k(t) dt, u_k = p^k poly_k(p²).
    """
    polys, last = [], [Fraction(1)]
    for k in range(terms):
        after = [Fraction(0)] * (len(last) + 1)
        for j, a in enumerate(last):
            power = k + 2 * j
            after[j] += a * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            after[j + 1] -= a * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        polys.append([float(a) for a in after] + [0.0] * (terms - k - 1))
        last = after
    return polys


_DEBYE = _debye(ORDER)


@dataclass(frozen=True, eq=False)
class VonMisesFisher:
    """Directions around `mean`, ``(batch, dim)`` of length 1, as sharp as `kappa`, ``(batch, 1)``.

    log q(z) = kappa mean·z + log C(kappa), a density on the unit sphere.
    """

    mean: Tensor
    kappa: Tensor

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Return draws; from standard normal `noise` that broadcasts to the mean, or is drawn.

        One normal gives the angle to the mean, by its inverse distribution function; the others
        give the direction in which z lies from there. Gradients go through both: there is no
        rejection, hence none of the terms that rejection sampling leaves out of the gradient.
        """
        noise = torch.randn_like(self.mean) if noise is None else noise.expand_as(self.mean)
        share = torch.special.ndtr(noise[:, :1])
        angle = _angle(share, self.kappa, self.mean.shape[1])
        aside = F.normalize(noise[:, 1:], dim=1)
        pole = torch.cat([angle.cos(), angle.sin() * aside], 1)
        # A Householder reflection carries the first axis to the mean.
        axis = torch.zeros_like(self.mean)
        axis[:, 0] = 1
        across = F.normalize(axis - self.mean, dim=1)
        return pole - 2 * (pole * across).sum(1, keepdim=True) * across

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z | x) in nats, by the sphere's area: ``(batch,)``."""
        cosine = (self.mean * z).sum(1, keepdim=True)
        norm = _log_norm(self.mean.shape[1] / 2 - 1, self.kappa)
        return (self.kappa * (cosine - 1) + norm).squeeze(1)

    def kl(self) -> Tensor:
        """Return KL(q || uniform) in nats for the whole code, ``(batch, 1)`` (Davidson, eq. 14).

        kappa A(kappa) + log C(kappa) + log area, with A = I_{d/2} / I_{d/2-1} = E[mean·z].
        """
        # In double precision: the ratio is a small difference of logarithms.
        order, kappa = self.mean.shape[1] / 2 - 1, self.kappa.double()
        ratio = log_ive(order + 1, kappa) - log_ive(order, kappa)
        kl = kappa * ratio.expm1() + _log_norm(order, kappa) + _log_area(self.mean.shape[1])
        return kl.to(self.kappa.dtype)


def _log_norm(order: float, kappa: Tensor) -> Tensor:
    """Return log C(kappa) + kappa."""
    return order * kappa.log() - log_ive(order, kappa) - (order + 1) * log(2 * pi)


def _log_area(dim: int) -> float:
    """Return the log of the area of the unit sphere in `dim` dimensions."""
    return log(2) + dim / 2 * log(pi) - lgamma(dim / 2)


def _angle(share: Tensor, kappa: Tensor, dim: int) -> Tensor:
    """Return the angle to the mean below which `share` of the draws lie, ``(batch, 1)``.

    The density of the angle t, exp(kappa cos t) sin(t)^(dim-2), is taken as linear in each of
    `GRID` cells around its peak, and its distribution function is inverted there exactly: no
    probability is off by more than 1e-4. The derivative by kappa is that of the inverse function.
    """
    with torch.no_grad():
        power = dim - 2
        cosine = 2 * kappa / (power + (power**2 + 4 * kappa.square()).sqrt())
        peak = torch.atan2((power * cosine / kappa).sqrt(), cosine)
        curvature = kappa * (cosine + 1 / cosine) if power else kappa
        spread = REACH * curvature.rsqrt()
        low, high = (peak - spread).clamp(min=0), (peak + spread).clamp(max=pi)
        steps = torch.linspace(0, 1, GRID + 1, dtype=kappa.dtype, device=kappa.device)
        t, cell = low + (high - low) * steps, (high - low) / GRID
        versine = 2 * (t / 2).sin().square()  # 1 - cos t, without cancelling
        room = power * t.sin().clamp(min=1e-12).log()
        top = (room - kappa * versine).amax(1, keepdim=True)
    density = (room - kappa * versine - top).exp()
    below = F.pad((0.5 * cell * (density[:, 1:] + density[:, :-1])).cumsum(1), (1, 0))
    wanted = share * below[:, -1:]
    with torch.no_grad():
        index = (below <= wanted).sum(1, keepdim=True).sub(1).clamp(0, GRID - 1)
    left, right = density.gather(1, index), density.gather(1, index + 1)
    rest = (wanted - below.gather(1, index)).clamp(min=0)
    root = (left.square() + 2 * rest * (right - left) / cell).clamp(min=1e-12).sqrt()
    return t.gather(1, index) + 2 * rest / (left + root)


@dataclass(frozen=True, eq=False)
class UniformSphere:
    """The uniform distribution on the unit sphere; `origin` is ``(1, dim)``."""

    origin: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Return minus the log of the sphere's area, ``(batch,)``."""
        return torch.full_like(z[:, 0], -_log_area(z.shape[1]))

    def sample(self, n: int) -> Tensor:
        """Draw n directions; the noise is the same on any device."""
        noise = torch.randn(n, self.origin.shape[1], dtype=self.origin.dtype)
        return F.normalize(noise, dim=1).to(self.origin.device)


@latent
class Sphere(Latent):
    """A von Mises-Fisher posterior against the uniform prior on the unit sphere.

    h holds a vector in the mean's direction and what becomes kappa, the concentration.

    Args:
        dim: size of the code; it has one degree of freedom less.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        if dim < 2:
            raise ParameterError(f"A sphere needs a code of 2 or more dimensions. Got {dim}.")
        self.width = (dim + 1,)
        self.register_buffer("origin", torch.zeros(1, dim), persistent=False)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return a draw (the mean direction in evaluation) and its KL to the prior."""
        q = self.posterior(h)
        z = q.rsample(noise) if self.training or noise is not None else q.mean
        return z, {"kl": q.kl().squeeze(1)}

    def seen(self, z: Tensor) -> Tensor:
        """Return the code's direction at length sqrt(dim), a normal code's."""
        code: Tensor = sqrt(z.shape[1]) * F.normalize(z, dim=1)
        return code

    def mean(self, h: Tensor) -> Tensor:
        """Return the mean direction."""
        return self.posterior(h).mean

    def posterior(self, h: Tensor) -> VonMisesFisher:
        """Return q(z | x)."""
        h = h.to(torch.promote_types(h.dtype, torch.float32))  # bfloat16 is too coarse
        dim = self.code_shape[0]
        kappa = dim * START * F.softplus(h[:, dim:]) + 1e-3
        return VonMisesFisher(F.normalize(h[:, :dim], dim=1), kappa)

    def unit_kl(self, h: Tensor) -> None:
        """Return None: the divergence is that of the whole code."""
        del h

    def prior(self) -> UniformSphere:
        """Return the uniform distribution."""
        origin: Tensor = self.origin  # type: ignore[assignment]
        return UniformSphere(origin)
