"""What all readers of files share: check a path, open it, and say in a sentence what is wrong."""

import gzip
import io
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from narrows.errors import DataError, FileError, NarrowsError, nearest

__all__ = [
    "FORMATS",
    "IMAGES",
    "PARQUET",
    "TEXTS",
    "check",
    "files_below",
    "opened",
    "reading",
    "show",
    "stem",
]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
PARQUET = (".parquet",)
TEXTS = (".txt", ".md", ".smi")
FORMATS = (
    f".npy, .npz, .csv, .tsv, .csv.gz, .parquet, text ({', '.join(TEXTS)}) or images "
    f"({', '.join(IMAGES)})"
)


def check(path: Path) -> None:
    """Pass a folder, or a file that is not empty; whatever else is at `path` is an error."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FileError(f"{show(path)} is a link to a file that does not exist.") from error
        if not path.parent.is_dir():
            raise FileError(f"The folder {show(path.parent)} does not exist.") from error
        names = [ascii(name)[1:-1] for name in sorted(os.listdir(path.parent))]
        raise FileError(f"{show(path)} does not exist.{nearest(path.name, names)}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{show(path)} cannot be read: {reason}.") from error
    if not path.is_dir() and not path.is_file():
        raise FileError(f"{show(path)} is a pipe, socket or device. Expected a file or folder.")
    if size == 0 and path.is_file():
        raise FileError(f"{show(path)} is empty (0 bytes): replace or remove it.")


def files_below(folder: Path, suffixes: Container[str] | None = None) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names, following links.

    Args:
        folder: where to look; names that begin with a dot are left out.
        suffixes: those that are meant, in small letters; None for all.
    """
    return (path for path in _walk(folder) if suffixes is None or path.suffix.lower() in suffixes)


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise FileError(f"{show(folder)} is a link to a folder that holds it: remove it.")
    with reading(folder):
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        if path.is_dir():
            yield from _walk(path, (*above, here))
        else:
            yield path


def opened(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """Open a file to read its bytes, unpacked if they are gzip's."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one sentence: damaged bytes can raise anything."""
    try:
        yield
    except NarrowsError:
        raise
    except PermissionError as error:
        raise FileError(f"{show(path)} cannot be read: {error.strerror}.") from error
    except MemoryError as error:
        raise DataError(
            f"{show(path)} does not fit in memory ({error}): use fewer or smaller samples."
        ) from error
    except Exception as error:
        line = str(error).partition("\n")[0].replace(f" {show(path)}", "").rstrip(".")
        reason = line[:99] or type(error).__name__
        raise FileError(
            f"{show(path)} is damaged or unsafe to read ({reason}): replace or remove it."
        ) from error


def show(path: Path) -> str:
    """Return the path in quotes, on one line."""
    return repr(str(path))


def stem(path: Path) -> str:
    """Return the name of a file without its suffixes."""
    return Path(path.name.removesuffix(".gz")).stem
