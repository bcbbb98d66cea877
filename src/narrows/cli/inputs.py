"""What commands read: data by name or path, image sizes, saved models."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrows.cli.flags import UsageError
from narrows.errors import DataError, FileError

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder
    from narrows.data.files import Dataset

__all__ = [
    "holds_graph",
    "model_folder",
    "open_model",
    "parse_size",
    "read_data",
    "read_rows",
    "spans_of",
]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return the height and width of a text like ``32x48``.

    Raises:
        UsageError: it is not of that form.
    """
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"--size takes HEIGHTxWIDTH, as in --size 32x48. Got '{text}' instead.")
    return int(height), int(width)


def holds_graph(data: str) -> bool:
    """Tell whether there is a graph at a path, by the names of its arrays."""
    if not data.endswith(".npz") or not zipfile.is_zipfile(data):
        return False
    from narrows.data.graphs import is_graph

    with zipfile.ZipFile(data) as archive:
        return is_graph([name.removesuffix(".npy") for name in archive.namelist()])


def read_data(
    data: str,
    size: str | None = None,
    labels: str | None = None,
    aside: Sequence[str] = (),
    whole: bool = False,
) -> "Dataset":
    """Return a sample or what is at a path; a text file as one string if `whole`.

    Raises:
        UsageError: there is nothing of that name.
    """
    from narrows.data.samples import open_data

    try:
        return open_data(data, labels=labels, aside=aside, size=parse_size(size), whole=whole)
    except FileError as error:
        if os.path.exists(data):
            raise
        raise UsageError(str(error)) from error


def model_folder(run: Path) -> Path:
    """Return the folder of the model in a run; that of a model is itself one.

    Raises:
        UsageError: there is nothing, or no folder.
    """
    if not os.path.isdir(run):
        found = "is no folder" if os.path.exists(run) else "does not exist"
        raise UsageError(
            f"{run} {found}; expected the folder of a run or of a model. Pickled models are never "
            "loaded."
        )
    return run if (run / "config.json").exists() else run / "model"


def open_model(run: Path) -> "BaseAutoencoder":
    """Return the model of a run, or in a folder of its own.

    Raises:
        UsageError: there is nothing.
        ModelFileError: the model is damaged.
    """
    folder = model_folder(run)
    import narrows

    return narrows.load(folder)


def read_rows(model: "BaseAutoencoder", data: str, size: str | None) -> Any:
    """Return data for a fitted model: of a table, the columns that it knows, and the stamps.

    Raises:
        DataError: the model takes graphs and this is none, or the other way round.
    """
    import pyarrow as pa

    from narrows.data.tables import known_columns

    modality, kind = vars(model.modality_), model.modality_.name
    dataset = read_data(data, size, whole=modality.get("window", 0) > 0)
    if "graph" in {dataset.modality, kind} and dataset.modality != kind:
        found = "a" if dataset.modality == "graph" else "no"
        raise DataError(
            f"{data} holds {found} graph, and this {type(model).__name__} was fitted to data of "
            f"modality='{kind}'."
        )
    X = dataset.X
    if not isinstance(X, pa.Table):
        return X
    return X.select(known_columns(model.modality_, X.schema))


def spans_of(model: "BaseAutoencoder", X: Any) -> dict[str, Any]:
    """Return where the windows of X lie in it, as columns of a table; none where X has no windows.

    They are the number of the recording, a window's first step and the one after its last, and
    the stamps of its first step and its last where a table has some.
    """
    from narrows.data.modalities import Sequence

    modality = model.modality_
    if not isinstance(modality, Sequence) or not modality.window:
        return {}
    number, start, stop = modality.spans(X).T
    columns = {"series": number, "start": start, "stop": stop}
    if (stamps := modality.stamps(X)) is not None:
        columns |= {"first": stamps.take(start), "last": stamps.take(stop - 1)}
    return columns
