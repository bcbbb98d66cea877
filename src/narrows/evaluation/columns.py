"""What the report shows of tables: values, distributions and passages, column by column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.evaluation.charts import heat, histogram, strip
from narrows.evaluation.evaluate import Examples
from narrows.evaluation.markup import Markup, number, tag
from narrows.evaluation.sections import figure

__all__ = ["VALUES", "Columns"]

Array = NDArray[Any]
VALUES = 8
"""Columns of a row that are shown."""
HISTOGRAMS = 6
"""Columns whose distribution is shown."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a table.

    Attributes:
        names: one a column.
        values: real rows, ``(n, columns)``.
    """

    names: Sequence[str]
    values: Array

    @cached_property
    def spread(self) -> tuple[Array, Array, Array, Array]:
        """Low, high, mean and standard deviation of each column; finite everywhere."""
        seen = ~np.isnan(self.values)
        few = np.maximum(seen.sum(0), 1)
        filled = np.where(seen, self.values, 0.0)
        mean = filled.sum(0) / few
        deviation = np.sqrt((np.where(seen, self.values - mean, 0.0) ** 2).sum(0) / few)
        low = np.where(seen, self.values, np.inf).min(0)
        high = np.where(seen, self.values, -np.inf).max(0)
        low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 1.0)
        return low, np.where(high > low, high, low + 1), mean, np.where(deviation, deviation, 1.0)

    def beside(self, title: str, some: Examples, label: Callable[[int], str]) -> Markup:
        """Compare the first of the samples with what was made of it, column by column."""
        low, high, _, deviation = self.spread
        original, model, pca = some.original[0], some.model[0], some.pca[0]
        off = np.fmax(np.abs(model - original), np.abs(pca - original)) / deviation
        order = np.argsort(-np.nan_to_num(off, nan=-1.0), kind="stable")[:VALUES]
        rows = []
        for i in sorted(order.tolist()):
            trio = [("original", original[i]), ("model", model[i]), ("pca", pca[i])]
            texts = [f"{kind} {number(float(value), 3)}" for kind, value in trio]
            drawn = strip(
                [(kind, float(value)) for kind, value in reversed(trio)],
                float(low[i]),
                float(high[i]),
                f"{self.names[i]}: {', '.join(texts)}",
            )
            cells = [
                tag("td", number(float(value), 3), class_=f"num {kind}") for kind, value in trio
            ]
            rows.append(tag("tr", tag("th", self.names[i], scope="rowgroup", colspan=4)))
            rows.append(tag("tr", tag("td", drawn), cells))
        heads = {None: "in the column’s range", "original": "original"}
        heads |= {"model": "model", "pca": "PCA"}
        head = tag("tr", [tag("td", text, class_=key) for key, text in heads.items()])
        errors = " · ".join(
            f"{kind} {number(float(some.errors[key][0]), 3)}"
            for key, kind in (("model", "error"), ("pca", "PCA’s"))
        )
        where = tag("small", f"{label(int(some.rows[0]))} · {errors}")
        caption = tag("caption", title.capitalize(), where)
        return tag("table", caption, tag("thead", head), tag("tbody", rows), class_="values")

    def histograms(self, drawn: Array, source: str) -> Markup:
        """Compare columns: those whose distribution is met best, and those met worst."""
        low, high, _, _ = self.spread
        real = [column[np.isfinite(column)] for column in self.values.T]
        found = [
            (_distance(column, drawn[:, i]), i)
            for i, column in enumerate(real)
            if len(column) and high[i] > low[i] and np.isfinite(drawn[:, i]).all()
        ]
        found.sort()
        half = HISTOGRAMS // 2
        shown = found if len(found) <= HISTOGRAMS else found[:half] + found[-half:]
        charts = [
            figure(
                histogram(
                    [("real", real[i]), ("model", drawn[:, i])],
                    float(low[i]),
                    float(high[i]),
                    20,
                    f"{self.names[i]}: real and sampled rows",
                ),
                self.names[i],
                key=f"distance {number(distance, 2)}",
            )
            for distance, i in shown
        ]
        which = ""
        if len(shown) < len(found):
            which = f" The {half} columns met best and the {half} met worst, of {len(found)}."
        text = (
            f"{number(len(drawn))} rows that never were: {source}.{which} The distance is "
            "Kolmogorov and Smirnov's: 0 for equal distributions, 1 for ones that do not touch."
        )
        key = [tag("span", "real", class_="dot real"), tag("span", "sampled", class_="dot model")]
        note = tag("p", tag("span", key, class_="key"), text, class_="note")
        return Markup(note + tag("div", charts, class_="columns three"))

    def passage(self, between: Array) -> Markup:
        """Draw each column along the way, in standard deviations from its mean."""
        _, _, mean, deviation = self.spread
        z = (between - mean) / deviation
        order = np.argsort(-np.nan_to_num(np.ptp(z, axis=0)), kind="stable")[: VALUES + 4]
        items = [
            tag(
                "li",
                tag("span", self.names[i], class_="what"),
                tag("span", number(float(between[0, i]), 3), class_="num"),
                heat(z[:, i], f"{self.names[i]} along the way"),
                tag("span", number(float(between[-1, i]), 3), class_="num"),
            )
            for i in order.tolist()
        ]
        text = "Below a column's mean blue, above it orange; deeper is further away."
        return tag("div", tag("p", text, class_="note"), tag("ol", items, class_="passage"))


def _distance(a: Array, b: Array) -> float:
    """Return Kolmogorov and Smirnov's distance: the greatest between two distributions."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    below = [np.searchsorted(values, at, side="right") / len(values) for values in (a, b)]
    return float(np.abs(below[0] - below[1]).max())
