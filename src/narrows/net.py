"""Net = encoder -> latent -> decoder -> likelihood, and Step, the record of one pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from narrows.data.sources import Batch
from narrows.parts.conditions import ConditionedEncoder
from narrows.parts.generation import Plan
from narrows.parts.latents import Latent, Posterior
from narrows.parts.likelihoods import Likelihood
from narrows.parts.sequences import SequenceDecoder, SequenceEncoder

__all__ = [
    "Move",
    "Net",
    "Player",
    "Running",
    "Stage",
    "Step",
    "Terms",
    "forms",
    "outline",
    "settled",
]

Terms = dict[str, Tensor]
"""Named parts of a loss: ``(batch,)``, or 0-d for a statistic of the whole batch."""
Player = tuple[list[nn.Module], dict[str, Any]]
"""The modules that one player trains, and its optimizer's options (``learning_rate``, ...)."""


@dataclass(frozen=True, eq=False)
class Step:
    """The record of one pass; objectives only read it.

    Attributes:
        batch: what came in.
        h: what the encoder put out, ``(batch, *latent.width)``.
        q: the posterior, or None for a point code.
        z: the code, ``(batch, *latent.code_shape)``.
        out: what the decoder put out.
        nll: -log p(target | z) in nats, ``(batch,)``, or ``(particles, batch)``.
        charges: what the latent costs, by name.
        progress: how far training is, 0-d in [0, 1]; it drives every schedule.
    """

    batch: Batch
    h: Tensor
    q: Posterior | None
    z: Tensor
    out: Tensor
    nll: Tensor
    charges: Terms
    progress: Tensor

    def charging(self, **charges: Tensor) -> "Step":
        """Return this step with further charges, or with others of a name."""
        return replace(self, charges=self.charges | charges)


class Move(NamedTuple):
    """One player's turn: what it pays, and the pass behind it if running state follows from it."""

    player: str
    terms: Terms
    step: Step | None = None


class Running(nn.Module):
    """A child of a net whose state follows training: a multiplier, a running statistic."""

    incomparable = ""
    """Why the losses of epochs do not compare with one another; "" where they do."""

    def follow(self, step: Step) -> None:
        """Change the state, once for each optimizer step; without gradients."""
        raise NotImplementedError


