"""What commands write: arrays, tables and images, each whole or not at all."""

import io
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrows.cli.flags import UsageError
from narrows.cli.runs import check_writable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from narrows.data.modalities import Modality

    Pixels = NDArray[np.uint8]

__all__ = ["check_fit", "check_output", "write_samples", "write_values"]

VALUES = (".npy", ".parquet", ".csv")
IMAGES = (".png", "")
TEXT = ".txt"
SHEET = 256
"""Images on a contact sheet, at most."""
TILE = 64
"""Pixels that the shorter side of an image on a contact sheet has at least."""


def check_output(out: Path, *, force: bool, images: bool = True, source: str = "") -> None:
    """Refuse an output before any work is done.

    Raises:
        UsageError: it is of no known format, exists, is the input, or cannot be written.
    """
    kinds = (*VALUES, TEXT, *IMAGES) if images else VALUES
    if out.suffix.lower() not in kinds:
        folder = " or no extension, for a folder of images" if images else ""
        known = ", ".join(filter(None, kinds))
        raise UsageError(f"--out must end in {known}{folder}. Got '{out}' instead.")
    given = Path(source).resolve()
    if os.path.exists(source) and out.resolve() in (given, *given.parents):
        raise UsageError(
            f"{out} is or holds the input, which is never overwritten: name another --out."
        )
    if os.path.exists(out) and not force:
        raise UsageError(f"{out} exists already: name another --out, or use --force.")
    if out.exists() and out.is_dir() == bool(out.suffix):
        raise UsageError(f"{out} is no {'file' if out.suffix else 'folder'}: name another --out.")
    if out.is_dir() and not all(re.fullmatch(r"\d+\.png", path.name) for path in out.iterdir()):
        raise UsageError(f"{out} holds more than images from narrows: name another --out.")
    check_writable(out.parent)


def check_fit(out: Path, modality: "Modality") -> None:
    """Refuse to write samples of this modality as images or as text if they are none.

    Raises:
        UsageError: they are none.
    """
    kind = out.suffix.lower()
    if kind in IMAGES and modality.name != "image":
        also = f", {TEXT}" if modality.symbols else ""
        raise UsageError(f"These are no images: let --out end in {', '.join(VALUES)}{also}.")
    if kind == TEXT and not modality.symbols:
        raise UsageError(f"These are no texts: let --out end in {', '.join(VALUES)}.")


def write_values(out: Path, values: "NDArray[Any]", names: list[str]) -> None:
    """Write numbers, one row a sample, as an array or as a table with these columns."""
    import pyarrow as pa

    if out.suffix.lower() == ".npy":
        _write_array(out, values)
    else:
        columns = values.reshape(len(values), -1).T
        _write_table(out, pa.table(dict(zip(names, columns, strict=True))))


def write_scores(out: Path, scores: "NDArray[Any]", spans: dict[str, Any]) -> None:
    """Write one score a sample; in a table, windows with where they lie."""
    import pyarrow as pa

    if not spans or out.suffix.lower() == ".npy":
        write_values(out, scores, ["score"])
        return
    _write_table(out, pa.table(spans | {"score": scores}))


def write_samples(out: Path, samples: Any, modality: "Modality") -> int:
    """Write samples as `modality` decoded them; return how many: a sheet of images ends early."""
    import narwhals.stable.v2 as nw
    import numpy as np
    from scipy.sparse import issparse

    if modality.symbols:
        texts = [samples] if isinstance(samples, str) else list(samples)
        _write_texts(out, texts)
        return len(texts)
    if issparse(samples):  # links of a graph that is too large for a matrix
        links = np.column_stack([*samples.nonzero(), samples.data])
        write_values(out, links, ["first", "other", "probability"])
        return int(samples.shape[0])
    if isinstance(samples, list):
        if any(issparse(one) for one in samples):
            raise UsageError("Links of several large graphs fit in no file: give them one by one.")
        samples = _even(samples)
    if out.suffix.lower() in IMAGES:
        samples = samples[:SHEET] if out.suffix else samples
        _write_images(out, _pixels(samples, vars(modality)["layout"]))
    elif not nw.dependencies.is_into_dataframe(samples):
        n = math.prod(samples.shape[1:])
        write_values(out, samples, list(modality.feature_names) or [f"x{i}" for i in range(n)])
    elif out.suffix.lower() == ".npy":
        _write_array(out, nw.from_native(samples, eager_only=True).to_numpy())
    else:
        _write_table(out, nw.from_native(samples, eager_only=True).to_arrow())
    return len(samples)


