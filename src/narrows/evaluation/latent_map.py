"""The latent map: every sample a point, coloured by label, with its picture or row on hover."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.evaluation.markup import Markup, number, tag
from narrows.evaluation.pictures import sheet

__all__ = ["Groups", "View", "label_text", "latent_map", "safe_json", "view_of"]

Array = NDArray[Any]
WIDTH = 640
COLOURS = 10
"""Labels that get a colour of their own; the rest are drawn in grey."""
STEPS = 6
"""Colours of a real-valued label."""


@dataclass(frozen=True)
class Groups:
    """Which points share a colour.

    Attributes:
        names: of the groups, in the order of their colours.
        member: index of every point's group.
        styles: class of each group on the page.
        labels: what each point is called.
    """

    names: list[str]
    member: NDArray[np.intp]
    styles: list[str]
    labels: list[str]

    @classmethod
    def of(cls, y: Array | None, count: int) -> "Groups":
        """Group points by their labels: by name, or by range where they are real numbers."""
        if y is None:
            return cls([], np.zeros(count, np.intp), ["c0"], [""] * count)
        if y.dtype.kind == "f" and len(np.unique(y)) > COLOURS:
            return cls._ranges(y.astype(np.float64))
        labels = [label_text(value) for value in y]
        tally = Counter(labels)
        names = [name for name, _ in tally.most_common(COLOURS)]
        rank = {label: i for i, label in enumerate(sorted(tally, key=_natural))}
        names.sort(key=rank.__getitem__)
        place = {name: i for i, name in enumerate(names)}
        styles = [f"c{i}" for i in range(len(names))]
        if len(tally) > COLOURS:
            names, styles = [*names, f"{len(tally) - COLOURS} others"], [*styles, "other"]
        member = np.array([place.get(label, COLOURS) for label in labels], dtype=np.intp)
        return cls(names, member, styles, labels)

    @classmethod
    def _ranges(cls, y: NDArray[np.float64]) -> "Groups":
        known = y[np.isfinite(y)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, STEPS + 1)))
        member = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, len(edges) - 2)
        names = [f"{number(a, 3)} to {number(b, 3)}" for a, b in pairwise(edges)]
        shades = np.rint(np.linspace(0, STEPS - 1, len(names))).astype(int)
        styles = [f"s{shade}" for shade in shades]
        if len(known) < len(y):
            member = np.where(np.isfinite(y), member, len(names))
            names, styles = [*names, "missing"], [*styles, "other"]
        return cls(names, member.astype(np.intp), styles, [number(value) for value in y])


@dataclass(frozen=True)
class View:
    """The window of the plane that the map shows: x right, y up, one scale for both."""

    left: float
    top: float
    scale: float
    height: int

    def place(self, points: Array) -> NDArray[np.float64]:
        """Return points in the map's own units, those outside at its edge."""
        x = np.clip((points[:, 0] - self.left) * self.scale, 4, WIDTH - 4)
        y = np.clip((self.top - points[:, 1]) * self.scale, 4, self.height - 4)
        return np.stack([x, y], 1)

    def grid(self, columns: int, rows: int) -> NDArray[np.float64]:
        """Return the centres of so many cells that fill the window, in rows from the top left."""
        x = self.left + (np.arange(columns) + 0.5) * WIDTH / columns / self.scale
        y = self.top - (np.arange(rows) + 0.5) * self.height / rows / self.scale
        return np.stack([np.tile(x, rows), np.repeat(y, columns)], 1)


def label_text(label: Any) -> str:
    """Return a label as it is read: a real number in few digits, all else as it is."""
    return number(float(label)) if isinstance(label, float | np.floating) else str(label)


def view_of(points: Array) -> View:
    """Return the window that holds the points; a few far away do not squash the others."""
    low, high = _core(points)
    span = np.maximum(high - low, 1e-9 + 1e-3 * float((high - low).max()))
    low, span = low - 0.05 * span, 1.1 * span
    ratio = float(np.clip(span[1] / span[0], 0.55, 0.85))
    height = round(WIDTH * ratio)
    scale = float(min(WIDTH / span[0], height / span[1]))
    middle = low + span / 2
    return View(
        float(middle[0] - WIDTH / scale / 2), float(middle[1] + height / scale / 2), scale, height
    )


