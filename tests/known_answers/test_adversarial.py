"""Critics against closed forms; the players' gradients against the papers' separate losses."""

from functools import cache
from math import log, pi, sqrt

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import logsigmoid

import narrows
from narrows.data.sources import Batch, InMemory
from narrows.errors import DataError, ParameterError
from narrows.optimizer import AdamW
from narrows.parts.critics import (
    Critic,
    deception,
    detection,
    gradient_penalty,
    permute_dims,
    standardised,
)
from narrows.parts.latents import DiagonalGaussian
from narrows.parts.matched import Matched
from narrows.parts.spectral import Spectral
from narrows.training import Training

MODELS = [narrows.AdversarialAutoencoder, narrows.FactorVAE, narrows.VAEGAN]
GAMES = [  # sets of samples that the critic sees, largest error, range of the code's deviations
    (narrows.AdversarialAutoencoder, 2, 0.7, (0.8, 1.3)),
    (narrows.FactorVAE, 2, 0.7, (0.3, 3.0)),
    (narrows.VAEGAN, 3, 0.9, (0.5, 2.0)),
    (narrows.SemiSupervisedAdversarialAutoencoder, 2, 0.7, (0.8, 1.6)),
]
PRIORS = ["normal", "mixture", "uniform"]
SMALL = {"latent_dim": 2, "hidden": (16,), "critic_hidden": (16,), "epochs": 3, "batch_size": 64}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def train(critic, draw, steps=400, penalty=0.0):
    """Train a critic on pairs (true, false) that `draw` returns."""
    optimizer = AdamW(dict(critic.named_parameters()), 3e-3, betas=(0.5, 0.9))
    for i in range(steps):
        optimizer.rate.fill_(3e-3 * (1 - i / steps))
        true, false = draw()
        loss = detection(critic(true), critic(false)).mean()
        if penalty:
            loss = loss + penalty * gradient_penalty(critic, true).mean()
        optimizer.update(torch.autograd.grad(loss, optimizer.parameters))
    return critic


def batch_of(model, X, n=64):
    x, mask, _ = model.modality_.encode(model.modality_.read(X[:n], "test"))
    return InMemory(x, mask).take(torch.arange(n))


def gradients(loss, parameters):
    return torch.autograd.grad(
        loss, parameters, allow_unused=True, materialize_grads=True, retain_graph=True
    )


# -- what the players pay ---------------------------------------------------------------------


def test_the_losses_are_the_cross_entropies_of_the_logits():
    true, false, other = torch.randn(3, 7)
    expected = -logsigmoid(true) - (1 - false.sigmoid()).log() - (1 - other.sigmoid()).log()
    torch.testing.assert_close(detection(true, false, other), expected)
    torch.testing.assert_close(deception(false), -false.sigmoid().log())


def test_a_critic_of_equal_samples_ends_at_log_4():
    critic = train(Critic((3,), (16,)), lambda: torch.randn(2, 256, 3))
    true, false = torch.randn(2, 20_000, 3)
    with torch.no_grad():
        loss = detection(critic(true), critic(false)).mean()
        assert float(critic(true).abs().mean()) < 0.1
    assert float(loss) == pytest.approx(log(4), abs=0.003)


def test_the_logit_of_a_trained_critic_is_the_log_ratio_of_the_densities():
    """Of N(0, 1) and N(1, 1) it is ½ - x."""
    critic = train(
        Critic((1,), (16,)), lambda: (torch.randn(512, 1), torch.randn(512, 1) + 1), steps=800
    )
    x = torch.linspace(-1, 2, 13)[:, None]
    with torch.no_grad():
        assert (critic(x) - (0.5 - x[:, 0])).abs().max() < 0.2


def test_r1_is_half_the_squared_gradient_of_each_logit():
    critic = Critic((5,), (8,)).double()
    nn.init.normal_(critic.head.weight)  # it starts at zero
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    expected = 0.5 * gradient.square().sum(1)
    torch.testing.assert_close(gradient_penalty(critic, x), expected)
    with torch.no_grad():  # as in validation
        torch.testing.assert_close(gradient_penalty(critic, x), expected.detach())


