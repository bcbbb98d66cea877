"""Sparse codes: latents that keep few of many units, and a dictionary of unit atoms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts.latents import Charges, Latent, latent, shares
from narrows.parts.pursuit import Pursuit

if TYPE_CHECKING:
    from narrows.net import Net, Step, Terms
    from narrows.parts.likelihoods import Likelihood

__all__ = [
    "SELECTIONS",
    "Atoms",
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "MatchingPursuit",
    "Sparse",
    "TopK",
    "dictionary",
    "nested",
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

    sparse = True
    silent: Tensor
    weight = 0.0
    """What the price weighs where no weight is given."""
    revivable = True
    """Whether dead units can be revived: whether h is above 0 somewhere."""

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

    def encoder(self, net: "Net", atoms: "Atoms") -> nn.Module:
        """Return a linear net's encoder, whose weights start at the transpose of new atoms.

        These are scaled so that k atoms sum to about x: of the sixteenth that is nearest to it,
        the mean squared cosine with x is about 4 / (size + 2).
        """
        (below,) = (layer for layer in net.encoder.modules() if isinstance(layer, nn.Linear))
        with torch.no_grad():
            below.weight.copy_(atoms.unit()[: below.in_features].t())
            below.weight.div_(1 + 4 * (self.k - 1) / (below.in_features + 2))
        return net.encoder

    def price(self, net: "Net", step: "Step", weight: float) -> "Terms":
        """Return what a dictionary pays for the choice of units; it costs nothing."""
        del net, step, weight
        return {}

    @torch.no_grad()
    def update(self, h: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Count for how many samples each unit has been silent; they count by their weights."""
        del h
        active = (z != 0).float()
        weight = torch.ones_like(active[:, 0]) if weight is None else weight
        self.silent.add_(weight.sum()).mul_(weight @ active == 0)

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
    def update(self, h: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Follow the smallest value that is kept."""
        super().update(h, z, weight)
        kept = h.flatten().topk(self.k * len(h), sorted=False).values.amin()
        self.updates.add_(1)
        self.threshold.lerp_(kept, self.updates.reciprocal().clamp(min=self.rate))


@latent
class JumpReLU(Sparse):
    """Units above a learned threshold each (Rajamanoharan et al., 2024).

    The thresholds learn through the paper's estimator: the step's derivative is replaced by a
    rectangle of the bandwidth's width. The charge "sparsity" of a sample is L0 / k - 1, with its
    number of active units L0; a dictionary pays the square of its mean.

    Args:
        dim: size of the code.
        k: target of L0; None takes a sixteenth of the units.
        dead_after: a unit that no sample activated for so many samples is dead.
        bandwidth: width of the kernel, in units of h.
    """

    weight = 100.0

    def __init__(
        self, dim: int, k: int | None = None, dead_after: int = 5000, bandwidth: float = 0.3
    ) -> None:
        super().__init__(dim, k, dead_after)
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.zeros(dim))
        self.wanted = 1024

    @torch.no_grad()
    def start(self, h: Tensor) -> None:
        """Place each threshold so that its unit is active in k / 2 of dim samples: h will grow."""
        rank = max(1, round(len(h) * (1 - self.k / (2 * h.shape[1]))))
        # Between two samples: on one of them, rounding would decide who is active.
        between = h.sort(0).values[rank - 1 : rank + 1].mean(0)
        self.log_threshold.copy_(between.clamp(min=0.01).log())

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
        """Return the code, and how far from k its active units are."""
        del noise
        active = self.gate(h, self.log_threshold.exp()).sum(1)
        return self.mean(h), {"sparsity": active / self.k - 1}

    def price(self, net: "Net", step: "Step", weight: float) -> "Terms":
        """Return the square of the batch's mean charge."""
        del net
        charge = step.charges["sparsity"]
        mean = (shares(charge, step.batch.weight) * charge).sum()
        return {"sparsity": weight * mean.square()}


@latent
class Gated(Sparse):
    """Units whose gate is open, in amounts of their own (Rajamanoharan et al., 2024).

    z = [h > 0] relu(exp(r) h + b), with h the gates' pre-activations. The charge "sparsity" is the
    sum of relu(h). No gradient passes through a gate, so that a dictionary also pays the nll of
    relu(h) as a code, with its atoms as they are. Both are weighed against the error that the nll
    is made of, as in the paper: a scale that shrinks does not loosen the gates.
    """

    weight = 4.0
    revivable = False

    def __init__(self, dim: int, k: int | None = None, dead_after: int = 5000) -> None:
        super().__init__(dim, k, dead_after)
        self.log_gain = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def mean(self, h: Tensor) -> Tensor:
        """Return the amounts of the units whose gate is open."""
        return (h > 0) * torch.addcmul(self.bias, self.log_gain.exp(), h).relu()

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the code, and how far open its gates are."""
        del noise
        return self.mean(h), {"sparsity": h.relu().sum(1)}

    def price(self, net: "Net", step: "Step", weight: float) -> "Terms":
        """Return the charge in units of the nll, and the nll of relu(h) with fixed atoms."""
        code = step.h.relu()
        out, same = (net.decoder(each, step.batch) for each in (code, code.detach()))
        out = out - (same - same.detach())  # what the atoms would get cancels out
        gates = net.likelihood.nll(out, step.batch.target, step.batch.mask)
        unit = torch.as_tensor(net.likelihood.unit).detach()
        return {"sparsity": weight * unit * step.charges["sparsity"], "gates": gates}


class MatchingPursuit(Sparse):
    """Amounts that an encoder took of k atoms, one after the other (Costa et al., 2025).

    h holds these, and the inner products of all atoms with what they leave of x: the amounts that
    dead atoms would have next.
    """

    def __init__(self, dim: int, k: int | None = None, dead_after: int = 5000) -> None:
        super().__init__(dim, k, dead_after)
        self.width = (2 * dim,)

    def mean(self, h: Tensor) -> Tensor:
        """Return the amounts that were taken."""
        return h.chunk(2, 1)[0]

    def revived(self, h: Tensor) -> Tensor:
        """Return what dead units have in common with what is left, for 4k of them."""
        return super().revived(h.chunk(2, 1)[1])

    def encoder(self, net: "Net", atoms: "Atoms") -> nn.Module:
        """Return a pursuit of the decoder's own atoms.

        Raises:
            ParameterError: what the atoms sum to is not the mean of x.
        """
        likelihood = net.likelihood
        linear = likelihood.support == "real" and likelihood.output_activation == "linear"
        if not linear or likelihood.channels > 1:
            raise ParameterError(
                "A matching pursuit needs atoms that sum to the mean of x: likelihood='gaussian' "
                "or 'laplace', output_activation='linear', and a scale that is not predicted. Got "
                f"{type(likelihood).__name__} of {likelihood.channels} values from the decoder, "
                f"behind '{likelihood.output_activation}', instead."
            )
        return Pursuit(atoms, self.k)


SELECTIONS: dict[str, type[Sparse]] = {
    "topk": TopK,
    "batch_topk": BatchTopK,
    "jumprelu": JumpReLU,
    "gated": Gated,
    "matching_pursuit": MatchingPursuit,
}
"""The sparse latents by the name of their rule."""


class Atoms(nn.Linear):
    """A linear decoder whose columns, the atoms of a dictionary, have norm 1."""

    def unit(self) -> Tensor:
        """Return the atoms, ``(size, dim)``."""
        return F.normalize(self.weight, dim=0)

    def forward(self, z: Tensor) -> Tensor:
        """Return the bias and the atoms in the amounts of z."""
        return F.linear(z, self.unit(), self.bias)


def unit_atoms(net: "Net") -> "tuple[nn.Module, Latent, nn.Module, Likelihood]":
    """Return a linear net's parts with atoms, and the encoder that its sparse latent reads."""
    sparse = cast(Sparse, net.latent)
    ((name, above),) = (
        (name, layer)
        for name, layer in net.decoder.named_children()
        if isinstance(layer, nn.Linear)
    )
    atoms = Atoms(above.in_features, above.out_features)
    with torch.no_grad():
        nn.init.normal_(atoms.weight, std=atoms.out_features**-0.5)
        nn.init.zeros_(atoms.bias)
    setattr(net.decoder, name, atoms)
    return sparse.encoder(net, atoms), sparse, net.decoder, net.likelihood


def dictionary(
    net: "Net", step: "Step", sparsity: float | None, prefixes: Sequence[int], revive: float
) -> "Terms":
    """Return the objective of a dictionary.

    Args:
        net: with a sparse latent and a linear decoder.
        step: a pass.
        sparsity: weight of the latent's price; None takes the latent's own.
        prefixes: numbers of units that must do alone too.
        revive: weight of what the dead units could explain.
    """
    sparse = cast(Sparse, net.latent)
    price = sparse.price(net, step, sparse.weight if sparsity is None else sparsity)
    terms = {"nll": step.nll} | price | nested(net, step, prefixes)
    return terms | ({"revival": revive * revival(net, step)} if sparse.revivable else {})


def nested(net: "Net", step: "Step", sizes: Sequence[int]) -> "Terms":
    """Return the nll of the first units of the code alone, for each number of them.

    All of them are the whole code, whose nll is known.

    Raises:
        ParameterError: the code has fewer units.
    """
    dim, batch = step.z.shape[1], step.batch
    if max(sizes, default=0) > dim:
        raise ParameterError(
            f"The 'prefixes' of a code must be at most latent_dim={dim}. Got {max(sizes)} instead."
        )
    place = torch.arange(dim, device=step.z.device)
    outs = {n: net.decoded(step.z * (place < n), batch) for n in sizes if n < dim}
    nll = net.likelihood.nll
    return {f"nll_{n}": nll(out, batch.target, batch.mask) for n, out in outs.items()}


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
