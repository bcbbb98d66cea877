"""Linear models have closed forms: PCA's subspace, and probabilistic PCA's likelihood."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import narrows

RUN = {"scaling": "none", "validation": 0.0}


def decoder_weight(model):
    (weight,) = (p for p in model.net_.decoder.parameters() if p.ndim == 2)
    return weight.detach().double().numpy()


def error(X, reconstruction):
    return float(np.mean((X - reconstruction) ** 2))


@pytest.mark.parametrize("likelihood", ["optimal scale", "fixed scale"])
@pytest.mark.parametrize("k", [2, 5])
def test_a_linear_autoencoder_spans_the_subspace_of_pca(k, likelihood, cancer):
    """Baldi & Hornik (1989): no local minima but PCA's subspace."""
    scale, epochs = ("optimal", 100) if likelihood == "optimal scale" else (1.0, 250)
    model = narrows.LinearAutoencoder(
        latent_dim=k, epochs=epochs, learning_rate=0.01, scale=scale, **RUN
    ).fit(cancer)
    pca = PCA(k).fit(cancer)
    largest = np.degrees(subspace_angles(decoder_weight(model), pca.components_.T)[0])
    assert largest < 5
    best = error(cancer, pca.inverse_transform(pca.transform(cancer)))
    found = error(cancer, model.reconstruct(cancer))
    assert best * (1 - 1e-5) <= found < 1.01 * best  # nothing linear is better than PCA


def test_a_linear_autoencoder_has_the_error_of_pca_on_digits():
    X = load_digits().data
    X = X[:, X.std(0) > 0]
    model = narrows.LinearAutoencoder(latent_dim=8, epochs=60, learning_rate=0.01, **RUN).fit(X)
    pca = PCA(8).fit(X)
    best = error(X, pca.inverse_transform(pca.transform(X)))
    assert best < error(X, model.reconstruct(X)) < 1.01 * best


def test_tied_linear_layers_are_pca_too(cancer):
    model = narrows.Autoencoder(
        latent_dim=3, hidden=(), tied=True, epochs=100, learning_rate=0.01, weight_decay=0.0, **RUN
    ).fit(cancer)
    weight = model.net_.encoder[1].weight.detach().double().numpy()
    pca = PCA(3).fit(cancer)
    assert np.degrees(subspace_angles(weight.T, pca.components_.T)[0]) < 5
    np.testing.assert_allclose(weight @ weight.T, np.eye(3), atol=0.05)  # and orthonormal


@pytest.fixture(scope="module")
def linear_vae(cancer):
    return narrows.VAE(
        latent_dim=5,
        architecture="linear",
        epochs=250,
        learning_rate=0.02,
        weight_decay=0.0,
        score_draws=100,
        **RUN,
    ).fit(cancer)


def test_a_linear_vae_reaches_the_likelihood_of_probabilistic_pca(linear_vae, cancer):
    """Tipping & Bishop (1999) give it in closed form; Lucas et al. (2019): the ELBO is tight."""
    closed_form = PCA(5).fit(cancer).score(cancer)
    bound = linear_vae.score(cancer)
    assert bound <= closed_form + 0.02  # what the score's draws may add
    assert bound == pytest.approx(closed_form, rel=0.01)


def test_a_linear_vae_finds_the_noise_variance_of_probabilistic_pca(linear_vae, cancer):
    variance = float(linear_vae.net_.likelihood.log_scale.exp() ** 2)
    assert variance == pytest.approx(PCA(5).fit(cancer).noise_variance_, rel=0.03)


def test_a_linear_vae_spans_the_subspace_of_pca(linear_vae, cancer):
    angles = subspace_angles(decoder_weight(linear_vae), PCA(5).fit(cancer).components_.T)
    assert np.degrees(angles[0]) < 5


def test_the_score_is_in_the_units_of_the_user(wine):
    """A density: measuring a column in units c times smaller multiplies it by c."""
    factor = np.ones(13)
    factor[3], factor[7] = 1000.0, 0.01
    model = narrows.VAE(latent_dim=2, epochs=10)
    before = model.fit(wine).score_samples(wine)
    after = model.fit(wine * factor).score_samples(wine * factor)
    np.testing.assert_allclose(before - after, np.log(factor).sum(), rtol=1e-3)


@pytest.mark.parametrize("scaling", ["standard", "robust", "minmax"])
def test_the_score_of_a_fixed_gaussian_is_its_density(scaling, wine):
    """With a point code the score is log N(x; reconstruction, s² units²) of SciPy."""
    from scipy.stats import norm

    model = narrows.Autoencoder(latent_dim=2, epochs=5, scale=0.3, scaling=scaling).fit(wine)
    spread = 0.3 * np.array(model.modality_.scale)
    expected = norm.logpdf(wine, model.reconstruct(wine), spread).sum(1)
    np.testing.assert_allclose(model.score_samples(wine), expected, rtol=1e-4)


def test_the_score_of_images_is_in_the_units_of_their_pixels(images):
    from scipy.stats import norm

    model = narrows.Autoencoder(latent_dim=2, epochs=2, hidden=(4,), scale=0.3).fit(images)
    z = model.transform(images)
    x = model.net_.decode(torch.from_numpy(z)).detach().double().numpy()
    (scale,), (center,) = model.modality_.scale, model.modality_.center
    expected = norm.logpdf(images, x[:, 0] * scale + center, 0.3 * scale).sum((1, 2))
    np.testing.assert_allclose(model.score_samples(images), expected, rtol=1e-4)
