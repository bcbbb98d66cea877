"""The Poincaré ball as a code: geodesics, the wrapped normal, and distances to hyperplanes."""

from dataclasses import dataclass
from math import atanh, sqrt

import torch
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts.latents import Charges, DiagonalGaussian, Gaussian, latent

__all__ = [
    "Ball",
    "Gyroplanes",
    "WrappedNormal",
    "distance",
    "exp",
    "exp0",
    "inside",
    "log",
    "mobius",
]

MARGIN = 1e-5
"""Share of the radius that codes keep from the boundary, which float32 still tells apart."""
FAINT = 1e-12
"""The same within a calculation, in float64."""
PLANES = 128
"""Hyperplanes whose distances the decoder sees."""


def mobius(x: Tensor, y: Tensor, curvature: float) -> Tensor:
    """Return Möbius' x + y in the ball of curvature -c: y, carried along from the origin to x.

    It is written by the Euclidean sum, so that nothing cancels near the boundary.
    """
    total = x + y
    square = curvature * _square(total)
    a, b = (1 - curvature * _square(point) for point in (x, y))
    return (a * total + square * x) / (square + a * b)


def exp0(v: Tensor, curvature: float) -> Tensor:
    """Return the point at distance |v| from the origin, in the direction of v."""
    half = 0.5 * sqrt(curvature) * _length(v)
    return inside(0.5 * half.tanh() / half * v, curvature, FAINT)


def exp(x: Tensor, v: Tensor, curvature: float) -> Tensor:
    """Return the point at distance |v| from x, on the geodesic that leaves x along v.

    v is seen in an orthonormal frame at x, carried there from the origin: it is the tangent vector
    times the metric's factor 2 / (1 - c |x|²).
    """
    return mobius(x, exp0(v, curvature), curvature)


def log(x: Tensor, z: Tensor, curvature: float) -> Tensor:
    """Return the v with exp(x, v) = z."""
    w = mobius(-x, z, curvature)
    return distance(x, z, curvature) / _length(w) * w


def distance(x: Tensor, z: Tensor, curvature: float) -> Tensor:
    """Return the length of the geodesic from x to z, ``(..., 1)``."""
    a, b = (1 - curvature * _square(point) for point in (x, z))
    half = sqrt(curvature) * _length(x - z) * (a * b).rsqrt()
    return 2 / sqrt(curvature) * half.asinh()


def inside(z: Tensor, curvature: float, margin: float = MARGIN) -> Tensor:
    """Return z, or the last point in its direction that keeps its margin from the boundary."""
    return z * ((1 - margin) / sqrt(curvature) / _length(z)).clamp(max=1)


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _length(x: Tensor) -> Tensor:
    """Return |x|, whose gradient at 0 is 0."""
    return (_square(x) + 1e-30).sqrt()


@dataclass(frozen=True, eq=False)
class WrappedNormal:
    """A normal around a point of the ball, on the plane that touches it there, wrapped around it.

    z = exp(mu, v) with mu = exp0(flat.mean) and v of the flat normal's variances. Densities are by
    the ball's own (Riemannian) volume, (2 / (1 - c |z|²))^dim dz.

    Attributes:
        flat: what it is where c is 0, ``(batch, dim)``.
        curvature: c.
    """

    flat: DiagonalGaussian
    curvature: float

    @property
    def mean(self) -> Tensor:
        """The point mu around which it is wrapped."""
        return exp0(self.flat.mean, self.curvature)

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Return a draw; `noise` broadcasts to the mean, or is drawn."""
        v = self.flat.rsample(noise) - self.flat.mean
        return inside(exp(self.mean, v, self.curvature), self.curvature)

    def sample(self, n: int) -> Tensor:
        """Draw n codes, where there is one mean for all; the noise is the same on any device."""
        noise = torch.randn(n, self.flat.mean.shape[1])
        return self.rsample(noise.to(self.flat.mean))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z | x) in nats by the ball's volume, ``(batch,)``."""
        v = log(self.mean, inside(z, self.curvature), self.curvature)
        density = self.flat.log_prob(self.flat.mean + v)
        return density - self._widening(_length(v)).squeeze(-1)

    def kl(self, noise: Tensor | None = None) -> Tensor:
        """Return an unbiased estimate of KL(q || p) in nats by one draw, ``(batch, 1)``.

        p is the same around the origin with unit variances. It is log q(z) - log p(z), in which
        the part that is left where c is 0 stands by its expectation, the flat normal's KL.
        """
        u = self.flat.rsample(noise)
        v = u - self.flat.mean
        r = distance(-self.mean, exp0(v, self.curvature), self.curvature)  # of z from the origin
        flat = self.flat.kl().sum(-1, keepdim=True) - 0.5 * _square(u)
        return flat + 0.5 * r.square() + self._widening(r) - self._widening(_length(v))

    def _widening(self, r: Tensor) -> Tensor:
        """Return the log of (sinh r / r)^(dim - 1), with r in units of the radius of curvature.

        So much more room than in flat space is there at the distance r.
        """
        r = sqrt(self.curvature) * r
        each = r + (-torch.expm1(-2 * r) / (2 * r)).log()
        return (self.flat.mean.shape[-1] - 1) * each


