"""Discrete codes: every objective, gradient, codebook and prior against what it must be."""

from copy import deepcopy
from math import log, prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch.autograd import gradcheck

import narrows
from narrows.data.sources import InMemory
from narrows.density import CodePrior
from narrows.errors import DataError, ParameterError
from narrows.metrics.health import book_usage, diagnose
from narrows.parts.categorical import Binary, Bits, Categorical, OneHot
from narrows.parts.codebooks import LinearTable, Table, kmeans, nearest
from narrows.parts.convolutions import conv, conv_grid
from narrows.parts.lookup_free import LFQ, entropy
from narrows.parts.networks import Sizes
from narrows.parts.quantizers import FSQ, Codebook, Hierarchical, SimVQ, rotated, through
from narrows.parts.refinement import Refinement

DIGITS = load_digits().data[:200].astype(np.float32)
IMAGES = np.rint(load_digits().images[:200] * (255 / 16)).astype(np.uint8)
QUICK = {"epochs": 5, "hidden": (16,), "learning_rate": 0.01, "verbose": 0}
ALL = ["VQVAE", "ResidualVQVAE", "HierarchicalVQVAE", "SimVQ", "FSQVAE", "LFQVAE"]
ALL += ["CategoricalVAE", "BinaryAutoencoder", "HRQVAE"]
SMALL = {name: {"latent_dim": 4} for name in ALL}
SMALL |= {"VQVAE": {"latent_dim": 4, "codes": 32}, "FSQVAE": {"levels": (5, 3)}}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# -- vector quantisation ----------------------------------------------------------------------


