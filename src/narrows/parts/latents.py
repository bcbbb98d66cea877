"""Latents: layers that turn h into a code and say what the code costs."""

from dataclasses import dataclass
from math import log, pi
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError, nearest
from narrows.parts.networks import ACTIVATIONS

__all__ = ["LATENTS", "DiagonalGaussian", "Distribution", "Gaussian", "Latent", "Point", "latent"]

Charges = dict[str, Tensor]
L = TypeVar("L", bound=type["Latent"])
CAP = 2.0
"""Largest log-variance of a posterior."""
LATENTS: dict[str, type["Latent"]] = {}


def latent(cls: L) -> L:
    """Register a latent under its lower-case name."""
    LATENTS[cls.__name__.lower()] = cls
    return cls


class Distribution(Protocol):
    """What a prior over codes can do."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""

    def sample(self, n: int) -> Tensor:
        """Draw n codes from torch's random state, ``(n, *code_shape)``."""


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Independent normals with `mean` and `logvar`, both ``(batch, dim)``."""

    mean: Tensor
    logvar: Tensor

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Return mean + sigma * noise; `noise` broadcasts to the mean, or is drawn."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return torch.addcmul(self.mean, (0.5 * self.logvar).exp(), noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(z; mean, sigma^2) in nats, summed over units: ``(batch,)``."""
        square = (z - self.mean).square() * (-self.logvar).exp()
        return -0.5 * (square + self.logvar + log(2 * pi)).sum(-1)

    def sample(self, n: int) -> Tensor:
        """Draw n codes, where there is one mean for all; the noise is the same on any device."""
        noise = torch.randn(n, *self.mean.shape[1:], dtype=self.mean.dtype)
        return self.rsample(noise.to(self.mean.device))

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) of each unit in nats, ``(batch, dim)`` (Kingma 2014, app. B)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)


class Latent(nn.Module):
    """Base of the latents.

    Args:
        dim: size of the code.

    Attributes:
        code_shape: shape of one code z.
        width: shape of one h, which the encoder must deliver.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.code_shape: tuple[int, ...] = (dim,)
        self.width: tuple[int, ...] = (dim,)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the code z and its named charges, each ``(batch,)`` or 0-d.

        The code is drawn in training and where `noise` is given; otherwise it is the mean.
        A charge named "kl" belongs to the bound on log p(x); the others only regularise.
        """
        raise NotImplementedError

    def mean(self, h: Tensor) -> Tensor:
        """Return the deterministic code."""
        raise NotImplementedError

    def posterior(self, h: Tensor) -> DiagonalGaussian | None:
        """Return q(z | x), or None for a point code."""
        del h
        return None

    def prior(self) -> Distribution | None:
        """Return p(z), or None for a point code."""
        return None

    @property
    def stochastic(self) -> bool:
        """Whether codes are drawn and pay for it, so that -nll - kl bounds log p(x)."""
        return self.prior() is not None

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n draws of what `forward` takes as noise, ``(n, *code_shape)``, on the CPU."""
        return torch.randn(n, *self.code_shape, generator=generator)

    def statistics(self, h: Tensor) -> Charges:
        """Return what the history shows of the codes, 0-d each."""
        del h
        return {}

    def update(self, h: Tensor) -> None:
        """Change running state (codebooks) after an optimizer step."""


@latent
class Point(Latent):
    """A deterministic code z = activation(h)."""

    def __init__(self, dim: int, activation: str = "linear") -> None:
        super().__init__(dim)
        if activation not in ACTIVATIONS:
            raise ParameterError(
                f"A point code has no activation '{activation}'."
                f"{nearest(activation, ACTIVATIONS)} It is one of {', '.join(ACTIVATIONS)}."
            )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the code; it costs nothing."""
        del noise
        return self.activation(h), {}

    def mean(self, h: Tensor) -> Tensor:
        """Return activation(h)."""
        z: Tensor = self.activation(h)
        return z


@latent
class Gaussian(Latent):
    """A diagonal Gaussian posterior against a standard normal prior; h holds (mean, logvar)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.width = (2 * dim,)
        self.register_buffer("origin", torch.zeros(1, dim), persistent=False)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return a reparametrised draw (the mean in evaluation) and its KL to the prior."""
        q = self.posterior(h)
        z = q.rsample(noise) if self.training or noise is not None else q.mean
        return z, {"kl": q.kl().sum(1)}

    def mean(self, h: Tensor) -> Tensor:
        """Return the posterior's mean."""
        return self.posterior(h).mean

    def posterior(self, h: Tensor) -> DiagonalGaussian:
        """Return q(z | x).

        A smooth cap keeps the variance of an outlying x from overflowing; it hardly touches
        variances up to the prior's, beyond which no optimum lies.
        """
        mean, logvar = h.chunk(2, 1)
        return DiagonalGaussian(mean, CAP - F.softplus(CAP - logvar))

    def prior(self) -> DiagonalGaussian:
        """Return N(0, I), ``(1, dim)``."""
        origin: Tensor = self.origin  # type: ignore[assignment]
        return DiagonalGaussian(origin, origin)
