"""Samples and losses of K runs, on a first axis of K."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from narrows.data.sources import Batch, InMemory
from narrows.errors import TrainingError
from narrows.log import Log, Row
from narrows.net import Terms
from narrows.training import Training

__all__ = ["StackedLog", "StackedSource"]


class StackedSource:
    """Samples of K runs, of equal shapes; one copy of them, which the runs' own sources then show.

    Args:
        sources: of the runs.
    """

    def __init__(self, sources: Sequence[InMemory]) -> None:
        self.sources, self.size = sources, len(sources[0])
        for source in sources:
            source.x, source.units = source.values, None
        parts = [source.tensors() for source in sources]
        names = list(parts[0])
        same = all(torch.equal(part[name], parts[0][name]) for part in parts for name in names)
        self.tensors = parts[0] if same else {k: torch.cat([p[k] for p in parts]) for k in names}
        step = 0 if same else self.size
        self.offsets = torch.arange(len(sources), device=sources[0].x.device)[:, None] * step
        for k, source in enumerate(sources):
            for name in names:
                setattr(source, name, self.tensors[name].narrow(0, k * step, self.size))

    def batches(
        self, batch_size: int, generators: Sequence[Generator] | None = None
    ) -> Iterator[Batch]:
        """Yield an epoch of batches ``(K, batch, ...)``, each run's in its own order."""
        n, steps = self.size, self.sources[0].steps(batch_size)
        if generators is None:
            orders = torch.arange(n).expand(len(self.sources), n)
        else:
            orders = torch.stack([torch.randperm(n, generator=own) for own in generators])
        orders = orders.to(self.offsets.device)
        for i in range(steps):
            yield self.take(
                orders[:, i * batch_size : (i + 1) * batch_size if i < steps - 1 else n]
            )

    def take(self, rows: Tensor) -> Batch:
        """Return the batches of these rows ``(K, batch)``."""
        flat = (rows + self.offsets).flatten()
        taken = {
            k: t.index_select(0, flat).view(*rows.shape, *t.shape[1:])
            for k, t in self.tensors.items()
        }
        found: dict[str, Any] = {"target": taken["x"], "index": rows} | taken
        return Batch(**found)


class StackedLog:
    """Sums the terms of K runs over an epoch, and tells which of them broke down.

    Args:
        runs: whose terms they are.
    """

    def __init__(self, runs: Sequence[Training]) -> None:
        self.runs = runs
        self.seen: dict[str, list[tuple[Tensor, int]]] = {}

    def add(self, terms: Terms, batch: Batch) -> None:
        """Note the terms of a batch, ``(K,)`` each."""
        for name, value in terms.items():
            self.seen.setdefault(name, []).append((value, batch.x.shape[1]))

    def means(self) -> list[Row | TrainingError]:
        """Return for each run the mean of every term, or the error that ends it."""
        rows: list[Row | TrainingError] = [{} for _ in self.runs]
        for name, pairs in self.seen.items():
            values = torch.stack([value for value, _ in pairs]).cpu().double()
            counts = torch.tensor([count for _, count in pairs], dtype=torch.float64)
            means, sound = counts @ values / counts.sum(), values.isfinite()
            for k, run in enumerate(self.runs):
                row = rows[k]
                if isinstance(row, TrainingError):
                    continue
                row[name] = float(means[k])
                if not sound[:, k].all():
                    first = int((~sound[:, k]).nonzero()[0])
                    try:
                        run.position = first + 1
                        Log(run).fail(f"term '{name}'", float(values[first, k]), first + 1)
                    except TrainingError as error:
                        rows[k] = error
        return rows
