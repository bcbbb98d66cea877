"""Nets along one, two and three axes, volumes there and back, and what a U-Net's levels pass."""

import copy
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import narrows
from narrows.cli import main
from narrows.data.files import Dataset
from narrows.data.modalities import Image, Volume, modality_of
from narrows.data.sources import Batch, at_once
from narrows.errors import ContextError, DataError, ParameterError
from narrows.evaluation.evaluate import evaluate
from narrows.evaluation.pictures import slices
from narrows.evaluation.report import render
from narrows.parts.convolutions import KINDS, conv, conv_grid
from narrows.parts.critics import Critic
from narrows.parts.networks import Sizes, initialise
from narrows.parts.quantizers import Codebook, Hierarchical
from narrows.parts.transformers import Tokens
from narrows.parts.unet import unet

DOWNSAMPLING = ["stride", "max", "average"]
GRIDS = [(9,), (1,), (5, 8), (3, 4, 7), (1, 5, 2)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# -- convolutions -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    grid=st.lists(st.integers(1, 11), min_size=1, max_size=3).map(tuple),
    depth=st.integers(0, 3),
    downsampling=st.sampled_from(DOWNSAMPLING),
    batch_norm=st.booleans(),
    blocks=st.integers(0, 1),
    as_map=st.booleans(),
)
@example((37,), 3, "average", True, 1, True)
@example((1, 7, 10), 2, "max", False, 0, True)
def test_nets_return_to_any_size(grid, depth, downsampling, batch_norm, blocks, as_map):
    """Samples along 1, 2 and 3 axes, by a vector or by a map of codes."""
    x, hidden = torch.randn(2, 3, *grid), (2, 4, 5)[:depth]
    places = conv_grid(x.shape[1:], hidden) if as_map else ()
    sizes = Sizes(x.shape[1:], (6, *places), (3, *places), (2, *grid))
    options = {"downsampling": downsampling, "batch_norm": batch_norm, "blocks": blocks}
    encoder, decoder = conv(sizes, hidden=hidden, **options)
    with torch.no_grad():
        assert encoder.eval()(Batch(x, x)).shape == (2, 6, *places)
        assert decoder.eval()(torch.randn(2, 3, *places)).shape == (2, 2, *grid)
        up, down = unet(Sizes(x.shape[1:], (6,), (3,), (2, *grid)), hidden=hidden, **options)
        h, *context = up.eval()(Batch(x, x))
        assert h.shape == (2, 6)
        assert len(context) == depth
        assert down.eval()(torch.randn(2, 3), None, *context).shape == (2, 2, *grid)


