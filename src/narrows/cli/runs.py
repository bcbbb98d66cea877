"""The run folder: claimed before training, filled once it is over, read back later."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrows.cli.flags import UsageError
from narrows.errors import FileError, ModelFileError

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder
    from narrows.callbacks import Callback
    from narrows.data.files import Dataset
    from narrows.evaluation import Evaluation, LinkEvaluation

__all__ = [
    "CHECKPOINTS",
    "SETTINGS",
    "check_writable",
    "claim",
    "complete",
    "loggers",
    "rank",
    "read_summary",
    "summarise",
    "write_model",
    "write_results",
]

CHECKPOINTS = "checkpoints"
PREVIOUS = "checkpoints.previous"
SETTINGS = "run.toml"
HISTORY = "history.jsonl"
PREVIOUS_HISTORY = "history.previous.jsonl"
LOGS = ("tensorboard", "mlflow")
SUMMARY = "metrics.json"


def rank() -> int | None:
    """Return the number of this process among those that torchrun started; None without it."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


@contextmanager
def claim(place: Path, *, resume: bool, force: bool) -> Iterator[None]:
    """Hold the folder of a run for this process; an earlier run there stays until `write_model`.

    Raises:
        UsageError: the folder holds something and may not be used, or cannot be written.
    """
    checkpoints, previous = place / CHECKPOINTS, place / PREVIOUS
    _check_place(place, resume, force)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {place} cannot be made: {error.strerror}.") from error
    check_writable(place)
    with _alone(place):
        if checkpoints.exists() and not resume:
            shutil.rmtree(previous, ignore_errors=True)
            checkpoints.rename(previous)
        try:
            with _new_history(place, resume):
                yield
        finally:
            if not any(checkpoints.glob("epoch-*")):  # nothing came of it
                shutil.rmtree(checkpoints, ignore_errors=True)
                if previous.exists():
                    previous.rename(checkpoints)
            with suppress(OSError):
                place.rmdir()  # if it is empty


def _check_place(place: Path, resume: bool, force: bool) -> None:
    """Refuse a folder that another run or something else occupies."""
    checkpoints, model = place / CHECKPOINTS, place / "model"
    kept = [path.name for path in checkpoints.glob("[!.]*") if path.name != SETTINGS]
    if resume and not (checkpoints / SETTINGS).exists():
        raise UsageError(f"There is nothing to resume in {place}.")
    if resume or not os.path.exists(place) or (place.is_dir() and not any(place.iterdir())):
        return
    if not force:
        unfinished = checkpoints.exists() and not (place / SUMMARY).exists()
        hint = f"go on with 'narrows resume {place}', " if unfinished else ""
        raise UsageError(f"{place} exists already: {hint}name another --out, or use --force.")
    foreign = [checkpoints / name for name in kept if not name.startswith("epoch-")]
    if model.exists() and not (model / "manifest.json").exists():
        foreign.append(model)
    if foreign:
        raise UsageError(f"{foreign[0]} is not from narrows and stays: name another --out.")


def check_writable(folder: Path) -> None:
    """Find out whether a folder can be written, before there is anything to lose.

    Raises:
        UsageError: it cannot.
    """
    try:
        os.rmdir(tempfile.mkdtemp(dir=folder, prefix=".narrows-"))
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be written: {error.strerror}.") from error


@contextmanager
def _new_history(place: Path, resume: bool) -> Iterator[None]:
    """Set the history of an earlier run aside; put it back if the new one comes to nothing."""
    history, previous = place / HISTORY, place / PREVIOUS_HISTORY
    if history.exists() and not resume:
        history.rename(previous)
    try:
        yield
    finally:
        if previous.exists() and not any((place / CHECKPOINTS).glob("epoch-*")):
            previous.rename(history)
        if history.exists() and not history.stat().st_size:
            history.unlink()


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Lock a folder.

    Raises:
        UsageError: another run holds it.
    """
    from narrows.storage import locked

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(place))
        except FileError as error:
            raise UsageError(f"Another run is writing to {place}: name another --out.") from error
        yield


def complete(place: Path) -> bool:
    """Tell whether the run in a folder has come to its end."""
    return (place / SUMMARY).exists() and not (place / CHECKPOINTS).exists()


def loggers(place: Path, log: str | None) -> "list[Callback]":
    """Return what writes down how a run goes: history.jsonl, and the logger of this name.

    Raises:
        UsageError: there is no such logger.
        MissingExtraError: its library is not installed.
    """
    if log not in (None, *LOGS):
        raise UsageError(f"--log takes {' or '.join(LOGS)}. Got '{log}' instead.")
    from narrows.loggers import JSONL, MLflow, TensorBoard

    made: list[Callback] = [JSONL(place / HISTORY)]
    if log is not None:
        made.append(MLflow() if log == "mlflow" else TensorBoard(place / log))
    return made


def summarise(
    model: "BaseAutoencoder",
    dataset: "Dataset",
    evaluation: "Evaluation | LinkEvaluation",
    seconds: float,
) -> dict[str, Any]:
    """Return what is worth knowing of a run, as JSON data."""
    from narrows.storage import versions

    return {
        "model": type(model).__name__,
        "data": f"{dataset.name}: {dataset.describe()}",
        "train": evaluation.train,
        "test": evaluation.test,
        "held_out": evaluation.held_out,
        "metrics": {
            name: {key: value if isfinite(value) else None for key, value in values.items()}
            for name, values in evaluation.metrics.items()
        },
        "health": [asdict(finding) for finding in model.diagnose().findings],
        "epochs": model.n_iter_,
        "seconds": round(seconds, 3),
        "versions": versions(),
    }


def write_model(place: Path, model: "BaseAutoencoder") -> None:
    """Write what training gave, at once: an evaluation may still fail."""
    model.save(place / "model", overwrite=True)
    shutil.rmtree(place / PREVIOUS, ignore_errors=True)
    (place / PREVIOUS_HISTORY).unlink(missing_ok=True)


def write_results(place: Path, texts: Mapping[str, str], summary: dict[str, Any]) -> None:
    """Write the rest, with the summary last, which says that all is there; drop checkpoints."""
    from narrows.storage import atomic_write

    for name, text in texts.items():  # a file's name need not be UTF-8
        atomic_write(place / name, text.encode("utf-8", "backslashreplace"))
    atomic_write(place / SUMMARY, json.dumps(summary, indent=1) + "\n")
    (place / CHECKPOINTS).rename(place / PREVIOUS)  # at once, whatever happens
    shutil.rmtree(place / PREVIOUS, ignore_errors=True)


def read_summary(run: Path) -> dict[str, Any] | None:
    """Return the summary of a run, or None beside a model that no run made.

    Raises:
        ModelFileError: it is damaged.
    """
    path = run / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or cannot be read: {error}.") from error
    return summary
