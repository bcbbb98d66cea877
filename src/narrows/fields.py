"""Fields are parameters: keyword-only, inherited, checked at fit, and known by type and text."""

import re
import types
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from functools import cache, reduce
from inspect import cleandoc
from itertools import takewhile
from operator import or_
from textwrap import TextWrapper
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema
from sklearn.base import BaseEstimator

from narrows.errors import NarrowsError, ParameterError, nearest

__all__ = [
    "Count",
    "Fraction",
    "NonNegative",
    "OneOf",
    "Parameters",
    "Positive",
    "UnknownParameterError",
    "Unless",
    "Weighs",
    "When",
    "describe_type",
]

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Count = Annotated[int, Ge(1)]


MULTILINE = re.MULTILINE | re.DOTALL
SECTION = re.compile(r"^Args:\n(.*?)(?=\n\n|\Z)", MULTILINE)
ENTRY = re.compile(r"^ {4}(\w+): (.*?)(?=\n {4}\w+: |\Z)", MULTILINE)
AFTER_ARGS = re.compile(r"^(?:References:|>>>)|\Z", re.MULTILINE)
SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


class UnknownParameterError(NarrowsError, TypeError):
    """An estimator has no parameter of this name."""


@dataclass(frozen=True, eq=False)
class OneOf:
    """Constraint of a str field: one of the names in a registry, as it is when checked."""

    registry: Iterable[str]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, name: str) -> str:
        """Return a name that is registered."""
        if name not in self.registry:
            raise ValueError(name)
        return name


class Mark:
    """What an annotation says of a field beside the values that it may have."""


@dataclass(frozen=True, eq=False)
class Weighs(Mark):
    """Mark of a field: it is the weight of what a model's latent or net charges by this name."""

    charge: str


class When(Mark):
    """Mark of a field: it acts only where another one has a certain value, or one of several.

    A model that has no such other field admits any value.

    Args:
        other: name of the other field.
        *values: of that one.
        reason: why, in place of "has no effect with ...".
    """

    def __init__(self, other: str, *values: Any, reason: str = "") -> None:
        self.other, self.values, self.reason = other, values, reason

    def acts(self, value: Any) -> bool:
        """Tell whether the field acts beside a value of the other."""
        return value in self.values


class Unless(When):
    """Mark of a field: it acts only where another one has none of certain values."""

    def acts(self, value: Any) -> bool:
        """Tell whether the field acts beside a value of the other."""
        return not super().acts(value)


