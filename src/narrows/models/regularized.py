"""Regularised autoencoders: a deterministic code that pays for what it should not do."""

from typing import Annotated, Literal

from annotated_types import Gt, Lt
from torch import randn_like

from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.fields import Count, NonNegative, OneOf, Unless, When
from narrows.models.plain import Autoencoder
from narrows.net import Net, Running, Step, Terms
from narrows.parts.divergences import KERNELS, mmd, sliced
from narrows.parts.matched import Matched
from narrows.parts.networks import ACTIVATIONS
from narrows.parts.penalties import kl_sparsity
from narrows.parts.spectral import Spectral, bound_layers

__all__ = [
    "ContractiveAutoencoder",
    "RegularizedAutoencoder",
    "SparseAutoencoder",
    "WassersteinAutoencoder",
]


Share = Annotated[float, Gt(0), Lt(1)]
MEANS = "compares mean activations in (0, 1) and needs code_activation='sigmoid'"
BARE = "leaves no weight to the decoder that could be held"
FIXED = "adds fixed weights, which cannot be held"
PRICES = {"l2": "decoder_weights", "gradient_penalty": "decoder_jacobian"}
"""What a decoder pays by the regulariser's name."""


class SparseAutoencoder(Autoencoder):
    """Codes pay for being active: by their absolute values, or by their mean activation.

    -log p(x | z) + sparsity * sum_j |z_j|

    Where rho is given, the price is sparsity * sum_j KL(rho || mean z_j). By default small values
    of a unit are shrunk to zero (Gregor & LeCun), so that it is off, on, or on with another sign.

    Use it for overcomplete codes of which few are active at a time; not where an exact number of
    active units is wanted (see TopKAutoencoder).

    Args:
        sparsity: weight of the penalty.
        rho: target of the mean activation; needs code_activation="sigmoid". None charges L1.

    References:
        Sparse autoencoder, CS294A lecture notes (Ng, 2011),
        https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf
        Learning Fast Approximations of Sparse Coding (Gregor & LeCun, 2010),
        https://icml.cc/Conferences/2010/papers/449.pdf

    >>> from narrows import SparseAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = SparseAutoencoder(rho=0.05, code_activation="sigmoid", epochs=20).fit(X)
    >>> model.transform(X).shape
    (150, 8)
    """

    code_activation: Annotated[str, OneOf(ACTIVATIONS)] = "softshrink"
    sparsity: NonNegative = 0.1
    rho: Annotated[Share | None, When("code_activation", "sigmoid", reason=MEANS)] = None

    def penalty_weights(self) -> dict[str, float]:
        """Charge absolute values, unless a mean activation is aimed at."""
        return {"l1": self.sparsity} if self.rho is None else {}

    def objective(self, step: Step) -> Terms:
        """Charge the mean activation's distance from its aim, where there is one."""
        terms = super().objective(step)
        if self.rho is not None:
            price = kl_sparsity(step.z, self.rho, step.batch.weight)
            terms["kl_sparsity"] = self.sparsity * price
        return terms


