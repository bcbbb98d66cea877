"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

import hashlib
import shutil
import signal

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import narrows
from narrows import checkpoint
from narrows.errors import FileError, ModelFileError, ParameterError
from narrows.training import Training

# How models of graphs resume is in known_answers/test_graphs.py.
CLASSES = [
    cls
    for cls in narrows.MODELS.values()
    if cls.__module__.startswith("narrows.") and cls().__sklearn_tags__().input_tags.two_d_array
]
DRAW_NONE = {narrows.MaskedAutoencoder, narrows.ResidualAutoencoder, narrows.UNetAutoencoder}
X = load_digits().data[:80]
Y = load_digits().target[:80]
SMALL = {"latent_dim": 3, "epochs": 6, "batch_size": 20}


class Stop(BaseException):
    """The run ends here."""


@pytest.fixture
def stop_after(monkeypatch):
    """Let the n-th epoch of fits be the last whose checkpoint is written."""

    def arm(cls, n):
        done = []

        def after_epoch(self):
            done.append(1)
            if len(done) > n:
                raise Stop

        monkeypatch.setattr(cls, "after_epoch", after_epoch)
        return done

    yield arm
    monkeypatch.undo()


def interrupt(monkeypatch, step):
    """Let SIGINT come while a step of the next fit is under way."""
    advance, steps = Training.advance, iter(range(10**6))

    def counted(self, *args):
        if next(steps) + 1 == step:
            signal.raise_signal(signal.SIGINT)
        advance(self, *args)

    monkeypatch.setattr(Training, "advance", counted)


def unclocked(model):
    return [{**row, "seconds": 0} for row in model.history_]


def assert_same(one, two):
    assert unclocked(one) == unclocked(two)
    first, second = one.net_.state_dict(), two.net_.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    np.testing.assert_array_equal(one.codes_, two.codes_)
    np.testing.assert_array_equal(one.score_samples(X), two.score_samples(X))


def stopped(model, folder, n, stop_after, data=X, **options):
    stop_after(type(model), n)
    with pytest.raises(Stop):
        model.fit(data, Y, checkpoint=folder, **options)
    stop_after(type(model), 10**9)


VARIANTS = {
    "plain": {},
    "noisy": {"dropout": 0.2, "hidden": (16, 8), "batch_norm": True},  # stopped within an epoch
    "patient": {"patience": 1, "learning_rate": 0.1, "schedule": "constant", "epochs": 40},
    "images": {"architecture": "conv", "modality": "image", "hidden": (4,)},
    "averaged": {"ema": 0.9, "accumulation": 2, "precision": "float16"},
    "falling": {"schedule": "plateau", "rate_patience": 1, "learning_rate": 0.3},
    "sure": {"validation": 0.0, "scale": "learned", "weight_decay": 0.1, "gradient_clip": 1.0},
}


def options_of(cls, variant):
    options = SMALL | VARIANTS[variant]
    if cls in (
        narrows.ContractiveAutoencoder,
        narrows.HamiltonianVAE,
        narrows.MaskedAutoencoder,
        narrows.RiemannianVAE,
        narrows.SequenceAutoencoder,
        narrows.SequenceVAE,
        narrows.VampPriorVAE,
    ):
        options.pop("batch_norm", None)
    if cls is narrows.MaskedAutoencoder and "hidden" in options:
        options["hidden"] = (16, 16)  # blocks are alike
    if cls is narrows.ComposedAutoencoder:
        options |= {"code": "gaussian", "corruption": "gaussian", "penalties": {"l1": 0.1}}
    return options


RUNS = [(cls, variant) for cls in CLASSES for variant in ("plain", "noisy", "patient")]
RUNS += [(cls, variant) for cls in (narrows.Autoencoder, narrows.VAE) for variant in VARIANTS]
RUNS += [(narrows.AdversarialAutoencoder, "averaged")]
for linear in (narrows.LinearAutoencoder, narrows.TopKAutoencoder):
    RUNS.remove((linear, "noisy"))  # it has no hidden layers
ALWAYS = [
    (narrows.AdversarialAutoencoder, "noisy"),
    (narrows.StackedAutoencoder, "noisy"),
    (narrows.TopKAutoencoder, "plain"),
    (narrows.VAE, "noisy"),
    (narrows.VAE, "patient"),
    (narrows.VAEGAN, "noisy"),
    (narrows.VQVAE, "noisy"),
]


