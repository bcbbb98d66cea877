"""Samples on a grid: what images and volumes of one size have in common."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from narrows.data.arrays import as_numbers
from narrows.data.modalities.base import Array, Encoded, Modality
from narrows.data.scaling import Range, fit_scaling, log_counts
from narrows.data.sources import Units
from narrows.errors import DataError

__all__ = ["Grid"]

WHOLE = ("uint8", "uint16")
"""Types of values that come back as they were; all others come back as float32."""


@dataclass(frozen=True)
class Grid(Modality):
    """Samples of one size, without channels, with channels last, or with channels first.

    Attributes:
        layout: where the channels are: "last", "first", or "" for none.
        dtype: "uint8", "uint16" or "float32", what decoding returns.
    """

    architecture = "conv"
    plural: ClassVar[str]
    """What many samples are called."""
    points: ClassVar[str]
    """What they are made of."""
    sides: ClassVar[tuple[str, ...]]
    """The axes of a sample."""
    channels: ClassVar[tuple[int, ...]] = (1, 3, 4)
    """How many there are where they tell which axis is theirs."""

    layout: str = ""
    dtype: str = "float32"

    @classmethod
    def describe(cls, X: Any) -> Self:
        """Note size, layout and type."""
        X = as_numbers(X, what=cls.plural)
        plain = X.ndim == 1 + len(cls.sides)
        if not plain and X.ndim != 2 + len(cls.sides):
            axes = ", ".join(cls.sides)
            raise DataError(
                f"modality='{cls.name}' needs {cls.plural} (n, {axes}), (n, {axes}, channels) or "
                f"(n, channels, {axes}); X has the shape {X.shape}. Reshape your data."
            )
        first, last = X.shape[1] in cls.channels, X.shape[-1] in cls.channels
        if plain:
            shape, layout = (1, *X.shape[1:]), ""
        elif first == last and (first or X.shape[1] == X.shape[-1]):
            raise DataError(
                f"X has the shape {X.shape}, whose channels may come first or last. Drop an axis "
                f"of length 1, or pad the {cls.plural} to another width."
            )
        elif first or (not last and X.shape[1] < X.shape[-1]):  # the fewer are channels
            shape, layout = X.shape[1:], "first"
        else:
            shape, layout = (X.shape[-1], *X.shape[1:-1]), "last"
        if 0 in shape:
            raise DataError(f"X holds {cls.plural} without {cls.points}: its shape is {X.shape}.")
        dtype = X.dtype.name if X.dtype.name in WHOLE else "float32"
        return cls(shape, layout=layout, dtype=dtype)

    def read(self, X: Any, owner: str) -> Array:
        """Check size and values; return ``(n, c, ...)``, whole values as they are."""
        X = as_numbers(X, what=self.plural)
        channels, *size = self.shape
        sample = {"": (*size,), "last": (*size, channels), "first": self.shape}[self.layout]
        if X.shape[1:] != sample:
            raise DataError(
                f"{owner} is expecting {self.plural} of shape (n, {', '.join(map(str, sample))}); "
                f"X has the shape {X.shape}. Give {self.plural} of the size and channel order "
                "seen at fit."
            )
        if X.dtype.name != self.dtype and {X.dtype.name, self.dtype} & set(WHOLE):
            raise DataError(
                f"{owner} was fitted on {self.dtype} {self.plural}; X holds {X.dtype}, which "
                "would be read on another scale. Convert X."
            )
        if not len(X):
            raise DataError("Found array with 0 sample(s) in X while a minimum of 1 is required.")
        if self.dtype not in WHOLE:
            with np.errstate(over="ignore"):
                X = X.astype(np.float32, copy=False)
            broken = ~np.isfinite(X).reshape(len(X), -1).all(1)
            if broken.any():
                raise DataError(
                    f"X contains NaN, infinity or values too large for float32 in {broken.sum()} "
                    f"of its {len(X)} {self.plural}, first in {self.name} {broken.argmax()}. "
                    "Repair or remove them."
                )
        return np.moveaxis(X, -1, 1) if self.layout == "last" else X.reshape(-1, *self.shape)

    def learn(self, array: Array, target: Range) -> Self:
        """Fit one center and scale a channel, or one for all where a range is asked for."""
        joint = target in ("unit", "symmetric")
        values = (
            array.reshape(-1, 1) if joint else np.moveaxis(array, 1, -1).reshape(-1, self.shape[0])
        )
        if (values == values[:1]).all():
            warnings.warn(
                "Every channel of X is constant: there is nothing to learn.", stacklevel=3
            )
        values = log_counts(values) if target == "log" else values
        bounds = (0.0, 255.0) if array.dtype == np.uint8 else None
        center, scale = fit_scaling(values, target, bounds)
        each = self.shape[0] if joint else 1
        return replace(self, center=center * each, scale=scale * each, log=target == "log")

    def encode(self, array: Array) -> Encoded:
        """Scale the values."""
        x = torch.from_numpy(np.array(array, np.float32, order="C"))  # always a copy
        x = x.clamp_(min=0).log1p_() if self.log else x
        return Encoded(x.sub_(self._channel(self.center)).div_(self._channel(self.scale)))

    def rest(self, array: Array) -> tuple[Encoded, Units | None]:
        """Leave bytes as they are, with what scales them."""
        if array.dtype != np.uint8 or self.log:
            return self.encode(array), None
        units = Units(self._channel(self.center), self._channel(self.scale))
        return Encoded(torch.from_numpy(np.array(array, order="C"))), units

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Undo the scaling; whole values are rounded and clipped."""
        del like, condition
        values = x.float().mul(self._channel(self.scale)).add_(self._channel(self.center))
        values = values.expm1_().clamp_(min=0) if self.log else values
        if self.dtype in WHOLE:
            whole = getattr(torch, self.dtype)
            values = values.round_().clamp_(0, torch.iinfo(whole).max).to(whole)
        values = values.movedim(1, -1) if self.layout == "last" else values
        values = values.squeeze(1) if self.layout == "" else values
        return values.contiguous().numpy()

    def as_batch(self, sample: Any) -> Any:
        """Return a sample as a stack of one."""
        sample = np.asarray(sample)
        return sample[None] if sample.ndim == len(self.sides) + bool(self.layout) else sample

    @property
    def log_units(self) -> Tensor:
        """Log of each channel's scale, ``(c, 1, ...)``."""
        return self._channel(self.scale).log()

    @property
    def n_features(self) -> int:
        """Number of places times channels."""
        return int(np.prod(self.shape))

    def _channel(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values).view(-1, *(1 for _ in self.sides))