def embed(weight, kernel):
    """A kernel along one axis as the middle of one along more."""
    wide = weight.new_zeros(*weight.shape[:3], *kernel[1:])
    wide[(..., *(side // 2 for side in kernel[1:]))] = weight
    return wide


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("downsampling", DOWNSAMPLING)
def test_along_axes_of_length_one_a_net_is_the_one_along_the_others(downsampling, axes):
    """A series is an image one pixel wide: the weights in the kernel's middle say the same."""
    shape, more, options = (2, 13), (1,) * (axes - 1), {"downsampling": downsampling, "blocks": 1}
    one = conv(Sizes(shape, (4,), (3,), shape), hidden=(4, 5), **options)
    wide = (*shape, *more)
    other = conv(Sizes(wide, (4,), (3,), wide), hidden=(4, 5), **options)
    x, z = torch.randn(6, *shape), torch.randn(6, 3)
    for net, twin in zip(one, other, strict=True):
        for (name, p), (same, q) in zip(
            net.named_parameters(), twin.named_parameters(), strict=True
        ):
            assert name == same
            with torch.no_grad():
                p.normal_()  # the blocks' last layers start at zero
                q.copy_(embed(p, q.shape[2:]) if p.ndim == 3 else p)
    batches = [Batch(x.view(6, *s), x.view(6, *s)) for s in (shape, wide)]
    torch.testing.assert_close(one[0](batches[0]), other[0](batches[1]), rtol=1e-4, atol=1e-4)
    found = other[1](z).view(6, *shape)
    torch.testing.assert_close(one[1](z), found, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["convolution", "transposed"])
def test_a_relu_layer_keeps_the_size_of_the_signal_along_any_axes(kind, axes):
    """He (2015): the mean square of relu's input is the same before and after."""
    options = {"output_padding": 1} if kind == "transposed" else {}
    layer = getattr(KINDS[axes], kind)(48, 48, 3, 2, padding=1, **options)
    before = torch.randn(2, 48, *(int(4000 ** (1 / axes)),) * axes)
    with torch.no_grad():
        after = initialise(layer, "relu")(before.relu())
    inner = after[(..., *(slice(2, -2),) * axes)]
    assert float(inner.square().mean()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("shape", [(2, 11), (2, 5, 7), (2, 3, 4, 5)])
def test_codes_lie_on_the_last_map_of_any_net(shape):
    """Quantised codes, on one level and on two, settle where the map has its places."""
    grid = conv_grid(shape, (4, 4))
    assert grid == tuple(-(-side // 4) for side in shape[1:])
    for latent in (Codebook(3, codes=8), Hierarchical(3, codes=8)):
        latent.settle(grid)
        sizes = Sizes(shape, latent.width, latent.code_shape, shape)
        encoder, decoder = conv(sizes, hidden=(4, 4))
        x = torch.randn(5, *shape)
        h = encoder(Batch(x, x))
        latent.eval()
        z, _ = latent(h)
        assert z.shape == (5, *latent.code_shape)
        assert decoder(z).shape == x.shape
        torch.testing.assert_close(latent.unpack(latent.pack(h)), latent.mean(h))


@pytest.mark.parametrize("shape", [(2, 11), (2, 5, 7), (2, 3, 4, 5)])
def test_critics_judge_samples_along_any_axes_by_convolutions(shape):
    critic = Critic(shape, hidden=(4,), spectral_norm=True)
    assert any(isinstance(m, KINDS[len(shape) - 1].convolution) for m in critic.modules())
    assert critic(torch.randn(6, *shape)).shape == (6,)


# -- volumes ----------------------------------------------------------------------------------


def volumes(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


SHAPES = [(9, 3, 5, 7), (9, 5, 3, 7, 4), (9, 2, 6, 5, 7), (9, 6, 5, 7, 2)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", ["standard", "unit", "none"])
def test_volumes_come_back(shape, dtype, target):
    X = volumes(shape, dtype)
    modality = Volume.describe(X)
    array = modality.read(X, "test")
    modality = modality.learn(array, target)
    x, mask, lengths = modality.encode(array)
    assert mask is lengths is None
    assert x.shape == (9, *modality.shape)
    found = modality.decode(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, X, atol=1e-4 if dtype == np.float32 else 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_gives_volumes_in_their_own_form(shape, tmp_path):
    X = volumes(shape)
    options = {"modality": "volume", "latent_dim": 2, "hidden": (4,), "epochs": 1}
    model = narrows.Autoencoder(**options).fit(X)
    assert type(model.net_.encoder[0]) is nn.Conv3d
    for found in (model.reconstruct(X), model.sample(9), model.interpolate(X[0], X[1], 9)):
        assert found.shape == X.shape
        assert found.dtype == X.dtype
    model.save(tmp_path / "model")
    again = narrows.load(tmp_path / "model").reconstruct(X)
    np.testing.assert_array_equal(again, model.reconstruct(X))


def test_the_layout_of_the_channels_does_not_change_the_codes():
    last = volumes((20, 5, 6, 7, 3))
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    model = narrows.Autoencoder(modality="volume", latent_dim=2, hidden=(4,), epochs=1)
    codes = [model.fit(X).transform(X) for X in (last, first)]
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("options", [{"output_activation": "sigmoid"}, {"scaling": "minmax"}])
@pytest.mark.parametrize("modality", ["image", "volume"])
def test_channels_on_one_scale_are_saved_and_loaded(modality, options, tmp_path):
    X = volumes((20, 5, 6, 7, 3)) if modality == "volume" else volumes((20, 6, 7, 3))
    model = narrows.Autoencoder(modality=modality, latent_dim=2, hidden=(4,), epochs=1, **options)
    model.fit(X).save(tmp_path / "model")
    assert len(set(model.modality_.scale)) == 1
    again = narrows.load(tmp_path / "model")
    np.testing.assert_array_equal(again.reconstruct(X), model.reconstruct(X))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


def test_of_unusual_numbers_the_fewer_are_channels():
    for shape, layout in [
        ((9, 2, 6, 7), "first"),
        ((9, 6, 7, 5), "last"),
        ((9, 3, 2, 6), "first"),
    ]:
        assert Image.describe(np.zeros(shape)).layout == layout
    with pytest.raises(DataError, match="channels may come first or last"):
        Image.describe(np.zeros((9, 6, 5, 6)))


def test_large_samples_pass_in_smaller_numbers():
    """So that the memory of an answer does not grow with the size of the samples."""
    passed = [at_once(shape) for shape in [(30,), (3, 32, 32), (1, 64, 64, 64), (3, 512, 512)]]
    assert passed == [1024, 336, 16, 16]
    assert at_once((1, 100, 100)) == 96


@pytest.mark.parametrize(
    ("X", "sentence"),
    [
        (np.zeros((5, 4, 4)), r"needs volumes \(n, depth, height, width\).* shape \(5, 4, 4\)"),
        (np.zeros((5, 3, 4, 4, 3)), "channels may come first or last"),
        (np.zeros((5, 3, 0, 4)), "volumes without voxels"),
        ([np.zeros((2, 3, 4)), np.zeros((3, 2, 4))], r"Sample 1 .* \(3, 2, 4\) where sample 0"),
    ],
)
def test_what_is_no_volume_is_refused(X, sentence):
    with pytest.raises(DataError, match=sentence):
        modality_of(X, "volume")


def test_values_beyond_float32_are_no_volume():
    X = volumes((3, 4, 5, 6), np.float64)
    X[1, 1, 1, 1] = 1e39
    with pytest.raises(DataError, match="too large for float32 in 1 of its 3 volumes, first in v"):
        modality_of(X, "volume").read(X, "test")
    with pytest.raises(DataError, match="complex128 values; volumes must hold numbers"):
        modality_of(X * 1j, "volume")


@pytest.mark.parametrize("target", ["standard", "unit"])
def test_constant_volumes_are_named(target):
    X = np.full((3, 4, 5, 6), 2.5)
    form = modality_of(X, "volume")
    array = form.read(X, "test")
    with pytest.warns(UserWarning, match="Every channel of X is constant"):
        modality = form.learn(array, target)
    x = modality.encode(array).x
    assert not x.any()
    np.testing.assert_array_equal(modality.decode(x), X)


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_extreme_units_of_volumes_are_scaled_away(factor):
    X = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    found = [modality_of(V, "volume") for V in (X, X * np.float32(factor))]
    one, other = (
        m.learn(m.read(V, "test"), "standard")
        for m, V in zip(found, (X, X * np.float32(factor)), strict=True)
    )
    assert other.scale[0] / factor == pytest.approx(one.scale[0], rel=1e-4)


def test_volumes_must_be_said_to_be_some():
    with pytest.raises(DataError, match=r"modality='volume' for volumes \(n, depth, height"):
        modality_of(volumes((5, 6, 7, 8)))


def test_bad_volumes_are_named():
    X = volumes((6, 4, 5, 6), np.float32)
    model = narrows.Autoencoder(modality="volume", hidden=(4,), epochs=1)
    holed = X.copy()
    holed[[2, 4], 1, 1, 1] = np.nan
    with pytest.raises(DataError, match="in 2 of its 6 volumes, first in volume 2"):
        model.fit(holed)
    model.fit(X)
    with pytest.raises(DataError, match=r"expecting volumes of shape \(n, 4, 5, 6\)"):
        model.transform(X[:, :3])
    with pytest.raises(DataError, match="fitted on float32 volumes; X holds uint8"):
        model.transform(X.astype(np.uint8))


@pytest.mark.parametrize("grid", [(7,), (6, 5), (4, 5, 3)])
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_samples_are_cut_into_patches_and_joined(grid, patch):
    tokens, x = Tokens((2, *grid), patch), torch.randn(3, 2, *grid)
    cut = tokens.cut(x)
    assert tokens.grid == tuple(-(-side // patch) for side in grid)
    assert cut.shape == (3, prod(tokens.grid), 2 * patch ** len(grid))
    assert torch.equal(tokens.join(cut), x)
    padded = x.new_zeros(3, 2, *(n * patch for n in tokens.grid))
    padded[(..., *(slice(side) for side in grid))] = x
    for i, place in enumerate(product(*map(range, tokens.grid))):
        part = padded[(..., *(slice(at * patch, (at + 1) * patch) for at in place))]
        assert torch.equal(cut[:, i], part.flatten(1))


@pytest.mark.parametrize("grid", [(9,), (4, 5), (4, 4, 3)])
def test_no_quarter_holds_neighbours(grid):
    """So that each hidden token has seen ones on every side."""
    parts = Tokens((1, *grid), 1).quarters()
    assert sorted(torch.cat(parts).tolist()) == list(range(prod(grid)))
    for part in parts:
        places = torch.stack(torch.unravel_index(part, grid), 1).double()
        apart = torch.cdist(places, places) + 9 * torch.eye(len(part))
        assert apart.min() > 1.5


def test_masked_volumes_are_told_from_what_is_seen():
    X = waves(300, (6, 8, 7), 0)
    options = {"modality": "volume", "hidden": (24,), "latent_dim": 16, "patch_size": 2}
    options |= {"mask_ratio": 0.4, "epochs": 8, "learning_rate": 1e-2, "batch_size": 32}
    model = narrows.MaskedAutoencoder(**options).fit(X)
    error = np.mean((model.reconstruct(X[:60]) - X[:60]) ** 2)
    assert error < 0.7 * np.var(X)


def test_slices_are_the_three_middles_in_a_row():
    X = volumes((2, 1, 4, 6, 3), np.int64) + 5
    row = slices(X)
    assert row.shape == (2, 1, 6, 3 + 3 + 6)
    np.testing.assert_array_equal(row[..., :3], X[:, :, 2])
    np.testing.assert_array_equal(row[:, :, :4, 3:6], X[:, :, :, 3])
    np.testing.assert_array_equal(row[:, :, :4, 6:], X[..., 1])
    assert (row[:, :, 4:, 3:] == X.min()).all()


@pytest.mark.parametrize("cls", [narrows.VAE, narrows.UNetAutoencoder])
def test_the_report_shows_slices(cls):
    X = volumes((40, 4, 6, 5))
    model = cls(modality="volume", latent_dim=3, hidden=(4,), epochs=1).fit(X)
    found = evaluate(model, X, train=np.arange(30), test=np.arange(30, 40))
    assert {"mse", "psnr"} <= set(found.metrics["model"]) & set(found.metrics["pca"])
    dataset = Dataset(X, modality="volume")
    assert dataset.describe() == "40 volumes of 4 × 6 × 5, uint8"
    page = render(model, dataset, found, command="narrows fit", seconds=1.0)
    assert "three slices through its middle" in page
    assert 'width="16" height="6"' in page.replace("'", '"')  # 5 + 5 + 6 pixels wide


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_the_shell_takes_volumes(kind, tmp_path, capsys):
    data, run, out = (str(tmp_path / name) for name in (f"glands.{kind}", "run", "back.npy"))
    X = volumes((40, 4, 6, 5))
    np.save(data, X) if kind == "npy" else np.savez(data, X=X)
    words = "--modality volume --model autoencoder --latent-dim 2 --hidden 4 --epochs 1"
    assert main(["fit", data, *words.split(), "--out", run]) == 0
    assert "40 volumes of 4 × 6 × 5" in capsys.readouterr().out
    assert main(["reconstruct", run, data, "--out", out]) == 0
    found = np.load(out)
    assert (found.shape, found.dtype) == (X.shape, X.dtype)
    assert main(["reconstruct", run, data, "--out", str(tmp_path / "back.png")]) == 2
    assert "These are no images" in capsys.readouterr().err


# -- the U-Net --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_every_level_but_the_last_passes_beside_the_code(grid):
    shape = (2, *grid)
    encoder, decoder = unet(Sizes(shape, (4,), (4,), shape), hidden=(6, 8))
    x = torch.randn(3, *shape)
    z, *context = encoder(Batch(x, x))
    half = tuple(-(-side // 2) for side in grid)
    assert [part.shape[1:] for part in context] == [(3, *grid), (6, *half)]
    parts = [z, *context]
    gradients = torch.autograd.grad(decoder(z, None, *context).sum(), parts)
    assert all(gradient.any() for gradient in gradients)
    swapped = decoder(z, None, *(part.roll(1, 0) for part in context))
    assert not torch.allclose(swapped, decoder(z, None, *context))
    with pytest.raises(ContextError, match=r"Call reconstruct\(X\)"):
        decoder(z)


def test_the_finest_level_passes_every_value():
    """With the levels below cut off, each output is a function of its neighbourhood in x."""
    shape = (1, 16, 16)
    encoder, decoder = unet(Sizes(shape, (4,), (4,), shape), hidden=(8, 8))
    nn.init.zeros_(decoder.ups[-1][0].weight)
    x = torch.randn(1, *shape, requires_grad=True)
    z, *context = encoder(Batch(x, x))
    out = decoder(z, None, *context)
    (gradient,) = torch.autograd.grad(out[0, 0, 8, 8], x)
    reached = gradient[0, 0] != 0
    assert reached[6:11, 6:11].all()  # two convolutions of 3 × 3
    assert int(reached.sum()) == 25


def test_a_row_is_a_series_of_one_channel():
    table = unet(Sizes((11,), (4,), (4,), (22,)), hidden=(4, 6))
    torch.manual_seed(0)
    series = unet(Sizes((1, 11), (4,), (4,), (2, 11)), hidden=(4, 6))
    x = torch.randn(5, 11)
    for net, twin in zip(table, series, strict=True):
        twin.load_state_dict(dict(zip(twin.state_dict(), net.state_dict().values(), strict=True)))
    z, *context = table[0](Batch(x, x))
    same, *other = series[0](Batch(x[:, None], x[:, None]))
    torch.testing.assert_close(z, same)
    found = table[1](z, None, *context)
    assert found.shape == (5, 22)
    torch.testing.assert_close(found.view(5, 2, 11), series[1](same, None, *other))


def waves(n, grid, seed):
    """Smooth samples: sums of two plane waves."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in grid), indexing="ij"))
    X = np.zeros((n, *grid))
    for _ in range(2):
        rates = rng.uniform(-0.6, 0.6, (n, len(grid)))
        phase = rng.uniform(0, 2 * np.pi, (n, *(1 for _ in grid)))
        X += np.sin(np.tensordot(rates, places, 1) + phase)
    return X.astype(np.float32)


@pytest.mark.parametrize(("form", "grid"), [("image", (12, 12)), ("volume", (5, 6, 7))])
def test_a_unet_cleans_better_than_a_code_can(form, grid):
    """Held-out samples: less than half of the noise is left, and less than by the code alone."""
    train, test = waves(400, grid, 0), waves(100, grid, 1)
    noise = 0.5 * np.random.default_rng(2).standard_normal(test.shape).astype(np.float32)
    options = {"modality": form, "scaling": "none", "noise": 0.5, "hidden": (8, 16)}
    options |= {"epochs": 8, "learning_rate": 1e-2, "batch_size": 32, "architecture": "conv"}
    error = {}
    for cls in (narrows.DenoisingAutoencoder, narrows.UNetAutoencoder):
        if cls is narrows.UNetAutoencoder:
            options["architecture"] = "unet"
        found = cls(**options).fit(train).reconstruct(test + noise)
        error[cls] = float(np.mean((found - test) ** 2))
    best = error[narrows.UNetAutoencoder]
    assert best < 0.5 * np.mean(noise**2)
    assert best < 0.7 * error[narrows.DenoisingAutoencoder]


@pytest.mark.parametrize("method", ["inverse_transform", "sample", "interpolate"])
def test_a_bare_code_is_refused_with_what_to_call_instead(method):
    X = waves(30, (8, 8), 0)
    model = narrows.UNetAutoencoder(modality="image", hidden=(4,), epochs=1, latent_dim=2).fit(X)
    arguments = {
        "inverse_transform": [model.transform(X)],
        "sample": [3],
        "interpolate": [X[0], X[1]],
    }[method]
    with pytest.raises(ContextError, match=r"UNetAutoencoder .* Call reconstruct\(X\)"):
        getattr(model, method)(*arguments)
    assert not hasattr(model, "inverse_transform")


def test_a_code_may_be_dropped_before_it_is_decoded():
    X = waves(30, (8, 8), 0)
    options = {"modality": "image", "hidden": (4,), "epochs": 1}
    model = narrows.UNetAutoencoder(code_dropout=0.5, **options).fit(X)
    x, *_ = model.modality_.encode(model.modality_.read(X, "test"))
    net = copy.deepcopy(model.net_)
    batch = Batch(x, x)
    assert torch.equal(net(batch).out, net(batch).out)
    net.train()
    assert not torch.equal(net(batch).out, net(batch).out)
    assert prod(net.latent.code_shape) == 8


# -- channels innermost ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("conv", (24, 9, 7, 3)), ("unet", (24, 9, 7, 3)), ("conv", (24, 5, 6, 7))],
)
def test_channels_may_be_innermost_and_only_rounding_tells(architecture, shape, tmp_path):
    X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    cls = narrows.UNetAutoencoder if architecture == "unet" else narrows.VAE
    options = {"hidden": (4, 8), "latent_dim": 2, "epochs": 3, "batch_size": 8, "verbose": 0}
    options |= {"modality": "image" if shape[-1] == 3 else "volume", "validation": 0.25}
    first, last = (cls(**options, channels_last=flag).fit(X) for flag in (False, True))
    inner = {4: torch.channels_last, 5: torch.channels_last_3d}
    weights = [p for p in last.net_.parameters() if p.ndim in inner]
    assert all(p.is_contiguous(memory_format=inner[p.ndim]) for p in weights)
    assert not all(p.is_contiguous() for p in weights)
    for one, two in zip(first.history_, last.history_, strict=True):
        assert {**one, "seconds": 0} == pytest.approx({**two, "seconds": 0}, rel=1e-4)
    np.testing.assert_allclose(first.reconstruct(X), last.reconstruct(X), atol=1e-3)
    last.save(tmp_path / "model")
    assert np.array_equal(narrows.load(tmp_path / "model").reconstruct(X), last.reconstruct(X))


@pytest.mark.parametrize(
    ("modality", "words"), [("series", "for images and vol"), ("table", "no eff")]
)
def test_channels_of_what_is_no_grid_cannot_be_innermost(modality, words, digits):
    X = digits if modality == "table" else digits[..., None]
    model = narrows.VAE(channels_last=True, modality=modality, epochs=1, verbose=0)
    with pytest.raises(ParameterError, match=words):
        model.set_params(architecture="conv" if modality == "series" else "mlp").fit(X)
