"""Tables: rows of numbers, with names and missing cells."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrows.data.arrays import as_matrix, as_tensor, finite
from narrows.data.conditions import Numbers
from narrows.data.frames import check_names, dtype_names, is_frame, open_frame, to_frame, to_matrix
from narrows.data.modalities.base import Array, Encoded, Modality
from narrows.data.scaling import Range, changes_nothing, fit_scaling, log_counts, scaled, unscaled
from narrows.errors import DataError

__all__ = ["Table"]


@dataclass(frozen=True)
class Table(Modality):
    """Rows of numbers, ``(n, columns)`` arrays or data frames; constant columns are set aside.

    Attributes:
        columns: names of a frame's columns, strings or whole numbers; empty for arrays.
        dtypes: their types, by pandas' or else narwhals' names.
        frame: kind of data frame, "" for arrays.
        constants: one value a column, what decoding starts from.
        kept: indices of the columns that vary; center and scale are theirs.
        missing: whether NaN in an array means missing (in a frame it always does).
    """

    name = "table"
    architecture = "mlp"
    most = 4096  # layers are hardly wider than rows

    columns: tuple[str | int, ...] = ()
    dtypes: tuple[str, ...] = ()
    frame: str = ""
    constants: tuple[float, ...] = ()
    kept: tuple[int, ...] = ()
    missing: bool = False

    @classmethod
    def describe(cls, X: Any) -> "Table":
        """Note names, types and kind of a data frame, or the width of an array."""
        if not is_frame(X):
            width = as_matrix(X, "the model", missing=True).shape[1]
            return cls(constants=(0.0,) * width)
        frame = open_frame(X)
        return cls(
            columns=tuple(frame.columns),
            dtypes=dtype_names(frame),
            frame=str(frame.implementation.value),
            constants=(0.0,) * len(frame.columns),
        )

    def read(self, X: Any, owner: str) -> Array:
        """Check names, width and values; return ``(n, columns)`` floats."""
        missing = self.missing
        if is_frame(X):
            frame = open_frame(X)
            check_names(frame.columns, self.columns)
            X, missing = to_matrix(frame), True
        elif self.feature_names:
            warnings.warn(
                f"X does not have valid feature names, but {owner} was fitted with feature names",
                stacklevel=4,
            )
        array = as_matrix(X, owner, missing)
        if array.shape[1] != self.n_features:
            raise DataError(
                f"X has {array.shape[1]} features, but {owner} is expecting {self.n_features} "
                "features as input."
            )
        return array

    def learn(self, array: Array, target: Range) -> "Table":
        """Fit center and scale of every column that varies."""
        low, high = np.fmin.reduce(array), np.fmax.reduce(array)  # NaN where all are missing
        if np.isnan(low).all():
            raise DataError("Every value of X is missing: there is nothing to learn from.")
        noise = 8 * np.finfo(array.dtype).eps * np.maximum(np.abs(low), np.abs(high))
        varies = high - low > noise
        varies[list(self._given_columns)] = False
        kept = np.flatnonzero(varies)
        if not len(kept):
            warnings.warn(
                "Every column of X is constant: there is nothing to learn.", stacklevel=3
            )
            kept = np.setdiff1d(np.arange(self.n_features), self._given_columns)[:1]
        columns = array if len(kept) == self.n_features else array[:, kept]
        center, scale = fit_scaling(log_counts(columns) if target == "log" else columns, target)
        return replace(
            self,
            shape=(len(kept),),
            center=center,
            scale=scale,
            log=target == "log",
            constants=tuple(low.astype(float).tolist()),
            kept=tuple(kept.tolist()),
        )

    def encode(self, array: Array) -> Encoded:
        """Scale the varying columns; a missing value becomes its column's center."""
        values = array if len(self.kept) == self.n_features else array.take(self.kept, axis=1)
        values = log_counts(values) if self.log else values
        x = scaled(values, self.center, self.scale)
        if finite(x):
            return Encoded(torch.from_numpy(np.require(x, requirements=["C", "W"])))
        observed = ~np.isnan(values)
        mask = observed.astype(np.float32)
        return Encoded(as_tensor(np.where(observed, x, np.float32(0))), torch.from_numpy(mask))

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Undo the scaling and put the constant and the given columns back."""
        framed = bool(self.frame) and (like is None or is_frame(like))
        whole = len(self.kept) == self.n_features
        if whole and not (framed or self.log) and changes_nothing(self.center, self.scale):
            return x.numpy()
        values = np.empty((len(x), self.n_features), np.float64 if framed else np.float32)
        columns, out = np.arange(self.n_features), torch.from_numpy(values)
        near = np.searchsorted(self.kept, columns).clip(max=len(self.kept) - 1)
        places = slice(None) if whole else near
        for rows, part in unscaled(x.numpy(), self.center, self.scale, places):
            out[rows] = part.expm1_().clamp_(min=0) if self.log else part
        constant = np.setdiff1d(columns, self.kept)
        values[:, constant] = np.array(self.constants)[constant]
        if self._given_columns and isinstance(self.condition, Numbers):
            if like is not None:
                given = self.read(like, "the model")[:, self._given_columns]
            else:
                center = torch.zeros(len(x), self.condition.width)
                given = self.condition.units(center if condition is None else condition)
            values[:, self._given_columns] = given
        if not framed:
            return values
        return to_frame(values, self.columns, self.dtypes, self.frame, like)

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        super().check()
        inside = all(i in range(self.n_features) for i in self.kept)
        if not inside or len(self.kept) != self.shape[0]:
            raise DataError("the kept columns of the modality do not fit its shape.")

    def as_batch(self, sample: Any) -> Any:
        """Return a row as a matrix of one row."""
        return sample if is_frame(sample) else np.atleast_2d(sample)

    @property
    def _given_columns(self) -> tuple[int, ...]:
        return () if self.condition is None else self.condition.columns

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, where they are strings."""
        return tuple(name for name in self.columns if isinstance(name, str))

    @property
    def log_units(self) -> Tensor:
        """Log of each varying column's scale."""
        return torch.tensor(self.scale, dtype=torch.float64).log().float()

    @property
    def n_features(self) -> int:
        """Number of columns, constant ones too."""
        return len(self.constants)
