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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from narrows.distributed.exchange import exchange
from narrows.distributed.rows import passing
from narrows.errors import DataError, ParameterError
from narrows.net import Move, Net
from narrows.optimizer import AdamW
from narrows.storage import pack, unpack, write_folder

FILES = ("state.json", "state.safetensors")
"""What a process writes of a run's state."""
PIECES = "state-*.safetensors"
"""What each of several writes in the place of the second."""
__all__ = ["Processes", "join", "leads"]

STARTED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What torchrun tells the processes that it starts, in their environment."""


@dataclass
class Processes:
    """The processes of a run, as one of them sees them; it may be alone.

    Each holds the whole net.

    Attributes:
        device: where this one trains.
        rank: number of this one; the first is 0.
        count: how many there are.
        strategy: how they share the work; None is alone.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    strategy: str | None = None

    def seed(self, seed: int | None) -> int | None:
        """Return the seed, or a new one for all where it is None and there are others."""
        if seed is not None or self.count == 1:
            return seed
        drawn = torch.tensor(torch.Generator().seed() % 2**31, device=self.device)
        exchange(dist.broadcast, drawn, 0)
        return int(drawn)

    def align(self, net: nn.Module) -> None:
        """Give the first one's weights and running state to all, where all hold them."""
        for tensor in net.state_dict().values() if self.count > 1 else ():
            exchange(dist.broadcast, tensor, 0)

    def alike(self, row: dict[str, float]) -> dict[str, float]:
        """Return the first one's numbers, so that all decide alike; rounding may differ."""
        if self.count == 1:
            return row
        values = torch.tensor([*row.values()], dtype=torch.float64, device=self.device)
        exchange(dist.broadcast, values, 0)
        return dict(zip(row, values.tolist(), strict=True))

    def any(self, here: bool) -> bool:
        """Return whether something is so in any of them."""
        if self.count == 1:
            return here
        found = torch.tensor(float(here), device=self.device)
        exchange(dist.all_reduce, found)
        return bool(found)

    def agree(self, known: dict[str, Any]) -> None:
        """Compare what must be the same in all processes.

        Raises:
            DataError: something differs; it says what.
        """
        every = self.told(known)
        for rank, other in enumerate(every):
            differing = ", ".join(k for k in every[0] if other.get(k) != every[0][k])
            if differing:
                raise DataError(
                    f"Process {rank} differs from process 0 in {differing}. With "
                    f"strategy='{self.strategy}' all of them get the same data, fields and "
                    "checkpoints; each takes its part of every batch by itself."
                )

    def told(self, known: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what each process knows."""
        every: list[dict[str, Any]] = [{}] * self.count
        exchange(dist.all_gather_object, every, known)
        return every

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
            exchange(dist.all_reduce, torch.zeros(1, device=self.device))

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the means of gradients over the processes."""
        if self.count == 1 or not gradients:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        exchange(dist.all_reduce, flat)
        parts = (flat / self.count).split([gradient.numel() for gradient in gradients])
        return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]

    @contextmanager
    def sharing(self, *nets: Net) -> Iterator[None]:
        """Pass own rows alone through these nets' networks; only the first process warns."""
        if self.count == 1:
            yield
            return
        with warnings.catch_warnings(), passing(self, nets):
            if self.rank:
                warnings.simplefilter("ignore")
            yield

    # -- what is done otherwise where each keeps a part of the net -------------------------------

    adamw: ClassVar[type[AdamW]] = AdamW
    """What moves the parameters."""

    def spread(self, net: Net) -> None:
        """Share a net's weights between the processes, before anything trains them: here not."""

    def whole(self, net: Net) -> Net:
        """Return the net, with all of its weights in every process."""
        return net

    def complete(self, move: Move) -> Move:
        """Return a move with terms of all of the net."""
        return move

    def gradients(self, loss: Tensor, optimizer: AdamW) -> Sequence[Tensor]:
        """Return the gradients that a player's optimizer takes once they are averaged.

        Only of its own parameters: a loss that fools the critic never trains it.
        """
        return torch.autograd.grad(
            loss, optimizer.parameters, allow_unused=True, materialize_grads=True
        )

    @property
    def saves(self) -> bool:
        """Whether this process has a part in saving the state of a run."""
        return self.rank == 0

    def decided(self, decision: bool) -> bool:
        """Return the first one's decision in all processes that save."""
        return decision

    def write(self, path: Path, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the state of a run as a folder, whole or not at all.

        Raises:
            FileError: it cannot be written.
        """
        write_folder(path, pack(data, tensors, FILES), overwrite=True)

    def read(
        self, path: Path, nets: Mapping[str, nn.Module]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state that `write` wrote, in any number of processes of any strategy.

        Args:
            path: the folder.
            nets: by the first part of a tensor's name: whose state it is, or of whose parameters.

        Raises:
            ModelFileError: it is damaged.
        """
        del nets
        if not any(path.glob(PIECES)):
            return unpack(path, FILES)
        from narrows.distributed.pieces import read_pieces  # here, because it takes long

        return read_pieces(path, FILES[0], lambda _, size, dtype: torch.empty(size, dtype=dtype))

    def held(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what this process holds of tensors."""
        return tensors

    def pooled(self, found: dict[str, float]) -> dict[str, float]:
        """Return what was found in any process, where they look at different tensors."""
        return found


def join(strategy: str | None, device: torch.device) -> Processes:
    """Return the processes that train together, each on a device of its own; None is alone.

    Raises:
        ParameterError: there is no such strategy, torchrun started no processes, or there are
            fewer GPUs than processes.
    """
    if strategy is None:
        return Processes(device)
    if strategy not in ("ddp", "fsdp"):
        raise ParameterError(f"strategy must be 'ddp', 'fsdp' or None. Got {strategy!r} instead.")
    if not dist.is_initialized():
        if not os.environ.keys() >= STARTED:
            raise ParameterError(
                f"strategy='{strategy}' trains in processes that torchrun starts, as in `torchrun "
                "--nproc-per-node 2 script.py`; this one was started alone. Leave it at None."
            )
        dist.init_process_group()
        atexit.register(_leave)
    rank, count = dist.get_rank(), dist.get_world_size()
    if device.type == "cuda":
        device = _own(device, int(os.environ.get("LOCAL_RANK", rank)), strategy)
    if strategy == "ddp":
        return Processes(device, rank, count, strategy)
    from narrows.distributed.shards import Shards  # here, because it takes seconds

    return Shards(device, rank, count, strategy)


def leads() -> bool:
    """Return whether this process is the first of those that train together, or alone."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _own(device: torch.device, local: int, strategy: str) -> torch.device:
    """Return a GPU of its own for each process of a machine."""
    found = torch.cuda.device_count()
    if device != torch.device("cuda") or local >= found:
        raise ParameterError(
            f"strategy='{strategy}' takes a GPU for each process. There are {found}, process "
            f"{local} of this machine needs one, and device is '{device}': start as many as there "
            "are GPUs, with device='cuda' or 'cpu'."
        )
    own = torch.device("cuda", local)
    torch.cuda.set_device(own)
    return own


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