def _even(samples: "list[NDArray[Any]]") -> "NDArray[Any]":
    """Return arrays of unequal sizes as one, with NaN behind their ends."""
    import numpy as np

    shape = np.max([one.shape for one in samples], 0)
    made = np.full((len(samples), *shape), np.nan, np.float32)
    for one, place in zip(samples, made, strict=True):
        place[tuple(map(slice, one.shape))] = one
    return made


def _write_texts(out: Path, texts: list[str]) -> None:
    import numpy as np
    import pyarrow as pa

    if out.suffix.lower() == TEXT:
        text = "\n".join(texts)
        _write(out, io.BytesIO((text if text.endswith("\n") else f"{text}\n").encode()))
    elif out.suffix.lower() == ".npy":
        _write_array(out, np.array(texts, np.str_))
    else:
        _write_table(out, pa.table({"text": texts}))


def _write_array(out: Path, array: "NDArray[Any]") -> None:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    _write(out, stream)


def _write_table(out: Path, table: "pa.Table") -> None:
    import pyarrow.csv
    import pyarrow.parquet

    stream = io.BytesIO()
    if out.suffix.lower() == ".csv":
        pyarrow.csv.write_csv(table, stream)
    else:
        pyarrow.parquet.write_table(table, stream)
    _write(out, stream)


def _write(out: Path, stream: io.BytesIO) -> None:
    from narrows.storage import atomic_write

    atomic_write(out, stream.getvalue())


def _write_images(out: Path, images: "Pixels") -> None:
    """Write one file: an image, or a sheet of several; or a folder with a file for each."""
    from narrows.storage import atomic_write

    if out.suffix:
        atomic_write(out, _png(images[0] if len(images) == 1 else _sheet(images)))
        return
    out.mkdir(exist_ok=True)
    earlier = set(out.iterdir())
    width = len(str(len(images) - 1))
    for i, image in enumerate(images):
        path = out / f"{i:0{width}d}.png"
        atomic_write(path, _png(image))
        earlier.discard(path)
    for path in earlier:
        path.unlink()


def _pixels(images: "NDArray[Any]", layout: str) -> "Pixels":
    """Return images as ``(n, h, w, c)`` bytes; other types are stretched from black to white."""
    import numpy as np

    images = {"": images[..., None], "first": np.moveaxis(images, 1, -1)}.get(layout, images)
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        images = np.rint((images - low) * (255 / max(high - low, 1e-12)))
    return images.astype(np.uint8)


def _sheet(images: "Pixels") -> "Pixels":
    """Return images side by side, small ones enlarged, with a white line between them."""
    import numpy as np

    n, height, width, _ = images.shape
    scale = -(-TILE // min(height, width))
    tiles = images.repeat(scale, 1).repeat(scale, 2)
    tiles = np.pad(tiles, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    across = math.ceil(math.sqrt(n))
    down = -(-n // across)
    tiles = np.pad(tiles, ((0, across * down - n), *[(0, 0)] * 3), constant_values=255)
    rows = tiles.reshape(down, across, *tiles.shape[1:]).swapaxes(1, 2)
    return rows.reshape(down * tiles.shape[1], across * tiles.shape[2], -1)[:-1, :-1]


def _png(image: "Pixels") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(stream, "PNG")
    return stream.getvalue()
