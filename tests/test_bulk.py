"""Each Parquet file gets a file of results, with one row for each of its rows, once."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import narrows
from narrows.bulk import Bulk, pairs
from narrows.errors import DataError, FileError, ParameterError

RNG = np.random.default_rng(0)
SIZES = {"a": 300, "b": 0, "deep/c": 71}


def rows(n):
    X = RNG.normal(size=(n, 4)) @ np.diag([1, 2, 3, 4])
    return pa.table({"id": np.arange(n)} | {f"x{i}": X[:, i] for i in range(4)})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model that knows some columns of the data."""
    folder = tmp_path_factory.mktemp("model") / "model"
    X = rows(200).select(["x3", "x0", "x1"])
    narrows.VAE(latent_dim=2, hidden=(8,), epochs=2, verbose=0).fit(X).save(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    """A folder of files with small row groups, one of them empty."""
    for name, n in SIZES.items():
        path = tmp_path / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(n), path, row_group_size=100)
    return tmp_path / "data"


def applied(model, data, call="score", **options):
    """Apply a model to a folder; return which files were written."""
    bulk, found = Bulk(model, call, **options), {}
    for source, target in pairs(data, data.with_name("out")).items():
        bulk.check(target)
        found[target.stem] = bulk(source, target)
    assert {name: n for name, (n, _) in found.items()} == {"a": 300, "b": 0, "c": 71}
    return [name for name, (_, written) in found.items() if written]


@pytest.mark.parametrize("call", ["score", "encode"])
def test_results_are_those_of_the_model_row_by_row(model, data, call):
    assert applied(model, data, call) == ["a", "b", "c"]
    fitted = narrows.load(model)
    function = fitted.score_samples if call == "score" else fitted.transform
    for name, n in SIZES.items():
        source, made = (
            pq.ParquetFile(data.with_name(f) / f"{name}.parquet") for f in ("data", "out")
        )
        assert made.metadata.num_rows == n
        assert made.metadata.num_row_groups == source.metadata.num_row_groups
        names = ["score"] if call == "score" else list(fitted.get_feature_names_out())
        assert made.schema_arrow.names == names
        if n:
            expected = function(source.read().select(["x3", "x0", "x1"])).reshape(n, -1)
            found = np.column_stack([column.to_numpy() for column in made.read().columns])
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_what_is_there_stays_and_what_is_missing_or_damaged_is_made(model, data):
    applied(model, data)
    out = data.with_name("out")
    whole = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    assert applied(model, data) == []
    (out / "a.parquet").unlink()
    damaged = bytearray(whole[out / "deep" / "c.parquet"])
    damaged[100] ^= 1  # in the first page
    (out / "deep" / "c.parquet").write_bytes(damaged)
    assert applied(model, data) == ["a", "c"]
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == whole


def test_data_that_changed_are_done_again(model, data):
    applied(model, data)
    pq.write_table(rows(71), data / "deep" / "c.parquet")
    assert applied(model, data) == ["c"]


def test_results_of_another_kind_or_model_are_not_replaced_unasked(model, data, tmp_path):
    applied(model, data)
    other = tmp_path / "other"
    narrows.VAE(latent_dim=1, epochs=1, verbose=0).fit(rows(50).drop_columns("id")).save(other)
    for arguments in ((model, data, "encode"), (other, data)):
        with pytest.raises(
            FileError, match=r"a\.parquet' exists and was not made by this command"
        ):
            applied(*arguments)
    assert applied(other, data, anew=True) == ["a", "b", "c"]
    shutil.copy(data / "a.parquet", data.with_name("out") / "a.parquet")  # no results at all
    with pytest.raises(FileError, match=r"a\.parquet' exists and was not made"):
        applied(other, data)


def test_a_foreign_file_among_the_results_is_told(model, data):
    applied(model, data)
    (data / "a.parquet").unlink()
    with pytest.raises(FileError, match=r"out/a\.parquet' belongs to no file of .*data"):
        pairs(data, data.with_name("out"))


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"x\.csv' is no Parquet file"):
        pairs(tmp_path / "x.csv", tmp_path / "out")
    with pytest.raises(DataError, match="no Parquet files in"):
        pairs(tmp_path, tmp_path / "out")


def test_rows_that_cannot_be_used_are_told_with_their_file(model, data):
    pq.write_table(rows(10).drop_columns("x0"), data / "a.parquet")
    with pytest.raises(DataError, match=r"(?s)a\.parquet' cannot be used: .*x0"):
        applied(model, data)
    assert not any(data.with_name("out").rglob("*a.parquet*"))


def test_windows_of_a_recording_are_no_rows(tmp_path):
    model = narrows.VAE(modality="series", window=8, latent_dim=1, epochs=1, verbose=0)
    model.fit(rows(100).select(["x0"])).save(tmp_path / "model")
    with pytest.raises(ParameterError, match="samples of this VAE are windows of many rows"):
        Bulk(tmp_path / "model", "score")


def test_a_file_of_results_tells_what_it_was_made_of(model, data):
    applied(model, data)
    told = json.loads(pq.read_schema(data.with_name("out") / "a.parquet").metadata[b"narrows"])
    assert told["call"] == "score"
    assert len(told["model"]) == 64
    assert told["source"].startswith(f"{(data / 'a.parquet').stat().st_size} bytes")
