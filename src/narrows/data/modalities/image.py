"""Images of one size."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrows.data.arrays import as_numbers
from narrows.data.modalities.base import Array, Encoded, Modality
from narrows.data.scaling import Range, fit_scaling, log_counts
from narrows.errors import DataError

__all__ = ["CHANNELS", "Image"]

CHANNELS = (1, 3, 4)
WHOLE = ("uint8", "uint16")
"""Types of pixels that come back as they were; all others come back as float32."""


@dataclass(frozen=True)
class Image(Modality):
    """Images of one size, ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``.

    Attributes:
        layout: where the channels are: "last", "first", or "" for none.
        dtype: "uint8", "uint16" or "float32", what decoding returns.
    """

    name = "image"
    architecture = "conv"

    layout: str = ""
    dtype: str = "float32"

    @classmethod
    def describe(cls, X: Any) -> "Image":
        """Note size, layout and type."""
        X = as_numbers(X)
        if X.ndim == 3:
            shape, layout = (1, *X.shape[1:]), ""
        elif X.ndim == 4 and X.shape[1] in CHANNELS and X.shape[3] in CHANNELS:
            raise DataError(
                f"X has the shape {X.shape}, whose channels may come first or last. Drop an axis "
                "of length 1, or pad the images to another width."
            )
        elif X.ndim == 4 and X.shape[1] in CHANNELS:
            shape, layout = X.shape[1:], "first"
        elif X.ndim == 4:
            shape, layout = (X.shape[3], *X.shape[1:3]), "last"
        else:
            raise DataError(
                "modality='image' needs images (n, height, width), (n, height, width, channels) "
                f"or (n, channels, height, width); X has the shape {X.shape}. Reshape your data."
            )
        if 0 in shape:
            raise DataError(f"X holds images without pixels: its shape is {X.shape}.")
        dtype = X.dtype.name if X.dtype.name in WHOLE else "float32"
        return cls(shape, layout=layout, dtype=dtype)

    def read(self, X: Any, owner: str) -> Array:
        """Check size and values; return ``(n, c, h, w)``, whole pixels as they are."""
        X = as_numbers(X)
        channels, *size = self.shape
        sample = {"": (*size,), "last": (*size, channels), "first": self.shape}[self.layout]
        if X.shape[1:] != sample:
            raise DataError(
                f"{owner} is expecting images of shape (n, {', '.join(map(str, sample))}); X has "
                f"the shape {X.shape}. Give images of the size and channel order seen at fit."
            )
        if X.dtype.name != self.dtype and {X.dtype.name, self.dtype} & set(WHOLE):
            raise DataError(
                f"{owner} was fitted on {self.dtype} images; X holds {X.dtype}, which would be "
                "read on another scale. Convert X."
            )
        if not len(X):
            raise DataError("Found array with 0 sample(s) in X while a minimum of 1 is required.")
        if self.dtype not in WHOLE:
            X = X.astype(np.float32, copy=False)
            broken = ~np.isfinite(X).reshape(len(X), -1).all(1)
            if broken.any():
                raise DataError(
                    f"X contains NaN or infinity in {broken.sum()} of its {len(X)} images, first "
                    f"in image {broken.argmax()}. Repair or remove them."
                )
        return np.moveaxis(X, -1, 1) if self.layout == "last" else X.reshape(-1, *self.shape)

    def learn(self, array: Array, target: Range) -> "Image":
        """Fit one center and scale a channel, or one for all where a range is asked for."""
        joint = target in ("unit", "symmetric")
        pixels = (
            array.reshape(-1, 1) if joint else np.moveaxis(array, 1, -1).reshape(-1, self.shape[0])
        )
        pixels = log_counts(pixels) if target == "log" else pixels
        bounds = (0.0, 255.0) if array.dtype == np.uint8 else None
        center, scale = fit_scaling(pixels, target, bounds)
        return replace(self, center=center, scale=scale, log=target == "log")

    def encode(self, array: Array) -> Encoded:
        """Scale the pixels."""
        x = torch.from_numpy(np.array(array, np.float32, order="C"))  # always a copy
        x = x.clamp_(min=0).log1p_() if self.log else x
        return Encoded(x.sub_(self._pixel(self.center)).div_(self._pixel(self.scale)))

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Undo the scaling; whole pixels are rounded and clipped."""
        del like, condition
        pixels = x.float() * self._pixel(self.scale) + self._pixel(self.center)
        pixels = pixels.expm1_().clamp_(min=0) if self.log else pixels
        if self.dtype in WHOLE:
            whole = getattr(torch, self.dtype)
            pixels = pixels.round_().clamp_(0, torch.iinfo(whole).max).to(whole)
        pixels = pixels.movedim(1, -1) if self.layout == "last" else pixels
        pixels = pixels.squeeze(1) if self.layout == "" else pixels
        return pixels.contiguous().numpy()

    def as_batch(self, sample: Any) -> Any:
        """Return an image as a stack of one."""
        sample = np.asarray(sample)
        return sample[None] if sample.ndim == (3 if self.layout else 2) else sample

    @property
    def log_units(self) -> Tensor:
        """Log of each channel's scale, ``(c, 1, 1)``."""
        return self._pixel(self.scale).log()

    @property
    def n_features(self) -> int:
        """Number of pixels times channels."""
        return int(np.prod(self.shape))

    def _pixel(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values).view(-1, 1, 1)
