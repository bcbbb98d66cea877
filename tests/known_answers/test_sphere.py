"""The von Mises-Fisher distribution against SciPy, quadrature and exact gradients."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from scipy.stats import vonmises_fisher

import narrows
from narrows.errors import ParameterError
from narrows.parts.sphere import Sphere, UniformSphere, VonMisesFisher, log_ive

ORDERS = [0.0, 0.5, 1.0, 2.5, 3.0, 7.0, 24.0, 100.0]
DIMS = [2, 3, 4, 10, 50]
KAPPAS = [0.01, 1.0, 10.0, 300.0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vmf(dim, kappa, n=1, dtype=torch.float64):
    mean = torch.nn.functional.normalize(torch.randn(1, dim, dtype=dtype), dim=1)
    return VonMisesFisher(mean.expand(n, -1), torch.full((n, 1), float(kappa), dtype=dtype))


# -- the Bessel function ----------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_the_bessel_function_is_scipys(order):
    x = torch.logspace(-3, 4, 300, dtype=torch.float64)
    with np.errstate(divide="ignore"):
        expected = np.log(special.ive(order, x.numpy()))
    known = np.isfinite(expected)  # SciPy underflows where the logarithm does not
    assert known.sum() > 100
    found = log_ive(order, x).numpy()
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_ive(order, x.float()), found, rtol=1e-5, atol=1e-5)


def test_half_orders_have_closed_forms():
    """I_½(x) = sqrt(2 / (pi x)) sinh x."""
    x = torch.logspace(-2, 2, 50, dtype=torch.float64)
    expected = 0.5 * (2 / (torch.pi * x)).log() + (-torch.expm1(-2 * x) / 2).log()
    torch.testing.assert_close(log_ive(0.5, x), expected)


@pytest.mark.parametrize("order", [0.0, 0.5, 3.0, 25.0])
def test_the_derivatives_of_the_bessel_function(order):
    x = torch.tensor([0.3, 5.0, 19.0, 21.0, 200.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: log_ive(order, x), x)
    assert torch.autograd.gradgradcheck(lambda x: log_ive(order, x), x)


# -- density and divergence -------------------------------------------------------------------


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("dim", DIMS)
def test_the_density_is_scipys(dim, kappa):
    q = vmf(dim, kappa)
    z = torch.nn.functional.normalize(torch.randn(20, dim, dtype=torch.float64) + q.mean, dim=1)
    expected = vonmises_fisher(q.mean[0].numpy(), kappa).logpdf(z.numpy())
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("dim", DIMS)
def test_the_divergence_is_its_integral(dim, kappa):
    """E[log q] + log area, over the angle t to the mean."""

    def weight(t):  # its density
        return np.exp(kappa * (np.cos(t) - 1)) * np.sin(t) ** (dim - 2)

    def area(function):
        peak = np.sqrt(dim / (dim + kappa))
        return integrate.quad(function, 0, np.pi, points=[peak], epsabs=0, epsrel=1e-9)[0]

    norm, flat = area(weight), area(lambda t: np.sin(t) ** (dim - 2))
    versine = area(lambda t: (1 - np.cos(t)) * weight(t)) / norm
    expected = -kappa * versine - np.log(norm / flat)
    assert float(vmf(dim, kappa).kl()) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    single = float(vmf(dim, kappa, dtype=torch.float32).kl())
    assert single == pytest.approx(expected, rel=1e-4, abs=3e-5)


def test_the_divergence_is_that_of_the_draws():
    q = vmf(5, 8.0, 10_000, torch.float32)
    z = q.rsample()
    ratio = q.log_prob(z) - UniformSphere(torch.zeros(1, 5)).log_prob(z)
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert float(ratio.mean()) == pytest.approx(float(q.kl()[0]), abs=4.5 * error)


def test_the_divergence_differentiates_exactly():
    kappa = torch.tensor([[0.2], [3.0], [40.0]], dtype=torch.float64, requires_grad=True)
    mean = torch.eye(3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda kappa: VonMisesFisher(mean, kappa).kl(), kappa)


# -- draws ------------------------------------------------------------------------------------


def share_below(angle, dim, kappa):
    """The exact distribution function of the angle to the mean, by a fine quadrature."""
    t = np.linspace(0, np.pi, 200_001)
    density = np.exp(kappa * (np.cos(t) - 1)) * np.sin(t) ** (dim - 2)
    total = integrate.cumulative_simpson(density, x=t, initial=0)
    return np.interp(angle, t, total / total[-1])


@pytest.mark.parametrize("kappa", [*KAPPAS, 5000.0])
@pytest.mark.parametrize("dim", DIMS)
def test_the_angle_is_the_inverse_of_the_distribution_function(dim, kappa):
    q = vmf(dim, kappa, 2000, torch.float32)
    shares = torch.linspace(0.0005, 0.9995, 2000)
    noise = torch.randn(2000, dim)
    noise[:, 0] = torch.special.ndtri(shares)
    z = q.rsample(noise)
    # The chord is exact where the cosine is near 1.
    angle = 2 * np.arcsin(np.clip((z - q.mean).double().norm(dim=1).numpy() / 2, 0, 1))
    np.testing.assert_allclose(share_below(angle, dim, kappa), shares, atol=4e-4)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_the_draws_are_directions_around_the_mean_in_all_others_alike(dim):
    q = vmf(dim, 3.0, 20_000)
    z = q.rsample()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z), dtype=z.dtype))
    error = z.std(0) / len(z) ** 0.5
    length = special.iv(dim / 2, 3.0) / special.iv(dim / 2 - 1, 3.0)
    assert ((z.mean(0) - length * q.mean[0]).abs() < 4.5 * error).all()
    aside = torch.linalg.svd(q.mean[:1])[2][1:]  # an orthogonal basis of the rest
    spread = (z @ aside.T).square().mean(0)
    torch.testing.assert_close(spread, spread.mean().expand(dim - 1), rtol=0.06, atol=0)


@pytest.mark.parametrize("kappa", [0.5, 5.0, 100.0])
@pytest.mark.parametrize("dim", [2, 3, 8])
def test_gradients_go_through_the_draws(dim, kappa):
    """d/dkappa E[mean·z] = A'(kappa) = 1 - A² - (d - 1) A / kappa."""
    k = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    mean = torch.eye(1, dim, dtype=torch.float64).expand(10_000, -1)
    shares = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    noise = torch.randn(10_000, dim, dtype=torch.float64)
    noise[:, 0] = torch.special.ndtri(shares)
    cosine = VonMisesFisher(mean, k.expand(10_000, 1)).rsample(noise)[:, 0].mean()
    A = special.ive(dim / 2, kappa) / special.ive(dim / 2 - 1, kappa)
    assert float(cosine.detach()) == pytest.approx(A, abs=2e-4)
    (slope,) = torch.autograd.grad(cosine, k)
    assert float(slope) == pytest.approx(1 - A**2 - (dim - 1) * A / kappa, rel=5e-3)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_the_derivatives_of_a_draw_by_mean_and_concentration(dim):
    noise = torch.randn(4, dim, dtype=torch.float64)
    h = torch.randn(4, dim + 1, dtype=torch.float64, requires_grad=True)
    latent = Sphere(dim).double()
    assert torch.autograd.gradcheck(
        lambda h: latent.posterior(h).rsample(noise), h, atol=2e-3, rtol=2e-2
    )


