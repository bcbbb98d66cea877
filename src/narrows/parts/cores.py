"""Cores of sequence networks: what reads steps, what writes them, and attention between both."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from narrows.parts.generation import flipped, within
from narrows.parts.networks import Dropout, initialise
from narrows.parts.transformers import Block, blocks, waves

__all__ = ["Attention", "Reader", "Recurrent", "Steps", "Teller", "Watcher", "Writer"]

EMBEDDED = 64
"""Largest size of the vector that stands for a symbol."""
HALF_CELLS = "AVX512" in torch.backends.cpu.get_cpu_capability()
"""Whether the CPU has LSTM cells in bfloat16."""
Recurrent = type[nn.LSTM] | type[nn.GRU]
State = Tensor | tuple[Tensor, ...] | None


class Steps(nn.Module):
    """From samples to the vector of every step: a symbol's own one, and plain numbers."""

    def __init__(self, channels: int, symbols: int) -> None:
        super().__init__()
        width = min(EMBEDDED, 4 * symbols)
        self.table = nn.Embedding(symbols, width) if symbols else None
        self.width = width + channels - 1 if symbols else channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, steps, width)`` for samples ``(batch, channels, steps)``."""
        steps = x.transpose(1, 2)
        if self.table is None:
            return steps.to(torch.get_default_dtype())
        embedded: Tensor = self.table(steps[:, :, 0].long())
        return torch.cat([embedded, steps[:, :, 1:].to(embedded.dtype)], 2)


class Reader(nn.Module):
    """Recurrent layers, of which each may also read backwards from a sequence's true end."""

    def __init__(
        self, kind: Recurrent, inputs: int, hidden: Sequence[int], dropout: float, both: bool
    ) -> None:
        super().__init__()
        ways = 1 + both
        sizes = [*pairwise((inputs, *(ways * units for units in hidden)))]
        layers = [cells(kind, a, b // ways) for a, b in sizes]
        backward = [cells(kind, a, b // ways) for a, b in sizes if both]
        self.layers, self.backward = nn.ModuleList(layers), nn.ModuleList(backward)
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.width = ways * hidden[-1]

    def forward(self, steps: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the states of the last layer at every step, and what is left at the end."""
        for i, layer in enumerate(self.layers):
            steps = self.dropout(steps) if i else steps
            states = run(layer, steps)[0]
            last = at_end(states, lengths)
            if self.backward:
                back = run(self.backward[i], flipped(steps, lengths))[0]
                last = torch.cat([last, at_end(back, lengths)], 1)
                states = torch.cat([states, flipped(back, lengths)], 2)
            steps = states
        return states, last


class Blocks(nn.Module):
    """Blocks of a Transformer, and what tells them the places of steps."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], heads: int, **options: float | str
    ) -> None:
        super().__init__()
        self.width = hidden[0]
        self.bottom = initialise(nn.Linear(inputs, self.width))
        self.blocks = nn.ModuleList(blocks(len(hidden), self.width, heads, **options))
        self.norm = nn.LayerNorm(self.width)

    def placed(self, steps: Tensor, start: int = 0) -> Tensor:
        """Return the tokens of steps of which the first is at `start`."""
        places = torch.arange(start, start + steps.shape[1], device=steps.device)
        tokens: Tensor = self.bottom(steps) + waves(places[:, None], self.width, 1.0, 10_000.0)
        return tokens


class Watcher(Blocks):
    """Blocks of a Transformer whose steps all see each other; the mean of them is what is left."""

    def forward(self, steps: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the blocks make of every step, and the mean of it."""
        tokens = self.placed(steps)
        seen = None if lengths is None else within(lengths, steps.shape[1])
        for block in self.blocks:
            tokens = block(tokens, seen)
        tokens = self.norm(tokens)
        if seen is None or lengths is None:
            return tokens, tokens.mean(1)
        kept = tokens * seen.unsqueeze(2)
        return kept, kept.sum(1) / lengths[:, None]


class Writer(nn.Module):
    """Recurrent layers that start where a code says.

    Their state is ``(batch, units)`` for every layer and every part of a cell's state.
    """

    def __init__(
        self, kind: Recurrent, inputs: int, code: int, hidden: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.width, self.parts = hidden[-1], 2 if kind is nn.LSTM else 1
        self.sizes = [units for units in hidden for _ in range(self.parts)]
        self.start = initialise(nn.Linear(code, sum(self.sizes)))
        layers = [cells(kind, a, b) for a, b in pairwise((inputs, *hidden))]
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout) if dropout else nn.Identity()

    def begin(self, code: Tensor) -> list[Tensor]:
        """Return the first state."""
        return list(self.start(code).tanh().split(self.sizes, 1))

    def forward(self, steps: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return what the last layer makes of every step, and the state after them."""
        after: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            own = [part[None].contiguous() for part in state[i * self.parts :][: self.parts]]
            steps, last = run(layer, steps, tuple(own) if self.parts == 2 else own[0])
            after += [part[0] for part in (last if self.parts == 2 else (last,))]
            steps = self.dropout(steps)
        return steps, after


class Teller(Blocks):
    """Blocks of a Transformer whose steps see those before them.

    Their state is the keys and the values of those, for every block.
    """

    def begin(self, code: Tensor) -> list[Tensor]:
        """Return the first state: nothing came before."""
        del code
        return []

    def forward(self, steps: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return what the blocks make of every step, and the state after them."""
        start = state[0].shape[2] if state else 0
        tokens = self.placed(steps, start)
        after: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            tokens, seen = cast(Block, block).follow(tokens, tuple(state[2 * i : 2 * i + 2]))
            after += seen
        return self.norm(tokens), after


class Attention(nn.Module):
    """Looks from each step of a decoder at the encoder's states: c_t = sum_s α_ts h_s.

    Effective Approaches to Attention-based Neural Machine Translation (Luong et al., 2015).
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, states, bias=False)
        self.mix = nn.Linear(width + states, width)

    def weights(self, steps: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """Return α, ``(batch, steps, states)``: it sums to 1 over the states that are seen."""
        scores: Tensor = self.query(steps) @ states.mT * states.shape[2] ** -0.5
        return scores.masked_fill(~seen[:, None], -torch.inf).softmax(2)

    def forward(self, steps: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """Return the steps, each with what it saw."""
        looked = self.weights(steps, states, seen) @ states
        mixed: Tensor = self.mix(torch.cat([steps, looked], 2)).tanh()
        return mixed


def cells(kind: Recurrent, inputs: int, units: int) -> nn.LSTM | nn.GRU:
    """Return a recurrent layer whose states at first turn without growing, and are remembered."""
    layer = kind(inputs, units, batch_first=True)
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_hh"):
            for block in parameter.data.split(units):
                nn.init.orthogonal_(block)
        elif name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    if kind is nn.LSTM:  # the forget gate (Jozefowicz et al., 2015)
        nn.init.ones_(layer.get_parameter("bias_ih_l0").data[units : 2 * units])
    return layer


def run(layer: nn.Module, steps: Tensor, state: State = None) -> tuple[Tensor, Any]:
    """Return a recurrent layer's states and what is left, in full where it cannot in bfloat16.

    Torch has LSTM cells in bfloat16 for CPUs with AVX-512 alone, and fails on others.
    """
    device = steps.device.type
    halved = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    if device != "cpu" or HALF_CELLS or halved is not torch.bfloat16:
        made: tuple[Tensor, Any] = layer(steps, state)
        return made
    full = layer.get_parameter("weight_ih_l0").dtype
    if state is not None:
        state = tuple(p.to(full) for p in state) if isinstance(state, tuple) else state.to(full)
    with torch.autocast(device, enabled=False):
        made = layer(steps.to(full), state)
    return made


def at_end(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the states at each sequence's last true step."""
    if lengths is None:
        return states[:, -1]
    return states[torch.arange(len(states), device=states.device), lengths - 1]
