"""One family of errors: what was found, where, what was expected and what to do."""

import difflib
from collections.abc import Iterable

__all__ = [
    "ContextError",
    "DataError",
    "DataTypeError",
    "FileError",
    "MissingExtraError",
    "ModelFileError",
    "NarrowsError",
    "NonFiniteError",
    "ParameterError",
    "PeerError",
    "TrainingError",
    "nearest",
]


class NarrowsError(Exception):
    """Base of every error that narrows raises on purpose."""


class ParameterError(NarrowsError, ValueError):
    """A parameter has a value, or meets another one, that cannot work."""


class ContextError(ParameterError, AttributeError):
    """A bare code is to be decoded by a model whose decoder also needs the sample.

    It is an AttributeError too: such a model has no `inverse_transform`, as `hasattr` tells.
    """


class DataError(NarrowsError, ValueError):
    """The data cannot be used as given."""


class DataTypeError(NarrowsError, TypeError):
    """The data are of a type that cannot be used."""


class FileError(NarrowsError, OSError):
    """A file or folder cannot be read or written."""


class ModelFileError(FileError):
    """A model folder or checkpoint is missing, damaged, too new or unknown."""


class TrainingError(NarrowsError, RuntimeError):
    """Training cannot go on."""


class PeerError(TrainingError):
    """Another process of the run has ended or cannot be reached."""


class NonFiniteError(TrainingError):
    """A loss, a gradient or a weight became infinite or not a number."""


class MissingExtraError(NarrowsError, ImportError):
    """An optional dependency is not installed; the message is the line that installs it."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option most like `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
