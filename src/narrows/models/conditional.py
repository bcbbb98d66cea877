"""Conditional variational autoencoders: what is known of a sample need not be in its code."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from narrows.assembly import classifier
from narrows.base import BaseAutoencoder
from narrows.data.conditions import Condition, Labels, Numbers, describe_condition
from narrows.data.modalities import Modality
from narrows.data.sources import Batch, InMemory
from narrows.errors import DataError, ParameterError
from narrows.fields import Positive, Weighs
from narrows.models.variational import VAE
from narrows.net import Net, Step
from narrows.parts.generation import Plan

__all__ = ["ConditionalVAE"]

ON_NUMBERS = "weighs the classifier of labels, and has no effect on numbers"
EXAMPLES = 256
"""Training conditions that are kept, for `sample` to draw from."""


class _Conditioned(BaseAutoencoder):
    """Base of the models that are told something of each sample beside it.

    Where it is labels, they can also be predicted.
    """

    takes: ClassVar[tuple[type[Condition], ...]] = (Labels, Numbers)
    """What y may hold."""
    supervised: ClassVar[tuple[str, ...]] = ()
    """Fields that need the labels of all samples."""

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels that `fit` saw, sorted."""
        return np.array(self._labels().values)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each sample."""
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return q(y | x) ``(n, labels)``, in the order of `classes_`."""
        self._labels()
        net = cast(Telling, self.net_)
        return self._map(X, lambda batch: net.logits(batch).softmax(1)).numpy()

    def describe(self, X: Any, y: Any) -> Modality:
        """Note what is known of the samples."""
        modality = super().describe(X, y)
        return replace(modality, condition=self._condition(modality, y))

    def build(self, modality: Modality) -> Net:
        """Leave room for some numbers to sample under."""
        net, given = super().build(modality), modality.condition
        if isinstance(given, Numbers):
            net.register_buffer("examples", torch.zeros(EXAMPLES, given.width))
        return net

    def prepare(self, source: InMemory) -> None:
        """Refuse unknown labels where they cannot be; keep some numbers to sample under."""
        super().prepare(source)
        if source.known is not None:
            self.refuse_set(self.supervised, "needs the labels of all samples")
        if source.condition is not None and isinstance(self.modality_.condition, Numbers):
            rows = torch.randint(len(source), (EXAMPLES,), device=source.x.device)
            self.net_.get_buffer("examples").copy_(source.condition[rows])

    def _condition(self, modality: Modality, y: Any) -> Condition:
        """Note what y holds."""
        del modality
        name = type(self).__name__
        if y is None:
            wanted = " or ".join(kind.name for kind in self.takes)
            if "condition" in self.annotations():
                wanted += ", or name columns of a data frame with condition="
            raise DataError(
                f"{name} requires y to be passed, but the target y is None. Give {wanted}."
            )
        condition = describe_condition(y)
        if not isinstance(condition, self.takes):
            raise DataError(
                f"{name} takes one label a sample as y, (n,). Got numbers (n, columns): "
                "ConditionalVAE takes those."
            )
        return condition

    def _labels(self) -> Labels:
        check_is_fitted(self)
        if not isinstance(self.modality_.condition, Labels):
            raise ParameterError(
                f"This {type(self).__name__} was fitted to numbers: it has no labels."
            )
        return self.modality_.condition

    def _drawn(self, n: int) -> Tensor:
        if not isinstance(self.modality_.condition, Labels):
            return self.net_.get_buffer("examples").cpu()[torch.randint(EXAMPLES, (n,))]
        shares = torch.tensor(self._labels().shares)
        return torch.eye(len(shares))[shares.multinomial(n, replacement=True)]

    def _decode(
        self, codes: Tensor, condition: Tensor | None = None, plan: Plan | None = None
    ) -> Tensor:
        given, decode = self.modality_.condition, super()._decode
        if condition is not None or given is None or not self.told:
            return decode(codes, condition, plan)
        common = given.common(mean=not self.modality_.symbols)
        parts = [p * decode(codes, y.expand(len(codes), -1), plan) for p, y in common]
        return torch.stack(parts).sum(0)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that y is needed, unless columns of X take its place."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = getattr(self, "condition", None) is None
        return tags


