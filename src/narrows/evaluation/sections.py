"""Sections of the report that look at numbers: PCA beside the model, training, health."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.evaluation.charts import BROAD, Line, bars, curves, histogram
from narrows.evaluation.evaluate import Evaluation
from narrows.evaluation.markup import (
    THIN,
    Child,
    Markup,
    broken,
    join,
    number,
    percent,
    plural,
    tag,
)
from narrows.metrics.health import Diagnosis

__all__ = ["comparison", "figure", "health", "section", "training", "verdict"]

EVEN = 0.02
"""Relative difference of two errors below which neither is called better."""
FITTING = {"underfitting", "overfitting", "generalisation"}
"""Findings on a net that fits too little or too much, which a start at PCA helps against."""
COLUMNS = 30
"""Columns of a table that are compared one by one."""
TITLES = {
    "explained_variance": "Explained variance",
    "mse": "Mean squared error",
    "psnr": "Peak signal to noise, dB",
    "accuracy": "Symbols that are right",
    "exact": "Strings that are right",
    "log_likelihood": "log p(x), nats a sample",
}

SHARES = {"explained_variance", "accuracy", "exact"}


def section(name: str, title: str, *children: Child) -> Markup:
    """Return a section with its heading, to which the page's menu leads."""
    return tag("section", tag("h2", title, id=name), children, aria_labelledby=name)


def figure(
    chart: Child, title: str, text: Child = None, key: Child = None, **attributes: str
) -> Markup:
    """Return a chart with its caption above it: a title, words, and a key at the right."""
    words = tag("span", tag("b", title), text)
    beside = None if key is None else tag("span", key, class_="key")
    caption = tag("figcaption", words, beside)
    return tag("figure", caption, chart, **attributes)


# -- PCA beside the model ----------------------------------------------------------------------


def comparison(
    name: str,
    evaluation: Evaluation,
    columns: Sequence[str],
    diagnosis: Diagnosis,
    path: bool = False,
) -> Markup:
    """Return the verdict, the table of both, and how errors spread over samples or columns.

    `path` tells whether the model could have a linear path, and has none.
    """
    warning = (
        "There is no held-out data: these are the training samples, and new ones will fare worse."
    )
    return section(
        "pca",
        "PCA beside the model",
        tag("p", verdict(name, evaluation, diagnosis, path), class_="lead"),
        None if evaluation.held_out else tag("p", warning, class_="warning"),
        tag(
            "div",
            tag("div", _table(name, evaluation), _notes(name, evaluation), class_="wide"),
            _spread(name, evaluation),
            class_="columns two",
        ),
        _columns(name, evaluation, columns),
    )


def _notes(name: str, evaluation: Evaluation) -> Markup:
    """Say what was compared, and how."""
    some = f"{number(evaluation.fitted, 12)} of " if evaluation.fitted < evaluation.train else ""
    text = (
        f"PCA keeps {plural(evaluation.dimensions, 'number')} a sample. It was fitted to {some}"
        f"the same {plural(evaluation.train, 'training sample')} in the same scaled units as "
        f"{name}, and is scored on the same samples with the same formulas."
    )
    if evaluation.dimensions < evaluation.kept:
        text += f" The code has {evaluation.kept}, but there is no more for PCA to keep."
    if evaluation.columns:
        text += (
            " Explained variance counts all columns alike; in the mean squared error, in the "
            "data's own units, wide columns count most."
        )
    if "log_likelihood" not in evaluation.metrics["model"]:
        text += f" {name} gives no bound on log p(x), so that is not compared."
    return tag("p", text, class_="note")


def verdict(name: str, evaluation: Evaluation, diagnosis: Diagnosis, path: bool = False) -> Markup:
    """Say plainly which is better, by how much, and on how many samples."""
    scores = evaluation.metrics
    text = "accuracy" in scores["model"]
    share = "accuracy" if text else "explained_variance"
    left = {key: 1 - value[share] for key, value in scores.items()}
    known = bool(np.isfinite(list(left.values())).all())
    errors = left if known else {key: value["mse"] for key, value in scores.items()}
    model, pca = errors["model"], errors["pca"]
    if pca < max(1e-9, 1e-6 * model):
        kept = plural(evaluation.dimensions, "dimension")
        words = f": {kept} hold everything there is, so it is no yardstick. "
        words += "A smaller latent_dim would make a comparison."
        return Markup(tag("strong", "PCA is exact here") + join(words))
    change = model / pca - 1
    seen = "held-out" if evaluation.held_out else "training"
    wins = int((evaluation.errors["model"] < evaluation.errors["pca"]).sum())
    shown = {0: "none", evaluation.test: "all"}.get(wins, number(wins, 12))
    noun = "share of wrong symbols" if text else "squared error"
    words = f": {_standing(change, noun, diagnosis, path)} It reconstructs {shown} of the "
    words += f"{plural(evaluation.test, f'{seen} sample')} better than PCA"
    if text:
        words += f", and gets {percent(model)} of their symbols wrong, where PCA gets "
        words += percent(pca)
    elif known:
        words += f", and leaves {percent(model)} of their variance unexplained, "
        words += f"where PCA leaves {percent(pca)}"
        words += ": the mean of the data would be closer than the model" if model > 1 else ""
    head = f"{name} and PCA are even"
    if abs(change) > EVEN:
        head = f"PCA is better than {name}" if change > 0 else f"{name} is better than PCA"
    return Markup(tag("strong", head) + join(f"{words}.{_density(scores, change > EVEN)}"))