def test_the_loss_is_the_papers():
    model = narrows.VQVAE(
        codebook="gradient", scale=0.5**0.5, commitment=0.7, latent_dim=3, tokens=2, **QUICK
    ).fit(DIGITS)
    x, *_ = model.modality_.encode(DIGITS[:20])
    step = model.net_.train()(InMemory(x).take(torch.arange(20)))
    terms = model.objective(step)
    z_e = step.h.transpose(1, 2)  # (batch, tokens, dim)
    codes = model.net_.latent.tables[0].weight
    e = codes[torch.cdist(z_e.reshape(-1, 3), codes).argmin(1)].view(20, 2, 3)
    square = (z_e - e).square().sum((1, 2))
    constant = 0.5 * log(torch.pi) * x[0].numel() + model.modality_.log_units.sum()
    torch.testing.assert_close(
        terms["nll"] - constant, (x - step.out).square().sum(1), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(terms["codebook"], square)
    torch.testing.assert_close(terms["commitment"], 0.7 * square)
    assert set(terms) == {"nll", "codebook", "commitment"}


@pytest.mark.parametrize("name", ["codebook", "commitment"])
def test_each_of_several_codebooks_pays_for_what_is_left(name):
    latent = Codebook(3, 2, codes=5, quantizers=3, update="gradient")
    h = torch.randn(4, 3, 2)
    rest, paid = h.transpose(1, 2), torch.zeros(4)
    for table in latent.tables:
        e = table.weight[torch.cdist(rest.reshape(-1, 3), table.weight).argmin(1)].view(4, 2, 3)
        rest = rest - e
        paid = paid + rest.square().sum((1, 2))
    z, charges = latent.train()(h)
    torch.testing.assert_close(charges[name], paid)
    torch.testing.assert_close(z, h - rest.transpose(1, 2))


@pytest.mark.parametrize("name", ["codebook", "commitment"])
def test_both_levels_of_a_hierarchy_pay(name):
    latent = Hierarchical(3, 4, codes=5, update="gradient")
    h, (coarse, fine) = torch.randn(6, 3, 4), latent.tables
    z, charges = latent.train()(h)

    def nearest_to(x, table):
        rows = x.transpose(1, 2).reshape(-1, 3)
        e = table.weight[torch.cdist(rows, table.weight).argmin(1)]
        return e.view(6, -1, 3).transpose(1, 2), (rows - e).square().view(6, -1).sum(1)

    top, paid = nearest_to(latent.down(h), coarse)
    below = latent.up(top.repeat_interleave(2, 2))
    detail, also = nearest_to(latent.mixed(torch.cat([h, below], 1)), fine)
    torch.testing.assert_close(charges[name], paid + also)
    torch.testing.assert_close(z, torch.cat([below, detail], 1))


def test_gradients_go_where_the_stops_let_them():
    latent = Codebook(3, 2, codes=5, update="gradient")
    h = torch.randn(4, 3, 2, requires_grad=True)
    weight = torch.randn(4, 3, 2)
    z, charges = latent(h)
    table = latent.tables[0].weight
    (straight,) = torch.autograd.grad((z * weight).sum(), h, retain_graph=True)
    assert torch.equal(straight, weight)  # dz/dz_e is the identity
    assert torch.autograd.grad((z * weight).sum(), table, allow_unused=True)[0] is None
    z, charges = latent(h)
    (gradient,) = torch.autograd.grad(charges["commitment"].sum(), h, retain_graph=True)
    torch.testing.assert_close(gradient, 2 * (h - z).detach())
    index = latent.pack(h).flatten()
    expected = torch.zeros_like(table).index_add(0, index, 2 * latent.rows(z - h).detach())
    (gradient,) = torch.autograd.grad(charges["codebook"].sum(), table)
    torch.testing.assert_close(gradient, expected)


def test_hand_made_gradients_pass_gradcheck():
    latent = Codebook(3, 2, codes=5, update="gradient").double()
    h = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    (table,) = latent.parameters()
    assert gradcheck(lambda h: latent(h)[1]["commitment"], (h,))
    assert gradcheck(lambda _: latent(h.detach())[1]["codebook"], (table,))
    mapped = SimVQ(3, 2, codes=5).double()
    for parameter in mapped.parameters():
        assert gradcheck(lambda _: mapped(h.detach())[1]["codebook"], (parameter,))
    bound = FSQ(3, 2, levels=(8, 5)).double()
    assert gradcheck(bound.bounded, (torch.randn(6, 2, dtype=torch.float64, requires_grad=True),))


def test_the_codebook_that_follows_averages_is_kmeans_on_fixed_codes():
    x = torch.randn(500, 2) + 4 * torch.randint(0, 3, (500, 1))
    table = Table(2, 6, decay=0.0, restart=0.0)
    table._place(x[:6])
    for _ in range(100):
        table.follow(x, nearest(x, table.vectors()))
    found = KMeans(6, init=x[:6].numpy(), n_init=1, max_iter=300, tol=0.0).fit(x.numpy())
    np.testing.assert_allclose(table.vectors(), found.cluster_centers_, atol=1e-3)
    torch.manual_seed(1)
    start = x[torch.randperm(500)[:6]].numpy()
    torch.manual_seed(1)
    found = KMeans(6, init=start, n_init=1, max_iter=300, tol=0.0).fit(x.numpy())
    np.testing.assert_allclose(kmeans(x, 6, 100), found.cluster_centers_, atol=1e-3)


def test_averages_decay_and_smooth_as_written():
    table = Table(2, 3, decay=0.9, restart=0.0)
    shares, sums = torch.full((3,), 1 / 3), table.weight / 3
    for _ in range(20):
        x = torch.randn(50, 2)
        index = nearest(x, table.vectors())
        hot = torch.nn.functional.one_hot(index, 3).float()
        shares = 0.9 * shares + 0.1 * hot.mean(0)
        sums = 0.9 * sums + 0.1 * hot.t() @ x / 50
        table.follow(x, index)
        torch.testing.assert_close(table.vectors(), sums / shares[:, None], rtol=1e-3, atol=1e-4)
    table.shares.copy_(torch.tensor([1.0, 0.0, 0.0]))  # what nothing falls to stays where it is
    before = table.vectors().clone()
    table.follow(x, torch.zeros(50, dtype=torch.long))
    assert torch.equal(table.vectors()[1:], before[1:])


@pytest.mark.parametrize("latent", [Codebook, Hierarchical])
def test_samples_count_by_their_weights_in_averages_too(latent):
    weighted = latent(3, 5, codes=4, restart=0.0)
    repeated, untouched = deepcopy(weighted), deepcopy(weighted)
    h = torch.randn(3, 3, 5)
    weighted.update(h, h, torch.tensor([2.0, 1.0, 0.0]))
    repeated.update(h[[0, 0, 1]], h)
    tables = (latent.tables for latent in (weighted, repeated, untouched))
    for table, same, before in zip(*tables, strict=True):
        torch.testing.assert_close(table.shares, same.shares)
        torch.testing.assert_close(table.weight, same.weight)
        assert not torch.equal(table.weight, before.weight)
    after = deepcopy(weighted.state_dict())
    weighted.update(h, h, torch.zeros(3))
    assert all(torch.equal(value, after[name]) for name, value in weighted.state_dict().items())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_start_again_among_the_batch(update):
    table = Table(2, 4, update=update, decay=0.9, restart=0.5)
    with torch.no_grad():
        table._place(torch.tensor([[0.0, 0.0], [50.0, 0], [60.0, 0], [70.0, 0]]))
    x = torch.randn(100, 2)
    for step in range(6):
        assert (table.weight[1:, 0] > 40).all(), step
        table.follow(x, torch.zeros(100, dtype=torch.long))
    table.follow(x, torch.zeros(100, dtype=torch.long))  # 0.9^7 < 0.5
    assert all((x == vector).all(1).any() for vector in table.weight[1:])
    assert torch.equal(table.shares[1:], torch.full((3,), 0.25))
    never = Table(2, 4, update=update, decay=0.9, restart=0.0)
    before = never.weight[1:].clone()
    for _ in range(200):
        never.follow(x, torch.zeros(100, dtype=torch.long))
    torch.testing.assert_close(never.weight[1:].detach(), before, rtol=0.02, atol=0)


def test_cosine_codes_have_length_one():
    for update in ("ema", "gradient"):
        latent = Codebook(4, 3, codes=6, lookup="cosine", update=update)
        h = 5 * torch.randn(40, 4, 3)
        latent.start(h)
        for _ in range(3):
            latent.update(h, h)
        codes = latent.tables[0].vectors()
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(6))
        x = torch.nn.functional.normalize(latent.rows(h), dim=1)
        assert torch.equal(latent.pack(h).flatten(), (x @ codes.t()).argmax(1))
        torch.testing.assert_close(latent(h)[0], latent(3 * h)[0])


def test_the_gradient_passes_straight_through_once():
    latent = Codebook(3, 2, codes=5, quantizers=3)
    h, weight = torch.randn(2, 4, 3, 2)
    h.requires_grad_()
    z, _ = latent(h)
    assert torch.equal(torch.autograd.grad((z * weight).sum(), h)[0], weight)
    torch.testing.assert_close(z, latent.mean(h))


def test_residual_levels_code_what_is_left():
    latent = Codebook(4, 3, codes=8, quantizers=3)
    h = torch.randn(300, 4, 3)
    latent.start(h)
    rest, kept = latent.rows(h), latent.pack(h)
    for level, table in enumerate(latent.tables):
        index = torch.cdist(rest, table.weight).argmin(1)
        assert torch.equal(index.view(300, 3), kept[:, 3 * level : 3 * level + 3])
        before, rest = rest, rest - table.weight[index]
        assert rest.square().sum() < 0.8 * before.square().sum()
    torch.testing.assert_close(latent.rows(h - latent.mean(h)), rest)
    assert latent.books == (0, 0, 0, 1, 1, 1, 2, 2, 2)


