"""Penalties: what an objective may charge beyond the bound, each ``(batch,)`` or 0-d."""

from collections.abc import Callable
from math import exp
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts import divergences
from narrows.parts.categorical import Categorical
from narrows.parts.latents import shares
from narrows.parts.transformers import Block

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder
    from narrows.data.sources import InMemory
    from narrows.net import Net, Step

__all__ = [
    "PENALTIES",
    "Penalty",
    "decoder_jacobian",
    "decoder_weights",
    "jacobian",
    "jacobian_exact",
    "kl_sparsity",
    "l1",
    "l2",
    "mmd",
    "ms_ssim",
    "penalty",
    "refuse_mixing",
    "similarity",
]

SIZE, SIGMA = 11, 1.5
"""Of the Gaussian window in which structures are compared."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""How much each scale counts, from the finest on (Wang et al., 2003)."""
LEAST = 1e-4
"""Of a scale's similarity, which can be negative and is raised to a power."""

Price = Callable[["Net", "Step"], Tensor]


class Penalty:
    """What an objective may charge, and what it asks of a net and of the data.

    Args:
        price: ``price(net, step)``, ``(batch,)`` or 0-d.
    """

    calculates = False
    """Whether it calculates with the values of x, so that x cannot be symbols."""

    def __init__(self, price: Price) -> None:
        self.price = price

    @classmethod
    def register(cls, price: Price) -> Price:
        """Register a price under its own name, as a penalty of this kind."""
        PENALTIES[price.__name__] = cls(price)
        return price

    def build(self, model: "BaseAutoencoder", net: "Net", shape: tuple[int, ...]) -> None:
        """Refuse a model's net for samples of a shape, or give it what the price needs."""

    def prepare(self, net: "Net", source: "InMemory") -> None:
        """Look at the training samples before the first step."""


class Slope(Penalty):
    """A penalty of derivatives."""

    def build(self, model: "BaseAutoencoder", net: "Net", shape: tuple[int, ...]) -> None:
        """Refuse derivatives of samples that mix."""
        del shape
        refuse_mixing(model, net)


class SlopeAtX(Slope):
    """A penalty of the code's derivatives by x."""

    calculates = True

    def build(self, model: "BaseAutoencoder", net: "Net", shape: tuple[int, ...]) -> None:
        """Refuse codes that move in steps, too."""
        super().build(model, net, shape)
        if net.latent.categories:
            raise ParameterError(
                f"The penalty '{self.price.__name__}' is the slope of the code, and that of "
                f"{type(net.latent).__name__} is made of integers: its slope is 0. Name another "
                "penalty, or a continuous code."
            )


class OfAmounts(Penalty):
    """A penalty of how large the values of a code are."""

    def build(self, model: "BaseAutoencoder", net: "Net", shape: tuple[int, ...]) -> None:
        """Refuse values that always have one sum."""
        del model, shape
        if isinstance(net.latent, Categorical):
            raise ParameterError(
                f"The penalty '{self.price.__name__}' charges how large codes are, and what a "
                "categorical code chooses always sums to 1. Name another penalty or code."
            )


class OfWeights(Penalty):
    """A penalty of a decoder's own weights."""

    def build(self, model: "BaseAutoencoder", net: "Net", shape: tuple[int, ...]) -> None:
        """Refuse a decoder without any."""
        del shape
        if not matrices(net.decoder):
            raise ParameterError(
                f"The penalty '{self.price.__name__}' charges weights of the decoder, and that of "
                f"this {type(model).__name__} has none of its own. Set tied=False, or name "
                "another penalty or decoder."
            )


