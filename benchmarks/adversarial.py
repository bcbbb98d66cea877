"""Is the game stable? Five seeds of each adversarial model on Fashion-MNIST, with their defaults.

Errors and critics are measured on held-out images. A player has won where the critic's loss is
far from that of a critic that cannot tell (log 2 for each set of samples it sees). The model
collapsed where a unit of the code is silent, or where its samples are more alike than the data.

    python benchmarks/adversarial.py [aae factor vaegan semi] [--images 3000] [--epochs 15]
"""

import argparse
import time
from itertools import product
from math import log
from typing import Any

import numpy as np
from _common import Record, fashion_labels, fashion_mnist
from sklearn.metrics import pairwise_distances

from narrows import (
    VAEGAN,
    AdversarialAutoencoder,
    BaseAutoencoder,
    FactorVAE,
    SemiSupervisedAdversarialAutoencoder,
)

SEEDS = range(5)
# Sets of samples that the critic sees, and what differs from the defaults to be fast enough.
MODELS: dict[str, tuple[type[BaseAutoencoder], int, dict[str, object]]] = {
    "aae": (AdversarialAutoencoder, 2, {"architecture": "mlp"}),
    "factor": (FactorVAE, 2, {"architecture": "mlp"}),
    "vaegan": (VAEGAN, 3, {"architecture": "mlp"}),
    "semi": (SemiSupervisedAdversarialAutoencoder, 2, {"architecture": "mlp"}),
}


def spread(images: np.ndarray) -> float:
    """Return the mean distance between two images, of 300."""
    return float(pairwise_distances(images[:300].reshape(-1, 784).astype(float)).mean())


def main() -> None:
    """Fit all and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    train, test = fashion_mnist("train")[: options.images], fashion_mnist("t10k")
    labels = fashion_labels("train")[: options.images]
    held: dict[str, Any] = dict.fromkeys(MODELS, test[:2000])
    held["semi"] = (test[:2000], fashion_labels("t10k")[:2000])  # the one that reads labels
    record = Record("adversarial", "Five seeds of every game on Fashion-MNIST")
    record(
        f"{len(train)} training images, {options.epochs} epochs, latent_dim=16, else as in the "
        "script. mse of 1 is the data's variance; the critic's loss relative to that of one that "
        "cannot tell; the least and greatest deviation of a unit of the code; the mean distance "
        "between two samples relative to that of two test images.\n"
    )
    record("| model | seed | mse | critic | code deviations | spread of samples | fit s |")
    record("|---|---|---|---|---|---|---|")
    for name, seed in product(options.models, SEEDS):
        cls, sets, changes = MODELS[name]
        model = cls(latent_dim=16, epochs=options.epochs, seed=seed, verbose=0, **changes)
        start = time.perf_counter()
        row = model.fit(train, labels, validation=held[name]).history_[-1]
        seconds = time.perf_counter() - start
        critic = row["validation_critic"] / (sets * log(2))
        deviation = model.transform(test).std(0)
        samples = spread(model.sample(300)) / spread(test)
        record(
            f"| {cls.__name__} | {seed} | {row['validation_mse']:.3f} | {critic:.2f} | "
            f"{deviation.min():.2f} – {deviation.max():.2f} | {samples:.2f} | {seconds:.0f} |"
        )
        record.keep()


if __name__ == "__main__":
    main()
