"""Variational autoencoders: a distribution over codes, and a bound on the likelihood."""

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.errors import ParameterError
from narrows.fields import Count, NonNegative, OneOf, Positive, Unless, Weighs, When
from narrows.net import Net, Running, Step, Terms
from narrows.parts.divergences import floored_kl
from narrows.parts.latents import Gaussian
from narrows.parts.likelihoods import Likelihood
from narrows.parts.schedules import COURSES, risen

__all__ = ["VAE", "Multiplier"]


class _Annealed(BaseAutoencoder):
    """Base of the models in which the weight of the KL divergence takes a course.

    Args:
        kl_schedule: course of the KL's weight, or of the capacity: "constant", or from 0 upwards
            "linear", "cosine", or "cyclic", which starts again `kl_cycles` times.
        kl_warmup: share of training (of each cycle) over which it rises.
        kl_cycles: number of cycles.
    """

    kl_schedule: Annotated[str, OneOf(COURSES), When("distortion", None)] = "constant"
    kl_warmup: Annotated[float, Gt(0), Le(1), Unless("kl_schedule", "constant")] = 0.5
    kl_cycles: Annotated[Count, When("kl_schedule", "cyclic")] = 4

    def risen(self, step: Step) -> Tensor | float:
        """Return the course of the KL's weight: 1 at the end, and for held-out samples."""
        if self.kl_schedule == "constant" or not self.net_.training:
            return 1.0
        return risen(self.kl_schedule, step.progress, self.kl_warmup, self.kl_cycles)

    @property
    def incomparable(self) -> str:
        """Why the losses of epochs do not compare; "" where they do."""
        if self.kl_schedule == "constant" or self.validation:
            return ""
        return f"with kl_schedule='{self.kl_schedule}' only those of held-out samples compare"


class VAE(_Annealed):
    """A Gaussian code whose posterior pays for leaving the standard normal prior.

    E[-log p(x | z)] + beta * s(t) * KL(q(z | x) || N(0, I))

    With beta = 1 this is the negative ELBO; beta > 1 makes the beta-VAE. s(t) is the course of
    `kl_schedule`, 1 by default; held-out samples are always charged with s = 1, so that epochs
    compare. Three fields charge the KL in another way:

    - capacity C: beta * |KL - s(t) C|, the KL being the batch's mean (Burgess: beta = 1000).
    - free_bits f: sum_j max(f, KL_j) in place of the KL, KL_j being a unit's mean in the batch.
    - distortion d: KL + λ D/2 (mse / d - 1), the mse being over the D values of a sample. After
      each step λ, at first 1 (a Gaussian likelihood of variance d), follows the moving average of
      mse / d - 1: the KL is minimised subject to mse <= d.

    Use it to generate, to score by a bound on the likelihood and for smooth codes; not where every
    detail must come back.

    Args:
        beta: weight of the KL divergence.
        capacity: nats that the code shall carry; None minimises them.
        free_bits: nats that each unit carries for nothing.
        distortion: largest mean squared error in the model's units, as the history shows it; the
            KL is minimised subject to it. None sets no bound.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework
        (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
        Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing (Fu et al.,
        2019), https://arxiv.org/abs/1903.10145
        Understanding disentangling in β-VAE (Burgess et al., 2018),
        https://arxiv.org/abs/1804.03599
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
        Taming VAEs (Rezende & Viola, 2018), https://arxiv.org/abs/1810.00597

    >>> from narrows import VAE
    >>> from sklearn.datasets import load_iris
    >>> vae = VAE(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> vae.sample(3).shape
    (3, 4)
    """

    beta: Annotated[NonNegative, Weighs("kl"), When("distortion", None)] = 1.0
    capacity: Annotated[NonNegative | None, When("distortion", None)] = None
    free_bits: Annotated[NonNegative, When("capacity", None)] = 0.0
    distortion: Positive | None = None

    def build(self, modality: Modality) -> Net:
        """Return a net that follows its constraint, where there is one."""
        net = super().build(modality)
        if self.free_bits and type(net.latent) is not Gaussian:
            self.refuse_set(["free_bits"], "needs the KL of each unit to N(0, I) in closed form")
        return constrained(net, self.distortion)

    def objective(self, step: Step) -> Terms:
        """Charge the KL as the fields say, beside the nll or what the constraint makes of it."""
        kl = priced_kl(step, self.risen(step), self.capacity, self.free_bits)
        terms = super().objective(step.charging(kl=kl))
        return terms if self.distortion is None else lagrangian(terms, step, self.net_)


