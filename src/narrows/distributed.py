"""Processes that train one model together: each takes its part of every batch.

All of them hold the whole batch and do what a process alone would do, but for two things. Through
the networks that treat every sample by itself (`Net.networks`), which are most of the work, each
passes its own rows only, and what comes out is gathered. And gradients are averaged before they
move anything. Codes, noise, losses, critics, penalties and running state see whole batches, and
are those of one process.

The averages are right for all parameters. What is not shared is computed by all alike, and so are
its gradients. In a shared network gradients are sums over own rows; the gather scales them by the
number of processes, so that their mean is the sum over all rows.
"""

import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from narrows.data.sources import Batch
from narrows.errors import DataError, ParameterError, PeerError
from narrows.net import Net
from narrows.parts.networks import Chance, Dropout

__all__ = ["Processes", "join", "leads"]

STARTED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What torchrun tells the processes that it starts, in their environment."""
DRAWING = (Dropout, Chance, nn.modules.dropout._DropoutNd)
"""Modules that draw noise for each value that they see."""
MIXING = nn.modules.batchnorm._BatchNorm
"""Modules that mix the samples of a batch."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them; it may be alone.

    Attributes:
        device: where this one trains.
        rank: number of this one; the first is 0.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    def seed(self, seed: int | None) -> int | None:
        """Return the seed, or a new one for all where it is None and there are others."""
        if seed is not None or self.count == 1:
            return seed
        drawn = torch.tensor(torch.Generator().seed() % 2**31, device=self.device)
        _exchange(dist.broadcast, drawn, 0)
        return int(drawn)

    def align(self, net: nn.Module) -> None:
        """Give the first one's weights and running state to all."""
        for tensor in net.state_dict().values() if self.count > 1 else ():
            _exchange(dist.broadcast, tensor, 0)

    def alike(self, row: dict[str, float]) -> dict[str, float]:
        """Return the first one's numbers, so that all decide alike; rounding may differ."""
        if self.count == 1:
            return row
        values = torch.tensor([*row.values()], dtype=torch.float64, device=self.device)
        _exchange(dist.broadcast, values, 0)
        return dict(zip(row, values.tolist(), strict=True))

    def agree(self, known: dict[str, Any]) -> None:
        """Compare what must be the same in all processes.

        Raises:
            DataError: something differs; it says what.
        """
        every: list[dict[str, Any]] = [{}] * self.count
        _exchange(dist.all_gather_object, every, known)
        for rank, other in enumerate(every):
            differing = ", ".join(k for k in every[0] if other.get(k) != every[0][k])
            if differing:
                raise DataError(
                    f"Process {rank} differs from process 0 in {differing}. With strategy='ddp' "
                    "all of them get the same data, fields and checkpoints; each takes its part "
                    "of every batch by itself."
                )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run what is inside in one process after the other."""
        for _ in range(self.rank):
            self._wait()
        yield
        for _ in range(self.rank, self.count):
            self._wait()

    def _wait(self) -> None:
        if self.count > 1:
            _exchange(dist.all_reduce, torch.zeros(1, device=self.device))

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the means of gradients over the processes."""
        if self.count == 1:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        _exchange(dist.all_reduce, flat)
        parts = (flat / self.count).split([gradient.numel() for gradient in gradients])
        return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]

    @contextmanager
    def sharing(self, *nets: Net) -> Iterator[None]:
        """Pass own rows alone through these nets' networks; only the first process warns."""
        if self.count == 1:
            yield
            return
        hooks, handles = _Hooks(self), []
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
        with warnings.catch_warnings():
            if self.rank:
                warnings.simplefilter("ignore")
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()


def join(strategy: str | None, device: torch.device) -> Processes:
    """Return the processes that train together, each on a device of its own; None is alone.

    Raises:
        ParameterError: there is no such strategy, torchrun started no processes, or there are
            fewer GPUs than processes.
    """
    if strategy is None:
        return Processes(device)
    if strategy != "ddp":
        raise ParameterError(f"strategy must be 'ddp' or None. Got {strategy!r} instead.")
    if not dist.is_initialized():
        if not os.environ.keys() >= STARTED:
            raise ParameterError(
                "strategy='ddp' trains in processes that torchrun starts, as in `torchrun "
                "--nproc-per-node 2 script.py`; this one was started alone. Leave it at None."
            )
        dist.init_process_group()
        atexit.register(_leave)
    rank, count = dist.get_rank(), dist.get_world_size()
    if device.type == "cuda":
        device = _own(device, int(os.environ.get("LOCAL_RANK", rank)))
    return Processes(device, rank, count)


def leads() -> bool:
    """Return whether this process is the first of those that train together, or alone."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _own(device: torch.device, local: int) -> torch.device:
    """Return a GPU of its own for each process of a machine."""
    found = torch.cuda.device_count()
    if device != torch.device("cuda") or local >= found:
        raise ParameterError(
            f"strategy='ddp' takes a GPU for each process. There are {found}, process {local} of "
            f"this machine needs one, and device is '{device}': start as many as there are GPUs, "
            "with device='cuda' or 'cpu'."
        )
    own = torch.device("cuda", local)
    torch.cuda.set_device(own)
    return own


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _exchange(call: Callable[..., Any], *arguments: Any) -> None:
    """Exchange tensors with the other processes."""
    try:
        call(*arguments)
    except RuntimeError as error:
        raise PeerError(
            "Another process of this run has ended or cannot be reached, and this one cannot go "
            "on without it. The other one's own message says why."
        ) from error


# -- parts of a batch --------------------------------------------------------------------------


class _Part:
    """The rows of a batch that are a process's own, as many as those of every other.

    Where there are not enough, the last processes take first rows once more; nothing comes of it.
    """

    def __init__(self, processes: Processes, total: int) -> None:
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
        _exchange(dist.all_gather, parts, rows)
        return torch.cat(parts)[: self.total]


class _Take(Function):
    """Own rows of a tensor that all processes have alike; gradients of all rows come back."""

    @staticmethod
    def forward(whole: Tensor, part: _Part) -> Tensor:
        return part.pick(whole)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Part], output: Tensor) -> None:
        del output
        ctx.part = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.part.gather(gradient) / ctx.part.count, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        own: Tensor = ctx.part.take(tangent)
        return own


class _Gather(Function):
    """The rows of all processes; what follows, and so the gradient, is alike in all of them."""

    @staticmethod
    def forward(rows: Tensor, part: _Part) -> Tensor:
        return part.exchange(rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Part], output: Tensor) -> None:
        del output
        ctx.part = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own, counted = ctx.part.take(gradient), ctx.part.counted.to(gradient.dtype)
        return own * counted.view(-1, *(1 for _ in own.shape[1:])), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        whole: Tensor = ctx.part.gather(tangent)
        return whole


class _Hooks:
    """What is done before and after the modules of shared networks."""

    def __init__(self, processes: Processes) -> None:
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
