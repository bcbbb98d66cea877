"""Named models: presets over the shared parts, one file a family."""

from narrows.models.adversarial import VAEGAN, AdversarialAutoencoder, FactorVAE
from narrows.models.composed import ComposedAutoencoder
from narrows.models.plain import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from narrows.models.regularized import ContractiveAutoencoder, SparseAutoencoder
from narrows.models.variational import VAE

__all__ = [
    "VAE",
    "VAEGAN",
    "AdversarialAutoencoder",
    "Autoencoder",
    "ComposedAutoencoder",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "FactorVAE",
    "LinearAutoencoder",
    "SparseAutoencoder",
]
