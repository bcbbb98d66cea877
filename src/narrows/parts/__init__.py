"""Pure torch building blocks: architectures, latents, likelihoods, penalties."""
