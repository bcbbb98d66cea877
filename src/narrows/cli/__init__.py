"""The command line: its commands, its exit codes, and one sentence for each error."""

import atexit
import gc
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, CycloptsError, UnusedCliTokensError

from narrows import __version__
from narrows.cli.apply import decode, encode, reconstruct, sample, score
from narrows.cli.fit import fit, resume
from narrows.cli.flags import UsageError
from narrows.cli.show import info, models
from narrows.errors import NarrowsError, ParameterError

__all__ = ["app", "main"]

app = App(
    name="narrows",
    help="Every autoencoder, one interface, proven correct.",
    help_epilogue="Any command takes --debug, which shows where an error came from.",
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
commands: list[Callable[..., None]]
commands = [fit, resume, models, info, reconstruct, encode, decode, score, sample]
for place, command in enumerate(commands):
    app.command(command, sort_key=place)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1 for a failed run, 2 for wrong usage.

    Interrupted, it is 130; terminated, 143.
    """
    atexit.register(gc.freeze)  # a last collection of garbage would take a second
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        with _plain_warnings(), _terminable():
            app(
                words,
                exit_on_error=False,
                print_error=False,
                verbose=False,
                result_action="return_value",
            )
    except SystemExit as error:  # SIGTERM; or rich, where a reader such as `head` has seen enough
        return int(error.code or 0)
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code, text = _judge(error)
        sys.stderr.write(f"narrows: {' '.join(text.split())}\n")
        return code
    return 0


def _judge(error: BaseException) -> tuple[int, str]:
    """Return the exit code for an error, and its sentence."""
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted: {error}." if error.args else "interrupted."
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        return 2, (
            f"'{words}' belongs to no flag. Several values go between commas, as in --hidden "
            "64,32; a switch takes none."
        )
    if isinstance(error, CycloptsError | UsageError | ParameterError):
        return 2, str(error)
    if isinstance(error, NarrowsError):
        return 1, str(error)
    if isinstance(error, OSError):
        return 1, f"{error.filename or 'the system'}: {error.strerror or error}."
    if isinstance(error, MemoryError):
        return 1, f"out of memory {error}: use fewer or smaller samples, or a smaller batch_size."
    return 1, f"{error} ({type(error).__name__}; --debug shows where)"


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command as SIGINT does, so that what was begun is tidied up."""

    def stop(*_: Any) -> None:
        raise SystemExit(143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as one line without their place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        sys.stderr.write(f"narrows: warning: {' '.join(str(message).split())}\n")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
