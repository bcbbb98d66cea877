"""Point codes whose distribution over the data is held to a prior from outside, by a critic."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from narrows.errors import ParameterError
from narrows.parts.latents import DiagonalGaussian, Distribution, Point
from narrows.parts.mixtures import GaussianMixture

if TYPE_CHECKING:
    from narrows.data.sources import Batch

__all__ = ["PRIORS", "Box", "Matched", "Regions"]

PRIORS = ("normal", "mixture", "uniform")
RADIUS, SPREAD = 2.0, 0.3
"""Where the centres of a mixture lie, and how wide its components are in their plane."""


@dataclass(frozen=True, eq=False)
class Box:
    """Independent uniform units on [-half, half]; `half` is ``(1, dim)``."""

    half: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``: -inf outside."""
        inside = (z.abs() <= self.half).all(1)
        return torch.where(inside, -(2 * self.half).log().sum(1), -torch.inf)

    def sample(self, n: int) -> Tensor:
        """Draw n codes; the noise is the same on any device."""
        noise = torch.rand(n, self.half.shape[1], dtype=self.half.dtype).to(self.half.device)
        return (2 * noise - 1) * self.half


class Matched(Point):
    """A deterministic code with a prior, for models that match the two distributions.

    Args:
        dim: size of the code.
        prior: "normal" is N(0, I); "uniform" has unit variances too; "mixture" sets Gaussians of
            deviation 0.3 evenly on a circle of radius 2 in the plane of the first two units, the
            others being standard normal.
        components: how many Gaussians the mixture has.
    """

    def __init__(self, dim: int, prior: str = "normal", components: int = 10) -> None:
        super().__init__(dim)
        if prior not in PRIORS:
            raise ParameterError(f"A code has no prior '{prior}'. It is one of {PRIORS}.")
        if prior == "mixture" and dim < 2:
            raise ParameterError(
                "A prior of several Gaussians lies on a circle and needs latent_dim ≥ 2. Got "
                f"{dim} instead."
            )
        self.kind = prior
        mean, logvar = torch.zeros(1, dim), torch.zeros(1, dim)
        if prior == "mixture":
            angle = 2 * pi / components * torch.arange(components)
            circle = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
            mean = torch.cat([circle, torch.zeros(components, dim - 2)], 1)
            logvar[:, :2] = 2 * log(SPREAD)
        self.register_buffer("centre", mean, persistent=False)
        self.register_buffer("logvar", logvar, persistent=False)

    def prior(self) -> Distribution:
        """Return p(z)."""
        mean, logvar = self.get_buffer("centre"), self.get_buffer("logvar")
        if self.kind == "mixture":
            return GaussianMixture(DiagonalGaussian(mean, logvar.expand_as(mean)))
        if self.kind == "uniform":
            return Box(3**0.5 * (0.5 * logvar).exp())
        return DiagonalGaussian(mean, logvar)

    @property
    def stochastic(self) -> bool:
        """No: nothing is drawn, and what holds the codes to the prior is no part of a bound."""
        return False

    def extra_repr(self) -> str:
        """Show the prior."""
        return f"prior={self.kind!r}"

    def judged(self, z: Tensor, batch: "Batch") -> Tensor:
        """Return what a critic sees of codes."""
        del batch
        return z

    def drawn(self, batch: "Batch") -> Tensor:
        """Draw a code of the prior for each sample."""
        return self.prior().sample(len(batch))


class Regions(Matched):
    """A deterministic code whose prior has a Gaussian for each label, on the mixture's circle.

    Args:
        dim: size of the code.
        shares: how frequent each label is.
    """

    shares: Tensor

    def __init__(self, dim: int, shares: Sequence[float]) -> None:
        super().__init__(dim, "mixture", len(shares))
        self.register_buffer("shares", torch.tensor(shares), persistent=False)

    def prior(self) -> GaussianMixture:
        """Return p(z)."""
        return cast(GaussianMixture, super().prior())

    def joint(self, z: Tensor) -> Tensor:
        """Return log p(z, y) of every label, ``(batch, labels)``."""
        return self.prior().components.log_prob(z.unsqueeze(-2)) + self.shares.log()

    def given(self, label: Tensor) -> Tensor:
        """Draw a code for each one-hot label ``(n, labels)``; of any where it is all zero."""
        anyone = self.shares.multinomial(len(label), replacement=True)
        label = label.to(anyone.device)
        return self.prior().given(torch.where(label.sum(1) > 0, label.argmax(1), anyone))

    def judged(self, z: Tensor, batch: "Batch") -> Tensor:
        """Return codes beside their labels, and whether these are unknown."""
        label = hot(batch)
        return torch.cat([z, label, 1 - label.sum(1, keepdim=True)], 1)

    def drawn(self, batch: "Batch") -> Tensor:
        """Draw a code for each sample, of its label where that is known."""
        return self.given(hot(batch))

    def missed(self, z: Tensor, batch: "Batch") -> Tensor:
        """Return -log p(y | z) of the known labels, ``(batch,)``; 0 where they are unknown."""
        return -(hot(batch) * self.joint(z).log_softmax(1)).sum(1)


def hot(batch: "Batch") -> Tensor:
    """Return one-hot labels, all zero where they are unknown."""
    return cast(Tensor, batch.condition)
