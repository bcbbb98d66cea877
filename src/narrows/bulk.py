"""Parquet files through a model: for each a file of results, with a row for every row of it."""

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from narrows import load
from narrows.data.modalities import Sequence
from narrows.data.paths import check, reading, show
from narrows.data.tables import known_columns, open_parquet, parquet_files
from narrows.errors import DataError, FileError, ParameterError
from narrows.storage import MANIFEST, atomic_write

__all__ = ["Bulk", "Call", "pairs"]

Call = Literal["score", "encode"]
"""What is made of a row: its score, or its code."""
KEY = b"narrows"
"""Where a file of results tells what it was made of."""
PASSES = 16
"""A chunk of rows that is read at once passes through the net in so many parts."""


class Bulk:
    """Makes of a Parquet file one with a row of results for each of its rows, in their order.

    A file of results is whole or absent, and has the row groups of its source. No more of either
    is in memory than the results of a row group, and a chunk of rows.

    Args:
        folder: the saved model.
        call: what is made of a row.
        anew: whether results that are there already are replaced, whatever they are.

    Raises:
        ParameterError: the model's samples are no rows.
    """

    def __init__(self, folder: Path, call: Call, anew: bool = False) -> None:
        self.model, self.anew = load(folder), anew
        modality = self.model.modality_
        if modality.name == "graph" or (isinstance(modality, Sequence) and modality.window):
            kind = "nodes" if modality.name == "graph" else "windows of many rows"
            raise ParameterError(
                f"The samples of this {type(self.model).__name__} are {kind}, and files are "
                "shared out row by row. Leave --engine at 'local'."
            )
        self.chunk = PASSES * modality.at_once
        names = ["score"] if call == "score" else self.model.get_feature_names_out()
        self.schema = pa.schema([(str(name), pa.float32()) for name in names])
        manifest = (Path(folder) / MANIFEST).read_bytes()
        self.made = {"call": call, "model": sha256(manifest).hexdigest()}

    def check(self, target: Path) -> None:
        """Refuse to replace a file that this model did not make by this call.

        Raises:
            FileError: there is such a file.
        """
        found = None if self.anew else _mark(target)
        if found is not None and self.made.items() - found.items():
            raise FileError(
                f"{show(target)} exists and was not made by this command with this model: name "
                "another --out, or use --force."
            )

    def __call__(self, source: Path, target: Path) -> tuple[int, bool]:
        """Write the results of a file, unless they are there; return their number, and which.

        Raises:
            DataError: the rows cannot be used.
            FileError: the source cannot be read, or the target written.
        """
        mark = self.made | {"source": _state(source)}
        with open_parquet(source) as file:
            rows = file.metadata.num_rows
            if not self.anew and _mark(target) == mark and _rows(target) == rows:
                return rows, False

            def fill(stream: BinaryIO) -> None:
                schema = self.schema.with_metadata({KEY: json.dumps(mark)})
                with pq.ParquetWriter(stream, schema, write_page_checksum=True) as writer:
                    for group in range(file.num_row_groups):
                        writer.write_table(self._group(source, file, group, schema))

            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, fill)
        return rows, True

    def _group(self, path: Path, file: pq.ParquetFile, group: int, schema: pa.Schema) -> pa.Table:
        """Return the results of a row group."""
        names = known_columns(self.model.modality_, file.schema_arrow)
        parts = [
            self._results(path, rows) for rows in _chunks(path, file, group, self.chunk, names)
        ]
        made = np.concatenate([np.empty((0, len(schema)), np.float32), *parts])
        return pa.table([*map(pa.array, np.ascontiguousarray(made.T))], schema=schema)

    def _results(self, path: Path, rows: pa.Table) -> NDArray[Any]:
        call = self.model.score_samples if self.made["call"] == "score" else self.model.transform
        try:
            return call(rows).reshape(len(rows), -1)
        except DataError as error:
            raise DataError(f"{show(path)} cannot be used: {error}") from error


def pairs(data: Path, out: Path) -> dict[Path, Path]:
    """Return where the results of each Parquet file go: to its own name in another folder.

    Args:
        data: a file, or a folder and those below it.
        out: the folder of the results.

    Raises:
        DataError: there are no Parquet files, or others.
        FileError: the folder of the results holds something else.
    """
    files = parquet_files(data) if data.is_dir() else [data]
    if not files:
        raise DataError(f"There are no Parquet files in {show(data)}.")
    for file in files:
        _check_parquet(file)
    targets = {
        file: out / (file.relative_to(data) if data.is_dir() else file.name) for file in files
    }
    for other in sorted(set(parquet_files(out)) - {*targets.values()} if out.exists() else ()):
        raise FileError(
            f"{show(other)} belongs to no file of {show(data)}, and each row of the results shall "
            "be that of one row of the data: name another --out."
        )
    return targets


def _check_parquet(path: Path) -> None:
    check(path)
    with reading(path), path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            raise DataError(
                f"{show(path)} is no Parquet file, which is what workers share out. Leave "
                "--engine at 'local'."
            )


def _mark(path: Path) -> dict[str, str] | None:
    """Return what a file of results tells of how it was made; None where there is no file."""
    if not path.exists():
        return None
    with open_parquet(path) as file, reading(path):
        told = (file.schema_arrow.metadata or {}).get(KEY, b"{}")
        return dict(json.loads(told))


def _state(path: Path) -> str:
    """Return what changes where a file is written anew."""
    found = path.stat()
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def _rows(path: Path) -> int:
    """Return how many rows of a file are sound: -1 if any of them is not."""
    try:
        with open_parquet(path) as file, reading(path):
            return sum(len(batch) for batch in file.iter_batches())
    except FileError:
        return -1


def _chunks(
    path: Path, file: pq.ParquetFile, group: int, size: int, names: Iterable[str]
) -> Iterator[pa.Table]:
    """Yield so many rows of a row group at once."""
    with reading(path):
        for batch in file.iter_batches(size, row_groups=[group], columns=list(names)):
            yield pa.Table.from_batches([batch])
