"""Graphs against dense references, Kipf & Welling's weighting, and every way to be wrong."""

import itertools
import warnings
from dataclasses import replace

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torch_geometric.data as pyg
from scipy.sparse import csr_array, csr_matrix
from sklearn.metrics import roc_auc_score

import narrows
from narrows.data.graphs import read_graphs, resembles
from narrows.data.linked import GraphSource, Links, links
from narrows.errors import ContextError, DataError, DataTypeError, ParameterError
from narrows.parts import graphs as parts
from narrows.parts.graphs import InnerProduct, PairMLP, area, pair_sums, propagate

FAMILIES = [
    narrows.GraphAutoencoder,
    narrows.VariationalGraphAutoencoder,
    narrows.AdversarialGraphAutoencoder,
]
KARATE = nx.karate_club_graph()  # 34 nodes, 78 weighted edges
ADJACENCY = csr_array(nx.to_scipy_sparse_array(KARATE))
QUICK = {"latent_dim": 4, "epochs": 30, "hidden": (8,), "verbose": 0}


def blocks(n=90, groups=3, inside=0.25, outside=0.02, seed=0):
    """A stochastic block model: adjacency, noisy features, and the groups."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % groups
    chance = np.where(group[:, None] == group, inside, outside)
    upper = np.triu(rng.random((n, n)) < chance, 1)
    features = np.eye(groups)[group] + 0.7 * rng.standard_normal((n, groups))
    return csr_array((upper | upper.T).astype(np.float32)), features.astype(np.float32), group


def named(graph, x):
    nx.set_node_attributes(graph, x, "x")
    return graph


def chain(n, **features):
    return np.array([range(n - 1), range(1, n)]), features.get("x")


def one(X, **options):
    return Links.union(links(read_graphs(X), **options))


# -- convolutions -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_propagation_is_the_dense_one(weighted):
    dense = ADJACENCY.toarray() if weighted else (ADJACENCY.toarray() > 0).astype(float)
    seen = dense + np.eye(34)
    root = np.diag(seen.sum(1) ** -0.5)
    x = torch.randn(34, 5)
    expected = torch.from_numpy(root @ seen @ root).float() @ x
    torch.testing.assert_close(propagate(one(csr_array(dense)), x), expected)


def test_propagation_passes_gradients_back():
    graph = one(ADJACENCY)
    graph = replace(graph, value=graph.value.double())
    x = torch.randn(34, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: propagate(graph, x), x)


def test_an_isolated_node_sees_itself_alone():
    x = torch.randn(3, 2)
    out = propagate(one(csr_array(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]))), x)
    torch.testing.assert_close(out[2], x[2])
    torch.testing.assert_close(out[0], (x[0] + x[1]) / 2)


def test_graphs_side_by_side_do_not_see_each_other():
    A, X, _ = blocks(30)
    model = narrows.GraphAutoencoder(**QUICK).fit([(A, X), (A[:20, :20], X[:20])])
    parts = [model.transform((A, X)), model.transform((A[:9, :9], X[:9]))]
    together = model.transform([(A, X), (A[:9, :9], X[:9])])
    np.testing.assert_allclose(together, np.concatenate(parts), atol=1e-6)
    with_other = model.reconstruct([(A, X), (A[:9, :9], X[:9])])
    np.testing.assert_allclose(with_other[1], model.reconstruct((A[:9, :9], X[:9])), atol=1e-6)


def test_the_linear_encoder_is_one_product():
    A, X, _ = blocks(40)
    model = narrows.GraphAutoencoder(architecture="linear", scaling="none", epochs=3, verbose=0)
    codes = model.fit((A, X)).transform((A, X))
    (layer,) = model.net_.encoder.layers
    seen = A.toarray() + np.eye(40)
    root = np.diag(seen.sum(1) ** -0.5)
    expected = root @ seen @ root @ X @ layer.weight.detach().numpy().T
    np.testing.assert_allclose(codes, expected, atol=1e-5)


# -- the likelihood of links --------------------------------------------------------------------


def kipf(scores, adjacency):
    """The loss as in the authors' code, times the number of nodes."""
    n, edges = len(adjacency), adjacency.sum()
    positive, norm = (n * n - edges) / edges, n * n / (2 * (n * n - edges))
    told = adjacency + torch.eye(n)
    entries = F.binary_cross_entropy_with_logits(
        scores, told, pos_weight=positive, reduction="none"
    )
    return norm * entries.sum(1)


