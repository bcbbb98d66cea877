"""Lookup-free quantisation: a vector of signs, each pattern of them a code."""

from math import prod

import torch
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts.categorical import Bits
from narrows.parts.latents import Charges, latent, shares
from narrows.parts.quantizers import Grid, exact, through

__all__ = ["LFQ", "entropy", "patterns"]

MOST = 16
"""Most bits of a vector: a prior over codes knows each of the patterns."""


def patterns(ones: Tensor) -> Tensor:
    """Return the chances ``(n, 2**bits)`` of all patterns of independent bits ``(n, bits)``.

    The first bit counts least in the number of a pattern.
    """
    chances = ones.new_ones(len(ones), 1)
    for one in ones[:, :, None].unbind(1):
        chances = torch.cat([chances * (1 - one), chances * one], 1)
    return chances


def entropy(chances: Tensor) -> Tensor:
    """Return the entropy of a distribution in nats, 0-d; chances of 0 have a finite gradient."""
    return -(chances * chances.clamp(min=torch.finfo(chances.dtype).tiny).log()).sum()


@latent
class LFQ(Grid):
    """Signs: each number of a short vector becomes 1 or -1; the gradient goes straight through.

    There is no codebook to learn. The signs pass a linear map to the code's `dim` numbers.

    The charges are "commitment", ‖h - sg[s]‖² with the signs s, and "entropy", H(q) of
    q(s | x), proportional to exp(-‖h - s‖²), both summed over the vectors of a code.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
        bits: signs of a vector; there are 2**bits codes.
    """

    base: Tensor

    def __init__(self, dim: int, tokens: int | None = None, bits: int = 10) -> None:
        super().__init__(dim, tokens)
        if not 1 <= bits <= MOST:
            raise ParameterError(f"bits of LFQ must be 1 to {MOST}. Got {bits} instead.")
        self.bits, self.categories = bits, 2**bits
        self.signs = nn.Linear(bits, dim)
        self.register_buffer("base", 2 ** torch.arange(bits), persistent=False)
        self.arrange()

    def arrange(self, grid: tuple[int, ...] | None = None) -> None:
        """Set the shapes for a grid, or for a row of tokens."""
        super().arrange(grid)
        self.width = (self.bits, *self.grid)
        self.books = (0,) * prod(self.grid)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the code of the signs, and what they charge."""
        del noise
        rows = self.rows(h)
        signs = 2 * (rows > 0).to(rows.dtype) - 1
        charges = {
            "commitment": (rows - signs).square().sum(1),
            "entropy": self.posterior_bits(rows).entropy().sum(1),
        }
        z = self.decoded(through(rows, signs))
        return z, {name: paid.view(len(h), -1).sum(1) for name, paid in charges.items()}

    def mean(self, h: Tensor) -> Tensor:
        """Return the code of the signs."""
        return self.unpack(self.pack(h))

    def pack(self, h: Tensor) -> Tensor:
        """Return one index for each vector: its bits, the first one counting least."""
        return ((self.rows(h) > 0) * self.base).sum(1).view(len(h), -1)

    def unpack(self, kept: Tensor) -> Tensor:
        """Return the codes of these indices."""
        ones = kept.long().reshape(-1, 1) // self.base % 2
        return self.decoded(2.0 * ones - 1)

    def decoded(self, signs: Tensor) -> Tensor:
        """Return the code of signs, ``(batch * places, bits)``."""
        return self.as_map(self.signs(signs))

    def use(self, h: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return E[q(s | x)] over samples, which count by `weight`, and places: ``(2**bits,)``.

        It is exact, and the work and memory of halves of the bits: their patterns are independent
        given x, so that the mean of the products is one product of matrices.
        """
        rows, places = self.rows(h), prod(self.grid)
        share = shares(exact(h), weight).repeat_interleave(places)[:, None] / places
        low, high = (patterns(part) for part in self.posterior_bits(rows).mean.tensor_split(2, 1))
        with torch.autocast(h.device.type, enabled=False):
            return ((share * high).t() @ low).flatten()

    def posterior_bits(self, rows: Tensor) -> Bits:
        """Return q of rows: ‖h - s‖² is 4 h lower at s = 1 than at s = -1."""
        return Bits(4 * rows)