class ContractiveAutoencoder(Autoencoder):
    """The code pays for following every small change of x: the encoder's Jacobian is penalised.

    -log p(x | z) + contraction * ||dz/dx||²_F

    Use it for codes that ignore small changes of the input; not on wide data with a large code and
    jacobian="exact", whose cost grows with the code.

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

    def penalty_weights(self) -> dict[str, float]:
        """Charge the norm of the Jacobian."""
        return {"jacobian_exact" if self.jacobian == "exact" else "jacobian": self.contraction}


class RegularizedAutoencoder(Autoencoder):
    """A small code and a smooth decoder; new samples come from a mixture fitted to the codes.

    -log p(x | z) + code_penalty * ½||z||² + decoder_penalty * R, with R by `regularizer`:

    - "l2": ½ the sum of the decoder's squared weights (RAE-L2).
    - "gradient_penalty": ½||dE[x | z]/dz||²_F at the code, estimated without bias (RAE-GP).
    - "spectral_norm": nothing; each layer of the decoder is divided by its weight's largest
      singular value, by one power iteration a step (RAE-SN).

    Use it to generate with a deterministic code, sampled from a mixture fitted afterwards; not
    where a bound on the likelihood is needed.

    Args:
        regularizer: what keeps the decoder smooth.
        code_penalty: weight of the codes' squared length.
        decoder_penalty: weight of what `regularizer` charges.

    References:
        From Variational to Deterministic Autoencoders (Ghosh et al., 2020),
        https://arxiv.org/abs/1903.12436

    >>> from narrows import RegularizedAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> model = RegularizedAutoencoder(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> model.sample(3).shape
    (3, 4)
    """

    regularizer: Literal["l2", "gradient_penalty", "spectral_norm"] = "l2"
    code_penalty: NonNegative = 0.01
    decoder_penalty: Annotated[NonNegative, Unless("regularizer", "spectral_norm")] = 0.1
    weight_decay: NonNegative = 0.0
    tied: Annotated[bool, When("regularizer", "gradient_penalty", reason=BARE)] = False
    linear_path: Annotated[bool, When("regularizer", "gradient_penalty", reason=FIXED)] = False

    def build(self, modality: Modality) -> Net:
        """Divide the decoder's layers by their singular values, where that holds it smooth."""
        net = super().build(modality)
        if self.regularizer == "spectral_norm":
            net.spectral = _SpectralNorms(bound_layers(net.decoder))
        return net

    def penalty_weights(self) -> dict[str, float]:
        """Charge the code and the decoder."""
        price = PRICES.get(self.regularizer)
        return {"l2": self.code_penalty} | ({price: 0.5 * self.decoder_penalty} if price else {})


class WassersteinAutoencoder(BaseAutoencoder):
    """A deterministic code whose distribution over all samples is matched to a normal prior.

    -log p(x | z) + matching * D(q(z), N(0, I)) with z = f(x), and D by `distance`:

    - "mmd": the squared maximum mean discrepancy, estimated without bias, its kernel summed over
      seven bandwidths (WAE-MMD).
    - "sliced": the mean of the squared 2-Wasserstein distances of one-dimensional projections
      (SWAE), which sees each direction's whole distribution.

    Both are of the batch's codes from as many draws of the prior, and as noisy as the batch is
    small.

    Use it for a deterministic code near a normal prior; not with small batches, from which the
    distance is hard to estimate. It misses much of how codes of many units differ from the
    prior; `sample(n, density=True)` draws from a density fitted to them.

    Args:
        matching: weight of the distance; λ in the papers.
        distance: of the codes from the prior.
        kernel: of the discrepancy; "imq" pulls far codes in where "rbf" no longer feels them.
        projections: number of random directions, drawn anew for each batch.

    References:
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558
        Sliced-Wasserstein Autoencoder: An Embarrassingly Simple Generative Model (Kolouri et al.,
        2018), https://arxiv.org/abs/1804.01947

    >>> from narrows import WassersteinAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> model = WassersteinAutoencoder(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> model.sample(3).shape
    (3, 4)
    """

    matching: NonNegative = 100.0
    distance: Literal["mmd", "sliced"] = "mmd"
    kernel: Annotated[str, OneOf(KERNELS), When("distance", "mmd")] = "imq"
    projections: Annotated[Count, When("distance", "sliced")] = 50

    def latent(self) -> Matched:
        """Return a point code with a prior to draw from."""
        return Matched(self.latent_dim)

    def objective(self, step: Step) -> Terms:
        """Add the distance from the prior."""
        z, prior, weight = step.z, randn_like(step.z), step.batch.weight
        if self.distance == "mmd":
            gap = mmd(z, prior, self.kernel, weight=weight)
        else:
            gap = sliced(z, prior, self.projections, weight)
        return super().objective(step) | {self.distance: self.matching * gap}


class _SpectralNorms(Running):
    """Lets the decoder's singular vectors follow its weights."""

    def __init__(self, layers: list[Spectral]) -> None:
        super().__init__()
        self._layers = tuple(layers)  # in a tuple: the decoder has them already

    def follow(self, step: Step) -> None:
        """Make one power iteration a layer."""
        del step
        for layer in self._layers:
            layer.iterate()
