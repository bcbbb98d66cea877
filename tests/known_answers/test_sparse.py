"""Sparse codes: how many units are kept, what the estimators estimate, and a known dictionary."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import narrows
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.metrics.health import dead_latents
from narrows.net import Net
from narrows.parts.likelihoods import Gaussian
from narrows.parts.networks import Decoder, Encoder
from narrows.parts.pursuit import pursued
from narrows.parts.sparse import (
    Atoms,
    BatchTopK,
    Gated,
    JumpReLU,
    MatchingPursuit,
    TopK,
    dictionary,
    nested,
    revival,
    unit_atoms,
)

SELECTIONS = ["topk", "batch_topk", "jumprelu", "gated", "matching_pursuit"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def fit(X, **options):
    k = None if options.get("selection") == "gated" else 3
    defaults = {"latent_dim": 24, "k": k, "epochs": 15, "learning_rate": 5e-3}
    return narrows.TopKAutoencoder(**defaults | options).fit(X)


# -- what is kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 24])
def test_every_code_has_exactly_k_units(k, digits):
    assert ((fit(digits, k=k).transform(digits) != 0).sum(1) == k).all()


def test_the_largest_are_kept_as_they_are():
    h = torch.tensor([[3.0, -1.0, 2.0, -4.0], [-1.0, -2.0, -3.0, 0.5]])
    expected = torch.tensor([[3.0, 0.0, 2.0, 0.0], [-1.0, 0.0, 0.0, 0.5]])
    torch.testing.assert_close(TopK(4, 2).mean(h), expected)


def test_a_batch_shares_its_units_in_training_and_a_threshold_afterwards():
    latent, h = BatchTopK(8, 2), torch.randn(500, 8)
    latent.update(h, h)
    z = latent.mean(h)
    assert int((z != 0).sum()) == 1000
    assert len((z != 0).sum(1).unique()) > 3  # not the same number for every sample
    assert float(latent.threshold) == pytest.approx(float(h.flatten().sort().values[-1000]))
    latent.eval()
    assert torch.equal(latent.mean(h), z)  # the same rule on the same batch
    assert torch.equal(latent.mean(h[:1]), z[:1])  # whatever the neighbours are
    latent.update(h + 1, h)
    assert float(latent.threshold) > float(h.flatten().sort().values[-1000])


@pytest.mark.wide
@pytest.mark.parametrize("selection", ["batch_topk", "jumprelu"])
def test_others_keep_k_units_on_average(selection):
    X = sparse_data(1500)[0]
    active = (fit(X, selection=selection, epochs=30, k=4).codes_ != 0).sum(1)
    assert float(active.mean()) == pytest.approx(4, rel=0.2)
    assert active.std() > 0


# -- the estimator of JumpReLU ----------------------------------------------------------------


def test_the_gradients_of_thresholds_are_those_of_the_expected_values():
    """d E[H(h - t)] / dt = -p(t) and d E[h H(h - t)] / dt = -t p(t) for h ~ N(0, 1)."""
    latent = JumpReLU(1, 1, bandwidth=0.05)
    h = torch.randn(2_000_000, 1)
    for value in (0.5, 1.3):
        t = torch.tensor([value], requires_grad=True)
        density = float(torch.exp(torch.tensor(-0.5 * value**2)) / (2 * torch.pi) ** 0.5)
        (step,) = torch.autograd.grad(latent.gate(h, t).mean(), t)
        assert float(step) == pytest.approx(-density, rel=0.03)
        with torch.no_grad():
            latent.log_threshold.fill_(np.log(value))
        (jump,) = torch.autograd.grad(latent.mean(h).mean(), latent.log_threshold)
        assert float(jump) == pytest.approx(-value * density * value, rel=0.03)  # dt/dlog t = t


def test_a_jump_is_exact_forward_and_its_gradient_in_h_is_the_gate():
    latent = JumpReLU(3, 1).double()
    h = torch.tensor([[0.2, 1.5, -3.0], [1.01, 0.99, 9.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 1.5, 0.0], [1.01, 0.0, 9.0]], dtype=torch.float64)
    assert torch.equal(latent.mean(h), expected)
    h.requires_grad_()
    assert torch.autograd.gradcheck(latent.mean, h)


def test_the_price_is_the_squared_distance_from_k():
    net = net_with(JumpReLU(4, 2))
    h = torch.tensor([[2.0, 2.0, 2.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    for weight, l0 in ((None, 3.5), (torch.tensor([1.5, 0.5]), 3.25)):
        step = replace(pass_of(net, 2, weight), h=h, charges=net.latent(h)[1])
        price = net.latent.price(net, step, 3.0)
        assert price["sparsity"].item() == pytest.approx(3 * (l0 / 2 - 1) ** 2)


def test_thresholds_start_where_each_unit_is_active_in_its_share():
    latent, h = JumpReLU(8, 2), torch.randn(1000, 8) + torch.arange(8.0)
    latent.start(h)
    for moved in (h, h * (1 - 1e-6), h * (1 + 1e-6)):  # whatever rounding does
        assert ((latent.mean(moved) != 0).sum(0) == 125).all()


# -- gates ------------------------------------------------------------------------------------


def test_gates_are_the_papers():
    """Gated SAE with W_mag = exp(r) W_gate, against equations 4 to 8 written out."""
    net = net_with(Gated(6))
    encoder, latent, decoder, _ = net.parts
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    step = pass_of(net, 9)
    x, (gate, atoms) = step.batch.x, (encoder[0], decoder[0])
    unit = nn.functional.normalize(atoms.weight, dim=0)
    pre = x @ gate.weight.t() + gate.bias
    magnitude_bias = latent.bias + latent.log_gain.exp() * gate.bias  # the latent sees pre
    own = x @ (latent.log_gain.exp()[:, None] * gate.weight).t() + magnitude_bias
    z = torch.where(pre > 0, own.relu(), 0.0)
    assert 0 < (z > 0).sum() < (pre > 0).sum()  # both decide
    torch.testing.assert_close(step.z, z)

    def loss(reconstruction):
        return 0.5 * (x - reconstruction).square().sum(1) + 2.5 * np.log(2 * np.pi)

    l1 = pre.relu().sum(1)
    aux = loss(pre.relu() @ unit.detach().t() + atoms.bias.detach())
    expected = {
        "nll": loss(z @ unit.t() + atoms.bias),
        "sparsity": 0.7 * 0.5 * l1,  # the paper's beside half the squared error
        "gates": aux,
    }
    terms = dictionary(net, step, 0.7, (), 1.0)
    torch.testing.assert_close(terms, expected)
    found, written = (
        torch.autograd.grad(sum(values.values()).sum(), list(net.parameters()), retain_graph=True)
        for values in (terms, expected)
    )
    torch.testing.assert_close(found, written)


def test_fixed_atoms_learn_nothing_from_the_gates():
    net = net_with(Gated(6))
    gates = net.latent.price(net, pass_of(net, 9), 1.0)["gates"].sum()
    grads = torch.autograd.grad(gates, list(net.parameters()), allow_unused=True)
    reached = {
        name
        for (name, _), grad in zip(net.named_parameters(), grads, strict=True)
        if grad is not None and grad.abs().max() > 1e-12  # rounding
    }
    assert reached == {"encoder.0.weight", "encoder.0.bias"}


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_optimum_of_a_gate_is_what_the_l1_leaves_at_any_scale(scale):
    """min_a (x - a)² + λ a is at x - λ / 2: the price follows the scale of the error."""
    net = net_with(Gated(1), dim=1, scale=scale)
    with torch.no_grad():
        net.decoder[0].weight.fill_(1.0)
        net.decoder[0].bias.zero_()
        net.encoder[0].weight.fill_(1.0)
        net.encoder[0].bias.fill_(-0.3)
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    price = net.latent.price(net, net(Batch(x, x)), 0.6)
    bias = net.encoder[0].bias
    (grad,) = torch.autograd.grad(sum(price.values()).sum(), bias)
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-12, rtol=0)


# -- matching pursuit -------------------------------------------------------------------------


def atoms_and_x(n=50, dim=12, size=5):
    """Random unit atoms as rows, and samples, in double precision."""
    atoms = torch.randn(dim, size, dtype=torch.float64)
    return nn.functional.normalize(atoms, dim=1), torch.randn(n, size, dtype=torch.float64)


def test_a_pursuit_is_the_loop_that_a_textbook_writes():
    atoms, x = atoms_and_x()
    code, rest = pursued(x, atoms, 7)
    expected, left = np.zeros((50, 12)), x.numpy().copy()
    taken_again = 0
    for row in range(50):
        for _ in range(7):
            products = [float(left[row] @ atom) for atom in atoms.numpy()]
            best = int(np.argmax(products))
            taken_again += expected[row, best] != 0
            expected[row, best] += products[best]
            left[row] -= products[best] * atoms.numpy()[best]
    assert taken_again > 0
    np.testing.assert_allclose(code, expected, atol=1e-12)
    np.testing.assert_allclose(rest, left, atol=1e-12)
    np.testing.assert_allclose(x, code @ atoms + rest, atol=1e-12)


def test_each_step_takes_its_amount_from_the_square_and_leaves_nothing_of_its_atom():
    atoms, x = atoms_and_x()
    for k in range(1, 7):
        (before, rest), (code, after) = (pursued(x, atoms, steps) for steps in (k - 1, k))
        taken = code - before
        assert ((taken != 0).sum(1) == 1).all()
        place = taken.abs().argmax(1)
        assert torch.equal(place, (rest @ atoms.t()).argmax(1))
        fall = rest.square().sum(1) - after.square().sum(1)
        torch.testing.assert_close(fall, taken.square().sum(1))
        left = (after * atoms[place]).sum(1)
        torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_of_orthogonal_atoms_the_largest_positive_products_are_kept(k):
    atoms = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    products = torch.randn(200, 8, dtype=torch.float64)
    products = products[products.amax(1) > 0]
    code, _ = pursued(products @ atoms, atoms, k)
    torch.testing.assert_close(code, TopK(8, k).mean(products).relu())


def test_where_no_product_is_positive_the_largest_is_taken_all_the_same():
    code, rest = pursued(torch.tensor([[-3.0, -2.0]]), torch.eye(2), 1)
    assert code.tolist() == [[0, -2]]
    assert rest.tolist() == [[-3, 0]]


def planted(dim, among):
    """Codes with three positive amounts of the first atoms."""
    codes, places = torch.zeros(100, dim, dtype=torch.float64), torch.rand(100, among).topk(3)
    return codes.scatter(1, places.indices, 1 + torch.rand(100, 3, dtype=torch.float64))


def test_a_code_of_one_basis_is_found_beside_another_basis():
    """Products up to 1/8 with the other's atoms, below the 1 / (2k - 1) of Tropp (2004)."""
    waves = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        waves = torch.kron(torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64), waves)
    atoms = torch.cat([torch.eye(64, dtype=torch.float64), waves / 8])
    codes = planted(128, 64)
    found, rest = pursued(codes @ atoms, atoms, 3)
    torch.testing.assert_close(found, codes)
    assert rest.abs().max() < 1e-12


