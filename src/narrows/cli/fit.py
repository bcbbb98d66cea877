"""`narrows fit`: from data to a run folder with a model, its numbers and a report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from narrows.cli.engine import check_engine
from narrows.cli.flags import MODELS, Fields, Model, UsageError, find_model, parse, read_pairs
from narrows.cli.inputs import holds_graph, parse_size, read_data
from narrows.cli.plan import Plan
from narrows.cli.runs import (
    CHECKPOINTS,
    SETTINGS,
    claim,
    complete,
    loggers,
    rank,
    read_summary,
    summarise,
    write_model,
    write_results,
)
from narrows.cli.show import show, show_run
from narrows.errors import DataError

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder
    from narrows.callbacks import Callback
    from narrows.data.files import Dataset
    from narrows.evaluation import Evaluation

__all__ = ["fit", "resume"]

OF_GRAPHS = "variationalgraph"
"""The model of graphs where none is named."""
Switch = Annotated[bool, Parameter(negative=(), show_default=False)]


def fit(
    data: str | None = None,
    /,
    *,
    model: str | None = None,
    out: str | None = None,
    labels: str | None = None,
    groups: str | None = None,
    weight: str | None = None,
    size: str | None = None,
    log: str | None = None,
    strategy: str | None = None,
    config: Path | None = None,
    set_: Annotated[Sequence[str], Parameter("--set", negative=(), show_default=False)] = (),
    checkpoint_every: str | None = None,
    engine: str | None = None,
    workers: int | None = None,
    resume: Switch = False,
    force: Switch = False,
    fields: Annotated[Fields | None, Parameter("*")] = None,
) -> None:
    """Train a model on data, and write it with its numbers and a report into a run folder.

    Started by torchrun, all processes train it together, and the first one reports.

    Args:
        data: a sample (digits, iris, ...), a .npy, .npz, .csv, .parquet or .txt file, or a folder
            of images or of .parquet files; an .npz with edge_index (and features or x,
            edge_weight, labels or y) is a graph.
        model: one of those that `narrows models` lists (default vae, for graphs
            variationalgraph).
        out: folder of the run (default runs/DATA-MODEL).
        labels: column of the labels, which colour the report.
        groups: column whose equal values are held out together.
        weight: column of the sample weights.
        size: HEIGHTxWIDTH to resize images to.
        log: "tensorboard" (into OUT/tensorboard) or "mlflow", beside OUT/history.jsonl.
        strategy: what several processes do: "ddp", where each holds the whole model (the
            default), or "fsdp", where each keeps a part of it.
        config: TOML file with these settings and a table [fields]; flags count for more.
        set_: FIELD=VALUE, the same as the field's flag.
        checkpoint_every: when the state of training is saved in OUT/checkpoints, until the run
            is complete: "epoch", a number of steps, or a time in s, min or h (default "1 min").
        engine: "local" (default) or "ray", whose workers train the model together.
        workers: how many workers Ray shall use (default a GPU each, or else a CPU each).
        resume: go on from the newest checkpoint in OUT.
        force: replace the run in OUT; it stays until the new one is trained.
        fields: parameters of the model.
    """
    options: dict[str, Any] = {"data": data, "model": model, "out": out, "labels": labels}
    options |= {"groups": groups, "weight": weight, "size": size, "log": log}
    options |= {"checkpoint_every": checkpoint_every, "strategy": strategy}
    options |= {"engine": engine, "workers": workers}
    given = vars(fields) if fields else {}
    values = read_pairs(set_) | {k: parse(v, k) for k, v in given.items() if v is not None}
    if resume and out and not (data or config):
        config = Path(out, CHECKPOINTS, SETTINGS)
    plan, entry, on_ray = _planned(options, values, config)
    if rank():
        _run(plan, entry, resume, rank())
        return
    with claim(plan.place, resume=resume, force=force), _resumable(plan.place):
        _begin(plan, resume)
        done = _epochs_saved(plan.place)
        if on_ray:
            _run_on_ray(plan, entry, resume)
        else:
            _run(plan, entry, resume, rank())
        _tell(plan.place, done)


def resume(run: str, /) -> None:
    """Go on with a run that was stopped, with its own data and settings, as if it never had been.

    Args:
        run: folder of the run.
    """
    if complete(Path(run)):
        show("The run was complete already.")
    else:
        fit(out=run, resume=True)


def _planned(
    options: dict[str, Any], values: dict[str, Any], config: Path | None
) -> tuple[Plan, Model, bool]:
    """Return the plan of a file and of the flags, its model, and whether Ray carries it out."""
    plan = Plan() if config is None else Plan.read(config)
    known = {key: value for key, value in options.items() if value is not None}
    plan = replace(plan, **known, fields=plan.fields | values)
    if not plan.data:
        raise UsageError("fit needs data, as in: narrows fit digits.")
    if "model" not in known and config is None and holds_graph(plan.data):
        plan = replace(plan, model=OF_GRAPHS)
    entry = find_model(plan.model)
    entry.check(plan.fields)
    parse_size(plan.size)
    plan = replace(plan, model=entry.command)
    if plan.absolute().data == str(plan.place.resolve()):
        raise UsageError(f"{plan.place} holds the data, and stays: name another --out.")
    on_ray = check_engine(plan.engine, plan.workers)
    if "strategy" in known and rank() is None and not on_ray:
        raise UsageError(
            "--strategy is for processes that torchrun starts, as in: torchrun --nproc-per-node 2 "
            f"-m narrows fit digits --strategy {plan.strategy}, or for --engine ray. Leave it out."
        )
    return plan, entry, on_ray


@contextmanager
def _resumable(place: Path) -> Iterator[None]:
    """Tell how to go on where an interruption leaves something to go on from."""
    try:
        yield
    except KeyboardInterrupt as error:
        if _epochs_saved(place) is None:
            raise
        raise KeyboardInterrupt(f"go on with 'narrows resume {place}'") from error


def _begin(plan: Plan, resume: bool) -> None:
    """Make the folder of checkpoints, with what is needed to go on."""
    from narrows.storage import atomic_write

    folder = plan.place / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    if not resume:
        atomic_write(folder / SETTINGS, plan.toml())


def _run_on_ray(plan: Plan, entry: Model, resume: bool) -> None:
    """Let Ray's workers do what processes of torchrun do."""
    from narrows.cluster import connected, train

    with connected():
        work = partial(_take_part, plan.absolute(), entry, resume)
        train(work, (plan.place / CHECKPOINTS).resolve(), plan.workers)


