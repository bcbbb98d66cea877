"""Commands that apply a saved model: reconstruct, encode, decode, score, sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from narrows.cli.engine import apply_on_ray, check_engine
from narrows.cli.inputs import open_model, read_data, read_rows, spans_of
from narrows.cli.outputs import (
    check_fit,
    check_output,
    write_samples,
    write_scores,
    write_values,
)
from narrows.cli.show import show

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["decode", "encode", "reconstruct", "sample", "score"]


def _whole(kind: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number; by itself, cyclopts would round any other."""
    del kind
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"'{text}' is no whole number.") from None


Run = Annotated[Path, Parameter(help="folder of a run, or of a saved model.")]
Data = Annotated[
    str, Parameter(help="a sample's name, a file, or a folder of images or of .parquet files.")
]
Values = Annotated[
    Path,
    Parameter(
        help="a .npy, .parquet or .csv file; with Ray the folder of a .parquet file for each one "
        "of the data, whose rows are in the same order; what is there already stays."
    ),
]
Samples = Annotated[
    Path,
    Parameter(
        help="a .npy, .parquet or .csv file; for images also one .png, or the name of a folder; "
        "for text also a .txt file."
    ),
]
Size = Annotated[str | None, Parameter(help="HEIGHTxWIDTH to resize images to.")]
Engine = Annotated[
    str, Parameter(help='"local", or "ray", whose workers share out a folder of .parquet files.')
]
Workers = Annotated[
    int | None,
    Parameter(help="how many workers Ray shall use (default one a CPU).", converter=_whole),
]
Force = Annotated[
    bool, Parameter(negative=(), show_default=False, help="replace OUT if it exists.")
]


def reconstruct(
    run: Run, data: Data, /, *, out: Samples, size: Size = None, force: Force = False
) -> None:
    """Write what a model makes of data."""
    model = _open(run, out, force, source=data)
    samples = model.reconstruct(read_rows(model, data, size))
    _write(out, samples, model)


def encode(
    run: Run,
    data: Data,
    /,
    *,
    out: Values,
    size: Size = None,
    engine: Engine = "local",
    workers: Workers = None,
    force: Force = False,
) -> None:
    """Write the codes of data."""
    if check_engine(engine, workers):
        apply_on_ray("encode", run, data, out, size=size, workers=workers, force=force)
        return
    model = _open(run, out, force, source=data, images=False)
    codes = model.transform(read_rows(model, data, size))
    write_values(out, codes, list(model.get_feature_names_out()))
    show(f"Wrote {len(codes)} codes of {codes.shape[1]} values to {out}")


def decode(
    run: Run,
    codes: Annotated[str, Parameter(help="a file of codes, one a row, as `encode` writes them.")],
    /,
    *,
    out: Samples,
    force: Force = False,
) -> None:
    """Write what a model makes of codes."""
    model = _open(run, out, force, source=codes)
    _write(out, model.inverse_transform(read_data(codes).X), model)


def score(
    run: Run,
    data: Data,
    /,
    *,
    out: Values,
    size: Size = None,
    engine: Engine = "local",
    workers: Workers = None,
    force: Force = False,
) -> None:
    """Write a score of each sample in nats: higher is more normal.

    It is a lower bound on the log-likelihood where the model has a prior, else the
    log-likelihood given the code.
    """
    if check_engine(engine, workers):
        apply_on_ray("score", run, data, out, size=size, workers=workers, force=force)
        return
    model = _open(run, out, force, source=data, images=False)
    rows = read_rows(model, data, size)
    scores = model.score_samples(rows)
    write_scores(out, scores, spans_of(model, rows))
    show(
        f"Wrote {len(scores)} scores to {out}: mean {scores.mean():.4g}, lowest {scores.min():.4g}"
    )


def sample(
    run: Run,
    n: Annotated[int, Parameter(help="how many.", converter=_whole)] = 16,
    /,
    *,
    out: Samples,
    seed: Annotated[
        int, Parameter(help="the same seed gives the same samples.", converter=_whole)
    ] = 0,
    force: Force = False,
) -> None:
    """Write new samples."""
    model = _open(run, out, force)
    _write(out, model.sample(n, seed=seed), model)


def _open(
    run: Path, out: Path, force: bool, source: str = "", images: bool = True
) -> "BaseAutoencoder":
    """Return the model, once it is clear that the output can be written."""
    check_output(out, force=force, images=images, source=source)
    model = open_model(run)
    check_fit(out, model.modality_)
    return model


def _write(out: Path, samples: Any, model: "BaseAutoencoder") -> None:
    written = write_samples(out, samples, model.modality_)
    total = 1 if isinstance(samples, str) else len(samples)
    first = f"the first {written} of " if written < total else ""
    show(f"Wrote {first}{total} sample{'s' * (total != 1)} to {out}")