def priced_kl(
    step: Step, risen: Tensor | float, capacity: float | None, free_bits: float
) -> Tensor:
    """Return what the KL divergence costs: ``(batch,)``, or 0-d where it is of the batch.

    Args:
        step: a pass.
        risen: how far its weight, or the capacity, has risen.
        capacity: nats whose distance from the batch's mean KL is charged, or None.
        free_bits: nats that each unit carries for nothing.
    """
    kl, weight = step.charges["kl"], step.batch.weight
    if capacity is not None:
        mean = (kl if weight is None else kl * weight).mean()
        return (mean - capacity * risen).abs()
    if free_bits and step.q is not None:
        kl = floored_kl(step.q.kl(), free_bits, weight)
    return risen * kl


def constrained(net: Net, distortion: float | None) -> Net:
    """Give a net the multiplier of mse <= distortion; None leaves it as it is."""
    if distortion is not None:
        net.multiplier = Multiplier(distortion, net.likelihood)
    return net


def lagrangian(terms: Terms, step: Step, net: Net) -> Terms:
    """Return the terms with the error beyond the constraint, times its multiplier, for the nll."""
    others = {name: term for name, term in terms.items() if name != "nll"}
    return others | {"distortion": net.get_submodule("multiplier")(step)}


class Multiplier(Running):
    """Lagrange multiplier of mse <= target: grows while the error is above, shrinks while below.

    Args:
        target: largest mean squared error.
        likelihood: gives the mean of the decoder's output.
    """

    value: Tensor
    excess: Tensor
    steps: Tensor
    memory, rate, low, high = 0.3, 0.1, 1e-3, 1e2
    incomparable = "distortion weighs their terms anew each step"

    def __init__(self, target: float, likelihood: Likelihood) -> None:
        super().__init__()
        if likelihood.channels > 1 or list(likelihood.parameters()):
            raise ParameterError(
                "distortion takes the place of the nll, from which this likelihood would learn a "
                "spread. Leave `scale` and `likelihood` at their defaults, or distortion at None."
            )
        self.target = target
        self._likelihood = (likelihood,)  # in a tuple: the net has it already
        self.register_buffer("value", torch.ones(()))
        self.register_buffer("excess", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"target={self.target!r}"

    def forward(self, step: Step) -> Tensor:
        """Return λ (SE / target - D) / 2, ``(batch,)``: zero where the error is the target."""
        error, count = self.errors(step)
        return self.value * 0.5 * (error / self.target - count)

    def errors(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the squared errors' sum over the observed values, and their number."""
        target, mask = step.batch.target, step.batch.mask
        square = (self._likelihood[0].mean(step.out) - target).square()
        mask = torch.ones_like(square) if mask is None else mask
        return (square * mask).flatten(1).sum(1), mask.flatten(1).sum(1)

    @torch.no_grad()
    def follow(self, step: Step) -> None:
        """Move log λ by a tenth of the moving average of mse / target - 1, at most 1."""
        error, count = self.errors(step)
        if step.batch.weight is not None:
            error, count = error * step.batch.weight, count * step.batch.weight
        excess = error.sum() / (self.target * count.sum().clamp(min=1e-6)) - 1
        self.steps.add_(1)
        self.excess.lerp_(excess, self.steps.reciprocal().clamp(min=self.memory))
        growth = (self.rate * self.excess.clamp(max=1)).exp()
        self.value.mul_(growth).clamp_(self.low, self.high)
