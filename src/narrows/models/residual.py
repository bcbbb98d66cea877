"""Autoencoders whose code explains what a linear path beside it leaves over."""

from dataclasses import replace
from typing import cast

import torch

from narrows.data.modalities import Modality
from narrows.fields import Count
from narrows.metrics.health import Diagnosis, worth_of_code
from narrows.models.plain import Autoencoder
from narrows.models.structured import _WithContext
from narrows.net import Net, Step, Terms
from narrows.parts.residual import BARE, Skip, SkippingDecoder, SkippingEncoder

__all__ = ["ResidualAutoencoder"]


class _Skipping(Net):
    """A net that also tells which share of the variance the code carries, "code_share".

    Decoding every sample with another one's code raises the error by twice what the code carries.
    """

    @torch.no_grad()
    def statistics(self, step: Step) -> Terms:
        passed = cast(SkippingEncoder, self.encoder).skip(step.batch.x)
        other = (step.out - passed).roll(1, 0) + passed
        known, x = super().statistics(step), step.batch.target
        rise = super().statistics(replace(step, out=other))["mse"] - known["mse"]
        variance = x.var(0, correction=0).mean().clamp(min=1e-6)
        return known | {"code_share": 0.5 * rise / variance}


class ResidualAutoencoder(_WithContext, Autoencoder):
    """A code for what a linear path of low rank, W, does not already carry past it.

    -log p(x | z, x) with z = f(x) and the mean g(z) + W x

    W starts at zero. The code alone is no longer the sample: `inverse_transform`, `sample` and
    `interpolate` raise a `ContextError`, and `reconstruct` tells what the model makes of samples.

    Use it where most of the data is linear and the code shall hold the rest; not to compress, for
    the skip carries values beside the code.

    Args:
        skip_rank: rank of W, how many numbers pass beside the code. None lets all of x pass, which
            makes the code useless: `diagnose` says so.

    References:
        Deep Residual Learning for Image Recognition (He et al., 2016),
        https://arxiv.org/abs/1512.03385

    >>> from narrows import ResidualAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> model = ResidualAutoencoder(latent_dim=1, skip_rank=1, epochs=20).fit(X)
    >>> model.transform(X).shape, model.reconstruct(X).shape
    ((150, 1), (150, 4))
    """

    bare = BARE

    skip_rank: Count | None = 2

    def build(self, modality: Modality) -> Net:
        """Lay the linear path beside the code."""
        net, (channels, *grid) = super().build(modality), modality.shape
        out = (channels * net.likelihood.channels, *grid)
        encoder = SkippingEncoder(net.encoder, Skip(modality.shape, out, self.skip_rank))
        return _Skipping(encoder, net.latent, SkippingDecoder(net.decoder), net.likelihood)

    def diagnose(self) -> Diagnosis:
        """Name a path that makes the code useless."""
        free = cast(SkippingEncoder, self.net_.encoder).skip.free
        return super().diagnose().having(worth_of_code(self.history_[-1], free))