@pytest.mark.parametrize("block", [5, 512])
def test_the_nll_is_that_of_kipf_and_welling(block, monkeypatch):
    monkeypatch.setattr(parts, "BLOCK", block)
    z = torch.randn(34, 3)
    dense = torch.from_numpy((ADJACENCY.toarray() > 0).astype(np.float32))
    expected = kipf(z @ z.T, dense)
    torch.testing.assert_close(InnerProduct(3).nll(z, one(ADJACENCY)), expected)
    n, edges = 34, dense.sum()
    loss = F.binary_cross_entropy_with_logits(
        z @ z.T, dense + torch.eye(n), pos_weight=(n * n - edges) / edges
    )
    torch.testing.assert_close(expected.mean(), n * n * n / (2 * (n * n - edges)) * loss)


def test_the_nll_of_an_mlp_is_that_of_its_scores():
    decoder, z = PairMLP(3), torch.randn(34, 3)
    dense = torch.from_numpy((ADJACENCY.toarray() > 0).astype(np.float32))
    scores = torch.stack([decoder.scores(z[i].expand(34, -1), z) for i in range(34)])
    torch.testing.assert_close(scores, scores.T)
    torch.testing.assert_close(decoder.table(z, z), scores)
    torch.testing.assert_close(decoder.nll(z, one(ADJACENCY)), kipf(scores, dense))


def test_each_graph_of_a_batch_is_weighed_by_itself():
    z, decoder = torch.randn(41, 3), InnerProduct(3)
    graphs = [ADJACENCY, csr_array(nx.to_scipy_sparse_array(nx.path_graph(7)))]
    apart = [decoder.nll(part, one(g)) for part, g in zip(z.split([34, 7]), graphs, strict=True)]
    pair = [(g, np.ones((g.shape[0], 1))) for g in graphs]
    torch.testing.assert_close(decoder.nll(z, one(pair)), torch.cat(apart))


@pytest.mark.parametrize("block", [4, 512])
def test_pair_sums_and_their_gradient(block, monkeypatch):
    monkeypatch.setattr(parts, "BLOCK", block)
    z = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    soft = F.softplus(z @ z.T)
    torch.testing.assert_close(pair_sums(z), soft.sum(1) - soft.diagonal())
    assert torch.autograd.gradcheck(pair_sums, z)


@pytest.mark.parametrize("pairs", [20, 50, 10**6])
def test_dense_layers_read_all_pairs_a_band_at_a_time(pairs, monkeypatch):
    monkeypatch.setattr(parts, "PAIRS", pairs)
    decoder, z = PairMLP(3).double(), torch.randn(17, 3, dtype=torch.float64, requires_grad=True)
    each = decoder.scores(z.repeat_interleave(17, 0), z.repeat(17, 1)).view(17, 17)
    torch.testing.assert_close(decoder.table(z, z), each)
    expected = F.softplus(each).sum(1) - F.softplus(each).diagonal()
    torch.testing.assert_close(decoder.sums(z), expected)
    inputs, weight = (z, *decoder.parameters()), torch.rand(17)
    found = torch.autograd.grad(decoder.sums(z) @ weight.double(), inputs, allow_unused=True)
    wanted = torch.autograd.grad(expected @ weight.double(), inputs, allow_unused=True)
    torch.testing.assert_close(found, wanted)


def test_no_nodes_have_no_pairs():
    decoder, none = PairMLP(3), torch.zeros(0, 3)
    assert decoder.table(none, none).shape == (0, 0)
    assert decoder.sums(none).shape == (0,)


@pytest.mark.parametrize("kind", [InnerProduct, PairMLP])
def test_sampled_pairs_stand_for_all(kind):
    torch.manual_seed(0)
    decoder, z = kind(3).train(), torch.randn(30, 3)
    drawn = torch.stack([decoder.sampled_sums(z) for _ in range(500)])
    every = decoder.sums(z)
    error = drawn.std(0) / 500**0.5
    assert ((drawn.mean(0) - every).abs() < 5 * error).all()
    decoder.eval()
    assert torch.equal(decoder.sampled_sums(z), decoder.sampled_sums(z))


def test_a_large_graph_samples_its_pairs():
    A, X, _ = blocks(80)
    graph = one((A, X))
    decoder, z = InnerProduct(3).eval(), torch.randn(80, 3)
    every = decoder.nll(z, graph)
    decoder.all_pairs = 50
    sampled = decoder.nll(z, graph)
    assert not torch.equal(every, sampled)
    torch.testing.assert_close(sampled.mean(), every.mean(), rtol=0.1, atol=0)
    model = narrows.GraphAutoencoder(**QUICK, all_pairs=50).fit((A, X))
    assert model.history_[-1]["nll"] < model.history_[0]["nll"]


