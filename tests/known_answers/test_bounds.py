"""Importance-weighted bounds on a linear-Gaussian model, whose log p(x) has a closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import narrows
from narrows.data.modalities import Table
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.models.bounds import importance_bound, log_likelihood
from narrows.parts.latents import CAP

D, K, SCALE = 6, 3, 0.7
TABLE = replace(Table((D,)), center=(0.0,) * D, scale=(1.0,) * D)


def linear(exact, **fields):
    """A linear model in double precision: its net, samples of it, and their log p(x).

    The decoder's columns are orthogonal, so that the true posterior is diagonal; the encoder is
    that posterior, or one that is wrong in mean and variance.
    """
    torch.manual_seed(0)
    fields = {"latent_dim": K, "architecture": "linear", "scale": SCALE} | fields
    model = narrows.IWAE(**fields)
    net = model.net_ = model.build(TABLE).double().train()
    columns = torch.linalg.qr(torch.randn(D, K, dtype=torch.float64))[0]
    W = columns * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    b = torch.randn(D, dtype=torch.float64)
    precision = (W.T @ W).diag() / SCALE**2 + 1
    gain = W.T / SCALE**2 / precision[:, None]
    logvar = -precision.log()
    if not exact:
        gain, logvar = 0.8 * gain + 0.03, logvar + torch.tensor([0.3, -0.4, 0.2])
    encoder, decoder = (
        next(layer for layer in part if isinstance(layer, torch.nn.Linear))
        for part in (net.encoder, net.decoder)
    )
    with torch.no_grad():
        decoder.weight.copy_(W)
        decoder.bias.copy_(b)
        encoder.weight.copy_(torch.cat([gain, torch.zeros(K, D)]))
        uncapped = CAP - (CAP - logvar).expm1().log()
        encoder.bias.copy_(torch.cat([-gain @ b, uncapped]))
    p = MultivariateNormal(b, W @ W.T + SCALE**2 * torch.eye(D, dtype=torch.float64))
    x = p.sample((8,))
    return model, Batch(x, x), p.log_prob(x)


def bounds(model, batch, draws):
    """Estimates of the model's bound, ``(draws, batch)``."""
    many = Batch(*(batch.x.repeat(draws, 1),) * 2)
    with torch.no_grad():
        terms = model.objective(model.net_(many))
    return -torch.stack(list(terms.values())).sum(0).view(draws, -1)


@pytest.mark.parametrize("fields", [{}, {"particles": 1}, {"repeats": 3}, {"elbo_weight": 0.4}])
def test_with_the_true_posterior_every_estimate_is_log_p(fields):
    model, batch, exact = linear(True, **fields)
    found = bounds(model, batch, 3)
    torch.testing.assert_close(found, exact.expand(3, -1), rtol=1e-6, atol=1e-6)


def test_the_bounds_grow_with_the_particles_up_to_log_p():
    """L₁ ≤ L₅ ≤ L₅₀ ≤ log p(x) (Burda et al., 2016, theorem 1), for every sample."""
    means, errors = [], []
    for particles in (1, 5, 50):
        model, batch, exact = linear(False, particles=particles)
        found = bounds(model, batch, 2000)
        means.append(found.mean(0))
        errors.append(found.std(0) / len(found) ** 0.5)
    for (low, high), error in zip(((0, 1), (1, 2)), errors, strict=False):
        assert (means[high] - means[low] > 3 * error).all()
    assert (exact - means[2] > -3 * errors[2]).all()
    assert (exact - means[0] > 0.05).all()
    assert (exact - means[2] < 0.2 * (exact - means[0])).all()


