"""The documentation's examples run, one after the other on each page."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from narrows import MODELS, ComposedAutoencoder
from narrows.parts.latents import LATENTS
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.parts.networks import ARCHITECTURES
from narrows.parts.penalties import PENALTIES

ROOT = Path(__file__).parent.parent
X = np.random.default_rng(0).random((64, 6), dtype=np.float32)
REGISTRIES = (MODELS, LATENTS, LIKELIHOODS, ARCHITECTURES, PENALTIES)


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def registries():
    """Put the registries back as they were."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


def test_every_benchmark_and_its_result_is_linked():
    folder = ROOT / "benchmarks"
    links = set(re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text()))
    scripts = {path.name for path in folder.glob("[!_]*.py")}
    results = {f"results/{path.name}" for path in folder.glob("results/*.md")}
    assert links == scripts | results | {"peers/README.md"}


def test_every_link_within_the_repository_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert len(pages) > 60
    assert broken == []


@pytest.mark.usefixtures("registries")
def test_every_seam_of_the_extending_page_works():
    names: dict = {"__name__": "extending"}
    seams = blocks("docs/extending.md")
    for block in seams:
        exec(block, names)
    for block in seams[:5]:
        assert len([line for line in block.splitlines() if line.strip()]) <= 15
    small = {"epochs": 2, "latent_dim": 2, "verbose": 0}
    for model in (
        ComposedAutoencoder(architecture="wide", dropout=0.1, **small),
        ComposedAutoencoder(code="rounded", charges={"commit": 0.25}, **small),
        ComposedAutoencoder(likelihood="focal", **small),
        ComposedAutoencoder(penalties={"decorrelation": 1.0}, **small),
        names["Decorrelated"](weight=2.0, **small),
        names["TinyAAE"](**small),
    ):
        model.fit(X)
        assert model.transform(X).shape == (64, 2)
        assert model.reconstruct(X).shape == X.shape
        assert np.isfinite([list(row.values()) for row in model.history_]).all()


def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("README.md"):
        exec(block, names)


def test_the_page_on_data_runs():
    names: dict = {}
    for block in blocks("docs/data.md"):
        exec(block, names)
    assert names["anomaly"].shape == (2000,)
    assert names["spans"].shape == (196, 3)
    assert len(names["made"]) == 100
    assert names["back"] == ["straits"]


def test_the_page_on_training_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("docs/training.md"):
        exec(block, names)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(lines) == names["model"].n_iter_


def test_the_page_on_lasting_runs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("docs/lasting.md"):
        exec(block, names)
    assert names["model"].n_iter_ == 10
    assert (tmp_path / "state" / "epoch-000010").is_dir()


@pytest.mark.wide
def test_the_page_on_many_models_runs():
    names: dict = {}
    for block in blocks("docs/together.md"):
        exec(block, names)
    assert names["spread"].shape == (69,)
    assert len(names["models"]) == 12


@pytest.mark.wide
def test_the_example_of_a_sweep_runs():
    command = [sys.executable, ROOT / "examples" / "sweep.py", "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("±") == 6


@pytest.mark.wide
def test_the_example_of_a_graph_runs(tmp_path):
    command = [sys.executable, ROOT / "examples" / "graph.py", "--out", tmp_path / "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 34 members" in done.stdout
    assert (tmp_path / "model" / "config.json").exists()


@pytest.mark.wide
@pytest.mark.parametrize("example", ["deep_autoencoder", "shallow_autoencoder"])
def test_the_examples_run(example, tmp_path):
    figure = tmp_path / "figure.png"
    script = ROOT / "examples" / f"{example}.py"
    command = [sys.executable, script, "digits28", "--epochs", "2", "--out", figure]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.wide
def test_the_example_of_strings_runs():
    command = [sys.executable, ROOT / "examples" / "number_words.py", "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "come back exactly" in done.stdout
