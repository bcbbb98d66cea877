"""Flows against autograd's Jacobians, densities that integrate to one, priors of known form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian
from torch.distributions import Normal, kl_divergence

import narrows
from narrows.data.modalities import Table
from narrows.data.sources import Batch, InMemory
from narrows.errors import ParameterError
from narrows.models.bounds import log_likelihood
from narrows.parts.flows import IAF, MADE, Flow, FlowPrior, Planar, RealNVP, planar
from narrows.parts.latents import DiagonalGaussian, Gaussian
from narrows.parts.mixtures import GaussianMixture

TABLE = replace(Table((7,)), center=(0.0,) * 7, scale=(1.0,) * 7)


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomise(module):
    """Give every parameter a value that matters, at any width."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.5)
    return module.requires_grad_(False)


# -- log-determinants -------------------------------------------------------------------------


def log_dets(flow, z, *context):
    """log |det| of autograd's Jacobian at each code."""

    def one(row, *others):
        return flow(row[None], *(part[None] for part in others))[0][0]

    rows = (jacobian(lambda r, o=o: one(r, *o), row) for row, *o in zip(z, *context, strict=True))
    return torch.stack([torch.linalg.slogdet(J)[1] for J in rows])


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("flow", [Planar, IAF])
def test_the_log_determinant_of_a_posterior_flow_is_autograds(flow, dim):
    flow = randomise(flow(dim, 3))
    z, context = torch.randn(20, dim), 2 * torch.randn(20, flow.width)
    torch.testing.assert_close(flow(z, context)[1], log_dets(flow, z, context))


@pytest.mark.parametrize("dim", [2, 5])
def test_the_log_determinant_of_a_prior_flow_is_autograds_in_both_directions(dim):
    flow = randomise(RealNVP(dim, 4))
    z = torch.randn(20, dim)
    torch.testing.assert_close(flow(z)[1], log_dets(flow, z))
    torch.testing.assert_close(flow.inverse(z)[1], log_dets(flow.inverse, z))


@pytest.mark.parametrize("flow", [Planar, IAF, RealNVP])
def test_gradients_of_flows_pass_gradcheck(flow):
    flow = randomise(flow(3, 2))
    context = [] if isinstance(flow, RealNVP) else [torch.randn(4, flow.width)]
    inputs = [value.requires_grad_() for value in (torch.randn(4, 3), *context)]
    assert torch.autograd.gradcheck(flow, inputs)
    if isinstance(flow, RealNVP):
        assert torch.autograd.gradcheck(flow.inverse, inputs)


def test_the_inverse_of_a_prior_flow_undoes_it():
    flow, z = randomise(RealNVP(5, 4)), torch.randn(50, 5)
    there, log_det = flow(z)
    back, log_det_back = flow.inverse(there)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(log_det_back, -log_det)
    assert (there - z).abs().max() > 0.5


def test_every_unit_takes_part_in_the_couplings():
    flow = randomise(RealNVP(4, 2))
    J = jacobian(lambda z: flow(z[None])[0][0], torch.randn(4))
    assert (J.fill_diagonal_(1) != 0).sum(1).min() >= 3


def test_made_is_as_wide_as_its_code():
    """Else some of the inputs would be seen by no output."""
    net = MADE(100, 3)
    assert net.mask_in.any(0).tolist() == [True] * 99 + [False]  # the last one is before none


def test_made_is_strictly_autoregressive():
    net = randomise(MADE(5, 3))
    J = jacobian(lambda z: net(z[None], torch.ones(1, 3))[0], torch.randn(5))
    for half in J.split(5):
        assert torch.equal(half, half.tril(-1))
        assert (half.tril(-1) != 0).sum() == 10  # and nothing more than necessary is masked