def test_an_atom_is_taken_again_until_its_amount_is_right():
    """Each atom hides a little of the others, as their products are -0.02."""
    products = 1.02 * torch.eye(20, dtype=torch.float64) - 0.02
    atoms, codes = torch.linalg.cholesky(products), planted(20, 20)
    found, rest = pursued(codes @ atoms, atoms, 3)
    assert torch.equal(found != 0, codes != 0)
    assert ((codes - found).amax(1) > 0.01).all()
    found, rest = pursued(codes @ atoms, atoms, 40)
    torch.testing.assert_close(found, codes, atol=1e-12, rtol=0)
    assert rest.abs().max() < 1e-12


def test_the_gradients_of_a_pursuit_are_those_of_what_it_takes():
    atoms, x = atoms_and_x(4, 6, 3)
    gap = (x @ atoms.t()).topk(2).values
    assert (gap[:, 0] - gap[:, 1]).min() > 1e-3  # no choice changes within a difference
    inputs = x.requires_grad_(), atoms.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, atoms: pursued(x, atoms, 4), inputs)


def net_of_pursuit(latent, size=5):
    net = net_with(latent, size)
    return Net(*unit_atoms(net)).double()


def test_the_nll_of_a_pursuit_is_what_it_leaves():
    net = net_of_pursuit(MatchingPursuit(12, 3))
    step = pass_of(net, 9)
    atoms = net.decoder[0].unit().t()
    code, rest = pursued(step.batch.x, atoms, 3)
    torch.testing.assert_close(step.z, code)
    expected = 0.5 * rest.square().sum(1) + 2.5 * np.log(2 * np.pi)
    torch.testing.assert_close(step.nll, expected)
    assert [name for name, _ in net.named_parameters()] == ["decoder.0.weight", "decoder.0.bias"]


