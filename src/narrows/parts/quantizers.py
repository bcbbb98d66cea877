"""Quantisers: latents whose code is a grid of vectors, each one of a finite set."""

from collections.abc import Sequence
from math import atanh, ceil, prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts.codebooks import LinearTable, Table, choose
from narrows.parts.convolutions import KINDS
from narrows.parts.latents import Charges, Latent, latent

__all__ = ["FSQ", "Codebook", "Grid", "Hierarchical", "SimVQ"]

TOKENS = 4
"""Vectors of a code where no feature map tells how many."""
SEEN = 16
"""Vectors for each code that k-means looks at."""


def exact(h: Tensor) -> Tensor:
    """Return h in single precision at least: in less, nearest vectors are mistaken."""
    return h.to(torch.promote_types(h.dtype, torch.float32))


def through(x: Tensor, e: Tensor, rotate: bool = False) -> Tensor:
    """Return e, exactly; the gradient passes to x, unchanged or through `rotated`."""
    moved = rotated(x, e) if rotate else x
    return e + (moved - moved.detach())


def rotated(x: Tensor, e: Tensor) -> Tensor:
    """Return rows x under the rotation and the scaling, held constant, that take each to its e.

    This is ‖e‖/‖x‖ (x - 2 r (r · x) + 2 ê (x̂ · x)), where ^ is for length 1 and r is x̂ + ê of
    length 1. An opposite e is met by a reflection; an x beside which e is endless stays as it is.
    """
    with torch.no_grad():
        length, wanted = (v.norm(dim=1, keepdim=True) for v in (x, e))
        near_zero = length <= 1e-6 * wanted
        scale = torch.where(near_zero, 1.0, wanted / length)
        start, end = F.normalize(x, dim=1), F.normalize(e, dim=1)
        r = F.normalize(start + end, dim=1, eps=1e-6)  # of opposites, rounding makes no direction
    along, across = ((x * v).sum(1, keepdim=True) for v in (start, r))
    return torch.where(near_zero, x, scale * (x - 2 * across * r + 2 * along * end))


