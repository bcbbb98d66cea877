"""Named models: presets over the shared parts, one file a family."""

from narrows.models.composed import ComposedAutoencoder
from narrows.models.disentangled import DIPVAE, BetaTCVAE, InfoVAE
from narrows.models.plain import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from narrows.models.regularized import (
    ContractiveAutoencoder,
    RegularizedAutoencoder,
    SparseAutoencoder,
    WassersteinAutoencoder,
)
from narrows.models.variational import VAE

__all__ = [
    "DIPVAE",
    "VAE",
    "Autoencoder",
    "BetaTCVAE",
    "ComposedAutoencoder",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "InfoVAE",
    "LinearAutoencoder",
    "RegularizedAutoencoder",
    "SparseAutoencoder",
    "WassersteinAutoencoder",
]
