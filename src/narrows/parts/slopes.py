"""Slopes: derivatives inside of a pass, which gradients of the pass may go through."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["sloped"]

Found = TypeVar("Found")


def sloped(
    function: Callable[[Tensor], tuple[Tensor, Found]], z: Tensor
) -> tuple[Tensor, Tensor, Found]:
    """Return a function's values, their gradients by z, and what else the function found.

    It works without gradients and in inference mode too.

    Args:
        function: from codes to values, ``(batch,)``, each of its own code, and anything else.
        z: codes, ``(batch, dim)``.
    """
    value, pullback, *found = torch.func.vjp(function, z, has_aux=True)
    return value, pullback(torch.ones_like(value))[0], found[0]
