"""Two workers of Ray train as one process does, share out files, and may be killed."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import narrows
from narrows.cli import main

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]  # Ray has warnings of its own

FILES, ROWS = 6, 10_000
FIT = "--latent-dim 2 --hidden 16 --batch-size 500 --epochs 12 --checkpoint-every epoch"
ON_RAY = "--engine ray --workers 2"


@pytest.fixture(scope="module", autouse=True)
def _one_ray():
    """Start Ray once, for all tests."""
    from narrows.cluster import connected

    with connected():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with generated data in `rows`, and in `one` what a process alone made of them."""
    place = tmp_path_factory.mktemp("ray")
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 5))
    (place / "rows").mkdir()
    for i in range(FILES):
        X = rng.normal(size=(ROWS, 2)) @ mixing + 0.1 * rng.normal(size=(ROWS, 5))
        columns = {f"x{j}": X[:, j] for j in range(5)} | {"id": np.arange(ROWS) + i * ROWS}
        pq.write_table(pa.table(columns), place / "rows" / f"{i}.parquet", row_group_size=6000)
    pq.write_table(
        pq.read_table(place / "rows" / "0.parquet").slice(0, 4000), place / "few.parquet"
    )
    assert fit(place, "one") == 0
    return place


@pytest.fixture(scope="module")
def whole(place):
    """What two workers made of the same data."""
    assert fit(place, "whole", ON_RAY) == 0
    return place / "whole"


@pytest.fixture
def refused(capsys):
    def check(code, words, command):
        assert main(command.split()) == code
        error = capsys.readouterr().err
        last = [line for line in error.splitlines() if line.startswith("narrows: ")][-1]
        assert all(word in last for word in words), error

    return check


def fit(place, out, flags=""):
    return main(f"fit {place}/few.parquet {FIT} --out {place / out} {flags}".split())


def weights(run):
    return (run / "model" / "weights.safetensors").read_bytes()


def workers(title):
    """The processes of this user's Ray workers with such a title."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if title in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            pass  # it has ended
    return found


def kill_one(title, due, killed):
    """Kill a worker with such a title, once that is due."""

    def watch():
        while not due():
            time.sleep(0.01)
        killed.append(workers(title)[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


# -- fit -----------------------------------------------------------------------------------------


def test_two_workers_train_as_one_process(place, whole):
    assert {path.name for path in whole.iterdir()} == {
        "model", "history.jsonl", "metrics.json", "report.html", "run.toml",
    }  # fmt: skip
    assert 'engine = "ray"\nworkers = 2\n' in (whole / "run.toml").read_text()
    one, two = (narrows.load(place / name / "model") for name in ("one", "whole"))
    assert two.n_iter_ == 12
    for row, other in zip(one.history_, two.history_, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
    for name, tensor in one.net_.state_dict().items():
        np.testing.assert_allclose(two.net_.state_dict()[name], tensor, atol=1e-3)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(place, whole):
    folder, killed = place / "killed" / "checkpoints", []
    thread = kill_one("RayTrainWorker", lambda: any(folder.glob("epoch-00000[2-9]")), killed)
    assert fit(place, "killed", ON_RAY) == 0
    thread.join(5)
    assert killed
    assert weights(place / "killed") == weights(whole)
    rows = [json.loads(line) for line in (place / "killed" / "history.jsonl").open()]
    assert [row["epoch"] for row in rows] == [*range(1, 13)]


def test_what_cannot_work_ends_at_once_with_its_sentence(place, refused, tmp_path):
    np.save(tmp_path / "x.npy", np.full((20, 3), np.inf))
    refused(1, ["infinity"], f"fit {tmp_path}/x.npy --out {tmp_path}/run {ON_RAY}")
    assert not (tmp_path / "run").exists()
    refused(
        2, ["--workers 999", "CPU"], f"fit iris --out {tmp_path}/run --engine ray --workers 999"
    )


# -- score and encode ----------------------------------------------------------------------------


def made(place, out):
    """The results of all files, in the order of their names."""
    files = sorted((place / out).glob("*.parquet"))
    assert [file.name for file in files] == [f"{i}.parquet" for i in range(FILES)]
    return pa.concat_tables(pq.read_table(file) for file in files)


def test_scores_are_those_of_one_process_row_by_row(place, capsys):
    assert main(f"score {place}/one {place}/rows --out {place}/scores {ON_RAY}".split()) == 0
    assert f"Wrote {FILES * ROWS} scores into {FILES} files" in capsys.readouterr().out
    assert main(f"score {place}/one {place}/rows --out {place}/scores.npy".split()) == 0
    found = made(place, "scores")["score"].to_numpy()
    np.testing.assert_allclose(found, np.load(place / "scores.npy"), rtol=1e-6, atol=1e-6)


def test_a_killed_worker_leaves_no_gap_and_a_second_run_adds_what_is_missing(place, capsys):
    command, killed = f"encode {place}/one {place}/rows --out {place}/codes {ON_RAY}".split(), []
    thread = kill_one("_Applied", lambda: any((place / "codes").glob("*.parquet")), killed)
    assert main(command) == 0
    thread.join(5)
    assert killed
    codes = made(place, "codes")
    assert codes.num_rows == FILES * ROWS
    model = narrows.load(place / "one" / "model")
    X = pa.concat_tables(pq.read_table(f) for f in sorted((place / "rows").iterdir()))
    expected = model.transform(X.select([f"x{j}" for j in range(5)] + ["id"]))
    np.testing.assert_allclose(np.column_stack([*codes]), expected, rtol=1e-6, atol=1e-6)
    first = (place / "codes" / "0.parquet").read_bytes()
    (place / "codes" / "0.parquet").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert f"{FILES - 1} of them were there already" in capsys.readouterr().out
    assert (place / "codes" / "0.parquet").read_bytes() == first


def test_a_row_that_cannot_be_scored_is_told_with_its_file(place, refused, tmp_path):
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"x0": [1.0]}), tmp_path / "rows" / "bad.parquet")
    words = ["bad.parquet' cannot be used", "x1"]
    refused(1, words, f"score {place}/one {tmp_path}/rows --out {tmp_path}/out {ON_RAY}")
