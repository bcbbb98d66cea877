"""Training and inference beside the peers: same nets, batches, optimizer; paired in one run.

Every measurement is a fresh process, and each round runs every loop once, in an order that
changes: ratios are taken round by round, and hold on a machine whose speed drifts. An epoch to
warm up is left out. README.md tells what each loop is.

    python benchmarks/peers/run.py [W1 W2 W3 W4 W5/32 W5/1024] [--rounds 5] [--threads 1 2]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from workloads import LIGHTER, LOOPS, TARGETS, WORKLOADS, Target

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from _common import Record, fashion_mnist  # noqa: E402

PACKAGES = ("pythae", "pyod", "lightning", "skorch", "scikit-learn", "keras", "jax")
SCORED = 200_000
CALLS = {
    "encode": "Encode 60 000 images",
    "reconstruct": "Reconstruct 60 000 images",
    "score": "Score 200 000 rows",
}
Result = dict[str, float]
Rounds = dict[str, list[Result]]
"""By loop: what each round measured."""
Found = dict[tuple[str, int], Rounds]
"""By workload and threads."""


def data(kind: str) -> np.ndarray:
    """Return Fashion-MNIST's training images in [0, 1], or correlated normal columns."""
    if kind == "images":
        X = fashion_mnist("train").reshape(-1, 784).astype(np.float32) / 255
        X[0] = 1 - X[0]  # no pixel is constant in a part of them: narrows would leave it out
        return X
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 30)).astype(np.float32)
    return rng.standard_normal((SCORED, 8), np.float32) @ mixing


