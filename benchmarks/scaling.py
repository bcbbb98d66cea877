"""Time and memory as work grows along one axis at a time: rows, features, code, parameters.

Each point is a fit of a plain autoencoder on random numbers in a fresh process, on one thread. The
time is the processor's, which other jobs on the machine disturb least; the memory is the peak over
what the process had with its imports and X. An exponent is the slope to the point before, on log
scales: 1 is linear, and a cliff would stand out.

    python benchmarks/scaling.py [rows features latent parameters]
"""

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from math import log
from typing import NamedTuple

import matplotlib.pyplot as plt
from _common import RESULTS, Record

POINT = """
import json, re, resource, sys, time
from pathlib import Path
import numpy as np
from narrows import Autoencoder
from narrows.callbacks import Callback

def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

class Clock(Callback):
    def start(self, training):
        self.times, self.system = [time.process_time()], []
        self.steps = training.source.steps(training.model.batch_size)

    def epoch(self, training, row):
        self.times.append(time.process_time())
        self.system.append(resource.getrusage(resource.RUSAGE_SELF).ru_stime)

plan = json.loads(sys.argv[1])
n, d = plan.pop("rows"), plan.pop("features")
X = np.random.default_rng(0).random((n, d), dtype=np.float32)
before, start, clock = memory("VmRSS"), time.process_time(), Clock()
model = Autoencoder(
    **plan, epochs=2, validation=0, threads=1, compile=False, scaling="none", verbose=0
).fit(X, callbacks=[clock])
whole = time.process_time() - start
print(json.dumps({
    "fit": whole,
    "around": whole - (clock.times[-1] - clock.times[0]),
    "step": (clock.times[2] - clock.times[1]) / clock.steps,
    "system": (clock.system[1] - clock.system[0]) / clock.steps,
    "memory": memory("VmHWM") - before,
    "data": X.nbytes / 2**20,
    "parameters": sum(p.numel() for p in model.net_.parameters()),
}))
"""


class Axis(NamedTuple):
    """What grows, in which plans, and what is measured and expected."""

    text: str
    sizes: tuple[int, ...]
    plan: dict[str, object]
    time: str
    expected: str

    def at(self, name: str, size: int) -> dict[str, object]:
        """Return the plan of a point."""
        if name == "parameters":  # d * w + w * 8, twice, where d = w
            width = round((size / 2) ** 0.5)
            return self.plan | {"features": width, "hidden": [width]}
        key = "latent_dim" if name == "latent" else name
        return self.plan | {key: size}


SMALL = {"rows": 4096, "features": 64, "hidden": [128], "latent_dim": 8, "batch_size": 128}
AXES = {
    "rows": Axis(
        "rows of 10 columns, batch 4096",
        (10_000, 100_000, 1_000_000, 10_000_000),
        SMALL | {"features": 10, "hidden": [32], "batch_size": 4096},
        "fit",
        "linear",
    ),
    "features": Axis(
        "columns of 4096 rows, batch 128, 128 units",
        (10, 100, 1_000, 10_000),
        SMALL,
        "step",
        "at most linear",
    ),
    "latent": Axis(
        "code, 64 columns, batch 128, 128 units",
        (2, 16, 128, 1024),
        SMALL,
        "step",
        "at most linear",
    ),
    "parameters": Axis(
        "parameters, steps of 32 samples",
        (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
        SMALL | {"rows": 256, "batch_size": 32},
        "step",
        "linear",
    ),
}


def measure(plan: dict[str, object]) -> dict[str, float]:
    """Return what a point costs, in a fresh process."""
    words = [sys.executable, "-c", POINT, json.dumps(plan)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def slopes(sizes: list[float], costs: list[float]) -> list[float]:
    """Return the exponents from point to point."""
    points = list(zip(sizes, costs, strict=True))
    return [log(c2 / c1) / log(s2 / s1) for (s1, c1), (s2, c2) in pairwise(points)]


def table(record: Record, axis: Axis, points: list[dict[str, float]], sizes: list[float]) -> None:
    """Print the points of an axis."""
    what = "the whole fit" if axis.time == "fit" else "a step"
    record(f"\n## {axis.text[0].upper()}{axis.text[1:]}\n")
    record(f"The time of {what} should be {axis.expected}, and has the first exponent.\n")
    record(
        "| size | ms a step | in the system | s around the steps | s in all | exponent | MB "
        "| exponent | X, MB |"
    )
    record("|---|---|---|---|---|---|---|---|---|")
    times = ["", *(f"{x:.2f}" for x in slopes(sizes, [p[axis.time] for p in points]))]
    peaks = ["", *(f"{x:.2f}" for x in slopes(sizes, [p["memory"] for p in points]))]
    for size, point, time, peak in zip(sizes, points, times, peaks, strict=True):
        record(
            f"| {size:,.0f} | {1e3 * point['step']:.2f} | {1e3 * point['system']:.2f} | "
            f"{point['around']:.2f} | "
            f"{point['fit']:.2f} | {time} | {point['memory']:.0f} | {peak} | {point['data']:.1f} |"
        )


def draw(results: dict[str, tuple[list[float], list[dict[str, float]]]]) -> None:
    """Draw time and memory of every axis beside a linear course."""
    figure, rows = plt.subplots(
        2, len(results), figsize=(3.2 * len(results), 5.6), squeeze=False, sharex="col"
    )
    for column, (name, (sizes, points)) in enumerate(results.items()):
        for axes, key, unit in zip(
            rows[:, column], (AXES[name].time, "memory"), ("s", "MB"), strict=True
        ):
            costs = [point[key] for point in points]
            axes.loglog(sizes, costs, "o-", label=f"{key}, {unit}")
            last = costs[-1] / sizes[-1]
            axes.loglog(sizes, [last * size for size in sizes], ":", color="grey", label="linear")
            axes.legend(frameon=False, fontsize=8, loc="upper left")
            axes.set_ylim(min(costs) / 3, max(costs) * 3)
        rows[1, column].set_xlabel(name)
    figure.tight_layout()
    figure.savefig(RESULTS / "scaling.png", dpi=90)


def main() -> None:
    """Measure the axes and keep tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("axes", nargs="*", default=list(AXES))
    record = Record("scaling", "Cost as work grows")
    record("One run, processor time on one thread; the machine was busy with other jobs.")
    results = {}
    for name in parser.parse_args().axes:
        axis = AXES[name]
        points = [measure(axis.at(name, size)) for size in axis.sizes]
        sizes = [p["parameters"] for p in points] if name == "parameters" else list(axis.sizes)
        results[name] = sizes, points
        table(record, axis, points, sizes)
    if "parameters" in results:
        record(
            "\nGradients of more than 32 MB go back to the system after each step, and are paged "
            "in again in the next: that is the time in the system beyond 10⁷ parameters."
        )
    draw(results)
    record("\n![Time and memory](scaling.png)")
    record.keep()


if __name__ == "__main__":
    main()
