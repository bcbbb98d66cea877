"""Autoencoders whose discrete code is a path from the coarse to the fine."""

from typing import Annotated

from annotated_types import Ge

from narrows.fields import Count, Fraction, NonNegative, Positive, Unless, Weighs
from narrows.models.discrete import _Tokens
from narrows.parts.refinement import Refinement

__all__ = ["HRQVAE"]


class HRQVAE(_Tokens):
    """Vectors drawn from codebooks level by level, each level refining what those above it left.

    E[-log p(x | z)] + beta * sum_d KL(q(c_d | r_d) || uniform) + norm_weight * norm

    with q(c_d = i | r_d) = softmax(-‖r_d - e_d,i‖²), r_1 = z_e, r_d+1 = r_d - e_d and z the sum of
    the e_d. Draws are exact, and pass the gradient of a Gumbel-softmax; `transform` and
    `reconstruct` take the nearest vectors. In training a sample's code ends at a random level. The
    norm is the mean of (max(1.5 ‖C_d‖ / ‖C_d-1‖, 1) - 1)² over the codebooks C below the first.

    Use it for codes that tell the coarse first and the fine last, as paths in a tree; not where
    the error must be smallest, for which see `ResidualVQVAE`.

    Args:
        codes: vectors in a codebook.
        quantizers: number of codebooks, the levels.
        beta: weight of the KL divergence; below 1 by default, as in the authors' code. Scores are
            bounds all the same.
        temperature: of the relaxation when training begins.
        final_temperature: of the relaxation when it ends; in between it falls geometrically.
        depth_dropout: probability, at each level but the first, that a sample's code ends above
            it in training.
        init_decay: length of the first vectors of a level, beside that of the level above.
        norm_weight: weight of what keeps lower levels smaller.

    References:
        Hierarchical Sketch Induction for Paraphrase Generation (Hosking, Tang & Lapata, 2022),
        https://arxiv.org/abs/2203.03463

    >>> from narrows import HRQVAE
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> HRQVAE(codes=16, quantizers=3, epochs=20).fit(X).encode_indices(X).shape
    (150, 12)
    """

    codes: Annotated[int, Ge(2)] = 64
    quantizers: Count = 4
    beta: Annotated[NonNegative, Weighs("kl")] = 0.1
    temperature: Positive = 1.0
    final_temperature: Positive = 0.5
    depth_dropout: Annotated[Fraction, Unless("quantizers", 1)] = 0.1
    init_decay: Annotated[Positive, Unless("quantizers", 1)] = 0.5
    norm_weight: Annotated[NonNegative, Weighs("norm"), Unless("quantizers", 1)] = 0.5

    def latent(self) -> Refinement:
        """Return the levels."""
        names = "tokens codes quantizers temperature final_temperature depth_dropout init_decay"
        return Refinement(self.latent_dim, **self.given(*names.split()))
