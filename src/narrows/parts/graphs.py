"""Graph networks: convolutions along links, and decoders that tell which pairs are linked."""

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from narrows.parts.networks import ACTIVATIONS, Dropout, Sizes, initialise, mlp

if TYPE_CHECKING:
    from narrows.data.linked import Links
    from narrows.data.sources import Batch

__all__ = [
    "ALL_PAIRS",
    "LINK_DECODERS",
    "GraphEncoder",
    "InnerProduct",
    "LinkDecoder",
    "PairMLP",
    "area",
    "gcn",
    "linear",
    "pair_sums",
    "propagate",
]

ALL_PAIRS = 5000
"""Nodes of a graph up to which every pair of them is told."""
DRAWN = 32
"""Partners of a node that stand for all the others in a larger graph."""
BLOCK = 512
"""Rows of the matrix of all pairs that are worked on at once."""
PAIRS = 2**18
"""Pairs that dense layers read at once; of more, the backward pass reads them again."""

with warnings.catch_warnings():  # torch says once that sparse rows are new
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


class _Propagation(torch.autograd.Function):
    """A x for a symmetric sparse A, so that the gradient is A times the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, other: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(first, other, value)
        return _product(first, other, value, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        first, other, value = ctx.saved_tensors
        return _product(first, other, value, gradient), None, None, None


def _product(first: Tensor, other: Tensor, value: Tensor, x: Tensor) -> Tensor:
    size = (len(x), len(x))
    with torch.autocast(x.device.type, enabled=False):
        rows = torch.sparse_csr_tensor(
            first, other, value.to(x.dtype), size, check_invariants=False
        )
        return rows @ x.contiguous()


def propagate(graph: "Links", x: Tensor) -> Tensor:
    """Return D^-½ (A + I) D^-½ x: a mean over each node and its neighbours, ``(nodes, dim)``."""
    full = x.float() if x.dtype == torch.bfloat16 else x
    out: Tensor = _Propagation.apply(full, graph.first, graph.other, graph.value)
    return out


class GraphEncoder(nn.Module):
    """Graph convolutions h <- activation(D^-½ (A + I) D^-½ h W) (Kipf & Welling, 2017).

    Args:
        widths: size of a node's features, of the hidden layers, and of h.
        activation: of all layers but the last.
        dropout: probability of dropping a hidden value in training.
        nodes: number of nodes without features, each known by a row of the first W; 0 where they
            have features.
    """

    def __init__(
        self, widths: Sequence[int], activation: str = "relu", dropout: float = 0.0, nodes: int = 0
    ) -> None:
        super().__init__()
        widths = (nodes or widths[0], *widths[1:])
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList(initialise(layer) for layer in layers)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.nodes = nodes

    def forward(self, batch: "Batch") -> Tensor:
        """Return h of each node, ``(nodes, dim)``."""
        graph: Links = batch.graph  # type: ignore[assignment]
        h = batch.x
        for i, layer in enumerate(self.layers):
            h = self.dropout(self.activation(h)) if i else h
            known, weight = bool(self.nodes) and not i, layer.get_parameter("weight")
            h = propagate(graph, weight.t() if known else layer(h))
        return h


def gcn(
    sizes: Sizes,
    *,
    hidden: Sequence[int] | None = None,
    activation: str = "relu",
    dropout: float = 0.0,
    feature_weight: float = 0.0,
    nodes: int = 0,
) -> tuple[nn.Module, nn.Module]:
    """Build graph convolutions, and dense layers back to the features where they are told."""
    widths = (32,) if hidden is None else tuple(hidden)
    encoder = GraphEncoder((*sizes.x, *widths, *sizes.h), activation, dropout, nodes)
    return encoder, _told(sizes, feature_weight, widths, activation)


def linear(
    sizes: Sizes, *, feature_weight: float = 0.0, nodes: int = 0
) -> tuple[nn.Module, nn.Module]:
    """Build one convolution without an activation, D^-½ (A + I) D^-½ X W (Salha et al., 2019)."""
    return GraphEncoder((*sizes.x, *sizes.h), nodes=nodes), _told(sizes, feature_weight, ())


def _told(
    sizes: Sizes, weight: float, hidden: Sequence[int], activation: str = "relu"
) -> nn.Module:
    if not weight:
        return nn.Identity()
    return mlp(sizes, hidden=hidden, activation=activation)[1]


# -- links ----------------------------------------------------------------------------------


class _PairSums(torch.autograd.Function):
    """Row sums of softplus(z_i · z_j) over j ≠ i, from half of the matrix, block by block."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        sums, slopes = z.new_zeros(len(z)), []
        with torch.autocast(z.device.type, enabled=False):
            for a in range(0, len(z), BLOCK):
                scores = z[a : a + BLOCK] @ z[a:].t()
                height = len(scores)
                soft = F.softplus(scores)
                soft.diagonal().zero_()
                sums[a : a + height] += soft.sum(1)
                sums[a + height :] += soft[:, height:].sum(0)
                if ctx.needs_input_grad[0]:
                    slopes.append(scores.sigmoid_())
                    slopes[-1].diagonal().zero_()
        ctx.save_for_backward(z, *slopes)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> Tensor:
        """Return sum_j (w_i + w_j) sigmoid(z_i · z_j) z_j."""
        z, *slopes = ctx.saved_tensors
        both, dim = torch.cat([z, z * weight[:, None]], 1), z.shape[1]
        found = torch.zeros_like(both)
        for a, slope in zip(range(0, len(z), BLOCK), slopes, strict=True):
            height = len(slope)
            found[a : a + height] += slope @ both[a:]
            found[a + height :] += slope[:, height:].t() @ both[a : a + height]
        return weight[:, None] * found[:, :dim] + found[:, dim:]


