"""Likelihoods of whole numbers from 0 to K - 1: grey levels, grades, categories by number."""

from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from narrows.errors import ParameterError
from narrows.parts.likelihoods import (
    Discrete,
    bounded,
    likelihood,
    marginal_mean,
    marginal_moments,
    unbounded,
)

__all__ = ["Categorical", "DiscretisedLogistic"]

MOST = 1024
"""Levels for which a softmax can be asked: the decoder puts out as many values for each one."""
LIMIT = 12.0
"""Largest |log scale| of the logistic, in levels."""
NARROWEST = 0.1
"""Scale in levels at which a constant starts: its level has a probability of 0.99."""
REACH = 20
"""Scales away from its location at which a sigmoid is 0 or 1 to single precision."""


@likelihood
class Categorical(Discrete):
    """softmax(out)_x: a probability of its own for every level, in no order.

    Args:
        output: must be None.
        levels: how many there are.
        nominal: whether they stand for symbols, so that the likeliest is put in the mean's place.
    """

    support = "levels"
    levels: Tensor

    def __init__(
        self, output: str | None = None, levels: int = 256, nominal: bool = False
    ) -> None:
        super().__init__(output)
        self.nominal = nominal
        if levels > MOST:
            raise ParameterError(
                f"likelihood='categorical' has an output for every number from 0 to {levels - 1}, "
                f"the largest in X; it takes at most {MOST}. Use 'discretised_logistic', or "
                "'negative_binomial' for counts."
            )
        self.channels = levels
        values = torch.arange(levels, dtype=torch.get_default_dtype())
        self.register_buffer("levels", values, persistent=False)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the log-softmax at x."""
        return -F.cross_entropy(self.logits(out), x.long(), reduction="none")

    def logits(self, out: Tensor) -> Tensor:
        """Return the logits with the levels on an axis of their own, ``(batch, levels, ...)``."""
        return out.view(len(out), self.channels, -1, *out.shape[2:])

    def mean(self, out: Tensor) -> Tensor:
        """Return E[x | z], which is a level only where one is certain; the likeliest symbol."""
        if self.nominal:
            return self.logits(out).argmax(1).to(out.dtype)
        shares = self.logits(out).softmax(1)
        return torch.einsum("bk...,k->b...", shares, self.levels.to(shares.dtype))

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the squared error; of symbols, 1 where the likeliest is wrong."""
        return (self.mean(out) != x).to(out.dtype) if self.nominal else super().error(out, x)

    def sample(self, out: Tensor) -> Tensor:
        """Draw levels, by Gumbel's trick."""
        logits = self.logits(out)
        gumbel = -torch.empty_like(logits).exponential_().log()
        return (logits + gumbel).argmax(1).to(out.dtype)

    def start(self, x: Tensor, mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
        """Return the logs of the levels' frequencies; a level never seen counts a hundredth."""
        shares = [marginal_mean((x == k).to(x.dtype), mask, dims) for k in range(self.channels)]
        seen = x.numel() / shares[0].numel()
        return torch.cat([(share + 0.01 / seen).log() for share in shares])


@likelihood
class DiscretisedLogistic(Discrete):
    """F(x + 1/2) - F(x - 1/2), F logistic: neighbouring levels are alike, as those of pixels are.

    The lowest level takes all that lies below it and the highest all above it, so that the
    probabilities sum to one. The decoder puts out the location, with 0 in the middle of the
    levels and ±1 at their ends, and the log of the scale in levels, held softly within ±12.

    Args:
        output: must be None.
        levels: how many there are.

    References:
        Improved variational inference with inverse autoregressive flow. Kingma, Salimans,
            Jozefowicz, Chen, Sutskever, Welling, 2016. https://arxiv.org/abs/1606.04934
        PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other
            modifications. Salimans, Karpathy, Chen, Kingma, 2017.
            https://arxiv.org/abs/1701.05517
    """

    support = "levels"
    channels = 2

    def __init__(self, output: str | None = None, levels: int = 256) -> None:
        super().__init__(output)
        self.top = levels - 1
        self.middle = max(self.top, 1) / 2

    def extra_repr(self) -> str:
        """Show the number of levels."""
        return f"levels={self.top + 1}"

    def split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the location and the log of the scale, in levels."""
        location, log_scale = out.chunk(2, 1)
        return self.middle * (1 + location), bounded(log_scale, LIMIT)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Return log(F(b) - F(a)) = log F(b) + log F(-a) + log(1 - e^(a - b)), F the sigmoid.

        At the lowest level a is -inf, at the highest b is inf.
        """
        location, log_scale = self.split(out)
        width = (-log_scale).exp()
        a, b = (x - 0.5 - location) * width, (x + 0.5 - location) * width
        above, below = x > 0, x < self.top
        zero = torch.zeros_like(x)
        return (
            torch.where(below, F.logsigmoid(b), zero)
            + torch.where(above, F.logsigmoid(-a), zero)
            + torch.where(above & below, (-torch.expm1(-width)).log(), zero)
        )

    def mean(self, out: Tensor) -> Tensor:
        """Return E[x | z] = sum over 1 ≤ k ≤ top of P(x ≥ k), in as many operations for any top.

        Of scales below 1, all terms but those within `REACH` levels of the location are 0 or 1. Of
        others, the sum is the integral of the sigmoid with the ends' terms of Euler-Maclaurin's
        formula, to 1e-5 levels.
        """
        location, log_scale = self.split(out)
        scale, low = log_scale.exp(), location.detach().floor() - REACH
        near = low.clamp(0, self.top)
        for i in range(2 * REACH + 1):
            term = ((location - (low + i + 0.5)) / scale).sigmoid()
            near = near + torch.where((low + i >= 0) & (low + i < self.top), term, 0.0)
        wide = scale.clamp(min=1.0)
        (area, slope, third), (area_top, slope_top, third_top) = (
            _integral((location - end) / wide, wide) for end in (0, self.top)
        )
        far = area - area_top - (slope_top - slope) / 24 + 7 * (third_top - third) / 5760
        return torch.where(scale < 1, near, far)

    def sample(self, out: Tensor) -> Tensor:
        """Draw from the logistic, and round to the nearest level."""
        location, log_scale = self.split(out)
        draws = location + log_scale.exp() * torch.rand_like(location).logit(1e-6)
        return draws.round().clamp(0, self.top)

    def start(self, x: Tensor, mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
        """Return the location and the log of the scale that have the moments of x."""
        mean, variance = marginal_moments(x, mask, dims)
        log_scale = (variance.sqrt() * sqrt(3) / pi).clamp(min=NARROWEST).log()
        return torch.cat([mean / self.middle - 1, unbounded(log_scale, LIMIT)])


def _integral(u: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, at u = (location - t) / scale, what f(t) = sigmoid(u) needs at an end of a sum.

    They are the integral of f from t on, and the first and the third derivative of f by t.
    """
    p = u.sigmoid()
    slope = -p * (1 - p) / scale
    return scale * F.softplus(u), slope, slope * (1 - 6 * p * (1 - p)) / scale.square()
