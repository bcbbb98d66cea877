"""What variants of one idea buy: fields and models beside the plain one of their group.

Handwritten digits (1 437 to train, 360 held out, 30 epochs, 3 seeds) and Fashion-MNIST (10 000,
its test images, 10 epochs, 1 seed), dense nets with the models' defaults, codes of 16 numbers; and
trees in two units, whose nodes are random walks from the root, for which hyperbolic codes are
meant (4 000 noisy nodes to train, 1 000 held out, 30 epochs, 3 seeds). The figures are of what is
held out: the squared error of grey levels (of features) and the mean of `score_samples` in nats,
as means of the seeds with the smallest and the largest of the score; seconds are of one thread.

    python benchmarks/variants.py
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from _common import Record, fashion_mnist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import narrows

Data = tuple[np.ndarray, np.ndarray]
Variant = tuple[str, dict[str, Any]]

CODEBOOKS = ("VQVAE", "SimVQ", "ResidualVQVAE", "HierarchicalVQVAE")
SELECTIONS = ("topk", "batch_topk", "jumprelu", "gated", "matching_pursuit")
GROUPS: dict[str, list[Variant]] = {
    "The posterior": [
        ("VAE", {}),
        ("FlowVAE", {}),
        ("HamiltonianVAE", {}),
        ("RiemannianVAE", {}),
        ("PoincareVAE", {}),
    ],
    "The bound": [
        ("VAE", {"score_draws": 5}),
        ("IWAE", {"score_draws": 5}),
        ("IWAE", {"gradient": "doubly_reparametrised", "score_draws": 5}),
        ("IWAE", {"particles": 3, "repeats": 2, "score_draws": 5}),
        ("IWAE", {"particles": 3, "repeats": 2, "partial": True, "score_draws": 5}),
    ],
    "The distance from the prior": [
        ("WassersteinAutoencoder", {}),
        ("WassersteinAutoencoder", {"distance": "sliced"}),
    ],
    "The gradient of a codebook": [
        (name, {"gradient": gradient})
        for name in CODEBOOKS
        for gradient in ("straight_through", "rotation")
    ],
    "The quantiser": [
        (name, {}) for name in ("VQVAE", "FSQVAE", "LFQVAE", "ResidualVQVAE", "HRQVAE")
    ],
    "The choice of atoms": [
        ("TopKAutoencoder", {"latent_dim": 256, "selection": selection})
        for selection in SELECTIONS
    ],
}
TREES: list[Variant] = [("VAE", {"latent_dim": 2}), ("PoincareVAE", {"latent_dim": 2})]


def digits(seed: int) -> Data:
    """Return scikit-learn's digits."""
    images = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(images, test_size=0.2, random_state=seed)
    return train, test


def fashion(seed: int) -> Data:
    """Return the first images."""
    del seed
    return fashion_mnist("train")[:10_000], fashion_mnist("t10k")


def tree(branches: int, levels: int) -> Callable[[int], Data]:
    """Return a maker of noisy nodes of a tree: each is a step of N(0, I) from its parent."""

    def make(seed: int) -> Data:
        rng = np.random.default_rng(seed)
        layers = [np.zeros((1, 20))]
        for _ in range(levels):
            parents = layers[-1].repeat(branches, 0)
            layers.append(parents + rng.standard_normal(parents.shape))
        nodes = np.concatenate(layers)
        X = nodes[rng.integers(len(nodes), size=5000)]
        X = X + 0.3 * rng.standard_normal(X.shape)
        return X[:4000], X[4000:]

    return make


def row(variant: Variant, data: Callable[[int], Data], seeds: int, epochs: int) -> str:
    """Train with each seed and return a line of the table."""
    name, fields = variant
    options = {"latent_dim": 16, "epochs": epochs, "threads": 1, "verbose": 0} | fields
    if name != "TopKAutoencoder":  # whose net is linear
        options["architecture"] = "mlp"
    found = []
    for seed in range(seeds):
        train, test = data(seed)
        model = narrows.MODELS[name](**options, seed=seed).fit(train)
        error = np.square(model.reconstruct(test).astype(np.float64) - test).mean()
        seconds = sum(line["seconds"] for line in model.history_)
        found.append((error, model.score(test), seconds))
    error, score, seconds = np.mean(found, 0)
    scores = [each[1] for each in found]
    span = f" ({min(scores):.4g} to {max(scores):.4g})" if seeds > 1 else ""
    told = ", ".join(
        f"{k}={v}" for k, v in fields.items() if k not in ("latent_dim", "score_draws")
    )
    return f"| {name} | {told} | {error:.4g} | {score:.5g}{span} | {seconds:.1f} |"


def main() -> None:
    """Print a table for each group and kind of data."""
    record = Record("variants", "Variants of one idea, held-out figures")
    kinds = [("digits", digits, 3, 30), ("Fashion-MNIST", fashion, 1, 10)]
    tables = [
        (f"{group}: {kind[0]}", GROUPS[group], *kind[1:]) for group in GROUPS for kind in kinds
    ]
    for branches, levels in ((2, 7), (3, 5)):
        tables.append((f"Trees: {branches} branches", TREES, tree(branches, levels), 3, 30))
    for title, variants, data, seeds, epochs in tables:
        record(f"\n## {title}\n\n| model | fields | squared error | score, nats | s |")
        record("|---|---|---|---|---|")
        for variant in variants:
            record(row(variant, data, seeds, epochs))
    record.keep()


if __name__ == "__main__":
    main()
