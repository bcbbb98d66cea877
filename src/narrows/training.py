"""The one loop: every player's loss, gradient, clipping and update, epoch by epoch."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from narrows.accumulation import Turn, joined, together
from narrows.compiled import compiling
from narrows.data.sources import Batch, InMemory
from narrows.distributed import Processes
from narrows.errors import NonFiniteError
from narrows.execution import Execution
from narrows.log import Log, Row
from narrows.net import Move, Net, Stage, Terms
from narrows.optimizer import CLEARED, AdamW, optimizers
from narrows.plan import begin_plan, check_shared
from narrows.recovery import Recovery, State
from narrows.runtime import cuda_devices, keep_memory, seed_noise
from narrows.schedules import schedule_of
from narrows.stopping import RULES, Best, losses_of
from narrows.terms import merged, total

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["Stopped", "Training"]

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of forward passes that take half of the memory."""
GENTLE = 100
"""Steps over which the learning rate rises where there is no end: a fitted net may be behind."""


class Stopped(BaseException):
    """Training was asked to stop: it did, between two steps, and can go on from there."""


class Training:
    """One run: its whole state, and the loop that advances it.

    Args:
        model: the estimator, with its `net_` built; its fields are the plan.
        source: training samples.
        validation: held-out samples, or None.
        epochs: passes over the source; None where there is no end, as in `partial_fit`: the
            learning rate rises to a constant, and schedules stand at their end.
        seed: seeds the order of the samples and the noise of the validation.
        processes: those that train together; None trains alone.
    """

    def __init__(
        self,
        model: "BaseAutoencoder",
        source: InMemory,
        validation: InMemory | None,
        epochs: int | None,
        seed: int,
        processes: Processes | None = None,
    ) -> None:
        begin_plan(model, source)
        self.model, self.net = model, model.net_
        self.source, self.validation = source, validation
        self.epochs, self.seed = epochs, seed
        self.device = source.x.device
        self.processes = processes or Processes(self.device)
        if self.processes.strategy is not None:
            check_shared(model, self.processes.strategy)
        self.processes.spread(self.net)
        self.stages = model.stages(epochs)
        self.stage = self.stages[0]
        self.optimizers, self.clocks = self.players(), clocks(self.stage)
        self.schedule = schedule_of(model)
        self.execution = Execution(self)
        self.sampler = torch.Generator().manual_seed(seed)
        self.epoch = self.position = 0  # epochs that are done, and steps of the one under way
        self.before = 0  # steps of the epochs that are done, where there is no end of them
        self.order, self.started = self.sampler.get_state(), time.perf_counter()
        self.log = Log(self)
        self.history: list[Row] = []
        self.best = Best()
        self.recovery = Recovery(self)
        self.stopping = self.ending = False
        self.after_step: list[Callable[[Terms], None]] = []

    def run(self, report: Callable[["Training"], None]) -> list[Row]:
        """Train to the last epoch, or until patience runs out; return the history.

        Where a loss or a weight is not finite, it goes back to the last good state, and on from
        there at half the learning rate, a few times.

        Args:
            report: called after every epoch.

        Raises:
            NonFiniteError: that did not help, or there is no good state.
            Stopped: `stop` was called; to call `run` again goes on.
        """
        keep_memory()
        several = self.execution.unrolled > 1
        with compiling(several) if self.execution.compiled else nullcontext():
            while not self.over:
                try:
                    self.run_epoch()
                    self.agree()
                    self.recovery.keep()
                    report(self)
                    self.agree()
                except NonFiniteError as error:
                    self.recovery.go_back(error)
        self.end()
        return self.history

    def end(self) -> None:
        """Go back to the best weights, where they were sought, and tell of skipped updates."""
        if self.best.weights:
            self.net.load_state_dict(self.best.weights)
        else:
            self.exchange()
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
            self.exchange()
            self.stage = stage
            self.optimizers, self.clocks = self.players(), clocks(stage)
            self.execution.graph = None
            next(iter(self.optimizers.values())).skipped.fill_(skipped)
            self.recovery.slow_down(self.recovery.retries, 0)

    def players(self) -> dict[str, AdamW]:
        """Return an optimizer for each player of the stage."""
        return optimizers(self.model, self.stage, self.processes.adamw)

    def length(self, stage: Stage) -> int:
        """Return how many epochs a stage has."""
        later = [other.start for other in self.stages if other.start > stage.start]
        return min(later, default=self.epochs or 0) - stage.start

    @property
    def skipped(self) -> int:
        """How many updates were skipped, in all stages."""
        return sum(int(optimizer.skipped) for optimizer in self.optimizers.values())

    def run_epoch(self) -> None:
        """Train on every sample once, or on those that are left; validate; write the history."""
        self.enter(self.epoch)
        if not self.position:
            self.order, self.started = self.sampler.get_state(), time.perf_counter()
            self.log = Log(self)
        row = self.train_epoch()
        row["seconds"] = time.perf_counter() - self.started
        self.processes.align(self.net)
        with self.averaged():
            if self.validation is not None:
                row |= {f"validation_{k}": v for k, v in self.validate(self.validation).items()}
            self.record(self.processes.alike(row))

    def record(self, row: Row) -> None:
        """Note an epoch that ended."""
        self.epoch, self.position = self.epoch + 1, 0
        self.history.append({"epoch": self.epoch, **row})
        self.model.after_epoch()
        if self.model.patience is not None and self.stage is self.stages[-1]:
            self.best = self.best.against(self.losses[-1], self.epoch, self.net)

    @property
    def losses(self) -> list[float]:
        """What the epochs of this stage are compared by; none where its layers learn alone."""
        return losses_of(self.history[self.stage.start :])

    @property
    def kept(self) -> int:
        """The epoch whose weights `end` leaves; what has no end keeps the last ones."""
        return (self.epochs and self.best.epoch) or self.epoch

    @property
    def over(self) -> bool:
        """Whether there is no further epoch."""
        return self.epoch >= (self.epochs or 1) or self.exhausted

    @property
    def place(self) -> dict[str, int]:
        """Where the run is."""
        return {"epoch": self.epoch, "step": self.position}

    def agree(self) -> None:
        """Let all processes know whether the first one was asked for the end."""
        self.ending = bool(self.processes.alike({"ending": self.ending})["ending"])

    def end_after_epoch(self) -> None:
        """Let the epoch that runs, or the one that just ended, be the last."""
        self.ending = True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out, in the last stage, or someone asked for the end."""
        if self.ending and self.epoch:
            return True
        ends, patience = self.stage is self.stages[-1], self.model.patience
        return ends and patience is not None and RULES[self.model.stopping](self.losses, patience)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the weights be their averages for a while, where `ema` keeps some."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """Let weights and their averages change places."""
        for optimizer in self.optimizers.values():
            optimizer.exchange()

    def train_epoch(self) -> Row:
        """Make one pass over the source, or the rest of one; return the mean of every term."""
        self.net.eval()
        self.stage.net.train()
        self.schedule.see(self.losses)
        self.sampler.set_state(self.order)
        orders = list(self.source.orders(self.model.batch_size, self.sampler))
        while self.position < len(orders):
            group = orders[self.position : self.position + self.execution.at_once]
            made = self.execution.move(group, len(orders))
            self.position += len(group)
            for rows, terms in zip(group, made, strict=True):
                self.log.add(terms, rows)
            for look, terms in product(self.after_step, made):
                look(terms)
            self.may_go_on()
        first, *_ = self.optimizers.values()
        return self.log.means() | {"learning_rate": float(first.rate)}

    def stop(self) -> None:
        """Stop after the step under way, or the batch of the validation."""
        self.stopping = True

    def may_go_on(self) -> None:
        """Stop here if that was asked for."""
        if self.stopping:
            raise Stopped

    def advance(self, done: int, steps: int) -> None:
        """Write how far the stage is, and the learning rates that follow from it."""
        self.turn_to(*self.dials(done, steps))
        self.clear(done, 1)

    def turn_to(self, progress: float | Tensor, *rates: float | Tensor) -> None:
        """Write how far the stage is, and each player's learning rate."""
        self.set_clocks(progress)
        for optimizer, rate in zip(self.optimizers.values(), rates, strict=True):
            optimizer.rate.fill_(rate)

    def set_clocks(self, progress: float | Tensor) -> None:
        """Write how far the stage is."""
        for clock in self.clocks:
            clock.fill_(progress)

    def clear(self, done: int, steps: int) -> None:
        """Clear what faded from the optimizers' moments, where that is due within some steps."""
        if -done % CLEARED < steps:
            for optimizer in self.optimizers.values():
                optimizer.clear()

    def dials(self, done: int, steps: int) -> list[float]:
        """Return how far the stage is, and each player's learning rate.

        Args:
            done: steps that were made.
            steps: of an epoch.
        """
        progress, factor = self.course(done - self.stage.start * steps, steps)
        return [progress, *(each.base_rate * factor for each in self.optimizers.values())]

    def course(self, done: int, steps: int) -> tuple[float, float]:
        """Return how far the stage is, and the learning rate relative to the field.

        Args:
            done: steps of the stage that were made.
            steps: of an epoch.
        """
        if self.epochs is None:
            return 1.0, min(1.0, (self.before + done - self.epoch * steps + 1) / GENTLE)
        total = self.length(self.stage) * steps
        return done / total, self.schedule(done, total)

    def step(self, batch: Batch, watch: bool = True) -> Terms:
        """Let every player move on a batch; return the means of all terms, still on the device.

        `watch` adds the statistics, which cost another look at the batch.
        """
        logged: Terms = {}
        for turn in self.turns(batch):
            self.optimizers[turn.player].update(self.processes.average(turn.gradients))
            logged = merged(logged, turn.means)
            if turn.steps:
                step = joined(turn.steps)
                if watch:
                    logged |= self.stage.net.statistics(step)
                self.stage.net.update(step)
        return logged

    def turns(self, batch: Batch) -> Iterator[Turn]:
        """Return the players' turns, each to be acted on before the next is asked for."""
        if self.model.accumulation > 1:
            return together(batch.split(self.model.accumulation), self.moves, self.turn)
        return (self.turn(move, batch) for move in self.moves(batch))

    def turn(self, move: Move, batch: Batch) -> Turn:
        """Return a move on a batch, or on a part of it, with its gradient."""
        loss, means = total(move, batch.weight)
        optimizer = self.optimizers[move.player]
        gradients = self.processes.gradients(optimizer.scaled(loss), optimizer)
        return Turn(move.player, gradients, means, [] if move.step is None else [move.step])

    @torch.no_grad()
    def validate(self, source: InMemory) -> Row:
        """Return the mean of every term on held-out samples, under the same noise every time."""
        self.stage.net.eval()
        self.stage.net.latent.train()  # codes are drawn: at the mean, the nll would be no bound
        log = Log(self)
        with torch.random.fork_rng(cuda_devices(self.device)):
            seed_noise(self.seed, self.device)
            for batch in source.batches(max(self.model.batch_size, 1024)):
                terms: Terms = {}
                for move in self.moves(batch):
                    terms = merged(terms, total(move, batch.weight)[1])
                    if move.step is not None:
                        terms |= self.stage.net.statistics(move.step)
                log.add(terms, batch)
                self.may_go_on()
        return log.means()

    def moves(self, batch: Batch) -> Iterator[Move]:
        """Yield the players' moves; the forward passes run in the model's precision."""
        moves = map(self.processes.complete, self.stage.losses(batch))
        if (half := HALF.get(self.model.precision)) is None:
            yield from moves
            return
        while True:
            with torch.autocast(self.device.type, half):
                move = next(moves, None)
            if move is None:
                return
            yield move

    @property
    def nets(self) -> dict[str, Net]:
        """By the first part of a tensor's name in the state: the net that it belongs to."""
        players = {player: stage.net for stage in self.stages for player in stage.players}
        return {"net": self.net, "best": self.net} | players

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run's state by name; `load` reads them back."""
        state = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        state |= {f"best.{k}": v for k, v in self.best.weights.items()}
        for player, optimizer in self.optimizers.items():
            state |= {f"{player}.{k}": v for k, v in optimizer.state().items()}
        order = self.order if self.position else self.sampler.get_state()
        state |= {"sampler": order, "noise": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["noise_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def numbers(self) -> dict[str, Any]:
        """Return the rest of the state as JSON data."""
        state = {
            "history": list(self.history),
            "best": [self.best.loss, self.best.epoch],
            "compiled": self.execution.compiled,
            "skipped": self.skipped,
            "retries": self.recovery.retries,
        }
        if self.position:
            state |= {"log": self.log.state(), "seconds": time.perf_counter() - self.started}
        return state

    def snapshot(self) -> State:
        """Return a copy of the state that `load` takes, in the host's memory."""
        return {k: v.to("cpu", copy=True) for k, v in self.tensors().items()}, self.numbers()

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go back to a saved state, in place."""
        self.history, self.execution.compiled = list(numbers["history"]), numbers["compiled"]
        self.epoch = len(self.history)
        log = numbers.get("log", {"step": 0})
        self.position, self.log = log["step"], Log(self, **log)
        self.started = time.perf_counter() - numbers.get("seconds", 0.0)
        self.enter(self.epoch if self.position else max(self.epoch - 1, 0))
        self.recovery.slow_down(numbers["retries"], self.recovery.retries)
        parts = {name: group(tensors, name) for name in ("net", "best", *self.optimizers)}
        self.net.load_state_dict(parts["net"])
        for name, optimizer in self.optimizers.items():
            for key, value in optimizer.state().items():
                value.copy_(parts[name].get(key, value))  # partial_fit may have got an ema since
        if self.position:  # what comes next may be the validation, which makes no step
            steps = self.source.steps(self.model.batch_size)
            done = (self.epoch - self.stage.start) * steps + self.position - 1
            self.set_clocks(self.course(done, steps)[0])
        self.order = tensors["sampler"].cpu()
        self.sampler.set_state(self.order)
        torch.set_rng_state(tensors["noise"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["noise_cuda"].cpu(), self.device)
        self.before = int(next(iter(self.optimizers.values())).count)
        loss, epoch = numbers["best"]
        self.best = Best(loss, epoch, parts["best"])


def clocks(stage: Stage) -> list[Tensor]:
    """Return the buffers of a stage's net that hold how far it is."""
    return [b for name, b in stage.net.named_buffers() if name.rpartition(".")[2] == "progress"]


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors below ``name.``."""
    return {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}