def _take_part(plan: Plan, entry: Model, resume: bool, number: int) -> None:
    """Do the part of one worker; begun anew after others died, go on from what they saved."""
    if not complete(plan.place):
        _run(plan, entry, resume or _epochs_saved(plan.place) is not None, number)


def _tell(place: Path, done: int | None) -> None:
    """Print what came out, and how many epochs had been done before."""
    summary = read_summary(place) or {}
    if done is not None:
        whole = summary["epochs"] == done
        show("The training was complete already." if whole else f"Resumed after epoch {done}.")
    show_run(summary)
    show(f"Report: {place / 'report.html'}")


def _run(plan: Plan, entry: Model, resume: bool, number: int | None) -> None:
    """Train, evaluate and write; of several processes, those after the first only train."""
    import narrows
    from narrows.evaluation import evaluate_links, render, render_links

    start, place = time.perf_counter(), plan.place
    callbacks = loggers(place, plan.log)
    dataset = _open(plan)
    _check_kind(plan, entry, dataset)
    model = narrows.MODELS[entry.name](**{"modality": dataset.modality, **plan.fields})
    model.check_parameters()
    dataset = replace(dataset, modality=model.modality)
    _train(model, dataset, plan, resume, callbacks, together=number is not None)
    if number:
        return
    write_model(place, model)
    if dataset.modality == "graph":
        links = evaluate_links(model, dataset.X)
        seconds = time.perf_counter() - start
        report = render_links(model, dataset, links, command=plan.command(), seconds=seconds)
        summary = summarise(model, dataset, links, seconds)
    else:
        weight = None if plan.weight is None else dataset.columns[plan.weight]
        evaluation = _evaluate(model, dataset.X, weight)
        dataset = _as_samples(model, dataset)
        seconds = time.perf_counter() - start
        report = render(model, dataset, evaluation, command=plan.command(), seconds=seconds)
        summary = summarise(model, dataset, evaluation, seconds)
    write_results(place, {"report.html": report, SETTINGS: plan.toml()}, summary)


