"""Series: values over time, of one length or of many, or windows of a long recording."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import torch
from torch import Tensor

from narrows.data.arrays import as_numbers, as_tensor, check_range
from narrows.data.frames import (
    check_names,
    dtype_names,
    is_frame,
    open_frame,
    to_frame,
    to_matrix,
)
from narrows.data.modalities.base import Array, Encoded
from narrows.data.modalities.sequence import Sequence, check_windows
from narrows.data.scaling import Range, fit_scaling, log_counts
from narrows.data.stamps import check_stamps, without_stamps
from narrows.data.windows import join
from narrows.errors import DataError

__all__ = ["Series"]

FORMS = (
    "series (n, steps, channels) or (n, steps), or a list of arrays (steps, channels); with "
    "window=, also one recording: a data frame, (steps, channels) or (steps,)"
)


@dataclass(frozen=True)
class Series(Sequence):
    """Values over time; NaN is missing, and the end of shorter series is padded.

    Constant channels are set aside.

    Attributes:
        flat: whether the series have no axis of channels.
        listed: whether they came as a list.
        columns: names of a frame's columns, strings or whole numbers, without that of the stamps.
        dtypes: their types.
        frame: kind of data frame, "" for arrays.
        constants: one value a channel, what decoding starts from.
        kept: the channels that vary; shape, center and scale are theirs.
    """

    name = "series"
    architecture = "mlp"

    flat: bool = False
    listed: bool = False
    columns: tuple[str | int, ...] = ()
    dtypes: tuple[str, ...] = ()
    frame: str = ""
    constants: tuple[float, ...] = ()
    kept: tuple[int, ...] = ()

    @classmethod
    def describe(cls, X: Any, window: int | None = None, stride: int | None = None) -> "Series":
        """Note channels, steps and form; the longest series decides on the steps."""
        window, stride = check_windows(window, stride)
        form = cls(window=window, stride=stride)
        if is_frame(X):
            frame, _ = without_stamps(open_frame(X))
            form = replace(
                form,
                columns=tuple(frame.columns),
                dtypes=dtype_names(frame),
                frame=str(frame.implementation.value),
            )
        recordings = form._open(X)
        first = recordings[0]
        flat = first.ndim == 1
        channels = 1 if flat else first.shape[1]
        listed = isinstance(X, list | tuple) or _is_ragged(X)
        shape = (channels, window or max(map(len, recordings)))
        constants = (0.0,) * channels
        return replace(form, shape=shape, flat=flat, listed=listed, constants=constants)

    def read(self, X: Any, owner: str) -> Array:
        """Check channels, lengths and values; return the samples, NaN where missing."""
        recordings = self._open(X)
        check_stamps(self.stamps(X) if self.window else None)
        channels, steps = len(self.constants), self.shape[1]
        made = []
        for i, given in enumerate(recordings):
            each = given[:, None] if given.ndim == 1 else given
            where = "X" if self._single(X) else f"Series {i} of X"
            if each.shape[1] != channels:
                raise DataError(
                    f"{where} has {each.shape[1]} channels, but {owner} is expecting {channels}."
                )
            if not len(each):
                raise DataError(f"{where} has no steps, while a minimum of 1 is required.")
            if not self.window and len(each) > steps:
                raise DataError(
                    f"{where} has {len(each)} steps, more than the {steps} of the longest that "
                    f"{owner} was fitted on. Cut it, or fit with window=, which takes any length."
                )
            if np.isinf(each).any():
                raise DataError(
                    f"{where} contains infinity, first at step {np.isinf(each).any(1).argmax()}. "
                    "Repair it, or put NaN where values are missing."
                )
            check_range(each, where)
            made.append(each)
        return self._sampled(made)

    def learn(self, array: Array, target: Range) -> "Series":
        """Fit center and scale of every channel that varies."""
        values = array["values"].reshape(-1, len(self.constants))
        unseen = np.isnan(values).all(0)
        if unseen.any():
            first = int(unseen.argmax())
            which = self.columns[first] if self.columns else first
            raise DataError(
                f"Every value of channel {which!r} of X is missing: there is nothing to learn "
                "from. Drop it."
            )
        low, high = np.nanmin(values, 0), np.nanmax(values, 0)
        noise = 8 * np.finfo(values.dtype).eps * np.maximum(np.abs(low), np.abs(high))
        kept = np.flatnonzero(high - low > noise)
        if not len(kept):
            warnings.warn(
                "Every channel of X is constant: there is nothing to learn.", stacklevel=3
            )
            kept, values = np.arange(1), low[None]
        varying = log_counts(values[:, kept]) if target == "log" else values[:, kept]
        center, scale = fit_scaling(varying, target)
        return replace(
            self,
            shape=(len(kept), self.shape[1]),
            center=center,
            scale=scale,
            log=target == "log",
            constants=tuple(low.astype(float).tolist()),
            kept=tuple(kept.tolist()),
        )

    def encode(self, array: Array) -> Encoded:
        """Scale the channels that vary; missing and padded values become 0."""
        values = array["values"][..., list(self.kept)]
        observed = ~np.isnan(values)
        values = log_counts(values) if self.log else values
        scaled = (values - np.array(self.center)) / np.array(self.scale)
        x = np.where(observed, scaled, 0.0).astype(np.float32).transpose(0, 2, 1)
        x = np.ascontiguousarray(x)
        lengths = array["span"][:, 2] - array["span"][:, 1]
        return Encoded(
            as_tensor(x),
            None if observed.all() else _as_mask(observed),
            None if (lengths == self.shape[1]).all() else torch.from_numpy(lengths),
        )

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Undo the scaling and put constant channels back; join windows to recordings `like`.

        Where windows overlap, the mean counts. Without `like` there are as many steps as in the
        longest series, or in a window; in a list, each series ends before the values that are NaN.
        """
        del condition
        varying = x.double().numpy().transpose(0, 2, 1) * np.array(self.scale)
        varying = varying + np.array(self.center)
        varying = np.expm1(varying).clip(0) if self.log else varying
        values = np.where(np.isnan(varying[..., :1]), np.nan, self.constants)  # behind the end
        values[..., list(self.kept)] = varying
        if like is None:
            made = values.astype(np.float32)
            made = np.ascontiguousarray(made[..., 0] if self.flat else made)
            if not self.listed or self.window:
                return made
            ends = (~np.isnan(values[..., 0])).sum(1)
            return [each[:end] for each, end in zip(made, ends, strict=True)]
        return self._restored(join(values, self.spans(like), self.lengths(like)), like)

    def samples(self, X: Any, owner: str) -> Any:
        """Return the windows of X as an array, or X where its series are whole."""
        if not self.window:
            return X
        values = self.read(X, owner)["values"]
        return values[..., 0] if self.flat else values

    def values(self, array: Array) -> Array:
        """Return the values alone, ``(n, steps, channels)``."""
        found: Array = array["values"]
        return found

    def as_batch(self, sample: Any) -> Any:
        """Return one series as a stack of one."""
        if is_frame(sample) or self.window:
            return sample
        axes = 1 if self.flat else 2
        if isinstance(sample, list | tuple):
            return [sample] if len(sample) and np.ndim(sample[0]) == axes - 1 else sample
        sample = np.asarray(sample)
        return sample[None] if sample.ndim == axes else sample

    def lengths(self, X: Any) -> list[int]:
        """Return the number of steps of each series of X."""
        return [len(each) for each in self._open(X)]

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        super().check()
        channels = len(self.constants)
        inside = all(i in range(channels) for i in self.kept)
        if not inside or len(self.kept) != self.shape[0]:
            raise DataError("the kept channels of the modality do not fit its shape.")
        if self.frame and not len(self.columns) == len(self.dtypes) == channels:
            raise DataError("the columns of the modality do not fit its channels.")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the channels: none, since a sample holds each of them at every step."""
        return ()

    @property
    def n_features(self) -> int:
        """Number of steps times channels, constant ones too."""
        return self.shape[1] * len(self.constants)

    @property
    def log_units(self) -> Tensor:
        """Log of each varying channel's scale, ``(channels, 1)``."""
        return torch.tensor(self.scale, dtype=torch.float64).log().float()[:, None]

    def _restored(self, made: list[Array], like: Any) -> Any:
        """Return series in the form of `like`."""
        if is_frame(like):
            return self._framed(made[0].astype(np.float64), like)
        if nw.dependencies.is_into_series(like):
            return _as_series(made[0].astype(np.float64), like)
        made = [
            each[:, 0] if one.ndim == 1 else each
            for each, one in zip(made, self._open(like), strict=True)
        ]
        if self._single(like):
            return made[0]
        return made if isinstance(like, list | tuple) or _is_ragged(like) else np.stack(made)

    def stamps(self, X: Any) -> Any:
        """Return the column of times where a frame has one, else what labels the steps."""
        if is_frame(X) and (name := without_stamps(frame := open_frame(X))[1]):
            return frame[name].to_native()
        return super().stamps(X)

    def _framed(self, values: Array, like: Any) -> Any:
        """Return a frame of the kind and the order of `like`, with its stamps."""
        frame = open_frame(like)
        rest, stamps = without_stamps(frame)
        kind = frame.implementation.value
        made = to_frame(values, self.columns, self.dtypes, kind, rest.to_native())
        if stamps is None:
            return made
        whole = open_frame(made).with_columns(frame[stamps])
        return whole.select(frame.columns).to_native()

    def _single(self, X: Any) -> bool:
        if is_frame(X):
            return True
        if isinstance(X, list | tuple) or _is_ragged(X):
            return False
        return np.ndim(X) == 1 or (np.ndim(X) == 2 and not self._in_rows(np.shape(X)))

    def _in_rows(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a matrix has a series in each row, and is not one recording."""
        return not self.window or (self.flat and shape[1] > 1)

    def _open(self, X: Any) -> list[Array]:
        """Return the recordings of X, ``(steps, channels)`` or ``(steps,)`` each, as floats.

        Raises:
            DataError: X is of another form, or holds no numbers.
        """
        if is_frame(X):
            frame, _ = without_stamps(open_frame(X))
            if not self.window:
                raise DataError(
                    "A data frame is one recording, a row for each time, which modality='series' "
                    "cuts into windows: set window=. Where each row is a series, give "
                    "X.to_numpy()."
                )
            if self.columns:
                check_names(frame.columns, self.columns)
            return [to_matrix(frame)]
        if isinstance(X, list | tuple) or _is_ragged(X):
            return self._listed(X)
        array = _floats(X, "X")
        one = array.ndim == 1 and bool(self.window)
        one |= array.ndim == 2 and not self._in_rows(array.shape)
        if not one and array.ndim not in (2, 3):
            raise DataError(
                f"modality='series' needs {FORMS}. X has the shape {array.shape}. Reshape your "
                "data."
            )
        if 0 in array.shape[:1] + array.shape[1 if one else 2 :]:
            raise DataError(
                f"Found array with 0 sample(s) or channels in X, whose shape is {array.shape}, "
                "while a minimum of 1 is required."
            )
        return [array] if one else list(array)

    def _listed(self, X: Any) -> list[Array]:
        """Return the series of a list, all with or all without an axis of channels."""
        if not len(X):
            raise DataError("Found a list with 0 sample(s) in X while a minimum of 1 is required.")
        made: list[Array] = []
        for i, item in enumerate(X):
            if is_frame(item):
                raise DataError(
                    f"Series {i} of X is a data frame. Give arrays, such as its to_numpy(), or "
                    "one frame that is one recording."
                )
            array = _floats(item, f"Series {i} of X")
            if array.ndim not in (1, 2) or (made and array.ndim != made[0].ndim):
                wanted = ["(steps,)", "(steps, channels)"]
                wanted = [wanted[made[0].ndim - 1] + ", as series 0 has"] if made else wanted
                raise DataError(
                    f"Series {i} of X has the shape {array.shape}; expected {' or '.join(wanted)}."
                )
            if made and array.shape[1:] != made[0].shape[1:]:
                raise DataError(
                    f"Series {i} of X has {array.shape[1]} channels where series 0 has "
                    f"{made[0].shape[1]}. Give all of them the same channels."
                )
            made.append(array)
        return made


def _floats(X: Any, where: str) -> Array:
    array = as_numbers(X, where, "series")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
    return array


def _is_ragged(X: Any) -> bool:
    """Tell whether X is an array whose entries are arrays."""
    return isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1


def _as_series(values: Array, like: Any) -> Any:
    """Return a series of the kind, name, type and index of `like`."""
    series = nw.from_native(like, series_only=True)
    frame = series.alias("values").to_frame()
    kind = series.implementation.value
    made = to_frame(values, ["values"], dtype_names(frame), kind, frame.to_native())
    return open_frame(made)["values"].alias(series.name).to_native()


def _as_mask(observed: Array) -> Tensor:
    mask = observed.transpose(0, 2, 1).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(mask))
