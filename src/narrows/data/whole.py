"""Whole numbers: what the likelihoods of counts and levels can explain."""

from torch import Tensor

from narrows.errors import DataError

__all__ = ["check_whole"]


def check_whole(values: Tensor, levels: int) -> float:
    """Return the largest of whole numbers ≥ 0; `levels` of them are known, or 0 for no end.

    Raises:
        DataError: some are negative, no whole numbers, or beyond the levels.
    """
    wrong = (values < 0) | (values != values.round())
    if wrong.any():
        raise DataError(
            "This likelihood explains whole numbers ≥ 0; X holds others, such as "
            f"{float(values[wrong][0]):.6g}. Give the raw numbers, or use likelihood='gaussian'."
        )
    highest = float(values.max())
    if levels and highest >= levels:
        raise DataError(
            f"X holds the number {highest:.6g}; the model was fitted on the {levels} levels from "
            f"0 to {levels - 1}. Fit on data that hold every level."
        )
    return highest
