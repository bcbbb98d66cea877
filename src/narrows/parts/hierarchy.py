"""A hierarchy of codes: read from the bottom up, drawn from the top down (the ladder)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.parts.latents import Charges, DiagonalGaussian, Latent, capped, latent
from narrows.parts.networks import initialise

__all__ = ["Ladder", "Relative", "combine"]

FEATURES = 32
"""Width of what goes up from level to level, and of the layers that lead down."""
FLOOR = -8.0
"""Smallest log-variance of a prior: a code that strays from a narrower one would cost too much."""


@dataclass(frozen=True, eq=False)
class Relative(DiagonalGaussian):
    """Independent normals whose KL is taken to other normals than N(0, I).

    Attributes:
        origin: the normals that they are compared with.
    """

    origin: DiagonalGaussian

    def kl(self) -> Tensor:
        """Return KL(q || origin) of each unit in nats, ``(batch, dim)``."""
        mean, logvar = self.origin.mean, self.origin.logvar
        square = (self.mean - mean).square() * (-logvar).exp()
        return 0.5 * (square + (self.logvar - logvar).exp() - 1 - (self.logvar - logvar))


def combine(one: DiagonalGaussian, two: DiagonalGaussian) -> DiagonalGaussian:
    """Return the normalised product of normals: means weighted by precisions, which add up."""
    log_share = F.logsigmoid(two.logvar - one.logvar)
    mean = torch.lerp(two.mean, one.mean, log_share.exp())
    return DiagonalGaussian(mean, one.logvar + log_share)


def normal(parameters: Tensor) -> DiagonalGaussian:
    """Return normals whose variances have a smooth cap."""
    return capped(*parameters.chunk(2, 1))


@latent
class Ladder(Latent):
    """Levels of Gaussian codes, of which the decoder sees the lowest.

    p(z) = N(z_L; 0, I) prod_i p(z_i | z_i+1); q(z_i | z_i+1, x) is the product of p(z_i | z_i+1)
    and of a normal that features of x give, except for the top one, which they give alone. The
    code is (z_1, ..., z_L).

    Args:
        dim: size of a level's code.
        levels: how many there are.
    """

    def __init__(self, dim: int, levels: int = 2) -> None:
        super().__init__(dim)
        self.dim, self.levels = dim, levels
        self.code_shape, self.decoded_shape = (levels * dim,), (dim,)
        self.width = (2 * dim + (FEATURES if levels > 1 else 0),)
        self.register_buffer("zero", torch.zeros(1, dim), persistent=False)
        above = range(1, levels)
        self.up = nn.ModuleList(_layer(FEATURES, FEATURES) for _ in above)
        self.found = nn.ModuleList(initialise(nn.Linear(FEATURES, 2 * dim)) for _ in above)
        self.down = nn.ModuleList(
            nn.Sequential(_layer(dim, FEATURES), initialise(nn.Linear(FEATURES, 2 * dim)))
            for _ in above
        )

    def seen(self, z: Tensor) -> Tensor:
        """Return the lowest level."""
        return z[:, : self.dim]

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return a draw from the top down (the means in evaluation) and each level's KL."""
        if noise is None and self.training:
            noise = torch.randn(len(h), *self.code_shape, device=h.device, dtype=h.dtype)
        codes, posteriors = self._descend(self._ascend(h), noise)
        kl = {f"kl_{i}": q.kl().sum(1) for i, q in enumerate(posteriors, 1)}
        return torch.cat(codes, 1), kl

    def mean(self, h: Tensor) -> Tensor:
        """Return the means, each level's given the mean of the one above."""
        return torch.cat(self._descend(self._ascend(h), None)[0], 1)

    def posterior(self, h: Tensor) -> Relative:
        """Return the levels' posteriors and priors where the levels above are at their means."""
        _, posteriors = self._descend(self._ascend(h), None)
        q = _stack(posteriors, len(h))
        return Relative(q.mean, q.logvar, _stack([q.origin for q in posteriors], len(h)))

    def prior(self) -> "TopDown":
        """Return p(z)."""
        return TopDown(self)

    def _ascend(self, h: Tensor) -> list[DiagonalGaussian]:
        """Return what x says of each level, the lowest first."""
        found, features = [normal(h[:, : 2 * self.dim])], h[:, 2 * self.dim :]
        for up, layer in zip(self.up, self.found, strict=True):
            features = up(features)
            found.append(normal(layer(features)))
        return found

    def _descend(
        self, found: list[DiagonalGaussian] | None, noise: Tensor | None
    ) -> tuple[list[Tensor], list[Relative]]:
        """Return codes and posteriors of all levels, the lowest first; without x, the priors."""
        codes: list[Tensor] = []
        posteriors: list[Relative] = []
        for i in reversed(range(self.levels)):
            p = self.conditional(i, codes[0] if codes else None)
            q = p if found is None else combine(found[i], p) if codes else found[i]
            part = None if noise is None else noise[:, i * self.dim : (i + 1) * self.dim]
            codes.insert(0, q.mean if part is None else q.rsample(part))
            posteriors.insert(0, Relative(q.mean, q.logvar, p))
        return codes, posteriors

    def conditional(self, level: int, above: Tensor | None) -> DiagonalGaussian:
        """Return the prior of a level, counted from 0, given the code above it."""
        if above is None:
            zero: Tensor = self.zero  # type: ignore[assignment]
            return DiagonalGaussian(zero, zero)
        p = normal(self.down[level](above))
        return DiagonalGaussian(p.mean, FLOOR + F.softplus(p.logvar - FLOOR))


@dataclass(frozen=True, eq=False)
class TopDown:
    """The prior of a ladder: each level is drawn given the one above."""

    ladder: Ladder

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""
        codes = [*z.split(self.ladder.dim, 1), None]
        terms = [
            self.ladder.conditional(i, above).log_prob(code)
            for i, (code, above) in enumerate(pairwise(codes))
            if code is not None
        ]
        return torch.stack(terms).sum(0)

    def sample(self, n: int) -> Tensor:
        """Draw n codes; the noise is the same on any device."""
        ladder = self.ladder
        noise = torch.randn(n, *ladder.code_shape).to(ladder.get_buffer("zero"))
        return torch.cat(ladder._descend(None, noise)[0], 1)


def _layer(a: int, b: int) -> nn.Module:
    return nn.Sequential(initialise(nn.Linear(a, b), "silu"), nn.SiLU())


def _stack(normals: Sequence[DiagonalGaussian], n: int) -> DiagonalGaussian:
    means = torch.cat([p.mean.expand(n, -1) for p in normals], 1)
    return DiagonalGaussian(means, torch.cat([p.logvar.expand(n, -1) for p in normals], 1))
