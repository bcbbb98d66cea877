"""The one loop: every player's loss, gradient, clipping and update, epoch by epoch."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import cos, pi
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from narrows.compiled import Graph, GraphError, compiling, repays
from narrows.data.sources import Batch, InMemory
from narrows.errors import TrainingError
from narrows.net import Move, Stage, Terms
from narrows.optimizer import CLEARED, optimizers
from narrows.runtime import cuda_devices, keep_memory

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["SCHEDULES", "Training"]

Row = dict[str, float]
"""One epoch of the history: every named term, for train and validation."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + cos(pi * progress)),
}
"""Learning rate, relative to the field, as a function of progress after the warm-up."""

WATCHED = 16
"""Statistics beside the terms (mse, ...) are taken from about so many batches of an epoch."""


class Training:
    """One run: its whole state, and the loop that advances it.

    Args:
        model: the estimator, with its `net_` built; its fields are the plan.
        source: training samples.
        validation: held-out samples, or None.
        epochs: passes over the source; None where there is no end, as in `partial_fit`: the
            learning rate stays constant, and schedules stand at their end.
        seed: seeds the order of the samples and the noise of the validation.
    """

    def __init__(
        self,
        model: "BaseAutoencoder",
        source: InMemory,
        validation: InMemory | None,
        epochs: int | None,
        seed: int,
    ) -> None:
        self.model, self.net = model, model.net_
        self.source, self.validation = source, validation
        self.epochs, self.seed = epochs, seed
        self.device = source.x.device
        self.stages = model.stages(epochs)
        self.stage = self.stages[0]
        self.optimizers, self.clocks = optimizers(model, self.stage), clocks(self.stage)
        self.compiled = self.repays() if model.compile == "auto" else model.compile
        self.compiled &= epochs is not None  # a single pass repays no graph
        self.graph: Graph | None = None
        self.sampler = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self.history: list[Row] = []
        self.best = Best()

    def run(self, report: Callable[["Training"], None]) -> list[Row]:
        """Train to the last epoch, or until patience runs out; return the history."""
        keep_memory()
        with compiling() if self.compiled else nullcontext():
            while self.epoch < (self.epochs or 1) and not self.exhausted:
                self.run_epoch()
                report(self)
        self.end()
        return self.history

    def end(self) -> None:
        """Go back to the best weights, where they were sought, and tell of skipped updates."""
        if self.best.weights:
            self.net.load_state_dict(self.best.weights)
        if self.skipped:
            warnings.warn(
                f"{self.skipped} updates were skipped because their gradients were not finite; "
                f"lower learning_rate (now {self.model.learning_rate}) if there are many.",
                stacklevel=3,
            )

    def enter(self, epoch: int) -> None:
        """Be in the stage that an epoch is part of; a new one has optimizers that know nothing."""
        stage = [stage for stage in self.stages if stage.start <= epoch][-1]
        if stage is not self.stage:
            skipped = self.skipped
            self.stage, self.optimizers = stage, optimizers(self.model, stage)
            self.graph, self.clocks = None, clocks(stage)
            next(iter(self.optimizers.values())).skipped.fill_(skipped)

    def length(self, stage: Stage) -> int:
        """Return how many epochs a stage has."""
        later = [other.start for other in self.stages if other.start > stage.start]
        return min(later, default=self.epochs or 0) - stage.start

    def repays(self) -> bool:
        """Return whether a graph for each stage repays its making, by the plan."""
        uneven = self.source.trims and self.source.lengths is not None
        full = 0 if uneven else len(self.source) // self.model.batch_size
        return all(
            repays(self.length(stage) * full, len(list(stage.net.parameters())))
            for stage in self.stages
        )

    @property
    def skipped(self) -> int:
        """How many updates were skipped, in all stages."""
        return sum(int(optimizer.skipped) for optimizer in self.optimizers.values())

    def run_epoch(self) -> None:
        """Train on every sample once, validate, and write the history."""
        self.enter(self.epoch)
        start = time.perf_counter()
        row = self.train_epoch()
        row["seconds"] = time.perf_counter() - start
        if self.validation is not None:
            row |= {f"validation_{k}": v for k, v in self.validate(self.validation).items()}
        self.record(row)

    def record(self, row: Row) -> None:
        """Note an epoch that ended."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, **row})
        self.model.after_epoch()
        if self.model.patience is not None and self.stage is self.stages[-1]:
            self.best = self.best.against(row.get("validation_loss", row["loss"]), self)

    @property
    def exhausted(self) -> bool:
        """Whether the best epoch lies `patience` epochs back."""
        patience, best = self.model.patience, self.best.epoch
        return patience is not None and best > 0 and self.epoch - best >= patience

    def train_epoch(self) -> Row:
        """Make one pass over the source; return the mean of every term."""
        self.net.eval()
        self.stage.net.train()
        size, log = self.model.batch_size, Log(self)
        steps = self.source.steps(size)
        for i, batch in enumerate(self.source.batches(size, self.sampler)):
            self.advance(self.epoch * steps + i, steps)
            log.add(self.move(batch, i % max(1, steps // WATCHED) == 0), batch)
        first, *_ = self.optimizers.values()
        return log.means() | {"learning_rate": float(first.rate)}

    def advance(self, done: int, steps: int) -> None:
        """Write how far the stage is, and the learning rates that follow from it."""
        done -= self.stage.start * steps
        progress, factor = self.course(done, steps)
        for clock in self.clocks:
            clock.fill_(progress)
        for optimizer in self.optimizers.values():
            optimizer.rate.fill_(optimizer.base_rate * factor)
            if done % CLEARED == 0:
                optimizer.clear()

    def course(self, done: int, steps: int) -> tuple[float, float]:
        """Return how far the stage is, and the learning rate relative to the field.

        Args:
            done: steps of the stage that were made.
            steps: of an epoch.
        """
        if self.epochs is None:
            return 1.0, 1.0
        total, warmup = self.length(self.stage) * steps, self.model.warmup
        progress = done / total
        if progress >= warmup:
            past = (progress - warmup) / (1 - warmup)
            return progress, SCHEDULES[self.model.schedule](past)
        return progress, (done + 1) / (warmup * total + 1)

    def move(self, batch: Batch, watch: bool) -> Terms:
        """Make a step, in the stage's graph where the run is compiled and the batch is full."""
        full = (self.model.batch_size, *self.source.x.shape[1:])
        if not self.compiled or batch.x.shape != full:
            return self.step(batch, watch)
        try:
            self.graph = self.graph or Graph(self.step)
            return self.graph(batch)
        except GraphError as error:
            warnings.warn(
                f"The training of {type(self.model).__name__} goes on without compilation: "
                f"{error}. Set compile=False to try it no more.",
                stacklevel=2,
            )
            self.compiled, self.graph = False, None
            return self.step(batch, watch)

    def step(self, batch: Batch, watch: bool = True) -> Terms:
        """Let every player move on a batch; return the means of all terms, still on the device.

        `watch` adds the statistics, which cost another look at the batch.
        """
        logged: Terms = {}
        for move in self.moves(batch):
            loss, means = total(move, batch.weight)
            optimizer = self.optimizers[move.player]
            # Only this player's parameters: a loss that fools the critic never trains it.
            gradients = torch.autograd.grad(
                loss, optimizer.parameters, allow_unused=True, materialize_grads=True
            )
            optimizer.update(gradients)
            logged |= means
            if move.step is not None:
                if watch:
                    logged |= self.stage.net.statistics(move.step)
                self.stage.net.update(move.step)
        return logged

    @torch.no_grad()
    def validate(self, source: InMemory) -> Row:
        """Return the mean of every term on held-out samples, under the same noise every time."""
        self.stage.net.eval()
        self.stage.net.latent.train()  # codes are drawn: at the mean, the nll would be no bound
        log = Log(self)
        with torch.random.fork_rng(cuda_devices(self.device)):
            torch.manual_seed(self.seed)
            for batch in source.batches(max(self.model.batch_size, 1024)):
                terms: Terms = {}
                for move in self.moves(batch):
                    terms |= total(move, batch.weight)[1]
                    if move.step is not None:
                        terms |= self.stage.net.statistics(move.step)
                log.add(terms, batch)
        return log.means()

    def moves(self, batch: Batch) -> Iterator[Move]:
        """Yield the players' moves; the forward passes run in the model's precision."""
        moves = self.stage.losses(batch)
        if self.model.precision == "float32":
            yield from moves
            return
        while True:
            with torch.autocast(self.device.type, torch.bfloat16):
                move = next(moves, None)
            if move is None:
                return
            yield move

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run's state by name; `load` reads them back."""
        state = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        state |= {f"best.{k}": v for k, v in self.best.weights.items()}
        for player, optimizer in self.optimizers.items():
            state |= {f"{player}.{k}": v for k, v in optimizer.state().items()}
        state |= {"sampler": self.sampler.get_state(), "noise": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["noise_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def numbers(self) -> dict[str, Any]:
        """Return the rest of the state as JSON data."""
        best = [self.best.loss, self.best.epoch]
        return {"history": list(self.history), "best": best, "compiled": self.compiled}

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a copy of the state that `load` takes."""
        return {k: v.clone() for k, v in self.tensors().items()}, self.numbers()

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go back to a saved state, in place."""
        self.history, self.compiled = list(numbers["history"]), numbers["compiled"]
        self.epoch = len(self.history)
        self.enter(max(self.epoch - 1, 0))
        parts = {name: group(tensors, name) for name in ("net", "best", *self.optimizers)}
        self.net.load_state_dict(parts["net"])
        for name, optimizer in self.optimizers.items():
            for key, value in optimizer.state().items():
                value.copy_(parts[name][key])
        self.sampler.set_state(tensors["sampler"].cpu())
        torch.set_rng_state(tensors["noise"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["noise_cuda"].cpu(), self.device)
        loss, epoch = numbers["best"]
        self.best = Best(loss, epoch, parts["best"])


@dataclass(frozen=True)
class Best:
    """The best loss so far, its epoch, and the weights it had."""

    loss: float = float("inf")
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def against(self, loss: float, training: Training) -> "Best":
        """Return the better of this and the epoch that just ended."""
        if loss >= self.loss:
            return self
        weights = {k: v.clone() for k, v in training.net.state_dict().items()}
        return Best(loss, training.epoch, weights)


class Log:
    """Sums terms over an epoch without waiting for the device at every step."""

    every = 256

    def __init__(self, training: Training) -> None:
        self.training = training
        self.pending: dict[str, list[tuple[Tensor, int]]] = {}
        self.sums: dict[str, list[float]] = {}
        self.step = 0

    def add(self, terms: Terms, batch: Batch) -> None:
        """Note the terms of one batch."""
        count = len(batch)
        for name, value in terms.items():
            self.pending.setdefault(name, []).append((value, count))
        self.step += 1
        if self.step % self.every == 0:
            self.flush()

    def means(self) -> Row:
        """Return the mean of every term over the samples."""
        self.flush()
        return {name: value / count for name, (value, count) in self.sums.items()}

    def flush(self) -> None:
        """Bring what is pending to the host, and stop at a value that is not finite."""
        for name, pairs in self.pending.items():
            values = torch.stack([value for value, _ in pairs]).cpu().double()
            counts = torch.tensor([count for _, count in pairs], dtype=torch.float64)
            if not values.isfinite().all():
                first = int((~values.isfinite()).nonzero()[0])
                self.fail(name, float(values[first]), self.step - len(pairs) + first + 1)
            value, count = self.sums.get(name, [0.0, 0.0])
            self.sums[name] = [value + float(values @ counts), count + float(counts.sum())]
        self.pending.clear()

    def fail(self, name: str, value: float, step: int) -> NoReturn:
        """Say where the loss left the numbers."""
        training = self.training
        good = (
            f"epoch {training.epoch} was the last good one"
            if training.epoch
            else "no epoch was good"
        )
        raise TrainingError(
            f"The term '{name}' of {type(training.model).__name__} became {value} at step {step} "
            f"of epoch {training.epoch + 1}; {good}. Lower learning_rate (now "
            f"{training.model.learning_rate}), set gradient_clip, or look for extreme values in X."
        )


def clocks(stage: Stage) -> list[Tensor]:
    """Return the buffers of a stage's net that hold how far it is."""
    return [b for name, b in stage.net.named_buffers() if name.rpartition(".")[2] == "progress"]


def total(move: Move, weight: Tensor | None) -> tuple[Tensor, Terms]:
    """Return a move's loss, and the batch means of its terms (with "loss" for the autoencoder)."""
    means = {name: average(term, weight) for name, term in move.terms.items()}
    first, *others = means.values()
    loss = first if not others else torch.stack([first, *others]).sum()
    logged = {name: mean.detach() for name, mean in means.items()}
    return loss, logged | ({"loss": loss.detach()} if move.player == "autoencoder" else {})


def average(term: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over the batch; a statistic of the batch stays as it is.

    Weights have a mean of one over the source, so a batch of light samples counts for less.
    """
    if term.ndim == 0:
        return term
    return term.mean() if weight is None else (term * weight).mean()


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors below ``name.``."""
    return {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}