def _standing(change: float, noun: str, diagnosis: Diagnosis, path: bool) -> str:
    """Say how far the model's error is from PCA's, and what may help where it is greater."""
    if change < -EVEN:
        return f"its {noun} is {percent(-change, 0)} smaller."
    if change <= EVEN:
        return f"it differs from PCA's by less than 2 % in its {noun}."
    size = f"{percent(change, 0)} larger"
    if change >= 1:
        size = f"{number(change + 1, 2)} times as large"
    ills = {finding.name for finding in diagnosis.findings if finding.level != "good"}
    help_ = (
        "the findings under Health tell what may help"
        if ills
        else "more epochs, a higher learning_rate or weaker penalties may help"
    )
    if path and ills <= FITTING:
        help_ = "linear_path=True starts there, and patience=10 keeps what is better than that"
    return (
        f"the model's {noun} is {size}. A linear map of the same size does better on "
        f"these data; {help_}."
    )


def _density(scores: dict[str, dict[str, float]], behind: bool) -> str:
    """Say so where the model loses by its errors and wins as a density."""
    gain = scores["model"].get("log_likelihood", 0.0) - scores["pca"].get("log_likelihood", 0.0)
    if not behind or not gain > 0:
        return ""
    text = f" As a density of the data the model is ahead, by {number(gain, 3)} nats a sample or "
    return text + "more: it knows better which errors it makes, and which codes there are."


def _table(name: str, evaluation: Evaluation) -> Markup:
    model, pca = evaluation.metrics["model"], evaluation.metrics["pca"]
    rows = []
    for key in [key for key in TITLES if key in model]:
        a, b = model[key], pca.get(key, float("nan"))
        better = a < b if key == "mse" else a > b
        rows.append(
            tag(
                "tr",
                tag("th", TITLES[key], scope="row"),
                tag("td", _value(key, a, bound=True), class_="best" if better else None),
                tag("td", _value(key, b), class_="best" if b != a and not better else None),
                tag("td", _difference(key, a, b)),
            )
        )
    head = ["", broken(name), f"PCA, {plural(evaluation.dimensions, 'dimension')}", "difference"]
    return tag(
        "table",
        tag("thead", tag("tr", [tag("th", text, scope="col") for text in head])),
        tag("tbody", rows),
        class_="scores",
    )


def _value(key: str, value: float, bound: bool = False) -> str:
    if key in SHARES:
        return percent(value)
    if key == "psnr" and np.isfinite(value):
        return f"{value:.2f}"
    least = "≥ " if bound and key == "log_likelihood" else ""
    return f"{least}{number(value)}"


def _difference(key: str, model: float, pca: float) -> str:
    if not np.isfinite([model, pca]).all():
        return "–"
    if key in SHARES:
        text = f"{100 * (model - pca):+.1f} points"
    elif key == "mse" and pca <= 1e-12:
        text = "–"
    elif key == "mse" and model > 10 * pca:
        text = f"×{THIN}{number(model / pca, 2)}"
    elif key == "mse":
        text = f"{100 * (model / pca - 1):+.0f}{THIN}%"
    else:
        text = f"{model - pca:+.2f}"
    return text.replace("-", "−")


def _spread(name: str, evaluation: Evaluation) -> Markup | None:
    pair = [("model", evaluation.errors["model"]), ("pca", evaluation.errors["pca"])]
    pair = [(style, values[np.isfinite(values)]) for style, values in pair]
    if min(len(values) for _, values in pair) < 10:
        return None
    top = max(float(np.quantile(values, 0.98)) for _, values in pair)
    units = "in the model's units" if evaluation.scaled else "in squared units of the data"
    chart = histogram(pair, 0.0, top, 24, f"Squared errors of samples: {name} and PCA", BROAD)
    return figure(chart, "Squared error of each sample", f", {units}", _key(name))


def _key(name: str) -> list[Markup]:
    return [tag("span", name, class_="dot model"), tag("span", "PCA", class_="dot pca")]


