"""The log of an epoch: sums of named terms, which stop at a value that is not finite."""

from collections.abc import Mapping, Sized
from math import isfinite
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from narrows.errors import NonFiniteError
from narrows.net import Terms

if TYPE_CHECKING:
    from narrows.training import Training

__all__ = ["Log", "Row"]

Row = dict[str, float]
"""One epoch of the history: every named term, for train and validation."""


class Log:
    """Sums terms over an epoch without waiting for the device at every step.

    Args:
        training: the run, which errors speak of.
        step: steps of the epoch that are done already.
        sums: what they add up to: each term's sum, and the samples in it.
    """

    def __init__(
        self, training: "Training", step: int = 0, sums: Mapping[str, list[float]] | None = None
    ) -> None:
        self.training, self.step = training, step
        # A GPU is not to be waited for. On a CPU, small tensors that stay would split the memory
        # that large ones of later steps need whole.
        self.every = 16 if training.device.type == "cpu" else 256
        self.sums = dict(sums or {})
        self.pending: dict[str, list[tuple[Tensor, int, int]]] = {}

    def add(self, terms: Terms, batch: Sized) -> None:
        """Note the terms of one batch of so many samples."""
        self.step += 1
        count = len(batch)
        for name, value in terms.items():
            self.pending.setdefault(name, []).append((value, count, self.step))
        if self.step % self.every == 0:
            self.flush()

    def means(self) -> Row:
        """Return the mean of every term over the samples."""
        self.flush()
        return {name: value / count for name, (value, count) in self.sums.items()}

    def flush(self) -> None:
        """Bring what is pending to the host, and stop at a value that is not finite.

        Sums grow value by value, so that they are the same bits whenever this is called.
        """
        for name, notes in self.pending.items():
            values = torch.stack([value for value, _, _ in notes]).double().tolist()
            total, samples = self.sums.get(name, (0.0, 0.0))
            for value, (_, count, step) in zip(values, notes, strict=True):
                if not isfinite(value):
                    self.fail(f"term '{name}'", value, step)
                total += value * count
                samples += count
            self.sums[name] = [total, samples]
        self.pending.clear()

    def state(self) -> dict[str, Any]:
        """Return what another log goes on from, as JSON data."""
        self.flush()
        return {"step": self.step, "sums": dict(self.sums)}

    def fail(self, what: str, value: float, step: int) -> NoReturn:
        """Say where the numbers were left."""
        training, name = self.training, type(self.training.model).__name__
        epoch = training.epoch + (training.position > 0)  # else it has just ended
        good = f"epoch {epoch - 1} was the last good one" if epoch > 1 else "no epoch was good"
        share = 2**training.recovery.retries
        tried = f", at 1/{share} of the learning rate" if share > 1 else ""
        raise NonFiniteError(
            f"The {what} of {name} became {value} at step {step} of epoch {epoch}{tried}; {good}. "
            f"Lower learning_rate (now {training.model.learning_rate}), set gradient_clip, or "
            "look for extreme values in X."
        )
