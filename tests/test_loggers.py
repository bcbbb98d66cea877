"""Loggers: what they write is the history, whole, whatever happens to the run."""

import json
import signal
import subprocess
import sys
import types

import pytest

import narrows
from narrows import loggers
from narrows.callbacks import Callback
from narrows.errors import FileError, MissingExtraError
from narrows.loggers import JSONL, MLflow, TensorBoard
from narrows.storage import append

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 4, "batch_size": 64}


class StopAfter(Callback):
    """Stops the run after so many epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def epoch(self, training, row):
        if training.epoch == self.epochs:
            training.end_after_epoch()


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- JSONL ------------------------------------------------------------------------------------


def test_the_file_is_the_history(digits, tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text("what an earlier run left\n")
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[JSONL(path)])
    assert rows(path) == model.history_


def test_a_line_is_there_as_soon_as_its_epoch_ended(digits, tmp_path):
    path, seen = tmp_path / "history.jsonl", []

    class Looking(Callback):
        def start(self, training):
            seen.append(rows(path))

        def epoch(self, training, row):
            seen.append(rows(path))

    model = narrows.VAE(**SMALL).fit(digits, callbacks=[JSONL(path), Looking()])
    assert seen == [model.history_[:i] for i in range(5)]


def test_the_file_of_a_resumed_run_is_whole(digits, tmp_path):
    path, folder = tmp_path / "history.jsonl", tmp_path / "states"
    model = narrows.VAE(**SMALL)
    model.fit(digits, checkpoint=folder, callbacks=[JSONL(path), StopAfter(2)])
    append(path, '{"epoch": 3, "nl')  # cut short, as by a power cut
    model.fit(digits, checkpoint=folder, resume=True, callbacks=[JSONL(path)])
    assert rows(path) == model.history_
    assert len(model.history_) == 4


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_line_that_cannot_be_written_is_written_later(epoch, digits, tmp_path, monkeypatch):
    path, calls = tmp_path / "history.jsonl", []

    def full(place, line):
        calls.append(line)
        if len(calls) == epoch:
            append(place, line[:20])
            raise FileError("There is no space left.")
        append(place, line)

    monkeypatch.setattr(loggers, "append", full)
    with pytest.warns(UserWarning, match="no space left. The next epoch writes all of them anew"):
        model = narrows.VAE(**SMALL).fit(digits, callbacks=[JSONL(path)])
    assert rows(path) == model.history_


def test_where_training_went_back_the_file_does_too(tmp_path):
    path = tmp_path / "history.jsonl"
    logger, training = JSONL(path), types.SimpleNamespace(history=[])

    def end(*history):
        training.history = [{"epoch": epoch, "nll": nll} for epoch, nll in history]
        logger.epoch(training, training.history[-1])

    logger.start(training)
    end((1, 5.0))
    end((1, 5.0), (2, 4.0))
    end((1, 5.0), (2, 4.0), (3, 9.0))
    end((1, 5.0), (2, 3.0))
    assert rows(path) == training.history
    end((1, 5.0), (2, 3.0), (3, 2.0))
    assert rows(path) == training.history


KILLED = """
import os, signal
from sklearn.datasets import load_iris
import narrows
from narrows.callbacks import Callback
from narrows.loggers import JSONL

class Kill(Callback):
    def epoch(self, training, row):
        if training.epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)

