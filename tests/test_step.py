"""What a step may be made of: parts of a batch, averages of weights, half precision, products."""

import numpy as np
import pytest
import torch
from torch import nn

import narrows
from narrows.accumulation import joined
from narrows.data.sources import InMemory
from narrows.errors import ParameterError
from narrows.net import Move
from narrows.optimizer import AdamW
from narrows.stopping import RULES
from narrows.training import Training

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 4, "batch_size": 32}


class _Game(narrows.Autoencoder):
    """Two players without any noise, each of which sees what the other did."""

    def build(self, modality):
        net = super().build(modality)
        net.critic = nn.Linear(self.latent_dim, 1)
        return net

    def losses(self, batch):
        step, critic = self.net_(batch), self.net_.critic
        yield Move("autoencoder", self.objective(step), step)
        codes = self.net_.code(batch)
        yield Move("critic", {"critic": critic(codes.detach())[:, 0].square()})
        yield Move("autoencoder", {"fool": -critic(self.net_.code(batch))[:, 0]})


def run(cls, X, **options):
    """A run of a fitted model that goes on in double precision, with fields of its own."""
    model = cls(**SMALL | {"epochs": 1}).fit(X[:64])
    model.net_.double()
    x, *_ = model.modality_.encode(X.astype(float))
    source = InMemory(x.double(), weight=torch.rand(len(x)).double() + 0.5)
    return Training(model.set_params(**options), source, None, 1, 0)


def state(training):
    return {k: v for k, v in training.tensors().items() if k.partition(".")[0] != "noise"}


# -- parts of a batch ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [narrows.Autoencoder, _Game, narrows.VQVAE])
def test_parts_make_the_step_of_the_whole_batch(cls, digits):
    """Weights, moments, running scales, codebooks and terms: 32 samples as 11, 11 and 10."""
    torch.manual_seed(0)
    whole = run(cls, digits)
    torch.manual_seed(0)
    parts = run(cls, digits, accumulation=3)
    for i in range(3):
        rows = torch.arange(32) + 32 * i
        terms, expected = (t.step(t.source.take(rows)) for t in (parts, whole))
    assert terms.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-6, atol=1e-6)
    wanted = state(whole)
    for name, tensor in state(parts).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-6, atol=1e-6)


def test_the_losses_of_all_moves_of_the_autoencoder_add_up(digits):
    model = _Game(**SMALL).fit(digits)
    for row in model.history_:
        for part in ("", "validation_"):
            parts = row[f"{part}nll"] + row[f"{part}fool"]
            assert row[f"{part}loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(
    ("n", "parts", "sizes"),
    [(8, 1, [8]), (8, 2, [4, 4]), (7, 3, [3, 2, 2]), (3, 3, [3]), (5, 4, [3, 2]), (1, 2, [1])],
)
def test_a_batch_is_cut_into_parts_of_two_samples_at_least(n, parts, sizes):
    x = torch.arange(float(n))[:, None]
    cut = InMemory(x, torch.ones(n, 1), torch.ones(n)).take(torch.arange(n)).split(parts)
    assert [len(batch) for batch in cut] == sizes
    for name in ("x", "target", "mask", "weight", "index"):
        assert torch.cat([getattr(batch, name) for batch in cut]).flatten().shape == (n,)
    assert torch.equal(torch.cat([batch.x for batch in cut]), x)


def test_several_codes_of_a_sample_stay_together(digits):
    model = narrows.IWAE(**SMALL, particles=3).fit(digits)
    model.net_.train()
    x, *_ = model.modality_.encode(digits[:12].astype(float))
    batches = InMemory(x).take(torch.arange(12)).split(2)
    steps = [model.net_(batch) for batch in batches]
    step = joined(steps)
    assert step.nll.shape == (3, 12)
    for name, mean in model.net_.statistics(step).items():
        parts = [float(model.net_.statistics(part)[name]) for part in steps]
        assert float(mean) == pytest.approx(np.mean(parts), rel=1e-5)


def test_only_one_part_is_in_memory_at_a_time(digits, monkeypatch):
    """The gradient of a part is taken, and its activations go, before the next one passes."""
    done, grad = [], torch.autograd.grad

    class _Watching(_Game):
        def losses(self, batch):
            for move in super().losses(batch):
                done.append(f"pass of the {move.player}")
                yield move

    def watching(*args, **options):
        done.append("gradient")
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", watching)
    training = run(_Watching, digits, accumulation=2)
    done.clear()
    training.step(training.source.take(torch.arange(32)))
    players = [f"pass of the {name}" for name in ("autoencoder", "critic", "autoencoder")]
    assert done == [what for name in players for what in [name, "gradient"] * 2]


def test_parts_of_one_sample_are_refused(digits):
    sentence = r"accumulation=9 leaves fewer than 2 .* batch_size=16\. Set it to 8 at most"
    with pytest.raises(ParameterError, match=sentence):
        narrows.VAE(**SMALL | {"batch_size": 16}, accumulation=9).fit(digits)
    narrows.VAE(**SMALL | {"batch_size": 16}, accumulation=8).fit(digits)


