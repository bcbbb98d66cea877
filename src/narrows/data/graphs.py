"""Graphs as users give them: checked, and brought into one form."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, issparse
from torch import Tensor

from narrows.data.frames import is_frame
from narrows.data.tensors import to_array
from narrows.errors import DataError, DataTypeError

__all__ = [
    "TAKEN_BY",
    "Graphs",
    "describe_graphs",
    "graph_of",
    "is_graph",
    "is_many",
    "read_graphs",
    "resembles",
]

Array = NDArray[Any]
TAKEN_BY = (
    "is for the models of graphs, which encode nodes along their links: GraphAutoencoder, "
    "VariationalGraphAutoencoder and AdversarialGraphAutoencoder."
)
MANY = 1000
"""Nodes without edges for each one with some, at most, where edges alone tell of nodes."""
FORMS = (
    "(edge_index, features) with edge_index (2, edges) and features (nodes, columns) or None, "
    "(edge_index, features, edge_weight), a SciPy sparse adjacency, (adjacency, features), a "
    "networkx graph, torch-geometric's Data, or a list of these"
)


@dataclass(frozen=True, eq=False)
class Graphs:
    """Undirected graphs side by side: their nodes are numbered through.

    Attributes:
        sizes: number of nodes of each graph.
        edges: ``(edges, 2)`` whole numbers, the smaller first, each edge once.
        weight: ``(edges,)``, above 0.
        features: ``(nodes, columns)`` float32, or None.
    """

    sizes: tuple[int, ...]
    edges: Array
    weight: Array
    features: Array | None

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def starts(self) -> Array:
        """The first node of each graph, and the number of nodes at the end."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @property
    def unit(self) -> bool:
        """Whether all features lie in [0, 1], like words and categories."""
        return self.features is not None and 0 <= self.features.min() <= self.features.max() <= 1

    def with_edges(self, rows: Array) -> "Graphs":
        """Return the same nodes with some of the edges."""
        return Graphs(self.sizes, self.edges[rows], self.weight[rows], self.features)

    def adjacency(self) -> Any:
        """Return the symmetric weighted adjacency as a SciPy COO array."""
        both = np.concatenate([self.edges, self.edges[:, ::-1]])
        return coo_array((np.tile(self.weight, 2), both.T), shape=(len(self), len(self)))


def is_many(X: Any) -> bool:
    """Tell a list of graphs, or torch-geometric's Batch of them, from a graph."""
    return isinstance(X, list) or _is_batch(X)


