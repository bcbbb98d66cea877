"""What series and text have in common: steps of any number, and windows of long recordings."""

from abc import abstractmethod
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrows.data.frames import index_of
from narrows.data.modalities.base import Array, Modality
from narrows.data.splits import Rows
from narrows.data.windows import cut, hold_out, join, overlapping
from narrows.errors import DataError, ParameterError

__all__ = ["Sequence", "check_windows"]


@dataclass(frozen=True)
class Sequence(Modality):
    """Samples of unequal lengths, which are padded, or windows of long recordings.

    `read` returns a structured array: "values" ``(steps, channels)`` of each sample, and "span",
    the recording that it is of, its first step there, and the one after its last.

    Attributes:
        window: steps of a window; 0 where recordings are samples.
        stride: steps from one window to the next.
    """

    ends: ClassVar[int] = 0
    """Steps that a sample has beside those of its recording."""

    window: int = 0
    stride: int = 0

    @abstractmethod
    def lengths(self, X: Any) -> list[int]:
        """Return the number of steps of each recording of X."""

    def spans(self, X: Any) -> NDArray[np.int64]:
        """Return where the samples of X lie in it, ``(n, 3)``, in the order of codes and scores.

        They are the number of the recording, the sample's first step in it, and the step after
        its last.
        """
        return cut(self.lengths(X), self.window, self.stride)

    def spread(self, X: Any, values: ArrayLike) -> Any:
        """Return the mean of each step's windows: an array, or a list of them for a list.

        Args:
            X: recordings.
            values: one for each sample of X, such as its scores: ``(n, ...)``.
        """
        lengths, spans, given = self.lengths(X), self.spans(X), np.asarray(values)
        if len(given) != len(spans):
            raise DataError(
                f"There are {len(given)} values for the {len(spans)} samples of X; give one each."
            )
        longest = int((spans[:, 2] - spans[:, 1]).max())
        pieces = np.broadcast_to(given[:, None], (len(given), longest, *given.shape[1:]))
        made = join(pieces, spans, lengths)
        return made[0] if self._single(X) else made

    def stamps(self, X: Any) -> Any:
        """Return what labels the steps of a recording, or recordings; None where nothing does."""
        return index_of(X)

    def labelled(self, codes: Array, X: Any) -> Any:
        """Label windows with the stamp of their first step, or with the entry that they are of."""
        labels = self.stamps(X)
        if labels is None or not self.window:
            return codes
        import pandas as pd

        first = self.spans(X)[:, 1 if self._single(X) else 0]
        labels = labels.to_pandas() if hasattr(labels, "to_pandas") else labels
        return pd.DataFrame(codes, pd.Index(labels)[first])

    def split(
        self, array: Array, fraction: float, how: str, seed: int, groups: ArrayLike | None = None
    ) -> tuple[Rows, Rows]:
        """Hold out recordings, or blocks of them behind a gap that no training window reaches."""
        spans = array["span"]
        if groups is None:
            return hold_out(spans, fraction, how, seed)
        if len(np.unique(spans[:, 0])) < len(spans):
            raise DataError(
                "groups cannot be given for windows: those of a recording are held out together, "
                "in blocks. Leave groups out."
            )
        return super().split(array, fraction, how, seed, groups)

    def apart(self, X: Any, rows: Rows) -> Rows:
        """Return the samples of X that share no step with those in `rows`."""
        return np.flatnonzero(~overlapping(self.spans(X), rows))

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        super().check()
        fits = self.window in (0, self.shape[-1] - self.ends) and 0 <= self.stride <= self.window
        if len(self.shape) != 2 or not fits or (self.stride == 0) != (self.window == 0):
            raise DataError("window, stride and shape of the modality do not fit one another.")

    @property
    def n_features(self) -> int:
        """Number of steps times channels."""
        return int(np.prod(self.shape))

    @abstractmethod
    def _single(self, X: Any) -> bool:
        """Tell whether X is one recording, not several."""

    def _sampled(self, recordings: Items[Array]) -> Array:
        """Return the samples of recordings ``(steps, channels)``, as `read` does.

        Padding is NaN, or 0 where the values are whole numbers.
        """
        channels, steps = recordings[0].shape[1], self.shape[1]
        spans = cut([len(each) for each in recordings], self.window, self.stride)
        kind = np.result_type(*{each.dtype for each in recordings})
        form = [("values", kind, (steps, channels)), ("span", np.int64, (3,))]
        array = np.zeros(len(spans), form)
        array["values"] = np.nan if kind.kind == "f" else 0
        array["span"] = spans
        for values, (i, start, stop) in zip(array["values"], spans.tolist(), strict=True):
            values[: stop - start] = recordings[i][start:stop]
        return array


def check_windows(window: int | None, stride: int | None) -> tuple[int, int]:
    """Return window and stride, 0 where there are none.

    Raises:
        ParameterError: the stride leaves steps out, or has no window.
    """
    if stride is not None and window is None:
        raise ParameterError(
            f"stride={stride} is the way from one window to the next and has no effect without "
            "one. Set window, or leave stride at None."
        )
    if window is not None and stride is not None and stride > window:
        raise ParameterError(
            f"stride={stride} is larger than window={window}: steps between two windows would be "
            "left out. Set a stride from 1 to the window."
        )
    return window or 0, stride or window or 0