@pytest.mark.parametrize(
    ("cls", "variant"),
    [
        pytest.param(*run, marks=() if run in ALWAYS else pytest.mark.wide)
        for run in dict.fromkeys(RUNS)
    ],
)
def test_resumed_is_never_stopped(cls, variant, tmp_path, stop_after, monkeypatch):
    options = options_of(cls, variant)
    data = X.reshape(-1, 8, 8) if variant == "images" else X
    whole = cls(**options).fit(data, Y)
    assert variant != "patient" or whole.n_iter_ < 40  # it did run out of patience
    n = min(2, whole.n_iter_ - 1)
    if variant == "noisy":
        with monkeypatch.context() as patch:
            interrupt(patch, 4 * n + 3)
            with pytest.raises(KeyboardInterrupt):
                cls(**options).fit(data, Y, checkpoint=tmp_path)
        assert (tmp_path / f"epoch-00000{n}-step-000003").exists()
    else:
        stopped(cls(**options), tmp_path, n, stop_after, data)
    torch.rand(100)
    resumed = cls(**options)
    done = stop_after(cls, 10**9)
    resumed.fit(data, Y, checkpoint=tmp_path, resume=True)
    assert len(done) == whole.n_iter_ - n  # only what was left
    assert unclocked(whole) == unclocked(resumed)
    for name, value in whole.net_.state_dict().items():
        assert torch.equal(value, resumed.net_.state_dict()[name]), name
    np.testing.assert_array_equal(whole.transform(data), resumed.transform(data))
    np.testing.assert_array_equal(whole.reconstruct(data), resumed.reconstruct(data))
    if cls not in DRAW_NONE:
        np.testing.assert_array_equal(whole.sample(3), resumed.sample(3))


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, marks=() if cls is narrows.CategoricalVAE else pytest.mark.wide)
        for cls in CLASSES
    ],
)
def test_a_run_that_stopped_before_its_validation_goes_on(cls, tmp_path, monkeypatch):
    """Schedules stand where the last step left them, though none is left of the epoch."""
    options = options_of(cls, "plain") | {"patience": 6}
    with monkeypatch.context() as patch:
        interrupt(patch, 4 * 2 + 4)
        with pytest.raises(KeyboardInterrupt):
            cls(**options).fit(X, Y, checkpoint=tmp_path)
    assert (tmp_path / "epoch-000002-step-000004").exists()
    resumed = cls(**options).fit(X, Y, checkpoint=tmp_path, resume=True)
    whole = cls(**options).fit(X, Y)
    assert unclocked(whole) == unclocked(resumed)
    assert whole.best_epoch_ == resumed.best_epoch_


@pytest.mark.parametrize("n", [1, 3, 5])
def test_it_does_not_matter_where_a_run_is_stopped(n, tmp_path, stop_after):
    model = narrows.VAE(**SMALL)
    stopped(model, tmp_path, n, stop_after)
    assert_same(narrows.VAE(**SMALL).fit(X), model.fit(X, checkpoint=tmp_path, resume=True))


@pytest.mark.parametrize("every", [1, 3, "7", "0.0001 s"])
def test_checkpoints_may_be_frequent_or_rare(every, tmp_path, monkeypatch):
    """4 steps an epoch; what a checkpoint within an epoch holds is all of the state."""
    options = SMALL | {"dropout": 0.2, "patience": 5}
    whole, model = narrows.VAE(**options).fit(X), narrows.VAE(**options)
    with monkeypatch.context() as patch:
        interrupt(patch, 15)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, checkpoint=tmp_path, checkpoint_every=every)
    shutil.rmtree(tmp_path / "epoch-000003-step-000003")  # what the signal left
    left = {
        1: ["epoch-000003-step-000001", "epoch-000003-step-000002"],
        3: ["epoch-000002-step-000001", "epoch-000002-step-000004"],
        "7": ["epoch-000001-step-000003", "epoch-000003-step-000002"],
        "0.0001 s": ["epoch-000003-step-000001", "epoch-000003-step-000002"],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == left[every]
    assert_same(whole, model.fit(X, checkpoint=tmp_path, resume=True))


def test_the_end_of_a_run_is_saved_however_rare_checkpoints_are(tmp_path):
    model = narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path, checkpoint_every="1 h")
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000006"]
    assert_same(model, narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path, resume=True))


