"""Real data through the public door: errors on held-out data beside PCA's at equal dimensions.

Fashion-MNIST (60 000 images, and 10 000 of them as a folder of PNG files), ADBench's shuttle
table, patches of the Kodak photographs. Every model has its defaults but for `latent_dim`.

    python benchmarks/real_input.py [fashion_mlp fashion_conv png_folder shuttle kodak]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import Record, data_folder, fashion_mnist, kodak_patches
from PIL import Image
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from narrows import VAE, Autoencoder, BaseAutoencoder
from narrows.data.files import read
from narrows.evaluation import evaluate

Row = Callable[..., None]
SEEDS = 3
"""Runs on shuttle, whose few columns leave much to the seed."""


def compare(row: Row, name: str, model: BaseAutoencoder, train: Any, test: Any) -> None:
    """Fit on train, and score on test beside a PCA of as many dimensions fitted on train."""
    start = time.perf_counter()
    model.fit(train)
    seconds = time.perf_counter() - start
    both = np.concatenate([train, test])
    split = np.arange(len(train)), np.arange(len(train), len(both))
    metrics = evaluate(model, both, train=split[0], test=split[1]).metrics
    for label, kind in ((type(model).__name__, "model"), ("PCA", "pca")):
        scores = metrics[kind]
        row(name, label, model.latent_dim, scores, f"{seconds:.0f}" if kind == "model" else "")


def fashion(row: Row, architecture: str) -> None:
    """Fashion-MNIST, 60 000 training images and the 10 000 test images."""
    model = Autoencoder(latent_dim=32, architecture=architecture, verbose=2)
    train, test = fashion_mnist("train"), fashion_mnist("t10k")
    compare(row, f"Fashion-MNIST 60k, {architecture}", model, train, test)


def png_folder(row: Row) -> None:
    """A folder of 10 000 PNG files, read back by the library."""
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(fashion_mnist("train")[:10_000]):
            Image.fromarray(image).save(Path(folder) / f"{i:05}.png")
        start = time.perf_counter()
        dataset = read(folder)
        seconds = time.perf_counter() - start
    name = f"folder of 10 000 PNG files (read in {seconds:.1f} s), mlp"
    model = Autoencoder(latent_dim=32, architecture="mlp", verbose=2)
    compare(row, name, model, dataset.X, fashion_mnist("t10k"))


def shuttle(row: Row) -> None:
    """ADBench's shuttle: normal rows only for training; then the anomalies' AUROC; by seed."""
    archive = np.load(data_folder() / "adbench" / "32_shuttle.npz", allow_pickle=False)
    X, y = archive["X"], archive["y"]
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    half = len(X) // 2
    train, test, labels = X[:half][y[:half] == 0], X[half:], y[half:]
    for seed in range(SEEDS):
        model = VAE(latent_dim=4, seed=seed)
        compare(row, f"shuttle, normal rows, seed {seed}", model, train, test[labels == 0])
        forest = IsolationForest(random_state=seed).fit(train)
        ours = roc_auc_score(labels, -model.score_samples(test))
        theirs = roc_auc_score(labels, -forest.score_samples(test))
        name = f"shuttle, AUROC of anomalies, seed {seed}"
        row(name, "VAE", 4, {"auroc": ours}, "")
        row(name, "IsolationForest", 0, {"auroc": theirs}, "")


def kodak(row: Row) -> None:
    """32 × 32 patches of 20 Kodak photographs for training, of the other 4 for testing."""
    model = Autoencoder(latent_dim=64)
    compare(row, "Kodak patches 32 × 32 × 3, conv", model, *kodak_patches())


TASKS: dict[str, Callable[[Row], None]] = {
    "fashion_mlp": lambda row: fashion(row, "mlp"),
    "fashion_conv": lambda row: fashion(row, "conv"),
    "png_folder": png_folder,
    "shuttle": shuttle,
    "kodak": kodak,
}


def main() -> None:
    """Run the tasks and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    record = Record("real_input", "Real data, held-out errors beside PCA")
    record(
        "mse in the data's squared units (pixels 0–255), where wide columns dominate; explained "
        "variance in the model's scaled units, where all count alike; log-likelihood in nats.\n"
    )
    record("| data | model | dims | mse | explained | PSNR dB | log-likelihood | AUROC | fit s |")
    record("|---|---|---|---|---|---|---|---|---|")

    def row(name: str, model: str, dims: int, scores: dict[str, float], seconds: str) -> None:
        keys = ("mse", "explained_variance", "psnr", "log_likelihood", "auroc")
        cells = [f"{scores[key]:.4g}" if key in scores else "" for key in keys]
        record(f"| {name} | {model} | {dims or ''} | {' | '.join(cells)} | {seconds} |")

    for task in parser.parse_args().tasks:
        TASKS[task](row)
        record.keep()


if __name__ == "__main__":
    main()
