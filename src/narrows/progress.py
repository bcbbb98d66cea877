"""What training shows while it runs: a bar on a terminal, lines elsewhere, or nothing."""

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from narrows.training import Training

__all__ = ["Display"]


class Display:
    """A context that is called after every epoch.

    Args:
        title: name of the model.
        total: number of epochs.
        verbose: 0 is silent, 1 shows a bar on a terminal, 2 a line an epoch anywhere.
    """

    def __init__(self, title: str, total: int | None, verbose: int) -> None:
        self.lines = verbose == 2
        console = Console(file=sys.stderr)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[terms]}"),
            TimeRemainingColumn(),
            console=console,
            disable=verbose != 1 or not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(title, total=total, terms="")

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, training: "Training") -> None:
        """Show the epoch that just ended."""
        row = training.history[-1]
        rate = len(training.source) / row["seconds"]
        hidden = {"epoch", "seconds", "learning_rate"}
        shown = [k for k in row if k not in hidden and k.partition("_")[0] != "validation"]
        terms = "  ".join(f"{k} {row[k]:.4g}" for k in [*shown, "validation_loss"] if k in row)
        text = f"{terms}  {rate:,.0f} samples/s"
        self.bar.update(self.task, completed=training.epoch, terms=text)
        if self.lines:
            sys.stderr.write(f"epoch {training.epoch}/{training.epochs}  {text}\n")
