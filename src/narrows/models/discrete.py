"""Discrete autoencoders: codes of a few integers, and a prior over them that is learned last."""

from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.errors import DataError
from narrows.fields import Count, Fraction, NonNegative, Positive, Weighs
from narrows.net import Net, Step, Terms
from narrows.parts import quantizers
from narrows.parts.categorical import Binary, Categorical
from narrows.parts.lookup_free import LFQ, entropy
from narrows.parts.quantizers import FSQ, Codebook, Hierarchical

__all__ = [
    "FSQVAE",
    "LFQVAE",
    "VQVAE",
    "BinaryAutoencoder",
    "CategoricalVAE",
    "HierarchicalVQVAE",
    "ResidualVQVAE",
    "SimVQ",
]


class _Discrete(BaseAutoencoder):
    """Base of the models whose code is a few integers.

    `sample` draws the integers from a causal transformer, fitted to the training codes when it is
    first asked for; the distribution that training charges against is not what codes look like.
    """

    def encode_indices(self, X: Any) -> NDArray[np.int64]:
        """Return the integers of the codes, ``(n, places)``; `decode_indices` goes back."""
        packed = self._map(X, lambda batch: self.net_.latent.pack(self.net_.encode(batch)[0]))
        return packed.numpy().astype(np.int64)

    def decode_indices(self, indices: ArrayLike) -> Any:
        """Return E[x | z] of integers ``(n, places)`` in the type, shape and units of the data.

        Raises:
            DataError: they are not as many as a code has, or not values that it can have.
        """
        check_is_fitted(self)
        places, size = len(self.net_.latent.books), self.net_.latent.categories
        found = np.asarray(indices)
        if found.dtype.kind not in "iub" or found.ndim != 2 or found.shape[1] != places:
            raise DataError(
                f"decode_indices needs integers of the shape (n, {places}). Got {found.dtype} of "
                f"the shape {found.shape} instead."
            )
        if found.size and not 0 <= found.min() <= found.max() < size:
            raise DataError(
                f"The integers of a code lie between 0 and {size - 1}. Got {found.min()} to "
                f"{found.max()} instead."
            )
        kept = torch.from_numpy(found.astype(np.int64))
        return self.modality_.decode(self._decode(self._unpacked(kept)))


class _Tokens(_Discrete):
    """Base of the models whose code is a grid of vectors.

    Args:
        tokens: vectors of a code; None takes one for each place of a conv net's last feature map,
            and 4 elsewhere. `latent_dim` is the size of one.
    """

    tokens: Count | None = None


class _VectorQuantized(_Tokens):
    """Base of the models whose vectors are looked up in a codebook.

    Args:
        codes: vectors in the codebook.
        commitment: weight of what holds the encoder to the codes.
        gradient: how it passes from z to z_e: "straight_through", or by "rotation": it turns with
            the vector, so that it meets z_e at the angle at which it met z, and grows by
            ‖z‖ / ‖z_e‖.
    """

    codes: Annotated[int, Ge(2)] = 512
    commitment: Annotated[NonNegative, Weighs("commitment")] = 0.25
    gradient: Literal["straight_through", "rotation"] = "straight_through"


class VQVAE(_VectorQuantized):
    """The code is a grid of vectors, each one of a codebook: integers to whoever stores it.

    -log p(x | z) + ‖sg[z_e] - e‖² + commitment * ‖z_e - sg[e]‖²

    The gradient of z passes straight through to z_e, or by the rotation and the scaling that take
    z_e to z. With scale=0.5**0.5, the first term is ‖x - x̂‖² and a constant, as in the paper; with
    the optimal scale s it is ‖x - x̂‖² / 2s², and the commitment weighs less as s falls. By default
    the codebook follows moving averages, which leaves the second term out.

    Use it for discrete codes to compress or to model afterwards; not with a large codebook (see
    FSQVAE and SimVQ) or where a continuous code is wanted.

    Args:
        codebook: "ema" moves each vector to the moving average of what falls to it, "gradient"
            trains it by the second term.
        decay: of the moving averages, each step.
        lookup: "euclidean", or "cosine" for vectors of length 1.
        restart: a vector that is used less than this share of the even rate starts again as a
            random one of the batch's; 0 for never.
        kmeans: start the codebook at the centres of the first vectors.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017),
        https://arxiv.org/abs/1711.00937
        Restructuring Vector Quantization with the Rotation Trick (Fifty et al., 2024),
        https://arxiv.org/abs/2410.06424

    >>> from narrows import VQVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = VQVAE(codes=16, epochs=20).fit(X)
    >>> model.encode_indices(X).shape, model.transform(X).shape
    ((150, 4), (150, 32))
    """

    codebook: Literal["ema", "gradient"] = "ema"
    decay: Fraction = 0.99
    lookup: Literal["euclidean", "cosine"] = "euclidean"
    restart: Fraction = 0.05
    kmeans: bool = True

    def latent(self) -> Codebook:
        """Return one codebook."""
        return Codebook(self.latent_dim, self.tokens, **self.table())

    def table(self) -> dict[str, Any]:
        """Return what a codebook is told."""
        names = ("codes", "lookup", "gradient", "decay", "restart", "kmeans")
        return self.given(*names) | {"update": self.codebook}

    def build(self, modality: Modality) -> Net:
        """Refuse a decay of averages that nothing reads."""
        if self.codebook == "gradient" and not self.restart:
            self.refuse_set(["decay"], "has no effect with codebook='gradient' and restart=0")
        return super().build(modality)


