"""Callbacks: what looks on while a model trains, and may ask it to stop."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Self

from narrows.errors import NarrowsError, ParameterError
from narrows.net import Terms

if TYPE_CHECKING:
    from narrows.log import Row
    from narrows.training import Training

__all__ = ["Callback", "Callbacks", "check_callbacks"]


class Callback:
    """Looks on while a model trains; a subclass overrides what it needs.

    `training` is the run: its `model`, how many epochs of how many are over (`epoch`, `epochs`),
    their `history`, and how many steps of the next one are made (`position`).
    `training.end_after_epoch()` lets the epoch that runs be the last one; to resume such a run
    goes on from there.

    What `start` raises ends `fit` before it trained. A callback that fails later is called no
    more: a warning says which and why, and the model trains on.

    >>> import numpy as np
    >>> from narrows import Autoencoder
    >>> class Enough(Callback):
    ...     def epoch(self, training, row):
    ...         if row["mse"] < 0.5:
    ...             training.end_after_epoch()
    >>> X = np.random.default_rng(0).normal(size=(64, 1)) * np.ones(4)
    >>> model = Autoencoder(latent_dim=1, epochs=500, verbose=0).fit(X, callbacks=[Enough()])
    >>> model.n_iter_ < 500
    True
    """

    def start(self, training: "Training") -> None:
        """Act before the first step; a run that was resumed has a history already."""

    def step(self, training: "Training", terms: Terms) -> None:
        """Act after a step, with the batch's mean of every term.

        They are 0-d tensors on the device: to read one is to wait for it.
        """

    def epoch(self, training: "Training", row: "Row") -> None:
        """Act after an epoch and its validation, with its row of the history."""

    def finish(self, training: "Training", error: BaseException | None) -> None:
        """Act once after training, also where an error or an interruption ended it."""


class Callbacks:
    """The callbacks of a run: started where this context is entered, finished where it is left.

    Args:
        training: the run.
        callbacks: what looks on, in the order in which it is called.
    """

    def __init__(self, training: "Training", callbacks: Iterable[Callback]) -> None:
        self.training, self.callbacks = training, callbacks
        self.started: list[Callback] = []

    def __enter__(self) -> Self:
        for callback in self.callbacks:
            try:
                callback.start(self.training)
            except BaseException as error:
                self.finish(error)
                if not isinstance(error, NarrowsError):
                    error.add_note(f"The callback {_name(callback)} raised it in start.")
                raise
            self.started.append(callback)
        if any(type(callback).step is not Callback.step for callback in self.started):
            self.training.after_step.append(self.step)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.finish(error)

    def step(self, terms: Terms) -> None:
        """Tell of a step."""
        self._tell(lambda callback: callback.step(self.training, terms))

    def epoch(self, training: "Training") -> None:
        """Tell of the epoch that just ended."""
        self._tell(lambda callback: callback.epoch(training, training.history[-1]))

    def finish(self, error: BaseException | None) -> None:
        """Tell of the end."""
        self._tell(lambda callback: callback.finish(self.training, error))

    def _tell(self, event: Callable[[Callback], None]) -> None:
        """Call each; one that fails is called no more."""
        for callback in list(self.started):
            try:
                event(callback)
            except Exception as error:
                self.started.remove(callback)
                place = extract_tb(error.__traceback__)[-1]
                warnings.warn(
                    f"The callback {_name(callback)} failed after epoch {self.training.epoch} and "
                    f"is called no more; the training is unharmed. {type(error).__name__}: "
                    f"{error} ({Path(place.filename).name}, line {place.lineno}).",
                    stacklevel=2,
                )


def check_callbacks(callbacks: Any) -> None:
    """Refuse what `fit` cannot call.

    Raises:
        ParameterError: it is no list of callbacks.
    """
    several = isinstance(callbacks, list | tuple) or callbacks is None
    if not several or not all(isinstance(callback, Callback) for callback in callbacks or ()):
        raise ParameterError(
            "callbacks= takes a list of callbacks, as in callbacks=[JSONL('history.jsonl')]. Got "
            f"{callbacks!r} instead."
        )


def _name(callback: Callback) -> str:
    return type(callback).__name__
