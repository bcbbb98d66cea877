"""What the tests share: real data cut small, a quiet and fast way to fit, and a clean registry."""

import os
import signal

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before SciPy: scikit-learn then checks array API
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.neighbors import kneighbors_graph

import narrows


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _interruptible():
    """Hear SIGINT, which a shell lets its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _registry():
    """Forget the models that a test defines."""
    before = dict(narrows.MODELS)
    yield
    narrows.MODELS.clear()
    narrows.MODELS.update(before)


@pytest.fixture(scope="session")
def digits():
    """256 real digits, ``(256, 64)`` float32; some of the columns are constant."""
    return frozen(load_digits().data[:256].astype(np.float32))


@pytest.fixture(scope="session")
def linked_digits(digits):
    """A graph whose nodes are the digits, each linked to its five nearest."""
    near = kneighbors_graph(digits, 5)
    return near.maximum(near.T), digits


@pytest.fixture(scope="session")
def images():
    """The same digits, ``(256, 8, 8)`` uint8."""
    return frozen(np.rint(load_digits().images[:256] * (255 / 16)).astype(np.uint8))


@pytest.fixture(scope="session")
def wine():
    """178 wines, ``(178, 13)`` float64 of very different units."""
    return frozen(load_wine().data)


@pytest.fixture(scope="session")
def cancer():
    """569 tumours, ``(569, 30)`` float64, standardised."""
    X = load_breast_cancer().data
    return frozen((X - X.mean(0)) / X.std(0))


def frozen(X):
    """Shared arrays are read-only, so that no test can change them for another."""
    X.flags.writeable = False
    return X
