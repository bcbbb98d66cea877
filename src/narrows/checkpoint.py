"""Resume exactly where training stopped: its whole state, at the end of every epoch."""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from narrows.errors import FileError, ModelFileError
from narrows.storage import pack, unpack, write_folder
from narrows.training import Training

__all__ = ["KEPT", "begin", "resume", "save"]

KEPT = 3
"""How many checkpoints stay in the folder."""
FILES = ("state.json", "state.safetensors")
FREE = {"verbose"}
"""Fields that may change between a run and its resumption."""


def begin(folder: Path, training: Training, resume_run: bool) -> None:
    """Make the folder ready for a run before it starts, or go back to where a run stopped.

    Raises:
        FileError: it cannot be written, or holds another run that shall not be resumed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").mkdir(exist_ok=True)
        (folder / ".probe").rmdir()
    except OSError as error:
        raise FileError(f"Cannot make the folder {folder}: {error.strerror or error}.") from error
    if resume_run:
        resume(folder, training)
    elif _checkpoints(folder):
        raise FileError(
            f"{folder} holds the checkpoints of a run. Go on from them with resume=True, or "
            "choose another folder."
        )


def save(folder: Path, training: Training) -> None:
    """Write the state after an epoch as ``epoch-000012`` and drop all but the newest few.

    Raises:
        FileError: it cannot be written; earlier checkpoints are untouched.
    """
    state = {"identity": identity(training), **training.numbers()}
    path = folder / f"epoch-{training.epoch:06d}"
    write_folder(path, pack(state, training.tensors(), FILES), overwrite=True)
    for old in _checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def resume(folder: Path, training: Training) -> int:
    """Load the newest sound checkpoint into `training`; return its epoch, 0 where there is none.

    Raises:
        ModelFileError: every checkpoint is damaged.
        FileError: the checkpoint is of other fields or other data; it names them.
    """
    found = _checkpoints(folder)
    for path in reversed(found):
        try:
            state, tensors = unpack(path, FILES)
        except ModelFileError as error:
            warnings.warn(f"{error} Going back to the checkpoint before it.", stacklevel=2)
            continue
        _compare(path, state["identity"], identity(training))
        training.load(tensors, state)
        return training.epoch
    if found:
        raise ModelFileError(
            f"All {len(found)} checkpoints in {folder} are damaged. Remove the folder to start "
            "anew."
        )
    return 0


def identity(training: Training) -> dict[str, Any]:
    """Return what must be equal for a resumption to be exact: class, fields and data."""
    sources = [source for source in (training.source, training.validation) if source is not None]
    sums = [
        hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()
        for source in sources
        for tensor in source.tensors().values()
    ]
    model = training.model
    fields = {k: v for k, v in model.fields().items() if k not in FREE}
    known = {"class": type(model).__name__, **fields, "data": sums}
    return dict(json.loads(json.dumps(known)))  # as it comes back from a file


def _compare(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [k for k in {**saved, **now} if saved.get(k) != now.get(k)]
    if differing:
        shown = ", ".join(
            "the data" if k == "data" else f"{k} ({saved.get(k)!r} there, {now.get(k)!r} here)"
            for k in differing
        )
        raise FileError(
            f"{path} cannot be resumed: it differs in {shown}. Set them back, or start "
            "anew in another folder."
        )


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("epoch-*") if path.is_dir())
