"""Sections of the report on graphs that show nodes and links: a matrix, the map, a new graph."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse import csr_array
from scipy.special import expit
from torch import Tensor

from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.evaluation.charts import BROAD, histogram
from narrows.evaluation.evaluate import evenly, plane
from narrows.evaluation.latent_map import Groups, label_text, latent_map, view_of
from narrows.evaluation.links import LinkEvaluation
from narrows.evaluation.markup import THIN, Markup, number, percent, plural, tag
from narrows.evaluation.pictures import sheet
from narrows.evaluation.sections import figure, section
from narrows.parts.graphs import ALL_PAIRS

__all__ = ["LinkGallery"]

Array = NDArray[Any]
PATCH = 120
"""Nodes whose links are drawn as a matrix, at most."""
POINTS = 2000
"""Nodes on the map, at most."""
LINES = 6000
"""Links that are drawn on it, at most."""
LISTED = 8
"""Pairs of nodes that are listed."""
PAPER, INK, ACCENT, ORANGE = ((238, 241, 244), (20, 24, 31), (11, 110, 143), (208, 112, 42))


@dataclass(frozen=True, eq=False)
class LinkGallery:
    """A fitted model and its graphs, to make sections of."""

    model: BaseAutoencoder
    dataset: Dataset
    evaluation: LinkEvaluation

    @cached_property
    def z(self) -> Tensor:
        """What the decoder sees of all nodes."""
        net = self.model.net_.eval()
        with torch.inference_mode():
            return net.decoded(torch.from_numpy(self.evaluation.codes).to(net.progress.device))

    @cached_property
    def seen(self) -> csr_array:
        """The adjacency, held-out edges and all."""
        return csr_array(self.evaluation.graphs.adjacency())

    def odds(self, a: NDArray[np.intp], b: NDArray[np.intp]) -> Array:
        """Return the log odds of links from every node of a to every node of b."""
        decoder: Any = self.model.net_.decoder
        with torch.inference_mode():
            rows: Array = decoder.table(self.z[a], self.z[b]).cpu().numpy()
        return rows

    def probability(self, odds: Array) -> Array:
        """Return them as probabilities, with the share of links of the training graphs."""
        net: Any = self.model.net_
        found: Array = net.probability(torch.from_numpy(odds)).numpy()
        return found

    def called(self, node: int) -> str:
        """Return what a node is called: its number in its graph, and its label."""
        graphs = self.evaluation.graphs
        graph = int(np.searchsorted(graphs.starts, node, "right")) - 1
        name = number(node - int(graphs.starts[graph]), 12)
        if len(graphs.sizes) > 1:
            name = f"{name} of graph {number(graph, 12)}"
        return name if self.dataset.y is None else f"{name} ({label_text(self.dataset.y[node])})"

    # -- sections --------------------------------------------------------------------------

    def reconstruction(self) -> Markup:
        """Return a part of the matrix of links beside what was made of it, and notable pairs."""
        nodes = self._patch()
        sizes = self.evaluation.graphs.sizes
        some = "The nodes" if len(nodes) == max(sizes) else f"The {len(nodes)} nodes of the core"
        where = " of the largest graph" if len(sizes) > 1 else ""
        note = (
            f"{some}{where}, a row and a column for each, in an order that puts alike codes side "
            "by side. Codes and scores are of a model that sees the training edges alone."
        )
        key = [tag("span", "edge", class_="dot edge")]
        if self.evaluation.held_out:
            key.append(tag("span", "held out", class_="dot pca"))
        pictures = [
            figure(self._links(nodes), "The links", key=key),
            figure(self._scores(nodes), "What the model makes of them", ": deeper is likelier"),
        ]
        return section(
            "reconstructions",
            "Reconstruction",
            tag("p", note, class_="note"),
            tag("div", pictures, class_="columns even"),
            tag("div", self._added(), self._doubted(), class_="columns even pairs"),
        )

    def map(self) -> Markup:
        """Return the latent map of the nodes, with their links."""
        codes, y = self.evaluation.codes, self.dataset.y
        rows = evenly(np.arange(len(codes)), POINTS)
        center, axes, share = plane(codes[rows])
        points = (codes[rows] - center) @ axes.T
        if codes.shape[1] == 1:
            points[:, 1] = np.random.default_rng(0).normal(0, 0.1 * np.ptp(codes), len(rows))
        place = np.full(len(codes), -1)
        place[rows] = np.arange(len(rows))
        ends = place[self.evaluation.graphs.edges]
        lines = ends[(ends >= 0).all(1)]
        drawn = lines[evenly(np.arange(len(lines)), LINES)]
        degrees = self.seen.count_nonzero(axis=1)[rows]
        how = f"The plane shows {percent(share, 0)} of the variance of {codes.shape[1]} units."
        if codes.shape[1] <= 2:
            how = f"The code has {plural(codes.shape[1], 'unit')}."
        text = f"Every point is a node, {number(len(rows), 12)} in all, and lines are "
        text += f"{'' if len(drawn) == len(lines) else 'some of '}their links. {how} "
        text += "Point at one to see it" + ("." if y is None else ", or choose a label.")
        view = view_of(points)
        body = latent_map(
            points,
            Groups.of(None if y is None else y[rows], len(rows)),
            view,
            rows=rows,
            alt=f"Map of the codes of {plural(len(rows), 'node')}",
            facts=[[number(int(degree), 12)] for degree in degrees],
            columns=["links"],
            links=drawn,
            noun="node",
        )
        return section("map", "The latent map", tag("p", text, class_="note"), body)

    def drawn(self) -> Markup:
        """Return how a graph that is drawn from the model compares with the real one."""
        sizes = self.evaluation.graphs.sizes
        nodes = int(np.median(sizes))
        if nodes > ALL_PAIRS:
            text = f"A graph is drawn by all of its pairs, of {ALL_PAIRS} nodes at most."
            return section("samples", "A new graph", tag("p", text, class_="note"))
        made = csr_array(np.asarray(self.model.sample(nodes, noise=True)))
        degrees = [graph.count_nonzero(axis=1).astype(float) for graph in (self.seen, made)]
        top = int(np.ceil(max(np.quantile(values, 0.98) for values in degrees))) + 1
        sets = list(zip(("real", "model"), degrees, strict=True))
        key = [tag("span", "real", class_="dot real"), tag("span", "drawn", class_="dot model")]
        chart = figure(
            histogram(sets, 0.0, top, min(top, 25), "Links of a node: real and drawn", BROAD),
            "Links of a node",
            key=key,
        )
        facts = [_shape(graph) for graph in (self.seen, made)]
        rows = [
            tag("tr", tag("th", name, scope="row"), [tag("td", each[name]) for each in facts])
            for name in facts[0]
        ]
        head = tag("tr", [tag("th", text, scope="col") for text in ("", "real", "drawn")])
        table = tag("table", tag("thead", head), tag("tbody", rows), class_="scores")
        prior = self.model.net_.latent.prior() is not None
        source = "the prior" if prior else "a density fitted to the training codes"
        note = (
            f"A graph of {plural(nodes, 'node')} that never was: their codes are drawn from "
            f"{source}, and their links from the probabilities that follow."
        )
        body = tag("div", tag("div", table, class_="wide"), chart, class_="columns two")
        return section("samples", "A new graph", tag("p", note, class_="note"), body)

    # -- parts of them ---------------------------------------------------------------------

    def _patch(self) -> NDArray[np.intp]:
        """Return the nodes of the largest graph, or of its core, those of alike codes in a row."""
        graphs = self.evaluation.graphs
        largest = int(np.argmax(graphs.sizes))
        start, size = int(graphs.starts[largest]), graphs.sizes[largest]
        nodes = start + _core(self.seen[start : start + size, start : start + size])
        if len(nodes) < 3:
            return nodes
        codes = self.evaluation.codes[nodes].astype(np.float64)
        order: NDArray[np.intp] = leaves_list(linkage(codes, "average", optimal_ordering=True))
        return nodes[order].astype(np.intp)

    def _links(self, nodes: NDArray[np.intp]) -> Markup:
        """Draw the links among nodes as a matrix."""
        pixels = np.full((len(nodes), len(nodes), 3), PAPER, np.uint8)
        place = np.full(len(self.evaluation.graphs), -1)
        place[nodes] = np.arange(len(nodes))
        ends = place[self.evaluation.graphs.edges]
        known = (ends >= 0).all(1)
        for (a, b), held in zip(ends[known], self.evaluation.held[known], strict=True):
            pixels[a, b] = pixels[b, a] = ORANGE if held else INK
        alt = f"Matrix of the links among {plural(len(nodes), 'node')}"
        return tag("img", src=sheet(pixels[None], 1).source, alt=alt, class_="mosaic crisp")

    def _scores(self, nodes: NDArray[np.intp]) -> Markup:
        """Draw the scores of their pairs."""
        shade = expit(self.odds(nodes, nodes).astype(np.float64))
        np.fill_diagonal(shade, 0)
        pixels = np.asarray(PAPER) + shade[..., None] * (np.asarray(ACCENT) - np.asarray(PAPER))
        alt = f"Matrix of the scores of links among {plural(len(nodes), 'node')}"
        source = sheet(np.rint(pixels).astype(np.uint8)[None], 1).source
        return tag("img", src=source, alt=alt, class_="mosaic crisp")

    def _added(self) -> Markup | None:
        """List the pairs without an edge that score highest: of all of them, in small graphs."""
        found: list[tuple[float, int, int]] = []
        graphs = self.evaluation.graphs
        if max(graphs.sizes) > ALL_PAIRS:
            return None
        for start, size in zip(graphs.starts.tolist(), graphs.sizes, strict=False):
            every = np.arange(start, start + size)
            for rows in np.array_split(every, max(1, size * size // 2**20)):
                odds = self.odds(rows, every)
                odds[self.seen[rows][:, every].toarray() > 0] = -np.inf
                odds[every[None] <= rows[:, None]] = -np.inf
                best = np.argpartition(odds.ravel(), -min(LISTED, odds.size))[-LISTED:]
                at = zip(*np.unravel_index(best, odds.shape), strict=True)
                found += [(float(odds[i, j]), int(rows[i]), int(every[j])) for i, j in at]
            found = sorted(found, reverse=True)[:LISTED]
        found = [pair for pair in found if np.isfinite(pair[0])]
        return self._pairs("Links it would add", "pairs without an edge that score highest", found)

    def _doubted(self) -> Markup | None:
        """List the edges that score lowest."""
        decoder: Any = self.model.net_.decoder
        edges = self.evaluation.graphs.edges
        with torch.inference_mode():
            odds = decoder.at(self.z, torch.from_numpy(edges.T.copy()).to(self.z.device))
        values = odds.cpu().numpy()
        order = np.argsort(values, kind="stable")[:LISTED]
        found = [(float(values[i]), int(edges[i, 0]), int(edges[i, 1])) for i in order]
        return self._pairs("Links it doubts", "edges that score lowest", found)

    def _pairs(self, title: str, text: str, found: list[tuple[float, int, int]]) -> Markup | None:
        if not found:
            return None
        chances = self.probability(np.array([pair[0] for pair in found], np.float32))
        rows = [
            tag(
                "tr",
                tag("td", self.called(a), " — ", self.called(b)),
                tag("td", _chance(float(chance)), class_="num"),
            )
            for (_, a, b), chance in zip(found, chances, strict=True)
        ]
        head = [
            tag("th", "nodes", scope="col"),
            tag("th", "probability", scope="col", class_="num"),
        ]
        caption = tag("caption", title, tag("small", text))
        return tag("table", caption, tag("thead", tag("tr", head)), tag("tbody", rows))


def _core(linked: csr_array) -> NDArray[np.intp]:
    """Return the nodes that are left when those with the fewest links go, round by round."""
    nodes = np.arange(linked.shape[0])
    while len(nodes) > PATCH:
        degrees = linked[nodes][:, nodes].count_nonzero(axis=1)
        gone = max(int((degrees == degrees.min()).sum()), len(nodes) // 10)
        order = np.argsort(degrees, kind="stable")[: min(gone, len(nodes) - PATCH)]
        nodes = np.delete(nodes, order)
    return nodes


def _chance(share: float) -> str:
    return percent(share) if share > 0.01 else f"{number(100 * share, 2)}{THIN}%"


def _shape(graph: csr_array) -> dict[str, str]:
    """Return what is told of a graph as a whole."""
    linked = (graph > 0).astype(np.float64)
    degrees = linked.sum(1)
    closed = float((linked @ linked).multiply(linked).sum())
    paths = float((degrees * (degrees - 1)).sum())
    return {
        "Links of a node, on average": number(float(degrees.mean()), 3),
        "Paths of two links that a third closes": percent(closed / paths) if paths else "–",
        "Nodes without a link": percent(float((degrees == 0).mean())),
    }
