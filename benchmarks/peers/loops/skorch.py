"""skorch: its NeuralNet without printing and without a validation split; a fused optimizer."""

from typing import Any

import numpy as np
import torch
from nets import Net
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor
from workloads import WORKLOADS, Lap, Trained


class Autoencoder(NeuralNet):
    """Takes the loss from the net."""

    def get_loss(self, y_pred: Any, y_true: Tensor, **_: Any) -> Tensor:
        """Return the loss of what the net put out."""
        return self.module_.loss(y_pred, y_true)


class Laps(Callback):
    """Calls back at each epoch's end."""

    def __init__(self, lap: Lap) -> None:
        self.lap = lap

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.lap()


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads, variant
    model = Autoencoder(
        Net,
        module__name=name,
        criterion=torch.nn.MSELoss,
        optimizer=torch.optim.Adam,
        optimizer__fused=True,
        lr=1e-3,
        batch_size=WORKLOADS[name].batch_size,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[Laps(lap)],
        callbacks__print_log=None,
        verbose=0,
    )
    x = X.reshape(-1, 1, 28, 28) if name == "W4" else X
    model.fit(x, x)
    return Trained(model.module_.size(), {"reconstruct": model.predict})
