"""A small run, what it comes to when nothing happens to it, and how to go on with it."""

import hashlib
import json

import pytest
from sklearn.datasets import load_digits

import narrows

X = load_digits().data[:100]
OPTIONS = {"latent_dim": 3, "hidden": (8,), "epochs": 6, "batch_size": 20, "dropout": 0.1}


def digest(model):
    """SHA-256 of all that training gave: weights, codes, history."""
    found = hashlib.sha256()
    config, tensors = model.state()
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in config["history"]]
    found.update(json.dumps(history).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


class Run:
    """A run of 5 steps an epoch."""

    data = X

    def __init__(self):
        self.model = narrows.VAE(**OPTIONS)

    def fit(self, folder=None, **options):
        return digest(self.model.fit(X, checkpoint=folder, **options))


@pytest.fixture
def run():
    return Run()


@pytest.fixture(scope="session")
def undisturbed():
    return Run().fit()


@pytest.fixture(scope="session")
def complete(tmp_path_factory):
    """Return the folder of a run that is over: its end, and two checkpoints within epochs."""
    folder = tmp_path_factory.mktemp("complete")
    Run().fit(folder, checkpoint_every=4)
    return folder


@pytest.fixture
def names():
    """Return a function that lists a folder."""
    return lambda folder: sorted(path.name for path in folder.iterdir())
