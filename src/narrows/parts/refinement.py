"""Hierarchical refinement: vectors drawn level by level, each from what those before it left."""

import torch
import torch.nn.functional as F
from torch import Tensor

from narrows.parts.categorical import OneHot, cooled, gumbel
from narrows.parts.codebooks import nearest
from narrows.parts.latents import Charges, latent
from narrows.parts.quantizers import Codebook

__all__ = ["Refinement"]


@latent
class Refinement(Codebook):
    """Sums of vectors from several codebooks, each drawn near what those before it left.

    Of what is left, r, level d takes vector i with the probability softmax(-‖r - e_i‖²). Draws are
    exact; their gradient in training is that of softmax((Gumbel noise - ‖r - e‖²) / temperature).
    Without a draw it is the nearest. The charges are "kl", the divergence from even use, and
    "norm", the mean square by which 1.5 ‖C_d‖ exceeds ‖C_d-1‖, in units of the latter.

    Args:
        dim: size of a vector.
        tokens: number of vectors; None takes a feature map's places, or `TOKENS`.
        codes: vectors in a codebook.
        quantizers: number of codebooks, the levels.
        temperature: of the relaxation when training begins.
        final_temperature: of the relaxation when it ends; in between it falls geometrically.
        depth_dropout: probability, at each level but the first, that a sample's code in training
            ends above it.
        init_decay: length of the first vectors of a level, beside that of the level above.
    """

    ratio = 1.5
    stochastic = True

    def __init__(
        self,
        dim: int,
        tokens: int | None = None,
        codes: int = 64,
        quantizers: int = 4,
        temperature: float = 1.0,
        final_temperature: float = 0.5,
        depth_dropout: float = 0.1,
        init_decay: float = 0.5,
    ) -> None:
        super().__init__(dim, tokens, codes, quantizers, update="gradient", restart=0.0)
        self.temperature, self.final_temperature = temperature, final_temperature
        self.depth_dropout, self.init_decay = depth_dropout, init_decay

    @torch.no_grad()
    def start(self, h: Tensor) -> None:
        """Give the first codebook's vectors the length of those that it will stand for."""
        length = self.rows(h).square().sum(1).mean().sqrt().clamp(min=1e-3)
        for level, table in enumerate(self.tables):
            table.weight.copy_(F.normalize(table.weight, dim=1) * length * self.init_decay**level)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Charges]:
        """Return the sums of the vectors (of the nearest in evaluation), and what they cost."""
        with torch.autocast(h.device.type, enabled=False):
            rest = self.rows(h).view(len(h), -1, self.dim)
            z, kl = torch.zeros_like(rest), rest.new_zeros(len(h))
            depth = self.depth(rest)
            for level, table in enumerate(self.tables):
                vectors = table.vectors()
                q = OneHot(2 * rest @ vectors.t() - vectors.square().sum(1))
                if self.training or noise is not None:
                    chosen = self.drawn(q, None if noise is None else noise[:, level])
                else:
                    index = nearest(rest.flatten(0, 1), vectors).view(rest.shape[:2])
                    chosen = F.one_hot(index, self.categories).to(rest.dtype)
                e, kl = chosen @ vectors, kl + q.kl().sum(1)
                z, rest = z + (depth > level)[:, None, None] * e, rest - e
            return self.as_map(z.flatten(0, 1)), {"kl": kl, "norm": self.norm()}

    def drawn(self, q: OneHot, noise: Tensor | None) -> Tensor:
        """Return exact draws as one-hot vectors, in training with the relaxation's gradient."""
        noise = gumbel(torch.empty_like(q.logits)) if noise is None else noise
        hard = q.rsample(noise)
        if not self.training:
            return hard
        heat = cooled(self.temperature, self.final_temperature, self.progress)
        soft = ((q.logits + noise) / heat).softmax(-1)
        return hard + (soft - soft.detach())

    def depth(self, rest: Tensor) -> Tensor:
        """Return how many levels each sample's code has, ``(batch,)``; in evaluation, all."""
        below = rest.new_ones(len(rest), self.quantizers - 1)
        if self.training and self.depth_dropout:
            below = (torch.rand_like(below) >= self.depth_dropout).cumprod(1)
        return 1 + below.sum(1)

    def norm(self) -> Tensor:
        """Return how far the lengths of the codebooks are from falling by the ratio, 0-d."""
        lengths = torch.stack([table.vectors().norm() for table in self.tables])
        excess = (self.ratio * lengths[1:] / lengths[:-1]).clamp(min=1) - 1
        return excess.square().sum() / max(1, len(excess))

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n draws of Gumbel noise on the CPU."""
        places = len(self.books) // self.quantizers
        return gumbel(torch.empty(n, self.quantizers, places, self.categories), generator)
