"""Charts: small inline SVG drawings that take their colours from the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.evaluation.markup import THIN, Markup, number, tag

__all__ = [
    "BROAD",
    "Axis",
    "Line",
    "axis",
    "bars",
    "curves",
    "heat",
    "histogram",
    "hourglass",
    "strip",
]

Values = NDArray[np.float64]
WIDTH, BROAD, HEIGHT = 320, 460, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24
MOST = 240
"""Points that one line is drawn with."""
RANGE = 100.0
"""Ratio of a line's values from which its axis is logarithmic."""


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, values: Any, start: float, end: float) -> Values:
        """Return positions between start and end; values beyond the axis go beyond them."""
        values = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(np.maximum(values, 1e-300)), log10(low), log10(high)
        share = (values - low) / (high - low)
        placed: Values = start + share * (end - start)
        return placed

    def label(self, tick: float) -> str:
        """Return a tick in as few digits as it needs."""
        top = max(abs(other) for other in self.ticks)
        if self.log or top >= 1e6 or top < 1e-3:
            return number(tick, 1 if tick < 1000 else 4)
        return f"{tick:,.6g}".replace(",", THIN).replace("-", "−")


@dataclass(frozen=True)
class Line:
    """Values in the order of x, drawn in the style of a class of the page."""

    name: str
    x: Values
    y: Values
    style: str


def axis(low: float, high: float, count: int = 4, log: bool = False, least: float = 0.0) -> Axis:
    """Return an axis over the values with about so many round ticks, at `least` so far apart."""
    if not high > low:
        room = abs(low) * 0.1 or 1.0
        low, high, log = low - room, high + room, False
    if log:
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        every = max(1, ceil(len(powers) / (count + 1)))
        ticks = [10.0**p for p in powers if p % every == 0 and low <= 10.0**p <= high]
        if len(ticks) < 2:
            near = [m * 10.0**p for p in powers for m in (1, 2, 5)]
            ticks = [tick for tick in near if low <= tick <= high]
        return Axis(low, high, tuple(ticks), log=True)
    rough = max((high - low) / count, least)
    unit = 10.0 ** floor(log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1)]
    return Axis(low, high, tuple(ticks))


def curves(lines: Sequence[Line], alt: str, whole: bool = False) -> Markup:
    """Draw lines over one pair of axes; unless `whole`, what only the start reaches is cut off."""
    lines = [_thin(line) for line in lines]
    x = axis(min(line.x[0] for line in lines), max(line.x[-1] for line in lines), 5, least=1.0)
    low, high = _limits(lines, whole)
    log = not whole and low > 0 and high / low > RANGE
    room = 0.0 if log else 0.04 * (high - low)
    y = axis(low - room, high + room, 4, log)
    inner = [tag("path", d=_path(x, y, line), class_=f"line {line.style}") for line in lines]
    base = HEIGHT - BOTTOM
    window = tag(  # an inner svg clips what leaves it
        "svg", inner, x=0, y=0, width=WIDTH, height=base + 1, viewBox=f"0 0 {WIDTH} {base + 1}"
    )
    return _plot(x, y, [window], alt)


def histogram(
    sets: Sequence[tuple[str, Values]],
    low: float,
    high: float,
    bins: int,
    alt: str,
    width: int = WIDTH,
) -> Markup:
    """Draw the shares of values in bins, one outline a set."""
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, bins + 1)
    shares = []
    for _, values in sets:
        counts = np.histogram(np.clip(values, low, high), edges)[0]
        shares.append(counts / max(counts.sum(), 1))
    x = axis(low, high, 4)
    y = Axis(0.0, max(float(np.max(shares)), 1e-9) * 1.05, ())
    inner = []
    for (style, _), share in zip(sets, shares, strict=True):
        across = np.repeat(x.place(edges, RIGHT, width - RIGHT), 2)
        up = np.concatenate([[0], np.repeat(share, 2), [0]])
        height = y.place(up, HEIGHT - BOTTOM, TOP)
        points = zip(across, height, strict=True)
        d = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        inner.append(tag("path", d=d, class_=f"area {style}"))
    return _plot(x, y, inner, alt, left=RIGHT, width=width)


def bars(values: Values, quiet: NDArray[np.bool_], alt: str, names: Sequence[str]) -> Markup:
    """Draw one bar a value; those that are `quiet` in grey."""
    y = axis(0.0, max(float(values.max(initial=0)), 1e-9), 3)
    room = (BROAD - LEFT - RIGHT) / max(len(values), 1)
    wide = min(0.72 * room, 34)
    inner = []
    heights = y.place(values, HEIGHT - BOTTOM, TOP)
    every = ceil(len(values) / 16)
    for i, (name, height) in enumerate(zip(names, heights, strict=True)):
        center = LEFT + (i + 0.5) * room
        top = min(float(height), HEIGHT - BOTTOM - 1)
        inner.append(
            tag(
                "rect",
                tag("title", f"unit {name}: {number(float(values[i]), 3)}"),
                x=round(center - wide / 2, 2),
                y=round(top, 2),
                width=round(wide, 2),
                height=round(HEIGHT - BOTTOM - top, 2),
                class_="bar quiet" if quiet[i] else "bar",
            )
        )
        if i % every == 0:
            inner.append(_text(center, HEIGHT - 8, name, "middle"))
    return _plot(Axis(0, 1, ()), y, inner, alt, width=BROAD)


