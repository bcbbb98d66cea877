"""Networks: dropout's share, initial variances, exact sizes, tied weights, the first bias."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import narrows
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.parts.convolutions import conv
from narrows.parts.networks import (
    ACTIVATIONS,
    ARCHITECTURES,
    Dropout,
    Sizes,
    TiedLinear,
    initialise,
    linear,
    mlp,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# -- dropout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(p):
    x = torch.ones(1000, 1001)
    out = Dropout(p)(x)
    kept = out != 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.003)
    torch.testing.assert_close(out[kept].unique(), torch.tensor([1 / (1 - p)]), rtol=1e-3, atol=0)
    assert float(out.mean()) == pytest.approx(1, abs=0.01)  # the expectation stays


def test_dropout_is_independent_from_value_to_value():
    kept = (Dropout(0.5)(torch.ones(4000, 64)) != 0).double()
    correlation = np.corrcoef(kept.numpy().T) - np.eye(64)
    assert np.abs(correlation).max() < 0.1  # 6 standard errors
    assert kept.mean(0).sub(0.5).abs().max() < 0.05
    assert kept.mean(1).std() == pytest.approx((0.25 / 64) ** 0.5, rel=0.05)


def test_dropout_is_new_every_time_and_gone_in_evaluation():
    x, dropout = torch.randn(20, 7), Dropout(0.5)
    assert not torch.equal(dropout(x), dropout(x))
    assert torch.equal(dropout.eval()(x), x)


def test_the_gradient_of_dropout_is_its_mask():
    x = torch.ones(30, 7, requires_grad=True)
    out = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out)


@pytest.mark.parametrize("p", [1e-7, 1e-4, 0.9999, 0.9999999])
def test_extreme_dropout_is_finite(p):
    assert Dropout(p)(torch.ones(100, 100)).isfinite().all()


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 5, 7)])
def test_dropout_takes_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


# -- initial weights --------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "gelu", "silu"])
def test_rectifiers_get_he_weights(activation):
    weight = initialise(nn.Linear(400, 300), activation).weight
    assert float(weight.detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    kernel = initialise(nn.Conv2d(40, 60, 3), activation).weight
    assert float(kernel.detach().std()) == pytest.approx((2 / (40 * 9)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("activation", ["linear", "tanh", "sigmoid"])
def test_others_get_xavier_weights(activation):
    weight = initialise(nn.Linear(400, 300), activation).weight.detach()
    bound = (6 / 700) ** 0.5
    assert float(weight.std()) == pytest.approx((2 / 700) ** 0.5, rel=0.02)
    assert 0.99 * bound < float(weight.abs().max()) <= bound  # uniform


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_biases_start_at_zero(name):
    for layer in (nn.Linear(4, 3), nn.Conv2d(4, 3, 3), nn.ConvTranspose2d(4, 3, 3)):
        assert not initialise(layer, name).bias.any()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(500, 500),
        nn.Conv2d(64, 64, 3, 2, padding=1),
        nn.ConvTranspose2d(64, 64, 3, 2, padding=1, output_padding=1),
    ],
    ids=["linear", "conv", "transposed conv"],
)
def test_a_relu_layer_keeps_the_size_of_the_signal(layer):
    """He (2015): the mean square of relu's input is the same before and after."""
    shape = (64, 500) if isinstance(layer, nn.Linear) else (4, 64, 32, 32)
    before = torch.randn(shape)
    with torch.no_grad():
        after = initialise(layer, "relu")(before.relu())
    after = after if isinstance(layer, nn.Linear) else after[..., 2:-2, 2:-2]
    assert float(after.square().mean()) == pytest.approx(1, rel=0.15)


# -- sizes ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    depth=st.integers(0, 4),
    downsampling=st.sampled_from(["stride", "max", "average"]),
    batch_norm=st.booleans(),
)
@example(33, 47, 3, 3, "stride", False)
@example(1, 1, 1, 4, "max", True)
@example(40, 1, 1, 4, "average", False)
def test_conv_nets_return_to_any_size(height, width, channels, depth, downsampling, batch_norm):
    x = torch.randn(2, channels, height, width)
    sizes = Sizes(x.shape[1:], (6,), (3,), (2 * channels, height, width))
    encoder, decoder = conv(
        sizes, hidden=(2, 3, 4, 5)[:depth], downsampling=downsampling, batch_norm=batch_norm
    )
    with torch.no_grad():
        assert encoder.eval()(Batch(x, x)).shape == (2, 6)
        assert decoder.eval()(torch.randn(2, 3)).shape == (2, 2 * channels, height, width)


