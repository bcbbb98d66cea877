"""From data and parameters to what the loop needs: sources, and a number of epochs."""

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from narrows.assembly import likelihood_of
from narrows.callbacks import Callback, check_callbacks
from narrows.data.graphs import Graphs
from narrows.data.modalities import Graph, Modality, read_by
from narrows.data.scaling import Range
from narrows.data.sources import InMemory
from narrows.errors import DataError, ParameterError, nearest
from narrows.fields import UnknownParameterError
from narrows.net import outline
from narrows.parts.likelihoods import LIKELIHOODS

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = [
    "FitOptions",
    "check_continues",
    "check_options",
    "epochs",
    "sources",
]

Weights = NDArray[np.float32]
STEPS = 8000
"""What epochs="auto" aims at, within 10 to 100 epochs."""
RANGES: dict[str, Range] = {"sigmoid": "unit", "tanh": "symmetric"}
"""Where outputs of an activation lie."""


class FitOptions(TypedDict, total=False):
    """What `fit` may be told of the data and the run, beside the parameters.

    Attributes:
        sample_weight: ``(n,)`` weights of the samples in the loss and in no other place.
        validation: held-out data like X, instead of the `validation` fraction; ``(X, y)`` for
            models that read y.
        groups: ``(n,)``; rows of one group are held out together.
        checkpoint: folder for the state of training; SIGINT and SIGTERM save it too, and a second
            one acts at once.
        checkpoint_every: when it is saved: after every "epoch", after so many steps, or a time
            such as "10 min" ("s", "min", "h").
        resume: go on from the newest checkpoint in that folder.
        callbacks: what looks on while the model trains, such as `loggers.JSONL`; see
            `callbacks.Callback`.
        strategy: "ddp" trains in all processes that torchrun started, which get the same X and
            share every batch; with "fsdp" each keeps a part of the weights and of the optimizers'
            state alone. None trains in this one.
    """

    sample_weight: ArrayLike | None
    validation: Any
    groups: ArrayLike | None
    checkpoint: str | Path | None
    checkpoint_every: int | str
    resume: bool
    callbacks: Sequence[Callback] | None
    strategy: Literal["ddp", "fsdp"] | None


def check_options(options: FitOptions) -> None:
    """Refuse options of `fit` that do not exist, or that need another one."""
    known = FitOptions.__annotations__
    for name in options:
        if name not in known:
            raise UnknownParameterError(
                f"fit has no option '{name}'.{nearest(name, known)} It has: {', '.join(known)}."
            )
    check_callbacks(options.get("callbacks"))
    if options.get("checkpoint") is None and options.get("resume"):
        raise ParameterError("resume=True needs checkpoint=, the folder to resume from.")
    if options.get("checkpoint") is None and "checkpoint_every" in options:
        raise ParameterError("checkpoint_every needs checkpoint=, the folder to write to.")


def check_continues(model: "BaseAutoencoder") -> None:
    """Refuse to train a fitted net on where the fields now describe another one.

    Raises:
        ParameterError: they do; it names those that changed.
    """
    fitted, now = model._fitted_fields, model.fields()
    changed = [name for name in now if now[name] != fitted[name]]
    if not changed:
        return
    with torch.device("meta"):
        nets = [copy(model).set_params(**each).build(model.modality_) for each in (fitted, now)]
    read = {"modality", "scaling"} | read_by(type(model.modality_))
    if not read.isdisjoint(changed) or outline(nets[0]) != outline(nets[1]):
        raise ParameterError(
            f"{type(model).__name__} cannot go on training: since it was fitted, its "
            f"fields were changed ({', '.join(changed)}) and describe another net. Set them back, "
            "or fit anew with warm_start=False."
        )


def sources(
    model: "BaseAutoencoder",
    X: Any,
    modality: Modality | None,
    seed: int,
    *,
    y: Any = None,
    fraction: float = 0.0,
    sample_weight: ArrayLike | None = None,
    validation: Any = None,
    groups: ArrayLike | None = None,
) -> tuple[Modality, InMemory, InMemory | None, NDArray[np.intp]]:
    """Read X, hold rows out, learn the modality from the others, and turn both into tensors.

    Args:
        model: the estimator, for its parameters.
        X: the user's data.
        modality: what an earlier fit learned, or None to learn it.
        seed: of the random split.
        y: labels or conditions of the rows, for models that read them.
        fraction: share of the rows to hold out.
        sample_weight: weights of the rows.
        validation: held-out data, instead of a share of X.
        groups: rows of one group stay together.

    Returns:
        The modality, the training source, the held-out one or None, and the rows of X in it.
    """
    owner = type(model).__name__
    known = modality or model.describe(X, y)
    array = known.read(X, owner)
    weight = check_weight(sample_weight, len(array))
    if groups is not None and (validation is not None or model.validation_split == "last"):
        raise ParameterError(
            "groups are held out at random: they go neither with validation= nor with "
            "validation_split='last'."
        )
    fraction = 0.0 if validation is not None else fraction
    support = LIKELIHOODS[likelihood_of(model, known)].support
    train, rest = known.split(array, fraction, model.validation_split, seed, groups)
    if fraction and not len(rest) and model.patience is not None:
        warn_unheld(fraction, len(train))
    if isinstance(known, Graph) and isinstance(array, Graphs):
        target, rows = target_range(model, support) if modality is None else None, (train, rest)
        return _graph_sources(model, known, array, target, rows, seed, weight, validation)
    if weight is not None:  # a weight of zero leaves a sample out
        train, rest = (rows[weight[rows] > 0] for rows in (train, rest))
    if not len(train):
        raise DataError("No row is left to train on: they are held out or have no weight.")
    if model.batch_norm and min(len(train), model.batch_size) < 2:
        raise DataError(
            f"batch_norm=True needs at least 2 samples in a batch; X has {len(train)} to train "
            f"on, and batch_size is {model.batch_size}."
        )
    if modality is None:
        known = known.learn(_taken(array, train), target_range(model, support)).counted(
            array, support
        )
        if known.condition is not None:
            learned = known.condition.learn(known.given(array, y), len(array), train)
            known = replace(known, condition=learned)
    conditions = known.conditions(array, y)
    source = _source(model, known, array, conditions, weight, train)
    if validation is not None:
        pair = known.condition is not None and isinstance(validation, tuple)
        held_x, held_y = validation if pair else (validation, None)
        array = known.read(held_x, owner)
        conditions, every = known.conditions(array, held_y), np.arange(len(array))
        return known, source, _source(model, known, array, conditions, None, every), rest
    held = _source(model, known, array, conditions, weight, rest) if len(rest) else None
    return known, source, held, rest


