"""What a run's fields ask of one another and of the net, before its first step."""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from narrows.data.modalities import Graph
from narrows.data.sources import InMemory
from narrows.errors import ParameterError
from narrows.net import Running
from narrows.parts.networks import Chain
from narrows.runtime import cuda_devices

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["begin_plan", "check_shared"]


def begin_plan(model: "BaseAutoencoder", source: InMemory) -> None:
    """Refuse fields of training that could not act, and tell the layers what they are to keep.

    Args:
        model: the estimator, with its `net_`.
        source: training samples.

    Raises:
        ParameterError: there are such fields.
    """
    running = [child for child in model.net_.children() if isinstance(child, Running)]
    for reason in filter(None, [model.incomparable, *(each.incomparable for each in running)]):
        compares = f"compares the losses of epochs, and {reason}"
        model.refuse_set(["patience"], compares)
        if model.schedule == "plateau":
            model.refuse_set(["schedule"], compares)
    largest = max(1, model.batch_size // 2)
    if model.accumulation > largest:
        raise ParameterError(
            f"accumulation={model.accumulation} leaves fewer than 2 samples in each part of "
            f"batch_size={model.batch_size}. Set it to {largest} at most."
        )
    parts = (model.net_.encoder, model.net_.decoder)
    chains = [module for part in parts for module in part.modules() if isinstance(module, Chain)]
    several, full = model.steps_per_execution, len(source) // model.batch_size
    if several != "auto" and several > max(1, full):
        raise ParameterError(
            f"steps_per_execution={several} is more than the {full} "
            "full batches of an epoch. Lower it, or leave it at 'auto'."
        )
    names = ["gradient_checkpointing"]
    if model.batch_norm:
        model.refuse_set(names, "runs layers twice, and batch_norm would count each batch twice")
    if model.compile is True:
        model.refuse_set(names, "has no effect in a graph, which compile=True makes")
    if not chains:
        model.refuse_set(names, "needs layers in a row, as architecture='mlp' or 'conv' has them")
    for chain in chains:
        chain.recomputes = model.gradient_checkpointing
    if model.precision == "float16":
        refuse_missing_halves(model, source)


def check_shared(model: "BaseAutoencoder", strategy: str) -> None:
    """Refuse what several processes cannot train together.

    Raises:
        ParameterError: samples hang together, or a field makes a step that cannot be shared.
    """
    if isinstance(model.modality_, Graph):
        raise ParameterError(
            f"strategy='{strategy}' shares the samples of a batch between processes, and the "
            "nodes of graphs hang together. Leave it at None."
        )
    if model.compile is True:
        raise ParameterError(
            "compile=True makes one graph of a step, in which processes could exchange nothing. "
            f"Leave it at 'auto' with strategy='{strategy}'."
        )
    if model.gradient_checkpointing:
        raise ParameterError(
            "gradient_checkpointing=True runs layers again, alone, which shares no batch between "
            f"processes. Leave it at False with strategy='{strategy}'."
        )
    if model.channels_last and strategy == "fsdp":
        raise ParameterError(
            "channels_last=True lays out weights in a way that strategy='fsdp' cannot divide. "
            "Leave it at False, or use strategy='ddp'."
        )


def refuse_missing_halves(model: "BaseAutoencoder", source: InMemory) -> None:
    """Refuse float16 where the device lacks it for a layer of the net, by a pass of a copy.

    Raises:
        ParameterError: the pass, or its gradient, fails.
    """
    device, net = source.x.device, deepcopy(model.net_).train()
    pair = source.take(torch.zeros(2, dtype=torch.long, device=device))
    try:
        with torch.random.fork_rng(cuda_devices(device)):
            with torch.autocast(device.type, torch.float16):
                nll = net(pair).nll
            nll.sum().backward()
    except RuntimeError as error:
        raise ParameterError(
            f"precision='float16' cannot train this {type(model).__name__} on the device "
            f"'{device}': {str(error).partition('.')[0]}. Set precision='bfloat16'."
        ) from error
