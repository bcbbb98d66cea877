"""Evaluate a fitted model on rows it has not seen, and PCA beside it on the same rows."""

import time
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrows.base import BaseAutoencoder
from narrows.data.frames import is_frame
from narrows.data.modalities import Grid, Modality, Table
from narrows.errors import DataError
from narrows.evaluation.baseline import PrincipalComponents, most_rows
from narrows.metrics.reconstruction import (
    explained_variance,
    explained_variances,
    mse,
    psnr,
    sample_mse,
)

__all__ = ["Evaluation", "Examples", "evaluate", "evenly", "plane", "take"]

Array = NDArray[Any]
Rows = NDArray[np.intp]
POINTS = 2000
"""Samples on the map, at most."""
TYPICAL = 64
"""Samples with typical errors, at most."""
SHOWN = 4
"""Samples shown of the best, of the median and of the worst."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples of one kind (best, median, worst) and what became of them, in the user's units.

    Attributes:
        rows: where they lie in X.
        original: one array, samples first, NaN where missing; of text, the strings.
        model: the model's reconstructions.
        pca: PCA's.
        errors: of both for each sample, by "model" and "pca".
    """

    rows: Rows
    original: Array
    model: Array
    pca: Array
    errors: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Numbers of a model and of PCA on the same samples, and what a report shows of them.

    Attributes:
        metrics: by "model" and "pca": "mse" in the user's squared units; "explained_variance" in
            the model's units, where every column counts alike; "psnr" of images and volumes in
            decibels; "accuracy", the share of a text's symbols that are right, its ends among
            them, and "exact", that of the strings (text is measured with a unit for each symbol);
            "log_likelihood", the mean over samples in nats, as a density in the user's units,
            where the model has a bound on it.
        held_out: whether the samples scored were kept from training.
        train: number of training samples.
        test: number of samples scored.
        fitted: number of training samples that PCA was fitted to, an even choice where many.
        kept: numbers that the model keeps of a sample; of a discrete code, its integers.
        dimensions: numbers that PCA keeps of a sample: as many, or all there are if fewer.
        errors: mean squared error of each test sample, by "model" and "pca": in the user's units
            for images and volumes, in the model's for all others.
        scaled: whether the errors are in the model's units.
        columns: explained variance of each column of a table, by "model" and "pca".
        examples: the best, median and worst test samples by the model's error.
        typical: rows of test samples with neither small nor great errors.
        rows: samples on the map, test samples first.
        codes: theirs, ``(rows, code size)``.
        points: the codes in two dimensions, ``(rows, 2)``: (codes - center) @ axes'.
        center: the code at the origin of the map.
        axes: the directions of the map, ``(2, code size)``; of a 1-d code, the second is 0 and
            points are scattered along it only to be seen.
        share: share of the codes' variance that the map shows.
        rate: samples reconstructed a second.
    """

    metrics: dict[str, dict[str, float]]
    held_out: bool
    train: int
    test: int
    fitted: int
    kept: int
    dimensions: int
    errors: dict[str, Array]
    scaled: bool
    columns: dict[str, Array]
    examples: dict[str, Examples]
    typical: Rows
    rows: Rows
    codes: Array
    points: Array
    center: Array
    axes: Array
    share: float
    rate: float


def evaluate(model: BaseAutoencoder, X: Any, *, train: ArrayLike, test: ArrayLike) -> Evaluation:
    """Score a model on rows of X, and PCA of as many dimensions fitted to its training rows.

    PCA sees what the model's net sees: the scaled training rows. Both reconstructions are decoded
    alike (rounded and clipped where the data are whole numbers) and scored by the same functions.

    Args:
        model: a fitted estimator.
        X: the data, in the form that `fit` got; of windows, what the modality's `samples` makes
            of it.
        train: indices of the rows that the model was fitted to.
        test: indices of the rows to score; those of `train` again where none were held out.

    Raises:
        DataError: there are no rows, or indices that X does not have.
    """
    train, test = _indices(train, "train"), _indices(test, "test")
    if model.modality_.symbols:  # each is a unit of its own
        test = evenly(test, most_rows(_width(model.modality_)))
    data = _Data(model, X, train, test)
    start = time.perf_counter()
    made = {"model": model.reconstruct(data.inside)}
    rate = len(test) / max(time.perf_counter() - start, 1e-9)
    made["pca"] = data.decode(data.pca.reconstruct(data.x))
    arrays = {name: data.read(reconstruction) for name, reconstruction in made.items()}
    values = {name: data.modality.values(array) for name, array in arrays.items()}
    metrics = {name: data.score(array) for name, array in arrays.items()}
    for name, value in data.log_likelihoods(model).items():
        metrics[name]["log_likelihood"] = value
    errors = {name: data.errors(array) for name, array in arrays.items()}
    rows = _map_rows(train, test)
    codes = np.asarray(model.transform(take(X, rows)), np.float32)
    center, axes, share = plane(codes)
    points = (codes - center) @ axes.T
    if codes.shape[1] == 1:
        points[:, 1] = np.random.default_rng(0).normal(0, 0.1 * np.ptp(codes), len(codes))
    return Evaluation(
        metrics=metrics,
        held_out=not np.intersect1d(train, test).size,
        train=len(train),
        test=len(test),
        fitted=len(data.fitted),
        kept=model.codes_.shape[1],
        dimensions=len(data.pca.components),
        errors=errors,
        scaled=not data.image,
        columns={k: explained_variances(data.values, v) for k, v in values.items()}
        if isinstance(data.modality, Table)
        else {},
        examples=_examples(test, *data.shown(made, values), errors),
        typical=_typical(test, errors["model"]),
        rows=rows,
        codes=codes,
        points=points,
        center=center,
        axes=axes,
        share=share,
        rate=rate,
    )


def take(X: Any, rows: Rows) -> Any:
    """Return rows of X in X's own form."""
    if isinstance(X, list | tuple):
        return [X[row] for row in rows]
    if is_frame(X):
        return nw.from_native(X, eager_only=True)[rows.tolist()].to_native()
    return np.asarray(X)[rows]


