"""The command line: what each command writes, and how each mistake is told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.sparse import csr_array
from sklearn.datasets import load_iris

import narrows
from narrows import checkpoint, loggers
from narrows.callbacks import Callback
from narrows.cli import main
from narrows.cli.flags import parse
from narrows.cli.outputs import write_samples
from narrows.cli.plan import Plan
from narrows.data.modalities import Graph, Series

RESULTS = {"model", "history.jsonl", "metrics.json", "report.html", "run.toml"}
HEAVY = {"torch", "sklearn", "scipy", "numpy", "pyarrow", "pydantic", "matplotlib", "PIL"}
IRIS = ["iris", "--model", "linear", "--latent-dim", "2", "--epochs", "2"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The folder of a short run on real digits."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    words = "fit digits --model vae --latent-dim 4 --hidden 32 --architecture mlp --epochs 2"
    assert main([*words.split(), "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def iris_run(tmp_path_factory):
    """The folder of a short run on a table with named columns."""
    run = tmp_path_factory.mktemp("runs") / "iris"
    assert main(["fit", *IRIS, "--out", str(run)]) == 0
    return run


@pytest.fixture
def _no_report(monkeypatch):
    """Leave out the slow part of `fit`."""
    monkeypatch.setattr("narrows.evaluation.render", lambda *args, **options: "report")


def call(*words):
    return main([str(word) for word in words])


@pytest.fixture
def refused(capsys):
    """Return a check that a command ends with a code and one sentence that has these words."""

    def check(code, words, *command):
        capsys.readouterr()
        assert call(*command) == code
        error = capsys.readouterr().err
        assert error.startswith("narrows: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        for word in words:
            assert word in error

    return check


def snapshot(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def python(*words, **options):
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )


# -- start -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["models"]], ids=" ".join)
def test_help_is_quick_and_imports_nothing_heavy(words):
    code = (
        f"import sys, time; from narrows.cli import main; code = main({words!r});"
        "print(time.process_time(), *sys.modules, file=sys.stderr); sys.exit(code)"
    )
    with python("-c", code) as process:
        output, told = process.communicate()
    seconds, *modules = told.split()
    assert process.returncode == 0
    assert "vae" in output or "fit" in output
    assert not HEAVY & set(modules)
    assert float(seconds) < 1.5  # 0.2 to 0.3 s on an idle machine


@pytest.mark.parametrize("command", [[], ["--help"]], ids=["nothing", "help"])
def test_help_names_the_commands(capsys, command):
    assert call(*command) == 0
    output = capsys.readouterr().out
    for name in ("fit", "models", "info", "reconstruct", "encode", "decode", "score", "sample"):
        assert name in output


def test_help_of_fit_tells_of_every_field(capsys):
    assert call("fit", "--help") == 0
    output = capsys.readouterr().out
    for model in narrows.MODELS.values():
        for field in model.annotations():
            assert f"--{field.replace('_', '-')}" in output


@pytest.mark.parametrize("words", [["fit", "--help"], ["models", "vae"]], ids=" ".join)
def test_a_reader_that_stops_early_is_no_error(words):
    with python("-m", "narrows", *words) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


# -- fit ---------------------------------------------------------------------------------------


def test_fit_writes_a_whole_run(digits_run):
    assert {path.name for path in digits_run.iterdir()} == RESULTS
    history = [json.loads(row) for row in (digits_run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    summary = json.loads((digits_run / "metrics.json").read_text())
    assert summary["train"] + summary["test"] == 1797
    assert summary["metrics"]["model"].keys() == summary["metrics"]["pca"].keys()
    assert "<html" in (digits_run / "report.html").read_text()
    model = narrows.load(digits_run / "model")
    assert isinstance(model, narrows.VAE)
    assert (model.latent_dim, model.hidden, model.modality) == (4, (32,), "image")


@pytest.mark.usefixtures("_no_report")
def test_fit_tells_what_came_out(capsys):
    assert call("fit", *IRIS) == 0
    output = capsys.readouterr().out
    for words in ("LinearAutoencoder on iris: 150 rows × 4 columns", "PCA", "mean squared error"):
        assert words in output
    assert "Report: runs/iris-linear/report.html" in output


@pytest.mark.usefixtures("_no_report")
def test_fit_repeats_from_the_run_toml_it_wrote(tmp_path):
    flags = ["--hidden", "16,8", "--no-tied", "--patience", "none", "--set", "seed=3"]
    assert call("fit", "iris", "--epochs", 2, *flags, "--out", "one") == 0
    assert call("fit", "--config", "one/run.toml", "--out", "two") == 0
    one, two = (tmp_path / run / "model" / "weights.safetensors" for run in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.usefixtures("_no_report")
def test_flags_count_for_more_than_the_file():
    Path("run.toml").write_text(
        'data = "iris"\nmodel = "Linear"\nout = "run"\n[fields]\nepochs = 1\nlatent_dim = 3\n'
    )
    assert call("fit", "--config", "run.toml", "--set", "epochs=9", "--epochs", 2) == 0
    model = narrows.load("run/model")
    assert (type(model).__name__, model.n_iter_, model.latent_dim) == ("LinearAutoencoder", 2, 3)


@pytest.mark.usefixtures("_no_report")
def test_columns_are_set_aside():
    iris = load_iris()
    table = {"a": iris.data[:, 0], "b": iris.data[:, 1], "kind": iris.target.astype(str)}
    table |= {"plant": np.arange(150) // 5, "count": np.ones(150)}
    pyarrow.csv.write_csv(pa.table(table), "iris.csv")
    columns = ["--labels", "kind", "--groups", "plant", "--weight", "count"]
    assert call("fit", "iris.csv", *columns, "--epochs", 1, "--out", "run") == 0
    assert list(narrows.load("run/model").feature_names_in_) == ["a", "b"]
    # The model knows its columns, so the same file does without the flags.
    assert call("encode", "run", "iris.csv", "--out", "codes.csv") == 0
    assert pyarrow.csv.read_csv("codes.csv").shape == (150, 8)


@pytest.mark.usefixtures("_no_report")
def test_a_folder_of_images():
    rng = np.random.default_rng(0)
    for i in range(6):
        path = Path("pictures", "ab"[i % 2], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).save(path)
    fields = ["--model", "autoencoder", "--hidden", "4", "--epochs", "1", "--validation", "0"]
    assert call("fit", "pictures", "--size", "8x8", *fields, "--out", "run") == 0
    assert call("reconstruct", "run", "pictures", "--size", "8x8", "--out", "again") == 0
    assert [pixels(path).shape for path in Path("again").iterdir()] == 6 * [(8, 8, 3)]


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    "name",
    ["a b\n.npy", os.fsdecode(b"\xff.npy"), "ü.npy", "--odd.npy"],
    ids=["space", "not-utf8", "umlaut", "dashes"],
)
def test_odd_names(name):
    np.save(f"./{name}", load_iris().data)
    assert call("fit", "--model", "linear", "--epochs", 1, "--out", "run", "--", name) == 0
    assert call("score", "run", "--out", "scores.npy", "--", name) == 0
    assert np.load("scores.npy").shape == (150,)


# -- fit, refused ------------------------------------------------------------------------------

USAGE = [
    ("ft", ["Did you mean", "fit"]),
    ("fit", ["needs data"]),
    ("fit iris --bata 4", ["--bata", "--beta"]),
    ("fit iris --set bata=4", ["VAE", "'bata'", "'beta'"]),
    ("fit iris --set beta", ["field=value", "'beta'"]),
    ("fit iris --noise 1", ["VAE", "'noise'", "denoising"]),
    ("fit iris --beta -1", ["'beta'", "≥ 0", "-1"]),
    ("fit iris --latent-dim 0", ["'latent_dim'", "≥ 1", "0"]),
    ("fit iris --activation rellu", ["'activation'", "'relu'"]),
    ("fit iris --device cuda:99", ["'cuda:99'", "device"]),
    ("fit iris --code-options {", ["'code_options'", "JSON"]),
    ("fit iris --model vea", ["'vea'", "'vae'"]),
    ("fit iris --size 32", ["HEIGHTxWIDTH", "'32'"]),
    ("fit iris extra", ["extra"]),
    ("fit irsi", ["'irsi'", "'iris'"]),
    ("fit nothing.csv", ["'nothing.csv'", "does not exist"]),
    ("fit " + 400 * "x" + ".csv", ["xxx"]),
    ("fit iris --log wandb", ["tensorboard or mlflow", "'wandb'"]),
    ("fit iris --resume", ["nothing to resume"]),
    ("fit iris --out file/run", ["file/run", "cannot be made"]),
    ("fit iris --config none.toml", ["none.toml", "No such file"]),
    ("encode none iris --out z.npy", ["none", "does not exist"]),
    ("encode file iris --out z.npy", ["file is no folder", "never loaded"]),
    ("encode file iris", ["--out"]),
    ("encode file iris --out z.pkl", [".npy", "'z.pkl'"]),
    ("encode file iris --out z.png", [".npy", "'z.png'"]),
    ("encode file iris --out none/z.npy", ["none", "cannot be written"]),
    ("encode file iris --out file.npy", ["file.npy", "exists", "--force"]),
    ("encode file file.npy --out file.npy --force", ["is or holds the input"]),
    ("sample file many --out z.npy", ["many"]),
    ("models vea", ["'vea'", "'vae'"]),
    ("fit iris --engine rya", ["local or ray", "'rya'", "'ray'"]),
    ("fit iris --workers 2", ["--workers=2 is for --engine ray"]),
    ("fit iris --engine ray --workers 0", ["--workers must be 1 or more", "0"]),
    ("score file iris --out z --engine ray", ["iris does not exist", "folder"]),
    ("score file file.npy --out z.npy --engine ray", ["--out is a folder", "'z.npy'"]),
    ("encode file file.npy --out . --engine ray", ["holds the input"]),
    ("encode file . --out ./z --engine ray", ["lies in it"]),
    ("score file file.npy --out z --engine ray --size 8x8", ["--size is for images"]),
]


@pytest.mark.parametrize(("command", "words"), USAGE, ids=[case[0][:40] for case in USAGE])
def test_wrong_usage(refused, command, words):
    Path("file").touch()
    Path("file.npy").touch()
    refused(2, words, *command.split())
    assert sorted(os.listdir()) in (["file", "file.npy"], ["file", "file.npy", "runs"])
    assert not any(path.is_file() for path in Path("runs").rglob("*"))


CONFIGS = [
    ('dta = "iris"', ["'dta'", "'data'"]),
    ("data = 3", ["'data'", "text in quotes"]),
    ('data = "iris"\nepochs = 3', ["'epochs'", "[fields]"]),
    ('data = "iris"\nlatentdim = 3', ["'latentdim'", "'latent_dim'"]),
    ("checkpoint_every = 1", ["'checkpoint_every'", "text in quotes"]),
    ('workers = "2"', ["'workers'", "a whole number"]),
    ('data = "iris"\n[fields]\nbata = 4', ["'bata'", "'beta'"]),
    ('data = "iris"\n[fields]\nbeta = -1.0', ["'beta'", "≥ 0"]),
    ("data = iris", ["line 1", "column 8"]),
    (b"\xff", ["UTF-8"]),
]


@pytest.mark.parametrize(("text", "words"), CONFIGS)
def test_wrong_config(refused, text, words):
    Path("run.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(2, words, "fit", "--config", "run.toml")


DATA = [
    (np.full((20, 3), np.inf), ["infinity"]),
    (np.zeros((0, 3)), ["no samples"]),
    (np.zeros((20, 5, 5)), ["modality='image'"]),
    (np.array([["a"], ["b"]]), ["'a'"]),
]


@pytest.mark.parametrize(("array", "words"), DATA, ids=["inf", "empty", "3-d", "strings"])
def test_data_that_cannot_be_used(refused, array, words):
    np.save("x.npy", array)
    refused(1, words, "fit", "x.npy", "--epochs", 1)
    assert not Path("runs/x-vae").exists()


def test_a_run_is_not_overwritten(refused, iris_run):
    shutil.copytree(iris_run, "run")
    before = snapshot("run")
    refused(2, ["run exists already", "--force"], "fit", *IRIS, "--out", "run")
    assert snapshot("run") == before


@pytest.mark.usefixtures("_no_report")
def test_force_keeps_the_old_run_until_the_new_one_is_trained(refused, iris_run):
    shutil.copytree(iris_run, "run")
    Path("run", "notes.txt").write_text("mine")
    before = snapshot("run")
    command = ["fit", "iris", "--epochs", 2, "--out", "run", "--force"]
    refused(1, ["learning_rate"], *command, "--learning-rate", 1e9)
    assert {k: v for k, v in snapshot("run").items() if "checkpoints" not in k.parts} == before
    assert call(*command) == 0
    after = snapshot("run")
    assert after.pop(Path("run/notes.txt")) == b"mine"
    assert after[Path("run/model/config.json")] != before[Path("run/model/config.json")]


def test_force_spares_what_is_not_from_narrows(refused):
    Path("model").mkdir()
    Path("model", "code.py").touch()
    refused(2, ["model is not from narrows"], "fit", *IRIS, "--out", ".", "--force")
    assert Path("model", "code.py").exists()


def test_two_runs_do_not_share_a_folder(refused):
    import fcntl

    Path("run").mkdir()
    handle = os.open("run", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    refused(2, ["Another run"], "fit", *IRIS, "--out", "run")
    os.close(handle)


# -- interruptions -----------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_report")
def test_an_interrupted_run_resumes_exactly(monkeypatch, capsys, refused):
    command = ["fit", "iris", "--epochs", 4, "--checkpoint-every", "epoch"]
    assert call(*command, "--out", "whole") == 0
    write = checkpoint.write

    def interrupt(folder, training):
        write(folder, training)
        if training.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", interrupt)
        hint = "interrupted: go on with 'narrows resume run'."
        refused(130, [hint], *command, "--out", "run")
    assert Path("run", "checkpoints", "epoch-000002-step-000001").exists()
    refused(2, ["narrows resume run"], *command, "--out", "run")
    refused(
        1, ["epochs (4 there, 5 here)"], "fit", "iris", "--epochs", 5, "--out", "run", "--resume"
    )
    Path("run").rename("moved")
    assert call("resume", "moved") == 0
    assert "Resumed after epoch 2" in capsys.readouterr().out
    weights = [
        Path(run, "model", "weights.safetensors").read_bytes() for run in ("moved", "whole")
    ]
    assert weights[0] == weights[1]
    assert call("resume", "moved") == 0
    assert capsys.readouterr().out == "The run was complete already.\n"


@pytest.mark.usefixtures("_no_report")
def test_an_evaluation_that_failed_is_done_again_without_training(monkeypatch, capsys, refused):
    def fail(*_, **__):
        raise RuntimeError("no picture")

    with monkeypatch.context() as patch:
        patch.setattr("narrows.evaluation.render", fail)
        refused(1, ["no picture"], "fit", *IRIS, "--out", "run")
    assert call("resume", "run") == 0
    assert "The training was complete already." in capsys.readouterr().out
    assert {path.name for path in Path("run").iterdir()} == RESULTS


@pytest.mark.usefixtures("_no_report")
def test_a_run_that_died_before_its_first_checkpoint_begins_again():
    assert call("fit", *IRIS, "--out", "whole") == 0
    settings = Path("run", "checkpoints", "run.toml")
    settings.parent.mkdir(parents=True)
    shutil.copy(Path("whole", "run.toml"), settings)
    assert call("resume", "run") == 0
    weights = [Path(run, "model", "weights.safetensors").read_bytes() for run in ("run", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.usefixtures("_no_report")
def test_an_interrupted_run_leaves_its_history_but_over_a_whole_one(monkeypatch, refused):
    command, history = ["fit", "iris", "--epochs", 3, "--out", "run"], Path("run/history.jsonl")

    def interrupt(self):
        if len(history.read_text().splitlines()) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(narrows.VAE, "after_epoch", interrupt)
        refused(130, ["interrupted"], *command)
        assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()] == [1, 2]
    refused(2, ["exists already", "--force"], *command)
    assert call(*command, "--force") == 0
    whole = snapshot("run")
    assert len(whole[history].splitlines()) == 3
    with monkeypatch.context() as patch:
        patch.setattr(narrows.VAE, "after_epoch", interrupt)
        refused(130, ["interrupted"], *command, "--force", "--seed", 1)
    assert snapshot("run") == whole


@pytest.mark.usefixtures("_no_report")
def test_another_logger_is_asked_for_by_name(monkeypatch, refused):
    class Other(Callback):
        def __init__(self, folder=None):
            made.append(folder)

    made = []
    monkeypatch.setattr(loggers, "TensorBoard", Other)
    monkeypatch.setattr(loggers, "MLflow", Other)
    assert call("fit", "iris", "--epochs", 1, "--out", "one", "--log", "tensorboard") == 0
    assert call("fit", "--config", "one/run.toml", "--out", "two") == 0
    assert call("fit", "--config", "one/run.toml", "--out", "three", "--log", "mlflow") == 0
    assert made == [Path("one/tensorboard"), Path("two/tensorboard"), None]


def test_a_logger_that_is_not_installed_is_asked_for_in_vain(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    refused(1, ["pip install 'narrows[track]'"], "fit", *IRIS, "--log", "mlflow")
    assert not Path("runs/iris-linear").exists()


def test_sigterm_ends_tidily_and_soon():
    place = Path("runs", "iris-vae", "checkpoints")
    command = ["-m", "narrows", "fit", "iris", "--epochs", "100000", "--compile", "false"]
    with python(*command, "--checkpoint-every", "epoch") as process:
        while not any(place.glob("epoch-*")):
            assert process.poll() is None
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")
        assert time.monotonic() - start < 5
    assert process.returncode == 143
    assert {path.name[:6] for path in place.iterdir()} == {"epoch-", "run.to"}


@pytest.mark.parametrize("command", ["fit iris", "score run rows.parquet --out z"])
def test_ray_that_is_not_installed_is_asked_for_in_vain(monkeypatch, refused, iris_run, command):
    shutil.copytree(iris_run, "run")
    table = pa.table(dict(zip(load_iris().feature_names, load_iris().data.T, strict=True)))
    pq.write_table(table, "rows.parquet")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(1, ["pip install 'narrows[ray]'"], *command.split(), "--engine", "ray")
    assert not Path("runs/iris-vae").exists()


def test_ray_and_torchrun_do_not_both_start_processes(monkeypatch, refused):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    refused(2, ["--engine ray starts its own", "torchrun"], "fit", *IRIS, "--engine", "ray")


@pytest.mark.usefixtures("_no_report")
def test_a_folder_of_parquet_is_fitted_and_scored_as_one_table():
    columns = dict(zip(load_iris().feature_names, load_iris().data.T, strict=True))
    Path("rows").mkdir()
    for i in range(3):
        pq.write_table(pa.table(columns).slice(50 * i, 50), f"rows/{i}.parquet")
    assert call("fit", "rows", "--epochs", 1, "--out", "run") == 0
    assert json.loads(Path("run/metrics.json").read_text())["data"] == "rows: 150 rows × 4 columns"
    for name, data in {"a.npy": "rows", "b.npy": "iris"}.items():
        assert call("score", "run", data, "--out", name) == 0
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))


def test_debug_shows_the_traceback(capsys):
    assert call("fit", "nothing", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


# -- what is done with a run -------------------------------------------------------------------


def test_models_are_listed(capsys):
    assert call("models") == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("vae", "VAE", "denoising", "DenoisingAutoencoder"))
    assert call("models", "VAE") == 0
    assert "Kingma" in capsys.readouterr().out


def test_info(capsys, digits_run):
    assert call("info", digits_run) == 0
    of_run = capsys.readouterr().out
    assert call("info", digits_run / "model") == 0
    of_model = capsys.readouterr().out
    for output in (of_run, of_model):
        for words in ("VAE", "8 × 8", "latent_dim=4", "hidden=32", "torch=", "held-out error"):
            assert words in output
    assert "PCA" in of_run


def test_tables_come_back_as_they_went_in(iris_run):
    assert call("encode", iris_run, "iris", "--out", "z.parquet") == 0
    assert call("decode", iris_run, "z.parquet", "--out", "x.parquet") == 0
    assert call("reconstruct", iris_run, "iris", "--out", "y.csv") == 0
    assert call("sample", iris_run, 5, "--out", "s.npy") == 0
    decoded, direct = pq.read_table("x.parquet"), pyarrow.csv.read_csv("y.csv")
    assert decoded.column_names == direct.column_names == load_iris().feature_names
    for a, b in zip(decoded.columns, direct.columns, strict=True):
        np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), rtol=1e-5)
    assert np.load("s.npy").shape == (5, 4)


def test_images_come_back_as_they_went_in(digits_run):
    assert call("encode", digits_run, "digits", "--out", "z.npy") == 0
    assert call("decode", digits_run, "z.npy", "--out", "x.npy") == 0
    assert call("reconstruct", digits_run / "model", "digits", "--out", "y.npy") == 0
    assert np.load("z.npy").shape == (1797, 4)
    assert np.load("x.npy").dtype == np.uint8
    np.testing.assert_array_equal(np.load("x.npy"), np.load("y.npy"))


def test_scores_are_those_of_the_model(digits_run):
    assert call("score", digits_run, "digits", "--out", "s.csv") == 0
    assert call("score", digits_run, "digits", "--out", "s.npy") == 0
    scores = pyarrow.csv.read_csv("s.csv")["score"].to_numpy()
    np.testing.assert_allclose(scores, np.load("s.npy"), rtol=1e-5)
    assert scores.shape == (1797,)


def test_pictures_of_samples(digits_run, refused, capsys):
    for name, size in {"one.png": (8, 8), "sheet.png": (2 * 65 - 1, 3 * 65 - 1)}.items():
        n = 1 if name == "one.png" else 5
        assert call("sample", digits_run, n, "--out", name) == 0
        assert pixels(name).shape == size
    assert call("sample", digits_run, 12, "--out", "many") == 0
    assert sorted(os.listdir("many")) == [f"{i:02}.png" for i in range(12)]
    assert call("sample", digits_run, 2, "--out", "many", "--force") == 0
    assert sorted(os.listdir("many")) == ["0.png", "1.png"]
    Path("many", "mine.png").touch()
    refused(2, ["many holds more"], "sample", digits_run, 2, "--out", "many", "--force")
    assert call("reconstruct", digits_run, "digits", "--out", "first.png") == 0
    assert "the first 256 of 1797" in capsys.readouterr().out


def test_a_run_is_repeated_by_the_command_that_it_tells(monkeypatch):
    told = []
    monkeypatch.setattr(
        "narrows.evaluation.render", lambda *_, command, **__: told.append(command) or "<p>"
    )
    assert call("fit", "iris", "--epochs", 1, "--out", "run") == 0
    program, *words = told[0].split()
    assert program == "narrows"
    assert call(*words) == 0
    first, again = (Path(name, "model/weights.safetensors") for name in ("run", "run-again"))
    assert first.read_bytes() == again.read_bytes()


def test_data_are_not_written_over(refused):
    Path("images").mkdir()
    for i in range(4):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(f"images/{i}.png")
    words = ["images holds the data", "another --out"]
    refused(2, words, "fit", "images", "--out", "./images", "--force")
    assert sorted(os.listdir("images")) == [f"{i}.png" for i in range(4)]


@pytest.mark.parametrize(
    "words", [["--hidden", "16", "8"], ["--attention", "true"], ["--feedback", "yes"]]
)
def test_a_word_that_is_no_flags_is_named(refused, words):
    remedy = f"'{words[-1]}' belongs to no flag. Several values go between commas"
    refused(2, [remedy, "a switch takes none"], "fit", "iris", "--model", "sequence", *words)


def test_recordings_of_a_zone_keep_it_in_scores():
    stamps = pa.array(np.arange(60) * 60_000_000, pa.timestamp("us", "Europe/Berlin"))
    pq.write_table(pa.table({"time": stamps, "a": np.sin(np.arange(60.0))}), "zone.parquet")
    words = "fit zone.parquet --modality series --window 10 --epochs 1 --model sequencevae"
    assert call(*words.split(), "--no-feedback", "--out", "run") == 0
    assert call("score", "run", "zone.parquet", "--out", "scores.parquet") == 0
    scores = pq.read_table("scores.parquet")
    assert scores["first"].to_pylist() == stamps.to_pylist()[::10]
    assert scores.schema.field("last").type == stamps.type
    pq.write_table(pa.table({"time": stamps[::-1], "a": np.ones(60)}), "order.parquet")
    assert call("score", "run", "order.parquet", "--out", "other.parquet") == 1
    assert not Path("other.parquet").exists()


def test_series_of_their_own_lengths_come_from_one_file():
    series = [np.sin(np.arange(n) / 3.0) for n in (9, 14, 11, 20) * 5]
    np.savez("many.npz", *series)
    assert call("fit", "many.npz", "--model", "sequence", "--epochs", 1, "--out", "run") == 0
    assert json.loads(Path("run/metrics.json").read_text())["data"].endswith("own lengths")
    assert call("encode", "run", "many.npz", "--out", "codes.npy") == 0
    assert len(np.load("codes.npy")) == 20


def test_what_a_model_cannot_do(refused, iris_run, digits_run):
    refused(2, ["no images", ".npy"], "sample", iris_run, 2, "--out", "s.png")
    refused(2, ["n ≥ 1", "0"], "sample", iris_run, 0, "--out", "s.npy")
    refused(2, ["2.5", "whole"], "sample", iris_run, 2.5, "--out", "s.npy")
    refused(2, ["2.5", "whole"], "sample", iris_run, 2, "--out", "s.npy", "--seed", 2.5)
    refused(1, ["8, 8", "150, 4"], "encode", digits_run, "iris", "--out", "z.npy")
    np.save("z.npy", np.zeros((3, 9)))
    refused(1, ["9 values", "2"], "decode", iris_run, "z.npy", "--out", "x.npy")
    refused(1, ["8, 8", "3, 9"], "score", digits_run, "z.npy", "--out", "s.npy")
    assert os.listdir() == ["z.npy"]


@pytest.mark.filterwarnings("default:X does not have valid feature names")
def test_warnings_are_one_line(iris_run, capsys):
    np.save("x.npy", load_iris().data)
    assert call("encode", iris_run, "x.npy", "--out", "z.npy") == 0
    error = capsys.readouterr().err
    assert error.startswith("narrows: warning: X does not have valid feature names")
    assert error.count("\n") == 1


def test_a_damaged_model(refused, iris_run):
    shutil.copytree(iris_run, "run")
    weights = Path("run", "model", "weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    refused(1, ["weights.safetensors", "damaged"], "info", "run")
    Path("run", "model", "manifest.json").unlink()
    refused(1, ["manifest.json"], "sample", "run", 2, "--out", "s.npy")


# -- texts and values --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("none", "patience", None),
        ("True", "tied", True),
        ("10", "patience", 10),
        ("1e-3", "learning_rate", 1e-3),
        ("optimal", "scale", "optimal"),
        ("128,64", "hidden", (128, 64)),
        ("128", "hidden", (128,)),
        ("None", "hidden", None),
        ('{"kl": 0.5}', "charges", {"kl": 0.5}),
        ([1, 2], "hidden", [1, 2]),
    ],
)
def test_values_of_texts(text, name, value):
    assert parse(text, name) == value
    assert type(parse(text, name)) is type(value)


def test_a_plan_survives_toml(tmp_path):
    fields = {"hidden": (128, 64), "patience": None, "tied": True, "beta": 1e-5, "device": 'a"\\b'}
    engine = {"engine": "ray", "workers": 2}
    plan = Plan("iris", "vae", str(tmp_path / "ü\n"), "kind", fields=fields, **engine)
    path = tmp_path / "run.toml"
    path.write_text(plan.toml())
    again = Plan.read(path)
    assert again.fields == fields | {"hidden": [128, 64]}
    assert again.given() | {"fields": {}} == plan.given() | {"fields": {}}


# -- series and text ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_report")
def test_a_recording_goes_in_and_comes_out_with_its_stamps():
    steps = np.arange(300)
    stamps = np.datetime64("2026-01-01", "us") + steps * np.timedelta64(1, "m")
    table = pa.table({"time": stamps, "a": np.sin(steps / 5), "b": steps % 7, "bad": steps > 200})
    pq.write_table(table, "sensors.parquet")
    words = "fit sensors.parquet --modality series --window 32 --stride 8 --labels bad --epochs 2"
    assert call(*words.split(), "--out", "run") == 0
    told = json.loads(Path("run/metrics.json").read_text())
    assert told["data"] == "sensors: 35 series of 32 × 2, 2 classes"
    assert told["train"] + told["test"] < 35  # windows between the two parts are left out
    assert call("reconstruct", "run", "sensors.parquet", "--out", "made.parquet") == 0
    made = pq.read_table("made.parquet")
    assert made.schema == table.schema.remove(3)
    assert made["time"] == table["time"]
    assert call("score", "run", "sensors.parquet", "--out", "scores.csv") == 0
    scores = pyarrow.csv.read_csv("scores.csv")
    assert scores.column_names == ["series", "start", "stop", "first", "last", "score"]
    assert scores["start"].to_pylist() == [*range(0, 268, 8), 268]
    for name, at in (
        ("first", scores["start"].to_numpy()),
        ("last", scores["stop"].to_numpy() - 1),
    ):
        assert (scores[name].to_numpy() == stamps[at]).all()
    assert call("encode", "run", "sensors.parquet", "--out", "codes.npy") == 0
    assert np.load("codes.npy").shape == (35, 8)
    assert call("score", "run", "sensors.parquet", "--out", "scores.npy") == 0
    assert np.load("scores.npy").shape == (35,)


@pytest.mark.usefixtures("_no_report")
def test_an_array_of_series_goes_in_and_comes_out():
    X = np.random.default_rng(0).normal(size=(40, 12, 2)).cumsum(1)
    np.save("series.npy", X)
    assert call("fit", "series.npy", "--modality", "series", "--epochs", "2", "--out", "run") == 0
    for words in ("reconstruct run series.npy", "sample run 40"):
        assert call(*words.split(), "--out", "made.npy", "--force") == 0
        assert np.load("made.npy").shape == X.shape


@pytest.mark.usefixtures("_no_report")
def test_text_goes_in_and_comes_out(refused):
    lines = ["one", "two", "", "three"] * 20
    Path("corpus.txt").write_text("\n".join(lines) + "\n")
    assert call("fit", "corpus.txt", "--modality", "text", "--epochs", "2", "--out", "run") == 0
    assert json.loads(Path("run/metrics.json").read_text())["data"] == "corpus: 80 strings"
    assert call("reconstruct", "run", "corpus.txt", "--out", "made.txt") == 0
    assert Path("made.txt").read_text().count("\n") == 80
    assert call("sample", "run", "3", "--out", "new.csv") == 0
    assert pyarrow.csv.read_csv("new.csv").column_names == ["text"]
    assert call("score", "run", "corpus.txt", "--out", "scores.csv") == 0
    assert pyarrow.csv.read_csv("scores.csv").column_names == ["score"]
    refused(2, ["no images", ".txt"], "sample", "run", "3", "--out", "new.png")


@pytest.mark.usefixtures("_no_report")
def test_one_long_text_is_cut_into_windows(refused, iris_run):
    text = "to be, or not to be: that is the question.\n" * 20
    Path("play.txt").write_text(text)
    assert call("fit", "play.txt", "--window", "16", "--epochs", "2", "--out", "run") == 0
    assert call("reconstruct", "run", "play.txt", "--out", "made.txt") == 0
    assert Path("made.txt").read_text().strip()
    assert call("score", "run", "play.txt", "--out", "scores.csv") == 0
    assert len(pyarrow.csv.read_csv("scores.csv")) == -(-len(text) // 16)
    refused(2, ["no texts", ".npy"], "reconstruct", iris_run, "iris", "--out", "iris.txt")
    refused(2, ["'window'", "modality='table'"], "fit", *IRIS, "--window", "5")


def test_series_of_unequal_lengths_are_written_with_nan_behind_their_ends(tmp_path):
    modality = Series.describe([np.zeros((3, 2)), np.ones((5, 2))])
    parts = [np.zeros((3, 2), np.float32), np.ones((5, 2), np.float32)]
    assert write_samples(tmp_path / "u.npy", parts, modality) == 2
    found = np.load(tmp_path / "u.npy")
    assert found.shape == (2, 5, 2)
    np.testing.assert_array_equal(np.isnan(found).any(2).sum(1), [2, 0])


def test_links_of_a_large_graph_are_written_one_by_one(tmp_path):
    links = csr_array(([0.5, 0.25], ([0, 2], [1, 0])), shape=(3, 3))
    modality = Graph.describe((np.array([[0, 1], [1, 2]]), None))
    assert write_samples(tmp_path / "links.csv", links, modality) == 3
    rows = pd.read_csv(tmp_path / "links.csv")
    assert rows.to_numpy().tolist() == [[0, 1, 0.5], [2, 0, 0.25]]