def test_dead_atoms_learn_from_what_a_pursuit_leaves():
    latent = MatchingPursuit(6, 2, dead_after=10)
    net = net_of_pursuit(latent)
    step = pass_of(net, 40)
    latent.silent[2:4] = 99
    rest = (step.batch.x - step.out).detach()
    dead = (rest @ net.decoder[0].unit()).relu() * latent.dead
    torch.testing.assert_close(latent.revived(step.h), dead)
    (grad,) = torch.autograd.grad(revival(net, step).sum(), net.decoder[0].weight)
    assert (grad.abs().sum(0) > 0).tolist() == latent.dead.tolist()


def test_a_pursuit_survives_being_copied_and_saved(digits, tmp_path):
    model = fit(digits, selection="matching_pursuit", epochs=2)
    model.save(tmp_path / "model")
    for other in (copy.deepcopy(model), narrows.load(tmp_path / "model")):
        atoms, source = other.net_.decoder[1], other.net_.encoder.source
        assert atoms is source is not model.net_.decoder[1]
        np.testing.assert_array_equal(other.transform(digits), model.transform(digits))


# -- prefixes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [TopK(6, 3), BatchTopK(6, 3), Gated(6)], ids=repr)
def test_each_prefix_is_decoded_alone_and_paid_in_full(latent):
    net = net_with(latent)
    step = pass_of(net, 9)
    unit, bias = nn.functional.normalize(net.decoder[0].weight, dim=0), net.decoder[0].bias
    terms = nested(net, step, (2, 5, 6, 2))
    assert set(terms) == {"nll_2", "nll_5"}  # a set, and the whole is there already
    for m in (2, 5):
        alone = step.z[:, :m] @ unit[:, :m].t() + bias
        nll = 0.5 * (step.batch.x - alone).square().sum(1) + 2.5 * np.log(2 * np.pi)
        torch.testing.assert_close(terms[f"nll_{m}"], nll)
    whole = dictionary(net, step, None, (2, 5), 1.0)
    assert set(terms) < set(whole)
    (grad,) = torch.autograd.grad(terms["nll_2"].sum(), net.decoder[0].weight)
    assert (grad.abs().sum(0) > 0).tolist() == [
        bool((step.z[:, i] != 0).any()) for i in (0, 1)
    ] + [False] * 4


