"""Files are whole or absent; a model folder is complete, unharmed and known, or refused."""

import builtins
import hashlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from sklearn.exceptions import NotFittedError
from torch import nn

import narrows
from narrows.errors import FileError, ModelFileError
from narrows.parts.latents import LATENTS, Latent, latent
from narrows.parts.likelihoods import LIKELIHOODS, Gaussian, likelihood
from narrows.parts.networks import ARCHITECTURES, Decoder, Encoder, architecture
from narrows.parts.penalties import PENALTIES, penalty
from narrows.storage import atomic_write, read_folder, write_folder

OLD, NEW = {"a": b"old" * 900, "b": b"x" * 10}, {"a": b"new!" * 800, "b": b"y" * 20}


class Crash(BaseException):
    """The process dies here: nothing catches it, nothing cleans up."""


@pytest.fixture
def calls(monkeypatch):
    """Note every call that changes the disk, and let the k-th raise an error."""

    class Calls(list):
        fatal, error, armed = 0, Crash, False

        def note(self, name):
            if not self.armed:
                return
            self.append(name)
            if len(self) == self.fatal:
                raise self.error() if self.error is Crash else self.error(28, "No space left")

        def arm(self, fatal, error=Crash):
            self.clear()
            self.fatal, self.error, self.armed = fatal, error, True

        def disarm(self):
            self.armed = False

    seen = Calls()

    class File:
        """A file that dies in the middle of a write."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            try:
                seen.note("write")
            except BaseException:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                raise
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    real_open, real_fsync = io.open, os.fsync

    def opened(path, mode="r", *args, **options):
        if set(mode).isdisjoint("wax+"):
            return real_open(path, mode, *args, **options)
        seen.note("open")
        return File(real_open(path, mode, *args, **options))

    def fsync(handle):
        seen.note("fsync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "fsync file")
        return real_fsync(handle)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("replace", "rename", "mkdir", "unlink", "rmdir", "chmod"):
        monkeypatch.setattr(os, name, noted(seen, name, getattr(os, name)))
    return seen


def noted(seen, name, real):
    def call(*args, **options):
        seen.note(name)
        return real(*args, **options)

    return call


# -- one file ---------------------------------------------------------------------------------


def test_atomic_write_writes_bytes_and_text(tmp_path):
    atomic_write(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    atomic_write(str(tmp_path / "a"), "é")
    assert (tmp_path / "a").read_bytes() == "é".encode()
    assert os.listdir(tmp_path) == ["a"]


def test_atomic_write_syncs_the_file_before_the_rename_and_the_folder_after(tmp_path, calls):
    calls.arm(0)
    atomic_write(tmp_path / "a", b"content")
    assert calls == ["open", "write", "fsync file", "replace", "fsync folder"]


@pytest.mark.parametrize("before", [b"old content", None])
@pytest.mark.parametrize("error", [Crash, OSError])
@pytest.mark.parametrize("k", range(1, 6))
def test_a_crash_at_any_call_leaves_the_old_or_the_new_content(k, error, before, tmp_path, calls):
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)
    calls.arm(k, error)
    with pytest.raises(Crash if error is Crash else FileError):
        atomic_write(path, b"the new content")
    calls.disarm()
    found = path.read_bytes() if path.exists() else None
    assert found == (b"the new content" if k == 5 else before)
    if error is OSError:  # no crash: it cleans up
        assert set(os.listdir(tmp_path)) <= {"a"}
    atomic_write(path, b"again")  # and nothing needs to be mended by hand
    assert path.read_bytes() == b"again"


@pytest.mark.parametrize("k", range(1, 5))
def test_a_write_that_fails_says_what_where_and_what_to_do(k, tmp_path, calls):
    calls.arm(k, OSError)
    with pytest.raises(
        FileError, match=r"Cannot write .*/a \(9 bytes\): No space left.* Free space"
    ):
        atomic_write(tmp_path / "a", b"123456789")


def test_a_missing_folder_is_an_error_of_the_file(tmp_path):
    with pytest.raises(FileError, match=r"Cannot write .*nowhere/a.*No such file or directory"):
        atomic_write(tmp_path / "nowhere" / "a", b"")


def test_content_may_be_written_piece_by_piece(tmp_path):
    atomic_write(tmp_path / "a", lambda file: [file.write(b"one, "), file.write(b"two")])
    assert (tmp_path / "a").read_bytes() == b"one, two"

    def fail(file):
        file.write(b"three")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        atomic_write(tmp_path / "a", fail)
    assert (tmp_path / "a").read_bytes() == b"one, two"
    assert os.listdir(tmp_path) == ["a"]


# -- one folder -------------------------------------------------------------------------------


def crash_points(tmp_path, calls, error):
    """Write a folder over another with a failure at every call; yield what is left."""
    for k in range(1, 200):
        path = tmp_path / str(k) / "model"
        write_folder(path, OLD)
        calls.arm(k, error)
        try:
            write_folder(path, NEW, overwrite=True)
            done = len(calls) < k
        except (Crash, FileError):
            done = False
        calls.disarm()
        if done:
            return
        yield path
    raise AssertionError("it never ends")


@pytest.mark.parametrize("error", [Crash, OSError])
def test_a_crash_at_any_call_leaves_the_old_or_the_new_folder(error, tmp_path, calls):
    left = [read_folder(path) for path in crash_points(tmp_path, calls, error)]
    assert len(left) > 15
    assert all(files in (OLD, NEW) for files in left)
    assert OLD in left
    assert left[-1] == NEW
    if error is Crash:  # from one rename on it is the new one
        assert left[left.index(NEW) :].count(OLD) == 0


def test_after_an_error_the_folder_is_still_at_its_place(tmp_path, calls):
    for path in crash_points(tmp_path, calls, OSError):
        assert (path / "a").read_bytes() in (OLD["a"], NEW["a"])


def test_the_write_after_a_crash_leaves_nothing_behind(tmp_path, calls):
    for path in crash_points(tmp_path, calls, Crash):
        write_folder(path, NEW, overwrite=True)
        assert read_folder(path) == NEW
        assert os.listdir(path.parent) == ["model"]
        assert sorted(os.listdir(path)) == ["a", "b", "manifest.json"]


def test_a_crash_in_a_first_write_leaves_no_folder_or_all_of_it(tmp_path, calls):
    for k in range(1, 100):
        path = tmp_path / str(k) / "model"
        calls.arm(k)
        try:
            write_folder(path, NEW)
            calls.disarm()
            break
        except Crash:
            calls.disarm()
        assert not path.exists() or read_folder(path) == NEW
    assert k > 10


def test_every_file_is_synced_before_the_folder_gets_its_name(tmp_path, calls):
    calls.arm(0)
    write_folder(tmp_path / "model", NEW)
    last = len(calls) - 1 - calls[::-1].index("replace")
    assert calls[:last].count("fsync file") == calls[:last].count("write") == 3
    assert "fsync folder" in calls[last:]


def test_a_folder_is_not_overwritten_unasked(tmp_path):
    write_folder(tmp_path / "model", OLD)
    with pytest.raises(FileError, match=r"model exists already.*overwrite=True"):
        write_folder(tmp_path / "model", NEW)
    assert read_folder(tmp_path / "model") == OLD


KILLED = """
import sys
from pathlib import Path
from narrows.storage import write_folder
path = Path(sys.argv[1])
for i in range(100000):
    data = bytes([i % 256]) * 200_000
    write_folder(path, {"a": data, "b": data}, overwrite=True)
    print(i, flush=True)
