"""Divergences of codes from a prior against closed forms, full data sets and autograd."""

from math import exp, log

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from narrows.net import Net
from narrows.parts.divergences import (
    KERNELS,
    aggregate,
    decomposed_kl,
    floored_kl,
    mmd,
    moments,
    sliced,
)
from narrows.parts.latents import DiagonalGaussian
from narrows.parts.penalties import decoder_jacobian, kl_sparsity
from narrows.parts.schedules import COURSES, risen
from narrows.parts.spectral import Spectral, bound_layers

PARTS = ("mutual_information", "total_correlation", "dimension_kl")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# -- maximum mean discrepancy -----------------------------------------------------------------


def test_mmd_of_two_pairs_is_what_one_counts_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    # With dim = 1 and a scale of 0.5 the bandwidth is 1; squared distances are 1, 9 | 0, 9, 1, 4.
    cross = {"rbf": (1 + exp(-9) + exp(-1) + exp(-4)) / 4, "imq": (1 + 1 / 10 + 1 / 2 + 1 / 5) / 4}
    within = {"rbf": (exp(-1), exp(-9)), "imq": (1 / 2, 1 / 10)}
    for kernel in KERNELS:
        a, b = within[kernel]
        unbiased = a + b - 2 * cross[kernel]
        biased = (2 + 2 * a) / 4 + (2 + 2 * b) / 4 - 2 * cross[kernel]
        assert float(mmd(x, y, kernel, [0.5])) == pytest.approx(unbiased, rel=1e-5)
        assert float(mmd(x, y, kernel, [0.5], unbiased=False)) == pytest.approx(biased, rel=1e-5)


def test_mmd_is_a_sum_over_bandwidths_in_units_of_twice_the_dimension():
    x, y = double(9, 3), double(7, 3) + 1
    single = [mmd(x, y, "rbf", [scale]) for scale in (0.1, 2.0)]
    torch.testing.assert_close(mmd(x, y, "rbf", (0.1, 2.0)), sum(single))
    square = torch.cdist(x, y).square()
    cross = (-square / (2 * 3 * 2.0)).exp().mean()
    own = [(-torch.cdist(a, a).square() / 12).exp().mean() for a in (x, y)]
    torch.testing.assert_close(mmd(x, y, "rbf", [2.0], unbiased=False), sum(own) - 2 * cross)


@pytest.mark.parametrize("kernel", KERNELS)
def test_biased_mmd_of_equal_samples_is_zero_and_of_others_positive(kernel):
    x = double(20, 4)
    assert abs(float(mmd(x, x.flip(0), kernel, unbiased=False))) < 1e-12
    assert float(mmd(x, x + 0.5, kernel, unbiased=False)) > 0.01