def read_graphs(X: Any) -> Graphs:
    """Return one graph, or a list of them, in one form.

    An edge counts in both directions; one that is listed more than once counts once, with the
    mean of its weights; loops are left out, since every node sees itself anyway.

    Raises:
        DataError: an index, a weight or a feature cannot be used.
        DataTypeError: X is no graph.
    """
    if not is_many(X):
        return _read(X, "X")
    X = X.to_data_list() if _is_batch(X) else X
    if not X:
        raise DataError("X is an empty list; expected one graph at least.")
    parts = [_read(graph, f"Graph {i} of X") for i, graph in enumerate(X)]
    widths = [None if part.features is None else part.features.shape[1] for part in parts]
    for i, width in enumerate(widths):
        if width != widths[0]:
            raise DataError(
                f"Graph {i} of X has {width or 'no'} features a node where graph 0 has "
                f"{widths[0] or 'none'}: all graphs need the same features."
            )
    shifts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    features = [part.features for part in parts if part.features is not None]
    return Graphs(
        tuple(len(part) for part in parts),
        np.concatenate([part.edges + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate(features) if features else None,
    )


def resembles(X: Any) -> bool:
    """Tell whether X is a graph, or a list of them, and can be nothing else."""
    if is_many(X):
        return _is_batch(X) or (bool(X) and resembles(X[0]))
    if isinstance(X, tuple) and len(X) in (2, 3):
        edges, features, *_ = X
        if issparse(edges):
            return True
        arrays = [part for part in (edges, features) if isinstance(part, np.ndarray | Tensor)]
        if len(arrays) < 2 or any(part.ndim != 2 for part in arrays):
            return len(arrays) == 1 and features is None and edges.ndim == 2
        # Two series would have as many channels.
        return len(edges) == 2 and edges.shape[1] != features.shape[1]
    return not is_frame(X) and (_is_data(X) or _is_networkx(X))  # columns have any names


def describe_graphs(X: Any) -> str:
    """Say in a few words what graphs are: ``"34 nodes, 78 edges, 3 features"``."""
    graphs = read_graphs(X)
    some = f"{len(graphs.sizes)} graphs, " if len(graphs.sizes) > 1 else ""
    width = "no" if graphs.features is None else graphs.features.shape[1]
    return f"{some}{len(graphs)} nodes, {len(graphs.edges)} edges, {width} features"


# -- graphs in files ----------------------------------------------------------------------------


def is_graph(names: Iterable[str]) -> bool:
    """Tell by their names whether arrays are of a graph, or of what `save_npz` wrote."""
    return "edge_index" in names or {"format", "shape", "data"} <= {*names}


def graph_of(arrays: dict[str, Array], labels: str | None, where: str) -> tuple[Any, Array | None]:
    """Return the graph that arrays hold, and the labels of its nodes or None.

    Raises:
        DataError: an array has a name that means nothing, or the format is not known.
    """
    if "edge_index" not in arrays:
        return _saved(arrays, where), None
    named = [labels] if labels else ["labels", "y"]
    known = ["edge_index", "features", "x", "edge_weight", *named]
    for name in arrays:
        if name not in known:
            raise DataError(
                f"{where} is a graph with an array '{name}'; expected edge_index, and perhaps "
                "features or x, edge_weight, labels or y."
            )
    features = arrays.get("features", arrays.get("x"))
    weight = [arrays["edge_weight"]] if "edge_weight" in arrays else []
    y = next((arrays[name] for name in named if name in arrays), None)
    return (arrays["edge_index"], features, *weight), y


def _saved(arrays: dict[str, Array], where: str) -> Any:
    """Return the matrix that `scipy.sparse.save_npz` wrote."""
    kind, shape = arrays["format"].item(), tuple(arrays["shape"].tolist())
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    try:
        if kind in ("csr", "csc"):
            form = csr_array if kind == "csr" else csc_array
            return form((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        if kind == "coo":
            return coo_array((arrays["data"], (arrays["row"], arrays["col"])), shape=shape)
    except (KeyError, ValueError) as error:
        raise DataError(f"{where} is no sparse matrix of SciPy: {error}.") from error
    raise DataError(f"{where} is a sparse matrix of the format '{kind}'. Save it as csr or coo.")


# -- the forms of a graph -----------------------------------------------------------------------


def _read(X: Any, where: str) -> Graphs:
    """Read one graph in any of its forms."""
    if isinstance(X, tuple) and len(X) in (2, 3):
        first, features, *weight = X
        matrix = _matrix(first)
        if matrix is None:
            return _from_edges(first, features, weight[0] if weight else None, where)
        if not weight:
            return _from_adjacency(matrix, features, where)
    if (matrix := _matrix(X)) is not None:
        return _from_adjacency(matrix, None, where)
    if _is_data(X):
        return _from_data(X, where)
    if _is_networkx(X):
        return _from_networkx(X, where)
    shape = f" of shape {X.shape}" if isinstance(X, np.ndarray | Tensor) else ""
    raise DataTypeError(
        f"{where} is a {type(X).__name__}{shape}, which is no graph. Expected {FORMS}. A dense "
        "adjacency is given as scipy.sparse.csr_array(adjacency)."
    )


def _is_data(X: Any) -> bool:
    """Tell whether X is torch-geometric's Data, or alike."""
    return hasattr(X, "edge_index")


def _is_batch(X: Any) -> bool:
    """Tell whether X is torch-geometric's Batch of several graphs."""
    return callable(getattr(X, "to_data_list", None))


def _is_networkx(X: Any) -> bool:
    return hasattr(X, "adj") and callable(getattr(X, "is_directed", None))


def _matrix(X: Any) -> Any:
    """Return a sparse matrix of SciPy's, or of torch's as SciPy's; None of all else."""
    if issparse(X):
        return X
    if not isinstance(X, Tensor) or X.layout == torch.strided:
        return None
    coo = X.detach().cpu().to_sparse_coo().coalesce()
    return coo_array((coo.values().numpy(), coo.indices().numpy()), shape=tuple(X.shape))


def _from_adjacency(matrix: Any, features: Any, where: str) -> Graphs:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(
            f"{where} has an adjacency of shape {matrix.shape}; expected a square one, (nodes, "
            "nodes)."
        )
    coo = coo_array(matrix)
    coo.sum_duplicates()
    pairs, weight = np.stack(coo.coords, 1).astype(np.int64), coo.data
    kept = weight != 0
    return _graph(pairs[kept], weight[kept], features, matrix.shape[0], where, listed=2)


def _from_edges(edges: Any, features: Any, weight: Any, where: str) -> Graphs:
    pairs = _pairs(edges, where)
    nodes = _named(pairs, where) if features is None else len(_rows(features, where))
    return _graph(pairs, weight, features, nodes, where, listed=1)


def _from_data(data: Any, where: str) -> Graphs:
    if data.edge_index is None:
        raise DataError(
            f"{where} is a {type(data).__name__} without edge_index. Give it one, torch.zeros(2, "
            "0) where there are no edges."
        )
    weight = getattr(data, "edge_weight", None)
    if weight is None and getattr(data, "edge_attr", None) is not None:
        warnings.warn(
            f"{where} has edge_attr, which is not used: a link has nothing but a weight here. Set "
            "edge_weight if that is what it holds.",
            stacklevel=5,
        )
    features = getattr(data, "x", None)
    nodes = getattr(data, "num_nodes", None) if features is None else len(features)
    pairs = _pairs(data.edge_index, where)
    nodes = _named(pairs, where) if nodes is None else int(nodes)
    return _graph(pairs, weight, features, nodes, where, listed=1)


def _from_networkx(graph: Any, where: str) -> Graphs:
    """Read nodes in their order, their attribute "x" where all have it, and edges' "weight"."""
    place = {node: i for i, node in enumerate(graph)}
    listed = [(place[a], place[b], w) for a, b, w in graph.edges(data="weight", default=1.0)]
    pairs = np.array([edge[:2] for edge in listed], np.int64).reshape(-1, 2)
    weight = [edge[2] for edge in listed]
    given = [x for _, x in graph.nodes(data="x")]
    if any(x is not None for x in given) and any(x is None for x in given):
        raise DataError(
            f"{where} has nodes without the attribute 'x' (their features), first the node "
            f"{list(graph)[[x is None for x in given].index(True)]!r}. Give it to all or to none."
        )
    features = None if not given or given[0] is None else [np.ravel(x) for x in given]
    widths = [len(x) for x in features or ()]
    for node, width in zip(graph, widths, strict=False):
        if width != widths[0]:
            raise DataError(
                f"{where} has nodes with different numbers of features: the attribute 'x' of node "
                f"{node!r} has {width} where that of the first has {widths[0]}."
            )
    one = bool(graph.is_directed())
    return _graph(pairs, weight, features, len(place), where, listed=2 if one else 1)


# -- checks -------------------------------------------------------------------------------------


def _graph(
    pairs: Array, weight: Any, features: Any, nodes: int, where: str, listed: int
) -> Graphs:
    """Check one graph; `listed` says how often an undirected edge is to be found (1: or twice)."""
    x = None if features is None else _features(features, nodes, where)
    if nodes < 1:
        raise DataError(f"{where} has no nodes; expected one at least.")
    wrong = ((pairs < 0) | (pairs >= nodes)).any(1)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"{where} has edges to nodes that do not exist, first edge {first}: "
            f"{pairs[first, 0]} – {pairs[first, 1]}. It has {nodes} nodes, 0 to {nodes - 1}."
        )
    value = np.ones(len(pairs)) if weight is None else _numbers(weight, where).ravel()
    if value.shape != (len(pairs),):
        raise DataError(f"{where} has {len(value)} edge weights for {len(pairs)} edges.")
    if not (value <= np.finfo(np.float32).max).all() or (value < 0).any():
        raise DataError(
            f"{where} has edge weights that are negative, not finite or too large for float32: a "
            "weight says how strong a link is, and must be > 0."
        )
    kept = value > 0
    return Graphs((nodes,), *_once(pairs[kept], value[kept], nodes, where, listed), x)


def _numbers(weight: Any, where: str) -> Array:
    """Return edge weights as float64."""
    given = _array(weight, "edge weights", where)
    if given.dtype.kind in "buifO":
        with suppress(TypeError, ValueError):
            return given.astype(np.float64)
    raise DataError(f"{where} has edge weights of type {given.dtype}; expected numbers.")


def _pairs(edges: Any, where: str) -> Array:
    """Return edges as pairs, one a row."""
    pairs = _array(edges, "an edge_index", where)
    if pairs.size == 0:
        return np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or 2 not in pairs.shape:
        raise DataError(
            f"{where} has an edge_index of shape {pairs.shape}; expected (2, edges): a row of "
            "sources and a row of targets."
        )
    if pairs.dtype.kind not in "iuf" or not np.array_equal(pairs, np.floor(pairs)):
        raise DataError(f"{where} has an edge_index of {pairs.dtype}; expected whole numbers.")
    return (pairs.T if len(pairs) == 2 else pairs).astype(np.int64)


def _named(pairs: Array, where: str) -> int:
    """Return the number of nodes that edges name: one more than the highest."""
    nodes = int(pairs.max(initial=-1)) + 1
    linked = len(np.unique(pairs))
    if nodes > MANY * (linked + 1000):
        raise DataError(
            f"{where} has edges that name nodes up to {nodes - 1}, of which only {linked} have "
            "any. Number them from 0 on, as np.unique(edge_index, return_inverse=True) does."
        )
    return nodes


def _once(pairs: Array, weight: Array, nodes: int, where: str, listed: int) -> tuple[Array, Array]:
    """Return each undirected edge once, in the order of its first place, with its mean weight."""
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        warnings.warn(
            f"{where} has {loops.sum()} loops from a node to itself, which are left out: every "
            "node sees itself anyway.",
            stacklevel=6,
        )
        pairs, weight = pairs[~loops], weight[~loops]
    low, high = pairs.min(1, initial=nodes), pairs.max(1, initial=-1)
    ids, first, member = np.unique(low * nodes + high, return_index=True, return_inverse=True)
    forward = np.bincount(member, pairs[:, 0] == low, len(ids)) > 0
    backward = np.bincount(member, pairs[:, 0] == high, len(ids)) > 0
    both = forward & backward
    if (listed == 2 or both.any()) and not both.all():
        warnings.warn(
            f"{where} has {(~both).sum()} directed edges, which count in both directions: an "
            "edge of these models is undirected.",
            stacklevel=6,
        )
    mean = np.bincount(member, weight, len(ids)) / np.bincount(member, minlength=len(ids))
    order = np.argsort(first)
    edges = np.stack([low[first[order]], high[first[order]]], 1)
    return edges, mean[order].astype(np.float32)


def _features(features: Any, nodes: int, where: str) -> Array:
    x = _rows(features, where)
    if x.dtype == object:
        with suppress(TypeError, ValueError):
            x = x.astype(np.float64)
    if x.ndim != 2 or x.dtype.kind not in "buif":
        raise DataError(
            f"{where} has features of shape {x.shape} and type {x.dtype}; expected numbers, "
            "(nodes, columns)."
        )
    if len(x) != nodes:
        raise DataError(f"{where} has features of {len(x)} nodes, but it has {nodes} nodes.")
    if not x.shape[1]:
        raise DataError(f"{where} has features of 0 columns. Give None where there are none.")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    broken = ~np.isfinite(x).all(1)
    if broken.any():
        raise DataError(
            f"{where} has features that are NaN, infinity or too large for float32 at "
            f"{broken.sum()} of its {nodes} nodes, first at node {broken.argmax()}. Repair them."
        )
    return x


def _rows(features: Any, where: str) -> Array:
    return features.toarray() if issparse(features) else _array(features, "features", where)


def _array(values: Any, what: str, where: str) -> Array:
    if isinstance(values, Tensor):
        return to_array(values, where)
    if isinstance(values, Iterable) and not _sized(values):
        values = list(values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"{where} has {what} in rows of unequal lengths, which make no array. Several graphs "
            "are given as a list, not as a tuple."
        ) from error


def _sized(values: Any) -> bool:
    return isinstance(values, np.ndarray | list | tuple) or callable(
        getattr(values, "__array__", None)
    )
