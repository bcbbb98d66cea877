"""The product of the parts as plain data: any architecture, latent, likelihood and penalties."""

from typing import Annotated, Any

from narrows.errors import ParameterError, nearest
from narrows.fields import NonNegative, OneOf
from narrows.models.plain import _Corrupting
from narrows.net import Step, Terms
from narrows.parts.latents import LATENTS, Latent, new_latent
from narrows.parts.penalties import PENALTIES

__all__ = ["ComposedAutoencoder"]


class ComposedAutoencoder(_Corrupting):
    """Parts named in plain data, for searches over the whole grid.

    -log p(x | z) + sum_c charges_c + sum_p weight_p * penalty_p

    Use it to search the whole grid of parts from plain data; not where a named model says the same
    in fewer words.

    Args:
        code: name of the latent.
        code_options: what the latent takes beside its size.
        charges: weights of what the latent charges, by name; 1 where none is given.
        penalties: weights of penalties, by name.

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
    penalties: dict[Annotated[str, OneOf(PENALTIES)], NonNegative] | None = None

    def latent(self) -> Latent:
        """Return the named latent."""
        return new_latent(self.code, self.latent_dim, self.code_options or {})

    def charge_weights(self, step: Step) -> dict[str, float]:
        """Return the weights of charges, each of which must be one of the latent's."""
        weights = self.charges or {}
        refuse_unknown(weights, step.charges)
        return weights

    def penalty_weights(self) -> dict[str, float]:
        """Return the weights of the penalties, by name."""
        return self.penalties or {}


def refuse_unknown(weights: dict[str, float], charges: Terms) -> None:
    """Refuse weights of what the latent does not charge."""
    for name in weights:
        if name not in charges:
            raise ParameterError(
                f"The 'charges' parameter of ComposedAutoencoder names '{name}', which is not "
                f"one of {sorted(charges)}.{nearest(name, charges)}"
            )
