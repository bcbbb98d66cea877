"""Latents: layers that turn h into a code and say what the code costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError, nearest
from narrows.parts.networks import ACTIVATIONS

__all__ = [
    "LATENTS",
    "DiagonalGaussian",
    "Distribution",
    "Gaussian",
    "Latent",
    "Point",
    "Posterior",
    "SampledKL",
    "capped",
    "latent",
    "mean_of",
    "new_latent",
    "shares",
]

Charges = dict[str, Tensor]
L = TypeVar("L", bound=type["Latent"])
CAP = 2.0
"""Largest log-variance of a posterior."""
LATENTS: dict[str, type["Latent"]] = {}


def latent(cls: L) -> L:
    """Register a latent under its lower-case name."""
    LATENTS[cls.__name__.lower()] = cls
    return cls


def new_latent(name: str, dim: int, options: Mapping[str, Any]) -> "Latent":
    """Return the latent of a name, with what it takes beside its size.

    Raises:
        ParameterError: it takes no such options.
    """
    try:
        return LATENTS[name](dim, **options)
    except TypeError as error:
        raise ParameterError(f"code_options do not fit code='{name}': {error}.") from error


def shares(z: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return how much each row of a batch counts, ``(batch,)``: they sum to 1, or all are 0."""
    weight = z.new_ones(len(z)) if weight is None else weight.to(z.dtype)
    return weight / weight.sum().clamp(min=torch.finfo(z.dtype).tiny)