# Those of sequences are in test_sequences.py.
@pytest.mark.parametrize("name", ["linear", "mlp", "conv"])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 47)])
def test_every_architecture_connects_its_sizes_by_default(name, size):
    sizes = Sizes((3, *size), (8,), (4,), (3, *size))
    encoder, decoder = ARCHITECTURES[name](sizes)
    x = torch.randn(2, 3, *size)
    assert encoder(Batch(x, x)).shape == (2, 8)
    assert decoder(torch.randn(2, 4)).shape == (2, 3, *size)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_codes_may_have_any_shape(name):
    sizes = Sizes((7,), (2, 3, 4), (2, 3), (7,))
    encoder, decoder = ARCHITECTURES[name](sizes)
    x = torch.randn(5, 7)
    assert encoder(Batch(x, x)).shape == (5, 2, 3, 4)
    assert decoder(torch.randn(5, 2, 3)).shape == (5, 7)


@pytest.mark.parametrize("downsampling", ["stride", "max", "average"])
def test_each_stage_halves_the_image_and_rounds_up(downsampling):
    sizes = Sizes((1, 33, 47), (4,), (4,), (1, 33, 47))
    encoder, _ = conv(sizes, hidden=(2, 3, 4), downsampling=downsampling)
    flat = next(layer for layer in encoder if isinstance(layer, nn.Linear))
    assert flat.in_features == 4 * 5 * 6


def test_hidden_is_mirrored():
    encoder, decoder = mlp(Sizes((784,), (3,), (3,), (784,)), hidden=(128, 64, 12))

    def widths(net):
        return [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]

    assert widths(encoder) == [(784, 128), (128, 64), (64, 12), (12, 3)]
    assert widths(decoder) == [(3, 12), (12, 64), (64, 128), (128, 784)]


def test_the_linear_architecture_is_affine():
    encoder, decoder = linear(Sizes((7,), (3,), (3,), (7,)))
    a, b = torch.randn(2, 5, 7)
    with torch.no_grad():
        for net in (lambda x: encoder(Batch(x, x)), lambda x: decoder(x[:, :3])):
            torch.testing.assert_close(net((a + b) / 2), (net(a) + net(b)) / 2)


@pytest.mark.parametrize("build", [mlp, conv])
def test_a_layer_before_a_norm_has_no_bias(build):
    shape = (12,) if build is mlp else (1, 9, 9)
    for net in build(Sizes(shape, (4,), (4,), shape), hidden=(3, 5), batch_norm=True):
        layers = [m for m in net.modules() if not list(m.children())]
        for layer, following in pairwise(layers):
            if isinstance(following, nn.BatchNorm1d | nn.BatchNorm2d):
                assert layer.bias is None


def test_conv_refuses_what_is_no_image():
    with pytest.raises(ParameterError, match=r"needs images .* has the shape \(7,\)"):
        conv(Sizes((7,), (3,), (3,), (7,)))


# -- tied weights -----------------------------------------------------------------------------


@pytest.fixture
def tied(digits):
    options = {"latent_dim": 3, "hidden": (16, 8), "epochs": 2, "tied": True}
    return narrows.Autoencoder(**options).fit(digits)


def pairs(model):
    encoders = [m for m in model.net_.encoder.modules() if isinstance(m, nn.Linear)]
    decoders = [m for m in model.net_.decoder.modules() if isinstance(m, TiedLinear)]
    assert len(encoders) == len(decoders) == 3
    return list(zip(encoders, reversed(decoders), strict=True))


def test_tied_weights_are_one_tensor(tied):
    assert not [m for m in tied.net_.decoder.modules() if isinstance(m, nn.Linear)]
    names = [name for name in tied.net_.state_dict() if name.endswith("weight")]
    assert len(names) == 3
    assert all(name.startswith("encoder") for name in names)
    free = narrows.Autoencoder(latent_dim=3, hidden=(16, 8), epochs=1).fit(np.eye(30))
    assert len([name for name in free.net_.state_dict() if name.endswith("weight")]) == 6


def test_a_tied_layer_multiplies_by_the_transposed_weight(tied):
    for source, layer in pairs(tied):
        x = torch.randn(4, source.out_features)
        torch.testing.assert_close(layer(x), x @ source.weight + layer.bias)


@pytest.mark.parametrize("copied", ["loaded", "deepcopy", "pickle", "refit"])
def test_the_tie_holds(copied, tied, tmp_path, digits):
    import pickle

    if copied == "loaded":
        tied.save(tmp_path / "model")
        twin = narrows.load(tmp_path / "model")
    elif copied == "deepcopy":
        twin = copy.deepcopy(tied)
    elif copied == "pickle":
        twin = pickle.loads(pickle.dumps(tied))
    else:
        twin = tied.fit(digits)
    for source, layer in pairs(twin):
        before = layer(torch.ones(1, source.out_features))
        with torch.no_grad():
            source.weight.add_(1.0)
        assert not torch.equal(layer(torch.ones(1, source.out_features)), before)


