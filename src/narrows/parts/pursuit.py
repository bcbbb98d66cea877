"""Matching pursuit: a code is taken from x atom by atom, by those that will make x of it."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from narrows.data.sources import Batch
    from narrows.parts.sparse import Atoms

__all__ = ["Pursuit", "pursued"]


class Pursuit(nn.Module):
    """An encoder that takes k atoms of a decoder, for a `MatchingPursuit`; it has no weights."""

    def __init__(self, source: "Atoms", k: int) -> None:
        super().__init__()
        self._source, self.k = (source,), k  # in a tuple: the weight is the decoder's

    @property
    def source(self) -> "Atoms":
        """The decoder's layer."""
        return self._source[0]

    def forward(self, batch: "Batch") -> Tensor:
        """Return the amounts taken, and the inner products with the rest, which is held fixed."""
        atoms = self.source.unit().t()
        code, rest = pursued(batch.x.flatten(1), atoms, self.k)
        return torch.cat([code, rest.detach() @ atoms.t()], 1)

    def extra_repr(self) -> str:
        """Show how many atoms are taken."""
        return f"k={self.k}"


def pursued(x: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the amounts that k greedy steps take of unit atoms ``(dim, size)``, and their rest.

    Each step takes the atom whose inner product with the rest is largest, in this amount; one that
    is taken again has the sum. No step adds to the rest: its square falls by the amount's.
    """
    code = x.new_zeros(len(x), len(atoms))
    for _ in range(k):
        with torch.no_grad():  # the choice has no gradient, and would keep (batch, dim) a step
            place = (x @ atoms.t()).max(1, keepdim=True).indices
        atom = F.embedding(place.squeeze(1), atoms)
        amount = (x * atom).sum(1, keepdim=True)
        code, x = code.scatter_add(1, place, amount), x - amount * atom
    return code, x
