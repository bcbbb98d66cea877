"""Splits: which rows are held out."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrows.errors import DataError

__all__ = ["Rows", "split"]

Rows = NDArray[np.intp]


def split(
    n: int, fraction: float, how: str, seed: int, groups: ArrayLike | None = None
) -> tuple[Rows, Rows]:
    """Return the rows to train on and the rows held out, each in ascending order.

    Args:
        n: number of rows.
        fraction: share to hold out; nothing is held out where that is less than one row.
        how: "random", or "last" for data in the order of time.
        seed: seeds the random choice.
        groups: ``(n,)``; rows of one group stay together.
    """
    rows = np.arange(n)
    if groups is not None:
        labels = np.asarray(groups)
        if labels.shape != (n,):
            raise DataError(f"groups has the shape {labels.shape}; expected ({n},), one a row.")
        names, member = np.unique(labels, return_inverse=True)
        least = 1 / len(names) if fraction and len(names) > 1 else 0.0  # a group at least
        train, _ = split(len(names), max(fraction, least), how, seed)
        kept = np.isin(member, train)
        return rows[kept], rows[~kept]
    held = int(n * fraction + 1e-9)
    order = rows if how == "last" else np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n - held]), np.sort(order[n - held :])
