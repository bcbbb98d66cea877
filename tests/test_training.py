"""The loop: players that take turns, the log, precision, threads."""

import numpy as np
import pytest
import torch
from torch import nn

import narrows
from narrows.data.modalities import Image, Modality
from narrows.data.sources import Batch, InMemory
from narrows.errors import TrainingError
from narrows.log import Log
from narrows.net import Move, Net
from narrows.optimizer import CLEARED
from narrows.parts.latents import Gaussian
from narrows.terms import average, total
from narrows.training import Training

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 4, "batch_size": 32}


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# -- two players ------------------------------------------------------------------------------


class CriticNet(Net):
    """A net whose codes a critic tells from draws of a normal."""

    def __init__(self, *parts, dim):
        super().__init__(*parts)
        self.critic = nn.Sequential(nn.Linear(dim, 8), nn.ReLU(), nn.Linear(8, 1))


class _Adversarial(narrows.Autoencoder):
    """A toy adversarial autoencoder: reconstruct, then train the critic, then fool it."""

    order: tuple[str, ...] = ("reconstruct", "criticise", "fool")

    def build(self, modality):
        net = super().build(modality)
        parts = (net.encoder, net.latent, net.decoder, net.likelihood)
        return CriticNet(*parts, dim=self.latent_dim)

    def losses(self, batch):
        net = self.net_
        for move in self.order:
            if move == "reconstruct":
                step = net(batch)
                yield Move("autoencoder", self.objective(step), step)
            elif move == "criticise":
                true, false = torch.randn(len(batch), self.latent_dim), net.code(batch)
                logits = torch.cat([net.critic(true), net.critic(false)])[:, 0]
                label = torch.cat([torch.ones(len(batch)), torch.zeros(len(batch))])
                loss = nn.functional.binary_cross_entropy_with_logits
                yield Move("critic", {"critic": loss(logits, label)})
            else:
                yield Move("autoencoder", {"fool": -net.critic(net.code(batch))[:, 0]})


def adversarial(*order, **options):
    return _Adversarial(**SMALL | options, order=order)


def one_step(model, X):
    """Let the players move once on a batch; return what changed."""
    model.fit(X)
    x, *_ = model.modality_.encode(np.asarray(X, float))
    training = Training(model, InMemory(x), None, 1, 0)
    before = weights(model.net_)
    logged = training.step(InMemory(x).take(torch.arange(32)))
    return changed(before, weights(model.net_)), logged


def test_two_players_train_and_both_move(digits):
    model = adversarial("reconstruct", "criticise", "fool").fit(digits)
    assert {"nll", "critic", "fool"} <= set(model.history_[0])
    assert model.history_[-1]["nll"] < model.history_[0]["nll"]
    still = adversarial("reconstruct", "criticise", "fool", learning_rate=1e-30, weight_decay=0.0)
    names = changed(weights(still.fit(digits).net_), weights(model.net_))
    assert names == set(weights(model.net_))


def test_fooling_never_changes_the_critic(digits):
    names, _ = one_step(adversarial("fool"), digits)
    assert names
    assert not [name for name in names if name.startswith("critic")]