class ConditionalVAE(_Conditioned, VAE):
    """Encoder and decoder are told labels or numbers, so that the code holds what they leave open.

    E[-log p(x | z, y)] + beta * KL(q(z | x, y) || N(0, I)) - alpha * log q(y | x)

    `fit(X, y)` takes labels, strings or whole numbers, or real numbers ``(n, columns)``. Labels
    that are -1, NaN, None or "" are unknown (semi-supervised learning): such a sample pays the
    mean of the first two terms under q(y | x), and KL(q(y | x) || p(y)). The other methods take y
    too; without it, the most probable label stands in, and `score_samples` bounds log p(x)
    instead of log p(x | y). `sample(n, condition="a")` draws of one kind, and
    `inverse_transform(transform(X, y), condition=other)` shows X as if it were of another; codes
    without a condition decode to the mean over all labels, or at the mean numbers.

    Use it to generate given labels or columns, and to learn from few labels; not where the
    condition is unknown when the model is used and is no label.

    Args:
        alpha: weight of the classifier q(y | x), relative to the share of labelled samples in the
            first fit.
        condition: columns of a data frame that are the condition; they are not reconstructed, and
            y is ignored. None takes y.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn
        et al., 2015), https://papers.nips.cc/paper/5775
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298

    >>> from narrows import ConditionalVAE
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = ConditionalVAE(latent_dim=2, epochs=20).fit(X, y)
    >>> model.sample(3, condition=2).shape
    (3, 4)
    """

    supervised = ("free_bits", "distortion")

    alpha: Annotated[Positive, Weighs("classifier")] = 10.0
    condition: tuple[str, ...] | None = None

    def build(self, modality: Modality) -> Net:
        """Add a classifier where the condition is a label."""
        net, given = super().build(modality), modality.condition
        if not isinstance(given, Labels):
            self.refuse_set(["alpha"], ON_NUMBERS)
            return net
        return LabelNet(net, classifier(self, modality, given.width), given)

    def _condition(self, modality: Modality, y: Any) -> Condition:
        if self.condition is None:
            return super()._condition(modality, y)
        return Numbers.among(getattr(modality, "columns", ()), self.condition)


class Telling(Net):
    """A net that can tell the labels of samples."""

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of q(y | x), ``(batch, labels)``."""
        raise NotImplementedError


class LabelNet(Telling):
    """A conditioned net with a classifier q(y | x), which averages over unknown labels.

    Args:
        net: a net whose condition is a one-hot label.
        classifier: from a batch to the logits of its labels.
        labels: what is known of the labels.
    """

    log_shares: Tensor

    def __init__(self, net: Net, classifier: nn.Module, labels: Labels) -> None:
        super().__init__(*net.parts)
        self.adopt(net)
        self.classifier, self.labelled = classifier, labels.labelled
        shares = torch.tensor(labels.shares)
        self.register_buffer("log_shares", shares.log(), persistent=False)

    def logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.classifier(batch)
        return logits

    def networks(self) -> list[nn.Module]:
        return [*super().networks(), self.classifier]

    def copies(self, known: Tensor | None) -> int:
        return 1 if known is None else len(self.log_shares)

    def encode(self, batch: Batch) -> tuple[Tensor, tuple[Any, ...]]:
        """Return h of each sample, or of each with every label where any is unknown."""
        logits = self.classifier(batch)
        h, context = super().encode(batch if batch.known is None else self._every(batch))
        return h, (logits, *context)

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Go on to the end of the pass; unknown labels are averaged over, exactly."""
        log_q, context = context[0].log_softmax(1), context[1:]
        if batch.known is None or batch.condition is None:
            step = super().complete(batch, h, context, noise)
            return step.charging(classifier=-(batch.condition * log_q).sum(1))
        step = super().complete(self._every(batch), h, context, noise)
        n, known = len(batch), batch.known
        weight = torch.where(known[:, None] > 0, batch.condition, log_q.exp())
        rows = torch.arange(n, device=h.device) * weight.shape[1] + weight.argmax(1)

        def mean(values: Tensor) -> Tensor:
            return (weight * values.view(n, -1)).sum(1)

        charges = {name: mean(cost) for name, cost in step.charges.items()}
        charges["kl_label"] = (1 - known) * (log_q.exp() * (log_q - self.log_shares)).sum(1)
        charges["classifier"] = -(batch.condition * log_q).sum(1) / self.labelled
        h, z, out = step.h[rows], step.z[rows], step.out[rows]
        q = self.latent.posterior(h)
        return Step(batch, h, q, z, out, mean(step.nll), charges, self.progress)

    def code(self, batch: Batch) -> Tensor:
        """Return the deterministic code, under the most probable label where it is unknown."""
        return super().code(self._guess(batch))

    def look(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return codes and KL, under the most probable label where it is unknown."""
        return super().look(self._guess(batch))

    def condition(self, batch: Batch) -> Tensor | None:
        """Return the label, the most probable one where it is unknown."""
        return self._guess(batch).condition

    def _guess(self, batch: Batch) -> Batch:
        if batch.known is None or batch.condition is None:
            return batch
        logits = self.classifier(batch)
        guess = torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
        condition = torch.where(batch.known[:, None] > 0, batch.condition, guess)
        return replace(batch, condition=condition, known=None)

    def _every(self, batch: Batch) -> Batch:
        """Return each sample as often as there are labels, with one after the other."""
        n, k = len(batch), len(self.log_shares)
        many = {
            name: tensor.repeat_interleave(k, 0)
            for name, tensor in vars(batch).items()
            if tensor is not None and name not in ("condition", "known")
        }
        labels = torch.eye(k, device=batch.x.device).repeat(n, 1)
        return replace(batch, **many, condition=labels, known=None)