class ResidualVQVAE(VQVAE):
    """Each vector is a sum from several codebooks, each coding what those before it left.

    -log p(x | z) + sum_l (‖sg[r_l] - e_l‖² + commitment * ‖r_l - sg[e_l]‖²)

    with r_1 = z_e and r_l+1 = r_l - e_l. The gradient of z passes straight through once, or is the
    sum of what each codebook's rotation, of r_l to e_l, makes of it; for the rest see `VQVAE`.

    Use it for high fidelity at several rates from small codebooks; not where one index a token is
    simpler.

    Args:
        quantizers: number of codebooks.

    References:
        SoundStream: An End-to-End Neural Audio Codec (Zeghidour et al., 2021),
        https://arxiv.org/abs/2107.03312
        Autoregressive Image Generation using Residual Quantization (Lee et al., 2022),
        https://arxiv.org/abs/2203.01941

    >>> from narrows import ResidualVQVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> ResidualVQVAE(codes=16, quantizers=3, epochs=20).fit(X).encode_indices(X).shape
    (150, 12)
    """

    quantizers: Count = 4

    def latent(self) -> Codebook:
        """Return the codebooks."""
        return Codebook(self.latent_dim, self.tokens, quantizers=self.quantizers, **self.table())


class HierarchicalVQVAE(VQVAE):
    """Two levels of codes: a coarse one of half as many places a side, and a fine one.

    -log p(x | z) + sum over both levels of (‖sg[z_e] - e‖² + commitment * ‖z_e - sg[e]‖²)

    The fine code knows the coarse one, and the decoder sees both; for the rest see `VQVAE`.

    Use it for images, with structure in one code and detail in the other; not on tables without
    such levels.

    References:
        Generating Diverse High-Fidelity Images with VQ-VAE-2 (Razavi et al., 2019),
        https://arxiv.org/abs/1906.00446

    >>> from narrows import HierarchicalVQVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> HierarchicalVQVAE(codes=16, epochs=20).fit(X).encode_indices(X).shape
    (150, 6)
    """

    def latent(self) -> Hierarchical:
        """Return a coarse and a fine codebook."""
        return Hierarchical(self.latent_dim, self.tokens, **self.table())


class SimVQ(_VectorQuantized):
    """A codebook of frozen random vectors behind a learned linear map, in which no code dies.

    -log p(x | z) + ‖sg[z_e] - W c‖² + commitment * ‖z_e - sg[W c]‖²

    Use it for a large learned codebook without dead codes; not where the codes must be free to lie
    anywhere.

    References:
        Addressing Representation Collapse in Vector Quantized Models with One Linear Layer (Zhu
        et al., 2024), https://arxiv.org/abs/2411.02038

    >>> from narrows import SimVQ
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> SimVQ(codes=16, epochs=20).fit(X).encode_indices(X).shape
    (150, 4)
    """

    def latent(self) -> quantizers.SimVQ:
        """Return the mapped codebook."""
        return quantizers.SimVQ(self.latent_dim, self.tokens, self.codes, self.gradient)


class FSQVAE(_Tokens):
    """Each vector of the code is a few digits, got by rounding: no codebook, nothing to collapse.

    -log p(x | z) with z = W round(bound(z_e)) + b

    Rounding passes the gradient unchanged.

    Use it for large codebooks that are used whole without any tending; not for very small ones,
    where a learned codebook is better.

    Args:
        levels: number of values of each digit; their product is the number of codes.

    References:
        Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al., 2023),
        https://arxiv.org/abs/2309.15505

    >>> from narrows import FSQVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> FSQVAE(epochs=20).fit(X).encode_indices(X).shape
    (150, 4)
    """

    levels: tuple[Annotated[int, Ge(3)], ...] = (8, 5, 5, 5)

    def latent(self) -> FSQ:
        """Return the digits."""
        return FSQ(self.latent_dim, self.tokens, self.levels)