def test_the_gradient_of_r1_reaches_the_critic():
    critic, x = Critic((1, 5, 4), (2,)).double(), torch.randn(3, 1, 5, 4, dtype=torch.float64)
    weight = critic.body[0].weight
    nn.init.normal_(critic.head.weight)

    def penalty(value):
        return gradient_penalty(lambda x: torch.func.functional_call(critic, value, (x,)), x)

    torch.autograd.gradcheck(
        lambda w: penalty({"body.0.weight": w}), weight.detach().requires_grad_()
    )
    assert gradients(gradient_penalty(critic, x).sum(), [weight])[0].norm() > 0


def test_the_gradient_of_standardised_codes_passes_gradcheck():
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(standardised, z)


# -- spectral norm ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(2, 3, 3)], ids=["dense", "conv"])
def test_the_spectral_norm_is_the_largest_singular_value(layer):
    normalised = Spectral(layer)
    for _ in range(200):
        normalised.iterate()
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    torch.testing.assert_close(normalised.sigma(), exact, rtol=1e-4, atol=0)
    x = torch.randn(4, *((7,) if isinstance(layer, nn.Linear) else (2, 6, 5)))
    bias = layer.bias.view(-1, *(1 for _ in x.shape[2:]))
    torch.testing.assert_close(
        normalised(x) - bias, (layer(x) - bias) / exact, rtol=1e-4, atol=1e-5
    )
    (gradient,) = gradients(normalised.sigma(), [layer.weight])  # d sigma / dW = u v'
    outer = torch.outer(normalised.u, normalised.v).view_as(gradient)
    torch.testing.assert_close(gradient, outer)


def test_the_norms_follow_training_and_bound_the_critic(digits):
    """Layers of norm 1 and silu, whose slope is at most 1.1: no logit is steeper than 1.1."""
    model = narrows.AdversarialAutoencoder(**SMALL, spectral_norm=True, r1=0.0).fit(digits)
    critic = model.net_.critic
    for layer in (layer for layer in critic.modules() if isinstance(layer, Spectral)):
        exact = torch.linalg.matrix_norm(layer.layer.weight, 2)
        torch.testing.assert_close(layer.sigma(), exact, rtol=0.02, atol=0)
    steep = gradient_penalty(critic, 3 * torch.randn(500, 2)).detach()
    assert float((2 * steep).sqrt().max()) < 1.1 * 1.02
    before = [buffer.clone() for buffer in critic.buffers()]
    model.transform(digits)
    model.score_samples(digits)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.buffers(), strict=True))


# -- FactorVAE --------------------------------------------------------------------------------


def test_permuted_codes_keep_the_marginals_and_lose_the_dependence():
    z = torch.randn(4000, 1) + 0.1 * torch.randn(4000, 3)
    shuffled = permute_dims(z)
    torch.testing.assert_close(shuffled.sort(0).values, z.sort(0).values, rtol=0, atol=0)
    off = torch.corrcoef(shuffled.T) - torch.eye(3)
    assert off.abs().max() < 0.06
    assert torch.corrcoef(z.T).min() > 0.98


CORRELATION = 0.8
EXACT = -0.5 * log(1 - CORRELATION**2)


class Ratio(nn.Module):
    """log q(z) / q(z_1) q(z_2) of unit normals of a known correlation: the best critic."""

    def forward(self, z):
        r, (a, b) = CORRELATION, z.unbind(1)
        square = (a**2 - 2 * r * a * b + b**2) / (1 - r**2)
        return -0.5 * (log(1 - r**2) + square - a**2 - b**2)


def correlated(n):
    a, b = torch.randn(2, n)
    return torch.stack([a, CORRELATION * a + sqrt(1 - CORRELATION**2) * b], 1)


def test_the_best_critic_gives_the_closed_form_of_the_total_correlation(digits):
    model = narrows.FactorVAE(**SMALL, gamma=3.0).fit(digits)
    step = model.net_(batch_of(model, digits))
    model.net_.critic = Ratio()
    step = narrows.net.replace(step, z=correlated(200_000))
    found = float(model.objective(step)["total_correlation"].mean())
    assert found == pytest.approx(3.0 * EXACT, rel=0.02)


