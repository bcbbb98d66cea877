"""Schedules: how far a weight has risen, from 0 to 1, at a given progress of training."""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

__all__ = ["COURSES", "risen"]


def constant(progress: Tensor, share: float, cycles: int) -> Tensor:
    """Return 1 at any time."""
    del share, cycles
    return torch.ones_like(progress)


def linear(progress: Tensor, share: float, cycles: int = 1) -> Tensor:
    """Rise evenly over the first `share` of training, then stay (Bowman et al., 2016)."""
    del cycles
    return (progress / share).clamp(max=1)


def cosine(progress: Tensor, share: float, cycles: int = 1) -> Tensor:
    """Rise along half a cosine: slowly at both ends."""
    return 0.5 * (1 - torch.cos(pi * linear(progress, share, cycles)))


def cyclic(progress: Tensor, share: float, cycles: int) -> Tensor:
    """Rise evenly over `share` of each of the cycles, stay, and fall to 0 (Fu et al., 2019)."""
    turns = progress * cycles
    return linear(turns - turns.floor().clamp(max=cycles - 1), share)


COURSES: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cyclic": cyclic,
}


def risen(course: str, progress: Tensor, share: float, cycles: int) -> Tensor:
    """Return how far a weight has risen, 0-d in [0, 1].

    Args:
        course: one of `COURSES`.
        progress: how far training is, 0-d in [0, 1].
        share: of training, or of each cycle, over which the weight rises.
        cycles: how often it rises, where the course repeats.
    """
    return COURSES[course](progress, share, cycles)
