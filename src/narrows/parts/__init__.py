"""Pure torch building blocks: architectures, latents, likelihoods, penalties."""

# They register what they hold.
from narrows.parts import convolutions, counts, levels, sequences

__all__ = ["convolutions", "counts", "levels", "sequences"]