class OfImages(Penalty):
    """A penalty of images, whose net has a buffer "range": each channel's lowest and highest."""

    def build(self, model: "BaseAutoencoder", net: "Net", shape: tuple[int, ...]) -> None:
        """Refuse samples that are no images, and keep a place for their range."""
        del model
        if len(shape) != 3:
            name = self.price.__name__
            raise ParameterError(
                f"The penalty '{name}' compares images. Name another one, or fit images "
                "(n, height, width[, channels]) with modality='image'."
            )
        net.register_buffer("range", torch.zeros(2, shape[0], 1, 1))

    def prepare(self, net: "Net", source: "InMemory") -> None:
        """Note the range, in the units of the target."""
        x = source.x if source.target is None else source.target
        ends = torch.stack([x.amin((0, 2, 3)), x.amax((0, 2, 3))])[..., None, None]
        if source.target is None and source.units is not None:
            ends = source.units(ends)
        net.get_buffer("range").copy_(ends)


PENALTIES: dict[str, Penalty] = {}
penalty = Penalty.register


@OfAmounts.register
def l1(net: "Net", step: "Step") -> Tensor:
    """Return sum_j |z_j|, ``(batch,)``: codes pay for being away from zero (Ng, 2011)."""
    del net
    return step.z.flatten(1).abs().sum(1)


@penalty
def l2(net: "Net", step: "Step") -> Tensor:
    """Return ½ sum_j z_j², ``(batch,)``: bounds the scale of a code (Ghosh et al., 2020)."""
    del net
    return 0.5 * step.z.flatten(1).square().sum(1)


def kl_sparsity(z: Tensor, rho: float, weight: Tensor | None = None) -> Tensor:
    """Return sum_j KL(rho || mean_i z_ij), 0-d, for activations in (0, 1) (Ng, 2011, eq. 8).

    Samples count by `weight`.
    """
    share = shares(z, weight)[:, None]
    mean = (share * z.flatten(1)).sum(0).clamp(1e-6, 1 - 1e-6)
    target = torch.full_like(mean, rho)
    active = target * (target.log() - mean.log())
    silent = (1 - target) * ((1 - target).log() - (1 - mean).log())
    return (active + silent).sum()


@OfWeights.register
def decoder_weights(net: "Net", step: "Step") -> Tensor:
    """Return the sum of the decoder's squared weights, 0-d; vectors (biases, norms) are free."""
    del step
    return torch.stack([p.square().sum() for p in matrices(net.decoder)]).sum()


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a module that are no vectors."""
    return [p for p in module.parameters() if p.ndim > 1]


def refuse_mixing(model: "BaseAutoencoder", net: "Net", what: str = "Jacobian penalty") -> None:
    """Refuse derivatives of samples that batch normalisation mixes, or that torch cannot take.

    Args:
        model: that needs them.
        net: of which they are.
        what: needs them.

    Raises:
        ParameterError: the net normalises over the batch, is of LSTMs or Transformers, or forgets
            what its layers put out.
    """
    model.refuse_set(["gradient_checkpointing"], f"goes with no {what}")
    if any(isinstance(module, nn.LSTM | Block) for module in net.modules()):
        raise ParameterError(
            f"A {what} needs derivatives that torch does not have for LSTMs and "
            "Transformers. Use architecture='gru' or 'mlp'."
        )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        raise ParameterError(
            f"A {what} needs each code to depend on its own sample alone, and "
            "batch_norm=True mixes the samples of a batch. Set batch_norm=False."
        )


@SlopeAtX.register
def jacobian(net: "Net", step: "Step") -> Tensor:
    """Return Hutchinson's unbiased estimate of ||dz/dx||²_F by one probe, ``(batch,)``.

    With v ~ N(0, I), E ||Jᵀ v||² = ||J||²_F (Hutchinson, 1989): one reverse-mode product.
    """
    return _hutchinson(net.encoding(step), step.batch.x)


@SlopeAtX.register
def jacobian_exact(net: "Net", step: "Step") -> Tensor:
    """Return ||dz/dx||²_F exactly, ``(batch,)`` (Rifai et al., 2011, eq. 6).

    One reverse-mode product for each unit of the code: rows must not mix (no batch norm).
    """
    pullback = torch.func.vjp(net.encoding(step), step.batch.x)[1]
    z = step.z.flatten(1)
    total = torch.zeros_like(z[:, 0])
    for unit in torch.eye(z.shape[1], dtype=z.dtype, device=z.device):
        (row,) = pullback(unit.expand_as(z).reshape(step.z.shape))
        total = total + row.flatten(1).square().sum(1)
    return total


@Slope.register
def decoder_jacobian(net: "Net", step: "Step") -> Tensor:
    """Return Hutchinson's unbiased estimate of ||dE[x | z]/dz||²_F by one probe, ``(batch,)``."""
    return _hutchinson(net.decode, step.z)


