"""How much of a large codebook is used: plain VQ, moving averages, restarts, SimVQ and FSQ.

2048 codes of 64 numbers (1920 for FSQ), conv nets with their defaults, all runs alike. "used" is
the share of the codes that occur in the codes of the 10 000 test images, "perplexity" the
exponential of the entropy of their use; errors are of the test images, on the scale of 0 to 1.
SimVQ needs steps: after 140 of them, of 128 images each, it used 58 % of its codes.

    python benchmarks/codebooks.py
"""

import time

import numpy as np
import torch
from _common import Record, fashion_mnist
from sklearn.decomposition import PCA

from narrows import FSQVAE, VQVAE, SimVQ
from narrows.base import BaseAutoencoder
from narrows.metrics.health import book_usage

IMAGES, EPOCHS = 5000, 6
ALIKE = {"latent_dim": 64, "epochs": EPOCHS, "batch_size": 32, "threads": 1, "verbose": 0}
MODELS: dict[str, BaseAutoencoder] = {
    "plain VQ": VQVAE(codes=2048, codebook="gradient", kmeans=False, restart=0.0, **ALIKE),
    "VQ, averages": VQVAE(codes=2048, kmeans=False, restart=0.0, **ALIKE),
    "VQ, averages, restarts": VQVAE(codes=2048, kmeans=False, **ALIKE),
    "VQ, averages, k-means, restarts": VQVAE(codes=2048, **ALIKE),
    "SimVQ": SimVQ(codes=2048, **ALIKE),
    "FSQ 8 × 8 × 6 × 5": FSQVAE(levels=(8, 8, 6, 5), **ALIKE),
}
NUMBERS = 17
"""Single-precision numbers in as many bits as 49 codes of 2048 have."""


def error(made: np.ndarray, X: np.ndarray) -> float:
    """Return the mean squared error of pixels, 0 to 1."""
    return float(np.square((made.astype(np.float64) - X) / 255).mean())


def main() -> None:
    """Train each once and print a row."""
    torch.set_num_threads(1)
    record = Record("codebooks", "Use of 2048 codes of 64 numbers on Fashion-MNIST")
    train, test = fashion_mnist("train")[:IMAGES], fashion_mnist("t10k")
    record(f"{IMAGES} images, {EPOCHS} epochs of batches of 32, 7 × 7 codes an image,")
    record(
        "one run each; use and error of the 10 000 test images; processor seconds of one thread.\n"
    )
    record("| codes | used | perplexity | test MSE | training |")
    record("|---|---|---|---|---|")
    flat, held = train.reshape(IMAGES, -1), test.reshape(len(test), -1)
    pca = PCA(NUMBERS, svd_solver="full").fit(flat)
    mse = error(pca.inverse_transform(pca.transform(held)), held)
    record(f"| none: PCA, {NUMBERS} float32, as many bits | | | {mse:.5f} | |")
    order: dict[str, float] = {}
    for name, model in MODELS.items():
        start = time.process_time()
        model.fit(train)
        seconds = time.process_time() - start
        latent = model.net_.latent
        usage = book_usage(model.encode_indices(test), latent.books, latent.categories)
        used, perplexity = usage.used[0] / usage.codes, usage.perplexity[0]
        order[name] = used
        mse = error(model.reconstruct(test), test)
        record(f"| {name} | {used:.1%} | {perplexity:.0f} | {mse:.5f} | {seconds:.0f} s |")
    ranked = sorted(order, key=order.__getitem__, reverse=True)
    record(f"\nMost used first: {'; '.join(ranked)}")
    record.keep()


if __name__ == "__main__":
    main()
