"""Modalities: learned at fit, they turn the user's data into tensors and back."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrows.data.arrays import as_matrix, as_numbers, as_plain, as_tensor
from narrows.data.conditions import CONDITIONS, Condition, Numbers
from narrows.data.frames import check_names, dtype_names, is_frame, open_frame, to_frame, to_matrix
from narrows.data.scaling import Range, fit_scaling, log_counts
from narrows.data.whole import check_whole
from narrows.errors import DataError

__all__ = ["MODALITIES", "Image", "Modality", "Table", "modality_of"]

Array = NDArray[Any]
CHANNELS = (1, 3, 4)
WHOLE = ("uint8", "uint16")
"""Types of pixels that come back as they were; all others come back as float32."""


@dataclass(frozen=True)
class Modality(ABC):
    """What was learned of the user's data: plain numbers and strings, so that JSON can hold it.

    It is made in three steps: `describe` notes the form of the data, `read` checks data against
    it and returns one array with the samples first, `learn` fits the scaling on the training
    rows of that array. From then on `encode` and `decode` go between such arrays and tensors.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    """The architecture where the user names none."""

    shape: tuple[int, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    condition: Condition | None = None
    """What is known of each sample beside it, for models that take it."""
    log: bool = False
    """Whether center and scale are those of log(1 + x)."""
    whole: bool = False
    """Whether the likelihood explains whole numbers as they are; only the encoder sees x."""
    levels: int = 0
    """How many whole numbers there are, from 0; 0 where there is no end."""

    @classmethod
    @abstractmethod
    def describe(cls, X: Any) -> "Modality":
        """Note the form of the data: shape, names, types."""

    @abstractmethod
    def read(self, X: Any, owner: str) -> Array:
        """Check data against this form; return one array, NaN where missing.

        Raises:
            DataError: with what was found and what `owner`, the model, expects.
        """

    @abstractmethod
    def learn(self, array: Array, target: Range) -> "Modality":
        """Return this modality with its scaling fitted to the rows of `array`."""

    @abstractmethod
    def encode(self, array: Array) -> tuple[Tensor, Tensor | None]:
        """Return float32 samples ``(n, *shape)``, and the mask of the observed values or None."""

    def counted(self, array: Array, support: str) -> "Modality":
        """Return this modality for a likelihood of this support, once it is learned.

        Raises:
            DataError: the likelihood explains whole numbers, and these are others.
        """
        if support not in ("counts", "levels"):
            return self
        whole = replace(self, whole=True)
        highest = int(check_whole(whole.explained.encode(array)[0], 0))
        if array.dtype == np.uint8 and highest > 127:
            highest = 255
        return replace(whole, levels=highest + 1 if support == "levels" else 0)

    @property
    def explained(self) -> "Modality":
        """The modality of what the likelihood explains: this one, or unscaled whole numbers."""
        if not self.whole:
            return self
        n = len(self.center)
        return replace(self, center=(0.0,) * n, scale=(1.0,) * n, log=False)

    def target(self, array: Array) -> Tensor | None:
        """Return what the likelihood explains, shaped like x; None where it is x.

        Raises:
            DataError: it must be whole numbers, and is not.
        """
        if not self.whole:
            return None
        values = self.explained.encode(array)[0]
        check_whole(values, self.levels)
        return values

    @abstractmethod
    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Return samples in the user's own type, shape and units.

        `like` lends its row index, and the columns that are given; else `condition` does.
        """

    def given(self, array: Array, y: Any) -> Any:
        """Return the users' conditions of the rows of `array`: columns of it, or y."""
        columns = () if self.condition is None else self.condition.columns
        return array[:, columns] if columns else y

    def conditions(self, array: Array, y: Any) -> tuple[Tensor | None, Tensor | None]:
        """Return the conditions of the rows of `array`, and which are known; None without any."""
        if self.condition is None:
            return None, None
        return self.condition.encode(self.given(array, y), len(array))

    @abstractmethod
    def as_batch(self, sample: Any) -> Any:
        """Return one sample as data with a single row; data of rows are left as they are."""

    @property
    @abstractmethod
    def log_units(self) -> Tensor:
        """Log of the data's units per unit of x, broadcastable to a sample."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of values in one of the user's samples."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, empty where they have none."""
        return ()

    def state(self) -> dict[str, Any]:
        """Return the modality as JSON data."""
        state = {"name": self.name, **asdict(self)}
        if self.condition is not None:
            state["condition"] |= {"name": self.condition.name}
        return state

    @staticmethod
    def restore(state: dict[str, Any]) -> "Modality":
        """Return the modality that `state` describes."""
        fields: dict[str, Any] = _tuples(state)
        if fields.get("condition") is not None:
            condition = _tuples(fields["condition"])
            fields["condition"] = CONDITIONS[str(condition.pop("name"))](**condition)
            fields["condition"].check()
        modality = MODALITIES[str(fields.pop("name"))](**fields)
        modality.check()
        return modality

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another.

        Raises:
            DataError: lengths or types differ.
        """
        numbers = all(isinstance(v, float | int) for v in (*self.center, *self.scale))
        if not numbers or not len(self.center) == len(self.scale) == self.shape[0]:
            raise DataError("center, scale and shape of the modality do not fit one another.")
        if [type(v) for v in (self.log, self.whole, self.levels)] != [bool, bool, int]:
            raise DataError("log, whole and levels of the modality are not of their types.")


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
        seen = ~np.isnan(array).all(0)
        if not seen.any():
            raise DataError("Every value of X is missing: there is nothing to learn from.")
        low = np.nanmin(array, 0, where=seen, initial=np.inf)
        high = np.nanmax(array, 0, where=seen, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            noise = 8 * np.finfo(array.dtype).eps * np.maximum(np.abs(low), np.abs(high))
            varies = seen & (high - low > noise)
        varies[list(self._given_columns)] = False
        kept = np.flatnonzero(varies)
        if not len(kept):
            warnings.warn(
                "Every column of X is constant: there is nothing to learn.", stacklevel=3
            )
            kept = np.setdiff1d(np.arange(self.n_features), self._given_columns)[:1]
        columns = log_counts(array[:, kept]) if target == "log" else array[:, kept]
        center, scale = fit_scaling(columns, target)
        constants = tuple(np.where(seen, low, np.nan).astype(float).tolist())
        return replace(
            self,
            shape=(len(kept),),
            center=center,
            scale=scale,
            log=target == "log",
            constants=constants,
            kept=tuple(kept.tolist()),
        )

    def encode(self, array: Array) -> tuple[Tensor, Tensor | None]:
        """Scale the varying columns; a missing value becomes its column's center."""
        values = array if len(self.kept) == self.n_features else array[:, self.kept]
        observed = ~np.isnan(values)
        values = log_counts(values) if self.log else values
        x = ((values - np.array(self.center)) / np.array(self.scale)).astype(np.float32)
        if observed.all():
            return as_tensor(x), None
        mask = observed.astype(np.float32)
        return as_tensor(np.where(observed, x, np.float32(0))), torch.from_numpy(mask)

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Undo the scaling and put the constant and the given columns back."""
        values = np.tile(np.array(self.constants), (len(x), 1))
        if self._given_columns and isinstance(self.condition, Numbers):
            if like is not None:
                given = self.read(like, "the model")[:, self._given_columns]
            else:
                center = torch.zeros(len(x), self.condition.width)
                given = self.condition.units(center if condition is None else condition)
            values[:, self._given_columns] = given
        varying = x.double().numpy() * np.array(self.scale) + np.array(self.center)
        values[:, self.kept] = np.expm1(varying).clip(0) if self.log else varying
        if not self.frame or not (like is None or is_frame(like)):
            return values.astype(np.float32)
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


@dataclass(frozen=True)
class Image(Modality):
    """Images of one size, ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``.

    Attributes:
        layout: where the channels are: "last", "first", or "" for none.
        dtype: "uint8", "uint16" or "float32", what decoding returns.
    """

    name = "image"
    architecture = "conv"

    layout: str = ""
    dtype: str = "float32"

    @classmethod
    def describe(cls, X: Any) -> "Image":
        """Note size, layout and type."""
        X = as_numbers(X)
        if X.ndim == 3:
            shape, layout = (1, *X.shape[1:]), ""
        elif X.ndim == 4 and X.shape[1] in CHANNELS and X.shape[3] in CHANNELS:
            raise DataError(
                f"X has the shape {X.shape}, whose channels may come first or last. Drop an axis "
                "of length 1, or pad the images to another width."
            )
        elif X.ndim == 4 and X.shape[1] in CHANNELS:
            shape, layout = X.shape[1:], "first"
        elif X.ndim == 4:
            shape, layout = (X.shape[3], *X.shape[1:3]), "last"
        else:
            raise DataError(
                "modality='image' needs images (n, height, width), (n, height, width, channels) "
                f"or (n, channels, height, width); X has the shape {X.shape}. Reshape your data."
            )
        if 0 in shape:
            raise DataError(f"X holds images without pixels: its shape is {X.shape}.")
        dtype = X.dtype.name if X.dtype.name in WHOLE else "float32"
        return cls(shape, layout=layout, dtype=dtype)

    def read(self, X: Any, owner: str) -> Array:
        """Check size and values; return ``(n, c, h, w)``, whole pixels as they are."""
        X = as_numbers(X)
        channels, *size = self.shape
        sample = {"": (*size,), "last": (*size, channels), "first": self.shape}[self.layout]
        if X.shape[1:] != sample:
            raise DataError(
                f"{owner} is expecting images of shape (n, {', '.join(map(str, sample))}); X has "
                f"the shape {X.shape}. Give images of the size and channel order seen at fit."
            )
        if X.dtype.name != self.dtype and {X.dtype.name, self.dtype} & set(WHOLE):
            raise DataError(
                f"{owner} was fitted on {self.dtype} images; X holds {X.dtype}, which would be "
                "read on another scale. Convert X."
            )
        if not len(X):
            raise DataError("Found array with 0 sample(s) in X while a minimum of 1 is required.")
        if self.dtype not in WHOLE:
            X = X.astype(np.float32, copy=False)
            broken = ~np.isfinite(X).reshape(len(X), -1).all(1)
            if broken.any():
                raise DataError(
                    f"X contains NaN or infinity in {broken.sum()} of its {len(X)} images, first "
                    f"in image {broken.argmax()}. Repair or remove them."
                )
        return np.moveaxis(X, -1, 1) if self.layout == "last" else X.reshape(-1, *self.shape)

    def learn(self, array: Array, target: Range) -> "Image":
        """Fit one center and scale a channel, or one for all where a range is asked for."""
        joint = target in ("unit", "symmetric")
        pixels = (
            array.reshape(-1, 1) if joint else np.moveaxis(array, 1, -1).reshape(-1, self.shape[0])
        )
        pixels = log_counts(pixels) if target == "log" else pixels
        bounds = (0.0, 255.0) if array.dtype == np.uint8 else None
        center, scale = fit_scaling(pixels, target, bounds)
        return replace(self, center=center, scale=scale, log=target == "log")

    def encode(self, array: Array) -> tuple[Tensor, Tensor | None]:
        """Scale the pixels."""
        x = torch.from_numpy(np.array(array, np.float32, order="C"))  # always a copy
        x = x.clamp_(min=0).log1p_() if self.log else x
        return x.sub_(self._pixel(self.center)).div_(self._pixel(self.scale)), None

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Undo the scaling; whole pixels are rounded and clipped."""
        del like, condition
        pixels = x.float() * self._pixel(self.scale) + self._pixel(self.center)
        pixels = pixels.expm1_().clamp_(min=0) if self.log else pixels
        if self.dtype in WHOLE:
            whole = getattr(torch, self.dtype)
            pixels = pixels.round_().clamp_(0, torch.iinfo(whole).max).to(whole)
        pixels = pixels.movedim(1, -1) if self.layout == "last" else pixels
        pixels = pixels.squeeze(1) if self.layout == "" else pixels
        return pixels.contiguous().numpy()

    def as_batch(self, sample: Any) -> Any:
        """Return an image as a stack of one."""
        sample = np.asarray(sample)
        return sample[None] if sample.ndim == (3 if self.layout else 2) else sample

    @property
    def log_units(self) -> Tensor:
        """Log of each channel's scale, ``(c, 1, 1)``."""
        return self._pixel(self.scale).log()

    @property
    def n_features(self) -> int:
        """Number of pixels times channels."""
        return int(np.prod(self.shape))

    def _pixel(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values).view(-1, 1, 1)


def _tuples(state: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in state.items()}


MODALITIES: dict[str, type[Modality]] = {"table": Table, "image": Image}


def modality_of(X: Any, name: str = "auto") -> Modality:
    """Describe X as the named modality, or as the only one that it can be.

    Raises:
        DataError: if "auto" finds more than one reading.
    """
    if name == "table":
        return replace(Table.describe(X), missing=True)
    if name == "image":
        return Image.describe(X)
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