def test_the_prior_is_uniform():
    prior = UniformSphere(torch.zeros(1, 3))
    z = prior.sample(20_000)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(20_000))
    assert float(prior.log_prob(z)[0]) == pytest.approx(-np.log(4 * np.pi))
    # Archimedes: each coordinate of a uniform point on the sphere is uniform.
    assert stats.kstest(z[:, 2].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


# -- the model --------------------------------------------------------------------------------


def circle(n, seed):
    """A noisy circle, embedded in 6 dimensions."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0, 2 * np.pi, n)
    plane = np.stack([np.cos(t), np.sin(t)], 1) @ np.linalg.qr(np.ones((6, 2)) + np.eye(6, 2))[0].T
    return (plane + 0.05 * rng.standard_normal((n, 6))).astype(np.float32), t


@pytest.mark.wide
def test_a_circle_fits_on_a_circle():
    """One degree of freedom: the spherical code beats the normal code on the line."""
    (X, _), (held, t) = circle(600, 0), circle(300, 1)
    run = {"epochs": 50, "validation": 0.0, "hidden": (32,), "scaling": "none"}
    sphere = narrows.SphericalVAE(latent_dim=2, **run).fit(X)
    line = narrows.VAE(latent_dim=1, **run).fit(X)
    assert sphere.score(held) > line.score(held) + 0.3
    codes = sphere.transform(held)
    angle = np.arctan2(codes[:, 1], codes[:, 0])
    turn = max(abs(np.exp(1j * (angle - t)).mean()), abs(np.exp(1j * (angle + t)).mean()))
    assert turn > 0.95  # the code is the angle, up to a rotation or a reflection
    assert len(sphere.sample(4)) == 4


def test_codes_are_decoded_by_their_direction(wine):
    model = narrows.SphericalVAE(latent_dim=3, epochs=2).fit(wine)
    codes = model.transform(wine)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        model.inverse_transform(3 * codes), model.inverse_transform(codes), rtol=1e-3, atol=1e-3
    )
    assert model.unit_kl_ is None


@pytest.mark.wide
def test_the_code_does_not_collapse_on_images(images):
    model = narrows.SphericalVAE(epochs=20, batch_size=16).fit(images)
    untrained = narrows.SphericalVAE(epochs=1, learning_rate=1e-9).fit(images)
    assert model.history_[-1]["kl"] > 4
    assert model.history_[-1]["validation_mse"] < 0.8 * untrained.history_[-1]["validation_mse"]


def test_a_sphere_needs_two_dimensions(wine):
    with pytest.raises(ParameterError, match=r"2 or more dimensions. Got 1\."):
        narrows.SphericalVAE(latent_dim=1).fit(wine)
