"""Transformers: samples as tokens, pre-norm blocks, and an encoder that sees a part of them."""

from collections.abc import Sequence
from math import ceil, pi, prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ContextError, ParameterError
from narrows.parts.networks import ACTIVATIONS, Chain, Dropout, Sizes

if TYPE_CHECKING:
    from narrows.data.sources import Batch

__all__ = [
    "BARE",
    "Block",
    "Tokens",
    "TokensDecoder",
    "TokensEncoder",
    "known",
    "mean",
    "scatter",
    "transformer",
    "waves",
]

PATCHES = 64
"""Tokens of a sample with sides of one length, about, where no patch size is given."""
BARE = (
    "MaskedAutoencoder decodes the codes of a sample's tokens, and a bare code is only their "
    "mean. Call reconstruct(X), which tells each part of X from the rest."
)


class Tokens:
    """How a sample is cut into tokens: series, images and volumes into patches, a row into cells.

    Args:
        shape: of a sample, ``(channels, ...)`` with 1 to 3 axes, or ``(columns,)``.
        patch: side of a patch; the last ones are padded with zeros where it does not divide.

    Attributes:
        count: tokens of a sample.
        values: numbers in a token.
        grid: how many patches lie along each axis; () for cells.
    """

    def __init__(self, shape: tuple[int, ...], patch: int) -> None:
        self.shape, self.patch = shape, patch
        self.grid = tuple(ceil(side / patch) for side in shape[1:])
        self.count, self.values = shape[0], 1
        if self.grid:
            self.count, self.values = prod(self.grid), shape[0] * patch ** len(self.grid)

    def quarters(self) -> list[Tensor]:
        """Return the places of up to four parts, none of which is in one piece."""
        place = torch.arange(self.count)
        label = place % 4
        if len(self.grid) > 1:
            *deep, down, across = torch.unravel_index(place, self.grid)
            shift = sum(deep, torch.zeros_like(place))
            label = (down + shift) % 2 * 2 + (across + shift) % 2
        return [part for part in (place[label == i] for i in range(4)) if len(part)]

    def observed(self, mask: Tensor | None) -> Tensor | None:
        """Tell which tokens hold a value that was observed, ``(batch, count)``; None: all do."""
        return None if mask is None else self.cut(mask).amax(2) > 0

    def cut(self, x: Tensor) -> Tensor:
        """Return the tokens of samples, ``(batch, count, values)``."""
        if not self.grid:
            return x.unsqueeze(2)
        axes, p = range(len(self.grid)), self.patch
        over = [n * p - side for n, side in zip(self.grid, x.shape[2:], strict=True)]
        x = F.pad(x, [pad for side in reversed(over) for pad in (0, side)])
        x = x.view(len(x), -1, *(size for n in self.grid for size in (n, p)))
        x = x.permute(0, *(2 + 2 * i for i in axes), 1, *(3 + 2 * i for i in axes))
        return x.flatten(len(axes) + 1).flatten(1, len(axes))

    def join(self, tokens: Tensor) -> Tensor:
        """Return samples from tokens of any number of channels a value."""
        if not self.grid:
            return tokens.transpose(1, 2).flatten(1)
        n, p = len(self.grid), self.patch
        x = tokens.view(len(tokens), *self.grid, -1, *(p for _ in self.grid))
        x = x.permute(0, n + 1, *(axis for i in range(n) for axis in (1 + i, n + 2 + i)))
        x = x.reshape(len(tokens), -1, *(side * p for side in self.grid))
        for axis, side in enumerate(self.shape[1:], 2):
            x = x.narrow(axis, 0, side)
        return x


