"""What a short fit costs beside its training steps, and what starting narrows costs.

Every number is the median of several fresh processes, so first-call costs are in it. Validation,
reading, building and the codes kept for later are all "outside"; the import is not.

    python benchmarks/short_fit.py [--rounds 5]
"""

import argparse
import subprocess
import sys
import time
from statistics import median

from _common import Record

MODELS = ("VAE", "Autoencoder")
FIT = """
import sys, time
from sklearn.datasets import load_digits
import narrows
X, cls = load_digits().data, getattr(narrows, sys.argv[1])
for _ in range(2):
    start = time.perf_counter()
    model = cls(epochs=20, verbose=0).fit(X)
    print(time.perf_counter() - start, sum(row["seconds"] for row in model.history_))
"""


def seconds(*words: str) -> float:
    """Return how long a fresh Python takes for these words."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - start


def fits(model: str) -> list[tuple[float, float]]:
    """Return seconds, and those of the training steps, of the first and the second fit."""
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
    record("| model | fit | s | in steps | outside | wanted |\n|---|---|---|---|---|---|")
    for model in MODELS:
        runs = [fits(model) for _ in rounds]
        for i, fit in enumerate(("first", "second")):
            whole, steps = (median(run[i][j] for run in runs) for j in range(2))
            outside = median(1 - run[i][1] / run[i][0] for run in runs)
            record(f"| {model} | {fit} | {whole:.2f} | {steps:.2f} | **{outside:.1%}** | < 15 % |")
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
