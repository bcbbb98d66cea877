"""What goes in comes back in its own type, shape, units and dtype: images, frames, odd arrays."""

import hashlib
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from pandas.testing import assert_frame_equal

import narrows
from narrows.data.modalities import modality_of
from narrows.data.samples import load

TINY = {"latent_dim": 2, "epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def photos():
    """40 real colour patches of 33 × 47 pixels, ``(40, 33, 47, 3)`` uint8."""
    from sklearn.datasets import load_sample_image

    image = load_sample_image("china.jpg")
    windows = np.lib.stride_tricks.sliding_window_view(image, (33, 47), axis=(0, 1))
    return np.ascontiguousarray(windows[::60, ::80][:5, :8].transpose(0, 1, 3, 4, 2)).reshape(
        40, 33, 47, 3
    )


def forms(photos):
    """The same images in every form that is understood."""
    grey = np.ascontiguousarray(photos[..., 0])
    unit = (photos / np.float32(255)).astype(np.float32)
    return {
        "n h w uint8": grey,
        "n h w float32": unit[..., 0].copy(),
        "n h w c uint8": photos,
        "n h w c float32": unit,
        "n h w 1": grey[..., None].copy(),
        "n c h w uint8": np.ascontiguousarray(photos.transpose(0, 3, 1, 2)),
        "n c h w float32": np.ascontiguousarray(unit.transpose(0, 3, 1, 2)),
        "n c h w standardised": np.ascontiguousarray(unit.transpose(0, 3, 1, 2) * 8 - 3),
        "n 1 h w": grey[:, None].copy(),
        "n h w 4": np.concatenate([photos, photos[..., :1]], -1),
    }


FORMS = list(forms(np.zeros((1, 2, 2, 3), np.uint8)))


@pytest.mark.parametrize("form", FORMS)
def test_images_come_back_in_their_own_form(form, photos):
    X = forms(photos)[form]
    model = narrows.Autoencoder(hidden=(4,), modality="image", **TINY).fit(X)
    made = {
        "reconstruct": model.reconstruct(X),
        "inverse_transform": model.inverse_transform(model.transform(X)),
        "sample": model.sample(len(X)),
        "interpolate": model.interpolate(X[0], X[1], len(X)),
    }
    for name, images in made.items():
        assert images.shape == X.shape, name
        assert images.dtype == X.dtype, name
    ends = model.interpolate(X[:1], X[1:2], 3)
    np.testing.assert_allclose(ends[[0, 2]], made["reconstruct"][:2], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_images_are_never_written_into(form, photos):
    X = forms(photos)[form]
    digest = hashlib.sha256(X).hexdigest()
    model = narrows.VAE(hidden=(4,), modality="image", **TINY).fit(X)
    calls = {
        "fit": lambda: model.fit(X[:20], validation=X[20:]),
        "transform": lambda: model.transform(X),
        "reconstruct": lambda: model.reconstruct(X),
        "score_samples": lambda: model.score_samples(X),
        "interpolate": lambda: model.interpolate(X[0], X[1], 3),
        "partial_fit": lambda: model.partial_fit(X),
    }
    for name, call in calls.items():
        call()
        assert hashlib.sha256(X).hexdigest() == digest, name


@pytest.mark.parametrize("form", FORMS)
def test_read_only_images_work(form, photos):
    X = forms(photos)[form]
    X.flags.writeable = False
    model = narrows.VAE(hidden=(4,), modality="image", **TINY).fit(X)
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize(
    "form", ["n h w uint8", "n h w c uint8", "n c h w float32", "n h w c float32", "n 1 h w"]
)
def test_the_modality_of_clear_images_need_not_be_said(form, photos):
    X = forms(photos)[form]
    model = narrows.Autoencoder(hidden=(4,), **TINY).fit(X)
    said = narrows.Autoencoder(hidden=(4,), modality="image", **TINY).fit(X)
    np.testing.assert_array_equal(model.transform(X), said.transform(X))


def test_the_layout_of_the_channels_does_not_change_the_result(photos):
    last, first = forms(photos)["n h w c uint8"], forms(photos)["n c h w uint8"]
    model = narrows.Autoencoder(hidden=(4,), **TINY)
    np.testing.assert_array_equal(
        model.fit(last).transform(last), model.fit(first).transform(first)
    )


@pytest.mark.parametrize("downsampling", ["stride", "max", "average"])
@pytest.mark.parametrize("cls", [narrows.Autoencoder, narrows.VAE])
def test_conv_nets_take_odd_sizes(cls, downsampling, photos):
    model = cls(hidden=(4, 8, 8), downsampling=downsampling, **TINY).fit(photos)
    assert model.net_.decoder(torch.zeros(1, 2)).shape == (1, 3, 33, 47)
    assert model.reconstruct(photos).shape == photos.shape


def test_a_conv_net_learns_real_pictures():
    X = load("photos").X[::4]
    model = narrows.Autoencoder(hidden=(8, 16), latent_dim=16, epochs=15, learning_rate=0.01)
    model.fit(X)
    error = np.mean((model.reconstruct(X).astype(float) - X) ** 2)
    assert error < 0.5 * np.mean((X - X.mean(0)) ** 2)


# -- arrays -----------------------------------------------------------------------------------


@pytest.fixture
def reference(wine):
    return narrows.VAE(hidden=(8,), **TINY).fit(wine).transform(wine)


@pytest.mark.parametrize(
    "form",
    [
        lambda X: X.tolist(),
        np.asfortranarray,
        lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
        lambda X: np.repeat(X, 2, 1)[:, ::2],
        torch.tensor,
        lambda X: torch.tensor(X, requires_grad=True),
        lambda X: X.astype(object),
    ],
    ids=["lists", "fortran", "negative strides", "gaps", "tensor", "tensor with grad", "objects"],
)
def test_the_same_values_in_another_form_give_the_same_codes(form, wine, reference):
    X = form(wine)
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    np.testing.assert_array_equal(model.transform(X), reference)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_tensors_of_narrow_numbers_are_read(kind, wine):
    X = torch.tensor(wine / np.abs(wine).max(0)).to(kind)
    codes = narrows.VAE(hidden=(8,), **TINY).fit(X).transform(X)
    same = narrows.VAE(hidden=(8,), **TINY).fit(X.float()).transform(X.float())
    np.testing.assert_allclose(codes, same, atol=1e-6)


def test_a_read_only_memory_map_works(tmp_path, wine, reference):
    np.save(tmp_path / "wine.npy", wine)
    X = np.load(tmp_path / "wine.npy", mmap_mode="r")
    np.testing.assert_array_equal(narrows.VAE(hidden=(8,), **TINY).fit(X).transform(X), reference)


@pytest.mark.parametrize("form", ["read-only", "backwards", "by columns"])
def test_unscaled_tables_are_read_where_they_are(form, wine):
    """In float32 nothing need be copied; what torch cannot share is, without a warning."""
    X = wine.astype(np.float32)
    forms = {"read-only": X.copy(), "backwards": X[::-1].copy()[::-1], "by columns": X.copy("F")}
    forms["read-only"].flags.writeable = False
    model = narrows.Autoencoder(hidden=(4,), scaling="none", validation=0.0, **TINY)
    codes = model.fit(X.copy()).transform(X.copy())
    np.testing.assert_array_equal(model.fit(forms[form]).transform(forms[form]), codes)
    np.testing.assert_array_equal(forms[form], wine.astype(np.float32))


def test_a_table_in_float32_is_never_copied_whole():
    X = np.random.default_rng(0).random((50_000, 20), np.float32)
    form = modality_of(X, "table")
    tracemalloc.start()
    table = form.learn(form.read(X, "test"), "none")
    source = table.source(table.read(X, "test"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * X.nbytes
    assert np.shares_memory(source.x.numpy(), X)
    for batch, kept in source.passes(None, 16_000, 16):
        assert np.shares_memory(batch.x.numpy(), X)
        assert kept == slice(None)
    assert np.shares_memory(table.decode(source.x), X)


@pytest.mark.parametrize("n", [16, 33, 48])
def test_all_rows_pass_like_some(n):
    """Without a copy where they are a multiple, else filled up with another row."""
    X = np.random.default_rng(0).random((n, 2))
    source = modality_of(X, "table").learn(X, "none").source(X)
    ways = [source.passes(rows, 32, 16) for rows in (None, torch.arange(n))]
    for (a, kept_a), (b, kept_b) in zip(*ways, strict=True):
        assert torch.equal(a.x[kept_a], b.x[kept_b])
        assert torch.equal(a.index[kept_a], b.index[kept_b])
        assert len(a) == len(b)
        assert not len(a) % 16


def test_scaling_goes_there_and_back_in_blocks():
    """More rows than one block, a constant column among them, against the formula."""
    rng = np.random.default_rng(0)
    X = np.insert(1e6 + rng.normal(size=(1000, 3)), 1, 7.0, axis=1)
    table = modality_of(X, "table").learn(X, "standard")
    kept = X[:, [0, 2, 3]]
    x = table.encode(X).x
    wanted = ((kept - kept.mean(0)) / kept.std(0)).astype(np.float32)
    np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table.decode(x), X, rtol=2e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool])
def test_arrays_of_any_number_give_float32(dtype, digits):
    X = (digits > 4).astype(dtype) if dtype is bool else digits.astype(dtype)
    model = narrows.Autoencoder(hidden=(8,), **TINY).fit(X)
    assert model.transform(X).dtype == model.reconstruct(X).dtype == np.float32
    assert model.score_samples(X).dtype == np.float32


def test_read_only_codes_are_decoded(wine):
    model = narrows.VAE(hidden=(8,), **TINY).fit(wine)
    codes = model.transform(wine)
    codes.flags.writeable = False
    assert model.inverse_transform(codes).shape == wine.shape


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_extreme_units_are_scaled_away(factor, wine):
    model = narrows.Autoencoder(hidden=(8,), **TINY).fit(wine)
    other = narrows.Autoencoder(hidden=(8,), **TINY).fit(wine * factor)
    np.testing.assert_allclose(other.transform(wine * factor), model.transform(wine), atol=1e-4)
    found = other.reconstruct(wine * factor).astype(float) / factor
    np.testing.assert_allclose(found, model.reconstruct(wine), rtol=1e-3)


def test_one_feature_works(wine):
    X = wine[:, :1]
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    assert model.reconstruct(X).shape == X.shape


# -- frames -----------------------------------------------------------------------------------


def columns(n=60):
    rng = np.random.default_rng(0)
    a = rng.normal(size=n)
    return {
        "float": a,
        "single": (2 * a + rng.normal(size=n)).astype(np.float32),
        "whole": np.rint(10 * a).astype(np.int64),
        "small": np.clip(np.rint(5 * a + 100), 0, 255).astype(np.uint8),
        "flag": a > 0,
        "constant": np.full(n, 4, np.int16),
    }


FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
every_frame = pytest.mark.parametrize("kind", FRAMES)


def schema(frame):
    if isinstance(frame, pd.DataFrame):
        return dict(frame.dtypes)
    if isinstance(frame, pl.DataFrame):
        return dict(frame.schema)
    return {field.name: field.type for field in frame.schema}


@every_frame
def test_frames_come_back_as_frames_with_their_own_types(kind):
    X = FRAMES[kind](columns())
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    made = {
        "reconstruct": model.reconstruct(X),
        "inverse_transform": model.inverse_transform(model.transform(X)),
        "sample": model.sample(60),
        "interpolate": model.interpolate(X[:1], X[1:2], 60),
    }
    for name, frame in made.items():
        assert type(frame) is type(X), name
        assert schema(frame) == schema(X), name
        assert frame.shape == X.shape, name
        assert np.array_equal(np.asarray(frame["constant"]), np.full(60, 4)), name


@every_frame
def test_names_and_features_are_known(kind):
    X = FRAMES[kind](columns())
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    assert model.feature_names_in_.tolist() == list(columns())
    assert model.n_features_in_ == 6


@every_frame
def test_a_frame_gives_the_numbers_of_its_array(kind, wine):
    names = [f"w{i}" for i in range(13)]
    X = FRAMES[kind](dict(zip(names, wine.T, strict=True)))
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    array = narrows.VAE(hidden=(8,), **TINY).fit(wine)
    np.testing.assert_array_equal(model.transform(X), array.transform(wine))
    found = np.column_stack([np.asarray(model.reconstruct(X)[name]) for name in names])
    np.testing.assert_allclose(found, array.reconstruct(wine), rtol=1e-6)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(60),
        pd.RangeIndex(100, 160),
        pd.Index([f"row {i}" for i in range(60)], name="key"),
        pd.date_range("2026-01-01", periods=60),
        pd.MultiIndex.from_product([["a", "b"], range(30)]),
        pd.Index([7] * 60),
    ],
    ids=["default", "range", "names", "dates", "multi", "repeated"],
)
def test_reconstructions_keep_the_index(index):
    X = pd.DataFrame(columns(), index=index)
    model = narrows.Autoencoder(hidden=(8,), **TINY).fit(X)
    pd.testing.assert_index_equal(model.reconstruct(X).index, X.index)
    pd.testing.assert_index_equal(model.reconstruct(X[10:20]).index, X.index[10:20])
    assert model.sample(3).index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output_decides_the_type_of_the_codes(kind, wine):
    model = narrows.VAE(hidden=(8,), **TINY).set_output(transform=kind)
    codes = model.fit(wine).transform(wine)
    assert isinstance(codes, FRAMES[kind])
    assert list(codes.columns) == ["vae0", "vae1"]
    plain = narrows.VAE(hidden=(8,), **TINY).fit(wine)
    np.testing.assert_array_equal(codes.to_numpy(), plain.transform(wine))
    decoded = model.inverse_transform(codes)
    np.testing.assert_array_equal(decoded, plain.inverse_transform(plain.transform(wine)))
    assert model.interpolate(wine[0], wine[1], 3).shape == (3, 13)


