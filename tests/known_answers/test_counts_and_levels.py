"""Likelihoods of whole numbers against torch.distributions, SciPy, sums and counts of draws."""

from math import log

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch import distributions

import narrows
from narrows.data.modalities import Modality
from narrows.errors import DataError, ParameterError
from narrows.parts.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from narrows.parts.levels import Categorical, DiscretisedLogistic
from narrows.parts.likelihoods import bounded, unbounded

DIGITS = load_digits().data.astype(np.float32)
DIGITS.flags.writeable = False
LEVELS = 9
SHAPES = [(7,), (3, 4, 5)]
MAKE = {
    "poisson": lambda shape: Poisson(),
    "negative_binomial": lambda shape: NegativeBinomial(shape=shape),
    "zero_inflated_negative_binomial": lambda shape: ZeroInflatedNegativeBinomial(shape=shape),
    "categorical": lambda shape: Categorical(levels=LEVELS),
    "discretised_logistic": lambda shape: DiscretisedLogistic(levels=LEVELS),
}
COUNTS = ["poisson", "negative_binomial", "zero_inflated_negative_binomial"]
every = pytest.mark.parametrize("name", MAKE)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(name, shape=(7,), theta=None):
    """A likelihood in float64, whose dispersion differs from column to column."""
    likelihood = MAKE[name](shape).double()
    for raw in likelihood.parameters():
        raw.data.copy_(0.2 * torch.randn(raw.shape))
        if theta is not None:
            raw.data.fill_(
                float(unbounded(torch.tensor(theta, dtype=torch.float64).log(), 15)) / 10
            )
    return likelihood


def outputs(likelihood, shape, n=6):
    return torch.randn(n, likelihood.channels * shape[0], *shape[1:], dtype=torch.float64)


def whole(shape, n=6):
    return torch.randint(0, LEVELS, (n, *shape)).double()


def log_prob(name, likelihood, out, x):
    """What others make of it, value by value."""
    if name == "categorical":
        logits = torch.stack(out.chunk(LEVELS, 1), -1)
        return distributions.Categorical(logits=logits).log_prob(x)
    if name == "discretised_logistic":
        location, scale = likelihood.split(out)
        logistic = scipy.stats.logistic(location.numpy(), scale.exp().numpy())
        low = np.where(x == 0, -np.inf, x.numpy() - 0.5)
        high = np.where(x == LEVELS - 1, np.inf, x.numpy() + 0.5)
        right = logistic.sf(low) - logistic.sf(high)  # far to the right, cdf has no digits left
        found = np.where(x > location, right, logistic.cdf(high) - logistic.cdf(low))
        return torch.from_numpy(found).log()
    mean = bounded(out.chunk(likelihood.channels, 1)[0], 30).exp()
    if name == "poisson":
        return distributions.Poisson(mean).log_prob(x)
    theta = likelihood.log_theta().detach().exp().expand_as(mean)
    found = scipy.stats.nbinom(theta.numpy(), (theta / (theta + mean)).numpy()).pmf(x.numpy())
    if name == "negative_binomial":
        return torch.from_numpy(found).log()
    zero = out.chunk(2, 1)[1].sigmoid()
    return (zero * (x == 0) + (1 - zero) * torch.from_numpy(found)).log()


# -- the probability --------------------------------------------------------------------------


@every
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_nll_is_what_others_compute(name, shape, masked):
    likelihood = make(name, shape)
    out, x = outputs(likelihood, shape), whole(shape)
    mask = (torch.rand(6, *shape) < 0.7).double() if masked else None
    expected = log_prob(name, likelihood, out, x)
    expected = expected * mask if masked else expected
    found = likelihood.nll(out, x, mask)
    assert found.shape == (6,)
    torch.testing.assert_close(found, -expected.flatten(1).sum(1), rtol=1e-9, atol=1e-9)


@every
def test_probabilities_sum_to_one(name):
    likelihood, n = make(name, (1,)), LEVELS if name not in COUNTS else 3000
    for out in outputs(likelihood, (1,), 5):
        x = torch.arange(n).double()[:, None]
        p = (-likelihood.nll(out.expand(n, -1), x)).exp()
        assert float(p.detach().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 17, 256])
@pytest.mark.parametrize("raw", [-40.0, -3.0, 0.0, 3.0, 40.0])
@pytest.mark.parametrize("location", [-5.0, -1.0, 0.01, 1.0, 5.0])
def test_a_discretised_logistic_is_proper_however_wide_it_is(levels, raw, location):
    likelihood = DiscretisedLogistic(levels=levels).double()
    out = torch.tensor([location, raw], dtype=torch.float64).expand(levels, 2)
    p = (-likelihood.nll(out, torch.arange(levels).double()[:, None])).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    mean = (p * torch.arange(levels)).sum()
    torch.testing.assert_close(likelihood.mean(out)[0, 0], mean, atol=2e-5, rtol=1e-9)


