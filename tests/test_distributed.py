"""Processes that train together compute what one process computes."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

import narrows
from narrows.cli import main
from narrows.errors import NarrowsError, ParameterError
from narrows.optimizer import AdamW
from narrows.training import Training

pytestmark = pytest.mark.wide
COMMAND = "fit iris --model vae --architecture linear --latent-dim 2 --epochs 2 --verbose 2"
SHORT = {"epochs": 4, "architecture": "linear", "verbose": 0}
ROWS = 23  # 21 to train on in batches of 9, 9 and 3, which two processes share unevenly


def of_every_model():
    """The cases of tests/test_every_model.py, each a model with an architecture."""
    path = Path(__file__).with_name("test_every_model.py")
    spec = importlib.util.spec_from_file_location("every_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EVERY = of_every_model()
# Every model with dense layers where it takes them, and what else there is but likelihoods.
CASES = [
    name
    for name, (cls, options) in EVERY.CASES.items()
    if cls not in EVERY.GRAPH_MODELS
    and not re.search("likelihood|corruption|volume|-(linear|conv)(-|$)", name)
]
CASES += ["LinearAutoencoder-linear", "TopKAutoencoder-linear", "VAEGAN-conv"]


def whole(optimizer, parts):
    """What an optimizer gets of all processes."""
    if type(optimizer) is AdamW:
        return parts
    from narrows.distributed.shards import full, like

    return [full(like(*pair)) for pair in zip(parts, optimizer.leaves, strict=True)]


def trained(case, **options):
    """What a small run logs in its first step and epoch, and each player's first gradients."""
    terms, gradients, step, update = [], {}, Training.step, AdamW.update

    def noting_terms(self, *args):
        found = step(self, *args)
        terms.append({name: float(value) for name, value in found.items()})
        return found

    def noting_gradients(self, found):
        if self not in gradients:
            gradients[self] = torch.cat([g.flatten() for g in whole(self, found)]).clone()
        update(self, found)

    epochs = 3 if case.startswith("Stacked") else 1
    model = EVERY.make(case, epochs=epochs, batch_size=9, verbose=0)
    Training.step, AdamW.update = noting_terms, noting_gradients
    try:
        model.fit(EVERY.data(case)[:ROWS], EVERY.LABELS[:ROWS], **options)
    finally:
        Training.step, AdamW.update = step, update
    row = {name: value for name, value in model.history_[0].items() if name != "seconds"}
    return model, {"step": terms[0], "epoch": row, "gradients": [*gradients.values()]}


# -- what the processes run ---------------------------------------------------------------------


def sentence(model, X, strategy="ddp", **options):
    """What is said where a model cannot be fitted."""
    try:
        model.fit(X, strategy=strategy, **options)
    except NarrowsError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def alike(model):
    """Whether all processes have the same weights and running state, to the bit."""
    every = [None] * torch.distributed.get_world_size()
    state = {name: t.numpy().tobytes() for name, t in model.net_.state_dict().items()}
    torch.distributed.all_gather_object(every, state)
    return all(one == every[0] for one in every)


class Stop(BaseException):
    """The run ends here."""


class _Stops(narrows.VAE):
    """Processes that train it together all stop in the third epoch."""

    def after_epoch(self):
        if torch.distributed.is_initialized() and self.net_.progress > 0.5:
            raise Stop


class _Interrupted(narrows.VAE):
    """The second process gets a signal, twice, early in the third epoch."""

    def losses(self, batch):
        if 0.5 < self.net_.progress < 0.6 and torch.distributed.is_initialized():
            for _ in range(2 * torch.distributed.get_rank()):
                signal.raise_signal(signal.SIGINT)
        return super().losses(batch)


class _Ends(narrows.Autoencoder):
    """The second process ends in the middle of training."""

    def after_epoch(self):
        if torch.distributed.get_rank() == 1:
            os._exit(0)


