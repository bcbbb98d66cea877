"""What the command line knows of models and fields: fields.json, and values from text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from narrows.errors import NarrowsError, nearest

__all__ = [
    "FIELDS",
    "MODELS",
    "Fields",
    "Model",
    "UsageError",
    "find_model",
    "parse",
    "read_pairs",
    "show_value",
]

WORDS = {"none": None, "true": True, "false": False}


class UsageError(NarrowsError):
    """A command was called with something that cannot work; nothing was begun."""


@dataclass(frozen=True)
class Model:
    """A model as fields.json tells of it, with all its fields by name."""

    name: str
    command: str
    summary: str
    references: list[str]
    fields: dict[str, dict[str, Any]]

    @property
    def takes_graphs(self) -> bool:
        """Whether it takes graphs, and nothing else."""
        return "table" not in self.fields["modality"]["choices"]

    def check(self, names: Iterable[str]) -> None:
        """Refuse a field that the model lacks, and say which models have it.

        Raises:
            UsageError: at the first such name.
        """
        for name in names:
            if name in self.fields:
                continue
            if name not in FIELDS:
                known = nearest(name, self.fields)
                raise UsageError(f"{self.name} has no field '{name}'.{known}")
            owners = [model.command for model in MODELS if name in model.fields]
            raise UsageError(
                f"{self.name} has no field '{name}'. Models that have it: {', '.join(owners)}."
            )


def _read() -> tuple[list[Model], dict[str, dict[str, Any]]]:
    data = json.loads(Path(__file__).parent.with_name("fields.json").read_text("utf-8"))
    shared = {entry["name"]: entry for entry in data["shared"]}
    models = []
    for model in data["models"]:
        own = {entry["name"]: entry for entry in model.pop("fields")}
        models.append(Model(**model, fields=shared | own))
    return models, shared


MODELS, _shared = _read()
FIELDS = {k: v for model in MODELS for k, v in model.fields.items()} | _shared
"""Every field of every model, by name; where models differ, as most have it."""


def find_model(name: str) -> Model:
    """Return the model of this name: its class's, with or without "Autoencoder", in any case.

    Raises:
        UsageError: there is none.
    """
    plain = name.lower().replace("-", "").replace("_", "")
    for model in MODELS:
        if plain in (model.command, model.name.lower()):
            return model
    names = [model.command for model in MODELS]
    raise UsageError(
        f"There is no model '{name}'.{nearest(plain, names)} It is one of {', '.join(names)}."
    )


def parse(text: Any, name: str) -> Any:
    """Return the value that a text gives to the field `name`; the estimator judges it.

    None, true or false, a number, JSON in braces, numbers or words between commas, else the text;
    what is no text stays as it is.

    Raises:
        UsageError: the JSON is none.
    """
    if not isinstance(text, str):
        return text
    text = text.strip()
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"The value of '{name}' is not JSON: {error}.") from error
    several = FIELDS.get(name, {}).get("type", "").startswith("a tuple")
    if "," in text or (several and text.lower() not in WORDS):
        return tuple(_scalar(part.strip()) for part in text.split(",") if part.strip())
    return _scalar(text)


def _scalar(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def show_value(value: Any) -> str:
    """Return the text of a value, as `parse` would read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ",".join(map(show_value, value))
    return "none" if value is None else json.dumps(value)


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the values of texts like ``beta=4``, as ``--set`` takes them.

    Raises:
        UsageError: a text has no equals sign.
    """
    values = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise UsageError(f"--set takes field=value, as in --set beta=4. Got '{pair}' instead.")
        name = name.strip().replace("-", "_")
        values[name] = parse(text, name)
    return values


_EVERY = Group("Fields of every model", sort_key=1)
_SOME = Group("Fields of some models", sort_key=2)


def _annotate(name: str, entry: Mapping[str, Any]) -> Any:
    """Return what makes a flag of a field; its text stays text, for `parse`."""
    kind = "" if entry["bool"] else f"{entry['type']}; "
    text, group = f"{entry['doc']} ({kind}default {show_value(entry['default'])})", _EVERY
    if name not in _shared:
        group = _SOME
        text += f" [{', '.join(model.command for model in MODELS if name in model.fields)}]"
    if entry["bool"]:
        return Annotated[bool | None, Parameter(help=text, group=group, show_default=False)]
    keep = Parameter(
        help=text,
        group=group,
        show_default=False,
        metavar="",
        allow_leading_hyphen=True,
        converter=_verbatim,
    )
    return Annotated[str | None, keep]


def _verbatim(kind: Any, tokens: Any) -> str:
    del kind
    return str(tokens[0].value)


if TYPE_CHECKING:
    Fields = Any
else:
    Fields = make_dataclass(
        "Fields",
        [(name, _annotate(name, entry), field(default=None)) for name, entry in FIELDS.items()],
        kw_only=True,
        namespace={"__module__": __name__},
    )
"""The flags of all fields, None where one was not given."""
