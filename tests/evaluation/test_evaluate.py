from importlib import import_module
from math import log

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA

from narrows import VAE, Autoencoder, LinearAutoencoder
from narrows.errors import DataError
from narrows.evaluation import baseline, evaluate
from narrows.evaluation.baseline import PrincipalComponents
from narrows.evaluation.evaluate import take

QUICK = {"epochs": 2, "verbose": 0, "threads": 1}
RNG = np.random.default_rng(0)
TABLE = load_breast_cancer().data[:200, :10]
DIGITS = np.rint(load_digits().images[:200] * 255 / 16).astype(np.uint8)


def split(model, n):
    return {"train": np.setdiff1d(np.arange(n), model.held_out_), "test": model.held_out_}


def by_hand(train, test, k):
    """PCA on standardised columns, back in the data's units."""
    mean, scale = train.mean(0), train.std(0)
    pca = PCA(k).fit((train - mean) / scale)
    return pca.inverse_transform(pca.transform((test - mean) / scale)) * scale + mean


def test_pca_is_scikit_learns_on_the_training_rows():
    model = Autoencoder(latent_dim=3, **QUICK).fit(TABLE)
    rows = split(model, len(TABLE))
    found = evaluate(model, TABLE, **rows)
    train, test = TABLE[rows["train"]], TABLE[rows["test"]]
    expected = by_hand(train, test, 3)
    assert found.metrics["pca"]["mse"] == pytest.approx(((expected - test) ** 2).mean(), rel=1e-4)
    residual, spread = (test - expected) / train.std(0), (test - test.mean(0)) / train.std(0)
    unexplained = (residual**2).sum() / (spread**2).sum()
    assert found.metrics["pca"]["explained_variance"] == pytest.approx(1 - unexplained, rel=1e-4)
    np.testing.assert_allclose(found.errors["pca"], (residual**2).mean(1), rtol=1e-3)
    own = ((model.reconstruct(test) - test) ** 2).mean()
    assert found.metrics["model"]["mse"] == pytest.approx(own, rel=1e-4)
    assert (found.train, found.test, found.dimensions) == (180, 20, 3)
    assert found.held_out
    assert "psnr" not in found.metrics["model"]


@pytest.mark.parametrize(
    "X", [TABLE, DIGITS, TABLE.mean(0) < TABLE], ids=["table", "images", "booleans"]
)
def test_a_model_that_is_pca_scores_as_pca(X):
    """Fairness: the same map gets the same numbers, also where images are rounded."""
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(10)]) if X.dtype == bool else X
    model = LinearAutoencoder(latent_dim=4, **QUICK).fit(frame)
    rows = split(model, len(X))
    x = model.modality_.encode(model.modality_.read(take(frame, rows["train"]), "model"))[0]
    pca = PCA(4).fit(x.flatten(1).numpy().astype(np.float64))
    encoder, decoder = (
        next(m for m in part.modules() if isinstance(m, torch.nn.Linear))
        for part in (model.net_.encoder, model.net_.decoder)
    )
    with torch.no_grad():
        components = torch.from_numpy(pca.components_).float()
        mean = torch.from_numpy(pca.mean_).float()
        encoder.weight.copy_(components)
        encoder.bias.copy_(-components @ mean)
        decoder.weight.copy_(components.T)
        decoder.bias.copy_(mean)
    found = evaluate(model, frame, **rows).metrics
    assert found["model"] == pytest.approx(found["pca"], rel=1e-3)


def test_log_likelihood_is_exact_and_in_the_users_units():
    model = VAE(latent_dim=2, **QUICK).fit(TABLE)
    rows = split(model, len(TABLE))
    found = evaluate(model, TABLE, **rows).metrics
    train, test = TABLE[rows["train"]], TABLE[rows["test"]]
    mean, scale = train.mean(0), train.std(0)
    pca = PCA(2).fit((train - mean) / scale)
    expected = pca.score((test - mean) / scale) - np.log(scale).sum()
    assert found["pca"]["log_likelihood"] == pytest.approx(expected, rel=1e-4)
    assert found["model"]["log_likelihood"] == pytest.approx(model.score(test))


