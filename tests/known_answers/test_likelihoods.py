"""Likelihoods and latents against torch.distributions, closed forms and Monte Carlo."""

from math import log

import pytest
import torch
from torch import distributions

import narrows
from narrows.parts.latents import LATENTS, DiagonalGaussian
from narrows.parts.latents import Gaussian as GaussianLatent
from narrows.parts.likelihoods import LIKELIHOODS, Bernoulli, Discrete, Gaussian, Laplace
from narrows.terms import average


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


CONTINUOUS = [name for name, cls in LIKELIHOODS.items() if not issubclass(cls, Discrete)]
REFERENCE = {Gaussian: distributions.Normal, Laplace: distributions.Laplace}
SHAPES = [(7,), (3, 4, 5), (1,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", REFERENCE)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("units", [False, True])
def test_nll_is_the_density_of_torch_distributions(cls, shape, masked, units):
    mean, x = torch.randn(6, *shape), torch.randn(6, *shape)
    mask = (torch.rand(6, *shape) < 0.7).float() if masked else None
    log_units = torch.randn(shape if len(shape) == 1 else (shape[0], 1, 1)) if units else None
    likelihood = cls(scale=0.7, log_units=log_units)
    expected = REFERENCE[cls](mean, 0.7).log_prob(x)
    if units:  # a density of x times the units
        expected = expected - log_units
    if masked:
        expected = expected * mask
    found = likelihood.nll(mean, x, mask)
    assert found.shape == (6,)
    torch.testing.assert_close(found, -expected.flatten(1).sum(1), rtol=1e-5, atol=1e-5)


def test_a_scale_of_one_is_the_textbook_squared_error():
    mean, x = torch.randn(6, 9), torch.randn(6, 9)
    likelihood = Gaussian(scale=1.0)
    difference = likelihood.nll(mean, x) - likelihood.nll(x, x)
    torch.testing.assert_close(difference, 0.5 * (mean - x).square().sum(1))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bernoulli_is_the_density_of_torch_distributions(shape, masked):
    logits, x = torch.randn(6, *shape), torch.rand(6, *shape).round()
    mask = (torch.rand(6, *shape) < 0.7).float() if masked else None
    expected = distributions.Bernoulli(logits=logits).log_prob(x)
    expected = expected * mask if masked else expected
    torch.testing.assert_close(Bernoulli().nll(logits, x, mask), -expected.flatten(1).sum(1))


def values(name, *shape):
    """Data that a likelihood can explain."""
    whole = issubclass(LIKELIHOODS[name], Discrete)
    return torch.randint(0, 5, shape).float() if whole else torch.rand(shape)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_mask_hides_what_it_covers(name):
    likelihood = LIKELIHOODS[name]()
    out, x = torch.randn(5, 8 * likelihood.channels), values(name, 5, 8)
    mask = torch.ones(5, 8)
    mask[:, 2:5] = 0
    other = torch.where(mask > 0, x, x.flip(0))
    torch.testing.assert_close(likelihood.nll(out, x, mask), likelihood.nll(out, other, mask))
    hidden = likelihood.nll(out, x, torch.zeros(5, 8))
    torch.testing.assert_close(hidden, torch.zeros(5))
    torch.testing.assert_close(
        likelihood.nll(out, x, torch.ones(5, 8)), likelihood.nll(out, x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_gradient_of_the_nll_is_right(name):
    likelihood = LIKELIHOODS[name]().double()
    out = torch.randn(2, 5 * likelihood.channels, dtype=torch.float64, requires_grad=True)
    x = values(name, 2, 5).double()
    torch.autograd.gradcheck(lambda out: likelihood.nll(out, x), out)


@pytest.mark.parametrize("cls", REFERENCE)
def test_the_gradient_of_a_learned_scale_is_right(cls):
    likelihood = cls(scale="learned").double()
    out, x = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)

    def nll(log_scale):
        return torch.func.functional_call(likelihood, {"log_scale": log_scale}, (out, x))

    likelihood.forward = likelihood.nll
    start = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(nll, start)


# -- the optimal scale ------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("cls", REFERENCE)
def test_the_optimal_scale_is_the_optimum_of_a_batch(cls, units, weighted, masked):
    """After the first update, no other scale has a smaller nll: its gradient is zero."""
    out, x = torch.randn(50, 8), 3 * torch.randn(50, 8)
    mask = (torch.rand(50, 8) < 0.6).float() if masked else None
    weight = torch.rand(50) if weighted else None
    log_units = torch.randn(8) if units else None
    optimal = cls(log_units=log_units)
    learned = cls(scale="learned", log_units=log_units)
    optimal.update(optimal.nll(out, x, mask), x, mask, weight)
    with torch.no_grad():
        learned.log_scale.copy_(optimal.log_scale)
    loss = average(learned.nll(out, x, mask), weight)
    (slope,) = torch.autograd.grad(loss, learned.log_scale)
    assert abs(float(slope)) < 1e-4
    with torch.no_grad():
        learned.log_scale.add_(0.1)
        assert average(learned.nll(out, x, mask), weight) > loss
        learned.log_scale.add_(-0.2)
        assert average(learned.nll(out, x, mask), weight) > loss


def test_the_optimal_scale_is_a_running_mean():
    """r <- r + max(1/n, 0.1) (batch mean of squares - r)."""
    likelihood, r = Gaussian(), 1.0
    for n in range(1, 30):
        out, x = torch.randn(10, 4), torch.randn(10, 4) * n
        likelihood.update(likelihood.nll(out, x), x)
        r += max(1 / n, 0.1) * (float((out - x).square().mean()) - r)
        assert likelihood.log_scale.exp().square() == pytest.approx(r, rel=1e-4)


def test_the_optimal_scale_has_a_floor():
    likelihood = Gaussian()
    x = torch.zeros(4, 2)
    for _ in range(5):
        likelihood.update(likelihood.nll(x, x), x)
    assert likelihood.log_scale.exp() == pytest.approx(1e-3)
    assert likelihood.nll(x, x).isfinite().all()


@pytest.mark.parametrize("of", ["weight", "mask"])
def test_a_batch_that_counts_for_nothing_does_not_move_the_optimal_scale(of):
    likelihood, x = Gaussian(), torch.zeros(4, 2)
    likelihood.log_scale.fill_(0.7)
    nothing = {"weight": torch.zeros(4)} if of == "weight" else {"mask": torch.zeros(4, 2)}
    for _ in range(5):
        nll = likelihood.nll(x + 3, x, nothing.get("mask"))
        likelihood.update(nll, x, **nothing)
    assert float(likelihood.log_scale) == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(("scale", "fixed"), [(0.4, 0.4), ("learned", 1.0)])
def test_other_scales_are_not_updated(scale, fixed):
    likelihood = Gaussian(scale=scale)
    out, x = torch.zeros(4, 2), 9 * torch.ones(4, 2)
    likelihood.update(likelihood.nll(out, x), x)
    assert float(likelihood.log_scale.detach().exp()) == pytest.approx(fixed)


@pytest.mark.parametrize("scale", ["optimal", "learned"])
def test_the_scale_converges_to_the_error_in_training(scale, cancer):
    model = narrows.LinearAutoencoder(
        latent_dim=5, epochs=60, scale=scale, learning_rate=0.01, scaling="none", validation=0.0
    ).fit(cancer)
    rms = ((model.reconstruct(cancer) - cancer) ** 2).mean() ** 0.5
    assert float(model.net_.likelihood.log_scale.detach().exp()) == pytest.approx(rms, rel=0.05)


# -- predicted scales -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", REFERENCE)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("units", [False, True])
def test_a_predicted_scale_is_that_of_each_value(cls, shape, masked, units):
    mean, raw, x = (torch.randn(6, *shape).double() for _ in range(3))
    mask = (torch.rand(6, *shape) < 0.7).double() if masked else None
    size = shape if len(shape) == 1 else (shape[0], 1, 1)
    log_units = torch.randn(size).double() if units else None
    likelihood = cls(scale="predicted", log_units=log_units).double()
    assert likelihood.channels == 2
    likelihood.log_scale.fill_(log(0.5))
    scale = 0.5 * (log(20) * (raw / log(20)).tanh()).exp()
    expected = REFERENCE[cls](mean, scale).log_prob(x)
    expected = expected - log_units if units else expected
    expected = expected * mask if masked else expected
    out = torch.cat([mean, raw], 1)
    torch.testing.assert_close(likelihood.nll(out, x, mask), -expected.flatten(1).sum(1))
    torch.testing.assert_close(likelihood.mean(out), mean)


@pytest.mark.parametrize("cls", REFERENCE)
def test_the_gradient_of_a_predicted_scale_is_right(cls):
    likelihood = cls(scale="predicted").double()
    out = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.autograd.gradcheck(lambda out: likelihood.nll(out, x), out)


@pytest.mark.parametrize("cls", REFERENCE)
@pytest.mark.parametrize("extreme", [-1e6, 1e6])
def test_a_predicted_scale_never_overflows(cls, extreme):
    likelihood, x = cls(scale="predicted"), torch.randn(4, 3)
    out = torch.cat([torch.zeros(4, 3), torch.full((4, 3), extreme)], 1).requires_grad_()
    nll = likelihood.nll(out, x)
    (gradient,) = torch.autograd.grad(nll.sum(), out)
    assert nll.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("cls", REFERENCE)
def test_draws_have_the_predicted_scale(cls):
    out = torch.tensor([1.0, -2.0, log(0.5), log(2.0)]).repeat(200_000, 1)
    likelihood = cls(scale="predicted")
    likelihood.reach = 1e3  # as good as no bound
    draws = likelihood.sample(out)
    reference = REFERENCE[cls](torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(draws.mean(0), reference.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.std(0), reference.stddev, atol=0.03, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_a_predicted_scale_starts_at_the_spread_of_the_data(masked):
    likelihood = Gaussian(scale="predicted")
    x = torch.tensor([5.0, -3.0]) + 40 * torch.randn(5000, 2)
    mask = (torch.rand(5000, 2) < 0.5).float() if masked else None
    start = likelihood.start(x if mask is None else x * mask, mask, (0,))
    seen = x if mask is None else torch.where(mask > 0, x, torch.nan)
    torch.testing.assert_close(start[:2], seen.nanmean(0))
    assert torch.equal(start[2:], torch.zeros(2))
    assert float(likelihood.log_scale.exp()) == pytest.approx(40, rel=0.03)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_predicted_scales_find_where_the_noise_is(likelihood):
    """For half of the rows, the noise of the first columns is ten times as large."""
    z, noise = torch.randn(1000, 1), 0.1 * torch.randn(1000, 6)
    loud = (z > 0).float()
    noise[:, :3] *= 1 + 9 * loud
    X = (z * torch.linspace(-1, 1, 6) + noise).numpy()
    options = {"latent_dim": 2, "epochs": 25, "likelihood": likelihood}
    optimal, predicted = (
        narrows.VAE(scale=scale, **options).fit(X[:800]) for scale in ("optimal", "predicted")
    )
    assert predicted.score(X[800:]) > optimal.score(X[800:]) + 0.5
    code = torch.from_numpy(predicted.transform(X[800:]))
    _, log_scale = predicted.net_.likelihood.split(predicted.net_.decoder(code))
    rows = loud[800:, 0] > 0
    assert (log_scale[rows, :3].mean() - log_scale[~rows, :3].mean()).exp() > 2


# -- means, draws, biases ---------------------------------------------------------------------


@pytest.mark.parametrize("cls", REFERENCE)
def test_draws_have_the_moments_of_the_density(cls):
    out = torch.tensor([1.0, -2.0]).repeat(200_000, 1)
    draws = cls(scale=0.5).sample(out)
    reference = REFERENCE[cls](torch.tensor([1.0, -2.0]), 0.5)
    torch.testing.assert_close(draws.mean(0), reference.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(draws.std(0), reference.stddev, atol=0.01, rtol=0)
    quartiles = torch.quantile(draws[:, 0], torch.tensor([0.25, 0.75]))
    expected = reference.icdf(torch.tensor([[0.25], [0.75]]))[:, 0]
    torch.testing.assert_close(quartiles, expected, atol=0.01, rtol=0)


def test_bernoulli_draws_have_the_mean_and_are_binary():
    out = torch.tensor([1.0, -2.0]).repeat(200_000, 1)
    draws = Bernoulli().sample(out)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), out[0].sigmoid(), atol=0.005, rtol=0)


@pytest.mark.parametrize("output", ["linear", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_bias_gives_the_mean_back(name, output):
    if name == "bernoulli" and output != "sigmoid":
        return
    likelihood = LIKELIHOODS[name](output=output)
    mean = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(likelihood.mean(likelihood.bias(mean)), mean)
    assert likelihood.bias(torch.tensor([0.0, 1.0])).isfinite().all()


# -- the posterior ----------------------------------------------------------------------------


def posterior(n=5, d=3):
    q = DiagonalGaussian(torch.randn(n, d), torch.randn(n, d))
    return q, distributions.Normal(q.mean, (0.5 * q.logvar).exp())


def test_the_kl_is_that_of_torch_distributions():
    q, reference = posterior()
    expected = distributions.kl_divergence(reference, distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl(), expected, rtol=1e-5, atol=1e-6)


def test_the_kl_of_the_prior_is_zero():
    prior = GaussianLatent(4).prior()
    torch.testing.assert_close(prior.kl(), torch.zeros(1, 4))


def test_the_kl_is_what_monte_carlo_finds():
    q, _ = posterior()
    p = GaussianLatent(3).prior()
    z = q.rsample(torch.randn(200_000, 5, 3))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std(0) / 200_000**0.5
    assert ((ratio.mean(0) - q.kl().sum(1)).abs() < 5 * error).all()


def test_log_prob_is_that_of_torch_distributions():
    q, reference = posterior()
    z = torch.randn(5, 3)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z).sum(1), rtol=1e-5, atol=1e-5)


def test_draws_have_the_moments_of_the_posterior():
    q = DiagonalGaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[log(4.0), log(0.25)]]))
    z = q.rsample(torch.randn(200_000, 2))
    torch.testing.assert_close(z.mean(0), q.mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([2.0, 0.5]), atol=0.02, rtol=0)
    assert abs(float(torch.corrcoef(z.T)[0, 1])) < 0.01


def test_draws_carry_the_gradient_of_the_posterior():
    """z = mean + sigma * noise: dz/dmean = 1 and dz/dlogvar = sigma * noise / 2."""
    mean, logvar = torch.randn(1, 3, requires_grad=True), torch.randn(1, 3, requires_grad=True)
    noise = torch.randn(1, 3)
    z = DiagonalGaussian(mean, logvar).rsample(noise)
    to_mean, to_logvar = torch.autograd.grad(z.sum(), [mean, logvar])
    torch.testing.assert_close(to_mean, torch.ones(1, 3))
    torch.testing.assert_close(to_logvar, 0.5 * (0.5 * logvar.detach()).exp() * noise)


def test_every_draw_is_new():
    q, _ = posterior()
    assert not torch.equal(q.rsample(), q.rsample())


def test_a_gaussian_code_is_drawn_in_training_and_the_mean_in_evaluation():
    latent, h = GaussianLatent(3), torch.randn(5, 6)
    q = latent.posterior(h)
    z, charges = latent.train()(h)
    assert not torch.equal(z, q.mean)
    torch.testing.assert_close(charges["kl"], q.kl().sum(1))
    z, charges = latent.eval()(h)
    assert torch.equal(z, q.mean)
    torch.testing.assert_close(charges["kl"], q.kl().sum(1))
    noise = torch.ones(1, 3)
    z, _ = latent(h, noise)
    torch.testing.assert_close(z, q.mean + (0.5 * q.logvar).exp())


def test_the_halves_of_h_are_the_mean_and_a_capped_log_variance():
    h = torch.tensor([[0.3, -1.0, -9.0, -3.0], [5.0, 0.0, 0.0, 40.0]])
    q = GaussianLatent(2).posterior(h)
    assert torch.equal(q.mean, h[:, :2])
    torch.testing.assert_close(q.logvar[0], h[0, 2:], atol=0.01, rtol=0)  # small: as it is
    assert -0.15 < q.logvar[1, 0] < 0
    assert q.logvar[1, 1] == 2.0  # whatever h, no larger variance


@pytest.mark.parametrize("name", LATENTS)
def test_a_latent_keeps_its_shapes(name):
    latent = LATENTS[name](3)
    h = torch.randn(5, *latent.width)
    z, charges = latent(h)
    assert z.shape == latent.mean(h).shape == (5, *latent.code_shape)
    assert all(charge.shape in ((5,), ()) for charge in charges.values())
    if not latent.stochastic:  # a flow's posterior is known at its own draws only
        assert latent.posterior(h) is None


@pytest.mark.parametrize("extreme", [-60.0, 30.0, 1e6])
def test_an_extreme_posterior_stays_finite(extreme):
    h = torch.cat([torch.zeros(2, 3), torch.full((2, 3), extreme)], 1).requires_grad_()
    z, charges = GaussianLatent(3)(h)
    (gradient,) = torch.autograd.grad(z.square().mean() + charges["kl"].mean(), h)
    assert gradient.isfinite().all()
    assert charges["kl"].isfinite().all()


def test_far_from_the_data_no_bernoulli_scores_higher(digits):
    """Beyond [0, 1] the cross-entropy would fall without end."""
    model = narrows.VAE(likelihood="bernoulli", latent_dim=2, epochs=5).fit(digits)
    scores = model.score_samples(10 * digits)
    assert scores.max() < 0
    assert scores.mean() < model.score(digits)
    assert (
        model.score_samples(1000 * digits).tolist() == model.score_samples(100 * digits).tolist()
    )
