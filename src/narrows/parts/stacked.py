"""Stacks: the layers of an encoder and of its mirror, which train as pairs."""

from torch import nn

from narrows.parts.networks import Decoder, DroppedCode, Encoder, TiedLinear, Weighted

__all__ = ["pairs"]

Layer = Weighted | TiedLinear


def pairs(encoder: nn.Module, decoder: nn.Module) -> list[tuple[Encoder, Decoder]]:
    """Return each layer of an encoder with the decoder's that undoes it, the lowest first.

    The modules are those of the two networks, not copies.
    """
    down, up = layers(encoder), layers(decoder)
    return [(Encoder(*f), Decoder(*g)) for f, g in zip(down, reversed(up), strict=True)]


def layers(network: nn.Module) -> list[list[nn.Module]]:
    """Return a network's modules by layers: each has one weight, and what follows up to the next.

    Flattening, and the dropout of a code, belong to the layer that they are the input of.
    """
    found: list[list[nn.Module]] = [[]]
    if isinstance(network, DroppedCode):
        found, network = [[network.dropout]], network.decoder
    for module in network.children():
        begins = isinstance(module, nn.Flatten | Layer)
        if begins and any(isinstance(other, Layer) for other in found[-1]):
            found.append([])
        found[-1].append(module)
    return found
