"""scikit-learn: MLPRegressor from X to X; it has no sigmoid, batch norm or dropout."""

from typing import Any

import numpy as np
from sklearn.neural_network import MLPRegressor
from workloads import WORKLOADS, Lap, Trained

HIDDEN = {"W1": (128, 64, 12, 3, 12, 64, 128), "W5": (64, 32, 64)}


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads, variant

    class Timed(MLPRegressor):
        """Calls back at each epoch's end."""

        def _update_no_improvement_count(self, *args: Any) -> None:
            super()._update_no_improvement_count(*args)
            lap()

    model = Timed(
        hidden_layer_sizes=HIDDEN[name.partition("/")[0]],
        alpha=0.0,
        batch_size=WORKLOADS[name].batch_size,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=epochs + 1,
    ).fit(X, X)
    calls = {
        "reconstruct": model.predict,
        "score": lambda X: -np.square(model.predict(X) - X).sum(1),
    }
    return Trained(sum(w.size for w in model.coefs_ + model.intercepts_), calls)
