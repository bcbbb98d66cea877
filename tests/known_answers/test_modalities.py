"""Modalities go there and back without loss; scalings are what they are called."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pandas.testing import assert_frame_equal

from narrows.data.modalities import Image, Modality, Table, modality_of
from narrows.density import Mixture

RANGES = ["standard", "robust", "unit", "symmetric", "none"]
anywhere = settings(max_examples=60, deadline=None)
numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
tables = arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=numbers)


def learned(X, target, name="table"):
    form = modality_of(X, name)
    array = form.read(X, "test")
    return form.learn(array, target), array


def close(found, X, modality=None):
    """Equal within the accuracy of float32 at the column's size, or the size of its scale."""
    size = np.nanmax(np.abs(X), 0, keepdims=True, initial=0, where=~np.isnan(X))
    if modality is not None:
        kept = list(modality.kept)
        size[:, kept] = np.maximum(size[:, kept], modality.scale)
    return np.nanmax(np.abs(found - X) / np.maximum(size, 1e-30), initial=0) < 1e-6


def quietly(X, target):
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Every column of X is constant")
        return learned(X, target)


@anywhere
@given(X=tables, target=st.sampled_from(RANGES))
def test_a_table_comes_back(X, target):
    modality, array = quietly(X, target)
    x, mask, _ = modality.encode(array)
    assert mask is None
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert close(modality.decode(x), X, modality)


@anywhere
@given(X=tables, target=st.sampled_from(RANGES), seed=st.integers(0, 100))
def test_observed_cells_come_back_and_missing_ones_are_masked(X, target, seed):
    holes = np.random.default_rng(seed).random(X.shape) < 0.3
    assume(not holes.all(0).any())
    X = np.where(holes, np.nan, X)
    modality, array = quietly(X, target)
    x, mask, _ = modality.encode(array)
    assert x.isfinite().all()
    found = modality.decode(x)
    assert close(np.where(holes, np.nan, found), X, modality)
    if mask is not None:
        np.testing.assert_array_equal(mask.numpy() == 0, holes[:, modality.kept])
        assert not x[mask == 0].any()


@pytest.mark.parametrize("target", ["standard", "none"])
def test_many_rows_go_through_in_parts(target):
    """Some 10 000 rows of 60 columns are scaled in several parts, as they would be at once."""
    rng = np.random.default_rng(0)
    X = 1e5 + 3 * rng.standard_normal((10_007, 60)).astype(np.float32)
    X[:, [0, 17, 59]] = 7.0
    form, array = learned(X, target)
    kept = np.setdiff1d(np.arange(60), [0, 17, 59])
    assert form.kept == tuple(kept)
    if target == "standard":
        wide = X[:, kept].astype(np.float64)
        np.testing.assert_allclose(form.center, wide.mean(0), rtol=1e-12)
        np.testing.assert_allclose(form.scale, wide.std(0), rtol=1e-9)
        x = (wide - wide.mean(0)) / wide.std(0)
        np.testing.assert_allclose(form.encode(array).x, x, atol=1e-6)
    assert close(form.decode(form.encode(array).x), X)
    missing = X.copy()
    missing[::3, 5] = np.nan
    missing[1::2, 6] = np.nan
    frame = pd.DataFrame(missing, columns=[f"c{i}" for i in range(60)])
    form, array = learned(frame, target)
    if target == "standard":
        wide = missing[:, kept].astype(np.float64)
        np.testing.assert_allclose(form.center, np.nanmean(wide, 0), rtol=1e-12)
        np.testing.assert_allclose(form.scale, np.nanstd(wide, 0), rtol=1e-9)


@anywhere
@given(
    X=tables,
    value=st.floats(-(2.0**20), 2.0**20, width=32),
    target=st.sampled_from(RANGES),
)
def test_a_constant_column_is_set_aside_and_put_back_exactly(X, value, target):
    X = np.column_stack([X, np.full(len(X), value)])
    assume(np.ptp(X[:, 0]) > 1e-3)
    modality, array = learned(X, target)
    assert X.shape[1] - 1 not in modality.kept
    x, *_ = modality.encode(array)
    assert x.shape == (len(X), len(modality.kept))
    assert (modality.decode(10 * torch.randn_like(x))[:, -1] == np.float32(value)).all()


