"""What processes of a run tell one another, and what is said where one does not answer."""

from collections.abc import Callable
from typing import Any

from narrows.errors import PeerError

__all__ = ["exchange"]


def exchange(call: Callable[..., Any], *arguments: Any) -> None:
    """Exchange tensors with the other processes.

    Raises:
        PeerError: one of them has ended.
    """
    try:
        call(*arguments)
    except RuntimeError as error:
        raise PeerError(
            "Another process of this run has ended or cannot be reached, and this one cannot go "
            "on without it. The other one's own message says why."
        ) from error
