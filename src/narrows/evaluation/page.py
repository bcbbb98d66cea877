"""The page of a report: its document, and the parts that all reports share."""

import re
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from inspect import cleandoc
from typing import Any

from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.evaluation.markup import Child, Markup, broken, number, plural, seconds_text, tag
from narrows.evaluation.sections import section
from narrows.storage import versions

__all__ = ["compact", "footer", "header", "menu", "run", "spent", "tiles", "whole_page"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser is told to load nothing, so that the page cannot call home."""


def whole_page(title: str, body: Child) -> str:
    """Return the document with its style and its script inside."""
    style, script = (
        Markup(files("narrows.evaluation").joinpath(name).read_text("utf-8"))
        for name in ("report.css", "report.js")
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    ]
    page = tag("html", tag("head", head), tag("body", body, tag("script", script)), lang="en")
    return f"<!doctype html>\n{page}\n"


def header(
    model: BaseAutoencoder, dataset: Dataset, split: str, drawing: Markup, caption: str
) -> Markup:
    """Say what was trained on what, beside a drawing of the net."""
    paragraphs = cleandoc(type(model).__doc__ or "").split("\n\n")
    summary = " ".join(paragraphs[0].split())
    objective = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    if re.match(r"(Args|References|Attributes|Raises):|>>>", objective):
        objective = ""
    words = tag(
        "div",
        tag("p", "narrows", class_="brand"),
        tag("h1", broken(type(model).__name__), f" on {dataset.name or 'data'}"),
        tag("p", dataset.describe(), " — ", split, class_="what"),
        tag("p", summary),
        tag("p", tag("code", f"minimise  {objective}"), class_="objective") if objective else None,
    )
    return tag("header", words, tag("figure", drawing, tag("figcaption", caption)))


def menu(names: Mapping[str, str]) -> Markup:
    """Return the links to the sections."""
    links = [tag("a", text, href=f"#{name}") for name, text in names.items()]
    return tag("nav", links, aria_label="Sections")


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """Return the key numbers: a title, a value, and what it is to be seen beside."""
    return tag(
        "dl",
        [
            tag("div", tag("dt", title), tag("dd", tag("b", value), tag("span", text)))
            for title, value, text in facts
        ],
        class_="tiles",
        aria_label="Key numbers",
    )


def run(model: BaseAutoencoder, command: str, seconds: float, speeds: Mapping[str, str]) -> Markup:
    """Return what repeats the run: command, timings, versions and fields."""
    fields, defaults = model.fields(), type(model).defaults()
    changed = {k: v for k, v in fields.items() if k not in defaults or v != defaults[k]}
    texts = type(model).field_docs()
    copied = tag("button", "Copy", type="button", class_="copy", hidden=True)
    facts = {
        "Whole run": seconds_text(seconds),
        "Training": f"{seconds_text(spent(model))} for {plural(len(model.history_), 'epoch')}",
        **speeds,
        "Device": str(next(model.net_.parameters()).device),
        **{key.capitalize(): value for key, value in versions().items()},
    }
    listed = [tag("div", tag("dt", key), tag("dd", value)) for key, value in facts.items()]
    all_fields = tag(
        "details",
        tag("summary", f"All {len(fields)} fields of {type(model).__name__}"),
        _fields(fields, defaults, texts),
    )
    return section(
        "run",
        "The run",
        tag("h3", "Repeat it"),
        tag("div", tag("pre", tag("code", command)), copied, class_="command"),
        tag("h3", "Timings and versions"),
        tag("dl", listed, class_="facts"),
        tag("h3", "Fields that differ from the defaults"),
        _fields(changed, defaults, texts) if changed else tag("p", "None."),
        all_fields,
    )


def spent(model: BaseAutoencoder) -> float:
    """Return the seconds that training took."""
    return max(sum(row["seconds"] for row in model.history_), 1e-9)


def footer() -> Markup:
    """Return who wrote the page, and when."""
    now = time.strftime("%Y-%m-%d %H:%M")
    return tag(
        "footer",
        f"Written by narrows {versions()['narrows']} on {now}. "
        "This page is complete: it loads nothing from the network.",
    )


def compact(count: int) -> str:
    """Return a count in a few characters: "34", "1.2 M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / min(size, 1e3 if unit == 'k' else size):.3g}\u202f{unit}"
    return number(count, 12)


def _fields(fields: dict[str, Any], defaults: dict[str, Any], texts: dict[str, str]) -> Markup:
    head = tag("tr", [tag("th", text, scope="col") for text in ("field", "value", "default", "")])
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", tag("code", repr(value))),
            tag("td", tag("code", repr(defaults[name])) if name in defaults else None),
            tag("td", texts.get(name, "")),
        )
        for name, value in fields.items()
    ]
    return tag("table", tag("thead", head), tag("tbody", rows), class_="fields")
