"""Sources: where batches come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from narrows.data.linked import Links

__all__ = ["EVEN", "SLICE", "Batch", "InMemory", "Units", "at_once"]

TENSORS = ("x", "mask", "weight", "lengths", "condition", "known", "target")
"""What samples are made of."""
PADDED = ("x", "mask", "target")
"""What has the steps of sequences on its last axis."""
POOL = 50
"""Batches whose samples are sorted by length: enough for neighbours that are alike."""
SLICE = 1024
"""Samples that pass through a net at once before and after training, at most."""
VALUES = 2**20
"""Values of the samples that do so, at most: they shall stay in the cache; but never fewer than
`EVEN` samples."""
EVEN = 16
"""Samples pass in multiples of so many: products of few rows, and what is left over of a vector
register, are rounded in another way, and a row's result would depend on its neighbours."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a source yields; every tensor has the samples on its first axis.

    Attributes:
        x: what the encoder sees, in the modality's units.
        target: what the likelihood explains: x itself, unless x was corrupted or scaled for the
            encoder alone.
        mask: 1 where the target was observed, shaped like it; None where all of it was.
        condition: what encoder and decoder may also know of each sample.
        known: 1 where the condition is known, ``(batch,)``; None where all of it is.
        lengths: number of true steps of each padded sequence, ``(batch,)``.
        weight: how much each sample counts, ``(batch,)``; None for equal weights.
        index: the samples' rows in the source, ``(batch,)``.
        graph: how the samples are linked, where they are nodes of graphs.
    """

    x: Tensor
    target: Tensor
    mask: Tensor | None = None
    condition: Tensor | None = None
    known: Tensor | None = None
    lengths: Tensor | None = None
    weight: Tensor | None = None
    index: Tensor | None = None
    graph: "Links | None" = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if self.x.device == device:
            return self
        tensors = {k: v for k, v in vars(self).items() if v is not None}
        return replace(self, **{k: v.to(device) for k, v in tensors.items()})

    def split(self, parts: int) -> list["Batch"]:
        """Return so many batches of about one size, or fewer that have two samples each."""
        parts = max(1, min(parts, len(self) // 2))
        tensors = {k: v.tensor_split(parts) for k, v in vars(self).items() if v is not None}
        return [replace(self, **{k: v[i] for k, v in tensors.items()}) for i in range(parts)]


class Units(NamedTuple):
    """What makes values of bytes: (x - center) / scale, both broadcastable to a sample."""

    center: Tensor
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values, in float32."""
        return x.sub(self.center).div_(self.scale)


