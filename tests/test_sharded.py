"""Processes that keep parts of a model train it as one; any number goes on from what they save."""

import gc
import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_iris

import narrows
from narrows.callbacks import Callback
from narrows.cli import main
from narrows.cli.plan import Plan
from narrows.errors import FileError, ModelFileError
from narrows.storage import load_model

pytestmark = pytest.mark.wide
X = load_iris().data
SHORT = {"epochs": 4, "hidden": (16,), "ema": 0.9, "patience": 9, "dropout": 0.1, "verbose": 0}
COMMAND = "fit iris --model vae --latent-dim 2 --epochs 1 --verbose 0 --strategy fsdp"


def of_processes():
    """What tests/test_distributed.py defines."""
    path = Path(__file__).with_name("test_distributed.py")
    spec = importlib.util.spec_from_file_location("of_processes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOGETHER = of_processes()
JACOBIANS = ("Contractive", "Hamiltonian", "Riemannian", "'jac", "jacobian", "gradient_penalty")
CASES = [case for case in TOGETHER.CASES if not any(name in case for name in JACOBIANS)]
AWAY = "ParameterError: strategy='fsdp' gathers the weights of a layer while it runs"
# Each way in which weights are read; the slow test has the others too.
OFTEN = [
    "AdversarialAutoencoder-mlp",
    "Composed-batch_norm=True,dropout=0.1,scale=learned,code=gaussian,arch",
    "Composed-tied=True,code=gaussian,output_activation=tanh",
    "MaskedAutoencoder-image",
    "RegularizedAutoencoder-mlp",
    "RegularizedAutoencoder-spectral_norm",
    "SequenceAutoencoder-gru",
    "StackedAutoencoder-mlp",
    "TopKAutoencoder-matching_pursuit",
    "VAE-mlp",
    "VAEGAN-conv",
    "VAEGAN-mlp",
    "VQVAE-mlp",
]


# -- what the processes run ---------------------------------------------------------------------


class Stop(BaseException):
    """The run ends here."""


class _Stops(narrows.VAE):
    """Ends in an epoch, 0 for none."""

    last = 0

    def after_epoch(self):
        type(self).last -= 1
        if type(self).last == 0:
            raise Stop


def held():
    """Bytes of all tensors here."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
    storages = [t.untyped_storage() for t in tensors if t.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class _Enough(Callback):
    """Lets the second epoch be the last."""

    def epoch(self, training, row):
        if training.epoch == 2:
            training.end_after_epoch()


class _Heavy(narrows.Autoencoder):
    """Of half a million parameters."""

    def after_epoch(self):
        type(self).bytes = held()


class _Breaks(narrows.VAE):
    """A number of the second process is lost."""

    def after_epoch(self):
        if torch.distributed.get_rank() == 1:
            self.net_.encoder[1].weight.detach().to_local().fill_(torch.nan)


def kept(folder, epochs=3, **options):
    """Keep the checkpoints of a run that ends in this epoch."""
    _Stops.last = epochs
    with pytest.raises(Stop):
        _Stops(**SHORT).fit(X, checkpoint=folder, **options)


def went_on(folder, **options):
    """The losses and weights of a run that goes on from a folder, or from nothing."""
    _Stops.last = 0
    model = _Stops(**SHORT).fit(X, checkpoint=folder, resume=True, **options)
    losses = [row["validation_loss"] for row in model.history_]
    return losses, {name: t.clone() for name, t in model.net_.state_dict().items()}


def weight(strategy):
    """Bytes of a model and its optimizer between two steps, and of the state to go back to."""
    before = held()
    _Heavy(epochs=2, hidden=(512, 512), latent_dim=32, verbose=0).fit(X, strategy=strategy)
    return _Heavy.bytes - before


def failing(folder):
    """What is said where the second process cannot write, and what is left."""
    from narrows.distributed import pieces

    def full_disk(path, name, data):
        raise FileError("There is no space left here.")

    write = pieces.write_part
    kept(folder, strategy="fsdp")
    pieces.write_part = full_disk if torch.distributed.get_rank() else write
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses, _ = went_on(folder, strategy="fsdp")
    pieces.write_part = write
    torch.distributed.barrier()
    said = [str(warning.message) for warning in caught]
    return {"said": said, "left": sorted(p.name for p in folder.iterdir()), "losses": losses}


def compared(cases):
    found = {}
    for case in cases:
        model, found[case] = TOGETHER.trained(case, strategy="fsdp")
        found[case]["alike"] = TOGETHER.alike(model)
        found[case]["plain"] = type(model.net_.encoder).__module__.startswith("narrows.")
    return found


def of_two(out):
    weights = weight(None), weight("fsdp")  # before others leave something behind
    found = compared(OFTEN) | {"bytes": weights}
    for jacobian in ("exact", "hutchinson"):
        model = narrows.ContractiveAutoencoder(jacobian=jacobian, epochs=1, verbose=0)
        found[jacobian] = TOGETHER.sentence(model, X, strategy="fsdp")
    found["broken"] = TOGETHER.sentence(_Breaks(epochs=2, verbose=0), X, strategy="fsdp")
    checkpointing = narrows.VAE(gradient_checkpointing=True, epochs=1, verbose=0)
    found["checkpointing"] = TOGETHER.sentence(checkpointing, X, strategy="fsdp")
    images = torch.arange(8 * 4 * 4, dtype=torch.uint8).view(8, 4, 4).numpy()
    layout = narrows.VAE(channels_last=True, epochs=1, verbose=0)
    found["layout"] = TOGETHER.sentence(layout, images, strategy="fsdp")
    folders = [out.with_name(name) for name in ("pieces", "again", "whole", "alone")]
    kept(folders[0], strategy="fsdp")
    if torch.distributed.get_rank() == 0:
        shutil.copytree(folders[0], folders[1])
        kept(folders[3])
    torch.distributed.barrier()
    names = ("again", "whole", "alone")
    found |= {name: went_on(out.with_name(name), strategy="fsdp") for name in names}
    found["timed"] = went_on(out.with_name("timed"), strategy="fsdp", checkpoint_every="0.001 s")
    ended = narrows.VAE(**SHORT)
    options = {"checkpoint": out.with_name("ended"), "callbacks": [_Enough()]}
    found["ended"] = ended.fit(X, strategy="fsdp", **options).n_iter_
    found["failing"] = failing(out.with_name("failing"))
    found["code"] = main([*COMMAND.split(), "--out", str(out.with_name("run"))])
    return found


def of_three(out):
    return compared(CASES) | {"pieces": went_on(out.with_name("pieces"), strategy="fsdp")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    found = of_two(out) if out.name == "2.pt" else of_three(out)
    if torch.distributed.get_rank() == 0:
        torch.save(found, out)
    torch.distributed.barrier()
    sys.exit()


# -- what they are compared with ----------------------------------------------------------------


def launched(folder, count):
    """What so many processes found."""
    out = folder / f"{count}.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), __file__, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True) | {"folder": folder}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("sharded"), 2)


def assert_begun_as_one(case, found):
    one = TOGETHER.trained(case)[1]
    assert found["alike"]
    assert found["plain"]
    assert found["step"] == pytest.approx(one["step"], rel=1e-5, abs=1e-5)
    for mine, theirs in zip(one["gradients"], found["gradients"], strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * mine.abs().max()
    return one


def assert_trained_as_one(case, found):
    one = assert_begun_as_one(case, found)
    assert found["epoch"] == pytest.approx(one["epoch"], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("case", OFTEN)
def test_processes_with_parts_train_as_one(case, two):
    assert_trained_as_one(case, two[case])


def test_each_holds_half_of_what_one_holds(two):
    whole, part = two["bytes"]
    parameters = 2 * (4 * 512 + 512 * 512 + 512 * 32)
    assert whole > 6 * 4 * parameters  # weights, two moments, and a copy of all three
    assert 0.5 < part / whole < 0.53


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((jacobian, AWAY) for jacobian in ("exact", "hutchinson")),
        ("broken", "NonFiniteError: The tensor 'net.encoder.1.weight' of _Breaks became nan"),
        ("checkpointing", "ParameterError: gradient_checkpointing=True runs layers again"),
        ("layout", "ParameterError: channels_last=True lays out weights in a way"),
    ],
)
def test_what_cannot_be_in_parts_is_refused_with_a_sentence(name, words, two):
    assert two[name].startswith(words)


# -- checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return went_on(tmp_path_factory.mktemp("one"))


def assert_same_run(found, expected):
    for mine, theirs in zip(expected[0], found[0], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)


def test_a_callback_ends_the_run_of_all(two):
    assert two["ended"] == 2


def test_as_many_processes_go_on_bit_for_bit(two):
    assert two["again"][0] == two["whole"][0]
    for name, tensor in two["whole"][1].items():
        assert torch.equal(two["again"][1][name], tensor), name


@pytest.mark.parametrize("name", ["whole", "alone", "timed"])
def test_processes_go_on_from_what_one_kept(name, two, one):
    assert_same_run(two[name], one)


def test_one_process_goes_on_from_pieces(two, one, tmp_path):
    shutil.copytree(two["folder"] / "pieces", tmp_path, dirs_exist_ok=True)
    assert sorted(p.name for p in (tmp_path / "epoch-000002").iterdir()) == [
        "manifest.json",
        "state-1-of-2.safetensors",
        "state-2-of-2.safetensors",
        "state.json",
    ]
    assert_same_run(went_on(tmp_path), one)


def test_a_damaged_piece_is_noticed(two, one, tmp_path):
    shutil.copytree(two["folder"] / "pieces", tmp_path, dirs_exist_ok=True)
    for epoch in (2, 1):
        piece = tmp_path / f"epoch-00000{epoch}" / "state-2-of-2.safetensors"
        data = bytearray(piece.read_bytes())
        data[-1] ^= 1
        piece.write_bytes(data)
        if epoch == 2:
            shutil.copytree(tmp_path, tmp_path.with_name("newest"))
    with pytest.warns(UserWarning, match=r"2-of-2.* is damaged.*Going back to the checkpoint"):
        assert_same_run(went_on(tmp_path.with_name("newest")), one)
    with (
        pytest.warns(UserWarning, match="Going back"),
        pytest.raises(ModelFileError, match="All 2 checkpoints"),
    ):
        went_on(tmp_path)


def test_where_a_process_cannot_write_all_go_on(two, one):
    found = two["failing"]
    assert [text for text in found["said"] if "Training goes on" in text] == [
        "There is no space left here. Training goes on, and tries to save its state the next time."
    ]
    assert found["left"] == ["epoch-000001", "epoch-000002"]
    assert_same_run((found["losses"],), one)


@pytest.mark.slow
def test_three_processes_train_as_one_and_go_on_from_two(two, one, tmp_path):
    shutil.copytree(two["folder"] / "pieces", tmp_path / "pieces")
    three = launched(tmp_path, 3)
    assert_same_run(three["pieces"], one)
    for case in CASES:  # further on, rounding flips codes of codebooks
        assert_begun_as_one(case, three[case])


# -- the command line ---------------------------------------------------------------------------


def test_the_command_line_keeps_the_strategy(two):
    assert two["code"] == 0
    run = two["folder"] / "run"
    assert Plan.read(run / "run.toml").strategy == "fsdp"
    load_model(run / "model", narrows.MODELS)


def test_the_command_line_alone_names_torchrun(capsys, tmp_path):
    assert main([*COMMAND.split(), "--out", str(tmp_path / "run")]) == 2
    assert "torchrun --nproc-per-node 2 -m narrows fit digits" in capsys.readouterr().err
