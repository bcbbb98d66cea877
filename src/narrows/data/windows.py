"""Windows: long recordings cut into pieces that cover every step, and put together again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.data.splits import Rows, split
from narrows.errors import DataError

__all__ = ["cut", "hold_out", "join", "labels", "overlapping", "starts"]

Spans = NDArray[np.int64]
"""``(n, 3)``: the recording that each piece is of, its first step, and the one after its last."""
BLOCKS = 4
"""Blocks of a recording that are held out at random places, at most."""


def starts(length: int, window: int, stride: int) -> NDArray[np.int64]:
    """Return where the windows of a recording begin: the last one ends where the recording does.

    A recording that is shorter than a window has one, which is not full.
    """
    last = max(length - window, 0)
    regular = np.arange(0, last + 1, stride, dtype=np.int64)
    return regular if regular[-1] == last else np.append(regular, last)


def cut(lengths: Sequence[int], window: int, stride: int) -> Spans:
    """Return the pieces of recordings of these lengths; a window of 0 leaves them whole."""
    spans = [
        (i, start, min(length, start + window) if window else length)
        for i, length in enumerate(lengths)
        for start in (starts(length, window, stride).tolist() if window else (0,))
    ]
    return np.array(spans, np.int64).reshape(-1, 3)


def join(pieces: NDArray[Any], spans: Spans, lengths: Sequence[int]) -> list[NDArray[Any]]:
    """Return recordings made of their pieces, ``(n, window, ...)``, the mean where these overlap.

    Every step must lie in a piece.
    """
    shape = pieces.shape[2:]
    totals = [np.zeros((length, *shape)) for length in lengths]
    counts = [np.zeros(length) for length in lengths]
    for piece, (i, start, stop) in zip(pieces, spans.tolist(), strict=True):
        totals[i][start:stop] += piece[: stop - start]
        counts[i][start:stop] += 1
    return [
        (total / count.reshape(-1, *[1] * len(shape))).astype(np.float32)
        for total, count in zip(totals, counts, strict=True)
    ]


def labels(y: NDArray[Any], spans: Spans) -> NDArray[Any] | None:
    """Return a label for each piece: its recording's, or what most steps of the one recording say.

    None where y has neither one for each recording nor, of a single one, one for each step.
    """
    if len(y) == spans[-1, 0] + 1:
        return y[spans[:, 0]]
    if spans[-1, 0] or len(y) != spans[:, 2].max():
        return None
    kinds, steps = np.unique(y, return_inverse=True)
    most = [np.bincount(steps[start:stop]).argmax() for _, start, stop in spans.tolist()]
    return kinds[most]


def overlapping(spans: Spans, rows: Rows, gap: int = 0) -> NDArray[np.bool_]:
    """Tell which pieces are among those in `rows`, or fewer than `gap` steps away from one."""
    found = np.zeros(len(spans), bool)
    for recording in np.unique(spans[rows, 0]):
        taken = spans[rows][spans[rows, 0] == recording]
        edge = int(spans[spans[:, 0] == recording, 2].max())
        steps = np.zeros(edge + 1, np.int64)
        np.add.at(steps, np.maximum(taken[:, 1] - gap, 0), 1)
        np.add.at(steps, np.minimum(taken[:, 2] + gap, edge), -1)
        before = np.append(0, np.cumsum(np.cumsum(steps) > 0))  # how many steps below are taken
        own = spans[:, 0] == recording
        found[own] = before[spans[own, 2]] > before[spans[own, 1]]
    found[rows] = True  # also those without steps
    return found


def hold_out(spans: Spans, fraction: float, how: str, seed: int) -> tuple[Rows, Rows]:
    """Return the pieces to train on and those held out, which share no step.

    Whole recordings are held out where the share amounts to one of several. Else each recording
    gives its last part, or blocks at random places; pieces less than a window away are left out.
    """
    every = np.arange(len(spans))
    count = int(spans[-1, 0]) + 1 if len(spans) else 0
    if count == len(spans):
        return split(len(spans), fraction, how, seed)
    longest = int(np.bincount(spans[:, 0]).max())
    if not int(longest * fraction) and int(len(spans) * fraction):
        fraction = max(fraction, 1 / count)  # none of these has a window to spare
    if int(count * fraction + 1e-9):
        train, _ = split(count, fraction, how, seed)
        kept = np.isin(spans[:, 0], train)
        return every[kept], every[~kept]
    generator, gap = np.random.default_rng(seed), int((spans[:, 2] - spans[:, 1]).max())
    held = np.zeros(len(spans), bool)
    for recording in range(count):
        rows = every[spans[:, 0] == recording]
        near = int((spans[rows, 1] < spans[rows[0], 2] + gap).sum()) - 1
        held[rows[_block(len(rows), near, fraction, how, generator)]] = True
    train = every[~overlapping(spans, every[held], gap)]
    if not len(train):
        raise DataError(
            f"None of the {len(spans)} windows is as far as a window from the {held.sum()} that "
            "are held out. Set validation=0, or a smaller window."
        )
    return train, every[held]


def _block(n: int, near: int, fraction: float, how: str, generator: np.random.Generator) -> Rows:
    """Return the places of the held-out ones among n windows: the last, or in a few blocks.

    Each costs `near` others on either side, so that blocks of few would cost many.
    """
    size = int(n * fraction)
    if how == "last":
        return np.arange(n - size, n)
    blocks = min(BLOCKS, max(1, size // (2 * near + 1)))
    sizes = [len(part) for part in np.array_split(np.arange(size), blocks)]
    free = np.sort(generator.integers(0, n - size + 1, len(sizes)))
    before = np.cumsum([0, *sizes[:-1]])
    return np.concatenate(
        [np.arange(k) + a + b for k, a, b in zip(sizes, free, before, strict=True)]
    ).astype(np.intp)
