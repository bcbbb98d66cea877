"""Densities over codes, fitted after training, so that models without a prior can generate."""

from narrows.density.autoregressive import CodePrior
from narrows.density.mixture import Mixture

__all__ = ["CodePrior", "Mixture"]
