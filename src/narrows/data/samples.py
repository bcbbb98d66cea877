"""Example data, embedded in scikit-learn or generated, and the choice between them and a path."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from narrows.data.files import FORMATS, Dataset, read
from narrows.errors import FileError, ParameterError, nearest

__all__ = ["SAMPLES", "load", "open_data"]


def load(name: str) -> Dataset:
    """Return the example data called `name`, one of `SAMPLES`."""
    if name not in SAMPLES:
        raise ParameterError(
            f"There is no sample called '{name}'.{nearest(name, SAMPLES)} "
            f"Expected one of {', '.join(SAMPLES)}."
        )
    return SAMPLES[name]()


def open_data(
    data: str,
    *,
    labels: str | None = None,
    aside: Sequence[str] = (),
    size: Sequence[int] | None = None,
    whole: bool = False,
) -> Dataset:
    """Load a sample if `data` is the name of one, else read the file or folder at that path.

    A file or folder with the name of a sample is meant by `./digits`.
    """
    if data in SAMPLES:
        if size is not None:
            raise ParameterError(f"'size' resizes image files, not the sample '{data}'.")
        return load(data).set_aside(labels, aside)
    path = Path(data)
    if path.name == data and not path.suffix and not path.exists():
        raise FileError(
            f"'{data}' is no sample and no path.{nearest(data, SAMPLES)} "
            f"Expected one of {', '.join(SAMPLES)}, or a file or folder: {FORMATS}."
        )
    return read(path, labels=labels, aside=aside, size=size, whole=whole)


def _digits() -> Dataset:
    """1 797 handwritten digits of 8 × 8 pixels, 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    X = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Dataset(X, digits.target, "digits", "image")


def _digits28() -> Dataset:
    """The same digits enlarged to 20 × 20 in a frame of 28 × 28, as MNIST has them."""
    from PIL import Image

    digits = _digits()
    large = [
        np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
        for image in digits.X
    ]
    return replace(digits, X=np.pad(large, ((0, 0), (4, 4), (4, 4))), name="digits28")


def _table(name: str) -> Dataset:
    """One of scikit-learn's embedded tables, its labels by name."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    X = pa.table(dict(zip(bunch.feature_names, bunch.data.T, strict=True)))
    y = bunch.target_names[bunch.target] if "target_names" in bunch else bunch.target
    return Dataset(X, y, name, "table")


def _photos(side: int = 24) -> Dataset:
    """884 colour patches of two photographs, a temple and a flower; none overlaps another."""
    from sklearn.datasets import load_sample_image

    patches = []
    for name in ("china.jpg", "flower.jpg"):
        windows = np.lib.stride_tricks.sliding_window_view(
            load_sample_image(name), (side, side), axis=(0, 1)
        )
        patches.append(windows[::side, ::side].transpose(0, 1, 3, 4, 2).reshape(-1, side, side, 3))
    y = np.repeat(["china", "flower"], [len(p) for p in patches])
    return Dataset(np.concatenate(patches), y, "photos", "image")


def _blobs(n: int = 2000, dim: int = 20, seed: int = 0) -> Dataset:
    """Five Gaussian clusters near a 3-d subspace of a 20-d space."""
    rng = np.random.default_rng(seed)
    y = rng.integers(5, size=n)
    z = 4 * rng.standard_normal((5, 3))[y] + rng.standard_normal((n, 3))
    X = z @ rng.standard_normal((3, dim)) + 0.1 * rng.standard_normal((n, dim))
    return Dataset(X.astype(np.float32), y, "blobs", "table")


SAMPLES: dict[str, Callable[..., Dataset]] = {
    "digits": _digits,
    "digits28": _digits28,
    "iris": partial(_table, "iris"),
    "wine": partial(_table, "wine"),
    "breast_cancer": partial(_table, "breast_cancer"),
    "diabetes": partial(_table, "diabetes"),
    "photos": _photos,
    "blobs": _blobs,
}
