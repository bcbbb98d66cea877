"""Graphs: a sample is a node, and links are what is told."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from narrows.data.arrays import as_tensor
from narrows.data.graphs import Graphs, is_many, read_graphs
from narrows.data.linked import GraphSource, links
from narrows.data.modalities.base import Array, Encoded, Modality
from narrows.data.scaling import Range, fit_scaling, log_counts
from narrows.data.splits import Rows, split
from narrows.errors import DataError

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph(Modality):
    """Undirected graphs, whose nodes have features or are known by their place alone.

    Attributes:
        nodes: number of nodes where they have no features; 0 where they have.
        density: share of the pairs of nodes that are linked.
    """

    name = "graph"
    architecture = "gcn"

    nodes: int = 0
    density: float = 0.5

    @classmethod
    def describe(cls, X: Any) -> "Graph":
        """Note how many features a node has."""
        graphs = read_graphs(X)
        if graphs.features is not None:
            return cls((graphs.features.shape[1],))
        if is_many(X):
            raise DataError(
                "X is a list of graphs without features: without any, a node is known by its "
                "place in one graph. Give features, such as each node's degree."
            )
        return cls((0,), nodes=len(graphs))

    def read(self, X: Any, owner: str) -> Graphs:  # type: ignore[override]
        """Check features against those seen at fit."""
        graphs = read_graphs(X)
        width = 0 if graphs.features is None else graphs.features.shape[1]
        if width != self.shape[0]:
            raise DataError(
                f"X has {width} features a node, but {owner} is expecting {self.shape[0]} "
                "features as input."
            )
        if self.nodes and graphs.sizes != (self.nodes,):
            raise DataError(
                f"{owner} was fitted without features and knows its {self.nodes} nodes by their "
                f"place alone; X has {len(graphs)}. Fit with features to encode other nodes."
            )
        return graphs

    def learn(self, array: Graphs, target: Range) -> "Graph":  # type: ignore[override]
        """Fit the scaling of the features, and note how many pairs are linked."""
        sizes = np.array(array.sizes, dtype=np.float64)
        pairs = float((sizes * (sizes - 1) / 2).sum())
        # One edge more and one pair less keep the odds finite.
        density = (len(array.edges) + 0.5) / (pairs + 1.0)
        known = replace(self, density=density)
        if array.features is None:
            return known
        x = log_counts(array.features) if target == "log" else array.features
        center, scale = fit_scaling(x, target)
        return replace(known, center=center, scale=scale, log=target == "log")

    def encode(self, array: Graphs) -> Encoded:  # type: ignore[override]
        """Scale the features."""
        if array.features is None:
            return Encoded(torch.zeros(len(array), 0))
        values = log_counts(array.features) if self.log else array.features
        x = (values - np.array(self.center)) / np.array(self.scale)
        return Encoded(as_tensor(x.astype(np.float32)))

    def source(self, array: Any, y: Any = None) -> GraphSource:
        """Return the nodes with all their links."""
        del y
        return GraphSource(self.encode(array).x, links(array))

    def sources(
        self,
        graphs: Graphs,
        rows: tuple[Rows, Rows],
        seed: int,
        weight: Tensor | None,
    ) -> tuple[GraphSource, GraphSource | None]:
        """Return nodes that see the edges of `rows[0]`, told those, and told those of `rows[1]`.

        The held-out edges come with as many pairs that are no edges, chosen once by the seed.
        """
        x, (train, rest) = self.encode(graphs).x, rows
        seen = graphs.with_edges(train)
        source = GraphSource(x, links(seen, seed=seed, known=graphs.edges), weight)
        if not len(rest):
            return source, None
        told = graphs.edges[rest]
        return source, GraphSource(x, links(seen, told, seed, graphs.edges), weight)

    def split(
        self,
        array: Graphs,  # type: ignore[override]
        fraction: float,
        how: str,
        seed: int,
        groups: ArrayLike | None = None,
    ) -> tuple[Rows, Rows]:
        """Return the edges to train on, and those held out: nodes are never held out."""
        if groups is not None:
            raise DataError(
                "groups are of rows, and a graph's samples are linked: its edges are held out, "
                "and never its nodes. Leave groups out."
            )
        return split(len(array.edges), fraction, how, seed)

    def features(self, x: Tensor) -> Array:
        """Return features in the user's units, from those of the model."""
        values = x.double().numpy() * np.array(self.scale) + np.array(self.center)
        values = np.expm1(values).clip(0) if self.log else values
        units: Array = values.astype(np.float32)
        return units

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Return probabilities of links as they are."""
        del like, condition
        return x.numpy()

    def as_batch(self, sample: Any) -> Any:
        """Return the graph as it is."""
        return sample

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        super().check()
        if type(self.nodes) is not int or not 0 < self.density < 1:
            raise DataError("nodes and density of the modality are not what they must be.")

    @property
    def log_units(self) -> Tensor:
        """Log of each feature's scale."""
        return torch.tensor(self.scale, dtype=torch.float64).log().float()

    @property
    def n_features(self) -> int:
        """Number of features of a node."""
        return self.shape[0]
