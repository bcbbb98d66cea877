"""Named models: presets over the shared parts, one file a family."""

from narrows.models.composed import ComposedAutoencoder
from narrows.models.conditional import ConditionalVAE
from narrows.models.hierarchical import HierarchicalVAE
from narrows.models.plain import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from narrows.models.regularized import ContractiveAutoencoder, SparseAutoencoder
from narrows.models.variational import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "ComposedAutoencoder",
    "ConditionalVAE",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "HierarchicalVAE",
    "LinearAutoencoder",
    "SparseAutoencoder",
]
