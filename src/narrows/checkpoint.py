"""Training that lasts: its whole state in a folder, and resumption exactly where it stopped."""

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

from narrows.errors import FileError, ModelFileError, NonFiniteError, ParameterError
from narrows.net import Terms
from narrows.signals import Held
from narrows.storage import locked, recover
from narrows.training import Stopped, Training, group

__all__ = ["KEPT", "interval", "kept", "resume", "write"]

KEPT = 3
"""How many checkpoints stay in the folder."""
FREE = {"verbose"}
"""Fields that may change between a run and its resumption."""
LOOK = 16
"""Steps after which several processes tell one another of signals."""
SECONDS = {"s": 1, "min": 60, "h": 3600}


Run = Callable[[Callable[[Training], None]], object]
"""Trains to the end, and calls what it is given after every epoch."""


@contextmanager
def kept(
    training: Training, folder: str | Path | None, every: tuple[float, float], resume_run: bool
) -> Iterator[Run]:
    """Yield what runs a training, with its state in a folder that no other run may write to.

    SIGINT and SIGTERM act after the step under way, once the state is saved, and a second one at
    once. Several processes look every `LOOK` steps whether one of them got a signal; then all end.
    Of a save that fails a warning tells, and training goes on.

    Args:
        training: the run, before its first step.
        folder: where the newest `KEPT` checkpoints are; None keeps none.
        every: what `interval` returns; the end of the run is saved in any case.
        resume_run: go on from the newest checkpoint, if there is one.

    Raises:
        FileError: the folder cannot be written, is in use, or holds a run that shall not be
            resumed, or not like this.
        ModelFileError: every checkpoint is damaged.
    """
    if folder is None:
        yield training.run
        return
    folder, first = Path(folder), training.processes.rank == 0
    with ExitStack() as stack:
        ours = folder.exists
        with training.processes.in_turn():
            if first:
                _make(folder)
                ours = stack.enter_context(locked(folder))
                recover(folder)
            if resume_run:
                resume(folder, training)
            elif first and _checkpoints(folder):
                raise FileError(
                    f"{folder} holds the checkpoints of a run. Go on from them with resume=True, "
                    "or choose another folder."
                )
        saves = training.processes.saves
        run = _Saver(training, folder, every, ours).run if saves else training.run
        yield run if training.processes.count == 1 else partial(_run_together, training, run)


def interval(every: int | str) -> tuple[float, float]:
    """Return after how many steps, and after how many seconds, a checkpoint is due.

    Args:
        every: "epoch" for the end of every epoch (neither is ever due), a number of steps, or a
            time in "s", "min" or "h", such as "10 min".

    Raises:
        ParameterError: it is none of these.
    """
    if every == "epoch":
        return inf, inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h)|(\d+)", str(every))
    number, unit, steps = found.groups() if found else ("0", "s", None)
    due = (int(steps), inf) if steps else (inf, float(number) * SECONDS[unit])
    if not min(due):
        raise ParameterError(
            "checkpoint_every must be 'epoch', a number of steps, or a time such as '30 s', "
            f"'10 min' or '2 h'. Got {every!r} instead."
        )
    return due


def write(folder: Path, training: Training) -> None:
    """Write the state as ``epoch-000012``, or ``epoch-000012-step-000345`` within the next epoch.

    All but the newest few go, and any that are ahead of it: the run has gone back.

    Raises:
        FileError: it cannot be written; earlier checkpoints are untouched.
        NonFiniteError: the state is not sound.
    """
    training.recovery.check()
    path = folder / f"epoch-{training.epoch:06d}"
    if training.position:
        path = path.with_name(f"{path.name}-step-{training.position:06d}")
    state, tensors = {"identity": identity(training), **training.numbers()}, training.tensors()
    good = training.recovery.good
    if good and (training.position or state["history"] != good[1]["history"]):
        state["good"] = good[1]
        tensors |= {f"good.{k}": v for k, v in good[0].items()}
    training.processes.write(path, state, tensors)
    if training.processes.rank:
        return
    known = _checkpoints(folder)
    place = known.index(path) + 1
    for other in known[: max(0, place - KEPT)] + known[place:]:
        shutil.rmtree(other, ignore_errors=True)


def resume(folder: Path, training: Training) -> int:
    """Load the newest sound checkpoint into `training`; return its epoch, 0 where there is none.

    Raises:
        ModelFileError: every checkpoint is damaged.
        FileError: the checkpoint is of other fields or other data; it names them.
    """
    found = _checkpoints(folder)
    for path in reversed(found):
        try:
            state, tensors = training.processes.read(path, training.nets)
        except ModelFileError as error:
            warnings.warn(f"{error} Going back to the checkpoint before it.", stacklevel=2)
            continue
        _compare(path, state["identity"], identity(training))
        training.load(tensors, state)
        if "good" in state:
            training.recovery.good = group(tensors, "good"), state["good"]
        elif not training.position:
            training.recovery.good = training.snapshot()
        return training.epoch
    if found:
        raise ModelFileError(
            f"All {len(found)} checkpoints in {folder} are damaged. Remove the folder to start "
            "anew."
        )
    return 0


