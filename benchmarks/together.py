"""Sixteen small models trained together, beside the same models trained one after another.

Each net is trained in batches of 32 by models of seeds and of weights of their own: one after
another, together, and together as one compiled graph. A time is that of the fastest epoch, in
milliseconds for a step of all models; the graph's is without its making. The deviation is the
largest between what models that were trained together and alone reconstruct, of values of
variance 1. It is largest with batch normalisation: the code's bias then has no gradient but
rounding, which the optimizer blows up, and which evaluation sees by the running means.

    python benchmarks/together.py [--models 16] [--epochs 4]
"""

import argparse
from typing import Any

import numpy as np
import torch
from _common import Record

from narrows import VAE, Autoencoder, BaseAutoencoder, SparseAutoencoder, fit_together

SAMPLES, BATCH = 3200, 32
NETS: dict[str, tuple[type[BaseAutoencoder], dict[str, Any], str | None]] = {
    "point code, L1": (SparseAutoencoder, {}, "sparsity"),
    "VAE": (VAE, {}, "beta"),
    "batch norm, dropout 0.2": (Autoencoder, {"batch_norm": True, "dropout": 0.2}, None),
}


def columns() -> np.ndarray:
    """Return correlated normal columns of variance 1, ``(3200, 30)``."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((SAMPLES, 8)) @ rng.normal(size=(8, 30))
    return (X / X.std(0)).astype(np.float32)


def models(name: str, count: int, epochs: int, compiled: bool) -> list[BaseAutoencoder]:
    """Return models that differ in seed, learning rate and the weight of their penalty."""
    cls, options, weight = NETS[name]
    shared = {"latent_dim": 10, "hidden": (64,), "batch_size": BATCH, "validation": 0.0}
    made = []
    for k in range(count):
        own = {"seed": k, "learning_rate": 1e-3 * (1 + k / count)}
        own |= {weight: 0.1 * (k + 1)} if weight else {}
        fields = shared | options | own | {"epochs": epochs, "compile": compiled, "verbose": 0}
        made.append(cls(**fields))
    return made


def seconds(fitted: list[BaseAutoencoder]) -> float:
    """Return the sum over models of each one's fastest epoch."""
    return sum(min(row["seconds"] for row in model.history_) for model in fitted)


def main() -> None:
    """Measure every net."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    X = columns()
    record = Record("together", "Many models at once")
    record(
        f"{given.models} models 30-64-10-64-30 on {SAMPLES} rows, batch {BATCH}, one thread; ms "
        f"for a step of all models, in the fastest of {given.epochs} epochs.\n"
    )
    record("| net | one by one | together | | compiled | | deviation |")
    record("|---|---|---|---|---|---|---|")
    for name in NETS:
        alone = [m.fit(X) for m in models(name, given.models, given.epochs, False)]
        eager = fit_together(models(name, given.models, given.epochs, False), X)
        graph = fit_together(models(name, given.models, given.epochs, True), X)
        ms = [1000 * seconds(some) / (SAMPLES // BATCH) for some in (alone, eager, graph)]
        apart = max(
            float(np.abs(one.reconstruct(X) - two.reconstruct(X)).max())
            for some in (eager, graph)
            for one, two in zip(some, alone, strict=True)
        )
        record(
            f"| {name} | {ms[0]:.1f} | {ms[1]:.1f} | **× {ms[0] / ms[1]:.1f}** | {ms[2]:.1f} "
            f"| **× {ms[0] / ms[2]:.1f}** | {apart:.0e} |"
        )
    record.keep()


if __name__ == "__main__":
    main()
