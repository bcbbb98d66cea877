"""A linear path beside the networks: held-out errors with and without it, beside PCA's.

Wine, breast cancer, ADBench's shuttle, patches of the Kodak photographs, 10 000 images of
Fashion-MNIST, digits. Every number is the mean of three seeds, of convolutional nets that of one.
Patience goes by a tenth of the training samples; the test samples are never seen. Images train
for few epochs, to spare time.

    python benchmarks/linear_path.py [wine breast_cancer ...]
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
from _common import Record, data_folder, fashion_mnist, kodak_patches
from sklearn import datasets

from narrows import VAE, Autoencoder, BaseAutoencoder
from narrows.evaluation import evaluate

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "patience": {"patience": 10},
    "path": {"linear_path": True},
    "path, patience": {"linear_path": True, "patience": 10},
}


class Task(NamedTuple):
    """Data in two parts, the models' fields, how many seeds are tried, and which models."""

    train: Any
    test: Any
    fields: dict[str, Any]
    seeds: int = 3
    kinds: tuple[type[BaseAutoencoder], ...] = (Autoencoder, VAE)


def table(X: Any, **fields: Any) -> Task:
    """Return a table in two parts, 7 : 3, in random order."""
    X = X[np.random.default_rng(0).permutation(len(X))]
    edge = len(X) * 7 // 10
    return Task(X[:edge], X[edge:], fields)


def shuttle() -> Task:
    """Return 4000 rows of ADBench's shuttle."""
    archive = np.load(data_folder() / "adbench" / "32_shuttle.npz", allow_pickle=False)
    X = archive["X"][np.random.default_rng(1).permutation(len(archive["X"]))]
    return table(X[:4000], latent_dim=4, epochs=30)


def fashion(architecture: str, **options: Any) -> Task:
    """Return 10 000 images of Fashion-MNIST for training, and the 10 000 test images."""
    fields = {"latent_dim": 32, "architecture": architecture, "epochs": 5}
    return Task(fashion_mnist("train")[:10_000], fashion_mnist("t10k"), fields, **options)


def kodak() -> Task:
    """Return a third of the 32 × 32 patches of 20 Kodak photographs, and of the other 4."""
    train, test = kodak_patches()
    return Task(train[::3], test, {"latent_dim": 64, "epochs": 20}, 1, (Autoencoder,))


TASKS = {
    "wine": lambda: table(datasets.load_wine().data),
    "breast_cancer": lambda: table(datasets.load_breast_cancer().data),
    "shuttle": shuttle,
    "kodak": kodak,
    "fashion_mlp": lambda: fashion("mlp"),
    "fashion_conv": lambda: fashion("conv", seeds=1, kinds=(Autoencoder,)),
    "digits": lambda: table(datasets.load_digits().data),
}


def main() -> None:
    """Run the tasks and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    record = Record("linear_path", "A linear path beside the networks, held-out errors")
    record(
        "Share of the test samples' variance that is not explained, in % (lower is better), and "
        "log-likelihood in nats (higher is better); means of the seeds, with the largest in "
        "brackets. PCA has as many dimensions as the code.\n"
    )
    record("| data | model | variant | unexplained % | log-likelihood | epochs | fit s |")
    record("|---|---|---|---|---|---|---|")
    for name in parser.parse_args().tasks:
        task = TASKS[name]()
        both = np.concatenate([task.train, task.test])
        split = np.split(np.arange(len(both)), [len(task.train)])
        for kind in task.kinds:
            found: dict[str, list[list[float]]] = {}
            for variant, options in VARIANTS.items():
                for seed in range(task.seeds):
                    model = kind(verbose=0, seed=seed, threads=1, **task.fields, **options)
                    start = time.perf_counter()
                    model.fit(task.train)
                    spent = [model.n_iter_, time.perf_counter() - start]
                    metrics = evaluate(model, both, train=split[0], test=split[1]).metrics
                    found.setdefault(variant, []).append(row(metrics["model"]) + spent)
            found["PCA"] = [[*row(metrics["pca"]), np.nan, np.nan]]
            for variant, rows in found.items():
                missed, density, epochs, seconds = np.mean(rows, 0)
                most = max(first for first, *_ in rows)
                cells = [f"{missed:.2f} ({most:.2f})", shown(density, 2), shown(epochs, 0)]
                cells.append(shown(seconds, 1))
                record(f"| {name} | {kind.__name__} | {variant} | {' | '.join(cells)} |")
        record.keep()


def row(scores: dict[str, float]) -> list[float]:
    """Return what of the variance is missed, in %, and the log-likelihood if there is one."""
    return [100 * (1 - scores["explained_variance"]), scores.get("log_likelihood", np.nan)]


def shown(value: float, digits: int) -> str:
    """Return a number as text; nothing where there is none."""
    return "" if np.isnan(value) else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