def test_a_linear_table_starts_like_the_data_and_trains_only_its_map():
    x = torch.randn(4000, 3) @ torch.randn(3, 3) + 5
    table = LinearTable(3, 4000)
    table.start(x)
    torch.testing.assert_close(table.vectors().mean(0), x.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(table.vectors().T.cov(), x.T.cov(), atol=0.5, rtol=0.15)
    assert {name for name, _ in table.named_parameters()} == {"map.weight", "map.bias"}
    frozen = table.weight.clone()
    SimVQ(3).update(torch.randn(2, 3, 4), torch.zeros(2, 3, 4))
    assert torch.equal(table.weight, frozen)


# -- the rotation trick -----------------------------------------------------------------------


def rotation(x, e):
    """The matrices of each row's map from x to e, as the paper writes them."""
    length, other = x.norm(dim=1)[:, None, None], e.norm(dim=1)[:, None, None]
    start, end = x[:, :, None] / length, e[:, :, None] / other
    r = (start + end) / (start + end).norm(dim=1, keepdim=True)
    return other / length * (torch.eye(x.shape[1]) - 2 * r @ r.mT + 2 * end @ start.mT)


def jacobian(x, e):
    """The derivative of each row of e by its own row of x."""
    found = torch.autograd.functional.jacobian(lambda x: through(x, e, rotate=True), x)
    return found[range(len(x)), :, range(len(x))]


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_the_gradient_turns_with_the_vector(dim):
    x, e, gradient = torch.randn(3, 50, dim, dtype=torch.float64)
    assert torch.equal(through(x, e, rotate=True), e)
    matrix = rotation(x, e)
    torch.testing.assert_close(jacobian(x, e), matrix)
    torch.testing.assert_close((matrix @ x[:, :, None])[:, :, 0], e)
    torch.testing.assert_close(rotated(x, e), e)
    unscaled = matrix * (x.norm(dim=1) / e.norm(dim=1))[:, None, None]
    torch.testing.assert_close(unscaled.mT @ unscaled, torch.eye(dim).double().expand(50, -1, -1))
    torch.testing.assert_close(unscaled.det(), torch.ones(50, dtype=torch.float64))
    passed = (jacobian(x, e).mT @ gradient[:, :, None])[:, :, 0]
    cosine = torch.cosine_similarity
    torch.testing.assert_close(cosine(passed, x), cosine(gradient, e))
    ratio = e.norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(passed.norm(dim=1), ratio * gradient.norm(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rotation_of_degenerate_vectors(dtype):
    x = torch.randn(20, 3, dtype=dtype)
    eye = torch.eye(3, dtype=dtype).expand(20, 3, 3)
    torch.testing.assert_close(jacobian(x, x), eye)  # straight through
    torch.testing.assert_close(jacobian(x, 3 * x), 3 * eye)
    assert torch.equal(jacobian(torch.zeros_like(x), x), eye)
    assert torch.equal(jacobian(torch.zeros_like(x), torch.zeros_like(x)), eye)
    assert not jacobian(x, torch.zeros_like(x)).any()
    start = x[:, :, None] / x.norm(dim=1)[:, None, None]
    torch.testing.assert_close(jacobian(x, -2 * x), 2 * (eye - 2 * start @ start.mT))
    assert (
        jacobian(x, -3 * x).norm(dim=(1, 2)) < 3 * 3**0.5 + 0.1
    ).all()  # opposite but for rounding
    number = x[:, :1]
    ratio = torch.randn_like(number)
    torch.testing.assert_close(jacobian(number, ratio * number)[:, :, 0], ratio)


@pytest.mark.parametrize(
    "latent",
    [
        Codebook(3, 4, codes=5, gradient="rotation"),
        Codebook(3, 4, codes=5, gradient="rotation", lookup="cosine"),
        Codebook(3, 4, codes=5, gradient="rotation", quantizers=3),
        Hierarchical(3, 4, codes=5, gradient="rotation"),
        SimVQ(3, 4, codes=5, gradient="rotation"),
    ],
    ids=["one", "cosine", "residual", "hierarchical", "simvq"],
)
def test_every_codebook_turns_the_gradient(latent, monkeypatch):
    latent.double().start(torch.randn(50, 3, 4, dtype=torch.float64))
    h = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, *latent.code_shape, dtype=torch.float64)
    z, _ = latent(h)
    torch.testing.assert_close(z, latent.mean(h), atol=1e-12, rtol=0)
    (found,) = torch.autograd.grad((z * weight).sum(), h)

    def explicit(x, e, rotate):
        assert rotate
        return (rotation(x, e).detach() @ x[:, :, None])[:, :, 0]

    monkeypatch.setattr("narrows.parts.quantizers.through", explicit)
    (expected,) = torch.autograd.grad((latent(h)[0] * weight).sum(), h)
    torch.testing.assert_close(found, expected)


# -- finite scalars ---------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4), (7,)])
def test_fsq_uses_every_level_and_no_other(levels):
    latent = FSQ(3, 1, levels=levels)
    h = torch.linspace(-9, 9, 4001).repeat(len(levels), 1).t()
    digits = latent.bounded(h).round()
    for column, count in zip(digits.t(), levels, strict=True):
        assert column.unique().tolist() == list(range(-(count // 2), (count + 1) // 2))
    assert (latent.bounded(torch.zeros(1, len(levels))).abs() < 1e-6).all()
    every = torch.arange(prod(levels))[:, None]
    assert len(latent.unpack(every).unique(dim=0)) == prod(levels)
    grid = torch.cartesian_prod(*[h[:: 4000 // 16, 0]] * len(levels)).view(-1, len(levels), 1)
    found = latent.pack(grid[:50_000])
    torch.testing.assert_close(latent.unpack(found), latent.mean(grid[:50_000]))


def test_fsq_passes_the_gradient_of_the_bound():
    latent = FSQ(3, 2, levels=(8, 5)).double()
    h = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 2, dtype=torch.float64)
    (found,) = torch.autograd.grad((latent(h)[0] * weight).sum(), h)
    smooth = latent.decoded(latent.bounded(latent.rows(h)))
    (expected,) = torch.autograd.grad((smooth * weight).sum(), h)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(latent(h)[0], smooth)


# -- signs ------------------------------------------------------------------------------------


def enumerated(h, bits):
    """q(s | x) of every pattern of signs, ``(rows, 2**bits)``, and the patterns."""
    number = torch.arange(2**bits)[:, None]
    signs = 2.0 * (number // 2 ** torch.arange(bits) % 2) - 1
    rows = h.transpose(1, 2).reshape(-1, bits)
    return (-(rows[:, None] - signs).square().sum(2)).softmax(1), signs.to(h.dtype)


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_entropies_are_those_of_the_enumerated_codebook(bits):
    latent = LFQ(3, 5, bits=bits).double()
    h = torch.randn(8, bits, 5, dtype=torch.float64)
    weight = torch.rand(8, dtype=torch.float64)
    q, signs = enumerated(h, bits)
    _, charges = latent(h)
    torch.testing.assert_close(charges["entropy"], torch.special.entr(q).sum(1).view(8, 5).sum(1))
    nearest_one = signs[q.argmax(1)].view(8, 5, bits).transpose(1, 2)
    square = (h - nearest_one).square().sum((1, 2))
    torch.testing.assert_close(charges["commitment"], square)
    torch.testing.assert_close(latent.use(h), q.mean(0))
    share = (weight / weight.sum()).repeat_interleave(5) / 5
    torch.testing.assert_close(latent.use(h, weight), share @ q)
    joint = entropy(latent.use(h))
    torch.testing.assert_close(joint, torch.special.entr(q.mean(0)).sum())
    ones = q.mean(0) @ (signs > 0).double()
    single = torch.special.entr(torch.stack([ones, 1 - ones])).sum()
    assert charges["entropy"].sum() / 40 < joint < single + 1e-9


def test_hand_made_entropies_pass_gradcheck():
    latent = LFQ(3, 2, bits=5).double()
    h = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64)
    assert gradcheck(lambda h: latent(h)[1]["commitment"], (h,))
    assert gradcheck(lambda h: latent(h)[1]["entropy"], (h,))
    assert gradcheck(lambda h: entropy(latent.use(h, weight)), (h,))
    sure = torch.full((4, 5, 2), 300.0, requires_grad=True)  # patterns of no chance
    (gradient,) = torch.autograd.grad(entropy(latent.float().use(sure)), sure)
    assert gradient.isfinite().all()


def test_signs_are_the_digits_of_their_number():
    latent = LFQ(3, 1, bits=4)
    every = torch.arange(16)[:, None]
    _, signs = enumerated(torch.randn(1, 4, 1), 4)
    assert torch.equal(latent.pack(0.3 * signs[:, :, None]), every)
    expected = latent.signs(signs)[:, :, None]
    torch.testing.assert_close(latent.unpack(every), expected)
    torch.testing.assert_close(latent(0.3 * signs[:, :, None])[0], expected)
    h = torch.randn(16, 4, 1, requires_grad=True)
    weight = torch.randn(16, 3, 1)
    (found,) = torch.autograd.grad((latent(h)[0] * weight).sum(), h)
    torch.testing.assert_close(found[:, :, 0], weight[:, :, 0] @ latent.signs.weight)


def test_the_objective_of_signs_counts_samples_by_their_weight():
    options = {"bits": 4, "tokens": 3, "commitment": 0.7, "entropy": 0.3, "gamma": 2.0}
    model = narrows.LFQVAE(**options, **QUICK).fit(DIGITS)
    x, *_ = model.modality_.encode(DIGITS[:20])
    weight = torch.arange(1.0, 21)
    step = model.net_.train()(InMemory(x, weight=weight).take(torch.arange(20)))
    terms = model.objective(step)
    q, _ = enumerated(step.h, 4)
    share = (weight / weight.sum()).repeat_interleave(3) / 3
    torch.testing.assert_close(terms["nll"], step.nll)
    torch.testing.assert_close(terms["commitment"], 0.7 * step.charges["commitment"])
    torch.testing.assert_close(
        terms["entropy"], 0.3 * torch.special.entr(q).sum(1).view(20, 3).sum(1)
    )
    torch.testing.assert_close(terms["use"], -0.3 * 2 * 3 * torch.special.entr(share @ q).sum())
    assert set(terms) == {"nll", "commitment", "entropy", "use"}


def test_the_entropies_make_signs_sure_and_their_patterns_even():
    """Their difference is at least -bits * log 2: each pattern has its share, and for sure."""
    latent = LFQ(2, 1, bits=3)
    h = (0.5 + 0.1 * torch.randn(64, 3, 1)).requires_grad_()  # all of one pattern
    optimizer = torch.optim.Adam([h], 0.05)
    for _ in range(300):
        loss = latent(h)[1]["entropy"].mean() - entropy(latent.use(h))
        (h.grad,) = torch.autograd.grad(loss, h)
        optimizer.step()
    assert -3 * log(2) <= loss < -0.95 * 3 * log(2)
    assert latent.pack(h).unique().tolist() == list(range(8))


# -- hierarchical refinement ------------------------------------------------------------------


def refinement(**options):
    """Levels of vectors that are as long as what they shall explain, in double precision."""
    options = {"codes": 5, "quantizers": 3, "depth_dropout": 0.0, "init_decay": 1.0} | options
    latent, h = Refinement(2, 4, **options).double(), torch.randn(6, 2, 4, dtype=torch.float64)
    latent.start(h)
    return latent, h


def test_without_noise_the_levels_quantise_as_residual_codebooks():
    latent, h = refinement(temperature=1e-4, final_temperature=1e-4)
    residual = Codebook(2, 4, codes=5, quantizers=3, update="gradient", restart=0.0).double()
    residual.load_state_dict(latent.state_dict())
    expected = residual(h)[0]
    still = torch.zeros(1, 3, 4, 5, dtype=torch.float64)
    for found in (latent.train()(h, still)[0], latent.eval()(h)[0], latent.mean(h)):
        torch.testing.assert_close(found, expected)
    assert torch.equal(latent.pack(h), residual.pack(h))
    h.requires_grad_()
    (grad,) = torch.autograd.grad(latent.train()(h, still)[0].sum(), h)
    assert grad.abs().max() < 1e-6  # a choice that is sure has none


def test_the_kl_of_each_level_is_that_of_its_distances():
    latent, h = refinement()
    rest, total = h.transpose(1, 2), 0.0
    for level, table in enumerate(latent.tables):
        q = torch.distributions.Categorical(logits=-torch.cdist(rest, table.weight).square())
        p = torch.distributions.Categorical(logits=torch.zeros(6, 4, 5).double())
        kl = torch.distributions.kl_divergence(q, p)
        assert ((kl > 0) & (kl < log(5))).all()
        total = total + kl.sum(1)
        index = latent.pack(h).view(6, 3, 4)[:, level]
        assert torch.equal(index, q.probs.argmax(-1))
        rest = rest - table.weight[index]
    torch.testing.assert_close(latent.eval()(h)[1]["kl"], total)


def test_a_depth_leaves_the_first_levels_alone(monkeypatch):
    latent, h = refinement()
    noise = latent.noise(6).double()
    whole, charges = latent.train()(h, noise)
    parts = []
    for level in range(3):
        monkeypatch.setattr(
            Refinement, "depth", lambda self, rest, n=level: rest.new_full((6,), n)
        )
        parts.append(latent(h, noise)[0])
    levels = [b - a for a, b in zip(parts, [*parts[1:], whole], strict=True)]
    assert not parts[0].any()
    for e, table in zip(levels, latent.tables, strict=True):
        assert torch.cdist(latent.rows(e), table.weight).amin(1).max() < 1e-12
    mixed = torch.tensor([0, 1, 2, 3, 1, 2])
    monkeypatch.setattr(Refinement, "depth", lambda self, rest: mixed)
    z, paid = latent(h, noise)
    for row, n in enumerate(mixed):
        torch.testing.assert_close(z[row], sum((e[row] for e in levels[:n]), 0 * z[row]))
    torch.testing.assert_close(paid, charges)


def test_depths_have_their_probabilities():
    latent = Refinement(2, 4, quantizers=4, depth_dropout=0.3)
    depth, p = latent.depth(torch.empty(50_000, 1)), 0.3
    shares = torch.stack([(depth == n).float().mean() for n in range(5)])
    expected = torch.tensor([0, p, p * (1 - p), p * (1 - p) ** 2, (1 - p) ** 3])
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    assert (latent.eval().depth(torch.empty(9, 1)) == 4).all()


def test_draws_and_gradients_are_those_of_the_formula():
    """The gradient is that of sum_d soft_d C_d + (hard_d - soft_d fixed) C_d, by differences."""
    latent, h = refinement(temperature=2.0, final_temperature=0.5)
    latent.train().progress.fill_(0.5)  # a temperature of 1
    noise, weight = latent.noise(6).double(), torch.randn(6, 2, 4).double()
    books = [table.weight for table in latent.tables]
    fixed = []

    def total(h, *books):
        rest, z, kl = h.transpose(1, 2), 0.0, 0.0
        for level, book in enumerate(books):
            logits = -torch.cdist(rest, book).square()
            soft = (logits + noise[:, level]).softmax(-1)
            if len(fixed) == level:
                hard = torch.nn.functional.one_hot((logits + noise[:, level]).argmax(-1), 5)
                fixed.append((hard - soft).detach())
            e = (soft + fixed[level]) @ book
            z, rest, kl = z + e, rest - e, kl + (logits.log_softmax(-1).exp() * logits).sum()
            kl = kl - logits.logsumexp(-1).sum() + 24 * log(5)
        return (z.transpose(1, 2) * weight).sum() + kl

    h.requires_grad_()
    z, charges = latent(h, noise)
    found = (z * weight).sum() + charges["kl"].sum()
    torch.testing.assert_close(found, total(h, *books))
    assert gradcheck(total, (h, *books))
    grads = [
        torch.autograd.grad(value, [h, *books], retain_graph=True)
        for value in (found, total(h, *books))
    ]
    torch.testing.assert_close(*grads)
    assert all(grad.any() for grad in grads[0])


def test_levels_start_ever_smaller_and_pay_where_they_grow():
    latent, h = refinement(init_decay=0.5)
    lengths = [table.weight.norm(dim=1) for table in latent.tables]
    size = h.square().sum(1).mean().sqrt()
    for level, length in enumerate(lengths):
        torch.testing.assert_close(length, (size * 0.5**level).expand(5))
    assert latent.norm() == 0
    with torch.no_grad():
        latent.tables[1].weight.mul_(4)  # lengths 1, 2 and 1/4: 1.5 of the first is too little
    torch.testing.assert_close(latent.norm(), torch.tensor((1.5 * 2 - 1) ** 2 / 2).double())
    one, two, _ = (table.weight for table in latent.tables)
    assert gradcheck(lambda *_: latent.norm(), (one, two))
    assert Refinement(2, quantizers=1).norm() == 0


def test_the_score_of_levels_is_the_elbo_over_all_paths():
    model = narrows.HRQVAE(
        codes=3, quantizers=2, tokens=1, latent_dim=2, score_draws=3000, **QUICK
    )
    model.fit(DIGITS)
    net = model.net_.double()
    x, *_ = model.modality_.encode(DIGITS)
    batch = InMemory(x[:20].double()).take(torch.arange(20))
    with torch.no_grad():
        h = net.encode(batch)[0][..., 0]
        first, second = (table.weight for table in net.latent.tables)
        one = (-torch.cdist(h, first).square()).log_softmax(1)
        rest = h[:, None] - first
        two = (-torch.cdist(rest, second[None]).square()).log_softmax(2)
        logq = (one[:, :, None] + two).flatten(1)  # of the nine paths, as every_code has them
        torch.testing.assert_close(logq.exp().sum(1), torch.ones(20, dtype=torch.float64))
        out = net.decoder(every_code(net.latent))
        nll = torch.stack([net.likelihood.nll(out, one.expand_as(out)) for one in batch.x])
        elbo = (logq.exp() * (-log(9) - nll - logq)).sum(1)
        evidence = (-log(9) - nll).logsumexp(1)
    net.float()
    assert (logq.exp().amax(1) < 0.9).any()
    np.testing.assert_allclose(model.score_samples(DIGITS[:20]), elbo, atol=1.0, rtol=0.01)
    assert (elbo <= evidence + 1e-9).all()


# -- every discrete code ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("data", [DIGITS, IMAGES], ids=["table", "image"])
def test_indices_decode_to_the_reconstruction(name, data):
    model = getattr(narrows, name)(epochs=2, verbose=0).fit(data)
    indices = model.encode_indices(data)
    assert indices.dtype == np.int64
    assert indices.shape == (200, len(model.net_.latent.books))
    assert 0 <= indices.min() <= indices.max() < model.net_.latent.categories
    trained_on = np.delete(indices, model.held_out_, 0)
    np.testing.assert_array_equal(model.codes_, trained_on)
    decoded, made = model.decode_indices(indices), model.reconstruct(data)
    np.testing.assert_allclose(
        decoded.astype(float), made, atol=1 if made.dtype == np.uint8 else 1e-4
    )
    codes = model.transform(data)
    unpacked = model.net_.latent.unpack(torch.from_numpy(indices)).flatten(1).detach()
    np.testing.assert_allclose(codes, unpacked, atol=1e-5)


@pytest.mark.wide
@pytest.mark.parametrize("name", ALL)
def test_training_beats_the_untrained_net(name):
    options = {"latent_dim": 16, "learning_rate": 5e-3, "verbose": 0}
    still = getattr(narrows, name)(**options | {"learning_rate": 1e-30, "epochs": 1}).fit(DIGITS)
    model = getattr(narrows, name)(**options, epochs=30).fit(DIGITS)
    mean = np.square(DIGITS - DIGITS.mean(0)).mean()
    errors = [np.square(DIGITS - m.reconstruct(DIGITS)).mean() for m in (model, still)]
    assert errors[0] < 0.85 * min(errors[1], mean)


def test_codes_of_a_conv_net_lie_on_its_last_map():
    assert conv_grid((1, 28, 30), None) == (7, 8)
    assert conv_grid((3, 33, 47), (2, 3, 4)) == (5, 6)
    assert conv_grid((10,), None) == conv_grid((1, 8, 8), ()) == ()
    model = narrows.VQVAE(hidden=(4,), epochs=1, latent_dim=5, verbose=0).fit(IMAGES)
    assert model.net_.latent.code_shape == (5, 4, 4)
    assert not [m for m in model.net_.modules() if isinstance(m, torch.nn.Linear)]
    top = narrows.HierarchicalVQVAE(hidden=(4,), epochs=1, verbose=0).fit(IMAGES)
    assert top.net_.latent.coarse == (2, 2)
    assert top.codes_.shape[1] == 2 * 2 + 4 * 4
    flat = narrows.VQVAE(hidden=(), architecture="conv", epochs=1, verbose=0).fit(IMAGES)
    assert flat.net_.latent.code_shape == (8, 4)
    encoder, decoder = conv(Sizes((1, 9, 9), (6, 3, 3), (6, 3, 3), (1, 9, 9)), hidden=(4, 8))
    assert encoder[-1].kernel_size == (1, 1)
    assert decoder(torch.randn(2, 6, 3, 3)).shape == (2, 1, 9, 9)


def test_the_fine_code_sees_the_coarse_one():
    latent = Hierarchical(3, 4, codes=6)
    h = torch.randn(50, 3, 4)
    latent.start(h)
    z, charges = latent(h)
    torch.testing.assert_close(z, latent.mean(h))
    kept = latent.pack(h)
    assert kept.shape == (50, 2 + 4)
    other = kept.clone()
    other[:, 0] = (kept[:, 0] + 1) % 6
    changed = latent.unpack(other) != latent.unpack(kept)
    assert changed[:, :3].any()
    assert not changed[:, 3:].any()
    assert charges["commitment"].shape == (50,)


def test_low_precision_looks_up_in_full_precision():
    x, vectors = torch.randn(2000, 16), torch.randn(512, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(x, vectors)
    assert torch.equal(found, torch.cdist(x, vectors).argmin(1))


# -- categories and bits ----------------------------------------------------------------------


def test_kl_to_uniform_is_that_of_torch_distributions():
    logits = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    q = torch.distributions.Categorical(logits=logits)
    p = torch.distributions.Categorical(logits=torch.zeros_like(logits))
    torch.testing.assert_close(OneHot(logits).kl(), torch.distributions.kl_divergence(q, p))
    bits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    q = torch.distributions.Bernoulli(logits=bits)
    p = torch.distributions.Bernoulli(logits=torch.zeros_like(bits))
    torch.testing.assert_close(Bits(bits).kl(), torch.distributions.kl_divergence(q, p))
    assert gradcheck(lambda t: OneHot(t).kl(), (logits,))
    assert gradcheck(lambda t: Bits(t).kl(), (bits,))


def test_draws_have_their_probabilities():
    logits = torch.randn(1, 2, 3)
    drawn = OneHot(logits.expand(20_000, 2, 3)).rsample()
    torch.testing.assert_close(drawn.mean(0), logits.softmax(-1)[0], atol=0.015, rtol=0)
    torch.testing.assert_close(
        OneHot(logits).sample(20_000).mean(0), logits.softmax(-1)[0], atol=0.015, rtol=0
    )
    bits = torch.randn(1, 4)
    drawn = Bits(bits.expand(20_000, 4)).rsample()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), bits.sigmoid()[0], atol=0.015, rtol=0)


def test_bits_pass_the_gradient_of_their_probability():
    h = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(6, 4)
    (found,) = torch.autograd.grad((Binary(4).train()(h)[0] * weight).sum(), h)
    p = h.sigmoid().detach()
    torch.testing.assert_close(found, weight * p * (1 - p))


def test_the_relaxation_cools_with_progress():
    latent = Categorical(2, 3, temperature=2.0, final_temperature=0.5).train()
    h, noise = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    for progress, heat in ((0.0, 2.0), (0.5, 1.0), (1.0, 0.5)):
        latent.progress.fill_(progress)
        torch.testing.assert_close(latent(h, noise)[0], ((h + noise) / heat).softmax(-1))
    latent.eval()
    assert set(latent(h, noise)[0].unique().tolist()) == {0.0, 1.0}


def every_code(latent):
    """All codes, as the decoder sees them."""
    places = len(latent.books)
    every = torch.cartesian_prod(*[torch.arange(latent.categories)] * places)
    return latent.unpack(every.view(-1, places))


@pytest.mark.parametrize(
    "model",
    [
        narrows.CategoricalVAE(latent_dim=2, categories=3, score_draws=3000, **QUICK),
        narrows.BinaryAutoencoder(latent_dim=3, score_draws=3000, **QUICK),
    ],
    ids=["categories", "bits"],
)
def test_the_score_is_the_elbo_and_information_is_bounded(model):
    model.fit(DIGITS)
    net = model.net_.double()
    x, *_ = model.modality_.encode(DIGITS)
    batch = InMemory(x[:20].double()).take(torch.arange(20))
    with torch.no_grad():
        codes = every_code(net.latent).double()
        q = net.latent.posterior(net.encode(batch)[0])
        logq = torch.stack([q.log_prob(code[None]) for code in codes], 1)
        torch.testing.assert_close(logq.exp().sum(1), torch.ones(20, dtype=torch.float64))
        logp = net.latent.prior().log_prob(codes)
        torch.testing.assert_close(logp, torch.full_like(logp, -log(len(codes))))
        out = net.decoder(codes)
        nll = torch.stack([net.likelihood.nll(out, one.expand_as(out)) for one in batch.x])
        elbo = (logq.exp() * (logp - nll - logq)).sum(1)
        evidence = (logp - nll).logsumexp(1)
        mixed = logq.logsumexp(0) - log(20)
        information = (logq.exp() * (logq - mixed)).sum(1).mean()
    net.float()
    np.testing.assert_allclose(model.score_samples(DIGITS[:20]), elbo, atol=1.0, rtol=0.01)
    assert (elbo <= evidence + 1e-9).all()
    assert 0.1 < information <= log(len(codes))  # d log 2 for d bits


def test_hashes_of_like_samples_are_alike():
    digits = load_digits()
    model = narrows.BinaryAutoencoder(latent_dim=32, epochs=15, verbose=0).fit(digits.data)
    bits = model.encode_indices(digits.data).astype(bool)
    assert np.packbits(bits, 1).shape == (1797, 4)
    distance = (bits[:300, None] != bits[None, 300:]).sum(2)
    neighbour = digits.target[300:][distance.argmin(1)]
    assert (neighbour == digits.target[:300]).mean() > 0.7


# -- the prior over codes ---------------------------------------------------------------------


def test_the_prior_is_a_distribution_that_learns_dependence():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 1000)
    codes = np.stack([first, (first + 1) % 4, rng.integers(0, 2, 1000)], 1).astype(np.int32)
    prior = CodePrior.fit(codes, (0, 1, 1))
    every = np.stack(np.meshgrid(range(4), range(4), range(2), indexing="ij"), -1).reshape(-1, 3)
    chances = prior.log_prob(every).exp()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-5)
    true = (every[:, 1] == (every[:, 0] + 1) % 4) / 8
    assert np.abs(chances.numpy() - true).sum() < 0.2  # 1.5 for independent places
    drawn = prior.sample(20_000, seed=0).numpy()
    counts = np.bincount(drawn @ [8, 2, 1], minlength=32) / 20_000
    np.testing.assert_allclose(counts, chances, atol=0.01)
    np.testing.assert_array_equal(prior.sample(700, seed=3)[:9], prior.sample(9, seed=3))


@pytest.mark.parametrize("name", ALL)
def test_samples_come_from_the_learned_prior_and_are_saved(name, tmp_path):
    model = getattr(narrows, name)(**SMALL[name], **QUICK).fit(DIGITS)
    model.save(tmp_path / "before")
    state = torch.get_rng_state()
    drawn = model.sample(8, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    codes = model._fitted_density().sample(400, 5)
    seen = [set(column) for column in model.codes_.T]
    assert all(int(c) in held for code in codes for c, held in zip(code, seen, strict=True))
    np.testing.assert_array_equal(drawn, model.decode_indices(codes[:8].numpy()))
    model.save(tmp_path / "after")
    for when in ("before", "after"):
        np.testing.assert_array_equal(narrows.load(tmp_path / when).sample(8, seed=5), drawn)
    with pytest.raises(ParameterError, match="no prior to sample from"):
        model.sample(2, density=False)


@pytest.mark.parametrize(
    ("latent", "h", "uses"),
    [
        (Categorical(2, 4), F.one_hot(torch.tensor([[0, 1], [0, 2], [3, 1], [3, 3]]), 4), (2, 3)),
        (Binary(2), torch.tensor([[-9.0, 9.0], [9.0, 9.0], [-9.0, 9.0], [9.0, 9.0]]), (2, 1)),
    ],
    ids=["categories", "bits"],
)
def test_the_history_shows_how_integers_are_used(latent, h, uses):
    """Of each variable: one of two even values, or of two of which one is as frequent again."""
    found = latent.statistics(h.float())
    perplexity = [2.0, 2**1.5 if uses[1] == 3 else 1.0]
    assert float(found["perplexity"]) == pytest.approx(np.mean(perplexity))
    assert float(found["usage"]) == pytest.approx(sum(uses) / (2 * latent.categories))


def test_the_history_shows_how_codebooks_are_used():
    """The first book answers with one of eight codes, the second with four of them evenly."""
    latent = Codebook(2, 1, codes=8, quantizers=2, update="gradient")
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    with torch.no_grad():
        latent.tables[0].weight.copy_(torch.full((8, 2), 1e3))
        latent.tables[0].weight[0] = 0
        latent.tables[1].weight.copy_(torch.full((8, 2), 1e3))
        latent.tables[1].weight[:4] = corners
    found = latent.statistics(corners.repeat(3, 1)[..., None])
    assert float(found["perplexity"]) == pytest.approx((1 + 4) / 2)
    assert float(found["usage"]) == pytest.approx((1 / 8 + 4 / 8) / 2)


# -- health and refusals ----------------------------------------------------------------------


def test_dead_codes_are_named():
    history = [{"mse": 1.0}]
    codes = np.array([[0, 0], [1, 1], [2, 0], [3, 1]], np.int32)
    usage = book_usage(codes, (0, 1), 8)
    assert usage.used.tolist() == [4, 2]
    np.testing.assert_allclose(usage.perplexity, [4, 2])
    found = diagnose(history, codes.astype(np.float32), usage=usage)
    assert "2 of the 8 codes of codebook 2 of 2 are used" in str(found)
    collapsed = book_usage(np.zeros((5, 3), np.int32), (0, 0, 0), 8)
    found = diagnose(history, np.zeros((5, 3), np.float32), usage=collapsed)
    assert found.findings[0].name == "collapse"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (narrows.VQVAE(tokens=3), "tokens=3 has no effect"),
        (narrows.FSQVAE(tokens=3), "tokens=3 has no effect"),
        (
            narrows.VQVAE(codebook="gradient", restart=0.0, decay=0.5),
            "'decay' parameter of VQVAE",
        ),
        (narrows.FSQVAE(levels=(2, 5)), "'levels' parameter of FSQVAE"),
        (narrows.FSQVAE(levels=(512, 512)), "at most 65536 codes"),
        (narrows.FSQVAE(levels=()), "levels of FSQ"),
        (narrows.LFQVAE(tokens=3), "tokens=3 has no effect"),
        (narrows.LFQVAE(bits=17), "'bits' parameter of LFQVAE"),
        (narrows.ComposedAutoencoder(code="lfq", code_options={"bits": 17}), "bits of LFQ"),
        (narrows.VQVAE(codes=1), "'codes' parameter of VQVAE"),
        (narrows.HRQVAE(quantizers=1, norm_weight=2.0), "no effect with quantizers=1"),
        (narrows.HRQVAE(quantizers=1, depth_dropout=0.0), "no effect with quantizers=1"),
    ],
)
def test_settings_that_cannot_work_are_refused(model, words):
    with pytest.raises(ParameterError, match=words):
        model.set_params(epochs=1).fit(IMAGES)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([[0, 1, 2]], r"shape \(n, 4\)"),
        ([[0.0, 1.0, 2.0, 3.0]], "needs integers"),
        ([[0, 1, 2, 16]], "between 0 and 15"),
        ([[0, 1, 2, -1]], "between 0 and 15"),
    ],
)
def test_indices_that_no_code_has_are_refused(indices, words):
    model = narrows.VQVAE(codes=16, **QUICK).fit(DIGITS)
    with pytest.raises(DataError, match=words):
        model.decode_indices(indices)


def test_weight_decay_spares_a_codebook():
    """Its vectors are the means of what falls to them, which decay would shrink."""
    still = {"learning_rate": 1e-6, "schedule": "constant", "warmup": 0.0, "restart": 0.0}
    found = []
    for decay in (0.0, 1e4):
        model = narrows.VQVAE(codebook="gradient", weight_decay=decay, **QUICK | still).fit(DIGITS)
        layer = next(m for m in model.net_.encoder.modules() if isinstance(m, torch.nn.Linear))
        found.append([model.net_.latent.tables[0].weight.norm(), layer.weight.norm()])
    (kept, plain), (vectors, matrix) = found
    torch.testing.assert_close(vectors, kept, rtol=1e-3, atol=0.0)
    assert matrix < 0.95 * plain
