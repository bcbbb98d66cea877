"""The report on a graph: what it shows, and that it is true."""

import re

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import csr_array

import narrows
from narrows.data.files import Dataset
from narrows.evaluation import evaluate_links, render_links
from narrows.evaluation.link_gallery import PATCH, LinkGallery, _core

SECTIONS = ["links", "reconstructions", "map", "samples", "training", "health", "run"]
KARATE = nx.karate_club_graph()
CLUB = np.array([KARATE.nodes[i]["club"] for i in KARATE])
QUICK = {"epochs": 3, "verbose": 0, "threads": 1}


def fitted(X, y=None, cls=narrows.VariationalGraphAutoencoder, **options):
    model = cls(**QUICK | options).fit(X)
    return model, Dataset(X, y, "club", "graph"), evaluate_links(model, X)


def page(X, y=None, **options):
    return render_links(*fitted(X, y, **options), command="narrows fit club.npz", seconds=1.0)


def features(X):
    return np.random.default_rng(0).random((len(X), 3))


@pytest.mark.parametrize(
    "cls",
    [
        narrows.GraphAutoencoder,
        narrows.VariationalGraphAutoencoder,
        narrows.AdversarialGraphAutoencoder,
    ],
)
@pytest.mark.parametrize("decoder", ["inner_product", "mlp"])
def test_every_section_is_there(cls, decoder):
    made = page(KARATE, CLUB, cls=cls, decoder=decoder)
    assert re.findall(r'<h2 id="(\w+)"', made) == SECTIONS
    assert re.findall(r'href="#(\w+)"', made) == SECTIONS
    assert "34 nodes, 78 edges, no features — trained on 71 edges, scored on 7 held out" in made
    assert "Mr. Hi" in made


@pytest.mark.parametrize(
    ("X", "options"),
    [
        (KARATE, {"validation": 0.0}),
        (KARATE, {"latent_dim": 1}),
        (nx.path_graph(2), {}),
        (nx.empty_graph(4), {}),
        ((np.zeros((2, 0)), np.ones((1, 2))), {}),
        (nx.complete_graph(6), {}),
        ([(np.array(nx.path_graph(n).edges).T, np.eye(9)[:n]) for n in (3, 7, 9)], {}),
        (nx.barabasi_albert_graph(PATCH + 40, 2, seed=0), {}),
    ],
)
def test_odd_graphs_have_a_report(X, options):
    made = page(X, **options)
    assert re.findall(r'<h2 id="(\w+)"', made) == SECTIONS
    assert ">nan" not in made


def test_the_shown_codes_know_nothing_of_held_out_edges():
    model, _, found = fitted(KARATE)
    seen = nx.Graph(KARATE)
    seen.remove_edges_from(model.held_out_.tolist())
    np.testing.assert_allclose(found.codes, model.transform(seen), atol=1e-6)
    assert found.held.sum() == len(model.held_out_) == len(found.scores["edges"])


def test_the_lists_name_the_least_likely_edges_and_the_likeliest_other_pairs():
    model, dataset, found = fitted(KARATE, validation=0.0)
    gallery = LinkGallery(model, dataset, found)
    chance, linked = model.reconstruct(KARATE), nx.to_numpy_array(KARATE) > 0
    upper = np.triu(np.ones_like(linked), 1)
    for made, kept, sign in (
        (gallery._added(), ~linked & upper, -1),
        (gallery._doubted(), linked & upper, 1),
    ):
        pairs = [tuple(map(int, pair)) for pair in re.findall(r"<td>(\d+) — (\d+)</td>", made)]
        order = np.argsort(sign * chance[kept])[:8]
        wanted = [tuple(pair) for pair in np.argwhere(kept)[order].tolist()]
        assert {frozenset(pair) for pair in pairs} == {frozenset(pair) for pair in wanted}


def test_the_core_of_a_graph_is_where_its_links_are():
    ring = nx.cycle_graph(4 * PATCH)
    dense = nx.relabel_nodes(nx.complete_graph(30), lambda i: 10 * i)
    matrix = csr_array(nx.to_scipy_sparse_array(nx.compose(ring, dense), nodelist=sorted(ring)))
    found = _core(matrix)
    assert len(found) == PATCH
    assert {10 * i for i in range(30)} <= set(found.tolist())


def test_a_large_graph_is_not_drawn_anew(monkeypatch):
    monkeypatch.setattr("narrows.evaluation.link_gallery.ALL_PAIRS", 20)
    made = page(KARATE)
    assert "of 20 nodes at most" in made
    assert "Links it would add" not in made