def test_one_particle_is_the_elbo():
    model, batch, _ = linear(False, particles=1)
    estimates = bounds(model, batch, 20_000)
    q = model.net_(batch).q
    expected = Normal(q.mean, (0.5 * q.logvar).exp())
    W, b = (p.detach() for p in model.net_.decoder.parameters())
    error = (batch.x - q.mean @ W.T - b).square().sum(1) + q.logvar.exp() @ W.square().sum(0)
    nll = 0.5 * error / SCALE**2 + D * np.log(SCALE * np.sqrt(2 * np.pi))
    prior = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    kl = torch.distributions.kl_divergence(expected, prior).sum(1)
    spread = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) + nll + kl).abs() < 4.5 * spread).all()


def test_the_estimate_of_log_p_converges_to_it():
    model, batch, exact = linear(False)
    found = log_likelihood(model.net_.eval(), batch, 5000)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1)
    vague = log_likelihood(model.net_.eval(), batch, 1)
    assert (vague - exact).abs().max() > 0.2


def test_the_terms_are_the_parts_of_the_elbo_and_the_gain_on_it():
    model, batch, _ = linear(False, particles=4, repeats=2)
    step = model.net_(batch)
    assert step.nll.shape == step.charges["kl"].shape == (8, 8)
    assert step.z.shape == (64, K)
    weights = (-step.nll - step.charges["kl"]).exp()
    terms = model.objective(step)
    torch.testing.assert_close(terms["nll"], step.nll.mean(0))
    torch.testing.assert_close(terms["kl"], step.charges["kl"].mean(0))
    groups = [weights[:4].mean(0).log(), weights[4:].mean(0).log()]  # M = 2 of K = 4
    torch.testing.assert_close(-sum(terms.values()), sum(groups) / 2)


def test_the_combination_is_convex():
    model, batch, _ = linear(False, elbo_weight=0.3)
    step = model.net_(batch)
    found = sum(model.objective(step).values())
    nll, kl = step.nll, step.charges["kl"]
    expected = 0.3 * (nll + kl).mean(0) - 0.7 * importance_bound(nll, kl, 5)
    torch.testing.assert_close(found, expected)


def gradients(gradient, part, draws=20_000):
    """The gradient of one sample's bound by the part's first bias or weight, draw by draw."""
    model, batch, _ = linear(False, gradient=gradient)
    net = model.net_
    x = batch.x[:1].expand(draws, D)
    layer = next(layer for layer in getattr(net, part) if isinstance(layer, torch.nn.Linear))
    bias = layer.bias.detach().expand(draws, -1).clone().requires_grad_()
    weight = layer.weight.detach()
    layer.forward = lambda h: h @ weight.T + bias.repeat(len(h) // draws, 1)  # a bias a sample
    loss = sum(model.objective(net(Batch(x, x))).values()).sum()
    return torch.autograd.grad(loss, bias)[0]


def test_the_doubly_reparametrised_gradient_has_the_same_mean_and_less_noise():
    plain, doubly = (gradients(f"{g}reparametrised", "encoder") for g in ("", "doubly_"))
    error = (plain.var(0) + doubly.var(0)).div(len(plain)).sqrt()
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 4.5 * error).all()
    assert (plain.mean(0).abs() > 5 * error).any()
    assert (doubly.var(0) < 0.7 * plain.var(0)).all()


def test_the_doubly_reparametrised_gradient_leaves_the_decoder_alone():
    plain, doubly = (gradients(f"{g}reparametrised", "decoder") for g in ("", "doubly_"))
    torch.testing.assert_close(plain, doubly)


def seeded(scale="learned", **fields):
    """Loss and gradients of a net with dropout, of twelve codes a sample and the same draws."""
    torch.manual_seed(0)
    options = {"hidden": (5,), "activation": "tanh", "dropout": 0.3, "scale": scale}
    model = narrows.IWAE(latent_dim=K, architecture="mlp", **options, **fields)
    net = model.net_ = model.build(TABLE).double().train()
    x = torch.randn(4, D, dtype=torch.float64)
    loss = sum(model.objective(net(Batch(x, x))).values())
    modules = {"encoder": [net.encoder], "decoder": [net.decoder, net.likelihood]}
    gradients = {
        name: torch.autograd.grad(
            loss.sum(), [p for part in parts for p in part.parameters()], retain_graph=True
        )
        for name, parts in modules.items()
    }
    return loss, gradients["encoder"], gradients["decoder"]