def test_log_likelihood_follows_the_units():
    """Metres for kilometres: each of 10 values costs log 1000 nats more, for both alike."""
    found = []
    for unit in (1.0, 1000.0):
        X = TABLE * unit
        model = VAE(latent_dim=2, **QUICK).fit(X)
        found.append(evaluate(model, X, **split(model, len(X))).metrics)
    for key in ("model", "pca"):
        change = found[1][key]["log_likelihood"] - found[0][key]["log_likelihood"]
        assert change == pytest.approx(-10 * log(1000), abs=0.02)
        assert found[1][key]["explained_variance"] == pytest.approx(
            found[0][key]["explained_variance"], abs=1e-3
        )


@pytest.mark.parametrize(
    "model",
    [Autoencoder(), VAE(likelihood="bernoulli"), VAE(score_draws=0)],
    ids=["point code", "no density", "no bound"],
)
def test_log_likelihood_only_where_it_can_be_compared(model):
    model.set_params(**QUICK).fit(TABLE)
    for scores in evaluate(model, TABLE, **split(model, len(TABLE))).metrics.values():
        assert "log_likelihood" not in scores


@pytest.mark.parametrize("likelihood", ["poisson", "categorical"])
def test_probabilities_are_not_compared_with_densities(likelihood):
    """The errors are: both reconstructions are counts, PCA's of their logs."""
    X = np.random.default_rng(0).poisson(4, (90, 3)).astype(float)
    model = VAE(likelihood=likelihood, latent_dim=3, **QUICK).fit(X)
    found = evaluate(model, X, **split(model, len(X))).metrics
    assert "log_likelihood" not in found["model"] | found["pca"]
    assert found["pca"]["mse"] < 1e-9  # as many dimensions as columns
    assert found["model"]["mse"] == pytest.approx(
        ((model.reconstruct(X) - X)[model.held_out_] ** 2).mean()
    )


def test_density_is_probabilistic_pcas():
    x = (RNG.standard_normal((80, 6)) @ RNG.standard_normal((6, 6))).astype(np.float32)
    for k in (1, 3, 5):
        expected = PCA(k).fit(x.astype(np.float64)).score_samples(x.astype(np.float64))
        np.testing.assert_allclose(
            PrincipalComponents.fit(x, k).log_likelihood(x), expected, rtol=1e-4
        )


def test_density_of_observed_values_is_the_marginal(monkeypatch):
    monkeypatch.setattr(baseline, "BLOCK", 3)
    x = RNG.standard_normal((80, 5)).astype(np.float32)
    pca = PrincipalComponents.fit(x, 2)
    mask = (RNG.random((8, 5)) > 0.3).astype(np.float32)
    mask[0], mask[1] = 0, 1
    loadings = pca.components.T * np.sqrt(pca.variances - pca.noise)
    covariance = loadings @ loadings.T + pca.noise * np.eye(5)
    found = pca.log_likelihood(np.where(mask > 0, x[:8], 0), mask)
    for i, seen in enumerate(mask > 0):
        expected = 0.0
        if seen.any():
            normal = multivariate_normal(pca.mean[seen], covariance[np.ix_(seen, seen)])
            expected = normal.logpdf(x[i, seen])
        assert found[i] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_missing_cells_do_not_count():
    X = pd.DataFrame(TABLE, columns=[f"c{i}" for i in range(10)])
    X = X.mask(RNG.random(X.shape) < 0.2).assign(constant=1.0)
    X.index = [f"row {i}" for i in range(len(X))]
    model = VAE(latent_dim=2, **QUICK).fit(X)
    rows = split(model, len(X))
    found = evaluate(model, X, **rows)
    test = X.iloc[rows["test"]]
    squares = (model.reconstruct(test) - test).to_numpy() ** 2
    assert found.metrics["model"]["mse"] == pytest.approx(np.nanmean(squares), rel=1e-6)
    assert np.isfinite(list(found.metrics["pca"].values())).all()


def test_images_have_a_signal_to_noise_ratio():
    model = VAE(latent_dim=3, **QUICK).fit(DIGITS)
    found = evaluate(model, DIGITS, **split(model, len(DIGITS)))
    for scores in found.metrics.values():
        assert scores["psnr"] == pytest.approx(10 * np.log10(255**2 / scores["mse"]))
    scores = found.metrics["pca"]
    assert scores["mse"] == pytest.approx(found.errors["pca"].mean())
    reals = (DIGITS / 255.0).astype(np.float32) * 4 - 1
    model = VAE(latent_dim=3, modality="image", **QUICK).fit(reals)
    scores = evaluate(model, reals, **split(model, len(reals))).metrics["model"]
    assert scores["psnr"] == pytest.approx(10 * np.log10(16 / scores["mse"]), rel=1e-5)
    assert not found.columns


