"""Volumes of one size."""

from dataclasses import dataclass

from narrows.data.modalities.grid import Grid

__all__ = ["Volume"]


@dataclass(frozen=True)
class Volume(Grid):
    """Volumes of one size, ``(n, d, h, w)``, ``(n, d, h, w, c)`` or ``(n, c, d, h, w)``."""

    name = "volume"
    plural = "volumes"
    points = "voxels"
    sides = ("depth", "height", "width")
    channels = (1, 2, 3, 4)
