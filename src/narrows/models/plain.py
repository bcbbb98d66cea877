"""Plain autoencoders: a deterministic code, learned by reconstruction."""

from collections.abc import Iterator
from typing import Annotated, Literal

from narrows.base import BaseAutoencoder
from narrows.data.corruption import CORRUPTIONS, corrupted
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Fraction, NonNegative, OneOf, Positive, Unless
from narrows.net import Move, Net
from narrows.parts.latents import Latent, Point
from narrows.parts.networks import ACTIVATIONS, DroppedCode

__all__ = ["Autoencoder", "DenoisingAutoencoder", "LinearAutoencoder"]


class _Deterministic(BaseAutoencoder):
    """Base of the models whose code is one point for a sample."""

    def latent(self) -> Latent:
        """Return a point code."""
        return Point(self.latent_dim)


class _Linear(_Deterministic):
    """Base of the models of one affine layer each way, whose weights do not decay."""

    architecture: Literal["linear"] = "linear"
    weight_decay: NonNegative = 0.0


class Autoencoder(_Deterministic):
    """Autoencoder of any depth with a deterministic code, smaller or larger than the data.

    -log p(x | z) with z = f(x)

    Use it to reduce, denoise by projection or find anomalies where no prior over codes is needed;
    not where samples or a likelihood matter most.

    Args:
        code_activation: activation of the code.
        code_dropout: probability of dropping a unit of the code in training.

    References:
        Reducing the Dimensionality of Data with Neural Networks (Hinton & Salakhutdinov, 2006),
        https://doi.org/10.1126/science.1127647

    >>> from narrows import Autoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> Autoencoder(latent_dim=2, epochs=20).fit(X).transform(X).shape
    (150, 2)
    """

    code_activation: Annotated[str, OneOf(ACTIVATIONS)] = "linear"
    code_dropout: Fraction = 0.0

    def latent(self) -> Point:
        """Return a point code."""
        return Point(self.latent_dim, self.code_activation)

    def build(self, modality: Modality) -> Net:
        """Return a net whose decoder may see the code through dropout."""
        net = super().build(modality)
        if self.code_dropout:
            net.decoder = DroppedCode(net.decoder, self.code_dropout)
        return net


class LinearAutoencoder(_Linear):
    """One affine layer each way: with a Gaussian likelihood, its optimum spans PCA's subspace.

    -log p(x | z) with z = W x + b

    Use it as the yardstick of every other model, or as a PCA that takes weights, missing cells and
    other likelihoods; not to find curved structure.

    References:
        Neural Networks and Principal Component Analysis: Learning from Examples Without Local
        Minima (Baldi & Hornik, 1989), https://doi.org/10.1016/0893-6080(89)90014-2

    >>> from narrows import LinearAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> LinearAutoencoder(latent_dim=2, epochs=20).fit(X).transform(X).shape
    (150, 2)
    """

    learning_rate: Positive = 1e-2


class _Corrupting(BaseAutoencoder):
    """Base of the models whose encoder may see a corrupted sample in training.

    Args:
        corruption: what is done to the encoder's input in training; None does nothing.
        noise: standard deviation, or share of the values, in the model's units.
    """

    corruption: Annotated[str, OneOf(CORRUPTIONS)] | None = None
    noise: Annotated[NonNegative, Unless("corruption", None)] = 0.3

    @property
    def calculates(self) -> bool:
        """Whether x is corrupted, or something else calculates with it."""
        return self.corruption is not None or super().calculates

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Show the encoder a corrupted x; the target stays clean."""
        return super().losses(corrupted(batch, self.corruption, self.noise))


class DenoisingAutoencoder(_Corrupting, Autoencoder):
    """Recovers the clean input from a corrupted one.

    -log p(x | z) with z = f(x + noise)

    Use it for robust features and to repair corrupted data; not where the corruption resembles the
    anomalies that shall be found.

    Args:
        corruption: "gaussian" adds noise, "masking" sets values to the mean, "salt_and_pepper"
            to the lowest or highest.

    References:
        Stacked Denoising Autoencoders (Vincent et al., 2010),
        https://jmlr.org/papers/v11/vincent10a.html

    >>> from narrows import DenoisingAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> DenoisingAutoencoder(corruption="masking", epochs=20).fit(X).reconstruct(X).shape
    (150, 4)
    """

    corruption: Annotated[str, OneOf(CORRUPTIONS)] = "gaussian"
