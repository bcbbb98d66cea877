"""Latents of independent discrete variables: categories, and bits."""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from narrows.parts.latents import Charges, Latent, latent

__all__ = ["Binary", "Bits", "Categorical", "OneHot"]


@dataclass(frozen=True, eq=False)
class OneHot:
    """Independent categorical variables as one-hot vectors; `logits` are ``(batch, dim, K)``."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """The probabilities."""
        return self.logits.softmax(-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest values."""
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Return exact draws by the Gumbel-max trick, without a gradient."""
        noise = gumbel(torch.empty_like(self.logits)) if noise is None else noise
        return OneHot(self.logits + noise).mode

    def sample(self, n: int) -> Tensor:
        """Draw n codes, where there is one distribution for all; the same on any device."""
        noise = gumbel(torch.empty(n, *self.logits.shape[1:], dtype=self.logits.dtype))
        return self.rsample(noise.to(self.logits.device))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""
        return (z * self.logits.log_softmax(-1)).sum((1, 2))

    def kl(self) -> Tensor:
        """Return KL(q || uniform) = log K - H(q) of each variable in nats, ``(batch, dim)``."""
        logp = self.logits.log_softmax(-1)
        return (logp.exp() * logp).sum(-1) + log(self.logits.shape[-1])


@dataclass(frozen=True, eq=False)
class Bits:
    """Independent bits; `logits` are ``(batch, dim)``."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        """The probabilities of ones."""
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        """The likeliest bits."""
        return (self.logits > 0).to(self.logits.dtype)

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Return exact draws from logistic noise, whose gradient is that of the mean."""
        noise = logistic(torch.empty_like(self.logits)) if noise is None else noise
        p = self.mean
        return p + ((self.logits + noise > 0).to(p.dtype) - p).detach()

    def sample(self, n: int) -> Tensor:
        """Draw n codes, where there is one distribution for all; the same on any device."""
        noise = logistic(torch.empty(n, *self.logits.shape[1:], dtype=self.logits.dtype))
        return self.rsample(noise.to(self.logits.device))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""
        return (z * self.logits - F.softplus(self.logits)).sum(1)

    def entropy(self) -> Tensor:
        """Return H(q) of each bit in nats, ``(batch, dim)``."""
        return F.softplus(self.logits) - self.logits * self.mean

    def kl(self) -> Tensor:
        """Return KL(q || fair bits) = log 2 - H(q) of each bit in nats, ``(batch, dim)``."""
        return log(2.0) - self.entropy()


def cooled(start: float, end: float, progress: Tensor) -> Tensor:
    """Return a temperature that falls geometrically with the progress of training, 0-d."""
    return start * (log(end / start) * progress).exp()


def gumbel(empty: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with draws from the standard Gumbel distribution."""
    return empty.exponential_(generator=generator).clamp_(min=1e-30).log_().neg_()


def logistic(empty: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with draws from the standard logistic distribution."""
    return empty.uniform_(1e-7, 1 - 1e-7, generator=generator).logit_()


@latent
class Categorical(Latent):
    """Independent categorical variables against a uniform prior.

    In training the one-hot vectors are relaxed, softmax((h + Gumbel noise) / temperature); where
    noise is given in evaluation they are exact draws, so that the bound holds.

    Args:
        dim: number of variables.
        categories: values of each.
        temperature: of the relaxation when training begins.
        final_temperature: of the relaxation when it ends; in between it falls geometrically.
    """

    def __init__(
        self,
        dim: int,
        categories: int = 10,
        temperature: float = 1.0,
        final_temperature: float = 0.5,
    ) -> None:
        super().__init__(dim)
        self.categories, self.books = categories, tuple(range(dim))
        self.temperature, self.final_temperature = temperature, final_temperature
        self.width = self.code_shape = (dim, categories)
        self.register_buffer("origin", torch.zeros(1, dim, categories), persistent=False)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the relaxed code in training, and its KL to the uniform distribution."""
        q = self.posterior(h)
        if self.training:
            noise = gumbel(torch.empty_like(h)) if noise is None else noise
            heat = cooled(self.temperature, self.final_temperature, self.progress)
            return ((h + noise) / heat).softmax(-1), {"kl": q.kl().sum(1)}
        return q.mode if noise is None else q.rsample(noise), {"kl": q.kl().sum(1)}

    def mean(self, h: Tensor) -> Tensor:
        """Return the likeliest code."""
        return self.posterior(h).mode

    def posterior(self, h: Tensor) -> OneHot:
        """Return q(z | x)."""
        return OneHot(h)

    def prior(self) -> OneHot:
        """Return the uniform distribution."""
        origin: Tensor = self.origin  # type: ignore[assignment]
        return OneHot(origin)

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n draws of Gumbel noise on the CPU."""
        return gumbel(torch.empty(n, *self.code_shape), generator)

    def pack(self, h: Tensor) -> Tensor:
        """Return the likeliest values, ``(batch, dim)``."""
        return h.argmax(-1)

    def unpack(self, kept: Tensor) -> Tensor:
        """Return these values as one-hot vectors."""
        return F.one_hot(kept.long(), self.categories).float()


@latent
class Binary(Latent):
    """Bits against fair coins; the gradient goes straight through from the drawn bits.

    Args:
        dim: number of bits.
    """

    categories = 2

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.books = tuple(range(dim))
        self.register_buffer("origin", torch.zeros(1, dim), persistent=False)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return drawn bits (the likeliest in evaluation) and their KL to fair ones."""
        q = self.posterior(h)
        z = q.rsample(noise) if self.training or noise is not None else q.mode
        return z, {"kl": q.kl().sum(1)}

    def mean(self, h: Tensor) -> Tensor:
        """Return the likeliest bits."""
        return self.posterior(h).mode

    def posterior(self, h: Tensor) -> Bits:
        """Return q(z | x)."""
        return Bits(h)

    def prior(self) -> Bits:
        """Return fair bits."""
        origin: Tensor = self.origin  # type: ignore[assignment]
        return Bits(origin)

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n draws of logistic noise on the CPU."""
        return logistic(torch.empty(n, *self.code_shape), generator)

    def unpack(self, kept: Tensor) -> Tensor:
        """Return the bits as numbers."""
        return kept.float()