def test_one_prefix_of_all_units_is_the_plain_model(digits):
    plain, whole = fit(digits, epochs=3), fit(digits, epochs=3, prefixes=(24,))
    assert np.array_equal(plain.transform(digits), whole.transform(digits))


@pytest.mark.wide
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_first_units_of_a_matryoshka_do_better_alone(selection):
    X = load_digits().data[:1000].astype(np.float32)

    def error(model):
        codes = model.transform(X)
        codes[:, 16:] = 0
        return float(((model.inverse_transform(codes) - X) ** 2).mean())

    plain, prefix = (
        error(fit(X, latent_dim=64, selection=selection, prefixes=sizes, epochs=30))
        for sizes in ((), (16,))
    )
    assert prefix < 0.8 * plain


# -- the dictionary ---------------------------------------------------------------------------


def sparse_data(n, atoms=24, dim=16, active=3):
    """Samples that mix a few of many known atoms."""
    rng = np.random.default_rng(0)
    known = rng.standard_normal((atoms, dim))
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    codes = rng.uniform(0.5, 2, (n, atoms)) * (rng.random((n, atoms)).argsort(1) < active)
    return codes @ known, known


def atoms_of(model):
    (atoms,) = (m for m in model.net_.decoder.modules() if isinstance(m, Atoms))
    codes = torch.eye(atoms.in_features)
    with torch.no_grad():
        return (atoms(codes) - atoms.bias).numpy()


