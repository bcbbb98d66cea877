"""How much of a large codebook is used: plain VQ, moving averages with restarts, SimVQ and FSQ.

2048 codes of 64 numbers, conv nets with their defaults, 10 000 images of Fashion-MNIST, all runs
alike. "used" counts the codes that occur in the training images' codes; the error is that of
2 000 test images, on the pixels' scale of 0 to 1.

    NARROWS_DATA=... python benchmarks/codebooks.py
"""

import time

import numpy as np
import torch
from _common import Record, fashion_mnist

from narrows import FSQVAE, VQVAE, SimVQ
from narrows.base import BaseAutoencoder

EPOCHS = 6
ALIKE = {"latent_dim": 64, "epochs": EPOCHS, "threads": 1, "verbose": 0}
MODELS: dict[str, BaseAutoencoder] = {
    "plain VQ": VQVAE(codes=2048, codebook="gradient", kmeans=False, restart=0.0, **ALIKE),
    "VQ, averages, restarts": VQVAE(codes=2048, **ALIKE),
    "FSQ 8 × 8 × 8 × 4": FSQVAE(levels=(8, 8, 8, 4), **ALIKE),
    "SimVQ": SimVQ(codes=2048, **ALIKE),
}


def main() -> None:
    """Train each once and print a row."""
    torch.set_num_threads(1)
    record = Record("codebooks", "Use of 2048 codes of 64 numbers on Fashion-MNIST")
    train, test = fashion_mnist("train")[:10_000], fashion_mnist("t10k")[:2000]
    record(f"10 000 images, {EPOCHS} epochs, 7 × 7 codes an image, one run each, one thread.\n")
    record("| codes | used | perplexity | test MSE | training |")
    record("|---|---|---|---|---|")
    for name, model in MODELS.items():
        start = time.perf_counter()
        model.fit(train)
        seconds = time.perf_counter() - start
        usage = model.diagnose().usage
        made = model.reconstruct(test).astype(np.float64)
        mse = np.square((made - test) / 255).mean()
        share, perplexity = usage.used[0] / usage.codes, usage.perplexity[0]
        record(f"| {name} | {share:.1%} | {perplexity:.0f} | {mse:.5f} | {seconds:.0f} s |")
    record.keep()


if __name__ == "__main__":
    main()
