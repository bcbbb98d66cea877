"""The ladder against the VAE, torch's own divergences, Monte Carlo, and what digits ask for."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.distributions import Normal, kl_divergence

import narrows
from narrows.data.sources import Batch
from narrows.parts.hierarchy import Ladder, Relative, combine
from narrows.parts.latents import DiagonalGaussian, Gaussian

DIGITS = load_digits().data.astype(np.float32)


def normals(n=5, dim=3):
    return DiagonalGaussian(torch.randn(n, dim), torch.randn(n, dim))


def ladder(levels=3, dim=2, seed=0):
    torch.manual_seed(seed)
    made = Ladder(dim, levels)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return made, torch.randn(7, *made.width)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def as_torch(q):
    return Normal(q.mean, (0.5 * q.logvar).exp())


def test_the_divergence_to_other_normals():
    q, p = normals(), normals()
    expected = kl_divergence(as_torch(q), as_torch(p))
    torch.testing.assert_close(Relative(q.mean, q.logvar, p).kl(), expected)


def test_a_product_of_normals_is_normal():
    """log p1 + log p2 - log p12 is the same for every z."""
    one, two = normals(), normals()
    product = combine(one, two)
    constants = [
        one.log_prob(z) + two.log_prob(z) - product.log_prob(z)
        for z in (torch.randn(5, 3), torch.randn(5, 3))
    ]
    torch.testing.assert_close(*constants)
    precision = (-one.logvar).exp() + (-two.logvar).exp()
    torch.testing.assert_close(product.logvar, -precision.log())


def test_hand_made_gradients_pass_gradcheck():
    inputs = torch.randn(4, 5, 3, dtype=torch.float64).requires_grad_().unbind()

    def product(*parts):
        one, two = (DiagonalGaussian(*pair) for pair in (parts[:2], parts[2:]))
        both = combine(one, two)
        return both.mean, both.logvar, Relative(*parts[:2], two).kl()

    assert torch.autograd.gradcheck(product, inputs)


@torch.no_grad()
def test_each_level_is_charged_in_closed_form():
    made, h = ladder()
    noise = torch.randn(7, 6)
    z, charges = made(h, noise)
    z1, z2, z3 = z.chunk(3, 1)
    d2 = made.up[0](h[:, 4:])
    d3 = made.up[1](d2)
    cap = lambda logvar: 2 - torch.nn.functional.softplus(2 - logvar)  # noqa: E731
    above, total = None, torch.zeros(7)
    for level, parameters, code, eps in (
        (3, made.found[1](d3), z3, noise[:, 4:]),
        (2, made.found[0](d2), z2, noise[:, 2:4]),
        (1, h[:, :4], z1, noise[:, :2]),
    ):
        mean, logvar = parameters.chunk(2, 1)
        variance = cap(logvar).exp()
        p = Normal(torch.zeros(7, 2), torch.ones(7, 2))
        if above is not None:
            prior_mean, prior_logvar = made.down[level - 1](above).chunk(2, 1)
            prior = (torch.nn.functional.softplus(cap(prior_logvar) + 8) - 8).exp()
            p = Normal(prior_mean, prior.sqrt())
            mean = (mean / variance + prior_mean / prior) / (1 / variance + 1 / prior)
            variance = 1 / (1 / variance + 1 / prior)
        q = Normal(mean, variance.sqrt())
        torch.testing.assert_close(code, mean + variance.sqrt() * eps)
        torch.testing.assert_close(charges[f"kl_{level}"], kl_divergence(q, p).sum(1))
        total += p.log_prob(code).sum(1)
        above = code
    torch.testing.assert_close(made.prior().log_prob(z), total)


@torch.no_grad()
def test_drawn_codes_have_the_density_that_is_stated():
    """E[p'(z) / p(z)] = 1 for another density p' over draws of p."""
    made, _ = ladder(levels=2, dim=1)
    z = made.prior().sample(200_000)
    other = DiagonalGaussian(torch.zeros(1, 2), torch.full((1, 2), -1.0))
    ratio = (other.log_prob(z) - made.prior().log_prob(z)).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)


@torch.no_grad()
def test_the_posterior_stands_at_the_means():
    made, h = ladder()
    made.eval()
    z, charges = made(h)
    q = made.posterior(h)
    torch.testing.assert_close(q.mean, z)
    torch.testing.assert_close(made.mean(h), z)
    for i, kl in enumerate(q.kl().split(2, 1), 1):
        torch.testing.assert_close(kl.sum(1), charges[f"kl_{i}"])


def test_one_level_is_the_vae_in_the_encoders_units(monkeypatch):
    monkeypatch.setattr(Gaussian, "rate", 0.0)
    options = {"latent_dim": 3, "epochs": 4, "score_draws": 8}
    ladder = narrows.HierarchicalVAE(levels=1, kl_schedule="constant", **options).fit(DIGITS[:200])
    vae = narrows.VAE(**options).fit(DIGITS[:200])
    np.testing.assert_allclose(ladder.transform(DIGITS), vae.transform(DIGITS), atol=1e-4)
    np.testing.assert_allclose(ladder.score(DIGITS), vae.score(DIGITS), rtol=1e-5)
    np.testing.assert_allclose(ladder.sample(3), vae.sample(3), atol=1e-3)
    np.testing.assert_allclose(ladder.unit_kl_, vae.unit_kl_, atol=1e-4)
    assert ladder.history_[-1]["kl_1"] == pytest.approx(vae.history_[-1]["kl"], rel=1e-4)


def test_every_level_is_part_of_the_bound():
    model = narrows.HierarchicalVAE(levels=3, epochs=2, latent_dim=2).fit(DIGITS[:200])
    x, *_ = model.modality_.encode(DIGITS[:9])
    noise, batch = torch.randn(1, 6), Batch(x, x)
    with torch.no_grad():
        step = model.net_.eval()(batch, noise)
        expected = -step.nll - sum(step.charges[f"kl_{i}"] for i in (1, 2, 3))
        torch.testing.assert_close(model.net_.elbo(batch, noise), expected)


def test_the_weight_rises_and_held_out_samples_pay_all_of_it():
    options = {"epochs": 4, "latent_dim": 2, "learning_rate": 1e-30, "weight_decay": 0.0}
    rising = narrows.HierarchicalVAE(**options, kl_warmup=0.99, beta=2.0).fit(DIGITS[:400])
    full = narrows.HierarchicalVAE(**options, kl_schedule="constant", beta=2.0).fit(DIGITS[:400])
    for row, whole in zip(rising.history_, full.history_, strict=True):
        steps = np.arange(3) + 3 * (row["epoch"] - 1)
        expected = whole["kl_1"] * (steps / 12 / 0.99).mean()
        assert row["kl_1"] == pytest.approx(expected, rel=0.2)
        assert row["validation_kl_1"] == pytest.approx(whole["validation_kl_1"], rel=1e-5)
    half = narrows.HierarchicalVAE(**options, kl_schedule="constant").fit(DIGITS[:400])
    assert half.history_[0]["kl_2"] == pytest.approx(full.history_[0]["kl_2"] / 2, rel=1e-4)


def test_all_levels_are_active_on_digits():
    model = narrows.HierarchicalVAE(epochs=40, batch_size=64).fit(DIGITS[:700])
    lower, upper = model.codes_[:, :8].var(0), model.codes_[:, 8:].var(0)
    assert (lower > 0.1).all()
    assert (upper > 0.01).sum() >= 6
    assert model.unit_kl_[8:].sum() > 0.5
    drawn = model.sample(500)
    np.testing.assert_allclose(drawn.mean(0), DIGITS.mean(0), atol=2)
    np.testing.assert_allclose(drawn.std(0).mean(), DIGITS.std(0).mean(), rtol=0.35)
