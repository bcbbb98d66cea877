"""A loss, a gradient or a weight that is not finite: back to the last good state, then on."""

import signal
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import narrows
from narrows import checkpoint
from narrows.distributed import Processes, processes
from narrows.errors import NonFiniteError
from narrows.recovery import RETRIES
from narrows.storage import unpack
from narrows.training import Training

BACK = "Training went back to the state it kept last, of the end of epoch 1, and goes on at half"
PLAIN = {"schedule": "constant", "warmup": 0.0}


@pytest.fixture
def spoil(monkeypatch):
    """Return a function that spoils the k-th step of the run, the first so many times."""

    def arm(k, times, what="loss"):
        step, left = Training.step, [times]

        def spoiled(self, batch, watch=True):
            terms = step(self, batch, watch)
            if self.epoch * 5 + self.position + 1 == k and left[0]:
                left[0] -= 1
                if what == "loss":
                    terms["nll"] = terms["nll"] + torch.inf
                else:
                    next(self.net.parameters()).data[0, 0] = torch.nan
            return terms

        monkeypatch.setattr(Training, "step", spoiled)

    return arm


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_an_accident_halves_the_rate_and_training_goes_on(what, run, spoil):
    run.model.set_params(**PLAIN)
    spoil(13, 1, what)
    with pytest.warns(UserWarning, match=BACK):
        run.fit()
    rates = [row["learning_rate"] for row in run.model.history_]
    np.testing.assert_allclose(rates, [2e-3] + [1e-3] * 5, rtol=1e-6)
    assert [row["epoch"] for row in run.model.history_] == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(run.model.transform(run.data)).all()


def test_what_happens_again_and_again_stops_the_run(run, spoil):
    spoil(13, RETRIES + 1)
    sentence = (
        "The term 'nll' of VAE became inf at step 3 of epoch 3, at 1/8 of the learning rate; "
        "epoch 2 was the last good one. Lower learning_rate"
    )
    with (
        pytest.warns(UserWarning, match=BACK) as told,
        pytest.raises(NonFiniteError, match=sentence),
    ):
        run.fit()
    assert len(told) == RETRIES


def test_without_a_good_epoch_it_stops_at_once(run, spoil):
    spoil(3, 1)
    with pytest.raises(NonFiniteError, match="step 3 of epoch 1; no epoch was good"):
        run.fit()


@pytest.mark.parametrize("every", [1, 3, "epoch"])
@pytest.mark.filterwarnings("ignore:.*Training went back")
def test_when_it_is_noticed_changes_nothing(every, run, spoil, tmp_path):
    spoil(13, 1)
    whole = run.fit()
    spoil(13, 1)
    assert run.fit(tmp_path, checkpoint_every=every) == whole


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.filterwarnings("ignore:.*Training went back")
def test_the_retry_resumes_exactly(when, run, spoil, monkeypatch, tmp_path):
    """Stopped before the accident, or in the epoch that is repeated."""
    spoil(13, 1)
    whole = run.fit()
    advance, seen = Training.advance, []

    def counted(self, *args):
        seen.append(self.epoch * 5 + self.position)
        if seen.count(11) == (1 if when == "before" else 2):
            signal.raise_signal(signal.SIGINT)
        advance(self, *args)

    spoil(13, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", counted)
        with pytest.raises(KeyboardInterrupt):
            run.fit(tmp_path, checkpoint_every="1 h")
    assert (tmp_path / "epoch-000002-step-000002").exists()
    assert run.fit(tmp_path, resume=True) == whole


@pytest.mark.parametrize("what", ["loss", "weight"])
@pytest.mark.filterwarnings("ignore:.*Training went back")
def test_what_is_on_disk_is_always_finite(what, run, spoil, monkeypatch, tmp_path):
    write_folder, seen = processes.write_folder, []

    def looked(path, files, overwrite):
        write_folder(path, files, overwrite)
        _, tensors = unpack(path, processes.FILES)
        seen.append(path.name)
        floats = [t for t in tensors.values() if t.is_floating_point()]
        assert all(t.isfinite().all() for t in floats)

    monkeypatch.setattr(processes, "write_folder", looked)
    spoil(13, RETRIES + 1, what)
    with pytest.raises(NonFiniteError):
        run.fit(tmp_path, checkpoint_every=1)
    assert len(seen) == 12 + RETRIES * 7
    assert seen[-1] == "epoch-000002-step-000002"


@pytest.mark.parametrize("count", [1, 2])
def test_of_several_processes_the_one_that_saves_does_not_go_back_alone(count, run, tmp_path):
    device = torch.device("cpu")
    training = run.model._begin(run.data, device, seed=0)
    with checkpoint.kept(training, tmp_path, (1, 1), resume_run=False) as train:
        training.processes = Processes(device, 0, count)
        next(training.net.parameters()).data[0, 0] = torch.nan
        with nullcontext() if count > 1 else pytest.raises(NonFiniteError):
            train.__self__.write()
    assert not list(tmp_path.iterdir())


def test_a_run_in_which_nothing_moves_stops():
    """The loss is finite, and no gradient of any step of the second epoch is."""

    class _Steep(narrows.Autoencoder):
        def objective(self, step):
            early = (step.progress < 0.499).float()
            steep = ((step.h - step.h.detach()).abs() + early).sqrt()
            return {"nll": step.nll, "steep": steep.sum(1)}

    X = np.random.default_rng(0).normal(size=(260, 3))
    options = {"latent_dim": 2, "hidden": (), "batch_size": 1, "epochs": 2, "validation": 0.0}
    with (
        pytest.warns(UserWarning, match=BACK),
        pytest.raises(
            NonFiniteError, match="The gradient of _Steep became nan at step 260 of epo"
        ),
    ):
        _Steep(**options).fit(X)


@pytest.mark.filterwarnings("ignore:.*Training went back")
def test_back_to_an_earlier_stage(spoil):
    """Layers that learn alone have optimizers of their own."""
    X = np.random.default_rng(0).normal(size=(100, 6))
    model = narrows.StackedAutoencoder(
        latent_dim=2, hidden=(4,), epochs=6, batch_size=20, validation=0.0, **PLAIN
    )
    spoil(22, 1)  # in the second epoch of the whole net, 5 steps each
    model.fit(X)
    rates = [row["learning_rate"] for row in model.history_]
    np.testing.assert_allclose(rates, [2e-3] + [1e-3] * 5, rtol=1e-6)