def test_shifts_and_scales_of_units_hide_no_total_correlation(digits):
    """The same price, also to the encoder: no gradient points along them."""
    model = narrows.FactorVAE(**SMALL, gamma=3.0).fit(digits)
    step = model.net_(batch_of(model, digits))
    model.net_.critic = Ratio()
    z = correlated(1000)
    scale = torch.tensor([0.1, 5.0], requires_grad=True)
    shift = torch.tensor([1.0, -20.0], requires_grad=True)
    prices = [
        model.objective(narrows.net.replace(step, z=code))["total_correlation"]
        for code in (z, z * scale + shift)
    ]
    torch.testing.assert_close(prices[1], prices[0], rtol=1e-3, atol=1e-3)
    for gradient in gradients(prices[1].mean(), [scale, shift]):
        assert gradient.abs().max() < 1e-3


def test_the_critic_of_factor_vae_sees_standardised_codes_and_their_shuffles(digits):
    model = narrows.FactorVAE(**SMALL).fit(digits)
    batch, seen = batch_of(model, digits), []
    moves = model.losses(batch)
    z = next(moves).step.z
    model.net_.critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    next(moves)
    torch.testing.assert_close(seen[0], standardised(z.detach()))
    torch.testing.assert_close(seen[1].sort(0).values, seen[0].sort(0).values)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[0].std(0, correction=0), torch.ones(2), rtol=1e-4, atol=0)


def test_a_critic_of_shuffled_codes_finds_the_total_correlation():
    """By FactorVAE's own moves: codes against their shuffles in batches."""

    def draw():
        z = correlated(512)
        return z, permute_dims(z)

    critic = train(Critic((2,), (32, 32)), draw, steps=1200)
    with torch.no_grad():
        assert float(critic(correlated(50_000)).mean()) == pytest.approx(EXACT, rel=0.1)


def test_factor_vae_without_gamma_is_the_vae(digits):
    """Its own moves change nothing of the autoencoder's, noise aside."""
    factor = narrows.FactorVAE(**SMALL, gamma=0.0).fit(digits)
    step = factor.net_(batch_of(factor, digits))
    terms = factor.objective(step)
    torch.testing.assert_close(terms["kl"], step.charges["kl"])
    assert not terms["total_correlation"].any()


def test_gamma_lowers_the_dependence_of_the_codes():
    """Points of a ring have two uncorrelated units, of which one still tells of the other.

    A new critic judges the codes.
    """
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * pi, 1000)
    X = np.stack([np.cos(angle), np.sin(angle)], 1) @ rng.normal(size=(2, 6))
    X += rng.normal(0, 0.2, X.shape)

    def dependence(gamma):
        options = {"latent_dim": 2, "hidden": (32,), "critic_hidden": (32,), "epochs": 15}
        model = narrows.FactorVAE(**options, learning_rate=1e-2, gamma=gamma).fit(X[:600])
        model.net_.latent.train()
        with torch.no_grad():
            z = model.net_(batch_of(model, X[600:], 400)).z
        critic = train(Critic((2,), (32,)), lambda: (z, permute_dims(z)), steps=200)
        return float(critic(z).mean().detach())

    assert dependence(20.0) < 0.5 * dependence(0.0)


# -- priors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "mixture", "uniform"])
def test_a_prior_samples_its_own_density(kind):
    """The density integrates to 1, and a histogram of draws has its values."""
    prior = Matched(2, kind, 5).prior()
    end = 2.5 * sqrt(3)  # the box ends between two cells
    edges = torch.linspace(-end, end, 101)
    middle = (edges[1:] + edges[:-1]) / 2
    mass = prior.log_prob(torch.cartesian_prod(middle, middle)).exp() * (end / 50) ** 2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    torch.manual_seed(0)
    z = prior.sample(400_000)
    seen = torch.histogramdd(z, [100, 100], range=[-end, end, -end, end]).hist.flatten() / len(z)
    assert float((seen - mass).abs().sum()) < 0.15  # of 2
    torch.manual_seed(0)
    assert torch.equal(prior.sample(400_000), z)