class Gyroplanes(nn.Module):
    """Signed distances to learned hyperplanes, weighted: the ball's linear layer.

    f(z) = |a| d / sqrt(c), sinh d = sinh ζ <z/|z|, a/|a|> cosh r - cosh ζ sinh r, with ζ and r the
    distances from the origin of z and of the plane, which a ray along a meets at a right angle, in
    units of 1 / sqrt(c). Where c is 0, f is <a, z> - |a| r.

    Args:
        dim: size of a point.
        planes: how many there are.
        curvature: c.
    """

    def __init__(self, dim: int, planes: int, curvature: float) -> None:
        super().__init__()
        self.root = sqrt(curvature)
        self.weight = nn.Parameter(torch.randn(planes, dim) / sqrt(dim))
        self.offset = nn.Parameter(torch.zeros(planes))

    def forward(self, z: Tensor) -> Tensor:
        """Return the distances, ``(batch, planes)``."""
        square = self.root**2 * _square(z)
        cosh, sinh = (1 + square) / (1 - square), 2 * self.root * z / (1 - square)
        cosh, sinh = cosh.to(self.weight.dtype), sinh.to(self.weight.dtype)
        size, r = _length(self.weight), self.root * self.offset
        with torch.autocast(z.device.type, enabled=False):  # few digits near the boundary
            along = sinh @ (self.weight / size).T
        d = (along * r.cosh() - cosh * r.sinh()).asinh()
        return size.squeeze(1) * d / self.root


@latent
class Ball(Gaussian):
    """A wrapped normal posterior against one around the origin of the Poincaré ball.

    h holds (mean, logvar) of the normal that is wrapped.

    Args:
        dim: size of the code.
        curvature: c; the ball's curvature is -c and its radius 1 / sqrt(c).
    """

    def __init__(self, dim: int, curvature: float = 1.0) -> None:
        super().__init__(dim)
        if curvature <= 0:
            raise ParameterError(f"A ball needs a curvature c above 0. Got {curvature}.")
        self.curvature = curvature
        self.decoded_shape = (PLANES,)
        self.planes = Gyroplanes(dim, PLANES, curvature)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return a draw (of zero noise in evaluation), and its KL to the prior estimated there."""
        q, kind = self.posterior(h), torch.promote_types(h.dtype, torch.float32)
        if noise is None:
            noise = torch.randn_like(q.flat.mean) if self.training else self.get_buffer("origin")
        return q.rsample(noise).to(kind), {"kl": q.kl(noise).squeeze(1).to(kind)}

    def seen(self, z: Tensor) -> Tensor:
        """Return the code's distances to hyperplanes."""
        seen: Tensor = self.planes(inside(z.double(), self.curvature))
        return seen

    def mean(self, h: Tensor) -> Tensor:
        """Return the point around which the posterior is wrapped."""
        return self.posterior(h).mean.to(torch.promote_types(h.dtype, torch.float32))

    def posterior(self, h: Tensor) -> WrappedNormal:  # type: ignore[override]
        """Return q(z | x), in double precision: near the boundary single digits are few."""
        flat = super().posterior(h.double())
        reach = 2 * atanh(1 - MARGIN) / sqrt(self.curvature)
        mean = flat.mean * (reach / _length(flat.mean)).clamp(max=1)
        return WrappedNormal(DiagonalGaussian(mean, flat.logvar), self.curvature)

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the expected square of each flat draw."""
        flat = self.posterior(h).flat
        return flat.mean, flat.mean.square() + flat.logvar.exp()

    def between(self, a: Tensor, b: Tensor, way: Tensor) -> Tensor:
        """Return the points on the geodesic from a to b."""
        a, b = a.double(), b.double()
        path = exp(a, way * log(a, b, self.curvature), self.curvature)
        return path.float()

    def unit_kl(self, h: Tensor) -> None:
        """Return None: the divergence is that of the whole code."""
        del h

    def principal(self, noise: Tensor) -> None:  # type: ignore[override]
        """Return None: the code is no linear map."""
        del noise

    def prior(self) -> WrappedNormal:  # type: ignore[override]
        """Return the wrapped normal of unit variances around the origin."""
        origin = self.get_buffer("origin").double()
        return WrappedNormal(DiagonalGaussian(origin, origin), self.curvature)
