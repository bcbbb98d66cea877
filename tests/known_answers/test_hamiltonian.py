"""Leapfrog steps keep volumes and can be undone; the bound they give is one, and a tighter one."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal
from torch.func import functional_call

import narrows
from narrows.data.modalities import Table
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.parts.hamiltonian import Flat, Leapfrog

D, DIM, SCALE = 6, 3, 0.7
TABLE = replace(Table((D,)), center=(0.0,) * D, scale=(1.0,) * D)
MODELS = [narrows.HamiltonianVAE, narrows.RiemannianVAE]
STILL = torch.tensor(-torch.inf)


def leap(leapfrog, z, rho, energy):
    """Code and momentum after the steps, and what the energy found, in flat space."""
    here, rho, found = leapfrog(Flat(z), rho, energy)
    return here.z, rho, found


def phase(n):
    torch.manual_seed(0)
    return torch.randn(2, n, DIM, dtype=torch.float64)


# -- the steps --------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "stiffness"), [(1, 1), (4, 1), (4, 30), (4, 1e6)])
def test_heating_and_steps_together_keep_volumes(count, stiffness, energy, steps):
    """Also where slopes are so steep that what they do to the momentum is bounded."""
    leapfrog = steps(count)

    def stiff(z):
        value = stiffness * energy(z)[0]
        return value, value

    def mapped(both):
        return torch.cat(leap(leapfrog, *both.view(2, 1, DIM), stiff)[:2]).flatten()

    jacobian = torch.autograd.functional.jacobian(mapped, phase(1).flatten())
    assert float(jacobian.det()) == pytest.approx(1, rel=1e-10)
    assert mapped(phase(1).flatten()).abs().max() < 50
    first, *_, last = (float(root) for root in map(torch.detach, leapfrog.roots()))
    assert (first, last) == pytest.approx((1.4, 1))  # the steps alone shrink volumes by 1.4³


def test_a_step_is_what_the_paper_writes():
    """On a spring, U = 2 z², with numbers that a hand can follow."""
    leapfrog = Leapfrog(1, 2, 1.0).double()
    leapfrog.load_state_dict({"size": torch.zeros(1), "heat": torch.tensor(0.0)})
    z, rho = torch.tensor([[1.0]]).double(), torch.tensor([[0.5]]).double()
    found = leap(leapfrog, z, rho, lambda z: (2 * z.square().sum(1), z))
    roots, size, z, rho = [2.0, 1.75, 1.0], 0.5, 1.0, 0.5 * 2
    for before, after in pairwise(roots):
        rho -= size / 2 * 4 * z
        z += size * rho
        rho -= size / 2 * 4 * z
        rho *= after / before
    assert [value.item() for value in found] == pytest.approx([z, rho, z])


def test_steps_that_do_not_cool_can_be_undone(energy, steps):
    leapfrog, (z, rho) = steps(5), phase(8)
    leapfrog.heat.data.copy_(STILL)
    there = leap(leapfrog, z, rho, energy)
    assert (there[0] - z).abs().min() > 0.01
    back = leap(leapfrog, there[0], -there[1], energy)
    torch.testing.assert_close(back[0], z)
    torch.testing.assert_close(-back[1], rho)


def test_steps_that_do_not_cool_keep_the_energy_to_second_order(energy, steps):
    z, rho = phase(8)
    errors = []
    for count in (4, 8):
        leapfrog = steps(count, 0.4 / count)
        leapfrog.heat.data.copy_(STILL)
        _, moved, potential = leap(leapfrog, z, rho, energy)
        start = energy(z)[0] + 0.5 * rho.square().sum(1)
        errors.append((potential + 0.5 * moved.square().sum(1) - start).abs().mean())
    assert (errors[0] / errors[1]).item() == pytest.approx(4, rel=0.1)


# -- the bound, where log p(x) is known -------------------------------------------------------


def linear(exact=False, cls=narrows.HamiltonianVAE, **fields):
    """A linear model in double precision: its net, samples of it, and their log p(x).

    The decoder's columns are orthogonal, so that the true posterior is diagonal; the encoder is
    that posterior, or one that is wrong in mean and variance. A metric is what it happens to be.
    """
    torch.manual_seed(0)
    fields = {"latent_dim": DIM, "architecture": "linear", "scale": SCALE} | fields
    net = cls(**fields).build(TABLE).double().train()
    encoder, decoder = (part for part in net.modules() if isinstance(part, torch.nn.Linear))
    W = torch.linalg.qr(torch.randn(D, DIM, dtype=torch.float64))[0] * torch.tensor([0.5, 1, 2])
    b = torch.randn(D, dtype=torch.float64)
    precision = (W.T @ W).diag() / SCALE**2 + 1
    gain, logvar = W.T / SCALE**2 / precision[:, None], -precision.log()
    if not exact:
        gain, logvar = 0.8 * gain + 0.03, logvar + torch.tensor([0.3, 0.1, 0.2])
    with torch.no_grad():
        decoder.weight.copy_(W)
        decoder.bias.copy_(b)
        encoder.weight[: 2 * DIM].copy_(torch.cat([gain, torch.zeros(DIM, D)]))
        encoder.bias[: 2 * DIM].copy_(torch.cat([-gain @ b, 2 - (2 - logvar).expm1().log()]))
    p = MultivariateNormal(b, W @ W.T + SCALE**2 * torch.eye(D, dtype=torch.float64))
    x = p.sample((8,))
    return net, Batch(x, x), p.log_prob(x)


def estimates(net, batch, draws):
    """Estimates of the bound, ``(draws, batch)``."""
    many = Batch(*(batch.x.repeat(draws, 1),) * 2)
    step = net(many)
    return -(step.nll + step.charges["kl"]).view(draws, -1)


@pytest.mark.parametrize(
    ("cls", "count", "fields"),
    [
        (narrows.HamiltonianVAE, 1, {}),
        (narrows.HamiltonianVAE, 4, {}),
        (narrows.RiemannianVAE, 3, {"centroids": 5}),
    ],
)
def test_the_weight_of_a_draw_is_log_p_on_the_average(cls, count, fields, steps):
    """E[p(x, z_K) N(rho_K) / q(z_0, rho_0)] = p(x): it takes every factor, tempering's too."""
    net, batch, exact = linear(cls=cls, leapfrogs=count, **fields)
    net.leapfrog = steps(count, size=0.2, root=1.2)
    with torch.no_grad():
        weights = (estimates(net, batch, 20_000) - exact).exp()
    error = weights.std(0) / len(weights) ** 0.5
    assert (error < 0.04).all()
    assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


