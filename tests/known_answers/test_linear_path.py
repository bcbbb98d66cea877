"""A linear path starts at PCA: the same errors, subspace and density, before any learning."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA

import narrows
from narrows.assembly import takes_linear_path
from narrows.data.sources import InMemory
from narrows.errors import ParameterError
from narrows.evaluation.baseline import PrincipalComponents
from narrows.parts import principal
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.parts.principal import LinearPath, principal_components

STILL = {"linear_path": True, "learning_rate": 1e-30, "epochs": 1, "validation": 0.0}
DIGITS = load_digits().data


def pca_error(X, k):
    pca = PCA(k).fit(X)
    return np.mean((X - pca.inverse_transform(pca.transform(X))) ** 2)


def paths(model):
    return [m for m in model.net_.modules() if isinstance(m, LinearPath)]


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"hidden": ()}, {"batch_norm": True}])
def test_a_table_starts_at_the_reconstruction_of_pca(options, cancer):
    model = narrows.Autoencoder(latent_dim=4, **STILL | options).fit(cancer)
    pca = PCA(4).fit(cancer)
    best = pca.inverse_transform(pca.transform(cancer))
    np.testing.assert_allclose(model.reconstruct(cancer), best, atol=2e-4)
    np.testing.assert_allclose(model.transform(cancer).std(0), 1, rtol=1e-3)
    outward = paths(model)[1].weight.double().numpy()
    assert np.degrees(subspace_angles(outward, pca.components_.T)[0]) < 0.1


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_images_start_at_the_reconstruction_of_pca(architecture):
    X = load_digits().images
    options = STILL | {"architecture": architecture, "modality": "image"}
    model = narrows.Autoencoder(latent_dim=6, **options).fit(X)
    found = np.mean((model.reconstruct(X) - X) ** 2)
    assert found == pytest.approx(pca_error(X.reshape(len(X), -1), 6), rel=1e-3)


def test_a_vae_starts_at_the_likelihood_of_probabilistic_pca():
    """The bound is tight there: the posterior is exact (Tipping & Bishop, 1999)."""
    X = load_wine().data
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    options = {"scaling": "none", "score_draws": 400}
    expected = PrincipalComponents.fit(X, 3)
    variance = float((X.var(0).sum() - np.var(PCA(3).fit_transform(X), axis=0).sum()) / (13 - 3))
    model = narrows.VAE(latent_dim=3, scale=variance**0.5, **STILL | options).fit(X)
    score = expected.log_likelihood(X)
    assert model.score(X) == pytest.approx(score.mean(), abs=0.05)
    assert np.abs(model.score_samples(X) - score).max() < 1
    assert model.score(X) <= score.mean() + 0.05


@pytest.mark.parametrize("cls", [narrows.Autoencoder, narrows.DenoisingAutoencoder, narrows.VAE])
def test_training_ends_below_the_error_of_pca(cls):
    X = DIGITS[:400]
    X = X[:, X.std(0) > 0]
    X = (X - X.mean(0)) / X.std(0)
    model = cls(latent_dim=6, linear_path=True, epochs=15, validation=0.0).fit(X)
    assert np.mean((model.reconstruct(X) - X) ** 2) < pca_error(X, 6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "laplace", "negative_binomial"])
def test_other_likelihoods_start_better_than_at_random(likelihood):
    X = DIGITS[:300] / (16 if likelihood == "bernoulli" else 1)
    options = {"latent_dim": 5, "likelihood": likelihood}
    with_path = narrows.Autoencoder(**STILL | options).fit(X)
    without = narrows.Autoencoder(**STILL | {"linear_path": False} | options).fit(X)
    assert with_path.history_[0]["nll"] < 0.9 * without.history_[0]["nll"]
    if likelihood == "bernoulli":
        assert np.mean((with_path.reconstruct(X) - X) ** 2) < 1.01 * pca_error(X, 5)


def test_the_fit_of_a_generalised_linear_model_has_no_gradient_left():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(200, 7, generator=generator) < 0.3).float()
    code = torch.randn(200, 2, generator=generator)
    path, likelihood = LinearPath((2,), (7,)), LIKELIHOODS["bernoulli"]()
    batch = InMemory(x).take(torch.arange(200))
    principal._fit(path, likelihood, code, batch)
    weight, bias = path.weight.clone().requires_grad_(), path.bias
    out = code @ weight.T + bias
    cost = likelihood.nll(out, x).mean() + weight.square().sum() / 400
    gradients = torch.autograd.grad(cost, [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 1e-3


def test_components_are_those_of_pca(cancer):
    x = torch.tensor(cancer)
    found, pca = principal_components(x, 5), PCA(5).fit(cancer)
    n = len(cancer)
    np.testing.assert_allclose(found.variances, pca.explained_variance_ * (n - 1) / n, rtol=1e-6)
    np.testing.assert_allclose(found.directions.abs(), np.abs(pca.components_), atol=1e-6)
    assert float(found.noise) == pytest.approx(pca.noise_variance_ * (n - 1) / n, rel=1e-6)


def test_weights_count_as_repetitions(cancer):
    x, counts = torch.tensor(cancer[:60]), torch.arange(60) % 3
    found = principal_components(x, 3, counts.double())
    repeated = principal_components(x.repeat_interleave(counts, 0), 3)
    for one, other in zip(found, repeated, strict=True):
        torch.testing.assert_close(one.abs(), other.abs())


def test_random_projections_find_the_same_components(monkeypatch):
    x = torch.from_numpy(DIGITS).float() - 5
    exact = principal_components(x, 6)
    monkeypatch.setattr(principal, "DENSE", 10)
    torch.manual_seed(0)
    found = principal_components(x, 6)
    torch.testing.assert_close(found.variances, exact.variances, rtol=1e-3, atol=0)
    angles = subspace_angles(found.directions.T.numpy(), exact.directions.T.numpy())
    assert np.degrees(angles[0]) < 1
    torch.testing.assert_close(found.noise, exact.noise, rtol=1e-3, atol=0)


def test_directions_beyond_the_rank_are_left_out():
    x = torch.outer(torch.linspace(-1, 1, 20), torch.tensor([3.0, 4.0, 0.0]))
    found = principal_components(x, 5)
    torch.testing.assert_close(found.directions[0].abs(), torch.tensor([0.6, 0.8, 0.0]))
    assert not found.directions[1:].any()
    assert not found.variances[1:].any()
    assert float(found.noise) == pytest.approx(1e-6)


def test_an_even_choice_of_many_samples_is_enough(monkeypatch):
    x = torch.from_numpy(DIGITS).float()
    whole = principal_components(x, 4)
    monkeypatch.setattr(principal, "CELLS", 600 * x.shape[1])
    some = principal_components(x, 4)
    angles = subspace_angles(whole.directions.T.numpy(), some.directions.T.numpy())
    assert 0 < np.degrees(angles[0]) < 15


def test_the_path_stays_where_it_started_and_the_networks_start_at_zero(cancer):
    start = narrows.Autoencoder(latent_dim=3, **STILL).fit(cancer)
    end = narrows.Autoencoder(
        latent_dim=3, linear_path=True, epochs=5, validation=0.0, weight_decay=3.0
    ).fit(cancer)
    for one, other in zip(paths(start), paths(end), strict=True):
        assert torch.equal(one.weight, other.weight)
    batch = InMemory(torch.tensor(cancer).float()).take(torch.arange(9))
    with torch.no_grad():
        assert start.net_.encoder.encoder(batch).abs().max() < 1e-20
        assert start.net_.decoder.decoder(torch.ones(2, 3)).abs().max() < 1e-20
        assert end.net_.encoder.encoder(batch).abs().max() > 1e-3


def test_missing_cells_and_weights_work(cancer):
    X = cancer.copy()
    X[::7, 2] = np.nan
    model = narrows.VAE(latent_dim=3, linear_path=True, epochs=5, modality="table")
    model.fit(X, sample_weight=np.linspace(0.5, 2, len(X)))
    assert np.isfinite(model.reconstruct(X)).all()


def test_more_units_than_columns(wine):
    model = narrows.Autoencoder(latent_dim=20, **STILL).fit(wine)
    np.testing.assert_allclose(model.reconstruct(wine), wine, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("cls", "options", "sentence"),
    [
        ("Autoencoder", {"code_activation": "relu"}, "continuous, without an activation"),
        ("VQVAE", {}, "continuous, without an activation"),
        ("SphericalVAE", {}, "continuous, without an activation"),
        ("LinearAutoencoder", {}, "no effect with architecture='linear'"),
        ("RegularizedAutoencoder", {}, "fixed weights, which cannot be held"),
    ],
)
def test_where_it_means_nothing_a_sentence_refuses_it(cls, options, sentence, wine):
    model = getattr(narrows, cls)(linear_path=True, epochs=1, **options)
    with pytest.raises(ParameterError, match=rf"'linear_path' parameter .*{sentence}"):
        model.fit(wine)


def test_who_could_take_it(wine):
    fields = {"latent_dim": 2, "epochs": 1}
    assert takes_linear_path(narrows.VAE(**fields).fit(wine))
    assert not takes_linear_path(narrows.VAE(linear_path=True, **fields).fit(wine))
    assert not takes_linear_path(narrows.LinearAutoencoder(**fields).fit(wine))
    assert not takes_linear_path(narrows.Autoencoder(code_activation="relu", **fields).fit(wine))
    assert not takes_linear_path(narrows.RegularizedAutoencoder(**fields).fit(wine))
    assert not takes_linear_path(narrows.StackedAutoencoder(**fields).fit(wine))
