"""Denoising Kodak patches (σ = 25 of 255): a U-Net beside a conv autoencoder and plain filters.

Training sees 32 × 32 patches of 20 photographs, and noise that is new in every step. The test
cleans all patches of the other 4, each by itself; the filters' settings are the best ones on
training patches.

    python benchmarks/denoising.py [--patches 7680] [--epochs 20] [--threads 2]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from _common import RESULTS, Record, kodak_patches
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter
from scipy.signal import wiener

from narrows import BaseAutoencoder, DenoisingAutoencoder, UNetAutoencoder

SIGMA = 25.0
CENTER, SCALE = 127.5, 64.0
PHOTOGRAPHS = 4
TUNED = 300
SHOWN = 8
Clean = Callable[[np.ndarray], np.ndarray]


def noisy(patches: np.ndarray, seed: int) -> np.ndarray:
    """Return patches with normal noise, not clipped."""
    noise = np.random.default_rng(seed).standard_normal(patches.shape, np.float32)
    return patches + np.float32(SIGMA) * noise


def psnr(clean: np.ndarray, found: np.ndarray) -> float:
    """Return the mean over the photographs of their PSNR in dB, for values clipped to 0–255."""
    square = (np.clip(found, 0, 255) - clean.astype(np.float32)) ** 2
    return float(np.mean([10 * np.log10(255**2 / part.mean()) for part in split(square)]))


def split(patches: np.ndarray) -> list[np.ndarray]:
    """Return the patches of each photograph; all together where they are a few."""
    return np.split(patches, PHOTOGRAPHS if len(patches) % PHOTOGRAPHS == 0 else 1)


def filters() -> Iterator[tuple[str, list[Clean]]]:
    """Yield filters by name, each in several settings."""
    plane = (0, 1, 1, 0)  # along height and width alone
    sigmas = [np.multiply(plane, s) for s in (0.4, 0.5, 0.6, 0.7, 0.8, 1.0)]
    yield "Gaussian filter", [partial(gaussian_filter, sigma=sigma) for sigma in sigmas]
    yield "median filter", [partial(median_filter, size=(1, n, n, 1)) for n in (3, 5)]
    yield "Wiener filter", [partial(_wiener, side=n) for n in (3, 5, 7)]
    try:
        from skimage import restoration
    except ImportError:
        print("scikit-image is not installed: pip install scikit-image for the rows of its own.")
        return
    weights = [0.05, 0.08, 0.1, 0.12, 0.15, 0.2]
    variation = restoration.denoise_tv_chambolle
    yield "total variation", [_each(variation, weight=w, channel_axis=-1) for w in weights]
    wavelet = partial(restoration.denoise_wavelet, channel_axis=-1, rescale_sigma=True)
    methods = ("BayesShrink", "VisuShrink")
    yield "wavelets", [_each(wavelet, sigma=SIGMA / 255, method=name) for name in methods]
    means = partial(restoration.denoise_nl_means, channel_axis=-1, patch_size=5, patch_distance=6)
    heights = [0.6, 0.8, 1.0]
    given = [{"h": h * SIGMA / 255, "sigma": SIGMA / 255} for h in heights]
    yield "non-local means", [_each(means, **options) for options in given]


def _wiener(patches: np.ndarray, side: int) -> np.ndarray:
    return wiener(patches, (1, side, side, 1), noise=SIGMA**2)


def _each(function: Clean, **options: Any) -> Clean:
    def clean(patches: np.ndarray) -> np.ndarray:
        return np.stack([function(patch / 255, **options) for patch in patches]) * 255

    return clean


def autoencoders(epochs: int, threads: int) -> dict[str, BaseAutoencoder]:
    """Return the models, which see (x - CENTER) / SCALE."""
    shared = {"modality": "image", "scaling": "none", "noise": SIGMA / SCALE, "epochs": epochs}
    shared |= {"batch_size": 32, "threads": threads, "verbose": 2}
    return {
        "DenoisingAutoencoder, conv, 256 dimensions": DenoisingAutoencoder(
            architecture="conv", latent_dim=256, **shared
        ),
        "UNetAutoencoder": UNetAutoencoder(**shared),
    }


def main() -> None:
    """Train, compare, and keep the table and a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=7680, help="for training")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    train, test = kodak_patches()
    order = np.random.default_rng(0).permutation(len(train))
    train, given = train[order[: options.patches]], noisy(test, 1)
    record = Record("denoising", f"Denoising Kodak patches, σ = {SIGMA:.0f} of 255")
    record(
        f"{len(train)} patches of 32 × 32 × 3 for training, {options.epochs} epochs; PSNR in dB "
        f"over {PHOTOGRAPHS} other photographs.\n"
    )
    record("| | PSNR dB | training s |\n|---|---|---|")
    record(f"| noisy | {psnr(test, given):.2f} | |")
    few = train[:TUNED]
    for name, settings in filters():
        best = max(settings, key=lambda clean: psnr(few, clean(noisy(few, 2))))
        record(f"| {name} | {psnr(test, best(given)):.2f} | |")
    rows = [test, given]
    for name, model in autoencoders(options.epochs, options.threads).items():
        start = time.perf_counter()
        model.fit((train.astype(np.float32) - CENTER) / SCALE)
        seconds = time.perf_counter() - start
        found = model.reconstruct((given - CENTER) / SCALE) * SCALE + CENTER
        record(f"| {name} | {psnr(test, found):.2f} | {seconds:.0f} |")
        rows.append(found)
    record("\n![Patches: clean, noisy, by the conv autoencoder, by the U-Net.](denoising.png)")
    record.keep()
    shown = np.linspace(0, len(test) - 1, SHOWN).astype(int)
    sheet = [np.concatenate(list(row[shown]), 1) for row in rows]
    pixels = np.clip(np.concatenate(sheet), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize((SHOWN * 96, 96 * len(rows)), 0).save(RESULTS / "denoising.png")


if __name__ == "__main__":
    main()
