"""Where training runs: device, threads and random state, set for a while and put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from narrows.errors import ParameterError

__all__ = [
    "Flops",
    "choose_threads",
    "cuda_devices",
    "keep_memory",
    "products",
    "resolve_device",
    "seed_noise",
    "seeded",
    "threads",
]

SMALL_STEP = 4e7
"""Multiply-adds of a forward pass below which a second thread gives next to nothing."""


def resolve_device(name: str) -> torch.device:
    """Return the device; "auto" takes a GPU where there is one.

    Raises:
        ParameterError: the device does not exist here; there is no silent fall-back to the CPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise NotImplementedError(f"narrows runs on cpu and cuda, not on {device.type}")
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ParameterError(
            f"The device '{name}' cannot be used: {reason}. Set device='auto' or 'cpu'."
        ) from error
    return device


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with this many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Let a GPU multiply matrices of float32 in TF32 while it is the precision."""
    if precision != "tf32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@torch.no_grad()
def choose_threads(net: nn.Module, batch: Any, batch_size: int) -> int:
    """Return one thread where a step is too small to share, else as many as are in use.

    Args:
        net: called once with `batch`.
        batch: a batch of one sample.
        batch_size: samples a step.
    """
    with Flops() as flops:
        net.eval()(batch)
    return 1 if flops.count / 2 * batch_size < SMALL_STEP else torch.get_num_threads()


def keep_memory() -> None:
    """Let malloc keep what a step frees for the next one.

    glibc learns from the largest block freed so far (up to 32 MB) how much free memory is worth
    keeping; without this lesson it may give some back in every step, and page it in again.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def cuda_devices(device: torch.device) -> list[int]:
    """Return every GPU whose random state `torch.manual_seed` may change."""
    ready = device.type == "cuda" or torch.cuda.is_initialized()
    return list(range(torch.cuda.device_count())) if ready else []


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed the noise that is drawn on a device, or on the CPU for it.

    `torch.manual_seed` also prepares devices that nobody uses, which takes as long as a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[int]:
    """Seed torch's random state, yield the seed, and put the state back as it was."""
    with torch.random.fork_rng(cuda_devices(device)):
        seed = torch.seed() % 2**31 if seed is None else seed
        torch.manual_seed(seed)
        yield seed


class Flops(TorchDispatchMode):
    """Counts what torch's FlopCounterMode counts, and leaves the compiler alone.

    That one imports it, which takes longer than many a fit.
    """

    count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=out)
        return out
