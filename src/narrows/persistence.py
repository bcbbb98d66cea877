"""What an estimator learned, as JSON data and tensors, and an estimator from these."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from narrows.data.modalities import Graph, Modality
from narrows.density import CodePrior
from narrows.errors import DataError
from narrows.net import forms
from narrows.runtime import seeded
from narrows.storage import versions
from narrows.training import group

if TYPE_CHECKING:
    from narrows.base import BaseAutoencoder

__all__ = ["restored", "state_of"]

M = TypeVar("M", bound="BaseAutoencoder")


def state_of(model: "BaseAutoencoder") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return all that a model learned, as JSON data and tensors by name."""
    config = {
        "class": type(model).__name__,
        "fields": model._fitted_fields,
        "modality": model.modality_.state(),
        "versions": versions(),
        "metrics": model.history_[-1],
        "history": model.history_,
        "best_epoch": model.best_epoch_,
    }
    tensors = {f"net.{k}": v for k, v in model.net_.state_dict().items()}
    tensors["codes"] = torch.from_numpy(model.codes_)
    if model.unit_kl_ is not None:
        tensors["unit_kl"] = torch.from_numpy(model.unit_kl_)
    if (held_out := model.__dict__.get("held_out_")) is not None:
        tensors["held_out"] = torch.from_numpy(held_out.astype(np.int64))
    if isinstance(density := model.__dict__.get("_density"), CodePrior):
        tensors |= {f"density.{k}": v for k, v in density.state_dict().items()}
    return config, tensors


def restored(cls: type[M], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> M:
    """Return the estimator whose `state_of` this is.

    Raises:
        DataError: the tensors are not those of the net that the fields describe.
        ParameterError: a field cannot work.
    """
    fields: dict[str, Any] = config["fields"]
    model: M = cls().set_params(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    )
    model.check_parameters()
    modality = Modality.restore(config["modality"])
    density = group(dict(tensors), "density")
    with torch.device("meta"):  # compare the forms before any memory is taken
        wanted = model.build(modality)
        prior = CodePrior(*density["counts"].shape).state_dict() if density else {}
    units = torch.empty(int(np.prod(wanted.latent.code_shape)))
    kept = torch.empty(len(wanted.latent.books), dtype=torch.int32)
    expected = {f"net.{k}": v for k, v in wanted.state_dict().items()}
    expected |= {f"density.{k}": v for k, v in prior.items()}
    expected["codes"] = (kept if len(kept) else units).expand(len(tensors["codes"]), -1)
    if "unit_kl" in tensors:
        expected["unit_kl"] = units
    if "held_out" in tensors:  # folders of earlier versions have none
        one = torch.empty((1, 2) if isinstance(modality, Graph) else 1, dtype=torch.int64)
        expected["held_out"] = one.expand(len(tensors["held_out"]), *one.shape[1:])
    if forms(expected) != forms(tensors):
        raise DataError("its weights are not those of the net that its fields describe.")
    with seeded(0, torch.device("cpu")):
        net = model.build(modality)
    net.load_state_dict({k: tensors[f"net.{k}"] for k in net.state_dict()})
    model._learned(
        model.fields(),
        modality,
        net.eval(),
        history=[dict(row) for row in config["history"]],
        best_epoch=config["best_epoch"],
        codes=tensors["codes"].numpy(),
        unit_kl=tensors["unit_kl"].numpy() if "unit_kl" in tensors else None,
    )
    if "held_out" in tensors:
        model.held_out_ = tensors["held_out"].numpy()
    if density:
        model._density = CodePrior.restore(density)
    return model
