"""Conditioned networks: any encoder and decoder, told what is known of each sample."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrows.errors import ParameterError

if TYPE_CHECKING:
    from narrows.data.sources import Batch

__all__ = ["ConditionedDecoder", "ConditionedEncoder", "join"]


def join(x: Tensor, condition: Tensor) -> Tensor:
    """Return x with the condition behind its first axis: more units, or constant channels."""
    grid = x.shape[2:]
    planes = condition.view(*condition.shape, *(1 for _ in grid)).expand(-1, -1, *grid)
    return torch.cat([x, planes], 1)


class ConditionedEncoder(nn.Module):
    """An encoder that also sees the condition, and hands it on as context.

    Args:
        encoder: sees the condition behind x.
        flat: whether it reads a sample as one vector, to which each number of the condition adds
            one, where it would add a plane to a grid.
    """

    def __init__(self, encoder: nn.Module, flat: bool = False) -> None:
        super().__init__()
        self.encoder, self.flat = encoder, flat

    def forward(self, batch: "Batch") -> tuple[Tensor, ...]:
        """Return ``(h, *context, condition)``."""
        if batch.condition is None:
            raise ParameterError(
                "The batch holds no condition. Give it one, or use another model."
            )
        x = batch.x.flatten(1) if self.flat else batch.x
        h = self.encoder(replace(batch, x=join(x, batch.condition)))
        return (*h, batch.condition) if isinstance(h, tuple) else (h, batch.condition)


class ConditionedDecoder(nn.Module):
    """A decoder that gets the condition, the last of its context, beside the code."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor, batch: "Batch | None", *context: Tensor) -> Tensor:
        """Decode z under the condition."""
        *rest, condition = context
        out: Tensor = self.decoder(join(z, condition), batch, *rest)
        return out
