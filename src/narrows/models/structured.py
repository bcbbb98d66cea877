"""Autoencoders whose decoder sees more of a sample than its code, level by level."""

from typing import Any, ClassVar, Literal

from narrows.assembly import assemble
from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.errors import ContextError
from narrows.models.plain import DenoisingAutoencoder
from narrows.net import Net
from narrows.parts.networks import ARCHITECTURES, DroppedCode
from narrows.parts.unet import BARE, unet

__all__ = ["UNetAutoencoder"]


class _WithContext(BaseAutoencoder):
    """Base of the models whose decoder sees something of a sample beside its code."""

    bare: ClassVar[str]
    """Why a bare code cannot be decoded."""
    calculates = True

    @property
    def inverse_transform(self) -> Any:
        """Raise a `ContextError`: a bare code cannot be decoded."""
        raise ContextError(self.bare)


class UNetAutoencoder(_WithContext, DenoisingAutoencoder):
    """Recovers clean series, images or volumes: the decoder sees every level of the encoder.

    -log p(x | z, f_1(x + noise), f_2(x + noise), ...) with z = f(x + noise)

    The levels halve the sample one after another; the last gives the code, and what each other
    one made of the sample is joined to the decoder's level of its size. A row of a table is read
    as a series along its columns. The code alone is no longer the sample: `inverse_transform`,
    `sample` and `interpolate` raise a `ContextError`, and `reconstruct` cleans samples.

    Use it to remove noise from what has neighbours: signals, images, volumes; not to compress or
    generate, for the detail passes beside the code, and not with noise=0, which it would copy.

    Args:
        architecture: the one there is.

    References:
        U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al.,
        2015), https://arxiv.org/abs/1505.04597

    >>> from narrows import UNetAutoencoder
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images[:200]
    >>> model = UNetAutoencoder(modality="image", hidden=(8, 16), epochs=2).fit(X)
    >>> model.reconstruct(X).shape
    (200, 8, 8)
    """

    bare = BARE

    architecture: Literal["unet"] = "unet"

    def build(self, modality: Modality) -> Net:
        """Return a net whose encoder and decoder meet at every level."""
        net = assemble(self, modality, ARCHITECTURES | {"unet": unet})
        if self.code_dropout:
            net.decoder = DroppedCode(net.decoder, self.code_dropout)
        return net
