"""pythae: its TrainingPipeline with the workload's nets; a fused optimizer."""

import logging
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from nets import Net
from pythae.models import AE, VAE, AEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn
from workloads import WORKLOADS, Lap, Trained

SLICE = 1024


class Encoder(BaseEncoder):
    """The net's encoder in pythae's form."""

    def __init__(self, inner: nn.Module, variational: bool) -> None:
        super().__init__()
        self.inner, self.variational = inner, variational

    def forward(self, x: Tensor) -> ModelOutput:
        """Encode x."""
        h = self.inner(x)
        if not self.variational:
            return ModelOutput(embedding=h)
        mean, logvar = h.chunk(2, 1)
        return ModelOutput(embedding=mean, log_covariance=logvar)


class Decoder(BaseDecoder):
    """The net's decoder in pythae's form."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor) -> ModelOutput:
        """Decode z."""
        return ModelOutput(reconstruction=self.inner(z))


class Laps(TrainingCallback):
    """Calls back at each epoch's end."""

    def __init__(self, lap: Lap) -> None:
        self.lap = lap

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.lap()


def train(name: str, X: np.ndarray, epochs: int, threads: int, lap: Lap, variant: str) -> Trained:
    del threads, variant
    logging.disable(logging.INFO)
    net, variational = Net(name), name == "W3"
    x = X.reshape(-1, 1, 28, 28) if name == "W4" else X
    parts = {"encoder": Encoder(net.encoder, variational), "decoder": Decoder(net.decoder)}
    shape = x.shape[1:]
    if variational:
        config = VAEConfig(input_dim=shape, latent_dim=16, reconstruction_loss="bce")
        model: AE | VAE = VAE(config, **parts)
    else:
        model = AE(AEConfig(input_dim=shape, latent_dim=32), **parts)
    with TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=WORKLOADS[name].batch_size,
            optimizer_params={"fused": True},
        )
        TrainingPipeline(model, training)(x, callbacks=[Laps(lap)])

    @torch.inference_mode()
    def encode(X: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(X).split(SLICE)
        return torch.cat([model.eval().embed(part) for part in parts]).numpy()

    size = sum(p.numel() for p in model.parameters())
    return Trained(size, {"encode": encode})