@every
def test_the_mean_is_the_expectation(name):
    likelihood, n = make(name, (1,)), LEVELS if name not in COUNTS else 3000
    x = torch.arange(n).double()[:, None]
    for out in outputs(likelihood, (1,), 5):
        p = (-likelihood.nll(out.expand(n, -1), x)).exp().detach()
        mean = likelihood.mean(out[None]).squeeze()
        torch.testing.assert_close(mean.detach(), (p * x[:, 0]).sum(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("levels", [2, 5, 256, 5000])
def test_the_mean_of_a_logistic_is_its_sum_over_the_levels_at_any_scale(levels):
    likelihood, top = DiscretisedLogistic(levels=levels), levels - 1
    scale, place = torch.meshgrid(
        torch.logspace(-4, 4, 33, dtype=torch.float64),
        torch.linspace(-0.3, 1.3, 41, dtype=torch.float64) * top,
        indexing="ij",
    )
    location = place.flatten() / (0.5 * top) - 1
    out = torch.stack([location, unbounded(scale.flatten().log(), 12.0)], 1)
    steps = torch.arange(top, dtype=torch.float64) + 0.5
    whole = ((place.reshape(-1, 1) - steps) / scale.reshape(-1, 1)).sigmoid().sum(1)
    found = likelihood.mean(out)[:, 0]
    torch.testing.assert_close(found, whole, rtol=1e-8, atol=2e-5)
    out = out[::7].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(likelihood.mean(out).sum(), out)
    assert gradient.isfinite().all()


@every
def test_draws_are_as_frequent_as_they_are_probable(name):
    likelihood, n = make(name, (1,)), 100_000
    out = outputs(likelihood, (1,), 1)
    with torch.no_grad():
        draws = likelihood.sample(out.expand(n, -1).contiguous())[:, 0]
        assert draws.dtype == torch.float64
        for k in range(6):
            p = float((-likelihood.nll(out, torch.tensor([[float(k)]]).double())).exp())
            error = 5 * (p * (1 - p) / n) ** 0.5 + 1e-9
            assert float((draws == k).double().mean()) == pytest.approx(p, abs=error), k


@pytest.mark.parametrize("name", [*COUNTS, "discretised_logistic", "categorical"])
@pytest.mark.parametrize("extreme", [-1e6, -200.0, 200.0, 1e6])
def test_extreme_outputs_stay_finite(name, extreme):
    likelihood = MAKE[name]((3,))
    out = torch.full((4, 3 * likelihood.channels), extreme, requires_grad=True)
    x = torch.tensor([0.0, 4.0, LEVELS - 1]).expand(4, 3)
    nll = likelihood.nll(out, x)
    gradients = torch.autograd.grad(nll.sum(), [out, *likelihood.parameters()])
    assert nll.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert likelihood.mean(out).isfinite().all()


# -- relations and gradients ------------------------------------------------------------------


def test_a_negative_binomial_of_large_dispersion_is_a_poisson():
    poisson, out, x = make("poisson"), outputs(make("poisson"), (7,)), whole((7,))
    wide = [make("negative_binomial", theta=theta) for theta in (1e2, 1e4, 1e6)]
    gaps = [(likelihood.nll(out, x) - poisson.nll(out, x)).abs().max() for likelihood in wide]
    assert gaps[0] > 50 * gaps[1] > 2500 * gaps[2]
    assert gaps[2] < 1e-4


def test_a_large_dispersion_costs_no_digits_in_float32():
    likelihood = make("negative_binomial", theta=1e5)
    out, x = outputs(likelihood, (7,)), whole((7,))
    exact, rough = likelihood.nll(out, x), likelihood.float().nll(out.float(), x.float())
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=1e-5)


def test_without_inflation_only_the_negative_binomial_is_left():
    plain, inflated = make("negative_binomial"), make("zero_inflated_negative_binomial")
    inflated.load_state_dict(plain.state_dict())
    out, x = outputs(plain, (7,)), whole((7,))
    never = torch.cat([out, torch.full_like(out, -50)], 1)
    torch.testing.assert_close(inflated.nll(never, x), plain.nll(out, x))
    torch.testing.assert_close(inflated.mean(never), plain.mean(out))


def test_a_negative_binomial_has_its_variance():
    likelihood = make("negative_binomial", (1,), theta=3.0)
    with torch.no_grad():
        draws = likelihood.sample(torch.full((200_000, 1), log(5.0), dtype=torch.float64))
    mean = float(likelihood.mean(torch.tensor([[log(5.0)]])))
    assert float(draws.mean()) == pytest.approx(mean, rel=0.02)
    assert float(draws.var()) == pytest.approx(mean + mean**2 / 3, rel=0.03)


@pytest.mark.parametrize("name", COUNTS[1:])
def test_the_gradient_of_the_dispersion_is_right(name):
    likelihood = make(name)
    out, x = outputs(likelihood, (7,)), whole((7,))
    likelihood.forward = likelihood.nll

    def nll(raw):
        return torch.func.functional_call(likelihood, {"log_dispersion": raw}, (out, x))

    torch.autograd.gradcheck(nll, likelihood.log_dispersion.detach().requires_grad_())


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_right_also_for_images(name, shape):
    likelihood = make(name, shape)
    x = whole(shape, 2)
    out = outputs(likelihood, shape, 2).requires_grad_()
    torch.autograd.gradcheck(lambda out: likelihood.nll(out, x), out)


# -- where training starts --------------------------------------------------------------------


@every
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "dims"), [((7,), (0,)), ((3, 4, 5), (0, 2, 3))])
def test_the_start_has_the_mean_of_the_data(name, shape, dims, masked):
    likelihood, x = make(name, shape), whole(shape, 40)
    mask = (torch.rand(x.shape) < 0.6).double() if masked else None
    start = likelihood.start(x if mask is None else x * mask, mask, dims)
    assert start.shape == (likelihood.channels * shape[0],)
    start = start.view(1, -1, *(1 for _ in dims[1:]))
    seen = x if mask is None else torch.where(mask > 0, x, torch.nan)
    atol = 0.2 if name == "discretised_logistic" else 2e-3  # a clipped logistic, a smoothed share
    found = likelihood.mean(start).flatten().detach()
    torch.testing.assert_close(found, seen.nanmean(dims), rtol=0, atol=atol)