@anywhere
@given(
    whole=arrays(np.int64, st.integers(2, 30), elements=st.integers(-(2**22), 2**22)),
    target=st.sampled_from(RANGES),
    seed=st.integers(0, 100),
)
def test_integers_and_flags_of_a_frame_come_back_exactly(whole, target, seed):
    assume(np.ptp(whole) > 0)
    flags = np.random.default_rng(seed).random(len(whole)) < 0.5
    X = pd.DataFrame({"whole": whole, "flag": flags, "small": (whole % 100).astype(np.int8)})
    modality, array = learned(X, target)
    assert_frame_equal(modality.decode(modality.encode(array)[0], like=X), X)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(9, 5, 7), (9, 5, 7, 3), (9, 3, 5, 7), (9, 5, 7, 1)])
@pytest.mark.parametrize("target", RANGES)
def test_images_come_back(shape, dtype, target):
    X = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    modality, array = learned(X, target, "image")
    x, mask, _ = modality.encode(array)
    assert mask is None
    found = modality.decode(x)
    assert found.dtype == dtype
    assert found.shape == X.shape
    if dtype == np.float32:
        np.testing.assert_allclose(found, X, atol=1e-4)
    else:
        np.testing.assert_array_equal(found, X)


def test_images_whose_channels_may_come_first_or_last_are_refused():
    with pytest.raises(ValueError, match=r"\(9, 3, 5, 4\), whose channels may come first or last"):
        Image.describe(np.zeros((9, 3, 5, 4), np.uint8))


@pytest.mark.parametrize("kind", ["array", "frame", "image"])
def test_a_modality_survives_json(kind):
    import json

    X = np.random.default_rng(0).random((6, 4))
    if kind == "frame":
        X = pd.DataFrame(X, columns=list("abcd")).assign(e=range(6))
    elif kind == "image":
        X = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3)).astype(np.uint8)
    modality, _ = learned(X, "standard", "image" if kind == "image" else "auto")
    assert Modality.restore(json.loads(json.dumps(modality.state()))) == modality


# -- scalings ---------------------------------------------------------------------------------


@pytest.fixture
def x(wine):
    return lambda target: learned(wine, target)[0].encode(wine)[0].double().numpy()


def test_standard_has_mean_0_and_variance_1(x):
    np.testing.assert_allclose(x("standard").mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x("standard").std(0), 1, rtol=1e-6)


def test_robust_has_median_0_and_the_quartiles_of_a_normal(x):
    low, median, high = np.quantile(x("robust"), [0.25, 0.5, 0.75], 0)
    np.testing.assert_allclose(median, 0, atol=1e-6)
    np.testing.assert_allclose(high - low, 1.349, rtol=1e-5)


def test_robust_is_not_moved_by_outliers(wine):
    X = wine.copy()
    X[0] = 1e6
    before, after = learned(wine, "robust")[0], learned(X, "robust")[0]
    np.testing.assert_allclose(after.center, before.center, rtol=0.05)


def test_unit_and_symmetric_have_their_ends(x):
    np.testing.assert_allclose(
        [x("unit").min(0), x("unit").max(0)], [[0] * 13, [1] * 13], atol=1e-6
    )
    ends = [x("symmetric").min(0), x("symmetric").max(0)]
    np.testing.assert_allclose(ends, [[-1] * 13, [1] * 13], atol=1e-6)


def test_none_leaves_the_values(x, wine):
    np.testing.assert_allclose(x("none"), wine, rtol=1e-6)


