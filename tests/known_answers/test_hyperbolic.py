"""The Poincaré ball against quadrature, known identities, flat space and exact gradients."""

from math import atanh, log, sqrt

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

import narrows
from narrows.errors import ParameterError
from narrows.parts import hyperbolic
from narrows.parts.hyperbolic import (
    MARGIN,
    Ball,
    Gyroplanes,
    WrappedNormal,
    distance,
    exp,
    exp0,
    inside,
    mobius,
)
from narrows.parts.latents import DiagonalGaussian

CURVATURES = [0.1, 1.0, 4.0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def points(n, dim, c):
    """Points of the ball whose distances from the origin are a normal code's."""
    return exp0(double(n, dim), c)


def wrapped(mean, deviation, c):
    mean, deviation = torch.as_tensor(mean).double(), torch.as_tensor(deviation).double()
    return WrappedNormal(DiagonalGaussian(mean, 2 * deviation.log()), c)


def prior(dim, c):
    return wrapped(torch.zeros(1, dim), torch.ones(1, dim), c)


# -- geodesics --------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CURVATURES)
def test_mobius_addition_is_that_of_the_paper(c):
    """((1 + 2c<x, y> + c|y|²) x + (1 - c|x|²) y) / (1 + 2c<x, y> + c²|x|²|y|²)."""
    x, y = points(50, 3, c), points(50, 3, c)
    dot, xx, yy = ((a * b).sum(1, keepdim=True) for a, b in ((x, y), (x, x), (y, y)))
    expected = (1 + 2 * c * dot + c * yy) * x + (1 - c * xx) * y
    expected = expected / (1 + 2 * c * dot + c**2 * xx * yy)
    torch.testing.assert_close(mobius(x, y, c), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("c", CURVATURES)
def test_the_origin_adds_nothing_and_what_is_added_on_the_left_is_taken_off_there(c):
    x, y = points(50, 3, c), points(50, 3, c)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(mobius(zero, x, c), x)
    torch.testing.assert_close(mobius(x, zero, c), x)
    torch.testing.assert_close(mobius(-x, x, c), zero)
    torch.testing.assert_close(mobius(-x, mobius(x, y, c), c), y)
    assert not torch.allclose(mobius(x, y, c), mobius(y, x, c))  # it does not commute


@pytest.mark.parametrize("c", CURVATURES)
def test_the_distance_is_that_of_the_metric(c):
    """arcosh(1 + 2c|x-y|² / ((1 - c|x|²)(1 - c|y|²))) / sqrt(c), and it is left alone by x +."""
    x, y, step = (points(50, 3, c) for _ in range(3))
    found = distance(x, y, c).squeeze(1)
    a, b = (1 - c * p.square().sum(1) for p in (x, y))
    square = (x - y).square().sum(1)
    torch.testing.assert_close(found, (1 + 2 * c * square / (a * b)).acosh() / sqrt(c))
    torch.testing.assert_close(
        distance(mobius(step, x, c), mobius(step, y, c), c).squeeze(1), found
    )


@pytest.mark.parametrize("c", CURVATURES)
def test_exp_and_log_are_inverse_and_lengths_are_distances(c):
    x, v, z = points(50, 3, c), double(50, 3), points(50, 3, c)
    reached = exp(x, v, c)
    torch.testing.assert_close(hyperbolic.log(x, reached, c), v)
    torch.testing.assert_close(exp(x, hyperbolic.log(x, z, c), c), z)
    torch.testing.assert_close(distance(x, reached, c), v.norm(dim=1, keepdim=True))
    ways = [distance(x, exp(x, share * v, c), c) for share in (0.25, 0.5, 1.0)]
    torch.testing.assert_close(ways[0] + distance(exp(x, 0.25 * v, c), reached, c), ways[2])
    torch.testing.assert_close(2 * ways[0], ways[1])


def test_the_frame_at_a_point_is_the_tangent_space_in_the_metrics_units():
    """A short v moves x by v (1 - c|x|²) / 2, which is how the origin's frame is carried."""
    x, v = points(20, 3, 1.0), 1e-6 * double(20, 3)
    moved = (exp(x, v, 1.0) - x) / 1e-6
    expected = 0.5 * (1 - x.square().sum(1, keepdim=True)) * v / 1e-6
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_the_operations_differentiate_exactly():
    x, z, v = (0.4 * double(4, 3) for _ in range(3))
    x, z = exp0(x, 2.0), exp0(z, 2.0)
    v[0] = 0.0  # and where there is no direction
    for function, first in ((mobius, z), (exp, v), (hyperbolic.log, z), (distance, z)):
        inputs = [point.clone().requires_grad_() for point in (x, first)]
        assert torch.autograd.gradcheck(lambda x, y, f=function: f(x, y, 2.0), inputs)


# -- the wrapped normal -----------------------------------------------------------------------


def polar(c, cells=300, reach=9.0):
    """Points of the disc and the areas of the cells that they stand for, by the ball's metric."""
    r = (np.arange(cells) + 0.5) * reach / cells
    angle = 2 * np.pi * np.arange(360) / 360
    area = np.sinh(sqrt(c) * r) / sqrt(c) * reach / cells * 2 * np.pi / 360
    norm = np.tanh(0.5 * sqrt(c) * r) / sqrt(c)
    z = norm[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return torch.from_numpy(z.reshape(-1, 2)), torch.from_numpy(np.repeat(area, 360))


@pytest.mark.parametrize("c", [0.1, 1.0, 1.5])
def test_the_density_integrates_to_one_by_the_volume_of_the_ball(c):
    z, area = polar(c)
    q = wrapped([[0.9, -0.6]], [[0.5, 0.3]], c)
    for one in (q, prior(2, c)):
        assert float((one.log_prob(z).exp() * area).sum()) == pytest.approx(1, abs=1e-4)
    moved = area / (0.25 * (1 - c * z.square().sum(1)) ** 2)  # no density by dz, but by the metric
    assert float((q.log_prob(z).exp() * moved).sum()) > 1.5


@pytest.mark.parametrize("c", CURVATURES)
def test_the_draws_have_the_density(c):
    """Their share of each of some regions, by quadrature."""
    q = wrapped([[0.9, -0.6]], [[0.6, 0.3]], c)
    z, area = polar(c)
    share = q.log_prob(z).exp() * area
    n = 40_000
    draws = wrapped(
        q.flat.mean.expand(n, 2), (0.5 * q.flat.logvar).exp().expand(n, 2), c
    ).rsample()
    centre = q.mean
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 1.2)):
        for axis in (0, 1):
            within = []
            for where in (z, draws):
                far = distance(centre, where, c).squeeze(1)
                within.append((far >= low) & (far < high) & (where[:, axis] > centre[0, axis]))
            expected = float(share[within[0]].sum())
            found = float(within[1].double().mean())
            assert found == pytest.approx(expected, abs=4.5 * sqrt(expected / n) + 2e-3)


def test_draws_are_as_far_from_the_mean_as_normal_ones():
    q = wrapped([[1.0, 2.0, -1.0]] * 20_000, [[0.5, 0.5, 0.5]] * 20_000, 1.0)
    far = (distance(q.mean, q.rsample(), 1.0) / 0.5).squeeze(1).numpy()
    assert stats.kstest(far, stats.chi(3).cdf).pvalue > 1e-3
    z = prior(3, 1.0).sample(20_000)
    far = distance(torch.zeros_like(z), z, 1.0).squeeze(1).numpy()
    assert stats.kstest(far, stats.chi(3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("c", [0.1, 1.0, 1.5])
def test_the_divergence_is_its_integral_and_that_of_the_densities(c):
    mean, deviation = [[0.9, -0.6]], [[0.5, 0.3]]
    q, p = wrapped(mean, deviation, c), prior(2, c)
    z, area = polar(c)
    log_q = q.log_prob(z)
    expected = float((log_q.exp() * (log_q - p.log_prob(z)) * area).sum())
    n = 20_000
    many = wrapped(mean * n, deviation * n, c)
    noise = double(n, 2)
    z = many.rsample(noise)
    ratio = many.log_prob(z) - p.log_prob(z)
    found = many.kl(noise).squeeze(1)
    for estimate in (ratio, found):
        error = float(estimate.std()) / sqrt(n)
        assert float(estimate.mean()) == pytest.approx(expected, abs=4.5 * error)
    assert found.std() < 0.2 * ratio.std()  # what the control variate is for


def test_the_divergence_of_the_prior_from_itself_is_zero_at_every_draw():
    q = wrapped(torch.zeros(9, 3), torch.ones(9, 3), 1.0)
    torch.testing.assert_close(q.kl(double(9, 3)), torch.zeros(9, 1, dtype=torch.float64))


def test_curvature_is_the_square_of_the_spread():
    """Twice the lengths at a quarter of the curvature: only the volume's unit differs."""
    mean, deviation, noise = double(6, 3), double(6, 3).exp(), double(6, 3)
    q, wide = wrapped(mean, deviation, 4.0), wrapped(2 * mean, 2 * deviation, 1.0)
    torch.testing.assert_close(2 * q.rsample(noise), wide.rsample(noise))
    z = q.rsample(noise)
    torch.testing.assert_close(q.log_prob(z), wide.log_prob(2 * z) + 3 * log(2))


def test_without_curvature_all_is_a_vaes():
    h, noise = torch.randn(6, 6), torch.randn(6, 3)
    c = 1e-8
    latent, flat = Ball(3, c).train(), narrows.VAE(latent_dim=3).latent().train()
    for one in (latent, flat):
        one.center.fill_(0.3)
        one.variance.fill_(0.7)
    z, charges = latent(h, noise)
    expected_z, expected = flat(h, noise)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(2 * z, expected_z, **close)
    torch.testing.assert_close(charges["kl"], expected["kl"], **close)
    torch.testing.assert_close(
        latent.posterior(h).log_prob(z.double()).float(),
        flat.posterior(h).log_prob(expected_z),
        **close,
    )
    for found, known in zip(latent.moments(h), flat.moments(h), strict=True):
        torch.testing.assert_close(found.float(), known, **close)


def test_the_derivatives_of_a_draw_and_of_its_price():
    noise, h = double(4, 3), 0.5 * double(4, 6)
    latent = Ball(3, 1.5).double()
    h.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: latent.train()(h, noise)[0], h)
    assert torch.autograd.gradcheck(lambda h: latent.train()(h, noise)[1]["kl"], h)
    z = latent(h.detach(), noise)[0].requires_grad_()
    assert torch.autograd.gradcheck(latent.posterior(h).log_prob, z)
    assert torch.autograd.gradcheck(latent.seen, z)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1.0, 30.0, 1e6, 1e15])
