"""Generation: sequences written step by step, greedily, at random or by a beam of candidates."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from narrows.parts.sequences import SequenceDecoder

__all__ = ["END", "PADDING", "UNKNOWN", "Plan", "beam", "choose", "flipped", "unroll", "within"]

PADDING, UNKNOWN, END = 0, 1, 2
"""The numbers of the symbols that are none of the user's."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How a decoder runs on by itself, where others take a batch whose target it follows.

    Attributes:
        noise: draw from the likelihood, instead of taking its mean or most probable symbol.
        temperature: of the draws of symbols; logits are divided by it.
        beams: candidates that are kept at every step of a search for the most probable symbols.
        lengths: steps of each sample, ``(batch,)``; None where all have as many as there can be,
            and for symbols, which end by one of their own.
    """

    noise: bool = False
    temperature: float = 1.0
    beams: int = 1
    lengths: Tensor | None = None


def within(lengths: Tensor, steps: int) -> Tensor:
    """Return True for the steps that are in each sequence, ``(batch, steps)``."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def flipped(values: Tensor, lengths: Tensor | None, kept: int = 0) -> Tensor:
    """Return sequences ``(batch, steps, width)`` with their steps in the opposite order.

    Padding stays behind them, and so do the last steps that are `kept` in their places.
    """
    n, steps, width = values.shape
    if lengths is None:
        lengths = torch.full((n,), steps, device=values.device)
    place = torch.arange(steps, device=values.device)
    other = (lengths - kept)[:, None] - 1 - place
    places = torch.where(other < 0, place, other)
    return values.gather(1, places.unsqueeze(2).expand(n, steps, width))


def choose(decoder: "SequenceDecoder", out: Tensor, plan: Plan) -> Tensor:
    """Return values for what the decoder put out, ``(batch, channels, steps)``."""
    likelihood = decoder.likelihood
    if not decoder.symbols:
        made: Tensor = likelihood.sample(out) if plan.noise else likelihood.mean(out)
        return made
    logits = out.clone()
    logits[:, PADDING] = -torch.inf
    if plan.noise:
        gumbel = -torch.empty_like(logits).exponential_().log()
        logits = logits / plan.temperature + gumbel
    return logits.argmax(1, keepdim=True)


def unroll(
    decoder: "SequenceDecoder", code: Tensor, plan: Plan, context: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Write step by step, each chosen by itself; return the values and what they cost in nats."""
    state, value, made = decoder.core.begin(code), None, []
    ended = torch.zeros(len(code), dtype=torch.bool, device=code.device)
    cost = torch.zeros(len(code), device=code.device)
    for _ in range(decoder.steps):
        out, state = decoder.advance(code, value, state, context)
        value = choose(decoder, out, plan)
        if decoder.symbols:
            each = -out.log_softmax(1).gather(1, value).flatten()
            cost = cost + each.masked_fill(ended, 0)
            value = value.masked_fill(ended[:, None, None], PADDING)
            ended = ended | (value[:, 0, 0] == END)
        made.append(value)
        if ended.all():
            break
    return torch.cat(made, 2), cost


def beam(
    decoder: "SequenceDecoder", code: Tensor, plan: Plan, context: tuple[Tensor, ...]
) -> Tensor:
    """Return the most probable symbols that a beam finds; never less probable than greedy ones."""
    n, width, device = len(code), plan.beams, code.device
    greedy, cost = unroll(decoder, code, Plan(), context)
    many = code.repeat_interleave(width, 0)
    context = tuple(part.repeat_interleave(width, 0) for part in context)
    scores = torch.full((n, width), -torch.inf, device=device)
    scores[:, 0] = 0
    state, value = decoder.core.begin(many), None
    history = torch.zeros(n * width, 1, 0, dtype=torch.long, device=device)
    ended = torch.zeros(n * width, dtype=torch.bool, device=device)
    only_padding = torch.full((decoder.symbols,), -torch.inf, device=device)
    only_padding[PADDING] = 0
    first = torch.arange(n, device=device)[:, None] * width
    for _ in range(decoder.steps):
        out, state = decoder.advance(many, value, state, context)
        logs = out[:, :, 0].log_softmax(1)
        logs[:, PADDING] = -torch.inf
        logs = torch.where(ended[:, None], only_padding, logs)
        total = (scores[:, :, None] + logs.view(n, width, -1)).flatten(1)
        scores, place = total.topk(width, 1)
        rows = (first + place // decoder.symbols).flatten()
        value = (place % decoder.symbols).view(-1, 1, 1)
        history = torch.cat([history[rows], value], 2)
        state, ended = [part[rows] for part in state], ended[rows] | (value[:, 0, 0] == END)
        if ended.all():
            break
    best = history.view(n, width, -1)[:, :1]  # the candidates are in the order of their scores
    steps = max(best.shape[2], greedy.shape[2])
    best, greedy = (
        torch.nn.functional.pad(part, (0, steps - part.shape[2])) for part in (best, greedy)
    )
    return torch.where((scores[:, 0] > -cost)[:, None, None], best, greedy)
