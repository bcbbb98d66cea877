"""The loop of K models that train as one: every tensor of theirs has a first axis of K."""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.func import stack_module_state
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from narrows.compiled import Graph, GraphError, compiling, repays
from narrows.data.sources import Batch
from narrows.errors import NonFiniteError, TrainingError
from narrows.execution import WATCHED
from narrows.log import Row
from narrows.net import Terms
from narrows.optimizer import CLEARED
from narrows.recovery import APART
from narrows.runtime import cuda_devices, keep_memory
from narrows.together.draws import Found, Noise
from narrows.together.optimizer import StackedAdamW
from narrows.together.passes import Numbers, Pass, tensors
from narrows.together.stacks import StackedLog, StackedSource
from narrows.training import Training

__all__ = ["ApartError", "Joint"]

SAVED = 8
"""How many times as much a graph saves in a step of many models as in one of a single model."""
REASONS = {
    "data-dependent control flow": "a loss decides by a number",
    "random operation": "they draw random numbers that cannot be drawn for each",
    "FakeTensor": "they calculate with tensors that are neither in the net nor in the batch",
}
"""What it means where torch says so."""


class ApartError(Exception):
    """The models cannot be trained together, for the reason that is the message."""


class State(NamedTuple):
    """The tensors that a step reads and changes, ``(K, ...)`` each."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: StackedAdamW
    numbers: Numbers

    @property
    def net(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return self.parameters | self.buffers


class Joint:
    """Runs that differ in numbers and in data alone, as one.

    The step is traced once, as tensor operations on all models at once, in which the noise that
    each of them draws is an input. Each model's net shows its part of the joint tensors until it
    leaves.

    Args:
        runs: of one shape, before their first epoch.
        generators: of each run's noise, in the states in which the runs would start.
        numbers: fields that losses calculate with and in which the models differ, ``(K,)`` each.

    Attributes:
        errors: what ended a run before its time, or None, for each.
    """

    trace: GraphModule

    def __init__(
        self, runs: Sequence[Training], generators: Sequence[Generator], numbers: Numbers
    ) -> None:
        self.runs, self.generators, self.lead = runs, list(generators), runs[0]
        self.passes = [Pass(run) for run in runs]
        parameters, buffers = stack_module_state(self.passes)
        optimizers = [optimizer for run in runs for optimizer in run.optimizers.values()]
        self.state = State(parameters, buffers, StackedAdamW.of(optimizers), numbers)
        self.trained = [f"net.{name}" for name in optimizers[0].names]
        self.rates = [optimizer.base_rate for optimizer in optimizers]
        self.form = optimizers[0].betas, optimizers[0].eps, optimizers[0].decays
        self.clocks = [buffer for name, buffer in buffers.items() if name.endswith(".progress")]
        for k, one in enumerate(self.passes):
            for name, tensor in chain(one.named_parameters(), one.named_buffers()):
                tensor.data = self.state.net[name].detach()[k]
        self.source = StackedSource([run.source for run in runs])
        held = [run.validation for run in runs if run.validation is not None]
        self.held = StackedSource(held) if held else None
        self.noise: dict[int, tuple[Noise, Noise]] = {}
        self.quiet: list[Noise] = []
        self.size = min(self.lead.model.batch_size, self.source.size)
        self.compiled = self.repays()
        self.graph: Callable[[Batch], Terms] | None = None
        self.epoch, self.present = 0, list(range(len(runs)))
        self.looked = 0, [0.0] * len(runs)  # the epoch when skipped updates were counted
        self.errors: list[TrainingError | None] = [None] * len(runs)

    def repays(self) -> bool:
        """Return whether compilation repays its time, by the plan."""
        model, steps = self.lead.model, (self.lead.epochs or 0) * (self.source.size // self.size)
        if model.compile != "auto":
            return model.compile
        return repays(SAVED * steps, len(self.trained))

    # -- training ------------------------------------------------------------------------------

    def train(self, report: Callable[[Training], None]) -> None:
        """Train every run to its end.

        Raises:
            ApartError: they cannot be trained together; nothing has been trained.
        """
        keep_memory()
        compiler = compiling() if self.compiled else nullcontext()
        with warnings.catch_warnings(), compiler:
            warnings.filterwarnings("ignore", "There is a performance drop")  # of vmap: no fault
            self.check()
            while self.present:
                self.run_epoch()
                for k in list(self.present):
                    run = self.runs[k]
                    if self.errors[k] is None and k == self.present[0]:
                        report(run)
                    if self.errors[k] or run.exhausted or run.epoch == run.epochs:
                        self.leave(k)

    def run_epoch(self) -> None:
        """Train on every sample once, validate, and write the histories."""
        start = time.perf_counter()
        rows = self.train_epoch()
        seconds = (time.perf_counter() - start) / len(self.present)  # each model's share
        held: list[Row | TrainingError] = [{} for _ in rows]
        if self.held is not None:
            held = self.validate(self.held)
        for k in self.present:
            row, more = rows[k], held[k]
            if isinstance(row, TrainingError):
                self.errors[k] = row
            elif isinstance(more, TrainingError):
                self.errors[k] = more
            else:
                row |= {"learning_rate": float(self.state.optimizer.rate[k]), "seconds": seconds}
                row |= {f"validation_{name}": value for name, value in more.items()}
                self.runs[k].record(row)
        self.epoch += 1
        self.find_stuck()

    def find_stuck(self) -> None:
        """Give up models of which `APART` steps or more, and all of them, were skipped."""
        before, known = self.looked
        steps = (self.epoch - before) * self.lead.source.steps(self.lead.model.batch_size)
        if steps < APART:
            return
        skipped = self.state.optimizer.skipped.tolist()
        for k in self.present:
            if skipped[k] - known[k] >= steps:
                self.errors[k] = TrainingError("Every update was skipped.")
        self.looked = self.epoch, skipped

    def train_epoch(self) -> list[Row | TrainingError]:
        """Make one pass over the sources; return each run's means."""
        self.lead.net.train()
        for run in self.runs:
            run.schedule.see(run.losses)
        size, log = self.lead.model.batch_size, StackedLog(self.runs)
        steps = self.lead.source.steps(size)
        batches = self.source.batches(size, [run.sampler for run in self.runs])
        for i, batch in enumerate(batches):
            self.advance(self.epoch * steps + i, steps)
            log.add(self.move(batch, i % max(1, steps // WATCHED) == 0), batch)
        return log.means()

    def advance(self, done: int, steps: int) -> None:
        """Write how far training is, and each model's learning rate."""
        courses = [run.course(done, steps) for run in self.runs]
        for clock in self.clocks:
            clock.fill_(courses[0][0])
        rates = [rate * factor for rate, (_, factor) in zip(self.rates, courses, strict=True)]
        self.state.optimizer.rate.copy_(torch.tensor(rates))
        if done % CLEARED == 0:
            self.state.optimizer.clear()

    def move(self, batch: Batch, watch: bool) -> Terms:
        """Make a step on such noise as each model draws; a full batch has a graph."""
        for noise in self.draws(batch):
            noise.draw(self.generators)
        if batch.x.shape[1] != self.size or self.graph is None:
            return self.step(*self.inputs(batch), watch)
        with torch.no_grad():  # the graph has its own gradients
            try:
                return self.graph(batch)
            except GraphError as error:
                warnings.warn(
                    f"The training of {len(self.runs)} models goes on without compilation: "
                    f"{error}. Set compile=False to try it no more.",
                    stacklevel=2,
                )
                self.graph = self.traced
                return self.graph(batch)

    def inputs(self, batch: Batch) -> tuple[State, list[list[Tensor]], Terms]:
        """Return what a step on a batch reads."""
        return self.state, [noise.tensors for noise in self.draws(batch)], tensors(batch)

    def step(
        self, state: State, noise: list[list[Tensor]], batch: Terms, watch: bool = True
    ) -> Terms:
        """Let every model learn from its batch; return the means of their terms, ``(K,)`` each."""
        one = self.passes[0]
        terms: Terms
        loss, terms, kept = one.each("charge", state.net, noise[0], batch, state.numbers)
        parameters = [state.parameters[name] for name in self.trained]
        gradients = torch.autograd.grad(
            loss.sum(), parameters, allow_unused=True, materialize_grads=True
        )
        state.optimizer.update(parameters, gradients, *self.form)
        if kept:
            terms |= one.each("answer", state.net, noise[1], kept, change=True, watch=watch)
        return terms

    @torch.no_grad()
    def validate(self, held: StackedSource) -> list[Row | TrainingError]:
        """Return each run's means on its held-out samples, under the same noise every time."""
        self.lead.net.eval()
        self.lead.net.latent.train()  # as in a run alone
        one, state, log = self.passes[0], self.state, StackedLog(self.runs)
        device = self.lead.device
        generators = [Generator(device).manual_seed(run.seed) for run in self.runs]
        for i, batch in enumerate(held.batches(max(self.lead.model.batch_size, 1024))):
            if i == len(self.quiet):
                self.quiet.append(self.find(batch, change=False)[0])
                self.quiet[i].draw(generators)
            noise, seen = self.quiet[i].tensors, tensors(batch)
            _, terms, kept = one.each("charge", state.net, noise, seen, state.numbers)
            if kept:
                terms |= one.each("answer", state.net, [], kept, change=False, watch=True)
            log.add(terms, batch)
        return log.means()

    def leave(self, k: int) -> None:
        """Give a model its part of the joint tensors; what becomes of them is nothing to it."""
        self.present.remove(k)
        run = self.runs[k]
        for tensor in chain(run.net.parameters(), run.net.buffers()):
            tensor.data = tensor.data.clone()
        for optimizer in run.optimizers.values():
            optimizer.skipped.copy_(self.state.optimizer.skipped[k])
        try:
            run.recovery.check()
        except NonFiniteError as error:
            self.errors[k] = error

    # -- before training -----------------------------------------------------------------------

    def draws(self, batch: Batch) -> tuple[Noise, Noise]:
        """Return the draws of a step on such a batch: of the pass, and of what answers it."""
        size = batch.x.shape[1]
        if size not in self.noise:
            self.noise[size] = self.find(batch, change=True)
        return self.noise[size]

    @torch.no_grad()
    def find(self, batch: Batch, change: bool) -> tuple[Noise, Noise]:
        """Find the draws by a trial of the first model, which changes nothing."""
        one, (state, _, seen) = self.passes[0], self.part(0, [], batch)
        with torch.random.fork_rng(cuda_devices(self.lead.device)):
            with Found() as first:
                _, _, kept = one.alone("charge", state, [], seen, {})
            with Found() as second:
                if kept:
                    one.alone("answer", state, [], kept, change=change, watch=False)
        return Noise(first.draws, len(self.runs)), Noise(second.draws, len(self.runs))

    def part(self, k: int, noise: list[Tensor], batch: Batch) -> tuple[Terms, list[Tensor], Terms]:
        """Return what a model's own pass reads: copies of its tensors, noise, and its batch."""
        state = {name: tensor[k].clone() for name, tensor in self.state.net.items()}
        return state, noise, {name: tensor[k] for name, tensor in tensors(batch).items()}

    def check(self) -> None:
        """Trace the step; refuse models whose first one is not the one that each makes alone.

        Raises:
            ApartError: with what stands in the way.
        """
        batch = self.source.take(torch.arange(self.size).expand(len(self.runs), self.size))
        random = [generator.get_state() for generator in self.generators]
        for run in self.runs:
            run.net.train()
        alone, numbers = [], self.state.numbers
        try:
            state, *seen = self.inputs(batch)
            for drawn in self.draws(batch):
                drawn.draw(self.generators)
            for k, one in enumerate(self.passes):
                noise = [tensor[k] for tensor in self.draws(batch)[0].tensors]
                alone.append(one.alone("charge", *self.part(k, noise, batch), {})[1])
            full = lambda *inputs: self.step(*inputs)  # noqa: E731
            self.trace = make_fx(full, tracing_mode="fake")(state, *seen)
            with torch.no_grad():
                together = self.trace(tree_map(torch.clone, state), *seen)
        except Exception as error:
            differ = f" (they differ in {', '.join(numbers)})" if numbers else ""
            raise ApartError(reason(error) + differ) from error
        for name in alone[0]:
            each = torch.stack([terms[name] for terms in alone])
            if not torch.allclose(together[name], each, 1e-4, 1e-4, equal_nan=True):
                raise ApartError(f"the term '{name}' would not be what it is in a run alone")
        for generator, before in zip(self.generators, random, strict=True):
            generator.set_state(before)
        self.graph = Graph(self.traced, self.lead.device) if self.compiled else self.traced

    def traced(self, batch: Batch, watch: bool = True) -> Terms:
        """Make the step that was traced."""
        del watch  # it always does
        terms: Terms = self.trace(*self.inputs(batch))
        return terms


def reason(error: Exception) -> str:
    """Return what an error tells in a few words."""
    text = str(error).strip().partition("\n")[0]
    known = [meaning for words, meaning in REASONS.items() if words in text]
    return known[0] if known else text.partition(". ")[0].rstrip(".") or type(error).__name__
