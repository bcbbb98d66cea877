"""AdrenalMNIST3D, 64³ voxels: a conv autoencoder beside the mean volume and PCA.

Shapes of adrenal glands (https://medmnist.com), 1188 for training and 298 for the test. PCA has
as many dimensions as the code.

    python benchmarks/volumes.py [--volumes 1188] [--epochs 15] [--threads 2] [--shrink 1]
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from _common import RESULTS, Record, data_folder
from PIL import Image

from narrows import Autoencoder
from narrows.evaluation.pictures import slices

DIMENSIONS = 32
SHOWN = 6


def adrenal(part: str, shrink: int) -> np.ndarray:
    """Return the volumes of a part ("train", "test"), uint8; every `shrink`-th voxel of a side."""
    path = data_folder() / "adrenalmnist3d_64" / "adrenalmnist3d_64.npz"
    with np.load(path, allow_pickle=False) as archive:
        volumes = archive[f"{part}_images"]
    return np.ascontiguousarray(volumes[:, ::shrink, ::shrink, ::shrink])


def pca(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return what as many components as the code has keep of the test volumes.

    They are exact, from the products of the fewer samples.
    """
    mean = train.mean(0, dtype=np.float32).ravel()
    x, new = (part.reshape(len(part), -1) - mean for part in (train, test))
    values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
    scaled = (vectors / np.sqrt(np.maximum(values, 1e-9)))[:, -DIMENSIONS:].astype(np.float32)
    components = scaled.T @ x
    return (new @ components.T @ components + mean).reshape(test.shape)


def autoencoders(options: argparse.Namespace) -> Iterator[tuple[str, Autoencoder]]:
    """Yield the models, with and without linear maps beside the networks."""
    for linear_path in (False, True):
        yield (
            "Autoencoder, linear_path=True" if linear_path else "Autoencoder",
            Autoencoder(
                modality="volume",
                latent_dim=DIMENSIONS,
                linear_path=linear_path,
                epochs=options.epochs,
                batch_size=16,
                threads=options.threads,
                verbose=2,
            ),
        )


def main() -> None:
    """Train, compare, and keep the table and the slices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=1188, help="for training")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shrink", type=int, default=1, help="take every so-manieth voxel")
    options = parser.parse_args()
    train = adrenal("train", options.shrink)[: options.volumes]
    test = adrenal("test", options.shrink)
    record = Record("volumes", f"AdrenalMNIST3D, {' × '.join(map(str, test.shape[1:]))} voxels")
    record(
        f"{len(train)} volumes for training, {len(test)} for the test; {DIMENSIONS} dimensions, "
        f"{options.epochs} epochs; errors in squared grey values (0 or 255).\n"
    )
    record("| | test mse | training s |\n|---|---|---|")
    shown = np.linspace(0, len(test) - 1, SHOWN).astype(int)
    rows = [test[shown]]

    def row(name: str, found: np.ndarray, seconds: str = "") -> None:
        pairs = zip(found, test, strict=True)
        error = np.mean([np.square(a - b.astype(np.float32)).mean() for a, b in pairs])
        record(f"| {name} | {error:.1f} | {seconds} |")
        rows.append(np.clip(found[shown], 0, 255))

    row("mean volume", np.broadcast_to(train.mean(0, dtype=np.float32), test.shape))
    row("PCA", pca(train, test))
    for name, model in autoencoders(options):
        start = time.perf_counter()
        model.fit(train)
        seconds = time.perf_counter() - start
        row(name, model.reconstruct(test), f"{seconds:.0f}")
    text = "clean, and as the table has them, from the top"
    record(f"\n![Central slices of {SHOWN} test volumes: {text}.](volumes.png)")
    record.keep()
    sheets = [np.concatenate(list(slices(volumes[:, None])[:, 0]), 1) for volumes in rows]
    pixels = np.concatenate(sheets).astype(np.uint8)
    Image.fromarray(pixels).save(RESULTS / "volumes.png", optimize=True)


if __name__ == "__main__":
    main()
