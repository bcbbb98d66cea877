import numpy as np
import pytest
from sklearn.metrics import explained_variance_score, mean_squared_error

from narrows.metrics import reconstruction
from narrows.metrics.reconstruction import (
    explained_variance,
    explained_variances,
    mse,
    psnr,
    sample_mse,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 3)) * [1, 10, 100]
R = X + RNG.standard_normal(X.shape)


def test_mse_is_the_mean_over_all_values():
    assert mse([[1, 2], [3, 4]], [[1, 0], [0, 4]]) == (4 + 9) / 4
    assert mse(X, R) == pytest.approx(mean_squared_error(X, R))
    np.testing.assert_allclose(sample_mse([[1, 2], [3, 4]], [[1, 0], [0, 4]]), [2, 4.5])


def test_bytes_do_not_wrap_around():
    black, white = np.zeros((2, 4, 4), np.uint8), np.full((2, 4, 4), 255, np.uint8)
    assert mse(black, white) == 255**2
    assert psnr(black, white, 255) == 0
    assert psnr(black, black, 255) == np.inf


def test_psnr_of_a_known_error():
    assert psnr([[0.0, 0.0]], [[0.1, 0.1]], 1.0) == pytest.approx(20)


def test_explained_variance_weighs_values_by_their_variance():
    centred = R - R.mean(0) + X.mean(0)  # scikit-learn's score forgives a constant error
    expected = explained_variance_score(X, centred, multioutput="variance_weighted")
    assert explained_variance(X, centred) == pytest.approx(expected)
    each = explained_variance_score(X, centred, multioutput="raw_values")
    np.testing.assert_allclose(explained_variances(X, centred), each)


def test_explained_variance_of_the_mean_is_zero():
    mean = np.broadcast_to(X.mean(0), X.shape)
    assert explained_variance(X, mean) == pytest.approx(0, abs=1e-12)
    assert explained_variance(X, X) == 1
    assert np.isnan(explained_variance(np.ones((3, 2)), np.ones((3, 2))))
    assert np.isnan(explained_variances([[1.0, 2.0], [1.0, 3.0]], [[1.0, 2.0], [1.0, 3.0]])[0])


def test_missing_values_do_not_count():
    holes, made = X.copy(), R.copy()
    holes[::2, 1] = np.nan
    made[::2, 1] = 1e9
    observed = ~np.isnan(holes)
    assert mse(holes, made) == pytest.approx(((X - R)[observed] ** 2).mean())
    spread = sum(
        np.square(column[~np.isnan(column)] - np.nanmean(column)).sum() for column in holes.T
    )
    expected = 1 - ((X - R)[observed] ** 2).sum() / spread
    assert explained_variance(holes, made) == pytest.approx(expected)
    holes[3] = np.nan
    assert np.isnan(sample_mse(holes, made)[3])
    assert np.isfinite(sample_mse(holes, made)).sum() == 49


def test_blocks_change_nothing(monkeypatch):
    whole = [mse(X, R), explained_variance(X, R), *sample_mse(X, R), *explained_variances(X, R)]
    monkeypatch.setattr(reconstruction, "BLOCK", 7)
    parts = [mse(X, R), explained_variance(X, R), *sample_mse(X, R), *explained_variances(X, R)]
    np.testing.assert_allclose(parts, whole)


def test_nothing_gives_nothing():
    empty = np.zeros((0, 3))
    assert sample_mse(empty, empty).shape == (0,)
    assert np.isnan(mse(empty, empty))
