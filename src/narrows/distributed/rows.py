"""A process's own rows of a batch, on their way through the networks that are shared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from narrows.data.sources import Batch
from narrows.distributed.exchange import exchange
from narrows.net import Net
from narrows.parts.networks import Chance, Dropout

if TYPE_CHECKING:
    from narrows.distributed.processes import Processes

__all__ = ["passing"]

DRAWING = (Dropout, Chance, nn.modules.dropout._DropoutNd)
"""Modules that draw noise for each value that they see."""
MIXING = nn.modules.batchnorm._BatchNorm
"""Modules that mix the samples of a batch."""


@contextmanager
def passing(processes: "Processes", nets: tuple[Net, ...]) -> Iterator[None]:
    """Pass own rows alone through these nets' networks, and gather what comes out."""
    hooks, handles = _Hooks(processes), []
    networks = dict.fromkeys(network for net in nets for network in net.networks())
    for network in networks:
        handles.append(network.register_forward_pre_hook(hooks.enter))
        handles.append(network.register_forward_hook(hooks.leave))
    for module in dict.fromkeys(m for network in networks for m in network.modules()):
        if isinstance(module, DRAWING):
            handles.append(module.register_forward_pre_hook(hooks.place))
            handles.append(module.register_forward_hook(hooks.pick))
        elif isinstance(module, MIXING):
            handles.append(module.register_forward_pre_hook(hooks.gather))
            handles.append(module.register_forward_hook(hooks.take))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Part:
    """The rows of a batch that are a process's own, as many as those of every other.

    Where there are not enough, the last processes take first rows once more; nothing comes of it.
    """

    def __init__(self, processes: "Processes", total: int) -> None:
        self.count, self.total = processes.count, total
        size = -(-total // processes.count)
        places = torch.arange(size, device=processes.device) + processes.rank * size
        self.rows = places % total
        self.counted = self.count * (places < total).float()  # of each row in a gradient

    def take(self, whole: Tensor) -> Tensor:
        """Return own rows of what all processes have alike."""
        rows: Tensor = _Take.apply(whole, self)
        return rows

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes from each one's own."""
        whole: Tensor = _Gather.apply(rows, self)
        return whole

    def place(self, rows: Tensor) -> Tensor:
        """Return own rows among zeros."""
        return rows.new_zeros(self.total, *rows.shape[1:]).index_copy(0, self.rows, rows)

    def pick(self, placed: Tensor) -> Tensor:
        """Return own rows from their places."""
        return placed.index_select(0, self.rows)

    def exchange(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, without a gradient."""
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        exchange(dist.all_gather, parts, rows)
        return torch.cat(parts)[: self.total]


class _OfPart(Function):
    """A function of a tensor and the part of a batch that it is taken from or put into."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Part], output: Tensor) -> None:
        del output
        ctx.part = inputs[1]


class _Take(_OfPart):
    """Own rows of a tensor that all processes have alike; gradients of all rows come back."""

    @staticmethod
    def forward(whole: Tensor, part: _Part) -> Tensor:
        return part.pick(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.part.gather(gradient) / ctx.part.count, None


class _Gather(_OfPart):
    """The rows of all processes; what follows, and so the gradient, is alike in all of them."""

    @staticmethod
    def forward(rows: Tensor, part: _Part) -> Tensor:
        return part.exchange(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own, counted = ctx.part.take(gradient), ctx.part.counted.to(gradient.dtype)
        return own * counted.view(-1, *(1 for _ in own.shape[1:])), None


class _Hooks:
    """What is done before and after the modules of shared networks."""

    def __init__(self, processes: "Processes") -> None:
        self.processes = processes
        self.part: _Part | None = None  # while a network runs

    def enter(self, network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Let a network see own rows of its inputs."""
        del network
        part = self.part = _Part(self.processes, len(inputs[0]))
        own: tuple[Any, ...] = _mapped(
            inputs, lambda t: part.take(t) if t.ndim and len(t) == part.total else t
        )
        return own

    def leave(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Return what the network put out in all processes."""
        del network, inputs
        part, self.part = self.part, None
        return output if part is None else _mapped(output, part.gather)

    def place(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        """Let a module draw noise for the whole batch."""
        return self.part.place(inputs[0]) if self.part and module.training else None

    def pick(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        """Return what it made of own rows."""
        del inputs
        return self.part.pick(output) if self.part and module.training else None

    def gather(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        """Let a module see the whole batch."""
        return self.part.gather(inputs[0]) if self.part and module.training else None

    def take(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        """Return what it made of own rows."""
        del inputs
        return self.part.take(output) if self.part and module.training else None


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with a function applied to the tensors in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_mapped(part, function) for part in value)
    if isinstance(value, Batch):
        return replace(value, **{k: _mapped(v, function) for k, v in vars(value).items()})
    return value
