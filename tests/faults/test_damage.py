"""Damaged checkpoints: each is noticed, named and left alone, and the one before it is taken."""

import shutil

import numpy as np
import pytest

from narrows.distributed.processes import FILES
from narrows.errors import ModelFileError
from narrows.storage import unpack

PAGE = 4096


def flip(data, rng):
    """Change a byte."""
    place = rng.integers(len(data))
    return data[:place] + bytes([data[place] ^ rng.integers(1, 256)]) + data[place + 1 :]


def cut(data, rng):
    """Leave a beginning."""
    return data[: rng.integers(len(data))]


def blank(data, rng):
    """Write zeros over a page."""
    place = PAGE * rng.integers(-(-len(data) // PAGE))
    page = data[place : place + PAGE]
    return data[:place] + bytes(len(page)) + data[place + PAGE :]


@pytest.mark.parametrize(("damage", "count"), [(flip, 200), (cut, 50), (blank, 50)])
def test_every_damage_is_noticed(damage, count, complete, tmp_path):
    folder = shutil.copytree(complete / "epoch-000006", tmp_path / "epoch-000006")
    files = {path: path.read_bytes() for path in folder.iterdir()}
    rng, paths = np.random.default_rng(0), sorted(files)
    assert len(paths) == 3
    for i in range(count):
        path = paths[i % 3]
        damaged = damage(files[path], rng)
        assert damaged != files[path]
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="epoch-000006"):
            unpack(folder, FILES)
        path.write_bytes(files[path])
    unpack(folder, FILES)


def test_the_run_goes_on_from_the_one_before(complete, run, undisturbed, tmp_path):
    folder = shutil.copytree(complete, tmp_path / "run")
    path = folder / "epoch-000006" / "state.safetensors"
    path.write_bytes(cut(path.read_bytes(), np.random.default_rng(0)))
    with pytest.warns(UserWarning, match="epoch-000006.*damaged.*Going back to the checkpoint"):
        assert run.fit(folder, resume=True) == undisturbed


@pytest.mark.filterwarnings("ignore:.*Going back to the checkpoint before it")
def test_where_all_are_damaged_it_stops_and_touches_nothing(complete, run, tmp_path):
    folder = shutil.copytree(complete, tmp_path / "run")
    for path in folder.glob("*/state.json"):
        path.write_bytes(flip(path.read_bytes(), np.random.default_rng(0)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ModelFileError, match=r"All 3 checkpoints in .* are damaged"):
        run.fit(folder, resume=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
