"""SIGINT and SIGTERM: the state is saved first, and nothing is harmed by a second one."""

import itertools
import os
import signal
import threading

import pytest

from narrows.distributed import processes
from narrows.recovery import Recovery
from narrows.training import Training

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
RARELY = {"checkpoint_every": "1 h"}


@pytest.fixture
def terminable():
    """Let SIGTERM raise, as the command line does."""

    def end(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def during(monkeypatch):
    """Return a function that sends signals in the k-th call of something."""

    def arm(owner, name, k, *numbers):
        real, calls = getattr(owner, name), itertools.count(1)

        def called(*args, **options):
            if next(calls) == k:
                for number in numbers:
                    signal.raise_signal(number)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, called)

    return arm


MOMENTS = {  # what is under way, and the checkpoint that it leads to
    "a step": (Training, "step", 8, "epoch-000001-step-000003"),
    "the first step": (Training, "step", 1, "epoch-000000-step-000001"),
    "the last step": (Training, "step", 30, "epoch-000005-step-000005"),
    "a validation": (Training, "validate", 3, "epoch-000002-step-000005"),
    "the end of an epoch": (Recovery, "keep", 3, "epoch-000003-step-000001"),
    "the end of the run": (Recovery, "keep", 6, "epoch-000006"),
    "a save": (processes, "write_folder", 3, "epoch-000003-step-000001"),
}


@BOTH
@pytest.mark.usefixtures("terminable")
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_state_is_saved_within_a_step(
    moment, number, run, undisturbed, during, monkeypatch, names, tmp_path
):
    owner, name, k, saved = MOMENTS[moment]
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    during(owner, name, k, number)
    options = {} if moment == "a save" else RARELY
    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path, **options)
    assert names(tmp_path)[-1] == saved
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    assert run.fit(tmp_path, resume=True) == undisturbed


def test_a_second_one_acts_at_once(run, undisturbed, during, monkeypatch, names, tmp_path):
    during(Training, "step", 8, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path)
    assert names(tmp_path) == ["epoch-000001"]  # it waited for no step and no save
    monkeypatch.undo()
    assert run.fit(tmp_path, resume=True) == undisturbed


@pytest.mark.parametrize("k", range(1, 6))
def test_a_second_one_while_saving_harms_nothing(
    k, run, undisturbed, during, monkeypatch, names, tmp_path
):
    """The first comes in a step, the second in any of the writes that follow from it."""
    during(Training, "step", 8, signal.SIGINT)
    during(os, "fsync", 7 + k, signal.SIGINT)  # a checkpoint takes 7
    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path)
    assert names(tmp_path) == ["epoch-000001"]
    monkeypatch.undo()
    assert run.fit(tmp_path, resume=True) == undisturbed


def test_a_handler_that_returns_lets_training_go_on(run, undisturbed, during, names, tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(names(tmp_path)))
    try:
        during(Training, "step", 8, signal.SIGTERM)
        assert run.fit(tmp_path, **RARELY) == undisturbed
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [["epoch-000001-step-000003"]]  # saved before it was called


def test_what_the_process_ignores_stays_ignored(run, undisturbed, during, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        during(Training, "step", 8, signal.SIGINT)
        assert run.fit(tmp_path) == undisturbed
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_get_no_signals_and_train(run, undisturbed, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run.fit(tmp_path)))
    thread.start()
    thread.join()
    assert found == [undisturbed]


def test_without_checkpoints_an_interruption_is_what_it_always_was(run, during):
    during(Training, "step", 8, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.fit()
