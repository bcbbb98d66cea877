"""Adversarial autoencoders: a critic and the autoencoder move in turn."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from narrows.assembly import seen_shape
from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.data.sources import Batch
from narrows.errors import ParameterError
from narrows.fields import Count, NonNegative, Positive, Weighs, When
from narrows.net import Move, Net, Player, Running, Step, Terms
from narrows.parts.critics import (
    Critic,
    deception,
    detection,
    gradient_penalty,
    permute_dims,
    standardised,
)
from narrows.parts.latents import Distribution
from narrows.parts.likelihoods import Gaussian as Normal
from narrows.parts.matched import Matched

__all__ = ["VAEGAN", "AdversarialAutoencoder", "FactorVAE"]


class FollowedCritic(Critic, Running):
    """A critic whose spectral norms follow training."""

    def follow(self, step: Step) -> None:
        """Make one power iteration."""
        del step
        self.update()


class _Adversarial(BaseAutoencoder):
    """Base of the models with a critic, which tells true samples from false ones.

    Args:
        critic_hidden: sizes of the critic's layers (units, or channels where it sees images);
            None takes its architecture's.
        critic_rate: learning rate of the critic, relative to `learning_rate`.
        spectral_norm: divide every weight of the critic by its largest singular value.
        r1: weight of half the squared gradient of the critic's logit at true samples: what keeps
            the game from circling (Mescheder et al., 2018).
    """

    critic_hidden: tuple[Count, ...] | None = None
    critic_rate: Positive = 1.0
    spectral_norm: bool = False
    r1: NonNegative = 1.0

    betas = (0.5, 0.99)  # of the autoencoder: what the critic wanted is soon out of date
    penalised = 1  # R1 looks at one of so many samples: it costs several passes

    def build(self, modality: Modality) -> Net:
        """Add the critic."""
        return self._with_critic(super().build(modality), modality)

    def players(self) -> dict[str, Player]:
        """Give both the short memory that games need, and the critic no weight decay."""
        players = super().players()
        rate = self.critic_rate * self.learning_rate
        options = {"learning_rate": rate, "betas": (0.5, 0.9), "weight_decay": 0.0, "l2": 0.0}
        return {
            "autoencoder": (players["autoencoder"][0], {"betas": self.betas}),
            "critic": (players["critic"][0], options),
        }

    def _with_critic(self, net: Net, modality: Modality) -> Net:
        shape = self._judged_shape(modality)
        net.critic = FollowedCritic(shape, self.critic_hidden, self.spectral_norm)
        return net

    def _judged_shape(self, modality: Modality) -> tuple[int, ...]:
        """Return the shape of what the critic sees: of a code."""
        del modality
        return (self.latent_dim,)

    @property
    def _critic(self) -> Critic:
        critic: Critic = self.net_.critic  # type: ignore[assignment]
        return critic

    def _detect(self, true: Tensor, *false: Tensor) -> Move:
        """Return the critic's move: tell true samples from false ones, which it cannot change."""
        critic, true = self._critic, true.detach()
        terms = {"critic": detection(critic(true), *(critic(each.detach()) for each in false))}
        if self.r1:
            n, few = len(true), -(-len(true) // self.penalised)
            penalty = n / few * gradient_penalty(critic, true[:few])
            terms["critic_r1"] = self.r1 * F.pad(penalty, (0, n - few))
        return Move("critic", terms)


class FactorVAE(_Adversarial):
    """VAE whose units pay for depending on one another, by their total correlation.

    E[-log p(x | z)] + KL(q(z | x) || N(0, I)) + gamma * KL(q(z) || prod_j q(z_j))

    The last is the mean logit of a critic that tells codes from codes whose units were shuffled
    over the batch: at its best, the logit is log q(z) / prod_j q(z_j). It sees units of mean 0 and
    deviation 1 over the batch, which leaves their total correlation as it is: from a critic of
    bare codes, the encoder hides in shifts and small deviations faster than that critic follows.

    Use it for codes whose units vary independently when a critic may be trained beside them; not
    where a second player's tuning is unwelcome (see BetaTCVAE).

    Args:
        gamma: weight of the total correlation.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), https://arxiv.org/abs/1802.05983

    >>> from narrows import FactorVAE
    >>> from sklearn.datasets import load_iris
    >>> FactorVAE(latent_dim=2, epochs=20).fit(load_iris().data).sample(3).shape
    (3, 4)
    """

    gamma: NonNegative = 10.0
    r1: NonNegative = 0.0  # it would flatten the ratio that the logit estimates
    betas = (0.9, 0.999)  # its critic estimates, and is no one to fool

    def objective(self, step: Step) -> Terms:
        """Add the estimate of the total correlation."""
        correlation = self.gamma * self._critic(standardised(step.z))
        return super().objective(step) | {"total_correlation": correlation}

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Let the autoencoder move, then the critic on the same codes and their shuffles."""
        step = self.net_(batch)
        yield Move("autoencoder", self.objective(step), step)
        z = standardised(step.z.detach())
        yield self._detect(z, permute_dims(z))


class _Matching(_Adversarial):
    """Base of the models whose critic holds the codes to a prior.

    Args:
        adversarial: weight of what the encoder pays for codes that the critic detects.
    """

    adversarial: NonNegative = 100.0

    def objective(self, step: Step) -> Terms:
        """Add the price of codes that the critic detects."""
        judged = self._matched.judged(step.z, step.batch)
        price = self.adversarial * deception(self._critic(judged))
        return super().objective(step) | {"adversarial": price}

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Let the autoencoder move, then the critic on the same codes and draws of the prior."""
        step = self.net_(batch)
        yield Move("autoencoder", self.objective(step), step)
        pair = (self._matched.drawn(batch), step.z)
        yield self._detect(*(self._matched.judged(z, batch) for z in pair))

    @property
    def _matched(self) -> Matched:
        return cast(Matched, self.net_.latent)


class AdversarialAutoencoder(_Matching):
    """A critic holds the distribution of deterministic codes to a prior, which then generates.

    -log p(x | z) - adversarial * log D(z) with z = f(x)

    The critic D tells draws of the prior from codes: it minimises -log D(p) - log(1 - D(z)).

    Use it for a code of any prior that can be sampled; not where training without a second player
    does (see WassersteinAutoencoder).

    Args:
        prior: "normal" is N(0, I), "mixture" sets Gaussians on a circle, "uniform" is a box; the
            last two have about the normal's scale.
        components: how many Gaussians the mixture has.

    References:
        Adversarial Autoencoders (Makhzani et al., 2015), https://arxiv.org/abs/1511.05644

    >>> from narrows import AdversarialAutoencoder
    >>> from sklearn.datasets import load_iris
    >>> model = AdversarialAutoencoder(prior="uniform", latent_dim=2, epochs=20)
    >>> model.fit(load_iris().data).sample(3).shape
    (3, 4)
    """

    prior: Literal["normal", "mixture", "uniform"] = "normal"
    components: Annotated[Count, When("prior", "mixture")] = 10

    def latent(self) -> Matched:
        """Return a point code with the prior."""
        return Matched(self.latent_dim, self.prior, self.components)


class Features(Running):
    """The normal distribution of a critic's features, whose scale follows training.

    Raises:
        ParameterError: the scale is one that a decoder predicts.
    """

    def __init__(
        self, size: int, scale: float | Literal["optimal", "learned", "predicted"]
    ) -> None:
        super().__init__()
        if scale == "predicted":
            raise ParameterError(
                "VAEGAN compares features of what is decoded, which have one scale: with "
                "scale='predicted' nothing would predict it. Use 'optimal', 'learned' or a number."
            )
        self.size, self.likelihood = size, Normal(scale)

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return -log N(wanted; found, scale²) in nats, ``(batch,)``."""
        return self.likelihood.nll(found, wanted)

    def follow(self, step: Step) -> None:
        """Move the running scale."""
        form, nll = step.h.new_empty(1, self.size), self.size * step.charges["features"]
        self.likelihood.update(nll, form, weight=step.batch.weight)


class Judged(Net):
    """A net that a critic of the data compares with the true samples.

    Its decoder passes the gradient of codes on to the encoder times a gear: what the two pay for
    one pass then differs by that factor. The difference of two passes would be noise where dropout
    or the statistics of batches tell them apart.

    Args:
        net: a net with a critic.
        gamma: weight of the unlikeness in what the decoder pays; in what the encoder does it is
            the number of a sample's values.
        scale: of the critic's features, as of a normal likelihood.

    Raises:
        ParameterError: the net reads sequences of any length, which no critic sees.
    """

    critic: Critic
    features: Features

    def __init__(self, net: Net, gamma: float, scale: Any) -> None:
        super().__init__(*net.parts)
        self.adopt(net)
        shape = self.critic.shape
        if self.takes_any_length and len(shape) > 1:
            raise ParameterError(
                "VAEGAN's critic sees samples of one size, and this architecture sequences of any "
                "length. Use architecture='mlp'."
            )
        self.gear = prod(shape) / gamma
        seen = torch.zeros(1, *shape)
        self.features = Features(self.critic.features(seen).shape[1], scale)

    def decoded(self, z: Tensor, batch: Batch | None = None, *context: Any) -> Tensor:
        still = z.detach()
        return super().decoded(still + self.gear * (z - still), batch, *context)

    def compared(self, batch: Batch) -> tuple[Step, list[Tensor]]:
        """Return a pass that charges what the critic tells of it, and what else it has to judge.

        The charges are the mean nats of a feature and of a value of x, and the price of fakes that
        the critic detects: the batch's codes, and as many of the prior, decoded. They are cut off
        from the encoder, so that the decoder pays alone. The nll trains nothing but its own scale.
        """
        step: Step = self(batch)
        wanted = self.critic.features(shown(batch.target, batch)).detach()
        found = self.critic.features(shown(self.likelihood.mean(step.out), batch))
        drawn = cast(Distribution, self.latent.prior()).sample(len(batch))
        out = self.decoded(torch.cat([step.z.detach(), drawn]))
        fakes = [shown(x, batch) for x in self.likelihood.mean(out).chunk(2)]
        charges = {
            "features": self.features(found, wanted) / self.features.size,
            "values": step.nll / prod(batch.target.shape[1:]),
            "adversarial": deception(self.critic(fakes[0])) + deception(self.critic(fakes[1])),
        }
        nll = self.likelihood.nll(step.out.detach(), batch.target, batch.mask)
        return replace(step, nll=nll).charging(**charges), fakes


class VAEGAN(_Adversarial):
    """VAE that is judged by a critic of the data: by its features, and by whether it is fooled.

    encoder: beta * KL + N * unlikeness,
    decoder: gamma * unlikeness - log D(decoded) - log D(generated),
    unlikeness = (feature / L + direct * nll / N) / (1 + direct)

    The feature loss is -log N(D_l(x); D_l(decoded), s²), with D_l the critic's last hidden layer
    of L features and s found like the likelihood's scale. The critic minimises
    -log D(x) - log(1 - D(decoded)) - log(1 - D(generated)).

    It departs from the paper, whose loss is direct=0, in three ways. Data of N values are compared
    in N values' worth of nats, so that neither the logits nor the KL depend on the critic's width.
    Beside the features stands the data's own nll: features alone leave dense decoders free to
    speckle. The critic of dense nets is dense; other nets meet convolutions where the data are
    images.

    Use it for images that are compared by learned features, not by pixels alone; not where errors
    must be small, or to train unattended.

    Args:
        beta: weight of the KL divergence.
        gamma: weight of the unlikeness, a mean over values, in what the decoder pays.
        direct: weight of the data's own nll beside that of the features; 0 compares features only.

    References:
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016),
        https://arxiv.org/abs/1512.09300

    >>> from narrows import VAEGAN
    >>> from sklearn.datasets import load_iris
    >>> VAEGAN(latent_dim=2, epochs=20).fit(load_iris().data).sample(3).shape
    (3, 4)
    """

    calculates = True

    beta: Annotated[NonNegative, Weighs("kl")] = 1.0
    gamma: Positive = 10.0
    direct: NonNegative = 5.0
    r1: NonNegative = 10.0

    penalised = 8

    def build(self, modality: Modality) -> Net:
        """Return a net that is compared with the data by the critic's features."""
        return Judged(super().build(modality), self.gamma, self.scale)

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Let the autoencoder move, then the critic."""
        step, fakes = cast(Judged, self.net_).compared(batch)
        yield Move("autoencoder", self.objective(priced(step, self.gamma, self.direct)), step)
        yield self._detect(shown(batch.target, batch), *fakes)

    def _judged_shape(self, modality: Modality) -> tuple[int, ...]:
        """Return the shape of a sample: flat for dense nets, whose critic is dense too."""
        return seen_shape(self, modality)


def priced(step: Step, gamma: float, direct: float) -> Step:
    """Return a pass with what its two sides of the unlikeness cost the decoder."""
    charges, share = step.charges, gamma / (1 + direct)
    features, values = share * charges["features"], share * direct * charges["values"]
    return step.charging(features=features, values=values)


def shown(x: Tensor, batch: Batch) -> Tensor:
    """Return what the critic sees: nothing where the batch was not observed."""
    return x if batch.mask is None else x * batch.mask
