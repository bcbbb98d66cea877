"""SIGINT and SIGTERM, held back until what is under way has come to a good end."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Held"]

HELD = (signal.SIGINT, signal.SIGTERM)


class Held:
    """A context in which the first signal is only noted; a second one acts at once.

    Outside of the main thread, which alone gets signals, nothing is held; nor are signals that
    the process ignores.

    Args:
        notice: called when a signal comes, inside of its handler.
        repeated: whether further signals may be the same one again, from whoever passes it on;
            they are passed over.
    """

    def __init__(self, notice: Callable[[], None], repeated: bool = False) -> None:
        self.notice, self.repeated, self.caught = notice, repeated, 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Held":
        self.caught = 0
        if threading.current_thread() is threading.main_thread():
            for number in HELD:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None is a handler that is not Python's
                    self.before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *error: object) -> None:
        while self.before:
            signal.signal(*self.before.popitem())

    def release(self) -> None:
        """Let the signal that was noted act as it would have; returns if its handler does."""
        if not (number := self.caught):
            return
        self.__exit__()
        signal.raise_signal(number)
        self.__enter__()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self.caught = self.caught, number
        if again and not self.repeated:
            self.release()
        self.notice()