@pytest.mark.parametrize("every", [0, -1, 1.5, "0 s", "often", "10 parsecs", "min", True, None])
def test_what_is_no_interval_is_refused(every, tmp_path):
    with pytest.raises(ParameterError, match="checkpoint_every must be 'epoch', a number of"):
        narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path / "run", checkpoint_every=every)
    assert not (tmp_path / "run").exists()


def test_an_interval_needs_a_folder():
    with pytest.raises(ParameterError, match=r"checkpoint_every needs checkpoint="):
        narrows.VAE(**SMALL).fit(X, checkpoint_every=10)


def test_a_run_may_be_stopped_many_times(tmp_path, stop_after):
    model = narrows.VAE(**SMALL)
    for _ in range(4):
        stopped(model, tmp_path, 1, stop_after, resume=True)
    assert_same(narrows.VAE(**SMALL).fit(X), model.fit(X, checkpoint=tmp_path, resume=True))


def test_checkpoints_do_not_change_the_run(tmp_path):
    assert_same(
        narrows.VAE(**SMALL).fit(X), narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path / "a")
    )


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path):
    names = ["epoch-000002", "epoch-999999", "epoch-999999-step-000012", "epoch-1000000"]
    for name in sorted(names):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoint._checkpoints(tmp_path)] == names


def test_the_newest_three_are_kept(tmp_path):
    narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["epoch-000004", "epoch-000005", "epoch-000006"]


def test_lists_numpy_values_and_weights_resume_too(tmp_path, stop_after):
    options = SMALL | {"hidden": [16, np.int64(8)], "learning_rate": np.float64(0.003)}
    weight = np.arange(80) % 3
    whole = narrows.VAE(**options).fit(X, sample_weight=weight)
    model = narrows.VAE(**options)
    stopped(model, tmp_path, 2, stop_after, sample_weight=weight)
    assert_same(whole, model.fit(X, checkpoint=tmp_path, resume=True, sample_weight=weight))


def test_missing_cells_resume_too(tmp_path, stop_after):
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    options = SMALL | {"modality": "table"}
    whole = narrows.VAE(**options).fit(holes)
    model = narrows.VAE(**options)
    stopped(model, tmp_path, 2, stop_after, holes)
    assert_same(whole, model.fit(holes, checkpoint=tmp_path, resume=True))


def test_a_finished_run_has_no_further_epochs(tmp_path, stop_after):
    model = narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path)
    twin = narrows.VAE(**SMALL)
    done = stop_after(narrows.VAE, 0)  # any epoch would raise
    twin.fit(X, checkpoint=tmp_path, resume=True)
    assert not done
    assert_same(model, twin)


def test_a_run_that_ran_out_of_patience_has_no_further_epochs(tmp_path, stop_after):
    options = SMALL | VARIANTS["patient"]
    model = narrows.VAE(**options).fit(X, checkpoint=tmp_path)
    done = stop_after(narrows.VAE, 0)
    twin = narrows.VAE(**options).fit(X, checkpoint=tmp_path, resume=True)
    assert not done
    assert_same(model, twin)


@pytest.mark.parametrize("made", [True, False])
def test_resuming_where_there_is_nothing_starts_at_the_beginning(made, tmp_path):
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    model = narrows.VAE(**SMALL).fit(X, checkpoint=folder, resume=True)
    assert_same(model, narrows.VAE(**SMALL).fit(X))
    assert len(list(folder.iterdir())) == 3


def test_to_resume_needs_a_folder():
    with pytest.raises(ParameterError, match=r"resume=True.*checkpoint"):
        narrows.VAE(**SMALL).fit(X, resume=True)


def test_a_new_run_does_not_mix_with_the_checkpoints_of_an_old_one(tmp_path):
    narrows.VAE(**SMALL, learning_rate=0.5).fit(X, checkpoint=tmp_path)
    with pytest.raises(FileError, match="resume=True"):
        narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path)


