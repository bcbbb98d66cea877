"""Sparse dictionaries: a code of many units, few of them active."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, NonNegative, Unless, When
from narrows.models.plain import _Linear
from narrows.net import Net, Step, Terms
from narrows.parts.sparse import SELECTIONS, Sparse, dictionary, unit_atoms

__all__ = ["TopKAutoencoder"]


class _Dictionary(Net):
    """A net whose encoder sees what the empty code leaves of x: x minus the decoder's bias."""

    def encode(self, batch: Batch) -> tuple[Any, tuple[Any, ...]]:
        empty = batch.x.new_zeros(1, *self.latent.code_shape)
        return super().encode(replace(batch, x=batch.x - self.decode(empty)))


class TopKAutoencoder(_Linear):
    """A dictionary of many unit atoms, of which each sample uses k: a sparse autoencoder.

    -log p(x | z) + sum_m -log p(x | z_1..m) + revival * aux + price

    with z = top_k(W (x - b)) and the mean of x = D z + b. It reads any table, such as activations
    of another model, ``(tokens, width)``. The auxiliary loss lets dead units explain what the
    active ones leave over; where they say too much, they are scaled to it.

    Use it to take activations of another network apart into features that can be read; not to
    compress, for its code is wider than the data.

    Args:
        latent_dim: number of atoms; commonly more than the data have dimensions.
        selection: "topk" keeps the k largest units of each sample, "batch_topk" k a sample on
            average, "jumprelu" those above a learned threshold each, k on average, "gated" those
            above 0, in amounts of their own; "matching_pursuit" has no W and takes k atoms one by
            one: that with the largest inner product with what is left of x - b, in this amount.
        k: active units a sample, or steps of the pursuit, which may take an atom again; None takes
            a sixteenth of latent_dim.
        sparsity: weight of the price: of (L0 / k - 1)² for "jumprelu", with L0 the mean number of
            active units; for "gated" of sum(relu(W (x - b))) beside the squared error, to whose
            scale it is set, and beside the nll of these as a code. None takes 100 and 4.
        prefixes: numbers m of first units that must reconstruct alone too, so that these learn
            what is common and later ones what is special: a Matryoshka.
        revival: weight of the auxiliary loss that revives dead units; 1/32 in the paper.
        dead_after: a unit that no sample activated for so many samples is dead.

    References:
        k-Sparse Autoencoders (Makhzani & Frey, 2013), https://arxiv.org/abs/1312.5663
        Scaling and Evaluating Sparse Autoencoders (Gao et al., 2024),
        https://arxiv.org/abs/2406.04093
        BatchTopK Sparse Autoencoders (Bussmann et al., 2024), https://arxiv.org/abs/2412.06410
        Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders
        (Rajamanoharan et al., 2024), https://arxiv.org/abs/2407.14435
        Improving Dictionary Learning with Gated Sparse Autoencoders (Rajamanoharan et al., 2024),
        https://arxiv.org/abs/2404.16014
        Learning Multi-Level Features with Matryoshka Sparse Autoencoders (Bussmann et al., 2025),
        https://arxiv.org/abs/2503.17547
        From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit (Costa
        et al., 2025), https://arxiv.org/abs/2506.03093

    >>> from narrows import TopKAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> codes = TopKAutoencoder(latent_dim=16, k=2, epochs=20).fit(X).transform(X)
    >>> (codes != 0).sum(1).max().item()
    2
    """

    calculates = True

    latent_dim: Count = 128
    selection: Literal["topk", "batch_topk", "jumprelu", "gated", "matching_pursuit"] = "topk"
    k: Annotated[Count | None, Unless("selection", "gated")] = None
    sparsity: Annotated[NonNegative | None, When("selection", "jumprelu", "gated")] = None
    prefixes: tuple[Count, ...] = ()
    revival: Annotated[NonNegative, Unless("selection", "gated")] = 1.0
    dead_after: Count = 5000

    def latent(self) -> Sparse:
        """Return the sparse code that the selection names."""
        return SELECTIONS[self.selection](self.latent_dim, self.k, self.dead_after)

    def build(self, modality: Modality) -> Net:
        """Return a net with unit atoms, and an encoder that starts at their transpose."""
        return _Dictionary(*unit_atoms(super().build(modality)))

    def objective(self, step: Step) -> Terms:
        """Add what the units cost, what the prefixes miss and what revives dead units."""
        return dictionary(self.net_, step, self.sparsity, self.prefixes, self.revival)
