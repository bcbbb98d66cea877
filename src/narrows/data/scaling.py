"""Scalings: the center and scale that put columns where a likelihood wants them."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Range", "blocks", "changes_nothing", "fit_scaling", "log_counts", "scaled"]

Array = NDArray[Any]
Range = Literal["standard", "robust", "unit", "symmetric", "log", "none"]
"""Mean 0 and variance 1; median 0 and a normal's quartiles; [0, 1]; [-1, 1]; mean 0 and variance
1 of the logs of counts; as given."""
QUARTILES_OF_NORMAL = 1.349
BLOCK = 256
"""Rows that are scaled at once: float64 is wide, and few of them stay in the cache."""


def log_counts(counts: Array) -> Array:
    """Return log(1 + x), which keeps a few large counts from hiding the others."""
    logs: Array = np.log1p(np.maximum(counts, 0), dtype=np.result_type(counts, np.float32))
    return logs


def fit_scaling(
    columns: Array, target: Range, bounds: tuple[float, float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return center and scale of each column, so that (x - center) / scale lies in `target`.

    Args:
        columns: ``(n, d)``, NaN where missing.
        target: where the data shall lie.
        bounds: the known range of the data, instead of the one seen; data in [0, 1] count as
            having just that range.
    """
    width = columns.shape[1]
    if target == "none":
        center, scale = np.zeros(width), np.ones(width)
    elif target in ("unit", "symmetric"):
        low, high = np.nanmin(columns, 0), np.nanmax(columns, 0)
        if bounds is None and low.min() >= 0 and high.max() <= 1:
            bounds = (0.0, 1.0)
        if bounds is not None:
            low, high = np.full(width, bounds[0]), np.full(width, bounds[1])
        half = (high - low) / 2.0
        center, scale = (low, 2 * half) if target == "unit" else (low + half, half)
    else:
        largest = max(np.nanmax(columns, initial=0), -np.nanmin(columns, initial=0))
        if largest and not 1e-15 < largest < 1e15:  # squares would leave float32
            columns = columns.astype(np.float64)
        center = np.nanmean(columns, 0, dtype=np.float64)
        scale = np.nanstd(columns, 0, dtype=np.float64)
        if target == "robust":
            low, center, high = np.nanquantile(columns, [0.25, 0.5, 0.75], axis=0)
            # The floor keeps a column that is mostly one value from being blown up.
            scale = np.maximum((high - low) / QUARTILES_OF_NORMAL, 0.3 * scale)
    scale = np.where(scale > 0, scale, 1.0)
    return tuple(np.asarray(center, float).tolist()), tuple(np.asarray(scale, float).tolist())


def scaled(values: Array, center: tuple[float, ...], scale: tuple[float, ...]) -> Array:
    """Return (values - center) / scale of ``(n, d)`` in float32; the values themselves if equal.

    It is calculated in float64, so that no large center costs digits.
    """
    if changes_nothing(center, scale):
        return values.astype(np.float32, copy=False)
    centers, scales = np.array(center), np.array(scale)
    x = np.empty(values.shape, np.float32)
    for rows in blocks(len(x)):
        x[rows] = (values[rows] - centers) / scales
    return x


def changes_nothing(center: tuple[float, ...], scale: tuple[float, ...]) -> bool:
    """Return whether (x - center) / scale is x."""
    return not any(center) and set(scale) == {1.0}


def blocks(n: int) -> Iterator[slice]:
    """Yield n rows in parts."""
    for start in range(0, n, BLOCK):
        yield slice(start, start + BLOCK)
