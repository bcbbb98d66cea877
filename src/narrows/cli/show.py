"""Commands that show what there is, models and runs; and how commands print."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from narrows.cli.flags import MODELS, find_model, show_value
from narrows.cli.inputs import model_folder, open_model
from narrows.cli.runs import read_summary

__all__ = ["info", "models", "show", "show_run"]

METRICS = {
    "mse": "mean squared error",
    "explained_variance": "explained variance",
    "log_likelihood": "log-likelihood (nats)",
    "psnr": "PSNR (dB)",
    "accuracy": "symbols that are right",
    "exact": "strings that are right",
    "auc": "area under the ROC curve",
    "average_precision": "average precision",
}
COLOURS = {"good": "green", "notice": "yellow", "problem": "red"}


def models(
    name: Annotated[str | None, Parameter(help="one of them, to see its fields.")] = None, /
) -> None:
    """List the models, or tell all about one."""
    if name is None:
        _table(("model", ""), [(m.command, f"{m.name}: {m.summary}") for m in MODELS])
        return
    model = find_model(name)
    show("\n".join((f"{model.name}: {model.summary}", *model.references)))
    _table(
        ("field", "default", "meaning"),
        [
            (name, show_value(f["default"]), f"{f['doc']} ({f['type']})")
            for name, f in model.fields.items()
        ],
    )


def info(run: Annotated[Path, Parameter(help="folder of a run, or of a saved model.")], /) -> None:
    """Tell of a run or a saved model: data, numbers, health, fields and versions."""
    model = open_model(run)
    config = json.loads((model_folder(run) / "config.json").read_bytes())
    modality = model.modality_
    shape = " × ".join(map(str, modality.shape))
    show_run(
        read_summary(run)
        or {
            "model": type(model).__name__,
            "data": f"{modality.name} of {shape}",
            "metrics": {},
            "health": [vars(finding) for finding in model.diagnose().findings],
            "epochs": model.n_iter_,
        }
    )
    defaults = model.defaults()
    fields = {k: v for k, v in config["fields"].items() if v != _plain(defaults[k])}
    for title, values in {"Fields": fields, "Versions": config["versions"]}.items():
        shown = ", ".join(f"{name}={show_value(value)}" for name, value in values.items())
        show(f"{title}: {shown or 'defaults'}")


def show_run(summary: dict[str, Any]) -> None:
    """Print the summary of a run: what, the numbers beside PCA's, the health."""
    show(f"{summary['model']} on {summary['data']}")
    metrics = summary["metrics"]
    if metrics:
        rows = "held-out" if summary["held_out"] else "training"
        unit = "edges" if "auc" in metrics["model"] else "rows"
        names = {"model": summary["model"], "pca": "PCA"}
        keys = dict.fromkeys(key for values in metrics.values() for key in values)
        _table(
            (
                f"on {summary['test']} {rows} {unit}",
                *(names.get(owner, owner) for owner in metrics),
            ),
            [
                (METRICS.get(key, key), *(_short(values.get(key)) for values in metrics.values()))
                for key in keys
            ],
            numbers=True,
        )
    seconds = f" in {summary['seconds']:.1f} s" if "seconds" in summary else ""
    show(f"epochs: {summary['epochs']}{seconds}")
    console = _console()
    for finding in summary["health"]:
        console.print(f"● {finding['level']}: ", style=COLOURS.get(finding["level"]), end="")
        console.print(f"{finding['text']} {finding['remedy']}".rstrip(), highlight=False)


def show(text: str) -> None:
    """Print a text as it is, but for names of files that are not UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(head):
        table.add_column(Text(title), justify="right" if numbers and i else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    return Console()


def _short(value: Any) -> str:
    """Return a value in a few characters."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value
