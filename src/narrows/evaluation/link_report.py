"""The report on a model of graphs: how it tells links, and the nodes as it sees them."""

from typing import Any

import numpy as np
from scipy.special import expit

from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.evaluation.charts import BROAD, histogram, hourglass
from narrows.evaluation.link_gallery import LinkGallery
from narrows.evaluation.links import METRICS, LinkEvaluation
from narrows.evaluation.markup import (
    Markup,
    broken,
    join,
    number,
    percent,
    plural,
    seconds_text,
    tag,
)
from narrows.evaluation.page import compact, footer, header, menu, run, spent, tiles, whole_page
from narrows.evaluation.sections import figure, health, section, training

__all__ = ["render_links"]

EVEN = 0.005
"""Difference of two areas under the curve below which neither is called better."""
MENU = {
    "links": "Beside common neighbours",
    "reconstructions": "Reconstruction",
    "map": "Map",
    "samples": "A new graph",
    "training": "Learning curves",
    "health": "Health",
    "run": "The run",
}


def render_links(
    model: BaseAutoencoder,
    dataset: Dataset,
    evaluation: LinkEvaluation,
    *,
    command: str,
    seconds: float,
) -> str:
    """Return the report as one HTML page that loads nothing from anywhere.

    Args:
        model: a fitted model of graphs.
        dataset: what it was fitted to, with the labels of the nodes where there are some.
        evaluation: of the model on this data.
        command: what repeats the run.
        seconds: what the run took.
    """
    diagnosis = model.diagnose()
    gallery = LinkGallery(model, dataset, evaluation)
    units = f"{diagnosis.active} of {evaluation.codes.shape[1]} units active"
    edges = evaluation.train * len(model.history_) / spent(model)
    main = tag(
        "main",
        tiles(_facts(model, evaluation, units, seconds)),
        _comparison(type(model).__name__, evaluation),
        gallery.reconstruction(),
        gallery.map(),
        gallery.drawn(),
        training(model.history_),
        health(diagnosis, None),
        run(model, command, seconds, {"Training speed": f"{number(edges, 3)} edges/s"}),
    )
    split = f"trained on {plural(evaluation.train, 'edge')}, "
    split += (
        f"scored on {number(evaluation.test, 12)} held out"
        if evaluation.held_out
        else "no held-out edges: scored on what it was trained on"
    )
    sizes, code = _layers(model, evaluation)
    drawing = hourglass(sizes, code, f"Sizes of the layers: {', '.join(map(str, sizes))}")
    head = header(model, dataset, split, drawing, "values of a node: features, code, links")
    title = f"{type(model).__name__} on {dataset.name or 'data'}"
    return whole_page(title, [head, menu(MENU), main, footer()])


def _layers(model: BaseAutoencoder, evaluation: LinkEvaluation) -> tuple[list[int], int]:
    """Return how many values of a node each layer passes on, and which of these is the code."""
    encoder: Any = model.net_.encoder
    hidden = [layer.out_features for layer in encoder.layers][:-1]
    nodes = max(evaluation.graphs.sizes)
    first = encoder.nodes or model.modality_.shape[0]
    return [first, *hidden, evaluation.codes.shape[1], nodes], len(hidden) + 1


def _facts(
    model: BaseAutoencoder, evaluation: LinkEvaluation, units: str, seconds: float
) -> list[tuple[str, str, str]]:
    """Return the key numbers."""
    own, others = evaluation.metrics["model"], evaluation.metrics["Adamic–Adar"]
    weights = sum(p.numel() for p in model.net_.parameters())
    first, *_ = _layers(model, evaluation)[0]
    return [
        *(
            (title, number(own[key], 3), f"common neighbours {number(others[key], 3)}")
            for key, title in METRICS.items()
        ),
        ("code of a node", f"{compact(first)} → {evaluation.codes.shape[1]}", f"values; {units}"),
        ("parameters", compact(weights), f"learned from {plural(evaluation.train, 'edge')}"),
        ("run", seconds_text(seconds), plural(len(model.history_), "epoch")),
    ]


# -- common neighbours beside the model ----------------------------------------------------------


def _comparison(name: str, evaluation: LinkEvaluation) -> Markup:
    """Return the verdict, the table of both, and how scores part edges from other pairs."""
    warning = (
        "There are no held-out edges: these are the training ones, and new ones will fare worse."
    )
    note = (
        f"On {plural(evaluation.test, 'edge')} and as many pairs without one. Adamic and Adar's "
        "score counts the neighbours that two nodes have in common, rarely linked ones for more."
    )
    odds = [("real", evaluation.scores["absent"]), ("model", evaluation.scores["edges"])]
    sets = [(style, expit(values.astype(np.float64))) for style, values in odds]
    key = [tag("span", "edges", class_="dot model"), tag("span", "no edges", class_="dot real")]
    chart = figure(
        histogram(sets, 0.0, 1.0, 25, "Scores of edges and of pairs without one", BROAD),
        "Scores of pairs",
        ", 0 to 1, with edges and other pairs weighing alike",
        key,
    )
    return section(
        "links",
        "Common neighbours beside the model",
        tag("p", _verdict(name, evaluation), class_="lead"),
        None if evaluation.held_out else tag("p", warning, class_="warning"),
        tag(
            "div",
            tag("div", _table(name, evaluation), tag("p", note, class_="note"), class_="wide"),
            chart if all(len(values) for _, values in sets) else None,
            class_="columns two",
        ),
    )


def _verdict(name: str, evaluation: LinkEvaluation) -> Markup:
    """Say plainly which is better, and by how much."""
    own, others = (evaluation.metrics[key]["auc"] for key in ("model", "Adamic–Adar"))
    if not np.isfinite(own):
        return join("There are no edges, or no pairs without one: nothing can be told apart.")
    head = f"{name} and common neighbours are even"
    if abs(own - others) > EVEN:
        head = f"{name} is better than common neighbours"
        if own < others:
            head = f"Common neighbours are better than {name}"
    seen = "held-out" if evaluation.held_out else "training"
    text = (
        f": of a {seen} edge and a pair without one, it gives the edge the higher score in "
        f"{percent(own)} of all cases, and Adamic and Adar's score does in {percent(others)}."
    )
    if others - own > EVEN:
        text += " Features of the nodes, another latent_dim or decoder='mlp' may help."
    return Markup(tag("strong", head) + join(text))


def _table(name: str, evaluation: LinkEvaluation) -> Markup:
    rows = []
    for key, title in METRICS.items():
        own, others = (evaluation.metrics[owner][key] for owner in ("model", "Adamic–Adar"))
        gap = f"{100 * (own - others):+.1f} points".replace("-", "−")
        rows.append(
            tag(
                "tr",
                tag("th", title[0].upper() + title[1:], scope="row"),
                tag("td", number(own, 3), class_="best" if own > others else None),
                tag("td", number(others, 3), class_="best" if others > own else None),
                tag("td", gap if np.isfinite(own - others) else "–"),
            )
        )
    head = ["", broken(name), "Adamic–Adar", "difference"]
    return tag(
        "table",
        tag("thead", tag("tr", [tag("th", text, scope="col") for text in head])),
        tag("tbody", rows),
        class_="scores",
    )
