"""An ensemble: its answers are the mean of its members', with the spread over them."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import narrows
from narrows import Ensemble

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 3, "batch_size": 32, "compile": False}


@pytest.fixture(scope="module")
def fitted(wine):
    """Three VAEs of wines."""
    return Ensemble(narrows.VAE(seed=5, **SMALL), n_estimators=3).fit(wine)


def test_members_are_models_of_consecutive_seeds(fitted, wine):
    assert [member.seed for member in fitted.members_] == [5, 6, 7]
    own = narrows.VAE(**SMALL | {"seed": 6}).fit(wine)
    np.testing.assert_allclose(
        fitted.members_[1].transform(wine), own.transform(wine), rtol=1e-4, atol=1e-5
    )


def test_answers_are_means_with_their_spread(fitted, wine):
    scores = np.stack([member.score_samples(wine) for member in fitted.members_])
    mean, std = fitted.score_samples(wine, return_std=True)
    np.testing.assert_allclose(mean, scores.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, scores.std(0), rtol=1e-6)
    assert fitted.score(wine) == pytest.approx(scores.mean())
    made = np.stack([member.reconstruct(wine) for member in fitted.members_])
    mean, std = fitted.reconstruct(wine, return_std=True)
    np.testing.assert_allclose(mean, made.mean(0))
    np.testing.assert_allclose(std, made.std(0))
    assert mean.dtype == made.dtype
    np.testing.assert_array_equal(fitted.reconstruct(wine), mean)


def test_codes_stand_side_by_side(fitted, wine):
    codes = fitted.transform(wine)
    assert codes.shape == (178, 6)
    np.testing.assert_array_equal(codes[:, 2:4], fitted.members_[1].transform(wine))
    assert len(fitted.get_feature_names_out()) == 6


def test_a_folder_keeps_all_of_it(fitted, wine, tmp_path):
    fitted.save(tmp_path / "ensemble")
    loaded = narrows.load(tmp_path / "ensemble")
    assert repr(loaded) == repr(fitted)
    np.testing.assert_array_equal(loaded.score_samples(wine), fitted.score_samples(wine))


def test_pixels_stay_pixels(images):
    ensemble = Ensemble(narrows.Autoencoder(**SMALL, architecture="mlp"), n_estimators=2)
    made = ensemble.fit(images).reconstruct(images)
    assert made.dtype == np.uint8
    exact = np.mean([member.reconstruct(images) for member in ensemble.members_], axis=0)
    assert np.abs(made - exact).max() <= 0.5


def test_it_is_scikit_learns(wine):
    ensemble = Ensemble(narrows.VAE(**SMALL), n_estimators=2)
    assert clone(ensemble).get_params()["estimator__latent_dim"] == 2
    split = np.arange(89), np.arange(89, 178)
    grid = {"estimator__beta": [1.0, 1000.0]}
    search = GridSearchCV(ensemble, grid, cv=[split], refit=False).fit(wine)
    one, other = search.cv_results_["mean_test_score"]
    assert np.isfinite([one, other]).all()
    assert one != other


@pytest.mark.slow
@parametrize_with_checks([Ensemble(narrows.Autoencoder(**SMALL), n_estimators=2)])
def test_battery(estimator, check):
    check(estimator)


def test_what_it_cannot_do_is_told(wine):
    with pytest.raises(narrows.errors.ParameterError, match="'estimator' parameter of Ensemble"):
        Ensemble("vae").fit(wine)
    with pytest.raises(narrows.errors.ParameterError, match=r"must be an int ≥ 1\. Got 0"):
        Ensemble(narrows.VAE(), n_estimators=0).fit(wine)
    with pytest.raises(NotFittedError):
        Ensemble(narrows.VAE()).transform(wine)
    texts = ["narrows", "straits", "sounds", "channels"] * 8
    ensemble = Ensemble(narrows.Autoencoder(modality="text", epochs=1, latent_dim=2), 2)
    with pytest.raises(narrows.errors.DataTypeError, match=r"a list has none\. Ask each"):
        ensemble.fit(texts).reconstruct(texts)