def test_from_the_true_posterior_small_steps_give_log_p(steps):
    net, batch, exact = linear(exact=True)
    net.leapfrog = steps(3, size=1e-4)
    net.leapfrog.heat.data.copy_(STILL)
    torch.testing.assert_close(estimates(net, batch, 3), exact.expand(3, -1), rtol=0, atol=1e-6)


def test_without_a_step_it_is_the_vae():
    net, batch, _ = linear()
    noise = phase(1)
    net.leapfrog.size.data.copy_(STILL)
    net.leapfrog.heat.data.copy_(STILL)
    step = net(batch, torch.cat(list(noise), 1))
    h, _ = net.encode(batch)
    z, kl = net.latent.draw(h, noise[0])
    torch.testing.assert_close(step.z, z)
    torch.testing.assert_close(step.charges["kl"], kl)
    mean = Normal(net.decoder(z, batch), SCALE).log_prob(batch.x).sum(1)
    torch.testing.assert_close(step.nll, -mean)


def test_learned_steps_bring_the_bound_nearer_to_log_p():
    """With an encoder that goes half of the way to the true posterior's mean."""
    gaps = []
    for count in (0, 1, 3):
        net, batch, exact = linear(exact=True, leapfrogs=max(count, 1))
        encoder = next(part for part in net.modules() if isinstance(part, torch.nn.Linear))
        for parameter in encoder.parameters():
            parameter.data[:DIM] *= 0.5
        parameters = list(net.leapfrog.parameters())
        optimizer = torch.optim.Adam(parameters, 0.01)
        for parameter in parameters if count == 0 else ():
            parameter.data.copy_(STILL)
        for _ in range(150 if count else 0):
            optimizer.zero_grad()
            (-estimates(net, batch, 30).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            gap = (exact - estimates(net, batch, 5000)).mean(1)
        gaps.append((gap.mean(), gap.std() / len(gap) ** 0.5))
    for (more, a), (less, b) in pairwise(gaps):
        assert more - less > 4 * torch.hypot(a, b)
    assert gaps[-1][0] > 0.5


@pytest.mark.parametrize("cls", MODELS)
def test_the_gradient_passes_through_the_slopes(cls):
    """By encoder (and so metric), decoder, sizes and heat, against finite differences."""
    noise, x = torch.cat(list(phase(2)), 1), torch.linspace(-1, 1, 2 * D).double().view(2, D)
    fields = {"latent_dim": DIM, "architecture": "mlp", "hidden": (4,), "activation": "tanh"}
    net = cls(**fields, leapfrogs=2).build(TABLE).double().train()
    batch = Batch(x, x)
    names, values = zip(*net.named_parameters(), strict=True)

    def loss(*values):
        step = functional_call(net, dict(zip(names, values, strict=True)), (batch, noise))
        return step.nll + step.charges["kl"]

    assert torch.autograd.gradcheck(loss, [value.detach().requires_grad_() for value in values])


@pytest.mark.parametrize("cls", MODELS)
def test_the_score_is_the_bound_and_needs_no_gradients(cls, steps):
    net, batch, exact = linear(cls=cls)
    net.leapfrog = steps(3)
    noise = net.eval().latent.noise(50, torch.Generator().manual_seed(0)).double()
    assert noise.shape == (50, 2 * DIM)
    passes = [net(batch, draw) for draw in noise.split(1)]
    expected = torch.stack([-step.nll - step.charges["kl"] for step in passes]).detach()
    with torch.inference_mode():
        found = net.elbo(Batch(batch.x.clone(), batch.target.clone()), noise)
    torch.testing.assert_close(found, expected.mean(0))
    error = expected.std(0) / 50**0.5
    assert (found < exact + 3 * error).all()
    assert not found.requires_grad


def test_samples_come_from_a_standard_normal_prior(wine):
    model = narrows.HamiltonianVAE(latent_dim=2, epochs=2).fit(wine)
    prior, z = model.net_.latent.prior(), torch.randn(5, 2)
    torch.testing.assert_close(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))
    torch.manual_seed(7)
    codes = torch.randn(5, 2).numpy()
    torch.testing.assert_close(model.sample(5, seed=7), model.inverse_transform(codes))


def test_what_the_steps_cannot_take_is_refused():
    for fields, sentence in (
        ({"batch_norm": True}, "leapfrog step needs each code to depend on its own sample"),
        ({"gradient_checkpointing": True}, "goes with no leapfrog step"),
    ):
        with pytest.raises(ParameterError, match=sentence):
            narrows.HamiltonianVAE(**fields).build(TABLE)
