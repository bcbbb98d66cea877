"""IWAE-5 beside the VAE: -log p of binarised digits by importance sampling, seed by seed.

Both have Burda's net for 50 units (784-200-200-50, tanh) and see equally many epochs of MNIST's
60 000 training images, binarised anew whenever they are drawn. The 10 000 test images are
binarised once. Every run is kept in benchmarks/.cache, so that a stopped benchmark goes on where
it was.

    python benchmarks/importance_sampling.py [--epochs 30] [--seeds 3] [--draws 200]

References: VAE 86.76 after 3280 epochs, 19 of 50 units active (Burda et al., 2016, table 1).
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _common import Record, data_folder

from narrows import IWAE, VAE
from narrows.base import BaseAutoencoder
from narrows.data.sources import Batch
from narrows.metrics.health import active_units
from narrows.models.bounds import log_likelihood
from narrows.net import Move

CACHE = Path(__file__).parent / ".cache" / "importance_sampling"
FIELDS = {
    "latent_dim": 50,
    "architecture": "mlp",
    "hidden": (200, 200),
    "activation": "tanh",
    "likelihood": "bernoulli",
    "batch_size": 100,
    "weight_decay": 0.0,
    "validation": 0.0,
    "verbose": 2,
}


def binarised(batch: Batch) -> Batch:
    """Return a batch of zeros and ones, drawn with the grey values as probabilities."""
    x = torch.bernoulli(batch.x)
    return replace(batch, x=x, target=x)


class _VAE(VAE):
    """VAE of images that are binarised in every step."""

    def losses(self, batch: Batch) -> Iterator[Move]:
        return super().losses(binarised(batch))


class _IWAE(IWAE):
    """IWAE of images that are binarised in every step."""

    def losses(self, batch: Batch) -> Iterator[Move]:
        return super().losses(binarised(batch))


MODELS: dict[str, type[BaseAutoencoder]] = {"VAE": _VAE, "IWAE-5": _IWAE}


@torch.inference_mode()
def score(model: BaseAutoencoder, x: torch.Tensor, draws: int) -> dict[str, float]:
    """Return -log p(x) with `draws` importance samples and with one, and the active units."""
    torch.manual_seed(0)
    net, parts = model.net_.eval(), [Batch(part, part) for part in x.split(1000)]
    codes = torch.cat([net.code(part) for part in parts])
    return {
        "nll": -float(torch.cat([log_likelihood(net, part, draws) for part in parts]).mean()),
        "bound": -float(torch.cat([log_likelihood(net, part, 1) for part in parts]).mean()),
        "active": int(active_units(codes.numpy()).sum()),
    }


def result(name: str, seed: int, epochs: int, draws: int) -> dict[str, float]:
    """Return a run's scores, from the cache where it has been made before."""
    path = CACHE / f"{name}-seed{seed}-epochs{epochs}-draws{draws}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    with np.load(data_folder() / "mnist" / "mnist.npz", allow_pickle=False) as archive:
        train, test = archive["x_train"], archive["x_test"]
    start = time.process_time()
    model = MODELS[name](epochs=epochs, seed=seed, **FIELDS).fit(train)
    seconds = time.process_time() - start
    drawn = np.random.default_rng(0).random(test.shape) * 255 < test
    x = torch.from_numpy(drawn.astype(np.float32)).unsqueeze(1)
    scores = score(model, x, draws) | {"seconds": seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores))
    return scores


def main() -> None:
    """Make what runs are missing, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("epochs", 30), ("seeds", 3), ("draws", 200)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    runs = {
        (name, seed): result(name, seed, options.epochs, options.draws)
        for seed in range(options.seeds)
        for name in MODELS
    }
    record = Record("importance_sampling", "-log p of binarised digits: IWAE-5 beside the VAE")
    record(
        f"MNIST, {options.epochs} epochs of 60 000 images; nats on 10 000 test images with "
        f"{options.draws} importance samples; units with Var E[z | x] > 0.01.\n"
    )
    record("| seed | model | -log p | -ELBO | active of 50 | fit s |")
    record("|---|---|---|---|---|---|")
    for (name, seed), found in runs.items():
        cells = f"{found['nll']:.2f} | {found['bound']:.2f} | {found['active']:.0f}"
        record(f"| {seed} | {name} | {cells} | {found['seconds']:.0f} |")
    gains = [runs["VAE", s]["nll"] - runs["IWAE-5", s]["nll"] for s in range(options.seeds)]
    active = [runs["VAE", seed]["active"] for seed in range(options.seeds)]
    record(
        f"\nIWAE-5 is better by {np.mean(gains):.2f} nats (seed by seed: "
        f"{', '.join(f'{gain:.2f}' for gain in gains)}). Wanted: more than 0 for every seed, 0.5 "
        f"in the mean. The VAE keeps {min(active):.0f} to {max(active):.0f} units active. Wanted: "
        "15 to 30."
    )
    record.keep()


if __name__ == "__main__":
    main()