class InMemory:
    """Samples that are one contiguous tensor each: the fast path.

    Args:
        x: samples in the modality's units, ``(n, ...)``, or the bytes that `units` make such of.
        mask: 1 where observed, shaped like x, or None.
        weight: ``(n,)`` or None.
        condition: ``(n, width)`` or None.
        known: ``(n,)`` or None.
        target: what the likelihood explains, shaped like x; None where it is x.
        lengths: number of true steps of each padded sequence, ``(n,)``, or None.
        trims: whether batches are as wide as their longest sequence, which then stand with others
            of about their length; else all are as wide as the source.
        units: of samples that rest as bytes, a quarter of the memory; batches hold values.
    """

    def __init__(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        condition: Tensor | None = None,
        known: Tensor | None = None,
        target: Tensor | None = None,
        lengths: Tensor | None = None,
        trims: bool = False,
        units: Units | None = None,
    ) -> None:
        self.x, self.mask, self.weight, self.lengths = x, mask, weight, lengths
        self.units = units
        self.condition, self.known, self.target = condition, known, target
        self.trims = trims

    def __len__(self) -> int:
        return len(self.x)

    @property
    def uneven(self) -> str:
        """Why full batches are not all of one shape; "" where they are."""
        if self.trims and self.lengths is not None:
            return "of sequences of unequal lengths, whose batches are as wide as their longest"
        return ""

    def to(self, device: torch.device) -> "InMemory":
        """Return the source with its samples on a device."""
        tensors = {name: t.to(device) for name, t in self.tensors().items()}
        units = None if self.units is None else Units(*(t.to(device) for t in self.units))
        return InMemory(**tensors, trims=self.trims, units=units)

    @property
    def values(self) -> Tensor:
        """All samples in the modality's units."""
        return self.x if self.units is None else self.units(self.x)

    @property
    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest value of x; zeros where there are none."""
        x = self.x
        if not x.numel():
            return 0.0, 0.0
        if self.units is not None:
            x = self.units(torch.stack([x.amin(0), x.amax(0)]))
        return float(x.min()), float(x.max())

    def clamp(self, low: float, high: float) -> None:
        """Clip values of x that are beyond a range by more than rounding."""
        lowest, highest = self.extremes
        if lowest < low or highest > high + 1e-6:
            self.x, self.units = self.values.clamp(low, high), None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        found = {name: getattr(self, name) for name in TENSORS}
        return {name: t for name, t in found.items() if t is not None}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all samples with their names, types and shapes."""
        found = sha256()
        for name, tensor in self.tensors().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().contiguous().view(-1).numpy().data)
        return found.hexdigest()

    def steps(self, batch_size: int) -> int:
        """Return the number of batches of an epoch; a last one of a single sample is merged."""
        full, rest = divmod(len(self), batch_size)
        return max(1, full + (rest > 1))

    def even(self, count: int) -> Tensor:
        """Return the rows of so many samples, evenly spaced, or of all where there are fewer."""
        n = len(self)
        rows = torch.linspace(0, n - 1, min(n, count), dtype=torch.float64).long()
        return rows.to(self.x.device)

    def orders(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """Yield the rows of each batch of an epoch: in a fresh random order, or as they stand.

        Args:
            batch_size: samples a batch.
            generator: of the random order; None leaves them as they stand.
        """
        n, steps = len(self), self.steps(batch_size)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        places = torch.arange(steps)
        if generator is not None and self.trims and self.lengths is not None:
            order = alike(order, self.lengths.cpu(), POOL * batch_size)
            places = torch.randperm(steps, generator=generator)
        order = order.to(self.x.device)
        for i in places.tolist():
            yield order[i * batch_size : (i + 1) * batch_size if i < steps - 1 else n]

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Yield an epoch of batches, in the order of `orders`."""
        return map(self.take, self.orders(batch_size, generator))

    def take(self, rows: Tensor) -> Batch:
        """Return the batch of these rows."""
        return self._part(rows)

    def passes(
        self, rows: Tensor | None, size: int, multiple: int
    ) -> Iterator[tuple[Batch, Tensor | slice]]:
        """Yield batches with these rows in their order, and where in the batch they are.

        Args:
            rows: the samples that are asked for; None for all of them.
            size: how many of them pass at once.
            multiple: what the number of samples in a batch is a multiple of.
        """
        order = torch.arange(len(self), device=self.x.device) if rows is None else rows
        for start in range(0, len(order), size):
            part = order[start : start + size]
            if rows is None and not len(part) % multiple:
                yield self._part(slice(start, start + size)), slice(None)
            else:
                full = torch.cat([part, part[:1].expand(-len(part) % multiple)])
                yield self.take(full), slice(len(part))

    def _part(self, rows: Tensor | slice) -> Batch:
        """Return the batch of these rows; a slice of them is not copied."""
        tensors = self.tensors()
        if self.trims and self.lengths is not None:
            longest = int(taken(self.lengths, rows).max())
            padded = {name for name in PADDED if name in tensors}
            tensors |= {name: tensors[name].narrow(-1, 0, longest) for name in padded}
        found: dict[str, Any] = {name: taken(t, rows) for name, t in tensors.items()}
        if self.units is not None:
            found["x"] = self.units(found["x"])
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)), device=self.x.device)
        return Batch(**{"target": found["x"], "index": rows} | found)


def taken(tensor: Tensor, rows: Tensor | slice) -> Tensor:
    """Return these rows of a tensor."""
    return tensor[rows] if isinstance(rows, slice) else tensor.index_select(0, rows)


def alike(order: Tensor, lengths: Tensor, pool: int) -> Tensor:
    """Return a random order in which each `pool` of samples is sorted by length."""
    key = torch.arange(len(order)) // pool * (lengths.max() + 1) + lengths[order]
    return order[key.argsort(stable=True)]


def at_once(shape: Sequence[int], most: int = SLICE) -> int:
    """Return how many samples of a shape pass through a net at once."""
    return max(EVEN, min(most, VALUES // max(1, prod(shape)) // EVEN * EVEN))
