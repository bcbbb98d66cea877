"""Symbols: what texts are made of, characters, bytes, atoms, or the tokens of a tokeniser."""

import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from narrows.errors import DataError, FileError, MissingExtraError, ParameterError, nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "KINDS",
    "UNKNOWN",
    "Codes",
    "code_of",
    "codes_of",
    "read_tokenizer",
    "text_of",
    "token_code",
    "tokens_of",
]

Codes = NDArray[np.int64]
"""A number for each symbol, which depends on nothing but the symbol."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What stands for a symbol that is not known."""
ATOMS = re.compile(r"\[[!-Z\\^-~]{1,6}\]|Br|Cl|%[0-9][0-9]|.", re.DOTALL)
"""Of SMILES, which are ASCII."""


def _characters(text: str) -> list[str]:
    return list(text)


def _bytes(text: str) -> list[str]:
    return list(text.encode("utf-8", "surrogateescape").decode("latin-1"))


def _smiles(text: str) -> list[str]:
    return ATOMS.findall(text)


KINDS: dict[str, Callable[[str], list[str]]] = {
    "characters": _characters,
    "bytes": _bytes,
    "smiles": _smiles,
}
"""By name: how a text falls into symbols, whose concatenation it is."""


def code_of(symbol: str) -> int:
    """Return a symbol's code: its bytes in UTF-8, of which there are at most 8, as one number."""
    return int.from_bytes(symbol.encode("utf-8"))


def codes_of(text: str, kind: str, tokenizer: str, where: str) -> Codes:
    """Return the codes of a text's symbols, ``(symbols,)``."""
    if tokenizer:
        return np.array(_opened(tokenizer).encode(text).ids, np.int64)
    try:
        text.encode("utf-8", "surrogateescape" if kind == "bytes" else "strict")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (a lone surrogate) at position {error.start}. Read "
            "the text as UTF-8."
        ) from error
    return np.fromiter(map(code_of, KINDS[kind](text)), np.int64)


def text_of(symbols: Sequence[str], kind: str, tokenizer: str, errors: str = "replace") -> str:
    """Return the text that symbols make; what is no UTF-8 among bytes is treated as `errors`."""
    if tokenizer:
        opened = _opened(tokenizer)
        ids = [opened.token_to_id(symbol) for symbol in symbols]
        return str(opened.decode([i for i in ids if i is not None]))
    text = "".join(symbols)
    if kind != "bytes":
        return text
    return text.encode("latin-1", "ignore").decode("utf-8", errors)


def tokens_of(codes: Codes, tokenizer: str) -> list[str]:
    """Return the tokens of these codes."""
    opened = _opened(tokenizer)
    return [str(opened.id_to_token(int(code))) for code in codes]


def token_code(token: str, tokenizer: str) -> int:
    """Return the code of a token."""
    code = _opened(tokenizer).token_to_id(token)
    if code is None:
        raise DataError(f"the tokenizer does not know the token '{token}' of the vocabulary.")
    return code


def read_tokenizer(path: str) -> str:
    """Return the JSON in a file of the tokenizers library.

    Raises:
        ParameterError: there is no such file, nor is it the name of a kind of symbols.
        FileError: the file is another one.
    """
    if not os.path.isfile(path):
        raise ParameterError(
            f"The 'symbols' parameter must be one of {', '.join(map(repr, KINDS))}, or the path "
            f"of a tokenizer file. Got '{path}' instead.{nearest(path, KINDS)}"
        )
    try:
        text = Path(path).read_text("utf-8")
        _opened(text)
    except MissingExtraError:
        raise
    except Exception as error:  # the library raises Exception itself
        line = str(error).partition("\n")[0][:99]
        raise FileError(
            f"'{path}' is no file of the tokenizers library ({line}): save one with "
            "Tokenizer.save, which writes JSON."
        ) from error
    return text


@lru_cache(maxsize=4)
def _opened(text: str) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError(
            "A tokenizer file needs the tokenizers library: pip install 'narrows[text]'"
        ) from error
    return Tokenizer.from_str(text)
