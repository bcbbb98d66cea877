"""Images of one size."""

from dataclasses import dataclass

from narrows.data.modalities.grid import Grid

__all__ = ["Image"]


@dataclass(frozen=True)
class Image(Grid):
    """Images of one size, ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``."""

    name = "image"
    plural = "images"
    points = "pixels"
    sides = ("height", "width")
