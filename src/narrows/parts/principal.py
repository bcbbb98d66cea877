"""A linear path beside the networks, which starts them at the data's principal components."""

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from narrows.data.sources import Batch, InMemory
    from narrows.net import Net
    from narrows.parts.likelihoods import Likelihood

__all__ = [
    "AddedDecoder",
    "AddedEncoder",
    "Components",
    "LinearPath",
    "principal_components",
    "start_path",
]

CELLS = 30_000_000
"""Values of which the components are found, at most; but never fewer than `FEWEST` samples."""
FEWEST = 200
DENSE = 1024
"""Columns up to which the whole covariance is decomposed."""
MORE = 16
"""Directions that the randomised method follows beside those that are wanted."""
FLOOR = 1e-6
"""Variance that counts as none, of the largest and in the model's units."""
FITTED = 2000
"""Samples that the decoder's path is fitted to where its output is no mean."""


class LinearPath(nn.Module):
    """W x + b with a W that is found once, from the data, and does not train.

    Args:
        x: shape of what it reads.
        out: shape of what it puts out.
    """

    weight: Tensor

    def __init__(self, x: tuple[int, ...], out: tuple[int, ...]) -> None:
        super().__init__()
        self.out = out
        self.register_buffer("weight", torch.zeros(prod(out), prod(x)))
        self.bias = nn.Parameter(torch.zeros(prod(out)))

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b."""
        return F.linear(x.flatten(1), self.weight, self.bias).view(len(x), *self.out)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class AddedEncoder(nn.Module):
    """f(x) + A x."""

    def __init__(self, encoder: nn.Module, path: LinearPath) -> None:
        super().__init__()
        self.encoder, self.path = encoder, path

    def forward(self, batch: "Batch") -> Tensor | tuple[Tensor, ...]:
        """Return h, with the context of the encoder if there is any."""
        h: Tensor | tuple[Tensor, ...] = self.encoder(batch)
        passed: Tensor = self.path(batch.x)
        return (h[0] + passed, *h[1:]) if isinstance(h, tuple) else h + passed


class AddedDecoder(nn.Module):
    """g(z) + B z."""

    def __init__(self, decoder: nn.Module, path: LinearPath) -> None:
        super().__init__()
        self.decoder, self.path = decoder, path

    def forward(self, z: Tensor, batch: "Batch | None" = None, *context: Tensor) -> Tensor:
        """Decode codes."""
        out: Tensor = self.decoder(z, batch, *context)
        return torch.add(out, self.path(z))


class Components(NamedTuple):
    """Principal components: the data are about mean + directions' variances^½ s, s ~ N(0, I).

    Attributes:
        mean: ``(d,)``.
        directions: orthonormal, ``(k, d)``; zero beyond the rank of the data.
        variances: of the data along them, ``(k,)``, largest first.
        noise: mean variance along all other directions, 0-d.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor


def principal_components(x: Tensor, k: int, weight: Tensor | None = None) -> Components:
    """Return the k first components of samples ``(n, d)``, each of which may have a weight.

    Of many samples an even choice is enough, and of many columns the subspace is found by random
    projections (Halko et al., 2011), which draw from torch's random state.
    """
    n, d = x.shape
    most = max(FEWEST, CELLS // d)
    if n > most:
        rows = torch.linspace(0, n - 1, most, dtype=torch.float64).long().to(x.device)
        x, weight = x[rows], None if weight is None else weight[rows]
    w = x.new_ones(len(x)) if weight is None else weight
    w = w / w.sum().clamp(min=torch.finfo(w.dtype).tiny)
    mean = w @ x
    centred = (x - mean) * w.sqrt()[:, None]
    total = centred.square().sum(dtype=torch.float64)
    if d <= DENSE:
        covariance = (centred.mT @ centred).double().cpu()
        values, vectors = (t.flip(-1) for t in torch.linalg.eigh(covariance))
    else:
        q = min(k + MORE, *centred.shape)
        _, singular, vectors = torch.pca_lowrank(centred, q, center=False, niter=4)
        values = singular.square()
    values, vectors = (t[..., :k].to(x.device, torch.float64) for t in (values, vectors))
    real = values > FLOOR * values.max().clamp(min=FLOOR)
    kept = values * real
    noise = ((total - kept.sum()) / max(d - k, 1)).clamp(min=FLOOR)
    variances, directions = x.new_zeros(k), x.new_zeros(k, d)
    variances[: len(kept)], directions[: len(kept)] = kept.to(x), (vectors * real).mT.to(x)
    return Components(mean, directions, variances, noise.to(x))


@torch.no_grad()
def start_path(net: "Net", source: "InMemory") -> None:
    """Set the linear path, where there is one, to the components of the training samples.

    They are those of what the encoder sees: a missing cell counts as its column's center. A point
    code is whitened: A = Λ^-½ V', B = V Λ^½. A Gaussian one starts at the posterior of
    probabilistic PCA (Tipping & Bishop, 1999).
    """
    first = next((m for m in net.modules() if isinstance(m, AddedEncoder)), None)
    second = next((m for m in net.modules() if isinstance(m, AddedDecoder)), None)
    if first is None or second is None:
        return
    inward, outward = first.path, second.path
    units = outward.weight.shape[1]
    x = source.values.flatten(1)
    found = principal_components(x, units, source.weight)
    used = found.variances > 0
    spread = torch.where(used, found.variances, 1).sqrt()
    share = torch.where(used, found.noise / spread.square(), 1).clamp(max=1)
    start = net.latent.principal(share)
    if start is None:
        return
    gain, rest = start
    inward.weight[:units] = (gain / spread)[:, None] * found.directions
    bias = torch.cat([-inward.weight[:units] @ found.mean, rest])
    inward.bias[: len(bias)] = bias
    likelihood = net.likelihood
    if likelihood.support == "real" and likelihood.output_activation == "linear":
        loadings = (gain * spread)[:, None] * found.directions
        outward.weight[: len(found.mean)] = loadings.mT
        outward.bias[: len(found.mean)] = found.mean
    else:
        batch = source.take(source.even(FITTED))
        code = F.linear(batch.x.flatten(1), inward.weight, inward.bias)[:, :units]
        _fit(outward, likelihood, code, batch)


@torch.enable_grad()
def _fit(path: LinearPath, likelihood: "Likelihood", code: Tensor, batch: "Batch") -> None:
    """Fit a generalised linear model of the data to the codes, under a N(0, 1) prior of W."""
    weight, bias = (t.detach().clone().requires_grad_() for t in (path.weight, path.bias))
    fit = torch.optim.LBFGS([weight, bias], max_iter=30, line_search_fn="strong_wolfe")

    def price() -> Tensor:
        fit.zero_grad()
        out = F.linear(code, weight, bias).view(len(code), *path.out)
        nll = likelihood.nll(out, batch.target, batch.mask)
        nll = nll if batch.weight is None else nll * batch.weight
        cost = nll.mean() + weight.square().sum() / (2 * len(code))
        torch.autograd.backward(cost, inputs=[weight, bias])
        return cost

    fit.step(price)
    if weight.isfinite().all() and bias.isfinite().all():
        path.weight.copy_(weight.detach())
        path.bias.data.copy_(bias.detach())