class _Data:
    """The rows to score, in all the forms that scoring needs."""

    def __init__(self, model: BaseAutoencoder, X: Any, train: Rows, test: Rows) -> None:
        self.modality, self.owner = model.modality_, type(model).__name__
        self.image = isinstance(self.modality, Grid)
        self.inside = take(X, test)
        self.array = self.read(self.inside)
        self.values = self.modality.values(self.array)
        self.scaled = self.modality.scaled(self.array)
        self.x = _filled(self.scaled)
        missing = np.isnan(self.scaled).reshape(self.x.shape)
        self.observed = (~missing).astype(np.float32) if missing.any() else None
        self.fitted = evenly(train, most_rows(_width(self.modality)))
        learned = self.read(take(X, self.fitted))
        seen = _filled(self.modality.scaled(learned))
        self.pca = PrincipalComponents.fit(seen, model.codes_.shape[1])
        self.peak = _peak(self.array, learned) if self.image else 1.0

    def read(self, X: Any) -> Array:
        return self.modality.read(X, self.owner)

    def decode(self, x: Array) -> Any:
        return self.modality.unscaled(x, self.inside)

    def score(self, reconstruction: Array) -> dict[str, float]:
        values, scaled = self.modality.values(reconstruction), self.modality.scaled(reconstruction)
        scores = {
            "mse": mse(self.values, values),
            "explained_variance": explained_variance(self.scaled, scaled),
        }
        if self.image:
            scores["psnr"] = psnr(self.values, values, self.peak)
        if self.modality.symbols:
            right = (self.values == values).all(2)
            counted = self.modality.encode(self.array).x[:, 0].numpy() > 0
            scores["accuracy"] = float(right[counted].mean())
            scores["exact"] = float(right.all(1).mean())
        return scores

    def errors(self, reconstruction: Array) -> Array:
        if self.image:
            return sample_mse(self.array, reconstruction)
        return sample_mse(self.scaled, self.modality.scaled(reconstruction))

    def shown(
        self, made: dict[str, Any], values: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Return originals and reconstructions as they are shown."""
        if not self.modality.symbols:
            return self.values, values
        return np.array(self.inside, object), {k: np.array(v, object) for k, v in made.items()}

    def log_likelihoods(self, model: BaseAutoencoder) -> dict[str, float]:
        """Return both where the model bounds log p(x): others would be compared unfairly.

        A point code is not paid for in -nll, Bernoulli's nll of grey values is no density,
        counts and levels have probabilities, and score_draws=0 gives no bound.
        """
        net = model.net_
        bound = net.latent.stochastic and model.score_draws > 0
        if not bound or net.likelihood.support != "real":
            return {}
        units = self.modality.log_units.expand(self.modality.shape).flatten().double().numpy()
        offset = units.sum() if self.observed is None else self.observed @ units
        exact = self.pca.log_likelihood(self.x, self.observed) - offset
        return {"model": model.score(self.inside), "pca": float(exact.mean())}


def _width(modality: Modality) -> int:
    """Return the number of quantities in a sample."""
    return modality.n_features * max(modality.symbols, 1)


def _filled(scaled: Array) -> Array:
    """Return samples ``(n, values)``, 0 where missing."""
    return np.nan_to_num(scaled.reshape(len(scaled), -1))


def _peak(array: Array, learned: Array) -> float:
    """Return the greatest difference that pixels can have, or have where no type limits them."""
    if array.dtype == np.uint8:
        return 255.0
    values = [f(part) for part in (array, learned) for f in (np.nanmin, np.nanmax)]
    return float(max(values) - min(values)) or 1.0


def _indices(rows: ArrayLike, name: str) -> Rows:
    found = np.asarray(rows, dtype=np.intp).ravel()
    if not len(found):
        raise DataError(f"'{name}' names no rows. Where none were held out, pass all rows twice.")
    return found


def _map_rows(train: Rows, test: Rows) -> Rows:
    """Return test rows, filled up with training rows."""
    rest = np.setdiff1d(train, test)
    test = evenly(test, POINTS)
    return np.concatenate([test, evenly(rest, POINTS - len(test))])


def evenly(rows: Rows, most: int) -> Rows:
    """Return an even choice of rows."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)] if most else rows[:0]


def _typical(test: Rows, errors: Array) -> Rows:
    """Return some rows between the 40th and the 80th percentile of the errors, or all of few."""
    order = np.argsort(errors, kind="stable")
    if len(order) > 10:
        order = order[2 * len(order) // 5 : 4 * len(order) // 5]
    return test[evenly(order, TYPICAL)]


def plane(codes: Array) -> tuple[Array, Array, float]:
    """Return center and axes of the plane with most of the codes' variance, and its share."""
    size = codes.shape[1]
    if size <= 2:
        return np.zeros(size), np.eye(2, size), 1.0
    center = codes.mean(0, dtype=np.float64)
    _, values, directions = np.linalg.svd(codes - center, full_matrices=False)
    axes = np.zeros((2, size))
    axes[: len(directions)] = directions[:2]
    total = float((values**2).sum())
    return center, axes, float((values[:2] ** 2).sum()) / total if total else 1.0


def _examples(
    test: Rows, original: Array, made: dict[str, Array], errors: dict[str, Array]
) -> dict[str, Examples]:
    """Return the samples with the least, the middle and the greatest error; each only once."""
    order = np.argsort(errors["model"], kind="stable")
    order = order[np.isfinite(errors["model"][order])]
    if not len(order):
        return {}
    few = min(SHOWN, max(1, len(order) // 3))
    middle = max((len(order) - few) // 2, 0)
    places = {"best": order[:few], "worst": order[-few:], "median": order[middle : middle + few]}
    shown: dict[str, Examples] = {}
    seen: set[int] = set()
    for name, found in places.items():
        at = np.array([i for i in found if i not in seen], dtype=np.intp)
        seen.update(at.tolist())
        if len(at):
            shown[name] = Examples(
                test[at],
                original[at],
                made["model"][at],
                made["pca"][at],
                {key: values[at] for key, values in errors.items()},
            )
    return {name: shown[name] for name in ("best", "median", "worst") if name in shown}
