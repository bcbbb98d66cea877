"""Callbacks: what they are told, how they stop a run, and what their failures harm: nothing."""

import inspect

import numpy as np
import pytest
import torch

import narrows
from narrows.callbacks import Callback
from narrows.errors import FileError, ParameterError
from narrows.loggers import JSONL
from narrows.training import Training

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 4, "batch_size": 32, "validation": 0.25}


class Diary(Callback):
    """Notes all that it is told."""

    def __init__(self):
        self.events, self.rows, self.steps, self.errors = [], [], [], []

    def start(self, training):
        self.events.append(("start", training.epoch, training.epochs))

    def step(self, training, terms):
        self.events.append(("step", training.epoch))
        self.steps.append(terms)

    def epoch(self, training, row):
        self.events.append(("epoch", training.epoch))
        self.rows.append(row)

    def finish(self, training, error):
        self.events.append(("finish", training.epoch))
        self.errors.append(error)


class Failing(Callback):
    """Fails in one event, the n-th time."""

    def __init__(self, event, n=1):
        self.calls = []

        def fail(*_):
            self.calls.append(event)
            if len(self.calls) == n:
                raise ZeroDivisionError("mine")

        setattr(self, event, fail)
        self.event = event

    def step(self, training, terms):
        """Overridden, so that steps are told of at all."""


def test_every_event_comes_in_its_order(digits):
    diary = Diary()
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[diary])
    epoch = lambda i: [("step", i)] * 6 + [("epoch", i + 1)]  # noqa: E731
    assert diary.events == [
        ("start", 0, 4),
        *(event for i in range(4) for event in epoch(i)),
        ("finish", 4),
    ]
    assert diary.rows == model.history_
    assert diary.errors == [None]


def test_steps_tell_every_term_on_the_device(digits):
    diary = Diary()
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[diary])
    for terms in diary.steps:
        assert {"nll", "kl", "loss"} <= terms.keys()
        assert all(isinstance(t, torch.Tensor) and t.shape == () for t in terms.values())
    last = diary.steps[-6:]
    assert np.mean([float(terms["kl"]) for terms in last]) == pytest.approx(
        model.history_[-1]["kl"], rel=1e-5
    )


def test_what_looks_on_changes_nothing(digits):
    alone = narrows.VAE(**SMALL).fit(digits)
    watched = narrows.VAE(**SMALL).fit(digits, callbacks=[Diary()])
    np.testing.assert_array_equal(alone.transform(digits), watched.transform(digits))


def test_a_step_costs_nothing_where_no_callback_asks_for_it(digits, monkeypatch):
    asked = []
    run = Training.run

    def spy(self, report):
        asked.append(list(self.after_step))
        return run(self, report)

    monkeypatch.setattr(Training, "run", spy)
    narrows.VAE(**SMALL).fit(digits, callbacks=[Callback()])
    narrows.VAE(**SMALL).fit(digits, callbacks=[Diary()])
    assert not asked[0]
    assert asked[1]


@pytest.mark.parametrize("event", ["step", "epoch"])
def test_a_callback_may_stop_the_run_after_the_epoch(event, digits):
    class Stopping(Callback):
        pass

    setattr(
        Stopping,
        event,
        lambda self, training, _: training.epoch >= 1 and training.end_after_epoch(),
    )
    diary = Diary()
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[Stopping(), diary])
    assert model.n_iter_ == {"step": 2, "epoch": 1}[event]
    assert diary.events[-1] == ("finish", model.n_iter_)
    assert len(diary.steps) == 6 * model.n_iter_
    assert np.isfinite(model.transform(digits)).all()


