"""Sections of the report that show samples: reconstructions, the map, new samples, a passage."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.data.modalities import Grid, Series, Table
from narrows.errors import ContextError
from narrows.evaluation.columns import VALUES, Columns
from narrows.evaluation.evaluate import Evaluation, Examples, take
from narrows.evaluation.latent_map import Groups, View, label_text, latent_map, view_of
from narrows.evaluation.markup import Markup, broken, number, percent, plural, tag
from narrows.evaluation.pictures import Ink, picture, sheet
from narrows.evaluation.sections import figure, section
from narrows.evaluation.sequences import (
    beside,
    drawn_series,
    drawn_strings,
    sparks,
    strings_beside,
)
from narrows.parts.likelihoods import Bernoulli

__all__ = ["Gallery"]

Array = NDArray[Any]
DRAWN = 40
"""New pictures that are shown."""
ROWS_DRAWN = 1000
"""New rows whose distribution is shown."""
STEPS = 9
"""Samples on the way from one to another."""
UNITS = 8
"""Units of the code whose effect is shown."""
STRINGS = 24
"""New strings that are shown."""
SERIES = 6
"""New series that are drawn."""
FACTS = 6
"""Columns of a row that the map tells."""
DECODED = 4_000_000
"""Values that are decoded for one figure, at most: large pictures are shown in smaller numbers."""
SPRITE = 32
"""Longest side of a picture on the map, in pixels."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """A fitted model and its data, to make sections of."""

    model: BaseAutoencoder
    dataset: Dataset
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """The model's name."""
        return type(self.model).__name__

    @property
    def image(self) -> bool:
        """Whether samples are pictures, or are shown by pictures of their slices."""
        return isinstance(self.model.modality_, Grid)

    @property
    def _cuts(self) -> str:
        """What is said of volumes, which need more room; "" of pictures."""
        return " Of each, the three slices through its middle." if self.values.ndim == 5 else ""

    @property
    def table(self) -> bool:
        """Whether samples are rows of a table."""
        return isinstance(self.model.modality_, Table)

    @property
    def text(self) -> bool:
        """Whether samples are strings."""
        return self.model.modality_.symbols > 0

    @cached_property
    def values(self) -> Array:
        """The samples on the map as one array, in the user's units."""
        return self.read(take(self.dataset.X, self.evaluation.rows))

    @cached_property
    def ink(self) -> Ink:
        """How their pixels are drawn."""
        return Ink.of(self.values)

    @cached_property
    def columns(self) -> list[str]:
        """The names of a table's columns, or of a series' channels."""
        modality = self.model.modality_
        if isinstance(modality, Series):
            known = [str(name) for name in modality.columns]
            return known or [f"channel {i}" for i in range(len(modality.constants))]
        names = modality.feature_names
        return list(names) or [f"column {i}" for i in range(self.model.modality_.n_features)]

    @property
    def varying(self) -> list[str]:
        """The names of a series' channels that vary."""
        return [self.columns[i] for i in cast(Series, self.model.modality_).kept]

    @cached_property
    def by_column(self) -> Columns:
        """The samples of a table by their columns."""
        return Columns(self.columns, self.values)

    @cached_property
    def decodes(self) -> bool:
        """Whether the model can decode bare codes."""
        try:
            self.model.inverse_transform(self.evaluation.codes[:1])
        except ContextError:
            return False
        return True

    @property
    def budget(self) -> int:
        """How many pictures may be decoded for one figure."""
        return max(20, DECODED // self.model.modality_.n_features)

    def read(self, X: Any) -> Array:
        """Return samples in the user's form as one array."""
        modality = self.model.modality_
        return modality.values(modality.read(X, self.name))

    def _standard(self, X: Any) -> Array:
        """Return the varying channels of series in the model's units, ``(n, steps, channels)``."""
        modality = self.model.modality_
        return modality.scaled(modality.read(X, self.name)).transpose(0, 2, 1)

    def label(self, row: int) -> str:
        """Return what a row is called: its number and its label."""
        text = f"row {number(row, 12)}"
        return text if self.dataset.y is None else f"{text} · {label_text(self.dataset.y[row])}"

    # -- sections --------------------------------------------------------------------------

    def reconstructions(self) -> Markup:
        """Return the best, the median and the worst sample beside what was made of them."""
        seen = "held-out" if self.evaluation.held_out else "training"
        note = f"The {seen} samples with the least, the middle and the greatest squared error."
        if self.image:
            body = [self._pictures(key, some) for key, some in self.evaluation.examples.items()]
            note += self._cuts + " Below each: the error of the model, and of PCA."
        elif self.text:
            body = [
                strings_beside(k, some, self.label) for k, some in self.evaluation.examples.items()
            ]
        elif not self.table:
            body = [
                beside(key, some, self.columns, self.label)
                for key, some in self.evaluation.examples.items()
            ]
            note += " Grey: the original. Blue: the model. Orange: PCA. Errors are in the model's "
            note += "units, where a channel's spread is about 1."
        else:
            body = [
                self.by_column.beside(key, some, self.label)
                for key, some in self.evaluation.examples.items()
            ]
            note += f" Of each row, the {min(VALUES, len(self.columns))} columns furthest off."
            note += " Errors are in the model's units, where a column's spread is about 1."
        return section(
            "reconstructions",
            "Reconstructions",
            tag("p", note, class_="note"),
            tag("div", body, class_="columns" if self._cuts else "columns three"),
        )

    def map(self) -> Markup:
        """Return the latent map."""
        shown, total = len(self.evaluation.rows), self.evaluation.codes.shape[1]
        if total == 1:
            how = "The code has one dimension, from left to right; the height only spreads points."
        elif total == 2:
            how = "The code has two dimensions, and these are they."
        else:
            share = percent(self.evaluation.share, 0)
            how = f"The plane shows {share} of the variance of the code's {total} dimensions."
        y = self.dataset.y
        labels = None if y is None else y[self.evaluation.rows]
        view = view_of(self.evaluation.points)
        drawn = latent_map(
            self.evaluation.points,
            Groups.of(labels, shown),
            view,
            rows=self.evaluation.rows,
            alt=f"Map of the codes of {plural(shown, 'sample')}",
            pixels=self._sprites(),
            facts=self._facts(),
            columns=["text"] if self.text else self.columns[:FACTS] if self.table else [],
            plane=self._plane(view),
        )
        text = f"Every point is a sample, {plural(shown, 'in all', 'in all')}. {how} "
        text += "Point at one to see it"
        text += "." if labels is None else ", or choose a label."
        return section("map", "The latent map", tag("p", text, class_="note"), drawn)

    def samples(self) -> Markup:
        """Return new samples, and the way from one sample to another."""
        if not self.decodes:
            note = f"{self.name} decodes a code only beside its own sample, so there are none."
            return section("samples", "New samples", tag("p", note, class_="note"))
        passage = self._passage()
        return section("samples", "New samples", self._new(), passage)

    def units(self) -> Markup | None:
        """Return what each unit of the code changes in a picture."""
        codes = self.evaluation.codes
        deviation = codes.std(0)
        most = min(UNITS, self.budget // STEPS)
        order = [i for i in np.argsort(-deviation, kind="stable")[:most] if deviation[i] > 0]
        if not self.image or not order or not self.decodes:
            return None
        steps = np.linspace(-2, 2, STEPS)
        grid = np.repeat(codes.mean(0, keepdims=True), len(order) * STEPS, 0)
        for i, unit in enumerate(order):
            grid[i * STEPS : (i + 1) * STEPS, unit] += steps * deviation[unit]
        pixels = self._draw(grid)
        alt = "Decoded codes: one row a unit, varied from −2 to 2 standard deviations"
        names = ", ".join(str(i + 1) for i in order)
        text = (
            f": units {names} from the top, from −2 to 2 standard deviations; the others stay at "
            "their mean."
        )
        return figure(self._mosaic(pixels, STEPS, alt), "What each unit draws", text)

    # -- pictures --------------------------------------------------------------------------

    def _sprites(self) -> NDArray[np.uint8] | None:
        """Return the small pictures on the map: of images, volumes and series."""
        if self.image:
            return self.ink.draw(self.values, SPRITE)
        if self.text or self.table:
            return None
        return sparks(self._standard(take(self.dataset.X, self.evaluation.rows))[..., 0])

    def _draw(self, codes: Array) -> NDArray[np.uint8]:
        decoded = self.model.inverse_transform(np.asarray(codes, np.float32))
        return self.ink.draw(self.read(decoded), 64)

    def _mosaic(self, pixels: NDArray[np.uint8], columns: int, alt: str) -> Markup:
        whole = sheet(pixels, columns, gap=max(1, pixels.shape[2] // 14))
        crisp = "mosaic crisp" if max(pixels.shape[1:3]) <= 32 else "mosaic"
        return tag("img", src=whole.source, alt=alt, class_=crisp)

    def _pictures(self, title: str, some: Examples) -> Markup:
        kinds = [("original", some.original), (self.name, some.model), ("PCA", some.pca)]
        drawn = [(kind, self.ink.draw(images)) for kind, images in kinds]
        rows = [
            tag(
                "tr",
                tag("th", broken(kind), scope="row"),
                [
                    tag("td", picture(image, f"{kind}, {self.label(row)}"))
                    for row, image in zip(some.rows.tolist(), pixels, strict=True)
                ],
            )
            for kind, pixels in drawn
        ]
        for key, kind in (("model", "error"), ("pca", "PCA’s error")):
            cells = [tag("td", number(float(error), 3), class_=key) for error in some.errors[key]]
            rows.append(tag("tr", tag("th", kind, scope="row"), cells, class_="num"))
        if self.dataset.y is not None:
            labels = [tag("td", label_text(label)) for label in self.dataset.y[some.rows]]
            rows.append(tag("tr", tag("th", "label", scope="row"), labels, class_="names"))
        names = [tag("td", number(row, 12)) for row in some.rows.tolist()]
        rows.append(tag("tr", tag("th", "row", scope="row"), names, class_="names"))
        return tag("table", tag("caption", title.capitalize()), rows, class_="pictures")

    def _plane(self, view: View) -> str | None:
        """Return what the decoder makes of the map's plane, as one picture."""
        size = self.evaluation.codes.shape[1]
        if not self.image or size < 2 or not self.decodes:
            return None
        height, width = self.ink.draw(self.values[:1]).shape[1:3]
        across = min(14.0, self.budget**0.5)
        columns = int(np.clip(round(across * (height / width) ** 0.5), 3, 21))
        rows = max(1, round(columns * view.height / 640 * width / height))
        codes = self.evaluation.center + view.grid(columns, rows) @ self.evaluation.axes
        return sheet(self._draw(codes), columns, gap=1).source

    def _facts(self) -> list[list[str]] | None:
        if self.text:
            shown = take(self.dataset.X, self.evaluation.rows)
            return [[text[:80].encode("utf-8", "replace").decode()] for text in shown]
        if not self.table:
            return None
        return [[number(float(value)) for value in row[:FACTS]] for row in self.values]

    # -- samples that never were -------------------------------------------------------------

    def _new(self) -> Markup:
        """Return pictures drawn from the model, or the distribution of rows that were."""
        fitted = "codes drawn from a density fitted to the training codes"
        prior = self.model.net_.latent.prior() is not None
        source = "codes drawn from the prior" if prior else fitted
        if self.image:
            figures = [self._drawn(source)]
            found = self.model.diagnose().findings
            if any(finding.name == "prior" and finding.remedy for finding in found):
                figures.append(self._drawn(f"{fitted}, which the prior does not meet", True))
            return Markup("".join(figures))
        if self.text:
            texts = drawn_strings(self.model.sample(STRINGS))
            return figure(texts, f"{STRINGS} strings that never were", f": {source}, decoded.")
        if not self.table:
            series = self._standard(self.model.sample(SERIES))
            names = [f"series {i + 1}" for i in range(SERIES)]
            charts = drawn_series(series, self.varying, names)
            text = f": {source}, decoded. Channels are in the model's units; the first is blue."
            return figure(charts, f"{SERIES} series that never were", text)
        noise = not isinstance(self.model.net_.likelihood, Bernoulli)
        drawn = self.read(self.model.sample(ROWS_DRAWN, noise=noise))
        return self.by_column.histograms(
            drawn, f"{source}, decoded{' with noise' if noise else ''}"
        )

    def _drawn(self, source: str, density: bool | None = None) -> Markup:
        count = min(DRAWN, self.budget // 10 * 10)
        pixels = self.ink.draw(self.read(self.model.sample(count, density=density)), 64)
        mosaic = self._mosaic(pixels, 10, f"{count} new pictures by {self.name}")
        kind = "volumes" if self._cuts else "pictures"
        return figure(mosaic, f"{count} {kind} that never were", f": {source}, decoded.")

    def _passage(self) -> Markup | None:
        """Return the way between the codes of two scored samples that are far apart."""
        pair = self._pair()
        if pair is None:
            return None
        a, b = (take(self.dataset.X, np.array([row])) for row in pair)
        way = self.model.interpolate(a, b, STEPS)
        names = [self.label(row) for row in pair]
        title = "From one to another"
        text = f": {names[0]} to {names[1]}, along a straight line between their codes."
        if self.text:
            return figure(drawn_strings(way), title, text)
        if not (self.image or self.table):
            steps = [f"step {i}" for i in range(STEPS)]
            return figure(drawn_series(self._standard(way), self.varying, steps), title, text)
        between = self.read(way)
        if not self.image:
            return figure(self.by_column.passage(between), title, text)
        ends = [self.ink.draw(self.read(end), 64) for end in (a, b)]
        pixels = np.concatenate([ends[0], self.ink.draw(between, 64), ends[1]])
        mosaic = self._mosaic(pixels, STEPS + 2, f"Interpolation from {names[0]} to {names[1]}")
        return figure(mosaic, title, f"{text} The originals stand at the ends.")

    def _pair(self) -> tuple[int, int] | None:
        """Return the two typical samples furthest apart, of two labels if there are two."""
        rows = self.evaluation.typical
        if len(rows) < 2:
            return None
        codes = np.asarray(self.model.transform(take(self.dataset.X, rows)), np.float64)
        apart = np.linalg.norm(codes[:, None] - codes[None], axis=2)
        if self.dataset.y is not None:
            labels = np.array([str(label) for label in self.dataset.y[rows]])
            apart = apart + 1e-9 + (labels[:, None] != labels[None]) * apart.max()
        np.fill_diagonal(apart, -1)
        first, second = np.unravel_index(int(apart.argmax()), apart.shape)
        return int(rows[first]), int(rows[second])
