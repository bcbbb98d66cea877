"""Stamps: the times of a recording's rows, which must rise and should rise evenly."""

import warnings
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from narrows.data.frames import Frame
from narrows.errors import DataError

__all__ = ["check_stamps", "without_stamps"]

WIDE = 1.5
"""How many times the usual time between two rows makes a hole."""
RARE = 0.05
"""The share of rows behind a hole up to which it is one, and not how the rows were taken."""


def without_stamps(frame: Frame) -> tuple[Frame, str | None]:
    """Return a frame without its one column of times, and that column's name."""
    stamps = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    if len(stamps) > 1:
        raise DataError(
            f"X has more than one column of times: {', '.join(stamps)}. Keep one of them, as the "
            "stamps."
        )
    if len(stamps) == len(frame.columns):
        raise DataError("X has no columns of values: give at least one beside the stamps.")
    return (frame.drop(stamps), stamps[0]) if stamps else (frame, None)


def check_stamps(stamps: Any) -> None:
    """Refuse times that do not rise from row to row, and warn of holes between them.

    What is no time is passed over.
    """
    if nw.dependencies.is_into_series(stamps):
        times: Any = nw.from_native(stamps, series_only=True)
        spans = (times - times.shift(1)).dt.total_microseconds()
        steps = spans.fill_null(0).to_numpy()[1:]
    elif hasattr(stamps, "freq"):  # pandas' index of times, spans of time or periods
        times, steps = stamps, np.diff(stamps.asi8) * (stamps[1:] > stamps[:-1])
    else:
        return
    if (steps <= 0).any():
        i = int((steps <= 0).argmax()) + 1
        raise DataError(
            f"Row {i} of X has the stamp {times[i]}, which is not after {times[i - 1]} in the row "
            "before it. Sort the rows by their stamps, one row for each."
        )
    if len(holes := _holes(steps)):
        i = int(holes[0])
        warnings.warn(
            f"X has {len(holes)} hole{'s' * (len(holes) > 1)} in its stamps, first between "
            f"{times[i]} and {times[i + 1]}: windows take the rows on both sides for neighbours. "
            "Put in rows of NaN, or give a list of the unbroken parts.",
            stacklevel=4,
        )


def _holes(steps: NDArray[Any]) -> NDArray[np.int64]:
    """Return behind which rows the time to the next one is longer than usual, if that is rare."""
    if not len(steps):
        return np.empty(0, np.int64)
    found = np.flatnonzero(steps > WIDE * np.median(steps))
    return found if len(found) <= RARE * len(steps) else found[:0]