def test_the_priors_are_what_they_say():
    z = torch.tensor([[0.5, -1.0, 0.3]])
    normal = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(Matched(3).prior().log_prob(z), normal)
    box = Matched(3, "uniform").prior()
    torch.testing.assert_close(box.log_prob(z), torch.tensor([-3 * log(2 * sqrt(3))]))
    assert box.log_prob(torch.tensor([[0.0, 0.0, 1.8]])) == -torch.inf
    draws = Matched(3, "mixture", 10).prior().sample(50_000)
    assert (draws[:, :2].norm(dim=1) - 2).abs().max() < 0.3 * 6
    assert float(draws[:, 2].std()) == pytest.approx(1, abs=0.02)
    centres = Matched(3, "mixture", 10).prior().components.mean
    torch.testing.assert_close(centres[5], torch.tensor([-2.0, 0.0, 0.0]))
    offset = draws - centres[torch.cdist(draws, centres).argmin(1)]
    assert float(offset[:, :2].std()) == pytest.approx(0.3, rel=0.05)


def test_a_mixture_needs_a_plane_and_components_a_mixture(digits):
    with pytest.raises(ParameterError, match=r"circle and needs latent_dim ≥ 2. Got 1"):
        narrows.AdversarialAutoencoder(latent_dim=1, prior="mixture").fit(digits)
    with pytest.raises(ParameterError, match=r"'components'.*has no effect with prior='normal'"):
        narrows.AdversarialAutoencoder(components=3).fit(digits)
    with pytest.raises(ParameterError, match=r"no prior 'flat'. It is one of \('normal'"):
        Matched(2, "flat")


# -- adversarial autoencoder ------------------------------------------------------------------


def test_a_matched_code_is_a_point_whose_score_is_its_nll(digits):
    model = narrows.AdversarialAutoencoder(**SMALL).fit(digits)
    assert not model.net_.latent.stochastic
    assert model.unit_kl_ is None
    batch = batch_of(model, digits)
    with torch.no_grad():
        step = model.net_.eval()(batch)
    np.testing.assert_array_equal(model.score_samples(digits[:64]), -step.nll.numpy())
    assert set(step.charges) == set()