def pair_sums(z: Tensor) -> Tensor:
    """Return sum over j ≠ i of softplus(z_i · z_j), ``(nodes,)``."""
    sums: Tensor = _PairSums.apply(z)
    return sums


class LinkDecoder(nn.Module):
    """Base of the decoders of links: from two nodes' codes to the log odds of a link.

    Args:
        dim: size of a node's code.
        features: decoder of the nodes' features, or None where they are not told.
    """

    all_pairs: int = ALL_PAIRS
    """Nodes of a graph up to which all of its pairs are told."""
    places: Tensor

    def __init__(self, dim: int, features: nn.Module | None = None) -> None:
        super().__init__()
        self.dim, self.features = dim, features
        even = (torch.arange(DRAWN) + 0.5) / DRAWN
        self.register_buffer("places", even, persistent=False)

    def forward(self, z: Tensor, batch: "Batch | None" = None, *context: Tensor) -> Tensor:
        """Return what pairs are scored by: the codes themselves."""
        del batch, context
        return z

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the log odds of links between the rows of a and those of b, ``(pairs,)``."""
        raise NotImplementedError

    def table(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the log odds of links from every row of a to every row of b."""
        parts = []
        for rows in a.split(max(1, PAIRS // max(1, len(b)))):
            pairs = [t.expand(len(rows), len(b), -1) for t in (rows[:, None], b[None])]
            parts.append(self.scores(*(t.reshape(-1, self.dim) for t in pairs)))
        return torch.cat(parts).view(len(a), len(b))

    def sums(self, z: Tensor) -> Tensor:
        """Return sum over j ≠ i of softplus(score_ij), ``(nodes,)``, over all pairs."""
        n, height = len(z), max(1, PAIRS // max(1, len(z)))
        if height >= n:
            return self._band(z, n)
        bands = (
            F.pad(checkpoint(self._band, z[a:], min(height, n - a), use_reentrant=False), (a, 0))
            for a in range(0, n, height)
        )
        return torch.stack([*bands]).sum(0)

    def _band(self, z: Tensor, height: int) -> Tensor:
        """Return what pairs of the first `height` nodes add to the sums of all, ``(nodes,)``."""
        soft = F.softplus(self.table(z[:height], z))
        return torch.cat([soft.sum(1) - soft.diagonal(), soft[:, height:].sum(0)])

    def sampled_sums(self, z: Tensor) -> Tensor:
        """Return an unbiased estimate of `sums`; in evaluation, always the same one.

        A node's partners follow it at distances that are shared by all nodes.
        """
        n = len(z)
        drawn = torch.rand(DRAWN, device=z.device) if self.training else self.places
        step = 1 + (drawn * (n - 1)).long()
        node = torch.arange(n, device=z.device)
        partner = (node[:, None] + step) % n
        scores = self.scores(z.repeat_interleave(DRAWN, 0), z[partner.flatten()])
        return F.softplus(scores).view(n, DRAWN).mean(1) * (n - 1)

    def others(self, z: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return each node's sum over all others of its graph, linked or not."""
        return torch.cat(
            [
                self.sums(part) if len(part) <= self.all_pairs else self.sampled_sums(part)
                for part in z.split(list(sizes))
            ]
        )

    def nll(self, z: Tensor, graph: "Links") -> Tensor:
        """Return the weighted cross-entropy of each node's row of A + I, ``(nodes,)``.

        Its mean over a graph's N nodes is N times Kipf & Welling's loss, a mean over all entries.
        Edges that are held out are told beside as many absent pairs, with the same weight in all.
        """
        scores = self.at(z, graph.edges)
        linked = graph.present * F.softplus(-scores)
        if graph.held:
            apart = graph.missing * F.softplus(self.at(z, graph.absent))
            return _ends(linked, graph.edges, len(z)) + _ends(apart, graph.absent, len(z))
        # Edges are no part of the rest.
        linked = linked - graph.rest[graph.edges[0]] * F.softplus(scores)
        rest = graph.rest * self.others(z, graph.sizes)
        own = graph.own * F.softplus(-self.scores(z, z))
        return _ends(linked, graph.edges, len(z)) + rest + own

    def at(self, z: Tensor, pairs: Tensor) -> Tensor:
        """Return the log odds of links between pairs of nodes ``(2, pairs)``."""
        return self.scores(z[pairs[0]], z[pairs[1]])


class InnerProduct(LinkDecoder):
    """Log odds z_i · z_j."""

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)

    def table(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.t()

    def sums(self, z: Tensor) -> Tensor:
        return pair_sums(z)


class PairMLP(LinkDecoder):
    """Dense layers from z_i * z_j and |z_i - z_j|, which do not change with the order."""

    all_pairs = 500
    width = 32

    def __init__(self, dim: int, features: nn.Module | None = None) -> None:
        super().__init__(dim, features)
        self.inner = initialise(nn.Linear(2 * dim, self.width, bias=False), "relu")
        self.shift = nn.Parameter(torch.zeros(self.width))
        self.outer = initialise(nn.Linear(self.width, 1, bias=False))

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        pair = torch.cat([a * b, (a - b).abs()], 1)
        scores: Tensor = self.outer(F.relu(self.inner(pair) + self.shift))
        return scores.squeeze(1).to(a.dtype)


LINK_DECODERS: dict[str, Callable[..., LinkDecoder]] = {
    "inner_product": InnerProduct,
    "mlp": PairMLP,
}


def area(linked: Tensor, apart: Tensor) -> Tensor:
    """Return how often a linked pair scores above one that is not, 0-d: the area under the ROC."""
    if not len(linked) or not len(apart):
        return linked.new_tensor(0.5)
    ordered = apart.sort().values
    below = torch.searchsorted(ordered, linked) + torch.searchsorted(ordered, linked, right=True)
    return below.to(linked.dtype).mean() / (2 * len(apart))


def _ends(values: Tensor, pairs: Tensor, nodes: int) -> Tensor:
    """Return the sum of the values of each node's pairs, ``(nodes,)``."""
    return values.new_zeros(nodes).index_add(0, pairs.flatten(), values.repeat(2))
