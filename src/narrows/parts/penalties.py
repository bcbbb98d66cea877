"""Penalties: what an objective may charge beyond the bound, each ``(batch,)`` or 0-d."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrows.errors import ParameterError
from narrows.parts import divergences
from narrows.parts.transformers import Block

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder
    from narrows.net import Net, Step

__all__ = [
    "PENALTIES",
    "Penalty",
    "decoder_jacobian",
    "jacobian",
    "jacobian_exact",
    "kl_sparsity",
    "l1",
    "l2",
    "mmd",
    "penalty",
    "refuse_mixing",
    "weights",
]

Penalty = Callable[["Net", "Step"], Tensor]
PENALTIES: dict[str, Penalty] = {}


def penalty(function: Penalty) -> Penalty:
    """Register ``penalty(net, step)`` under its own name."""
    PENALTIES[function.__name__] = function
    return function


@penalty
def l1(net: "Net", step: "Step") -> Tensor:
    """Return sum_j |z_j|, ``(batch,)``: codes pay for being away from zero (Ng, 2011)."""
    del net
    return step.z.flatten(1).abs().sum(1)


@penalty
def l2(net: "Net", step: "Step") -> Tensor:
    """Return ½ sum_j z_j², ``(batch,)``: bounds the scale of a code (Ghosh et al., 2020)."""
    del net
    return 0.5 * step.z.flatten(1).square().sum(1)


def kl_sparsity(z: Tensor, rho: float, weight: Tensor | None = None) -> Tensor:
    """Return sum_j KL(rho || mean_i z_ij), 0-d, for activations in (0, 1) (Ng, 2011, eq. 8).

    Samples count by `weight`.
    """
    share = divergences.shares(z, weight)[:, None]
    mean = (share * z.flatten(1)).sum(0).clamp(1e-6, 1 - 1e-6)
    target = torch.full_like(mean, rho)
    active = target * (target.log() - mean.log())
    silent = (1 - target) * ((1 - target).log() - (1 - mean).log())
    return (active + silent).sum()


def weights(module: nn.Module) -> Tensor:
    """Return the sum of a module's squared weights, 0-d; vectors (biases, norms) are free."""
    squares = [p.square().sum() for p in module.parameters() if p.ndim > 1]
    return torch.stack(squares).sum()


def refuse_mixing(model: "BaseAutoencoder", net: "Net", what: str = "Jacobian penalty") -> None:
    """Refuse derivatives of samples that batch normalisation mixes, or that torch cannot take.

    Args:
        model: that needs them.
        net: of which they are.
        what: needs them.

    Raises:
        ParameterError: the net normalises over the batch, is of LSTMs or Transformers, or forgets
            what its layers put out.
    """
    model.refuse_set(["gradient_checkpointing"], f"goes with no {what}")
    if any(isinstance(module, nn.LSTM | Block) for module in net.modules()):
        raise ParameterError(
            f"A {what} needs derivatives that torch does not have for LSTMs and "
            "Transformers. Use architecture='gru' or 'mlp'."
        )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        raise ParameterError(
            f"A {what} needs each code to depend on its own sample alone, and "
            "batch_norm=True mixes the samples of a batch. Set batch_norm=False."
        )


@penalty
def jacobian(net: "Net", step: "Step") -> Tensor:
    """Return Hutchinson's unbiased estimate of ||dz/dx||²_F by one probe, ``(batch,)``.

    With v ~ N(0, I), E ||Jᵀ v||² = ||J||²_F (Hutchinson, 1989): one reverse-mode product.
    """
    return _hutchinson(net.encoding(step), step.batch.x)


@penalty
def jacobian_exact(net: "Net", step: "Step") -> Tensor:
    """Return ||dz/dx||²_F exactly, ``(batch,)`` (Rifai et al., 2011, eq. 6).

    One reverse-mode product for each unit of the code: rows must not mix (no batch norm).
    """
    pullback = torch.func.vjp(net.encoding(step), step.batch.x)[1]
    z = step.z.flatten(1)
    total = torch.zeros_like(z[:, 0])
    for unit in torch.eye(z.shape[1], dtype=z.dtype, device=z.device):
        (row,) = pullback(unit.expand_as(z).reshape(step.z.shape))
        total = total + row.flatten(1).square().sum(1)
    return total


@penalty
def decoder_jacobian(net: "Net", step: "Step") -> Tensor:
    """Return Hutchinson's unbiased estimate of ||dE[x | z]/dz||²_F by one probe, ``(batch,)``."""
    return _hutchinson(net.decode, step.z)


@penalty
def mmd(net: "Net", step: "Step") -> Tensor:
    """Return the squared discrepancy of the codes from N(0, I), 0-d (Tolstikhin et al., 2018)."""
    del net
    codes = step.z.flatten(1)
    return divergences.mmd(codes, torch.randn_like(codes), weight=step.batch.weight)


def _hutchinson(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ||Jᵀ v||² with one v ~ N(0, I) for each row, ``(batch,)``."""
    out, pullback = torch.func.vjp(function, x)[:2]
    product: Tensor = pullback(torch.randn_like(out))[0]
    return product.flatten(1).square().sum(1)
