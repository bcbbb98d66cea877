"""Sequences: recurrent networks and Transformers that read and write series and text."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.errors import ContextError, ParameterError
from narrows.parts.cores import Attention, Reader, Recurrent, Steps, Teller, Watcher, Writer
from narrows.parts.generation import (
    END,
    PADDING,
    UNKNOWN,
    Plan,
    beam,
    choose,
    flipped,
    unroll,
    within,
)
from narrows.parts.networks import ARCHITECTURES, Chance, Sizes, architecture, initialise
from narrows.parts.transformers import width_of

if TYPE_CHECKING:
    from narrows.data.sources import Batch
    from narrows.parts.likelihoods import Likelihood

__all__ = ["SequenceDecoder", "SequenceEncoder"]

BARE = (
    "A decoder with attention looks back at the steps of the sequence that it decodes, and a bare "
    "code has none. Call reconstruct(X), or set attention=False."
)
FOLLOWS = "An autoregressive decoder is scored on a target or runs by a Plan; give it one of them."
KNOWN = 64
"""How many of the training samples' lengths are kept."""


# -- encoders ----------------------------------------------------------------------------------


class SequenceEncoder(nn.Module):
    """Reads a sequence to its true end; with attention, hands on its states as context.

    Args:
        sizes: what it connects.
        steps: from samples to vectors.
        core: from the vectors of all steps to states, and what is left at the end.
        attention: whether the decoder shall look back.
    """

    def __init__(
        self, sizes: Sizes, steps: Steps, core: Reader | Watcher, attention: bool
    ) -> None:
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
            falls evenly from 1, and what it makes of the true steps before takes their place.
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
        self.chance = Chance()
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
            swapped = self.chance(out[:, :1]) < self.progress * (1 - self.teacher_forcing)
            mixed = torch.where(swapped, own.to(target.dtype), target)
            out = self.put_out(code, target.shape[2], context, mixed)
        return self.shaped(self.turned(out, lengths) if self.backwards else out)

    def put_out(
        self, code: Tensor, steps: int, context: tuple[Tensor, ...], target: Tensor | None = None
    ) -> Tensor:
        """Return what is put out for all steps at once, ``(batch, values, steps)``."""
        fed = self.fed(target) if target is not None and self.inputs is not None else None
        return self.read(
            self.core(self.beside(code, fed, steps), self.core.begin(code))[0], context
        )

    def fed(self, target: Tensor) -> Tensor:
        """Return what each step sees of the one before it, ``(batch, steps, width)``."""
        before = target[:, :, :-1]
        if self.training and self.word_dropout:
            shown = self.chance(before[:, :1]) >= self.word_dropout
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
        """Return what is put out for the step after `value`, ``(batch, values, 1)``.

        Beside it comes the state. None is before the first step.
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
    hidden: Sequence[int] | None = None,
    dropout: float = 0.0,
    bidirectional: bool = False,
    feedback: bool | None = None,
    attention: bool = False,
    reverse: bool = False,
    word_dropout: float = 0.0,
    teacher_forcing: float = 1.0,
) -> tuple[nn.Module, nn.Module]:
    """Build layers of LSTM cells (Hochreiter & Schmidhuber, 1997) or of GRUs, and their mirror.

    Gated recurrent units are Cho et al.'s, 2014.
    """
    hidden = (128,) if hidden is None else hidden
    if not hidden:
        raise ParameterError(
            f"architecture='{kind.__name__.lower()}' has a layer for each entry of 'hidden', and "
            "hidden=() leaves none. Give it a size or more."
        )
    steps, fed, inputs = read_steps(sizes, kind.__name__.lower(), feedback)
    core = Reader(kind, steps.width, hidden, dropout, bidirectional)
    writer = Writer(kind, inputs, prod(sizes.z), hidden[::-1], dropout)
    look = Attention(writer.width, core.width) if attention else None
    encoder = SequenceEncoder(sizes, steps, core, attention)
    options = (look, reverse, word_dropout, teacher_forcing)
    return encoder, SequenceDecoder(sizes, fed, writer, *options)


ARCHITECTURES["lstm"] = partial(recurrent, nn.LSTM)
ARCHITECTURES["gru"] = partial(recurrent, nn.GRU)


@architecture
def transformer(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    heads: int = 4,
    activation: str = "silu",
    dropout: float = 0.0,
    feedback: bool | None = None,
    attention: bool = False,
    reverse: bool = False,
    word_dropout: float = 0.0,
    teacher_forcing: float = 1.0,
) -> tuple[nn.Module, nn.Module]:
    """Build Transformers of a block for each entry of `hidden`, which are all of one width."""
    hidden = (64, 64) if hidden is None else hidden
    width_of(hidden, heads)
    steps, fed, inputs = read_steps(sizes, "transformer", feedback)
    options: dict[str, float | str] = {"activation": activation, "dropout": dropout}
    core = Watcher(steps.width, hidden, heads, **options)
    teller = Teller(inputs, hidden, heads, **options)
    look = Attention(teller.width, core.width) if attention else None
    encoder = SequenceEncoder(sizes, steps, core, attention)
    return encoder, SequenceDecoder(
        sizes, fed, teller, look, reverse, word_dropout, teacher_forcing
    )


def read_steps(sizes: Sizes, name: str, feedback: bool | None) -> tuple[Steps, Steps | None, int]:
    """Return how encoder and decoder read steps, and the width of what the decoder's core sees.

    Raises:
        ParameterError: a sample is no sequence.
    """
    if len(sizes.x) > 2:
        raise ParameterError(
            f"architecture='{name}' needs sequences, (channels, steps) or rows of numbers; a "
            f"sample here has the shape {sizes.x}. Set modality='series' if its rows are steps, "
            "or use architecture='conv', which most models take."
        )
    steps = Steps(sizes.x[0] if len(sizes.x) == 2 else 1, sizes.symbols)
    per = 1 if sizes.likelihood is None else sizes.likelihood.channels
    channels = sizes.out[0] // per if len(sizes.out) == 2 else 1
    fed = bool(sizes.symbols) if feedback is None else feedback
    decoded = Steps(channels, sizes.symbols) if fed else None
    return steps, decoded, prod(sizes.z) + (decoded.width if decoded is not None else 0)


# -- pieces ------------------------------------------------------------------------------------


def channels_first(x: Tensor) -> Tensor:
    """Return samples as ``(batch, channels, steps)``: a row of numbers has a single channel."""
    return x.unsqueeze(1) if x.ndim == 2 else x
