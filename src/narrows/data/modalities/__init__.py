"""Modalities: learned at fit, they turn the user's data into tensors and back."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from narrows.data.arrays import as_plain
from narrows.data.frames import is_frame
from narrows.data.graphs import TAKEN_BY
from narrows.data.modalities.base import MODALITIES, Encoded, Modality
from narrows.data.modalities.graph import Graph
from narrows.data.modalities.grid import Grid
from narrows.data.modalities.image import Image
from narrows.data.modalities.sequence import Sequence
from narrows.data.modalities.series import Series
from narrows.data.modalities.table import Table
from narrows.data.modalities.text import Text, is_text
from narrows.data.modalities.volume import Volume
from narrows.errors import DataError, ParameterError

__all__ = [
    "MODALITIES",
    "Encoded",
    "Graph",
    "Grid",
    "Image",
    "Modality",
    "Sequence",
    "Series",
    "Table",
    "Text",
    "Volume",
    "modality_of",
    "read_by",
]


def modality_of(X: Any, name: str = "auto", **fields: Any) -> Modality:
    """Describe X as the named modality, or as the only one that it can be.

    Args:
        X: the user's data.
        name: of the modality, or "auto".
        **fields: those of the estimator that modalities read, as `read_by` tells; None is unset.

    Raises:
        DataError: if "auto" finds more than one reading.
        ParameterError: a field that is set has no effect on this modality.
    """
    kind = _kind(X) if name == "auto" else MODALITIES[name]
    if kind is Graph:
        raise DataError(f"modality='graph' {TAKEN_BY}")
    given = {field: value for field, value in fields.items() if value is not None}
    for field in given:
        if field not in read_by(kind):
            readers = [repr(k) for k, modality in MODALITIES.items() if field in read_by(modality)]
            raise ParameterError(
                f"The '{field}' parameter has no effect with modality='{kind.name}'; it is for "
                f"modality={' or '.join(readers)}. Leave it at None."
            )
    describe: Callable[..., Modality] = kind.describe
    modality = describe(X, **given)
    if isinstance(modality, Table) and name == "table":
        return replace(modality, missing=True)
    return modality


def read_by(kind: type[Modality]) -> set[str]:
    """Return the names of the estimator's fields that a modality reads."""
    return set(inspect.signature(kind.describe).parameters) - {"X"}


def _kind(X: Any) -> type[Modality]:
    """Return the only modality that X can be."""
    if is_text(X):
        return Text
    if is_frame(X):
        return Table
    array = np.asarray(as_plain(X))
    shape = array.shape
    channels = Image.channels
    first, last = (shape[1], shape[3]) if len(shape) == 4 else (0, 0)
    if (len(shape) == 3 and array.dtype == np.uint8) or (first in channels) != (last in channels):
        return Image
    if len(shape) > 2:
        raise DataError(
            f"Found array with dim {len(shape)} and shape {shape}, which can be read in more than "
            "one way. Say modality='image' for images (n, height, width[, channels]), "
            "modality='volume' for volumes (n, depth, height, width[, channels]), "
            "modality='series' for series (n, steps, channels), or reshape to (n, features)."
        )
    return Table
