"""AdamW on tensors of our own, with the same lines for an eager step and for a compiled one."""

from collections.abc import Container, Sequence
from itertools import compress
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from narrows.errors import TrainingError
from narrows.net import Stage

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["CLEARED", "AdamW", "LossScale", "optimizers"]

CLEARED = 100
"""Optimizers clear what faded from their moments every so many steps."""
FIELDS = ("learning_rate", "weight_decay", "l2", "gradient_clip", "ema")
"""Fields of the estimator that are options of every optimizer, unless its player has others."""


class AdamW:
    """AdamW (Loshchilov & Hutter, 2019) whose whole state is tensors, written in place.

    Weight decay, decoupled or not, spares vectors (biases, norms) and what a module names in
    `undecayed`, its tables of points. A non-finite gradient changes nothing and is counted in
    `skipped`, without a transfer to the host.

    Args:
        parameters: the player's parameters by name.
        learning_rate: step size.
        weight_decay: decay of matrices per unit of learning rate.
        l2: share of the matrices that is added to their gradient, after clipping.
        gradient_clip: largest allowed global norm of the gradient; None for any.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        ema: decay of the moving average of the parameters; 0 keeps none.
        scaled: whether the gradients are those of a loss times `scale`.
        undecayed: names of parameters that do not decay.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        l2: float = 0.0,
        gradient_clip: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        ema: float = 0.0,
        scaled: bool = False,
        undecayed: Container[str] = (),
    ) -> None:
        self.names = list(parameters)
        self.leaves: list[Tensor] = list(parameters.values())
        self.parameters = [self.held(p) for p in self.leaves]
        self.decays = [p.ndim > 1 and name not in undecayed for name, p in parameters.items()]
        self.matrices = list(compress(self.parameters, self.decays))
        self.base_rate, self.weight_decay, self.l2, self.ema = learning_rate, weight_decay, l2, ema
        self.gradient_clip, self.betas, self.eps = gradient_clip, betas, eps
        device = self.parameters[0].device
        self.rate = torch.tensor(learning_rate, device=device)
        self.count, self.skipped = torch.zeros((), device=device), torch.zeros((), device=device)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.averages = [p.detach().clone() for p in self.parameters] if ema else []
        self.scale = LossScale(device) if scaled else None

    @staticmethod
    def held(parameter: Tensor) -> Tensor:
        """Return what is in memory of a parameter: all of it."""
        return parameter

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss whose gradients `update` takes."""
        return loss if self.scale is None else loss * self.scale.value

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by one step."""
        # The fused kernel reads raw memory.
        pairs = zip(gradients, self.parameters, strict=True)
        gradients = [
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for g, p in pairs
        ]
        in_a_graph = torch.compiler.is_compiling()
        norm = self.norm(gradients)
        sound = norm.lt(float("inf")).float()  # nan is not less either
        unsound = failed = 1 - sound
        divisor = None
        if self.scale is not None:
            divisor = self.scale.value.clone()
            norm = norm / divisor
            failed = self.scale.follow(sound)
        if self.gradient_clip is not None:
            excess = ((norm + 1e-6) / self.gradient_clip).clamp(min=1.0).float()
            divisor = excess if divisor is None else divisor * excess
        if self.l2:
            gradients, divisor = self._with_l2(gradients, divisor), None
        if self.weight_decay and self.matrices:
            torch._foreach_mul_(self.matrices, 1 - self.rate * (self.weight_decay * sound))
        self.count.add_(sound)
        self.skipped.add_(failed)
        move = self._move_in_a_graph if in_a_graph else self._move
        move(gradients, unsound, divisor)
        if self.averages:
            self._average(sound)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the global norm of gradients."""
        in_a_graph = torch.compiler.is_compiling()
        each = torch._foreach_norm(gradients) if not in_a_graph else map(vector_norm, gradients)
        norm: Tensor = vector_norm(torch.stack(list(each)))
        return norm

    def _move(self, gradients: list[Tensor], unsound: Tensor, divisor: Tensor | None) -> None:
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
            found_inf=unsound,
        )

    def _move_in_a_graph(
        self, gradients: list[Tensor], unsound: Tensor, divisor: Tensor | None
    ) -> None:
        """Do the same with tensor operations, which a compiler fuses with what is around them."""
        (beta1, beta2), count = self.betas, self.count.double()
        step, root = self.rate / (1 - beta1**count), (1 - beta2**count).sqrt()
        moves = unsound == 0
        groups = zip(self.parameters, gradients, self.first, self.second, strict=True)
        for p, g, first, second in groups:
            g = g if divisor is None else g / divisor
            first.copy_(torch.where(moves, first.lerp(g, 1 - beta1), first))
            second.copy_(torch.where(moves, second.lerp(g * g, 1 - beta2), second))
            p.sub_(torch.where(moves, step * first / (second.sqrt() / root + self.eps), 0.0))

    def _with_l2(self, gradients: list[Tensor], divisor: Tensor | None) -> list[Tensor]:
        """Return gradients as they move the parameters, the matrices' with their L2 decay."""
        divided = (g if divisor is None else g / divisor for g in gradients)
        groups = zip(self.parameters, divided, self.decays, strict=True)
        return [g.add(p, alpha=self.l2) if decays else g for p, g, decays in groups]

    def _average(self, sound: Tensor) -> None:
        """Move the averages: a <- d a + (1 - d) p with d = min(ema, (1 + t) / (10 + t)) at step t.

        The second keeps the first weights from lasting in a short run, as TensorFlow does.
        """
        decay = ((1 + self.count) / (10 + self.count)).clamp(max=self.ema)
        weight = (1 - decay) * sound
        for average, p in zip(self.averages, self.parameters, strict=True):
            average.lerp_(p, weight.to(p.dtype))

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the averages in the place of the parameters, and these in theirs, if there are any.

        Values change their places, not tensors: graphs hold those.
        """
        if self.averages:
            kept = [p.clone() for p in self.parameters]
            torch._foreach_copy_(self.parameters, self.averages)
            torch._foreach_copy_(self.averages, kept)

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
        own = {"rate": self.rate, "count": self.count, "skipped": self.skipped}
        if self.scale is not None:
            own |= {"scale": self.scale.value, "sound": self.scale.sound}
        kinds = {"first": self.first, "second": self.second}
        kinds |= {"average": self.averages} if self.averages else {}
        for kind, tensors in kinds.items():
            own |= {f"{kind}.{k}": t for k, t in zip(self.names, tensors, strict=True)}
        return own


class LossScale:
    """What a loss is multiplied by, lest its gradients vanish in half precision.

    An overflow halves it and skips the step; so many sound steps on end double it (Micikevicius et
    al., 2018, https://arxiv.org/abs/1710.03740).

    Args:
        device: of the parameters.
    """

    start, interval, largest = 2.0**16, 2000, 2.0**32

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(self.start, device=device)
        self.sound = torch.zeros((), device=device)

    def follow(self, sound: Tensor) -> Tensor:
        """Follow a step that was sound, 1, or not, 0; return 1 where no smaller scale is left."""
        failed = (1 - sound) * (self.value <= 1)
        self.sound.add_(1).mul_(sound)
        grown = self.sound >= self.interval
        factor = torch.where(sound > 0, 1.0 + grown, 0.5)
        self.value.mul_(factor).clamp_(1.0, self.largest)
        self.sound.mul_(~grown)
        return failed


def optimizers(
    model: "BaseAutoencoder", stage: Stage, kind: type[AdamW] = AdamW
) -> dict[str, AdamW]:
    """Return one optimizer a player; each parameter must belong to just one of them."""
    made: dict[str, AdamW] = {}
    names = {p: name for name, p in stage.net.named_parameters()}
    owner: dict[nn.Parameter, str] = {}
    options = {name: getattr(model, name) for name in FIELDS}
    options["scaled"] = model.precision == "float16"
    options["undecayed"] = {
        f"{name}.{own}" if name else own
        for name, module in stage.net.named_modules()
        for own in getattr(module, "undecayed", ())
    }
    for player, (modules, own) in stage.players.items():
        parameters = {p for module in modules for p in module.parameters()}
        for p in parameters:
            if owner.setdefault(p, player) != player:
                raise TrainingError(
                    f"The parameter '{names[p]}' belongs to two players, '{owner[p]}' and "
                    f"'{player}'; players() must name disjoint modules."
                )
        ordered = {name: p for p, name in names.items() if p in parameters}
        made[player] = kind(ordered, **(options | own))
    for p, name in names.items():
        if p not in owner:
            raise TrainingError(
                f"The parameter '{name}' belongs to no player: it would not train."
            )
    return made