def warn_unheld(fraction: float, n: int) -> None:
    """Say that patience has no held-out samples to look at."""
    warnings.warn(
        f"validation={fraction} of {n} is less than one: nothing is held out, and patience looks "
        "at the loss of what is trained on. Give more data, or raise it.",
        stacklevel=6,
    )


def _source(
    model: "BaseAutoencoder",
    modality: Modality,
    array: NDArray[Any],
    conditions: tuple[Tensor | None, Tensor | None],
    weight: Weights | None,
    rows: NDArray[np.intp],
) -> InMemory:
    samples = _taken(array, rows)
    target = modality.target(samples)
    (x, mask, lengths), units = modality.rest(samples)
    if weight is not None:
        weight = weight[rows] / weight[rows].mean()
    weights = None if weight is None else torch.from_numpy(weight)
    condition, known = (None if t is None else t[torch.from_numpy(rows)] for t in conditions)
    source = InMemory(x, mask, weights, condition, known, target, lengths, units=units)
    likelihood = likelihood_of(model, modality)
    if LIKELIHOODS[likelihood].support == "unit":
        check_unit(model, likelihood, source)
        source.clamp(0, 1)  # held-out values beyond the range of the training rows
    return source


def _taken(array: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Return these rows, in ascending order; where they are all, the array itself."""
    return array if len(rows) == len(array) else array[rows]


def check_unit(model: "BaseAutoencoder", likelihood: str, source: InMemory) -> None:
    """Refuse values outside [0, 1] for a likelihood of such values, unless they are scaled to it.

    Raises:
        DataError: there are, and the scaling leaves them there.
    """
    if model.scaling not in ("none", "standard", "robust"):
        return
    low, high = source.extremes
    if not 0 <= low <= high <= 1 + 1e-6:
        raise DataError(
            f"likelihood='{likelihood}' explains values in [0, 1]; X has values from "
            f"{low:.4g} to {high:.4g}. Set scaling='auto' or 'minmax', "
            "or likelihood='gaussian'."
        )


def _graph_sources(
    model: "BaseAutoencoder",
    modality: Graph,
    graphs: Graphs,
    target: Range | None,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    seed: int,
    weight: Weights | None,
    validation: Any,
) -> tuple[Graph, InMemory, InMemory | None, NDArray[np.intp]]:
    """Learn from the edges `rows[0]` alone, where there is a `target`, and hold out `rows[1]`.

    What is returned as held out are the edges themselves, ``(edges, 2)``.
    """
    train, rest = rows
    if target is not None:
        if model.scaling == "auto" and target == "standard" and graphs.unit:
            target = "none"  # rare words would outshout the others
        modality = modality.learn(graphs.with_edges(train), target)
    weights = None if weight is None else torch.from_numpy(weight / weight.mean())
    source, held = modality.sources(graphs, rows, seed, weights)
    if validation is not None:
        array = modality.read(validation, type(model).__name__)
        held, _ = modality.sources(array, (np.arange(len(array.edges)), rest), seed, None)
    likelihood = likelihood_of(model, modality)
    if LIKELIHOODS[likelihood].support == "unit":
        check_unit(model, likelihood, source)
    return modality, source, held, graphs.edges[rest]


def check_weight(weight: ArrayLike | None, n: int) -> Weights | None:
    """Return sample weights ``(n,)``.

    Raises:
        DataError: they have another shape, are negative, not finite, or all zero.
    """
    if weight is None:
        return None
    values = np.asarray(weight, dtype=np.float64)
    if values.shape != (n,):
        raise DataError(
            f"sample_weight has the shape {values.shape}; expected ({n},), one a sample."
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError("sample_weight holds negative or non-finite values; weights must be ≥ 0.")
    if not values.any():
        raise DataError("Every sample_weight is zero: at least one sample must count.")
    return np.asarray(values, dtype=np.float32)


def target_range(model: "BaseAutoencoder", support: str) -> Range:
    """Return where the data shall lie inside the model, under a likelihood of this support."""
    if model.scaling == "auto" and support == "counts":
        return "log"
    if model.scaling == "auto":
        return "unit" if support == "unit" else RANGES.get(model.output_activation, "standard")
    if model.scaling == "minmax" and model.output_activation == "tanh":
        return "symmetric"
    return "unit" if model.scaling == "minmax" else model.scaling


def epochs(model: "BaseAutoencoder", source: InMemory) -> int:
    """Return how often training passes over the source."""
    if model.epochs != "auto":
        return int(model.epochs)
    return min(100, max(10, -(-STEPS // source.steps(model.batch_size))))
