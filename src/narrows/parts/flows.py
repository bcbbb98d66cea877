"""Normalising flows: invertible maps of codes whose log-determinants are cheap."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError, nearest
from narrows.parts.latents import DiagonalGaussian, Distribution, SampledKL, capped, latent
from narrows.parts.networks import initialise

__all__ = ["IAF", "POSTERIOR_FLOWS", "PRIOR_FLOWS", "Flow", "FlowPrior", "Planar", "RealNVP"]

Mapped = tuple[Tensor, Tensor]
"""Codes ``(batch, dim)``, and log |det| of the map at each of them, ``(batch,)``."""
HIDDEN = 64
"""Units of an autoregressive flow's hidden layers."""
COUPLING = 128
"""Units of a coupling's."""
REACH = 10.0
"""How far from 0 a coupling tells codes apart: or shifts of shifts would know no bounds."""
STRETCH = 0.25
"""Largest log-scale of one coupling."""
GATE = 2.0
"""Where an autoregressive flow's gates start: near the identity."""


class Planar(nn.Module):
    """z + u tanh(w·z + b), several times, with u, w, b from the encoder for each sample.

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), sections 4.1 and A.1,
    https://arxiv.org/abs/1505.05770

    Args:
        dim: size of the code.
        flows: how many.
    """

    def __init__(self, dim: int, flows: int) -> None:
        super().__init__()
        self.dim, self.flows = dim, flows
        self.width = flows * (2 * dim + 1)

    def forward(self, z: Tensor, context: Tensor) -> Mapped:
        """Map codes; `context` is ``(batch, width)``."""
        total = torch.zeros_like(z[:, 0])
        for part in context.chunk(self.flows, 1):
            u, w, b = part.split([self.dim, self.dim, 1], 1)
            z, log_det = planar(z, u, w, b.squeeze(1))
            total = total + log_det
        return z, total


