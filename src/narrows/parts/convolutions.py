"""Convolutions along 1, 2 or 3 axes, for series, images and volumes of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2, prod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from narrows.errors import ParameterError
from narrows.parts.networks import (
    ACTIVATIONS,
    GRIDS,
    Convolution,
    Decoder,
    Encoder,
    Residual,
    Sizes,
    Transposed,
    after,
    architecture,
    dense,
    initialise,
    shaped,
    silenced,
)

__all__ = ["KINDS", "Kinds", "Layers", "bridge", "conv", "conv_grid", "laid_out", "stages"]

N = TypeVar("N", bound=nn.Module)


class Kinds(NamedTuple):
    """The layers along so many axes."""

    convolution: type[Convolution]
    transposed: type[Transposed]
    norm: type[nn.Module]
    pooling: dict[str, type[nn.Module]]


KINDS = {
    1: Kinds(
        nn.Conv1d,
        nn.ConvTranspose1d,
        nn.BatchNorm1d,
        {"max": nn.MaxPool1d, "average": nn.AvgPool1d},
    ),
    2: Kinds(
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        {"max": nn.MaxPool2d, "average": nn.AvgPool2d},
    ),
    3: Kinds(
        nn.Conv3d,
        nn.ConvTranspose3d,
        nn.BatchNorm3d,
        {"max": nn.MaxPool3d, "average": nn.AvgPool3d},
    ),
}
"""By number of axes."""
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Of samples whose channels are innermost, by number of axes."""
CHANNELS = {1: 32, 2: 32, 3: 16}
"""Channels of the first stage, by number of axes; each further one doubles them, up to 256."""