def latent_map(
    points: Array,
    groups: Groups,
    view: View,
    *,
    rows: NDArray[np.intp],
    alt: str,
    pixels: NDArray[np.uint8] | None = None,
    facts: list[list[str]] | None = None,
    columns: list[str] | None = None,
    plane: str | None = None,
    links: NDArray[np.intp] | None = None,
    noun: str = "row",
) -> Markup:
    """Return the map with its legend.

    Args:
        points: ``(n, 2)``.
        groups: their colours.
        view: the window.
        rows: where the samples lie in the data.
        alt: what the map shows, in words.
        pixels: a picture of each sample.
        facts: a few values of each sample, as text.
        columns: their names.
        plane: address of a picture of what the decoder makes of every place.
        links: pairs of points to draw a line between, ``(lines, 2)``.
        noun: what a sample is called, beside its number.
    """
    placed = view.place(points)
    paths = []
    for i, style in enumerate(groups.styles):
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in placed[groups.member == i])
        paths.append(tag("path", d=dots, class_=f"dots {style}", data_group=i))
    data = {
        "width": WIDTH,
        "height": view.height,
        "points": np.rint(placed).astype(int).tolist(),
        "noun": noun,
        "rows": rows.tolist(),
        "labels": groups.labels if groups.names else [],
        "groups": groups.member.tolist(),
        "columns": columns or [],
        "facts": facts or [],
        "sprite": None if pixels is None else _sprite(pixels),
    }
    under = [] if plane is None else [_plane(plane, view)]
    if links is not None:
        lines = "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in placed[links])
        under.append(tag("path", d=lines, class_="links"))
    drawing = tag(
        "svg",
        under,
        paths,
        viewBox=f"0 0 {WIDTH} {view.height}",
        role="img",
        aria_label=alt,
    )
    return tag(
        "div",
        _stage(drawing, _names(placed, groups, view)),
        tag("div", _legend(groups), _switch(plane is not None), class_="legend"),
        tag("p", class_="sr", role="status"),
        tag("script", Markup(safe_json(data)), type="application/json"),
        class_="map",
    )


def _stage(drawing: Markup, names: list[Markup]) -> Markup:
    """Return what the pointer and the arrow keys move on."""
    return tag(
        "div",
        drawing,
        names,
        tag("div", class_="ring", hidden=True),
        tag("div", class_="tip", hidden=True),
        class_="stage",
        tabindex=0,
        role="application",
        aria_label="Latent map. Use the arrow keys to go from sample to sample.",
    )


def safe_json(data: Any) -> str:
    """Return JSON that may stand inside a script element: no markup can end it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sprite(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return all pictures on one sheet, which is about square."""
    made = sheet(pixels, int(np.ceil(np.sqrt(len(pixels)))))
    return {
        "source": made.source,
        "columns": made.columns,
        "width": made.width,
        "height": made.height,
    }


def _plane(source: str, view: View) -> Markup:
    return tag(
        "image",
        href=source,
        x=0,
        y=0,
        width=WIDTH,
        height=view.height,
        preserveAspectRatio="none",
        class_="plane",
    )


def _switch(plane: bool) -> Markup | None:
    if not plane:
        return None
    box = tag("input", type="checkbox", class_="show-plane")
    return tag("label", box, " What the decoder draws at each place", class_="switch")


def _legend(groups: Groups) -> Markup | None:
    if not groups.names:
        return None
    items = [
        tag("button", name, type="button", class_=style, data_group=i, aria_pressed="false")
        for i, (name, style) in enumerate(zip(groups.names, groups.styles, strict=True))
    ]
    return tag("div", items, class_="keys", role="group", aria_label="Labels")


def _names(placed: Array, groups: Groups, view: View) -> list[Markup]:
    """Write each label where the middle of its points lies, unless labels are ranges or long."""
    if not groups.names or groups.styles[0] != "c0" or max(map(len, groups.names)) > 14:
        return []
    written = []
    for i, (name, style) in enumerate(zip(groups.names, groups.styles, strict=True)):
        inside = placed[groups.member == i]
        if style != "other" and len(inside):
            x, y = np.median(inside, 0) / (WIDTH, view.height) * 100
            place = f"left:{x:.1f}%;top:{y:.1f}%"
            size = "name long" if len(name) > 3 else "name"
            written.append(tag("span", name, class_=f"{size} {style}", style=place))
    return written


def _core(points: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the box of the points, or of most of them where a few lie far off."""
    low, high = points.min(0), points.max(0)
    inner = np.quantile(points, [0.01, 0.99], axis=0)
    room = 0.35 * (inner[1] - inner[0])
    return np.maximum(low, inner[0] - room), np.minimum(high, inner[1] + room)


def _natural(label: str) -> tuple[int, float, str]:
    """Sort numbers by value, before all else."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
