"""What a short fit costs beside its training steps, and what starting narrows costs.

Every number is the median of several fresh processes, so first-call costs are in it. Validation,
reading, building and the codes kept for later are all "outside"; the import is not. Seconds are
the processor's, which other jobs on the machine disturb least; the share is one of wall time.

    python benchmarks/short_fit.py [--rounds 5]
"""

import argparse
import resource
import subprocess
import sys
from statistics import median

from _common import Record

MODELS = ("VAE", "Autoencoder")
FIT = """
import sys, time
from sklearn.datasets import load_digits
import narrows
X, cls = load_digits().data, getattr(narrows, sys.argv[1])
for _ in range(2):
    start, before = time.perf_counter(), time.process_time()
    model = cls(epochs=20, verbose=0).fit(X)
    used, whole = time.process_time() - before, time.perf_counter() - start
    print(used, 1 - sum(row["seconds"] for row in model.history_) / whole)
"""


def seconds(*words: str) -> float:
    """Return what a fresh Python takes of the processor for these words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fits(model: str) -> list[tuple[float, float]]:
    """Return seconds, and the share outside of training steps, of the first and the second fit."""
    words = [sys.executable, "-c", FIT, model]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [tuple(map(float, line.split())) for line in out.splitlines()]


def main() -> None:
    """Measure and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    record = Record("short_fit", "A short fit: digits, 20 epochs")
    record(f"Medians of {len(rounds)} fresh processes, on one thread.\n")
    record("| model | fit | s | outside of steps | wanted |\n|---|---|---|---|---|")
    for model in MODELS:
        runs = [fits(model) for _ in rounds]
        for i, fit in enumerate(("first", "second")):
            used, outside = (median(run[i][j] for run in runs) for j in range(2))
            record(f"| {model} | {fit} | {used:.2f} | **{outside:.1%}** | < 15 % |")
    bare = median(seconds("-c", "pass") for _ in rounds)
    record(f"\n| command | s, less the {bare:.2f} s of a bare Python | wanted |\n|---|---|---|")
    for text, words, wanted in (
        ("`import narrows`", ("-c", "import narrows"), "< 2"),
        ("`narrows --help`", ("-m", "narrows", "--help"), "< 0.5"),
        ("`from narrows import VAE`", ("-c", "from narrows import VAE"), ""),
        ("`import torch`, for comparison", ("-c", "import torch"), ""),
    ):
        record(f"| {text} | {median(seconds(*words) for _ in rounds) - bare:.2f} | {wanted} |")
    record.keep()


if __name__ == "__main__":
    main()
