"""Critics: networks that tell true samples from false ones, and what both players pay."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.parts.convolutions import conv
from narrows.parts.networks import Sizes, mlp
from narrows.parts.spectral import Spectral, bound_layers

__all__ = ["Critic", "deception", "detection", "gradient_penalty", "permute_dims", "standardised"]


class Critic(nn.Module):
    """Layers from samples to one logit each: log of the odds that a sample is a true one.

    Series, images and volumes of any size pass through convolutions, all else through dense
    layers; both are the encoders of the architectures.

    Args:
        shape: one sample's shape.
        hidden: sizes of the layers; None takes the architecture's.
        spectral_norm: divide every weight by its largest singular value.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: Sequence[int] | None = None,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        build = conv if len(shape) > 1 else mlp
        layers, _ = build(Sizes(shape, (1,), (1,), shape), hidden=hidden)
        if spectral_norm:
            bound_layers(layers)
        *body, self.head = layers.children()
        self.body = nn.Sequential(*body)
        if isinstance(self.head, nn.Linear):  # not normalised: it starts without an opinion
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, ``(batch,)``."""
        return self.judge(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the values of the last hidden layer, ``(batch, features)``."""
        features: Tensor = self.body(x)
        return features

    def judge(self, features: Tensor) -> Tensor:
        """Return the logits of samples with these features, ``(batch,)``."""
        logits: Tensor = self.head(features)
        return logits.squeeze(1)

    def update(self) -> None:
        """Let the spectral norms follow the weights, once for each optimizer step."""
        for module in self.modules():
            if isinstance(module, Spectral):
                module.iterate()


def detection(true: Tensor, *false: Tensor) -> Tensor:
    """Return -log D(true) - sum log(1 - D(false)) from logits, ``(batch,)``: the critic's loss.

    Where nothing tells the two apart, the best logit is 0 and the loss is log 4 (Goodfellow et
    al., 2014).
    """
    loss = F.softplus(-true)
    for logits in false:
        loss = loss + F.softplus(logits)
    return loss


def deception(false: Tensor) -> Tensor:
    """Return -log D(false) from logits, ``(batch,)``: what the other player pays.

    It has the fixed point of log(1 - D(false)), whose gradient vanishes where the critic is sure
    (Goodfellow et al., 2014, section 3).
    """
    return F.softplus(-false)


def gradient_penalty(critic: nn.Module, true: Tensor) -> Tensor:
    """Return R1, ½ ||dD/dx||² of the logit at true samples, ``(batch,)``.

    Mescheder et al. (2018), eq. 9. Samples must not mix (no batch norm).
    """
    logits, pullback, *_ = torch.func.vjp(critic, true)
    gradient: Tensor = pullback(torch.ones_like(logits))[0]
    return 0.5 * gradient.flatten(1).square().sum(1)


def permute_dims(z: Tensor) -> Tensor:
    """Shuffle each unit over the batch for itself: draws of prod_j q(z_j) from draws of q(z).

    Algorithm 1 of Kim & Mnih (2018).
    """
    return z.gather(0, torch.rand(z.shape, device=z.device).argsort(0))


def standardised(z: Tensor) -> Tensor:
    """Return codes whose units have mean 0 and deviation 1 over the batch."""
    variance, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) * (variance + 1e-6).rsqrt()