# -- gradient checkpointing ---------------------------------------------------------------------


def saved(X, **options):
    """The fitted model, and how many bytes a pass keeps for its gradients."""
    model = narrows.VAE(latent_dim=2, epochs=2, verbose=0, **options).fit(X)
    x, *_ = model.modality_.encode(model.modality_.read(X, "VAE"))
    kept = {}  # with the tensors: their memory must not be used again

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    model.net_.train()
    batch = InMemory(x).take(torch.arange(len(x)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.net_(batch)
    weights = {p.data_ptr() for p in model.net_.parameters()}
    return model, sum(t.nbytes for place, t in kept.items() if place not in weights)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (64,) * 8, "dropout": 0.2},
        {"hidden": (4, 4), "blocks": 3, "modality": "image", "architecture": "conv"},
    ],
    ids=["mlp", "conv"],
)
def test_layers_run_again_give_the_same_training_in_less_memory(options, digits, images):
    X = images if "modality" in options else digits
    plain, most = saved(X, **options)
    model, few = saved(X, **options, gradient_checkpointing=True)
    assert few < 0.6 * most
    for (name, a), b in zip(
        plain.net_.state_dict().items(), model.net_.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_net_forgets_only_while_it_is_told_to(digits):
    model = narrows.Autoencoder(**SMALL, gradient_checkpointing=True, warm_start=True).fit(digits)
    assert model.net_.encoder.recomputes
    model.set_params(gradient_checkpointing=False).fit(digits)
    assert not model.net_.encoder.recomputes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_norm": True}, "batch_norm would count each batch twice"),
        ({"compile": True}, "has no effect in a graph, which compile=True makes"),
    ],
)
def test_layers_that_cannot_run_again_are_refused(options, sentence, digits):
    with pytest.raises(ParameterError, match=f"'gradient_checkpointing' .* {sentence}"):
        narrows.VAE(**SMALL, gradient_checkpointing=True, **options).fit(digits)


# -- averages of weights ------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [narrows.Autoencoder, _Game])
def test_averages_are_validated_and_kept_and_never_trained(cls, digits, monkeypatch):
    seen, update = {}, AdamW.update

    def watching(self, gradients):
        update(self, gradients)
        for name, p in zip(self.names, self.parameters, strict=True):
            seen.setdefault(name, [p.detach().clone()]).append(p.detach().clone())

    plain = cls(**SMALL).fit(digits)
    monkeypatch.setattr(AdamW, "update", watching)
    model = cls(**SMALL, ema=0.8).fit(digits)
    for a, b in zip(plain.history_, model.history_, strict=True):
        assert a["loss"] == b["loss"]
        assert a["validation_nll"] != b["validation_nll"]
    for name, p in model.net_.named_parameters():
        average, *moved = seen[name]
        for t, value in enumerate(moved[1:], 2):  # the first came of weights that are not known
            decay = min(0.8, (1 + t) / (10 + t))
            average = decay * average + (1 - decay) * value
        assert torch.allclose(p, average, rtol=1e-4, atol=1e-3)
        assert not torch.equal(p, moved[-1])
    x, *_ = model.modality_.encode(digits[model.held_out_].astype(float))
    with torch.no_grad():
        nll = model.net_.eval()(InMemory(x).take(torch.arange(len(x)))).nll.mean()
    assert model.history_[-1]["validation_nll"] == pytest.approx(float(nll), rel=1e-5)


def test_partial_fit_goes_on_from_the_weights_and_keeps_their_averages(digits):
    plain, averaged = (narrows.Autoencoder(**SMALL, ema=ema) for ema in (0.0, 0.9))
    for _ in range(3):
        plain.partial_fit(digits)
        averaged.partial_fit(digits)
    assert [r["loss"] for r in plain.history_] == [r["loss"] for r in averaged.history_]
    assert not np.array_equal(plain.transform(digits), averaged.transform(digits))


def test_a_stage_begins_with_the_averages_of_the_one_before(digits):
    options = {"hidden": (8,), "epochs": 4, "latent_dim": 2, "learning_rate": 0.05}
    plain = narrows.StackedAutoencoder(**options, validation=0.0).fit(digits)
    model = narrows.StackedAutoencoder(**options, validation=0.0, ema=0.9).fit(digits)
    first = "layer_1"
    assert plain.history_[0][first] == model.history_[0][first]
    assert plain.history_[1] != model.history_[1]


# -- precision ----------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize("name", ["VAE", "AdversarialAutoencoder", "VQVAE"])
def test_float16_trains(name, digits):
    """But for the steps that the scale skips on its way down, it is the training of float32."""
    options = {"latent_dim": 3, "epochs": 20, "learning_rate": 0.01, "batch_size": 32}
    half, full = (
        getattr(narrows, name)(**options, precision=precision).fit(digits)
        for precision in ("float16", "float32")
    )
    assert half.history_[-1]["loss"] < half.history_[0]["loss"]
    assert half.history_[-1]["mse"] == pytest.approx(full.history_[-1]["mse"], rel=0.2)
    assert all(p.dtype == torch.float32 for p in half.net_.parameters())


