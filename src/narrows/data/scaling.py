"""Scalings: the center and scale that put columns where a likelihood wants them."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Range",
    "changes_nothing",
    "fit_scaling",
    "log_counts",
    "moments",
    "scaled",
    "unscaled",
]

Array = NDArray[Any]
Range = Literal["standard", "robust", "unit", "symmetric", "log", "none"]
"""Mean 0 and variance 1; median 0 and a normal's quartiles; [0, 1]; [-1, 1]; mean 0 and variance
1 of the logs of counts; as given."""
QUARTILES_OF_NORMAL = 1.349
BLOCK = 200_000
"""Values that are scaled at once: float64 is wide, and few of them stay in the cache."""


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
        center, scale = moments(columns)
        if target == "robust":
            low, center, high = np.nanquantile(columns, [0.25, 0.5, 0.75], axis=0)
            # The floor keeps a column that is mostly one value from being blown up.
            scale = np.maximum((high - low) / QUARTILES_OF_NORMAL, 0.3 * scale)
    scale = np.where(scale > 0, scale, 1.0)
    return tuple(np.asarray(center, float).tolist()), tuple(np.asarray(scale, float).tolist())


def moments(columns: Array) -> tuple[Array, Array]:
    """Return the mean and the deviation of each column's observed values, in float64."""

    def mean(power: int, around: Tensor) -> Tensor:
        total = count = torch.zeros(columns.shape[1], dtype=torch.float64)
        for rows in blocks(columns, columns.shape[1]):
            part = wide(columns[rows]).sub_(around)
            count = count + part.isnan().logical_not_().sum(0)
            total = total + part.pow_(power).nansum(0)
        return total / count

    center = mean(1, torch.zeros(()))
    return center.numpy(), mean(2, center).sqrt().numpy()


def scaled(values: Array, center: tuple[float, ...], scale: tuple[float, ...]) -> Array:
    """Return (values - center) / scale of ``(n, d)`` in float32; the values themselves if equal.

    It is calculated in float64, so that no large center costs digits.
    """
    if changes_nothing(center, scale):
        return values.astype(np.float32, copy=False)
    centers, scales = wide(np.array(center)), wide(np.array(scale))
    x = np.empty(values.shape, np.float32)
    out = torch.from_numpy(x)
    for rows in blocks(values, values.shape[1]):
        out[rows] = wide(values[rows]).sub_(centers).div_(scales)
    return x


def unscaled(
    x: Array, center: tuple[float, ...], scale: tuple[float, ...], places: Any = slice(None)
) -> Iterator[tuple[slice, Tensor]]:
    """Yield columns of x * scale + center in float64, some rows at a time.

    Args:
        x: ``(n, d)``.
        center: of each column of x.
        scale: of each column of x.
        places: the columns of x that are wanted, in their order; all of them by default.
    """
    centers, scales = wide(np.array(center)[places]), wide(np.array(scale)[places])
    for rows in blocks(x, len(scales)):
        part = x[rows] if isinstance(places, slice) else x[rows].take(places, axis=1)
        yield rows, wide(part).mul_(scales).add_(centers)


def wide(values: Array) -> Tensor:
    """Return a copy in float64 as a tensor, with which torch calculates on all threads."""
    return torch.from_numpy(values.astype(np.float64))


def changes_nothing(center: tuple[float, ...], scale: tuple[float, ...]) -> bool:
    """Return whether (x - center) / scale is x."""
    return not any(center) and set(scale) == {1.0}


def blocks(x: Array, width: int) -> Iterator[slice]:
    """Yield the rows of x in parts that hold few values each, where a row has so many."""
    size = max(1, BLOCK // max(1, width))
    for start in range(0, len(x), size):
        yield slice(start, start + size)
