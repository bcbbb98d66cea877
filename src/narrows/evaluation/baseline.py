"""The honest yardstick: probabilistic PCA with as many dimensions as the code."""

from dataclasses import dataclass
from math import log, pi

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

__all__ = ["PrincipalComponents", "most_rows"]

Values = NDArray[np.float64]
FLOOR = 1e-3
"""Smallest noise in the model's units: the floor of the model's own scale."""
ROWS = 60_000
"""Training samples that PCA is fitted to, at most."""
CELLS = 30_000_000
"""Values that PCA is fitted to, at most; but never fewer than `FEWEST` samples."""
FEWEST = 200
BLOCK = 2048


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """PCA and the density that it is the maximum-likelihood fit of (Tipping & Bishop, 1999).

    Attributes:
        mean: ``(d,)``.
        components: orthonormal directions, ``(k, d)``.
        variances: of the data along them, ``(k,)``.
        noise: variance along every other direction.
    """

    mean: Values
    components: Values
    variances: Values
    noise: float

    @classmethod
    def fit(cls, x: NDArray[np.float32], dimensions: int) -> "PrincipalComponents":
        """Fit scikit-learn's PCA to samples ``(n, d)``."""
        pca = PCA(min(dimensions, *x.shape), random_state=0)
        with np.errstate(all="ignore"):  # one sample, or no variance, has no shares to explain
            pca.fit(np.repeat(x, 2, 0) if len(x) == 1 else x.astype(np.float64))
        return cls(
            mean=np.asarray(pca.mean_, np.float64),
            components=np.asarray(pca.components_, np.float64),
            variances=np.asarray(pca.explained_variance_, np.float64),
            noise=max(float(pca.noise_variance_), FLOOR**2),
        )

    def reconstruct(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what k numbers a sample keep of ``(n, d)``."""
        parts = [
            self.mean + (part - self.mean) @ self.components.T @ self.components
            for part in _blocks(x)
        ]
        return np.concatenate(parts).astype(np.float32)

    def log_likelihood(
        self, x: NDArray[np.float32], observed: NDArray[np.float32] | None = None
    ) -> Values:
        """Return the exact log p(x) in nats, ``(n,)``, of the observed values where some are not.

        By Woodbury's identity: the covariance W W' + noise I never has to be formed.
        """
        if observed is None:
            return np.concatenate([self._density(part) for part in _blocks(x)])
        masks = _blocks(observed)
        pairs = zip(_blocks(x), masks, strict=True)
        return np.concatenate([self._density(part, mask) for part, mask in pairs])

    def _density(self, x: Values, observed: Values | None = None) -> Values:
        loadings = self.components.T * np.sqrt(np.maximum(self.variances - self.noise, 0))
        residual = x - self.mean
        if observed is None:
            width = np.full(len(x), float(x.shape[1]))
            inner = (loadings.T @ loadings)[None]
        else:
            residual, width = residual * observed, observed.sum(1)
            pairs = loadings[:, :, None] * loadings[:, None, :]
            inner = np.tensordot(observed, pairs, 1)
        root = np.linalg.cholesky(np.eye(loadings.shape[1]) + inner / self.noise)
        inward = np.linalg.solve(root, (residual @ loadings)[:, :, None])[:, :, 0]
        square = (residual**2).sum(1) / self.noise - (inward**2).sum(1) / self.noise**2
        determinant = 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        determinant = determinant + width * log(self.noise)
        density: Values = -0.5 * (width * log(2 * pi) + determinant + square)
        return density


def most_rows(width: int) -> int:
    """Return how many samples of so many values PCA is fitted to, at most."""
    return min(ROWS, max(FEWEST, CELLS // width))


def _blocks(x: NDArray[np.float32]) -> list[Values]:
    return [x[i : i + BLOCK].astype(np.float64) for i in range(0, len(x), BLOCK)]