def test_a_planar_flow_is_the_papers_where_it_needs_no_constraint():
    """f(z) = z + û tanh(w·z + b), û = u + (m(w·u) - w·u) w / |w|², m(x) = -1 + log(1 + eˣ)."""
    z, u, w = (torch.randn(10, 3) for _ in range(3))
    b = torch.randn(10)
    wu = (w * u).sum(1, keepdim=True)
    u_hat = u + (-1 + (1 + wu.exp()).log() - wu) * w / w.norm(dim=1, keepdim=True) ** 2
    expected = z + u_hat * torch.tanh((w * z).sum(1, keepdim=True) + b[:, None])
    torch.testing.assert_close(planar(z, u, w, b)[0], expected)


def test_a_planar_flow_stays_invertible():
    """Along w it is monotone even where w·u is far below -1."""
    w = torch.tensor([[1.0, 2.0]])
    line = torch.linspace(-4, 4, 2001)[:, None] * w
    w = w.expand(2001, 2)
    y, log_det = planar(line, -3 * w, w, torch.zeros(2001))
    assert ((y * w).sum(1).diff() > 0).all()
    assert log_det.isfinite().all()


# -- densities --------------------------------------------------------------------------------


def total(log_density, edge=16.0, n=321):
    """The integral of a density over the plane."""
    axis = torch.linspace(-edge, edge, n)
    z = torch.cartesian_prod(axis, axis)
    return float(log_density(z).exp().sum() * (axis[1] - axis[0]) ** 2)


def test_the_density_of_a_prior_flow_integrates_to_one_and_is_that_of_its_samples():
    base = DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    prior = FlowPrior(randomise(RealNVP(2, 3)), base)
    with torch.no_grad():
        assert total(prior.log_prob) == pytest.approx(1, abs=1e-3)
        codes = prior.sample(20_000)
        axis = torch.linspace(-16, 16, 321)
        z = torch.cartesian_prod(axis, axis)
        mean = (prior.log_prob(z).exp()[:, None] * z).sum(0) * (axis[1] - axis[0]) ** 2
    error = codes.std(0) / len(codes) ** 0.5
    assert ((codes.mean(0) - mean).abs() < 4.5 * error).all()
    assert (mean.abs() > 10 * error).any()


@pytest.mark.wide
@pytest.mark.parametrize("posterior", ["planar", "iaf"])
def test_the_density_of_a_flow_posterior_is_that_of_its_draws(posterior):
    """Then E_q[f(z) / q(z | x)] = 1 for any density f; this one lies well inside."""
    latent = randomise(Flow(2, posterior, "realnvp", 2)).train()
    h = 0.5 * torch.randn(1, *latent.width).expand(200_000, -1)
    z, ratio = latent.draw(h)
    log_q = ratio + latent.prior().log_prob(z)
    inside = Normal(z.mean(0), 0.4 * z.std(0)).log_prob(z).sum(1)
    weights = (inside - log_q).exp()
    error = float(weights.std()) / len(weights) ** 0.5
    assert error < 0.01
    assert float(weights.mean()) == pytest.approx(1, abs=4.5 * error)
    charge = latent(h)[1]["kl"]
    assert float(charge.mean()) == pytest.approx(float(ratio.mean()), abs=0.05)
    assert float(ratio.mean()) > 0.1


def test_a_flow_latent_without_flows_is_the_gaussian_latent():
    flow, gaussian = Flow(3, "gaussian", "normal").train(), Gaussian(3).train()
    h = torch.randn(1, 6).expand(200_000, 6)
    kl = flow(h)[1]["kl"]
    exact = gaussian(h)[1]["kl"][0]
    assert abs(float(kl.mean() - exact)) < 4.5 * float(kl.std()) / len(kl) ** 0.5
    torch.testing.assert_close(flow.mean(h), gaussian.mean(h))


