"""Importance-weighted models: many codes for each sample make the bound on log p(x) tighter."""

from dataclasses import replace
from math import log
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, Unless, When
from narrows.net import Net, Step, Terms
from narrows.parts.slopes import sloped

__all__ = ["IWAE", "ImportanceNet", "importance_bound", "log_likelihood"]


class IWAE(BaseAutoencoder):
    """A Gaussian code drawn several times for each sample, for a tighter bound than the ELBO.

    -log 1/K sum_k p(x, z_k) / q(z_k | x) with z_k ~ q(z | x)

    K = `particles`; one particle gives the VAE. The history shows the bound as the ELBO's "nll"
    and "kl", means over the codes, and "gain" ≤ 0, what the importance weights win over them.
    `score_samples` gives the same bound with `score_draws` particles.

    Use it for the tightest bound on the likelihood; not to speed up training, for each particle
    costs a pass through the decoder.

    Args:
        particles: codes in one estimate of the bound, K.
        repeats: independent estimates that are averaged for each sample (MIWAE's M).
        elbo_weight: share of the ELBO in a convex combination with the bound (CIWAE's beta); it
            keeps up the encoder's gradient, which many particles weaken.
        gradient: "reparametrised", or "doubly_reparametrised": without the score's term, whose
            noise grows with the particles; costs one more pass back through the decoder.
        partial: let the decoder learn from one bound of all `particles * repeats` codes, which the
            history shows, and the encoder alone from the average of `repeats` (PIWAE); costs one
            more pass back too.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al.,
        2019), https://arxiv.org/abs/1810.04152

    >>> from narrows import IWAE
    >>> from sklearn.datasets import load_iris
    >>> iwae = IWAE(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> iwae.history_[-1]["gain"] < 0
    True
    """

    particles: Count = 5
    repeats: Count = 1
    elbo_weight: Annotated[float, Ge(0), Le(1), When("gradient", "reparametrised")] = 0.0
    gradient: Literal["reparametrised", "doubly_reparametrised"] = "reparametrised"
    partial: Annotated[bool, When("elbo_weight", 0.0), Unless("repeats", 1)] = False

    def build(self, modality: Modality) -> Net:
        """Return a net that draws as many codes as the bound takes."""
        if self.partial or self.gradient == "doubly_reparametrised":
            self.refuse_set(["gradient_checkpointing"], "goes with no slopes inside of a pass")
        bound = (self.particles, self.repeats, self.elbo_weight, self.gradient, self.partial)
        return ImportanceNet(super().build(modality), *bound)

    def objective(self, step: Step) -> Terms:
        """Split the bound into the ELBO's terms and what it gains on them."""
        nll, kl = step.nll.mean(0), step.charges["kl"].mean(0)
        bound = importance_bound(step.nll, step.charges["kl"], self.particles, self.partial)
        return {"nll": nll, "kl": kl, "gain": (self.elbo_weight - 1) * (bound + nll + kl)}


