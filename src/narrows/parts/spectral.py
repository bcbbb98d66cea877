"""Spectral normalisation: layers whose weight is divided by its largest singular value."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.parts.networks import Transposed, Weighted

__all__ = ["Spectral", "bound_layers"]

START = 15
"""Power iterations before the first step."""


class Spectral(nn.Module):
    """A layer with the weight W / sigma(W), W as a matrix of outputs by the rest.

    sigma is u^T W v with the singular vectors that `iterate` keeps: one power iteration a step
    follows the weights (Miyato et al., 2018, https://arxiv.org/abs/1802.05957); `forward` changes
    nothing.
    """

    u: Tensor
    v: Tensor

    def __init__(self, layer: Weighted) -> None:
        super().__init__()
        self.layer = layer
        matrix = self.matrix().detach()
        self.register_buffer("u", torch.ones_like(matrix[:, 0]))
        self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        self.iterate(START)

    def matrix(self) -> Tensor:
        """Return the weight as a matrix; a transposed convolution has its outputs second."""
        weight = self.layer.weight
        if isinstance(self.layer, Transposed):
            weight = weight.transpose(0, 1)
        return weight.flatten(1)

    def sigma(self) -> Tensor:
        """Return the estimate of the largest singular value, 0-d."""
        return self.u @ self.matrix() @ self.v

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its divided weight."""
        weight = self.layer.weight / self.sigma()
        out: Tensor = torch.func.functional_call(self.layer, {"weight": weight}, (x,))
        return out

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """Make power iterations."""
        matrix = self.matrix()
        for _ in range(times):
            self.u.copy_(F.normalize(matrix @ self.v, dim=0))
            self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0))


def bound_layers(module: nn.Module) -> list[Spectral]:
    """Wrap every linear and convolutional layer below a module, in place; return the wrappers."""
    bounded: list[Spectral] = []
    for name, child in list(module.named_children()):
        if isinstance(child, Weighted):
            bounded.append(Spectral(child))
            module.set_submodule(name, bounded[-1])
        else:
            bounded += bound_layers(child)
    return bounded
