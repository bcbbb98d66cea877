"""Stacked autoencoders: one layer trains while the others rest, and what it then knows."""

from math import log, pi

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import narrows
from narrows import StackedAutoencoder
from narrows.data.sources import Batch, InMemory
from narrows.errors import ParameterError
from narrows.evaluation.sections import training
from narrows.metrics.health import diagnose
from narrows.parts.stacked import pairs
from narrows.training import Training

SMALL = {"latent_dim": 2, "hidden": (6, 4), "epochs": 12, "batch_size": 32, "learning_rate": 0.01}
LAYERS = ("layer_1", "layer_2", "layer_3")


class Stop(BaseException):
    """The run ends here."""


class _Watched(StackedAutoencoder):
    """Remembers the state after each epoch; stops in the one that `last` says."""

    last = None

    def after_epoch(self):
        state = {name: value.clone() for name, value in self.net_.state_dict().items()}
        self.__dict__.setdefault("states", []).append(state)
        if len(self.states) == self.last:
            raise Stop


def phases(model):
    """The one term that tells each epoch's phase."""
    names = (*LAYERS, "layer_4", "nll")
    return [next(name for name in row if name in names) for row in model.history_]


def unclocked(model):
    return [{**row, "seconds": 0} for row in model.history_]


def assert_same(one, two):
    assert unclocked(one) == unclocked(two)
    for name, value in one.net_.state_dict().items():
        assert torch.equal(value, two.net_.state_dict()[name]), name


def loaded(model, state):
    """The fitted model with other weights."""
    model.net_.load_state_dict(state)
    return model


# -- one layer trains, the others rest --------------------------------------------------------

