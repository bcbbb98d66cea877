"""One loop on one workload in a process of its own; prints what it measured as JSON."""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from workloads import LOOPS, WORKLOADS

REPEATS = 3


def main() -> None:
    """Read the task from the command line, train, infer, print."""
    task = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    # XLA has as many threads as there are cores for it, whatever OMP_NUM_THREADS is.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-task["threads"] :])
    name, (module, variant, _) = task["workload"], LOOPS[task["loop"]]
    data = np.load(task["data"])  # the pages of a memory map would count with what is trained
    laps: list[tuple[float, float]] = []

    def lap() -> None:
        laps.append((time.perf_counter(), time.process_time()))

    train = import_module(f"loops.{module}").train
    X = data[: task["rows"]]
    trained = train(name, X, task["epochs"], task["threads"], lap, variant)
    if len(laps) != task["epochs"]:
        sys.exit(f"{task['loop']} made {len(laps)} laps in {task['epochs']} epochs.")
    # Of this program alone: ru_maxrss begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text().split()
    memory = int(status[status.index("VmHWM:") + 1]) / 1024
    spent = np.diff(laps, axis=0) * WORKLOADS[name].batch_size / len(X)
    result: dict[str, Any] = {
        "parameters": trained.parameters,
        "seconds": float(np.median(spent[:, 0])),
        "cpu": float(np.median(spent[:, 1])),
        "memory": memory,
    }
    X = data[: task["inferred"]]
    for call in WORKLOADS[name].calls:
        if call in trained.calls:
            result[call] = measure(trained.calls[call], X)
    print("\n" + json.dumps(result))


def measure(call: Callable[[np.ndarray], np.ndarray], X: np.ndarray) -> float:
    """Return the median seconds of a call, after one to warm up."""
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        call(X)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


if __name__ == "__main__":
    main()
