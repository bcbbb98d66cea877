"""Sequences: recurrent networks and Transformers that read and write series and text."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ContextError, ParameterError
from narrows.parts.generation import END, PADDING, UNKNOWN, Plan, beam, choose, flipped, unroll, within
from narrows.parts.networks import EMBEDDING, Dropout, Sizes, architecture, initialise
from narrows.parts.transformers import Block, blocks

if TYPE_CHECKING:
    from narrows.data.sources import Batch
    from narrows.parts.likelihoods import Likelihood

__all__ = ["Attention", "SequenceDecoder", "SequenceEncoder"]

BARE = (
    "A decoder with attention looks back at the steps of the sequence that it decodes, and a bare "
    "code has none. Call reconstruct(X), or set attention=False."
)
FOLLOWS = "An autoregressive decoder is scored on a target or runs by a Plan; give it one of them."
EMBEDDED = 64
"""Largest size of the vector that stands for a symbol."""
KNOWN = 64
"""How many of the training samples' lengths are kept."""
EMBEDDING |= {"gru", "lstm", "transformer"}
Recurrent = type[nn.LSTM] | type[nn.GRU]


# -- encoders ----------------------------------------------------------------------------------


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
            states = layer(steps)[0]
            last = at_end(states, lengths)
            if self.backward:
                back = self.backward[i](flipped(steps, lengths))[0]
                last = torch.cat([last, at_end(back, lengths)], 1)
                states = torch.cat([states, flipped(back, lengths)], 2)
            steps = states
        return states, last


class Watcher(nn.Module):
    """Blocks of a Transformer whose steps all see each other; the mean of them is what is left."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], heads: int, **options: float | str
    ) -> None:
        super().__init__()
        self.width = hidden[0]
        self.bottom = initialise(nn.Linear(inputs, self.width))
        self.blocks = nn.ModuleList(blocks(len(hidden), self.width, heads, **options))
        self.norm = nn.LayerNorm(self.width)

    def forward(self, steps: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the blocks make of every step, and the mean of it."""
        tokens = self.bottom(steps) + waves(steps.shape[1], self.width, steps)
        seen = None if lengths is None else within(lengths, steps.shape[1])
        for block in self.blocks:
            tokens = block(tokens, seen)
        tokens = self.norm(tokens)
        if seen is None or lengths is None:
            return tokens, tokens.mean(1)
        kept = tokens * seen.unsqueeze(2)
        return kept, kept.sum(1) / lengths[:, None]


class SequenceEncoder(nn.Module):
    """Reads a sequence to its true end; with attention, hands on its states as context.

    Args:
        sizes: what it connects.
        steps: from samples to vectors.
        core: from the vectors of all steps to states, and what is left at the end.
        attention: whether the decoder shall look back.
    """

    def __init__(self, sizes: Sizes, steps: Steps, core: Reader | Watcher, attention: bool):
        super().__init__()
        self.steps, self.core, self.attention = steps, core, attention
        self.top = initialise(nn.Linear(core.width, prod(sizes.h)))
        self.shape = sizes.h

    def forward(self, batch: "Batch") -> Tensor | tuple[Tensor, ...]:
        """Return h, or ``(h, states, seen)``."""
        x = channels_first(batch.x)
        states, last = self.core(self.steps(x), batch.lengths)
        h = self.top(last).view(-1, *self.shape)
        if not self.attention:
            return cast(Tensor, h)
        full = torch.full((len(x),), x.shape[2], device=x.device)
        return h, states, within(full if batch.lengths is None else batch.lengths, x.shape[2])


# -- decoders ----------------------------------------------------------------------------------


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
            steps, last = layer(steps, tuple(own) if self.parts == 2 else own[0])
            after += [part[0] for part in (last if self.parts == 2 else (last,))]
            steps = self.dropout(steps)
        return steps, after