def test_an_extreme_encoder_stays_inside_and_finite(size, c):
    latent = Ball(4, c)
    h = (size * torch.randn(50, 8)).requires_grad_()
    for training in (True, False):
        z, charges = latent.train(training)(h)
        assert (z.double().norm(dim=1) < 1 / sqrt(c)).all()
        seen = latent.seen(z)
        (gradient,) = torch.autograd.grad(seen.square().mean() + charges["kl"].mean(), h)
        for tensor in (z, seen, charges["kl"], gradient, latent.prior().log_prob(z)):
            assert tensor.isfinite().all()
        assert z.dtype == seen.dtype == charges["kl"].dtype == torch.float32
    assert latent.seen(1e6 * h.detach()[:, :4]).isfinite().all()  # of no code: projected


def test_at_the_boundary_single_precision_tells_points_apart():
    """Their distances, from what `transform` returns, within a hundredth."""
    c = 1.0
    edge = 2 * atanh(1 - MARGIN)
    for r in (edge - 0.5, edge):
        z = exp0(torch.tensor([[r, 0.0]], dtype=torch.float64), c).float()
        far = float(distance(torch.zeros(1, 2), z.double(), c))
        assert far == pytest.approx(r, abs=0.01)
    assert float(inside(torch.tensor([[3.0, 4.0]]), 4.0).norm()) == pytest.approx(0.5, rel=2e-5)


