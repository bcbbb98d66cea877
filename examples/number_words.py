"""Strings in, strings out: the numbers below a thousand in words, learned letter by letter.

    python examples/number_words.py [--epochs 100]

It prints how many numbers it never saw come back exactly, a walk between two numbers, and what a
misspelt one scores beside the right ones.
"""

import argparse

import numpy as np

from narrows import SequenceAutoencoder

SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen"
TEENS = "fourteen fifteen sixteen seventeen eighteen nineteen"
ROUND = "twenty thirty forty fifty sixty seventy eighty ninety"
ONES, TENS = f"{SMALL} {TEENS}".split(), ["", "", *ROUND.split()]


def in_words(n: int) -> str:
    """Return a number below a thousand in words."""
    if n >= 100:
        rest = f" {in_words(n % 100)}" if n % 100 else ""
        return f"{ONES[n // 100]} hundred{rest}"
    if n >= 20:
        return TENS[n // 10] + (f" {ONES[n % 10]}" if n % 10 else "")
    return ONES[n]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
given = parser.parse_args()

order = np.random.default_rng(0).permutation(1000)
train, held = ([in_words(n) for n in part] for part in (order[:800], order[800:]))
model = SequenceAutoencoder(
    latent_dim=32, hidden=(64,), batch_size=32, learning_rate=5e-3, epochs=given.epochs
).fit(train)

back = model.reconstruct(held)
share = np.mean([a == b for a, b in zip(back, held, strict=True)])
print(f"held out: {share:.0%} of {len(held)} come back exactly")
print("a walk:", " | ".join(model.interpolate("two hundred", "nine hundred thirty one", 6)))
right, wrong = model.score_samples(held), model.score_samples(["three hunderd nine"])
below = np.mean(right < wrong[0])
print(f"misspelt: {wrong[0]:.1f} nats; {below:.0%} of the held-out numbers score lower")
