"""From data and parameters to what the loop needs: sources, a net, a number of epochs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from narrows.data.graphs import Graphs
from narrows.data.modalities import Graph, Modality
from narrows.data.scaling import Range
from narrows.data.sources import InMemory
from narrows.errors import DataError, ParameterError, nearest
from narrows.fields import UnknownParameterError
from narrows.net import Net
from narrows.parts.conditions import ConditionedDecoder, ConditionedEncoder
from narrows.parts.likelihoods import LIKELIHOODS, Likelihood
from narrows.parts.networks import ARCHITECTURES, GRIDS, Architecture, OneHot, Sizes
from narrows.parts.principal import AddedDecoder, AddedEncoder, LinearPath

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = [
    "EVEN",
    "SLICE",
    "FitOptions",
    "assemble",
    "at_once",
    "check_options",
    "epochs",
    "networks",
    "refuse_symbols",
    "sources",
    "start_latent",
    "start_lengths",
    "start_output",
    "takes_linear_path",
]

Weights = NDArray[np.float32]
STEPS = 8000
"""What epochs="auto" aims at, within 10 to 100 epochs."""
SLICE = 1024
"""Samples that pass through a net at once before and after training, at most."""
VALUES = 2**22
"""Values of the samples that do so, at most; but never fewer than `EVEN` samples."""
EVEN = 16
"""Samples pass in multiples of so many: products of few rows, and what is left over of a vector
register, are rounded in another way, and a row's result would depend on its neighbours."""
QUIET = 0.1
"""What the decoder's last weights start with of their usual size where it puts out logs."""
NONLINEAR = "needs a code that can be a linear map of x: continuous, without an activation"
READERS = ("gru", "lstm", "transformer")
"""Architectures that read symbols; the others get them one-hot."""
RANGES: dict[str, Range] = {"sigmoid": "unit", "tanh": "symmetric"}
"""Where outputs of an activation lie."""


class FitOptions(TypedDict, total=False):
    """What `fit` may be told of the data and the run, beside the parameters.

    Attributes:
        sample_weight: ``(n,)`` weights of the samples in the loss and in no other place.
        validation: held-out data like X, instead of the `validation` fraction; ``(X, y)`` for
            models that read y.
        groups: ``(n,)``; rows of one group are held out together.
        checkpoint: folder for the state of training, written after every epoch.
        resume: go on from the newest checkpoint in that folder.
    """

    sample_weight: ArrayLike | None
    validation: Any
    groups: ArrayLike | None
    checkpoint: str | Path | None
    resume: bool


def check_options(options: FitOptions) -> None:
    """Refuse options of `fit` that do not exist, or that need another one."""
    known = FitOptions.__annotations__
    for name in options:
        if name not in known:
            raise UnknownParameterError(
                f"fit has no option '{name}'.{nearest(name, known)} It has: {', '.join(known)}."
            )
    if options.get("resume") and options.get("checkpoint") is None:
        raise ParameterError("resume=True needs checkpoint=, the folder to resume from.")


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
    if isinstance(known, Graph) and isinstance(array, Graphs):
        rows = known.split(array, fraction, model.validation_split, seed, groups)
        target = target_range(model, support) if modality is None else None
        return _graph_sources(model, known, array, target, rows, seed, weight, validation)
    train, rest = known.split(array, fraction, model.validation_split, seed, groups)
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
    x, mask, lengths = modality.encode(samples)
    likelihood = likelihood_of(model, modality)
    unit = LIKELIHOODS[likelihood].support == "unit"
    if unit and not 0 <= x.min() <= x.max() <= 1 + 1e-6:
        check_unit(model, likelihood, x)
        x = x.clamp(0, 1)  # held-out values beyond the range of the training rows
    if weight is not None:
        weight = weight[rows] / weight[rows].mean()
    weights = None if weight is None else torch.from_numpy(weight)
    condition, known = (None if t is None else t[torch.from_numpy(rows)] for t in conditions)
    return InMemory(x, mask, weights, condition, known, target, lengths)


