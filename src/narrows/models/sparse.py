"""Sparse dictionaries: a code of many units, few of them active."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.fields import Count, NonNegative, When
from narrows.metrics.health import Diagnosis, dead_latents
from narrows.net import Net, Step, Terms
from narrows.parts.sparse import SELECTIONS, Sparse, revival, unit_atoms

__all__ = ["TopKAutoencoder"]


class _Dictionary(Net):
    """A net whose encoder sees what the empty code leaves of x: x minus the decoder's bias."""

    def encode(self, batch: Batch) -> tuple[Any, tuple[Any, ...]]:
        empty = batch.x.new_zeros(1, *self.latent.code_shape)
        return super().encode(replace(batch, x=batch.x - self.decode(empty)))


class TopKAutoencoder(BaseAutoencoder):
    """A dictionary of many unit atoms, of which each sample uses k: a sparse autoencoder.

    -log p(x | z) + revival * aux, with z = top_k(W (x - b)) and the mean of x = D z + b

    It reads any table, such as activations of another model, ``(tokens, width)``. The auxiliary
    loss lets dead units explain what the active ones leave over; where they say too much, they
    are scaled to it.

    Use it to take activations of another network apart into features that can be read; not to
    compress, for its code is wider than the data.

    Args:
        latent_dim: number of atoms; commonly more than the data have dimensions.
        k: active units a sample; None takes a sixteenth of latent_dim.
        selection: "topk" keeps the k largest units of each sample, "batch_topk" k a sample on
            average, "jumprelu" those above a learned threshold each, k on average.
        sparsity: weight of (L0 / k - 1)² for "jumprelu", with L0 the mean number of active units.
        revival: weight of the auxiliary loss that revives dead units; 1/32 in the paper.
        dead_after: a unit that no sample activated for so many samples is dead.

    References:
        k-Sparse Autoencoders (Makhzani & Frey, 2013), https://arxiv.org/abs/1312.5663
        Scaling and Evaluating Sparse Autoencoders (Gao et al., 2024),
        https://arxiv.org/abs/2406.04093
        BatchTopK Sparse Autoencoders (Bussmann et al., 2024), https://arxiv.org/abs/2412.06410
        Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders
        (Rajamanoharan et al., 2024), https://arxiv.org/abs/2407.14435

    >>> from narrows import TopKAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> codes = TopKAutoencoder(latent_dim=16, k=2, epochs=20).fit(X).transform(X)
    >>> (codes != 0).sum(1).max().item()
    2
    """

    calculates = True

    latent_dim: Count = 128
    architecture: Literal["linear"] = "linear"
    weight_decay: NonNegative = 0.0
    k: Count | None = None
    selection: Literal["topk", "batch_topk", "jumprelu"] = "topk"
    sparsity: Annotated[NonNegative, When("selection", "jumprelu")] = 100.0
    revival: NonNegative = 1.0
    dead_after: Count = 5000

    def latent(self) -> Sparse:
        """Return the sparse code that the selection names."""
        return SELECTIONS[self.selection](self.latent_dim, self.k, self.dead_after)

    def build(self, modality: Modality) -> Net:
        """Return a net with unit atoms, and an encoder that starts at their transpose."""
        net = super().build(modality)
        unit_atoms(net.encoder, net.decoder)
        return _Dictionary(*net.parts)

    def objective(self, step: Step) -> Terms:
        """Weigh the price of activity, and add what revives dead units."""
        price = {name: self.sparsity * charge for name, charge in step.charges.items()}
        return {"nll": step.nll, **price, "revival": self.revival * revival(self.net_, step)}

    def diagnose(self) -> Diagnosis:
        """Name the dead units."""
        return super().diagnose().having(dead_latents(self.codes_), "units", "unused units")
