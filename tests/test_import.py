"""`import narrows` is cheap, and what it offers is complete."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import narrows

HEAVY = ["torch", "sklearn", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "pydantic"]


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_is_quick_and_brings_nothing_heavy():
    out = run(
        "import sys, time; start = time.perf_counter(); import narrows; "
        "print(time.perf_counter() - start); dir(narrows); narrows.__version__; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    seconds, heavy = out.splitlines()
    assert float(seconds) < 2
    assert heavy == "[]"


@pytest.mark.parametrize("name", narrows.__all__)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(narrows, name)
    assert name in dir(narrows)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)


def test_the_public_names_are_complete():
    models = importlib.import_module("narrows.models")
    base = importlib.import_module("narrows.base")
    ours = {name for name, cls in narrows.MODELS.items() if cls.__module__.startswith("narrows.")}
    assert set(models.__all__) <= set(narrows.__all__)
    assert ours <= set(narrows.__all__)
    assert {"BaseAutoencoder", "MODELS", "load", "register"} <= set(narrows.__all__)
    together = importlib.import_module("narrows.together")
    offered = set(models.__all__) | set(base.__all__) | set(together.__all__)
    assert set(together.__all__) <= set(narrows.__all__) <= offered
    assert len(set(narrows.__all__)) == len(narrows.__all__)


def test_a_star_import_brings_the_public_names():
    space = {}
    exec("from narrows import *", space)
    assert set(narrows.__all__) <= set(space)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'narrows' has no attribute 'Autoencodre'"):
        narrows.Autoencodre  # noqa: B018
    assert not hasattr(narrows, "torch")


@pytest.mark.parametrize(
    "name",
    [module.name for module in pkgutil.walk_packages(narrows.__path__, "narrows.")],
)
def test_every_module_can_be_imported_first(name):
    """No module depends on another one having been imported before: checked by its own names."""
    if name.endswith("__main__"):
        return
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", []):
        assert hasattr(module, public), public


def test_the_version_is_the_packages():
    assert narrows.__version__.count(".") == 2
    assert narrows.storage.versions()["narrows"] == narrows.__version__
