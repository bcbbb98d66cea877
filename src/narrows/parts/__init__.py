"""Pure torch building blocks: architectures, latents, likelihoods, penalties."""

from narrows.parts import counts, levels, sequences  # they register what they hold

__all__ = ["counts", "levels", "sequences"]