class LFQVAE(_Tokens):
    """Each vector of the code is a few signs: their patterns are the codebook, and no table is.

    -log p(x | z) + commitment * ‖z_e - sg[s]‖² + entropy * T * (E[H(q)] - gamma * H(E[q]))

    with s = sign(z_e), z = W s + b, and q(s | x), proportional to exp(-‖z_e - s‖²), for each of
    the T vectors of a code. The means are over the batch and the vectors. Both entropies are
    exact, the second one that of whole patterns, which a sum over single signs only bounds from
    above. The gradient passes straight through the signs.

    Use it for large codebooks that are used whole, and for codes that are bits; not for very small
    ones, where a learned codebook is better.

    Args:
        bits: signs of a vector; there are 2**bits codes.
        commitment: weight of what holds z_e to its signs.
        entropy: weight of what makes signs sure, and the use of their patterns even.
        gamma: weight of the even use beside the sureness.

    References:
        Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (Yu et al., 2023),
        https://arxiv.org/abs/2310.05737

    >>> from narrows import LFQVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> LFQVAE(epochs=20).fit(X).encode_indices(X).shape
    (150, 4)
    """

    bits: Annotated[int, Ge(1), Le(16)] = 10
    commitment: Annotated[NonNegative, Weighs("commitment")] = 0.25
    entropy: Annotated[NonNegative, Weighs("entropy")] = 1.0
    gamma: NonNegative = 1.0

    def latent(self) -> LFQ:
        """Return the signs."""
        return LFQ(self.latent_dim, self.tokens, self.bits)

    def objective(self, step: Step) -> Terms:
        """Add what the patterns' even use saves."""
        terms, latent = super().objective(step), cast(LFQ, self.net_.latent)
        use = entropy(latent.use(step.h, step.batch.weight))
        return terms | {"use": -self.entropy * self.gamma * len(latent.books) * use}


class CategoricalVAE(_Discrete):
    """The code is `latent_dim` categorical variables, relaxed by Gumbel noise in training.

    E[-log p(x | z)] + beta * KL(q(z | x) || uniform)

    `score_samples` takes exact draws, so that it is a bound on log p(x); the history's numbers are
    of relaxed ones.

    Use it for codes that are choices among categories; not where distances between codes shall
    mean something.

    Args:
        categories: values of each variable.
        beta: weight of the KL divergence.
        temperature: of the relaxation when training begins.
        final_temperature: of the relaxation when it ends; in between it falls geometrically.

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
        https://arxiv.org/abs/1611.01144
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    >>> from narrows import CategoricalVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> CategoricalVAE(latent_dim=3, epochs=20).fit(X).encode_indices(X).shape
    (150, 3)
    """

    categories: Annotated[int, Ge(2)] = 10
    beta: Annotated[NonNegative, Weighs("kl")] = 1.0
    temperature: Positive = 1.0
    final_temperature: Positive = 0.5

    def latent(self) -> Categorical:
        """Return the variables."""
        return Categorical(
            self.latent_dim, self.categories, self.temperature, self.final_temperature
        )


class BinaryAutoencoder(_Discrete):
    """The code is `latent_dim` bits, drawn in training and passed by the gradient: a hash.

    E[-log p(x | z)] + beta * KL(q(z | x) || fair bits)

    It tells at most latent_dim * log 2 nats of x. `encode_indices` returns the likeliest bits;
    ``np.packbits`` makes bytes of them, and samples that are alike differ in few.

    Use it for hashes: bits that put similar samples close together; not where the error must be
    small.

    Args:
        beta: weight of the KL divergence; below 1 by default, because the straight-through
            gradient is biased and would leave bits unused. Scores are bounds all the same.

    References:
        Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
        (Bengio et al., 2013), https://arxiv.org/abs/1308.3432
        Semantic Hashing (Salakhutdinov & Hinton, 2009),
        https://doi.org/10.1016/j.ijar.2008.11.006

    >>> from narrows import BinaryAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = BinaryAutoencoder(latent_dim=16, epochs=20).fit(X)
    >>> sorted(set(model.encode_indices(X).ravel().tolist()))
    [0, 1]
    """

    latent_dim: Count = 32
    beta: Annotated[NonNegative, Weighs("kl")] = 0.3

    def latent(self) -> Binary:
        """Return the bits."""
        return Binary(self.latent_dim)
