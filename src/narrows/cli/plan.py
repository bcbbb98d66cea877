"""What a run is asked for: read from TOML, completed by flags, written so that it repeats."""

import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from narrows.cli.flags import FIELDS, UsageError, parse, show_value
from narrows.errors import nearest

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """One run of `narrows fit`; a TOML file has a key for each, and a table ``[fields]``.

    Attributes:
        data: a sample's name, or a path.
        model: a name as `find_model` knows it.
        out: folder of the run; "" for ``runs/<data>-<model>``.
        labels: column of the labels.
        groups: column whose equal values are held out together.
        weight: column of the sample weights.
        size: "HxW" to resize images to.
        checkpoint_every: when the state of training is saved, as `fit` of a model takes it.
        log: the logger that writes beside history.jsonl: "tensorboard" or "mlflow".
        strategy: what several processes do: "ddp" (the default) or "fsdp".
        engine: who trains: "local" for this process, or "ray" for workers of a cluster.
        workers: how many of them there are; None for all that there is room for.
        fields: parameters of the model that are set.
    """

    data: str = ""
    model: str = "vae"
    out: str = ""
    labels: str | None = None
    groups: str | None = None
    weight: str | None = None
    size: str | None = None
    log: str | None = None
    checkpoint_every: str = "1 min"
    strategy: str | None = None
    engine: str = "local"
    workers: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Return what a TOML file asks for.

        Raises:
            UsageError: it cannot be read, is no TOML, or has a key or value of another kind.
        """
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text: {error.reason}.") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML: {error}.") from error
        known = {entry.name: entry.default for entry in fields(cls)}
        for key, value in data.items():
            if key in FIELDS:
                raise UsageError(
                    f"{path}: '{key}' is a parameter of the model; write it below a line [fields]."
                )
            if key not in known:
                raise UsageError(
                    f"{path} has an unknown key '{key}'.{nearest(key, [*known, *FIELDS])} "
                    f"It may have: {', '.join(known)}, and parameters of the model in 'fields'."
                )
            kind = {"fields": dict, "workers": int}.get(key, str)
            if not isinstance(value, kind):
                names = {dict: "a table", int: "a whole number", str: "text in quotes"}
                raise UsageError(f"{path}: '{key}' must be {names[kind]}. Got {value!r} instead.")
        values = {key: parse(value, key) for key, value in data.get("fields", {}).items()}
        return cls(**{**data, "fields": values})

    @property
    def place(self) -> Path:
        """The folder of the run."""
        name = Path(self.data).resolve().name.removesuffix(".gz")
        return Path(self.out or f"runs/{Path(name).stem}-{self.model}")

    def absolute(self) -> "Plan":
        """Return the same plan for a process that stands in another folder."""
        from narrows.data.samples import SAMPLES

        data = self.data if self.data in SAMPLES else str(Path(self.data).resolve())
        return replace(self, data=data, out=str(self.place.resolve()))

    def given(self) -> dict[str, Any]:
        """Return what differs from the defaults, but always data and model."""
        return {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name in ("data", "model") or getattr(self, entry.name) != entry.default
        }

    def toml(self) -> str:
        """Return the TOML file that repeats the run from anywhere."""
        given = self.absolute().given()
        table = given.pop("fields")
        lines = [f"{key} = {_toml(value)}" for key, value in given.items()]
        lines += ["", "[fields]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"

    def command(self) -> str:
        """Return the command line that repeats the run from here, into a folder beside it."""
        given = replace(self, out=f"{self.place}-again").given()
        words = ["narrows", "fit", given.pop("data")]
        for key, value in (given | given.pop("fields")).items():
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [flag, show_value(value)]
        return shlex.join(words)


def _toml(value: Any) -> str:
    """Return a value as TOML; None, which TOML lacks, as the text that `parse` reads as None."""
    if value is None:
        return '"none"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ", ".join(map(_toml, value)) + "]"
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f").encode("utf-8", "backslashreplace").decode()
