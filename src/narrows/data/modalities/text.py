"""Text: strings of symbols, of one length or of many, or windows of a long text."""

import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import torch
from torch import Tensor

from narrows.data.frames import is_frame
from narrows.data.modalities.base import Array, Encoded
from narrows.data.modalities.sequence import Sequence, check_windows
from narrows.data.scaling import Range
from narrows.data.symbols import (
    KINDS,
    UNKNOWN,
    code_of,
    codes_of,
    read_tokenizer,
    text_of,
    token_code,
    tokens_of,
)
from narrows.data.texts import read_text
from narrows.data.windows import cut
from narrows.errors import DataError, ParameterError

__all__ = ["Text", "is_text"]

PAD, STRANGE, END, FIRST = range(4)
"""Numbers of padding, of unknown symbols, of the end of a string, and of the first symbol."""
NOTHING, STOP = -1, -2
"""What stands for padding and the end among the codes of symbols."""


@dataclass(frozen=True)
class Text(Sequence):
    """Strings: 0 is padding, 1 an unknown symbol, 2 the end of each string, then the vocabulary.

    `read` returns the codes of the symbols as "values", which do not depend on the vocabulary.

    Attributes:
        kind: what the symbols are, one of `KINDS`; "" where a tokeniser makes them.
        tokenizer: it, as JSON.
        vocabulary: the symbols of the training strings, in the order of their codes.
    """

    name = "text"
    architecture = "mlp"
    likelihood = "categorical"
    ends = 1

    kind: str = "characters"
    tokenizer: str = ""
    vocabulary: tuple[str, ...] = ()

    @classmethod
    def describe(
        cls,
        X: Any,
        window: int | None = None,
        stride: int | None = None,
        symbols: str | None = None,
    ) -> "Text":
        """Note what the symbols are, and how many the longest string has."""
        kind = "characters" if symbols is None else symbols
        tokenizer = "" if kind in KINDS else read_tokenizer(kind)
        if tokenizer and window is not None:
            raise ParameterError(
                "window cuts texts between characters, bytes or atoms, not between the tokens of "
                "a tokenizer file. Leave one of them at None."
            )
        window, stride = check_windows(window, stride)
        form = cls(
            kind="" if tokenizer else kind, tokenizer=tokenizer, window=window, stride=stride
        )
        longest = window or max(form.lengths(X))
        return replace(form, shape=(1, longest + cls.ends), center=(0.0,), scale=(1.0,))

    def read(self, X: Any, owner: str) -> Array:
        """Check the strings and their lengths; return codes, each string with its end."""
        coded = self._coded(X)
        steps = self.shape[1] - self.ends
        spans = cut([len(each) for each in coded], self.window, self.stride)
        array = np.empty(
            len(spans), [("values", np.int64, (steps + self.ends, 1)), ("span", np.int64, 3)]
        )
        array["values"], array["span"] = NOTHING, spans
        for values, (i, start, stop) in zip(array["values"][..., 0], spans.tolist(), strict=True):
            length = stop - start
            if length > steps:
                raise DataError(
                    f"String {i} of X has {length} symbols, more than the {steps} of the longest "
                    f"that {owner} was fitted on. Cut it, or fit with window=, which takes any "
                    "length."
                )
            values[:length], values[length] = coded[i][start:stop], STOP
        return array

    def learn(self, array: Array, target: Range) -> "Text":
        """Note the symbols; of bytes, all that there are."""
        if target != "standard":
            raise ParameterError(
                "scaling and output_activation have no effect on text, whose symbols are no "
                "quantities. Leave them at 'auto'."
            )
        codes = np.unique(array["values"])
        codes = codes[codes >= 0]
        if self.kind == "bytes":
            vocabulary = [chr(i) for i in range(256)]
        elif self.tokenizer:
            vocabulary = tokens_of(codes, self.tokenizer)
        else:
            vocabulary = [_symbol(int(code)) for code in codes]
        return replace(self, vocabulary=tuple(vocabulary))

    def counted(self, array: Array, support: str) -> "Text":
        """Return this modality with the number of its symbols."""
        del array, support
        return replace(self, whole=True, levels=self.symbols)

    def encode(self, array: Array) -> Encoded:
        """Return the numbers of the symbols, ``(n, 1, steps)``."""
        ids = self._numbers(array)
        lengths = torch.from_numpy((ids != PAD).sum(1))
        x = torch.from_numpy(ids)[:, None]
        if (lengths == x.shape[2]).all():
            return Encoded(x)
        return Encoded(x, (x != PAD).float(), lengths)

    def target(self, array: Array) -> Tensor:
        """Return the numbers of the symbols as floats, which the likelihood takes."""
        return torch.from_numpy(self._numbers(array)).float()[:, None]

    def decode(self, x: Tensor, like: Any = None, condition: Tensor | None = None) -> Any:
        """Return strings, each up to its end, in a list or in the form of `like`.

        Windows are put together; where they overlap, the earlier one counts.
        """
        del condition
        made = [self._symbols(row) for row in x[:, 0].round().long().tolist()]
        if like is None:
            return [self._text(symbols) for symbols in made]
        whole: list[list[str]] = [[] for _ in self.lengths(like)]
        spans = self.spans(like).tolist()
        for symbols, (own, after) in zip(made, pairwise([*spans, [-1, 0, 0]]), strict=True):
            fresh = after[1] - own[1] if after[0] == own[0] else len(symbols)
            whole[own[0]].extend(symbols[:fresh])
        return _in_form([self._text(symbols) for symbols in whole], like)

    def samples(self, X: Any, owner: str) -> Any:
        """Return the windows of X as strings, or X where its strings are whole."""
        del owner
        if not self.window:
            return strings(X, whole=False)
        coded = self._coded(X)
        return [
            text_of(list(map(_symbol, coded[i][start:stop])), self.kind, "", "surrogateescape")
            for i, start, stop in self.spans(X).tolist()
        ]

    def values(self, array: Array) -> Array:
        """Return each symbol as a unit of its own, ``(n, steps, levels)``."""
        hot = torch.nn.functional.one_hot(self.encode(array).x[:, 0], self.symbols)
        values: Array = hot.to(torch.float32).numpy()
        return values

    def scaled(self, array: Array) -> Array:
        """Return the same: symbols have no units."""
        return self.values(array)

    def unscaled(self, x: Array, like: Any) -> Any:
        """Return the strings whose units come nearest to these."""
        ids = x.reshape(len(x), -1, self.symbols).argmax(2)
        return self.decode(torch.from_numpy(ids)[:, None], like=like)

    def as_batch(self, sample: Any) -> Any:
        """Return a string as a list of one."""
        return [sample] if isinstance(sample, str) else sample

    def lengths(self, X: Any) -> list[int]:
        """Return the number of symbols of each string of X."""
        return [len(each) for each in self._coded(X)]

    def check(self) -> None:
        """Refuse a state whose parts do not fit one another."""
        super().check()
        known = self.kind in KINDS or (self.kind == "" and self.tokenizer)
        texts = all(isinstance(symbol, str) for symbol in self.vocabulary)
        if not known or not texts or self.levels != self.symbols:
            raise DataError("the vocabulary of the modality and its levels do not fit.")

    @property
    def symbols(self) -> int:
        """How many symbols there are: those of the vocabulary, and three with a meaning."""
        return FIRST + len(self.vocabulary)

    @property
    def log_units(self) -> Tensor:
        """Zero: symbols have no units."""
        return torch.zeros(1, 1)

    def _coded(self, X: Any) -> list[Array]:
        texts = strings(X, whole=self.window > 0)
        return [
            codes_of(text, self.kind, self.tokenizer, f"String {i} of X")
            for i, text in enumerate(texts)
        ]

    def _numbers(self, array: Array) -> Array:
        """Return the numbers of the symbols, ``(n, steps)``."""
        values = array["values"][..., 0]
        known = np.array(
            [token_code(s, self.tokenizer) for s in self.vocabulary]
            if self.tokenizer
            else [code_of(s) for s in self.vocabulary],
            np.int64,
        )
        place = np.searchsorted(known, values).clip(0, max(len(known) - 1, 0))
        found = known[place] == values if len(known) else np.zeros(values.shape, bool)
        ids = np.where(found, FIRST + place, STRANGE)
        return np.where(values == NOTHING, PAD, np.where(values == STOP, END, ids))

    def _symbols(self, ids: list[int]) -> list[str]:
        """Return the symbols of these numbers, up to the end, which the last step can only be."""
        ids = ids[: ids.index(END)] if END in ids else ids[:-1]
        return [UNKNOWN if i == STRANGE else self.vocabulary[i - FIRST] for i in ids if i != PAD]

    def _text(self, symbols: list[str]) -> str:
        return text_of(symbols, self.kind, self.tokenizer)

    def _single(self, X: Any) -> bool:
        return self.window > 0 and isinstance(X, str | os.PathLike)