def _columns(name: str, evaluation: Evaluation, columns: Sequence[str]) -> Markup | None:
    """Compare the two column by column, the worst of the model first."""
    if not evaluation.columns:
        return None
    model, pca = evaluation.columns["model"], evaluation.columns["pca"]
    known = np.flatnonzero(np.isfinite(model) & np.isfinite(pca))
    if not len(known):
        return None
    order = known[np.argsort(model[known], kind="stable")][:COLUMNS]
    items = [
        tag(
            "li",
            tag("span", columns[i], class_="what"),
            tag(
                "span",
                [
                    tag("span", class_=f"{style}", style=f"width:{100 * _unit(values[i]):.1f}%")
                    for style, values in (("model", model), ("pca", pca))
                ],
                class_="pair",
            ),
            tag("span", percent(model[i], 0), class_="model num"),
            tag("span", percent(pca[i], 0), class_="pca num"),
        )
        for i in order
    ]
    title = "Explained variance of each column"
    if len(known) > len(order):
        title += f": the {len(order)} of {len(known)} that {name} explains least"
    return figure(tag("ol", items, class_="meters"), title, key=_key(name))


def _unit(value: float) -> float:
    return float(np.clip(value, 0, 1))


# -- training ----------------------------------------------------------------------------------


def training(history: Sequence[dict[str, float]]) -> Markup:
    """Return the curves of every term."""
    hidden = {"epoch", "seconds"}
    every = dict.fromkeys(key for row in history for key in row)  # some terms end before others
    names = [key for key in every if key not in hidden and not key.startswith("validation_")]
    names.sort(key=lambda name: (name == "learning_rate", name != "loss"))
    held = any(key.startswith("validation_") for key in history[-1])
    key = [tag("span", "training", class_="dot train")]
    key += [tag("span", "held out", class_="dot held")] if held else []
    note = (
        f"Over {plural(len(history), 'epoch')}. Terms are in nats a sample, summed over its "
        "values; mse is per value, in the model's units. Training values are means over an epoch "
        "in which the net still changed."
    )
    return section(
        "training",
        "Learning curves",
        tag("p", tag("span", key, class_="key"), note, class_="note"),
        tag("div", [_curve(history, name) for name in names], class_="columns three"),
    )


def _curve(history: Sequence[dict[str, float]], name: str) -> Markup:
    lines, ends = [], []
    for style, key in (("train", name), ("held", f"validation_{name}")):
        pairs = [(row["epoch"], row[key]) for row in history if key in row]
        if pairs:
            x, y = np.array(pairs, np.float64).T
            lines.append(Line(key, x, y, style))
            ends.append(tag("span", number(float(y[-1])), class_=f"dot {style}"))
    known = [row[name] for row in history if name in row]
    alt = f"{name} over {plural(len(known), 'epoch')}, at the end {number(known[-1])}"
    steady = name == "learning_rate"
    return figure(curves(lines, alt, whole=steady), name, key=None if steady else ends)


# -- health ------------------------------------------------------------------------------------


def health(diagnosis: Diagnosis, traversal: Markup | None) -> Markup:
    """Return the findings, and what each unit of the code carries."""
    marks = {"good": "✓", "notice": "!", "problem": "✕"}
    findings = [
        tag(
            "li",
            tag("span", marks[finding.level], class_="mark", aria_hidden="true"),
            tag("span", finding.text, " ", tag("em", finding.remedy) if finding.remedy else None),
            class_=finding.level,
        )
        for finding in diagnosis.findings
    ]
    words = tag("ul", findings, class_="findings")
    left, right = (
        (words, _units(diagnosis))
        if traversal is None
        else ([words, _units(diagnosis)], traversal)
    )
    body = tag("div", tag("div", left, class_="stack"), right, class_="columns two even")
    return section("health", "Health", body)


def _units(diagnosis: Diagnosis) -> Markup:
    variational = diagnosis.kl.size > 0
    values: NDArray[Any] = diagnosis.kl if variational else diagnosis.variance
    quiet = np.ones(len(values), dtype=bool)
    quiet[np.argsort(-diagnosis.variance, kind="stable")[: diagnosis.active]] = False
    what = "KL of each unit, in nats" if variational else "Variance of each unit's code"
    dead = len(values) - diagnosis.active
    state = f"{diagnosis.active} of {plural(len(values), 'unit')} active"
    ends = [number(float(end), 3) for end in (values.min(), values.max())]
    alt = f"{what}: {state}, from {ends[0]} to {ends[1]}"
    order = np.argsort(-values, kind="stable")[:64]
    names = [str(i + 1) for i in order]
    chart = bars(values[order].astype(np.float64), quiet[order], alt, names)
    tail = f", {dead} dead (grey)" if dead else ""
    return figure(chart, what, f": {state}{tail}")