def planar(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Mapped:
    """Map codes ``(batch, dim)`` by one planar flow, invertible because w·u > -1 is enforced."""
    product = (w * u).sum(1)
    shift = (F.softplus(product) - 1 - product) / w.square().sum(1).clamp(min=1e-6)
    u = u + shift.unsqueeze(1) * w
    bent = torch.tanh((w * z).sum(1) + b)
    slope = (1 - bent.square()) * (w * u).sum(1)
    return z + u * bent.unsqueeze(1), slope.clamp(min=-1 + 1e-6).log1p()


class IAF(nn.Module):
    """Gates and shifts of each unit from the units before it; the order turns between steps.

    Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    algorithm 1, https://arxiv.org/abs/1606.04934

    Args:
        dim: size of the code.
        flows: how many.
    """

    def __init__(self, dim: int, flows: int) -> None:
        super().__init__()
        self.width = 2 * dim
        self.steps = nn.ModuleList(MADE(dim, self.width) for _ in range(flows))

    def forward(self, z: Tensor, context: Tensor) -> Mapped:
        """Map codes; `context` is ``(batch, width)``."""
        total = torch.zeros_like(z[:, 0])
        for step in self.steps:
            shift, gate = step(z, context).chunk(2, 1)
            z = (shift + (z - shift) * torch.sigmoid(gate + GATE)).flip(1)
            total = total + F.logsigmoid(gate + GATE).sum(1)
        return z, total


class MADE(nn.Module):
    """One hidden layer whose masks let outputs i see only the inputs before i, and the context.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509

    Args:
        dim: number of inputs; there are twice as many outputs.
        context: values that every output may see.
        hidden: units of the hidden layer; as many as there are inputs, at least.
    """

    mask_in: Tensor
    mask_out: Tensor

    def __init__(self, dim: int, context: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        hidden = max(hidden, dim)
        self.first = initialise(nn.Linear(dim, hidden))
        self.context = initialise(nn.Linear(context, hidden, bias=False))
        self.last = initialise(nn.Linear(hidden, 2 * dim))
        seen = torch.arange(hidden) % dim  # a hidden unit sees so many inputs
        inputs = torch.arange(dim)
        self.register_buffer("mask_in", inputs < seen[:, None], persistent=False)
        self.register_buffer("mask_out", seen <= inputs.repeat(2)[:, None], persistent=False)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """Return ``(batch, 2 * dim)``."""
        hidden = F.linear(z, self.first.weight * self.mask_in, self.first.bias)
        hidden = F.elu(hidden + self.context(context))
        return F.linear(hidden, self.last.weight * self.mask_out, self.last.bias)


class RealNVP(nn.Module):
    """Affine couplings: one half of the units scales and shifts the other, in turn.

    Density Estimation Using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803

    Args:
        dim: size of the code.
        flows: how many couplings.
        hidden: units of their hidden layers.
    """

    masks: Tensor

    def __init__(self, dim: int, flows: int, hidden: int = COUPLING) -> None:
        super().__init__()
        if dim < 2:
            raise ParameterError(
                "A RealNVP flow couples units and needs a code of 2 or more. Got "
                f"latent_dim={dim}; set prior='normal' with a flow for the posterior."
            )
        turns = (torch.arange(dim) + torch.arange(flows)[:, None]) % 2
        self.register_buffer("masks", turns.float(), persistent=False)
        self.nets = nn.ModuleList(_coefficients(dim, hidden) for _ in range(flows))

    def forward(self, z: Tensor) -> Mapped:
        """Map the base's codes to the prior's."""
        total = torch.zeros_like(z[:, 0])
        for net, mask in zip(self.nets, self.masks, strict=True):
            scale, shift = _masked(net, mask, z)
            z = z * scale.exp() + shift
            total = total + scale.sum(1)
        return z, total

    def inverse(self, z: Tensor) -> Mapped:
        """Map the prior's codes back; log |det| is that of this direction."""
        total = torch.zeros_like(z[:, 0])
        for net, mask in zip(reversed(self.nets), self.masks.flip(0), strict=True):
            scale, shift = _masked(net, mask, z)
            z = (z - shift) * (-scale).exp()
            total = total - scale.sum(1)
        return z, total


def _coefficients(dim: int, hidden: int) -> nn.Module:
    """Return the net of a coupling's log-scales and shifts, zero at the start."""
    last = nn.Linear(hidden, 2 * dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(initialise(nn.Linear(dim, hidden), "silu"), nn.SiLU(), last)


def _masked(net: nn.Module, mask: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-scale and shift of the half that the mask leaves out."""
    scale, shift = net(bounded(z * mask, REACH)).chunk(2, 1)
    return bounded(scale, STRETCH) * (1 - mask), shift * (1 - mask)


def bounded(x: Tensor, bound: float) -> Tensor:
    """Return x, smoothly held between -bound and bound."""
    return bound * torch.tanh(x / bound)


POSTERIOR_FLOWS: dict[str, type[Planar] | type[IAF]] = {"planar": Planar, "iaf": IAF}
PRIOR_FLOWS: dict[str, type[RealNVP]] = {"realnvp": RealNVP}


@dataclass(frozen=True, eq=False)
class FlowPrior:
    """A prior that is a flow of a simple base."""

    flow: RealNVP
    base: DiagonalGaussian

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, ``(batch,)``."""
        z, log_det = self.flow.inverse(z)
        return self.base.log_prob(z) + log_det

    def sample(self, n: int) -> Tensor:
        """Draw n codes."""
        z: Tensor = self.flow(self.base.sample(n))[0]
        return z


@latent
class Flow(SampledKL):
    """A Gaussian posterior bent by flows, against a prior that may be a flow too.

    h holds (mean, logvar) and what the posterior's flows read of each sample.

    Args:
        dim: size of the code.
        posterior: "gaussian", or a name in `POSTERIOR_FLOWS`.
        prior: "normal", or a name in `PRIOR_FLOWS`.
        flows: number of maps in each.
    """

    def __init__(
        self, dim: int, posterior: str = "gaussian", prior: str = "realnvp", flows: int = 8
    ) -> None:
        super().__init__(dim)
        known = {"posterior": ("gaussian", *POSTERIOR_FLOWS), "prior": ("normal", *PRIOR_FLOWS)}
        for name, value in (("posterior", posterior), ("prior", prior)):
            if value not in known[name]:
                raise ParameterError(
                    f"A flow latent has no {name} '{value}'.{nearest(value, known[name])} It is "
                    f"one of {', '.join(known[name])}."
                )
        self.bend = POSTERIOR_FLOWS[posterior](dim, flows) if posterior != "gaussian" else None
        self.bend_prior = PRIOR_FLOWS[prior](dim, flows) if prior != "normal" else None
        if self.bend is not None:
            self.width = (2 * dim + self.bend.width,)

    def base(self, h: Tensor) -> DiagonalGaussian:
        """Return what the posterior's flows start from; without any, the posterior."""
        if self.bend is None:
            return super().posterior(h)
        return capped(*h[:, : 2 * self.code_shape[0]].chunk(2, 1))

    def draw(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a draw z and log q(z | x) - log p(z), ``(batch,)``."""
        base = self.base(h)
        start = base.rsample(noise)
        z, log_det = self.bent(start, h)
        return z, base.log_prob(start) - log_det - self.prior().log_prob(z)

    def bent(self, z: Tensor, h: Tensor) -> Mapped:
        """Carry draws of the base through the posterior's flows, to mean 0 and variance 1."""
        if self.bend is None:
            return z, torch.zeros_like(z[:, 0])
        z, log_det = self.bend(z, h[:, 2 * self.code_shape[0] :])
        z = (z - self.center) * self.variance.rsqrt()
        return z, log_det - 0.5 * self.variance.log().sum()

    def mean(self, h: Tensor) -> Tensor:
        """Return the base's mean, carried through the flows."""
        return self.bent(self.base(h).mean, h)[0]

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's draw and its square: of one draw, where flows bend them."""
        if self.bend is None:
            return super().moments(h)
        z = self.draw(h)[0]
        return z, z.square()

    def posterior(self, h: Tensor) -> DiagonalGaussian | None:  # type: ignore[override]
        """Return q(z | x) where no flow bends it: a bent one knows the density of its draws."""
        return self.base(h) if self.bend is None else None

    def prior(self) -> Distribution:  # type: ignore[override]
        """Return N(0, I), or the flow of it."""
        base = super().prior()
        return base if self.bend_prior is None else FlowPrior(self.bend_prior, base)
