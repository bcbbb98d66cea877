"""Sparse codes: latents that keep few of many units, and a dictionary of unit atoms."""

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts.latents import Charges, Latent, latent

if TYPE_CHECKING:
    from narrows.net import Net, Step

__all__ = [
    "SELECTIONS",
    "Atoms",
    "BatchTopK",
    "JumpReLU",
    "Sparse",
    "TopK",
    "revival",
    "unit_atoms",
]


class Sparse(Latent):
    """Base of the latents that keep few of many units, and count who is silent.

    Args:
        dim: size of the code.
        k: units to keep for each sample; None keeps a sixteenth of them.
        dead_after: a unit that no sample activated for so many samples is dead.
    """

    silent: Tensor

    def __init__(self, dim: int, k: int | None = None, dead_after: int = 5000) -> None:
        super().__init__(dim)
        self.k = max(1, dim // 16) if k is None else k
        self.dead_after = dead_after
        if self.k > dim:
            raise ParameterError(
                f"The 'k' parameter of a sparse code must be at most latent_dim={dim}. Got "
                f"{self.k} instead."
            )
        self.register_buffer("silent", torch.zeros(dim))

    def extra_repr(self) -> str:
        """Show how many units are kept."""
        return f"k={self.k}"

    @property
    def dead(self) -> Tensor:
        """Which units are dead, ``(dim,)``."""
        return self.silent >= self.dead_after

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the sparse code; it costs nothing."""
        del noise
        return self.mean(h), {}

    def statistics(self, h: Tensor) -> Charges:
        """Return the mean number of active units, and the share of dead ones."""
        active = (self.mean(h) != 0).float().sum(1).mean()
        return {"l0": active, "dead": self.dead.float().mean()}

    @torch.no_grad()
    def update(self, h: Tensor) -> None:
        """Count for how many samples each unit has been silent."""
        active = (self.mean(h) != 0).any(0)
        self.silent.add_(len(h)).mul_(~active)

    def revived(self, h: Tensor) -> Tensor:
        """Return the code that the dead units would give if 4k of them were let through."""
        dead = torch.where(self.dead, h, torch.zeros((), dtype=h.dtype, device=h.device))
        return _largest(dead.relu(), min(4 * self.k, h.shape[1]))


@latent
class TopK(Sparse):
    """The k largest units of each sample (Makhzani & Frey, 2013; Gao et al., 2024)."""

    def mean(self, h: Tensor) -> Tensor:
        """Return h where it is among the sample's k largest, else 0."""
        return _largest(h, self.k)


@latent
class BatchTopK(Sparse):
    """The n k largest units of a batch of n (Bussmann et al., 2024).

    In evaluation a running threshold takes the place of the batch, so that rows do not depend on
    one another; they then have k active units on average.
    """

    threshold: Tensor
    updates: Tensor
    rate = 0.01

    def __init__(self, dim: int, k: int | None = None, dead_after: int = 5000) -> None:
        super().__init__(dim, k, dead_after)
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("updates", torch.tensor(0.0))

    def mean(self, h: Tensor) -> Tensor:
        """Return h where it is among the batch's largest; above the threshold in evaluation."""
        if self.training:
            return _largest(h.reshape(1, -1), self.k * len(h)).view_as(h)
        return h * (h >= self.threshold)

    @torch.no_grad()
    def update(self, h: Tensor) -> None:
        """Follow the smallest value that is kept, and count the silent units."""
        super().update(h)
        kept = h.flatten().topk(self.k * len(h), sorted=False).values.amin()
        self.updates.add_(1)
        self.threshold.lerp_(kept, self.updates.reciprocal().clamp(min=self.rate))


@latent
class JumpReLU(Sparse):
    """Units above a learned threshold each (Rajamanoharan et al., 2024).

    The thresholds learn through the paper's estimator: the step's derivative is replaced by a
    rectangle of the bandwidth's width. The charge "sparsity" is (L0 / k - 1)², with the batch's
    mean number of active units L0.

    Args:
        dim: size of the code.
        k: target of L0; None takes a sixteenth of the units.
        dead_after: a unit that no sample activated for so many samples is dead.
        bandwidth: width of the kernel, in units of h.
    """

    def __init__(
        self, dim: int, k: int | None = None, dead_after: int = 5000, bandwidth: float = 0.3
    ) -> None:
        super().__init__(dim, k, dead_after)
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.zeros(dim))

    def gate(self, h: Tensor, threshold: Tensor) -> Tensor:
        """Return 1 where h is above the threshold, else 0; differentiable in the threshold."""
        hard = (h > threshold).to(h.dtype)
        soft = ((h.detach() - threshold) / self.bandwidth + 0.5).clamp(0, 1)
        return hard + (soft - soft.detach())

    def mean(self, h: Tensor) -> Tensor:
        """Return h where it is above its threshold, else 0."""
        threshold = self.log_threshold.exp()
        gate = self.gate(h, threshold)
        kept = gate.detach()
        return h * kept + threshold.detach() * (gate - kept)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the code, and what it costs to be away from k active units."""
        del noise
        active = self.gate(h, self.log_threshold.exp()).sum(1).mean()
        return self.mean(h), {"sparsity": (active / self.k - 1).square()}


SELECTIONS: dict[str, type[Sparse]] = {
    "topk": TopK,
    "batch_topk": BatchTopK,
    "jumprelu": JumpReLU,
}
"""The sparse latents by the name of their rule."""


class Atoms(nn.Linear):
    """A linear decoder whose columns, the atoms of a dictionary, have norm 1."""

    def forward(self, z: Tensor) -> Tensor:
        """Return the bias and the atoms in the amounts of z."""
        return F.linear(z, F.normalize(self.weight, dim=0), self.bias)


def unit_atoms(encoder: nn.Module, decoder: nn.Module) -> None:
    """Give a linear decoder unit columns, and start the encoder's weights at their transpose."""
    (below,) = (layer for layer in encoder.modules() if isinstance(layer, nn.Linear))
    ((name, above),) = (
        (name, layer) for name, layer in decoder.named_children() if isinstance(layer, nn.Linear)
    )
    atoms = Atoms(above.in_features, above.out_features)
    with torch.no_grad():
        nn.init.normal_(atoms.weight, std=atoms.out_features**-0.5)
        nn.init.zeros_(atoms.bias)
        below.weight.copy_(F.normalize(atoms.weight, dim=0)[: below.in_features].t())
    setattr(decoder, name, atoms)