def test_held_out_edges_and_as_many_absent_pairs_have_the_same_weight():
    known = read_graphs(ADJACENCY)
    seen, told = known.with_edges(slice(8, None)), known.edges[:8]
    (graph,) = links(seen, told, 0, known.edges)
    z, n = torch.randn(34, 3), 34
    scores = (z @ z.T)[tuple(graph.edges)], (z @ z.T)[tuple(graph.absent)]
    expected = n / 2 * (F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean())
    torch.testing.assert_close(InnerProduct(3).nll(z, graph).mean(), expected)


def test_the_bound_has_noise_of_its_own_for_each_node():
    A, X, _ = blocks(40)
    model = narrows.VariationalGraphAutoencoder(**QUICK, score_draws=400).fit((A, X))
    source = model.modality_.source(model.modality_.read((A, X), "test"))
    batch = source.take(torch.arange(40))
    net = model.net_.eval()
    with torch.no_grad():
        h = net.encode(batch)[0]
        q = net.latent.posterior(h)
        torch.manual_seed(1)
        drawn = [net.latent.seen(q.rsample()) for _ in range(400)]
        nll = torch.stack([net.decoder.nll(z, batch.graph) for z in drawn])
    expected = -nll.mean(0) - q.kl().sum(1)
    error = nll.std(0) / 400**0.5
    difference = torch.from_numpy(model.score_samples((A, X))) - expected
    assert (difference.abs() < 6 * error).all()


def test_beta_of_one_is_kipfs_objective():
    model = narrows.VariationalGraphAutoencoder(**QUICK).fit(ADJACENCY)
    batch = model.modality_.source(read_graphs(ADJACENCY)).take(torch.arange(34))
    step = model.net_.train()(batch)
    terms = model.objective(step)
    mean, logvar = step.q.mean, step.q.logvar
    kl = -0.5 / 34 * (1 + logvar - mean**2 - logvar.exp()).sum(1).mean()  # as in their code
    torch.testing.assert_close(terms["kl"].mean() / 34, kl)
    torch.testing.assert_close(terms["nll"], step.nll)


def test_area_under_the_curve():
    linked, apart = torch.randn(40).round(decimals=1) + 0.5, torch.randn(30).round(decimals=1)
    truth = np.repeat([1, 0], [40, 30])
    expected = roc_auc_score(truth, torch.cat([linked, apart]).numpy())
    assert float(area(linked, apart)) == pytest.approx(expected)


# -- what is held out ---------------------------------------------------------------------------


def test_edges_are_held_out_and_never_nodes():
    A, X, _ = blocks()
    model = narrows.GraphAutoencoder(**QUICK, validation=0.2).fit((A, X))
    known = {tuple(pair) for pair in read_graphs((A, X)).edges.tolist()}
    held = {tuple(pair) for pair in model.held_out_.tolist()}
    assert held <= known
    assert len(held) == int(0.2 * len(known))
    assert len(model.codes_) == 90


def test_training_knows_nothing_of_held_out_edges():
    """Neither as links to see along, nor as links to tell, nor by the number of links."""
    known = read_graphs(ADJACENCY)
    modality = narrows.data.modalities.Graph.describe(ADJACENCY)
    rows = modality.split(known, 0.25, "random", 0)
    source, held = modality.sources(known, rows, 0, None)
    alone = one(csr_array(known.with_edges(rows[0]).adjacency()))
    (train,), (test,) = source.graphs, held.graphs
    for name in ("first", "other", "value", "present", "rest", "own"):
        assert torch.equal(getattr(train, name), getattr(alone, name)), name
    assert {*map(tuple, train.edges.T.tolist())} == {*map(tuple, alone.edges.T.tolist())}
    for name in ("first", "other", "value"):
        assert torch.equal(getattr(test, name), getattr(alone, name)), name
    assert {*map(tuple, test.edges.T.tolist())} == {*map(tuple, known.edges[rows[1]].tolist())}
    assert modality.learn(known.with_edges(rows[0]), "none").density < len(known.edges) / (17 * 33)


@pytest.mark.parametrize("X", [ADJACENCY, chain(2000)], ids=["dense", "sparse"])
def test_absent_pairs_are_fixed_and_no_edges(X):
    known = read_graphs(X)
    rows = narrows.data.modalities.Graph.describe(X).split(known, 0.3, "random", 0)
    seen, told = known.with_edges(rows[0]), known.edges[rows[1]]
    (one,), (two,), (other,) = (links(seen, told, seed, known.edges) for seed in (0, 0, 1))
    assert torch.equal(one.absent, two.absent)
    assert not torch.equal(one.absent, other.absent)
    pairs = [tuple(pair) for pair in one.absent.T.tolist()]
    assert len(set(pairs)) == len(pairs) == len(told)
    assert all(a < b for a, b in pairs)
    assert not set(pairs) & {tuple(pair) for pair in known.edges.tolist()}


