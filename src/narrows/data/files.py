"""Read a user's file or folder into arrays: NumPy, CSV, Parquet and images, and never a pickle."""

import gzip
import math
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from narrows.data.graphs import describe_graphs, graph_of, is_graph
from narrows.data.images import read_images
from narrows.data.paths import (
    FORMATS,
    IMAGES,
    TEXTS,
    check,
    files_below,
    opened,
    reading,
    show,
    stem,
)
from narrows.data.tables import column_array, parquet_files, read_csv, read_parquet
from narrows.data.texts import read_text
from narrows.errors import DataError, FileError, ParameterError, nearest

__all__ = ["FORMATS", "Dataset", "read"]

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_PICKLED = "is a pickle, which can run code and is never loaded: save its array with numpy.save."
_UNPACKED = 4 << 30  # bytes that an array of an .npz may take however well it was packed
_X_NAMES = ("X", "x", "x_train", "X_train", "train_images", "data")
_UNNAMED = re.compile(r"arr_\d+")  # what numpy.savez(file, *arrays) calls them
_Y_NAMES = ("y", "labels", "y_train", "train_labels", "target")
_CONTENT = {  # what a file is, by its first bytes: its name may be wrong
    "npy": rb"\x93NUMPY",
    "npz": rb"PK(\x03\x04|\x05\x06)",
    "parquet": rb"PAR1[^ -~]",
    "image": rb"\x89PNG|\xff\xd8\xff|BM.{4}\x00{4}|RIFF.{4}WEBP|II\*\x00|MM\x00\*|GIF8[79]a",
    "pickle": rb"\x80[\x02-\x05]",
    "page": rb"(\xef\xbb\xbf)?\s*<(?i:!doctype|html|\?xml)",
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples ready to fit, with what was set aside from them.

    Attributes:
        X: A NumPy array whose first axis counts the samples, a `pyarrow.Table`, a graph, or a
            list of strings or series.
        y: One label a sample, or None.
        name: What to call the data.
        modality: The `modality` that an estimator should be given.
        columns: Columns taken out of `X` by name: weights, groups, time.
    """

    X: Any
    y: NDArray[Any] | None = None
    name: str = ""
    modality: str = "auto"
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def describe(self) -> str:
        """Say in a few words what the data are: ``"150 rows × 4 columns, 3 classes"``."""
        if self.modality == "graph":
            return describe_graphs(self.X)
        if isinstance(self.X, list):
            kind = "strings" if self.modality == "text" else "series of their own lengths"
            return f"{_count(len(self.X))} {kind}"
        n, *shape = self.X.shape
        if self.modality == "series":
            text = f"{_count(n)} series of {' × '.join(map(str, shape))}"
        elif self.modality == "table":
            text = f"{_count(n)} rows × {_count(*shape)} columns"
        else:
            flat = len(shape) == 2 or (len(shape) == 3 and min(shape[0], shape[2]) <= 4)
            unsaid = self.modality == "auto" and self.X.dtype == np.uint8
            image = self.modality == "image" or (unsaid and flat)
            shape += [1] if image and len(shape) == 2 else []
            sides = " × ".join(map(str, shape)) or "1"
            kind = "images" if image else "volumes" if self.modality == "volume" else "samples"
            text = f"{_count(n)} {kind} of {sides}, {self.X.dtype}"
        if self.y is None:
            return text
        if self.y.dtype.kind == "f":
            return f"{text}, with a real-valued target"
        return f"{text}, {_count(len({str(label) for label in self.y}))} classes"

    def set_aside(self, labels: str | None = None, aside: Sequence[str] = ()) -> "Dataset":
        """Return the data with the column `labels` as `y` and those of `aside` in `columns`."""
        names = [name for name in (labels, *aside) if name is not None]
        if not names:
            return self
        if not isinstance(self.X, pa.Table):
            raise DataError(f"'{self.name}' has no named columns, so none is called '{names[0]}'.")
        for name in names:
            _require(name, self.X.column_names, f"The table '{self.name}'")
        X = self.X.drop_columns(sorted(set(names)))
        if X.num_columns == 0:
            raise DataError(f"The table '{self.name}' has no columns left to learn from.")
        y = self.y if labels is None else column_array(self.X[labels])
        columns = {name: column_array(self.X[name]) for name in aside}
        return replace(self, X=X, y=y, columns=self.columns | columns)


def read(
    path: str | os.PathLike[str],
    *,
    labels: str | None = None,
    aside: Sequence[str] = (),
    size: Sequence[int] | None = None,
    whole: bool = False,
) -> Dataset:
    """Read a file or a folder; the content of a file decides its format, not its name.

    - **NumPy**: `.npy`, or `.npz` with an array called X, x_train or data, or one besides y.
    - **Graphs**: `.npz` with an array called edge_index (2, edges), and perhaps features or x
      (nodes, columns), edge_weight (edges,), labels or y (nodes,); or an adjacency that
      `scipy.sparse.save_npz` wrote.
    - **Tables**: `.csv` (UTF-8, one header line; comma, semicolon or tab; decimal commas
      between semicolons; also `.gz`), and `.parquet`, one file or all below a folder in the order
      of their paths, with the same columns. Empty cells are missing.
    - **Series** of their own lengths: `.npz` of several arrays without names, as
      `numpy.savez(path, *series)` writes them.
    - **Text**: `.txt`, `.md` or `.smi` (UTF-8), one string a line.
    - **Images**: one file, or a folder and its subfolders in the order of their paths, without
      names that begin with a dot. Several subfolders are classes. Grey stays grey, 16-bit grey
      is uint16, and all else becomes RGB without alpha, as does grey that lies beside colour.
      The first frame counts, turned as the camera says.

    Args:
        path: The file or folder.
        labels: The column, or array of an `.npz`, that holds the labels.
        aside: Columns, or arrays of an `.npz`, to keep out of `X` and in `columns`.
        size: `(height, width)` to resize every image to; without it, all must be of one size.
        whole: Whether a text file is one string.

    Raises:
        FileError: If the file is missing, unreadable, damaged or of another format.
        DataError: If it can be read, but not used as it is.
    """
    path = Path(path)
    kind = _kind(path)
    if size is not None and (kind != "image" or len(size) != 2 or min(size) < 1):
        raise ParameterError(
            f"'size' is the (height, width) to resize images to; found {size!r} for the "
            f"{kind} file {show(path)}."
        )
    if kind == "npz":
        return _read_npz(path, labels, aside)
    if kind == "image":
        X, y = read_images(path, size)
        data = Dataset(X, y, _name(path), "image")
    elif kind == "text":
        data = Dataset(read_text(path, whole), name=stem(path), modality="text")
    elif kind == "npy":
        data = _read_npy(path)
    else:
        table = (read_csv if kind == "csv" else read_parquet)(path)
        data = Dataset(table, name=_name(path), modality="table")
    return data.set_aside(labels, aside)


# -- what a path is ----------------------------------------------------------------------------


def _kind(path: Path) -> str:
    """Name the format of what is at `path`, or say why it cannot be read."""
    check(path)
    if path.is_dir():
        return _kind_inside(path)
    with reading(path), opened(path) as stream:
        packed = isinstance(stream, gzip.GzipFile)
        head = stream.read(1024)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    matches = (k for k, p in _CONTENT.items() if re.match(p, head, re.DOTALL))
    named = {".csv": "csv", ".tsv": "csv"} | dict.fromkeys(TEXTS, "text")
    kind = next(matches, named.get(suffix, "unknown"))
    if kind == "pickle" or suffix in _PICKLES:
        raise FileError(f"{show(path)} {_PICKLED}")
    if kind == "page":
        raise FileError(
            f"{show(path)} is an HTML or XML page, perhaps a failed download: fetch it again."
        )
    if kind == "unknown" or (packed and kind not in ("csv", "text")):
        found = f"{kind} inside gzip: unpack it" if packed else f"it begins with {head[:12]!r}"
        raise FileError(f"{show(path)} is of no known format ({found}). Expected {FORMATS}.")
    return kind


def _name(path: Path) -> str:
    return path.resolve().name if path.is_dir() else stem(path)


def _kind_inside(folder: Path) -> str:
    """Name what the files of a folder are."""
    tables, image = parquet_files(folder), next(files_below(folder, IMAGES), None)
    if tables and image:
        raise DataError(
            f"{show(folder)} holds tables and images, such as {show(tables[0])} and "
            f"{show(image)}: give each kind a folder of its own."
        )
    return "parquet" if tables else "image"


def _count(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def _require(name: str, names: Sequence[str], owner: str) -> None:
    if name not in names:
        some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise DataError(f"{owner} has no '{name}'.{nearest(name, names)} It has {some}.")


# -- NumPy -------------------------------------------------------------------------------------


def _read_npy(path: Path) -> Dataset:
    with reading(path), path.open("rb") as stream:
        X = _array(stream, os.fstat(stream.fileno()).st_size, f"The array of {show(path)}")
    return _arrays(path, X, None, {})


def _read_npz(path: Path, labels: str | None, aside: Sequence[str]) -> Dataset:
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if any(name.endswith(".pkl") for name in members):
            raise FileError(f"{show(path)} {_PICKLED}")
        if not all(info.filename.endswith(".npy") for info in members.values()):
            raise FileError(f"{show(path)} is a zip or Excel file. Expected {FORMATS}.")

        def load(name: str) -> NDArray[Any]:
            _require(name, [*members], show(path))
            return _member(archive, members[name], f"The array '{name}' of {show(path)}")

        if is_graph([*members]):
            if aside:
                raise DataError(f"{show(path)} is a graph, which has no columns to set aside.")
            X, y = graph_of({name: load(name) for name in members}, labels, show(path))
            return Dataset(X, y, stem(path), "graph")
        if len(members) > 1 and all(map(_UNNAMED.fullmatch, members)):
            return Dataset([load(name) for name in members], None, stem(path), "series")
        columns = {name: load(name) for name in aside}
        free = [name for name in members if name not in (labels, *aside)]
        X = load(_choose(path, free))
        y_name = labels or next((name for name in _Y_NAMES if name in free), None)
        y = load(y_name) if y_name else None
    if y is not None and y.shape[1:] == (1,):
        y = y[:, 0]
    if y is not None and labels is None and y.shape != X.shape[:1]:
        y = None  # labels by name only
    return _arrays(path, X, y, columns)


def _choose(path: Path, names: Sequence[str]) -> str:
    """Return the name of the array that holds the samples."""
    rest = [name for name in names if name not in _Y_NAMES]
    named = [name for name in _X_NAMES if name in rest]
    if not named and len(rest) != 1:
        raise DataError(
            f"Which array of {show(path)} holds the samples? It has "
            f"{', '.join(names) or 'none'}: call that one X, and its labels y."
        )
    return (named or rest)[0]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    if info.file_size > max(_UNPACKED, 100 * info.compress_size):
        sizes = f"{_count(info.compress_size)} bytes to {_count(info.file_size)}"
        raise FileError(f"{where} is refused: it unpacks {sizes}. Save it as .npy.")
    with archive.open(info) as stream:
        return _array(stream, info.file_size, where)


def _array(stream: IO[bytes], size: int, where: str) -> NDArray[Any]:
    """Read an array once its header has told the truth about the bytes that follow."""
    version = np.lib.format.read_magic(stream)
    header = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
    shape, _, dtype = getattr(np.lib.format, header)(stream)
    if dtype.hasobject:
        raise DataError(f"{where} is of Python objects, which are never loaded: save numbers.")
    promised = stream.tell() + math.prod(shape) * dtype.itemsize
    if promised != size:
        raise FileError(
            f"{where} is damaged: {_count(promised)} bytes expected for shape {shape} and type "
            f"{dtype}, {_count(size)} found. Replace it."
        )
    stream.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _arrays(
    path: Path, X: NDArray[Any], y: NDArray[Any] | None, columns: dict[str, NDArray[Any]]
) -> Dataset:
    """Check that the arrays have samples, and as many of each."""
    if X.ndim == 0 or len(X) == 0:
        raise DataError(f"{show(path)} holds no samples: its array has shape {X.shape}.")
    for name, column in {"labels": y, **columns}.items():
        if column is not None and column.shape != (len(X),):
            raise DataError(
                f"The array '{name}' of {show(path)} has shape {column.shape}. "
                f"Expected one value for each of {_count(len(X))} samples."
            )
    return Dataset(X, y, stem(path), "table" if X.ndim == 2 else "auto", columns)
