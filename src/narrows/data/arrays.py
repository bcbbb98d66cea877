"""Arrays as users give them: checked, and turned into matrices or tensors of numbers."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from math import prod
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array
from torch import Tensor

from narrows.data.frames import is_frame, open_frame, to_matrix
from narrows.data.graphs import TAKEN_BY, resembles
from narrows.data.tensors import to_array
from narrows.errors import DataError, DataTypeError

__all__ = ["as_matrix", "as_numbers", "as_plain", "as_tensor", "check_range", "finite"]

Array = NDArray[Any]
AS_SERIES = "or set modality='series' for series over time"


def as_matrix(X: Any, owner: str, missing: bool = False, name: str = "X") -> Array:
    """Return X as a float matrix; where scikit-learn names what is wrong, its sentence stands."""
    X = as_plain(X)
    floats = [np.float64, np.float32]
    check = partial(check_array, dtype=floats, estimator=owner, input_name=name)
    try:
        array: Array = check(X, ensure_all_finite=False)
        if not finite(array):
            check(array, ensure_all_finite="allow-nan" if missing else True)
    except ValueError as error:
        raise DataError(_explained(str(error), X, owner, missing, name)) from error
    check_range(array, name)
    return array


def _explained(found: str, X: Any, owner: str, missing: bool, name: str) -> str:
    """Return scikit-learn's sentence on what is wrong with X, with what to do."""
    if "could not convert string" in found:
        return (
            f"{name} holds text where {owner} expects numbers: {found}. Encode it, for instance "
            "with OneHotEncoder, or drop it."
        )
    first, *rest = found.splitlines()  # the others show values, or other estimators
    if first.startswith(f"Input {name} contains"):
        array = np.asarray(X, np.float64)
        broken = np.isinf(array) if missing else ~np.isfinite(array)
        row, column = np.argwhere(broken)[0]
        where = f"in {broken.any(1).sum()} of its {len(array)} rows, first in row {row}, column"
        may = name == "X" and not missing
        remedy = ", or set modality='table', in which NaN means missing" if may else ""
        return f"{first.rstrip('.')} {where} {column}. Repair or drop them{remedy}."
    if first.startswith("Found array with dim"):
        return f"{first} Reshape {name} to (n, features)."
    return " ".join([first, *(line for line in rest if line.startswith("Reshape your data"))])


def check_range(array: Array, where: str) -> None:
    """Refuse values beyond those of float32; NaN is none of them."""
    most = np.finfo(np.float32).max
    if array.dtype == np.float32:
        return
    if np.abs(array).max(initial=0, where=~np.isnan(array)) > most:
        raise DataError(
            f"{where} holds values too large for float32 (beyond 3.4e38, infinity). Rescale or "
            "clip them."
        )


def as_numbers(X: Any, where: str = "X", what: str = "images") -> Array:
    """Return X as an array of numbers of any rank."""
    array = to_matrix(open_frame(X)) if is_frame(X) else np.asarray(as_plain(X))
    if array.dtype == object:
        with suppress(TypeError, ValueError):
            array = array.astype(np.float64)
    if array.dtype.kind not in "buif":
        raise DataError(
            f"{where} holds {array.dtype} values; {what} must hold numbers. Convert X first."
        )
    return array


def as_plain(X: Any) -> Any:
    """Return tensors as arrays; refuse what is no array, or would lose its sense as one."""
    if isinstance(X, Tensor):
        X = to_array(X)
    if issparse(X):
        square = len(set(X.shape)) < len(X.shape)
        raise DataTypeError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to "
            "convert it." + (f" An adjacency {TAKEN_BY}" if square else "")
        )
    if resembles(X):
        raise DataTypeError(f"X is a graph, which {TAKEN_BY}")
    if nw.dependencies.is_into_lazyframe(X):
        raise DataTypeError(f"X is a {type(X).__name__}, which holds no rows yet; call collect().")
    if X is None or isinstance(X, dict | set | Iterator):
        raise DataTypeError(
            f"X is a {type(X).__name__}; expected an array, a data frame, a tensor or a list of "
            "rows."
        )
    _refuse_ragged(X)
    if isinstance(X, np.ma.MaskedArray):
        raise DataError(
            "X is a masked array, whose mask would be lost. Fill it with NaN, which means missing "
            "with modality='table' or 'series'."
        )
    if np.asarray(X).dtype.kind in "mM":
        raise DataError("X holds dates or durations. Convert them to numbers, such as seconds.")
    return X


def _refuse_ragged(X: Any) -> None:
    if not isinstance(X, list | tuple):
        return
    shapes = [_shape(row, i) for i, row in enumerate(X)]
    for i, shape in enumerate(shapes):
        if shape == shapes[0]:
            continue
        if len(shape) < 2 and len(shapes[0]) < 2:
            found = [prod(each) for each in (shape, shapes[0])]
            raise DataError(
                f"Row {i} of X has {found[0]} values where row 0 has {found[1]}: rows must be "
                f"equally long. Pad or cut them, {AS_SERIES}."
            )
        raise DataError(
            f"Sample {i} of X has the shape {shape} where sample 0 has {shapes[0]}: all must have "
            f"one shape. Resize, pad or cut them, {AS_SERIES}."
        )


def _shape(row: Any, i: int) -> tuple[int, ...]:
    try:
        return tuple(row.shape) if isinstance(row, Tensor) else np.shape(row)
    except ValueError as error:
        raise DataError(
            f"Sample {i} of X holds lists of unequal lengths: they are no array. Pad or cut them, "
            f"{AS_SERIES}."
        ) from error


def finite(x: Array) -> bool:
    """Return whether all values are finite: where they are, their sum mostly tells."""
    shared = x.flags.c_contiguous and x.flags.writeable
    with np.errstate(over="ignore", invalid="ignore"):
        total = torch.from_numpy(x).sum() if shared else x.sum()  # torch takes all threads
        return bool(np.isfinite(float(total)) or np.isfinite(x).all())


def as_tensor(x: NDArray[np.float32]) -> Tensor:
    """Return scaled values as a tensor; refuse those that left float32's range."""
    if not finite(x):
        raise DataError(
            "X contains values too large for float32 after scaling (infinity). Rescale or clip "
            "the columns concerned."
        )
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))
