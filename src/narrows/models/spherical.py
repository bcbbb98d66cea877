"""Autoencoders whose code is a direction."""

from narrows.models.variational import VAE
from narrows.parts.latents import Latent
from narrows.parts.sphere import Sphere

__all__ = ["SphericalVAE"]


class SphericalVAE(VAE):
    """The code lies on the unit sphere, for data of directions or cycles.

    E[-log p(x | z)] + beta * KL(vMF(z; mu(x), kappa(x)) || uniform on the sphere)

    A code of `latent_dim` numbers has length 1, thus one degree of freedom less. Codes of another
    length are decoded by their direction, so `interpolate` follows a great circle.

    Use it for directional data and codes compared by their angle; not with more than some tens of
    dimensions, where the sphere's surface is all alike.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891

    >>> from narrows import SphericalVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = SphericalVAE(latent_dim=3, epochs=20).fit(X)
    >>> print(f"{(model.transform(X) ** 2).sum(1).mean():.4f}")
    1.0000
    """

    def latent(self) -> Latent:
        """Return directions."""
        return Sphere(self.latent_dim)
