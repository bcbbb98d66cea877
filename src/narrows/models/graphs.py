"""Graph autoencoders: nodes are encoded along their links, and codes tell which are linked."""

from dataclasses import replace
from functools import partial
from math import log
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from narrows.assembly import assemble, likelihood_of
from narrows.base import BaseAutoencoder
from narrows.data.graphs import is_many
from narrows.data.linked import Links
from narrows.data.modalities import Graph, Modality
from narrows.data.sources import Batch
from narrows.errors import ContextError, DataError, ParameterError
from narrows.fields import Count, Fraction, NonNegative, OneOf, Positive
from narrows.fitted import Array
from narrows.models.adversarial import _Matching
from narrows.models.plain import _Deterministic
from narrows.models.variational import VAE
from narrows.net import Net, Step, Terms
from narrows.parts.generation import Plan
from narrows.parts.graphs import ALL_PAIRS, LINK_DECODERS, LinkDecoder, area, gcn, linear
from narrows.parts.likelihoods import LIKELIHOODS, Bernoulli
from narrows.parts.matched import Matched
from narrows.parts.networks import ACTIVATIONS
from narrows.schedules import SCHEDULES

__all__ = [
    "AdversarialGraphAutoencoder",
    "GraphAutoencoder",
    "VariationalGraphAutoencoder",
]

NOT_OF_GRAPHS = (
    *("batch_norm", "blocks", "tied", "linear_path", "downsampling"),
    *("window", "stride", "symbols"),
)
"""Fields of other architectures and modalities."""


class _GraphNet(Net):
    """A net that tells links between nodes, and their features where it is asked to.

    Args:
        net: its encoder, latent, decoder of links, and likelihood of the features.
        density: share of the pairs that are linked.
        feature_weight: weight of the features' nll.
    """

    paid = ("kl", "features")

    def __init__(self, net: Net, density: float, feature_weight: float) -> None:
        super().__init__(*net.parts)
        self.log_odds = log(density) - log(1 - density)
        self.feature_weight = feature_weight

    def complete(
        self, batch: Batch, h: Tensor, context: tuple[Any, ...], noise: Tensor | None = None
    ) -> Step:
        """Tell links, and features if there is a decoder of them."""
        z, charges = self.latent(h, noise)
        out = self.decoded(z, batch, *context)
        nll = self.links.nll(out, cast(Links, batch.graph))
        if self.links.features is not None:
            features = self.links.features(self.latent.seen(z), batch)
            features = self.likelihood.nll(features, batch.target, batch.mask)
            charges = charges | {"features": self.feature_weight * features}
        return Step(batch, h, self.latent.posterior(h), z, out, nll, charges, self.progress)

    def draws(self, noise: Tensor, batch: Batch) -> list[Tensor]:
        """Return noise of its own for each node: a common one would link them."""
        parts = []
        for size in cast(Links, batch.graph).sizes:  # anew for each graph, whatever the others are
            generator = torch.Generator().manual_seed(0)
            own = self.latent.noise(len(noise) * size, generator)
            parts.append(own.view(len(noise), size, -1))
        return list(torch.cat(parts, 1).to(noise.device))

    @torch.no_grad()
    def statistics(self, step: Step) -> Terms:
        """Return the AUC and the squared error over edges and as many absent pairs."""
        graph = cast(Links, step.batch.graph)
        edges, absent = (self.links.at(step.out, pairs) for pairs in (graph.edges, graph.absent))
        wrong = torch.cat([torch.sigmoid(-edges), torch.sigmoid(absent)])
        mse = wrong.square().sum() / max(1, len(wrong))
        return {"mse": mse, "auc": area(edges, absent)} | self.latent.statistics(step.h)

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Change running state; the likelihood's follows the features."""
        nll = step.charges.get("features", step.nll) / (self.feature_weight or 1.0)
        super().update(replace(step, nll=nll))

    def probability(self, scores: Tensor) -> Tensor:
        """Return probabilities of links at the share of links that the training graphs have.

        Training weighs edges and the rest of the pairs alike, which adds -log odds to a score.
        """
        return torch.sigmoid(scores + self.log_odds)

    @property
    def links(self) -> LinkDecoder:
        """The decoder."""
        return cast(LinkDecoder, self.decoder)