# -- what must be equal -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.5}, r"learning_rate \(0.002 there, 0.5 here\)"),
        ({"epochs": 9}, r"epochs \(6 there, 9 here\)"),
        ({"hidden": (8,)}, r"hidden \(None there, \[8\] here\)"),
        ({"seed": 4}, r"seed \(0 there, 4 here\)"),
        ({"beta": 2.0, "dropout": 0.5}, r"(dropout.*beta)|(beta.*dropout)"),
    ],
)
def test_other_fields_are_listed(change, named, tmp_path, stop_after):
    stopped(narrows.VAE(**SMALL), tmp_path, 2, stop_after)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(
        FileError, match=f"epoch-000002 cannot be resumed: it differs in .*{named}"
    ):
        narrows.VAE(**SMALL | change).fit(X, checkpoint=tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("change", ["one value", "one row less", "weights", "own validation"])
def test_other_data_are_noticed(change, tmp_path, stop_after):
    stopped(narrows.VAE(**SMALL), tmp_path, 2, stop_after)
    data, options = X.copy(), {}
    if change == "one value":
        data[7, 20] += 1
    elif change == "one row less":
        data = data[:-1]
    elif change == "weights":
        options = {"sample_weight": np.arange(1, 81)}
    else:
        options = {"validation": data[:10]}
    with pytest.raises(FileError, match="differs in the data"):
        narrows.VAE(**SMALL).fit(data, checkpoint=tmp_path, resume=True, **options)


def test_another_class_is_named(tmp_path, stop_after):
    stopped(narrows.Autoencoder(**SMALL), tmp_path, 2, stop_after)
    named = r"class \('Autoencoder' there, 'ContractiveAutoencoder' here\)"
    with pytest.raises(FileError, match=named):
        narrows.ContractiveAutoencoder(**SMALL).fit(X, checkpoint=tmp_path, resume=True)


def test_what_is_shown_may_change(tmp_path, stop_after, capsys):
    stopped(narrows.VAE(**SMALL), tmp_path, 2, stop_after)
    model = narrows.VAE(**SMALL, verbose=2).fit(X, checkpoint=tmp_path, resume=True)
    assert_same(model, narrows.VAE(**SMALL).fit(X))


# -- damage -----------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped weights": lambda folder: flip(folder / "state.safetensors"),
    "flipped numbers": lambda folder: flip(folder / "state.json"),
    "flipped manifest": lambda folder: flip(folder / "manifest.json"),
    "truncated": lambda folder: (folder / "state.safetensors").write_bytes(b"\x08"),
    "empty file": lambda folder: (folder / "state.json").write_bytes(b""),
    "missing file": lambda folder: (folder / "state.safetensors").unlink(),
    "missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_from_a_damaged_checkpoint_it_goes_back_to_the_one_before(damage, tmp_path, stop_after):
    model = narrows.VAE(**SMALL)
    stopped(model, tmp_path, 4, stop_after)
    DAMAGE[damage](tmp_path / "epoch-000004")
    with pytest.warns(UserWarning, match="epoch-000004.*Going back to the checkpoint before it"):
        model.fit(X, checkpoint=tmp_path, resume=True)
    assert_same(model, narrows.VAE(**SMALL).fit(X))


@pytest.mark.filterwarnings("ignore:.*Going back to the checkpoint before it")
def test_when_all_are_damaged_it_stops_and_does_not_begin_again(tmp_path, stop_after):
    model = narrows.VAE(**SMALL)
    stopped(model, tmp_path, 4, stop_after)
    for folder in tmp_path.iterdir():
        flip(folder / "state.safetensors")
    sums = {path: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.rglob("*.*")}
    with pytest.raises(
        ModelFileError, match=r"All 3 checkpoints in .* are damaged. Remove the fold"
    ):
        model.fit(X, checkpoint=tmp_path, resume=True)
    for path, digest in sums.items():
        assert hashlib.sha256(path.read_bytes()).digest() == digest


def test_an_error_keeps_the_checkpoints_that_were_written(tmp_path, monkeypatch):
    model, run_epoch, seen = narrows.VAE(**SMALL), Training.run_epoch, []

    def failing(self):
        seen.append(1)
        if len(seen) == 4:
            raise RuntimeError("mine")
        run_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", failing)
        with pytest.raises(RuntimeError, match="mine"):
            model.fit(X, checkpoint=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"epoch-00000{i}" for i in (1, 2, 3)
    ]
    assert_same(narrows.VAE(**SMALL).fit(X), model.fit(X, checkpoint=tmp_path, resume=True))


def test_a_place_that_cannot_be_written_is_told_before_training(tmp_path, stop_after):
    (tmp_path / "file").write_text("")
    done = stop_after(narrows.VAE, 10**9)
    with pytest.raises(FileError, match="file"):
        narrows.VAE(**SMALL).fit(X, checkpoint=tmp_path / "file" / "run")
    assert not done