@penalty
def mmd(net: "Net", step: "Step") -> Tensor:
    """Return the squared discrepancy of the codes from N(0, I), 0-d (Tolstikhin et al., 2018)."""
    del net
    codes = step.z.flatten(1)
    return divergences.mmd(codes, torch.randn_like(codes), weight=step.batch.weight)


@OfImages.register
def ms_ssim(net: "Net", step: "Step") -> Tensor:
    """Return 1 - MS-SSIM of the images and their mean reconstructions, ``(batch,)``.

    As in Snell et al. (2017). The range is that of the training images' channels. It is at most 1,
    beside an nll of hundreds of nats: a weight of some tens or hundreds is felt.
    """
    low, high = net.get_buffer("range")
    span = torch.where(high > low, high - low, 1)
    pair = (step.batch.target, net.likelihood.mean(step.out))
    return 1 - similarity(*((images - low) / span for images in pair))


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """Return the multiscale structural similarity of images ``(n, c, h, w)`` in [0, 1], ``(n,)``.

    l_M^w_M prod_j cs_j^w_j, the mean over channels, by luminance l = (2 mx my + C1) / (mx² + my² +
    C1) and contrast and structure cs = (2 sxy + C2) / (sx² + sy² + C2) within a Gaussian window of
    11 × 11 pixels, C1 = 0.01², C2 = 0.03² (Wang, Simoncelli & Bovik, 2003). From scale to scale
    2 × 2 pixels become one. There are as many as let the window into the smaller side, at most
    five, and their weights w sum to 1: one for less than 22 pixels, where it is plain SSIM (Wang
    et al., 2004), two for less than 44. In a side of less than 11 the window is its largest odd
    number wide. A mean cs below 1e-4 counts as that.
    """
    side = min(x.shape[2:])
    scales = max(1, min(len(SCALES), (side // SIZE).bit_length()))
    window = _window(min(SIZE, side - 1 + side % 2))
    x, y = (images.to(torch.promote_types(images.dtype, torch.float32)) for images in (x, y))
    value = torch.ones_like(x[:, :, 0, 0])
    for j, weight in enumerate(SCALES[:scales]):
        if j:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        mx, my, xx, yy, xy = _blurred(torch.stack([x, y, x * x, y * y, x * y]), window)
        cs = (2 * (xy - mx * my) + 0.03**2) / (xx - mx**2 + yy - my**2 + 0.03**2)
        if j == scales - 1:
            cs = cs * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        value = value * cs.mean((2, 3)).clamp(min=LEAST) ** (weight / sum(SCALES[:scales]))
    return value.mean(1)


def _window(size: int) -> list[float]:
    each = [exp(-0.5 * ((i - size // 2) / SIGMA) ** 2) for i in range(size)]
    return [value / sum(each) for value in each]


def _blurred(x: Tensor, window: list[float]) -> Tensor:
    """Return the means of x within a window along its last two axes, where all of it fits."""
    for axis in (-1, -2):
        size = x.shape[axis] - len(window) + 1
        shifted = (weight * x.narrow(axis, i, size) for i, weight in enumerate(window))
        x = sum(shifted, x.new_zeros(()))
    return x


def _hutchinson(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ||Jᵀ v||² with one v ~ N(0, I) for each row, ``(batch,)``."""
    out, pullback = torch.func.vjp(function, x)[:2]
    product: Tensor = pullback(torch.randn_like(out))[0]
    return product.flatten(1).square().sum(1)
