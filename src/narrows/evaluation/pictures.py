"""Pictures: images of any type as PNG or JPEG inside the page, alone or in rows on a sheet.

Volumes are shown by their central slices.
"""

import io
from base64 import b64encode
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from narrows.evaluation.markup import Markup, tag

__all__ = ["Ink", "Sheet", "picture", "sheet", "slices"]

Pixels = NDArray[np.uint8]
LARGEST = 160
"""Longest side of a picture shown alone, in pixels."""
PAPER = 255
LOSSLESS = {2: 400_000, 3: 60_000}
"""Bytes that a PNG of grey values or colours may take before the same picture goes as JPEG."""


@dataclass(frozen=True)
class Ink:
    """How values become grey: `low` is black and `high` white."""

    low: float
    high: float

    @classmethod
    def of(cls, images: NDArray[Any]) -> "Ink":
        """Take the limits of the type, of [0, 1], or of the values."""
        if images.dtype == np.uint8:
            return cls(0.0, 255.0)
        low, high = float(images.min()), float(images.max())
        if low >= 0 and high <= 1:
            return cls(0.0, 1.0)
        return cls(low, high if high > low else low + 1)

    def draw(self, images: NDArray[Any], longest: int = LARGEST) -> Pixels:
        """Return ``(n, c, [d,] h, w)`` values as pixels ``(n, h, w)`` or ``(n, h, w, 3)``."""
        images = slices(images) if images.ndim == 5 else images
        step = ceil(max(images.shape[2:]) / longest)
        if step > 1:
            images = _shrink(images, step)
        shade = (images.astype(np.float32) - self.low) * (255 / (self.high - self.low))
        pixels = np.clip(np.rint(shade), 0, 255).astype(np.uint8)
        drawn: Pixels = pixels.mean(1).astype(np.uint8)
        if pixels.shape[1] in (3, 4):  # a fourth channel is how much shows, and all shall show
            drawn = np.moveaxis(pixels[:, :3], 1, -1)
        return drawn


@dataclass(frozen=True)
class Sheet:
    """Pictures of one size in rows on one image."""

    source: str
    columns: int
    width: int
    height: int
    gap: int


def slices(volumes: NDArray[Any]) -> NDArray[Any]:
    """Return the three central slices of ``(n, c, d, h, w)`` in a row, padded with their least.

    Seen along the depth, the height and the width.
    """
    cuts = [volumes.take(volumes.shape[axis] // 2, axis) for axis in (2, 3, 4)]
    height = max(cut.shape[2] for cut in cuts)
    least = volumes.min()
    padded = [
        np.pad(cut, ((0, 0), (0, 0), (0, height - cut.shape[2]), (0, 0)), constant_values=least)
        for cut in cuts
    ]
    row: NDArray[Any] = np.concatenate(padded, 3)
    return row


def picture(pixels: Pixels, alt: str) -> Markup:
    """Return one picture as an element."""
    height, width = pixels.shape[:2]
    crisp = "crisp" if max(height, width) <= 64 else None
    return tag("img", src=_encode(pixels), alt=alt, width=width, height=height, class_=crisp)


def sheet(pixels: Pixels, columns: int, gap: int = 0) -> Sheet:
    """Lay pictures out in rows, with a gap of so many pixels between them."""
    n, height, width, *rest = pixels.shape
    columns = max(1, min(columns, n))
    rows = ceil(n / columns)
    page = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, *rest), PAPER, np.uint8
    )
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        page[top : top + height, left : left + width] = image
    return Sheet(_encode(page), columns, width, height, gap)


def _shrink(images: NDArray[Any], step: int) -> NDArray[np.float32]:
    """Return means over squares of pixels; what is over at the edges is left out."""
    n, channels, height, width = images.shape
    high, wide = max(height // step, 1), max(width // step, 1)
    tall, broad = min(step, height), min(step, width)
    squares = images[:, :, : high * tall, : wide * broad].astype(np.float32)
    means: NDArray[np.float32] = squares.reshape(n, channels, high, tall, wide, broad).mean((3, 5))
    return means


def _encode(pixels: Pixels) -> str:
    """Return a data address: PNG where it is small, as of digits, else JPEG."""
    image, kind = Image.fromarray(pixels), "png"
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    if data.tell() > LOSSLESS[pixels.ndim]:
        data, kind = io.BytesIO(), "jpeg"
        image.save(data, "JPEG", quality=82, optimize=True)
    return f"data:image/{kind};base64,{b64encode(data.getvalue()).decode()}"
