"""A density over continuous codes: a Gaussian mixture."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

__all__ = ["Mixture"]

Codes = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Mixture:
    """A Gaussian mixture with full covariances.

    Attributes:
        weights: ``(components,)``.
        means: ``(components, units)``.
        roots: lower Cholesky factors of the covariances, ``(components, units, units)``.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    roots: NDArray[np.float64]

    @classmethod
    def fit(cls, codes: Codes, components: int = 10, seed: int = 0) -> "Mixture":
        """Fit by expectation-maximisation; fewer components where the codes are few.

        Ex-post density estimation: From Variational to Deterministic Autoencoders (Ghosh et al.,
        2020), https://arxiv.org/abs/1903.12436, section 4.
        """
        from sklearn.mixture import GaussianMixture  # here: it brings all of scikit-learn's models

        n, dim = codes.shape
        distinct = len(np.unique(codes, axis=0))
        model = GaussianMixture(
            max(1, min(components, distinct, n // (2 * dim + 1))),
            reg_covar=1e-4 * (float(codes.var(0, dtype=np.float64).mean()) or 1.0),
            random_state=seed,
        )
        with warnings.catch_warnings():  # a mixture that still moves a little serves as well
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(np.repeat(codes, 2, 0) if n == 1 else codes.astype(np.float64))
        return cls(model.weights_, model.means_, np.linalg.cholesky(model.covariances_))

    def sample(self, n: int, seed: int) -> Codes:
        """Draw n codes."""
        rng = np.random.default_rng(seed)
        component = rng.choice(len(self.weights), size=n, p=self.weights / self.weights.sum())
        noise = rng.standard_normal((n, self.means.shape[1]))
        codes = self.means[component] + np.einsum("nij,nj->ni", self.roots[component], noise)
        return np.asarray(codes, dtype=np.float32)
