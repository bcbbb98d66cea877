"""The report: one self-contained page about a fitted model, for a person to enjoy."""

import re
import time
from importlib.resources import files
from inspect import cleandoc
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.evaluation.charts import hourglass
from narrows.evaluation.evaluate import Evaluation, take
from narrows.evaluation.gallery import Gallery
from narrows.evaluation.markup import (
    Child,
    Markup,
    broken,
    number,
    percent,
    plural,
    seconds_text,
    tag,
)
from narrows.evaluation.sections import comparison, health, section, training
from narrows.fitting import takes_linear_path
from narrows.metrics.health import Diagnosis
from narrows.storage import versions

__all__ = ["render", "whole_page"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser is told to load nothing, so that the page cannot call home."""
MENU = {
    "pca": "Beside PCA",
    "reconstructions": "Reconstructions",
    "map": "Map",
    "samples": "New samples",
    "training": "Learning curves",
    "health": "Health",
    "run": "The run",
}


def render(
    model: BaseAutoencoder,
    dataset: Dataset,
    evaluation: Evaluation,
    *,
    command: str,
    seconds: float,
) -> str:
    """Return the report as one HTML page that loads nothing from anywhere.

    Args:
        model: a fitted estimator.
        dataset: what it was fitted to, with labels where there are some.
        evaluation: of the model on this data.
        command: what repeats the run.
        seconds: what the run took.
    """
    name, diagnosis = type(model).__name__, model.diagnose()
    gallery = Gallery(model, dataset, evaluation)
    columns = gallery.columns if gallery.table else []
    main = tag(
        "main",
        _tiles(model, evaluation, diagnosis, seconds),
        comparison(name, evaluation, columns, diagnosis, takes_linear_path(model)),
        gallery.reconstructions(),
        gallery.map(),
        gallery.samples(),
        training(model.history_),
        health(diagnosis, gallery.units()),
        _run(model, evaluation, command, seconds),
    )
    title = f"{name} on {dataset.name or 'data'}"
    page = [_header(model, dataset, evaluation), _menu(), main, _footer()]
    return whole_page(title, page)


def whole_page(title: str, body: Child) -> str:
    """Return the document with its style and its script inside."""
    style, script = (
        Markup(files("narrows.evaluation").joinpath(name).read_text("utf-8"))
        for name in ("report.css", "report.js")
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    ]
    page = tag("html", tag("head", head), tag("body", body, tag("script", script)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _header(model: BaseAutoencoder, dataset: Dataset, evaluation: Evaluation) -> Markup:
    """Say what was trained on what."""
    paragraphs = cleandoc(type(model).__doc__ or "").split("\n\n")
    summary = " ".join(paragraphs[0].split())
    objective = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    if re.match(r"(Args|References|Attributes|Raises):|>>>", objective):
        objective = ""
    split = f"trained on {number(evaluation.train, 12)}, "
    split += (
        f"scored on {number(evaluation.test, 12)} held out"
        if evaluation.held_out
        else "no held-out data: scored on what it was trained on"
    )
    sizes, code = layers(model, take(dataset.X, evaluation.rows[:1]))
    drawing = hourglass(sizes, code, f"Sizes of the layers: {', '.join(map(str, sizes))}")
    words = tag(
        "div",
        tag("p", "narrows", class_="brand"),
        tag("h1", broken(type(model).__name__), f" on {dataset.name or 'data'}"),
        tag("p", dataset.describe(), " — ", split, class_="what"),
        tag("p", summary),
        tag("p", tag("code", f"minimise  {objective}"), class_="objective") if objective else None,
    )
    caption = tag("figcaption", "values in each layer, from data to code to data")
    return tag("header", words, tag("figure", drawing, caption))


def _menu() -> Markup:
    links = [tag("a", text, href=f"#{name}") for name, text in MENU.items()]
    return tag("nav", links, aria_label="Sections")


def _tiles(
    model: BaseAutoencoder, evaluation: Evaluation, diagnosis: Diagnosis, seconds: float
) -> Markup:
    """Return the key numbers."""
    own, pca = evaluation.metrics["model"], evaluation.metrics["pca"]
    code, features = evaluation.kept, model.modality_.n_features
    units = f"{diagnosis.active} of {code} units active"
    if diagnosis.usage is not None:
        units = f"each one of {diagnosis.usage.codes} codes"
    weights = sum(p.numel() for p in model.net_.parameters())
    speed = f"{number(_rate(model, evaluation), 2)} samples/s"
    tiles = [
        (
            "explained variance",
            percent(own["explained_variance"]),
            f"PCA {percent(pca['explained_variance'])}",
        ),
        ("mean squared error", number(own["mse"]), f"PCA {number(pca['mse'])}"),
    ]
    if "log_likelihood" in own:
        text = f"nats a sample, at least; PCA {number(pca['log_likelihood'])}"
        tiles.append(("log p(x)", number(own["log_likelihood"]), text))
    elif "accuracy" in own:
        text = f"of the symbols; PCA {percent(pca['accuracy'])}"
        tiles.append(("right", percent(own["accuracy"]), text))
    elif "psnr" in own:
        tiles.append(("PSNR", f"{own['psnr']:.1f}", f"decibels; PCA {pca['psnr']:.1f}"))
    tiles += [
        (
            "code",
            f"{_compact(features)} → {_compact(code)}",
            f"values; {units}",
        ),
        ("parameters", _compact(weights), f"learned from {plural(evaluation.train, 'sample')}"),
        ("run", seconds_text(seconds), f"{plural(len(model.history_), 'epoch')}, {speed}"),
    ]
    return tag(
        "dl",
        [
            tag("div", tag("dt", title), tag("dd", tag("b", value), tag("span", text)))
            for title, value, text in tiles
        ],
        class_="tiles",
        aria_label="Key numbers",
    )


def _compact(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / min(size, 1e3 if unit == 'k' else size):.3g}\u202f{unit}"
    return number(count, 12)


def _rate(model: BaseAutoencoder, evaluation: Evaluation) -> float:
    """Return the training samples a second, over all epochs."""
    spent = sum(row["seconds"] for row in model.history_)
    return evaluation.train * len(model.history_) / max(spent, 1e-9)


def _run(model: BaseAutoencoder, evaluation: Evaluation, command: str, seconds: float) -> Markup:
    """Return what repeats the run: command, timings, versions and fields."""
    fields, defaults = model.fields(), type(model).defaults()
    changed = {k: v for k, v in fields.items() if k not in defaults or v != defaults[k]}
    texts = type(model).field_docs()
    copied = tag("button", "Copy", type="button", class_="copy", hidden=True)
    spent = sum(row["seconds"] for row in model.history_)
    facts = {
        "Whole run": seconds_text(seconds),
        "Training": f"{seconds_text(spent)} for {plural(len(model.history_), 'epoch')}",
        "Training speed": f"{number(_rate(model, evaluation), 3)} samples/s",
        "Reconstruction": f"{number(evaluation.rate, 3)} samples/s",
        "Device": str(next(model.net_.parameters()).device),
        **{key.capitalize(): value for key, value in versions().items()},
    }
    listed = [tag("div", tag("dt", key), tag("dd", value)) for key, value in facts.items()]
    all_fields = tag(
        "details",
        tag("summary", f"All {len(fields)} fields of {type(model).__name__}"),
        _fields(fields, defaults, texts),
    )
    return section(
        "run",
        "The run",
        tag("h3", "Repeat it"),
        tag("div", tag("pre", tag("code", command)), copied, class_="command"),
        tag("h3", "Timings and versions"),
        tag("dl", listed, class_="facts"),
        tag("h3", "Fields that differ from the defaults"),
        _fields(changed, defaults, texts) if changed else tag("p", "None."),
        all_fields,
    )


def _fields(fields: dict[str, Any], defaults: dict[str, Any], texts: dict[str, str]) -> Markup:
    head = tag("tr", [tag("th", text, scope="col") for text in ("field", "value", "default", "")])
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", tag("code", repr(value))),
            tag("td", tag("code", repr(defaults[name])) if name in defaults else None),
            tag("td", texts.get(name, "")),
        )
        for name, value in fields.items()
    ]
    return tag("table", tag("thead", head), tag("tbody", rows), class_="fields")


def _footer() -> Markup:
    now = time.strftime("%Y-%m-%d %H:%M")
    return tag(
        "footer",
        f"Written by narrows {versions()['narrows']} on {now}. "
        "This page is complete: it loads nothing from the network.",
    )


def layers(model: BaseAutoencoder, sample: Any) -> tuple[list[int], int]:
    """Return how many values each layer passes on, and which of these is the code."""
    sizes: dict[str, dict[nn.Module, int]] = {"encoder": {}, "decoder": {}}
    handles = []
    for part, found in sizes.items():

        def note(
            module: nn.Module, inputs: Any, output: Any, found: dict[nn.Module, int] = found
        ) -> None:
            del inputs
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and len(first):
                found.setdefault(module, first[0].numel())  # steps pass again and again

        for module in model.net_.get_submodule(part).modules():
            own = dict(module.named_parameters(recurse=False))
            if own and ("weight" not in own or own["weight"].ndim > 1):  # a norm is no layer
                handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model.reconstruct(sample)
    finally:
        for handle in handles:
            handle.remove()
    values = int(np.prod(model.modality_.shape))
    before = [values, *list(sizes["encoder"].values())[:-1]]
    after = list(sizes["decoder"].values()) or [values]
    return [*before, int(np.prod(model.net_.latent.code_shape)), *after], len(before)
