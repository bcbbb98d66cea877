"""Pure torch building blocks: architectures, latents, likelihoods, penalties."""

from narrows.parts import convolutions, counts, levels  # they register what they offer

__all__ = ["convolutions", "counts", "levels"]
