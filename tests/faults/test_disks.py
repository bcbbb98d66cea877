"""Disks that are full, read-only or gone, and folders that two runs want."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
from contextlib import suppress

import pytest

from narrows.errors import FileError
from narrows.storage import locked
from narrows.training import Training

GOES_ON = "Training goes on, and tries to save its state the next time"


@pytest.fixture
def at_epoch(monkeypatch):
    """Return a function that does something when an epoch begins for the first time."""

    def arm(epoch, act):
        run_epoch, to_do = Training.run_epoch, [act]

        def acted(self):
            if self.epoch == epoch and to_do:
                to_do.pop()()
            run_epoch(self)

        monkeypatch.setattr(Training, "run_epoch", acted)

    return arm


@pytest.fixture
def disk(tmp_path):
    """A disk of half a megabyte, which takes a few checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place):
    """Leave no room on a disk."""
    with open(place / "ballast", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_told_once_and_training_goes_on(run, undisturbed, disk, at_epoch, names):
    at_epoch(3, lambda: fill(disk))
    with pytest.warns(UserWarning, match=f"No space left on device.*{GOES_ON}") as told:
        assert run.fit(disk / "run") == undisturbed
    assert len(told) == 1
    assert names(disk / "run") == ["epoch-000001", "epoch-000002", "epoch-000003"]
    (disk / "ballast").unlink()
    assert run.fit(disk / "run", resume=True) == undisturbed


def test_a_disk_with_room_again_is_written_to_again(run, undisturbed, disk, at_epoch, names):
    at_epoch(3, lambda: fill(disk))
    at_epoch(5, (disk / "ballast").unlink)
    with pytest.warns(UserWarning, match=GOES_ON) as told:
        assert run.fit(disk / "run") == undisturbed
    assert len(told) == 1
    assert names(disk / "run") == ["epoch-000002", "epoch-000003", "epoch-000006"]


def test_a_disk_that_turns_read_only(run, undisturbed, disk, at_epoch, names):
    def remount(mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

    at_epoch(3, lambda: remount("ro"))
    with pytest.warns(UserWarning, match=f"Read-only file system.*{GOES_ON}"):
        assert run.fit(disk / "run") == undisturbed
    with pytest.raises(FileError, match=r"Cannot make the folder .*run: Read-only file system"):
        run.fit(disk / "run", resume=True)
    remount("rw")
    assert names(disk / "run") == ["epoch-000001", "epoch-000002", "epoch-000003"]
    assert run.fit(disk / "run", resume=True) == undisturbed


def test_an_error_of_the_disk(run, undisturbed, at_epoch, monkeypatch, names, tmp_path):
    """The same where nothing can be mounted."""

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_epoch(3, lambda: monkeypatch.setattr(os, "fsync", full))
    with pytest.warns(UserWarning, match=f"No space left on device.*{GOES_ON}"):
        assert run.fit(tmp_path) == undisturbed
    assert names(tmp_path) == ["epoch-000001", "epoch-000002", "epoch-000003"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes(replaced, run, undisturbed, at_epoch, tmp_path):
    """It is not made again, and what another run puts in its place is left alone."""
    folder = tmp_path / "run"

    def vanish():
        folder.rename(tmp_path / "elsewhere")
        if replaced:
            folder.mkdir()

    at_epoch(3, vanish)
    with pytest.warns(UserWarning, match=f"run has vanished, or is another one by now. {GOES_ON}"):
        assert run.fit(folder) == undisturbed
    assert not replaced or not any(folder.iterdir())
    assert replaced or not folder.exists()
    assert run.fit(tmp_path / "elsewhere", resume=True) == undisturbed


def test_a_file_system_that_is_gone(run, undisturbed, at_epoch, monkeypatch, tmp_path):
    """As a network's is, whose folder was made anew elsewhere."""

    look = os.stat

    def stale(path, **options):
        if path == tmp_path:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return look(path, **options)

    at_epoch(3, lambda: monkeypatch.setattr(os, "stat", stale))
    with pytest.warns(UserWarning, match=f"has vanished, or is another one by now. {GOES_ON}"):
        assert run.fit(tmp_path) == undisturbed


@pytest.fixture
def without_locks(monkeypatch):
    """Return a function that takes locks from a file system: of folders, or all of them."""
    flock = fcntl.flock

    def arm(files=False):
        def refusing(handle, how):
            if files or stat.S_ISDIR(os.stat(handle).st_mode):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(handle, how)

        monkeypatch.setattr(fcntl, "flock", refusing)

    return arm


def test_where_folders_have_no_locks_a_file_has(run, undisturbed, without_locks, tmp_path):
    without_locks()
    with locked(tmp_path), pytest.raises(FileError, match="Another run is writing to"):
        run.fit(tmp_path)
    assert run.fit(tmp_path) == undisturbed


def test_a_file_system_without_locks_is_told(run, undisturbed, without_locks, tmp_path):
    without_locks(files=True)
    with pytest.warns(UserWarning, match="cannot be locked: see to it that no other run"):
        assert run.fit(tmp_path) == undisturbed


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_do_not_share_a_folder(resume, run, tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(FileError, match=r"Another run is writing to .*: wait for its end, or"):
        run.fit(tmp_path, resume=resume)
    assert not any(tmp_path.iterdir())
    os.close(handle)
    run.fit(tmp_path, resume=resume)
