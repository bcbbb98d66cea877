"""Processes that train together compute what one process computes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

import narrows
from narrows.errors import NarrowsError, ParameterError
from narrows.optimizer import AdamW

ROWS = 23  # 21 to train on in batches of 9, 9 and 3, which two processes share unevenly


def of_every_model():
    """The cases of tests/test_every_model.py, each a model with an architecture."""
    path = Path(__file__).with_name("test_every_model.py")
    spec = importlib.util.spec_from_file_location("every_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EVERY = of_every_model()
CASES = [name for name, (cls, _) in EVERY.CASES.items() if cls not in EVERY.GRAPH_MODELS]


def small(case):
    """A model and the few samples that it trains on."""
    model = EVERY.make(case, epochs=3, batch_size=9, verbose=0)
    return model, EVERY.data(case)[:ROWS], EVERY.LABELS[:ROWS]


def trained(case, **options):
    """The history of a small run, and the gradients of each player's first step."""
    first, update = {}, AdamW.update

    def noting(self, gradients):
        first.setdefault(id(self), [g.detach().clone() for g in gradients])
        update(self, gradients)

    model, X, y = small(case)
    AdamW.update = noting
    try:
        model.fit(X, y, **options)
    finally:
        AdamW.update = update
    return {"history": model.history_, "gradients": [*first.values()]}, model


# -- what the processes run ---------------------------------------------------------------------


def sentence(model, X, **options):
    """What is said where a model cannot be fitted."""
    try:
        model.fit(X, strategy="ddp", **options)
    except NarrowsError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class _Ends(narrows.Autoencoder):
    """The second process ends in the middle of training."""

    def after_epoch(self):
        if torch.distributed.get_rank() == 1:
            os._exit(0)


def main(out):
    found = {}
    for case in CASES:
        found[case], model = trained(case, strategy="ddp")
        every = [None, None]
        state = {name: t.numpy().tobytes() for name, t in model.net_.state_dict().items()}
        torch.distributed.all_gather_object(every, state)
        found[case]["alike"] = every[0] == every[1]
        model.save(out.with_name("model"), overwrite=True)  # of two at once, one would fail
    X, rank = load_iris().data, torch.distributed.get_rank()
    quick = {"epochs": 2, "hidden": (8,), "verbose": 0}
    edges = np.array([[0, 1], [1, 2]])
    graph = narrows.GraphAutoencoder(epochs=1, latent_dim=1, verbose=0, validation=0.0)
    found["unseeded"] = sentence(narrows.VAE(**quick, seed=None), X)
    found["graph"] = sentence(graph, (edges, X[:3]))
    found["compile"] = sentence(narrows.VAE(**quick, compile=True), X)
    found["other data"] = sentence(narrows.VAE(**quick), X + rank)
    found["other fields"] = sentence(narrows.VAE(**quick, beta=1.0 + rank), X)
    if rank == 0:
        torch.save(found, out)
    found["ended"] = sentence(_Ends(**quick), X)
    torch.save(found, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    sys.exit()


# -- what they are compared with ----------------------------------------------------------------


def torchrun(*words):
    """Start two processes; return what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found."""
    out = tmp_path_factory.mktemp("together") / "found.pt"
    torchrun(__file__, out)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, together):
    (one, _), two = trained(case), together[case]
    assert two["alike"]
    for mine, theirs in zip(one["gradients"], two["gradients"], strict=True):
        mine, theirs = (torch.cat([g.flatten() for g in gs]) for gs in (mine, theirs))
        assert (mine - theirs).abs().max() <= 1e-5 * mine.abs().max()
    for mine, theirs in zip(one["history"], two["history"], strict=True):
        for name in mine.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-4), name
