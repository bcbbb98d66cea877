"""The metric against torch.linalg, its steps against their laws, draws against a grid."""

import pytest
import torch
from torch.distributions import MultivariateNormal

import narrows
from narrows.data.sources import Batch
from narrows.parts import riemannian
from narrows.parts.hamiltonian import Flat
from narrows.parts.latents import Gaussian
from narrows.parts.riemannian import Curved, Metric, Riemannian, by_volume

N, DIM, T, FLOOR = 5, 3, 1.3, 0.2


@pytest.fixture
def settled(monkeypatch):
    """Fixed points to the last digit."""
    monkeypatch.setattr(riemannian, "ITERATIONS", 60)


def metric(floor=FLOOR):
    torch.manual_seed(0)
    centroids = torch.randn(N, DIM).double()
    return Metric(centroids, torch.randn(N, DIM, DIM).double().tril(), T, floor)


def phase(n=4):
    torch.manual_seed(1)
    return torch.randn(2, n, DIM).double()


# -- the metric -------------------------------------------------------------------------------


def test_the_metric_and_its_momenta():
    torch.manual_seed(0)
    centroids, factors = torch.randn(N, DIM).double(), torch.randn(N, DIM, DIM).double().tril()
    z, rho = phase()
    here = Curved(z, Metric(centroids, factors, T, FLOOR))
    for i, at in enumerate(z):
        inverse = FLOOR * torch.eye(DIM).double()
        for c, L in zip(centroids, factors, strict=True):
            inverse += L @ L.T * torch.exp(-((at - c).norm() ** 2) / T**2) / N
        G = torch.linalg.inv(inverse)
        torch.testing.assert_close(here.inverse[i], inverse)
        torch.testing.assert_close(here.tensor[i], G)
        torch.testing.assert_close(here.log_volume()[i], 0.5 * torch.logdet(inverse))
        normal = MultivariateNormal(torch.zeros(DIM).double(), G)
        torch.testing.assert_close(here.log_prob(rho)[i], normal.log_prob(rho[i]))
    spread = torch.stack([here.momentum(unit.expand(len(z), -1)) for unit in torch.eye(DIM)], 2)
    torch.testing.assert_close(spread @ spread.mT, here.tensor)  # the covariance of momenta
    torch.testing.assert_close(here.whitened(here.momentum(rho)), rho)


def test_the_slope_is_the_gradient_of_the_momentum_s_energy():
    z, rho = phase()
    z.requires_grad_()
    here = Curved(z, metric())
    (expected,) = torch.autograd.grad(-here.log_prob(rho).sum(), z)
    torch.testing.assert_close(here.slope(rho), expected)
    assert torch.autograd.gradcheck(lambda z, rho: Curved(z, metric()).slope(rho), (z, rho))


def test_the_factors_are_lower_triangles_that_start_at_one_and_are_bounded():
    latent = Riemannian(DIM, 7, T, FLOOR)

    def product(*raw):  # by rows
        h = torch.cat([torch.zeros(2 * DIM), torch.tensor(raw)])[None]
        return latent.metric(h).matrices.view(DIM, DIM)

    torch.testing.assert_close(product(*[0.0] * 6), torch.eye(DIM))
    L = torch.eye(DIM) + torch.tensor([[0, 0, 0], [3, 0, 0], [6, 9, 0]]) / DIM**0.5 / 1000
    torch.testing.assert_close(product(0, 0.003, 0, 0.006, 0.009, 0), L @ L.T)
    assert 0 < product(-1e9, 0, 0, 0, 0, 0)[0, 0] < 1e-3  # the diagonal cannot be negative
    assert product(*[1e9] * 6).max() < 100


# -- the steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [1.0, 0.25])
def test_without_centroids_steps_are_flat_ones_in_other_units(floor, energy, steps):
    z, gamma = phase()
    still = Metric(torch.zeros(1, DIM).double(), torch.zeros(1, DIM, DIM).double(), T, floor)
    curved, flat = steps(3), steps(3, 0.3 * floor**0.5)
    here, start = Curved(z, still), Flat(z)
    there, rho, value = curved(here, here.momentum(gamma), energy)
    goal, sigma, expected = flat(start, gamma, energy)
    torch.testing.assert_close(there.z, goal.z)
    torch.testing.assert_close(rho * floor**0.5, sigma)
    torch.testing.assert_close(value, expected)
    paid = here.log_prob(here.momentum(gamma)) - there.log_prob(rho)
    torch.testing.assert_close(paid, start.log_prob(gamma) - goal.log_prob(sigma))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("stiffness", [1, 1e6])
def test_heating_and_steps_together_keep_volumes(stiffness, energy, steps):
    leapfrog, curved = steps(3), metric()

    def stiff(z):
        value = stiffness * energy(z)[0]
        return value, value

    def mapped(both):
        z, rho = both.view(2, 1, DIM)
        there, moved, _ = leapfrog(Curved(z, curved), rho, stiff)
        return torch.cat([there.z, moved]).flatten()

    jacobian = torch.autograd.functional.jacobian(mapped, phase(1).flatten())
    assert (jacobian - torch.eye(2 * DIM)).abs().max() > 0.1
    assert float(jacobian.det()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("count", "left"), [(3, 1e-2), (6, 1e-4)])
def test_iterations_keep_them_the_better_the_more_there_are(count, left, monkeypatch):
    monkeypatch.setattr(riemannian, "ITERATIONS", count)

    def mapped(both):
        there, moved = Curved(both[:DIM][None], metric()).drift(
            both[None, DIM:], torch.tensor(0.3)
        )
        return torch.cat([there.z, moved]).flatten()

    jacobian = torch.autograd.functional.jacobian(mapped, phase(1).flatten())
    assert 1e-9 < abs(float(jacobian.det()) - 1) < left


