"""Data frames of any kind, through narwhals: to a matrix of floats and back."""

from collections.abc import Sequence
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from narrows.errors import DataError, DataTypeError

__all__ = [
    "Frame",
    "check_names",
    "dtype_names",
    "index_of",
    "is_frame",
    "open_frame",
    "to_frame",
    "to_matrix",
]

Frame = nw.DataFrame[Any]


def is_frame(X: Any) -> bool:
    """Tell whether X is a data frame: pandas, polars, pyarrow, ..."""
    return nw.dependencies.is_into_dataframe(X)


def open_frame(X: Any) -> Frame:
    """Return a data frame of any kind as narwhals', its names checked."""
    if nw.dependencies.is_pandas_dataframe(X):  # narwhals has its own words for repeated names
        check_names(list(X.columns))
    frame: Frame = nw.from_native(X, eager_only=True)
    check_names(frame.columns)
    return frame


def to_matrix(frame: Frame) -> NDArray[np.float64]:
    """Return numeric columns as float64 ``(rows, columns)``, NaN where null."""
    for name, dtype in frame.schema.items():
        if not (dtype.is_numeric() or dtype == nw.Boolean):
            raise DataError(
                f"Column '{name}' holds {dtype} values; narrows takes numeric and boolean columns "
                "here. Encode it as numbers (for instance with OneHotEncoder), parse it where it "
                "holds times, drop it, or set it aside as labels."
            )
    matrix = np.empty(frame.shape, np.float64)
    for i, column in enumerate(frame.iter_columns()):
        matrix[:, i] = column.cast(nw.Float64()).to_numpy()
    return matrix


def check_names(found: Sequence[Any], expected: Sequence[str | int] = ()) -> None:
    """Refuse names that repeat or mix types, and names other than the `expected` ones."""
    if len(set(found)) < len(found):
        twice = next(name for i, name in enumerate(found) if name in found[:i])
        raise DataError(
            f"Column '{twice}' occurs more than once in X. Rename or drop one of them."
        )
    kinds = {type(name).__name__ for name in found}
    if len(kinds) > 1 and "str" in kinds:
        raise DataTypeError(
            "Feature names are only supported if all input features have string names, but your "
            f"input has {sorted(kinds)} as feature name / column name types. Make them strings "
            "with X.columns = X.columns.astype(str)."
        )
    if not expected or list(found) == list(expected):
        return
    lines = ["The feature names should match those that were passed during fit."]
    new, gone = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    for title, names in (("unseen at fit time", new), ("seen at fit time, yet now missing", gone)):
        if names:
            shown = [f"- {name}" for name in names[:5]] + ["- ..."] * (len(names) > 5)
            lines += [f"Feature names {title}:", *shown]
    if len(lines) == 1:
        i = next(i for i, name in enumerate(found) if name != expected[i])
        lines += [
            "Feature names must be in the same order as they were in fit.",
            f"Column {i} is '{found[i]}' where '{expected[i]}' was: reorder the columns.",
        ]
    raise DataError("\n".join(lines) + "\n")


def to_frame(
    matrix: NDArray[np.float64],
    names: Sequence[str | int],
    dtypes: Sequence[str],
    kind: Any,
    like: Any,
) -> Any:
    """Return a frame of this kind, names and types, with the row index of `like`."""
    columns = {str(n): _as_type(matrix[:, i], dtypes[i]) for i, n in enumerate(names)}
    native = nw.from_dict(columns, backend=kind).to_native()
    if kind == "pandas":  # the one kind with a row index, nullable types, and any names
        native.columns = list(names) if like is None else like.columns
        native.index = native.index if like is None else like.index
        native = native.astype(dict(zip(native.columns, dtypes, strict=True)))
    return native


def dtype_names(frame: Frame) -> tuple[str, ...]:
    """Return the types of the columns: pandas' own names, narwhals' for other kinds."""
    if frame.implementation.is_pandas():
        return tuple(str(dtype) for dtype in frame.to_native().dtypes)
    return tuple(str(dtype) for dtype in frame.schema.dtypes())


def index_of(X: Any) -> Any:
    """Return the row index of pandas' frames and series; None of all else."""
    if is_frame(X) or nw.dependencies.is_into_series(X):
        return nw.maybe_get_index(nw.from_native(X, allow_series=True))
    return None


def _as_type(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Cast a column to the type of this name; whole numbers are rounded, missing ones stay."""
    kind = dtype.lower().partition("[")[0]
    if kind.startswith("bool"):
        return values >= 0.5
    if kind in ("float32", "float64"):
        return values.astype(kind)
    if "int" in kind and np.isfinite(values).all():
        limits = np.iinfo(kind)
        return np.clip(np.rint(values), limits.min, limits.max).astype(kind)
    return values
