"""Write what is told of the models elsewhere: src/narrows/fields.json, and the README's table."""

import json
import re
from inspect import cleandoc
from pathlib import Path
from typing import Any

import narrows
from narrows.base import BaseAutoencoder
from narrows.fields import choices, describe_type
from narrows.storage import atomic_write

PATH = Path(narrows.__file__).with_name("fields.json")
README = Path(__file__).parent.parent / "README.md"
TABLE = re.compile(r"(<!-- models: .*? -->\n).*?(<!-- /models -->)", re.DOTALL)


def content() -> str:
    """Return the file's text, from the registry."""
    shared = fields(BaseAutoencoder)
    # Only the package's own: users' subclasses register themselves too.
    models = [m for m in narrows.MODELS.values() if m.__module__.startswith("narrows.models.")]
    data = {
        "shared": list(shared.values()),
        "models": [
            {
                "name": model.__name__,
                "command": command(model),
                "summary": (model.__doc__ or "").partition("\n")[0],
                "references": references(model),
                "fields": [v for k, v in fields(model).items() if shared.get(k) != v],
            }
            for model in sorted(models, key=command)
        ],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def command(model: type[BaseAutoencoder]) -> str:
    """Return a model's name on the command line."""
    return model.__name__.removesuffix("Autoencoder").lower() or "autoencoder"


def fields(model: type[BaseAutoencoder]) -> dict[str, dict[str, Any]]:
    """Return what there is to know of every field, by name."""
    defaults, docs = model.defaults(), model.field_docs()
    return {
        name: {
            "name": name,
            "default": defaults[name],
            "type": describe_type(annotation),
            "bool": annotation in (bool, bool | None),
            "choices": choices(annotation),
            "doc": docs[name],
        }
        for name, annotation in model.annotations().items()
    }


def references(model: type[BaseAutoencoder]) -> list[str]:
    """Return the works that the docstring names, each with its address."""
    text = cleandoc(model.__doc__ or "")
    section = re.search(r"\nReferences:\n(.*?)(\n\n|\Z)", text, re.DOTALL)
    return re.findall(r"\S.*?https?://\S+", " ".join(section[1].split())) if section else []


def readme(text: str) -> str:
    """Return the README's text with the table of models as `content` knows them."""
    rows = ["| model | `--model` | idea | source |", "|---|---|---|---|"]
    for model in json.loads(content())["models"]:
        works = [work.rsplit(", ", 1) for work in model["references"]]
        sources = "; ".join(f"[{title}]({address})" for title, address in works)
        summary = model["summary"].rstrip(".")
        rows.append(f"| `{model['name']}` | `{model['command']}` | {summary} | {sources} |")
    return TABLE.sub(lambda found: found[1] + "\n".join(rows) + "\n" + found[2], text)


if __name__ == "__main__":
    atomic_write(PATH, content())
    atomic_write(README, readme(README.read_text()))