def train_together(out):
    found = {}
    for case in CASES:
        model, found[case] = trained(case, strategy="ddp")
        found[case]["alike"] = alike(model)
    model.save(out.with_name("model"))  # of two that write, one would fail
    X, rank = load_iris().data, torch.distributed.get_rank()
    quick = {"epochs": 2, "hidden": (8,), "verbose": 0}
    edges = np.array([[0, 1], [1, 2]])
    graph = narrows.GraphAutoencoder(epochs=1, latent_dim=1, verbose=0, validation=0.0)
    model = narrows.VAE(**quick, seed=None).fit(X, strategy="ddp")
    found["unseeded"] = alike(model)
    with pytest.raises(Stop):
        _Stops(**SHORT).fit(X, strategy="ddp", checkpoint=out.with_name("kept"))
    many = SHORT | {"batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        _Interrupted(**many).fit(X, strategy="ddp", checkpoint=out.with_name("interrupted"))
    found["graph"] = sentence(graph, (edges, X[:3]))
    found["compile"] = sentence(narrows.VAE(**quick, compile=True), X)
    found["other data"] = sentence(narrows.VAE(**quick), X[:: 1 - 2 * rank])
    found["other fields"] = sentence(
        narrows.VAE(**quick | {"epochs": 2 + rank}, beta=1.0 + rank), X
    )
    run = ["--out", str(out.with_name("run"))]
    codes = [main([*COMMAND.split(), *run])]
    found["codes"] = [None, None]
    torch.distributed.all_gather_object(found["codes"], codes)
    found["ended"] = sentence(_Ends(**quick), X)  # the last: one is left
    torch.save(found, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_together(Path(sys.argv[1]))
    sys.exit()


# -- what they are compared with ----------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found, and what they printed."""
    out = tmp_path_factory.mktemp("together") / "found.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", __file__, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = {"stdout": done.stdout, "stderr": done.stderr, "run": out.with_name("run")}
    return torch.load(out, weights_only=True) | printed


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, together):
    one, two = trained(case)[1], together[case]
    assert two["alike"]
    assert two["step"] == pytest.approx(one["step"], rel=1e-5, abs=1e-5)
    for mine, theirs in zip(one["gradients"], two["gradients"], strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * mine.abs().max()
    # Updates of a size that rounding decides, and codes that it flips, move runs apart.
    assert two["epoch"] == pytest.approx(one["epoch"], rel=1e-2, abs=1e-3)


def test_weights_are_alike_without_a_seed(together):
    assert together["unseeded"]


def test_one_process_goes_on_from_what_two_kept(together):
    X = load_iris().data
    model = _Stops(**SHORT).fit(X, checkpoint=together["run"].with_name("kept"), resume=True)
    whole = _Stops(**SHORT).fit(X)
    assert [row["epoch"] for row in model.history_] == [1, 2, 3, 4]
    for mine, theirs in zip(whole.history_, model.history_, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)


def test_a_signal_to_one_process_saves_and_ends_all_of_them(together):
    folder, many = together["run"].with_name("interrupted"), SHORT | {"batch_size": 4}
    *_, newest = sorted(path.name for path in folder.glob("epoch-*"))
    assert newest.startswith("epoch-000002-step-0000")
    model = _Interrupted(**many).fit(load_iris().data, checkpoint=folder, resume=True)
    whole = _Interrupted(**many).fit(load_iris().data)
    for mine, theirs in zip(whole.history_, model.history_, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("graph", "ParameterError: strategy='ddp' shares the samples"),
        ("compile", "ParameterError: compile=True makes one graph"),
        ("other data", "DataError: Process 1 differs from process 0 in data."),
        ("other fields", "DataError: Process 1 differs from process 0 in epochs, beta."),
        ("ended", "PeerError: Another process of this run has ended"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_a_sentence(name, words, together):
    assert together[name].startswith(words)


def test_a_process_alone_names_torchrun():
    with pytest.raises(ParameterError, match=r"torchrun --nproc-per-node 2 script.py"):
        narrows.VAE().fit(load_iris().data, strategy="ddp")


def test_a_strategy_that_is_none_is_refused():
    with pytest.raises(ParameterError, match="strategy must be 'ddp', 'fsdp' or None"):
        narrows.VAE().fit(load_iris().data, strategy="dp")


def test_the_command_line_trains_in_all_processes_and_writes_once(together, tmp_path):
    assert together["codes"] == [[0], [0]]
    assert together["stderr"].count("epoch 2/2") == 1
    assert together["stdout"].count("Report:") == 1
    assert main([*COMMAND.split(), "--out", str(tmp_path)]) == 0
    one, two = (narrows.load(Path(run, "model")) for run in (tmp_path, together["run"]))
    for name, tensor in one.net_.state_dict().items():
        torch.testing.assert_close(two.net_.state_dict()[name], tensor, rtol=0, atol=1e-3)