def test_a_complete_graph_has_no_absent_pairs():
    X = csr_array(np.ones((6, 6)) - np.eye(6))
    model = narrows.GraphAutoencoder(**QUICK).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.history_[-1]["validation_auc"])


def test_the_last_edges_can_be_held_out():
    edges, _ = chain(21)
    X = edges[:, ::-1], None
    model = narrows.GraphAutoencoder(**QUICK, validation=0.1, validation_split="last").fit(X)
    assert model.held_out_.tolist() == [[1, 2], [0, 1]]


def test_a_graph_of_its_own_can_be_held_out():
    A, X, _ = blocks(40)
    model = narrows.GraphAutoencoder(**QUICK).fit((A, X), validation=(A[:30, :30], X[:30]))
    assert "validation_auc" in model.history_[-1]
    assert not len(model.held_out_)


# -- what the models are for --------------------------------------------------------------------


@pytest.mark.parametrize("cls", FAMILIES)
def test_held_out_links_are_predicted(cls):
    A, X, _ = blocks(150)
    model = cls(verbose=0, validation=0.15, epochs=100).fit((A, X))
    edges = read_graphs((A, X)).edges
    kept = [tuple(pair) not in {*map(tuple, model.held_out_.tolist())} for pair in edges]
    seen = csr_array(read_graphs((A, X)).with_edges(np.array(kept)).adjacency()), X
    absent = np.argwhere(np.triu(A.toarray() == 0, 1))[::20]
    pairs = np.concatenate([model.held_out_, absent])
    truth = np.repeat([1, 0], [len(model.held_out_), len(absent)])
    trained = roc_auc_score(truth, model.score_edges(seen, pairs))
    untrained = cls(verbose=0, epochs=1, learning_rate=1e-9).fit(seen)
    assert trained > 0.75
    assert trained > roc_auc_score(truth, untrained.score_edges(seen, pairs)) + 0.03


def test_codes_know_the_groups_of_a_new_graph():
    A, X, group = blocks(150)
    model = narrows.GraphAutoencoder(verbose=0, epochs=100).fit((A, X))
    A, X, group = blocks(60, seed=1)  # other nodes and links
    codes = model.transform((A, X))
    centres = np.stack([codes[group == g][:10].mean(0) for g in range(3)])
    found = (codes @ centres.T).argmax(1)
    assert (found == group).mean() > 0.8


def test_probabilities_have_the_share_of_links():
    A, X, _ = blocks(90)
    for name in ("inner_product", "mlp"):
        model = narrows.GraphAutoencoder(verbose=0, epochs=80, decoder=name).fit((A, X))
        P = model.reconstruct((A, X))
        assert P.shape == (90, 90)
        assert np.array_equal(P, P.T)
        assert not P.diagonal().any()
        assert 0.5 < P.sum() / A.sum() < 2.0, name
        pairs = np.array([[3, 5], [8, 1]])
        np.testing.assert_allclose(model.score_edges((A, X), pairs), P[tuple(pairs.T)], atol=1e-6)


def test_a_large_reconstruction_is_sparse(monkeypatch):
    A, X, _ = blocks(60)
    model = narrows.GraphAutoencoder(**QUICK).fit((A, X))
    whole = model.reconstruct((A, X))
    monkeypatch.setattr("narrows.models.graphs.ALL_PAIRS", 50)
    sparse = model.reconstruct((A, X))
    np.testing.assert_allclose(sparse.toarray(), whole * A.toarray(), atol=1e-6)
    with pytest.raises(ParameterError, match="for up to 50 nodes; there are 51"):
        model.sample(51)


def test_a_sample_is_a_graph():
    model = narrows.VariationalGraphAutoencoder(**QUICK).fit(ADJACENCY)
    graph = model.sample(12, noise=True)
    assert graph.shape == (12, 12)
    assert set(np.unique(graph)) <= {0, 1}
    assert np.array_equal(graph, graph.T)
    assert not graph.diagonal().any()
    with pytest.raises(ContextError, match="a node is nothing without its graph"):
        model.interpolate(0, 1)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("cls", FAMILIES)