class ImportanceNet(Net):
    """A net whose pass draws several codes for each sample in training.

    In a step of it, `nll` and the charge "kl", log q(z | x) - log p(z), are ``(codes, batch)``;
    z and out hold the codes folded into the batch, ``(codes * batch, ...)``.

    Args:
        net: with a latent that can be drawn from.
        particles: codes in one estimate of the bound.
        repeats: estimates for each sample.
        elbo_weight: share of the ELBO in the objective.
        gradient: of the encoder, "reparametrised" or "doubly_reparametrised".
        partial: whether the decoder learns from one bound of all codes.
    """

    def __init__(
        self,
        net: Net,
        particles: int,
        repeats: int,
        elbo_weight: float,
        gradient: str,
        partial: bool,
    ) -> None:
        super().__init__(*net.parts)
        self.particles, self.repeats = particles, repeats
        self.elbo_weight, self.partial = elbo_weight, partial
        self.doubly = gradient == "doubly_reparametrised"

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Draw the codes in training, one where `noise` is given; else take the mean."""
        if noise is None and not self.latent.training:
            step = super().complete(batch, h, context)
            charges = {name: charge[None] for name, charge in step.charges.items()}
            return replace(step, nll=step.nll[None], charges=charges)
        codes = self.particles * self.repeats if noise is None else 1
        many, context = fold(batch, codes), tuple(_repeat(part, codes) for part in context)
        repeated = _repeat(h, codes)
        z, kl = self.latent.draw(repeated, noise)

        def decode(z: Tensor) -> tuple[Tensor, Tensor]:
            out = self.decoded(z, many, *context)
            return self.likelihood.nll(out, many.target, many.mask), out

        if (self.doubly or self.partial) and torch.is_grad_enabled():
            nll, slope, out = sloped(decode, z.detach())
            if self.doubly:
                z, kl = self._doubly_reparametrise(repeated, z, nll, kl)
            kl = kl + (slope.detach() * (z - z.detach())).sum(1)  # plus 0
        else:
            nll, out = decode(z)
        charges = {"kl": kl.view(codes, -1)}
        q = self.latent.posterior(h)
        return Step(batch, h, q, z, out, nll.view(codes, -1), charges, self.progress)

    def _doubly_reparametrise(
        self, h: Tensor, z: Tensor, nll: Tensor, kl: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return z and log q - log p whose gradient is that of Tucker et al. (2019), eq. 8.

        The encoder is reached through z alone, and there each code's gradient, weighted once by
        the bound itself, is weighted a second time.
        """
        log_weights = (-nll - kl).detach().view(-1, len(z) // (self.particles * self.repeats))
        weights = importance_weights(log_weights, self.particles).view(-1, 1) * self.repeats
        z = z.detach() + weights * (z - z.detach())
        q, p = self.latent.posterior(h.detach()), self.latent.prior()
        return z, q.log_prob(z) - p.log_prob(z)  # type: ignore[union-attr]

    def elbo(self, batch: Batch, noise: Tensor | None) -> Tensor:
        """Return the importance-weighted bound on log p(x) with a particle for each draw."""
        h, context = self.encode(batch)
        draws = [None] if noise is None else noise.split(1)
        steps = [self.complete(batch, h, context, draw) for draw in draws]
        nll = torch.cat([step.nll for step in steps])
        kl = torch.cat([step.charges["kl"] for step in steps])
        return importance_bound(nll, kl, len(nll))

    @torch.no_grad()
    def statistics(self, step: Step) -> Terms:
        """Compare every code's output with the sample."""
        return super().statistics(replace(step, batch=fold(step.batch, len(step.nll))))

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Let running scales see each code with its weight in the objective's gradient."""
        particles = len(step.nll) if self.partial else self.particles
        weights = importance_weights(-step.nll - step.charges["kl"], particles)
        weights = torch.lerp(weights, torch.full_like(weights, 1 / len(weights)), self.elbo_weight)
        super().update(replace(step, nll=(weights * step.nll).sum(0)))


def importance_bound(nll: Tensor, kl: Tensor, particles: int, partial: bool = False) -> Tensor:
    """Return the log of the mean weight of `particles` codes, averaged over repeats: ``(batch,)``.

    Args:
        nll: -log p(x | z), ``(repeats * particles, batch)``.
        kl: log q(z | x) - log p(z), shaped like nll.
        particles: codes in one estimate.
        partial: take one estimate of all codes, but the gradient by kl from their average.
    """
    if partial:
        average = importance_bound(nll.detach(), kl, particles)
        return importance_bound(nll, kl.detach(), len(nll)) + (average - average.detach())
    log_weights = _groups(-nll - kl, particles)
    return (log_weights.logsumexp(1) - log(log_weights.shape[1])).mean(0)


def importance_weights(log_weights: Tensor, particles: int) -> Tensor:
    """Return the bound's derivatives by the log-weights: they sum to 1 over all codes."""
    groups = _groups(log_weights, particles)
    return groups.softmax(1).view_as(log_weights) / len(groups)


@torch.no_grad()
def log_likelihood(net: Net, batch: Batch, draws: int) -> Tensor:
    """Estimate log p(x) in nats from `draws` codes of the posterior, ``(batch,)``.

    It is the importance-weighted bound with so many particles, from torch's random state; the
    net should be in evaluation mode.
    """
    h, context = net.encode(batch)
    total = torch.full_like(h.flatten(1)[:, 0], -torch.inf)
    for _ in range(draws):
        z, kl = net.latent.draw(h, net.latent.noise(len(h)).to(h))
        out = net.decoded(z, batch, *context)
        nll = net.likelihood.nll(out, batch.target, batch.mask)
        total = torch.logaddexp(total, -nll - kl)
    return total - log(draws)


def _groups(log_weights: Tensor, particles: int) -> Tensor:
    """Return log-weights as ``(repeats, particles, batch)``: one group, where they are few."""
    return log_weights.view(-1, min(particles, len(log_weights)), log_weights.shape[1])


def fold(batch: Batch, codes: int) -> Batch:
    """Return the batch repeated for each code, the codes being the slower axis."""
    tensors = {name: _repeat(value, codes) for name, value in vars(batch).items()}
    return replace(batch, **tensors)


def _repeat(value: Any, codes: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.expand(codes, *value.shape).flatten(0, 1)
