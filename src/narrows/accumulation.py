"""A player's move on a batch, whole or in parts whose gradients add up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrows.net import Step, Terms

__all__ = ["Turn", "joined"]


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

    def with_part(self, other: "Turn") -> "Turn":
        """Return the same move on this part of the batch and another."""
        gradients = torch._foreach_add(list(self.gradients), list(other.gradients))
        means = {name: mean + other.means[name] for name, mean in self.means.items()}
        return Turn(self.player, gradients, means, self.steps + other.steps)


@torch.no_grad()
def joined(steps: Sequence[Step]) -> Step:
    """Return the passes of a batch's parts as one, from which running state follows.

    It has no posterior, and of several parts no gradients.
    """
    first, *others = steps
    if not others:
        return first
    sizes = [len(step.batch) for step in steps]
    batches = [step.batch for step in steps]
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


def rows(name: str, parts: Sequence[Any], sizes: list[int]) -> Tensor:
    """Return the rows of all parts; several codes of a sample stay the slower axis."""
    values = [vars(part)[name].unflatten(0, (-1, n)) for part, n in zip(parts, sizes, strict=True)]
    return torch.cat(values, 1).flatten(0, 1)


def costs(values: list[Tensor], sizes: list[int]) -> Tensor:
    """Return what the samples of all parts cost, or the mean of a statistic."""
    if values[0].ndim:
        return torch.cat(values, -1)
    shares = (value * (n / sum(sizes)) for value, n in zip(values, sizes, strict=True))
    return torch.stack(list(shares)).sum()
