"""An overcomplete autoencoder learns the identity, unless a regulariser keeps it from doing so."""

from functools import cache

import numpy as np
import pytest

import narrows

CODE = 18
SHAPE = {
    "linear": {"hidden": (), "weight_decay": 0.0},
    "mlp": {"hidden": (32,), "weight_decay": 0.0},
}


def error(cls, **fields):
    """Share of the variance of unseen rows that the reconstruction misses.

    The rows have no structure: six independent normals.
    """
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(1000, 6)), rng.normal(size=(500, 6))
    options = {"latent_dim": CODE, "epochs": 30, "batch_size": 50, "learning_rate": 1e-2}
    options |= {"scale": 1.0, "validation": 0.0, "scaling": "none", "verbose": 0}
    model = cls(**options | fields).fit(train)
    return float(np.mean((model.reconstruct(test) - test) ** 2) / test.var())


@pytest.mark.parametrize("shape", SHAPE)
def test_without_a_regulariser_it_is_learned(shape):
    assert error(narrows.Autoencoder, **SHAPE[shape]) < 0.01


# Tied weights, or a price of their own, where a small code and a large decoder would evade one.
PREVENTED = {
    "l1": (narrows.SparseAutoencoder, {"sparsity": 0.5, "tied": True}),
    "kl_sparsity": (
        narrows.SparseAutoencoder,
        {"sparsity": 1.0, "rho": 0.02, "code_activation": "sigmoid", "tied": True},
    ),
    "contractive": (narrows.ContractiveAutoencoder, {"contraction": 0.5, "tied": True}),
    "denoising": (narrows.DenoisingAutoencoder, {"noise": 0.7}),
    "dropout": (narrows.Autoencoder, {"code_dropout": 0.5}),
    "weight decay": (narrows.Autoencoder, {"weight_decay": 3.0}),
    "decoder weights": (
        narrows.RegularizedAutoencoder,
        {"code_penalty": 0.3, "decoder_penalty": 0.3},
    ),
    "gradient penalty": (
        narrows.RegularizedAutoencoder,
        {"regularizer": "gradient_penalty", "code_penalty": 0.5, "decoder_penalty": 0.5},
    ),
    "spectral norm": (
        narrows.RegularizedAutoencoder,
        {"regularizer": "spectral_norm", "code_penalty": 0.5},
    ),
    "top-k": (
        narrows.ComposedAutoencoder,
        {"code": "topk", "code_options": {"k": 2}},
    ),
    "kl": (narrows.VAE, {"scale": 0.5}),
    "bottleneck": (narrows.Autoencoder, {"latent_dim": 3}),
}
CASES = [(shape, name) for shape in SHAPE for name in PREVENTED]


@cache
def regularised(shape, name):
    cls, fields = PREVENTED[name]
    return error(cls, **SHAPE[shape] | fields)


@pytest.mark.wide
@pytest.mark.parametrize(("shape", "name"), CASES)
def test_a_regulariser_prevents_it_and_still_lets_it_learn(shape, name):
    assert 0.04 < regularised(shape, name) < 0.8


# With a scale of 1 each of the six axes minimises ½ E(x - w x)² and its price. Denoising:
# w = 1 / (1 + noise²). Contraction c with tied weights a, w = a²: the price is c a². A code that
# costs ½ c a² and a decoder that costs ½ d b², w = a b, cost at least sqrt(c d) w together.
SHRUNK = {
    "denoising": (0.49 / 1.49) ** 2,
    "contractive": 0.5**2,
    "decoder weights": 0.3 * 0.3,
    "gradient penalty": 0.5 * 0.5,
}


@pytest.mark.parametrize("name", SHRUNK)
def test_a_linear_map_shrinks_by_what_its_price_tells(name):
    assert regularised("linear", name) == pytest.approx(SHRUNK[name], rel=0.1)
