"""What training shows while it runs: a bar that is drawn in place, a line an epoch, or nothing."""

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from io import StringIO
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from narrows.callbacks import Callback
from narrows.net import Terms

if TYPE_CHECKING:
    from narrows.log import Row
    from narrows.training import Training

__all__ = ["Bar", "Cell", "Lines", "displays"]

HIDDEN = {"epoch", "seconds", "learning_rate"}
PAUSE = 0.2
"""Seconds between two drawings of a bar, at least."""


def displays(verbose: int) -> list[Callback]:
    """Return what shows a run: a line an epoch anywhere if `verbose` is 2, nothing if it is 0.

    If it is 1, a bar where one can be drawn in place: on a terminal or in a notebook.
    """
    if verbose != 1:
        return [Lines()] if verbose == 2 else []
    console = Console(file=sys.stderr)
    if console.is_jupyter:
        return [Cell()]
    # rich takes FORCE_COLOR for a terminal; a log in colours is none.
    return [Bar(console)] if console.is_interactive and sys.stderr.isatty() else []


class Lines(Callback):
    """Writes a line an epoch to stderr: every term, samples a second, time left."""

    def start(self, training: "Training") -> None:
        """Look at the clock."""
        self.clock = perf_counter()

    def epoch(self, training: "Training", row: "Row") -> None:
        """Write a line; the epochs to come take as long as this one did."""
        before, self.clock = self.clock, perf_counter()
        rate = len(training.source) / row["seconds"]
        text = f"epoch {training.epoch}/{training.epochs}  {_terms(row)}  {rate:,.0f} samples/s"
        left = (self.clock - before) * ((training.epochs or 0) - training.epoch)
        if left:
            text += f"  {timedelta(seconds=round(left))} left"
        sys.stderr.write(text + "\n")


class Bar(Callback):
    """Draws a bar on a terminal, and takes it away in the end.

    Below it are the terms of the epoch before; in the first epoch, those of a batch.

    Args:
        console: where it is drawn.
        live: whether the console draws it over and over by itself.
    """

    def __init__(self, console: Console, live: bool = True) -> None:
        self.bar = _Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[epoch]}/{task.total}"),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not live,
            refresh_per_second=5,
            transient=True,
        )

    def start(self, training: "Training") -> None:
        """Draw it where training begins."""
        self.drawn = perf_counter()
        self.steps = training.source.steps(training.model.batch_size)
        self.task = self.bar.add_task(
            type(training.model).__name__,
            total=training.epochs,
            completed=training.epoch,
            epoch=training.epoch,
            samples=len(training.source),
        )
        self.bar.start()

    def step(self, training: "Training", terms: Terms) -> None:
        """Move it on within the epoch, a few times a second."""
        if perf_counter() - self.drawn >= PAUSE:
            first = {} if training.history else {k: float(v) for k, v in terms.items()}
            self.draw(training, first)

    def epoch(self, training: "Training", row: "Row") -> None:
        """Move it on to the next epoch."""
        if perf_counter() - self.drawn >= PAUSE:
            self.draw(training, row)

    def finish(self, training: "Training", error: BaseException | None) -> None:
        """Take it away."""
        self.bar.stop()

    def draw(self, training: "Training", row: "Row") -> None:
        """Show how far training is, and these terms."""
        self.drawn = perf_counter()
        self.bar.terms = Text(_terms(row)) if row else self.bar.terms
        done = training.epoch + training.position / self.steps
        self.bar.update(self.task, completed=done, epoch=training.epoch)


class Cell(Bar):
    """The same bar in a notebook: one output, replaced a few times a second, which stays."""

    def __init__(self) -> None:
        plain = Console(file=StringIO(), width=100, color_system=None, force_jupyter=False)
        super().__init__(plain, live=False)

    def start(self, training: "Training") -> None:
        """Make the output."""
        from IPython.display import display

        super().start(training)
        self.handle = display(self.picture(), raw=True, display_id=True)

    def draw(self, training: "Training", row: "Row") -> None:
        """Replace the output."""
        super().draw(training, row)
        self.handle.update(self.picture(), raw=True)

    def finish(self, training: "Training", error: BaseException | None) -> None:
        """Leave the last state."""
        self.draw(training, training.history[-1] if training.history else {})

    def picture(self) -> dict[str, str]:
        """Return the output: rich's own would need a widget, and a warning where there is none."""
        with self.bar.console.capture() as capture:
            self.bar.console.print(self.bar.get_renderable())
        return {"text/plain": capture.get()}


class _Bar(Progress):
    """A bar with the terms below it, where they have a line of their own."""

    terms = Text()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self.terms


class _Rate(ProgressColumn):
    """Samples a second, of late."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * task.fields['samples']:,.0f} samples/s" if task.speed else "")


def _terms(row: Mapping[str, float]) -> str:
    """Return every term by name; of the held-out ones the loss alone."""
    shown = [k for k in row if k not in HIDDEN and not k.startswith("validation_")]
    return "  ".join(f"{k} {row[k]:.4g}" for k in [*shown, "validation_loss"] if k in row)
