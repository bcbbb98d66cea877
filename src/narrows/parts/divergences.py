"""Divergences of a batch of codes from a prior: MMD, sliced Wasserstein, moments, and others."""

from collections.abc import Callable, Sequence
from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from narrows.parts.latents import DiagonalGaussian, shares

__all__ = [
    "KERNELS",
    "SCALES",
    "aggregate",
    "decomposed_kl",
    "floored_kl",
    "imq",
    "mmd",
    "moments",
    "rbf",
    "shares",
    "sliced",
]

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bandwidths of a kernel that is a sum, relative to E||z - z'||² = 2 dim of two prior draws."""


def rbf(square: Tensor, scale: float) -> Tensor:
    """Return exp(-||z - z'||² / scale)."""
    return (-square / scale).exp()


def imq(square: Tensor, scale: float) -> Tensor:
    """Return scale / (scale + ||z - z'||²), whose heavy tails pull far codes in too."""
    return scale / (scale + square)


KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {"imq": imq, "rbf": rbf}


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: str = "imq",
    scales: Sequence[float] = SCALES,
    unbiased: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples, 0-d (Gretton et al., 2012).

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), with k summed over bandwidths of 2 dim times
    `scales`, as in Tolstikhin et al. (2018).

    Args:
        x: codes ``(n, dim)``.
        y: codes ``(m, dim)``.
        kernel: one of `KERNELS`.
        scales: bandwidths, relative to twice the dimension.
        unbiased: leave out the pairs of a sample with itself (eq. 3; it may be negative); else
            keep them (eq. 5; zero for equal samples, and never negative).
        weight: how much each of x counts, ``(n,)``; None for equal weights.
    """
    n, function, width = len(x), KERNELS[kernel], 2.0 * x.shape[1]
    square = _square_distances(torch.cat([x, y]))
    similar = sum((function(square, width * scale) for scale in scales), torch.zeros_like(square))
    a, b = shares(x, weight), shares(y)

    def within(block: Tensor, share: Tensor) -> Tensor:
        mean = (share[:, None] * block * share).sum()
        if not unbiased:
            return mean
        own = share.square()
        return (mean - (own * block.diagonal()).sum()) / (1 - own.sum()).clamp(min=1e-6)

    between = (a[:, None] * similar[:n, n:] * b).sum()
    return within(similar[:n, :n], a) + within(similar[n:, n:], b) - 2 * between


def sliced(x: Tensor, y: Tensor, projections: int = 50, weight: Tensor | None = None) -> Tensor:
    """Return the squared sliced 2-Wasserstein distance of two samples of one size, 0-d.

    The mean over random directions of ∫ (F⁻¹(t) - G⁻¹(t))² dt, with F⁻¹ and G⁻¹ the quantiles of
    their projections: of equal weights, the mean square of the differences between these in their
    order (Kolouri et al., 2018, eq. 13). Samples apart by v are |v|² / dim apart in expectation.

    Args:
        x: codes ``(n, dim)``.
        y: codes ``(n, dim)``.
        projections: how many directions, drawn evenly from the sphere.
        weight: how much each of x counts, ``(n,)``; None for equal weights.
    """
    x, y = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (x, y))
    directions, share = torch.randn_like(x[:1].expand(projections, -1)), shares(x, weight)
    with torch.autocast(x.device.type, enabled=False):
        (x, order), (y, _) = ((z @ F.normalize(directions).T).sort(0) for z in (x, y))
    if weight is None:
        return (x - y).square().mean()
    # t runs over where in [0, 1] either quantile function steps to its next value.
    ends = share[order].cumsum(0).T.contiguous(), shares(y).cumsum(0).repeat(projections, 1)
    t = torch.cat(ends, 1).sort(1).values
    at = [torch.searchsorted(each, t).clamp(max=len(x) - 1).T for each in ends]
    square = (x.gather(0, at[0]) - y.gather(0, at[1])).square()
    return (square * t.diff(dim=1, prepend=torch.zeros_like(t[:, :1])).T).sum(0).mean()


def aggregate(
    q: DiagonalGaussian,
    z: Tensor,
    size: int,
    stratified: bool = True,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate log q(z) and log prod_k q(z_k) of the aggregate posterior, ``(batch,)`` each.

    q(z) = mean over the data set of q(z | x_n), from the posteriors of one batch (Chen et al.,
    2018, appendix C). Each z_i was drawn from its own q(z | x_i).

    Args:
        q: posteriors of the batch.
        z: one draw from each, ``(batch, dim)``.
        size: samples in the data set.
        stratified: own posterior 1 / size, every other one (size - 1) / (size * (batch - 1)):
            unbiased for q(z), exact where the batch is the data set, and the mean of Chen's
            estimator over the orders of the batch. Else minibatch-weighted: 1 / (size * batch)
            for all, a lower bound in expectation.
        weight: how much each sample counts, ``(batch,)`` with a mean of one over the data; None
            for equal weights.
    """
    batch = len(z)
    if stratified:
        other = log(max(size - 1, 1) / (size * max(batch - 1, 1)))
        own = torch.eye(batch, dtype=z.dtype, device=z.device)
        part = other + own * (-log(size) - other)
    else:
        part = torch.full((batch, batch), -log(size * batch), dtype=z.dtype, device=z.device)
    if weight is not None:
        part = part + weight.clamp(min=1e-30).log()
    joint, product = part, torch.zeros_like(z[:, 0])
    for unit, mean, logvar in zip(z.unbind(1), q.mean.unbind(1), q.logvar.unbind(1), strict=True):
        square = (unit[:, None] - mean).square() * (-logvar).exp()
        density = -0.5 * (square + logvar + log(2 * pi))  # (draw, posterior)
        joint = joint + density
        product = product + (part + density).logsumexp(1)
    return joint.logsumexp(1), product


