"""The nets of the workloads in PyTorch, as a tutorial writes them."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from workloads import WORKLOADS

Layers = list[nn.Module]


def dense(*sizes: int) -> Layers:
    """Linear layers with ReLU between them."""
    return [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())][:-1]


def images(dropout: type[nn.Module]) -> tuple[Layers, Layers]:
    """Return convolutions that halve twice, and their mirror."""
    del dropout
    down = [nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
    up = [
        nn.ConvTranspose2d(64, 32, 3, 2, 1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 3, 2, 1, output_padding=1),
        nn.Sigmoid(),
    ]
    inner = [nn.Linear(32, 64 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))]
    return [*down, nn.Flatten(), nn.Linear(64 * 7 * 7, 32)], [*inner, *up]


def table(dropout: type[nn.Module]) -> tuple[Layers, Layers]:
    """Return one hidden layer of 64 each way, with batch normalisation and dropout."""

    def hidden(a: int, b: int) -> Layers:
        return [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU(), dropout(0.2)]

    return [*hidden(30, 64), nn.Linear(64, 32)], [*hidden(32, 64), nn.Linear(64, 30)]


NETS: dict[str, Callable[[type[nn.Module]], tuple[Layers, Layers]]] = {
    "W1": lambda _: (
        dense(784, 128, 64, 12, 3),
        [*dense(3, 12, 64, 128, 784), nn.Sigmoid()],
    ),
    "W2": lambda _: ([nn.Linear(784, 32), nn.ReLU()], [nn.Linear(32, 784), nn.Sigmoid()]),
    "W3": lambda _: (dense(784, 512, 2 * 16), [*dense(16, 512, 784), nn.Sigmoid()]),
    "W4": images,
    "W5/32": table,
    "W5/1024": table,
}


class Net(nn.Module):
    """Encoder and decoder of a workload.

    Args:
        name: the workload.
        logits: leave out the sigmoid where the loss is a cross-entropy.
        dropout: the layer that drops values.
    """

    def __init__(
        self, name: str, logits: bool = False, dropout: type[nn.Module] = nn.Dropout
    ) -> None:
        super().__init__()
        self.kind = WORKLOADS[name].loss
        self.logits = logits and self.kind != "mse"
        encoder, decoder = NETS[name](dropout)
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder[: -1 if self.logits else None])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction; of a VAE with the posterior's mean and log-variance."""
        h = self.encoder(x)
        if self.kind != "elbo":
            return self.decoder(h)
        mean, logvar = h.chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, logvar

    def loss(self, out: Tensor | tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        """Return the loss of what `forward` returned."""
        if self.kind == "mse":
            return F.mse_loss(out, x)
        entropy = F.binary_cross_entropy_with_logits if self.logits else F.binary_cross_entropy
        if self.kind == "bce":
            return entropy(out, x)
        out, mean, logvar = out
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum()
        return (entropy(out, x, reduction="sum") + kl) / len(x)

    def size(self) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.parameters())


def shaped(name: str, x: Tensor) -> Tensor:
    """Return the data as the net wants them: flat, or as images with a channel."""
    return x.view(-1, 1, 28, 28) if name == "W4" else x