def mean_of(rows: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of rows, ``(dim,)``, which count by their weights; 0 where none counts."""
    return rows.mean(0) if weight is None else shares(rows, weight) @ rows


class Distribution(Protocol):
    """What a prior over codes can do."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""

    def sample(self, n: int) -> Tensor:
        """Draw n codes from torch's random state, ``(n, *code_shape)``."""


class Posterior(Protocol):
    """What a distribution over the code of each sample can do."""

    @property
    def mean(self) -> Tensor:
        """The deterministic code, ``(batch, dim)``."""

    def rsample(self, noise: Tensor | None = None) -> Tensor:
        """Draw a code that gradients pass through; `noise` fixes the draw."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z | x) in nats, ``(batch,)``."""

    def kl(self) -> Tensor:
        """Return the KL divergence from the prior in nats, by units where it splits into them."""


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


def capped(mean: Tensor, logvar: Tensor) -> DiagonalGaussian:
    """Return a posterior whose variance an outlying x does not let overflow.

    The cap is smooth, and hardly touches variances up to the prior's, beyond which no optimum
    lies.
    """
    return DiagonalGaussian(mean, CAP - F.softplus(CAP - logvar))


class Latent(nn.Module):
    """Base of the latents.

    Args:
        dim: size of the code.

    Attributes:
        code_shape: shape of one code z.
        width: shape of one h, which the encoder must deliver.
        categories: how many values each integer of a discrete code can have; 0 for a continuous
            code.
        books: the codebook of each integer of a discrete code.
        sparse: whether units are off, 0, in most samples.
        wanted: how many samples' h `start` wants to see; 0 for none.
        progress: how far training is, 0-d in [0, 1]; it drives every schedule.
        decoded_shape: shape of what the decoder sees of a code, where it is not all of it.
    """

    categories: int = 0
    books: tuple[int, ...] = ()
    sparse: bool = False
    wanted: int = 0
    progress: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.code_shape: tuple[int, ...] = (dim,)
        self.width: tuple[int, ...] = (dim,)
        self.decoded_shape: tuple[int, ...] | None = None
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def settle(self, grid: tuple[int, ...]) -> None:
        """Take the grid of the encoder's last feature map, where the code is one of its own."""

    def start(self, h: Tensor) -> None:
        """Set running state (codebooks) from the first h of training samples."""

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the code z and its named charges, each ``(batch,)`` or 0-d.

        The code is drawn in training and where `noise` is given; otherwise it is the mean.
        A charge whose name starts with "kl" belongs to the bound on log p(x); the others only
        regularise.
        """
        raise NotImplementedError

    def seen(self, z: Tensor) -> Tensor:
        """Return what the decoder sees of a code."""
        return z

    def mean(self, h: Tensor) -> Tensor:
        """Return the deterministic code."""
        raise NotImplementedError

    def posterior(self, h: Tensor) -> Posterior | None:
        """Return q(z | x), or None for a point code."""
        del h
        return None

    def draw(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a draw z of q and log q(z | x) - log p(z), ``(batch,)``: the KL by one sample.

        Raises:
            ParameterError: a point code has no distribution.
        """
        q, p = self.posterior(h), self.prior()
        if q is None or p is None:
            raise ParameterError(
                f"{type(self).__name__} is a point code and has no density. Use a latent that "
                "draws its codes, like 'gaussian'."
            )
        z = q.rsample(noise)
        return z, q.log_prob(z) - p.log_prob(z)

    def unit_kl(self, h: Tensor) -> Tensor | None:
        """Return KL(q || p) of each unit, ``(batch, dim)``; None where it does not split."""
        q = self.posterior(h)
        return None if q is None else q.kl()

    def pack(self, h: Tensor) -> Tensor:
        """Return what is remembered of the deterministic code: itself, or its integers."""
        return self.mean(h).flatten(1)

    def unpack(self, kept: Tensor) -> Tensor:
        """Return the codes that `pack` made this of."""
        return kept.view(-1, *self.code_shape)

    def between(self, a: Tensor, b: Tensor, way: Tensor) -> Tensor:
        """Return the codes on the way from a to b, of which `way` is behind them (0 to 1)."""
        return (1 - way) * a + way * b

    def principal(self, noise: Tensor) -> tuple[Tensor, Tensor] | None:
        """Tell how principal components of unit variance become h; None where they cannot.

        Args:
            noise: share of each component's variance that is noise, ``(dim,)``.

        Returns:
            The factors of the components that are the first units of h, and h's other units.
        """
        del noise
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

    @torch.no_grad()
    def statistics(self, h: Tensor) -> Charges:
        """Return what the history shows of a batch's codes, 0-d each: of integers, their use.

        "perplexity" is exp(entropy), "usage" the share of the values that occur; both are means
        over the codebooks.
        """
        if not self.categories:
            return {}
        kept, one = self.pack(h).long(), torch.ones((), device=h.device)
        books = torch.tensor(self.books, device=h.device).expand_as(kept)
        empty = one.new_zeros(max(self.books) + 1, self.categories)
        counts = empty.index_put((books, kept), one, accumulate=True)
        share = counts / counts.sum(1, keepdim=True)
        entropy = -torch.xlogy(share, share).sum(1)
        return {"perplexity": entropy.exp().mean(), "usage": (share > 0).float().mean()}

    def update(self, h: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Change running state (codebooks) after an optimizer step.

        Args:
            h: of the step's samples.
            z: their codes.
            weight: how much each sample counts, ``(batch,)``; None for equal weights.
        """


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

    def principal(self, noise: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return ones, for a code without an activation."""
        if not isinstance(self.activation, nn.Identity):
            return None
        return torch.ones_like(noise), noise[:0]


@latent
class Gaussian(Latent):
    """A diagonal Gaussian posterior against a standard normal prior; h holds (mean, logvar).

    A code is measured from the running mean of its draws in units of their running deviation, so
    that these are 0 and 1 as the prior's: at given reconstructions no other origin and units have
    a smaller KL divergence. The decoder sees it as the encoder put it out, so that training need
    not move both towards them.
    """

    center: Tensor
    variance: Tensor
    rate = 0.02
    largest = 10.0
    """Largest squared draw, on the average of a batch, that the running state follows at once."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.width = (2 * dim,)
        self.register_buffer("origin", torch.zeros(1, dim), persistent=False)
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return a reparametrised draw (the mean in evaluation) and its KL to the prior."""
        q = self.posterior(h)
        z = q.rsample(noise) if self.training or noise is not None else q.mean
        return z, {"kl": q.kl().sum(1)}

    def mean(self, h: Tensor) -> Tensor:
        """Return the posterior's mean."""
        return self.posterior(h).mean

    def posterior(self, h: Tensor) -> DiagonalGaussian:
        """Return q(z | x)."""
        mean, logvar = h.chunk(2, 1)
        mean = (mean - self.center) * self.variance.rsqrt()
        return capped(mean, logvar - self.variance.log())

    def seen(self, z: Tensor) -> Tensor:
        """Return the code as the encoder put it out."""
        return torch.addcmul(self.center, z, self.variance.sqrt())

    @torch.no_grad()
    def update(self, h: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Follow the mean and the variance of the draws."""
        del z
        draw, square = self.moments(h)
        first, excess = mean_of(draw, weight), mean_of(square - 1, weight)
        limit = self.largest**0.5
        moved = self.variance.sqrt(), first.clamp(-limit, limit)
        self.center.copy_(self.center.addcmul(*moved, value=self.rate))
        self.variance.mul_(1 + self.rate * excess.clamp(max=self.largest - 1))

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's draw and its square, which q expects in closed form."""
        q = self.posterior(h)
        return q.mean, q.mean.square() + q.logvar.exp()

    def principal(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilistic PCA's posterior: means of variance 1 - noise, and the variance."""
        below = CAP - noise.log()
        return (1 - noise).sqrt(), CAP - (below + (-(-below).exp()).log1p())

    def prior(self) -> DiagonalGaussian:
        """Return N(0, I), ``(1, dim)``."""
        origin: Tensor = self.origin  # type: ignore[assignment]
        return DiagonalGaussian(origin, origin)


class SampledKL(Gaussian):
    """Base of Gaussian latents whose KL to the prior is estimated by the draw itself."""

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return a draw (of zero noise in evaluation), and log q - log p there."""
        if noise is None and not self.training:
            noise = torch.zeros_like(self.origin)  # type: ignore[arg-type]
        z, kl = self.draw(h, noise)
        return z, {"kl": kl}

    def unit_kl(self, h: Tensor) -> None:
        """Return None: the divergence does not split into units."""
        del h