def _open(plan: Plan) -> "Dataset":
    """Return the data, with the columns that the settings name set aside."""
    aside = [name for name in (plan.groups, plan.weight) if name is not None]
    whole = plan.fields.get("window") is not None
    return read_data(plan.data, plan.size, labels=plan.labels, aside=aside, whole=whole)


def _check_kind(plan: Plan, entry: Model, dataset: "Dataset") -> None:
    """Refuse data that are no graph for a model of graphs, and a graph for any other."""
    if entry.takes_graphs == (dataset.modality == "graph"):
        return
    if entry.takes_graphs:
        raise DataError(
            f"{plan.data} holds no graph, and {entry.name} takes nothing else. Expected an .npz "
            "with edge_index (and features or x, edge_weight, labels or y), or of SciPy's "
            "save_npz. Choose another --model for these data."
        )
    names = [model.command for model in MODELS if model.takes_graphs]
    raise DataError(
        f"{plan.data} holds a graph, which is for the models of graphs: --model "
        f"{' or '.join(names)}."
    )


def _train(
    model: "BaseAutoencoder",
    dataset: "Dataset",
    plan: Plan,
    resume: bool,
    callbacks: "list[Callback]",
    together: bool,
) -> None:
    """Fit the model, with its state in the folder of checkpoints."""
    options: dict[str, Any] = {"callbacks": callbacks}
    if plan.groups is not None:
        options["groups"] = dataset.columns[plan.groups]
    if plan.weight is not None:
        options["sample_weight"] = dataset.columns[plan.weight]
    if together:
        options["strategy"] = plan.strategy or "ddp"
    options |= {"checkpoint": plan.place / CHECKPOINTS, "resume": resume}
    options |= {"checkpoint_every": plan.checkpoint_every}
    model.fit(dataset.X, dataset.y, **options)


def _epochs_saved(place: Path) -> int | None:
    """Return how many epochs the newest checkpoint of a run has behind it, None without one."""
    saved = (place / CHECKPOINTS).glob("epoch-*")
    return max((int(path.name.split("-")[1]) for path in saved), default=None)


def _evaluate(model: "BaseAutoencoder", X: Any, weight: Any = None) -> "Evaluation":
    """Score the model on the rows it did not see, or on all where it saw all."""
    import numpy as np

    from narrows.data.modalities import Sequence
    from narrows.evaluation import evaluate

    modality, held, samples = model.modality_, model.held_out_, X
    if isinstance(modality, Sequence):
        samples = modality.samples(X, type(model).__name__)
    rows = np.arange(len(samples))
    train = np.setdiff1d(rows, held)
    if isinstance(modality, Sequence) and len(held):
        train = modality.apart(X, held)
    if weight is not None:  # rows without weight trained neither the model nor shall its baseline
        train = train[np.asarray(weight, float)[train] > 0]
    return evaluate(model, samples, train=train, test=held if len(held) else rows)


def _as_samples(model: "BaseAutoencoder", dataset: "Dataset") -> "Dataset":
    """Return the data with one sample an entry: long series and texts as their windows."""
    from narrows.data.modalities import Sequence
    from narrows.data.windows import labels

    if not isinstance(model.modality_, Sequence):
        return dataset
    X, y = model.modality_.samples(dataset.X, type(model).__name__), dataset.y
    y = y if y is None else labels(y, model.modality_.spans(dataset.X))
    return replace(dataset, X=X, y=y, modality=model.modality_.name)