"""


@pytest.mark.slow
def test_kill_9_while_saving_never_loses_the_folder(tmp_path):
    rng = np.random.default_rng(0)
    for trial in range(10):
        path = tmp_path / str(trial) / "model"
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()  # the first one is there
        time.sleep(rng.uniform(0, 0.3))
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        files = read_folder(path)
        assert files["a"] == files["b"]
        assert set(files["a"]) == {files["a"][0]}


# -- the model folder -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    X = np.random.default_rng(0).normal(size=(40, 6))
    return narrows.VAE(latent_dim=2, hidden=(4,), epochs=2).fit(X)


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


FILES = ("config.json", "weights.safetensors", "manifest.json")


def same(one, two):
    return np.array_equal(one.transform(np.eye(6)), two.transform(np.eye(6))) and np.array_equal(
        one.score_samples(np.eye(6)), two.score_samples(np.eye(6))
    )


def refused(folder, match):
    with pytest.raises(ModelFileError, match=match):
        narrows.load(folder)


def sign(folder):
    """Give the folder a valid manifest: what an attacker, or another version, would do."""
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": sums}))


def edit(folder, name, change):
    """Change a JSON file of the folder in place, and sign it."""
    data = json.loads((folder / name).read_text())
    found = change(data)
    (folder / name).write_text(json.dumps(data if found is None else found))
    if name != "manifest.json":
        sign(folder)


def test_a_model_is_three_files(folder, model):
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert same(narrows.load(folder), model)
    assert same(narrows.load(str(folder)), model)
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "VAE"
    assert config["fields"]["latent_dim"] == 2
    assert config["versions"]["torch"] == torch.__version__
    assert config["metrics"] == model.history_[-1]


def test_what_was_held_out_is_kept(folder, model):
    loaded = narrows.load(folder)
    assert len(model.held_out_) == 4
    assert np.array_equal(loaded.held_out_, model.held_out_)
    assert loaded.held_out_.dtype == model.held_out_.dtype


def test_a_folder_of_an_earlier_version_without_held_out_rows_loads(folder, model):
    reweigh(folder, lambda tensors: tensors.pop("held_out"))
    loaded = narrows.load(folder)
    assert same(loaded, model)
    loaded.save(folder, overwrite=True)
    assert same(narrows.load(folder), model)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("bit", [0, 6])
def test_a_flipped_bit_is_noticed(name, place, bit, folder):
    data = bytearray((folder / name).read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    (folder / name).write_bytes(data)
    refused(folder, f"{name} is damaged: its SHA-256 is not the manifest's. Restore")


@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_of_the_manifest_is_noticed_or_harmless(bit, folder, model):
    whole = (folder / "manifest.json").read_bytes()
    refusals = 0
    for i in range(0, len(whole), 2):
        data = bytearray(whole)
        data[i] ^= 1 << bit
        (folder / "manifest.json").write_bytes(data)
        try:
            assert same(narrows.load(folder), model)
        except ModelFileError:
            refusals += 1
    assert refusals > 0.8 * len(whole) / 2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    refused(
        folder, f"{name} cannot be read: No such file or directory. The folder is not complete"
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_noticed(name, kept, folder):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(kept * len(data))])
    refused(folder, f"{name} is (damaged|not valid JSON)")


@pytest.mark.parametrize("name", FILES)
def test_appended_bytes_are_noticed(name, folder):
    with (folder / name).open("ab") as file:
        file.write(b"\0" * 16)
    refused(folder, f"{name} is (damaged|not valid JSON)")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_named(name, folder):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, f"{name} cannot be read")


def test_the_files_of_two_models_do_not_mix(folder, tmp_path):
    other = narrows.VAE(latent_dim=2, hidden=(4,), epochs=1).fit(np.eye(6))
    other.save(tmp_path / "other")
    (folder / FILES[1]).write_bytes((tmp_path / "other" / FILES[1]).read_bytes())
    refused(folder, "weights.safetensors is damaged")


def test_a_path_that_does_not_exist_is_named(tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist; expected a folder written by narrows")


def test_an_empty_folder_is_no_model(tmp_path):
    refused(tmp_path, "manifest.json cannot be read")


class Bomb:
    """Unpickling it would leave a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".pt", ".safetensors"])
