"""Tables of CSV and Parquet files, read by Arrow and checked."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from narrows.data.paths import PARQUET, check, files_below, opened, reading, show
from narrows.errors import DataError

__all__ = [
    "column_array",
    "known_columns",
    "open_parquet",
    "parquet_files",
    "read_csv",
    "read_parquet",
]


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file, or all files below a folder as one table."""
    if not path.is_dir():
        return _checked(path, _read_parquet(path))
    tables = {file: _read_parquet(file) for file in parquet_files(path)}
    first, *_ = tables
    names = tables[first].column_names
    for file, table in tables.items():
        differing = sorted(set(names) ^ set(table.column_names))
        if differing:
            where = first if differing[0] in names else file
            raise DataError(
                f"The files in {show(path)} are no one table: of {show(first)} and {show(file)} "
                f"only {show(where)} has '{differing[0]}'. Give all of them the same columns."
            )
    parts = [table.select(names) for table in tables.values()]
    try:
        return _checked(path, pa.concat_tables(parts, promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"The files in {show(path)} are no one table: {error}. Give a column one type."
        ) from error


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder in the order of their names.

    Those with a name, or in a folder, that begins with "_" or a dot are another program's notes.
    """
    return [
        file
        for file in files_below(folder, PARQUET)
        if not any(part.startswith("_") for part in file.relative_to(folder).parts)
    ]


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, of which no more than is asked for is read at once."""
    check(path)
    with ExitStack() as stack:
        with reading(path):
            stream = stack.enter_context(path.open("rb"))
            file = pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True)
        yield file


def known_columns(modality: Any, schema: pa.Schema) -> list[str]:
    """Return which columns of a table a fitted modality reads, and in which order.

    They are those that it knows, and the stamps of a recording; all where some are missing, less
    the index that pandas may have added.
    """
    known = vars(modality)
    names = [name for name in known.get("columns", ()) if isinstance(name, str)]
    if not names or not set(names) <= set(schema.names):
        return _columns(schema)
    if "window" in known:  # its stamps stay where they are
        order = iter(names)
        stamps = {field.name for field in schema if pa.types.is_temporal(field.type)}
        given = [name for name in schema.names if name in stamps | set(names)]
        names = [name if name in stamps else next(order) for name in given]
    return names


def _columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns, less those of the index that pandas may have added."""
    return [name for name in schema.names if not name.startswith("__index_level_")]


def _read_parquet(path: Path) -> pa.Table:
    with open_parquet(path) as file, reading(path):
        table = file.read()
    return table.select(_columns(table.schema))


def read_csv(path: Path) -> pa.Table:
    """Read a CSV file whose first line names the columns."""
    with reading(path):
        with opened(path) as stream:
            head = stream.read(1 << 16)
        header = head.partition(b"\n")[0].decode("utf-8", "replace")
        delimiter = max(",;\t", key=header.count)
        cells = head if delimiter == ";" else b""
        commas = re.search(rb"\d,\d", cells) and not re.search(rb"\d\.\d", cells)
        try:
            with opened(path) as stream:
                table = pyarrow.csv.read_csv(
                    stream,
                    pyarrow.csv.ReadOptions(block_size=1 << 24),  # a row must fit in a block
                    pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    pyarrow.csv.ConvertOptions(
                        strings_can_be_null=True, decimal_point="," if commas else "."
                    ),
                )
            bad = any(map(_is_bad_text, table.columns))
            fault = _csv_fault(path, delimiter) if bad else ""
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            fault = _csv_fault(path, delimiter) or str(error)
    if fault:
        raise DataError(f"{show(path)} is not a table: {fault}.")
    if _are_numbers(table.column_names):
        raise DataError(f"{show(path)} has no header: let its first line name the columns.")
    return _checked(path, table)


def column_array(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as an array: missing text is empty, a missing number is NaN."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.fill_null("").to_pylist(), dtype=str)
    array: NDArray[Any] = column.to_numpy()
    return array


def _is_bad_text(column: pa.ChunkedArray) -> bool:
    """Say whether Arrow fell back to bytes, or kept a zero byte as a letter."""
    if pa.types.is_string(column.type):
        return bool(pc.any(pc.match_substring(column, "\0")).as_py())
    return bool(pa.types.is_binary(column.type))


def _csv_fault(path: Path, delimiter: str) -> str:
    """Name the first line that is wrong: slow, so called only when there is one."""
    with opened(path) as stream:
        lines = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
        reader = csv.reader(lines, delimiter=delimiter)
        width = 0
        for row in filter(None, reader):
            width = width or len(row)
            if any("\0" in cell or "\ufffd" in cell for cell in row):
                return f"line {reader.line_num} is not UTF-8 text; save the file as UTF-8"
            if len(row) != width:
                found = f"line {reader.line_num} has {len(row)} cells"
                return f"{found} where the header has {width}; mend or remove it"
    return ""


MANY = 8
"""Numbers in a row that rises or falls by more than chance."""


def _are_numbers(names: Sequence[str]) -> bool:
    """Say whether a header is a row of data; 0, 1, 2, … or many wavelengths are good names."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return False
    counted = values[0] in (0, 1) and values == [values[0] + i for i in range(len(values))]
    rising = sorted(set(values)) in (values, values[::-1])
    return not counted and not (rising and len(values) >= MANY)


def _checked(path: Path, table: pa.Table) -> pa.Table:
    """Return the table if it has rows and each column has a name of its own."""
    names = [name.strip() for name in table.column_names]
    if 0 in table.shape:
        raise DataError(f"{show(path)} holds no data: {len(names)} columns, no rows.")
    if "" in names:
        raise DataError(
            f"Column {names.index('') + 1} of {show(path)} has no name: "
            "name it, or remove it if it only counts the rows."
        )
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{show(path)} has {times} columns called '{name}': rename them.")
    return table
