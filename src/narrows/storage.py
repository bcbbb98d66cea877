"""Files that are whole or absent, and the model folder, in which nothing is ever unpickled."""

import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpack_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

from narrows.errors import FileError, ModelFileError, nearest

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = [
    "FORMAT",
    "MANIFEST",
    "append",
    "atomic_write",
    "begin_folder",
    "check_folder",
    "end_folder",
    "load_model",
    "locked",
    "pack",
    "read_folder",
    "read_json",
    "recover",
    "save_model",
    "unfinished",
    "unpack",
    "versions",
    "write_folder",
    "write_part",
]

FORMAT = 1
"""Version of the folder's layout; a newer one is refused."""
MANIFEST = "manifest.json"

Path_ = str | os.PathLike[str]


def atomic_write(path: Path_, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write a file so that, whatever happens, the old or the new content is there, whole.

    A temporary file beside the target is written, synced and renamed over it; then the folder is
    synced.

    Args:
        path: the file.
        content: what it shall hold, or a function that writes this into the open file piece by
            piece; what that raises leaves no trace.

    Raises:
        FileError: the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, FileError) or not isinstance(error, OSError):
            raise
        size = "" if callable(data) else f" ({len(data):,} bytes)"
        raise FileError(
            f"Cannot write {path}{size}: {error.strerror or error}. Free space, "
            "mend the permissions or choose another place; nothing that existed was changed."
        ) from error


def append(path: Path_, line: str) -> None:
    """Add a line to a file, which a killed process leaves whole; only a power cut may cut it.

    Raises:
        FileError: it cannot be written.
    """
    try:
        with Path(path).open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise FileError(f"Cannot write to {path}: {error.strerror or error}.") from error


def write_folder(path: Path_, files: Mapping[str, bytes | str], overwrite: bool = False) -> None:
    """Write a folder of files with a manifest of their SHA-256 sums, whole or not at all.

    Raises:
        FileError: the folder exists and `overwrite` is off, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists already. Choose another name, or overwrite=True.")
    with unfinished(path):
        begin_folder(path)
        end_folder(path, {name: write_part(path, name, data) for name, data in files.items()})


def begin_folder(path: Path) -> None:
    """Begin to write a folder, which is elsewhere until it is whole; to be done `unfinished`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(_fresh(path), ignore_errors=True)  # what a crash left behind
    _fresh(path).mkdir()


def write_part(path: Path, name: str, data: bytes | str) -> str:
    """Write a file of a folder that was begun; return its SHA-256 sum for `end_folder`.

    Raises:
        FileError: it cannot be written.
    """
    atomic_write(_fresh(path) / name, data)
    return _sha256(data)


def end_folder(path: Path, sums: Mapping[str, str]) -> None:
    """Put a folder in its place, with a manifest of its files' sums; to be done `unfinished`."""
    fresh, previous = _fresh(path), _previous(path)
    manifest = json.dumps({"format": FORMAT, "files": dict(sums)}, indent=1)
    atomic_write(fresh / MANIFEST, manifest)
    if path.exists():  # a folder cannot be renamed over another: set the old one aside
        shutil.rmtree(previous, ignore_errors=True)
        path.replace(previous)
    fresh.replace(path)
    _sync(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Leave nothing half written of a folder where what is done inside fails.

    Raises:
        FileError: in the place of an error of the system.
    """
    previous = _previous(path)
    try:
        yield
    except BaseException as error:  # a signal too
        shutil.rmtree(_fresh(path), ignore_errors=True)
        if not path.exists() and previous.exists():
            previous.replace(path)
        if isinstance(error, FileError) or not isinstance(error, OSError):
            raise
        raise FileError(f"Cannot write the folder {path}: {error.strerror or error}.") from error


def read_folder(path: Path_) -> dict[str, bytes]:
    """Return the files of a folder that `write_folder` made, each checked against its sum.

    Raises:
        ModelFileError: the folder or a file is missing, damaged, or of a newer format.
    """
    path = _written(Path(path))
    files = {}
    for name, expected in _manifest(path).items():
        files[name] = _read(path / name)
        _compare(path / name, _sha256(files[name]), expected)
    return files


def check_folder(path: Path) -> None:
    """Compare the files of a folder with their sums, of which none need fit into memory.

    Raises:
        ModelFileError: as `read_folder` does.
    """
    for name, expected in _manifest(_written(path)).items():
        try:
            with (path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path / name, error) from error
        _compare(path / name, found, expected)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ModelFileError: there is none.
    """
    return _parse(path, _read(path))


def recover(folder: Path) -> None:
    """Tidy up what writers that died left in a folder; what they had set aside comes back."""
    for partial in folder.glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    for previous in folder.glob(".*.previous"):
        path = folder / previous.name.removeprefix(".").removesuffix(".previous")
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            previous.replace(path)


LOCK = ".lock"
"""The file that is locked where a folder cannot be; it stays."""


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], bool]]:
    """Lock a folder; the kernel lets go of it however the process ends.

    Yields:
        A function that tells whether this is still the folder at its path.

    Raises:
        FileError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)

    def same() -> bool:
        try:
            return os.path.samestat(os.stat(folder), os.fstat(handle))
        except OSError:  # it is gone, or its file system is
            return False

    handles = [handle]
    try:
        try:
            if not _hold(handle):  # a network's file system locks files that can be written, alone
                handles.append(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT))
                if not _hold(handles[-1]):
                    warnings.warn(
                        f"{folder} cannot be locked: see to it that no other run writes to it.",
                        stacklevel=4,
                    )
        except BlockingIOError as error:
            raise FileError(
                f"Another run is writing to {folder}: wait for its end, or choose another folder."
            ) from error
        yield same
    finally:
        for each in handles:
            os.close(each)


def _hold(handle: int) -> bool:
    """Lock what is open, and tell whether its file system has such locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def pack(
    data: Mapping[str, Any], tensors: Mapping[str, Tensor], names: tuple[str, str]
) -> dict[str, bytes | str]:
    """Return JSON data and tensors as the content of two files."""
    contiguous = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    return {names[0]: json.dumps(data, indent=1), names[1]: pack_tensors(contiguous)}


