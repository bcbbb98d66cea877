"""The terms of moves: the losses that they make, and the means that the history shows."""

import torch
from torch import Tensor

from narrows.net import Move, Terms

__all__ = ["average", "merged", "total"]


def total(move: Move, weight: Tensor | None) -> tuple[Tensor, Terms]:
    """Return a move's loss, and the batch means of its terms (with "loss" for the autoencoder)."""
    means = {name: average(term, weight) for name, term in move.terms.items()}
    first, *others = means.values()
    loss = first if not others else torch.stack([first, *others]).sum()
    logged = {name: mean.detach() for name, mean in means.items()}
    return loss, logged | ({"loss": loss.detach()} if move.player == "autoencoder" else {})


def merged(terms: Terms, more: Terms) -> Terms:
    """Return the terms of several moves; their losses add up."""
    both = {"loss": terms["loss"] + more["loss"]} if "loss" in terms and "loss" in more else {}
    return terms | more | both


def average(term: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over the batch; a statistic of the batch stays as it is.

    Weights have a mean of one over the source, so a batch of light samples counts for less.
    """
    if term.ndim == 0:
        return term
    return term.mean() if weight is None else (term * weight).mean()