@every
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_starts_as_itself(name, value):
    likelihood, x = make(name), torch.full((30, 7), value, dtype=torch.float64)
    start = likelihood.start(x, None, (0,))
    assert start.isfinite().all()
    assert (likelihood.mean(start[None]) - value).abs().max() < 0.05


@every
@pytest.mark.parametrize("modality", ["table", "image"])
def test_a_net_starts_near_the_marginal_of_the_data(name, modality):
    """The decoder's bias is the marginal, and its first weights hardly change that."""
    X = DIGITS[:200] if modality == "table" else DIGITS[:200].reshape(-1, 8, 8)
    model = narrows.VAE(likelihood=name, modality=modality, **UNTRAINED).fit(X)
    out = model.net_.decoder(torch.randn(50, 8))
    mean = model.net_.likelihood.mean(out).mean(0).detach()
    target = model.modality_.target(model.modality_.read(X, "test"))
    if modality == "image":
        mean, target = mean.mean(), target.mean()
    else:
        target = target.mean(0)
    assert (mean - target).abs().max() < 2.5


UNTRAINED = {"latent_dim": 8, "epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0}


# -- fitted models ----------------------------------------------------------------------------


@every
def test_a_model_beats_the_untrained_one_and_the_marginal(name):
    train, test = DIGITS[:1000], DIGITS[1000:1300]
    options = {"latent_dim": 4, "hidden": (64,), "likelihood": name, "validation": 0.0}
    model = narrows.VAE(epochs=15, learning_rate=0.01, **options).fit(train)
    untrained = narrows.VAE(**UNTRAINED | options).fit(train)
    likelihood, modality = untrained.net_.likelihood, model.modality_
    seen, held = (modality.target(modality.read(X, "test")) for X in (train, test))
    with torch.no_grad():
        start = likelihood.start(seen, None, (0,)).expand(len(held), -1)
        marginal = -float(likelihood.nll(start, held).mean())
    assert model.score(test) > marginal + 5
    assert model.score(test) > untrained.score(test) + 10
    error = ((model.reconstruct(test) - test) ** 2).mean()
    assert error < 0.75 * ((train.mean(0) - test) ** 2).mean()
    drawn = model.sample(20, noise=True)
    assert np.array_equal(drawn, drawn.round())
    assert drawn.min() >= 0


@every
@pytest.mark.parametrize("scaling", ["auto", "standard", "minmax", "none"])
def test_targets_stay_as_they_are_whatever_the_encoder_sees(name, scaling):
    X = DIGITS[:100]
    options = {"likelihood": name, "scaling": scaling, "validation": 0.0}
    modality = narrows.VAE(**options, **UNTRAINED).fit(X).modality_
    x, *_ = modality.encode(X)
    X = X[:, modality.kept]
    np.testing.assert_array_equal(modality.target(DIGITS[:100]), X)
    if scaling == "auto" and name in COUNTS:
        X = np.log1p(X)
    if scaling in ("auto", "standard"):
        X = (X - X.mean(0)) / X.std(0)
    elif scaling == "minmax":
        X = (X - X.min(0)) / np.ptp(X, 0)
    np.testing.assert_allclose(x, X, atol=1e-5)


def test_scaled_counts_come_back():
    X = np.random.default_rng(0).poisson(3000, (50, 4)).astype(float) * [1, 0.01, 100, 0]
    X = X.round()
    modality = narrows.VAE(likelihood="poisson", **UNTRAINED).fit(X).modality_
    x, *_ = modality.encode(modality.read(X, "test"))
    np.testing.assert_allclose(modality.decode(x), X, rtol=1e-5)
    np.testing.assert_array_equal(modality.explained.decode(modality.target(X)), X)
    assert Modality.restore(modality.state()) == modality
    with pytest.raises(DataError, match="log, whole and levels"):
        Modality.restore(modality.state() | {"levels": "many"})


@every
def test_missing_counts_are_not_explained(name):
    X = DIGITS[:120].copy()
    holes = np.random.default_rng(0).random(X.shape) < 0.3
    X[holes] = np.nan
    X[0] = DIGITS[0]  # with all levels known
    model = narrows.VAE(likelihood=name, modality="table", epochs=3, latent_dim=2).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.reconstruct(X)).all()
    mask = model.modality_.encode(X)[1]
    target = model.modality_.target(X)
    assert torch.equal(target * mask, target)


