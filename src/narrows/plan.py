"""What a run's fields ask of one another and of the net, before its first step."""

from typing import TYPE_CHECKING

from narrows.errors import ParameterError
from narrows.parts.networks import Chain

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["begin_plan"]


def begin_plan(model: "BaseAutoencoder") -> None:
    """Refuse fields of training that could not act, and tell the layers what they are to keep.

    Raises:
        ParameterError: there are such fields.
    """
    if model.patience is None:
        model.refuse_set(["stopping"], "has no effect without patience")
    largest = max(1, model.batch_size // 2)
    if model.accumulation > largest:
        raise ParameterError(
            f"accumulation={model.accumulation} leaves fewer than 2 samples in each part of "
            f"batch_size={model.batch_size}. Set it to {largest} at most."
        )
    parts = (model.net_.encoder, model.net_.decoder)
    chains = [module for part in parts for module in part.modules() if isinstance(module, Chain)]
    names = ["gradient_checkpointing"]
    if model.batch_norm:
        model.refuse_set(names, "runs layers twice, and batch_norm would count each batch twice")
    if model.compile is True:
        model.refuse_set(names, "has no effect in a graph, which compile=True makes")
    if not chains:
        model.refuse_set(names, "needs layers in a row, as architecture='mlp' or 'conv' has them")
    for chain in chains:
        chain.recomputes = model.gradient_checkpointing
