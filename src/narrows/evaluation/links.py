"""Evaluate a fitted model of graphs: how well it tells held-out edges from pairs without one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score, roc_auc_score

from narrows.base import BaseAutoencoder
from narrows.data.graphs import Graphs
from narrows.data.modalities import Graph
from narrows.data.sources import SLICE

__all__ = ["METRICS", "LinkEvaluation", "evaluate_links"]

Array = NDArray[Any]
METRICS = {"auc": "area under the ROC curve", "average_precision": "average precision"}


@dataclass(frozen=True, eq=False)
class LinkEvaluation:
    """How well edges are told from as many pairs without one.

    Attributes:
        metrics: "auc" and "average_precision" of the model and of Adamic & Adar's score.
        train: number of edges that the model saw.
        test: number of edges that are scored.
        held_out: whether those are others.
        graphs: what was scored.
        held: whether each edge of it was held out, ``(edges,)``.
        codes: of all nodes, which saw the training edges alone, ``(nodes, code size)``.
        scores: log odds in the weighting of the training, of the test "edges" and of as many
            "absent" pairs.
    """

    metrics: dict[str, dict[str, float]]
    train: int
    test: int
    held_out: bool
    graphs: Graphs
    held: Array
    codes: Array
    scores: dict[str, Array]


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
    net, source = model.net_.eval(), train if rest is None else rest
    decoder: Any = net.decoder
    scores: dict[str, list[Array]] = {"edges": [], "absent": []}
    pairs: dict[str, list[Array]] = {"edges": [], "absent": []}
    codes = []
    with torch.inference_mode():
        for part, _ in source.passes(None, SLICE, 1):
            batch = part.to(net.progress.device)
            code = net.code(batch)
            codes.append(code.cpu().numpy())
            out, told, index = net.decoded(code, batch), batch.graph, batch.index
            if told is None or index is None:
                continue
            for name, ends in (("edges", told.edges), ("absent", told.absent)):
                scores[name].append(decoder.at(out, ends).cpu().numpy())
                pairs[name].append(index[ends].cpu().numpy())
    found = {name: np.concatenate(parts) for name, parts in scores.items()}
    seen = graphs.with_edges(rows[0])
    neighbours = _adamic_adar(seen, [np.concatenate(parts, 1) for parts in pairs.values()])
    metrics = {"model": _quality(*found.values()), "Adamic–Adar": _quality(*neighbours)}
    test = int(held.sum()) or len(graphs.edges)
    return LinkEvaluation(
        metrics, len(rows[0]), test, bool(held.any()), graphs, held, np.concatenate(codes), found
    )


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
        return dict.fromkeys(METRICS, float("nan"))
    truth, scores = np.repeat([1, 0], [len(linked), len(apart)]), np.concatenate([linked, apart])
    area, precision = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    return {"auc": float(area), "average_precision": float(precision)}