# -- gyroplanes -------------------------------------------------------------------------------


def test_gyroplanes_tell_the_distance_to_the_nearest_point_of_a_plane():
    """In the disc: the plane through exp0(r a / |a|) across a, sampled finely."""
    c, r = 1.5, 0.75
    layer = Gyroplanes(2, 1, c).double()
    along = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    layer.load_state_dict({"weight": 2 * along, "offset": torch.tensor([r])})
    foot = exp0(r * along, c)
    across = torch.tensor([[0.8, 0.6]], dtype=torch.float64)
    plane = exp(foot, torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None] * across, c)
    assert layer(plane).abs().max() < 1e-6
    z = points(20, 2, c)
    nearest = distance(z[:, None], plane, c).amin(1)
    found = layer(z)
    torch.testing.assert_close(found.abs(), 2 * nearest, rtol=1e-3, atol=1e-3)
    beyond = distance(z, exp0((r + 1e-3) * along, c), c) < distance(
        z, exp0((r - 1e-3) * along, c), c
    )
    assert torch.equal(found > 0, beyond)
    origin = torch.zeros(1, 2, dtype=torch.float64)
    assert layer(origin).item() == pytest.approx(-2 * r)


def test_a_gyroplane_of_a_flat_ball_is_a_linear_layer():
    layer = Gyroplanes(3, 5, 1e-10).double()
    torch.nn.init.normal_(layer.offset)
    u = double(7, 3)
    expected = u @ layer.weight.T - layer.weight.norm(dim=1) * layer.offset
    torch.testing.assert_close(layer(exp0(u, 1e-10)), expected, rtol=1e-5, atol=1e-6)