def test_pixels_in_the_unit_range_have_that_range_and_bytes_theirs():
    grey = np.linspace(0.2, 0.7, 48, dtype=np.float32).reshape(3, 4, 4)
    assert learned(grey, "unit", "image")[0].scale == (1.0,)
    assert learned((grey * 255).astype(np.uint8), "unit", "image")[0].scale == (255.0,)
    assert learned(grey * 100, "unit", "image")[0].scale == pytest.approx((50.0,))


def test_standard_pixels_have_one_scale_a_channel():
    X = np.random.default_rng(0).random((50, 5, 4, 3)) * [1, 10, 100]
    modality, array = learned(X.astype(np.float32), "standard", "image")
    x, *_ = modality.encode(array)
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 2, 3)), 1, rtol=1e-3)


def test_log_units_are_the_logs_of_the_scales(wine):
    modality, _ = learned(wine, "standard")
    np.testing.assert_allclose(modality.log_units, np.log(wine.std(0)), rtol=1e-5)


# -- which modality ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((5, 3), float, Table),
        ((5, 3), np.uint8, Table),
        ((5, 8, 8), np.uint8, Image),
        ((5, 8, 8, 3), float, Image),
        ((5, 3, 8, 8), float, Image),
        ((5, 1, 8, 8), np.uint8, Image),
        ((5, 8, 8, 4), np.uint8, Image),
    ],
)
def test_clear_data_name_their_modality(shape, dtype, kind):
    assert type(modality_of(np.zeros(shape, dtype))) is kind


@pytest.mark.parametrize(
    "shape", [(5, 8, 8), (5, 8, 8, 8), (5, 3, 8, 3), (5, 2, 3, 4, 5), (5, 1, 1, 1)]
)
def test_unclear_data_are_refused_with_what_to_say(shape):
    with pytest.raises(ValueError, match=r"more than one way. Say modality='image'"):
        modality_of(np.zeros(shape))


# -- densities over codes ---------------------------------------------------------------------


def test_a_mixture_recovers_a_known_mixture():
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.3, 0.2])
    means = np.array([[0.0, 0], [10, 0], [0, 10]])
    roots = np.array([[[1.0, 0], [0, 1]], [[2, 0], [1, 1]], [[0.5, 0], [0, 2]]])
    kind = rng.choice(3, 3000, p=weights)
    noise = rng.standard_normal((3000, 2))
    codes = (means[kind] + np.einsum("nij,nj->ni", roots[kind], noise)).astype(np.float32)
    mixture = Mixture.fit(codes, components=3)
    order = [int(np.argmin(((mixture.means - mean) ** 2).sum(1))) for mean in means]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(mixture.weights[order], weights, atol=0.03)
    np.testing.assert_allclose(mixture.means[order], means, atol=0.25)
    covariance = roots @ roots.transpose(0, 2, 1)
    found = mixture.roots[order] @ mixture.roots[order].transpose(0, 2, 1)
    np.testing.assert_allclose(found, covariance, atol=0.4)


def test_draws_from_a_mixture_have_its_moments():
    mixture = Mixture(
        np.array([0.25, 0.75]),
        np.array([[0.0, 0], [4, 8]]),
        np.array([np.eye(2), [[1.0, 0], [1, 1]]]),
    )
    draws = mixture.sample(100_000, seed=0)
    assert draws.dtype == np.float32
    np.testing.assert_allclose(draws.mean(0), [3, 6], atol=0.03)
    np.testing.assert_array_equal(draws[:50], mixture.sample(100_000, seed=0)[:50])
    second = draws[draws[:, 1] > 4]
    np.testing.assert_allclose(np.cov(second.T), [[1, 1], [1, 2]], atol=0.1)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_a_mixture_of_few_codes_is_finite(n):
    codes = np.random.default_rng(0).random((n, 6)).astype(np.float32)
    assert np.isfinite(Mixture.fit(codes).sample(10, seed=0)).all()


def test_a_mixture_of_equal_codes_stays_there():
    codes = np.full((50, 3), 2.0, np.float32)
    np.testing.assert_allclose(Mixture.fit(codes).sample(10, seed=0), 2.0, atol=0.1)
