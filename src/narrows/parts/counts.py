"""Likelihoods of counts: Poisson, negative binomial, and negative binomial with more zeros."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.parts.likelihoods import Discrete, bounded, likelihood, marginal_mean, unbounded

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

LIMIT = 30.0
"""Largest |log mean|: nothing overflows, and counts up to 10^12 keep their place."""
PACE = 10.0
"""How much faster than a weight log theta moves: it has far to go, and Adam's steps are small."""
FIRST = 2.0
"""Where log theta starts: with widely spread counts, the code would seem to matter little."""
WIDEST = 15.0
"""Largest |log dispersion|: beyond it, a negative binomial is a Poisson to all digits."""


@likelihood
class Poisson(Discrete):
    """mu^x exp(-mu) / x!: counts of independent events; the decoder puts out log mu."""

    support = "counts"

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Return x log mu - mu - log x!."""
        log_mean = bounded(out, LIMIT)
        return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)

    def mean(self, out: Tensor) -> Tensor:
        """Return mu."""
        return bounded(out, LIMIT).exp()

    def sample(self, out: Tensor) -> Tensor:
        """Draw counts."""
        return torch.poisson(self.mean(out))

    def bias(self, mean: Tensor) -> Tensor:
        """Return log mu of the mean; a thousandth stands for none."""
        return unbounded(mean.clamp(min=1e-3).log(), LIMIT)


@likelihood
class NegativeBinomial(Poisson):
    """Counts that vary more than a Poisson's: Var[x] = mu + mu^2 / theta.

    A Poisson whose rate is drawn from a gamma distribution of mean mu and shape theta, the
    dispersion: a parameter of each column of a table, of each channel of an image.

    Args:
        output: must be None.
        shape: of a sample, for the size of theta.

    References:
        Deep generative modeling for single-cell transcriptomics. Lopez, Regier, Cole, Jordan,
            Yosef, 2018. https://doi.org/10.1038/s41592-018-0229-2
    """

    def __init__(self, output: str | None = None, shape: tuple[int, ...] = (1,)) -> None:
        super().__init__(output)
        self.form = (-1, *(1 for _ in shape[1:]))
        self.log_dispersion = nn.Parameter(torch.full(shape[:1], FIRST / PACE))

    def log_theta(self) -> Tensor:
        """Return log theta, one a column or a channel."""
        return bounded(PACE * self.log_dispersion, WIDEST).view(self.form)

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Return log C(x + theta - 1, x) + theta log(1 - p) + x log p, with odds mu / theta."""
        log_theta = self.log_theta()
        logits = bounded(out, LIMIT) - log_theta
        # The differences of log-gammas cancel all digits of a float32 where theta is large.
        wide, theta = x.double(), log_theta.double().exp()
        ways = torch.lgamma(wide + theta) - torch.lgamma(theta) - torch.lgamma(wide + 1)
        return ways.to(x.dtype) - log_theta.exp() * F.softplus(logits) - x * F.softplus(-logits)

    def sample(self, out: Tensor) -> Tensor:
        """Draw a rate from the gamma distribution, and a count at that rate."""
        mean = bounded(out, LIMIT).exp()
        theta = self.log_theta().exp().expand_as(mean)
        return torch.poisson(torch._standard_gamma(theta) * (mean / theta))


@likelihood
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Zero with probability pi, else a negative binomial: counts that are often not seen at all.

    The decoder puts out log mu and the logit of pi; E[x] = (1 - pi) mu.

    References:
        Deep generative modeling for single-cell transcriptomics. Lopez, Regier, Cole, Jordan,
            Yosef, 2018. https://doi.org/10.1038/s41592-018-0229-2
    """

    channels = 2

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """Return log(pi [x = 0] + (1 - pi) NB(x)), with (1 - pi) / pi = exp(-logit)."""
        location, logit = out.chunk(2, 1)
        other = super().log_prob(location, x) - logit
        return torch.where(x == 0, F.softplus(other), other) - F.softplus(-logit)

    def mean(self, out: Tensor) -> Tensor:
        """Return (1 - pi) mu."""
        location, logit = out.chunk(2, 1)
        return super().mean(location) * (-logit).sigmoid()

    def sample(self, out: Tensor) -> Tensor:
        """Draw counts, and put zeros in the place of some."""
        location, logit = out.chunk(2, 1)
        return super().sample(location) * torch.bernoulli((-logit).sigmoid())

    def start(self, x: Tensor, mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
        """Return log mu and the logit of pi, which takes half of the zeros; E[x] is x's mean."""
        mean = marginal_mean(x, mask, dims)
        zero = (marginal_mean((x == 0).to(x.dtype), mask, dims) / 2).clamp(min=0.01)
        return torch.cat([self.bias(mean / (1 - zero)), zero.logit()])
