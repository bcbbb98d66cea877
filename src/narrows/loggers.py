"""Loggers: callbacks that write every term of every epoch, for people and programs to read."""

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from narrows.callbacks import Callback
from narrows.errors import FileError, MissingExtraError
from narrows.storage import append, atomic_write

if TYPE_CHECKING:
    from narrows.log import Row
    from narrows.training import Training

__all__ = ["JSONL", "MLflow", "TensorBoard"]

BROKEN = -2
"""Lines in a file of which the last one may be in part."""


class JSONL(Callback):
    """Writes the history into a file, a line of JSON as each epoch ends.

    What the file held before is replaced. A run that was resumed is whole again: also the epochs
    before are in the file.

    Args:
        path: the file, in a folder that exists.

    Raises:
        FileError: when training starts, the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def start(self, training: "Training") -> None:
        """Write the epochs of before."""
        atomic_write(self.path, "".join(map(_line, training.history)))
        self.lines = len(training.history)

    def epoch(self, training: "Training", row: "Row") -> None:
        """Write a line, or all anew where training went back or a line could not be written."""
        try:
            if self.lines == len(training.history) - 1:
                append(self.path, _line(row))
                self.lines += 1
            else:
                self.start(training)
        except FileError as error:
            if self.lines >= 0:
                warnings.warn(f"{error} The next epoch writes all of them anew.", stacklevel=2)
            self.lines = BROKEN

    def finish(self, training: "Training", error: BaseException | None) -> None:
        """Write all anew where the last line could not be written."""
        if self.lines == BROKEN:
            self.start(training)


class TensorBoard(Callback):
    """Writes every term as a curve for TensorBoard: ``train/nll``, ``validation/nll``, ...

    ``tensorboard --logdir FOLDER`` shows them: of several runs in a folder, the last one. A run
    that was resumed is whole.

    Args:
        folder: where the events go; made if it is not there.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils import tensorboard
        except ImportError as error:
            raise MissingExtraError(
                "TensorBoard needs its own library: pip install 'narrows[track]'"
            ) from error
        self.folder, self.library = Path(folder), tensorboard

    def start(self, training: "Training") -> None:
        """Open the file of events."""
        self.open(1)
        self.writer.add_text("fields", json.dumps(training.model.fields(), indent=1))
        for row in training.history:
            self.epoch(training, row)

    def open(self, epoch: int) -> None:
        """Open a file of events, in which this epoch and later ones are written anew."""
        folder = str(self.folder)
        self.writer = self.library.SummaryWriter(folder, purge_step=epoch, flush_secs=5)
        self.next = epoch

    def epoch(self, training: "Training", row: "Row") -> None:
        """Write a point of every curve; where training went back, in the place of later ones."""
        if row["epoch"] < self.next:
            self.writer.close()
            self.open(int(row["epoch"]))
        self.next = int(row["epoch"]) + 1
        for name, value in _curves(row).items():
            part = "validation" if name.startswith("validation_") else "train"
            tag = f"{part}/{name.removeprefix('validation_')}"
            self.writer.add_scalar(tag, value, int(row["epoch"]))

    def finish(self, training: "Training", error: BaseException | None) -> None:
        """Close the file."""
        self.writer.close()


class MLflow(Callback):
    """Writes the fields as parameters and every term as a metric of an MLflow run.

    It is the active run where there is one, else a new one of the model's name, which ends with
    the training. Where it goes is MLflow's setting (``MLFLOW_TRACKING_URI``,
    ``mlflow.set_experiment``). MLflow's own telemetry is off unless you turn it on.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtraError(
                "MLflow needs its own library: pip install 'narrows[track]'"
            ) from error
        self.library, self.own = mlflow, False

    def start(self, training: "Training") -> None:
        """Open a run where none is active."""
        self.own = self.library.active_run() is None
        if self.own:
            self.library.start_run(run_name=type(training.model).__name__)
        self.library.log_params(training.model.fields())
        for row in training.history:
            self.epoch(training, row)

    def epoch(self, training: "Training", row: "Row") -> None:
        """Write a point of every metric."""
        self.library.log_metrics(_curves(row), step=int(row["epoch"]))

    def finish(self, training: "Training", error: BaseException | None) -> None:
        """End the run that `start` opened."""
        if self.own:
            stopped = "FAILED" if isinstance(error, Exception) else "KILLED"
            self.library.end_run("FINISHED" if error is None else stopped)


def _curves(row: "Row") -> "Row":
    """Return what a row has of each curve: all but its place on them."""
    return {name: value for name, value in row.items() if name != "epoch"}


def _line(row: "Row") -> str:
    return json.dumps(row) + "\n"