def decomposed_kl(
    q: DiagonalGaussian,
    z: Tensor,
    size: int,
    stratified: bool = True,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return mutual information, total correlation and dimension-wise KL, ``(batch,)`` each.

    They sum to log q(z | x) - log N(z; 0, I) (Chen et al., 2018, eq. 2), estimated at one draw
    from each posterior; the arguments are those of `aggregate`.
    """
    joint, product = aggregate(q, z, size, stratified, weight)
    prior = DiagonalGaussian(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)
    return {
        "mutual_information": q.log_prob(z) - joint,
        "total_correlation": joint - product,
        "dimension_kl": product - prior,
    }


def moments(
    q: DiagonalGaussian, sampled: bool, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return sum_{j != k} C_jk² and sum_j (C_jj - 1)², 0-d each (Kumar et al., 2018, eq. 6, 7).

    C is the covariance over the batch of the posteriors' means, or with `sampled` of the codes
    drawn from them, which adds the mean of their variances. Samples count by `weight`.
    """
    share = shares(q.mean, weight)[:, None]
    centred = q.mean - (share * q.mean).sum(0)
    covariance = (share * centred).T @ centred
    if sampled:
        covariance = covariance + (share * q.logvar.exp()).sum(0).diag()
    diagonal = covariance.diagonal()
    off = covariance - diagonal.diag()
    return off.square().sum(), (diagonal - 1).square().sum()


def floored_kl(kl: Tensor, floor: float, weight: Tensor | None = None) -> Tensor:
    """Return sum_j max(floor, mean_i KL_ij), 0-d: free bits (Kingma et al., 2016, eq. 15).

    Args:
        kl: of each unit in nats, ``(batch, dim)``.
        floor: nats that each unit may carry for nothing.
        weight: how much each sample counts, ``(batch,)`` with a mean of one over the data.
    """
    counted = kl if weight is None else kl * weight[:, None]
    return counted.mean(0).clamp(min=floor).sum()


def _square_distances(z: Tensor) -> Tensor:
    z = z - z.mean(0)  # rounding grows with the distance from the origin
    square = z.square().sum(1)
    return (square[:, None] + square - 2 * z @ z.T).clamp(min=0)
