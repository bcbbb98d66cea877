"""Hamiltonian dynamics of codes: leapfrog steps along an energy's slope, ever cooler."""

from collections.abc import Callable
from math import log, pi
from typing import TypeVar

import torch
from torch import Tensor, nn

from narrows.parts.latents import Gaussian
from narrows.parts.slopes import sloped

__all__ = ["Flat", "Leapfrog", "Moving"]

Found = TypeVar("Found")
SHARE = 0.1
"""Where the sizes of steps start, of the largest."""
SWIFT = 10.0
"""How much faster than other parameters they learn: they follow the width of the posterior."""
KICK = 5.0
"""By how much half a step changes a momentum, at most, whose deviation ends at 1."""
HEAT = 0.25
"""What the momentum's deviation starts with above 1."""


class Moving(Gaussian):
    """A Gaussian whose draws start to move: their noise is followed by that of a momentum."""

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n draws for code and momentum, ``(n, 2 * dim)``, on the CPU."""
        return torch.randn(n, 2 * self.code_shape[0], generator=generator)

    def at(self, z: Tensor, h: Tensor | None = None) -> "Flat":
        """Return codes as places that momenta move, in a space that may depend on h."""
        del h
        return Flat(z)


class Flat:
    """Codes in a space that is the same everywhere: momenta are N(0, I), and velocities too.

    Args:
        z: codes, ``(batch, dim)``.
    """

    def __init__(self, z: Tensor) -> None:
        self.z = z

    def momentum(self, gamma: Tensor) -> Tensor:
        """Return the momenta here that draws of N(0, I) stand for."""
        return gamma

    def whitened(self, momentum: Tensor) -> Tensor:
        """Return the draws of N(0, I) that stand for momenta."""
        return momentum

    def log_prob(self, momentum: Tensor) -> Tensor:
        """Return the log-density of momenta here in nats, ``(batch,)``."""
        return -0.5 * (momentum.square() + log(2 * pi)).sum(1)

    def drift(self, momentum: Tensor, size: Tensor) -> tuple["Flat", Tensor]:
        """Return where a step of each unit's size leads without a force, and its momentum."""
        return Flat(self.z + size * momentum), momentum


class Leapfrog(nn.Module):
    """Tempered leapfrog steps; their sizes, and how hot they start, are learned.

    The momentum starts sqrt(T_0) > 1 times as large as it comes, and each step cools it by
    sqrt(T_k / T_k-1), down to T_K = 1: on the whole, volumes of codes and momenta stay as they
    are. sqrt(T_k) is quadratic in k.

    Hamiltonian Variational Auto-Encoder (Caterini et al., 2018), algorithm 1 with fixed tempering
    and beta_0 = 1 / T_0, https://arxiv.org/abs/1805.11328

    Args:
        dim: size of the code.
        steps: how many, K.
        largest: no step is larger; each unit has a size of its own.
    """

    def __init__(self, dim: int, steps: int, largest: float) -> None:
        super().__init__()
        self.steps, self.largest = steps, largest
        self.size = nn.Parameter(torch.full((dim,), SHARE).logit() / SWIFT)
        self.heat = nn.Parameter(torch.tensor(HEAT).log())

    def extra_repr(self) -> str:
        """Show how many steps there are, and their bound."""
        return f"steps={self.steps}, largest={self.largest}"

    def roots(self) -> list[Tensor]:
        """Return sqrt(T_0), ..., sqrt(T_K)."""
        shares = (1 - (k / self.steps) ** 2 for k in range(self.steps + 1))
        return [1 + share * self.heat.exp() for share in shares]

    def forward(
        self, here: Flat, momentum: Tensor, energy: Callable[[Tensor], tuple[Tensor, Found]]
    ) -> tuple[Flat, Tensor, Found]:
        """Return place and momentum after the steps, and what the energy found there.

        Args:
            here: where the codes are.
            momentum: drawn there, ``(batch, dim)``.
            energy: from codes to the potential energy, ``(batch,)``, and anything else.
        """
        size = self.largest * (SWIFT * self.size).sigmoid()
        hot, *others = self.roots()
        momentum = hot * momentum
        _, slope, found = sloped(energy, here.z)
        for root in others:
            here, momentum = here.drift(momentum - kick(here, size, slope), size)
            _, slope, found = sloped(energy, here.z)
            momentum = root / hot * (momentum - kick(here, size, slope))
            hot = root
        return here, momentum, found


def kick(here: Flat, size: Tensor, slope: Tensor) -> Tensor:
    """Return what half a step takes from the momentum, bounded lest steps diverge.

    It depends on z alone, so no volume changes where it is bounded either.
    """
    return here.momentum(here.whitened(0.5 * size * slope).clamp(-KICK, KICK))