@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
@pytest.mark.parametrize("prior", ["normal", "realnvp"])
def test_the_units_of_a_code_move_nothing_but_its_divergence(posterior, prior):
    """z = (z' - c) / s costs sum_j log s_j more in log q; and the decoder sees one z'."""
    latent = randomise(Flow(3, posterior, prior, 2)).train()
    h, noise = 0.5 * torch.randn(6, *latent.width), torch.randn(6, 3)
    h[:, 3:6] -= 30  # far below the variances' cap, which is a matter of units

    def look():
        z, ratio = latent.draw(h, noise)
        return latent.seen(z), ratio + latent.prior().log_prob(z), latent.seen(latent.mean(h))

    seen, log_q, mean = look()
    latent.variance.copy_(torch.tensor([0.25, 1.0, 9.0]))
    latent.center.copy_(torch.tensor([0.5, 0.0, -2.0]))
    now_seen, now_log_q, now_mean = look()
    torch.testing.assert_close(now_log_q, log_q + np.log(0.5) + np.log(3.0))
    torch.testing.assert_close(now_seen, seen)
    torch.testing.assert_close(now_mean, mean)


@pytest.mark.parametrize("posterior", ["gaussian", "iaf", "planar"])
def test_draws_come_to_mean_zero_and_variance_one(posterior):
    latent = randomise(Flow(3, posterior, "realnvp", 2)).train()
    h = 3 * torch.randn(500, *latent.width) - 1
    before = latent.draw(h)[0].square().mean(0)
    for _ in range(400):
        latent.update(h, h)
    assert ((before - 1).abs() > 0.5).any()
    z = latent.draw(h)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=0.2, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(3), atol=0.2, rtol=0)


# -- pseudo-inputs ----------------------------------------------------------------------------


def vamp(count, samples=5):
    torch.set_default_dtype(torch.float32)
    model = narrows.VampPriorVAE(latent_dim=3, pseudo_inputs=count, hidden=(9,))
    net = model.net_ = model.build(TABLE).double().train()
    torch.set_default_dtype(torch.float64)
    x = 2 * torch.randn(samples, 7)
    model.prepare(InMemory(x))
    return model, net, x


def test_with_one_pseudo_input_the_prior_is_its_posterior():
    _, net, x = vamp(1)
    u = net.latent.first + net.latent.moved
    at_u, at_x = (net.latent.posterior(net.encoder(Batch(inputs, inputs))) for inputs in (u, x))
    z = torch.randn(40, 3)
    torch.testing.assert_close(net.latent.prior().log_prob(z), at_u.log_prob(z))
    p, q = (Normal(d.mean, (0.5 * d.logvar).exp()) for d in (at_u, at_x))
    exact = kl_divergence(q, p).sum(1)
    many = x.repeat(40_000, 1)
    with torch.no_grad():
        kl = net(Batch(many, many)).charges["kl"].view(-1, len(x))
    assert ((kl.mean(0) - exact).abs() < 4.5 * kl.std(0) / 200).all()


def test_where_the_data_are_the_pseudo_inputs_the_prior_is_the_aggregate_posterior():
    """Then E_x KL(q(z | x) || p) is the information about x, at most log n."""
    _, net, x = vamp(5)
    with torch.no_grad():
        net.latent.first.copy_(x)
        many = x.repeat(20_000, 1)
        kl = net(Batch(many, many)).charges["kl"]
    assert 0.05 < float(kl.mean()) < np.log(5)
    assert float(kl.max()) <= np.log(5) + 1e-9  # log q / (1/5 sum_k q_k)


def test_a_mixture_is_the_mean_of_its_components():
    mixture = GaussianMixture(DiagonalGaussian(torch.randn(4, 2), 0.5 * torch.randn(4, 2)))
    z = torch.randn(10, 2)
    each = [
        Normal(m, (0.5 * v).exp()).log_prob(z).sum(1).exp()
        for m, v in zip(mixture.components.mean, mixture.components.logvar, strict=True)
    ]
    torch.testing.assert_close(mixture.log_prob(z), (sum(each) / 4).log())
    assert total(mixture.log_prob) == pytest.approx(1, abs=1e-3)
    codes = mixture.sample(100_000)
    torch.testing.assert_close(codes.mean(0), mixture.components.mean.mean(0), atol=0.03, rtol=0)
    second = (mixture.components.mean.square() + mixture.components.logvar.exp()).mean(0)
    torch.testing.assert_close(codes.square().mean(0), second, atol=0.0, rtol=0.05)