@pytest.mark.parametrize("scale", ["learned", 1e-3])
@pytest.mark.parametrize("gradient", ["reparametrised", "doubly_reparametrised"])
def test_a_partial_bound_teaches_the_encoder_by_miwae_and_the_decoder_by_iwae(gradient, scale):
    """With a tiny scale too, where but one code of a sample has any weight for the decoder."""
    repeats = {"particles": 3, "repeats": 4, "gradient": gradient, "scale": scale}
    loss, encoder, decoder = seeded(partial=True, **repeats)
    whole, other, by_iwae = seeded(particles=12, scale=scale)
    _, by_miwae, different = seeded(**repeats)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(decoder, by_iwae)
    torch.testing.assert_close(encoder, by_miwae)
    for one, two in ((encoder[0], other[0]), (decoder[0], different[0])):
        assert (one - two).abs().max() > 1e-3 * two.abs().max()


@pytest.mark.parametrize(
    "fields", [{"gradient": "doubly_reparametrised"}, {"partial": True, "repeats": 2}]
)
def test_slopes_that_could_not_be_taken_are_refused(fields):
    with pytest.raises(ParameterError, match="goes with no slopes inside of a pass"):
        narrows.IWAE(gradient_checkpointing=True, **fields).build(TABLE)


def test_the_scale_follows_the_decoders_bound_where_the_encoder_has_its_own():
    """Its running optimum weighs the codes as the gradient of a learned scale would."""
    logs = []
    for fields in ({"particles": 3, "repeats": 4, "partial": True}, {"particles": 12}):
        torch.manual_seed(0)
        net = narrows.IWAE(latent_dim=K, architecture="linear", **fields).build(TABLE).train()
        x = torch.randn(4, D)
        net.update(net(Batch(x, x)))
        logs.append(net.likelihood.log_scale)
    torch.testing.assert_close(*logs)


def test_the_scale_finds_the_optimum_of_the_weighted_bound():
    """At rest, the running scale is where the bound's derivative by it vanishes."""
    model, batch, _ = linear(False, scale="optimal", elbo_weight=0.2)
    net, x = model.net_, batch.x.repeat(500, 1)
    net.latent.rate = 0  # only the scale moves
    noise = torch.randn(5 * len(x), K, dtype=torch.float64)
    net.latent.draw = lambda h, _: type(net.latent).draw(net.latent, h, noise)
    for _ in range(300):
        net.update(net(Batch(x, x)))
    net.likelihood.log_scale.requires_grad_()
    loss = sum(model.objective(net(Batch(x, x))).values()).mean()
    (slope,) = torch.autograd.grad(loss, net.likelihood.log_scale)
    assert abs(slope) < 1e-6 * D


def test_the_score_is_the_bound_with_as_many_particles_as_draws(wine):
    model = narrows.IWAE(latent_dim=2, epochs=5).fit(wine)
    scores = []
    for draws in (1, 4, 64):
        scores.append(model.set_params(score_draws=draws).score(wine))
    assert scores[0] < scores[1] < scores[2]
    x, *_ = model.modality_.encode(model.modality_.read(wine, "test"))
    torch.manual_seed(0)
    estimate = log_likelihood(model.net_, Batch(x, x), 64).mean()
    assert scores[2] == pytest.approx(float(estimate), abs=0.5)
    assert scores[0] < float(estimate) - 0.3


def test_missing_cells_count_once_for_every_code(wine):
    X = wine.copy()
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    model = narrows.IWAE(latent_dim=2, epochs=30, modality="table").fit(X)
    plain = narrows.VAE(latent_dim=2, epochs=30, modality="table").fit(X)
    found, like = (float(m.net_.likelihood.log_scale.exp()) for m in (model, plain))
    assert found == pytest.approx(like, rel=0.1)
