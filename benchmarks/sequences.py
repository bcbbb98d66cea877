"""Strings: exact reconstruction of held-out ones, and the KL of a text VAE and its remedies.

- moses: SMILES of MOSES, cut into characters. The share of held-out molecules that come back
  exactly, greedily and by a beam, from a code alone and with attention; the validity of a VAE's
  samples where rdkit can be imported.
- shakespeare: windows of Tiny Shakespeare. The share of characters that come back in their places.
- collapse: the KL of a VAE on these windows, bare and with free bits, and what `diagnose` says.

    python benchmarks/sequences.py [--samples 20000] [--epochs 30] [moses shakespeare collapse]
"""

import argparse
import csv
import gzip
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from _common import Record, data_folder

from narrows import SequenceAutoencoder, SequenceVAE

HELD = 1000
WINDOW = 32
NAMES = ("collapse", "unused units", "units")
"""Findings of which `diagnose` has just one."""
PARTS: dict[str, Callable[[Record, int, int], None]] = {}


def part(function: Callable[[Record, int, int], None]) -> Callable[[Record, int, int], None]:
    """Name a part of the benchmark after its function."""
    PARTS[function.__name__] = function
    return function


def molecules(name: str, n: int) -> list[str]:
    """Return the first n SMILES of a part of MOSES, whose order is random."""
    with gzip.open(data_folder() / "moses" / f"{name}.csv.gz", "rt") as lines:
        rows = csv.reader(lines)
        next(rows)
        return [row[0] for row, _ in zip(rows, range(n), strict=False)]


def windows(n: int) -> tuple[list[str], list[str]]:
    """Return windows of Tiny Shakespeare to train on, and those of its last tenth."""
    with gzip.open(data_folder() / "tinyshakespeare" / "input.txt.gz", "rt") as file:
        text = file.read()
    edge = len(text) * 9 // 10
    starts = np.random.default_rng(0).permutation(edge - WINDOW)[:n]
    held = range(edge, len(text) - WINDOW, max(WINDOW, (len(text) - edge) // HELD))
    return [text[i : i + WINDOW] for i in starts], [text[i : i + WINDOW] for i in held][:HELD]


def accuracy(found: list[str], true: list[str]) -> float:
    """Return the share of characters that stand in their places."""
    right = sum(a == b for one, two in zip(found, true, strict=True) for a, b in zip(one, two))  # noqa: B905
    return right / sum(map(len, true))


def exact(found: list[str], true: list[str]) -> float:
    """Return the share of strings that are the same."""
    return float(np.mean([a == b for a, b in zip(found, true, strict=True)]))


OPTIONS: dict[str, str] = {}
"""Fields of every model."""


def reconstruction(
    record: Record, train: list[str], held: list[str], epochs: int, latent_dim: int
) -> None:
    """Print what comes back of held-out strings, with and without attention."""
    record("| decoder sees | exact | exact, 5 beams | characters in place | seconds |")
    record("|---|---|---|---|---|")
    for attention in (False, True):
        model = SequenceAutoencoder(
            latent_dim=latent_dim, hidden=(256,), epochs=epochs, attention=attention, **OPTIONS
        ).fit(train)
        greedy = model.reconstruct(held)
        searched = model.set_params(beams=5).reconstruct(held)
        sight = "the code and the encoder's states" if attention else "the code"
        seconds = sum(row["seconds"] for row in model.history_)
        record(
            f"| {sight} | {exact(greedy, held):.1%} | {exact(searched, held):.1%} | "
            f"{accuracy(greedy, held):.1%} | {seconds:.0f} |"
        )


@part
def moses(record: Record, samples: int, epochs: int) -> None:
    """Reconstruct molecules, and sample new ones."""
    train, held = molecules("train", samples), molecules("test", HELD)
    record(f"\n## MOSES: {len(train)} SMILES, {len(held)} of the test part held out\n")
    reconstruction(record, train, held, epochs, latent_dim=128)
    vae = SequenceVAE(
        latent_dim=64,
        hidden=(256,),
        epochs=epochs,
        free_bits=0.2,
        kl_schedule="linear",
        word_dropout=0.2,
        **OPTIONS,
    ).fit(train)
    drawn = vae.sample(1000, noise=True)
    record(f"\nSequenceVAE: KL {vae.unit_kl_.sum():.1f} nats; {len(set(drawn))} of 1000 differ;")
    if find_spec("rdkit") is None:
        record("their validity is not judged: rdkit is not installed.")
        return
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    valid = np.mean([bool(s) and Chem.MolFromSmiles(s) is not None for s in drawn])
    record(f"{valid:.1%} are valid (by MOSES' README, its own VAE on 250 000: 95.3 %).")


@part
def shakespeare(record: Record, samples: int, epochs: int) -> None:
    """Reconstruct windows."""
    train, held = windows(samples)
    record(f"\n## Tiny Shakespeare: {len(train)} windows of {WINDOW} characters\n")
    reconstruction(record, train, held, epochs, latent_dim=128)


@part
def collapse(record: Record, samples: int, epochs: int) -> None:
    """Compare VAEs by their KL."""
    train, held = windows(samples)
    record(f"\n## KL of a text VAE: {len(train)} windows of {WINDOW} characters\n")
    record("| remedy | KL (nats) | bound on -log p of held-out windows (nats) | diagnosis |")
    record("|---|---|---|---|")
    remedies = {
        "none": {},
        "free_bits=0.5": {"free_bits": 0.5},
        "kl_schedule='linear', word_dropout=0.3": {"kl_schedule": "linear", "word_dropout": 0.3},
    }
    for name, options in remedies.items():
        vae = SequenceVAE(latent_dim=16, hidden=(256,), epochs=epochs, **options, **OPTIONS).fit(
            train
        )
        finding = next(f for f in vae.diagnose().findings if f.name in NAMES)
        record(f"| {name} | {vae.unit_kl_.sum():.2f} | {-vae.score(held):.1f} | {finding.text} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="|".join(PARTS))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    given = parser.parse_args()
    OPTIONS["precision"] = given.precision
    record = Record("sequences", "Strings, back from their codes")
    record(f"{given.epochs} epochs, seed 0, forward passes of training in {given.precision}.")
    for name in given.parts:
        PARTS[name](record, given.samples, given.epochs)
    record.keep()


if __name__ == "__main__":
    main()
