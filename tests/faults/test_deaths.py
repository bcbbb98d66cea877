"""Processes that die: at each call that changes the disk, and by kill -9 at random moments.

A process that has imported everything forks the ones that die.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import builtins, io, json, os, random, signal, sys, time, warnings
from pathlib import Path
from shutil import copytree
sys.path.insert(0, sys.argv[1])
from conftest import X, Run, digest
import narrows
from narrows import checkpoint
folder = Path(sys.argv[2])
expected = Run().fit()  # now all that is imported late is here

def fork(work):
    "Start a process that works and ends."
    if process := os.fork():
        return process
    try:
        work()
    except BaseException as error:
        sys.stderr.write(repr(error))
        os._exit(1)
    os._exit(0)

def ended(process):
    "Return how a process ended, negative for a signal."
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
"""

AT_EVERY_CALL = """
CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")

def arm(k):
    "End the process before its k-th call that changes the disk; a write ends half done."
    count = 0

    def counted(real, torn=None):
        def call(*args, **options):
            nonlocal count
            count += 1
            if count == k:
                if torn:
                    torn(*args)
                os._exit(9)
            return real(*args, **options)

        return call

    class Torn:
        "A file whose write may stop half way."
        def __init__(self, file):
            self.file, self.flush, self.fileno = file, file.flush, file.fileno
            self.write = counted(file.write, self.half)
        def half(self, data):
            self.file.write(data[: len(data) // 2])
            self.flush()
        def __enter__(self):
            return self
        def __exit__(self, *error):
            self.file.close()

    real_open = io.open

    def opened(path, mode="r", *args, **options):
        file = real_open(path, mode, *args, **options)
        return Torn(file) if "w" in mode else file

    io.open = builtins.open = opened
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))

base = folder / "base"
Run().fit(base, checkpoint_every=4)  # its newest is the end; go back to the one within epoch 6
newest = sorted(path.name for path in base.glob("epoch-*"))
os.rename(base / newest[-1], folder / "end")
copytree(base / newest[0], base / "epoch-000001")  # which is dropped
deaths = 0
for k in range(1, 1000):
    place = copytree(base, folder / str(k))
    again = "again" in sys.argv  # a checkpoint of the same name is there already
    if again:
        copytree(folder / "end", place / newest[-1])
        (place / newest[-1] / "state.json").write_text("damaged")

    def work():
        model = Run()
        warnings.simplefilter("ignore")
        write = checkpoint.write
        def armed(*args):
            arm(k)
            write(*args)
        checkpoint.write = armed
        model.fit(place, resume=True)

    status = ended(fork(work))
    if status == 0:
        break
    assert status == 9, status
    deaths += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Run().fit(place, resume=True) == expected, k
    left = os.listdir(place)
    assert all(name.startswith("epoch-") for name in left), left
    assert len(left) <= 4, left  # a run that is over drops none any more
print(json.dumps(deaths))
"""

AT_RANDOM = """
kills = int(sys.argv[3])
OPTIONS = {"latent_dim": 3, "hidden": (16,), "dropout": 0.1, "batch_size": 20}

def train(place, every=7):
    def work():
        model = narrows.VAE(**OPTIONS, epochs=12 * kills, patience=12 * kills - 1)
        model.fit(X, checkpoint=place, resume=True, checkpoint_every=every)
        (folder / (place.name + ".sha256")).write_text(digest(model))
    return work

def newest(place):
    return max((path.name for path in place.glob("epoch-*")), default="")

assert ended(fork(train(folder / "whole", "1 h"))) == 0
rng, place, at = random.Random(0), folder / "run", []
while len(at) < kills:
    before, process = newest(place), fork(train(place))
    while newest(place) <= before:
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended before it saved anything"
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL, "it ended before the kill"
    at.append(newest(place))
assert ended(fork(train(place, "1 h"))) == 0
equal = (folder / "whole.sha256").read_text() == (folder / "run.sha256").read_text()
print(json.dumps([at, equal]))
"""


def play(script, *words):
    """Run a script in a fresh process; return what it prints, as JSON."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", COMMON + script, here, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.wide
@pytest.mark.parametrize("place", ["new", "again"])
def test_death_at_any_call_of_a_save(place, tmp_path):
    """The next start finds a sound checkpoint, leaves no scraps, and ends as if nothing was."""
    assert play(AT_EVERY_CALL, tmp_path, place) >= 20


def check_kills(count, folder):
    at, equal = play(AT_RANDOM, folder, count)
    assert equal
    assert len(at) == count
    assert at == sorted(at)
    assert len(set(at)) == count  # each of them came further


@pytest.mark.wide
def test_a_few_kills_change_nothing(tmp_path):
    check_kills(4, tmp_path)


@pytest.mark.slow
def test_50_kills_change_nothing(tmp_path):
    check_kills(50, tmp_path)