@pytest.mark.usefixtures("settled")
def test_steps_that_do_not_cool_can_be_undone(energy, steps):
    leapfrog, (z, rho), curved = steps(4), phase(), metric()
    leapfrog.heat.data.fill_(-torch.inf)
    there, moved, _ = leapfrog(Curved(z, curved), rho, energy)
    assert (there.z - z).abs().max() > 0.1
    back, returned, _ = leapfrog(Curved(there.z, curved), -moved, energy)
    torch.testing.assert_close(back.z, z)
    torch.testing.assert_close(-returned, rho)


@pytest.mark.usefixtures("settled")
def test_steps_that_do_not_cool_keep_the_energy_to_second_order(energy, steps):
    z, rho = phase(8)
    errors = []
    for count in (4, 8):
        leapfrog, here = steps(count, 0.4 / count), Curved(z, metric())
        leapfrog.heat.data.fill_(-torch.inf)
        there, moved, potential = leapfrog(here, rho, energy)
        lost = potential - there.log_prob(moved) - energy(z)[0] + here.log_prob(rho)
        errors.append(lost.abs().mean())
    assert (errors[0] / errors[1]).item() == pytest.approx(4, rel=0.1)
    assert errors[1] < 0.01


# -- whose centroids --------------------------------------------------------------------------


def test_the_last_training_samples_are_kept_and_count_in_evaluation():
    latent = Riemannian(2, 5, T, FLOOR)
    h = torch.arange(7.0)[:, None].expand(7, *latent.width)
    latent.start(h[:3])
    assert latent.kept[:, 0].tolist() == [0, 1, 2, 0, 1]
    for rows, kept in ((h[3:5], [3, 4, 0, 1, 2]), (h[:7], [0, 1, 2, 3, 4])):
        latent.update(rows, rows)
        assert latent.kept[:, 0].tolist() == kept
    z = torch.zeros(1, 2)
    means = latent.at(z).metric.centroids
    torch.testing.assert_close(means, latent.mean(latent.kept))
    torch.testing.assert_close(latent.at(z, h[:3]).metric.centroids, Gaussian.mean(latent, h[:3]))
    assert len(latent.at(z, h).near[0]) == 5


def test_a_batch_curves_its_own_space_in_training_alone(wine):
    model = narrows.RiemannianVAE(latent_dim=2, epochs=1, verbose=0).fit(wine)
    net, x = model.net_, model.modality_.source(model.modality_.read(wine, "test")).x[:20]
    noise = torch.randn(1, 4).expand(20, -1)
    found = {}
    for mode in (True, False):
        net.train(mode)
        whole, part = net(Batch(x, x), noise), net(Batch(x[:9], x[:9]), noise[:9])
        found[mode] = (whole.charges["kl"][:9] - part.charges["kl"]).abs().max()
    assert found[True] > 1e-3 > 1e-5 > found[False]


# -- draws by volume --------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2])
def test_draws_follow_the_volume(dim):
    """Against a grid; the modes weigh otherwise than the centroids where the chains start."""
    centroids = torch.tensor([[-1.2, 0.3], [-1.0, 0.0], [1.1, 0.4]])[:, :dim].double()
    factors = torch.tensor([[[1.0, 0], [0.3, 0.7]], [[0.5, 0], [0, 1.5]], [[2.5, 0], [-1, 1.2]]])
    curved = Metric(centroids, factors[:, :dim, :dim].double(), 0.8, 0.02)
    line = torch.linspace(-4, 4, 801 if dim == 1 else 201).double()
    grid = torch.cartesian_prod(*[line] * dim).view(-1, dim)
    inside = (torch.cdist(grid, centroids) <= 2 * 0.8).any(1)
    density = Curved(grid, curved).log_volume().exp() * inside
    density /= density.sum()
    torch.manual_seed(0)
    z = by_volume(curved, 8000)
    assert (torch.cdist(z, centroids).amin(1) <= 2 * 0.8 + 1e-9).all()
    for about in (lambda z: z[:, 0], lambda z: (z[:, 0] > 0).double(), lambda z: z[:, -1] ** 2):
        values, expected = about(z), (density * about(grid)).sum()
        assert (values.mean() - expected).abs() < 4 * values.std() / len(z) ** 0.5 + 1e-3
    assert (density * (grid[:, 0] > 0)).sum() > 0.45  # a third of the centroids is there


def test_samples_are_decoded_draws_by_volume(wine):
    model = narrows.RiemannianVAE(latent_dim=2, epochs=2, verbose=0).fit(wine)
    latent = model.net_.latent
    torch.manual_seed(7)
    codes = by_volume(latent.metric(latent.kept), 5)
    torch.testing.assert_close(model.sample(5, seed=7), model.inverse_transform(codes))


@pytest.mark.wide
@pytest.mark.parametrize("dim", [4, 8])
def test_the_default_temperature_keeps_the_variance_of_normal_codes(dim):
    """By 1/n sum_i exp(-|z - c_i|²/T²) ~ exp(-|z|²/(T² + 2)), to the power dim/2."""
    latent = narrows.RiemannianVAE(latent_dim=dim).latent()
    assert latent.temperature**2 == pytest.approx(dim - 2)
    torch.manual_seed(0)
    centroids = torch.randn(4000, dim)
    curved = Metric(centroids, torch.eye(dim).expand(4000, dim, dim), latent.temperature, 1e-6)
    assert by_volume(curved, 1000).var(0).mean() == pytest.approx(1, abs=0.06)