def test_a_pickle_is_refused_and_never_opened(suffix, tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / f"model{suffix}").write_bytes(pickle.dumps(Bomb(mark)))
    refused(tmp_path / f"model{suffix}", "is a file; expected a folder.* Pickled models are never")
    assert not mark.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_inside_a_folder_is_never_opened(name, folder, tmp_path):
    mark = tmp_path / "mark"
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    if name != "manifest.json":
        sign(folder)
    refused(folder, name)
    assert not mark.exists()


# -- what a signed folder may hold ------------------------------------------------------------


def test_a_newer_format_asks_for_an_upgrade(folder):
    edit(folder, "manifest.json", lambda data: data.update(format=2))
    refused(folder, "has format 2, newer than the 1 that this version of narrows reads. Upgrade")


def test_an_unknown_class_names_the_nearest(folder):
    edit(folder, "config.json", lambda data: data.update({"class": "VEA"}))
    refused(folder, r"class 'VEA', which is not registered. Did you mean 'VAE'\?")


@pytest.mark.parametrize(
    "name", ["os.system", "narrows.models.VAE", "BaseEstimator", "builtins.eval"]
)
def test_a_class_is_one_of_a_closed_list_and_never_imported(name, folder):
    edit(folder, "config.json", lambda data: data.update({"class": name}))
    refused(folder, f"'{name}', which is not registered")