@pytest.mark.wide
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_known_dictionary_is_recovered(selection):
    X, known = sparse_data(2000)
    options = {"sparsity": 1.0} if selection == "gated" else {}  # an L1 is in units of x
    options |= {"latent_dim": 48, "epochs": 40, "learning_rate": 1e-2, "scaling": "none"}
    model = fit(X, selection=selection, **options)
    found = np.abs(known @ atoms_of(model).T).max(1)
    assert found.mean() > 0.95
    assert model.history_[-1]["validation_mse"] < 0.15 * X.var()


@pytest.mark.parametrize("options", [{}, {"likelihood": "bernoulli"}], ids=str)
def test_atoms_have_unit_norm_and_the_encoder_starts_at_them(options, digits):
    atoms = atoms_of(fit(digits, **options))
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    start = fit(digits, epochs=1, learning_rate=1e-30, **options)
    weight = dict(start.net_.encoder.named_parameters())["1.weight"].detach().numpy()
    factor = 1 + 4 * (3 - 1) / (weight.shape[1] + 2)
    np.testing.assert_allclose(weight, atoms_of(start) / factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [4, 64, 784])
def test_the_first_code_sums_to_about_x(size):
    """The least-squares factor from its reconstruction to x is near 1 (without, down to 1/8)."""
    net = net_with(TopK(512), size)
    unit_atoms(net)
    x = torch.randn(200, size, dtype=torch.float64)
    with torch.no_grad():
        net.encoder[0].bias.zero_()
        back = net.double()(Batch(x, x)).out
    assert float((x * back).sum() / back.square().sum()) == pytest.approx(1, abs=0.15)


def test_the_encoder_reads_x_without_the_decoders_bias(digits):
    net = fit(digits).net_
    x = torch.randn(5, net.encoder[1].in_features)
    bias = net.decoder(torch.zeros(1, 24))
    assert bias.abs().max() > 0.01
    expected = net.encoder[1](x - bias)
    torch.testing.assert_close(net.encode(Batch(x, x))[0], expected)


# -- dead units -------------------------------------------------------------------------------


def test_silence_is_counted_in_samples_and_ends_with_an_activation():
    latent = TopK(3, 1, dead_after=10)
    first, second = [[1.0, 0, 0]] * 4, [[0.0, 0, 1]] * 7
    follow(latent, first)
    assert latent.silent.tolist() == [0, 4, 4]
    follow(latent, second)
    assert latent.silent.tolist() == [7, 11, 0]
    assert latent.dead.tolist() == [False, True, False]
    h = torch.tensor(second)
    assert float(latent.statistics(h)["dead"]) == pytest.approx(1 / 3)
    assert float(latent.statistics(h)["l0"]) == 1


def test_samples_count_by_their_weights_also_in_silence():
    latent = TopK(3, 1)
    z = [[1.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0]]
    follow(latent, z, torch.tensor([2.0, 0.5, 0.0]))
    assert latent.silent.tolist() == [0, 2.5, 0]
    follow(latent, z, torch.tensor([3.0, 0.0, 0.0]))
    assert latent.silent.tolist() == [0, 5.5, 3]


def follow(latent, z, weight=None):
    """Let a latent see known codes."""
    z = torch.tensor(z)
    latent.update(z, z, weight)


def net_with(latent, dim=5, scale=1.0):
    """A dictionary's net with a fixed scale, in double precision."""
    encoder = Encoder(nn.Linear(dim, latent.code_shape[0]))
    decoder = Decoder(Atoms(latent.code_shape[0], dim))
    return Net(encoder, latent, decoder, Gaussian(scale=scale)).double()


def pass_of(net, n, weight=None):
    """A pass over random samples."""
    x = torch.randn(n, 5, dtype=torch.float64)
    return net(Batch(x, x, weight=weight))


