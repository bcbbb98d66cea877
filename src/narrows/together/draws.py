"""The random numbers of a step: found once, then drawn for each model as it draws them alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Draw", "Found", "Given", "Noise"]


class Draw(NamedTuple):
    """One draw: how it fills a tensor in place, and a tensor like the one that it fills."""

    fill: Callable[[Tensor, Generator], Tensor]
    like: Tensor


def _normal(tensor: Tensor, generator: Generator) -> Tensor:
    return tensor.normal_(generator=generator)


def _uniform(tensor: Tensor, generator: Generator) -> Tensor:
    return tensor.uniform_(generator=generator)


def _exponential(tensor: Tensor, generator: Generator) -> Tensor:
    return tensor.exponential_(generator=generator)


def _order(tensor: Tensor, generator: Generator) -> Tensor:
    return torch.randperm(len(tensor), generator=generator, out=tensor)


def _whole(low: int, high: int, tensor: Tensor, generator: Generator) -> Tensor:
    return tensor.random_(low, high, generator=generator)


FILLS: dict[Any, Callable[[Tensor, Generator], Tensor] | None] = {
    torch.randn: _normal,
    torch.randn_like: _normal,
    torch.rand: _uniform,
    torch.rand_like: _uniform,
    torch.randperm: _order,
    torch.randint: None,  # it depends on the bounds
    Tensor.exponential_: _exponential,
}
"""What can be drawn for each model; vmap refuses all other random numbers."""


def drawn(func: Any, kwargs: Mapping[str, Any] | None) -> bool:
    """Tell whether a call draws from the random state that a model has alone."""
    given = kwargs or {}
    return func in FILLS and given.get("generator") is None and given.get("out") is None


class Found(TorchFunctionMode):
    """Notes every draw that is made inside of it, and lets it be."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if drawn(func, kwargs):
            fill = FILLS[func] or partial(_whole, *(args[:2] if len(args) == 3 else (0, args[0])))
            self.draws.append(Draw(fill, out))
        return out


class Given(TorchFunctionMode):
    """Puts given tensors in the place of draws, in their order."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self.noise = iter(noise)

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not drawn(func, kwargs):
            return func(*args, **(kwargs or {}))
        noise = next(self.noise)
        if func == Tensor.exponential_:
            return args[0].copy_(noise)
        return noise.clone()  # whoever draws may write into it


class Noise:
    """The draws of a step for K models, each from a generator of its own.

    Args:
        draws: what one model draws.
        count: how many models.

    Attributes:
        tensors: ``(K, ...)`` for each draw.
    """

    def __init__(self, draws: Sequence[Draw], count: int) -> None:
        self.tensors = [draw.like.new_empty(count, *draw.like.shape) for draw in draws]
        fills = [draw.fill for draw in draws]
        rows = zip(*(tensor.unbind() for tensor in self.tensors), strict=True)
        self.parts = [list(zip(fills, row, strict=True)) for row in rows]

    def draw(self, generators: Sequence[Generator]) -> None:
        """Draw anew, in place."""
        for generator, parts in zip(generators, self.parts, strict=False):
            for fill, tensor in parts:
                fill(tensor, generator)