class TokenWise(nn.Module):
    """An affine layer for tokens: one for all patches, one for each cell."""

    def __init__(self, tokens: Tokens, inputs: int, outputs: int) -> None:
        super().__init__()
        own = 1 if tokens.grid else tokens.count
        self.weight = nn.Parameter(torch.randn(own, inputs, outputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(own * outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(batch, count, inputs)`` to ``(batch, count, outputs)``."""
        mapped = (tokens.unsqueeze(2) @ self.weight).squeeze(2)
        biased: Tensor = mapped + self.bias.view(len(self.weight), -1)
        return biased


class Block(nn.Module):
    """Attention and a dense layer, each on normalised tokens and added to them.

    On Layer Normalization in the Transformer Architecture (Xiong et al., 2020).
    """

    def __init__(self, width: int, heads: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_dense = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.Linear(width, 2 * width),
            ACTIVATIONS[activation](),
            nn.Linear(2 * width, width),
        )
        self.dropout = Dropout(dropout) if dropout else nn.Identity()

    def forward(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return the tokens, each having seen the others: ``(batch, count, width)``.

        `seen` is True for those that may be seen, ``(batch, count)``; None for all of them.
        """
        query, key, value = self.parts(tokens)
        mask = None if seen is None else seen[:, None, None]
        return self.add(tokens, F.scaled_dot_product_attention(query, key, value, mask))

    def follow(
        self, tokens: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the tokens, each having seen those before it, and what later ones see of all.

        Either many tokens come without a past, or one comes after those that `past` tells of.
        """
        query, key, value = self.parts(tokens)
        if past:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        taken = F.scaled_dot_product_attention(query, key, value, is_causal=not past)
        return self.add(tokens, taken), (key, value)

    def parts(self, tokens: Tensor) -> Tensor:
        """Return queries, keys and values, ``(3, batch, heads, count, width / heads)``."""
        parts = self.query_key_value(self.before_attention(tokens))
        split: Tensor = parts.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return split

    def add(self, tokens: Tensor, taken: Tensor) -> Tensor:
        """Return the tokens with what they took, and what the dense layer makes of that."""
        tokens = tokens + self.dropout(self.mix(taken.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.dense(self.before_dense(tokens)))
        return tokens + added


class TokensEncoder(nn.Module):
    """Tokens through a Transformer to codes of `dim` numbers each; their mean is the code."""

    def __init__(
        self, tokens: Tokens, dim: int, width: int, depth: int, heads: int, **options: float | str
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.embed = TokenWise(tokens, tokens.values, width)
        self.positions = nn.Parameter(positions(tokens, width))
        self.blocks = Chain(*blocks(depth, width, heads, **options))
        self.norm, self.top = nn.LayerNorm(width), nn.Linear(width, dim)

    def forward(self, batch: "Batch") -> Tensor:
        """Return the mean of the codes of all tokens that hold something."""
        seen = known(self.tokens.observed(batch.mask))
        return mean(self.see(batch.x, seen=seen), seen)

    def see(self, x: Tensor, visible: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Return the codes of the visible tokens, ``(batch, visible, dim)``; of all by default.

        `seen` is True for those of them that the others may see, ``(batch, visible)``.
        """
        tokens = self.embed(self.tokens.cut(x)) + self.positions
        if visible is not None:
            tokens = gather(tokens, visible)
        tokens = self.blocks(tokens) if seen is None else self.blocks(tokens, seen)
        codes: Tensor = self.top(self.norm(tokens))
        return codes


class TokensDecoder(nn.Module):
    """From codes of tokens that were seen to the values of those that are asked for.

    Each one asked for is a mask token at its place, and only these are read out. They see what was
    seen and not one another, so that no answer depends on what else is asked for.

    Rethinking Patch Dependence for Masked Autoencoders (Fu et al., 2024).
    """

    def __init__(
        self,
        tokens: Tokens,
        dim: int,
        width: int,
        channels: int,
        heads: int,
        **options: float | str,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.bottom = nn.Linear(dim, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(positions(tokens, width))
        self.blocks = nn.Sequential(*blocks(2, width, heads, **options))
        self.norm = nn.LayerNorm(width)
        self.head = TokenWise(tokens, width, channels * tokens.values)

    def forward(self, z: Tensor, batch: "Batch | None" = None) -> Tensor:
        """Refuse a bare code.

        Raises:
            ContextError: always; `tell` decodes the codes of tokens.
        """
        raise ContextError(BARE)

    def tell(
        self, codes: Tensor, visible: Tensor, asked: Tensor, seen: Tensor | None = None
    ) -> Tensor:
        """Return the tokens asked for, 0 elsewhere: ``(batch, count, channels * values)``.

        `seen` is True for those of the visible that may be seen, ``(batch, visible)``.
        """
        told_by = self.bottom(codes) + self.positions[visible]
        query = self.mask + self.positions[asked]
        tokens = torch.cat([told_by, query], 1)
        seen = torch.ones_like(visible, dtype=torch.bool) if seen is None else seen
        seen = torch.cat([seen, torch.zeros_like(asked, dtype=torch.bool)], 1)
        for block in self.blocks:
            tokens = block(tokens, seen)
        tokens = self.norm(tokens[:, visible.shape[1] :])
        told: Tensor = self.head(scatter(tokens, asked, self.tokens.count))
        return told * scatter(torch.ones_like(tokens[..., :1]), asked, self.tokens.count)


def transformer(
    sizes: Sizes,
    *,
    patch_size: int | None = None,
    hidden: Sequence[int] | None = None,
    heads: int = 4,
    activation: str = "silu",
    dropout: float = 0.0,
) -> tuple[TokensEncoder, TokensDecoder]:
    """Build an encoder of tokens, with a block for each entry of `hidden`, and a decoder of two.

    Raises:
        ParameterError: the blocks or the patches cannot be made.
    """
    hidden = (64, 64, 64) if hidden is None else hidden
    width = width_of(hidden, heads)
    if len(sizes.x) == 1 and patch_size is not None:
        raise ParameterError(
            "The 'patch_size' parameter is for images, series and volumes; in a table every cell "
            f"is a token. Got {patch_size}; leave it at None."
        )
    if patch_size is None and len(sizes.x) > 1:
        patch_size = max(2, round(max(sizes.x[1:]) / PATCHES ** (1 / (len(sizes.x) - 1))))
    tokens = Tokens(sizes.x, patch_size or 1)
    channels, dim = sizes.out[0] // sizes.x[0], sizes.z[0]
    options: dict[str, float | str] = {"activation": activation, "dropout": dropout}
    encoder = TokensEncoder(tokens, sizes.h[0], width, len(hidden), heads, **options)
    return encoder, TokensDecoder(tokens, dim, width, channels, heads, **options)


def width_of(hidden: Sequence[int], heads: int) -> int:
    """Return the width of blocks that have these sizes.

    Raises:
        ParameterError: there is none, they differ, or the heads do not divide them.
    """
    if len(set(hidden)) != 1 or hidden[0] % heads:
        raise ParameterError(
            f"With architecture='transformer' the sizes in 'hidden' must be alike, and 'heads' "
            f"must divide them. Got hidden={tuple(hidden)} and heads={heads}."
        )
    return hidden[0]


def blocks(depth: int, width: int, heads: int, **options: float | str) -> list[Block]:
    """Return the blocks of a Transformer."""
    return [Block(width, heads, **options) for _ in range(depth)]  # type: ignore[arg-type]


def positions(tokens: Tokens, width: int) -> Tensor:
    """Return where positions start to learn: waves for patches, noise for cells, which differ."""
    if not tokens.grid:
        return 0.5 * torch.randn(tokens.count, width)
    places = torch.cartesian_prod(*(torch.arange(n) for n in tokens.grid))
    places = places.view(-1, len(tokens.grid))
    return waves(places, width, pi / 2, max(tokens.grid))  # even the slowest tells places


def waves(places: Tensor, width: int, fastest: float, slower: float) -> Tensor:
    """Return sines and cosines of coordinates ``(places, axes)``, ``(places, width)``.

    Their rates fall from the fastest, in radians a step, to almost so many times slower.
    """
    each = ceil(width / (2 * places.shape[1]))
    rates = fastest * float(slower) ** -(torch.arange(each, device=places.device) / each)
    angles = (places.unsqueeze(2) * rates).flatten(1)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


def known(seen: Tensor | None) -> Tensor | None:
    """Return which tokens may be seen, ``(batch, tokens)``: all where none would be left."""
    return None if seen is None else seen | ~seen.any(1, keepdim=True)


def mean(codes: Tensor, seen: Tensor | None) -> Tensor:
    """Return the mean of the codes of the tokens that are seen, ``(batch, dim)``."""
    if seen is None:
        return codes.mean(1)
    weight = seen.to(codes.dtype).unsqueeze(2)
    return (codes * weight).sum(1) / weight.sum(1)


def gather(tokens: Tensor, places: Tensor) -> Tensor:
    """Return the tokens at some places, ``(batch, places, width)``."""
    return tokens.gather(1, places.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def scatter(tokens: Tensor, places: Tensor, count: int) -> Tensor:
    """Return `count` tokens with those given at their places, and zeros elsewhere."""
    whole = tokens.new_zeros(len(tokens), count, tokens.shape[2])
    return whole.scatter(1, places.unsqueeze(2).expand_as(tokens), tokens)