def strip(marks: Sequence[tuple[str, float]], low: float, high: float, alt: str) -> Markup:
    """Draw marks on one line from low to high; marks beyond its ends lie at them."""
    place = Axis(low, high, ()).place
    inner = [tag("line", x1=4, x2=156, y1=9, y2=9, class_="grid")]
    for style, value in marks:
        if np.isfinite(value):
            x = float(place(np.clip(value, low, high), 8, 152))
            if style == "original":  # a line, so that it hides nothing
                inner.append(tag("rect", x=x - 1.5, y=0, width=3, height=18, class_=style))
            else:
                inner.append(tag("circle", cx=x, cy=9, r=5, class_=f"mark {style}"))
    return _svg(inner, 160, 18, alt, "strip")


def heat(values: Values, alt: str) -> Markup:
    """Draw a row of cells, from −2.5 (one colour) over 0 (white) to 2.5 (the other)."""
    wide = 160 / max(len(values), 1)
    cells = []
    for i, value in enumerate(np.clip(np.nan_to_num(values) / 2.5, -1, 1)):
        cells.append(
            tag(
                "rect",
                x=round(i * wide, 2),
                y=0,
                width=round(wide + 0.3, 2),
                height=18,
                class_="cold" if value < 0 else "warm",
                fill_opacity=round(abs(float(value)), 3),
            )
        )
    return _svg(cells, 160, 18, alt, "heat", preserveAspectRatio="none")


def hourglass(sizes: Sequence[int], code: int, alt: str) -> Markup:
    """Draw a net as one bar a layer, as high as the logarithm of its size; `code` is its waist."""
    width, tallest = 280.0, 96.0
    step = width / len(sizes)
    thick, middle = min(10.0, 0.4 * step), tallest / 2 + 4
    logs = np.log2(np.asarray(sizes, np.float64) + 1)
    heights = np.maximum(tallest * logs / logs.max(), 6)
    edge = [(step * (i + 0.5), h / 2) for i, h in enumerate(heights)]
    upper = [f"{x:.1f} {middle - h:.1f}" for x, h in edge]
    lower = [f"{x:.1f} {middle + h:.1f}" for x, h in reversed(edge)]
    inner = [tag("path", d=f"M{'L'.join(upper + lower)}Z", class_="flow")]
    for i, (size, (x, half)) in enumerate(zip(sizes, edge, strict=True)):
        style = "layer waist" if i == code else "layer"
        inner.append(
            tag(
                "rect",
                x=round(x - thick / 2, 1),
                y=round(middle - half, 1),
                width=round(thick, 1),
                height=round(2 * half, 1),
                rx=2,
                class_=style,
            )
        )
        if step >= 26 or i in (0, code, len(sizes) - 1):
            label = str(size) if size < 1000 else f"{size / 1000:.{1 if size < 10_000 else 0}f}k"
            inner.append(_text(x, tallest + 20, label, "middle", "waist" if i == code else None))
    return _svg(inner, width, tallest + 26, alt, "hourglass")


def _plot(
    x: Axis, y: Axis, inner: Sequence[Markup], alt: str, left: int = LEFT, width: int = WIDTH
) -> Markup:
    """Put the grid, the ticks and the content together."""
    parts: list[Markup] = []
    base, end = HEIGHT - BOTTOM, width - RIGHT
    for tick in y.ticks:
        at = round(float(y.place(tick, base, TOP)), 1)
        parts.append(tag("line", x1=left, x2=end, y1=at, y2=at, class_="grid"))
        parts.append(_text(left - 6, at + 3.5, y.label(tick), "end"))
    for tick in x.ticks:
        at = round(float(x.place(tick, left, end)), 1)
        parts.append(_text(at, HEIGHT - 8, x.label(tick), "middle"))
    parts.append(tag("line", x1=left, x2=end, y1=base, y2=base, class_="base"))
    style = "chart broad" if width > WIDTH else "chart"
    return _svg([*parts, *inner], width, HEIGHT, alt, style)


def _svg(
    inner: Sequence[Markup], width: float, height: float, alt: str, style: str, **more: str
) -> Markup:
    return tag(
        "svg",
        inner,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=alt,
        class_=style,
        **more,
    )


def _text(x: float, y: float, text: str, anchor: str, style: str | None = None) -> Markup:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=style)


def _path(x: Axis, y: Axis, line: Line) -> str:
    across = x.place(line.x, LEFT, WIDTH - RIGHT)
    up = y.place(line.y, HEIGHT - BOTTOM, TOP)
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(across, up, strict=True)]
    return "M" + "L".join(points) + ("h0.1" if len(points) == 1 else "")


def _thin(line: Line) -> Line:
    """Keep at most `MOST` points, the last one among them."""
    if len(line.x) <= MOST:
        return line
    at = np.linspace(0, len(line.x) - 1, MOST).astype(int)
    return Line(line.name, line.x[at], line.y[at], line.style)


def _limits(lines: Sequence[Line], whole: bool) -> tuple[float, float]:
    """Return where the lines lie; the first tenth counts only as far as the rest leaves room."""
    every = np.concatenate([line.y for line in lines])
    low, high = float(every.min()), float(every.max())
    if whole:
        return low, high
    late = np.concatenate([line.y[len(line.y) // 10 :] for line in lines])
    reach = float(late.max() - late.min())
    if high > late.max() and high - low > 2.5 * reach > 0 and not (low > 0 and high / low > RANGE):
        high = float(late.max()) + 0.35 * reach
    if low < late.min() and high - low > 2.5 * reach > 0:
        low = max(low, float(late.min()) - 0.35 * reach)
    return low, high
