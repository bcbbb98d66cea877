"""Regularised autoencoders: a deterministic code that pays for what it should not do."""

from typing import Annotated, Literal

from annotated_types import Gt, Lt

from narrows.data.modalities import Modality
from narrows.errors import ParameterError
from narrows.fields import NonNegative
from narrows.models.plain import Autoencoder
from narrows.net import Net, Step, Terms
from narrows.parts.penalties import jacobian, jacobian_exact, kl_sparsity, l1, refuse_mixing

__all__ = ["ContractiveAutoencoder", "SparseAutoencoder"]


class SparseAutoencoder(Autoencoder):
    """Codes pay for being active: by their absolute values, or by their mean activation.

    -log p(x | z) + sparsity * sum_j |z_j|

    Where rho is given, the price is sparsity * sum_j KL(rho || mean z_j).

    Args:
        sparsity: weight of the penalty.
        rho: target of the mean activation; needs code_activation="sigmoid". None charges L1.

    References:
        Sparse autoencoder, CS294A lecture notes (Ng, 2011),
        https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf

    >>> from narrows import SparseAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = SparseAutoencoder(rho=0.05, code_activation="sigmoid", epochs=20).fit(X)
    >>> model.transform(X).shape
    (150, 8)
    """

    sparsity: NonNegative = 0.1
    rho: Annotated[float, Gt(0), Lt(1)] | None = None

    def build(self, modality: Modality) -> Net:
        """Refuse a target activation for codes that are no activations."""
        if self.rho is not None and self.code_activation != "sigmoid":
            raise ParameterError(
                f"KL sparsity (rho={self.rho}) compares mean activations in (0, 1) and needs "
                f"code_activation='sigmoid'. Got '{self.code_activation}' instead."
            )
        return super().build(modality)

    def objective(self, step: Step) -> Terms:
        """Add the price of activity."""
        if self.rho is None:
            return super().objective(step) | {"l1": self.sparsity * l1(self.net_, step)}
        price = self.sparsity * kl_sparsity(step.z, self.rho)
        return super().objective(step) | {"kl_sparsity": price}


class ContractiveAutoencoder(Autoencoder):
    """The code pays for following every small change of x: the encoder's Jacobian is penalised.

    -log p(x | z) + contraction * ||dz/dx||²_F

    Args:
        contraction: weight of the penalty.
        jacobian: "hutchinson" estimates the norm without bias by one product, "exact" computes
            it with as many products as the code has units.

    References:
        Contractive Auto-Encoders: Explicit Invariance During Feature Extraction (Rifai et al.,
        2011), https://icml.cc/2011/papers/455_icmlpaper.pdf

    >>> from narrows import ContractiveAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> ContractiveAutoencoder(jacobian="exact", epochs=20).fit(X).transform(X).shape
    (150, 8)
    """

    contraction: NonNegative = 0.1
    jacobian: Literal["hutchinson", "exact"] = "hutchinson"

    def build(self, modality: Modality) -> Net:
        """Refuse an encoder that mixes the samples whose Jacobians are asked for."""
        net = super().build(modality)
        refuse_mixing(net)
        return net

    def objective(self, step: Step) -> Terms:
        """Add the norm of the Jacobian."""
        norm = (jacobian_exact if self.jacobian == "exact" else jacobian)(self.net_, step)
        return super().objective(step) | {"jacobian": self.contraction * norm}
