"""Named models: presets over the shared parts, one file a family."""

from narrows.models.composed import ComposedAutoencoder
from narrows.models.masked import MaskedAutoencoder
from narrows.models.plain import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from narrows.models.regularized import ContractiveAutoencoder, SparseAutoencoder
from narrows.models.residual import ResidualAutoencoder
from narrows.models.sparse import TopKAutoencoder
from narrows.models.variational import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "ComposedAutoencoder",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "LinearAutoencoder",
    "MaskedAutoencoder",
    "ResidualAutoencoder",
    "SparseAutoencoder",
    "TopKAutoencoder",
]