def measure(loop: str, task: dict[str, Any]) -> Result:
    """Run a loop in a process of its own; return what it measured."""
    count = str(task["threads"])
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, count) | {"KERAS_BACKEND": "jax"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        HERE / "worker.py",
        json.dumps(task | {"loop": loop}),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{loop} failed on {task['workload']}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def race(loops: list[str], count: int, task: dict[str, Any]) -> Rounds:
    """Run every loop once a round, each round beginning with another one."""
    found: Rounds = {loop: [] for loop in loops}
    for i in range(count):
        shift = i % len(loops)
        for loop in loops[shift:] + loops[:shift]:
            found[loop].append(measure(loop, task))
            print(f"  {loop}: {1e3 * found[loop][-1]['seconds']:.2f} ms", file=sys.stderr)
    sizes = {
        loop: results[0]["parameters"]
        for loop, results in found.items()
        if task["workload"] not in LIGHTER.get(loop, ())
    }
    if len(set(sizes.values())) > 1:
        sys.exit(f"{task['workload']}: the nets differ in their parameters, {sizes}.")
    return found


def ratios(found: Rounds, other: str, ours: str, measure: str) -> list[float]:
    """Return the other's cost over ours, round by round, in order."""
    pairs = zip(found[other], found[ours], strict=True)
    return sorted(theirs[measure] / own[measure] for theirs, own in pairs)


def spread(values: list[float]) -> str:
    """Write a median and its range."""
    return f"**{median(values):.2f}** ({values[0]:.2f}–{values[-1]:.2f})"


def table(record: Record, head: list[str], rows: list[list[str]]) -> None:
    """Write a table."""
    record(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        record(f"| {' | '.join(row)} |")
    record()


def costs(record: Record, loops: list[str], found: Found) -> None:
    """Write milliseconds a step, with each loop's time over that of narrows."""

    def cell(loop: str, name: str, rounds: Rounds) -> str:
        if loop not in rounds or name in LIGHTER.get(loop, ()):
            return "–"
        step = f"{1e3 * median(result['seconds'] for result in rounds[loop]):.2f}"
        if loop == "narrows" or "narrows" not in rounds:
            return step
        return f"{step} · {spread(ratios(rounds, loop, 'narrows', 'seconds'))}"

    record("## Training, ms a step · its time over that of narrows (range)\n")
    rows = [
        [name, str(threads), *(cell(loop, name, rounds) for loop in loops)]
        for (name, threads), rounds in found.items()
    ]
    table(record, ["workload", "threads", *loops], rows)


def totals(record: Record, title: str, measure: str, loops: list[str], found: Found) -> None:
    """Write the medians of another measure, where there is any."""
    unit = 1.0 if measure == "memory" else 1e3
    rows = []
    for (name, threads), rounds in found.items():
        measured = {
            loop: [result[measure] for result in rounds[loop]]
            for loop in loops
            if measure in rounds.get(loop, [{}])[0]
        }
        if measured:
            cells = [f"{unit * median(measured[k]):.3g}" if k in measured else "–" for k in loops]
            rows.append([name, str(threads), *cells])
    if rows:
        record(f"## {title}\n")
        table(record, ["workload", "threads", *loops], rows)


def reached(found: Found, threads: int) -> Iterator[list[str]]:
    """Yield each target beside what was measured."""
    for target in TARGETS:
        rounds = found.get((target.workload, threads), {})
        if {target.ours, target.other} <= rounds.keys():
            yield [target.workload, *verdict(target, rounds)]


def verdict(target: Target, rounds: Rounds) -> list[str]:
    """Return a target's row."""
    values = ratios(rounds, target.other, target.ours, target.measure)
    middle = median(values)
    word = "aim" if middle >= target.aim else "must" if middle >= target.must else "missed"
    limits = [f"≥ {target.must:.2f}", f"≥ {target.aim:.2f}"]
    return [target.ours, target.other, target.measure, spread(values), *limits, word]


def tell(arguments: argparse.Namespace, found: Found) -> None:
    """Keep the tables of what was measured."""
    record = Record(arguments.name, "Training and inference beside the peers")
    record(", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".\n")
    record(
        f"{arguments.rounds} rounds; a process a measurement; medians of {arguments.epochs - 1} "
        "epochs after the first. Ratios are the other's over that of narrows, round by round: "
        "above 1, narrows is ahead.\n"
    )
    for name in dict.fromkeys(name for name, _ in found):
        record(f"- {name}: {WORKLOADS[name].text}.")
    record()
    costs(record, arguments.loops, found)
    totals(record, "CPU time of all threads, ms a step", "cpu", arguments.loops, found)
    totals(record, "Peak memory of training, MB", "memory", arguments.loops, found)
    for call, title in CALLS.items():
        totals(record, f"{title}, ms", call, arguments.loops, found)
    record(f"## Targets, on {max(arguments.threads)} threads\n")
    head = ["workload", "ours", "other", "measure", "other's / ours", "must", "aim", "reached"]
    table(record, head, list(reached(found, max(arguments.threads))))
    record.keep()


def main() -> None:
    """Run the workloads and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", default=list(WORKLOADS))
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS), metavar="LOOP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=4, help="the first one is left out")
    parser.add_argument("--rows", type=int, help="train on fewer, to see whether all runs")
    parser.add_argument("--name", default="peers", help="of the file of results")
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if arguments.epochs < 2:
        parser.error("--epochs must be at least 2: the first one warms up")
    found: Found = {}
    with TemporaryDirectory() as folder:
        for kind in {WORKLOADS[name].data for name in arguments.workloads}:
            np.save(f"{folder}/{kind}.npy", data(kind))
        for name, threads in product(arguments.workloads, arguments.threads):
            work = WORKLOADS[name]
            rows = min(arguments.rows or work.rows, work.rows)
            task = {
                "workload": name,
                "threads": threads,
                "epochs": arguments.epochs,
                "rows": max(1, rows // work.batch_size) * work.batch_size,
                "data": f"{folder}/{work.data}.npy",
                "inferred": arguments.rows,
            }
            loops = [loop for loop in arguments.loops if name in LOOPS[loop][2]]
            found[name, threads] = race(loops, arguments.rounds, task)
            tell(arguments, found)  # so far: what comes may fail


if __name__ == "__main__":
    main()