class _GraphModel(BaseAutoencoder):
    """Base of the models whose samples are the nodes of graphs.

    Args:
        latent_dim: size of a node's code.
        modality: "graph".
        scaling: as for other models, but "auto" leaves features that lie in [0, 1] as they are.
        architecture: "gcn" are graph convolutions, "linear" is one of them without an activation;
            "auto" takes the first.
        hidden: sizes of the hidden graph convolutions; None takes one of 32.
        decoder: log odds of a link: the "inner_product" of the codes, or an "mlp" of what two
            codes have in common and where they differ.
        all_pairs: nodes of a graph up to which all of its pairs are told; in a larger one, 32
            other nodes stand for all that a node is not linked to. "auto" is 5 000, and 500 with
            decoder="mlp", which reads a pair some 50 times more slowly.
        feature_weight: weight of the nodes' features, told from the code beside the links; with
            0 they are only seen. `likelihood`, `scale` and `output_activation` are theirs.
        batch_size: nodes a step, in whole graphs: one graph at least.
        validation: share of the edges held out to watch training; the nodes all stay.
        validation_split: hold out "random" edges or the "last" ones, for edges in time order.
    """

    latent_dim: Count = 16
    modality: Literal["auto", "graph"] = "auto"
    scaling: Literal["auto", "standard", "robust", "minmax", "none"] = "auto"
    architecture: Literal["auto", "gcn", "linear"] = "auto"
    activation: Annotated[str, OneOf(ACTIVATIONS)] = "relu"
    decoder: Annotated[str, OneOf(LINK_DECODERS)] = "inner_product"
    all_pairs: Literal["auto"] | Count = "auto"
    feature_weight: NonNegative = 0.0
    epochs: Literal["auto"] | Count = 200
    learning_rate: Positive = 0.01
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    warmup: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    gradient_clip: Positive | None = None

    def describe(self, X: Any, y: Any) -> Modality:
        """Note the form of the graph."""
        del y
        return Graph.describe(X)

    def build(self, modality: Modality) -> Net:
        """Return a net of graph convolutions and a decoder of links."""
        graph = cast(Graph, modality)
        self.refuse_set(NOT_OF_GRAPHS, "has no effect on graph networks")
        self.refuse_set(["accumulation"], "would cut graphs into parts, and their links")
        told, likelihood = bool(self.feature_weight), likelihood_of(self, graph)
        if not told:
            names = ["likelihood", "scale", "output_activation"]
            self.refuse_set(names, "is of the nodes' features, which feature_weight=0 leaves out")
        elif graph.nodes or LIKELIHOODS[likelihood].support not in ("real", "unit"):
            found = "has none" if graph.nodes else f"likelihood='{likelihood}' has whole ones"
            raise ParameterError(
                f"feature_weight={self.feature_weight} tells the nodes' features, which must be "
                f"real numbers, and {'the graph ' if graph.nodes else ''}{found}. Leave it at 0."
            )
        parts = {
            "gcn": partial(gcn, nodes=graph.nodes),
            "linear": partial(linear, nodes=graph.nodes),
        }
        net = assemble(self, graph, parts)
        features = net.decoder if told else None
        decoder = LINK_DECODERS[self.decoder](self.latent_dim, features)
        if self.all_pairs != "auto":
            decoder.all_pairs = self.all_pairs
        explained = net.likelihood if told else Bernoulli()
        net = Net(net.encoder, net.latent, decoder, explained)
        return _GraphNet(net, graph.density, self.feature_weight)

    def score_edges(self, X: Any, pairs: ArrayLike) -> Array:
        """Return the probability of a link between each pair of nodes of a graph, ``(pairs,)``.

        Args:
            X: one graph, as for `transform`.
            pairs: ``(pairs, 2)`` numbers of nodes.
        """
        codes = self._codes(X)
        found = np.asarray(pairs)
        if is_many(X):
            raise DataError("score_edges scores pairs of one graph; X is a list. Give its graphs.")
        if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu":
            raise DataError(
                f"pairs has the shape {found.shape} and type {found.dtype}; expected (pairs, 2) "
                "numbers of nodes."
            )
        if found.size and not 0 <= found.min() <= found.max() < len(codes):
            raise DataError(
                f"pairs names nodes from {found.min()} to {found.max()}, but X has the nodes 0 to "
                f"{len(codes) - 1}."
            )
        return self._probabilities(codes, found)

    def reconstruct(self, X: Any, y: Any = None) -> Any:
        """Return the probabilities of the links of X, ``(nodes, nodes)``: a list for a list.

        Training weighs links and the other pairs alike; here they have the share of links that
        the training graphs had. Above 5 000 nodes it is a SciPy sparse array of the edges of X;
        `score_edges` gives other pairs.
        """
        codes = self._codes(X, y)
        graphs = self._modality.read(X, type(self).__name__)
        made = []
        for start, part in zip(graphs.starts, codes.split(list(graphs.sizes)), strict=False):
            inside = (graphs.edges[:, 0] >= start) & (graphs.edges[:, 0] < start + len(part))
            if len(part) <= ALL_PAIRS:
                made.append(self._decode(part).numpy())
                continue
            pairs = graphs.edges[inside] - start
            both = np.concatenate([pairs, pairs[:, ::-1]]).T
            found = np.tile(self._probabilities(part, pairs), 2)
            made.append(csr_array((found, both), shape=(len(part), len(part))))
        return made if is_many(X) else made[0]

    def reconstruct_features(self, X: Any) -> Array:
        """Return what the codes tell of the nodes' features, ``(nodes, columns)``, in their units.

        Raises:
            ParameterError: `feature_weight` is 0: the features are not told.
        """
        check_is_fitted(self)
        features = self._net.links.features
        if features is None:
            raise ParameterError(
                f"{type(self).__name__} was fitted with feature_weight=0 and does not tell "
                "features. Fit with a feature_weight above 0."
            )

        def mean(batch: Batch) -> Tensor:
            z = self.net_.latent.seen(self.net_.code(batch))
            return self.net_.likelihood.mean(features(z, batch))

        return self._modality.features(self._map(X, mean))

    def interpolate(self, a: Any, b: Any, steps: int = 10) -> Any:
        """Raise a `ContextError`: a node is nothing without its graph."""
        raise ContextError(
            f"{type(self).__name__} has no interpolate: a node is nothing without its graph. Mix "
            "rows of what `transform` returns, and give them to `inverse_transform`; "
            "`reconstruct` takes whole graphs."
        )

    @torch.inference_mode()
    def _decode(
        self, codes: Tensor, condition: Tensor | None = None, plan: Plan | None = None
    ) -> Tensor:
        """Return the links of one graph whose nodes have these codes, ``(nodes, nodes)``.

        They are probabilities or, where noise is planned, draws of zeros and ones.
        """
        del condition
        if len(codes) > ALL_PAIRS:
            raise ParameterError(
                f"A matrix of all pairs is for up to {ALL_PAIRS} nodes; there are {len(codes)}."
            )
        net = self._net.eval()
        z = net.decoded(codes.to(self._device()))
        rows = max(1, 2**20 // len(z))
        found = torch.cat([net.probability(net.links.table(part, z)) for part in z.split(rows)])
        found = found.cpu().triu(1)
        found = torch.bernoulli(found) if plan and plan.noise else found
        return found + found.t()

    @torch.inference_mode()
    def _probabilities(self, codes: Tensor, pairs: NDArray[Any]) -> Array:
        net = self._net.eval()
        z = net.decoded(codes.to(self._device()))
        parts = torch.from_numpy(pairs.astype(np.int64)).to(z.device).split(2**18)
        scores = [net.links.at(z, part.t()) for part in parts]
        return net.probability(torch.cat(scores)).cpu().numpy()

    @property
    def _modality(self) -> Graph:
        return cast(Graph, self.modality_)

    @property
    def _net(self) -> _GraphNet:
        return cast(_GraphNet, self.net_)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that a matrix is no graph."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.sparse = True
        return tags


class GraphAutoencoder(_GraphModel, _Deterministic):
    """Encodes each node from itself and its neighbours; two codes tell whether they are linked.

    -log p(A | Z) with Z = f(A, X) and p(A_ij = 1) = sigmoid(z_i · z_j)

    f are graph convolutions, h <- relu(D^-½ (A + I) D^-½ h W). Edges and the other pairs of nodes
    weigh alike, as Kipf & Welling's pos_weight and norm have it, and a node counts as linked to
    itself. Its "nll" is summed over its pairs: all of them in graphs of up to `all_pairs` nodes,
    else a sample. Scores are of this weighted likelihood, no density. Codes are the rows of
    `transform`, also of new graphs; a graph without features must keep its nodes.

    X is `(edge_index, features)`, a SciPy adjacency, a networkx graph, torch-geometric's `Data`,
    or a list of graphs. Edges are undirected; their weights steer the convolutions alone.
    `held_out_` are the held-out edges, ``(edges, 2)``. `sample(n)` returns a graph of n nodes.

    Use it to predict links and to encode nodes; not for rows without links, or where a link's
    direction or kind matters.

    References:
        Variational Graph Auto-Encoders (Kipf & Welling, 2016), https://arxiv.org/abs/1611.07308
        Keep It Simple: Graph Autoencoders Without Graph Convolutional Networks (Salha et al.,
        2019), https://arxiv.org/abs/1910.00942

    >>> import numpy as np
    >>> from narrows import GraphAutoencoder
    >>> ring = np.array([range(20), [*range(1, 20), 0]])  # each node is linked to the next
    >>> model = GraphAutoencoder(latent_dim=4, epochs=50).fit((ring, None))
    >>> model.transform((ring, None)).shape
    (20, 4)
    """


class VariationalGraphAutoencoder(_GraphModel, VAE):
    """A graph autoencoder whose nodes have Gaussian codes, held to a standard normal prior.

    E[-log p(A | Z)] + beta * s(t) * sum_i KL(q(z_i | A, X) || N(0, I)), over the nodes

    With beta = 1 it is Kipf & Welling's objective times the number of nodes. The links, their
    weighting and the forms of X are those of `GraphAutoencoder`, the course s(t), `capacity` and
    `free_bits` those of `VAE`.

    Use it to predict links with codes that can be drawn anew, as in `sample(n)`, a graph of n
    nodes; not where a bound on the likelihood of a graph is wanted: links are weighted.

    References:
        Variational Graph Auto-Encoders (Kipf & Welling, 2016), https://arxiv.org/abs/1611.07308

    >>> import numpy as np
    >>> from narrows import VariationalGraphAutoencoder
    >>> ring = np.array([range(20), [*range(1, 20), 0]])
    >>> model = VariationalGraphAutoencoder(latent_dim=4, epochs=50).fit((ring, None))
    >>> model.sample(7).shape
    (7, 7)
    """

    meaningless: ClassVar[dict[str, str]] = {
        "distortion": "bounds the error of samples, and links have none"
    }


class AdversarialGraphAutoencoder(_GraphModel, _Matching):
    """A graph autoencoder with a critic that holds the distribution of codes to N(0, I).

    -log p(A | Z) - adversarial * sum_i log D(z_i) with Z = f(A, X), over the nodes

    The critic D tells draws of the prior from nodes' codes: it minimises -log D(p) - log(1 -
    D(z)). The links, their weighting and the forms of X are those of `GraphAutoencoder`.

    Use it for codes of nodes that are spread like a prior, without noise in them; not where
    training without a second player does (see VariationalGraphAutoencoder).

    References:
        Adversarially Regularized Graph Autoencoder for Graph Embedding (Pan et al., 2018),
        https://arxiv.org/abs/1802.04407

    >>> import numpy as np
    >>> from narrows import AdversarialGraphAutoencoder
    >>> ring = np.array([range(20), [*range(1, 20), 0]])
    >>> model = AdversarialGraphAutoencoder(latent_dim=4, epochs=50).fit((ring, None))
    >>> model.transform((ring, None)).shape
    (20, 4)
    """

    adversarial: NonNegative = 10.0

    def latent(self) -> Matched:
        """Return a point code with the prior."""
        return Matched(self.latent_dim)

    def build(self, modality: Modality) -> Net:
        """Add a critic of codes."""
        return self._with_critic(super().build(modality), modality)
