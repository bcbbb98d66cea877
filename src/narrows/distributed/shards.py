"""FSDP: each process keeps a part of every layer, and has the whole of it while it runs."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.linalg import vector_norm

from narrows.distributed.exchange import exchange
from narrows.distributed.processes import Processes
from narrows.net import Move, Net
from narrows.optimizer import AdamW
from narrows.parts.networks import TiedLinear
from narrows.parts.spectral import Spectral

__all__ = ["Shards"]


class ShardedAdamW(AdamW):
    """AdamW on what a process holds of the parameters."""

    def __init__(self, parameters: dict[str, nn.Parameter], *args: Any, **options: Any) -> None:
        super().__init__({name: local(p) for name, p in parameters.items()}, *args, **options)
        self.leaves = list(parameters.values())
        self.shares = [isinstance(p, DTensor) for p in self.leaves]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of all processes' gradients; what all hold alike counts once."""
        first = dist.get_rank() == 0
        counted = compress(gradients, (share or first for share in self.shares))
        own = super().norm([*counted, self.count.new_zeros(1)])
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        exchange(dist.all_gather, every, own)
        return vector_norm(torch.stack(every))

    def state(self) -> dict[str, Tensor]:
        """Return the state's own tensors by name, each as a part of the whole."""
        whole = dict(zip(self.names, self.leaves, strict=True))
        return {
            name: like(tensor, whole.get(name.partition(".")[2]))
            for name, tensor in super().state().items()
        }


@dataclass
class Shards(Processes):
    """Processes each of which keeps a part of the shared networks' layers.

    A layer is what has a matrix; vectors that stand alone, and what is not shared, are whole in
    all. FSDP gathers a layer before it runs, forward or backward, and averages its gradient.
    """

    adamw = ShardedAdamW
    net: Net | None = field(default=None, init=False)
    empty: Net | None = field(default=None, init=False)  # the same without weights, never spread

    def spread(self, net: Net) -> None:
        """Share the weights of the layers between the processes."""
        weights: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in net.parameters()
        }
        self.net, self.empty = net, deepcopy(net, weights)
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in layers(net):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)

    @torch.no_grad()
    def whole(self, net: Net) -> Net:
        """Return the net as it was before it was spread, with the values that it has now."""
        assert self.empty is not None
        state = {
            name: t.full_tensor() if isinstance(t, DTensor) else t
            for name, t in net.state_dict().items()
        }
        self.empty.load_state_dict(state, assign=True)
        for name, buffer in self.empty.named_buffers():  # those too that no state has
            buffer.copy_(net.get_buffer(name))
        return self.empty

    def align(self, net: nn.Module) -> None:
        """Give the first one's weights and running state to all, where all hold them."""
        for tensor in net.state_dict().values():
            if not isinstance(tensor, DTensor):
                exchange(dist.broadcast, tensor, 0)

    def gradients(self, loss: Tensor, optimizer: AdamW) -> Sequence[Tensor]:
        """Return the gradients that a player's optimizer takes: they are averaged already.

        FSDP adds to those of its layers whoever they are of, so that those of others are dropped.
        """
        assert isinstance(optimizer, ShardedAdamW) and self.net is not None
        loss.backward()
        found = [local(leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad) for leaf in optimizer.leaves]
        for parameter in self.net.parameters():
            parameter.grad = None
        means = iter(super().average([g for g, share in zip(found, optimizer.shares) if not share]))
        return [g if share else next(means) for g, share in zip(found, optimizer.shares)]

    def complete(self, move: Move) -> Move:
        """Return a move whose terms are whole, also those of weights."""
        terms = {k: t.full_tensor() if isinstance(t, DTensor) else t for k, t in move.terms.items()}
        return move._replace(terms=terms)

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return gradients that are averaged already."""
        return gradients

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
    read = {module.source for module in net.modules() if isinstance(module, TiedLinear)}
    read |= {module.layer for module in net.modules() if isinstance(module, Spectral)}
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
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, whole: Tensor | None) -> Tensor:
    """Return a part of a tensor that is spread as another one is."""
    if not isinstance(whole, DTensor):
        return part
    spread: Tensor = DTensor.from_local(
        part, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride()
    )
    return spread