def test_pseudo_inputs_start_at_the_training_samples_and_only_once():
    model, net, x = vamp(12, samples=5)
    first = net.latent.first.clone()
    distance = torch.cdist(first, x)
    assert (distance.min(1).values < 0.2 * distance.mean()).all()
    assert len(first.unique(dim=0)) == 12  # 5 samples, each with its own noise
    assert (distance.argmin(1).bincount() >= 2).all()
    model.prepare(InMemory(x + 100))
    assert torch.equal(net.latent.first, first)


# -- whole models -----------------------------------------------------------------------------

RICHER = {
    "VampPriorVAE": {},
    "FlowVAE": {},
    "FlowVAE-planar": {"posterior": "planar", "prior": "normal"},
    "FlowVAE-iaf": {"posterior": "iaf", "prior": "normal"},
    "FlowVAE-both": {"posterior": "iaf", "flows": 2},
}


def two_clusters(n, seed):
    """Two clusters on a line in 7 dimensions: a normal prior fills the gap."""
    rng = np.random.default_rng(seed)
    side = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    line = 4 * side + 0.3 * rng.standard_normal(n)
    return (line[:, None] * np.ones(7) + 0.5 * rng.standard_normal((n, 7))).astype(np.float32)


@pytest.mark.wide
@pytest.mark.parametrize("name", ["VampPriorVAE", "FlowVAE"])
def test_a_richer_prior_fits_clustered_codes_better_than_a_normal(name):
    torch.set_default_dtype(torch.float32)
    X, held = two_clusters(1000, 0), two_clusters(500, 1)
    run = {"latent_dim": 2, "epochs": 40, "validation": 0.0, "hidden": (32,), "score_draws": 50}
    plain = narrows.VAE(**run).fit(X).score(held)
    richer = getattr(narrows, name)(**run | RICHER[name]).fit(X).score(held)
    assert richer > plain + 0.8


@pytest.mark.wide
@pytest.mark.parametrize("name", RICHER)
def test_the_score_is_below_the_estimate_of_log_p(name, wine):
    torch.set_default_dtype(torch.float32)
    cls = getattr(narrows, name.partition("-")[0])
    model = cls(latent_dim=2, epochs=20, score_draws=100, **RICHER[name]).fit(wine)
    x, *_ = model.modality_.encode(model.modality_.read(wine, "test"))
    estimate = float(log_likelihood(model.net_.eval(), Batch(x, x), 500).mean())
    assert estimate - 3 < model.score(wine) < estimate
    assert model.unit_kl_ is None


def test_flows_of_nothing_are_refused():
    with pytest.raises(ParameterError, match="no flow left"):
        narrows.FlowVAE(posterior="gaussian", prior="normal").build(TABLE)
    with pytest.raises(ParameterError, match="A flow latent has no prior 'nvp'"):
        Flow(3, prior="nvp")
    with pytest.raises(ParameterError, match=r"a code of 2 or more.*set prior='normal'"):
        narrows.FlowVAE(latent_dim=1, prior="realnvp").build(TABLE)
    with pytest.raises(ParameterError, match=r"no posterior 'iaff'\. Did you mean 'iaf'"):
        Flow(3, posterior="iaff")


def test_pseudo_inputs_refuse_batch_norm():
    with pytest.raises(ParameterError, match=r"'batch_norm' .* would mix the statistics"):
        narrows.VampPriorVAE(batch_norm=True).check_parameters()
