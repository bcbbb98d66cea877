"""A linear path beside the code: x̂ = g(f(x)) + W x."""

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrows.errors import ContextError

if TYPE_CHECKING:
    from narrows.data.sources import Batch

__all__ = ["BARE", "Skip", "SkippingDecoder", "SkippingEncoder"]

BARE = (
    "ResidualAutoencoder adds W x to what it decodes, and a bare code does not say of which x. "
    "Call reconstruct(X) or score_samples(X), or use Autoencoder to decode, sample and "
    "interpolate codes."
)


class Skip(nn.Sequential):
    """W x of a rank, or of full rank, from a sample's shape to the decoder's; it starts at zero.

    Args:
        x: shape of a sample.
        out: shape of what the decoder puts out for it.
        rank: how many numbers pass; None for any.

    Attributes:
        free: whether all of x can pass.
    """

    def __init__(self, x: tuple[int, ...], out: tuple[int, ...], rank: int | None) -> None:
        widths = [prod(x), prod(out)]
        if rank is not None and rank < min(widths):
            widths.insert(1, rank)
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        super().__init__(nn.Flatten(), *layers, nn.Unflatten(1, out))
        nn.init.zeros_(layers[-1].weight)
        self.free = rank is None or rank >= prod(x)


class SkippingEncoder(nn.Module):
    """An encoder that hands W x to its decoder."""

    def __init__(self, encoder: nn.Module, skip: Skip) -> None:
        super().__init__()
        self.encoder, self.skip = encoder, skip

    def forward(self, batch: "Batch") -> tuple[Tensor, ...]:
        """Return h and W x."""
        h: Tensor = self.encoder(batch)
        passed: Tensor = self.skip(batch.x)
        return h, passed


class SkippingDecoder(nn.Module):
    """A decoder that adds W x to what it makes of the code."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor, batch: "Batch | None" = None, *context: Tensor) -> Tensor:
        """Decode a code beside its sample.

        Raises:
            ContextError: the code comes without its sample.
        """
        if not context:
            raise ContextError(BARE)
        out: Tensor = self.decoder(z, batch)
        return torch.add(out, context[0])