class Teller(nn.Module):
    """Blocks of a Transformer whose steps see those before them.

    Their state is the keys and the values of those, for every block.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], heads: int, **options: float | str
    ) -> None:
        super().__init__()
        self.width = hidden[0]
        self.bottom = initialise(nn.Linear(inputs, self.width))
        self.blocks = nn.ModuleList(blocks(len(hidden), self.width, heads, **options))
        self.norm = nn.LayerNorm(self.width)

    def begin(self, code: Tensor) -> list[Tensor]:
        """Return the first state: nothing came before."""
        del code
        return []

    def forward(self, steps: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return what the blocks make of every step, and the state after them."""
        start = state[0].shape[2] if state else 0
        tokens = self.bottom(steps) + waves(steps.shape[1], self.width, steps, start)
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
        scores = self.query(steps) @ states.mT * states.shape[2] ** -0.5
        return scores.masked_fill(~seen[:, None], -torch.inf).softmax(2)

    def forward(self, steps: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        """Return the steps, each with what it saw."""
        looked = self.weights(steps, states, seen) @ states
        mixed: Tensor = self.mix(torch.cat([steps, looked], 2)).tanh()
        return mixed


class SequenceDecoder(nn.Module):
    """Writes a sequence from a code, which it sees at every step.

    With feedback a step also sees the ones before it: p(x_t | z, x_<t). It is scored on the
    target's own steps, and runs by a `Plan` on what it wrote itself. Without, p(x_t | z).

    Args:
        sizes: what it connects.
        steps: from values to vectors; None without feedback.
        core: from the vectors of steps to features.
        attention: how the features look at the encoder's states, or None.
        backwards: write the last step first (but the symbol that ends a text stays the last).
        word_dropout: share of the steps fed back that are hidden in training.
        teacher_forcing: share of the true steps among those fed back, at the end of training; it
            falls evenly from 1, and what the decoder itself would have written takes their place.
    """

    progress: Tensor
    lengths: Tensor

    def __init__(
        self,
        sizes: Sizes,
        steps: Steps | None,
        core: Writer | Teller,
        attention: Attention | None,
        backwards: bool,
        word_dropout: float,
        teacher_forcing: float,
    ) -> None:
        super().__init__()
        self.out, self.symbols, self._likelihood = sizes.out, sizes.symbols, (sizes.likelihood,)
        self.inputs, self.core, self.attention = steps, core, attention
        self.backwards, self.word_dropout = backwards, word_dropout
        self.teacher_forcing = teacher_forcing
        if steps is not None:
            self.start = nn.Parameter(0.1 * torch.randn(steps.width))
        per = 1 if sizes.likelihood is None else sizes.likelihood.channels
        self.steps = sizes.out[-1] if len(sizes.out) == 2 else sizes.out[0] // per
        wide = sizes.out[0] if len(sizes.out) == 2 else per
        self.head = initialise(nn.Linear(core.width, wide))
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        self.register_buffer("lengths", torch.full((KNOWN,), self.steps))

    @property
    def likelihood(self) -> "Likelihood":
        """What reads the output; it belongs to the net."""
        return cast("Likelihood", self._likelihood[0])

    def forward(self, z: Tensor, batch: "Batch | Plan | None" = None, *context: Tensor) -> Tensor:
        """Return what the likelihood reads of a batch's target; by a plan, values.

        Raises:
            ContextError: attention has no states to look at, or feedback no target.
        """
        if self.attention is not None and not context:
            raise ContextError(BARE)
        code = z.flatten(1)
        if isinstance(batch, Plan):
            return self.generate(code, batch, context)
        if batch is None:
            if self.inputs is not None:
                raise ContextError(FOLLOWS)
            return self.shaped(self.put_out(code, self.steps, context))
        target, lengths = channels_first(batch.target), batch.lengths
        if self.backwards:
            target = self.turned(target, lengths)
        out = self.put_out(code, target.shape[2], context, target)
        if self.training and self.teacher_forcing < 1 and self.inputs is not None:
            with torch.no_grad():
                own = choose(self, out, Plan())
            swapped = torch.rand_like(out[:, :1]) < self.progress * (1 - self.teacher_forcing)
            mixed = torch.where(swapped, own.to(target.dtype), target)
            out = self.put_out(code, target.shape[2], context, mixed)
        return self.shaped(self.turned(out, lengths) if self.backwards else out)

    def put_out(
        self, code: Tensor, steps: int, context: tuple[Tensor, ...], target: Tensor | None = None
    ) -> Tensor:
        """Return what is put out for all steps at once, ``(batch, values, steps)``."""
        fed = self.fed(target) if target is not None and self.inputs is not None else None
        return self.read(self.core(self.beside(code, fed, steps), self.core.begin(code))[0], context)

    def fed(self, target: Tensor) -> Tensor:
        """Return the vector that each step sees of the one before it: ``(batch, steps, width)``."""
        before = target[:, :, :-1]
        if self.training and self.word_dropout:
            shown = torch.rand(before[:, :1].shape, device=before.device) >= self.word_dropout
            before = torch.where(shown, before, UNKNOWN if self.symbols else 0)
        vectors = cast(Steps, self.inputs)(before)
        return torch.cat([self.start.expand(len(target), 1, -1).to(vectors.dtype), vectors], 1)

    def beside(self, code: Tensor, fed: Tensor | None, steps: int) -> Tensor:
        """Return the code at every step, and what is fed back beside it."""
        every = code.unsqueeze(1).expand(-1, steps, -1)
        return every if fed is None else torch.cat([fed, every.to(fed.dtype)], 2)

    def read(self, features: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """Return what is put out for features of steps."""
        if self.attention is not None:
            states, seen, *_ = context
            features = self.attention(features, states, seen)
        out: Tensor = self.head(features)
        return out.transpose(1, 2)

    def advance(
        self,
        code: Tensor,
        value: Tensor | None,
        state: list[Tensor],
        context: tuple[Tensor, ...],
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what is put out for the step after `value`, ``(batch, values, 1)``, and the state.

        None is before the first step.
        """
        steps = cast(Steps, self.inputs)
        fed = self.start.expand(len(code), 1, -1) if value is None else steps(value)
        features, state = self.core(self.beside(code, fed, 1), state)
        return self.read(features, context), state

    def generate(self, code: Tensor, plan: Plan, context: tuple[Tensor, ...]) -> Tensor:
        """Return values by a plan, as wide as a sequence can be.

        Behind the end they are NaN, or the symbol of padding.
        """
        if self.inputs is None:
            made = choose(self, self.put_out(code, self.steps, context), plan)
        elif self.symbols and plan.beams > 1 and not plan.noise:
            made = beam(self, code, plan, context)
        else:
            made = unroll(self, code, plan, context)[0]
        lengths, steps = plan.lengths, made.shape[2]
        if self.symbols:
            going = (made[:, 0] != END).long().cumprod(1).sum(1)
            lengths = (going + 1).clamp(max=steps)
        if self.backwards:
            made = self.turned(made, lengths)
        made = F.pad(made, (0, self.steps - steps))
        if lengths is not None:
            beyond = ~within(lengths, self.steps)[:, None]
            made = made.masked_fill(beyond, PADDING if self.symbols else torch.nan)
        return made if len(self.out) == 2 else made[:, 0]

    def turned(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Return values with their steps in the opposite order."""
        kept = 1 if self.symbols else 0
        return flipped(values.transpose(1, 2), lengths, kept).transpose(1, 2)

    def shaped(self, out: Tensor) -> Tensor:
        """Return the output in the shape that the likelihood reads."""
        return out if len(self.out) == 2 else out.flatten(1)

    @torch.no_grad()
    def know(self, lengths: Tensor) -> None:
        """Keep evenly chosen ones of the training samples' lengths."""
        places = torch.linspace(0, len(lengths) - 1, KNOWN).round().long()
        self.lengths.copy_(lengths.cpu().sort().values[places])


# -- architectures -----------------------------------------------------------------------------


def recurrent(
    kind: Recurrent,
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None,
    dropout: float,
    bidirectional: bool,
    feedback: bool | str,
    attention: bool,
    reverse: bool,
    word_dropout: float,
    teacher_forcing: float,
) -> tuple[nn.Module, nn.Module]:
    """Build a recurrent encoder and decoder."""
    hidden = hidden or (128,)
    steps, fed, inputs = read_steps(sizes, kind.__name__.lower(), feedback)
    core = Reader(kind, steps.width, hidden, dropout, bidirectional)
    writer = Writer(kind, inputs, prod(sizes.z), hidden[::-1], dropout)
    look = Attention(writer.width, core.width) if attention else None
    encoder = SequenceEncoder(sizes, steps, core, attention)
    options = (look, reverse, word_dropout, teacher_forcing)
    return encoder, SequenceDecoder(sizes, fed, writer, *options)


@architecture
def lstm(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    dropout: float = 0.0,
    bidirectional: bool = False,
    feedback: bool | str = "auto",
    attention: bool = False,
    reverse: bool = False,
    word_dropout: float = 0.0,
    teacher_forcing: float = 1.0,
) -> tuple[nn.Module, nn.Module]:
    """Build layers of LSTM cells (Hochreiter & Schmidhuber, 1997), and their mirror."""
    return recurrent(
        nn.LSTM,
        sizes,
        hidden=hidden,
        dropout=dropout,
        bidirectional=bidirectional,
        feedback=feedback,
        attention=attention,
        reverse=reverse,
        word_dropout=word_dropout,
        teacher_forcing=teacher_forcing,
    )


@architecture
def gru(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    dropout: float = 0.0,
    bidirectional: bool = False,
    feedback: bool | str = "auto",
    attention: bool = False,
    reverse: bool = False,
    word_dropout: float = 0.0,
    teacher_forcing: float = 1.0,
) -> tuple[nn.Module, nn.Module]:
    """Build layers of gated recurrent units (Cho et al., 2014), and their mirror."""
    return recurrent(
        nn.GRU,
        sizes,
        hidden=hidden,
        dropout=dropout,
        bidirectional=bidirectional,
        feedback=feedback,
        attention=attention,
        reverse=reverse,
        word_dropout=word_dropout,
        teacher_forcing=teacher_forcing,
    )


@architecture
def transformer(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    heads: int = 4,
    activation: str = "silu",
    dropout: float = 0.0,
    feedback: bool | str = "auto",
    attention: bool = False,
    reverse: bool = False,
    word_dropout: float = 0.0,
    teacher_forcing: float = 1.0,
) -> tuple[nn.Module, nn.Module]:
    """Build Transformers of a block for each entry of `hidden`, which are all of one width."""
    hidden = hidden or (64, 64)
    if len(set(hidden)) > 1 or hidden[0] % heads:
        raise ParameterError(
            f"With architecture='transformer' the sizes in 'hidden' must be alike, and 'heads' "
            f"must divide them. Got hidden={tuple(hidden)} and heads={heads}."
        )
    steps, fed, inputs = read_steps(sizes, "transformer", feedback)
    options: dict[str, float | str] = {"activation": activation, "dropout": dropout}
    core = Watcher(steps.width, hidden, heads, **options)
    teller = Teller(inputs, hidden, heads, **options)
    look = Attention(teller.width, core.width) if attention else None
    encoder = SequenceEncoder(sizes, steps, core, attention)
    return encoder, SequenceDecoder(
        sizes, fed, teller, look, reverse, word_dropout, teacher_forcing
    )


def read_steps(sizes: Sizes, name: str, feedback: bool | str) -> tuple[Steps, Steps | None, int]:
    """Return how encoder and decoder read steps, and the width of what the decoder's core sees.

    Raises:
        ParameterError: a sample is no sequence.
    """
    if len(sizes.x) > 2:
        raise ParameterError(
            f"architecture='{name}' needs sequences, (channels, steps) or rows of numbers; a "
            f"sample here has the shape {sizes.x}. Use architecture='conv'."
        )
    steps = Steps(sizes.x[0] if len(sizes.x) == 2 else 1, sizes.symbols)
    per = 1 if sizes.likelihood is None else sizes.likelihood.channels
    channels = sizes.out[0] // per if len(sizes.out) == 2 else 1
    fed = bool(sizes.symbols) if feedback == "auto" else bool(feedback)
    decoded = Steps(channels, sizes.symbols) if fed else None
    return steps, decoded, prod(sizes.z) + (decoded.width if decoded is not None else 0)


# -- pieces ------------------------------------------------------------------------------------


def channels_first(x: Tensor) -> Tensor:
    """Return samples as ``(batch, channels, steps)``: a row of numbers has a single channel."""
    return x.unsqueeze(1) if x.ndim == 2 else x


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
        nn.init.ones_(layer.bias_ih_l0.data[units : 2 * units])
    return layer


def at_end(states: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the states at each sequence's last true step."""
    if lengths is None:
        return states[:, -1]
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def waves(steps: int, width: int, like: Tensor, start: int = 0) -> Tensor:
    """Return sines and cosines of the places of steps, ``(steps, width)``."""
    each = -(-width // 2)
    rates = 10_000.0 ** -(torch.arange(each, device=like.device) / each)
    angles = torch.arange(start, start + steps, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
