"""narrows: every autoencoder, one interface, proven correct."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrows.base import MODELS, BaseAutoencoder, load, register
    from narrows.models import (
        DIPVAE,
        FSQVAE,
        IWAE,
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
        HierarchicalVAE,
        HierarchicalVQVAE,
        InfoVAE,
        LinearAutoencoder,
        MaskedAutoencoder,
        RegularizedAutoencoder,
        ResidualAutoencoder,
        ResidualVQVAE,
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

__version__ = "0.1.0"

__all__ = [
    "DIPVAE",
    "FSQVAE",
    "IWAE",
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
    "FactorVAE",
    "FlowVAE",
    "GraphAutoencoder",
    "HierarchicalVAE",
    "HierarchicalVQVAE",
    "InfoVAE",
    "LinearAutoencoder",
    "MaskedAutoencoder",
    "RegularizedAutoencoder",
    "ResidualAutoencoder",
    "ResidualVQVAE",
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
    "load",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import narrows` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'narrows' has no attribute '{name}'")
    # The models register themselves, so that `load` and `MODELS` always know all of them.
    models, base = import_module("narrows.models"), import_module("narrows.base")
    globals().update({key: vars(models).get(key) or vars(base)[key] for key in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
