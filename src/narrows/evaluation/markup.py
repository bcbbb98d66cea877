"""Markup: HTML and SVG elements whose text is always escaped, and numbers as people write them."""

import re
from collections.abc import Iterable
from html import escape
from math import isfinite, isnan, log10

__all__ = [
    "THIN",
    "Child",
    "Markup",
    "broken",
    "join",
    "number",
    "percent",
    "plural",
    "seconds_text",
    "tag",
]

THIN = "\u202f"
"""A narrow space that does not break, between thousands and before units."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
VOID = {"br", "circle", "image", "img", "input", "line", "meta", "path", "rect", "wbr"}


class Markup(str):
    """Text that is markup already; any other text is escaped where it is put into markup."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def tag(name: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element; `class_` sets class, underscores become hyphens, None is left out."""
    parts = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        elif value is not None and value is not False:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            parts.append(f'{attribute}="{escape(text)}"')
    opened = " ".join(parts)
    if name in VOID and not children:
        return Markup(f"<{opened}/>")  # the stroke ends an element of SVG; HTML passes over it
    return Markup(f"<{opened}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Return children one after another, what is not markup escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, str):
        return children if isinstance(children, Markup) else Markup(escape(children))
    return Markup("".join(join(child) for child in children))


def broken(name: str) -> Markup:
    """Return a name that may go on in a new line before each of its words."""
    return join([[tag("wbr"), word] for word in re.split(r"(?<=[a-z])(?=[A-Z])", name)])


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits: "1 797", "0.0123", "−3.2 × 10⁻⁷"."""
    if isnan(value):
        return "–"
    if not isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    power = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    if power < -4 or power >= max(digits, 7):
        mantissa = f"{value / 10.0**power:.{max(digits - 2, 0)}f}"
        return f"{mantissa}{THIN}×{THIN}10{str(power).translate(SUPERSCRIPTS)}".replace("-", "−")
    places = max(digits - 1 - power, 0)
    text = f"{value:,.{places}f}"
    if float(value).is_integer() and power < digits:
        text = f"{value:,.0f}"
    return text.replace(",", THIN).replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage; nearly all gets up to three digits more than it would."""
    if isnan(share):
        return "–"
    missing = 1 - share
    if digits and 1e-6 < missing < 0.5 * 10.0 ** -(digits + 2):
        digits = -int(log10(missing)) - 1
    return f"{100 * share:.{digits}f}{THIN}%".replace("-", "−")


def plural(count: int, one: str, more: str = "") -> str:
    """Return a count with its noun: "1 row", "1 797 rows"."""
    return f"{number(count, 12)} {one if count == 1 else more or one + 's'}"


def seconds_text(seconds: float) -> str:
    """Return a duration: "0.4 s", "23 s", "4 min 10 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest}{THIN}s"
    return f"{minutes // 60}{THIN}h {minutes % 60}{THIN}min"