@dataclass_transform(kw_only_default=True, eq_default=False)
class Parameters(BaseEstimator):  # type: ignore[misc]
    """Base of estimators whose class annotations are their scikit-learn parameters."""

    meaningless: ClassVar[dict[str, str]] = {}
    """Inherited fields that must stay at their defaults, with the reason."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(cls, kw_only=True, eq=False, repr=False)
        cls.__doc__ = _completed(cls)

    def __new__(cls, *args: Any, **parameters: Any) -> "Parameters":
        """Refuse unknown names before `__init__` sees them."""
        cls.check_names(parameters)
        new: Parameters = super().__new__(cls)
        return new

    def set_params(self, **parameters: Any) -> Self:
        """Set fields by name.

        Raises:
            ParameterError: there is no such field.
        """
        try:
            self.check_names(parameters)
        except UnknownParameterError as error:  # scikit-learn's is a ValueError here
            raise ParameterError(str(error)) from error
        super().set_params(**parameters)
        return self

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Refuse names of no field, with the nearest one that is.

        Raises:
            UnknownParameterError: at the first such name.
        """
        known = [field.name for field in dataclass_fields(cls)]
        for name in names:
            if name not in known:
                raise UnknownParameterError(
                    f"{cls.__name__} has no parameter '{name}'.{nearest(name, known)} "
                    f"It has: {', '.join(known)}."
                )

    def check_parameters(self) -> None:
        """Check every field against its annotation, and that those that were set can act.

        Raises:
            ParameterError: with the field, what it must be, and what it is.
        """
        values = self.fields()
        for name, reason in self.meaningless.items():
            self.refuse_set([name], reason)
        for name, condition in self.conditions():
            value = values[condition.other]
            if not condition.acts(value):
                reason = condition.reason or f"has no effect with {condition.other}={value!r}"
                self.refuse_set([name], reason)

    def refuse_set(self, names: Iterable[str], reason: str) -> None:
        """Refuse fields that were set, and could not act.

        Raises:
            ParameterError: with the field and the reason, "has no effect with ...".
        """
        defaults, values = self.defaults(), self.fields()
        for name in names:
            if values[name] != defaults[name]:
                raise ParameterError(
                    f"The '{name}' parameter of {type(self).__name__} {reason}. Leave it at "
                    f"{defaults[name]!r}."
                )

    def refuse(self, name: str, must: str, hint: str = "") -> NoReturn:
        """Refuse a field's value.

        Args:
            name: of the field.
            must: what it must be, or do.
            hint: a further sentence, after a space.

        Raises:
            ParameterError: always.
        """
        raise ParameterError(
            f"The '{name}' parameter of {type(self).__name__} must {must}. Got "
            f"{_plain(getattr(self, name))!r} instead.{hint}"
        )

    def fields(self) -> dict[str, Any]:
        """Return the checked values of all fields as plain Python, without changing them."""
        return {name: self._checked(name) for name in type(self).annotations()}

    def given(self, *names: str) -> dict[str, Any]:
        """Return the values of some fields as they are, by name."""
        return {name: getattr(self, name) for name in names}

    @classmethod
    def annotations(cls) -> dict[str, Any]:
        """Return the annotation of every field."""
        key: Any = cls
        return {name: annotation for name, (annotation, _) in _declared(key).items()}

    @classmethod
    def conditions(cls) -> list[tuple[str, When]]:
        """Return the fields that act only beside some values of others, with the condition."""
        known = cls.annotations()
        found = [(name, mark) for name, mark in cls.marks() if isinstance(mark, When)]
        return [(name, condition) for name, condition in found if condition.other in known]

    @classmethod
    def marks(cls) -> list[tuple[str, Mark]]:
        """Return every mark, with the name of its field."""
        key: Any = cls
        return [(name, mark) for name, (_, marks) in _declared(key).items() for mark in marks]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of every field."""
        return {f.name: f.default for f in dataclass_fields(cls) if f.default is not MISSING}

    @classmethod
    def field_docs(cls) -> dict[str, str]:
        """Return the text of every field, from the ``Args:`` of the class that declares it."""
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, Parameters):
                texts |= _entries(base.__doc__)
        return texts

    def _checked(self, name: str) -> Any:
        cls: Any = type(self)
        annotation, value = _declared(cls)[name][0], _plain(getattr(self, name))
        with suppress(ValidationError):
            return _adapters(cls)[name].validate_python(value)
        known, named = choices(annotation), [value] if isinstance(value, str) else []
        if isinstance(value, dict):
            known = [name for part in _members(annotation) for name in _keys(part)]
            named = [name for name in value if name not in known]
        hint = nearest(str(named[0]), known) if named else ""
        self.refuse(name, f"be {describe_type(annotation)}", hint)


@cache
def _entries(doc: str | None) -> dict[str, str]:
    """Return the texts of the fields that a docstring names."""
    section = SECTION.search(cleandoc(doc or ""))
    found = ENTRY.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for name, text in found}


def _completed(cls: type[Parameters]) -> str:
    """Return a class's docstring with the fields of its private bases, which nobody else shows."""
    bases = (base for base in cls.__mro__[1:] if issubclass(base, Parameters))
    above = takewhile(lambda base: base.__name__.startswith("_"), bases)
    texts, own = cls.field_docs(), _entries(cls.__doc__)
    lent = {name for base in above for name in _entries(base.__doc__)} - own.keys()
    doc = cleandoc(cls.__doc__ or "")
    if not lent:
        return doc
    wrapper = TextWrapper(
        95,
        initial_indent=" " * 4,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
    block = "\n".join(wrapper.fill(f"{name}: {texts[name]}") for name in texts if name in lent)
    if section := SECTION.search(doc):
        return f"{doc[: section.start(1)]}{block}\n{doc[section.start(1) :]}"
    place = next(AFTER_ARGS.finditer(doc)).start()
    return f"{doc[:place].rstrip()}\n\nArgs:\n{block}\n\n{doc[place:]}".rstrip()


def describe_type(annotation: Any) -> str:
    """Return an annotation in words: "a float ≥ 0", "one of 'a', 'b' or None"."""
    named = [repr(name) for name in choices(annotation)]
    others = [_describe(part) for part in _members(annotation) if not choices(part)]
    texts = [named[0] if len(named) == 1 else "one of " + ", ".join(named)] if named else []
    return " or ".join(texts + others)


def _describe(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is types.NoneType:
        return "None"
    if origin is Annotated:
        bounds = " and ".join(_describe_bound(bound) for bound in args[1:])
        return f"{_describe(args[0])} {bounds}"
    if origin is tuple:
        return "a tuple of " + _describe(args[0]).split(" ", 1)[1].replace("int", "ints", 1)
    if origin is dict:
        keys = ", ".join(map(repr, _keys(annotation)))
        names = f"names ({keys})" if keys else "names"
        if args[1] is Any:
            return f"a dict of {names}"
        _, kind, *limits = _describe(args[1]).split(" ")
        return " ".join([f"a dict of {names} to {kind}s", *limits])
    return f"{'an' if annotation is int else 'a'} {annotation.__name__}"


def choices(annotation: Any) -> list[str]:
    """Return the names that an annotation admits."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is Annotated:
        named = [bound for bound in annotation.__metadata__ if isinstance(bound, OneOf)]
        return list(named[0].registry) if named else []
    if get_origin(annotation) in (Union, types.UnionType):
        return [name for part in get_args(annotation) for name in choices(part)]
    return []


def _keys(annotation: Any) -> list[str]:
    """Return the names that a dict admits; none, where it admits any or is no dict."""
    return choices(get_args(annotation)[0]) if get_origin(annotation) is dict else []


def _members(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if union else (annotation,)


def _describe_bound(bound: Any) -> str:
    sign, attribute = SIGNS[type(bound)]
    return f"{sign} {getattr(bound, attribute)}"


def _plain(value: Any) -> Any:
    """Return NumPy scalars and sequences as Python's own."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


@cache
def _declared(cls: Any) -> dict[str, tuple[Any, list[Mark]]]:
    """Return what the value of every field must be, and the marks of the field."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _split(hints[field.name]) for field in dataclass_fields(cls)}


def _split(annotation: Any) -> tuple[Any, list[Mark]]:
    """Return what a value must be, and the marks of the field."""
    if len(members := _members(annotation)) > 1:
        parts = [_split(member) for member in members]
        return reduce(or_, (kind for kind, _ in parts)), [mark for _, own in parts for mark in own]
    if get_origin(annotation) is not Annotated:
        return annotation, []
    bounds = [bound for bound in annotation.__metadata__ if not isinstance(bound, Mark)]
    marks = [bound for bound in annotation.__metadata__ if isinstance(bound, Mark)]
    kind = annotation.__origin__
    return Annotated[kind, *bounds] if bounds else kind, marks


@cache
def _adapters(cls: Any) -> dict[str, TypeAdapter[Any]]:
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {
        name: TypeAdapter(annotation, config=strict)
        for name, annotation in cls.annotations().items()
    }