def test_the_critic_never_changes_the_autoencoder(digits):
    names, _ = one_step(adversarial("criticise"), digits)
    assert names == {f"critic.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


def test_a_move_is_made_before_the_next_is_asked_for(digits):
    """The second of two moves sees what the first one did."""
    seen = []

    class _Watching(_Adversarial):
        def losses(self, batch):
            for move in super().losses(batch):
                seen.append(float(self.net_.encoder[1].weight.detach().sum()))
                yield move

    names, _ = one_step(_Watching(**SMALL, order=("reconstruct", "reconstruct", "fool")), digits)
    assert len(set(seen[-3:])) == 3
    assert names


def test_a_player_may_move_twice(digits):
    once = adversarial("reconstruct", "criticise").fit(digits)
    twice = adversarial("reconstruct", "criticise", "criticise").fit(digits)
    critics = [weights(model.net_.critic) for model in (once, twice)]
    assert len(changed(*critics)) == 4
    source = InMemory(torch.zeros(32, once.modality_.shape[0]))
    training = Training(twice, source, None, 1, 0)
    training.step(source.take(torch.arange(32)))
    assert float(training.optimizers["critic"].count) == 2
    assert float(training.optimizers["autoencoder"].count) == 1


def test_players_have_optimizers_of_their_own(digits):
    model = adversarial("reconstruct", "criticise").fit(digits)

    class _Fast(CriticNet):
        def players(self):
            modules, _ = super().players()["critic"]
            return super().players() | {"critic": (modules, {"learning_rate": 0.5})}

    model.net_.__class__ = _Fast
    training = Training(model, InMemory(torch.zeros(4, 3)), None, 1, 0)
    assert set(training.optimizers) == {"autoencoder", "critic"}
    assert training.optimizers["critic"].base_rate == 0.5
    assert training.optimizers["autoencoder"].base_rate == 2e-3
    names = [set(optimizer.names) for optimizer in training.optimizers.values()]
    assert names[0].isdisjoint(names[1])
    assert names[0] | names[1] == set(weights(model.net_))


def test_players_must_be_disjoint(digits):
    class _Greedy(CriticNet):
        def players(self):
            return super().players() | {"critic": ([self.critic, self.encoder], {})}

    class _Overlapping(_Adversarial):
        def build(self, modality):
            net = super().build(modality)
            net.__class__ = _Greedy
            return net

    sentence = r"'encoder\..*' belongs to two players, 'autoencoder' and 'critic'.* disjoint"
    with pytest.raises(TrainingError, match=sentence):
        _Overlapping(**SMALL, order=("reconstruct",)).fit(digits)


def test_every_parameter_has_a_player(digits):
    class _Forgetful(CriticNet):
        def players(self):
            return {"autoencoder": ([self.encoder, self.decoder], {})}

    class _Forgetting(_Adversarial):
        def build(self, modality):
            net = super().build(modality)
            net.__class__ = _Forgetful
            return net

    with pytest.raises(TrainingError, match=r"'critic.0.weight' belongs to no player"):
        _Forgetting(**SMALL, order=("reconstruct",)).fit(digits)


def test_an_adversarial_run_resumes_exactly(digits, tmp_path, monkeypatch):
    narrows.register(_Adversarial)
    options = {"order": ("reconstruct", "criticise", "fool"), "dropout": 0.1}
    whole = _Adversarial(**SMALL | options).fit(digits)
    done = []

    def after_epoch(self):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Adversarial, "after_epoch", after_epoch)
    with pytest.raises(KeyboardInterrupt):
        _Adversarial(**SMALL | options).fit(digits, checkpoint=tmp_path)
    monkeypatch.undo()
    resumed = _Adversarial(**SMALL | options).fit(digits, checkpoint=tmp_path, resume=True)
    assert not changed(weights(whole.net_), weights(resumed.net_))


# -- the history ------------------------------------------------------------------------------


def test_a_term_is_the_mean_over_the_samples(digits):
    """Batches of 100, 100 and 56 count by their sizes."""
    model = narrows.Autoencoder(
        **SMALL | {"batch_size": 100, "epochs": 1, "learning_rate": 1e-30, "scale": 1.0},
        validation=0.0,
    ).fit(digits)
    x, *_ = model.modality_.encode(digits.astype(float))
    with torch.no_grad():
        step = model.net_(Batch(x, x))
    (row,) = model.history_
    assert row["nll"] == pytest.approx(float(step.nll.mean()), rel=1e-5)
    assert row["mse"] == pytest.approx(float((step.out - x).square().mean()), rel=1e-5)


def test_terms_are_logged_as_means_and_batch_statistics_as_they_are():
    terms = {"each": torch.tensor([1.0, 3.0]), "whole": torch.tensor(5.0)}
    loss, logged = total(Move("autoencoder", terms), None)
    assert {name: float(value) for name, value in logged.items()} == {
        "each": 2.0,
        "whole": 5.0,
        "loss": 7.0,
    }
    assert float(loss) == 7.0
    loss, _ = total(Move("autoencoder", terms), torch.tensor([0.5, 1.5]))
    assert float(loss) == 2.5 + 5.0


def test_an_average_over_particles_is_taken_too():
    term = torch.arange(6.0).view(2, 3)  # (particles, batch)
    assert float(average(term, None)) == 2.5
    assert float(average(term, torch.tensor([3.0, 0.0, 0.0]))) == 1.5


@pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
def test_the_log_reads_in_pieces_and_forgets_nothing(n, digits):
    log = Log(Training(narrows.VAE(**SMALL).fit(digits), InMemory(torch.zeros(4, 3)), None, 1, 0))
    values = torch.rand(n)
    for i, value in enumerate(values):
        log.add({"term": value}, Batch(torch.zeros(1 + i % 3, 1), torch.zeros(1)))
    counts = 1 + torch.arange(n) % 3
    expected = float((values.double() * counts).sum() / counts.sum())
    assert log.means()["term"] == pytest.approx(expected, rel=1e-6)


