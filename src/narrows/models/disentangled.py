"""Variational autoencoders that shape the aggregate posterior, so that units stay apart."""

from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Le
from torch import randn_like

from narrows.data.modalities import Modality
from narrows.data.sources import InMemory
from narrows.errors import ParameterError
from narrows.fields import NonNegative, OneOf, Unless, Weighs
from narrows.models.variational import VAE, _Annealed
from narrows.net import Net, Step, Terms
from narrows.parts.divergences import KERNELS, decomposed_kl, mmd, moments
from narrows.parts.latents import DiagonalGaussian
from narrows.parts.schedules import COURSES

__all__ = ["DIPVAE", "BetaTCVAE", "InfoVAE"]


class BetaTCVAE(_Annealed):
    """VAE that charges the total correlation between its units more than the rest of the KL.

    E[-log p(x | z)] + s(t) * (alpha * I(x; z) + beta * KL(q(z) || prod_k q(z_k))
    + gamma * sum_k KL(q(z_k) || p(z_k)))

    The three parts, mutual information, total correlation and dimension-wise KL, sum to the KL.
    They are estimated at one draw from each posterior, with q(z) from the batch.

    Use it for codes whose units vary independently, at less loss of detail than a beta-VAE; not
    with small batches, in which the total correlation is estimated.

    Args:
        alpha: weight of the mutual information of x and z.
        beta: weight of the total correlation.
        gamma: weight of the dimension-wise KL.
        sampling: how the batch stands for the data set: "stratified" estimates q(z) without bias,
            "weighted" is minibatch-weighted sampling, which overstates the total correlation by
            up to (dim - 1) log(samples); its gradient differs little.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942

    >>> from narrows import BetaTCVAE
    >>> from sklearn.datasets import load_iris
    >>> model = BetaTCVAE(latent_dim=2, epochs=20).fit(load_iris().data)
    >>> sorted(model.history_[0])[:4]
    ['dimension_kl', 'epoch', 'learning_rate', 'loss']
    """

    alpha: Annotated[NonNegative, Weighs("mutual_information")] = 1.0
    beta: Annotated[NonNegative, Weighs("total_correlation")] = 6.0
    gamma: Annotated[NonNegative, Weighs("dimension_kl")] = 1.0
    sampling: Literal["stratified", "weighted"] = "stratified"

    def prepare(self, source: InMemory) -> None:
        """Note the size of the data set."""
        super().prepare(source)
        self._size = len(source)

    def objective(self, step: Step) -> Terms:
        """Charge the three parts of the KL in its place."""
        parts = decomposed_kl(
            posterior(step), step.z, self._size, self.sampling == "stratified", step.batch.weight
        )
        risen = self.risen(step)
        charges = {name: risen * part for name, part in parts.items()}
        return super().objective(replace(step, charges=charges))


class DIPVAE(VAE):
    """VAE whose codes pay for a covariance that is not the prior's.

    -ELBO + off_diagonal * sum_{j != k} C_jk² + diagonal * sum_j (C_jj - 1)²

    C is the covariance over the data of the posteriors' means (I), or of the codes, which adds
    the mean of the posteriors' variances (II). A batch estimates it, divided by its size.

    Use it for decorrelated codes whose price does not touch the reconstruction directly; not where
    units depend on one another without being correlated.

    Args:
        version: "I" or "II".
        off_diagonal: weight of the squared covariances.
        diagonal: weight of the squared deviations of the variances from 1; Kumar et al. take ten
            times off_diagonal for version I, the same for II.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar
        et al., 2018), https://arxiv.org/abs/1711.00848

    >>> from narrows import DIPVAE
    >>> from sklearn.datasets import load_iris
    >>> DIPVAE(latent_dim=2, version="I", epochs=20).fit(load_iris().data).sample(3).shape
    (3, 4)
    """

    version: Literal["I", "II"] = "II"
    off_diagonal: NonNegative = 3.0
    diagonal: NonNegative = 3.0

    def objective(self, step: Step) -> Terms:
        """Add the prices of the covariances and of the variances."""
        off, own = moments(posterior(step), self.version == "II", step.batch.weight)
        prices = {"off_diagonal": self.off_diagonal * off, "diagonal": self.diagonal * own}
        return super().objective(step) | prices


class InfoVAE(_Annealed):
    """VAE that holds all codes together to the prior, and each one's posterior less.

    E[-log p(x | z)] + (1 - alpha) * KL(q(z | x) || N(0, I)) + (alpha + lam - 1) * D(q(z), N(0, I))

    D is the squared maximum mean discrepancy of the batch's codes from as many draws of the
    prior, without bias, its kernel summed over seven bandwidths. alpha = 0 and lam = 1 make the
    VAE, alpha = 1 the MMD-VAE.

    Use it where a VAE ignores its code; not where the objective must stay a bound on the
    likelihood.

    Args:
        alpha: weight of the mutual information of x and z that the objective prefers, up to 1.
        lam: weight of the divergence of the aggregate posterior, at least 1 - alpha; λ in the
            paper.
        kernel: of the discrepancy.

    References:
        InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao et al., 2019),
        https://arxiv.org/abs/1706.02262

    >>> from narrows import InfoVAE
    >>> from sklearn.datasets import load_iris
    >>> InfoVAE(latent_dim=2, epochs=20).fit(load_iris().data).sample(3).shape
    (3, 4)
    """

    alpha: Annotated[float, Le(1)] = 0.5
    lam: NonNegative = 20.0
    kernel: Annotated[str, OneOf(KERNELS)] = "imq"
    kl_schedule: Annotated[str, OneOf(COURSES), Unless("alpha", 1)] = "constant"

    def build(self, modality: Modality) -> Net:
        """Refuse a negative weight of the divergence."""
        if self.alpha + self.lam < 1:
            self.refuse("lam", f"be at least 1 - alpha = {1 - self.alpha:g}")
        return super().build(modality)

    def objective(self, step: Step) -> Terms:
        """Weigh the KL by 1 - alpha, and the discrepancy by what that leaves of lam."""
        gap = mmd(step.z, randn_like(step.z), self.kernel, weight=step.batch.weight)
        kl = (1 - self.alpha) * (self.risen(step) * step.charges["kl"])
        return super().objective(step.charging(kl=kl, mmd=(self.alpha + self.lam - 1) * gap))


def posterior(step: Step) -> DiagonalGaussian:
    """Return q(z | x), which these objectives cannot do without."""
    if not isinstance(step.q, DiagonalGaussian):
        raise ParameterError("The latent must have a Gaussian posterior; this code has none.")
    return step.q
