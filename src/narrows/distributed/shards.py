"""FSDP: each process keeps a part of every layer, and has the whole of it while it runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.linalg import vector_norm

from narrows.distributed.exchange import exchange
from narrows.distributed.pieces import read_pieces, write_pieces
from narrows.distributed.processes import FILES, Processes
from narrows.errors import ParameterError
from narrows.net import Move, Net
from narrows.optimizer import AdamW
from narrows.parts.networks import TiedLinear
from narrows.parts.pursuit import Pursuit
from narrows.parts.spectral import Spectral

__all__ = ["Shards"]

AWAY = ("DTensor", "setStorage")
"""What torch speaks of where weights are read that are not gathered."""


class ShardedAdamW(AdamW):
    """AdamW on what a process holds of the parameters."""

    @staticmethod
    def held(parameter: Tensor) -> Tensor:
        """Return what this process holds of a parameter, in the same memory."""
        return local(parameter)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of all processes' gradients; what all hold alike counts once."""
        first = dist.get_rank() == 0
        counted = compress(gradients, (first or isinstance(p, DTensor) for p in self.leaves))
        own = super().norm([*counted, self.count.new_zeros(1)])  # there may be none
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        exchange(dist.all_gather, every, own)
        norm: Tensor = vector_norm(torch.stack(every))
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the state's own tensors by name, each as a part of the whole."""
        leaves = dict(zip(self.names, self.leaves, strict=True))
        return {
            name: like(tensor, leaves.get(name.partition(".")[2]))
            for name, tensor in super().state().items()
        }


@dataclass
class Shards(Processes):
    """Processes each of which keeps a part of the shared networks' layers.

    A layer is what has a matrix; vectors that stand alone, and what is not shared, are whole in
    all. FSDP gathers a layer before it runs, forward or backward, and averages its gradient.
    """

    adamw = ShardedAdamW
    twins: dict[Net, Net] = field(default_factory=dict, init=False)
    """By a net that is spread: the same without weights, which is not."""

    def spread(self, net: Net) -> None:
        """Share the weights of the layers between the processes."""
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
            for p in net.parameters()
        }
        self.twins[net] = deepcopy(net, memo)
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in layers(net):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)

    @torch.no_grad()
    def whole(self, net: Net) -> Net:
        """Return the net as it was before it was spread, with the values that it has now."""
        twin = self.twins[net]
        state = {name: full(tensor) for name, tensor in net.state_dict().items()}
        twin.load_state_dict(state, assign=True)
        for name, buffer in twin.named_buffers():  # those too that no state has
            buffer.copy_(net.get_buffer(name))
        return twin

    @contextmanager
    def sharing(self, *nets: Net) -> Iterator[None]:
        """Pass own rows alone through these nets' networks; only the first process warns.

        Raises:
            ParameterError: a layer's weights were read while it did not run.
        """
        with super().sharing(*nets):
            try:
                yield
            except RuntimeError as error:
                if not any(words in str(error) for words in AWAY):
                    raise
                raise ParameterError(
                    "strategy='fsdp' gathers the weights of a layer while it runs, and this model "
                    "reads them at another time, as a Jacobian's norm does "
                    f"({str(error).splitlines()[0].rstrip('.')}). Set strategy='ddp'."
                ) from error

    def align(self, net: nn.Module) -> None:
        """Give the first one's weights and running state to all, where all hold them."""
        for tensor in net.state_dict().values():
            if not isinstance(tensor, DTensor):
                exchange(dist.broadcast, tensor, 0)

    def gradients(self, loss: Tensor, optimizer: AdamW) -> Sequence[Tensor]:
        """Return the gradients that a player's optimizer takes: they are averaged already.

        FSDP adds to those of its layers whoever they are of, so that those of others are dropped.
        """
        loss.backward()
        gradients = [
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in optimizer.leaves
        ]
        owned = (parameter for net in self.twins for parameter in net.parameters())
        for leaf in (*optimizer.leaves, *owned):
            leaf.grad = None
        means = iter(super().average([g for g in gradients if not isinstance(g, DTensor)]))
        return [local(g) if isinstance(g, DTensor) else next(means) for g in gradients]

    def complete(self, move: Move) -> Move:
        """Return a move whose terms are whole, also those of weights."""
        return move._replace(terms={name: full(term) for name, term in move.terms.items()})

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return gradients that are averaged already."""
        return gradients

    @property
    def saves(self) -> bool:
        """Whether this process has a part in saving the state of a run: all of them have."""
        return True

    def decided(self, decision: bool) -> bool:
        """Return the first one's decision."""
        return bool(self.alike({"decision": decision})["decision"])

    def write(self, path: Path, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the state of a run as a folder, each its own pieces, whole or not at all."""
        rest = {FILES[0]: json.dumps(data, indent=1)}
        write_pieces(path, tensors, rest, self.rank, self.count)

    def read(
        self, path: Path, nets: Mapping[str, nn.Module]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state in a folder, of each tensor the piece that is held here."""
        known = {name: dict(net.named_parameters()) for name, net in nets.items()}

        def empty(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
            owner, _, rest = name.removeprefix("good.").partition(".")
            parameters = known.get(owner, {})
            whole = parameters.get(rest, parameters.get(rest.partition(".")[2]))
            if whole is None:
                return torch.empty(size, dtype=dtype)
            return like(torch.empty_like(local(whole), dtype=dtype), whole)

        return read_pieces(path, FILES[0], empty)

    def held(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what this process holds of tensors."""
        return {name: local(tensor) for name, tensor in tensors.items()}

    def pooled(self, found: dict[str, float]) -> dict[str, float]:
        """Return what was found in any process."""
        return {name: value for each in self.told(found) for name, value in each.items()}


def layers(net: Net) -> list[nn.Module]:
    """Return the layers that processes keep parts of: those of shared networks with a matrix.

    What others read beside their own pass stays whole.
    """
    tied = (m for m in net.modules() if isinstance(m, TiedLinear | Pursuit))
    read: set[nn.Module] = {m.source for m in tied}
    read |= {m.layer for m in net.modules() if isinstance(m, Spectral)}
    found = dict.fromkeys(layer for network in net.networks() for layer in having_matrix(network))
    return [layer for layer in found if layer not in read]


def having_matrix(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the uppermost modules with a matrix of their own, from this one down."""
    if any(p.ndim > 1 for p in module.parameters(recurse=False)):
        yield module
        return
    for child in module.children():
        yield from having_matrix(child)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, in the same memory."""
    if not isinstance(tensor, DTensor):
        return tensor
    held: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return held


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def like(part: Tensor, whole: Tensor | None) -> Tensor:
    """Return a part of a tensor that is spread as another one is."""
    if not isinstance(whole, DTensor):
        return part
    spread: Tensor = DTensor.from_local(
        part, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride()
    )
    return spread
