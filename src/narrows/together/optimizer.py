"""AdamW for K models at once: rates, clipping and skipped updates of each its own."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from narrows.optimizer import AdamW

__all__ = ["StackedAdamW"]


class StackedAdamW(NamedTuple):
    """The optimizers of K models of one shape, as one whose tensors have a first axis of K.

    A gradient that is not finite holds back its own model alone.

    Attributes:
        rate: learning rates, ``(K,)``.
        decay: decay of matrices per unit of learning rate, ``(K,)``.
        clip: largest norms of gradients, ``(K,)``.
        updates: how many were made, ``(K,)``.
        skipped: how many were not, ``(K,)``.
        first: moments, shaped like the parameters.
        second: moments, shaped like the parameters.
    """

    rate: Tensor
    decay: Tensor
    clip: Tensor
    updates: Tensor
    skipped: Tensor
    first: list[Tensor]
    second: list[Tensor]

    @classmethod
    def of(cls, optimizers: Sequence[AdamW]) -> Self:
        """Return the unused optimizers as one."""
        rate = torch.stack([one.rate for one in optimizers])
        return cls(
            rate,
            rate.new_tensor([one.weight_decay for one in optimizers]),
            rate.new_tensor([one.gradient_clip or float("inf") for one in optimizers]),
            torch.zeros_like(rate),
            torch.zeros_like(rate),
            [torch.stack(moments) for moments in zip(*(o.first for o in optimizers), strict=True)],
            [
                torch.stack(moments)
                for moments in zip(*(o.second for o in optimizers), strict=True)
            ],
        )

    @torch.no_grad()
    def update(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        betas: tuple[float, float],
        eps: float,
        decays: Sequence[bool],
    ) -> None:
        """Move parameters ``(K, ...)`` by one step; some of them decay."""
        norms = [vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients]
        norm = vector_norm(torch.stack(norms), dim=0)
        moves = norm < float("inf")  # nan is not less either
        divisor = ((norm + 1e-6) / self.clip).clamp(min=1.0)
        self.updates.add_(moves)
        self.skipped.add_(~moves)
        (beta1, beta2), count = betas, self.updates.double()
        step = (self.rate / (1 - beta1**count)).float()
        root = (1 - beta2**count).sqrt().float()
        kept = 1 - self.rate * self.decay
        groups = zip(parameters, gradients, self.first, self.second, decays, strict=True)
        for p, g, first, second, decaying in groups:
            each = [t.view(-1, *[1] * (p.ndim - 1)) for t in (moves, divisor, step, root, kept)]
            sound, over, pace, bias, rest = each
            g = g / over
            first.copy_(torch.where(sound, first.lerp(g, 1 - beta1), first))
            second.copy_(torch.where(sound, second.lerp(g * g, 1 - beta2), second))
            moved = p * rest if decaying else p
            moved = moved - pace * first / (second.sqrt() / bias + eps)
            p.copy_(torch.where(sound, moved, p))

    @torch.no_grad()
    def clear(self) -> None:
        """Set to zero what faded from the moments, as each model's own optimizer does."""
        for moment in self.first + self.second:
            moment.copy_(F.hardshrink(moment, 1e-30))