def test_validation_has_the_same_noise_every_epoch(digits, monkeypatch):
    monkeypatch.setattr(Gaussian, "rate", 0.0)  # the units of the code stay
    model = narrows.VAE(**SMALL | {"learning_rate": 1e-30}, scale=1.0).fit(digits)
    held = [row["validation_loss"] for row in model.history_]
    assert held == pytest.approx([held[0]] * 4, rel=1e-7)
    trained = [row["loss"] for row in model.history_]
    assert len(set(trained)) == 4  # in training it is new


def test_validation_draws_codes_and_drops_nothing(digits):
    """The held-out loss is a bound: the mean code alone would be none."""
    model = narrows.VAE(**SMALL, dropout=0.5).fit(digits)
    x, *_ = model.modality_.encode(digits[model.held_out_].astype(float))
    with torch.no_grad():
        h = model.net_.eval().encode(Batch(x, x))[0]
        q = model.net_.latent.posterior(h)
        torch.manual_seed(0)
        draws = [
            model.net_.likelihood.nll(model.net_.decoded(q.rsample()), x).mean()
            for _ in range(300)
        ]
        at_mean = float(model.net_.likelihood.nll(model.net_.decoded(q.mean), x).mean())
    found, draws = model.history_[-1]["validation_nll"], torch.stack(draws)
    assert abs(found - float(draws.mean())) < 5 * float(draws.std())
    assert found > at_mean


def test_the_order_of_the_samples_is_new_every_epoch():
    source = InMemory(torch.arange(10.0)[:, None])
    generator = torch.Generator().manual_seed(0)
    epochs = [
        torch.cat([batch.x[:, 0] for batch in source.batches(3, generator)]) for _ in range(3)
    ]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(10))
    assert not torch.equal(epochs[0], epochs[1])
    in_order = torch.cat([batch.x[:, 0] for batch in source.batches(3)])
    assert in_order.tolist() == list(range(10))


@pytest.mark.parametrize("options", [{}, {"likelihood": "bernoulli"}, {"linear_path": True}])
def test_images_of_bytes_rest_as_bytes_and_train_like_their_values(options, images, monkeypatch):
    sources, init = [], Training.__init__

    def noting(self, model, source, held, *args):
        sources.append((source, held))
        init(self, model, source, held, *args)

    monkeypatch.setattr(Training, "__init__", noting)
    bytes_, values = narrows.VAE(**SMALL, **options), narrows.VAE(**SMALL, **options)
    bytes_.fit(images)
    codes, scores = bytes_.transform(images), bytes_.score_samples(images)
    monkeypatch.setattr(Image, "rest", Modality.rest)
    values.fit(images)
    for byte, value in zip(*sources, strict=True):
        assert byte.x.dtype == torch.uint8
        assert value.x.dtype == torch.float32
        assert torch.equal(byte.values, value.x)
    assert np.array_equal(codes, values.transform(images))
    assert np.array_equal(scores, values.score_samples(images))


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (10, 5, [5, 5]),
        (11, 5, [5, 6]),  # a last batch of one joins the one before it
        (12, 5, [5, 5, 2]),
        (1, 5, [1]),
        (3, 5, [3]),
        (3, 1, [1, 1, 1]),
        (6, 5, [6]),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before(n, size, sizes):
    source = InMemory(torch.zeros(n, 2), torch.ones(n, 2), torch.arange(float(n)))
    batches = list(source.batches(size))
    assert [len(batch) for batch in batches] == sizes
    assert source.steps(size) == len(sizes)
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(n))
    assert torch.cat([batch.weight for batch in batches]).tolist() == list(range(n))
    assert all(batch.mask.shape == batch.target.shape == batch.x.shape for batch in batches)


def test_a_broken_gradient_skips_the_step_and_is_counted(digits):
    """The loss is finite and its gradient is not: nothing moves."""

    class _Steep(narrows.Autoencoder):
        def objective(self, step):
            return {"nll": step.nll, "root": (step.h - step.h.detach()).abs().sqrt().sum(1)}

    model = _Steep(**SMALL)
    with pytest.warns(UserWarning, match="32 updates were skipped .* not finite; lower learning_"):
        names, _ = one_step(model, digits)
    assert names == set()
    assert all(np.isfinite(row["loss"]) for row in model.history_)