@architecture
def conv(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    activation: str = "silu",
    dropout: float = 0.0,
    batch_norm: bool = False,
    blocks: int = 0,
    downsampling: str = "stride",
    linear_path: bool = False,
    channels_last: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Build convolutions that halve a sample's axes once per entry of `hidden`, and their mirror.

    Series, images and volumes of any size work: each stage rounds up, and its transposed
    convolution returns to the exact size. `downsampling` halves by a stride of 2 or by pooling
    (max, average). Beside a linear path the networks start at zero. `channels_last` lays out
    images and volumes with their channels innermost.
    """
    axes = len(sizes.x) - 1
    if axes not in KINDS:
        raise ParameterError(
            "architecture='conv' needs images (channels, height, width), series (channels, "
            f"steps) or volumes (channels, depth, height, width); a sample here has the shape "
            f"{sizes.x}. Use architecture='mlp', or modality='image' or 'volume'."
        )
    layers = Layers(axes, activation, dropout, batch_norm, blocks, downsampling)
    maps = [(sizes.x[0], sizes.x[1:]), *stages(sizes.x, hidden)]
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for (a, grid), (b, _) in pairwise(maps):
        down += [*layers.down(a, b, grid), *layers.residual(b)]
    top, bottom = bridge(sizes, (maps[-1][0], *maps[-1][1]), activation)
    for (a, _), (b, grid) in pairwise(maps[:0:-1]):
        up += [*layers.up(a, b, grid), *layers.residual(b)]
    if len(maps) > 1:
        last = Layers(axes, "linear")
        up = [*bottom, *up, *last.up(maps[1][0], sizes.out[0], sizes.out[1:])]
    else:
        up = [nn.Flatten(), initialise(nn.Linear(prod(sizes.z), prod(sizes.out)))]
        up += shaped(sizes.out)
    pair = Encoder(*down, *top), Decoder(*up)
    if channels_last:
        pair = laid_out(pair[0], axes), laid_out(pair[1], axes)
    return silenced(*pair) if linear_path else pair


def laid_out(network: N, axes: int) -> N:
    """Return a network that works on samples with their channels innermost.

    Raises:
        ParameterError: samples have no axes for which torch does so.
    """
    if axes not in LAYOUTS:
        raise ParameterError(
            "channels_last=True is for images and volumes; a sample here has "
            f"{axes} axis beside its channels. Leave it at False."
        )
    network.to(memory_format=LAYOUTS[axes])  # type: ignore[call-overload]
    return network


def conv_grid(x: tuple[int, ...], hidden: Sequence[int] | None) -> tuple[int, ...]:
    """Return the size of the last feature map of `conv`; () where there is none."""
    maps = stages(x, hidden) if len(x) - 1 in KINDS else []
    return maps[-1][1] if maps else ()


GRIDS["conv"] = conv_grid


def stages(x: tuple[int, ...], hidden: Sequence[int] | None) -> list[tuple[int, tuple[int, ...]]]:
    """Return channels and size of the map after each stage, for a sample of the shape x."""
    grid = x[1:]
    if hidden is None:
        count = max(2, ceil(log2(max(*grid, 9) / 8)))
        hidden = [min(CHANNELS[len(grid)] * 2**i, 256) for i in range(count)]
    maps = []
    for channels in hidden:
        grid = tuple(ceil(side / 2) for side in grid)
        maps.append((channels, grid))
    return maps


def bridge(
    sizes: Sizes, inner: tuple[int, ...], activation: str
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the layers from the last map to h, and those from z to a map like it.

    Where the code is a map on the same grid, they are convolutions.
    """
    if len(inner) > 1 and sizes.h[1:] == sizes.z[1:] == inner[1:]:
        kind = KINDS[len(inner) - 1].convolution
        top: list[nn.Module] = [initialise(kind(inner[0], sizes.h[0], 1))]
        mixed = kind(sizes.z[0], inner[0], 3, padding=1)
        return top, [initialise(mixed, activation), ACTIVATIONS[activation]()]
    top = [nn.Flatten(), initialise(nn.Linear(prod(inner), prod(sizes.h))), *shaped(sizes.h)]
    bottom = dense((prod(sizes.z), prod(inner)), activation, 0.0, False)
    return top, [nn.Flatten(), *bottom, *shaped(inner)]


@dataclass(frozen=True)
class Layers:
    """Makes layers along so many axes, each with what follows it."""

    axes: int
    activation: str
    dropout: float = 0.0
    batch_norm: bool = False
    blocks: int = 0
    downsampling: str = "stride"

    def down(self, a: int, b: int, grid: tuple[int, ...]) -> list[nn.Module]:
        """Return what halves every axis of a map of this size, and rounds up."""
        pooling = KINDS[self.axes].pooling.get(self.downsampling)
        if pooling is None:
            return self.same(a, b, 2)
        window = tuple(min(side, 2) for side in grid)  # none may be wider than the map
        return [*self.same(a, b), pooling(window, 2, ceil_mode=True)]

    def same(self, a: int, b: int, stride: int = 1) -> list[nn.Module]:
        """Return a convolution, by default one that keeps the size."""
        kind = KINDS[self.axes].convolution
        return self._followed(kind(a, b, 3, stride, padding=1, bias=not self.batch_norm), b)

    def up(self, a: int, b: int, grid: tuple[int, ...]) -> list[nn.Module]:
        """Return what doubles every axis, to this size."""
        kind, padding = KINDS[self.axes].transposed, tuple((side + 1) % 2 for side in grid)
        options: dict[str, Any] = {"output_padding": padding, "bias": not self.batch_norm}
        return self._followed(kind(a, b, 3, 2, padding=1, **options), b)

    def residual(self, width: int) -> list[nn.Module]:
        """Return the residual blocks that follow a layer."""
        return [self._block(width) for _ in range(self.blocks)]

    def _followed(self, layer: Convolution | Transposed, width: int) -> list[nn.Module]:
        norm = KINDS[self.axes].norm
        rest = after(norm, width, self.activation, self.dropout, self.batch_norm)
        return [initialise(layer, self.activation), *rest]

    def _block(self, width: int) -> Residual:
        kinds = KINDS[self.axes]
        inner, outer = (
            kinds.convolution(width, width, 3, padding=1, bias=bias)
            for bias in (not self.batch_norm, True)
        )
        norms = [kinds.norm(width) for _ in range(2 * self.batch_norm)]
        return Residual(inner, outer, norms, self.activation, self.dropout)
