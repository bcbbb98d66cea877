"""What the report shows of series and texts: curves and strings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.evaluation.charts import Line, curves
from narrows.evaluation.evaluate import Examples
from narrows.evaluation.markup import Markup, number, tag
from narrows.evaluation.sections import figure

__all__ = ["beside", "drawn_series", "drawn_strings", "sparks", "strings_beside"]

Array = NDArray[Any]
CHANNELS = 3
"""Channels of a series that are drawn."""
LONGEST = 160
"""Characters of a string that are shown."""
SPARK = (28, 84)
"""Height and width of a small picture of a series."""
KEYS = {"original": "train", "model": "held", "pca": "pca"}
"""Styles of the lines of a chart."""


def beside(
    title: str, some: Examples, columns: Sequence[str], label: Callable[[int], str]
) -> Markup:
    """Draw the first of the samples, and what the model and PCA made of it, channel by channel."""
    kinds = {"pca": some.pca[0], "model": some.model[0], "original": some.original[0]}
    errors = " · ".join(
        f"{text} {number(float(some.errors[key][0]), 3)}"
        for key, text in (("model", "error"), ("pca", "PCA’s"))
    )
    where = label(int(some.rows[0]))
    off = np.nan_to_num(np.abs(kinds["model"] - kinds["original"])).max(0)
    channels = np.sort(np.argsort(-off, kind="stable")[:CHANNELS]).tolist()
    charts = [
        figure(
            _curves(
                [(KEYS[kind], series[:, i]) for kind, series in kinds.items()],
                f"{title.capitalize()}: {columns[i]} of {where} and its reconstructions",
            ),
            columns[i],
        )
        for i in channels
    ]
    head = tag("p", tag("b", title.capitalize()), f" · {where} · {errors}", class_="note")
    return tag("div", head, charts)


def drawn_series(series: Array, columns: Sequence[str], names: Sequence[str]) -> Markup:
    """Draw each of a few series, its channels over one another."""
    charts = []
    for one, name in zip(series, names, strict=True):
        lines = [
            ("held" if i == 0 else "train", one[:, i]) for i in range(one.shape[1])[:CHANNELS]
        ]
        some = ", ".join(columns[: len(lines)])
        charts.append(figure(_curves(lines[::-1], f"{name}: {some}"), name))
    return tag("div", charts, class_="columns three")


def sparks(series: Array) -> NDArray[np.uint8]:
    """Draw one channel of each series ``(n, steps)`` as a small picture, blank where missing."""
    height, width = SPARK
    at = np.linspace(0, series.shape[1] - 1, width).round().astype(int)
    values = series[:, at]
    low, high = (f(values[np.isfinite(values)], initial=0.0) for f in (np.min, np.max))
    row = (high - values) / max(high - low, 1e-9) * (height - 3) + 1
    before = np.concatenate([row[:, :1], row[:, :-1]], 1)
    top, bottom = np.fmin(row, before)[:, None], np.fmax(row, before)[:, None]
    place = np.arange(height)[:, None]
    inked = (place >= top - 0.5) & (place <= bottom + 0.5)
    return np.where(inked[..., None], (11, 110, 143), 255).astype(np.uint8)


def strings_beside(title: str, some: Examples, label: Callable[[int], str]) -> Markup:
    """Show strings and what became of them."""
    rows = []
    for i, row in enumerate(some.rows.tolist()):
        rows.append(tag("tr", tag("th", label(row), scope="rowgroup", colspan=2)))
        for kind, texts in (("original", some.original), ("model", some.model), ("PCA", some.pca)):
            rows.append(tag("tr", tag("th", kind, scope="row"), tag("td", _string(texts[i]))))
    caption = tag("caption", title.capitalize())
    return tag("table", caption, tag("tbody", rows), class_="strings")


def drawn_strings(texts: Sequence[str]) -> Markup:
    """Show strings, one a line."""
    return tag("ul", [tag("li", _string(text)) for text in texts], class_="strings")


def _string(text: str) -> Markup:
    shown = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return tag("code", shown.encode("utf-8", "replace").decode() or "(empty)")


def _curves(pairs: Sequence[tuple[str, Array]], alt: str) -> Markup:
    """Draw series over their steps, without what is missing of them."""
    lines = []
    for style, values in pairs:
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            lines.append(Line(style, known.astype(float), values[known].astype(float), style))
    return curves(lines, alt, whole=True) if lines else tag("p", "Nothing was observed.")
