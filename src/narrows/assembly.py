"""From parameters and a modality to a net, and how it starts before its first step."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from narrows.data.modalities import Modality
from narrows.data.sources import InMemory, at_once
from narrows.errors import ParameterError, nearest
from narrows.net import Net
from narrows.parts.conditions import ConditionedDecoder, ConditionedEncoder
from narrows.parts.likelihoods import LIKELIHOODS, Likelihood
from narrows.parts.networks import ARCHITECTURES, DENSE, GRIDS, Architecture, OneHot, Sizes
from narrows.parts.principal import AddedDecoder, AddedEncoder, LinearPath

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = [
    "assemble",
    "classifier",
    "likelihood_of",
    "networks",
    "options_of",
    "refuse_symbols",
    "seen_shape",
    "start_latent",
    "start_lengths",
    "start_output",
    "takes_linear_path",
]

LEAST, EXAMPLES, VALUES = 2**8, 2**14, 2**22
"""Samples at whose mean the output starts, at least and at most, and the values in between."""
QUIET = 0.1
"""What the decoder's last weights start with of their usual size where it puts out logs."""
NONLINEAR = "needs a code that can be a linear map of x: continuous, without an activation"
READERS = ("gru", "lstm", "transformer")
"""Architectures that read symbols; the others get them one-hot."""


def assemble(
    model: "BaseAutoencoder",
    modality: Modality,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> Net:
    """Return a new net of the model's latent, its architecture and its likelihood."""
    if model.calculates:
        refuse_symbols(model, modality)
    latent = model.latent()
    if not latent.stochastic:
        model.refuse_set(["score_draws"], "has no effect on codes that are not drawn")
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
    condition = modality.condition if model.told else None
    more = 0 if condition is None else condition.width
    units, *places = latent.decoded_shape or latent.code_shape
    first, *axes = seen_shape(model, modality)
    seen, decoded = (first + more, *axes), (units + more, *places)
    sizes = Sizes(seen, latent.width, decoded, out, likelihood)
    encoder, decoder = networks(model, modality, sizes, architectures)
    if condition is not None:
        encoder = ConditionedEncoder(encoder, flat=not axes)
        decoder = ConditionedDecoder(decoder)
    if model.linear_path:
        if modality.symbols:
            model.refuse_set(["linear_path"], "needs numbers, not symbols")
        if latent.principal(torch.ones(units)) is None:
            model.refuse_set(["linear_path"], NONLINEAR)
        encoder = AddedEncoder(encoder, LinearPath(modality.shape, latent.width))
        decoder = AddedDecoder(decoder, LinearPath(latent.code_shape, out))
    return Net(encoder, latent, decoder, likelihood)


def seen_shape(model: "BaseAutoencoder", modality: Modality) -> tuple[int, ...]:
    """Return the shape in which the networks read a sample: flat, where they are dense."""
    dense = _architecture(model, modality) in DENSE and not modality.symbols
    return (prod(modality.shape),) if dense else modality.shape


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
        twin.check_parameters()
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


def classifier(model: "BaseAutoencoder", modality: Modality, classes: int) -> nn.Module:
    """Return an encoder of the model's architecture from samples to the logits of classes."""
    sizes = Sizes(modality.shape, (classes,), (classes,), modality.shape)
    return networks(model, modality, sizes)[0]


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
    """Call a registered part with those of the model's fields that its signature names."""
    options = options_of(model, registry, kind, name, **given)  # it refuses an unknown name
    return registry[name](**options)


def options_of(
    model: "BaseAutoencoder",
    registry: Mapping[str, Callable[..., Any]],
    kind: str,
    name: str,
    **given: Any,
) -> dict[str, Any]:
    """Return those of the model's fields, and of what is given, that a part's signature names.

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
    return {key: known[key] for key in wanted[name] if key in known}


@torch.no_grad()
def start_output(net: Net, source: InMemory) -> None:
    """Start the decoder's last bias where the output explains the data's mean or marginal.

    A convolution has one bias a channel, which then stands for all of its pixels.
    """
    parameters = dict(net.decoder.named_parameters())
    biases = [name for name in parameters if name.endswith("bias")]
    count = max(LEAST, min(EXAMPLES, VALUES // max(1, source.x[0].numel())))
    batch = source.take(source.even(count))
    x = batch.target if batch.target.is_floating_point() else batch.target.float()
    channels = net.likelihood.channels
    for dims in ((0,), (0, *range(2, x.ndim))):
        values = channels * prod(size for i, size in enumerate(x.shape) if i not in dims)
        if biases and parameters[biases[-1]].numel() == values:
            start = net.likelihood.start(x, batch.mask, dims)
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
        net.eval()
        slices = source.even(count).split(at_once(source.x.shape[1:]))
        parts = [net.encode(source.take(part))[0] for part in slices]
        net.latent.start(torch.cat(parts))
