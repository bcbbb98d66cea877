"""An ensemble: many models of one kind, trained at once, that answer as one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from narrows.base import LOADABLE, MODELS, BaseAutoencoder
from narrows.errors import DataTypeError, ParameterError
from narrows.fitting import FitOptions
from narrows.storage import save_model
from narrows.together.fit import fit_together
from narrows.training import group

__all__ = ["Ensemble"]

Array = NDArray[Any]


class Ensemble(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Models of one kind and of consecutive seeds, trained at once, that answer as one.

    Each member has weights, an order of samples, noise and held-out rows of its own. What they
    agree on can be trusted more than what one of them says; where they differ, the standard
    deviation over them tells how much.

    Args:
        estimator: what is trained n_estimators times; its seed is that of the first member.
        n_estimators: number of members.

    Attributes:
        members_: the fitted models.

    References:
        Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles
        (Lakshminarayanan et al., 2017), https://arxiv.org/abs/1612.01474

    >>> from narrows import Autoencoder, Ensemble
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> ensemble = Ensemble(Autoencoder(latent_dim=2, epochs=20), n_estimators=4).fit(X)
    >>> scores, spread = ensemble.score_samples(X, return_std=True)
    >>> scores.shape, bool((spread > 0).all())
    ((150,), True)
    """

    def __init__(self, estimator: BaseAutoencoder, n_estimators: int = 16) -> None:
        self.estimator, self.n_estimators = estimator, n_estimators

    def fit(self, X: Any, y: Any = None, **options: Unpack[FitOptions]) -> Self:
        """Train the members on X, at once where that is possible: see `fit_together`.

        Raises:
            ParameterError: a parameter cannot work.
            DataError: X cannot be used.
            TrainingError: the loss of a member became infinite or not a number.
        """
        if not isinstance(self.estimator, BaseAutoencoder):
            raise ParameterError(
                "The 'estimator' parameter of Ensemble must be an autoencoder of narrows. Got "
                f"{self.estimator!r} instead."
            )
        count: Any = self.n_estimators
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ParameterError(
                "The 'n_estimators' parameter of Ensemble must be an int ≥ 1. Got "
                f"{count!r} instead."
            )
        first = self.estimator.seed
        seeds = [None if first is None else first + k for k in range(count)]
        members = [clone(self.estimator).set_params(seed=seed) for seed in seeds]
        self._learned(fit_together(members, X, y, **options))
        return self

    def transform(self, X: Any, y: Any = None) -> Array:
        """Return the members' codes side by side, ``(n, n_estimators * code size)``.

        Codes of different members have nothing to do with each other, and no mean.
        """
        check_is_fitted(self)
        return np.concatenate([member.transform(X, y) for member in self.members_], axis=1)

    @overload
    def reconstruct(self, X: Any, y: Any = ..., *, return_std: Literal[False] = ...) -> Array: ...
    @overload
    def reconstruct(
        self, X: Any, y: Any = ..., *, return_std: Literal[True]
    ) -> tuple[Array, Array]: ...

    def reconstruct(
        self, X: Any, y: Any = None, *, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
        """Return the mean of the members' reconstructions, shaped like X.

        Args:
            X: samples that come back as an array of numbers.
            y: what is known of X, for models that read it.
            return_std: return ``(mean, std)``, with the standard deviation over the members.

        Raises:
            DataTypeError: what comes back has no mean, like texts.
        """
        made = self._asked(lambda member: member.reconstruct(X, y))
        mean = made.mean(0)
        if np.issubdtype(made.dtype, np.integer):
            mean = mean.round().astype(made.dtype)
        return (mean, made.std(0)) if return_std else mean

    @overload
    def score_samples(
        self, X: Any, y: Any = ..., *, return_std: Literal[False] = ...
    ) -> Array: ...
    @overload
    def score_samples(
        self, X: Any, y: Any = ..., *, return_std: Literal[True]
    ) -> tuple[Array, Array]: ...

    def score_samples(
        self, X: Any, y: Any = None, *, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
        """Return the mean of the members' scores in nats, ``(n,)``: higher = more normal.

        Where the members' scores bound log p(x), so does their mean: it is below the log of the
        mean of their densities.

        Args:
            X: samples.
            y: what is known of X, for models that read it.
            return_std: return ``(mean, std)``, with the standard deviation over the members.
        """
        scores = self._asked(lambda member: member.score_samples(X, y))
        return (scores.mean(0), scores.std(0)) if return_std else scores.mean(0)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples`."""
        return float(self.score_samples(X, y).mean(dtype=np.float64))

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the members as one folder that `narrows.load` reads; no pickle inside.

        Raises:
            FileError: the folder exists and `overwrite` is off, or it cannot be written.
        """
        check_is_fitted(self)
        save_model(self, path, overwrite)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return all that was learned, as JSON data and tensors by name."""
        states = [member.state() for member in self.members_]
        tensors = {
            f"{k}.{name}": t for k, (_, own) in enumerate(states) for name, t in own.items()
        }
        configs = [config for config, _ in states]
        fields = self.estimator.fields()
        return {"class": "Ensemble", "fields": fields, "members": configs}, tensors

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the ensemble whose `state` this is."""
        members = [
            MODELS[own["class"]].restore(own, group(dict(tensors), str(k)))
            for k, own in enumerate(config["members"])
        ]
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["fields"].items()}
        ensemble = cls(type(members[0])().set_params(**fields), len(members))
        ensemble._learned(members)
        return ensemble

    def _learned(self, members: list[BaseAutoencoder]) -> None:
        """Set the fitted attributes."""
        self.members_ = members
        first = members[0]
        self._n_features_out = sum(member._n_features_out for member in members)
        self.n_features_in_ = first.n_features_in_
        if "feature_names_in_" in vars(first):
            self.feature_names_in_ = first.feature_names_in_

    def _asked(self, question: Callable[[BaseAutoencoder], Any]) -> Array:
        """Return every member's answer, ``(n_estimators, ...)``."""
        check_is_fitted(self)
        answers = [question(member) for member in self.members_]
        first = answers[0]
        if not isinstance(first, np.ndarray) or not np.issubdtype(first.dtype, np.number):
            raise DataTypeError(
                f"Ensemble returns the mean of its members' answers, and a {type(first).__name__} "
                "has none. Ask each of members_, or give X as an array of numbers."
            )
        return np.stack(answers)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


LOADABLE["Ensemble"] = Ensemble
