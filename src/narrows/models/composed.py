"""The product of the parts as plain data: any architecture, latent, likelihood and penalties."""

from collections.abc import Iterator
from typing import Annotated, Any

from narrows.assembly import refuse_symbols
from narrows.base import BaseAutoencoder
from narrows.data.corruption import CORRUPTIONS, corrupted
from narrows.data.modalities import Modality
from narrows.data.sources import Batch, InMemory
from narrows.errors import ParameterError, nearest
from narrows.fields import NonNegative, OneOf, Unless
from narrows.net import Move, Net, Step, Terms
from narrows.parts.latents import LATENTS, Latent, new_latent
from narrows.parts.penalties import PENALTIES, keep_range, note_range, refuse_mixing

__all__ = ["ComposedAutoencoder"]


class ComposedAutoencoder(BaseAutoencoder):
    """Parts named in plain data, for searches over the whole grid.

    -log p(x | z) + sum_c charges_c + sum_p weight_p * penalty_p

    Use it to search the whole grid of parts from plain data; not where a named model says the same
    in fewer words.

    Args:
        code: name of the latent.
        code_options: what the latent takes beside its size.
        charges: weights of what the latent charges, by name; 1 where none is given.
        penalties: weights of penalties, by name.
        corruption: what is done to the encoder's input in training; None does nothing.
        noise: amount of the corruption.

    References:
        Representation Learning: A Review and New Perspectives (Bengio, Courville & Vincent,
        2013), https://arxiv.org/abs/1206.5538

    >>> from narrows import ComposedAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = ComposedAutoencoder(
    ...     code="gaussian", charges={"kl": 0.5}, penalties={"jacobian": 0.1}, epochs=20
    ... )
    >>> sorted(model.fit(X).history_[0])[:5]
    ['epoch', 'jacobian', 'kl', 'learning_rate', 'loss']
    """

    code: Annotated[str, OneOf(LATENTS)] = "point"
    code_options: dict[str, Any] | None = None
    charges: dict[str, NonNegative] | None = None
    penalties: dict[str, NonNegative] | None = None
    corruption: Annotated[str, OneOf(CORRUPTIONS)] | None = None
    noise: Annotated[NonNegative, Unless("corruption", None)] = 0.3

    def latent(self) -> Latent:
        """Return the named latent."""
        return new_latent(self.code, self.latent_dim, self.code_options or {})

    def build(self, modality: Modality) -> Net:
        """Refuse an encoder that mixes samples where a Jacobian is asked for."""
        net = super().build(modality)
        penalties = set(self.penalties or {})
        if {"decoder_jacobian", "jacobian", "jacobian_exact"} & penalties:
            refuse_mixing(self, net)
        if self.corruption is not None or {"jacobian", "jacobian_exact"} & penalties:
            refuse_symbols(self, modality)
        if "ms_ssim" in penalties:
            keep_range(net, modality.shape)
        return net

    def prepare(self, source: InMemory) -> None:
        """Note the range of images whose structures are compared."""
        if "ms_ssim" in (self.penalties or {}):
            note_range(self.net_, source)

    def objective(self, step: Step) -> Terms:
        """Weigh the charges and add the penalties."""
        terms = {"nll": step.nll, **step.charges}
        for name, weight in (self.charges or {}).items():
            terms[name] = weight * self._known(name, step.charges, "charges")
        for name, weight in (self.penalties or {}).items():
            terms[name] = weight * self._known(name, PENALTIES, "penalties")(self.net_, step)
        return terms

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Corrupt the encoder's input where asked to."""
        return super().losses(corrupted(batch, self.corruption, self.noise))

    def _known(self, name: str, options: dict[str, Any], field: str) -> Any:
        if name not in options:
            raise ParameterError(
                f"The '{field}' parameter of ComposedAutoencoder names '{name}', which is not one "
                f"of {sorted(options)}.{nearest(name, options)}"
            )
        return options[name]
