"""Variational autoencoders: a distribution over codes, and a bound on the likelihood."""

from narrows.base import BaseAutoencoder
from narrows.fields import NonNegative
from narrows.net import Step, Terms
from narrows.parts.latents import Gaussian

__all__ = ["VAE"]


class VAE(BaseAutoencoder):
    """A Gaussian code whose posterior pays for leaving the standard normal prior.

    E[-log p(x | z)] + beta * KL(q(z | x) || N(0, I))

    With beta = 1 this is the negative ELBO; beta > 1 makes the beta-VAE.

    Args:
        beta: weight of the KL divergence.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework
        (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl

    >>> from narrows import VAE
    >>> from sklearn.datasets import load_iris
    >>> vae = VAE(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> vae.sample(3).shape
    (3, 4)
    """

    beta: NonNegative = 1.0

    def latent(self) -> Gaussian:
        """Return a diagonal Gaussian."""
        return Gaussian(self.latent_dim)

    def objective(self, step: Step) -> Terms:
        """Weigh the KL divergence."""
        return {"nll": step.nll, "kl": self.beta * step.charges["kl"]}
