"""Named models: presets over the shared parts, one file a family."""

from narrows.models.composed import ComposedAutoencoder
from narrows.models.discrete import (
    FSQVAE,
    VQVAE,
    BinaryAutoencoder,
    CategoricalVAE,
    HierarchicalVQVAE,
    ResidualVQVAE,
    SimVQ,
)
from narrows.models.plain import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from narrows.models.regularized import ContractiveAutoencoder, SparseAutoencoder
from narrows.models.variational import VAE

__all__ = [
    "FSQVAE",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "BinaryAutoencoder",
    "CategoricalVAE",
    "ComposedAutoencoder",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "HierarchicalVQVAE",
    "LinearAutoencoder",
    "ResidualVQVAE",
    "SimVQ",
    "SparseAutoencoder",
]
