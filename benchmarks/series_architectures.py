"""Dense and convolutional nets on series: held-out errors and seconds, side by side.

Series of UCR's archive with its own test parts changed over (the larger one trains), windows of
a server's telemetry (InterFusion's ASD) and of two recordings of NAB, held out by time.

    python benchmarks/series_architectures.py
"""

import csv
import gzip
import time
from pathlib import Path

import numpy as np
from _common import Record, data_folder

import narrows

NETS = ("mlp", "conv")
FIELDS = {"modality": "series", "epochs": 20, "threads": 1, "verbose": 0}
COUNT = 800
"""Windows that a recording gives for training."""


def ucr(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the series of an archive's test part, and of its training part."""
    parts = []
    for part in ("TEST", "TRAIN"):
        lines = (data_folder() / "ucr" / name / f"{name}_{part}.ts").read_text().splitlines()
        rows = lines[[line.lower() for line in lines].index("@data") + 1 :]
        values = [row.rpartition(":")[0].split(",") for row in rows if row.strip()]
        parts.append(np.array(values, np.float64)[..., None])
    return parts[0], parts[1]


def windows(recording: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows at even places of the first 85 %, and of the rest."""
    edge = int(0.85 * len(recording))

    def cut(part: np.ndarray, count: int) -> np.ndarray:
        starts = np.linspace(0, len(part) - width, count).astype(int)
        return np.stack([part[start : start + width] for start in starts])

    return cut(recording[:edge], COUNT), cut(recording[edge:], COUNT // 5)


def nab(path: str) -> np.ndarray:
    """Return one of NAB's recordings, ``(steps, 1)``."""
    with gzip.open(Path(data_folder(), "nab", "data", f"{path}.csv.gz"), "rt") as stream:
        return np.array([[float(row["value"])] for row in csv.DictReader(stream)])


def telemetry() -> np.ndarray:
    """Return a server's telemetry, ``(steps, 19)``."""
    return np.load(data_folder() / "asd" / "omi-1.npz")["train"].astype(np.float64)


TASKS = {
    "Italy's power demand, 24 steps": lambda: ucr("ItalyPowerDemand"),
    "New York's taxis, 48 steps": lambda: windows(nab("realKnownCause/nyc_taxi"), 48),
    "a server, 64 steps of 19 channels": lambda: windows(telemetry(), 64),
    "tweets on a share, 128 steps": lambda: windows(nab("realTweets/Twitter_volume_AAPL"), 128),
    "arrow heads, 251 steps": lambda: ucr("ArrowHead"),
}


def main() -> None:
    """Train both nets on every task, and keep the table."""
    record = Record("series_architectures", "Dense and convolutional nets on series")
    record("Autoencoder, 20 epochs, one thread. Errors are held-out ones in units of the model.\n")
    record("| data | mlp | conv | seconds, mlp | seconds, conv |")
    record("|---|---|---|---|---|")
    for name, load in TASKS.items():
        train, test = load()
        errors, seconds = [], []
        for net in NETS:
            start = time.perf_counter()
            model = narrows.Autoencoder(architecture=net, **FIELDS)
            history = model.fit(train, validation=test).history_
            seconds.append(time.perf_counter() - start)
            errors.append(history[-1]["validation_mse"])
        cells = [f"{value:.4f}" for value in errors] + [f"{value:.1f}" for value in seconds]
        record(f"| {name} | {' | '.join(cells)} |")
    record.keep()


if __name__ == "__main__":
    main()
