"""Schedules: the learning rate while training goes on, as a share of its peak."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, inf, pi
from typing import TYPE_CHECKING

from narrows.assembly import options_of

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["SCHEDULES", "Schedule", "schedule_of"]


@dataclass
class Schedule:
    """A linear rise over the first `warmup` of the steps, and a course over the others.

    The attributes are fields of the estimator: `Settings` says what they mean.
    """

    warmup: float

    def __call__(self, done: int, steps: int) -> float:
        """Return the share for the step after `done` of `steps`."""
        progress = done / steps
        if progress < self.warmup:
            return self.rise(done, self.warmup * steps)
        return self.course((progress - self.warmup) / (1 - self.warmup))

    def rise(self, done: int, steps: float) -> float:
        """Return the share in the warm-up, whose first step makes a move already."""
        return (done + 1) / (steps + 1)

    def course(self, progress: float) -> float:
        """Return the share at a progress from 0 to 1 through what follows the warm-up."""
        raise NotImplementedError

    def see(self, losses: Sequence[float]) -> None:
        """Look at the losses of the epochs so far; called before each epoch."""


class Constant(Schedule):
    """The peak."""

    def course(self, progress: float) -> float:
        del progress
        return 1.0


class Linear(Schedule):
    """Down to 0 on a straight line."""

    def course(self, progress: float) -> float:
        return 1.0 - progress


@dataclass
class Cosine(Schedule):
    """Down to 0 along half a cosine, and so again in each cycle (Loshchilov & Hutter, 2017)."""

    rate_cycles: int

    def course(self, progress: float) -> float:
        return fallen(progress * self.rate_cycles % 1.0)


@dataclass
class Exponential(Schedule):
    """Down by the same factor in every step, to `rate_factor` at the end."""

    rate_factor: float

    def course(self, progress: float) -> float:
        return float(self.rate_factor**progress)


@dataclass
class Step(Schedule):
    """Down to `rate_factor` of what it was at each of `rate_drops` even places."""

    rate_factor: float
    rate_drops: int

    def course(self, progress: float) -> float:
        return self.rate_factor ** int(progress * (self.rate_drops + 1))


class OneCycle(Schedule):
    """From 1/25 up to the peak and down to 1/250000, along half cosines (Smith & Topin, 2018)."""

    def rise(self, done: int, steps: float) -> float:
        return 1 - fallen(done / steps) * (1 - 1 / 25)

    def course(self, progress: float) -> float:
        return 1 / 250_000 + fallen(progress) * (1 - 1 / 250_000)


@dataclass
class Plateau(Schedule):
    """Down to `rate_factor` of what it was after `rate_patience` epochs without a better loss.

    The share follows from the losses alone, so that a resumed run finds it again.
    """

    rate_factor: float
    rate_patience: int
    share: float = field(default=1.0, init=False)

    def course(self, progress: float) -> float:
        del progress
        return self.share

    def see(self, losses: Sequence[float]) -> None:
        self.share, best, waited = 1.0, inf, 0
        for loss in losses:
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            if waited == self.rate_patience:
                self.share, waited = self.share * self.rate_factor, 0


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "step": Step,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}


def schedule_of(model: "BaseAutoencoder") -> Schedule:
    """Return the model's schedule.

    Raises:
        ParameterError: a field was set that only other schedules read.
    """
    kind = SCHEDULES[model.schedule]
    return kind(**options_of(model, SCHEDULES, "schedule", model.schedule))


def fallen(progress: float) -> float:
    """Return what is left of 1 on the way down to 0 along half a cosine."""
    return 0.5 * (1.0 + cos(pi * progress))
