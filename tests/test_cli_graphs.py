"""Graphs on the command line: files in, models, codes and links out."""

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import coo_array, csc_array, save_npz

import narrows
from narrows.cli import main
from narrows.data.files import read

KARATE = nx.karate_club_graph()
EDGES = np.array(KARATE.edges).T
WEIGHT = np.array([w for *_, w in KARATE.edges(data="weight")])
CLUB = np.array([KARATE.nodes[i]["club"] for i in KARATE])


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("karate.npz", edge_index=EDGES, edge_weight=WEIGHT, x=np.eye(34), labels=CLUB)


def call(*words):
    return main([str(word) for word in words])


def test_a_graph_is_fitted_and_applied(capsys):
    assert call("fit", "karate.npz", "--epochs", 20, "--latent-dim", 4) == 0
    shown = capsys.readouterr().out
    assert "34 nodes, 78 edges, 34 features" in shown
    assert "on 7 held-out edges" in shown
    summary = json.loads(Path("runs/karate-variationalgraph/metrics.json").read_text("utf-8"))
    assert set(summary["metrics"]) == {"model", "Adamic–Adar"}
    for values in summary["metrics"].values():
        assert 0 <= values["auc"] <= 1
    assert (summary["train"], summary["test"], summary["held_out"]) == (71, 7, True)
    run = "runs/karate-variationalgraph"
    assert "<h2" in Path(f"{run}/report.html").read_text("utf-8")
    assert call("encode", run, "karate.npz", "--out", "codes.npy") == 0
    assert call("reconstruct", run, "karate.npz", "--out", "links.npy") == 0
    assert call("score", run, "karate.npz", "--out", "scores.npy") == 0
    assert call("sample", run, 5, "--out", "graph.csv") == 0
    X = (EDGES, np.eye(34), WEIGHT)
    model = narrows.load(f"{run}/model")
    np.testing.assert_array_equal(np.load("codes.npy"), model.transform(X))
    np.testing.assert_array_equal(np.load("links.npy"), model.reconstruct(X))
    np.testing.assert_array_equal(np.load("scores.npy"), model.score_samples(X))


def test_nothing_is_held_out():
    assert call("fit", "karate.npz", "--model", "graph", "--epochs", 3, "--validation", 0.0) == 0
    summary = json.loads(Path("runs/karate-graph/metrics.json").read_text("utf-8"))
    assert (summary["train"], summary["test"], summary["held_out"]) == (78, 78, False)


@pytest.mark.parametrize("form", [csc_array, coo_array, None])
def test_what_scipy_saved_is_read(form):
    matrix = nx.to_scipy_sparse_array(KARATE)
    save_npz("adjacency.npz", matrix if form is None else form(matrix))
    dataset = read("adjacency.npz")
    assert dataset.modality == "graph"
    assert dataset.describe() == "34 nodes, 78 edges, no features"
    np.testing.assert_array_equal(dataset.X.toarray(), matrix.toarray())


def test_labels_of_nodes_come_along():
    assert read("karate.npz").y.tolist() == CLUB.tolist()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"foo": WEIGHT}, "a graph with an array 'foo'; expected edge_index, and perhaps"),
        ({"x": np.eye(3)}, "first edge 2: 0 – 3. It has 3 nodes"),
        ({"x": np.full((34, 1), np.nan)}, "NaN, infinity or too large"),
    ],
)
def test_a_wrong_graph_meets_its_sentence(arrays, sentence, capsys):
    np.savez("odd.npz", edge_index=EDGES, **arrays)
    assert call("fit", "odd.npz") == 1
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_model_of_rows_meets_its_sentence(capsys):
    assert call("fit", "karate.npz", "--model", "vae") == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "karate.npz holds a graph, which is for the models of graphs: --model" in shown
    assert "adversarialgraph or graph or variationalgraph" in shown


def test_a_saved_model_names_a_file_of_another_kind(capsys):
    Path("w.txt").write_text("one\ntwo\n", "utf-8")
    assert call("fit", "w.txt", "--epochs", 1, "--out", "words") == 0
    assert call("fit", "karate.npz", "--epochs", 1, "--out", "club") == 0
    for run, data, words in (
        ("words", "karate.npz", "karate.npz holds a graph, and this VAE was fitted to data of"),
        ("club", "w.txt", "w.txt holds no graph, and this VariationalGraphAutoencoder was fitted"),
    ):
        capsys.readouterr()
        assert call("encode", run, data, "--out", "codes.npy") == 1
        assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("options", [(), ("--modality", "text"), ("--modality", "graph")])
def test_a_file_without_a_graph_is_named(options, capsys):
    Path("w.txt").write_text("one\ntwo\n", "utf-8")
    assert call("fit", "w.txt", "--model", "graph", *options) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "w.txt holds no graph, and GraphAutoencoder takes nothing else. Expected an" in shown
    assert not any(Path("runs").iterdir())
