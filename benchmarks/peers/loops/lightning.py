"""Lightning: its Trainer without logger, bar and checkpoints; a fused optimizer."""

import logging
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from nets import Net, shaped
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from workloads import WORKLOADS, Lap, Trained


class Module(LightningModule):
    """The net, its loss and its optimizer."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Return the loss of a batch."""
        (x,) = batch
        return self.net.loss(self.net(x), x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)


class Laps(Callback):
    """Calls back at each epoch's end."""

    def __init__(self, lap: Lap) -> None:
        self.lap = lap

    def on_train_epoch_end(self, *_: Any) -> None:
        """Note the time."""
        self.lap()


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads, variant
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    net, x = Net(name), shaped(name, torch.from_numpy(X))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Laps(lap)],
    )
    loader = DataLoader(TensorDataset(x), batch_size=WORKLOADS[name].batch_size, shuffle=True)
    trainer.fit(Module(net), loader)
    return Trained(net.size(), {})