def test_a_tied_weight_gets_the_gradient_of_both_its_places(tied, digits):
    x, *_ = tied.modality_.encode(digits.astype(float))
    step = tied.net_(Batch(x, x))
    weight = tied.net_.encoder[1].weight
    (whole,) = torch.autograd.grad(step.nll.sum(), weight)
    h = tied.net_.encode(Batch(x, x))[0].detach()
    nll = tied.net_.likelihood.nll(tied.net_.decoder(tied.net_.latent.mean(h)), x)
    (decoder,) = torch.autograd.grad(nll.sum(), weight)
    assert decoder.norm() > 0
    assert (whole - decoder).norm() > 0


def test_a_tied_posterior_shares_the_rows_of_its_mean(digits):
    model = narrows.VAE(latent_dim=3, hidden=(16,), epochs=2, tied=True).fit(digits)
    top = [m for m in model.net_.encoder.modules() if isinstance(m, nn.Linear)][-1]
    bottom = next(m for m in model.net_.decoder.modules() if isinstance(m, TiedLinear))
    z = torch.randn(2, 3)
    torch.testing.assert_close(bottom(z), z @ top.weight[:3] + bottom.bias)


# -- the first bias ---------------------------------------------------------------------------


def untrained(cls, X, **options):
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "epochs": 1, "validation": 0.0}
    return cls(latent_dim=2, **still | options).fit(X)


def last_bias(model):
    biases = [p for name, p in model.net_.decoder.named_parameters() if name.endswith("bias")]
    return biases[-1].detach()


def test_the_output_starts_at_the_mean_of_the_data(wine):
    model = untrained(narrows.Autoencoder, wine, scaling="none")
    np.testing.assert_allclose(last_bias(model), wine.mean(0), rtol=1e-4)


def test_the_output_of_a_tied_net_starts_at_the_mean_of_the_data(wine):
    model = untrained(narrows.Autoencoder, wine, scaling="none", tied=True, hidden=(4,))
    bottom = [m for m in model.net_.decoder.modules() if isinstance(m, TiedLinear)][-1]
    np.testing.assert_allclose(bottom.bias.detach(), wine.mean(0), rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"likelihood": "bernoulli"}, {"output_activation": "sigmoid"}]
)
def test_logits_start_at_the_logit_of_the_mean(options, wine):
    model = untrained(narrows.Autoencoder, wine, **options)
    x, *_ = model.modality_.encode(wine)
    np.testing.assert_allclose(last_bias(model).sigmoid(), x.mean(0), rtol=1e-4)


def test_a_conv_net_starts_at_the_mean_of_each_channel():
    X = np.random.default_rng(0).random((50, 8, 8, 3)).astype(np.float32) * [1, 5, 0.1]
    model = untrained(narrows.Autoencoder, X, scaling="none", modality="image", hidden=(4,))
    np.testing.assert_allclose(last_bias(model), X.mean((0, 1, 2)), rtol=1e-4)


# -- activations ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_trains(name, digits):
    model = narrows.Autoencoder(
        latent_dim=3, hidden=(16,), activation=name, code_activation=name, epochs=5
    ).fit(digits)
    assert model.history_[-1]["loss"] < model.history_[0]["loss"]


@pytest.mark.parametrize(
    ("name", "low", "high"), [("relu", 0, np.inf), ("sigmoid", 0, 1), ("tanh", -1, 1)]
)
def test_the_code_activation_bounds_the_code(name, low, high, digits):
    codes = narrows.Autoencoder(latent_dim=5, epochs=3, code_activation=name).fit(digits).codes_
    assert low <= codes.min() < codes.max() <= high


@pytest.mark.parametrize(("name", "low", "high"), [("sigmoid", 0, 16), ("tanh", 0, 16)])
def test_the_output_activation_bounds_the_output_in_the_users_units(name, low, high, digits):
    model = narrows.Autoencoder(latent_dim=5, epochs=3, output_activation=name).fit(digits)
    found = model.inverse_transform(100 * np.random.default_rng(0).normal(size=(50, 5)))
    assert low - 1e-4 <= found.min() < found.max() <= high + 1e-4


def test_dropout_of_the_code_acts_in_training_only(digits):
    model = narrows.Autoencoder(latent_dim=5, epochs=2, code_dropout=0.5).fit(digits)
    x = torch.randn(20, model.modality_.shape[0])
    net = model.net_.train()
    assert not torch.equal(net(Batch(x, x)).out, net(Batch(x, x)).out)
    net.eval()
    assert torch.equal(net(Batch(x, x)).out, net(Batch(x, x)).out)
