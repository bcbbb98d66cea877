"""Architectures: from sizes to an encoder and a mirrored decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from narrows.errors import ParameterError

if TYPE_CHECKING:
    from narrows.data.sources import Batch
    from narrows.parts.likelihoods import Likelihood

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "DENSE",
    "GRIDS",
    "Architecture",
    "Chain",
    "Convolution",
    "Decoder",
    "Dropout",
    "DroppedCode",
    "Encoder",
    "OneHot",
    "Residual",
    "Sizes",
    "TiedLinear",
    "Transposed",
    "Weighted",
    "after",
    "architecture",
    "dense",
    "initialise",
    "linear",
    "mlp",
    "shaped",
    "silenced",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softshrink": nn.Softshrink,
    "linear": nn.Identity,
}
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Weighted = nn.Linear | Convolution | Transposed
"""A layer with a weight."""
Layer = TypeVar("Layer", bound=Weighted)
RECTIFIERS = {"relu", "leaky_relu", "elu", "gelu", "silu"}


@dataclass(frozen=True)
class Sizes:
    """What an architecture must connect: one sample's shapes, without the batch axis.

    Attributes:
        x: what the encoder sees.
        h: what the encoder puts out.
        z: what the decoder sees.
        out: what the decoder puts out.
        likelihood: what reads it, for decoders that go on from what it makes of it.
        symbols: how many symbols there are where x are their numbers; 0 for other x.
    """

    x: tuple[int, ...]
    h: tuple[int, ...]
    z: tuple[int, ...]
    out: tuple[int, ...]
    likelihood: "Likelihood | None" = None
    symbols: int = 0


class Chain(nn.Sequential):
    """Layers in a row, which in training may forget their outputs and compute them again.

    With `recomputes`, about √n of n layers keep theirs (Chen et al., 2016,
    https://arxiv.org/abs/1604.06174); the gradients are the same.
    """

    recomputes = False

    def forward(self, x: Any, *beside: Any) -> Any:
        """Apply one layer after the other, each to what the last one made and to `beside`."""
        layers = [partial(_beside, layer, beside) for layer in self] if beside else [*self]
        if self.recomputes and self.training and torch.is_grad_enabled():
            return checkpoint_sequential(layers, isqrt(len(layers)), x, use_reentrant=False)
        for layer in layers:
            x = layer(x)
        return x


def _beside(layer: nn.Module, beside: tuple[Any, ...], x: Any) -> Any:
    return layer(x, *beside)


class Encoder(Chain):
    """Layers from ``batch.x`` to h; subclass it to read more of the batch or to return context."""

    def forward(self, batch: "Batch") -> Tensor | tuple[Tensor, ...]:
        """Return h, or ``(h, *context)`` where the decoder needs more than the code."""
        h: Tensor = super().forward(batch.x)
        return h


class Decoder(Chain):
    """Layers from z to what the likelihood reads."""

    def forward(self, z: Tensor, batch: "Batch | None" = None, *context: Tensor) -> Tensor:
        """Decode codes; `batch` and `context` are for subclasses that need them."""
        del batch, context
        out: Tensor = super().forward(z)
        return out


class OneHot(nn.Module):
    """An encoder that sees symbols as units of their own, 1 for the one that is there.

    Args:
        encoder: sees ``levels`` channels in the place of the first.
        levels: how many symbols there are.
    """

    def __init__(self, encoder: nn.Module, levels: int) -> None:
        super().__init__()
        self.encoder, self.levels = encoder, levels

    def forward(self, batch: "Batch") -> Tensor | tuple[Tensor, ...]:
        """Encode the symbols, and what channels there are behind them."""
        hot = F.one_hot(batch.x[:, 0].long(), self.levels).transpose(1, 2)
        hot = hot.to(torch.get_default_dtype())
        h: Tensor = self.encoder(replace(batch, x=torch.cat([hot, batch.x[:, 1:]], 1)))
        return h


Architecture = Callable[..., tuple[nn.Module, nn.Module]]
ARCHITECTURES: dict[str, Architecture] = {}
GRIDS: dict[str, Callable[..., tuple[int, ...]]] = {}
"""By architecture: the grid of the last feature map, for a sample's shape and `hidden`."""
DENSE = {"linear", "mlp"}
"""Architectures that read a sample as one vector."""


def architecture(build: Architecture) -> Architecture:
    """Register ``build(sizes, *, fields...) -> (encoder, decoder)`` under its own name.

    Its keyword arguments name the estimator's fields that it reads; every other field of the
    networks is refused with a sentence when it is set.
    """
    ARCHITECTURES[build.__name__] = build
    return build


@architecture
def linear(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """Build one affine layer each way: the autoencoder whose optimum is PCA's subspace."""
    encoder = [nn.Flatten(), initialise(nn.Linear(prod(sizes.x), prod(sizes.h)))]
    decoder = [initialise(nn.Linear(prod(sizes.z), prod(sizes.out)))]
    return Encoder(*encoder, *shaped(sizes.h)), Decoder(nn.Flatten(), *decoder, *shaped(sizes.out))


@architecture
def mlp(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    activation: str = "silu",
    dropout: float = 0.0,
    batch_norm: bool = False,
    blocks: int = 0,
    tied: bool = False,
    linear_path: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Build dense layers, mirrored; `tied` decodes with the encoder's weights, transposed.

    Beside a linear path they start at zero.
    """
    widths = (prod(sizes.x), *((256, 128) if hidden is None else hidden))
    top = initialise(nn.Linear(widths[-1], prod(sizes.h)))
    layers = dense(widths, activation, dropout, batch_norm, blocks)
    encoder = Encoder(nn.Flatten(), *layers, top, *shaped(sizes.h))
    mirrored = (prod(sizes.z), *widths[:0:-1])
    bottom: nn.Module = initialise(nn.Linear(mirrored[-1], prod(sizes.out)))
    layers = [*dense(mirrored, activation, dropout, batch_norm, blocks), bottom]
    if tied:
        layers = _tie(encoder, layers)
    decoder = Decoder(nn.Flatten(), *layers, *shaped(sizes.out))
    return silenced(encoder, decoder) if linear_path else (encoder, decoder)


# -- pieces ---------------------------------------------------------------------------------


class Dropout(nn.Module):
    """Dropout whose mask comes from 16 random bits a value: four times cheaper than Bernoulli."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.kept = max(1, round((1 - p) * 2**16))

    def forward(self, x: Tensor) -> Tensor:
        """Zero each value with probability p in training, and scale the rest by 1 / (1 - p)."""
        if not self.training:
            return x
        words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),), device=x.device)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits < self.kept - 2**15
        # A view by strides stays in memory: 16-bit numbers would slow the kernels they fuse with.
        return x * (kept.as_strided(kept.shape, kept.stride()) * (2**16 / self.kept))

    def extra_repr(self) -> str:
        """Show the probability."""
        return f"p={1 - self.kept / 2**16:.4g}"