def test_set_output_keeps_the_index_of_the_data():
    X = pd.DataFrame(columns(), index=[f"row {i}" for i in range(60)])
    model = narrows.VAE(hidden=(8,), **TINY).set_output(transform="pandas").fit(X)
    pd.testing.assert_index_equal(model.transform(X).index, X.index)


def test_nullable_columns_come_back_nullable():
    X = pd.DataFrame(columns()).convert_dtypes()
    model = narrows.Autoencoder(hidden=(8,), **TINY).fit(X)
    assert schema(model.reconstruct(X)) == schema(X)


def test_columns_named_by_numbers_keep_their_names(wine):
    X = pd.DataFrame(wine)
    model = narrows.Autoencoder(hidden=(8,), **TINY).fit(X)
    assert not hasattr(model, "feature_names_in_")  # as scikit-learn has it
    for frame in (model.reconstruct(X), model.sample(3)):
        assert frame.columns.tolist() == list(range(13))


def test_an_array_given_to_a_model_of_frames_warns_as_scikit_learn_does():
    X = pd.DataFrame(columns())
    model = narrows.Autoencoder(hidden=(8,), **TINY).fit(X)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but Autoencoder"):
        found = model.reconstruct(X.to_numpy(float))
    assert isinstance(found, np.ndarray)


