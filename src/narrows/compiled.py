"""The training step as one compiled graph, for runs that repay its making."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from narrows.data.sources import Batch
from narrows.net import Terms

__all__ = ["Graph", "GraphError", "compiling", "repays"]

ABLE = torch.__version__ >= "2.13"
"""Whether this torch can put gradients into a graph, and count graphs by themselves."""
SAVED = 4e-5
"""Seconds that a graph saves in a step for each parameter tensor, at the least."""
MAKING = 30.0
"""Seconds that making a graph takes."""


def repays(steps: int, parameters: int) -> bool:
    """Return whether so many steps on so many parameter tensors repay a graph.

    Never a stopwatch: eager and compiled steps round differently, and a run must be repeatable.
    """
    return ABLE and steps * parameters * SAVED > MAKING


@contextmanager
def compiling() -> Iterator[None]:
    """Set what the compiler needs for a step, around the whole loop: it would cost each step time.

    The step takes gradients inside of its graph, and draws the noise that it draws eagerly. Shapes
    are fixed, and not checked between the kernels of each step.
    """
    if not ABLE:
        yield
        return
    import torch._dynamo.config as tracing  # here, because it takes seconds
    import torch._inductor.config as lowering

    static = tracing.patch(assume_static_by_default=True, automatic_dynamic_shapes=False)
    gradients = tracing.patch(trace_autograd_ops=True)
    with static, gradients, lowering.patch(fallback_random=True, size_asserts=False):
        yield


class GraphError(RuntimeError):
    """A step cannot be one graph; it changed nothing."""


class Graph:
    """A training step as one graph, for batches of one size; made at the first call.

    Args:
        step: the step, of a batch and whether to add the statistics: a graph always adds them.
    """

    def __init__(self, step: Callable[[Batch, bool], Terms]) -> None:
        if not ABLE:
            raise GraphError("it takes torch 2.13 or later")

        def full(batch: Batch) -> Terms:
            return step(batch, True)

        # Graphs are kept, and counted, by code object: this one is of this step alone.
        full.__code__ = full.__code__.replace()
        self.graph: Callable[[Batch], Terms] = torch.compile(  # type: ignore[call-overload]
            full, fullgraph=True, recompile_limit=1
        )

    def __call__(self, batch: Batch) -> Terms:
        """Make a step; return its terms.

        Raises:
            GraphError: it cannot be traced or compiled, or would need another graph by now.
        """
        from torch._dynamo import exc  # torch.compile has imported it

        try:
            return self.graph(batch)
        except exc.FailOnRecompileLimitHit as error:
            raise GraphError("a number that is no tensor changed, and is part of it") from error
        except exc.TorchDynamoException as error:
            raise GraphError(str(error).strip().partition("\n")[0].rstrip(".")) from error