def test_features_are_told_too(cls, likelihood):
    A, X, _ = blocks(60)
    X = X * 3 + 100
    options = {"verbose": 0, "epochs": 60, "feature_weight": 5.0, "likelihood": likelihood}
    model = cls(**options).fit((A, X))
    told = model.reconstruct_features((A, X))
    assert told.shape == X.shape
    assert ((told - X) ** 2).mean() < X.var(0).mean()
    assert model.history_[-1]["features"] < model.history_[0]["features"]
    kl = -model.history_[-1].get("kl", 0)
    assert model.score((A, X)) < kl  # the features' nll is part of it


def test_patience_and_weights_of_nodes():
    A, X, _ = blocks()
    weight = np.r_[np.ones(45), np.zeros(45)]
    options = {"verbose": 0, "epochs": 60, "patience": 5, "learning_rate": 0.1}
    model = narrows.GraphAutoencoder(**options).fit((A, X), sample_weight=weight)
    plain = narrows.GraphAutoencoder(**options).fit((A, X))
    assert plain.n_iter_ < 60
    assert not np.array_equal(model.transform((A, X)), plain.transform((A, X)))


@pytest.mark.parametrize("cls", FAMILIES)
def test_training_resumes_where_it_stopped(cls, tmp_path):
    X = blocks(40)[:2]
    options = QUICK | {"epochs": 6, "dropout": 0.2}
    model = cls(**options)
    whole = model.fit(X, checkpoint=tmp_path / "a").transform(X)
    for folder in sorted((tmp_path / "a").glob("epoch-*"))[-1:]:
        (folder / "state.json").write_text("{")  # the newest is damaged
    with pytest.warns(UserWarning, match="Going back"):
        again = cls(**options).fit(X, checkpoint=tmp_path / "a", resume=True)
    np.testing.assert_array_equal(again.transform(X), whole)
    with pytest.raises(narrows.errors.FileError, match="differs in the data"):
        cls(**options).fit(blocks(40, seed=3)[:2], checkpoint=tmp_path / "a", resume=True)


# -- the forms of a graph -----------------------------------------------------------------------


def test_every_form_is_the_same_graph():
    A, X, _ = blocks(30)
    A = A.astype(np.float64)
    A.data[:] = 1.0
    rows, columns = np.nonzero(np.triu(A.toarray()))
    once = np.stack([rows, columns])
    graph = nx.from_numpy_array(A.toarray())
    nx.set_node_attributes(graph, dict(enumerate(X)), "x")
    both = np.concatenate([once, once[::-1]], 1)
    data = pyg.Data(torch.from_numpy(X), torch.from_numpy(both))
    forms = [
        (A, X),
        (csr_matrix(A), csr_matrix(X)),
        (once, X),
        (once.T, X),
        (both, X),
        (torch.from_numpy(once), torch.from_numpy(X)),
        (once.tolist(), X.tolist()),
        (once, X, np.ones(once.shape[1])),
        data,
        graph,
    ]
    model = narrows.GraphAutoencoder(**QUICK).fit((A, X))
    expected = model.transform((A, X))
    for form in forms:
        np.testing.assert_allclose(model.transform(form), expected, atol=1e-6)
        assert sorted(map(tuple, read_graphs(form).edges.tolist())) == sorted(
            zip(rows.tolist(), columns.tolist(), strict=True)
        )


def test_a_weight_steers_the_convolution():
    edges, weight = np.array([[0, 1], [1, 2]]), np.array([1.0, 5.0])
    x = torch.eye(3)
    out = propagate(one((edges, np.eye(3), weight)), x)
    assert out[1, 2] > out[1, 0]
    graph = nx.Graph([(0, 1, {"weight": 1.0}), (1, 2, {"weight": 5.0})])
    torch.testing.assert_close(propagate(one(graph), x), out)


def test_an_edge_counts_once_with_its_mean_weight():
    edges = np.array([[0, 1, 0, 2], [1, 0, 1, 1]])
    with pytest.warns(UserWarning, match="1 directed edges, which count in both directions"):
        graph = read_graphs((edges, None, [1.0, 3.0, 5.0, 2.0]))
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    assert graph.weight.tolist() == [3.0, 2.0]


@pytest.mark.parametrize(
    "X",
    [
        csr_array(np.triu(np.ones((3, 3)), 1)),
        nx.DiGraph([(0, 1), (1, 0), (1, 2)]),
        (np.array([[0, 1, 1], [1, 0, 2]]), None),
    ],
    ids=["adjacency", "networkx", "edges"],
)
def test_directions_are_dropped_with_a_warning(X):
    with pytest.warns(UserWarning, match="directed edges, which count in both directions"):
        assert len(read_graphs(X)) == 3