def revival(net: "Net", step: "Step") -> Tensor:
    """Return what the dead units would change of the nll if they explained its rest, ``(batch,)``.

    The auxiliary loss of Gao et al. (2024, appendix A.2): the reconstruction is fixed, so that
    only the dead units learn, from the residual. It is 0 while no unit is dead. Where they say too
    much, all are scaled to the residual: otherwise they would learn to fall silent, not what to
    say.
    """
    sparse = cast(Sparse, net.latent)
    code = sparse.revived(step.h)
    added = net.decoder(code) - net.decoder(torch.zeros_like(code))
    out, batch = step.out.detach(), step.batch
    added = added * _fit(net, step, added.detach())
    with_dead, without = (
        net.likelihood.nll(mean, batch.target, batch.mask) for mean in (out + added, out)
    )
    return with_dead - without


@torch.no_grad()
def _fit(net: "Net", step: "Step", added: Tensor) -> Tensor:
    """Return the scale of what is added that leaves the least square residual, at most 1."""
    mean, batch = net.likelihood.mean(step.out), step.batch
    rest, effect = batch.target - mean, net.likelihood.mean(step.out + added) - mean
    if batch.mask is not None:
        rest, effect = rest * batch.mask, effect * batch.mask
    tiny = torch.finfo(effect.dtype).tiny
    return ((rest * effect).sum() / effect.square().sum().clamp(min=tiny)).clamp(0.02, 1.0)


def _largest(h: Tensor, k: int) -> Tensor:
    values, places = h.topk(k, 1, sorted=False)
    return torch.zeros_like(h).scatter(1, places, values)