def test_what_faded_from_the_moments_is_cleared_before_it_turns_denormal(digits):
    """The first moment of a silent unit shrinks by 0.9 a step, for ever; denormals are slow."""
    model = narrows.Autoencoder(**SMALL).fit(digits)
    training = Training(model, InMemory(torch.tensor(digits)), None, 100, 0)
    moment = training.optimizers["autoencoder"].first[0]
    moment[0], moment[1] = 0.9e-30, -1.1e-30
    training.advance(CLEARED + 1, 8)
    assert moment[0].all()
    training.advance(2 * CLEARED, 8)
    assert not moment[0].any()
    assert (moment[1] == -1.1e-30).all()
    assert torch.finfo(torch.float32).tiny < 1.1e-30 * 0.9**CLEARED


# -- hooks ------------------------------------------------------------------------------------


def test_hooks_are_called_in_their_order_with_what_they_are_promised(digits):
    seen = []

    class _Hooked(narrows.VAE):
        def prepare(self, source):
            seen.append(("prepare", len(source)))

        def after_epoch(self):
            seen.append(("epoch", len(vars(self).get("history_", []))))

        def after_fit(self, codes):
            seen.append(("fit", codes.shape))

    _Hooked(**SMALL | {"epochs": 3}).fit(digits)
    names = [name for name, _ in seen]
    assert names == ["prepare", "epoch", "epoch", "epoch", "fit"]
    assert seen[0] == ("prepare", 231)
    assert seen[-1] == ("fit", (231, 2))


def test_progress_drives_schedules_from_0_to_1(digits):
    seen = []

    class _Scheduled(narrows.VAE):
        def objective(self, step):
            if self.net_.training:
                seen.append(step.progress.clone())
            return super().objective(step)

    _Scheduled(**SMALL).fit(digits)
    seen = torch.stack(seen)
    assert seen.tolist() == pytest.approx([i / len(seen) for i in range(len(seen))], abs=1e-6)


def test_running_state_changes_once_for_each_step_and_not_in_evaluation(digits):
    model = narrows.VAE(**SMALL).fit(digits)
    steps = 4 * InMemory(torch.zeros(231, 1)).steps(32)
    assert float(model.net_.likelihood.updates) == steps
    before = float(model.net_.likelihood.log_scale)
    model.score_samples(digits)
    model.reconstruct(digits)
    assert float(model.net_.likelihood.log_scale) == before
    assert not model.net_.training


# -- where it runs ----------------------------------------------------------------------------


ALWAYS = ("AdversarialAutoencoder", "Autoencoder", "GraphAutoencoder", "VAE", "VQVAE")


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, marks=() if name in ALWAYS else pytest.mark.wide)
        for name, cls in narrows.MODELS.items()
        if cls.__module__.startswith("narrows.")
    ],
)
def test_bfloat16_trains(cls, digits, linked_digits):
    options = {"latent_dim": 3, "epochs": 6, "learning_rate": 0.01, "batch_size": 16}
    digits = digits[:96]
    y = np.arange(len(digits)) % 3
    rows = cls().__sklearn_tags__().input_tags.two_d_array
    X = digits if rows else linked_digits
    model = cls(**options, precision="bfloat16").fit(X, y)
    losses = [row["loss"] for row in model.history_ if "loss" in row]
    assert losses[-1] < losses[0]
    assert model.transform(X).dtype == np.float32
    assert all(p.dtype == torch.float32 for p in model.net_.parameters())
    full = cls(**options).fit(X, y)
    assert model.history_[-1]["mse"] == pytest.approx(full.history_[-1]["mse"], rel=0.2)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_put_back(fails, digits, monkeypatch):
    used = []

    def after_epoch(self):
        used.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("mine")

    monkeypatch.setattr(narrows.VAE, "after_epoch", after_epoch)
    torch.set_num_threads(3)
    try:
        narrows.VAE(**SMALL, threads=2).fit(digits)
    except RuntimeError:
        assert fails
    assert torch.get_num_threads() == 3
    assert set(used) == {2}


def test_automatic_threads_are_one_for_small_steps(digits, monkeypatch):
    used = []
    monkeypatch.setattr(
        narrows.VAE, "after_epoch", lambda self: used.append(torch.get_num_threads())
    )
    torch.set_num_threads(2)
    narrows.VAE(**SMALL).fit(digits)
    assert set(used) == {1}
    assert torch.get_num_threads() == 2


def test_the_error_of_a_user_comes_through_as_it_is(digits, monkeypatch):
    def after_epoch(self):
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(narrows.VAE, "after_epoch", after_epoch)
    with pytest.raises(ZeroDivisionError, match="mine"):
        narrows.VAE(**SMALL).fit(digits)