def test_edges_listed_once_or_twice_are_no_directed_ones():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_graphs((np.array([[0, 2], [1, 1]]), None))
        read_graphs((np.array([[0, 1, 2, 1], [1, 0, 1, 2]]), None))


def test_loops_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="1 loops from a node to itself"):
        graph = read_graphs((np.array([[0, 1], [1, 1]]), None))
    assert graph.edges.tolist() == [[0, 1]]


def test_inputs_are_never_changed():
    edges, X = np.array([[0, 1, 2], [1, 2, 0]]), np.random.default_rng(0).random((4, 2))
    before = edges.copy(), X.copy()
    narrows.GraphAutoencoder(**QUICK).fit((edges, X)).reconstruct((edges, X))
    assert np.array_equal(edges, before[0])
    assert np.array_equal(X, before[1])


@pytest.mark.parametrize(
    ("X", "sentence"),
    [
        ((np.array([[0, 1], [1, 4]]), np.ones((3, 2))), r"first edge 1: 1 – 4. It has 3 nodes"),
        ((np.array([[0, -1], [1, 2]]), None), r"first edge 1: -1 – 2"),
        ((np.array([[0, 1, 2]]), None), r"edge_index of shape \(1, 3\); expected \(2, edges\)"),
        ((np.array([[0.5], [1]]), None), "edge_index of float64; expected whole numbers"),
        ((np.array([["a"], ["b"]]), None), "expected whole numbers"),
        (
            (np.array([[0], [1]]), np.array([[1.0], [np.nan]])),
            r"NaN, infinity .* at 1 of its 2 nodes, first at node 1",
        ),
        ((np.array([[0], [1]]), np.array([[1.0], [1e39]])), "too large for float32"),
        ((np.array([[0], [1]]), np.array([["a"], ["b"]])), "expected numbers"),
        ((np.array([[0], [1]]), np.zeros((2, 0))), "features of 0 columns"),
        ((ADJACENCY, np.ones((3, 2))), "features of 3 nodes, but it has 34"),
        ((np.array([[0], [1]]), None, [-1.0]), "negative, not finite or too large"),
        ((np.array([[0], [1]]), None, [1e308]), "negative, not finite or too large"),
        ((np.array([[0], [1]]), None, [1.0, 2.0]), "2 edge weights for 1 edges"),
        ((np.array([[0], [1]]), None, ["a"]), "edge weights of type <U1; expected numbers"),
        (csr_array(np.ones((2, 2)) * 1j), "edge weights of type complex128; expected numbers"),
        (named(nx.path_graph(2), {0: [1], 1: [1, 2]}), "attribute 'x' of node 1 has 2 where"),
        ([(ADJACENCY, np.ones((34, 2))), ADJACENCY], "Graph 1 of X has no features a node where"),
        (csr_array(np.ones((2, 3))), r"adjacency of shape \(2, 3\)"),
        (csr_array((0, 0)), "no nodes"),
        ([], "empty list"),
        (
            [(ADJACENCY, np.ones((34, 2))), (ADJACENCY, np.ones((34, 1)))],
            "1 features a node where",
        ),
        ([ADJACENCY, ADJACENCY], "list of graphs without features"),
        (
            ((np.array([[0], [1]]), np.ones((2, 3))),) * 2,
            "an edge_index in rows of unequal lengths.*as a list, not as a tuple",
        ),
        ((np.array([[0], [1]]), [[1, 2], [3]]), "features in rows of unequal lengths"),
        ((np.array([[0], [1]]), None, [[1], [2, 3]]), "edge weights in rows of unequal"),
        ((np.array([[7], [10**12]]), None), "up to 1000000000000, of which only 2 .* from 0 on"),
    ],
)
def test_what_is_no_graph_meets_a_sentence(X, sentence):
    with pytest.raises(DataError, match=sentence):
        narrows.GraphAutoencoder(**QUICK).fit(X)


@pytest.mark.parametrize("X", [np.ones((5, 5)), torch.ones(5, 5), "a", None, 3, np.ones(4)])
def test_an_array_is_no_graph(X):
    with pytest.raises(DataTypeError, match=r"which is no graph. Expected"):
        narrows.GraphAutoencoder(**QUICK).fit(X)


LINKS, NODES = torch.tensor([[0, 1], [1, 2]]), torch.ones(3, 4)