def unpack(path: Path_, names: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `pack` put into a folder."""
    files = read_folder(path)
    for name in names:
        if name not in files:
            raise ModelFileError(f"{path} holds no {name}: it is not what is expected here.")
    try:
        tensors = unpack_tensors(files[names[1]])
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{Path(path) / names[1]} cannot be read: {error}.") from error
    return _parse(Path(path) / names[0], files[names[0]]), tensors


MODEL_FILES = ("config.json", "weights.safetensors")


def save_model(model: "BaseAutoencoder", path: Path_, overwrite: bool = False) -> None:
    """Write a fitted estimator as a folder: config.json, weights.safetensors, manifest.json."""
    if Path(path).exists() and overwrite and not (Path(path) / MANIFEST).exists():
        raise FileError(
            f"{path} was not written by narrows and is not replaced. Choose another name."
        )
    config, tensors = model.state()
    write_folder(path, pack({"format": FORMAT, **config}, tensors, MODEL_FILES), overwrite)


def load_model(path: Path_, models: "Mapping[str, type[BaseAutoencoder]]") -> "BaseAutoencoder":
    """Return the estimator in a folder; its class must be one of `models`.

    Raises:
        ModelFileError: the folder is missing, damaged, of a newer format or an unknown class.
    """
    config, tensors = unpack(path, MODEL_FILES)
    name = str(config.get("class"))
    if name not in models:
        raise ModelFileError(
            f"{path} holds a model of the class '{name}', which is not registered."
            f"{nearest(name, models)} Import the module that defines it (subclasses of "
            "BaseAutoencoder register themselves) before narrows.load."
        )
    broken = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ModelFileError(f"{path} holds values that are not finite in '{broken[0]}'.")
    try:
        return models[name].restore(config, tensors)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} does not fit the class {name} of this version: {error}"
        ) from error


def versions() -> dict[str, str]:
    """Return the versions that a model was made with."""
    from narrows import __version__  # here, because the package imports this module

    return {
        "narrows": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _written(path: Path) -> Path:
    """Return where a folder is, which is elsewhere if its writer died between two renames."""
    if not path.exists() and _previous(path).exists():
        path = _previous(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ModelFileError(
            f"{path} {found}; expected a folder written by narrows (config.json, "
            "weights.safetensors, manifest.json). Pickled models are never loaded."
        )
    return path


def _manifest(path: Path) -> dict[str, Any]:
    """Return the sums of a folder's files by name."""
    manifest = read_json(path / MANIFEST)
    version, sums = manifest.get("format"), manifest.get("files")
    if not isinstance(version, int) or not isinstance(sums, dict):
        raise ModelFileError(f"{path / MANIFEST} is no manifest of narrows.")
    if version > FORMAT:
        raise ModelFileError(
            f"{path} has format {version}, newer than the {FORMAT} that this version "
            "of narrows reads. Upgrade narrows."
        )
    for name in sums:
        if Path(name).name != name or "\0" in name:
            raise ModelFileError(f"{path / MANIFEST} names '{name}', which is outside the folder.")
    return sums


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ModelFileError(
            f"{path} is damaged: its SHA-256 is not the manifest's. Restore the folder "
            "from a copy."
        )


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"{path} cannot be read: {error.strerror or error}. The folder is not complete."
    )


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise ModelFileError(f"{path} holds no JSON object.")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        raise ValueError("a key occurs twice")
    return parsed


def _sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