def test_a_code_wider_than_the_data_makes_pca_exact():
    model = VAE(latent_dim=30, **QUICK).fit(TABLE)
    found = evaluate(model, TABLE, **split(model, len(TABLE)))
    assert found.dimensions == 10
    assert found.metrics["pca"]["explained_variance"] == pytest.approx(1)
    assert np.isfinite(found.metrics["pca"]["log_likelihood"])


@pytest.mark.parametrize("X", [DIGITS[:2], TABLE[:2], DIGITS[:1]], ids=["images", "rows", "one"])
def test_hardly_any_samples(X):
    model = VAE(**QUICK).fit(X)
    rows = np.arange(len(X))
    found = evaluate(model, X, train=rows, test=rows)
    assert not found.held_out
    assert sum(len(some.rows) for some in found.examples.values()) == len(X)
    assert found.points.shape == (len(X), 2)


def test_examples_are_sorted_and_shown_once():
    model = VAE(latent_dim=2, **QUICK).fit(DIGITS)
    found = evaluate(model, DIGITS, **split(model, len(DIGITS)))
    assert list(found.examples) == ["best", "median", "worst"]
    rows = np.concatenate([some.rows for some in found.examples.values()])
    assert len(set(rows.tolist())) == len(rows) == 12
    assert set(rows.tolist()) <= set(model.held_out_.tolist())
    best, worst = found.examples["best"], found.examples["worst"]
    assert best.errors["model"].max() < worst.errors["model"].min()
    assert best.errors["model"][0] == found.errors["model"].min()
    assert worst.errors["model"][-1] == found.errors["model"].max()
    np.testing.assert_array_equal(best.original[:, 0], DIGITS[best.rows])
    np.testing.assert_array_equal(worst.model[:, 0], model.reconstruct(DIGITS[worst.rows]))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_map_is_the_plane_of_most_variance(size):
    model = VAE(latent_dim=size, **QUICK).fit(TABLE)
    found = evaluate(model, TABLE, **split(model, len(TABLE)))
    assert sorted(found.rows.tolist()) == list(range(len(TABLE)))
    codes = model.transform(TABLE[found.rows])
    np.testing.assert_allclose(found.codes, codes, atol=1e-5)
    if size <= 2:
        np.testing.assert_allclose(found.points[:, :size], codes, atol=1e-5)
        assert found.share == 1
    else:
        pca = PCA(2).fit(codes)
        np.testing.assert_allclose(np.abs(found.points), np.abs(pca.transform(codes)), atol=1e-3)
        assert found.share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-4)


@pytest.mark.parametrize(
    "kind", [pa.table, pl.DataFrame, pd.DataFrame], ids=["pyarrow", "polars", "pandas"]
)
def test_frames_of_any_kind_agree(kind):
    names = [f"c{i}" for i in range(10)]
    X = kind(dict(zip(names, TABLE.T, strict=True)))
    model = VAE(latent_dim=2, **QUICK).fit(X)
    found = evaluate(model, X, **split(model, len(TABLE)))
    array = VAE(latent_dim=2, **QUICK).fit(TABLE)
    expected = evaluate(array, TABLE, **split(array, len(TABLE)))
    for key, scores in expected.metrics.items():
        assert found.metrics[key] == pytest.approx(scores, rel=1e-4)


def test_many_rows_are_capped_but_all_test_rows_count(monkeypatch):
    monkeypatch.setattr(baseline, "ROWS", 50)
    monkeypatch.setattr(import_module("narrows.evaluation.evaluate"), "POINTS", 30)
    model = VAE(latent_dim=2, **QUICK).fit(TABLE)
    found = evaluate(model, TABLE, **split(model, len(TABLE)))
    assert (found.train, found.fitted, found.test) == (180, 50, 20)
    assert len(found.rows) == len(found.points) == 30
    assert set(found.rows[:20].tolist()) == set(model.held_out_.tolist())


def test_no_rows_are_refused():
    model = VAE(**QUICK).fit(TABLE)
    with pytest.raises(DataError, match="'test' names no rows"):
        evaluate(model, TABLE, train=[0, 1], test=[])
