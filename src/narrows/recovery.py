"""What training does where a number is not finite: back to the last good state, and on slower."""

import warnings
from collections.abc import Mapping
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from narrows.errors import NonFiniteError

if TYPE_CHECKING:
    from narrows.training import Training

__all__ = ["APART", "RETRIES", "Recovery", "State"]

State = tuple[dict[str, Tensor], dict[str, Any]]
"""The state of a run: tensors by name, and JSON data."""

APART = 256
"""Steps between two states that are kept to go back to, at the least."""
RETRIES = 3
"""How often a run goes back, and on at half the learning rate."""


class Recovery:
    """The last good state of a run, and how often it went back to one.

    Args:
        training: the run.
    """

    def __init__(self, training: "Training") -> None:
        self.training = training
        self.good: State | None = None
        self.retries = 0

    def check(self) -> None:
        """Stop at a term or a tensor that is not finite.

        Raises:
            NonFiniteError: there is one.
        """
        log, processes = self.training.log, self.training.processes
        log.flush()
        found = not_finite(processes.held(self.training.tensors()))
        for name, value in processes.pooled(found).items():
            log.fail(f"tensor '{name}'", value, log.step)

    def keep(self) -> None:
        """Keep the state if it is sound, after epochs that make `APART` steps or more.

        Raises:
            NonFiniteError: it is not, or every update since the last good one was skipped.
        """
        training, epoch, skipped = self.training, 0, 0
        if self.good is not None:
            epoch, skipped = len(self.good[1]["history"]), self.good[1]["skipped"]
        steps = (training.epoch - epoch) * training.source.steps(training.model.batch_size)
        if self.good is None or steps >= APART or training.over:
            self.check()
            if steps >= APART and training.skipped - skipped >= steps:
                training.log.fail("gradient", nan, training.log.step)
            self.good = None if training.over else training.snapshot()

    def go_back(self, error: NonFiniteError) -> None:
        """Go back to the last good state, and halve the learning rates.

        Raises:
            NonFiniteError: the same, where there is no such state or it was tried too often.
        """
        if self.good is None or self.retries == RETRIES:
            raise error
        retries = self.retries + 1
        self.training.load(*self.good)
        self.slow_down(retries, self.retries)
        warnings.warn(
            f"{error} Training went back to the state it kept last, of the end of epoch "
            f"{self.training.epoch}, and goes on at half the learning rate.",
            stacklevel=2,
        )

    def slow_down(self, retries: int, before: int) -> None:
        """Halve the learning rates once a retry, of which they know those before."""
        for optimizer in self.training.optimizers.values():
            optimizer.base_rate *= 0.5 ** (retries - before)
        self.retries = retries


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest value of each tensor that holds one that is infinite or no number."""
    held = {k: v for k, v in tensors.items() if v.is_floating_point() and v.numel()}
    sizes = torch.stack([vector_norm(v, torch.inf).float() for v in held.values()]).tolist()
    return {k: size for k, size in zip(held, sizes, strict=True) if not isfinite(size)}