def test_an_overflow_lowers_the_scale_and_is_no_failure(digits):
    """Every player has a scale of its own."""

    class _Steep(_Game):
        def losses(self, batch):
            for move in super().losses(batch):
                factor = 1e3 if move.player == "critic" else 1.0
                yield Move(move.player, {k: factor * v for k, v in move.terms.items()}, move.step)

    model = _Steep(**SMALL | {"epochs": 1}, precision="float16").fit(digits)
    x, *_ = model.modality_.encode(digits[:32].astype(float))
    training = Training(model, InMemory(x), None, 1, 0)
    for _ in range(20):
        training.step(training.source.take(torch.arange(32)))
    ours, critics = training.optimizers["autoencoder"], training.optimizers["critic"]
    assert 1 < float(critics.scale.value) < float(ours.scale.value)
    assert float(critics.count) > 0
    assert training.skipped == 0


@pytest.mark.parametrize("name", ["GraphAutoencoder", "SequenceAutoencoder"])
def test_layers_without_float16_are_refused(name, digits, linked_digits):
    X = linked_digits if name == "GraphAutoencoder" else digits
    model = getattr(narrows, name)(latent_dim=2, precision="float16", epochs=1)
    sentence = rf"'float16' cannot train this {name} on .* 'cpu': .* Set precision='bfloat16'"
    with pytest.raises(ParameterError, match=sentence):
        model.fit(X)
    assert "net_" not in vars(model)


@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_of_gpus_and_put_back(fails, digits, monkeypatch):
    used = []

    def after_epoch(self):
        used.append(torch.backends.cuda.matmul.allow_tf32)
        if fails:
            raise RuntimeError("mine")

    plain = narrows.VAE(**SMALL).fit(digits)
    monkeypatch.setattr(narrows.VAE, "after_epoch", after_epoch)
    model = narrows.VAE(**SMALL, precision="tf32")
    try:
        model.fit(digits)
        np.testing.assert_array_equal(plain.transform(digits), model.transform(digits))
        model.partial_fit(digits)
    except RuntimeError:
        assert fails
    assert set(used) == {True}
    assert not torch.backends.cuda.matmul.allow_tf32


# -- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "patience", "losses", "stops"),
    [
        ("best", 2, [5, 4, 4.5, 4.2], 4),
        ("best", 2, [5, 4, 4, 4], 4),  # equal is no better
        ("best", 3, [5, 4, 4.5, 3, 3.5, 3.2, 3.1], 7),
        ("lagged", 2, [5, 4, 4.5, 3.9], None),  # each is below the one two epochs before
        ("lagged", 2, [5, 4, 4.5, 4], 4),
        ("lagged", 1, [5, 4, 3, 3.5], 4),
        ("lagged", 3, [5, 3, 4, 4.5, 2.9], None),
        ("lagged", 3, [5, 3, 4, 4.5, 3], 5),
    ],
)
def test_patience_runs_out_by_its_rule(rule, patience, losses, stops):
    ended = [n for n in range(len(losses) + 1) if RULES[rule](losses[:n], patience)]
    assert ended == ([] if stops is None else [stops])


@pytest.mark.parametrize("rule", RULES)
def test_the_best_weights_come_back_under_either_rule(rule, digits):
    options = {"learning_rate": 0.3, "schedule": "constant", "epochs": 60, "patience": 3}
    model = narrows.Autoencoder(**SMALL | options, stopping=rule).fit(digits)
    losses = [row["validation_loss"] for row in model.history_]
    assert RULES[rule](losses, 3)
    assert not any(RULES[rule](losses[:n], 3) for n in range(len(losses)))
    x, *_ = model.modality_.encode(digits[model.held_out_].astype(float))
    with torch.no_grad():
        nll = model.net_.eval()(InMemory(x).take(torch.arange(len(x)))).nll.mean()
    assert float(nll) == pytest.approx(min(losses), rel=1e-5)


def test_a_rule_without_patience_is_refused(digits):
    with pytest.raises(ParameterError, match=r"'stopping' .* has no effect with patience=None"):
        narrows.VAE(**SMALL, stopping="lagged").fit(digits)


def test_a_plateau_needs_losses_that_compare(digits):
    options = SMALL | {"schedule": "plateau"}
    with pytest.raises(ParameterError, match=r"'schedule' .* compares .* held-out samples"):
        narrows.VAE(**options, kl_schedule="linear", validation=0.0).fit(digits)
    with pytest.raises(ParameterError, match=r"'schedule' .* compares .* distortion weighs"):
        narrows.VAE(**options, distortion=0.3).fit(digits)
