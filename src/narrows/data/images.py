"""Images of a file or folder as one array."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from narrows.data.paths import FORMATS, IMAGES, check, files_below, reading, show
from narrows.errors import DataError, FileError

__all__ = ["read_images"]

_PILLOW = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")


def read_images(
    path: Path, size: Sequence[int] | None
) -> tuple[NDArray[Any], NDArray[np.str_] | None]:
    """Read a file, or all images below a folder; several subfolders give each image its class."""
    if not path.is_dir():
        return _stack(path, [path], size), None
    if any((path / name).exists() for name in ("weights.safetensors", "model/config.json")):
        raise FileError(f"{show(path)} is a saved narrows model, not data: narrows.load it.")
    files = list(files_below(path, IMAGES))
    if not files:
        kinds = Counter(file.suffix or file.name for file in files_below(path)).most_common(3)
        others = ", ".join(f"{n} {kind}" for kind, n in kinds)
        found = (
            f"no images in {show(path)}, but {others}" if others else f"no files in {show(path)}"
        )
        raise FileError(f"There are {found}. Expected {FORMATS}.")
    labels = [file.parent.relative_to(path).as_posix() for file in files]
    classes = sorted(set(labels))
    if "." in classes and len(classes) > 1:
        raise DataError(
            f"{show(path)} holds images beside and in its subfolder '{classes[-1]}': "
            "give each class a subfolder, or none."
        )
    y = np.array(labels) if len(classes) > 1 else None
    return _stack(path, files, size), y


def _stack(
    path: Path, files: Sequence[Path], size: Sequence[int] | None, colour: bool = False
) -> NDArray[Any]:
    """Read images into one array, allocated once."""
    for i, file in enumerate(files):
        image = _decode(file, size, colour)
        if image.ndim == 3 and not colour:
            if i > 0:  # colour after grey: once more, all in colour
                return _stack(path, files, size, colour=True)
            colour = True
        if i == 0:
            with reading(path):
                X = np.empty((len(files), *image.shape), image.dtype)
        if image.shape != X.shape[1:] or image.dtype != X.dtype:
            raise DataError(
                f"{show(file)} is {_form(image)}, but {show(files[0])} is {_form(X[0])}: "
                "give size=(height, width), and do not mix 16-bit images with others."
            )
        X[i] = image
    return X


def _form(image: NDArray[Any]) -> str:
    return f"{' × '.join(map(str, image.shape))} {image.dtype}"


def _decode(path: Path, size: Sequence[int] | None, colour: bool) -> NDArray[Any]:
    """Read one image as `(h, w)` or `(h, w, 3)`."""
    check(path)
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_PILLOW) as file:
            ImageOps.exif_transpose(file, in_place=True)
            if file.mode in ("I", "F"):
                raise DataError(f"{show(path)} has 32-bit pixels: save them as .npy.")
            deep = file.mode.startswith("I;16")
            grey = file.mode in ("1", "L", "LA") and not colour
            image = file if deep else file.convert("L" if grey else "RGB")
            if size is not None:
                image = image.resize((size[1], size[0]))
            return np.asarray(image, np.uint16 if deep else np.uint8)
