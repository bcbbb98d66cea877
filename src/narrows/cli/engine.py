"""Who does the work of a command: this process, or the workers of Ray."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from narrows.cli.flags import UsageError
from narrows.cli.inputs import model_folder
from narrows.cli.outputs import VALUES
from narrows.cli.runs import check_writable, rank
from narrows.cli.show import show
from narrows.errors import nearest

if TYPE_CHECKING:
    from narrows.bulk import Call

__all__ = ["apply_on_ray", "check_engine"]

ENGINES = ("local", "ray")


def check_engine(engine: str, workers: int | None) -> bool:
    """Return whether Ray does the work.

    Raises:
        UsageError: there is no such engine, or what is asked of it makes no sense.
    """
    if engine not in ENGINES:
        raise UsageError(
            f"--engine takes {' or '.join(ENGINES)}.{nearest(engine, ENGINES)} Got '{engine}' "
            "instead."
        )
    if engine != "ray":
        if workers is not None:
            raise UsageError(f"--workers={workers} is for --engine ray. Leave it out.")
        return False
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be 1 or more. Got {workers} instead.")
    if rank() is not None:
        raise UsageError(
            "--engine ray starts its own workers: call narrows without torchrun, or with "
            "--engine local."
        )
    return True


def apply_on_ray(
    call: "Call",
    run: Path,
    data: str,
    out: Path,
    *,
    size: str | None,
    workers: int | None,
    force: bool,
) -> None:
    """Write a file of results for each Parquet file, less those that are there already.

    Raises:
        UsageError: the data or the folder of the results cannot be used.
    """
    if size is not None:
        raise UsageError("--size is for images, and Ray's workers share out tables. Leave it out.")
    given = Path(data).resolve()
    _check_folders(given, out, data)
    from narrows.bulk import Bulk, pairs
    from narrows.cluster import apply, connected
    from narrows.storage import locked, recover

    bulk = partial(Bulk, model_folder(run).resolve(), call, anew=force)
    files, judge = pairs(given, out.resolve()), bulk()
    for target in files.values():
        judge.check(target)
    out.mkdir(exist_ok=True)
    with locked(out), connected():
        for folder in {target.parent for target in files.values()}:
            recover(folder)
        done = list(apply(bulk, files, workers))
    rows, old = sum(rows for rows, _ in done), sum(not written for _, written in done)
    kept = f"; {old} of them were there already" if old else ""
    name = {"score": "scores", "encode": "codes"}[call]
    show(f"Wrote {rows} {name} into {len(done)} files of {out}{kept}")


def _check_folders(data: Path, out: Path, name: str) -> None:
    if not os.path.exists(data):
        raise UsageError(
            f"{name} does not exist. With --engine ray, data are a .parquet file or a folder of "
            "them."
        )
    place = out.resolve()
    if out.suffix.lower() in VALUES or (out.exists() and not out.is_dir()):
        raise UsageError(
            f"With --engine ray, --out is a folder, which gets a file for each of the data. Got "
            f"'{out}' instead."
        )
    if place in (data, *data.parents) or data in place.parents:
        raise UsageError(f"{out} holds the input, or lies in it: name another --out.")
    check_writable(out if out.exists() else out.parent)
