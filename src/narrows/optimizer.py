"""AdamW on tensors of our own, with the same lines for an eager step and for a compiled one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from narrows.errors import TrainingError
from narrows.net import Stage

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["CLEARED", "AdamW", "optimizers"]

CLEARED = 100
"""Optimizers clear what faded from their moments every so many steps."""


class AdamW:
    """AdamW (Loshchilov & Hutter, 2019) whose whole state is tensors, written in place.

    Weight decay is decoupled and spares vectors (biases, norms). A non-finite gradient changes
    nothing and is counted in `skipped`, without a transfer to the host.

    Args:
        parameters: the player's parameters by name.
        learning_rate: step size.
        weight_decay: decay of matrices per unit of learning rate.
        gradient_clip: largest allowed global norm of the gradient; None for any.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.names = list(parameters)
        self.parameters: list[Tensor] = list(parameters.values())
        self.matrices = [p for p in self.parameters if p.ndim > 1]
        self.base_rate, self.weight_decay = learning_rate, weight_decay
        self.gradient_clip, self.betas, self.eps = gradient_clip, betas, eps
        device = self.parameters[0].device
        self.rate = torch.tensor(learning_rate, device=device)
        self.count, self.skipped = torch.zeros((), device=device), torch.zeros((), device=device)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by one step."""
        gradients = [g.contiguous() for g in gradients]  # the fused kernel reads raw memory
        in_a_graph = torch.compiler.is_compiling()
        each = torch._foreach_norm(gradients) if not in_a_graph else map(vector_norm, gradients)
        norm = vector_norm(torch.stack(list(each)))
        sound = norm.lt(float("inf")).float()  # nan is not less either
        divisor = None
        if self.gradient_clip is not None:
            divisor = ((norm + 1e-6) / self.gradient_clip).clamp(min=1.0).float()
        if self.weight_decay and self.matrices:
            torch._foreach_mul_(self.matrices, 1 - self.rate * (self.weight_decay * sound))
        self.count.add_(sound)
        self.skipped.add_(1 - sound)
        move = self._move_in_a_graph if in_a_graph else self._move
        move(gradients, sound, divisor)

    def _move(self, gradients: list[Tensor], sound: Tensor, divisor: Tensor | None) -> None:
        """Update moments and parameters in torch's fused kernel."""
        torch._fused_adamw_(
            self.parameters,
            gradients,
            self.first,
            self.second,
            [],
            [self.count] * len(gradients),
            lr=self.rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
            found_inf=1 - sound,
        )

    def _move_in_a_graph(
        self, gradients: list[Tensor], sound: Tensor, divisor: Tensor | None
    ) -> None:
        """Do the same with tensor operations, which a compiler fuses with what is around them."""
        (beta1, beta2), count = self.betas, self.count.double()
        step, root = self.rate / (1 - beta1**count), (1 - beta2**count).sqrt()
        moves = sound > 0
        groups = zip(self.parameters, gradients, self.first, self.second, strict=True)
        for p, g, first, second in groups:
            g = g if divisor is None else g / divisor
            first.copy_(torch.where(moves, first.lerp(g, 1 - beta1), first))
            second.copy_(torch.where(moves, second.lerp(g * g, 1 - beta2), second))
            p.sub_(torch.where(moves, step * first / (second.sqrt() / root + self.eps), 0.0))

    @torch.no_grad()
    def clear(self) -> None:
        """Set to zero what faded from the moments: denormal numbers make each step far slower.

        Nothing else comes of it: the update of a parameter whose gradient stays zero is lost
        beside `eps` long before, and a first moment above the threshold cannot become denormal
        in the next `CLEARED` steps.
        """
        for moment in self.first + self.second:
            moment.copy_(F.hardshrink(moment, 1e-30))

    def state(self) -> dict[str, Tensor]:
        """Return the state's own tensors by name."""
        moments = {f"first.{k}": m for k, m in zip(self.names, self.first, strict=True)}
        moments |= {f"second.{k}": v for k, v in zip(self.names, self.second, strict=True)}
        return {"rate": self.rate, "count": self.count, "skipped": self.skipped} | moments


def optimizers(model: "BaseAutoencoder", stage: Stage) -> dict[str, AdamW]:
    """Return one optimizer a player; each parameter must belong to just one of them."""
    made: dict[str, AdamW] = {}
    names = {p: name for name, p in stage.net.named_parameters()}
    owner: dict[nn.Parameter, str] = {}
    options = {k: getattr(model, k) for k in ("learning_rate", "weight_decay", "gradient_clip")}
    for player, (modules, own) in stage.players.items():
        parameters = {p for module in modules for p in module.parameters()}
        for p in parameters:
            if owner.setdefault(p, player) != player:
                raise TrainingError(
                    f"The parameter '{names[p]}' belongs to two players, '{owner[p]}' and "
                    f"'{player}'; players() must name disjoint modules."
                )
        ordered = {name: p for p, name in names.items() if p in parameters}
        made[player] = AdamW(ordered, **(options | own))
    for p, name in names.items():
        if p not in owner:
            raise TrainingError(
                f"The parameter '{name}' belongs to no player: it would not train."
            )
    return made