class Chance(nn.Module):
    """Even random numbers in [0, 1), one for each value of what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        """Return them, shaped like x."""
        return torch.rand(x.shape, device=x.device)


class DroppedCode(nn.Module):
    """A decoder that sees the code through dropout."""

    def __init__(self, decoder: nn.Module, p: float) -> None:
        super().__init__()
        self.dropout, self.decoder = Dropout(p), decoder

    def forward(self, z: Tensor, batch: "Batch | None" = None, *context: Tensor) -> Tensor:
        """Decode what dropout leaves of z."""
        out: Tensor = self.decoder(self.dropout(z), batch, *context)
        return out


class Residual(nn.Sequential):
    """A block with pre-activations, x + f(x), that starts as the identity (He et al., 2016)."""

    def __init__(
        self,
        inner: nn.Linear | Convolution,
        outer: nn.Linear | Convolution,
        norms: Sequence[nn.Module],
        activation: str,
        dropout: float,
    ) -> None:
        act = ACTIVATIONS[activation]
        drop = [Dropout(dropout)] if dropout else []
        super().__init__(*norms[:1], act(), inner, *norms[1:], act(), *drop, outer)
        initialise(inner, activation)
        for parameter in outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x)."""
        added: Tensor = super().forward(x)
        return x + added


class TiedLinear(nn.Module):
    """A decoder's layer that multiplies by an encoder layer's transposed weight: one tensor."""

    def __init__(self, source: nn.Linear, in_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self._source = (source,)  # in a tuple, so that the weight is registered only once
        self.bias = nn.Parameter(torch.zeros(source.in_features)) if bias else None

    @property
    def source(self) -> nn.Linear:
        """The encoder's layer."""
        return self._source[0]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the transposed weight; a posterior's extra rows (log-variances) take no part."""
        return F.linear(x, self.source.weight[: self.in_features].t(), self.bias)


def initialise(layer: Layer, activation: str = "linear") -> Layer:
    """Draw He weights before a rectifier, Xavier otherwise (He 2015; Glorot 2010); zero bias."""
    if activation in RECTIFIERS:
        transposed = isinstance(layer, Transposed)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out" if transposed else "fan_in")
        if transposed:  # a stride of 2 spreads each input over half of the outputs of each axis
            with torch.no_grad():
                layer.weight.mul_(2 ** (layer.weight.ndim / 2 - 1))
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dense(
    widths: Sequence[int], activation: str, dropout: float, batch_norm: bool, blocks: int = 0
) -> list[nn.Module]:
    """Return linear layers of these widths, each with what follows it."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers.append(initialise(nn.Linear(a, b, bias=not batch_norm), activation))
        layers += after(nn.BatchNorm1d, b, activation, dropout, batch_norm)
        for _ in range(blocks):
            inner = nn.Linear(b, b, bias=not batch_norm)
            norms = [nn.BatchNorm1d(b) for _ in range(2 * batch_norm)]
            layers.append(Residual(inner, nn.Linear(b, b), norms, activation, dropout))
    return layers


def after(
    norm: type[nn.Module], width: int, activation: str, dropout: float, batch_norm: bool
) -> list[nn.Module]:
    """Return what follows a layer: norm, activation, dropout."""
    layers: list[nn.Module] = [norm(width)] if batch_norm else []
    if activation != "linear":
        layers.append(ACTIVATIONS[activation]())
    if dropout:
        layers.append(Dropout(dropout))
    return layers


def silenced(encoder: nn.Module, decoder: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Let networks start at zero: their last layers' weights."""
    for network in (encoder, decoder):
        for last in [layer for layer in network.modules() if isinstance(layer, Weighted)][-1:]:
            nn.init.zeros_(last.weight)
    return encoder, decoder


def shaped(shape: tuple[int, ...]) -> list[nn.Module]:
    """Return what gives vectors this shape."""
    return [] if len(shape) == 1 else [nn.Unflatten(1, shape)]


def _tie(encoder: nn.Sequential, layers: list[nn.Module]) -> list[nn.Module]:
    sources = [layer for layer in encoder if isinstance(layer, nn.Linear)]
    tied: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            source = sources.pop()
            if source.in_features != layer.out_features or source.out_features < layer.in_features:
                raise ParameterError(
                    f"tied=True needs a decoder that mirrors the encoder; here it would have to "
                    f"map {layer.in_features} to {layer.out_features} values with the weight of a "
                    f"layer from {source.in_features} to {source.out_features}. Set tied=False."
                )
            layer = TiedLinear(source, layer.in_features, layer.bias is not None)
        tied.append(layer)
    return tied