NETS = {
    "plain": {},
    "everything": {"batch_norm": True, "dropout": 0.2, "blocks": 1, "scale": "learned"},
    "no validation": {"batch_norm": True, "validation": 0.0},
    "tied": {"tied": True, "corruption": "masking"},
    "code": {"code_activation": "tanh", "code_dropout": 0.2},
    "conv": {"architecture": "conv", "batch_norm": True, "blocks": 1, "downsampling": "max"},
}


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_all_of_a_layer_moves_while_nothing_else_does(options, digits, images):
    X = images if "architecture" in options else digits
    model = _Watched(**SMALL | options, weight_decay=0.5).fit(X)
    assert phases(model) == [f"layer_{i}" for i in (1, 1, 2, 2, 3, 3)] + ["nll"] * 6
    names = {t.data_ptr(): name for name, t in model.net_.state_dict(keep_vars=True).items()}
    layers = pairs(model.net_.encoder, model.net_.decoder)
    for epoch in range(1, 6):
        before, after = model.states[epoch - 1 : epoch + 1]
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        own = torch.nn.ModuleList(layers[epoch // 2]).state_dict(keep_vars=True).values()
        expected = {names[t.data_ptr()] for t in own}
        if epoch == 1:  # the lowest layer explains the data: the likelihood's state follows
            learned = options.get("scale") == "learned"
            parts = ["log_scale"] if learned else ["log_scale", "updates"]
            expected |= {f"likelihood.{part}" for part in parts}
        assert changed == expected
    assert all(p.requires_grad for p in model.net_.parameters())


def test_layers_cover_the_whole_net(digits):
    net = StackedAutoencoder(**SMALL).fit(digits).net_
    layers = pairs(net.encoder, net.decoder)
    parts = [{p for part in layer for p in part.parameters()} for layer in layers]
    assert len(layers) == 3
    assert set.union(*parts) == set(net.parameters())
    assert sum(map(len, parts)) == len(set(net.parameters()))
    x = torch.rand(5, len(net.encoder[1].weight[0]))
    h, shapes = x, []
    for encoder, decoder in layers:
        below, h = h, encoder(Batch(h, h))
        assert decoder(h).shape == below.shape
        shapes.append(h.shape[1])
    assert shapes == [6, 4, 2]
    torch.testing.assert_close(h, net.encoder(Batch(x, x)))


# -- what a layer pays ------------------------------------------------------------------------


def dense(x, layer):
    return x @ layer.weight.double().T + layer.bias.double()


def squared(x, other):
    """-log N(x; other, 1), summed over units, mean over samples."""
    constant = 0.5 * x.shape[1] * log(2 * pi)
    return float((0.5 * (x - other).square().sum(1) + constant).mean())


def by_hand(net, x, corrupt=lambda h: h):
    """What each layer pays, from the textbook's formulas and the weights alone."""
    down, up = net.encoder[1::2], net.decoder[1::2]
    first = dense(corrupt(x), down[0]).tanh()
    one = squared(x, dense(first, up[2]))
    below = dense(x, down[0]).tanh()
    second = dense(corrupt(below), down[1]).tanh()
    two = squared(below, dense(second, up[1]).tanh())
    below = dense(below, down[1]).tanh()
    code = dense(corrupt(below), down[2])
    return one, two, squared(below, dense(code, up[0]).tanh())


def test_the_loss_of_a_layer_is_its_error_on_what_the_layers_below_make_of_x(cancer):
    options = SMALL | {"activation": "tanh", "scale": 1.0, "scaling": "none", "dropout": 0.0}
    model = _Watched(**options).fit(cancer[:400], validation=cancer[400:])
    x = torch.tensor(cancer[400:])
    with torch.no_grad():
        for epoch, name in enumerate(phases(model)[:6]):
            expected = by_hand(loaded(model, model.states[epoch]).net_, x)
            found = model.history_[epoch][f"validation_{name}"]
            assert found == pytest.approx(expected[LAYERS.index(name)], rel=1e-5)


def test_a_corrupted_input_is_told_from_its_clean_form(cancer):
    """All of it hidden: what goes in is zero, what shall come out is not."""
    options = {"activation": "tanh", "scale": 1.0, "scaling": "none", "corruption": "masking"}
    model = StackedAutoencoder(**SMALL | options, noise=1.0).fit(cancer)
    x = torch.tensor(cancer, dtype=torch.float32)
    with torch.no_grad():
        expected = by_hand(model.net_.eval(), x.double(), torch.zeros_like)
        *alone, together = model.stages(12)
        for stage, name, value in zip(alone, LAYERS, expected, strict=True):
            (move,) = stage.losses(Batch(x, x))
            assert float(move.terms[name].mean()) == pytest.approx(value, rel=1e-5)
        (clean,) = together.losses(Batch(x, x))  # all together learn from what is whole
        torch.testing.assert_close(clean.terms["nll"], model.net_(Batch(x, x)).nll)


@pytest.mark.wide
def test_linear_layers_span_the_subspace_of_pca_of_their_input(cancer):
    model = _Watched(
        latent_dim=2, hidden=(5,), activation="linear", epochs=401, pretraining=0.999, scale=1.0,
        scaling="none", validation=0.0, weight_decay=0.0, learning_rate=0.01,
    ).fit(cancer)  # fmt: skip
    assert phases(model) == ["layer_1"] * 200 + ["layer_2"] * 200 + ["nll"]
    net = loaded(model, model.states[-2]).net_.double()
    x = torch.tensor(cancer)
    (f, g), (_, top) = pairs(net.encoder, net.decoder)
    with torch.no_grad():
        h = f(Batch(x, x))
    for inputs, decoder, k in ((cancer, g, 5), (h.numpy(), top, 2)):
        weight = next(p for p in decoder.parameters() if p.ndim == 2).detach().numpy()
        angles = subspace_angles(weight, PCA(k).fit(inputs).components_.T)
        assert np.degrees(angles[0]) < 5


# -- what it is good for ----------------------------------------------------------------------


def test_layers_that_learned_alone_already_make_a_net():
    X = load_digits().data
    options = {"latent_dim": 8, "hidden": (32, 16), "activation": "tanh", "learning_rate": 0.01}
    model = _Watched(**options, epochs=60).fit(X)
    assert phases(model)[29:31] == ["layer_3", "nll"]
    untrained = StackedAutoencoder(**options | {"epochs": 1, "learning_rate": 1e-30}).fit(X)
    states = model.states[59], model.states[29], untrained.net_.state_dict()
    together, alone, none = (
        np.mean((loaded(model, state).reconstruct(X) - X) ** 2) for state in states
    )
    assert together < 0.7 * alone < 0.7 * 0.6 * none


@pytest.mark.wide
def test_it_trains_a_deep_net_of_sigmoids_that_does_not_start_as_a_whole():
    """As Bengio et al. (2007) found; both see every sample as often."""
    X, held = np.split(load_digits().data, [1500])
    options = {"activation": "sigmoid", "hidden": (32,) * 5, "batch_size": 32}
    options |= {"epochs": 20, "learning_rate": 0.03}
    stacked, plain = (
        np.mean((cls(**options).fit(X).reconstruct(held) - held) ** 2)
        for cls in (StackedAutoencoder, narrows.Autoencoder)
    )
    mean = np.mean((X.mean(0) - held) ** 2)
    assert plain > 0.99 * mean
    assert stacked < 0.7 * mean


# -- the run ----------------------------------------------------------------------------------


def test_each_stage_has_a_course_of_the_learning_rate_of_its_own(digits):
    model = StackedAutoencoder(**SMALL | {"epochs": 16}, warmup=0.3).fit(digits)
    rates = [row["learning_rate"] for row in model.history_]
    assert phases(model)[:9] == [name for name in LAYERS for _ in range(3)]
    assert rates[:3] == rates[3:6] == rates[6:9]
    assert rates[0] > rates[1] > rates[2] > 0
    whole = narrows.Autoencoder(**SMALL | {"epochs": 7}, warmup=0.3).fit(digits)
    assert rates[9:] == [row["learning_rate"] for row in whole.history_]


def test_a_stage_begins_with_an_optimizer_that_knows_nothing(digits):
    model = StackedAutoencoder(**SMALL).fit(digits)
    training = Training(model, InMemory(torch.tensor(digits[:, 1:61])), None, 12, 0)
    for epoch, player in ((0, "layer_1"), (2, "layer_2"), (4, "layer_3"), (6, "autoencoder")):
        training.enter(epoch)
        (optimizer,) = training.optimizers.values()
        assert list(training.optimizers) == [player]
        assert not any(m.any() for m in (optimizer.count, *optimizer.first, *optimizer.second))
        assert float(optimizer.skipped) == epoch  # what was skipped before is not forgotten
        optimizer.first[0].fill_(1.0)
        optimizer.skipped.add_(2)
        training.enter(epoch + 1)
        assert training.optimizers[player] is optimizer


@pytest.mark.parametrize(
    ("epochs", "share", "alone"),
    [
        (12, 0.5, 2), (12, 0.25, 1), (13, 0.75, 3), (100, 0.01, 1), (10, 0.99, 3),
        (9, 0.99, 2), (4, 0.5, 1), (3, 0.5, 0), (1, 0.5, 0), (12, 0.0, 0),
    ],
)  # fmt: skip
def test_layers_share_the_epochs_of_pretraining_evenly(epochs, share, alone, digits):
    model = StackedAutoencoder(**SMALL | {"epochs": epochs}, pretraining=share).fit(digits[:40])
    expected = [name for name in LAYERS for _ in range(alone)]
    assert phases(model) == expected + ["nll"] * (epochs - 3 * alone)
    notices = [finding.name for finding in model.diagnose().findings]
    assert ("pre-training" in notices) is (not alone and share > 0)


def test_patience_and_the_best_weights_are_those_of_all_layers_together(digits):
    options = SMALL | {"learning_rate": 0.1, "schedule": "constant", "epochs": 36, "patience": 2}
    model = _Watched(**options).fit(digits)
    losses = [row.get("validation_loss", np.inf) for row in model.history_]
    best = int(np.argmin(losses))
    assert phases(model)[:19] == [name for name in LAYERS for _ in range(6)] + ["nll"]
    assert 18 < best + 1 == len(losses) - 2 < 34  # two epochs without a better one, and no more
    for name, value in model.states[best].items():
        assert torch.equal(model.net_.state_dict()[name], value)


def test_the_report_shows_every_phase(digits):
    page = str(training(StackedAutoencoder(**SMALL).fit(digits).history_))
    for words in ("layer_1 over 2 epochs", "layer_3 over 2 epochs", "nll over 6 epochs"):
        assert words in page
    assert "learning_rate over 12 epochs" in page


def test_the_health_of_the_run_is_that_of_all_layers_together():
    """Held-out errors: 3, 2 and 4 in the epochs 3, 4 and 5."""
    alone = [{"epoch": i, "layer_1": 9.0, "validation_layer_1": 0.1} for i in (1, 2)]
    errors = [(2.0, 3.0), (1.0, 2.0), (0.5, 4.0)]
    rows = [{"mse": train, "validation_mse": held} for train, held in errors]
    found = diagnose([*alone, *rows], np.eye(3, dtype=np.float32)).findings[0]
    assert "rose by 100% after its best at epoch 4" in found.text


RUN = SMALL | {"epochs": 10, "dropout": 0.1, "corruption": "gaussian", "patience": 9}


@pytest.fixture(scope="module")
def whole(digits):
    return StackedAutoencoder(**RUN).fit(digits)


@pytest.mark.wide
@pytest.mark.parametrize("n", range(1, 10))
def test_it_does_not_matter_where_a_run_is_stopped(n, whole, tmp_path, digits):
    """In the middle of every phase, and between two."""
    stopped, resumed = _Watched(**RUN), _Watched(**RUN)
    stopped.last = n + 1  # the epoch whose checkpoint is not written any more
    with pytest.raises(Stop):
        stopped.fit(digits, checkpoint=tmp_path)
    resumed.fit(digits, checkpoint=tmp_path, resume=True)
    assert len(resumed.states) == 10 - n
    assert_same(whole, resumed)


def test_without_pretraining_it_is_an_autoencoder(digits):
    one = StackedAutoencoder(**SMALL, pretraining=0.0).fit(digits)
    assert_same(one, narrows.Autoencoder(**SMALL).fit(digits))


def test_what_goes_on_training_is_not_pretrained_again(digits):
    one, two = StackedAutoencoder(**SMALL), narrows.Autoencoder(**SMALL)
    for _ in range(3):
        assert_same(one.partial_fit(digits), two.partial_fit(digits))
    model = StackedAutoencoder(**SMALL, warm_start=True).fit(digits)
    assert phases(model)[0] == "layer_1"
    reached = model.history_[-1]["loss"]
    again = model.partial_fit(digits).history_
    assert phases(model) == ["nll"]
    assert again[0]["loss"] < 1.02 * reached
    assert set(phases(model.fit(digits))) == {"nll"}
    assert model.history_[-1]["loss"] < reached


def test_cells_that_are_missing_are_not_explained(wine):
    holes = np.where(np.random.default_rng(0).random(wine.shape) < 0.2, np.nan, wine)
    model = StackedAutoencoder(**SMALL, modality="table", scale=1.0).fit(holes)
    assert np.isfinite([list(row.values()) for row in model.history_[:2]]).all()
    x, mask, _ = model.modality_.encode(model.modality_.read(holes, "test"))
    batch = Batch(x, x + 1000 * (1 - mask), mask)
    (move,) = model.stages(12)[0].losses(batch)
    assert move.terms["layer_1"].max() < 1000


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hidden": ()}, r"needs two layers or more; hidden=\(\) leaves one"),
        ({"corruption": "masking", "pretraining": 0.0}, r"'corruption'.*pretraining=0"),
        ({"noise": 0.1}, r"'noise'.*no effect with corruption=None"),
        ({"architecture": "linear"}, r"'architecture' parameter"),
        ({"pretraining": 1.0}, r"'pretraining' parameter"),
    ],
)
def test_settings_that_cannot_work_meet_a_sentence(options, said, digits):
    with pytest.raises(ParameterError, match=said):
        StackedAutoencoder(**SMALL | options).fit(digits)
