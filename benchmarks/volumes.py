"""AdrenalMNIST3D, 64³ voxels: a conv autoencoder beside the mean volume and PCA.

Shapes of adrenal glands (https://medmnist.com), 1188 for training and 298 for the test. PCA has
as many dimensions as the code; both are fitted to all training volumes.

    python benchmarks/volumes.py [--volumes 1188] [--epochs 15] [--threads 2] [--shrink 1]
"""

import argparse
import time

import numpy as np
import torch
from _common import RESULTS, Record, data_folder
from PIL import Image

from narrows import Autoencoder
from narrows.evaluation.pictures import slices
from narrows.parts.principal import principal_components

DIMENSIONS = 32
SHOWN = 6


def adrenal(part: str, shrink: int) -> np.ndarray:
    """Return the volumes of a part ("train", "test"), uint8; every `shrink`-th voxel of a side."""
    path = data_folder() / "adrenalmnist3d_64" / "adrenalmnist3d_64.npz"
    with np.load(path, allow_pickle=False) as archive:
        volumes = archive[f"{part}_images"]
    return np.ascontiguousarray(volumes[:, ::shrink, ::shrink, ::shrink])


def pca(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return what as many components as the code has keep of the test volumes."""
    x, new = (torch.from_numpy(part.reshape(len(part), -1)).float() for part in (train, test))
    found = principal_components(x, DIMENSIONS)
    kept = (new - found.mean) @ found.directions.T @ found.directions + found.mean
    return kept.numpy().reshape(test.shape)


def main() -> None:
    """Train, compare, and keep the table and the slices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=1188, help="for training")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shrink", type=int, default=1)
    options = parser.parse_args()
    train = adrenal("train", options.shrink)[: options.volumes]
    test = adrenal("test", options.shrink)
    record = Record("volumes", f"AdrenalMNIST3D, {' × '.join(map(str, test.shape[1:]))} voxels")
    record(
        f"{len(train)} volumes for training, {len(test)} for the test; {DIMENSIONS} dimensions, "
        f"{options.epochs} epochs; errors in squared grey values (0 or 255).\n"
    )
    start = time.perf_counter()
    model = Autoencoder(
        modality="volume",
        latent_dim=DIMENSIONS,
        epochs=options.epochs,
        batch_size=32,
        threads=options.threads,
        verbose=2,
    ).fit(train)
    seconds = time.perf_counter() - start
    mean = np.broadcast_to(train.mean(0, dtype=np.float32), test.shape)
    made = {"mean volume": mean, "PCA": pca(train, test), "Autoencoder": model.reconstruct(test)}
    record("| | test mse | training s |\n|---|---|---|")
    for name, found in made.items():
        pairs = zip(found, test, strict=True)
        error = np.mean([np.square(a - b.astype(np.float32)).mean() for a, b in pairs])
        record(f"| {name} | {error:.1f} | {f'{seconds:.0f}' if found.dtype == np.uint8 else ''} |")
    rows = "clean, by the mean, by PCA, by the autoencoder"
    record(f"\n![Central slices of {SHOWN} test volumes: {rows}.](volumes.png)")
    record.keep()
    shown = np.linspace(0, len(test) - 1, SHOWN).astype(int)
    sheets = [slices(np.clip(row[shown], 0, 255)[:, None])[:, 0] for row in (test, *made.values())]
    pixels = np.concatenate([np.concatenate(list(sheet), 1) for sheet in sheets])
    Image.fromarray(pixels.astype(np.uint8)).save(RESULTS / "volumes.png", optimize=True)


if __name__ == "__main__":
    main()
