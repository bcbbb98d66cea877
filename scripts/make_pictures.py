"""Draw what each model makes of real data, for its page in docs/models/."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_wine
from sklearn.neighbors import kneighbors_graph
from sklearn.preprocessing import StandardScaler

import narrows
from narrows.base import BaseAutoencoder
from narrows.data import samples
from narrows.data.corruption import corrupted
from narrows.data.sources import Batch
from narrows.errors import ContextError

__all__ = ["GRAPHS", "PICTURES", "SEQUENCES", "Picture", "picture"]

Images = NDArray[Any]
SHOWN = 10
GAP = 8
"""Pixels between two matrices."""


class Picture(NamedTuple):
    """What is drawn of a model, and how it is said in words."""

    draw: Callable[[type[BaseAutoencoder]], Images]
    shows: str


def picture(model: type[BaseAutoencoder]) -> Picture:
    """Return the picture of a model: that of the first of its classes that has one."""
    return next(PICTURES[base] for base in model.__mro__ if base in PICTURES)


def plain(model: type[BaseAutoencoder]) -> Images:
    """Draw digits, their reconstructions and samples.

    Dense layers take seconds where convolutions take minutes.
    """
    free = model.defaults()["architecture"] == "auto"
    fitted, shown = learned(model(verbose=0, **({"architecture": "mlp"} if free else {})))
    return rows(shown, fitted.reconstruct(shown), *new(fitted))


def by_steps(model: type[BaseAutoencoder]) -> Images:
    """Draw the same of a model that reads each digit as a series of 28 rows."""
    fitted, shown = learned(model(modality="series", verbose=0), np.float32)
    return rows(shown, fitted.reconstruct(shown), *new(fitted))


def cleaned(model: type[BaseAutoencoder]) -> Images:
    """Draw digits, the same with the noise of training, and what the model makes of these."""
    free = model.defaults()["architecture"] == "auto"
    fitted, shown = learned(model(verbose=0, **({"architecture": "mlp"} if free else {})))
    batch = corrupted(read(fitted, shown), fitted.corruption, fitted.noise)
    noisy = fitted.modality_.decode(batch.x)
    return rows(shown, noisy, fitted.reconstruct(noisy), *new(fitted))


def told(model: type[BaseAutoencoder]) -> Images:
    """Draw digits, the patches of them that are seen, and with what is told of the others."""
    fitted, shown = learned(model(verbose=0))
    net = cast(Any, fitted.net_.eval())
    with torch.inference_mode():
        step = net.masked(read(fitted, shown), fitted.mask_ratio)
        made = fitted.modality_.decode(net.likelihood.mean(step.out))
    hidden = step.batch.mask[:, 0].bool().numpy()
    return rows(shown, np.where(hidden, 127, shown), np.where(hidden, made, shown))


def linked(model: type[BaseAutoencoder]) -> Images:
    """Draw the links of a graph, and their probabilities: black is 1."""
    wines = load_wine()  # in the order of their three kinds
    X = StandardScaler().fit_transform(wines.data)
    graph = kneighbors_graph(X, 5)
    links = graph.maximum(graph.T)
    fitted = model(verbose=0).fit((links, X))
    shades = (links.toarray(), fitted.reconstruct((links, X)))
    gap = np.zeros((len(X), GAP))
    sheet = np.concatenate([shades[0], gap, shades[1]], 1)
    return np.rint(255 * (1 - sheet)).astype(np.uint8)


def learned(model: Any, kind: Any = np.uint8) -> tuple[Any, Images]:
    """Return the model, fitted to digits of 28 × 28 pixels, and some of the digits."""
    digits = samples.load("digits28")
    X = digits.X.astype(kind)
    model.fit(X, digits.y)  # labels are for models that take conditions
    torch.manual_seed(0)
    return model, X[-SHOWN:]


def new(fitted: Any) -> list[Images]:
    """Return samples, where a model decodes bare codes."""
    with suppress(ContextError):
        return [fitted.sample(SHOWN)]
    return []


def read(fitted: Any, shown: Images) -> Batch:
    """Return digits as a net reads them."""
    source = fitted.modality_.source(fitted.modality_.read(shown, "The picture"))
    return source.take(torch.arange(len(source)))


def rows(*images: Images) -> Images:
    """Return rows of images on one sheet."""
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in images])
    return np.rint(sheet.clip(0, 255)).astype(np.uint8)


DIGITS = "Three rows: handwritten digits, "
NOISY = "the same with the noise of training, what the model makes of these"
GRAPHS = (
    narrows.GraphAutoencoder,
    narrows.VariationalGraphAutoencoder,
    narrows.AdversarialGraphAutoencoder,
)
SEQUENCES = (narrows.SequenceAutoencoder, narrows.SequenceVAE)
PICTURES: dict[type, Picture] = {
    BaseAutoencoder: Picture(
        plain, f"{DIGITS}what the model makes of them by dense layers, and samples."
    ),
    narrows.ResidualAutoencoder: Picture(
        plain, "Two rows: handwritten digits, and what the model makes of them by dense layers."
    ),
    narrows.DenoisingAutoencoder: Picture(
        cleaned, f"Four rows: handwritten digits, {NOISY} by dense layers, and samples."
    ),
    narrows.UNetAutoencoder: Picture(cleaned, f"{DIGITS}{NOISY}."),
    narrows.MaskedAutoencoder: Picture(
        told, f"{DIGITS}the quarter of their patches that is seen, what is told of the others."
    ),
}
PICTURES |= dict.fromkeys(
    SEQUENCES,
    Picture(
        by_steps, f"{DIGITS}read as series of 28 steps, what the model makes of them, and samples."
    ),
)
PICTURES |= dict.fromkeys(
    GRAPHS,
    Picture(
        linked,
        "The links of 178 wines, each to the five most like it and in the order of their three "
        "kinds, and the probabilities that the model gives to links: black is 1.",
    ),
)
