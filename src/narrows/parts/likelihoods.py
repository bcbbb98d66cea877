"""Likelihoods: p(x | z) from what the decoder puts out, in nats, summed over a sample."""

import re
from math import log, pi
from typing import ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts.networks import ACTIVATIONS

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Discrete",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "bounded",
    "likelihood",
    "marginal_mean",
    "marginal_moments",
    "unbounded",
]

L = TypeVar("L", bound=type["Likelihood"])
LIKELIHOODS: dict[str, type["Likelihood"]] = {}


def likelihood(cls: L) -> L:
    """Register a likelihood under its name in lower case: NegativeBinomial, negative_binomial."""
    LIKELIHOODS[_name(cls)] = cls
    return cls


def _name(cls: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


class Likelihood(nn.Module):
    """Base of the likelihoods; a sample may have any shape, `mask` is 1 where it was observed."""

    channels: int = 1
    """How many values the decoder must put out for each value of x, on its first axis."""
    support: ClassVar[Literal["real", "unit", "counts", "levels"]] = "real"
    """What x it explains: real numbers, those in [0, 1], whole numbers ≥ 0, or those < levels.

    Whole numbers are explained as they are, whatever scaling the encoder sees them in.
    """
    output: ClassVar[str] = "linear"
    """The activation from the decoder's output to the mean where the user names none."""

    quiet: bool = False
    """Whether the decoder puts out logs, whose first values must not stray far from `start`."""

    def __init__(self, output: str | None = None) -> None:
        super().__init__()
        self.output_activation = output or self.output
        self.activation = ACTIVATIONS[self.output_activation]()

    @property
    def unit(self) -> Tensor | float:
        """Nats that a unit of the error costs: 1 where there is no scale."""
        return 1.0

    def nll(self, out: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x | z) in nats, summed over the observed values: ``(batch,)``."""
        raise NotImplementedError

    def mean(self, out: Tensor) -> Tensor:
        """Return E[x | z], shaped like x."""
        mean: Tensor = self.activation(out)
        return mean

    def sample(self, out: Tensor) -> Tensor:
        """Draw x from p(x | z)."""
        raise NotImplementedError

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        """Return what the history shows as an error, of each value: the squared one."""
        return F.mse_loss(self.mean(out), x, reduction="none")

    def bias(self, mean: Tensor) -> Tensor:
        """Return the decoder output whose mean is `mean`: where the last layer's bias starts."""
        if self.output_activation == "sigmoid":
            return mean.clamp(1e-3, 1 - 1e-3).logit()
        if self.output_activation == "tanh":
            return mean.clamp(-1 + 1e-3, 1 - 1e-3).atanh()
        return mean

    def start(self, x: Tensor, mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
        """Return where the decoder's last bias starts: at the marginal of x over `dims`.

        It has `channels` blocks on its first axis: the mean, and zeros unless a likelihood knows
        better.
        """
        mean = self.bias(marginal_mean(x, mask, dims))
        return torch.cat([mean, *[torch.zeros_like(mean)] * (self.channels - 1)])

    def update(
        self, nll: Tensor, x: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
    ) -> None:
        """Change running state after an optimizer step, from the nll that it was made with."""


class Discrete(Likelihood):
    """Base of the distributions of whole numbers, whose own parameters the decoder puts out."""

    quiet = True

    def __init__(self, output: str | None = None) -> None:
        if output is not None:
            raise ParameterError(
                f"likelihood='{_name(type(self))}' reads its own parameters from the decoder: "
                f"output_activation must be 'auto'. Got '{output}' instead."
            )
        super().__init__()

    def nll(self, out: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x | z) in nats, summed over the observed values: ``(batch,)``."""
        whole = out.to(x.dtype) if x.is_floating_point() else out.float()
        log_prob = self.log_prob(whole, x)
        return -(log_prob if mask is None else log_prob * mask).flatten(1).sum(1)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Return log p(x | z) of each value, shaped like x."""
        raise NotImplementedError


def marginal_mean(x: Tensor, mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    """Return the mean of the observed values over axes of x; 0 where there are none."""
    if mask is None:
        return x.mean(dims)
    return (x * mask).sum(dims) / mask.sum(dims).clamp(min=1)


def marginal_moments(
    x: Tensor, mask: Tensor | None, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the observed values over axes of x; 0 where there are none."""
    mean = marginal_mean(x, mask, dims)
    around = mean.view([1 if i in dims else size for i, size in enumerate(x.shape)])
    return mean, marginal_mean((x - around).square(), mask, dims)


def bounded(raw: Tensor, limit: float) -> Tensor:
    """Return `raw` held softly within ±limit: limit * tanh(raw / limit)."""
    return limit * (raw / limit).tanh()


def unbounded(value: Tensor, limit: float) -> Tensor:
    """Return what `bounded` makes `value` of."""
    return limit * (value / limit).atanh()


class _Spread(Likelihood):
    """A location family with one scale s: nll = sum |x - mean|^p / (p s^p) + log s + log norm.

    Args:
        scale: "optimal" keeps the running closed-form optimum s^p = mean |x - mean|^p (Rybkin et
            al., 2021), frozen in evaluation; "learned" makes it a parameter; "predicted" reads
            log s of each value from the decoder's second half of channels, relative to the
            spread of the data and held softly within a factor of 20 of it; a number fixes it.
        output: activation of the decoder's output.
        log_units: log of the data's units per unit of x, broadcastable to a sample; it makes the
            nll a density of the data as the user gave them.
    """

    log_scale: Tensor
    updates: Tensor
    log_units: Tensor
    offset_at_one: Tensor
    power: ClassVar[int]
    log_norm: ClassVar[float]
    floor = 1e-3
    rate = 0.1
    faint = 1e-6
    """What the scale so far counts for in a batch, in values: where nothing counts, it stays."""
    reach = log(20)
    """Largest |log| of a predicted scale over the data's: far smaller ones only overfit."""

    def __init__(
        self,
        scale: float | Literal["optimal", "learned", "predicted"] = "optimal",
        output: str | None = None,
        log_units: Tensor | None = None,
    ) -> None:
        super().__init__(output)
        self.scale = scale
        self.quiet = scale == "predicted"
        self.channels = 1 + self.quiet
        start = torch.tensor(0.0 if isinstance(scale, str) else log(scale))
        if scale == "learned":
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)
        self.register_buffer("updates", torch.tensor(0.0))
        units = torch.zeros(1) if log_units is None else log_units
        self.register_buffer("log_units", units)
        self.register_buffer("offset_at_one", units.mean() + self.log_norm, persistent=False)

    def extra_repr(self) -> str:
        """Show how the scale is found."""
        return f"scale={self.scale!r}"

    def split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean, and the log of the scale, broadcastable to it."""
        if self.channels == 1:
            return self.activation(out), self.log_scale
        location, log_scale = out.chunk(2, 1)
        return self.activation(location), self.log_scale + bounded(log_scale, self.reach)

    def mean(self, out: Tensor) -> Tensor:
        """Return E[x | z], shaped like x."""
        return self.split(out)[0]

    def start(self, x: Tensor, mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
        """Return the mean and, for predicted scales, zeros; note the spread that they start at."""
        if self.channels == 2:
            variance = marginal_moments(x, mask, dims)[1].mean()
            self.log_scale.copy_(variance.sqrt().clamp(min=self.floor).log())
        return super().start(x, mask, dims)

    def nll(self, out: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x | z) in nats, summed over the observed values: ``(batch,)``."""
        mean, log_scale = self.split(out)
        distance = self.distance(mean, x)
        if self.channels == 2:
            each = distance * (-self.power * log_scale).exp() / self.power
            each = each + log_scale + (self.log_norm + self.log_units)
            return (each if mask is None else each * mask).flatten(1).sum(1)
        total = distance if mask is None else distance * mask
        return total.flatten(1).sum(1) * self.unit + self.offset(x, mask)

    @property
    def unit(self) -> Tensor:
        """Nats that a unit of the error |x - mean|^p costs, 1 / (p s^p)."""
        return (-self.power * self.log_scale).exp() / self.power

    def offset(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the nll of a perfect reconstruction: ``(batch,)``, or 0-d without a mask."""
        if mask is None:
            return (self.log_scale + self.offset_at_one) * x.shape[1:].numel()
        return ((self.log_scale + self.log_norm + self.log_units) * mask).flatten(1).sum(1)

    def distance(self, mean: Tensor, x: Tensor) -> Tensor:
        """Return |x - mean|^p for each value."""
        raise NotImplementedError

    @torch.no_grad()
    def update(
        self, nll: Tensor, x: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
    ) -> None:
        """Move the running optimum s^p by max(1/n, rate) of the way to the batch's own.

        The nll is affine in the mean of |x - mean|^p, which is therefore had, relative to s^p,
        without another look at x.
        """
        if self.scale != "optimal":
            return
        size = x.shape[1:].numel()
        if mask is None and weight is None:
            excess = nll.mean() / size - self.log_scale - self.offset_at_one
        else:
            count = torch.full_like(nll, size) if mask is None else mask.flatten(1).sum(1)
            weight = torch.ones_like(nll) if weight is None else weight
            excess = ((nll - self.offset(x, mask)) * weight).sum() + self.faint / self.power
            excess = excess / ((count * weight).sum() + self.faint)
        self.updates.add_(1)
        rate = self.updates.reciprocal().clamp(min=self.rate)
        growth = ((self.power * excess - 1) * rate).clamp(min=-1)
        self.log_scale.add_(growth.log1p(), alpha=1 / self.power).clamp_(min=log(self.floor))


@likelihood
class Gaussian(_Spread):
    """N(x; mean, s^2): squared error with its scale."""

    power = 2
    log_norm = 0.5 * log(2 * pi)

    def distance(self, mean: Tensor, x: Tensor) -> Tensor:
        """Return (x - mean)^2."""
        return F.mse_loss(mean, x, reduction="none")

    def sample(self, out: Tensor) -> Tensor:
        """Draw x from the normal."""
        mean, log_scale = self.split(out)
        return mean + log_scale.exp() * torch.randn_like(mean)


@likelihood
class Laplace(_Spread):
    """Laplace(x; mean, s): absolute error with its scale, robust to outlying values."""

    power = 1
    log_norm = log(2.0)

    def distance(self, mean: Tensor, x: Tensor) -> Tensor:
        """Return |x - mean|."""
        return F.l1_loss(mean, x, reduction="none")

    def sample(self, out: Tensor) -> Tensor:
        """Draw x from the Laplace distribution: a difference of two exponentials."""
        mean, log_scale = self.split(out)
        draws = torch.empty(2, *mean.shape, device=mean.device, dtype=mean.dtype).exponential_()
        return mean + log_scale.exp() * (draws[0] - draws[1])


@likelihood
class Bernoulli(Likelihood):
    """Binary cross-entropy on logits, for x in [0, 1]; of new data, what lies beyond is clipped.

    On grey values it is a common loss but not a density: it ignores the continuous Bernoulli's
    normaliser (Loaiza-Ganem & Cunningham, 2019), so compare its nll only with itself.
    """

    support = "unit"
    output = "sigmoid"

    def __init__(self, output: str | None = None) -> None:
        super().__init__(output)
        if self.output_activation != "sigmoid":
            raise ParameterError(
                "likelihood='bernoulli' needs probabilities: output_activation must be 'auto' or "
                f"'sigmoid'. Got '{output}' instead."
            )

    def nll(self, out: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return -log p(x | z) in nats, summed over the observed values: ``(batch,)``."""
        loss = F.binary_cross_entropy_with_logits(out, x, mask, reduction="none")
        return loss.flatten(1).sum(1)

    def sample(self, out: Tensor) -> Tensor:
        """Draw zeros and ones."""
        return torch.bernoulli(self.mean(out))
