"""The report: one self-contained page about a fitted model, for a person to enjoy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from narrows.assembly import takes_linear_path
from narrows.base import BaseAutoencoder
from narrows.data.files import Dataset
from narrows.evaluation.charts import hourglass
from narrows.evaluation.evaluate import Evaluation, take
from narrows.evaluation.gallery import Gallery
from narrows.evaluation.markup import Markup, number, percent, plural, seconds_text, tag
from narrows.evaluation.page import compact, footer, header, menu, run, spent, tiles, whole_page
from narrows.evaluation.sections import comparison, health, training
from narrows.metrics.health import Diagnosis

__all__ = ["layers", "render"]

MENU = {
    "pca": "Beside PCA",
    "reconstructions": "Reconstructions",
    "map": "Map",
    "samples": "New samples",
    "training": "Learning curves",
    "health": "Health",
    "run": "The run",
}


def render(
    model: BaseAutoencoder,
    dataset: Dataset,
    evaluation: Evaluation,
    *,
    command: str,
    seconds: float,
) -> str:
    """Return the report as one HTML page that loads nothing from anywhere.

    Args:
        model: a fitted estimator.
        dataset: what it was fitted to, with labels where there are some.
        evaluation: of the model on this data.
        command: what repeats the run.
        seconds: what the run took.
    """
    name, diagnosis = type(model).__name__, model.diagnose()
    gallery = Gallery(model, dataset, evaluation)
    columns = gallery.columns if gallery.table else []
    main = tag(
        "main",
        _tiles(model, evaluation, diagnosis, seconds),
        comparison(name, evaluation, columns, diagnosis, takes_linear_path(model)),
        gallery.reconstructions(),
        gallery.map(),
        gallery.samples(),
        training(model.history_),
        health(diagnosis, gallery.units()),
        run(model, command, seconds, _speeds(model, evaluation)),
    )
    split = f"trained on {number(evaluation.train, 12)}, "
    split += (
        f"scored on {number(evaluation.test, 12)} held out"
        if evaluation.held_out
        else "no held-out data: scored on what it was trained on"
    )
    sizes, code = layers(model, take(dataset.X, evaluation.rows[:1]))
    drawing = hourglass(sizes, code, f"Sizes of the layers: {', '.join(map(str, sizes))}")
    caption = "values in each layer, from data to code to data"
    head = header(model, dataset, split, drawing, caption)
    return whole_page(f"{name} on {dataset.name or 'data'}", [head, menu(MENU), main, footer()])


def _tiles(
    model: BaseAutoencoder, evaluation: Evaluation, diagnosis: Diagnosis, seconds: float
) -> Markup:
    """Return the key numbers."""
    own, pca = evaluation.metrics["model"], evaluation.metrics["pca"]
    code, features = evaluation.kept, model.modality_.n_features
    units = f"{diagnosis.active} of {code} units active"
    if diagnosis.usage is not None:
        units = f"each one of {diagnosis.usage.codes} codes"
    weights = sum(p.numel() for p in model.net_.parameters())
    speed = f"{number(_rate(model, evaluation), 2)} samples/s"
    shares = {"explained_variance": "explained variance"}
    if "accuracy" in own:
        shares = {"accuracy": "symbols that are right", "exact": "strings that are right"}
    facts = [(text, percent(own[k]), f"PCA {percent(pca[k])}") for k, text in shares.items()]
    if "accuracy" not in own:
        facts.append(("mean squared error", number(own["mse"]), f"PCA {number(pca['mse'])}"))
    if "log_likelihood" in own:
        text = f"nats a sample, at least; PCA {number(pca['log_likelihood'])}"
        facts.append(("log p(x)", number(own["log_likelihood"]), text))
    elif "psnr" in own:
        facts.append(("PSNR", f"{own['psnr']:.1f}", f"decibels; PCA {pca['psnr']:.1f}"))
    facts += [
        (
            "code",
            f"{compact(features)} → {compact(code)}",
            f"values; {units}",
        ),
        ("parameters", compact(weights), f"learned from {plural(evaluation.train, 'sample')}"),
        ("run", seconds_text(seconds), f"{plural(len(model.history_), 'epoch')}, {speed}"),
    ]
    return tiles(facts)


def _rate(model: BaseAutoencoder, evaluation: Evaluation) -> float:
    """Return the training samples a second, over all epochs."""
    return evaluation.train * len(model.history_) / spent(model)


def _speeds(model: BaseAutoencoder, evaluation: Evaluation) -> dict[str, str]:
    return {
        "Training speed": f"{number(_rate(model, evaluation), 3)} samples/s",
        "Reconstruction": f"{number(evaluation.rate, 3)} samples/s",
    }


def layers(model: BaseAutoencoder, sample: Any) -> tuple[list[int], int]:
    """Return how many values each layer passes on, and which of these is the code."""
    sizes: dict[str, dict[nn.Module, int]] = {"encoder": {}, "decoder": {}}
    handles = []
    for part, found in sizes.items():

        def note(
            module: nn.Module, inputs: Any, output: Any, found: dict[nn.Module, int] = found
        ) -> None:
            del inputs
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and len(first):
                found.setdefault(module, first[0].numel())  # steps pass again and again

        for module in model.net_.get_submodule(part).modules():
            own = dict(module.named_parameters(recurse=False))
            if own and ("weight" not in own or own["weight"].ndim > 1):  # a norm is no layer
                handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model.reconstruct(sample)
    finally:
        for handle in handles:
            handle.remove()
    values = int(np.prod(model.modality_.shape))
    before = [values, *list(sizes["encoder"].values())[:-1]]
    after = list(sizes["decoder"].values()) or [values]
    return [*before, int(np.prod(model.net_.latent.code_shape)), *after], len(before)
