"""A short fit is made of training steps: what is around them costs little."""

import subprocess
import sys
import time
from statistics import median

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.flop_counter import FlopCounterMode

import narrows
from narrows import base
from narrows.runtime import Flops

IMPORTS = """
import sys
from sklearn.datasets import load_digits
import narrows
model = narrows.VAE(epochs=2, verbose=0).fit(load_digits().data[:200])
model.score_samples(load_digits().data[:200])
print({"torch._dynamo", "sympy", "IPython", "mlflow", "sklearn.mixture"} & sys.modules.keys())
"""


@pytest.mark.parametrize("cls", [narrows.VAE, narrows.Autoencoder])
def test_little_of_it_is_outside_of_the_steps(cls):
    X = load_digits().data

    def outside():
        start = time.perf_counter()
        model = cls(epochs=20, verbose=0).fit(X)
        return 1 - sum(row["seconds"] for row in model.history_) / (time.perf_counter() - start)

    assert median(outside() for _ in range(3)) < 0.15  # 0.07 on a quiet machine


def test_it_imports_nothing_that_it_does_not_use():
    """The compiler takes a second, once a process, and a mixture brings 17 MB of other models."""
    words = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"modality": "image", "architecture": "conv"},
        {"modality": "series", "architecture": "gru"},
        {"modality": "series", "architecture": "transformer"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_operations_are_counted_as_torch_counts_them(fields, images, monkeypatch):
    seen = []

    def count(net, batch, batch_size):
        with torch.no_grad(), FlopCounterMode(display=False) as theirs, Flops() as ours:
            net.eval()(batch)
        seen.append((ours.count, theirs.get_total_flops()))
        return 1

    monkeypatch.setattr(base, "choose_threads", count)
    X = images / 255 if fields else images.reshape(256, -1)
    narrows.VAE(**fields, epochs=1, validation=0).fit(X[:8])
    ((ours, theirs),) = seen
    assert ours == theirs > 0
