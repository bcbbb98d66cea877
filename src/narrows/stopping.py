"""Early stopping: the best epoch so far, and the rules by which patience runs out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

__all__ = ["RULES", "Best", "losses_of"]


@dataclass(frozen=True)
class Best:
    """The best loss so far, its epoch, and the weights it had."""

    loss: float = float("inf")
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def against(self, loss: float, epoch: int, net: nn.Module) -> "Best":
        """Return the better of this and the epoch that just ended."""
        if loss >= self.loss:
            return self
        return Best(loss, epoch, {k: v.clone() for k, v in net.state_dict().items()})


def losses_of(history: Sequence[Mapping[str, float]]) -> list[float]:
    """Return what epochs are compared by; none of those whose layers learn alone."""
    return [row.get("validation_loss", row["loss"]) for row in history if "loss" in row]


def best(losses: Sequence[float], patience: int) -> bool:
    """Return whether the best epoch lies `patience` epochs back."""
    return len(losses) > patience and len(losses) - 1 - losses.index(min(losses)) >= patience


def lagged(losses: Sequence[float], patience: int) -> bool:
    """Return whether the last epoch is no better than the one `patience` before it."""
    return len(losses) > patience and losses[-1] >= losses[-1 - patience]


RULES: dict[str, Callable[[Sequence[float], int], bool]] = {"best": best, "lagged": lagged}
"""By the name of a rule: whether it stops, from the losses of the epochs so far."""