def test_the_derivatives_of_a_gyroplane():
    layer = Gyroplanes(3, 4, 1.5).double()
    torch.nn.init.normal_(layer.offset)
    inputs = [points(3, 3, 1.5), layer.weight.detach(), layer.offset.detach()]

    def call(z, weight, offset):
        state = {"weight": weight, "offset": offset}
        return torch.func.functional_call(layer, state, (z,))

    assert torch.autograd.gradcheck(call, [one.clone().requires_grad_() for one in inputs])


# -- the model --------------------------------------------------------------------------------


def test_codes_are_points_and_interpolation_follows_a_geodesic(wine):
    model = narrows.PoincareVAE(latent_dim=3, curvature=2.0, epochs=3).fit(wine)
    codes = torch.from_numpy(model.transform(wine)).double()
    assert (2 * codes.square().sum(1) < 1).all()
    a, b = codes[:1], codes[1:2]
    way = torch.linspace(0, 1, 5)[:, None]
    path = model.net_.latent.between(a, b, way)
    steps = distance(path[:-1].double(), path[1:].double(), 2.0)
    torch.testing.assert_close(steps, distance(a, b, 2.0).expand(4, 1) / 4, rtol=1e-4, atol=0)
    np.testing.assert_allclose(
        model.interpolate(wine[0], wine[1], 5), model.inverse_transform(path), rtol=1e-4, atol=1e-4
    )
    assert model.unit_kl_ is None
    assert len(model.sample(4)) == len(model.sample(4, density=True)) == 4


def diffusion(seed, branches=3, depth=5, dim=50, noise=0.3):
    """A branching diffusion: noisy samples of its nodes, 15 and 3 of each, and their distances."""
    rng, parent, level = np.random.default_rng(seed), [-1], [0]
    for _ in range(depth - 1):
        grown = [node for node in level for _ in range(branches)]
        level = list(range(len(parent), len(parent) + len(grown)))
        parent += grown
    place, above = np.zeros((len(parent), dim)), [{0}]
    for i in range(1, len(parent)):
        place[i] = place[parent[i]] + rng.standard_normal(dim)
        above.append(above[parent[i]] | {i})
    hops = np.array([[len(a ^ b) for b in above] for a in above], float)
    nodes = [np.repeat(np.arange(len(parent)), 15), np.tile(np.arange(len(parent)), 3)]
    X, held = (place[i] + noise * rng.standard_normal((len(i), dim)) for i in nodes)
    return X.astype(np.float32), held.astype(np.float32), hops[nodes[1][:, None], nodes[1]]


@pytest.mark.wide
def test_a_tree_fits_into_the_ball_better_than_into_the_plane():
    """Paired over three seeds: the bound, and how distances of codes follow those of the tree."""
    gains = []
    for seed in range(3):
        X, held, hops = diffusion(seed)
        run = {"latent_dim": 2, "hidden": (64, 64), "epochs": 60, "validation": 0.0, "seed": seed}
        plane, ball = (cls(**run).fit(X) for cls in (narrows.VAE, narrows.PoincareVAE))
        a, b = (torch.from_numpy(model.transform(held)).double() for model in (plane, ball))
        far = torch.cdist(a, a), distance(b[:, None], b, 1.0).squeeze(2)
        pairs = np.triu_indices(len(hops), 1)
        follows = [np.corrcoef(d.numpy()[pairs], hops[pairs])[0, 1] for d in far]
        gains.append([ball.score(held) - plane.score(held), follows[1] - follows[0]])
    score, correlation = np.mean(gains, 0)
    assert score > 0.5
    assert correlation > 0.03


def test_a_ball_is_curved():
    with pytest.raises(ParameterError, match=r"curvature c above 0. Got 0\."):
        narrows.ComposedAutoencoder(code="ball", code_options={"curvature": 0}).fit(
            load_digits().data[:50]
        )


@pytest.mark.parametrize(("dim", "curvature"), [(1, 1.0), (2, 1.0), (8, 0.25), (32, 0.0625)])
def test_the_ball_is_flatter_the_more_units_it_has(dim, curvature):
    assert narrows.PoincareVAE(latent_dim=dim).latent().curvature == pytest.approx(curvature)
