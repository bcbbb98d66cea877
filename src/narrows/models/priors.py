"""Variational autoencoders with richer priors and posteriors: pseudo-inputs and flows."""

from typing import Annotated

import torch
from torch import Tensor, nn

from narrows.data.modalities import Modality
from narrows.data.sources import Batch, InMemory
from narrows.errors import ParameterError
from narrows.fields import Count, OneOf
from narrows.models.variational import VAE
from narrows.net import Net
from narrows.parts.flows import POSTERIOR_FLOWS, PRIOR_FLOWS, Flow
from narrows.parts.latents import Gaussian, SampledKL
from narrows.parts.mixtures import GaussianMixture

__all__ = ["FlowVAE", "PseudoInputs", "VampPriorVAE"]


MIXING = {"batch_norm": "would mix the statistics of the pseudo-inputs with those of the data"}


class VampPriorVAE(VAE):
    """The prior is the mean of the posteriors of learned pseudo-inputs, so it fits the codes.

    E[-log p(x | z)] + beta * E[log q(z | x) - log 1/K sum_k q(z | u_k)]

    Both expectations are taken over one draw. The pseudo-inputs u start at training samples.

    Use it for clustered data, which one normal prior cannot cover; not on a few hundred samples,
    where pseudo-inputs copy them.

    Args:
        pseudo_inputs: number of pseudo-inputs, K.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120

    >>> from narrows import VampPriorVAE
    >>> from sklearn.datasets import load_iris
    >>> model = VampPriorVAE(latent_dim=2, pseudo_inputs=10, epochs=20).fit(load_iris().data)
    >>> model.net_.latent.prior().components.mean.shape
    torch.Size([10, 2])
    """

    calculates = True
    meaningless = MIXING

    pseudo_inputs: Count = 64

    def latent(self) -> Gaussian:
        """Return a Gaussian whose KL is sampled; `build` gives it the pseudo-inputs."""
        return SampledKL(self.latent_dim)

    def build(self, modality: Modality) -> Net:
        """Return a net whose prior goes through its encoder."""
        net = super().build(modality)
        shape = modality.shape
        net.latent = PseudoInputs(self.latent_dim, net.encoder, shape, self.pseudo_inputs)
        return net

    def prepare(self, source: InMemory) -> None:
        """Start the pseudo-inputs at training samples."""
        super().prepare(source)
        self.net_.latent.start(source.values)


class PseudoInputs(SampledKL):
    """A Gaussian posterior against the even mixture of the posteriors of pseudo-inputs.

    Args:
        dim: size of the code.
        encoder: what the net encodes with.
        shape: of a sample.
        count: number of pseudo-inputs.
    """

    first: Tensor
    started: Tensor

    def __init__(self, dim: int, encoder: nn.Module, shape: tuple[int, ...], count: int) -> None:
        super().__init__(dim)
        self._encoder = (encoder,)  # in a tuple: its parameters are the net's
        self.register_buffer("first", torch.zeros(count, *shape))
        self.register_buffer("started", torch.zeros(()))
        self.moved = nn.Parameter(torch.zeros(count, *shape))  # weight decay holds it at `first`

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Start at samples with a little noise; nothing if training has been started before."""
        if self.started:
            return
        count = len(self.first)
        rows = torch.randperm(len(x)).repeat(-(-count // len(x)))[:count]
        noise = torch.randn(self.first.shape).to(x.device)
        self.first.copy_(x[rows.to(x.device)] + 0.1 * x.std(correction=0) * noise)
        self.started.fill_(1)

    def prior(self) -> GaussianMixture:  # type: ignore[override]
        """Return 1/K sum_k q(z | u_k)."""
        inputs = self.first + self.moved
        h = self._encoder[0](Batch(inputs, inputs))
        return GaussianMixture(self.posterior(h[0] if isinstance(h, tuple) else h))


class FlowVAE(VAE):
    """Normalising flows bend the normal prior to fit the codes, the Gaussian posterior, or both.

    E[-log p(x | z)] + beta * E[log q(z | x) - log p(z)]

    With z = f_L(...f_1(z_0)), log p(z) = log N(z_0) - sum_l log |det df_l|, and so for q. Both
    expectations are taken over one draw.

    Use it for samples that look like the data, where a normal prior does not fit the codes; not
    where a code's units shall be read one by one. A bent posterior alone changes little.

    Args:
        posterior: "planar" and "iaf" (inverse autoregressive) bend it, "gaussian" does not.
        prior: "realnvp" (affine couplings) learns it, "normal" is N(0, I).
        flows: number of maps in each.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
        https://arxiv.org/abs/1505.05770
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
        Density Estimation Using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803

    >>> from narrows import FlowVAE
    >>> from sklearn.datasets import load_iris
    >>> FlowVAE(latent_dim=2, epochs=20).fit(load_iris().data).sample(3).shape
    (3, 4)
    """

    posterior: Annotated[str, OneOf(("gaussian", *POSTERIOR_FLOWS))] = "gaussian"
    prior: Annotated[str, OneOf(("normal", *PRIOR_FLOWS))] = "realnvp"
    flows: Count = 8

    def latent(self) -> Gaussian:
        """Return a Gaussian with flows."""
        if self.posterior == "gaussian" and self.prior == "normal":
            raise ParameterError(
                "FlowVAE with posterior='gaussian' and prior='normal' has no flow left. Choose a "
                "flow for one of them, or use VAE."
            )
        return Flow(self.latent_dim, self.posterior, self.prior, self.flows)
