"""The training step as one compiled graph, for runs that repay its making."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from torch._dynamo.types import GuardFilterEntry

__all__ = ["Graph", "GraphError", "compiling", "repays", "unrolled"]

P = ParamSpec("P")
T = TypeVar("T")

ABLE = torch.__version__ >= "2.13"
"""Whether this torch can put gradients into a graph, and count graphs by themselves."""
SAVED = 4e-5
"""Seconds that a graph saves in a step for each parameter tensor, at the least."""
MAKING = 30.0
"""Seconds that making a graph takes."""


SETTLED = frozenset(
    {
        "BUILTIN_MATCH",
        "CLASS_MATCH",
        "CLOSURE_MATCH",
        "DICT_NOT_CONTAINS",
        "DUPLICATE_INPUT",
        "EMPTY_NN_MODULE_HOOKS_DICT",
        "MODULE_MATCH",
        "TYPE_MATCH",
    }
)
"""What torch would look at before every call, but no run changes: code, types and hooks."""
STEPS = 8
"""Steps that a graph makes at once, in a run that is long enough."""
CALL = 1e-4
"""Seconds that the call of a graph takes beside its steps, at the least."""


def repays(steps: int, parameters: int) -> bool:
    """Return whether so many steps on so many parameter tensors repay a graph.

    Never a stopwatch: eager and compiled steps round differently, and a run must be repeatable.
    """
    return ABLE and steps * parameters * SAVED > MAKING


def unrolled(steps: int, batches: int) -> int:
    """Return how many steps one graph makes: more than one where their making is repaid too.

    Args:
        steps: of the run.
        batches: full ones of an epoch, of which those left over would be made eagerly.
    """
    long = steps * CALL > STEPS * MAKING and batches >= STEPS**2
    return STEPS if long else 1


@contextmanager
def compiling(several: bool = False) -> Iterator[None]:
    """Set what the compiler needs for a step, around the whole loop: it would cost each step time.

    The step takes gradients inside of its graph, and draws the noise that it draws eagerly. Shapes
    are fixed, and not checked between the kernels of each step.

    Args:
        several: call the kernels from C++, which takes longer to make and counts where each graph
            makes several small steps.
    """
    if not ABLE:
        yield
        return
    import torch._dynamo.config as tracing  # here, because it takes seconds
    import torch._inductor.config as lowering

    static = tracing.patch(assume_static_by_default=True, automatic_dynamic_shapes=False)
    gradients = tracing.patch(trace_autograd_ops=True)
    fixed = lowering.patch(fallback_random=True, size_asserts=False, cpp_wrapper=several)
    with static, gradients, fixed, warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):  # of torch's compiler to torch itself
            warnings.filterwarnings("ignore", category=kind, module=r"torch\.")
        yield


class GraphError(RuntimeError):
    """A step cannot be one graph; it changed nothing."""


class Graph(Generic[P, T]):
    """Training steps as one graph, for batches of one size; made at the first call.

    Each call looks whether numbers, lengths and tensors that the steps reach are what they were.

    Args:
        steps: takes tensors, and returns tensors in lists and dicts.
        device: where they are. A GPU is told of the whole graph at once, not of each kernel.
        kept: tensors that the steps reach by themselves, and which stay where they are.
    """

    def __init__(
        self, steps: Callable[P, T], device: torch.device, kept: Iterable[Tensor] = ()
    ) -> None:
        if not ABLE:
            raise GraphError("it takes torch 2.13 or later")

        def full(*inputs: P.args, **named: P.kwargs) -> T:
            return steps(*inputs, **named)

        # Graphs are kept, and counted, by code object: this one is of these steps alone.
        full.__code__ = full.__code__.replace()
        kept = list(kept)
        self.replays = device.type == "cuda"
        for tensor in kept if self.replays else ():
            torch._dynamo.mark_static_address(tensor)  # else each replay would copy it
        stays = {id(tensor) for tensor in kept}

        def watched(guards: "Sequence[GuardFilterEntry]") -> list[bool]:
            return [
                guard.guard_type not in SETTLED
                and not isinstance(guard.value, nn.Parameter)
                and id(guard.value) not in stays
                for guard in guards
            ]

        options = {"guard_filter_fn": watched, "triton.cudagraphs": self.replays}
        self.graph: Callable[P, T] = torch.compile(  # type: ignore[call-overload]
            full, fullgraph=True, recompile_limit=1, options=options
        )

    def __call__(self, *inputs: P.args, **named: P.kwargs) -> T:
        """Make the steps; return what they return.

        Raises:
            GraphError: they cannot be traced or compiled, or would need another graph by now.
        """
        from torch._dynamo import exc  # torch.compile has imported it

        try:
            made = self.graph(*inputs, **named)
        except exc.FailOnRecompileLimitHit as error:
            raise GraphError("a number that is no tensor changed, and is part of it") from error
        except exc.TorchDynamoException as error:
            raise GraphError(str(error).strip().partition("\n")[0].rstrip(".")) from error
        if self.replays:  # the next replay would write over it
            made = tree_map_only(Tensor, Tensor.clone, made)
        return made