class Grid(Latent):
    """Base of codes that are a grid of vectors, each replaced by one of a finite set.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
    """

    def __init__(self, dim: int, tokens: int | None = None) -> None:
        super().__init__(dim)
        self.dim, self.tokens = dim, tokens

    def settle(self, grid: tuple[int, ...]) -> None:
        """Take the feature map's grid, unless the number of vectors was given."""
        if self.tokens is not None:
            raise ParameterError(
                f"tokens={self.tokens} has no effect with an architecture that ends in a feature "
                f"map, here of {' × '.join(map(str, grid))} vectors. Leave it at None."
            )
        self.arrange(grid)

    def arrange(self, grid: tuple[int, ...] | None = None) -> None:
        """Set the shapes for a grid, or for a row of tokens."""
        self.grid = grid = grid or (self.tokens or TOKENS,)
        self.width = self.code_shape = (self.dim, *grid)

    def rows(self, h: Tensor) -> Tensor:
        """Return the vectors of a map as rows, ``(batch * places, dim)``."""
        return exact(h).flatten(2).transpose(1, 2).reshape(-1, h.shape[1])

    def as_map(self, rows: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return rows as a map of this grid, or of the code's."""
        grid = grid or self.grid
        columns = rows.view(-1, prod(grid), rows.shape[1]).transpose(1, 2)
        return columns.reshape(-1, rows.shape[1], *grid)


@latent
class Codebook(Grid):
    """Vectors from a codebook, or sums of vectors from several, each of what is left before it.

    The charges are "codebook", ‖sg[h] - e‖², and "commitment", ‖h - sg[e]‖², both summed over the
    vectors of a code and over codebooks. A codebook that follows averages has no need of the
    first, and does not charge it.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
        codes: vectors in a codebook.
        quantizers: number of codebooks.
        lookup: "euclidean", or "cosine" for vectors of length 1.
        gradient: how it passes to h: "straight_through" from z, or by a "rotation" (see `rotated`)
            from the vector of each codebook to what that one was asked for.
        update: see `Table`.
        decay: see `Table`.
        restart: see `Table`.
        kmeans: see `Table`.
    """

    def __init__(
        self,
        dim: int,
        tokens: int | None = None,
        codes: int = 512,
        quantizers: int = 1,
        lookup: Literal["euclidean", "cosine"] = "euclidean",
        gradient: Literal["straight_through", "rotation"] = "straight_through",
        **options: Literal["ema", "gradient"] | float | bool,
    ) -> None:
        super().__init__(dim, tokens)
        self.categories, self.quantizers = codes, quantizers
        self.unit, self.rotate = lookup == "cosine", gradient == "rotation"
        tables = nn.ModuleList(self.table(options) for _ in range(quantizers))
        self.tables: Sequence[Table] = tables  # type: ignore[assignment]
        self.arrange()

    def table(self, options: dict[str, Literal["ema", "gradient"] | float | bool]) -> Table:
        """Return a new codebook."""
        return Table(self.dim, self.categories, unit=self.unit, **options)  # type: ignore[arg-type]

    def arrange(self, grid: tuple[int, ...] | None = None) -> None:
        """Set the shapes for a grid, or for a row of tokens."""
        super().arrange(grid)
        places = prod(self.grid)
        self.books = tuple(book for book in range(self.quantizers) for _ in range(places))
        self.wanted = ceil(SEEN * self.categories / places)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the quantised code, through which the gradient passes."""
        del noise
        rest = self.inputs(h)
        z = torch.zeros_like(rest)
        charges: Charges = {}
        for level, table in enumerate(self.tables):
            _, e, paid = choose(table, rest)
            passes = self.rotate or not level  # straight through, all of them would pass the same
            z, rest = z + (through(rest, e, self.rotate) if passes else e), rest - e
            charges = {k: charges[k] + v if charges else v for k, v in paid.items()}
        return self.as_map(z), {k: v.view(len(h), -1).sum(1) for k, v in charges.items()}

    def mean(self, h: Tensor) -> Tensor:
        """Return the quantised code."""
        return self.unpack(self.pack(h))

    def pack(self, h: Tensor) -> Tensor:
        """Return the indices: those of all places in the first codebook, then in the next."""
        found = [index.view(len(h), -1) for _, index in self.levels(h)]
        return torch.cat(found, 1)

    def unpack(self, kept: Tensor) -> Tensor:
        """Return the sums of the vectors at these indices."""
        parts = kept.long().chunk(self.quantizers, 1)
        chosen = [t.vectors()[part.flatten()] for t, part in zip(self.tables, parts, strict=True)]
        return self.as_map(torch.stack(chosen).sum(0))

    def start(self, h: Tensor) -> None:
        """Place each codebook among what those before it leave."""
        rest = self.inputs(h)
        for table in self.tables:
            table.start(rest)
            rest = rest - choose(table, rest)[1]

    @torch.no_grad()
    def update(self, h: Tensor, z: Tensor, weight: Tensor | None = None) -> None:
        """Let the codebooks follow what fell to them."""
        del z
        if self.tables[0].still:
            return
        for table, (rest, index) in zip(self.tables, self.levels(h), strict=True):
            table.follow(rest, index, weight)

    @torch.no_grad()
    def levels(self, h: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what reaches each codebook, as rows, and the indices it answers with."""
        rest, found = self.inputs(h), []
        for table in self.tables:
            index, e, _ = choose(table, rest)
            found.append((rest, index))
            rest = rest - e
        return found

    def inputs(self, h: Tensor) -> Tensor:
        """Return the rows that are looked up."""
        rows = self.rows(h)
        return F.normalize(rows, dim=1) if self.unit else rows


@latent
class SimVQ(Codebook):
    """A codebook of frozen random vectors behind a learned linear map.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
        codes: vectors in the codebook.
        gradient: see `Codebook`.
    """

    def __init__(
        self,
        dim: int,
        tokens: int | None = None,
        codes: int = 512,
        gradient: Literal["straight_through", "rotation"] = "straight_through",
    ) -> None:
        super().__init__(dim, tokens, codes, gradient=gradient)

    def table(self, options: dict[str, Literal["ema", "gradient"] | float | bool]) -> Table:
        """Return a new codebook."""
        del options
        return LinearTable(self.dim, self.categories)


@latent
class Hierarchical(Codebook):
    """Two levels: a coarse code of half as many places a side, and a fine one that knows it.

    The code z holds what is made of the coarse code at every place, and the fine code's vector.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
        codes: vectors in each of the two codebooks.
        lookup: see `Codebook`.
        gradient: see `Codebook`.
        **options: see `Table`.
    """

    def __init__(
        self,
        dim: int,
        tokens: int | None = None,
        codes: int = 512,
        lookup: Literal["euclidean", "cosine"] = "euclidean",
        gradient: Literal["straight_through", "rotation"] = "straight_through",
        **options: Literal["ema", "gradient"] | float | bool,
    ) -> None:
        super().__init__(dim, tokens, codes, 2, lookup, gradient, **options)

    def arrange(self, grid: tuple[int, ...] | None = None) -> None:
        """Set the shapes for a grid, or for a row of tokens, and build the maps between levels."""
        super().arrange(grid)
        self.coarse = tuple(ceil(side / 2) for side in self.grid)
        self.code_shape = (2 * self.dim, *self.grid)
        self.books = (0,) * prod(self.coarse) + (1,) * prod(self.grid)
        kind = KINDS[len(self.grid)].convolution
        self.down = kind(self.dim, self.dim, 3, 2, 1)
        self.up = kind(self.dim, self.dim, 3, 1, 1)
        self.mixed = kind(2 * self.dim, self.dim, 3, 1, 1)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the quantised code, through which the gradient passes."""
        del noise
        below, _, paid = self.coarse_level(h)
        x = self.fine_inputs(h, below)
        _, e, also = choose(self.tables[1], x)
        z = torch.cat([below, self.as_map(through(x, e, self.rotate))], 1)
        summed = {
            k: paid[k].view(len(h), -1).sum(1) + also[k].view(len(h), -1).sum(1) for k in paid
        }
        return z, summed

    def unpack(self, kept: Tensor) -> Tensor:
        """Return the codes of these indices."""
        index = kept.long().split([prod(self.coarse), prod(self.grid)], 1)
        top, fine = (t.vectors()[i.flatten()] for t, i in zip(self.tables, index, strict=True))
        return torch.cat([self.spread(top), self.as_map(fine)], 1)

    def start(self, h: Tensor) -> None:
        """Place the coarse codebook first, then the fine one."""
        self.tables[0].start(self.inputs(self.down(exact(h))))
        self.tables[1].start(self.fine_inputs(h, self.coarse_level(h)[0]))

    @torch.no_grad()
    def levels(self, h: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what reaches each codebook, as rows, and the indices it answers with."""
        below, found, _ = self.coarse_level(h)
        x = self.fine_inputs(h, below)
        return [found, (x, choose(self.tables[1], x)[0])]

    def coarse_level(self, h: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Charges]:
        """Return the coarse code as the fine places see it, its rows and indices, its cost."""
        x = self.inputs(self.down(exact(h)))
        index, e, paid = choose(self.tables[0], x)
        return self.spread(through(x, e, self.rotate)), (x, index), paid

    def spread(self, rows: Tensor) -> Tensor:
        """Return a map of coarse vectors at the fine places."""
        fine: Tensor = self.up(F.interpolate(self.as_map(rows, self.coarse), size=self.grid))
        return fine

    def fine_inputs(self, h: Tensor, below: Tensor) -> Tensor:
        """Return the rows that are looked up in the fine codebook."""
        return self.inputs(self.mixed(torch.cat([exact(h), below], 1)))


@latent
class FSQ(Grid):
    """Finite scalar quantisation: each number of a short vector is rounded to one of few levels.

    There is no codebook to learn and nothing to charge. The digits, scaled to [-1, 1], pass a
    linear map to the code's `dim` numbers.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
        levels: number of values of each digit; their product is the number of codes.
    """

    reach: Tensor
    middle: Tensor
    shift: Tensor
    levels: Tensor
    base: Tensor

    def __init__(
        self, dim: int, tokens: int | None = None, levels: Sequence[int] = (8, 5, 5, 5)
    ) -> None:
        super().__init__(dim, tokens)
        if not levels or min(levels) < 3 or prod(levels) > 2**16:
            raise ParameterError(
                "levels of FSQ must be 3 or more each, and at most 65536 codes together. Got "
                f"{tuple(levels)} instead."
            )
        self.categories = prod(levels)
        self.digits = nn.Linear(len(levels), dim)
        reach = [(count - 1) * (1 - 1e-3) / 2 for count in levels]
        middle = [0.0 if count % 2 else 0.5 for count in levels]
        shift = [atanh(m / a) for m, a in zip(middle, reach, strict=True)]
        base = [prod(levels[:i]) for i in range(len(levels))]
        constants = {"reach": reach, "middle": middle, "shift": shift}
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("base", torch.tensor(base), persistent=False)
        self.arrange()

    def arrange(self, grid: tuple[int, ...] | None = None) -> None:
        """Set the shapes for a grid, or for a row of tokens."""
        super().arrange(grid)
        self.width = (len(self.base), *self.grid)
        self.books = (0,) * prod(self.grid)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the quantised code; rounding passes the gradient unchanged."""
        del noise
        bounded = self.bounded(self.rows(h))
        return self.decoded(bounded + (bounded.round() - bounded).detach()), {}

    def mean(self, h: Tensor) -> Tensor:
        """Return the quantised code."""
        return self.decoded(self.bounded(self.rows(h)).round())

    def pack(self, h: Tensor) -> Tensor:
        """Return one index for each vector: its digits, the first one counting least."""
        digits = self.bounded(self.rows(h)).round().long() + self.levels // 2
        return (digits * self.base).sum(1).view(len(h), -1)

    def unpack(self, kept: Tensor) -> Tensor:
        """Return the codes of these indices."""
        digits = kept.long().reshape(-1, 1) // self.base % self.levels - self.levels // 2
        return self.decoded(digits.float())

    def bounded(self, rows: Tensor) -> Tensor:
        """Return numbers that round to -(L // 2), ..., (L - 1) // 2; 0 becomes 0."""
        return (rows + self.shift).tanh() * self.reach - self.middle

    def decoded(self, digits: Tensor) -> Tensor:
        """Return the code of digits, ``(batch * places, len(levels))``."""
        return self.as_map(self.digits(digits / (self.levels // 2)))