# -- missing cells ----------------------------------------------------------------------------


def holes(seed=0):
    X = pd.DataFrame({name: values.astype(float) for name, values in columns().items()})
    return X.mask(np.random.default_rng(seed).random(X.shape) < 0.2)


@every_frame
def test_missing_cells_of_a_frame_are_no_obstacle(kind):
    X = holes()
    if kind == "polars":
        X = pl.from_pandas(X)  # null
    elif kind == "pyarrow":
        X = pa.Table.from_pandas(X, preserve_index=False)
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    whole = model.reconstruct(X)
    assert all(np.isfinite(np.asarray(whole[name], float)).all() for name in columns())
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score_samples(X)).all()
    assert [row["loss"] for row in model.history_] == sorted(
        (row["loss"] for row in model.history_), reverse=True
    )


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_nullable_missing_cells_are_understood(backend):
    X = holes().convert_dtypes(dtype_backend=backend)
    model = narrows.VAE(hidden=(8,), **TINY)
    expected = model.fit(holes()).transform(holes())
    np.testing.assert_array_equal(model.fit(X).transform(X), expected)


def test_missing_in_an_array_needs_the_word_table():
    X = holes().to_numpy()
    with pytest.raises(ValueError, match="NaN"):
        narrows.VAE(hidden=(8,), **TINY).fit(X)
    model = narrows.VAE(hidden=(8,), modality="table", **TINY).fit(X)
    frame = narrows.VAE(hidden=(8,), **TINY).fit(holes())
    np.testing.assert_array_equal(model.transform(X), frame.transform(holes()))


