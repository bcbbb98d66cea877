"""Corruptions: what a denoising autoencoder is asked to undo."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from narrows.data.sources import Batch

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "corrupted",
    "corruption",
    "gaussian",
    "masking",
    "salt_and_pepper",
]

Corruption = Callable[[Tensor, float], Tensor]
CORRUPTIONS: dict[str, Corruption] = {}


def corruption(function: Corruption) -> Corruption:
    """Register ``corruption(x, amount)`` under its own name."""
    CORRUPTIONS[function.__name__] = function
    return function


def corrupted(batch: Batch, name: str | None, amount: float) -> Batch:
    """Return a batch whose observed values are corrupted; what is missing stays as it was.

    Args:
        batch: samples.
        name: one of `CORRUPTIONS`; None changes nothing.
        amount: of the corruption.
    """
    if name is None:
        return batch
    x = CORRUPTIONS[name](batch.x, amount)
    return replace(batch, x=x if batch.mask is None else torch.where(batch.mask > 0, x, batch.x))


@corruption
def gaussian(x: Tensor, amount: float) -> Tensor:
    """Add normal noise of standard deviation `amount`, in the modality's units."""
    return x + amount * torch.randn_like(x)


@corruption
def masking(x: Tensor, amount: float) -> Tensor:
    """Set each value to zero with probability `amount`; zero is the mean of standardised data."""
    return x * (torch.rand_like(x) >= amount)


@corruption
def salt_and_pepper(x: Tensor, amount: float) -> Tensor:
    """Set each value, with probability `amount`, to the batch's lowest or highest, evenly."""
    u = torch.rand_like(x)
    low, high = x.amin(), x.amax()
    return torch.where(u < amount / 2, low, torch.where(u < amount, high, x))