def test_dead_units_learn_from_the_residual_and_nothing_else_does():
    latent = TopK(6, 2, dead_after=10)
    net = net_with(latent)
    latent.silent[:] = torch.tensor([0.0, 0, 0, 99, 99, 0])
    x = torch.randn(7, 5, dtype=torch.float64)
    step = net(Batch(x, x))
    h = step.h
    aux = revival(net, step)

    code = h.relu() * latent.dead  # two of them: less than 4k, so all are let through
    atoms = nn.functional.normalize(net.decoder[0].weight, dim=0)
    residual, told = (x - step.out).detach(), code @ atoms.t()
    amount = told.detach()
    share = float((residual * amount).sum() / amount.square().sum())
    share = min(max(share, 0.02), 1.0)
    expected = 0.5 * ((residual - share * told) ** 2 - residual**2).sum(1)
    torch.testing.assert_close(aux, expected)

    rows, columns = torch.autograd.grad(
        aux.sum(), [net.encoder[0].weight, net.decoder[0].weight], retain_graph=True
    )
    assert (rows.abs().sum(1) > 0).tolist() == latent.dead.tolist()
    assert (columns.abs().sum(0) > 0).tolist() == latent.dead.tolist()


@pytest.mark.parametrize(("times", "share"), [(0.5, 1.0), (4.0, 0.25), (-1.0, 0.02)])
def test_dead_units_that_overshoot_are_scaled_to_the_residual(times, share):
    latent = TopK(6, 1, dead_after=10)
    net = net_with(latent)
    latent.silent[3:] = 99
    x = torch.randn(7, 5, dtype=torch.float64)
    step = net(Batch(x, x))
    out = x - _dead_part(net, step) / times
    told = replace(step, out=out)
    expected = 0.5 * ((x - out - share * times * (x - out)) ** 2 - (x - out) ** 2).sum(1)
    torch.testing.assert_close(revival(net, told), expected)


def _dead_part(net, step):
    """What the dead units say of the residual."""
    code = net.latent.revived(step.h)
    return (net.decoder(code) - net.decoder(torch.zeros_like(code))).detach()


@pytest.mark.wide
def test_dead_units_come_back():
    X = load_digits().data[:1000].astype(np.float32)
    options = {"latent_dim": 256, "k": 4, "dead_after": 500, "epochs": 40, "learning_rate": 2e-3}
    dead = [
        float((fit(X, revival=weight, **options).codes_ == 0).all(0).mean())
        for weight in (0.0, 1.0)
    ]
    assert dead[0] > 0.1
    assert dead[1] < 0.4 * dead[0]


def test_no_unit_is_dead_no_price():
    net = net_with(TopK(6, 2))
    x = torch.randn(7, 5, dtype=torch.float64)
    step = net(Batch(x, x))
    assert torch.equal(revival(net, step), torch.zeros(7, dtype=torch.float64))


def test_the_diagnosis_names_dead_units(digits):
    codes = np.zeros((50, 10), np.float32)
    codes[:, :9] = 1
    assert dead_latents(codes).level == "notice"
    assert "1 of 10 units are dead" in dead_latents(codes).text
    codes[:, 5:] = 0
    assert dead_latents(codes).level == "problem"
    codes[0] = 1
    assert dead_latents(codes).level == "good"
    names = [finding.name for finding in fit(digits).diagnose().findings]
    assert "dead latents" in names
    assert "unused units" not in names


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 25}, r"'k' parameter of a sparse code must be at most latent_dim=24. Got 25"),
        ({"sparsity": 3.0}, r"'sparsity' parameter .* no effect with selection='topk'"),
        ({"k": 3, "selection": "gated"}, r"'k' parameter .* no effect with selection='gated'"),
        ({"k": None, "selection": "gated", "revival": 2.0}, r"'revival' .* selection='gated'"),
        ({"selection": "matching_pursuit", "sparsity": 3.0}, r"'sparsity' .*='matching_pursuit'"),
        (
            {"selection": "matching_pursuit", "likelihood": "bernoulli"},
            r"Bernoulli of 1 .*'sigmoid'",
        ),
        ({"selection": "matching_pursuit", "scale": "predicted"}, r"mean of x.* of 2 values"),
        (
            {"selection": "matching_pursuit", "output_activation": "sigmoid"},
            r"Gaussian .*'sigmoid'",
        ),
        ({"prefixes": (4, 25)}, r"'prefixes' of a code must be at most latent_dim=24. Got 25"),
        ({"hidden": (5,)}, r"'hidden' parameter of TopKAutoencoder has no effect"),
    ],
)
def test_what_cannot_work_is_refused(options, message, digits):
    with pytest.raises(ParameterError, match=message):
        fit(digits, **options)
