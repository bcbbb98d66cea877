"""Sources of graphs: their samples are nodes, and a batch holds whole graphs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from narrows.data.graphs import Array, Graphs
from narrows.data.sources import Batch, InMemory

__all__ = ["GraphSource", "Links", "links"]


@dataclass(frozen=True, eq=False)
class Links:
    """The links of a batch of whole graphs, whose nodes are numbered through.

    Of the N² entries of a graph's adjacency, S are edges (each counts from both ends). Kipf &
    Welling weigh an entry by norm = N² / 2 (N² - S), and an edge pos_weight = (N² - S) / S times
    that. Their code tells A + I: a node counts as linked to itself, and weighs like an edge.

    Attributes:
        first, other, value: the propagation D^-½ (A + I) D^-½ in compressed rows.
        edges: pairs that are linked and told so, ``(2, edges)``.
        present: what an edge weighs, norm * pos_weight, ``(edges,)``.
        own: what a node's link to itself weighs, ``(nodes,)``.
        absent: pairs that are not linked, as many as edges: always the same, ``(2, absent)``.
        missing: what each of them weighs where they stand for all, ``(absent,)``.
        rest: what each other pair of a node weighs, norm, ``(nodes,)``.
        sizes: number of nodes of each graph.
        held: whether only `edges` and `absent` are told, as for edges that were held out.
    """

    first: Tensor
    other: Tensor
    value: Tensor
    edges: Tensor
    present: Tensor
    own: Tensor
    absent: Tensor
    missing: Tensor
    rest: Tensor
    sizes: tuple[int, ...]
    held: bool = False

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)[:9]}

    def to(self, device: torch.device) -> "Links":
        """Return the links on a device."""
        moved: dict[str, Any] = {name: t.to(device) for name, t in self.tensors().items()}
        return replace(self, **moved)

    @staticmethod
    def union(parts: Sequence["Links"]) -> "Links":
        """Return the links of several batches side by side."""
        if len(parts) == 1:
            return parts[0]
        nodes = [0, *np.cumsum([sum(part.sizes) for part in parts]).tolist()]
        stored = [0, *np.cumsum([len(part.other) for part in parts]).tolist()]
        joined = {
            name: torch.cat([part.tensors()[name] for part in parts])
            for name in ("value", "present", "own", "missing", "rest")
        }
        for name in ("other", "edges", "absent"):
            shifted = [part.tensors()[name] + n for part, n in zip(parts, nodes, strict=False)]
            joined[name] = torch.cat(shifted, -1)
        ends = [part.first[1:] + n for part, n in zip(parts, stored, strict=False)]
        joined["first"] = torch.cat([parts[0].first[:1], *ends])
        sizes = tuple(size for part in parts for size in part.sizes)
        return Links(**joined, sizes=sizes, held=parts[0].held)


def links(
    graphs: Graphs, told: Array | None = None, seed: int | None = None, known: Array | None = None
) -> list[Links]:
    """Return the links of each graph.

    Args:
        graphs: along whose edges nodes see one another.
        told: the edges to tell, ``(edges, 2)``; None for those of `graphs`.
        seed: of the choice of absent pairs; None chooses none.
        known: every edge there is, which no absent pair may be; None for those of `graphs`.
    """
    held = told is not None
    told = graphs.edges if told is None else told
    known = graphs.edges if known is None else known
    rng = None if seed is None else np.random.default_rng([seed, int(held)])
    matrix = csr_array(graphs.adjacency())
    cuts = [np.searchsorted(graphs.starts, edges[:, 0], "right") - 1 for edges in (told, known)]
    made = []
    for i, (start, size) in enumerate(zip(graphs.starts, graphs.sizes, strict=False)):
        block = matrix[start : start + size, start : start + size]
        edges, taken = told[cuts[0] == i] - start, known[cuts[1] == i] - start
        count = 0 if rng is None else len(edges)
        absent = np.zeros((0, 2), np.int64) if rng is None else _absent(rng, size, taken, count)
        made.append(_links(block, edges, absent, size, held))
    return made


def _links(block: csr_array, edges: Array, absent: Array, size: int, held: bool) -> Links:
    loops = csr_array((np.ones(size), (np.arange(size), np.arange(size))), shape=(size, size))
    seen = csr_array(block + loops)
    seen.sort_indices()
    root = 1 / np.sqrt(seen.sum(1))
    row = np.repeat(np.arange(size), np.diff(seen.indptr))
    value = root[row] * seen.data * root[seen.indices]
    linked = 2 * len(edges) or size  # a graph without edges has none to be outweighed by

    def weights(count: int, share: int) -> Tensor:
        return torch.full((count,), size**2 / (2 * max(share, 1)))

    return Links(
        first=torch.from_numpy(seen.indptr.astype(np.int64)),
        other=torch.from_numpy(seen.indices.astype(np.int64)),
        value=torch.from_numpy(value.astype(np.float32)),
        edges=torch.from_numpy(np.ascontiguousarray(edges.T)),
        present=weights(len(edges), linked),
        own=weights(size, linked),
        absent=torch.from_numpy(np.ascontiguousarray(absent.T)),
        missing=weights(len(absent), 2 * len(absent)),
        rest=weights(size, size**2 - linked),
        sizes=(int(size),),
        held=held,
    )


def _absent(rng: np.random.Generator, size: int, taken: Array, count: int) -> Array:
    """Draw different pairs of nodes that are no edges, the smaller first."""
    ids = np.unique(taken[:, 0] * size + taken[:, 1])
    total = size * (size - 1) // 2
    count = min(count, total - len(ids))
    if total <= 4 * (count + len(ids)):
        low, high = np.triu_indices(size, 1)
        chosen = rng.choice(np.setdiff1d(low * size + high, ids), count, replace=False)
    else:
        chosen = np.zeros(0, np.int64)
        while len(chosen) < count:
            a, b = rng.integers(size, size=(2, 2 * count))
            found = (np.minimum(a, b) * size + np.maximum(a, b))[a != b]
            found = np.concatenate([chosen, found[~np.isin(found, ids)]])
            _, first = np.unique(found, return_index=True)
            chosen = found[np.sort(first)][:count]
    return np.stack([chosen // size, chosen % size], 1)


class GraphSource(InMemory):
    """Nodes of graphs; whatever is taken, it comes with its whole graph.

    Args:
        x: features of the nodes in the modality's units, ``(nodes, columns)``.
        graphs: the links of each graph, in the order of their nodes.
        weight: ``(nodes,)`` or None.
    """

    def __init__(self, x: Tensor, graphs: list[Links], weight: Tensor | None = None) -> None:
        super().__init__(x, weight=weight)
        self.graphs = graphs
        sizes = torch.tensor([sum(graph.sizes) for graph in graphs])
        self.starts = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])

    @property
    def uneven(self) -> str:
        """Why batches are of any shape: they hold whole graphs."""
        return "of graphs, whose batches hold whole ones"

    def to(self, device: torch.device) -> "GraphSource":
        """Return the source with its nodes and links on a device."""
        weight = None if self.weight is None else self.weight.to(device)
        return GraphSource(self.x.to(device), [g.to(device) for g in self.graphs], weight)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        own = {"x": self.x} | ({} if self.weight is None else {"weight": self.weight})
        return own | Links.union(self.graphs).tensors()

    def steps(self, batch_size: int) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.graphs) // self._together(batch_size))

    def orders(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """Yield the nodes of as many graphs at a time as hold about `batch_size`: one at least."""
        n = len(self.graphs)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for chosen in order.split(self._together(batch_size)):
            yield self._nodes(chosen.tolist())

    def take(self, rows: Tensor) -> Batch:
        """Return the whole graphs that these nodes are of."""
        owner = torch.searchsorted(self.starts, rows.cpu(), right=True) - 1
        return self._whole(owner.unique().tolist())

    def passes(
        self, rows: Tensor | None, size: int, multiple: int
    ) -> Iterator[tuple[Batch, Tensor | slice]]:
        """Yield the graphs in their order, about `size` nodes at a time, and the rows in them."""
        del multiple
        rows = torch.arange(len(self)) if rows is None else rows.cpu()
        for chosen in torch.arange(len(self.graphs)).split(self._together(size)):
            start, end = self.starts[chosen[0]], self.starts[chosen[-1] + 1]
            yield self._whole(chosen.tolist()), rows[(rows >= start) & (rows < end)] - start

    def _together(self, batch_size: int) -> int:
        return max(1, round(batch_size * len(self.graphs) / len(self)))

    def _nodes(self, chosen: list[int]) -> Tensor:
        parts = [torch.arange(*self.starts[i : i + 2].tolist()) for i in chosen]
        return torch.cat(parts).to(self.x.device)

    def _whole(self, chosen: list[int]) -> Batch:
        rows = self._nodes(chosen)
        x = self.x if len(rows) == len(self) and len(chosen) == 1 else self.x[rows]
        weight = None if self.weight is None else self.weight[rows]
        graph = Links.union([self.graphs[i] for i in chosen])
        return Batch(x, x, weight=weight, index=rows, graph=graph)
