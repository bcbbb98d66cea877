"""U-Nets: what each level of the encoder sees passes to the same level of the decoder."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrows.errors import ContextError
from narrows.parts.convolutions import KINDS, Layers, bridge, laid_out, stages
from narrows.parts.networks import Sizes, initialise

if TYPE_CHECKING:
    from narrows.data.sources import Batch

__all__ = ["BARE", "UNetDecoder", "UNetEncoder", "unet"]

BARE = (
    "UNetAutoencoder decodes a code beside what each level of its encoder saw of the sample, and "
    "a bare code has none of it. Call reconstruct(X) or score_samples(X)."
)


class UNetEncoder(nn.Module):
    """Levels of ever coarser maps; the last one gives h, and all others are its context.

    Args:
        levels: the first keeps the size, each further one halves it.
        top: from the last map to h.
    """

    def __init__(self, levels: Sequence[nn.Module], top: nn.Module) -> None:
        super().__init__()
        self.levels, self.top = nn.ModuleList(levels), top

    def forward(self, batch: "Batch") -> tuple[Tensor, ...]:
        """Return h, and the map of each level but the last."""
        x, maps = batch.x, []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return (self.top(maps.pop()), *maps)


class UNetDecoder(nn.Module):
    """From a code to the last map, and up through the levels, each joined by its encoder's map.

    Args:
        bottom: from z to the last map.
        ups: each doubles the size, the coarsest first.
        joins: each reads what came up beside the encoder's map.
        head: from the finest map to what the likelihood reads.
    """

    def __init__(
        self,
        bottom: nn.Module,
        ups: Sequence[nn.Module],
        joins: Sequence[nn.Module],
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.bottom, self.ups, self.joins = bottom, nn.ModuleList(ups), nn.ModuleList(joins)
        self.head = head

    def forward(self, z: Tensor, batch: "Batch | None" = None, *context: Tensor) -> Tensor:
        """Decode a code beside the maps of its sample.

        Raises:
            ContextError: the code comes without them.
        """
        if len(context) != len(self.ups):
            raise ContextError(BARE)
        x = self.bottom(z)
        for up, join, seen in zip(self.ups, self.joins, reversed(context), strict=True):
            x = join(torch.cat([up(x), seen], 1))
        out: Tensor = self.head(x)
        return out


def unet(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    activation: str = "silu",
    dropout: float = 0.0,
    batch_norm: bool = False,
    blocks: int = 0,
    downsampling: str = "stride",
    channels_last: bool = False,
) -> tuple[UNetEncoder, UNetDecoder]:
    """Build levels that halve a sample's axes once per entry of `hidden`, joined across.

    The finest level has half as many channels as the next one. Series, images and volumes of any
    size work; a row of a table is a series of one channel.
    """
    row = len(sizes.x) == 1
    x = (1, *sizes.x) if row else sizes.x
    out = sizes.out[0] // sizes.x[0] if row else sizes.out[0]
    layers = Layers(len(x) - 1, activation, dropout, batch_norm, blocks, downsampling)
    halved = stages(x, hidden)
    first = max(halved[0][0] // 2, 1) if halved else 1
    maps = [(first, x[1:]), *halved]

    def level(made: list[nn.Module], width: int) -> nn.Sequential:
        return nn.Sequential(*made, *layers.residual(width))

    levels = [level(layers.same(x[0], first), first)]
    levels += [level(layers.down(a, b, grid), b) for (a, grid), (b, _) in pairwise(maps)]
    top, bottom = bridge(sizes, (maps[-1][0], *maps[-1][1]), activation)
    ups, joins = [], []
    for (a, _), (b, grid) in pairwise(maps[::-1]):
        ups.append(nn.Sequential(*layers.up(a, b, grid)))
        joins.append(level(layers.same(2 * b, b), b))
    head: list[nn.Module] = [initialise(KINDS[layers.axes].convolution(first, out, 1))]
    if row:
        levels[0].insert(0, nn.Unflatten(1, x))
        head.append(nn.Flatten())
    encoder = UNetEncoder(levels, nn.Sequential(*top))
    decoder = UNetDecoder(nn.Sequential(*bottom), ups, joins, nn.Sequential(*head))
    if channels_last:
        return laid_out(encoder, layers.axes), laid_out(decoder, layers.axes)
    return encoder, decoder
