"""PyOD: its AutoEncoder with the workload's net; it offers no fused optimizer."""

import numpy as np
from nets import Net
from pyod.models.auto_encoder import AutoEncoder
from workloads import WORKLOADS, Lap, Trained


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads, variant

    class Timed(AutoEncoder):
        """Has the net of the workload, and calls back at each epoch's end."""

        def build_model(self) -> None:
            """Make the net."""
            self.model = Net(name)

        def epoch_update(self) -> None:
            """Note the time."""
            lap()

    detector = Timed(
        preprocessing=False,
        lr=1e-3,
        epoch_num=epochs,
        batch_size=WORKLOADS[name].batch_size,
        optimizer_params={},
        verbose=0,
    ).fit(X)
    return Trained(detector.model.size(), {"score": detector.decision_function})