def _taken(array: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Return these rows, in ascending order; where they are all, the array itself."""
    return array if len(rows) == len(array) else array[rows]


def check_unit(model: "BaseAutoencoder", likelihood: str, x: Tensor) -> None:
    """Refuse values outside [0, 1] for a likelihood of such values, unless they are scaled to it.

    Raises:
        DataError: there are, and the scaling leaves them there.
    """
    outside = not 0 <= x.min() <= x.max() <= 1 + 1e-6
    if outside and model.scaling in ("none", "standard", "robust"):
        raise DataError(
            f"likelihood='{likelihood}' explains values in [0, 1]; X has values from "
            f"{float(x.min()):.4g} to {float(x.max()):.4g}. Set scaling='auto' or 'minmax', "
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
        check_unit(model, likelihood, source.x)
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


def assemble(
    model: "BaseAutoencoder",
    modality: Modality,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> Net:
    """Return a new net of the model's latent, its architecture and its likelihood."""
    if model.calculates:
        refuse_symbols(model, modality)
    latent = model.latent()
    name = likelihood_of(model, modality)
    output = None if model.output_activation == "auto" else model.output_activation
    likelihood: Likelihood = _call(
        model,
        LIKELIHOODS,
        "likelihood",
        name,
        output=output,
        log_units=modality.explained.log_units,
        levels=max(modality.levels, 1),
        nominal=modality.symbols > 0,
        shape=modality.shape,
    )
    channels, *rest = modality.shape
    out = (channels * likelihood.channels, *rest)
    name = _architecture(model, modality)
    if name in GRIDS and (grid := GRIDS[name](modality.shape, model.hidden)):
        latent.settle(grid)
    more = 0 if modality.condition is None else modality.condition.width
    units, *places = latent.decoded_shape or latent.code_shape
    seen, decoded = (channels + more, *rest), (units + more, *places)
    sizes = Sizes(seen, latent.width, decoded, out, likelihood)
    encoder, decoder = networks(model, modality, sizes, architectures)
    if modality.condition is not None:
        encoder, decoder = ConditionedEncoder(encoder), ConditionedDecoder(decoder)
    if model.linear_path:
        if modality.symbols:
            model.refuse_set(["linear_path"], "needs numbers, not symbols")
        if latent.principal(torch.ones(units)) is None:
            model.refuse_set(["linear_path"], NONLINEAR)
        encoder = AddedEncoder(encoder, LinearPath(modality.shape, latent.width))
        decoder = AddedDecoder(decoder, LinearPath(latent.code_shape, out))
    return Net(encoder, latent, decoder, likelihood)


def refuse_symbols(model: "BaseAutoencoder", modality: Modality) -> None:
    """Refuse data whose values are numbers of symbols, with which nothing can be calculated.

    Raises:
        ParameterError: they are.
    """
    if modality.symbols:
        raise ParameterError(
            f"{type(model).__name__} calculates with the values of x, and a {modality.name} holds "
            "symbols, which have none. Use a model that only reads them, such as Autoencoder or "
            "VAE."
        )


def takes_linear_path(model: "BaseAutoencoder") -> bool:
    """Tell whether a fitted model has no linear path and could have one."""
    if model.linear_path:
        return False
    twin = type(model)(**model.fields() | {"linear_path": True})
    try:
        with torch.device("meta"):
            twin.build(model.modality_)
    except ParameterError:
        return False
    return True


def networks(
    model: "BaseAutoencoder",
    modality: Modality,
    sizes: Sizes,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder of the model's architecture between these sizes."""
    name = _architecture(model, modality)
    pair: tuple[nn.Module, nn.Module]
    if modality.symbols and name not in READERS:
        first, *rest = sizes.x
        sizes = replace(sizes, x=(first - 1 + modality.symbols, *rest))
        pair = _call(model, architectures, "architecture", name, sizes=sizes)
        return OneHot(pair[0], modality.symbols), pair[1]
    sizes = replace(sizes, symbols=modality.symbols)
    pair = _call(model, architectures, "architecture", name, sizes=sizes)
    return pair


def likelihood_of(model: "BaseAutoencoder", modality: Modality) -> str:
    """Return the name of the likelihood: the modality's where the user names none.

    Raises:
        ParameterError: the data are symbols, and it is not for them.
    """
    name = modality.likelihood if model.likelihood == "auto" else model.likelihood
    if modality.symbols and name != "categorical":
        raise ParameterError(
            f"The symbols of a {modality.name} are in no order, which likelihood='categorical' "
            f"explains. Got likelihood='{name}' instead; leave it at 'auto'."
        )
    return name


def _architecture(model: "BaseAutoencoder", modality: Modality) -> str:
    return modality.architecture if model.architecture == "auto" else model.architecture


def _call(
    model: "BaseAutoencoder",
    registry: Mapping[str, Callable[..., Any]],
    kind: str,
    name: str,
    **given: Any,
) -> Any:
    """Call a registered part with those of the model's fields that its signature names.

    Raises:
        ParameterError: a field that only other parts of this kind read was set.
    """
    owner, defaults, values = type(model).__name__, model.defaults(), model.fields()
    if name not in registry:
        raise ParameterError(
            f"{owner} needs {kind}='{name}', which is not registered.{nearest(name, registry)} It "
            f"is one of {', '.join(registry)}; import the module that registers it."
        )
    wanted = {part: set(inspect.signature(call).parameters) for part, call in registry.items()}
    for field in sorted(set().union(*wanted.values()) & set(defaults) - wanted[name] - set(given)):
        if values[field] != defaults[field]:
            readers = " or ".join(repr(part) for part in registry if field in wanted[part])
            raise ParameterError(
                f"The '{field}' parameter of {owner} has no effect with {kind}='{name}'; it is "
                f"for {kind}={readers}. Leave it at {defaults[field]!r}."
            )
    known = values | given
    return registry[name](**{key: known[key] for key in wanted[name] if key in known})


@torch.no_grad()
def start_output(net: Net, source: InMemory) -> None:
    """Start the decoder's last bias where the output explains the data's mean or marginal.

    A convolution has one bias a channel, which then stands for all of its pixels.
    """
    parameters = dict(net.decoder.named_parameters())
    biases = [name for name in parameters if name.endswith("bias")]
    x = source.x if source.target is None else source.target
    x = x if x.is_floating_point() else x.float()
    channels = net.likelihood.channels
    for dims in ((0,), (0, *range(2, x.ndim))):
        values = channels * prod(size for i, size in enumerate(x.shape) if i not in dims)
        if biases and parameters[biases[-1]].numel() == values:
            start = net.likelihood.start(x, source.mask, dims)
            parameters[biases[-1]].copy_(start.flatten())
            weight = parameters.get(biases[-1].removesuffix("bias") + "weight")
            if net.likelihood.quiet and weight is not None:
                weight.mul_(QUIET)
            return


def start_lengths(net: Net, source: InMemory) -> None:
    """Let a decoder of sequences know how long the training samples are."""
    if net.writer is not None and source.lengths is not None:
        net.writer.know(source.lengths)


@torch.no_grad()
def start_latent(net: Net, source: InMemory) -> None:
    """Let the latent see what the new encoder makes of an even choice of samples."""
    count = min(net.latent.wanted, len(source))
    if count:
        rows = torch.linspace(0, len(source) - 1, count, dtype=torch.float64).long()
        net.eval()
        slices = rows.split(at_once(source.x.shape[1:]))
        parts = [net.encode(source.take(part))[0] for part in slices]
        net.latent.start(torch.cat(parts))


def at_once(shape: Sequence[int]) -> int:
    """Return how many samples of a shape pass through a net at once."""
    return max(EVEN, min(SLICE, VALUES // max(1, prod(shape)) // EVEN * EVEN))


def epochs(model: "BaseAutoencoder", source: InMemory) -> int:
    """Return how often training passes over the source."""
    if model.epochs != "auto":
        return int(model.epochs)
    return min(100, max(10, -(-STEPS // source.steps(model.batch_size))))