def test_what_stands_in_a_missing_cell_does_not_matter():
    """The mask reaches the likelihood: only observed values are explained and scored."""
    X = holes()
    model = narrows.VAE(hidden=(8,), **TINY).fit(X)
    x, mask, _ = model.modality_.encode(model.modality_.read(X, "test"))
    out = model.net_(narrows.base.Batch(x, x, mask)).out
    other = x + 100 * (1 - mask)
    assert torch.equal(
        model.net_.likelihood.nll(out, x, mask), model.net_.likelihood.nll(out, other, mask)
    )


def test_a_model_fills_holes_better_than_the_mean(wine):
    """Trained with missing cells, it puts back values that it never saw."""
    hidden = np.random.default_rng(0).random(wine.shape) < 0.1
    X = pd.DataFrame(wine, columns=[f"w{i}" for i in range(13)])
    model = narrows.Autoencoder(latent_dim=3, epochs=150, dropout=0.1).fit(X.mask(hidden))
    scale = wine.std(0)
    means = np.nanmean(np.where(hidden, np.nan, wine), 0)
    error = ((model.reconstruct(X.mask(hidden)).to_numpy() - wine) / scale)[hidden]
    baseline = ((means - wine) / scale)[hidden]
    assert np.mean(error**2) < 0.9 * np.mean(baseline**2)


def test_types_survive_in_a_frame_that_is_given_back_unchanged():
    """An identity-like fit returns the very integers and flags."""
    X = pd.DataFrame(columns()).drop(columns=["float", "single"])
    model = narrows.LinearAutoencoder(latent_dim=4, epochs=400, learning_rate=0.02, validation=0.0)
    assert_frame_equal(model.fit(X).reconstruct(X), X)