def test_a_batch_of_torch_geometric_is_a_list_of_graphs():
    graphs = [pyg.Data(NODES, LINKS), pyg.Data(NODES[:2], LINKS[:, :1])]
    model = narrows.GraphAutoencoder(**QUICK).fit(pyg.Batch.from_data_list(graphs))
    again = narrows.GraphAutoencoder(**QUICK).fit(graphs)
    made = model.reconstruct(pyg.Batch.from_data_list(graphs))
    assert [links.shape for links in made] == [(3, 3), (2, 2)]
    for one, other in zip(made, again.reconstruct(graphs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_of_torch_geometric_count_and_other_attributes_are_told_of():
    model = narrows.GraphAutoencoder(**QUICK).fit(pyg.Data(NODES, LINKS))
    weight = torch.tensor([1.0, 400.0])
    plain = model.transform(pyg.Data(NODES, LINKS))
    assert not np.allclose(model.transform(pyg.Data(NODES, LINKS, edge_weight=weight)), plain)
    with pytest.warns(UserWarning, match="edge_attr, which is not used.*Set edge_weight"):
        codes = model.transform(pyg.Data(NODES, LINKS, edge_attr=weight))
    np.testing.assert_array_equal(codes, plain)


@pytest.mark.parametrize(
    ("X", "sentence"),
    [
        (pyg.Data(NODES), r"X is a Data without edge_index\. Give it one"),
        (pyg.HeteroData(), r"X is a HeteroData, which is no graph\. Expected"),
    ],
)
def test_what_torch_geometric_left_out_is_missed(X, sentence):
    with pytest.raises((DataError, DataTypeError), match=sentence):
        narrows.GraphAutoencoder(**QUICK).fit(X)


def test_a_sparse_tensor_is_an_adjacency():
    model = narrows.GraphAutoencoder(**QUICK).fit(ADJACENCY)
    tensor = torch.from_numpy(ADJACENCY.toarray())
    for X in (tensor.to_sparse(), tensor.to_sparse_csr(), (tensor.to_sparse(), None)):
        np.testing.assert_array_equal(model.transform(X), model.transform(ADJACENCY))


GRAPHS = {
    "networkx": nx.path_graph(3),
    "a list of them": [nx.path_graph(3), nx.path_graph(3)],
    "torch-geometric": pyg.Data(NODES, LINKS),
    "a batch of them": pyg.Batch.from_data_list([pyg.Data(NODES, LINKS)] * 2),
    "adjacency": ADJACENCY,
    "adjacency and features": (ADJACENCY, np.ones((34, 2))),
    "edges": (np.array([[0, 1], [1, 2]]), None),
    "edges and features": (np.array([[0, 1], [1, 2]]), np.ones((3, 4))),
    "tensors": (torch.tensor([[0, 1], [1, 2]]), torch.ones(3, 4)),
}


@pytest.mark.parametrize("modality", ["auto", "table"])
@pytest.mark.parametrize("form", GRAPHS)
def test_a_graph_names_the_models_that_take_it(form, modality):
    with pytest.raises(DataTypeError, match=r"is for the models of graphs, .* GraphAuto"):
        narrows.VAE(modality=modality, epochs=1).fit(GRAPHS[form])


def test_what_only_looks_like_a_graph_is_none():
    assert not resembles((np.ones((2, 3)), np.ones((5, 3))))  # two series of three channels
    assert not resembles(pd.DataFrame({"edge_index": [1.0], "is_directed": [2.0]}))
    assert not resembles([[0.0, 1.0], [1.0, 2.0]])


def test_codes_and_links_do_not_depend_on_the_output_that_is_set():
    model = narrows.GraphAutoencoder(**QUICK).fit(ADJACENCY)
    codes, links = model.transform(ADJACENCY), model.reconstruct(ADJACENCY)
    model.set_output(transform="pandas")
    np.testing.assert_array_equal(model.transform(ADJACENCY), codes)
    np.testing.assert_array_equal(model.reconstruct(ADJACENCY), links)
    assert model.score_edges(ADJACENCY, [[0, 1]]) == pytest.approx(links[0, 1])


def test_the_prior_of_a_graph_is_not_mended_by_another_model():
    model = narrows.VariationalGraphAutoencoder(**QUICK).fit(ADJACENCY)
    codes = np.random.default_rng(0).normal(size=(34, 16))
    model.codes_ = (codes + 3 * codes[:, :1]).astype(np.float32)
    (found,) = (each for each in model.diagnose().findings if each.name == "prior")
    assert found.remedy == "Sample with density=True."


def test_other_models_take_no_graphs():
    with pytest.raises(DataError, match="is for the models of graphs"):
        narrows.Autoencoder(modality="graph").fit(ADJACENCY)
    with pytest.raises(ParameterError, match="'modality' parameter of GraphAutoencoder"):
        narrows.GraphAutoencoder(modality="table").fit(ADJACENCY)


def test_what_was_not_fitted_meets_a_sentence():
    A, X, _ = blocks(30)
    model = narrows.GraphAutoencoder(**QUICK).fit((A, X))
    with pytest.raises(
        DataError, match=r"X has 2 features a node, but .* is expecting 3 features"
    ):
        model.transform((A, X[:, :2]))
    with pytest.raises(DataError, match="X has 0 features a node"):
        model.transform(A)
    with pytest.raises(DataError, match=r"pairs names nodes from 0 to 30, but X has .* 0 to 29"):
        model.score_edges((A, X), [[0, 30]])
    with pytest.raises(DataError, match=r"expected \(pairs, 2\)"):
        model.score_edges((A, X), [0, 3])
    with pytest.raises(DataError, match="one graph; X is a list"):
        model.score_edges([(A, X)], [[0, 3]])
    with pytest.raises(ParameterError, match="fitted with feature_weight=0"):
        model.reconstruct_features((A, X))
    with pytest.raises(DataError, match="its edges are held out"):
        model.fit((A, X), groups=np.zeros(30))
    featureless = narrows.GraphAutoencoder(**QUICK).fit(A)
    with pytest.raises(DataError, match="knows its 30 nodes by their place alone; X has 20"):
        featureless.transform(A[:20, :20])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tied": True}, "'tied' parameter .* has no effect on graph networks"),
        (
            {"likelihood": "laplace"},
            "is of the nodes' features, which feature_weight=0 leaves out",
        ),
        ({"feature_weight": 1.0, "likelihood": "poisson"}, "likelihood='poisson' has whole ones"),
        ({"architecture": "linear", "hidden": (3,)}, "no effect with architecture='linear'"),
        (
            {"feature_weight": 1.0, "likelihood": "bernoulli", "scaling": "standard"},
            r"explains values in \[0, 1\]",
        ),
    ],
)
def test_fields_that_cannot_act_are_refused(options, sentence):
    with pytest.raises((ParameterError, DataError), match=sentence):
        narrows.GraphAutoencoder(**{"epochs": 1, "verbose": 0} | options).fit(blocks(20)[:2])


