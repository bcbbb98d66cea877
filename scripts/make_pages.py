"""Write a page a model into docs/models/ from the registry, and with --pictures what it draws."""

import argparse
import re
from collections.abc import Iterable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import make_fields
from make_pictures import GRAPHS, SEQUENCES, picture
from PIL import Image

import narrows
from narrows.base import BaseAutoencoder
from narrows.storage import atomic_write

DOCS = Path(__file__).parent.parent / "docs"
SITE = DOCS.parent / "zensical.toml"
NAV = re.compile(r"(# models: .*?\n).*?(# /models)", re.DOTALL)
IMPORTS = re.compile(r"\A((?:(?:from|import) .*\n)+)")
BAR = r"\|"
PICTURES = DOCS / "images" / "models"


def models() -> list[type[BaseAutoencoder]]:
    """Return the package's own models, in the order of their modules."""
    own = [m for m in narrows.MODELS.values() if m.__module__.startswith("narrows.models.")]
    return sorted(own, key=lambda model: (model.__module__, make_fields.command(model)))


def page(model: type[BaseAutoencoder]) -> str:
    """Return a model's page: its docstring as Markdown, its own fields, and its picture."""
    text, _, example = cleandoc(model.__doc__ or "").partition("\n\n>>>")
    described = re.split(r"\n\n(?:Args|References|Raises):\n", text)[0]
    idea, objective, *more = described.split("\n\n")
    name = make_fields.command(model)
    parts = [f"# {model.__name__}", idea, f"```text\n{objective}\n```", *more]
    parts.append(f"![{picture(model).shows}](../images/models/{name}.png)")
    parts.append(f"```python\n{code('>>>' + example)}\n```")
    parts.append(f"From the shell: `narrows fit {example_data(model)} --model {name}`")
    parts += ["## Parameters", parameters(model)]
    if references := make_fields.references(model):
        parts += ["## References", "\n".join(f"- {link(work)}" for work in references)]
    return "\n\n".join(parts) + "\n"


def example_data(model: type[BaseAutoencoder]) -> str:
    """Return data that the command line reads and the model takes."""
    if issubclass(model, GRAPHS):
        return "graph.npz"
    return "iris" if issubclass(model, SEQUENCES) else "digits"


def code(example: str) -> str:
    """Return a doctest as a script, its output as comments."""
    lines = []
    for line in example.splitlines():
        prompted = line.startswith((">>>", "..."))
        lines.append(line[4:] if prompted else f"# {line}" if line else "")
    return IMPORTS.sub(r"\1\n", "\n".join(lines)).strip()


def parameters(model: type[BaseAutoencoder]) -> str:
    """Return a table of what sets a model apart from the parameters that all have."""
    shared = make_fields.fields(BaseAutoencoder)
    own = [v for k, v in make_fields.fields(model).items() if shared.get(k) != v]
    told = f"{table(own)}\n\nBeside these it has" if own else "It has"
    return f"{told} the parameters that [all models share](index.md#parameters)."


def table(fields: Iterable[dict[str, Any]]) -> str:
    """Return fields as a table."""
    rows = ["| parameter | default | type | meaning |", "|---|---|---|---|"]
    for field in fields:
        cells = f"`{field['name']}`", f"`{field['default']!r}`", field["type"], field["doc"]
        rows.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return "\n".join(rows)


def index() -> str:
    """Return the page that lists the models and what they share."""
    rows = ["| model | idea |", "|---|---|"]
    for model in models():
        idea = (model.__doc__ or "").partition("\n")[0]
        rows.append(f"| [{model.__name__}]({make_fields.command(model)}.md) | {idea} |")
    listed, shared = "\n".join(rows), table(make_fields.fields(BaseAutoencoder).values())
    return f"# Models\n\n{listed}\n\n## Parameters\n\nEvery model has these.\n\n{shared}\n"


def link(reference: str) -> str:
    """Return a reference whose title leads to its address."""
    title, address = reference.rsplit(", ", 1)
    return f"[{title}]({address})"


def navigation(text: str) -> str:
    """Return the site's settings with the pages that there are."""
    entries = [f'  {{ "{m.__name__}" = "models/{make_fields.command(m)}.md" }},' for m in models()]
    return NAV.sub(lambda found: found[1] + "\n".join(entries) + "\n" + found[2], text)


def content() -> dict[Path, str]:
    """Return all generated files and their texts."""
    pages = {DOCS / "models" / f"{make_fields.command(m)}.md": page(m) for m in models()}
    return pages | {DOCS / "models" / "index.md": index(), SITE: navigation(SITE.read_text())}


def main() -> None:
    """Write the pages, after the pictures where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pictures", nargs="*", help="models to draw anew; all where none is named"
    )
    wanted = parser.parse_args().pictures
    if wanted is not None:
        for model in models():
            if not wanted or model.__name__ in wanted:
                path = PICTURES / f"{make_fields.command(model)}.png"
                Image.fromarray(picture(model).draw(model)).save(path, optimize=True)
    for path, text in content().items():
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, text)


if __name__ == "__main__":
    main()
