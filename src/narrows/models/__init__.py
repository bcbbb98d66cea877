"""Named models: presets over the shared parts, one file a family."""

from narrows.models.adversarial import VAEGAN, AdversarialAutoencoder, FactorVAE
from narrows.models.bounds import IWAE
from narrows.models.composed import ComposedAutoencoder
from narrows.models.conditional import ConditionalVAE
from narrows.models.discrete import (
    FSQVAE,
    LFQVAE,
    VQVAE,
    BinaryAutoencoder,
    CategoricalVAE,
    HierarchicalVQVAE,
    ResidualVQVAE,
    SimVQ,
)
from narrows.models.disentangled import DIPVAE, BetaTCVAE, InfoVAE
from narrows.models.graphs import (
    AdversarialGraphAutoencoder,
    GraphAutoencoder,
    VariationalGraphAutoencoder,
)
from narrows.models.hamiltonian import HamiltonianVAE, RiemannianVAE
from narrows.models.hierarchical import HierarchicalVAE
from narrows.models.hyperbolic import PoincareVAE
from narrows.models.masked import MaskedAutoencoder
from narrows.models.plain import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from narrows.models.priors import FlowVAE, VampPriorVAE
from narrows.models.refinement import HRQVAE
from narrows.models.regularized import (
    ContractiveAutoencoder,
    RegularizedAutoencoder,
    SparseAutoencoder,
    WassersteinAutoencoder,
)
from narrows.models.residual import ResidualAutoencoder
from narrows.models.semisupervised import SemiSupervisedAdversarialAutoencoder
from narrows.models.sequences import SequenceAutoencoder, SequenceVAE
from narrows.models.sparse import TopKAutoencoder
from narrows.models.spherical import SphericalVAE
from narrows.models.stacked import StackedAutoencoder
from narrows.models.structured import UNetAutoencoder
from narrows.models.variational import VAE

__all__ = [
    "DIPVAE",
    "FSQVAE",
    "HRQVAE",
    "IWAE",
    "LFQVAE",
    "VAE",
    "VAEGAN",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialGraphAutoencoder",
    "Autoencoder",
    "BetaTCVAE",
    "BinaryAutoencoder",
    "CategoricalVAE",
    "ComposedAutoencoder",
    "ConditionalVAE",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "FactorVAE",
    "FlowVAE",
    "GraphAutoencoder",
    "HamiltonianVAE",
    "HierarchicalVAE",
    "HierarchicalVQVAE",
    "InfoVAE",
    "LinearAutoencoder",
    "MaskedAutoencoder",
    "PoincareVAE",
    "RegularizedAutoencoder",
    "ResidualAutoencoder",
    "ResidualVQVAE",
    "RiemannianVAE",
    "SemiSupervisedAdversarialAutoencoder",
    "SequenceAutoencoder",
    "SequenceVAE",
    "SimVQ",
    "SparseAutoencoder",
    "SphericalVAE",
    "StackedAutoencoder",
    "TopKAutoencoder",
    "UNetAutoencoder",
    "VampPriorVAE",
    "VariationalGraphAutoencoder",
    "WassersteinAutoencoder",
]
