"""`narrows fit`: from data to a run folder with a model, its numbers and a report."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

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
    resume: Switch = False,
    force: Switch = False,
    fields: Annotated[Fields | None, Parameter("*")] = None,
) -> None:
    """Train a model on data, and write it with its numbers and a report into a run folder.

    Started by torchrun, all processes train it together, and the first one reports.

    Args:
        data: a sample (digits, iris, ...), a .npy, .npz, .csv, .parquet or .txt file, or image
            folder; an .npz with edge_index (and features or x, edge_weight, labels or y) is a
            graph.
        model: one of those that `narrows models` lists (default vae, for graphs
            variationalgraph).
        out: folder of the run (default runs/DATA-MODEL).
        labels: column of the labels, which colour the report.
        groups: column whose equal values are held out together.
        weight: column of the sample weights.
        size: HEIGHTxWIDTH to resize images to.
        log: "tensorboard" (into OUT/tensorboard) or "mlflow", beside OUT/history.jsonl.
        strategy: what processes that torchrun started do: "ddp", where each holds the whole model
            (the default), or "fsdp", where each keeps a part of it.
        config: TOML file with these settings and a table [fields]; flags count for more.
        set_: FIELD=VALUE, the same as the field's flag.
        checkpoint_every: when the state of training is saved in OUT/checkpoints, until the run
            is complete: "epoch", a number of steps, or a time in s, min or h (default "1 min").
        resume: go on from the newest checkpoint in OUT.
        force: replace the run in OUT; it stays until the new one is trained.
        fields: parameters of the model.
    """
    options: dict[str, Any] = {"data": data, "model": model, "out": out, "labels": labels}
    options |= {"groups": groups, "weight": weight, "size": size, "log": log}
    options |= {"checkpoint_every": checkpoint_every, "strategy": strategy}
    given = vars(fields) if fields else {}
    values = read_pairs(set_) | {k: parse(v, k) for k, v in given.items() if v is not None}
    if strategy is not None and rank() is None:
        raise UsageError(
            "--strategy is for processes that torchrun starts, as in: torchrun --nproc-per-node 2 "
            f"-m narrows fit digits --strategy {strategy}. Leave it out."
        )
    if resume and out and not (data or config):
        config = Path(out, CHECKPOINTS, SETTINGS)
    plan = Plan() if config is None else Plan.read(config)
    known = {key: value for key, value in options.items() if value is not None}
    plan = replace(plan, **known, fields=plan.fields | values)
    if not plan.data:
        raise UsageError("fit needs data, as in: narrows fit digits.")
    if model is None and config is None and holds_graph(plan.data):
        plan = replace(plan, model=OF_GRAPHS)
    entry = find_model(plan.model)
    entry.check(plan.fields)
    parse_size(plan.size)
    plan = replace(plan, model=entry.command)
    with nullcontext() if rank() else claim(plan.place, resume=resume, force=force):
        _run(plan, entry, resume)


def resume(run: str, /) -> None:
    """Go on with a run that was stopped, with its own data and settings, as if it never had been.

    Args:
        run: folder of the run.
    """
    if complete(Path(run)):
        show("The run was complete already.")
    else:
        fit(out=run, resume=True)


def _run(plan: Plan, entry: Model, resume: bool) -> None:
    """Train, evaluate, write and print."""
    import narrows
    from narrows.evaluation import evaluate_links, render, render_links

    start, place = time.perf_counter(), plan.place
    callbacks = loggers(place, plan.log)
    dataset = _open(plan)
    _check_kind(plan, entry, dataset)
    model = narrows.MODELS[entry.name](**{"modality": dataset.modality, **plan.fields})
    model.check_parameters()
    dataset = replace(dataset, modality=model.modality)
    _train(model, dataset, plan, resume, callbacks)
    if rank():
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
    show_run(summary)
    show(f"Report: {place / 'report.html'}")


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
) -> None:
    """Fit the model, with its state in the folder of checkpoints."""
    from narrows.storage import atomic_write

    options: dict[str, Any] = {"callbacks": callbacks}
    if plan.groups is not None:
        options["groups"] = dataset.columns[plan.groups]
    if plan.weight is not None:
        options["sample_weight"] = dataset.columns[plan.weight]
    if rank() is not None:
        options["strategy"] = plan.strategy or "ddp"
    folder = plan.place / CHECKPOINTS
    if not rank():
        folder.mkdir(exist_ok=True)
        if not resume:
            atomic_write(folder / SETTINGS, plan.toml())
    done = _epochs_saved(folder)
    options |= {"checkpoint": folder, "checkpoint_every": plan.checkpoint_every, "resume": resume}
    try:
        model.fit(dataset.X, dataset.y, **options)
    except KeyboardInterrupt as error:
        if _epochs_saved(folder) is None:
            raise
        raise KeyboardInterrupt(f"go on with 'narrows resume {plan.place}'") from error
    if resume and done is not None and not rank():
        complete = model.n_iter_ == done
        show("The training was complete already." if complete else f"Resumed after epoch {done}.")


def _epochs_saved(folder: Path) -> int | None:
    """Return how many epochs the newest checkpoint in a folder has behind it, None without one."""
    return max((int(path.name[6:12]) for path in folder.glob("epoch-*")), default=None)


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

    if not isinstance(model.modality_, Sequence):
        return dataset
    X, y = model.modality_.samples(dataset.X, type(model).__name__), dataset.y
    y = y if y is not None and len(y) == len(X) else None
    return replace(dataset, X=X, y=y, modality=model.modality_.name)
