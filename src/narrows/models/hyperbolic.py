"""Autoencoders whose code lies in hyperbolic space."""

from narrows.fields import Positive
from narrows.models.variational import VAE
from narrows.parts.hyperbolic import Ball

__all__ = ["PoincareVAE"]


class PoincareVAE(VAE):
    """The code lies in the Poincaré ball, which has room for trees: it widens exponentially.

    E[-log p(x | z)] + beta * KL(N_w(z; mu(x), sigma(x)) || N_w(0, I))

    N_w is the normal wrapped around the ball from its mean; the KL is estimated by one draw. The
    decoder sees the distances of z to learned hyperplanes (gyroplanes). Codes are points within
    the radius 1 / sqrt(c), and keep 1e-5 of it from the boundary; distances between them are
    2 / sqrt(c) * asinh(sqrt(c) * |x - y| / sqrt((1 - c |x|²) (1 - c |y|²))). `interpolate` follows
    a geodesic.

    Use it for data with a hierarchy and codes of few units; not with more than some tens of units,
    which have room enough.

    Args:
        curvature: c of the ball's curvature -c. It acts like the square of the prior's spread,
            which is 1: the more units a code has, the smaller it should be, lest all draws lie
            near the boundary and none near the mean. None takes 2 / latent_dim, at most 1. Near 0
            the code is a VAE's, in units of 1/2.

    References:
        Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders (Mathieu
        et al., 2019), https://arxiv.org/abs/1901.06033

    >>> from narrows import PoincareVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = PoincareVAE(latent_dim=2, epochs=20).fit(X)
    >>> bool(((model.transform(X) ** 2).sum(1) < 1).all())
    True
    """

    curvature: Positive | None = None

    def latent(self) -> Ball:
        """Return points of the ball."""
        default = min(1.0, 2 / self.latent_dim)
        return Ball(self.latent_dim, default if self.curvature is None else self.curvature)
