"""Training throughput beside the tutorial's loop (DataLoader, Adam, loss.item()) on equal nets.

Each workload runs both in turn, several times; the table has the medians and the ratio pair by
pair, which holds on a machine whose speed drifts. Between them runs the barest eager loop: no
loader, a fused optimizer, nothing logged, no guard against gradients that are not finite; after
them our compiled step, without the epoch in which its graph is made.

    python benchmarks/training_speed.py [W1 W2 W5 W5/32] [--pairs 7] [--threads 1 2]
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise, product
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _common import Record, fashion_mnist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from narrows import Autoencoder

EPOCHS = 3


class Workload(NamedTuple):
    """A net as the tutorial writes it, the same net as fields of ours, and its data."""

    text: str
    target: float
    net: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    fields: dict[str, Any]
    data: Callable[[], np.ndarray]
    batch_size: int


def dense(*sizes: int, last: type[nn.Module] = nn.Identity) -> list[nn.Module]:
    """Linear layers with ReLU between them."""
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return [*layers[:-1], last()]


def pictures() -> np.ndarray:
    """Return half of Fashion-MNIST's training images, ``(30000, 784)`` in [0, 1]."""
    return fashion_mnist("train")[:30_000].reshape(-1, 784).astype(np.float32) / 255


def columns() -> np.ndarray:
    """Return correlated normal columns, ``(100000, 30)``."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 30)).astype(np.float32)
    return rng.standard_normal((100_000, 8), np.float32) @ mixing


def deep() -> nn.Module:
    """784-128-64-12-3-12-64-128-784."""
    return nn.Sequential(*dense(784, 128, 64, 12, 3), *dense(3, 12, 64, 128, 784, last=nn.Sigmoid))


def shallow() -> nn.Module:
    """784-32-784."""
    return nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 784), nn.Sigmoid())


def table() -> nn.Module:
    """30-64-32-64-30 with batch normalisation and dropout in the hidden layers."""

    def hidden(a: int, b: int) -> list[nn.Module]:
        return [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(0.2)]

    return nn.Sequential(*hidden(30, 64), nn.Linear(64, 32), *hidden(32, 64), nn.Linear(64, 30))


# The tutorial's optimizer: Adam at a constant rate, without decay or clipping.
TUTORIAL = {
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "gradient_clip": None,
}
TABLE = {
    "hidden": (64,),
    "latent_dim": 32,
    "activation": "relu",
    "batch_norm": True,
    "dropout": 0.2,
}
WORKLOADS = {
    "W1": Workload(
        "784-128-64-12-3-…, sigmoid, squared error, batch 256",
        1.4,
        deep,
        F.mse_loss,
        {
            "hidden": (128, 64, 12),
            "latent_dim": 3,
            "activation": "relu",
            "output_activation": "sigmoid",
        },
        pictures,
        256,
    ),
    "W2": Workload(
        "784-32-784, binary cross-entropy, batch 256",
        2.0,
        shallow,
        F.binary_cross_entropy,
        {"hidden": (), "latent_dim": 32, "code_activation": "relu", "likelihood": "bernoulli"},
        pictures,
        256,
    ),
    "W5": Workload(
        "30-64-32-64-30, batch norm, dropout 0.2, batch 1024",
        1.8,
        table,
        F.mse_loss,
        TABLE,
        columns,
        1024,
    ),
    "W5/32": Workload(
        "the same, batch 32",
        1.4,
        table,
        F.mse_loss,
        TABLE,
        lambda: columns()[:20_000],
        32,
    ),
}


def tutorial(workload: Workload, X: np.ndarray) -> tuple[list[float], int]:
    """Train as a tutorial does; return the seconds of each epoch and the number of parameters."""
    net = workload.net()
    data = TensorDataset(torch.from_numpy(X))
    loader = DataLoader(data, batch_size=workload.batch_size, shuffle=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    seconds = []
    for _ in range(EPOCHS):
        start, total = time.perf_counter(), 0.0
        for (x,) in loader:
            loss = workload.loss(net(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds, sum(p.numel() for p in net.parameters())


def least(workload: Workload, X: np.ndarray) -> list[float]:
    """Train with nothing but the eager step itself; return the seconds of each epoch."""
    net, x = workload.net(), torch.from_numpy(X)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for rows in torch.randperm(len(x)).split(workload.batch_size):
            batch = x[rows]
            optimizer.zero_grad()
            workload.loss(net(batch), batch).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds


def ours(
    workload: Workload, X: np.ndarray, threads: int, compiled: bool = False
) -> tuple[list[float], int]:
    """Train with `fit` as the user calls it, validation off."""
    model = Autoencoder(
        **workload.fields,
        batch_size=workload.batch_size,
        epochs=EPOCHS,
        **TUTORIAL,
        scaling="none",
        validation=0.0,
        threads=threads,
        compile=compiled,
        verbose=0,
    ).fit(X)
    parameters = sum(p.numel() for p in model.net_.parameters())
    return [row["seconds"] for row in model.history_], parameters


def ratio(rounds: list[tuple[float, ...]], column: int) -> str:
    """Return how many times the tutorial's seconds are a column's: median and range."""
    ratios = sorted(row[0] / row[column] for row in rounds)
    return f"**{median(ratios):.2f}** ({ratios[0]:.2f}–{ratios[-1]:.2f})"


def main() -> None:
    """Run the workloads and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    record = Record("training_speed", "Training speed beside the tutorial's loop")
    record(
        f"{arguments.pairs} pairs of {EPOCHS} epochs, medians; all loops on as many threads. "
        "Seconds of a graph: of the first, and of later ones, which torch keeps on the disk.\n"
    )
    head = (
        "workload",
        "threads",
        "tutorial ms/step",
        "bare",
        "narrows",
        "ratio (range)",
        "wanted",
        "compiled",
        "ratio (range)",
        "graph, s",
    )
    record(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, threads in product(arguments.workloads, arguments.threads):
        workload = WORKLOADS[name]
        torch.set_num_threads(threads)
        X = workload.data()
        steps = -(-len(X) // workload.batch_size)
        rounds: list[tuple[float, ...]] = []
        for _ in range(arguments.pairs):
            theirs, size = tutorial(workload, X)
            mine, own_size = ours(workload, X, threads)
            if size != own_size:
                raise SystemExit(f"{name}: the nets differ, {size} and {own_size} parameters.")
            graph, _ = ours(workload, X, threads, compiled=True)
            making = graph[0] - median(graph[1:])
            bare = median(least(workload, X))
            rounds.append((median(theirs), bare, median(mine), median(graph[1:]), making))
        a, bare, b, c = (
            1e3 * median(column) / steps for column in [*zip(*rounds, strict=True)][:4]
        )
        seconds = [row[-1] for row in rounds]
        record(
            f"| {name}: {workload.text} | {threads} | {a:.2f} | {bare:.2f} | {b:.2f} "
            f"| {ratio(rounds, 2)} | ≥ {workload.target} | {c:.2f} | {ratio(rounds, 3)} "
            f"| {seconds[0]:.0f}, then {median(seconds[1:] or seconds):.0f} |"
        )
    record.keep()


if __name__ == "__main__":
    main()
