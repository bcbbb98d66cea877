"""A sweep: VAEs of several betas, learning rates and seeds, trained together and compared.

python examples/sweep.py [--epochs 40]
"""

import argparse
from itertools import groupby

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import ParameterGrid, train_test_split

from narrows import VAE, fit_together

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=40)
given = parser.parse_args()

train, test = train_test_split(load_breast_cancer().data, random_state=0)
net = {"latent_dim": 4, "hidden": (32,), "batch_size": 32, "epochs": given.epochs}
grid = ParameterGrid({"beta": [0.5, 1.0, 2.0], "learning_rate": [1e-3, 4e-3], "seed": [0, 1, 2]})
models = fit_together([VAE(**net, **point) for point in grid], train)

print("beta  learning_rate  nats a held-out sample, over seeds")
settings = [(model.beta, model.learning_rate) for model in models]
for setting, group in groupby(zip(settings, models, strict=True), key=lambda pair: pair[0]):
    scores = [model.score(test) for _, model in group]
    print(f"{setting[0]:>4}  {setting[1]:>13}  {np.mean(scores):.2f} ± {np.std(scores):.2f}")
