"""Autoencoders of sequences: series and text, read and written step by step."""

from typing import Literal

from narrows.assembly import likelihood_of
from narrows.base import BaseAutoencoder
from narrows.data.modalities import Modality
from narrows.fields import Count, Fraction, NonNegative, Positive
from narrows.models.plain import _Deterministic
from narrows.models.variational import VAE
from narrows.net import Net
from narrows.parts.generation import Plan
from narrows.parts.likelihoods import LIKELIHOODS

__all__ = ["SequenceAutoencoder", "SequenceVAE"]


class _Sequences(BaseAutoencoder):
    """Networks that read a sequence to its true end, and write one step by step.

    Args:
        architecture: "lstm", "gru" or "transformer".
        heads: attention heads of a transformer's blocks; they divide their width.
        bidirectional: let recurrent layers of the encoder read backwards too.
        feedback: let each step of the decoder see the ones before it; None does so for text.
        attention: let each step of the decoder look back at the encoder's states. Bare codes then
            cannot be decoded.
        reverse: write the last step first.
        word_dropout: share of the steps fed back that are hidden in training, which makes the
            decoder rely on the code.
        teacher_forcing: share of true steps among those fed back, at the end of training: it
            falls evenly from 1, and what the decoder makes of the true steps before takes their
            place.
        beams: candidates that text is searched with for the most probable one; 1 takes the most
            probable symbol at every step.
        temperature: of symbols drawn by `sample(noise=True)`: below 1, rare ones are rarer.
    """

    latent_dim: Count = 32
    architecture: Literal["lstm", "gru", "transformer"] = "lstm"
    heads: Count = 4
    bidirectional: bool = False
    feedback: bool | None = None
    attention: bool = False
    reverse: bool = False
    word_dropout: Fraction = 0.0
    teacher_forcing: Fraction | Literal[1] = 1
    beams: Count = 1
    temperature: Positive = 1.0
    learning_rate: Positive = 5e-3
    weight_decay: NonNegative = 0.01

    def build(self, modality: Modality) -> Net:
        """Refuse fields that could not act on such data."""
        feedback = bool(modality.symbols) if self.feedback is None else self.feedback
        support = LIKELIHOODS[likelihood_of(self, modality)].support
        if feedback and support in ("counts", "levels") and not modality.symbols:
            self.refuse_set(["feedback"], "needs text or real-valued series, no whole numbers")
        if not feedback:
            self.refuse_set(["word_dropout", "teacher_forcing"], "has no effect without feedback")
        if not (feedback and modality.symbols):
            self.refuse_set(["beams"], "has no effect but on text with feedback")
        if not modality.symbols:
            self.refuse_set(["temperature"], "has no effect but on text")
        return super().build(modality)

    def plan(self, noise: bool = False) -> Plan:
        """Return how text is searched or drawn."""
        return Plan(noise, self.temperature, self.beams)


class SequenceAutoencoder(_Sequences, _Deterministic):
    """Reads a series or a text to its end, and writes it again from the code.

    -log p(x | z) = -sum_t log p(x_t | z, x_<t) with z = f(x)

    The steps before t are those of x in training (teacher forcing) and the decoder's own in
    `reconstruct`, `inverse_transform` and `sample`. Without `feedback`, which is the default for
    numbers, a step depends on the code alone and these are one thing. A decoded text ends by
    itself; a series of unequal lengths is as long as the original in `reconstruct`, as the median
    training sample in `inverse_transform`, and as one drawn from those in `sample`. A row of a
    table is a series of one channel.

    Use it for series or strings of unequal lengths: to reduce, search or find anomalies; not to
    sample, which a SequenceVAE does better.

    References:
        Unsupervised Learning of Video Representations using LSTMs (Srivastava et al., 2015),
        https://arxiv.org/abs/1502.04681
        Sequence to Sequence Learning with Neural Networks (Sutskever et al., 2014),
        https://arxiv.org/abs/1409.3215
        Effective Approaches to Attention-based Neural Machine Translation (Luong et al., 2015),
        https://arxiv.org/abs/1508.04025
        Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks (Bengio et al.,
        2015), https://arxiv.org/abs/1506.03099

    >>> from narrows import SequenceAutoencoder
    >>> names = ["ethane", "methane", "propane", "butane"] * 10
    >>> model = SequenceAutoencoder(latent_dim=8, hidden=(32,), epochs=100, learning_rate=0.01)
    >>> model.fit(names).reconstruct(names[:2])
    ['ethane', 'methane']
    """


class SequenceVAE(_Sequences, VAE):
    """A variational autoencoder of series or text.

    E[-sum_t log p(x_t | z, x_<t)] + beta * s(t) * KL(q(z | x) || N(0, I))

    With `feedback` the decoder can do without the code, and the KL collapses; `diagnose` says
    so. `free_bits`, `kl_schedule` and `word_dropout` are the remedies. What is said of lengths and
    of feedback at SequenceAutoencoder holds here.

    Use it to generate strings or series, to score them by a bound on the likelihood and for smooth
    codes; not where every string must come back exactly.

    References:
        Generating Sentences from a Continuous Space (Bowman et al., 2016),
        https://arxiv.org/abs/1511.06349

    >>> from narrows import SequenceVAE
    >>> names = ["ethane", "methane", "propane", "butane"] * 10
    >>> vae = SequenceVAE(latent_dim=4, hidden=(32,), free_bits=0.5, epochs=20).fit(names)
    >>> len(vae.sample(3, noise=True))
    3
    """
