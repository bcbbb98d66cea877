"""Conditions: what is known of each sample beside it, as labels or numbers, into tensors."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrows.data.frames import is_frame, open_frame, to_matrix
from narrows.data.tensors import to_array
from narrows.errors import DataError, ParameterError, nearest

__all__ = ["CONDITIONS", "Condition", "Labels", "Numbers", "describe_condition"]

Array = NDArray[Any]
Known = tuple[Tensor, Tensor | None]
"""Conditions ``(n, width)``, and 1 where they are known ``(n,)``, or None where all are."""


@dataclass(frozen=True)
class Condition(ABC):
    """What was learned of the conditions: plain numbers and strings, so that JSON can hold it."""

    name: ClassVar[str]

    columns: tuple[int, ...] = ()
    """Columns of the table that are the condition; empty where it comes as y."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of values that stand for one condition."""

    @abstractmethod
    def learn(self, given: Any, n: int, rows: Array) -> "Condition":
        """Return this condition with what it learns from the training rows, of n, of `given`."""

    @abstractmethod
    def encode(self, given: Any, n: int) -> Known:
        """Return the conditions of n samples as the networks get them.

        Raises:
            DataError: there are none, too few, or unknown ones.
        """

    @abstractmethod
    def wanted(self, condition: Any, n: int) -> Tensor:
        """Return what a user wants for n samples: one condition for all of them, or one each."""

    @abstractmethod
    def common(self, mean: bool) -> list[tuple[float, Tensor]]:
        """Return conditions that stand for all, as the networks get them, with their shares.

        Args:
            mean: whether what is decoded under several of them has a mean.
        """

    @abstractmethod
    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""


@dataclass(frozen=True)
class Labels(Condition):
    """One of a few strings, whole numbers or truth values; -1, NaN, None and "" are unlabelled.

    Attributes:
        values: the labels, sorted.
        shares: how frequent each is among the labelled training samples, with one more of each.
        labelled: share of the training samples that are labelled.
    """

    name = "labels"

    values: tuple[str | int, ...] = ()
    shares: tuple[float, ...] = ()
    labelled: float = 1.0

    @property
    def width(self) -> int:
        """Number of labels: they are one-hot."""
        return len(self.values)

    def learn(self, given: Any, n: int, rows: Array) -> "Labels":
        """Count the labels."""
        index = self.index(given, n)[rows]
        counts = np.bincount(index[index >= 0], minlength=self.width)
        if not counts.any():
            raise DataError("No training sample is labelled: there is no label to learn from.")
        shares = (counts + 1) / (counts + 1).sum()
        labelled = float(counts.sum() / len(index))
        return replace(self, shares=tuple(shares.tolist()), labelled=labelled)

    def encode(self, given: Any, n: int) -> Known:
        """Return one-hot labels, all zero where unlabelled; None leaves all of them so."""
        index = np.full(n, -1) if given is None else self.index(given, n)
        hot = np.zeros((n, self.width), np.float32)
        known = np.flatnonzero(index >= 0)
        hot[known, index[known]] = 1
        complete = len(known) == n
        return torch.from_numpy(hot), None if complete else torch.tensor(index >= 0).float()

    def wanted(self, condition: Any, n: int) -> Tensor:
        """Return one-hot labels, of which none may be missing."""
        one = isinstance(condition, str) or np.ndim(condition) == 0
        hot, known = self.encode([condition] * n if one else condition, n)
        if known is not None:
            raise DataError(f"condition leaves samples unlabelled. Give {self.choice()}.")
        return hot

    def common(self, mean: bool) -> list[tuple[float, Tensor]]:
        """Return every label, or the most frequent one."""
        every = list(zip(self.shares, torch.eye(self.width), strict=True))
        return every if mean else [(1.0, max(every, key=lambda label: label[0])[1])]

    def index(self, given: Any, n: int) -> NDArray[np.intp]:
        """Return each sample's place in `values`, -1 where it is unlabelled."""
        labels = _read_labels(given)
        if len(labels) != n:
            raise DataError(f"There are {len(labels)} labels for {n} samples; give one a sample.")
        known = {(type(value), value): i for i, value in enumerate(self.values)}
        for label in labels:
            if label is not None and (type(label), label) not in known:
                like = nearest(str(label), map(str, self.values))
                raise DataError(
                    f"The label {label!r} was not seen at fit; expected {self.choice()}.{like}"
                )
        return np.array([-1 if v is None else known[type(v), v] for v in labels], np.intp)

    def choice(self) -> str:
        """Return the labels in words."""
        shown = ", ".join(map(repr, self.values[:12]))
        return f"one of {shown}" + (", ..." if len(self.values) > 12 else "")

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        if len(self.values) != len(self.shares) or not self.values or not 0 < self.labelled <= 1:
            raise DataError("the labels of the modality and their shares do not fit.")