def identity(training: Training) -> dict[str, Any]:
    """Return what must be equal for a resumption to be exact: class, fields and data."""
    sources = [source for source in (training.source, training.validation) if source is not None]
    model = training.model
    fields = {k: v for k, v in model.fields().items() if k not in FREE}
    data = [source.digest for source in sources]
    known = {"class": type(model).__name__, **fields, "data": data}
    return dict(json.loads(json.dumps(known)))  # as it comes back from a file


class _Saver:
    """Saves a run whenever that is due.

    Args:
        training: the run.
        folder: where to.
        every: after so many steps, or so many seconds, a checkpoint is due; with both infinite, at
            the end of every epoch.
        ours: tells whether the folder is still there, and the same.
    """

    def __init__(
        self,
        training: Training,
        folder: Path,
        every: tuple[float, float],
        ours: Callable[[], bool],
    ) -> None:
        self.training, self.folder, self.ours = training, folder, ours
        self.steps, self.seconds = every
        self.done, self.since = 0, time.monotonic()
        self.failing = False

    def run(self, report: Callable[[Training], None]) -> None:
        """Train to the end; `report` is called after every epoch, once it is saved."""

        def after_epoch(training: Training) -> None:
            if self.steps == self.seconds or self.due or training.over:
                self.write()
            report(training)
            if training.processes.decided(training.ending):  # by a callback: that was the last
                self.write()

        self.training.after_step.append(self.after_step)
        if self.training.processes.count > 1:  # `_run_together` holds signals
            try:
                self.training.run(after_epoch)
            except Stopped:
                self.write()
                raise
            return
        with Held(self.training.stop) as signals:
            finished = False
            while not finished:
                try:
                    self.training.run(after_epoch)
                    finished = True
                except Stopped:
                    self.training.stopping = False
                    with suppress(NonFiniteError):  # the checkpoint before is the newest sound one
                        self.write()
                signals.release()

    @property
    def due(self) -> bool:
        """Whether there were enough steps, or seconds, since the last checkpoint."""
        if self.seconds == inf:
            return self.done >= self.steps
        return self.training.processes.decided(time.monotonic() - self.since >= self.seconds)

    def after_step(self, terms: Terms) -> None:
        """Save what is due."""
        self.done += 1
        if self.due:
            self.write()

    def write(self) -> None:
        """Write a checkpoint; where that fails, say so once, and let training go on.

        Several processes must go back from a state that is not sound alike, so those that look
        at it here wait until all of them find out.
        """
        together = self.training.processes.count > 1
        try:
            if not self.training.processes.decided(self.ours()):
                raise FileError(
                    f"The folder {self.folder} has vanished, or is another one by now."
                )
            with suppress(NonFiniteError) if together else nullcontext():
                write(self.folder, self.training)
            self.failing = False
        except FileError as error:
            if not self.failing:
                warnings.warn(
                    f"{error} Training goes on, and tries to save its state the next time.",
                    stacklevel=2,
                )
            self.failing = True
        self.done, self.since = 0, time.monotonic()


def _run_together(training: Training, run: Run, report: Callable[[Training], None]) -> None:
    """Run a training that ends in all processes at the same step, if one of them gets a signal.

    Raises:
        KeyboardInterrupt: another one got it.
    """
    steps = count(1)

    def look(terms: Terms) -> None:
        del terms
        if next(steps) % LOOK == 0 and training.processes.any(bool(signals.caught)):
            training.stop()

    with Held(lambda: None, repeated=True) as signals:
        training.after_step.insert(0, look)
        with suppress(Stopped):
            run(report)
        if training.processes.any(bool(signals.caught)):
            training.stopping = False
            signals.release()
            raise KeyboardInterrupt


def _make(folder: Path) -> None:
    """Make a folder, and find out whether it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").mkdir(exist_ok=True)
        (folder / ".probe").rmdir()
    except OSError as error:
        raise FileError(f"Cannot make the folder {folder}: {error.strerror or error}.") from error


def _compare(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [k for k in {**saved, **now} if saved.get(k) != now.get(k)]
    if differing:
        shown = ", ".join(
            "the data" if k == "data" else f"{k} ({saved.get(k)!r} there, {now.get(k)!r} here)"
            for k in differing
        )
        raise FileError(
            f"{path} cannot be resumed: it differs in {shown}. Set them back, or start "
            "anew in another folder."
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, from the first to the newest."""
    found = (path for path in folder.glob("epoch-*") if path.is_dir())
    return sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