def is_text(X: Any) -> bool:
    """Tell whether X is a string or a file, or holds strings on its one axis."""
    if isinstance(X, str | os.PathLike):
        return True
    if isinstance(X, np.ndarray):
        return X.ndim == 1 and (X.dtype.kind in "US" or _any_string(X))
    if nw.dependencies.is_into_series(X):
        return _any_string(X.to_list())
    return isinstance(X, list | tuple) and _any_string(X)


def strings(X: Any, whole: bool) -> list[str]:
    """Return the strings of X: a list, an array, a series, a frame's one column, or a file.

    A file has one string a line, or is one where it is taken as a `whole`.

    Raises:
        DataError: X is of another form, or an entry is no string.
    """
    if isinstance(X, str | os.PathLike):
        if isinstance(X, str) and not whole:
            raise DataError(
                "X is one string. Give a list of strings, or set window= to cut it into pieces; "
                "a file is given as a pathlib.Path."
            )
        text = X if isinstance(X, str) else read_text(Path(X), whole)
        return [text] if isinstance(text, str) else text
    items = _items(X)
    for i, item in enumerate(items):
        if not isinstance(item, str):
            missing = item is None or (isinstance(item, float) and item != item)
            kind = "missing" if missing else f"of type {type(item).__name__}"
            remedy = "put '' in its place" if missing else "convert it with str"
            if isinstance(item, bytes):
                remedy = "decode it (symbols='bytes' reads the bytes of strings)"
            raise DataError(
                f"Entry {i} of X is {kind}; text must be strings. Drop it, or {remedy}."
            )
    if not len(items):
        raise DataError("Found a list with 0 sample(s) in X while a minimum of 1 is required.")
    return items