@pytest.mark.parametrize("kernel", KERNELS)
def test_unbiased_mmd_has_the_expectation_zero_for_one_distribution(kernel):
    values = torch.stack([mmd(double(8, 2), double(8, 2), kernel) for _ in range(1000)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 1000**0.5
    assert float(values.min()) < 0


def test_rbf_mmd_of_two_normals_is_its_closed_form():
    """E exp(-||u||² / c) = (1 + 2 v / c)^(-d/2) exp(-||m||² / (c + 2 v)) for u ~ N(m, v I)."""
    dim, shift, scale = 3, 1.5, 1.0
    c = 2 * dim * scale

    def kernel_mean(v, m2):
        return (1 + 2 * v / c) ** (-dim / 2) * exp(-m2 / (c + 2 * v))

    # x ~ N(0, I), y ~ N(shift e_1, 0.25 I): differences have variances 2, 0.5 and 1.25.
    expected = kernel_mean(2, 0) + kernel_mean(0.5, 0) - 2 * kernel_mean(1.25, shift**2)
    draws = []
    for _ in range(40):
        y = 0.5 * double(500, dim)
        y[:, 0] += shift
        draws.append(mmd(double(500, dim), y, "rbf", [scale]))
    assert float(torch.stack(draws).mean()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_gradient_of_mmd(kernel, unbiased):
    x, y = double(4, 2).requires_grad_(), double(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: mmd(x, y, kernel, unbiased=unbiased), (x, y), atol=1e-6
    )


def test_mmd_of_single_samples_is_finite():
    assert mmd(torch.zeros(1, 2), torch.ones(1, 2)).isfinite()


# -- the aggregate posterior ------------------------------------------------------------------


def posteriors(n=6, dim=3):
    return DiagonalGaussian(double(n, dim), 0.5 * double(n, dim))


def exact(q, z):
    """log q(z) and log prod_k q(z_k), by torch.distributions' mixture over the whole data set."""
    normal = torch.distributions.Normal(q.mean, (0.5 * q.logvar).exp())
    density = normal.log_prob(z[:, None])
    n = len(q.mean)
    joint = (density.sum(2).logsumexp(1)) - log(n)
    return joint, (density.logsumexp(1) - log(n)).sum(1)


def test_the_whole_data_set_gives_the_exact_aggregate_posterior():
    q = posteriors()
    z = q.rsample()
    for found, expected in zip(aggregate(q, z, 6), exact(q, z), strict=True):
        torch.testing.assert_close(found, expected)
    joint, product = aggregate(q, z, 6, stratified=False)
    exact_joint, exact_product = exact(q, z)
    torch.testing.assert_close(joint, exact_joint - log(6))  # Chen's weights sum to 1 / size
    torch.testing.assert_close(product, exact_product - 3 * log(6))


def test_stratified_sampling_is_unbiased_for_the_density():
    """Over all batches of three from a data set of six that hold the draw's own sample."""
    q, dim = posteriors(), 3
    z = q.rsample()
    expected = exact(q, z)[0].exp()
    sums, counts = torch.zeros(6, dtype=torch.float64), 0
    for batch in torch.combinations(torch.arange(6), dim):
        rows = DiagonalGaussian(q.mean[batch], q.logvar[batch])
        sums[batch] += aggregate(rows, z[batch], 6)[0].exp()
        counts += 1
    torch.testing.assert_close(sums / (counts * dim / 6), expected)


def test_the_parts_are_those_of_the_aggregate_posterior_and_sum_to_the_kl():
    """A data set of six, whose q(z) is known; the sum has a closed form in expectation."""
    q, n = posteriors(), 2000
    means = torch.zeros(3, dtype=torch.float64)
    for _ in range(n):
        z = q.rsample()
        own = torch.distributions.Normal(q.mean, (0.5 * q.logvar).exp()).log_prob(z).sum(1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        joint, product = exact(q, z)
        parts = decomposed_kl(q, z, 6)
        expected = (own - joint, joint - product, product - prior)
        torch.testing.assert_close(parts, dict(zip(PARTS, expected, strict=True)))
        means += torch.stack([*parts.values()]).mean(1) / n
    assert (means > 0.05).all()  # none is idle here
    torch.testing.assert_close(means.sum(), q.kl().sum(1).mean(), rtol=0.02, atol=0)


def test_the_parts_are_the_information_and_the_total_correlation_of_a_known_case():
    """Four tight posteriors on the corners of a square carry log 4 nats, and two on its diagonal
    log 2 nats, all of it shared by the two units."""
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    for means, information, correlation in (
        (corners, log(4), 0.0),
        (corners[[0, 3]], log(2), log(2)),
    ):
        q = DiagonalGaussian(means, torch.full_like(means, -8.0))
        parts = {
            name: part.mean().item() for name, part in decomposed_kl(q, q.mean, len(means)).items()
        }
        torch.testing.assert_close(parts["mutual_information"], information)
        torch.testing.assert_close(parts["total_correlation"], correlation, atol=1e-8, rtol=0)


@pytest.mark.parametrize("stratified", [True, False])
def test_the_gradient_of_the_aggregate_posterior(stratified):
    inputs = [double(4, 2).requires_grad_() for _ in range(3)]

    def parts(mean, logvar, z):
        return aggregate(DiagonalGaussian(mean, logvar), z, 20, stratified)

    assert torch.autograd.gradcheck(parts, inputs)


# -- moments and free bits --------------------------------------------------------------------


def test_moments_are_those_of_a_known_covariance():
    """Means on the corners of a square with a side of 2a: covariance a² I; a shear correlates."""
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    means = 3.0 * corners @ torch.tensor([[1.0, 0.5], [0.0, 1.0]])  # C = 9 [[1, .5], [.5, 1.25]]
    q = DiagonalGaussian(means + 7, torch.full((4, 2), log(0.3)))
    off, own = moments(q, sampled=False)
    assert float(off) == pytest.approx(2 * 4.5**2)
    assert float(own) == pytest.approx((9 - 1) ** 2 + (11.25 - 1) ** 2)
    off, own = moments(q, sampled=True)
    assert float(off) == pytest.approx(2 * 4.5**2)
    assert float(own) == pytest.approx((9.3 - 1) ** 2 + (11.55 - 1) ** 2)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("weighed", [False, True])
def test_gradients_of_moments_pass_gradcheck(sampled, weighed):
    inputs = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weight = torch.arange(5.0).double() if weighed else None
    assert torch.autograd.gradcheck(
        lambda mean, logvar: moments(DiagonalGaussian(mean, logvar), sampled, weight), inputs
    )


def test_moments_of_the_prior_cost_nothing():
    q = DiagonalGaussian(torch.zeros(5, 3), torch.zeros(5, 3))
    assert [float(part) for part in moments(q, sampled=True)] == [0.0, 0.0]
    assert [float(part) for part in moments(q, sampled=False)] == [0.0, 3.0]


def test_free_bits_floor_the_mean_of_each_unit():
    kl = torch.tensor([[0.0, 3.0, 0.1], [1.0, 5.0, 0.1]])
    assert float(floored_kl(kl, 0.0)) == pytest.approx(0.5 + 4.0 + 0.1)
    assert float(floored_kl(kl, 0.4)) == pytest.approx(0.5 + 4.0 + 0.4)
    assert float(floored_kl(kl, 0.6)) == pytest.approx(0.6 + 4.0 + 0.6)
    weighted = floored_kl(kl, 0.4, torch.tensor([0.5, 1.5]))
    assert float(weighted) == pytest.approx(0.75 + 4.5 + 0.4)


# -- schedules --------------------------------------------------------------------------------


def at(course, progress, share=0.5, cycles=4):
    return float(risen(course, torch.tensor(progress), share, cycles))


def test_courses_pass_through_their_points():
    assert [at("constant", p) for p in (0.0, 0.5, 1.0)] == [1, 1, 1]
    assert [at("linear", p) for p in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)] == [0, 0.25, 0.5, 1, 1, 1]
    assert [at("linear", p, share=1.0) for p in (0.0, 0.25, 1.0)] == [0, 0.25, 1]
    assert [at("cosine", p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 0.5, 1, 1])
    assert at("cosine", 0.125) == pytest.approx(0.5 - 0.5 * 2**-0.5)


def test_a_cyclic_course_starts_again_and_ends_at_its_height():
    cycle = [at("cyclic", p) for p in (0.0, 1 / 16, 1 / 8, 3 / 16)]
    assert cycle == pytest.approx([0, 0.5, 1, 1])
    for k in (1, 2, 3):
        later = [at("cyclic", k / 4 + p) for p in (0.0, 1 / 16, 1 / 8, 3 / 16)]
        assert later == pytest.approx(cycle)
    assert at("cyclic", 1.0) == 1.0
    assert at("cyclic", 0.25, cycles=2, share=1.0) == 0.5


@pytest.mark.parametrize("course", COURSES)
def test_every_course_ends_at_one(course):
    assert at(course, 1.0) == at(course, 1.0, share=0.3, cycles=7) == 1.0


# -- the decoder's smoothness -----------------------------------------------------------------


def test_the_decoders_jacobian_is_estimated_without_bias():
    class Decoded(Net):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)
            ).double()

        def decode(self, z):
            return self.layers(z)

    net, z = Decoded(), double(1, 3)
    full = torch.autograd.functional.jacobian(net.decode, z).square().sum()

    class Pass:
        pass

    step = Pass()
    step.z = z.repeat(20_000, 1)
    with torch.no_grad():
        probes = decoder_jacobian(net, step)
    error = float(probes.std()) / 20_000**0.5
    assert abs(float(probes.mean() - full)) < 4.5 * error
    assert float(probes.std()) > 0.1 * float(full)


LAYERS = {
    "linear": (torch.nn.Linear(7, 5), (2, 7)),
    "conv": (torch.nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
    "transposed": (torch.nn.ConvTranspose2d(3, 4, 3, 2, 1, (1, 0)), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_spectral_layer_has_a_largest_singular_value_of_one(name):
    layer, shape = LAYERS[name]
    bounded = Spectral(layer)
    bounded.iterate(300)
    largest = torch.linalg.svdvals(bounded.matrix())[0]
    torch.testing.assert_close(bounded.sigma(), largest)
    assert len(bounded.matrix()) == (5 if name == "linear" else 4)
    x = torch.randn(shape)
    bias = layer.bias.view(-1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(bounded(x) - bias, (layer(x) - bias) / largest)


def test_forward_leaves_the_singular_vectors():
    bounded = Spectral(torch.nn.Linear(4, 4))
    before = bounded.u.clone(), bounded.v.clone()
    bounded.train()(torch.randn(3, 4))
    assert torch.equal(bounded.u, before[0])
    assert torch.equal(bounded.v, before[1])


def test_every_layer_is_bounded_and_only_once():
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(3, 4))
    )
    layers = bound_layers(module)
    assert [type(part) for part in module[1]] == [torch.nn.SiLU, Spectral]
    assert [layer.layer.out_features for layer in layers] == [3, 4]


def test_samples_without_weight_might_as_well_be_gone():
    x, logvar, y = double(8, 3), double(8, 3), double(8, 3)
    weight = torch.tensor([2.0, 0.0, 1.0, 0.0, 0.0, 1.0, 3.0, 1.0])
    kept, rest = weight > 0, weight[weight > 0]
    for unbiased in (True, False):
        whole, part = (
            mmd(z, y, unbiased=unbiased, weight=w) for z, w in ((x, weight), (x[kept], rest))
        )
        torch.testing.assert_close(whole, part)
    q, some = DiagonalGaussian(x, logvar), DiagonalGaussian(x[kept], logvar[kept])
    for sampled in (True, False):
        for whole, part in zip(
            moments(q, sampled, weight), moments(some, sampled, rest), strict=True
        ):
            torch.testing.assert_close(whole, part)
    torch.testing.assert_close(
        kl_sparsity(x.sigmoid(), 0.1, weight), kl_sparsity(x[kept].sigmoid(), 0.1, rest)
    )
    whole, part = aggregate(q, x, 8, False, weight), aggregate(some, x[kept], 8, False, rest)
    for times, a, b in zip((1, 3), whole, part, strict=True):  # the second is a sum over units
        torch.testing.assert_close(a[kept] + times * log(8), b + times * log(5))


@pytest.mark.parametrize(
    "price",
    [
        lambda x, y, weight: mmd(x, y, weight=weight),
        lambda x, y, weight: sliced(x, y, 5, weight),
        lambda x, y, weight: sum(moments(DiagonalGaussian(x, y), True, weight)),
        lambda x, y, weight: kl_sparsity(x.sigmoid(), 0.1, weight),
    ],
    ids=["mmd", "sliced", "moments", "kl_sparsity"],
)
def test_a_batch_without_any_weight_is_finite(price):
    x, y = double(6, 3).requires_grad_(), double(6, 3)
    value = price(x, y, torch.zeros(6))
    (gradient,) = torch.autograd.grad(value, x)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_sample_of_weight_two_is_two_samples():
    x, y = double(6, 3), double(5, 3)
    weight, twice = torch.tensor([2.0, 1, 1, 1, 1, 1]), torch.cat([x[:1], x])
    torch.testing.assert_close(
        mmd(x, y, unbiased=False, weight=weight), mmd(twice, y, unbiased=False)
    )


# -- sliced Wasserstein -----------------------------------------------------------------------


def test_equal_samples_are_no_distance_apart_in_any_order():
    x = double(20, 3)
    assert float(sliced(x, x.flip(0))) < 1e-24
    assert float(sliced(x, x.flip(0), weight=torch.ones(20))) < 1e-24
    assert float(sliced(x, x + 0.5)) > 0.1


def test_samples_apart_by_a_vector_are_its_square_over_the_dimension_apart():
    """E <θ, v>² = |v|² / dim over the sphere."""
    x, v = double(9, 4), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    expected = float(v.square().sum()) / 4
    for weight in (None, torch.ones(9)):
        assert float(sliced(x, x + v, 20_000, weight)) == pytest.approx(expected, rel=0.03)


def test_in_one_dimension_it_is_the_wasserstein_distance_of_normals():
    """W² of N(m, s²) and N(0, 1) is m² + (s - 1)²."""
    x, y = 3 * double(200_000, 1) + 1, double(200_000, 1)
    assert float(sliced(x, y, 1)) == pytest.approx(1 + 4, rel=0.02)


def test_in_one_dimension_it_is_the_least_cost_of_all_assignments():
    x, y = double(30, 1), double(30, 1)
    cost = torch.cdist(x, y).square()
    rows, columns = linear_sum_assignment(cost)
    assert float(sliced(x, y, 7)) == pytest.approx(float(cost[rows, columns].mean()))


def test_weights_of_the_sliced_distance_are_numbers_of_samples():
    y = double(8, 3)

    def value(z, weight=None):
        torch.manual_seed(1)
        return sliced(z, y, 50, weight)

    weight = torch.tensor([2.0, 0, 1, 0, 0, 1, 3, 1])
    spread = double(8, 3)
    many = spread.repeat_interleave(weight.long(), 0)
    torch.testing.assert_close(value(spread, weight), value(many))
    torch.testing.assert_close(value(many, torch.full((8,), 0.3)), value(many))


def test_the_gradient_of_the_sliced_distance():
    x, y = double(6, 2).requires_grad_(), double(6, 2)

    def value(x, weight):
        torch.manual_seed(1)
        return sliced(x, y, 5, weight)

    for weight in (None, torch.tensor([1.0, 2, 0.5, 3, 1, 1])):
        assert torch.autograd.gradcheck(lambda x, w=weight: value(x, w), x)
