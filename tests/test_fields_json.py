"""fields.json says of the models what the registry says."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import narrows
from narrows.cli.fit import fit
from narrows.cli.flags import FIELDS, MODELS, find_model
from narrows.data import samples

SCRIPTS = Path(__file__).parents[1] / "scripts"
CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module(name)


def test_the_file_is_up_to_date(monkeypatch):
    made = script("make_fields", monkeypatch)
    assert made.PATH.read_text("utf-8") == made.content(), "Run `make fields`."
    assert made.README.read_text("utf-8") == made.readme(made.README.read_text("utf-8"))


def test_the_pages_are_up_to_date(monkeypatch):
    made = script("make_pages", monkeypatch)
    for path, text in made.content().items():
        assert path.read_text("utf-8") == text, f"Run `make fields`: {path.name} is old."
    pages = {path.stem for path in (made.DOCS / "models").glob("*.md")} - {"index"}
    assert pages == {make.command for make in MODELS}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_model_and_field_is_told_of(cls):
    model = find_model(cls.__name__)
    assert list(model.fields) == list(cls.annotations())
    assert all(entry["doc"] for entry in model.fields.values())
    assert model.summary.endswith(".")
    assert cls.__name__ == "ComposedAutoencoder" or all("http" in r for r in model.references)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_page_says_what_a_user_asks(cls, monkeypatch):
    """The idea, the objective as maths, when to use the model and when not, code, and works."""
    page = " ".join(script("make_pages", monkeypatch).page(cls).split("\n"))
    assert re.match(r"# \w+  [A-Z].*?[.]  ```text .*?(log|KL|ELBO).*?```  ", page)
    assert re.search(r"  Use it .*?[;,] not ", page)
    assert re.search(rf"```python .*?from narrows import {cls.__name__} .*?```", page)
    assert "## References  - [" in page


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_command_on_a_page_works(cls, monkeypatch):
    name = script("make_pages", monkeypatch).example_data(cls)
    if name == "graph.npz":  # the user's own
        return
    data = samples.load(name)
    cls(epochs=1, modality=data.modality).fit(data.X[:40], data.y[:40])


def test_names_are_one_model_each():
    names = [name for model in MODELS for name in {model.command, model.name.lower()}]
    assert len(names) == len(set(names)) >= len(CLASSES)


def test_no_field_hides_an_option_of_fit():
    options = {name.strip("_") for name in inspect.signature(fit).parameters}
    assert not options & set(FIELDS)