narrows.VAE(epochs=9).fit(load_iris().data, callbacks=[JSONL("history.jsonl"), Kill()])
"""


def test_a_killed_run_keeps_its_history(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["epoch"] for row in rows(tmp_path / "history.jsonl")] == [1, 2, 3]


# -- TensorBoard ------------------------------------------------------------------------------


class Writer:
    """Takes what SummaryWriter takes, no more, and keeps it."""

    made: list

    def __init__(self, log_dir=None, comment="", purge_step=None, max_queue=10, flush_secs=120):
        self.log_dir, self.purge_step, self.closed = log_dir, purge_step, False
        self.scalars, self.texts = {}, {}
        Writer.made.append(self)

    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
        assert (type(scalar_value), type(global_step), self.closed) == (float, int, False)
        self.scalars.setdefault(tag, []).append((global_step, scalar_value))

    def add_text(self, tag, text_string, global_step=None, walltime=None):
        assert type(text_string) is str
        self.texts[tag] = text_string

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    """Stand in for the library, so that the rest can be seen without it."""
    import torch.utils

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter, Writer.made = Writer, []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(torch.utils, "tensorboard", module, raising=False)
    return Writer.made


def test_tensorboard_gets_every_term_as_a_curve(digits, tmp_path, writers):
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[TensorBoard(tmp_path)])
    (writer,) = writers
    expected = {}
    for row in model.history_:
        for name, value in row.items():
            held = name.startswith("validation_")
            tag = f"validation/{name[11:]}" if held else f"train/{name}"
            expected.setdefault(tag, []).append((row["epoch"], value))
    del expected["train/epoch"]
    assert writer.scalars == expected
    assert {"train/nll", "validation/nll", "train/kl", "train/mse"} <= writer.scalars.keys()
    assert json.loads(writer.texts["fields"])["latent_dim"] == 2
    assert writer.log_dir == str(tmp_path)
    assert writer.closed


def test_tensorboards_curves_of_a_resumed_run_are_whole(digits, tmp_path, writers):
    model, states = narrows.VAE(**SMALL), tmp_path / "states"
    model.fit(digits, checkpoint=states, callbacks=[TensorBoard(tmp_path), StopAfter(2)])
    model.fit(digits, checkpoint=states, resume=True, callbacks=[TensorBoard(tmp_path)])
    assert [step for step, _ in writers[1].scalars["train/nll"]] == [1, 2, 3, 4]
    assert writers[1].purge_step == 1  # what the first writer wrote is hidden


def test_where_training_went_back_tensorboards_curves_do_too(tmp_path, writers):
    logger, training = TensorBoard(tmp_path), types.SimpleNamespace(history=[])
    training.model = narrows.VAE()
    logger.start(training)
    for epoch in (1, 2, 3, 2, 3):
        logger.epoch(training, {"epoch": epoch, "nll": 1.0})
    assert [writer.purge_step for writer in writers] == [1, 2]
    assert [step for step, _ in writers[1].scalars["train/nll"]] == [2, 3]


def test_tensorboard_itself_reads_it(digits, tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    narrows.VAE(**SMALL).fit(digits, callbacks=[TensorBoard(tmp_path)])
    model = narrows.VAE(**SMALL, seed=1).fit(digits, callbacks=[TensorBoard(tmp_path)])
    events = reading.EventAccumulator(str(tmp_path)).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("validation/nll")]
    assert seen == [
        (row["epoch"], pytest.approx(row["validation_nll"], rel=1e-6)) for row in model.history_
    ]


# -- MLflow -----------------------------------------------------------------------------------


class FakeMLflow(types.ModuleType):
    """Takes what mlflow takes, and complains where it would."""

    def __init__(self):
        super().__init__("mlflow")
        self.active, self.runs = None, []

    def active_run(self):
        return self.active

    def start_run(self, run_id=None, experiment_id=None, run_name=None, nested=False):
        assert self.active is None, "Run is already active."
        self.active = {"name": run_name, "params": {}, "metrics": {}, "status": "RUNNING"}
        self.runs.append(self.active)
        return self.active

    def log_params(self, params, synchronous=None):
        assert self.active is not None
        self.active["params"] |= params

    def log_metrics(self, metrics, step=None, synchronous=None):
        assert type(step) is int
        for name, value in metrics.items():
            assert type(value) is float
            self.active["metrics"].setdefault(name, []).append((step, value))

    def end_run(self, status="FINISHED"):
        assert status in ("FINISHED", "FAILED", "KILLED")
        self.active["status"], self.active = status, None


@pytest.fixture
def mlflow(monkeypatch):
    """Stand in for the library."""
    module = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # and put it back
    return module


def test_mlflow_gets_fields_and_terms(digits, mlflow):
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[MLflow()])
    (run,) = mlflow.runs
    assert (run["name"], run["status"], mlflow.active) == ("VAE", "FINISHED", None)
    assert run["params"] == model.fields()
    names = model.history_[0].keys() - {"epoch"}
    assert run["metrics"] == {
        name: [(row["epoch"], row[name]) for row in model.history_] for name in names
    }


def test_mlflow_writes_into_the_run_that_is_active(digits, mlflow):
    run = mlflow.start_run(run_name="mine")
    narrows.VAE(**SMALL).fit(digits, callbacks=[MLflow()])
    assert mlflow.runs == [run]
    assert mlflow.active is run
    assert len(run["metrics"]["nll"]) == 4


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (OSError, "FAILED")])
def test_mlflow_knows_how_the_run_ended(error, status, digits, mlflow, monkeypatch):
    def after_epoch(self):
        raise error

    monkeypatch.setattr(narrows.VAE, "after_epoch", after_epoch)
    with pytest.raises(error):
        narrows.VAE(**SMALL).fit(digits, callbacks=[MLflow()])
    assert [run["status"] for run in mlflow.runs] == [status]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_itself_keeps_it(digits, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    model = narrows.VAE(**SMALL).fit(digits, callbacks=[MLflow()])
    (run,) = mlflow.search_runs(output_format="list")
    assert (run.info.run_name, run.info.status) == ("VAE", "FINISHED")
    assert run.data.params["latent_dim"] == "2"
    kept = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation_nll")
    assert [(point.step, point.value) for point in kept] == [
        (row["epoch"], row["validation_nll"]) for row in model.history_
    ]


# -- what is missing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "make"),
    [("torch.utils.tensorboard", lambda: TensorBoard("x")), ("mlflow", MLflow)],
)
def test_a_missing_library_is_told_of_with_the_line_that_installs_it(module, make, monkeypatch):
    import torch.utils

    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'narrows\[track\]'"):
        make()
