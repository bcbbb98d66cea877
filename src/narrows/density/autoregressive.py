"""A density over discrete codes: a small causal transformer, one integer after another."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from itertools import pairwise, starmap
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["CodePrior"]

WIDTH, HEADS, LAYERS = 64, 4, 2
INTEGERS = 1024
"""Integers that a step of training reads, about."""
RATE = 2e-3
"""Highest step size of AdamW."""
STEPS, CODES, EPOCHS = 2000, 40_000, 30
"""Training ends after so many steps and codes, or after so many epochs if these come first, ..."""
CHECKS, PATIENCE = 20, 4
"""... or where so many looks at held-out codes in turn, out of so many, show no progress."""
HELD, LOOKED_AT = 500, 25_000
"""Codes that are held out at most, and the integers in them, about."""
SLICE = 512
"""Codes that are drawn at once."""


class Block(nn.Module):
    """Causal self-attention and a perceptron, each after a norm and around a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mixed, self.merged = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dense = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the next layer's input and the keys and values so far.

        Args:
            x: ``(batch, places, width)``; one place where there is a past.
            past: keys and values of the places before.
        """
        n, places, _ = x.shape
        mixed = self.mixed(self.norms[0](x)).view(n, places, 3, HEADS, -1)
        q, *kv = mixed.permute(2, 0, 3, 1, 4).unbind()
        seen = torch.stack(kv) if past is None else torch.cat([past, torch.stack(kv)], 3)
        found = F.scaled_dot_product_attention(q, seen[0], seen[1], is_causal=past is None)
        x = x + self.merged(found.transpose(1, 2).reshape(n, places, WIDTH))
        return x + self.dense(self.norms[1](x)), seen


class CodePrior(nn.Module):
    """p(code) = prod_i p(integer_i | the integers before it).

    Neural Discrete Representation Learning (van den Oord et al., 2017),
    https://arxiv.org/abs/1711.00937, section 3.3: a prior over codes is fitted when the
    autoencoder is done. It starts as the frequencies of the integers at each place, and learns
    how they depend on one another; an integer that a place never held has no probability there.

    Args:
        places: integers in a code.
        symbols: different integers that occur, those of different codebooks told apart.
    """

    alphabet: Tensor
    counts: Tensor
    offset: Tensor

    def __init__(self, places: int, symbols: int) -> None:
        super().__init__()
        self.register_buffer("alphabet", torch.zeros(symbols, dtype=torch.long))
        self.register_buffer("counts", torch.zeros(places, symbols))
        self.register_buffer("offset", torch.zeros(places, dtype=torch.long))
        self.embedding = nn.Embedding(symbols, WIDTH)
        self.place = nn.Parameter(0.5 * torch.randn(places, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, symbols, bias=False)
        nn.init.zeros_(self.head.weight)

    @classmethod
    def fit(cls, codes: NDArray[np.int32], books: tuple[int, ...], seed: int = 0) -> Self:
        """Fit to integer codes ``(n, places)``; `books` tells each place's codebook."""
        offset = np.array(books, dtype=np.int64) * (int(codes.max()) + 1)
        alphabet, symbols = np.unique(codes + offset, return_inverse=True)
        symbols = torch.from_numpy(symbols.reshape(codes.shape))
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            prior = cls(codes.shape[1], len(alphabet))
            prior.alphabet.copy_(torch.from_numpy(alphabet))
            prior.offset.copy_(torch.from_numpy(offset))
            for place, column in enumerate(symbols.T):
                prior.counts[place] = torch.bincount(column, minlength=len(alphabet)).float()
            prior._train(symbols)
        return prior.eval()

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the prior whose `state_dict` this is."""
        places, symbols = state["counts"].shape
        with torch.device("meta"):
            prior = cls(places, symbols)
        prior.load_state_dict(dict(state), assign=True)
        return prior.eval()

    def log_prob(self, codes: NDArray[Any]) -> Tensor:
        """Return log p(code) in nats, ``(n,)``, of codes whose integers occurred in training."""
        keys = torch.from_numpy(np.asarray(codes, np.int64)) + self.offset
        with torch.inference_mode():
            return -self._nll(torch.searchsorted(self.alphabet, keys)).sum(1)

    @torch.inference_mode()
    def sample(self, n: int, seed: int) -> Tensor:
        """Draw n codes, ``(n, places)``; the first ones do not depend on n."""
        generator = torch.Generator().manual_seed(seed)
        places = len(self.counts)
        noise = torch.rand(n, places, generator=generator, dtype=torch.float64)
        return torch.cat([self._draw(part) for part in noise.split(SLICE)])

    @cached_property
    def _books(self) -> list[tuple[Tensor, slice, Tensor]]:
        """The places of each codebook, which symbols are its own, and their log frequencies."""
        starts = self.offset.unique()
        edges = [*torch.searchsorted(self.alphabet, starts).tolist(), len(self.alphabet)]
        places = [(self.offset == start).nonzero()[:, 0] for start in starts]
        books = zip(places, starmap(slice, pairwise(edges)), strict=True)
        return [(place, own, self.counts[place][:, own].log()) for place, own in books]

    def _draw(self, noise: Tensor) -> Tensor:
        """Turn uniform noise ``(n, places)`` into codes, by the inverse of each distribution."""
        drawn: list[Tensor] = []
        past: list[Tensor | None] = [None] * LAYERS
        books = {
            int(i): (own, log)
            for places, own, logs in self._books
            for i, log in zip(places, logs, strict=True)
        }
        for i in range(len(self.counts)):
            own, frequency = books[i]
            x = self.place[i].expand(len(noise), 1, -1)
            if drawn:
                x = x + self.embedding(drawn[-1])
            for layer, block in enumerate(self.blocks):
                x, past[layer] = block(x, past[layer])
            logits = F.linear(self.norm(x[:, 0]), self.head.weight[own]) + frequency
            chances = logits.double().softmax(1).cumsum(1)
            at = noise[:, i : i + 1] * chances[:, -1:]
            drawn.append(own.start + torch.searchsorted(chances, at, right=True))
        return self.alphabet[torch.cat(drawn, 1)] - self.offset

    def _nll(self, symbols: Tensor) -> Tensor:
        """Return -log p of every integer given those before it, ``(n, places)``, by codebooks."""
        x = F.pad(self.embedding(symbols[:, :-1]), (0, 0, 1, 0)) + self.place
        for block in self.blocks:
            x, _ = block(x)
        x, parts = self.norm(x), []
        for places, own, frequency in self._books:  # those of others have no probability there
            logits = F.linear(x[:, places], self.head.weight[own]) + frequency
            wanted = symbols[:, places] - own.start
            nll = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
            parts.append(nll.view_as(wanted))
        return torch.cat(parts, 1)

    def _train(self, symbols: Tensor) -> None:
        """Minimise the nll, and keep the weights that were best on held-out codes."""
        n, places = symbols.shape
        order = torch.randperm(n)
        held, train = symbols[order[: n // 10]], symbols[order[n // 10 :]]
        held = held[: max(HELD // 10, min(HELD, LOOKED_AT // places))]
        size = max(4, min(len(train), INTEGERS // places))
        steps = min(max(STEPS, CODES // size), EPOCHS * -(-len(train) // size))
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=0.1)
        best, kept, waited = self._score(held), deepcopy(self.state_dict()), 0
        for step in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = RATE * min(
                10 * step / steps, 1 - step / steps + 0.01
            )
            batch = train[torch.randint(len(train), (size,))]
            optimizer.zero_grad()
            self._nll(batch).mean().backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            if len(held) and (step % max(1, steps // CHECKS) == 0 or step == steps):
                score, waited = self._score(held), waited + 1
                if score < best:
                    best, kept, waited = score, deepcopy(self.state_dict()), 0
                if waited == PATIENCE:
                    break
        if len(held):
            self.load_state_dict(kept)

    @torch.no_grad()
    def _score(self, symbols: Tensor) -> float:
        """Return the mean nll of an integer; infinite for no codes."""
        return float(self._nll(symbols).mean()) if len(symbols) else float("inf")