class StopAfter(Callback):
    """Stops the run after so many epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def epoch(self, training, row):
        if training.epoch == self.epochs:
            training.end_after_epoch()


def test_a_stopped_run_has_the_weights_of_its_best_epoch(digits):
    rough = {"epochs": 30, "patience": 30, "learning_rate": 0.3, "schedule": "constant"}
    model = narrows.VAE(**SMALL | rough).fit(digits, callbacks=[StopAfter(9)])
    best = int(np.argmin([row["validation_loss"] for row in model.history_])) + 1
    assert best < model.n_iter_ == 9  # else this test would show nothing
    shorter = narrows.VAE(**SMALL | rough).fit(digits, callbacks=[StopAfter(best)])
    np.testing.assert_array_equal(model.transform(digits), shorter.transform(digits))


@pytest.mark.parametrize("every", ["epoch", "1 h"])
def test_the_end_of_a_run_that_a_callback_ended_is_saved(every, digits, tmp_path):
    keep = {"checkpoint": tmp_path / "run", "checkpoint_every": every}
    narrows.VAE(**SMALL).fit(digits, callbacks=[StopAfter(2)], **keep)
    assert (tmp_path / "run" / "epoch-000002").is_dir()


@pytest.mark.parametrize("event", ["step", "epoch", "finish"])
def test_a_callback_that_fails_is_named_and_dropped(event, digits):
    failing, diary = Failing(event), Diary()
    with pytest.warns(UserWarning, match="The callback Failing failed") as caught:
        model = narrows.VAE(**SMALL).fit(digits, callbacks=[failing, diary])
    (warning,) = caught
    epoch = {"step": 0, "epoch": 1, "finish": 4}[event]
    message = str(warning.message)
    assert f"after epoch {epoch} and is called no more" in message
    assert "ZeroDivisionError: mine (test_callbacks.py, line " in message
    assert len(failing.calls) == 1
    assert diary.events[-1] == ("finish", 4)
    plain = narrows.VAE(**SMALL).fit(digits)
    np.testing.assert_array_equal(model.transform(digits), plain.transform(digits))


def test_what_start_raises_ends_the_fit_and_nothing_is_lost(digits):
    model = narrows.VAE(**SMALL).fit(digits)
    before, diary = model.transform(digits), Diary()
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        model.fit(digits, callbacks=[diary, Failing("start"), Diary()])
    assert caught.value.__notes__ == ["The callback Failing raised it in start."]
    assert diary.events == [("start", 0, 4), ("finish", 0)]
    assert diary.errors == [caught.value]
    np.testing.assert_array_equal(model.transform(digits), before)


def test_an_interruption_comes_through_and_all_are_told(digits):
    class Interrupting(Callback):
        def epoch(self, training, row):
            raise KeyboardInterrupt

    diary = Diary()
    with pytest.raises(KeyboardInterrupt):
        narrows.VAE(**SMALL).fit(digits, callbacks=[diary, Interrupting()])
    assert diary.events[-1] == ("finish", 1)
    assert isinstance(diary.errors[0], KeyboardInterrupt)


def test_the_checkpoint_of_an_epoch_is_there_when_callbacks_see_it(digits, tmp_path):
    seen = []

    class Looking(Callback):
        def epoch(self, training, row):
            seen.append((tmp_path / f"epoch-{training.epoch:06d}").exists())

    narrows.VAE(**SMALL).fit(digits, checkpoint=tmp_path, callbacks=[Looking()])
    assert seen == 4 * [True]


def test_a_run_that_a_callback_stopped_goes_on(digits, tmp_path):
    folder, diary = tmp_path / "states", Diary()
    narrows.VAE(**SMALL).fit(digits, checkpoint=folder, callbacks=[StopAfter(2)])
    model = narrows.VAE(**SMALL).fit(digits, checkpoint=folder, resume=True, callbacks=[diary])
    assert diary.events[0] == ("start", 2, 4)
    plain = narrows.VAE(**SMALL).fit(digits)
    np.testing.assert_array_equal(model.transform(digits), plain.transform(digits))


@pytest.mark.parametrize("wrong", [JSONL("x"), [JSONL], [print], "jsonl", {}])
def test_what_is_no_list_of_callbacks_is_refused(wrong, digits):
    with pytest.raises(ParameterError, match=r"callbacks= takes a list.* Got .* instead"):
        narrows.VAE(**SMALL).fit(digits, callbacks=wrong)


def test_every_event_is_documented():
    for name in ("start", "step", "epoch", "finish"):
        assert inspect.getdoc(getattr(Callback, name))


def test_a_logger_that_cannot_write_ends_the_fit_before_it_trains(digits, tmp_path):
    diary = Diary()
    with pytest.raises(FileError, match=r"none/history\.jsonl"):
        narrows.VAE(**SMALL).fit(digits, callbacks=[diary, JSONL(tmp_path / "none/history.jsonl")])
    assert not diary.steps
