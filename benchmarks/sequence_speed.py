"""Training of an LSTM autoencoder on series of unequal lengths, beside the tutorial's loop.

The tutorial's: a DataLoader whose collate pads each random batch to its longest series, an LSTM
whose last state (at the true end) is repeated for a second one, masked squared error, Adam. It
runs in two forms, padded as it is and with pack_padded_sequence. Ours is SequenceAutoencoder with
the same layers; its batches hold series of about one length. All run in turn, several times; the
table has the medians of the epochs' seconds and the ratio pair by pair.

    python benchmarks/sequence_speed.py [--pairs 5] [--samples 1000] [--epochs 2]
"""

import argparse
import time
from statistics import median

import numpy as np
import torch
from _common import Record
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader

from narrows import SequenceAutoencoder

CHANNELS, UNITS, CODE, BATCH = 3, 64, 16, 64


def series(n: int) -> list[np.ndarray]:
    """Return n noisy waves of 10 to 200 steps, most of them short."""
    rng = np.random.default_rng(0)
    lengths = (10 + 190 * rng.beta(1, 2, n)).astype(int)
    rates, starts = rng.uniform(0.05, 0.5, (n, 1, CHANNELS)), rng.uniform(0, 6, (n, 1, CHANNELS))
    return [
        np.sin(rate * np.arange(steps)[:, None] + start).astype(np.float32)
        + 0.1 * rng.standard_normal((steps, CHANNELS), np.float32)
        for steps, rate, start in zip(lengths, rates, starts, strict=True)
    ]


class Tutorial(nn.Module):
    """Encoder, code, decoder."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.encoder = nn.LSTM(CHANNELS, UNITS, batch_first=True)
        self.code, self.decoder = nn.Linear(UNITS, CODE), nn.LSTM(CODE, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, CHANNELS)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the reconstruction."""
        if self.packed:
            _, (state, _) = self.encoder(
                pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            )
            z = self.code(state[-1])
        else:
            states, _ = self.encoder(x)
            z = self.code(states[torch.arange(len(x)), lengths - 1])
        repeated = z.unsqueeze(1).repeat(1, x.shape[1], 1)
        if self.packed:
            packed = pack_padded_sequence(
                repeated, lengths, batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.decoder(packed)[0], batch_first=True)
        else:
            states, _ = self.decoder(repeated)
        return self.head(states)


def collate(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad a batch to its longest series."""
    return pad_sequence(items, batch_first=True), torch.tensor([len(item) for item in items])


def tutorial(X: list[np.ndarray], epochs: int, packed: bool) -> float:
    """Return the median seconds of an epoch of the tutorial's loop."""
    torch.manual_seed(0)
    loader = DataLoader(
        [torch.from_numpy(x) for x in X], batch_size=BATCH, shuffle=True, collate_fn=collate
    )
    model = Tutorial(packed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    seconds = []
    for _ in range(epochs):
        start, total = time.perf_counter(), 0.0
        for x, lengths in loader:
            optimizer.zero_grad()
            mask = (torch.arange(x.shape[1]) < lengths[:, None]).unsqueeze(2)
            loss = ((model(x, lengths) - x).square() * mask).sum() / mask.sum()
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def ours(X: list[np.ndarray], epochs: int) -> float:
    """Return the median seconds of an epoch of ours."""
    model = SequenceAutoencoder(
        modality="series",
        hidden=(UNITS,),
        latent_dim=CODE,
        batch_size=BATCH,
        epochs=epochs,
        validation=0.0,
        verbose=0,
        threads=1,
    ).fit(X)
    return median(row["seconds"] for row in model.history_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    X = series(given.samples)
    record = Record("sequence_speed", "Training on series of unequal lengths")
    steps = [len(x) for x in X]
    record(
        f"{len(X)} series of {min(steps)} to {max(steps)} steps (mean {np.mean(steps):.0f}), "
        f"{CHANNELS} channels; LSTM {UNITS} – code {CODE} – LSTM {UNITS}; batches of {BATCH}, one "
        f"thread; medians of {given.pairs} runs in turn.\n"
    )
    runs = [
        (tutorial(X, given.epochs, False), tutorial(X, given.epochs, True), ours(X, given.epochs))
        for _ in range(given.pairs)
    ]
    padded, packed, own = zip(*runs, strict=True)
    record("| loop | seconds an epoch | narrows is faster by |")
    record("|---|---|---|")
    for name, others in (("tutorial, padded", padded), ("tutorial, packed", packed)):
        ratios = sorted(a / b for a, b in zip(others, own, strict=True))
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} – {ratios[-1]:.2f})"
        record(f"| {name} | {median(others):.2f} | {spread} |")
    record(f"| narrows | {median(own):.2f} | |")
    record(f"\nWanted: at least 1.5 times as fast as either. Met: {_met(runs)}.")
    record.keep()


def _met(runs: list[tuple[float, float, float]]) -> str:
    worst = min(median(run[i] / run[2] for run in runs) for i in (0, 1))
    return "yes" if worst >= 1.5 else f"no, {worst:.2f}"


if __name__ == "__main__":
    main()
