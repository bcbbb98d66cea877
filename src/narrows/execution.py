"""How a run makes its steps: one by one, or those on full batches in a compiled graph."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrows.compiled import Graph, GraphError, repays, unrolled
from narrows.net import Terms

if TYPE_CHECKING:
    from narrows.training import Training

__all__ = ["WATCHED", "Execution"]

WATCHED = 16
"""Statistics beside the terms (mse, ...) are taken from about so many batches of an epoch."""


class Execution:
    """Makes the steps of a run, in the way that its fields or its plan ask for.

    Args:
        training: the run, before its first step.

    Attributes:
        compiled: whether full batches go through a graph; not from the moment on that one fails.
        unrolled: how many steps a graph makes at a time.
    """

    def __init__(self, training: "Training") -> None:
        self.training = training
        fields, source = training.model, training.source
        self.compiled = self.repays() if fields.compile == "auto" else fields.compile
        self.compiled &= training.epochs is not None  # a single pass repays no graph
        self.compiled &= training.processes.count == 1  # what they exchange is in no graph
        if self.compiled and source.uneven:
            self.compiled = False
            warnings.warn(
                f"compile=True has no effect on the training {source.uneven}: a compiled step is "
                "for batches of one size. Leave it at 'auto'.",
                stacklevel=4,
            )
        several = fields.steps_per_execution
        self.unrolled = self.unrolls() if several == "auto" else several
        self.graph: Graph[[Tensor, Tensor], list[Terms]] | None = None

    @property
    def at_once(self) -> int:
        """How many batches `move` takes, unless fewer are left of the epoch."""
        return self.unrolled if self.compiled else 1

    @property
    def full(self) -> int:
        """How many batches of an epoch a graph can take: of one size, and full."""
        source = self.training.source
        return 0 if source.uneven else len(source) // self.training.model.batch_size

    def repays(self) -> bool:
        """Return whether a graph for each stage repays its making, by the plan."""
        if self.training.model.gradient_checkpointing:
            return False  # a graph would keep what it forgets
        if any(isinstance(part, nn.RNNBase) for part in self.training.net.modules()):
            return False  # it has a kernel of its own, which no graph takes in
        return all(
            repays(self.training.length(stage) * self.full, len(list(stage.net.parameters())))
            for stage in self.training.stages
        )

    def unrolls(self) -> int:
        """Return how many steps at a time repay the making of every stage's graph."""
        lengths = map(self.training.length, self.training.stages)
        return min(unrolled(length * self.full, self.full) for length in lengths)

    def move(self, group: list[Tensor], steps: int) -> list[Terms]:
        """Make a step on each of some batches, all in one graph where the run is compiled.

        Args:
            group: the rows of each batch.
            steps: of an epoch.

        Returns:
            The terms of each step.
        """
        training = self.training
        done = training.epoch * steps + training.position
        full = len(group) == self.unrolled and len(group[-1]) == training.model.batch_size
        if self.compiled and full:
            dials = [training.dials(done + i, steps) for i in range(len(group))]
            training.clear(done, len(group))
            try:
                self.graph = self.graph or Graph(self.steps, training.device, self.kept())
                return self.graph(torch.cat(group), torch.tensor(dials, device=training.device))
            except GraphError as error:
                warnings.warn(
                    f"The training of {type(training.model).__name__} goes on without "
                    f"compilation: {error}. Set compile=False to try it no more.",
                    stacklevel=2,
                )
                self.compiled, self.graph = False, None
        made = []
        for i, rows in enumerate(group):
            training.advance(done + i, steps)
            watch = (training.position + i) % max(1, steps // WATCHED) == 0
            made.append(training.step(training.source.take(rows), watch))
        return made

    def steps(self, rows: Tensor, dials: Tensor) -> list[Terms]:
        """Make a step on each batch of these rows; the first one adds the statistics."""
        made: list[Terms] = []
        for part, values in zip(rows.chunk(len(dials)), dials.unbind(), strict=True):
            self.training.turn_to(*values.unbind())
            made.append(self.training.step(self.training.source.take(part), not made))
        return made

    def kept(self) -> Iterator[Tensor]:
        """Yield the tensors that a step reaches outside of the net."""
        yield from self.training.source.tensors().values()
        yield from self.training.source.units or ()
        for optimizer in self.training.optimizers.values():
            yield from optimizer.state().values()
