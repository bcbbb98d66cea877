"""narrows: every autoencoder, one interface, proven correct."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrows.base import MODELS, BaseAutoencoder, load, register
    from narrows.models import (
        DIPVAE,
        FSQVAE,
        HRQVAE,
        IWAE,
        LFQVAE,
        VAE,
        VAEGAN,
        VQVAE,
        AdversarialAutoencoder,
        AdversarialGraphAutoencoder,
        Autoencoder,
        BetaTCVAE,
        BinaryAutoencoder,
        CategoricalVAE,
        ComposedAutoencoder,
        ConditionalVAE,
        ContractiveAutoencoder,
        DenoisingAutoencoder,
        FactorVAE,
        FlowVAE,
        GraphAutoencoder,
        HamiltonianVAE,
        HierarchicalVAE,
        HierarchicalVQVAE,
        InfoVAE,
        LinearAutoencoder,
        MaskedAutoencoder,
        PoincareVAE,
        RegularizedAutoencoder,
        ResidualAutoencoder,
        ResidualVQVAE,
        RiemannianVAE,
        SemiSupervisedAdversarialAutoencoder,
        SequenceAutoencoder,
        SequenceVAE,
        SimVQ,
        SparseAutoencoder,
        SphericalVAE,
        StackedAutoencoder,
        TopKAutoencoder,
        UNetAutoencoder,
        VampPriorVAE,
        VariationalGraphAutoencoder,
        WassersteinAutoencoder,
    )
    from narrows.together import Ensemble, fit_together

__version__ = "0.1.0"

__all__ = [
    "DIPVAE",
    "FSQVAE",
    "HRQVAE",
    "IWAE",
    "LFQVAE",
    "MODELS",
    "VAE",
    "VAEGAN",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialGraphAutoencoder",
    "Autoencoder",
    "BaseAutoencoder",
    "BetaTCVAE",
    "BinaryAutoencoder",
    "CategoricalVAE",
    "ComposedAutoencoder",
    "ConditionalVAE",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "Ensemble",
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
    "fit_together",
    "load",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import narrows` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'narrows' has no attribute '{name}'")
    # The models register themselves, so that `load` and `MODELS` always know all of them.
    modules = [import_module(f"narrows.{part}") for part in ("models", "base", "together")]
    known = {key: value for module in modules for key, value in vars(module).items()}
    globals().update({key: known[key] for key in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
