"""Modalities: learned at fit, they turn the user's data into tensors and back."""

from dataclasses import replace
from typing import Any

import numpy as np

from narrows.data.arrays import as_plain
from narrows.data.frames import is_frame
from narrows.data.modalities.base import MODALITIES, Encoded, Modality
from narrows.data.modalities.graph import Graph
from narrows.data.modalities.image import CHANNELS, Image
from narrows.data.modalities.table import Table
from narrows.errors import DataError

__all__ = ["MODALITIES", "Encoded", "Graph", "Image", "Modality", "Table", "modality_of"]


def modality_of(X: Any, name: str = "auto") -> Modality:
    """Describe X as the named modality, or as the only one that it can be.

    Raises:
        DataError: if "auto" finds more than one reading.
    """
    if name == "table":
        return replace(Table.describe(X), missing=True)
    if name == "image":
        return Image.describe(X)
    if name == "graph":
        raise DataError(
            "modality='graph' is for the models of graphs: GraphAutoencoder, "
            "VariationalGraphAutoencoder and AdversarialGraphAutoencoder."
        )
    if is_frame(X):
        return Table.describe(X)
    array = np.asarray(as_plain(X))
    shape = array.shape
    first, last = (shape[1], shape[3]) if len(shape) == 4 else (0, 0)
    if (len(shape) == 3 and array.dtype == np.uint8) or (first in CHANNELS) != (last in CHANNELS):
        return Image.describe(X)
    if len(shape) > 2:
        raise DataError(
            f"Found array with dim {len(shape)} and shape {shape}, which can be read in more than "
            "one way. Say modality='image' for images (n, height, width[, channels]), or reshape "
            "to (n, features)."
        )
    return Table.describe(X)
