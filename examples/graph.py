"""Zachary's karate club: its two factions from who meets whom, and links that were hidden."""

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from narrows import GraphAutoencoder

# Zachary (1977), An Information Flow Model for Conflict and Fission in Small Groups: for each of
# the 34 members, the later ones whom they met outside the club.
MET = """1 2 3 4 5 6 7 8 10 11 12 13 17 19 21 31; 2 3 7 13 17 19 21 30; 3 7 8 9 13 27 28 32;
7 12 13; 6 10; 6 10 16; 16; ; 30 32 33; 33; ; ; ; 33; 32 33; 32 33; ; ; 32 33; 33; 32 33; ; 32 33;
25 27 29 32 33; 25 27 31; 31; 29 33; 33; 31 33; 32 33; 32 33; 32 33; 33; """
OFFICERS = {9, 14, 15, 18, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33}


def main() -> None:
    """Fit, print how well factions and hidden links are told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to save the model")
    given = parser.parse_args()
    lists = [text.split() for text in MET.replace("\n", " ").split(";")]
    edges = np.array([(a, int(b)) for a, met in enumerate(lists) for b in met])
    edges = edges[np.random.default_rng(0).permutation(len(edges))]
    faction = np.isin(np.arange(34), [*OFFICERS])

    model = GraphAutoencoder(latent_dim=8, epochs=200, validation=0.0, verbose=0)
    codes = model.fit((edges.T, None)).transform((edges.T, None))
    found = KMeans(2, n_init=10, random_state=0).fit_predict(codes)
    right = max((found == faction).mean(), (found != faction).mean())
    print(f"{len(edges)} links; {right:.0%} of 34 members in the faction that they joined")

    seen, hidden = edges[8:], edges[:8]
    linked = {tuple(pair) for pair in edges.tolist()}
    absent = [(a, b) for a in range(34) for b in range(a + 1, 34) if (a, b) not in linked]
    model.fit((seen.T, None))
    scores = model.score_edges((seen.T, None), np.concatenate([hidden, absent]))
    area = roc_auc_score(np.repeat([1, 0], [len(hidden), len(absent)]), scores)
    print(f"area under the ROC curve for {len(hidden)} hidden links: {area:.2f}")
    if given.out:
        model.save(given.out, overwrite=True)


if __name__ == "__main__":
    main()
