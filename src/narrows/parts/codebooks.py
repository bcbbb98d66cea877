"""Codebooks: tables of vectors that are looked up by the nearest, and how they are learned."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.parts.latents import shares

__all__ = ["LinearTable", "Table", "choose", "kmeans", "nearest", "tally"]

SLICE = 512
"""Vectors that are compared with a codebook at once; their distances fit a processor's cache."""


def nearest(x: Tensor, vectors: Tensor) -> Tensor:
    """Return the index of the nearest of the vectors ``(codes, dim)`` for each x, ``(n,)``."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        half = 0.5 * vectors.square().sum(1, keepdim=True)
        scores = torch.cat([-vectors, half], 1).t()  # one product is half the square distance
        parts = F.pad(x, (0, 1), value=1.0).split(SLICE)
        found = [(part @ scores).min(1).indices for part in parts]  # argmin takes twice as long
        return torch.cat(found)


@torch.no_grad()
def kmeans(x: Tensor, codes: int, iterations: int = 10) -> Tensor:
    """Return centres of x ``(n, dim)`` by Lloyd's iterations from random vectors of x."""
    order = torch.randperm(max(len(x), codes), device=x.device)[:codes] % len(x)
    centres = x[order].clone()
    for _ in range(iterations):
        counts, sums = tally(x, nearest(x, centres), torch.ones_like(x[:, 0]), codes)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres


def tally(x: Tensor, index: Tensor, weight: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Return the weight of what fell to each code, ``(codes,)``, and its sum, ``(codes, dim)``."""
    counts, sums = x.new_zeros(codes), x.new_zeros(codes, x.shape[1])
    counts.index_put_((index,), weight, accumulate=True)
    return counts, sums.index_put_((index,), x * weight[:, None], accumulate=True)


class Table(nn.Module):
    """A codebook: vectors that follow what falls to them.

    Args:
        dim: size of a vector.
        codes: number of vectors.
        update: "ema" makes each vector the exponential moving average of what fell to it, Laplace-
            smoothed; "gradient" leaves it to the loss.
        decay: of the averages, for each step.
        restart: a vector that is used less than this share of the even rate is dead, and starts
            again from a random vector of the batch; 0 for never.
        kmeans: start at the centres of the first samples' vectors instead of random numbers.
        unit: keep the vectors at length 1.

    Attributes:
        learned: whether a gradient moves the vectors.
        still: whether nothing else does.
    """

    undecayed = ("weight",)
    """The vectors are points of codes, no map of them: decay would pull them off their means."""

    shares: Tensor
    sums: Tensor

    def __init__(
        self,
        dim: int,
        codes: int,
        *,
        update: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        restart: float = 0.05,
        kmeans: bool = True,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.decay, self.restart, self.kmeans, self.unit = decay, restart, kmeans, unit
        self.learned = update == "gradient"
        self.still = self.learned and not restart
        vectors = self._scaled(torch.randn(codes, dim) * dim**-0.5)
        if self.learned:
            self.weight: Tensor = nn.Parameter(vectors)
        else:
            self.register_buffer("weight", vectors)
        self.register_buffer("shares", torch.full((codes,), 1 / codes))
        self.register_buffer("sums", vectors / codes)

    def vectors(self) -> Tensor:
        """Return the code vectors, ``(codes, dim)``."""
        return self._scaled(self.weight) if self.learned else self.weight

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Place the vectors among x, ``(n, dim)``."""
        if self.kmeans:
            self._place(kmeans(x, len(self.weight)))

    @torch.no_grad()
    def follow(self, x: Tensor, index: Tensor, weight: Tensor | None = None) -> None:
        """Move towards the x that fell to each vector, and start the dead ones again.

        Averages of shares stand for averages of counts: batches count alike, whatever their size.

        Args:
            x: ``(n, dim)``, as many rows of each sample, one sample's after the other's.
            index: of the vector that each x fell to, ``(n,)``.
            weight: how much each sample counts, ``(batch,)``; None for equal weights.
        """
        codes = len(self.weight)
        rows = None if weight is None else weight.repeat_interleave(len(x) // len(weight))
        share = shares(x, rows)
        counts, sums = tally(x, index, share, codes)
        rate = (1 - self.decay) * share.sum()  # a batch that counts for nothing moves nothing
        self.shares.lerp_(counts, rate)
        if not self.learned:
            self.sums.lerp_(sums, rate)
            eps = 1e-5 / codes
            smooth = (self.shares + eps) / (1 + codes * eps)
            used = self.shares[:, None] > 100 * eps  # below, smoothing would pull towards 0
            self.weight.copy_(
                self._scaled(torch.where(used, self.sums / smooth[:, None], self.weight))
            )
        if self.restart:
            dead = self.shares < self.restart / codes
            some = x[torch.randint(len(x), (codes,), device=x.device)]
            self._place(torch.where(dead[:, None], some, self.weight), dead)

    def _place(self, vectors: Tensor, which: Tensor | None = None) -> None:
        """Put vectors, or those that are marked, in their places, as if used at the even rate."""
        codes = len(vectors)
        which = torch.ones_like(self.shares, dtype=torch.bool) if which is None else which
        self.weight.copy_(self._scaled(vectors))
        self.shares.masked_fill_(which, 1 / codes)
        self.sums.copy_(torch.where(which[:, None], self.weight / codes, self.sums))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.unit else vectors


class LinearTable(Table):
    """A codebook whose frozen random vectors pass a learned linear map, so that all move at once.

    Args:
        dim: size of a vector.
        codes: number of vectors.
    """

    def __init__(self, dim: int, codes: int) -> None:
        super().__init__(dim, codes)
        self.weight.normal_()
        self.map, self.learned, self.still = nn.Linear(dim, dim), True, True
        del self.shares, self.sums

    def vectors(self) -> Tensor:
        """Return the mapped vectors."""
        with torch.autocast(self.weight.device.type, enabled=False):
            mapped: Tensor = self.map(self.weight)
            return mapped

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Give the vectors mean and covariance of x."""
        centred = (x - x.mean(0)).double()
        values, axes = torch.linalg.eigh(centred.t() @ centred / len(x))
        self.map.weight.copy_(axes @ (values.clamp(min=1e-6).sqrt().diag() @ axes.t()))
        self.map.bias.copy_(x.mean(0))


def choose(table: Table, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return index and vector of the nearest code for each row x, and what each row costs.

    The charges are "commitment", ‖x - sg[e]‖², and "codebook", ‖sg[x] - e‖², where a gradient is
    to move the codebook.
    """
    vectors = table.vectors()
    index = nearest(x, vectors)
    e = vectors[index]
    charges = {"commitment": (x - e.detach()).square().sum(1)}
    if table.learned:
        charges["codebook"] = (x.detach() - e).square().sum(1)
    return index, e.detach(), charges
