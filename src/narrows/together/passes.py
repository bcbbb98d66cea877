"""What one model does with a batch, as a function of its tensors that is mapped over K models."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from narrows.data.sources import Batch
from narrows.net import Step, Terms
from narrows.terms import total
from narrows.together.draws import Given
from narrows.training import Training

__all__ = ["Numbers", "Pass", "tensors"]

Numbers = Mapping[str, Tensor | dict[str, Tensor]]
"""Fields of a model that its losses calculate with."""


class Pass(nn.Module):
    """A model's pass over a batch; `functional_call` gives it the tensors to make it with.

    Args:
        run: of the model.
    """

    def __init__(self, run: Training) -> None:
        super().__init__()
        self.net, self.run = run.net, run

    def alone(
        self,
        method: str,
        state: dict[str, Tensor],
        noise: Sequence[Tensor],
        /,
        *given: Any,
        **options: bool,
    ) -> Any:
        """Call a method with these tensors as the net's, and these in the place of draws."""
        with Given(noise) if noise else nullcontext():
            return functional_call(self, state, (method, *given), options)

    def each(
        self,
        method: str,
        state: dict[str, Tensor],
        noise: Sequence[Tensor],
        /,
        *given: Any,
        **options: bool,
    ) -> Any:
        """Do so for K models at once: every tensor has a first axis of K."""

        def one(*inputs: Any) -> Any:
            return self.alone(method, *inputs, **options)

        return torch.vmap(one)(state, noise, *given)

    def forward(self, method: str, *given: Any, **options: bool) -> Any:
        """Call a method by its name."""
        return getattr(self, method)(*given, **options)

    def charge(self, batch: Terms, numbers: Numbers) -> tuple[Tensor, Terms, dict[str, Any]]:
        """Return the loss, the means of its terms, and the record of the pass.

        Args:
            batch: its tensors.
            numbers: what fields of the model are in this pass.
        """
        model, found = self.run.model, dict[str, Any](batch)
        seen = Batch(**found)
        own = {name: getattr(model, name) for name in numbers}
        model.__dict__.update(numbers)
        try:
            (move,) = self.run.moves(seen)
        finally:
            model.__dict__.update(own)
        loss, terms = total(move, seen.weight)
        return loss, terms, {} if move.step is None else record(move.step)

    def answer(self, kept: dict[str, Any], change: bool, watch: bool) -> Terms:
        """Let running state follow a pass; return what the history shows of it.

        Args:
            kept: the record of the pass.
            change: whether state follows.
            watch: whether the history shows anything.
        """
        known = {"q": self.net.latent.posterior(kept["h"]), "progress": self.net.progress}
        step = Step(**kept | known | {"batch": Batch(**kept["batch"])})
        terms = self.net.statistics(step) if watch else {}
        if change:
            self.net.update(step)
        return terms


def record(step: Step) -> dict[str, Any]:
    """Return a step as tensors by name; what is left out follows from them."""
    parts = {name: getattr(step, name) for name in ("h", "z", "out", "nll", "charges")}
    return parts | {"batch": tensors(step.batch)}


def tensors(batch: Batch) -> Terms:
    """Return the tensors of a batch by name."""
    return {name: value for name, value in vars(batch).items() if value is not None}
