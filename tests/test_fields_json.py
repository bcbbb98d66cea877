"""fields.json says of the models what the registry says."""

import importlib.util
import inspect
from pathlib import Path

import pytest

import narrows
from narrows.cli.fit import fit
from narrows.cli.flags import FIELDS, MODELS, find_model

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_fields.py"
CLASSES = [cls for cls in narrows.MODELS.values() if cls.__module__.startswith("narrows.")]


def test_the_file_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_fields", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PATH.read_text("utf-8") == script.content(), "Run `make fields`."


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_model_and_field_is_told_of(cls):
    model = find_model(cls.__name__)
    assert list(model.fields) == list(cls.annotations())
    assert all(entry["doc"] for entry in model.fields.values())
    assert model.summary.endswith(".")
    assert cls.__name__ == "ComposedAutoencoder" or all("http" in r for r in model.references)


def test_names_are_one_model_each():
    names = [name for model in MODELS for name in {model.command, model.name.lower()}]
    assert len(names) == len(set(names)) >= len(CLASSES)


def test_no_field_hides_an_option_of_fit():
    options = {name.strip("_") for name in inspect.signature(fit).parameters}
    assert not options & set(FIELDS)