def test_whole_numbers_of_a_frame_come_back_as_such():
    X = pd.DataFrame(np.random.default_rng(0).poisson(4, (60, 3)), columns=list("abc"))
    model = narrows.VAE(likelihood="poisson", epochs=3).fit(X)
    assert list(model.sample(5, noise=True).dtypes) == list(X.dtypes)


@pytest.mark.parametrize(("highest", "levels"), [(5, 6), (127, 128), (128, 256), (255, 256)])
def test_bytes_beyond_the_middle_have_all_256_levels(highest, levels):
    X = np.random.default_rng(0).integers(0, highest, (20, 4, 4)).astype(np.uint8)
    X[0, 0, 0] = highest
    model = narrows.VAE(likelihood="discretised_logistic", hidden=(4,), **UNTRAINED).fit(X)
    assert model.modality_.levels == levels


def test_levels_are_those_of_all_rows():
    """A level that is only in a row held out is known."""
    X = np.zeros((50, 2))
    X[:, 1] = np.arange(50) % 3
    X[-1] = 7, 7
    model = narrows.VAE(likelihood="categorical", validation_split="last", **UNTRAINED).fit(X)
    assert model.modality_.levels == 8
    assert model.net_.likelihood.channels == 8


@every
@pytest.mark.parametrize("value", [-1.0, 0.5])
def test_only_whole_numbers_are_counts(name, value):
    X = DIGITS[:50].copy()
    X[3, 20] = value
    with pytest.raises(
        DataError, match=rf"whole numbers ≥ 0; X holds others, such as {value:g}\."
    ):
        narrows.VAE(likelihood=name, **UNTRAINED).fit(X)
    model = narrows.VAE(likelihood=name, **UNTRAINED).fit(DIGITS[:50])
    with pytest.raises(DataError, match="whole numbers ≥ 0"):
        model.score_samples(X)


@pytest.mark.parametrize("name", ["categorical", "discretised_logistic"])
def test_a_level_that_was_not_there_at_fit_is_refused(name):
    model = narrows.VAE(likelihood=name, **UNTRAINED).fit(DIGITS[:50])
    with pytest.raises(DataError, match=r"holds the number 17; .* the 17 levels from 0 to 16"):
        model.transform(DIGITS[50:100] + 1)


def test_too_many_levels_for_a_softmax_are_refused():
    X = np.arange(20.0).reshape(10, 2) * 100
    with pytest.raises(ParameterError, match=r"from 0 to 1900.* at most 1024"):
        narrows.VAE(likelihood="categorical", **UNTRAINED).fit(X)


@every
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"output_activation": "tanh"}, "output_activation must be 'auto'. Got 'tanh'"),
        ({"scale": "predicted"}, "'scale' .* no effect .* likelihood='gaussian' or 'laplace'"),
    ],
)
def test_fields_without_effect_are_refused(name, options, sentence):
    with pytest.raises(ParameterError, match=sentence):
        narrows.VAE(likelihood=name, **options, **UNTRAINED).fit(DIGITS[:50])


def test_an_interpolation_ends_at_the_reconstructions_in_counts():
    X = np.random.default_rng(0).poisson(30.0, (80, 6)).astype(np.float32)
    model = narrows.VAE(likelihood="poisson", latent_dim=2, epochs=5).fit(X)
    way, ends = model.interpolate(X[0], X[1], 4), model.reconstruct(X[:2])
    np.testing.assert_allclose(way[[0, -1]], ends, rtol=1e-4)
