"""Penalties against autograd's full Jacobian and formulas; corruptions against their shares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from sklearn.datasets import load_digits

import narrows
from narrows.data.corruption import CORRUPTIONS, gaussian, masking, salt_and_pepper
from narrows.data.modalities import Image, Table
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.parts.penalties import (
    jacobian,
    jacobian_exact,
    kl_sparsity,
    l1,
    l2,
    ms_ssim,
    similarity,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_regularised_autoencoder_pays_for_its_code_and_its_decoders_matrices():
    """Ghosh et al. (2020), eq. 5 with the weights of the decoder: RAE-L2."""
    model = narrows.RegularizedAutoencoder(
        latent_dim=3, hidden=(9,), code_penalty=0.7, decoder_penalty=0.2
    )
    modality = Table((7,), center=(0.0,) * 7, scale=(1.0,) * 7)
    model.net_ = net = model.build(modality).double()
    x = torch.randn(6, 7, dtype=torch.float64)
    terms = model.objective(net(Batch(x, x)))
    matrices = [m.weight for m in net.decoder.modules() if isinstance(m, torch.nn.Linear)]
    held = 0.2 * 0.5 * sum((weight**2).sum() for weight in matrices)
    torch.testing.assert_close(terms["decoder_weights"], held)
    torch.testing.assert_close(terms["l2"], 0.7 * 0.5 * (net.encoder(Batch(x, x)) ** 2).sum(1))
    assert set(terms) == {"nll", "l2", "decoder_weights"}


# -- the encoder's Jacobian -------------------------------------------------------------------

NETS = {
    "mlp": (narrows.ContractiveAutoencoder, {"hidden": (9,)}, Table((7,)), 7),
    "linear": (narrows.ContractiveAutoencoder, {"architecture": "linear"}, Table((7,)), 7),
    "sigmoid": (
        narrows.ContractiveAutoencoder,
        {"hidden": (9,), "code_activation": "sigmoid"},
        Table((7,)),
        7,
    ),
    "conv": (narrows.ContractiveAutoencoder, {"hidden": (3, 4)}, Image((2, 6, 5)), 2),
    "gaussian": (
        narrows.ComposedAutoencoder,
        {"hidden": (9,), "code": "gaussian"},
        Table((7,)),
        7,
    ),
}


def contractive(name, n=6):
    """A net in double precision, its pass over n samples, and the full Jacobian's norm."""
    cls, options, modality, scales = NETS[name]
    modality = replace(modality, center=(0.0,) * scales, scale=(1.0,) * scales)
    net = cls(latent_dim=3, **options).build(modality).double()
    x = torch.randn(n, *modality.shape, dtype=torch.float64)
    step = net(Batch(x, x))

    def encode(row):
        return net.code(Batch(row[None], row[None])).flatten()

    full = torch.stack(
        [torch.autograd.functional.jacobian(encode, row).square().sum() for row in x]
    )
    return net, step, full


