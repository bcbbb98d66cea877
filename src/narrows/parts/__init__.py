"""Pure torch building blocks: architectures, latents, likelihoods, penalties."""

from narrows.parts import counts, levels  # they register their likelihoods

__all__ = ["counts", "levels"]