def test_a_graph_without_features_has_none_to_tell():
    with pytest.raises(ParameterError, match="the graph has none"):
        narrows.GraphAutoencoder(**QUICK, feature_weight=1.0).fit(ADJACENCY)
    with pytest.raises(ParameterError, match="links have none"):
        narrows.VariationalGraphAutoencoder(**QUICK, distortion=0.1).fit(ADJACENCY)


@pytest.mark.parametrize("cls", FAMILIES)
def test_odd_graphs(cls):
    """One node, no edges, isolated nodes, one edge, without features and with."""
    none = csr_array((5, 5))
    pair = csr_array(([1.0, 1.0], ([0, 1], [1, 0])), shape=(5, 5))
    for A, with_x in itertools.product((csr_array((1, 1)), none, pair), (False, True)):
        X = (A, np.random.default_rng(0).random((A.shape[0], 3))) if with_x else A
        model = cls(**QUICK | {"epochs": 5}).fit(X)
        assert np.isfinite(model.transform(X)).all()
        assert np.isfinite(model.score_samples(X)).all()
        assert np.isfinite(model.reconstruct(X)).all()


def test_a_source_gives_whole_graphs():
    graphs = [chain(n, x=np.full((n, 1), n)) for n in (3, 5, 4)]
    source = GraphSource(torch.arange(12.0)[:, None], links(read_graphs(graphs)))
    assert source.take(torch.tensor([4])).index.tolist() == [3, 4, 5, 6, 7]
    assert source.steps(128) == 1
    batches = list(source.batches(4, torch.Generator().manual_seed(0)))
    assert len(batches) == source.steps(4) == 3
    assert sorted(i for batch in batches for i in batch.index.tolist()) == list(range(12))
    found = [batch.x[kept] for batch, kept in source.passes(torch.tensor([1, 6, 9]), 4, 16)]
    assert torch.cat(found).flatten().tolist() == [1, 6, 9]


def test_the_score_of_a_node_does_not_depend_on_other_graphs():
    small, large, known = (chain(n, x=np.ones((n, 2))) for n in (8, 20, 12))
    model = narrows.VariationalGraphAutoencoder(hidden=(8,), latent_dim=3, epochs=2)
    model.fit([known] * 3)
    alone = model.score_samples([small])
    np.testing.assert_allclose(model.score_samples([small, large])[:8], alone, rtol=1e-4)
