"""A player's move on a batch, whole or in parts whose gradients add up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrows.data.sources import Batch
from narrows.net import Move, Step, Terms

__all__ = ["Turn", "joined", "together"]


class Turn(NamedTuple):
    """A player's move as its optimizer sees it.

    Attributes:
        player: whose it is.
        gradients: of its loss.
        means: of its terms over the batch.
        steps: the passes of the batch's parts behind it, if running state follows from them.
    """

    player: str
    gradients: Sequence[Tensor]
    means: Terms
    steps: list[Step]

    def with_part(self, other: "Turn", share: float) -> "Turn":
        """Return the same move on what this one saw and another part, which is a share of both."""
        gradients = torch._foreach_lerp(list(self.gradients), list(other.gradients), share)
        means = {name: mean.lerp(other.means[name], share) for name, mean in self.means.items()}
        return Turn(self.player, gradients, means, self.steps + other.steps)


def together(
    parts: Sequence[Batch],
    moves: Callable[[Batch], Iterator[Move]],
    turn: Callable[[Move, Batch], Turn],
) -> Iterator[Turn]:
    """Yield the turns of a batch whose parts take each of them one after another.

    The activations of one part alone are in memory at a time.

    Args:
        parts: of the batch.
        moves: returns the players' moves on a part.
        turn: returns a move with its gradient.
    """
    first, *others = parts
    games = [
        (moves(part), part, len(part) / (before + len(part)))
        for part, before in zip(others, accumulate(map(len, parts)), strict=False)
    ]
    for move in moves(first):
        whole = turn(move, first)
        for game, part, share in games:
            whole = whole.with_part(turn(next(game), part), share)
        yield whole


def joined(steps: Sequence[Step]) -> Step:
    """Return the passes of a batch's parts as one, from which running state follows.

    It has no posterior, and of several parts no gradients.
    """
    first, *others = steps
    if not others:
        return first
    batches = [step.batch for step in steps]
    sizes = [len(batch) for batch in batches]
    known = [name for name, value in vars(first.batch).items() if value is not None]
    batch: dict[str, Any] = {name: rows(name, batches, sizes) for name in known}
    names = first.charges
    return replace(
        first,
        batch=replace(first.batch, **batch),
        q=None,
        h=rows("h", steps, sizes),
        z=rows("z", steps, sizes),
        out=rows("out", steps, sizes),
        nll=costs([step.nll for step in steps], sizes),
        charges={name: costs([step.charges[name] for step in steps], sizes) for name in names},
    )


@torch.no_grad()
def rows(name: str, parts: Sequence[Any], sizes: list[int]) -> Tensor:
    """Return the rows of all parts; several codes of a sample stay the slower axis."""
    values = [vars(part)[name].unflatten(0, (-1, n)) for part, n in zip(parts, sizes, strict=True)]
    return torch.cat(values, 1).flatten(0, 1)


@torch.no_grad()
def costs(values: list[Tensor], sizes: list[int]) -> Tensor:
    """Return what the samples of all parts cost, or the mean of a statistic."""
    if values[0].ndim:
        return torch.cat(values, -1)
    shares = (value * (n / sum(sizes)) for value, n in zip(values, sizes, strict=True))
    return torch.stack(list(shares)).sum()
