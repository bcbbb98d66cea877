"""Reconstruction: how far what comes out is from what went in."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["explained_variance", "explained_variances", "mse", "psnr", "sample_mse"]

Values = NDArray[np.float64]
BLOCK = 4096
"""Samples that are widened to float64 at once."""


def sample_mse(X: ArrayLike, reconstruction: ArrayLike) -> Values:
    """Return the mean squared error of each sample, ``(n,)``, in the data's squared units.

    A value of X that is NaN is missing and does not count; a sample without any gives NaN.
    """
    parts = [_ratio(*_squares(*pair, axis=1)) for pair in _blocks(X, reconstruction)]
    return np.concatenate(parts) if parts else np.zeros(0)


def mse(X: ArrayLike, reconstruction: ArrayLike) -> float:
    """Return the mean squared error over all observed values, in the data's squared units."""
    return float(_ratio(*_totals(X, reconstruction)))


def psnr(X: ArrayLike, reconstruction: ArrayLike, peak: float) -> float:
    """Return the peak signal-to-noise ratio 10 log10(peak² / mse) in decibels."""
    error = mse(X, reconstruction)
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def explained_variance(X: ArrayLike, reconstruction: ArrayLike) -> float:
    """Return 1 - squared errors / squared deviations from the mean of X, over observed values.

    1 is perfect, 0 as good as the mean, NaN where X does not vary.
    """
    error, _ = _totals(X, reconstruction)
    spread, _ = _totals(X, np.broadcast_to(_mean(X), np.shape(X)))
    return float(1 - _ratio(error, spread))


def explained_variances(X: ArrayLike, reconstruction: ArrayLike) -> Values:
    """Return the explained variance of each value of a sample, flat: one a column of a table."""
    mean = np.broadcast_to(_mean(X), np.shape(X))
    error = sum(_squares(*pair, axis=0)[0] for pair in _blocks(X, reconstruction))
    spread = sum(_squares(*pair, axis=0)[0] for pair in _blocks(X, mean))
    return 1 - _ratio(np.asarray(error, np.float64), np.asarray(spread, np.float64))


def _blocks(X: ArrayLike, other: ArrayLike) -> Iterator[tuple[Values, Values]]:
    """Yield both arrays as float64 matrices, a few samples at a time."""
    X, other = np.asarray(X), np.asarray(other)
    for start in range(0, len(X), BLOCK):
        block, beside = (array[start : start + BLOCK] for array in (X, other))
        rows = len(block)
        yield block.reshape(rows, -1).astype(float), beside.reshape(rows, -1).astype(float)


def _squares(X: Values, other: Values, axis: int) -> tuple[Values, Values]:
    """Return the sums of the squared differences where X is observed, and their numbers."""
    observed = ~np.isnan(X)
    squares = np.where(observed, (X - other) ** 2, 0.0)
    return squares.sum(axis), observed.sum(axis).astype(float)


def _totals(X: ArrayLike, other: ArrayLike) -> tuple[Values, Values]:
    sums = [np.stack(_squares(*pair, axis=1)).sum(1) for pair in _blocks(X, other)]
    total, count = np.sum(sums, 0) if sums else np.zeros(2)
    return np.asarray(total), np.asarray(count)


def _mean(X: ArrayLike) -> Values:
    """Return the mean sample over the observed values; 0 where a value never was."""
    total, count = np.zeros(1), np.zeros(1)
    for block, _ in _blocks(X, X):
        observed = ~np.isnan(block)
        total = total + np.where(observed, block, 0.0).sum(0)
        count = count + observed.sum(0)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return mean.reshape(np.shape(X)[1:])


def _ratio(numerator: Values, denominator: Values) -> Values:
    """Divide; NaN where the denominator is zero."""
    nothing = np.full(np.shape(numerator), np.nan)
    divided: Values = np.divide(
        numerator, denominator, out=nothing, where=np.asarray(denominator) > 0
    )
    return divided
