"""Text files: one string a line, or one string."""

from pathlib import Path

from narrows.data.paths import check, opened, reading, show
from narrows.errors import DataError, FileError

__all__ = ["read_text"]


def read_text(path: Path, whole: bool) -> str | list[str]:
    """Return the text of a file in UTF-8: one string a line, or all of it as one.

    Raises:
        FileError: it is missing, empty, damaged or of another encoding.
    """
    check(path)
    if path.is_dir():
        raise FileError(f"{show(path)} is a folder; a text is a file.")
    with reading(path), opened(path) as stream:
        raw = stream.read()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise DataError(
                f"{show(path)} is not UTF-8 text: line {line} holds the byte "
                f"0x{raw[error.start]:02x}. Save it as UTF-8."
            ) from error
    if "\0" in text:
        raise DataError(f"{show(path)} is no text: it holds NUL bytes.")
    text = text.replace("\r\n", "\n")
    return text if whole else text.removesuffix("\n").split("\n")
