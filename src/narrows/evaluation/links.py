"""Evaluate a fitted model of graphs: how well it tells held-out edges from pairs without one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score, roc_auc_score

from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.data.graphs import Graphs
from narrows.data.modalities import Graph
from narrows.evaluation.markup import Markup, number, plural, seconds_text, tag
from narrows.evaluation.report import whole_page
from narrows.evaluation.sections import health, section, training
from narrows.fitting import SLICE

__all__ = ["LinkEvaluation", "evaluate_links", "render_links"]

Array = NDArray[Any]
NAMES = {"auc": "area under the ROC curve", "average_precision": "average precision"}


@dataclass(frozen=True)
class LinkEvaluation:
    """How well edges are told from as many pairs without one.

    Attributes:
        metrics: "auc" and "average_precision" of the model and of Adamic & Adar's score.
        train: number of edges that the model saw.
        test: number of edges that are scored.
        held_out: whether those are others.
    """

    metrics: dict[str, dict[str, float]]
    train: int
    test: int
    held_out: bool


def evaluate_links(model: BaseAutoencoder, X: Any) -> LinkEvaluation:
    """Score a model, and common neighbours, on the held-out edges of X; on all where none were.

    Adamic & Adar's score sums 1 / log(degree) over the common neighbours of a pair (2003).
    """
    modality = model.modality_
    if not isinstance(modality, Graph):
        raise TypeError(f"{type(model).__name__} was not fitted to graphs.")
    graphs = modality.read(X, type(model).__name__)
    held = _among(graphs, model.held_out_)
    rows = (np.flatnonzero(~held), np.flatnonzero(held))
    train, rest = modality.sources(graphs, rows, model.seed or 0, None)
    net, scores, pairs = model.net_.eval(), ([], []), ([], [])  # type: ignore[var-annotated]
    source = train if rest is None else rest
    with torch.inference_mode():
        for part, _ in source.passes(torch.arange(len(graphs)), SLICE, 1):
            batch = part.to(net.progress.device)
            out = net.decoded(net.code(batch), batch)
            if batch.graph is None or batch.index is None:
                continue
            for i, told in enumerate((batch.graph.edges, batch.graph.absent)):
                decoder: Any = net.decoder
                scores[i].append(decoder.at(out, told).cpu().numpy())
                pairs[i].append(batch.index[told].cpu().numpy())
    neighbours = _adamic_adar(graphs.with_edges(rows[0]), [np.concatenate(p, 1) for p in pairs])
    metrics = {
        "model": _quality(*(np.concatenate(each) for each in scores)),
        "Adamic–Adar": _quality(*neighbours),
    }
    test = int(held.sum()) or len(graphs.edges)
    return LinkEvaluation(metrics, len(rows[0]), test, bool(held.any()))


def render_links(
    model: BaseAutoencoder,
    dataset: Dataset,
    evaluation: LinkEvaluation,
    *,
    command: str,
    seconds: float,
) -> str:
    """Return the report as one HTML page that loads nothing from anywhere."""
    name = type(model).__name__
    where = "held-out edges" if evaluation.held_out else "the edges that it was trained on"
    rows = [
        tag(
            "tr",
            tag("th", name if owner == "model" else owner),
            *(tag("td", number(values[key], 3)) for key in NAMES),
        )
        for owner, values in evaluation.metrics.items()
    ]
    table = tag("table", tag("tr", tag("th", ""), *(tag("th", t) for t in NAMES.values())), rows)
    note = (
        f"On {where}, {plural(evaluation.test, 'edge')}, and as many pairs without one. Adamic "
        "and Adar's score counts common neighbours, the rarely linked for more."
    )
    spent = f"{seconds_text(seconds)}, {plural(len(model.history_), 'epoch')}"
    main = tag(
        "main",
        section("links", "Links", tag("p", note), table),
        training(model.history_),
        health(model.diagnose(), None),
        section("run", "The run", tag("p", spent), tag("pre", command)),
    )
    title = f"{name} on {dataset.name or 'data'}"
    header: Markup = tag("header", tag("h1", title), tag("p", dataset.describe()))
    return whole_page(title, [header, main])


def _among(graphs: Graphs, held: Array) -> Array:
    """Tell which edges were held out."""
    held = np.asarray(held).reshape(-1, 2)
    ids = [edges[:, 0] * len(graphs) + edges[:, 1] for edges in (graphs.edges, held)]
    return np.isin(ids[0], ids[1])


def _adamic_adar(seen: Graphs, pairs: list[Array]) -> list[Array]:
    linked = csr_array(seen.adjacency()) > 0
    matrix = csr_array(linked.astype(np.float64))
    rare = csr_array(matrix.multiply(1 / np.log(np.maximum(matrix.sum(0), 2))[None]))
    return [np.asarray(rare[a].multiply(matrix[b]).sum(1)).ravel() for a, b in pairs]


def _quality(linked: Array, apart: Array) -> dict[str, float]:
    """Return how well scores part the two; NaN where there is only one of them."""
    if not len(linked) or not len(apart):
        return dict.fromkeys(NAMES, float("nan"))
    truth, scores = np.repeat([1, 0], [len(linked), len(apart)]), np.concatenate([linked, apart])
    area, precision = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    return {"auc": float(area), "average_precision": float(precision)}