class Net(nn.Module):
    """An encoder, a latent, a decoder and a likelihood in their order.

    Children named ``critic...`` play against the rest.
    """

    progress: Tensor
    paid: tuple[str, ...] = ("kl",)
    """How the names of charges begin that belong to the bound on log p(x)."""

    def __init__(
        self, encoder: nn.Module, latent: Latent, decoder: nn.Module, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.encoder, self.latent = encoder, latent
        self.decoder, self.likelihood = decoder, likelihood
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    @property
    def parts(self) -> tuple[nn.Module, Latent, nn.Module, Likelihood]:
        """Encoder, latent, decoder and likelihood, from which another net can be made."""
        return self.encoder, self.latent, self.decoder, self.likelihood

    def adopt(self, net: "Net") -> None:
        """Take over all children of a net that this one was made of, in their order."""
        for name, child in net.named_children():
            self.add_module(name, child)

    def forward(self, batch: Batch, noise: Tensor | None = None) -> Step:
        """Run one pass; `noise` fixes the latent's draw, also in evaluation."""
        h, context = self.encode(batch)
        return self.complete(batch, h, context, noise)

    def encode(self, batch: Batch) -> tuple[Tensor, tuple[Any, ...]]:
        """Return h and the context that the decoder gets beside the code."""
        h = self.encoder(batch)
        return (h[0], h[1:]) if isinstance(h, tuple) else (h, ())

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Go on from h to the end of the pass."""
        z, charges = self.latent(h, noise)
        out = self.decoded(z, batch, *context)
        nll = self.likelihood.nll(out, batch.target, batch.mask)
        return Step(batch, h, self.latent.posterior(h), z, out, nll, charges, self.progress)

    def code(self, batch: Batch) -> Tensor:
        """Return the deterministic code, ``(batch, *code_shape)``."""
        return self.latent.mean(self.encode(batch)[0])

    def look(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return what is remembered of the codes, and each unit's KL or None, both flat."""
        h, _ = self.encode(batch)
        return self.latent.pack(h), None if self.latent.categories else self.latent.unit_kl(h)

    def condition(self, batch: Batch) -> Tensor | None:
        """Return each sample's condition, guessed where it is unknown; None without any."""
        return batch.condition

    def place(self, batch: Batch) -> Tensor:
        """Return what a sample is decoded from: its flat code, and its condition if any."""
        code, condition = self.code(batch).flatten(1), self.condition(batch)
        return code if condition is None else torch.cat([code, condition], 1)

    def encoding(self, step: Step) -> Callable[[Tensor], Tensor]:
        """Return x -> deterministic code for the step's batch, to be differentiated."""
        return lambda x: self.code(replace(step.batch, x=x))

    def decoded(self, z: Tensor, batch: Batch | None = None, *context: Any) -> Tensor:
        """Return what the decoder puts out for codes, with the context that it needs."""
        out: Tensor = self.decoder(self.latent.seen(z), batch, *context)
        return out

    def decode(self, z: Tensor) -> Tensor:
        """Return E[x | z] for bare codes."""
        return self.generate(z, Plan())

    def generate(self, z: Tensor, plan: Plan, *context: Any) -> Tensor:
        """Return samples for codes, in the target's units: E[x | z], or what the plan says.

        A decoder of sequences runs on by itself, each step following from the ones it wrote.
        """
        if self.writer is None:
            out = self.decoded(z, None, *context)
            return self.likelihood.sample(out) if plan.noise else self.likelihood.mean(out)
        made: Tensor = self.decoder(self.latent.seen(z), plan, *context)
        return made

    def reconstruct(self, batch: Batch, plan: Plan) -> Tensor:
        """Return what the net makes of samples, in the target's units; sequences as they are long.

        No step of a sequence is decoded from the true ones before it.
        """
        batch = replace(batch, condition=self.condition(batch), known=None)
        h, context = self.encode(batch)
        z, _ = self.latent(h)
        if self.writer is None:
            return self.likelihood.mean(self.decoded(z, batch, *context))
        return self.generate(z, replace(plan, lengths=batch.lengths), *context)

    @property
    def writer(self) -> SequenceDecoder | None:
        """The decoder where it writes sequences, whatever it is wrapped in; else None."""
        modules = self.decoder.modules()
        return next((m for m in modules if isinstance(m, SequenceDecoder)), None)

    @property
    def takes_any_length(self) -> bool:
        """Whether sequences of a batch need only be padded to the longest one of it."""
        inner = (
            self.encoder.children()
            if isinstance(self.encoder, ConditionedEncoder)
            else (self.encoder,)
        )
        return self.writer is not None and any(isinstance(m, SequenceEncoder) for m in inner)

    def lengths(self, n: int | None = None) -> Tensor | None:
        """Return n lengths like those of the training samples, or their median; None if all equal.

        They are drawn from torch's random state.
        """
        if self.writer is None or self.writer.symbols:
            return None
        known = self.writer.lengths
        if (known == self.writer.steps).all():
            return None
        draws = torch.tensor([len(known) // 2]) if n is None else torch.randint(len(known), (n,))
        return known[draws.to(known.device)]

    def elbo(self, batch: Batch, noise: Tensor | None) -> Tensor:
        """Return the bound on log p(x) in nats, ``(batch,)``: -nll - kl, in expectation over z.

        Args:
            batch: samples.
            noise: ``(draws, *code_shape)``, the same for every sample; None scores at the code's
                mean, which is no bound.
        """
        h, context = self.encode(batch)
        draws: Sequence[Tensor | None] = [None]
        if noise is not None and self.latent.stochastic:
            draws = self.draws(noise, batch)
        steps = (self.complete(batch, h, context, draw) for draw in draws)
        bounds = [
            -step.nll
            - sum(cost for name, cost in step.charges.items() if name.startswith(self.paid))
            for step in steps
        ]
        return torch.stack(bounds).mean(0)

    def draws(self, noise: Tensor, batch: Batch) -> list[Tensor]:
        """Return each draw's noise for the samples of a batch: one for all of them."""
        del batch
        return list(noise.split(1))

    @torch.no_grad()
    def statistics(self, step: Step) -> Terms:
        """Return what the history shows beside the terms: 0-d each, in the modality's units."""
        square = self.likelihood.error(step.out, step.batch.target)
        if step.batch.mask is not None:
            square = square * step.batch.mask / step.batch.mask.mean().clamp(min=1e-6)
        return {"mse": square.mean()} | self.latent.statistics(step.h)

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Change running state (scales, codebooks), once for each optimizer step."""
        batch = step.batch
        self.likelihood.update(step.nll, batch.target, batch.mask, batch.weight)
        self.latent.update(step.h, step.z, batch.weight)
        for child in self.children():
            if isinstance(child, Running):
                child.follow(step)

    def copies(self, known: Tensor | None) -> int:
        """Return how often a pass reads each sample, given whose condition is known."""
        del known
        return 1

    def networks(self) -> list[nn.Module]:
        """Return what treats every sample by itself: processes share the samples between them."""
        return [self.encoder, self.decoder]

    def players(self) -> dict[str, Player]:
        """Return ``{name: (modules, optimizer options)}``: disjoint, covering all parameters."""
        critics = {name for name, _ in self.named_children() if name.startswith("critic")}
        rest = [child for name, child in self.named_children() if name not in critics]
        players: dict[str, Player] = {"autoencoder": (rest, {})}
        return players | {name: ([self.get_submodule(name)], {}) for name in sorted(critics)}


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of training, with optimizers and a course of the learning rate of its own.

    `step.progress` goes from 0 to 1 in each.

    Attributes:
        net: what trains: the model's net, or one made of its modules. The rest of it is left as it
            is, in evaluation mode.
        players: who trains what of it.
        losses: the players' moves on a batch.
        start: the epoch that it begins with; it ends where the next one begins.
    """

    net: Net
    players: dict[str, Player]
    losses: Callable[[Batch], Iterator[Move]]
    start: int = 0


def forms(state: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of tensors by name."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}


def outline(net: Net) -> tuple[Any, ...]:
    """Return what two nets of one structure have in common, whatever their weights."""
    modules = {name: settled(vars(module)) for name, module in net.named_modules()}
    tensors = forms(dict(chain(net.named_parameters(), net.named_buffers())))
    return repr(net), tensors, modules


def settled(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those attributes that are plain values, which no tensor can stand for."""
    return {name: value for name, value in attributes.items() if plain(value)}


def plain(value: Any) -> bool:
    """Tell whether a value is a number, a text, or a collection of them."""
    if isinstance(value, Mapping):
        return plain([*value.items()])
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic)