@pytest.mark.parametrize("name", NETS)
def test_the_exact_penalty_is_the_norm_of_the_full_jacobian(name):
    net, step, full = contractive(name)
    torch.testing.assert_close(jacobian_exact(net, step), full, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_hutchinsons_estimate_is_unbiased(name):
    net, step, full = contractive(name)
    x = step.batch.x.repeat(20_000, *[1] * (step.batch.x.ndim - 1))  # one probe a row
    with torch.no_grad():
        probes = jacobian(net, net(Batch(x, x))).view(20_000, -1)
    error = probes.std(0) / len(probes) ** 0.5
    assert ((probes.mean(0) - full).abs() < 4.5 * error).all()
    assert (probes.std(0) > 0.1 * full).all()  # an estimate, not the exact norm


@pytest.mark.parametrize("penalty", [jacobian, jacobian_exact])
def test_the_gradient_of_the_jacobian_reaches_the_encoder(penalty):
    """d||J||²/dw, against a difference of the penalty at w + e and w - e."""
    net, step, _ = contractive("mlp")
    weight = net.encoder[1].weight

    def value():
        torch.manual_seed(1)  # the same probe
        return penalty(net, step).sum()

    (gradient,) = torch.autograd.grad(value(), weight)
    assert gradient.norm() > 0
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight.add_(1e-5 * direction)
        above = value()
        weight.add_(-2e-5 * direction)
        below = value()
    torch.testing.assert_close(
        (gradient * direction).sum(), (above - below) / 2e-5, rtol=1e-5, atol=0
    )


def test_both_modes_of_the_contractive_autoencoder_contract(digits):
    def norm(**options):
        model = narrows.ContractiveAutoencoder(
            latent_dim=3, hidden=(16,), epochs=15, learning_rate=0.01, **options
        ).fit(digits)
        x, *_ = model.modality_.encode(digits.astype(float))
        return float(jacobian_exact(model.net_, model.net_(Batch(x, x))).mean().detach())

    free = norm(contraction=0.0)
    assert norm(contraction=20.0) < 0.5 * free
    assert norm(contraction=20.0, jacobian="exact") < 0.5 * free


# -- sparsity ---------------------------------------------------------------------------------


def test_l1_and_l2_are_sums_over_the_code():
    net, step, _ = contractive("mlp")
    torch.testing.assert_close(l1(net, step), step.z.abs().sum(1))
    torch.testing.assert_close(l2(net, step), 0.5 * step.z.square().sum(1))


def test_kl_sparsity_is_the_divergence_of_bernoullis():
    z = torch.rand(50, 4)
    rho = torch.distributions.Bernoulli(torch.full((4,), 0.05))
    expected = torch.distributions.kl_divergence(rho, torch.distributions.Bernoulli(z.mean(0)))
    torch.testing.assert_close(kl_sparsity(z, 0.05), expected.sum())


def test_kl_sparsity_is_zero_at_its_target_and_finite_at_the_ends():
    torch.testing.assert_close(kl_sparsity(torch.full((9, 3), 0.2), 0.2), torch.tensor(0.0))
    for end in (0.0, 1.0):
        z = torch.full((9, 3), end, requires_grad=True)
        price = kl_sparsity(z, 0.2)
        assert price.isfinite()
        assert torch.autograd.grad(price, z)[0].isfinite().all()


@pytest.mark.parametrize("rho", [0.05, 0.2])
def test_kl_sparsity_reaches_its_target_activation(rho):
    X = load_digits().data[:600]
    model = narrows.SparseAutoencoder(
        latent_dim=16,
        hidden=(32,),
        code_activation="sigmoid",
        rho=rho,
        sparsity=300.0,
        epochs=60,
        learning_rate=5e-3,
        batch_size=200,
    ).fit(X)
    assert np.abs(model.codes_.mean(0) - rho).max() < 0.01
    assert model.codes_.std(0).min() > 0.01  # active for some digits, not constant


def test_l1_makes_codes_smaller(digits):
    def size(sparsity):
        model = narrows.SparseAutoencoder(
            latent_dim=8, hidden=(16,), epochs=15, learning_rate=0.01, sparsity=sparsity
        )
        return np.abs(model.fit(digits).codes_).mean()

    assert size(5.0) < 0.5 * size(0.0)


# -- structural similarity --------------------------------------------------------------------


def blurred(x, size):
    window = np.exp(-0.5 * ((np.arange(size) - size // 2) / 1.5) ** 2)
    for axis in (0, 1):
        x = correlate1d(x, window / window.sum(), axis)
    edge = size // 2
    return x[edge : x.shape[0] - edge, edge : x.shape[1] - edge]


def parts(x, y, size=11):
    """SSIM and its part of contrast and structure, means over an image in [0, 1]."""
    mx, my = blurred(x, size), blurred(y, size)
    vx, vy = blurred(x * x, size) - mx**2, blurred(y * y, size) - my**2
    cov, c1, c2 = blurred(x * y, size) - mx * my, 0.01**2, 0.03**2
    structure = (2 * cov + c2) / (vx + vy + c2)
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return (structure * luminance).mean(), structure.mean()


def pictures(n=2, c=3, h=20, w=17):
    x = torch.rand(n, c, h, w, dtype=torch.float64)
    return x, (x + 0.3 * torch.rand_like(x)).clamp(0, 1)


def test_at_one_scale_it_is_ssim():
    x, y = pictures()
    expected = [
        np.mean([parts(*pair)[0] for pair in zip(a, b, strict=True)])
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    np.testing.assert_allclose(similarity(x, y), expected, rtol=1e-10)
    small = similarity(x[:, :1, :6], y[:, :1, :6])  # the window is 5 pixels wide
    assert float(small[0]) == pytest.approx(parts(x[0, 0, :6].numpy(), y[0, 0, :6].numpy(), 5)[0])


def test_at_several_scales_it_is_their_product():
    """92 pixels hold the window at four scales, the last of them 11 pixels wide."""
    x, y = pictures(1, 1, 92, 100)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363])
    weights /= weights.sum()
    a, b, expected = x[0, 0].numpy(), y[0, 0].numpy(), 1.0
    for j, weight in enumerate(weights):
        expected *= parts(a, b)[0 if j == 3 else 1] ** weight
        halves = [p[: len(p) // 2 * 2, : p.shape[1] // 2 * 2] for p in (a, b)]
        a, b = (p.reshape(len(p) // 2, 2, -1, 2).mean((1, 3)) for p in halves)
    assert float(similarity(x, y)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("side", [1, 2, 8, 28, 44, 180])
def test_equal_images_are_alike_and_symmetric(side):
    x, y = pictures(2, 1, side, side + 3)
    torch.testing.assert_close(similarity(x, x), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(similarity(x, y), similarity(y, x))
    assert (similarity(x, y) < 0.999).all()


def test_the_similarity_differentiates_exactly_and_everywhere_finitely():
    x, y = pictures(1, 1, 22, 23)
    assert torch.autograd.gradcheck(similarity, (x, y.requires_grad_()), fast_mode=True)
    for other in (1 - x, torch.zeros_like(x)):  # opposite structures, and none
        other.requires_grad_()
        (gradient,) = torch.autograd.grad(similarity(x, other).sum(), other)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"likelihood": "bernoulli"}, {"likelihood": "poisson"}])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_are_compared_in_the_range_of_their_own_units(images, kind, options):
    """Whatever the units inside the model: its reconstructions are compared in the data's."""
    X = images[:48].astype(kind)
    model = narrows.ComposedAutoencoder(
        penalties={"ms_ssim": 10.0}, modality="image", epochs=2, hidden=(4,), **options
    ).fit(X)
    batch = model.modality_.source(model.modality_.read(X, "test")).take(torch.arange(48))
    step = model.net_.eval()(batch)
    made = model.modality_.explained
    low, high = float(X.min()), float(X.max())
    scale, center = (torch.tensor(v).view(-1, 1, 1) for v in (made.scale, made.center))
    out = (model.net_.likelihood.mean(step.out) * scale + center - low) / (high - low)
    target = torch.from_numpy((X.astype(np.float32) - low) / (high - low))
    expected = 1 - similarity(target.view_as(out), out)
    torch.testing.assert_close(ms_ssim(model.net_, step), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.objective(step)["ms_ssim"], 10 * ms_ssim(model.net_, step))


@pytest.mark.wide
def test_the_penalty_brings_structures_nearer(images):
    def gap(weight):
        model = narrows.ComposedAutoencoder(
            penalties={"ms_ssim": weight}, epochs=40, learning_rate=0.01, batch_size=32
        ).fit(images)
        x, y = (torch.from_numpy(X / 255.0)[:, None] for X in (images, model.reconstruct(images)))
        return float(1 - similarity(x, y).mean())

    assert gap(300.0) < 0.9 * gap(0.0)


@pytest.mark.parametrize("shape", [(40, 6), (40, 4, 4, 4)])
def test_only_images_have_structures(shape):
    X = np.random.default_rng(0).random(shape).astype(np.float32)
    options = {} if len(shape) == 2 else {"modality": "volume"}
    with pytest.raises(ParameterError, match=r"'ms_ssim' compares images"):
        narrows.ComposedAutoencoder(penalties={"ms_ssim": 1.0}, **options).fit(X)


@pytest.mark.parametrize("name", ["jacobian", "jacobian_exact"])
@pytest.mark.parametrize("code", ["binary", "categorical", "codebook", "fsq", "lfq", "simvq"])
def test_codes_that_move_in_steps_have_no_slope(code, name):
    model = narrows.ComposedAutoencoder(code=code, penalties={name: 1.0})
    with pytest.raises(ParameterError, match=f"'{name}' is the slope .* integers: its slope is 0"):
        model.fit(np.random.default_rng(0).random((40, 6)))


def test_choices_always_sum_to_one():
    model = narrows.ComposedAutoencoder(code="categorical", penalties={"l1": 1.0})
    with pytest.raises(ParameterError, match=r"'l1' charges how large .* always sums to 1"):
        model.fit(np.random.default_rng(0).random((40, 6)))


# -- corruptions ------------------------------------------------------------------------------

SHAPE = (500, 400)


@pytest.mark.parametrize("amount", [0.1, 1.5])
def test_gaussian_noise_has_its_standard_deviation(amount):
    x = torch.rand(SHAPE)
    noise = gaussian(x, amount) - x
    assert float(noise.std()) == pytest.approx(amount, rel=0.01)
    assert abs(float(noise.mean())) < 0.01 * amount + 1e-3
    assert float((noise.abs() < amount).float().mean()) == pytest.approx(0.6827, abs=0.005)


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.7, 1.0])
def test_masking_sets_its_share_of_the_values_to_zero(amount):
    x = torch.rand(SHAPE) + 1
    masked = masking(x, amount)
    assert float((masked == 0).float().mean()) == pytest.approx(amount, abs=0.005)
    assert torch.equal(masked[masked != 0], x[masked != 0])


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.7, 1.0])
def test_salt_and_pepper_sets_its_share_to_the_ends_evenly(amount):
    x = torch.rand(SHAPE) * 2 - 1
    low, high = x.min(), x.max()
    noisy = salt_and_pepper(x, amount)
    changed = noisy != x
    assert float(changed.float().mean()) == pytest.approx(amount, abs=0.005)
    assert set(noisy[changed].unique().tolist()) <= {float(low), float(high)}
    assert float((noisy == low).float().mean()) == pytest.approx(amount / 2, abs=0.005)
    assert float((noisy == high).float().mean()) == pytest.approx(amount / 2, abs=0.005)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_new_every_time_and_leaves_x(name):
    x = torch.rand(50, 20)
    before = x.clone()
    assert not torch.equal(CORRUPTIONS[name](x, 0.5), CORRUPTIONS[name](x, 0.5))
    assert torch.equal(x, before)
    assert torch.equal(CORRUPTIONS[name](x, 0.0), x)


@pytest.mark.parametrize("cls", [narrows.DenoisingAutoencoder, narrows.ComposedAutoencoder])
def test_the_encoder_sees_noise_and_the_likelihood_the_clean_x(cls, digits):
    model = cls(corruption="masking", noise=0.5, latent_dim=2, epochs=1).fit(digits)
    x = torch.rand(64, len(model.modality_.kept)) + 1
    (move,) = model.losses(Batch(x, x))
    assert torch.equal(move.step.batch.target, x)
    assert float((move.step.batch.x == 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_a_denoiser_denoises_better_than_a_plain_autoencoder():
    X = load_digits().data / 16
    options = {"latent_dim": 16, "hidden": (64,), "epochs": 30, "learning_rate": 5e-3}
    options |= {"scaling": "none"}
    denoiser = narrows.DenoisingAutoencoder(corruption="masking", noise=0.4, **options).fit(X)
    plain = narrows.Autoencoder(**options).fit(X)
    noisy = np.where(np.random.default_rng(0).random(X.shape) < 0.4, 0, X)
    errors = [np.mean((model.reconstruct(noisy) - X) ** 2) for model in (denoiser, plain)]
    assert errors[0] < 0.8 * errors[1]
    assert errors[0] < 0.5 * np.mean((noisy - X) ** 2)


def test_a_sparse_code_has_zeros_and_no_dead_units(digits):
    """By its own default; an L1 price alone makes values small, and none of them zero."""
    model = narrows.SparseAutoencoder(latent_dim=96, epochs=30).fit(digits)
    off = model.transform(digits) == 0
    assert off.mean() > 0.15
    assert not off.all(0).any()
    plain = narrows.SparseAutoencoder(latent_dim=96, epochs=30, code_activation="linear")
    assert not (plain.fit(digits).transform(digits) == 0).any()