@dataclass(frozen=True)
class Numbers(Condition):
    """Real numbers, ``(n, width)``: as y, or columns of the table.

    Attributes:
        names: of the columns.
        center: mean of each.
        scale: standard deviation of each, 1 where it does not vary.
    """

    name = "numbers"

    names: tuple[str, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def among(cls, columns: tuple[str | int, ...], names: tuple[str, ...]) -> "Numbers":
        """Describe some columns of a table, by their names.

        Raises:
            ParameterError: there are no such columns, or no others.
        """
        if not 0 < len(set(names)) < len(columns) or not set(names) <= set(columns):
            raise ParameterError(
                f"The 'condition' parameter names {', '.join(names) or 'no column'}; it must name "
                f"some columns of a data frame, not all. X has the columns {list(columns)}."
            )
        return cls(columns=tuple(map(columns.index, names)), names=names)

    @property
    def width(self) -> int:
        """Number of values."""
        return len(self.center)

    def learn(self, given: Any, n: int, rows: Array) -> "Numbers":
        """Standardise."""
        values = _read_numbers(given)
        if len(values) != n:
            raise DataError(f"There are {len(values)} conditions for {n} samples; give one each.")
        values = values[rows]
        scale = values.std(0)
        scale[scale < 1e-12 * (1 + np.abs(values).max(0))] = 1
        return replace(self, center=tuple(values.mean(0).tolist()), scale=tuple(scale.tolist()))

    def encode(self, given: Any, n: int) -> Known:
        """Return standardised conditions; all must be known."""
        if given is None:
            raise DataError(
                f"The condition is missing: y must hold {self.width} numbers for each sample."
            )
        values = _read_numbers(given)
        if values.shape != (n, self.width):
            raise DataError(
                f"The condition has the shape {values.shape}; expected ({n}, {self.width})."
            )
        scaled = (values - np.array(self.center)) / np.array(self.scale)
        return torch.from_numpy(scaled.astype(np.float32)), None

    def wanted(self, condition: Any, n: int) -> Tensor:
        """Return standardised conditions; a dict gives the columns by name."""
        if isinstance(condition, Mapping):
            if set(condition) != set(self.names):
                raise DataError(
                    f"condition names {sorted(condition)}; expected {list(self.names)}."
                )
            values = [np.broadcast_to(condition[name], n) for name in self.names]
            return self.encode(np.stack(values, 1), n)[0]
        array = condition if is_frame(condition) else np.asarray(condition)
        if array.ndim == 1:
            array = np.tile(array, (n, 1))
        return self.encode(array, n)[0]

    def common(self, mean: bool) -> list[tuple[float, Tensor]]:
        """Return the mean numbers."""
        del mean
        return [(1.0, torch.zeros(self.width))]

    def units(self, condition: Tensor) -> NDArray[np.float64]:
        """Return conditions in the user's units."""
        values = condition.double().numpy() * np.array(self.scale) + np.array(self.center)
        return np.asarray(values, dtype=np.float64)

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        if len(self.center) != len(self.scale) or not self.center:
            raise DataError("center and scale of the condition do not fit one another.")


CONDITIONS: dict[str, type[Condition]] = {"labels": Labels, "numbers": Numbers}


def describe_condition(y: Any) -> Condition:
    """Note what y holds: labels ``(n,)``, or numbers ``(n, columns)``.

    Raises:
        DataError: it holds neither.
    """
    if is_frame(y) or (np.ndim(_as_array(y)) == 2):
        values = _read_numbers(y)
        if values.shape[1] == 1 and not (values % 1).any():
            warnings.warn(
                "y is one column (n, 1) of whole numbers, which are taken for amounts. If they "
                "are labels, give them as (n,), such as y.ravel().",
                stacklevel=4,
            )
        return Numbers()
    labels = {label for label in _read_labels(y) if label is not None}
    below = any(isinstance(label, int) and label < 0 for label in labels)
    if (below or labels == {1}) and -1 in _as_array(y).tolist():
        raise DataError(
            f"y holds -1, which stands for unknown labels, beside {sorted(labels)[0]}, as if it "
            "were a label of its own. Number the labels from 0, or give them as strings."
        )
    if not labels:
        raise DataError("y holds no label: every sample is unlabelled (-1, NaN, None or '').")
    return Labels(values=tuple(sorted(labels)))


def _as_array(y: Any) -> Array:
    if isinstance(y, Tensor):
        y = to_array(y, "y")
    try:
        array = np.asarray(y)
    except ValueError as error:
        raise DataError(
            "y has rows of unequal lengths. Give one label a sample, (n,), or numbers, "
            "(n, columns)."
        ) from error
    return array if array.dtype.kind in "buif" else np.asarray(y, dtype=object)


def _read_labels(y: Any) -> list[str | int | None]:
    array = _as_array(y)
    if array.ndim != 1:
        raise DataError(f"y has the shape {array.shape}; labels are one a sample, (n,).")
    labels = [_label(value) for value in array.tolist()]
    kinds = sorted({type(label).__name__ for label in labels if label is not None})
    if len(kinds) > 1:
        raise DataError(f"y mixes labels of the types {' and '.join(kinds)}. Use one type.")
    return labels


def _label(value: Any) -> str | int | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value in ("", -1):
        return None
    if isinstance(value, str | int):
        return value
    if isinstance(value, float) and np.isnan(value):
        return None
    raise DataError(
        f"y holds {value!r}, which is no label; labels are strings or whole numbers. Real numbers "
        "can be the condition as an array (n, columns)."
    )


def _read_numbers(given: Any) -> NDArray[np.float64]:
    if is_frame(given):
        values = to_matrix(open_frame(given))
    else:
        array = _as_array(given)
        if array.dtype.kind not in "buif" or array.ndim != 2:
            raise DataError(
                f"The condition must be numbers (n, columns); y holds {array.dtype} values of the "
                f"shape {array.shape}."
            )
        values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(
            "The condition contains NaN or infinity. Only labels may be unknown: fill the gaps."
        )
    return values
