"""What every modality is: learned at fit, it turns the user's data into tensors and back."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from narrows.data.conditions import CONDITIONS, Condition
from narrows.data.scaling import Range
from narrows.data.sources import SLICE, InMemory, Units, at_once
from narrows.data.splits import Rows, split
from narrows.data.whole import check_whole
from narrows.errors import DataError

__all__ = ["MODALITIES", "Array", "Encoded", "Modality"]

Array = NDArray[Any]
MODALITIES: dict[str, type["Modality"]] = {}
"""Every modality by its name."""


class Encoded(NamedTuple):
    """Samples as tensors, in the modality's units; the samples are on the first axis.

    Attributes:
        x: ``(n, *shape)``.
        mask: 1 where observed, shaped like x; None where all of it is.
        lengths: number of true steps of each padded sequence, ``(n,)``; None where none is padded.
    """

    x: Tensor
    mask: Tensor | None = None
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Modality(ABC):
    """What was learned of the user's data: plain numbers and strings, so that JSON can hold it.

    It is made in three steps: `describe` notes the form of the data, `read` checks data against
    it and returns one array with the samples first, `learn` fits the scaling on the training
    rows of that array. From then on `encode` and `decode` go between such arrays and tensors.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    """The architecture where the user names none."""
    likelihood: ClassVar[str] = "gaussian"
    """The likelihood where the user names none."""

    most: ClassVar[int] = SLICE
    """Samples that pass through a net at once outside of training, at most."""

    shape: tuple[int, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    condition: Condition | None = None
    """What is known of each sample beside it, for models that take it."""
    log: bool = False
    """Whether center and scale are those of log(1 + x)."""
    whole: bool = False
    """Whether the likelihood explains whole numbers as they are; only the encoder sees x."""
    levels: int = 0
    """How many whole numbers there are, from 0; 0 where there is no end."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls):  # a base has none
            MODALITIES[cls.name] = cls

    @classmethod
    @abstractmethod
    def describe(cls, X: Any) -> "Modality":
        """Note the form of the data: shape, names, types.

        A modality may name some of the estimator's fields as further arguments, None by default.
        """

    @abstractmethod
    def read(self, X: Any, owner: str) -> Array:
        """Check data against this form; return one array, NaN where missing.

        Raises:
            DataError: with what was found and what `owner`, the model, expects.
        """

    @abstractmethod
    def learn(self, array: Array, target: Range) -> "Modality":
        """Return this modality with its scaling fitted to the rows of `array`."""

    @abstractmethod
    def encode(self, array: Array) -> Encoded:
        """Return the samples of such an array as tensors."""

    def rest(self, array: Array) -> tuple[Encoded, Units | None]:
        """Return the samples as they rest in memory while a net sees some of them at a time.

        Returns:
            The samples, and what makes values of x where they are bytes.
        """
        return self.encode(array), None

    @property
    def at_once(self) -> int:
        """How many samples pass through a net at once outside of training."""
        return at_once(self.shape, self.most)

    def split(
        self, array: Array, fraction: float, how: str, seed: int, groups: ArrayLike | None = None
    ) -> tuple[Rows, Rows]:
        """Return the rows of `array` to train on, and those held out: no row is in both."""
        return split(len(array), fraction, how, seed, groups)

    def counted(self, array: Array, support: str) -> "Modality":
        """Return this modality for a likelihood of this support, once it is learned.

        Raises:
            DataError: the likelihood explains whole numbers, and these are others.
        """
        if support not in ("counts", "levels"):
            return self
        whole = replace(self, whole=True)
        highest = int(check_whole(whole.explained.encode(array).x, 0))
        if array.dtype == np.uint8 and highest > 127:
            highest = 255
        return replace(whole, levels=highest + 1 if support == "levels" else 0)

    @property
    def explained(self) -> "Modality":
        """The modality of what the likelihood explains: this one, or unscaled whole numbers."""
        if not self.whole:
            return self
        n = len(self.center)
        return replace(self, center=(0.0,) * n, scale=(1.0,) * n, log=False)

    def target(self, array: Array) -> Tensor | None:
        """Return what the likelihood explains, shaped like x; None where it is x.

        Raises:
            DataError: it must be whole numbers, and is not.
        """
        if not self.whole:
            return None
        values = self.explained.encode(array).x
        check_whole(values, self.levels)
        return values

    @abstractmethod
    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Return samples in the user's own type, shape and units.

        `like` lends its row index, and the columns that are given; else `condition` does.
        """

    def given(self, array: Array, y: Any) -> Any:
        """Return the users' conditions of the rows of `array`: columns of it, or y."""
        columns = () if self.condition is None else self.condition.columns
        return array[:, columns] if columns else y

    def conditions(self, array: Array, y: Any) -> tuple[Tensor | None, Tensor | None]:
        """Return the conditions of the rows of `array`, and which are known; None without any."""
        if self.condition is None:
            return None, None
        return self.condition.encode(self.given(array, y), len(array))

    def samples(self, X: Any, owner: str) -> Any:
        """Return X with one sample an entry, in a form that `read` knows: long data in pieces."""
        del owner
        return X

    def labelled(self, codes: Array, X: Any) -> Any:
        """Return codes as a pandas frame with a row for each sample, or as they are.

        They are left where the samples are the rows of X.
        """
        del X
        return codes

    def values(self, array: Array) -> Array:
        """Return what `read` returned as quantities, samples first, NaN where missing."""
        return array

    def scaled(self, array: Array) -> Array:
        """Return what `read` returned in the units of the model, NaN where missing."""
        x, mask, _ = self.encode(array)
        scaled: Array = (x if mask is None else x.masked_fill(mask == 0, torch.nan)).numpy()
        return scaled

    def unscaled(self, x: Array, like: Any) -> Any:
        """Return quantities ``(n, values)`` in the units of the model as samples like these."""
        return self.decode(torch.from_numpy(x).view(-1, *self.shape), like=like)

    def source(self, array: Array, y: Any = None) -> InMemory:
        """Return the rows of `array`, and what y tells of them, as a source."""
        (x, mask, lengths), units = self.rest(array)
        condition, known = self.conditions(array, y)
        target = self.target(array)
        return InMemory(x, mask, None, condition, known, target, lengths, units=units)

    @abstractmethod
    def as_batch(self, sample: Any) -> Any:
        """Return one sample as data with a single row; data of rows are left as they are."""

    @property
    def symbols(self) -> int:
        """How many symbols there are where x are their numbers; 0 where x are quantities."""
        return 0

    @property
    @abstractmethod
    def log_units(self) -> Tensor:
        """Log of the data's units per unit of x, broadcastable to a sample."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of values in one of the user's samples."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, empty where they have none."""
        return ()

    def state(self) -> dict[str, Any]:
        """Return the modality as JSON data."""
        state = {"name": self.name, **asdict(self)}
        if self.condition is not None:
            state["condition"] |= {"name": self.condition.name}
        return state

    @staticmethod
    def restore(state: dict[str, Any]) -> "Modality":
        """Return the modality that `state` describes."""
        fields: dict[str, Any] = _tuples(state)
        if fields.get("condition") is not None:
            condition = _tuples(fields["condition"])
            fields["condition"] = CONDITIONS[str(condition.pop("name"))](**condition)
            fields["condition"].check()
        modality = MODALITIES[str(fields.pop("name"))](**fields)
        modality.check()
        return modality

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another.

        Raises:
            DataError: lengths or types differ.
        """
        numbers = all(isinstance(v, float | int) for v in (*self.center, *self.scale))
        if not numbers or not len(self.center) == len(self.scale) == self.shape[0]:
            raise DataError("center, scale and shape of the modality do not fit one another.")
        if [type(v) for v in (self.log, self.whole, self.levels)] != [bool, bool, int]:
            raise DataError("log, whole and levels of the modality are not of their types.")


def _tuples(state: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in state.items()}