@pytest.mark.parametrize(
    "name",
    [
        "../model/config.json",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "",
        "a\0b",
        "sub/file",
        "x" * 300,
    ],
)
def test_a_manifest_that_points_outside_is_refused(name, folder):
    edit(folder, "manifest.json", lambda data: data["files"].update({name: "0" * 64}))
    refused(folder, "manifest.json|outside the folder|cannot be read")


def put(key, value):
    return lambda data: data.update({key: value})


def put_in(part, key, value):
    return lambda data: data[part].update({key: value})


def drop(*keys):
    def change(data):
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


BAD_MANIFESTS = {
    "format of text": put("format", "1"),
    "no format": put("format", None),
    "files as a list": put("files", ["config.json"]),
    "files as text": put("files", "config.json"),
    "no files": put("files", {}),
    "sum of another type": put_in("files", "config.json", 5),
    "a list": lambda data: [data],
    "nothing": lambda data: 0,
}
BAD_CONFIGS = {
    "a list": lambda data: [data],
    "class as a number": put("class", 5),
    "class as a list": put("class", ["VAE"]),
    "no class": drop("class"),
    "no fields": drop("fields"),
    "fields as a list": put("fields", [1, 2]),
    "fields as text": put("fields", "latent_dim"),
    "an unknown field": put_in("fields", "latent_dims", 3),
    "a value of another type": put_in("fields", "latent_dim", "two"),
    "an impossible value": put_in("fields", "latent_dim", -1),
    "another size": put_in("fields", "latent_dim", 3),
    "an absurd size": put_in("fields", "latent_dim", 10**12),
    "absurd layers": put_in("fields", "hidden", [10**6] * 3),
    "an unknown architecture": put_in("fields", "architecture", "os.system"),
    "no modality": drop("modality"),
    "modality as text": put("modality", "table"),
    "an unknown modality": put_in("modality", "name", "tabel"),
    "an unknown part of the modality": put_in("modality", "extra", 1),
    "no shape": put_in("modality", "shape", []),
    "a shape of text": put_in("modality", "shape", ["a"]),
    "a negative shape": put_in("modality", "shape", [-6]),
    "an absurd shape": put_in("modality", "shape", [10**12]),
    "too few centers": put_in("modality", "center", [0.0]),
    "centers of text": put_in("modality", "center", ["0"] * 6),
    "columns that are not there": put_in("modality", "kept", [0, 1, 2, 3, 4, 99]),
    "no history": drop("history"),
    "a history of text": put("history", "long ago"),
    "a history of numbers": put("history", [1, 2]),
}


@pytest.mark.parametrize("change", BAD_MANIFESTS)
def test_a_manifest_that_is_none_is_refused(change, folder):
    edit(folder, "manifest.json", BAD_MANIFESTS[change])
    refused(folder, "manifest.json|format|holds no|damaged")


@pytest.mark.parametrize("change", BAD_CONFIGS)
def test_a_config_that_is_none_is_refused(change, folder):
    edit(folder, "config.json", BAD_CONFIGS[change])
    refused(folder, "config.json|VAE|class|weights")