def mmd(a, b):
    """Unbiased squared MMD of inverse multiquadrics."""

    def kernel(x, y):
        distance = torch.cdist(x, y).square()
        return sum(c * a.shape[1] / (c * a.shape[1] + distance) for c in (0.2, 1.0, 5.0))

    def within(x):
        k = kernel(x, x)
        return (k.sum() - k.diag().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


MATCHING = {"hidden": (64,), "epochs": 30, "batch_size": 64, "learning_rate": 5e-3}


@cache
def plain_codes():
    X = load_digits().data
    model = narrows.Autoencoder(**MATCHING).fit(X[:1400])
    return torch.from_numpy(model.transform(X[1400:]))


@pytest.mark.parametrize(
    "prior", ["normal", *(pytest.param(name, marks=pytest.mark.wide) for name in PRIORS[1:])]
)
def test_held_out_codes_are_distributed_like_the_prior(prior):
    X = load_digits().data
    options = MATCHING | {"critic_hidden": (64, 64), "adversarial": 20.0, "r1": 0.1}
    model = narrows.AdversarialAutoencoder(**options, prior=prior).fit(X[:1400])
    codes = torch.from_numpy(model.transform(X[1400:]))
    draws = model.net_.latent.prior().sample(2000)
    assert mmd(codes, draws) < 0.35 * mmd(plain_codes(), draws)
    assert (codes.mean(0)).abs().max() < 0.5
    assert 0.6 < (codes.std(0) / draws.std(0)).min() <= (codes.std(0) / draws.std(0)).max() < 1.4


# -- VAE-GAN ----------------------------------------------------------------------------------


def paid(model, batch):
    (move, _) = list(model.losses(batch))
    return move.terms


@pytest.fixture(scope="module")
def few_labels():
    """Digits with a fifth of their labels, all labels, and a model of them."""
    X, y = load_digits(return_X_y=True)
    few = np.where(np.arange(len(y)) % 5, -1, y)
    return narrows.SemiSupervisedAdversarialAutoencoder(epochs=40, seed=0).fit(X, few), X, few, y


@pytest.mark.wide
def test_known_labels_have_their_gaussians_and_the_unknown_follow(few_labels):
    model, X, few, y = few_labels
    known = few >= 0
    assert (model.predict(X[known]) == y[known]).mean() > 0.95
    assert (model.predict(X[~known]) == y[~known]).mean() > 0.7
    np.testing.assert_allclose(model.predict_proba(X[:50]).sum(1), 1, rtol=1e-5)
    judge = LogisticRegression(max_iter=1000).fit(X / 16, y)
    wanted = np.repeat(model.classes_, 20)
    drawn = model.sample(200, condition=wanted)
    assert (judge.predict(drawn / 16) == wanted).mean() > 0.85
    with pytest.raises(ParameterError, match="knows no labels"):
        model.sample(3, condition=1, density=True)


def test_the_critic_is_told_the_label_or_that_it_is_unknown(few_labels):
    model, X, few, _ = few_labels
    x, *_ = model.modality_.encode(X[:40])
    condition, known = model.modality_.conditions(X[:40], few[:40])
    batch = Batch(x, x, condition=condition, known=known)
    z = model.net_.latent.mean(model.net_.eval().encode(batch)[0])
    told = model.net_.latent.judged(z, batch)
    torch.testing.assert_close(told[:, :2], z)
    for row, label in zip(told[:, 2:], few[:40], strict=True):
        assert row.tolist() == [float(i == (label if label >= 0 else 10)) for i in range(11)]
    torch.manual_seed(0)
    draws = torch.stack([model.net_.latent.drawn(batch) for _ in range(200)])
    centres = model.net_.latent.prior().components.mean
    nearest = torch.cdist(draws, centres).argmin(-1)
    held = torch.as_tensor(few[:40] >= 0)
    assert (nearest[:, held] == torch.as_tensor(few[:40])[held]).float().mean() > 0.95
    frequent = torch.bincount(nearest[:, ~held].flatten(), minlength=10) / (200 * (~held).sum())
    torch.testing.assert_close(
        frequent, torch.tensor(model.modality_.condition.shares), atol=0.02, rtol=0
    )
    step = model.net_(batch)
    log_p = DiagonalGaussian(centres, torch.full_like(centres, 2 * log(0.3)))
    every = log_p.log_prob(z[:, None]) + torch.tensor(model.modality_.condition.shares).log()
    missed = torch.nn.functional.cross_entropy(
        every[held], torch.as_tensor(few[:40])[held].long(), reduction="none"
    )
    found = model.objective(step)["label"]
    torch.testing.assert_close(found[held], 10 / model.modality_.condition.labelled * missed)
    assert not found[~held].any()


@pytest.mark.parametrize(
    ("y", "message"), [(None, "requires y"), (np.ones((64, 2)), "one label a sample")]
)
def test_labels_are_asked_for(y, message, digits):
    with pytest.raises(DataError, match=message):
        narrows.SemiSupervisedAdversarialAutoencoder().fit(digits[:64], y)


@pytest.mark.parametrize("direct", [0.0, 0.4])
def test_encoder_and_decoder_of_a_vaegan_pay_what_they_should(digits, direct):
    """The gradients of one move against those of two separate losses; the paper's at direct=0."""
    model = narrows.VAEGAN(**SMALL, gamma=0.3, beta=2.0, scale=0.5, direct=direct).fit(digits)
    net, batch = model.net_.eval(), batch_of(model, digits)
    torch.manual_seed(1)
    loss = sum(term.mean() for term in paid(model, batch).values())
    net.gear = 1.0  # from here on, one gradient is for all
    torch.manual_seed(1)
    h = net.encoder(batch)
    mean, logvar = net.latent.posterior(h).mean, net.latent.posterior(h).logvar
    prior = torch.randn(64, 2)
    wanted, values = net.critic.features(batch.x).detach(), batch.x.shape[1]

    def normal(found, wanted):
        return 0.5 * (((found - wanted) / 0.5).square() + 2 * log(0.5) + log(2 * pi)).mean()

    def unlikeness(z):
        feature = normal(net.critic.features(net.decode(z)), wanted)
        return (feature + direct * normal(net.decode(z), batch.x)) / (1 + direct)

    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
    fooled = sum(-logsigmoid(net.critic(net.decode(z))).mean() for z in (mean, prior))
    losses = {
        "encoder": 2.0 * kl + values * unlikeness(mean),
        "decoder": 0.3 * unlikeness(mean) + fooled,
    }
    for name, expected in losses.items():
        own = list(net.get_submodule(name).parameters())
        for a, b in zip(gradients(loss, own), gradients(expected, own), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blur", [{"dropout": 0.3}, {"batch_norm": True}], ids=str)
def test_what_blurs_a_pass_of_a_vaegan_does_not_blur_what_is_paid(blur, digits):
    """Encoder and decoder pay for one and the same pass, each by its own weight."""
    model = narrows.VAEGAN(**SMALL | {"hidden": (16,)}, gamma=0.3, direct=0.0, **blur).fit(digits)
    net, batch = model.net_.train(), batch_of(model, digits)
    torch.manual_seed(1)
    loss = paid(model, batch)["features"].mean()
    net.gear = 1.0
    torch.manual_seed(1)
    shown, wanted = net.likelihood.mean(net(batch).out), net.critic.features(batch.x).detach()
    once = (net.features(net.critic.features(shown), wanted) / net.features.size).mean()
    for name, weight in (("encoder", batch.x.shape[1]), ("decoder", 0.3)):
        own = list(net.get_submodule(name).parameters())
        for a, b in zip(gradients(loss, own), gradients(once, own), strict=True):
            torch.testing.assert_close(a, weight * b, rtol=1e-4, atol=1e-5)


def test_the_critic_of_a_vaegan_sees_decoded_and_generated_samples(digits):
    model = narrows.VAEGAN(**SMALL).fit(digits)
    batch = batch_of(model, digits)
    with torch.no_grad():
        for p in model.net_.critic.head.parameters():
            p.zero_()
    _, move = list(model.losses(batch))
    assert float(move.terms["critic"].detach().mean()) == pytest.approx(3 * log(2))


def test_the_critic_of_a_vaegan_is_dense_beside_dense_nets(digits):
    X = digits.reshape(-1, 8, 8)
    for architecture, convolves in [("mlp", False), ("conv", True)]:
        options = SMALL | {"critic_hidden": (3,), "hidden": (4,), "epochs": 1}
        model = narrows.VAEGAN(**options, architecture=architecture, modality="image").fit(X)
        kinds = [isinstance(module, nn.Conv2d) for module in model.net_.critic.modules()]
        assert any(kinds) == convolves


def test_r1_of_an_eighth_of_the_samples_is_that_of_all_in_the_mean(digits):
    model = narrows.VAEGAN(**SMALL, r1=3.0).fit(digits)
    true = batch_of(model, digits).x
    alone = gradient_penalty(model.net_.critic, true).detach()
    found = model._detect(true, true).terms["critic_r1"].detach()
    assert found.shape == (64,)
    assert float(found.mean()) == pytest.approx(3.0 * float(alone[:8].mean()), rel=1e-5)
    found = model._detect(true[:3], true[:3]).terms["critic_r1"].detach()  # never of none
    assert float(found.mean()) == pytest.approx(3.0 * float(alone[0]), rel=1e-5)


def test_the_nll_of_the_data_is_a_term_that_trains_nothing_but_its_scale(digits):
    model = narrows.VAEGAN(**SMALL, scale="learned").fit(digits)
    nll = paid(model, batch_of(model, digits))["nll"].mean()
    names, parameters = zip(*model.net_.named_parameters(), strict=True)
    moved = {n for n, g in zip(names, gradients(nll, parameters), strict=True) if g.any()}
    assert moved == {"likelihood.log_scale"}


def test_the_scale_of_the_features_is_their_running_optimum(digits):
    model = narrows.VAEGAN(**SMALL | {"epochs": 1, "batch_size": 300}, r1=0.0).fit(digits)
    batch = InMemory(model.modality_.encode(digits.astype(float))[0]).take(torch.arange(200))
    training = Training(model, InMemory(batch.x), None, 1, 0)
    features = model.net_.features
    features.likelihood.updates.zero_()
    with torch.no_grad():
        torch.manual_seed(3)
        step = model.net_.train()(batch)
        seen = model.net_.critic.features(step.out) - model.net_.critic.features(batch.x)
    torch.manual_seed(3)
    training.step(batch)
    assert float(features.likelihood.updates) == 1
    found = features.likelihood.log_scale.exp().square()
    assert float(found) == pytest.approx(float(seen.square().mean()), rel=1e-4)


def test_a_critic_sees_nothing_where_nothing_was_observed(digits):
    X = digits.astype(float).copy()
    X[:, 20:40][np.random.default_rng(0).random((len(X), 20)) < 0.5] = np.nan
    model = narrows.VAEGAN(**SMALL, modality="table").fit(X)
    batch, seen = batch_of(model, X), []
    model.net_.critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    list(model.losses(batch))
    shown = [x for x in seen if x.shape == batch.x.shape]
    assert len(shown) >= 3
    assert all(not x[batch.mask == 0].any() for x in shown)


@pytest.mark.parametrize("shape", [(13,), (1, 8, 8), (3, 11, 6)])
def test_a_critic_takes_samples_of_any_size(shape):
    critic = Critic(shape, None, spectral_norm=True)
    x = torch.randn(4, *shape)
    assert critic(x).shape == (4,)
    assert critic.features(x).ndim == 2
    convolves = any(isinstance(module, nn.Conv2d) for module in critic.modules())
    assert convolves == (len(shape) == 3)


@pytest.mark.wide
@pytest.mark.parametrize(("cls", "sets", "error", "spread"), GAMES)
def test_the_game_is_stable_for_five_of_five_seeds(cls, sets, error, spread):
    """The variance is explained in part, no player has won, and no unit of the code collapsed."""
    X, y = (part[:500] for part in load_digits(return_X_y=True))
    options = {"latent_dim": 4, "hidden": (32,), "critic_hidden": (32,), "learning_rate": 5e-3}
    for seed in range(5):
        model = cls(**options, epochs=25, batch_size=32, seed=seed).fit(X, y)
        row = model.history_[-1]
        assert row["mse"] < error  # of unit variances
        assert 0.5 < row["validation_critic"] / (sets * log(2)) < 1.1
        deviation = model.codes_.std(0)
        assert spread[0] < deviation.min() <= deviation.max() < spread[1]


# -- players ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
def test_the_critic_has_an_optimizer_of_its_own_rate(cls, digits):
    model = cls(**SMALL, critic_rate=0.25, learning_rate=0.004).fit(digits)
    model.set_params(learning_rate=0.008)  # for a warm start
    training = Training(model, InMemory(torch.zeros(4, 3)), None, 1, 0)
    critic = training.optimizers["critic"]
    assert critic.base_rate == pytest.approx(0.002)
    assert critic.betas == (0.5, 0.9)
    assert critic.weight_decay == 0
    assert training.optimizers["autoencoder"].base_rate == pytest.approx(0.008)


@pytest.mark.parametrize("cls", MODELS)
def test_who_fools_a_critic_has_a_short_memory_too(cls, digits):
    """FactorVAE's critic estimates a ratio: its autoencoder keeps Adam's usual memory."""
    model = cls(**SMALL).fit(digits)
    training = Training(model, InMemory(torch.zeros(4, 3)), None, 1, 0)
    expected = (0.9, 0.999) if cls is narrows.FactorVAE else (0.5, 0.99)
    assert training.optimizers["autoencoder"].betas == expected


@pytest.mark.parametrize("cls", MODELS)
def test_no_player_changes_the_other(cls, digits):
    model = cls(**SMALL).fit(digits)
    autoencoder, critic = list(model.losses(batch_of(model, digits)))
    players = model.players()
    own = [p for module in players["autoencoder"][0] for p in module.parameters()]
    loss = sum(term.mean() for term in critic.terms.values())
    assert not any(g.any() for g in gradients(loss, own))
    assert autoencoder.player == "autoencoder"


@pytest.mark.parametrize("cls", MODELS)
def test_a_run_resumes_exactly(cls, digits, tmp_path, monkeypatch):
    options = SMALL | {"spectral_norm": True, "epochs": 4}
    whole = cls(**options).fit(digits)
    epochs = []

    def after_epoch(self):
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cls, "after_epoch", after_epoch)
    with pytest.raises(KeyboardInterrupt):
        cls(**options).fit(digits, checkpoint=tmp_path)
    monkeypatch.undo()
    resumed = cls(**options).fit(digits, checkpoint=tmp_path, resume=True)
    after = resumed.net_.state_dict()
    assert all(torch.equal(value, after[k]) for k, value in whole.net_.state_dict().items())


@pytest.mark.parametrize("cls", MODELS)
def test_a_saved_critic_comes_back(cls, digits, tmp_path):
    model = cls(**SMALL, spectral_norm=True).fit(digits)
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    after = twin.net_.state_dict()
    assert all(torch.equal(value, after[k]) for k, value in model.net_.state_dict().items())
    assert {k for k in after if k.startswith("critic")}