def _items(X: Any) -> list[Any]:
    if is_frame(X):
        frame = nw.from_native(X, eager_only=True)
        if len(frame.columns) != 1:
            raise DataError(
                f"modality='text' needs one column of strings; X has {len(frame.columns)}. Give "
                "that column alone."
            )
        return list(frame[frame.columns[0]].to_list())
    if nw.dependencies.is_into_series(X):
        return list(nw.from_native(X, series_only=True).to_list())
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    if (isinstance(X, np.ndarray) and X.ndim == 1) or isinstance(X, list | tuple):
        return list(X.tolist() if isinstance(X, np.ndarray) else X)
    raise DataError(
        "modality='text' needs a list of strings, a series or a frame with one column of them, or "
        f"the pathlib.Path of a text file; X is {type(X).__name__}."
    )


def _any_string(items: Any) -> bool:
    return any(isinstance(item, str | bytes) for item in items)


def _in_form(texts: list[str], like: Any) -> Any:
    """Return strings in the form of `like`."""
    if isinstance(like, str):
        return texts[0]
    if isinstance(like, np.ndarray):
        kind = object if like.dtype == object else np.str_
        return np.array(texts, kind).reshape(like.shape)
    if is_frame(like):
        frame = nw.from_native(like, eager_only=True)
        column = frame[frame.columns[0]]
        return frame.with_columns(_column(texts, column)).to_native()
    if nw.dependencies.is_into_series(like):
        return _column(texts, nw.from_native(like, series_only=True)).to_native()
    return texts


def _column(texts: list[str], like: Any) -> Any:
    """Return a column of strings with name, kind and index of another."""
    backend = like.implementation
    named = isinstance(like.dtype, nw.Enum | nw.Categorical)  # new strings need not be among them
    dtype = nw.String() if named else like.dtype
    made = nw.new_series(like.name, texts, dtype, backend=backend)
    if backend.is_pandas():
        native = made.to_native()
        native.index = like.to_native().index
        made = nw.from_native(native, series_only=True)
    return made


def _symbol(code: int) -> str:
    code = int(code)
    return code.to_bytes(max(1, -(-code.bit_length() // 8))).decode("utf-8")