GARBAGE = {
    "empty": b"",
    "no JSON": b"{'class': 'VAE'}",
    "binary": bytes(range(256)),
    "not UTF-8": b'{"class": "\xff\xfe"}',
    "deep": b'{"class":' * 100_000,
    "deep list": b"[" * 200_000 + b"]" * 200_000,
    "null": b"null",
    "two objects": b"{}{}",
    "a huge number": b'{"class": 1' + b"0" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_the_place_of_json_is_refused(garbage, name, folder):
    (folder / name).write_bytes(GARBAGE[garbage])
    if name == "config.json":
        sign(folder)
    refused(
        folder, f"{name} is not valid JSON|{name} holds no JSON object|holds no|not registered"
    )


def test_a_key_that_is_written_twice_is_refused(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"class": "Autoencoder",', 1))
    sign(folder)
    refused(folder, "config.json")


def reweigh(folder, change):
    """Change the tensors of the folder, and sign it."""
    tensors = unpack((folder / "weights.safetensors").read_bytes())
    change(tensors)
    (folder / "weights.safetensors").write_bytes(pack(tensors))
    sign(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value, folder):
    def spoil(tensors):
        tensors["net.encoder.1.weight"][0, 0] = value

    reweigh(folder, spoil)
    refused(folder, r"not finite in 'net.encoder.1.weight'")


BAD_TENSORS = {
    "missing": lambda t: t.pop("net.encoder.1.weight"),
    "unknown": lambda t: t.update({"net.extra": torch.zeros(3)}),
    "transposed": lambda t: t.update(
        {"net.encoder.1.weight": t["net.encoder.1.weight"].T.contiguous()}
    ),
    "another size": lambda t: t.update({"net.encoder.1.weight": torch.zeros(4, 7)}),
    "no codes": lambda t: t.pop("codes"),
    "codes of another width": lambda t: t.update(codes=torch.zeros(9, 5)),
    "codes of another rank": lambda t: t.update(codes=torch.zeros(9)),
    "codes of another type": lambda t: t.update(codes=torch.zeros(9, 2, dtype=torch.int64)),
    "held-out rows of another rank": lambda t: t.update(held_out=t["held_out"][:, None]),
    "held-out rows of another type": lambda t: t.update(held_out=t["held_out"].float()),
    "units of another number": lambda t: t.update(unit_kl=torch.zeros(5)),
    "weights of another type": lambda t: t.update(
        {"net.encoder.1.weight": t["net.encoder.1.weight"].long()}
    ),
}


@pytest.mark.parametrize("change", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused(change, folder):
    reweigh(folder, BAD_TENSORS[change])
    refused(folder, "does not fit the class VAE|codes|unit_kl|weights")


def header(text, body=b"", length=None):
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + body


def tensor(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


BAD_SAFETENSORS = {
    "empty": b"",
    "no header": struct.pack("<Q", 0),
    "header of 2^63": header(b"{}", length=2**63),
    "header longer than the file": header(b"{}", length=1000),
    "no JSON": header(b"garbage!"),
    "trailing bytes": header(tensor(), b"\0" * 24),
    "hole": header(tensor(offsets=(8, 16)), b"\0" * 16),
    "negative shape": header(tensor(shape=(-2,)), b"\0" * 8),
    "overflowing shape": header(tensor(shape=(2**62, 8)), b"\0" * 8),
    "offsets beyond the file": header(tensor(offsets=(0, 10**12))),
    "unknown type": header(tensor(dtype="O"), b"\0" * 8),
    "a pickle": pickle.dumps({"a": 1}),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("content", BAD_SAFETENSORS)
def test_a_weights_file_that_is_none_is_refused(content, folder):
    (folder / "weights.safetensors").write_bytes(BAD_SAFETENSORS[content])
    sign(folder)
    refused(folder, "weights.safetensors cannot be read")


def test_a_model_that_asks_for_terabytes_is_refused_before_they_are_taken(folder):
    edit(folder, "config.json", put_in("fields", "hidden", [10**7, 10**7]))
    start = time.perf_counter()
    refused(folder, "weights")
    assert time.perf_counter() - start < 2


def test_refusals_are_errors_of_the_operating_system_and_of_narrows():
    assert issubclass(ModelFileError, OSError)
    assert issubclass(ModelFileError, narrows.errors.NarrowsError)


# -- saving -----------------------------------------------------------------------------------


def test_save_refuses_to_overwrite_and_changes_nothing(folder, model):
    other = narrows.Autoencoder(latent_dim=1, epochs=1).fit(np.eye(6))
    with pytest.raises(FileError, match="exists already"):
        other.save(folder)
    assert same(narrows.load(folder), model)
    other.save(folder, overwrite=True)
    assert isinstance(narrows.load(folder), narrows.Autoencoder)
    assert os.listdir(folder.parent) == ["model"]


def test_save_makes_the_folders_above(tmp_path, model):
    model.save(tmp_path / "a" / "b c" / "modèle")
    assert same(narrows.load(tmp_path / "a" / "b c" / "modèle"), model)


def test_a_place_that_cannot_be_written_is_named(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"Cannot write .*file/model"):
        model.save(tmp_path / "file" / "model")


def test_an_unfitted_model_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        narrows.VAE().save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_fields_set_after_the_fit_do_not_spoil_the_saved_model(tmp_path, model):
    import copy

    twin = copy.deepcopy(model).set_params(hidden=(5, 5), latent_dim=7)
    twin.save(tmp_path / "model")
    assert same(narrows.load(tmp_path / "model"), model)


def test_a_saved_model_can_be_saved_again(folder, model, tmp_path):
    narrows.load(folder).save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


# -- what users bring along -------------------------------------------------------------------


@pytest.fixture
def registries():
    """Forget the parts that a test registers."""
    parts = (ARCHITECTURES, LATENTS, LIKELIHOODS, PENALTIES)
    before = [dict(part) for part in parts]
    yield
    for part, old in zip(parts, before, strict=True):
        part.clear()
        part.update(old)


def test_own_parts_and_an_own_class_survive_saving(registries, tmp_path, wine):
    @architecture
    def wide(sizes, *, dropout=0.0):
        encoder = [nn.Flatten(), nn.Linear(sizes.x[0], 40), nn.Tanh(), nn.Linear(40, sizes.h[0])]
        return Encoder(*encoder), Decoder(nn.Linear(sizes.z[0], sizes.out[0]))

    @latent
    class Rounded(Latent):
        def __init__(self, dim, step=0.5):
            super().__init__(dim)
            self.register_buffer("step", torch.tensor(step))

        def forward(self, h, noise=None):
            z = self.mean(h)
            return z, {"size": z.square().sum(1)}

        def mean(self, h):
            return h + (self.step * (h / self.step).round() - h).detach()

    @likelihood
    class Student(Gaussian):
        def distance(self, mean, x):
            return (1 + (x - mean).square()).log()

    @penalty
    def far(net, step):
        return step.z.abs().amax(1)

    class Mine(narrows.ComposedAutoencoder):
        architecture: str = "wide"
        code: str = "rounded"
        likelihood: str = "student"
        gamma: float = 0.3

        def objective(self, step):
            return {**super().objective(step), "mine": self.gamma * step.h.abs().sum(1)}

    model = Mine(
        latent_dim=2,
        epochs=3,
        gamma=0.5,
        code_options={"step": 0.25},
        penalties={"far": 0.1},
        charges={"size": 0.01},
    ).fit(wine)
    assert {"nll", "size", "far", "mine"} <= set(model.history_[0])
    model.save(tmp_path / "model")
    twin = narrows.load(tmp_path / "model")
    assert type(twin) is Mine
    assert twin.get_params() == model.get_params()
    np.testing.assert_array_equal(twin.transform(wine), model.transform(wine))
    np.testing.assert_array_equal(twin.score_samples(wine), model.score_samples(wine))
    np.testing.assert_array_equal(twin.sample(3), model.sample(3))

    del ARCHITECTURES["wide"]  # as in a process that does not know it
    refused(tmp_path / "model", "architecture.*'wide'")
    del narrows.MODELS["Mine"]
    refused(
        tmp_path / "model", "'Mine', which is not registered. .*Import the module that defines"
    )


def test_an_activation_given_as_a_lambda_is_refused_before_anything_is_saved(wine):
    with pytest.raises(narrows.errors.ParameterError, match="'activation' parameter"):
        narrows.Autoencoder(activation=lambda x: x).fit(wine)
