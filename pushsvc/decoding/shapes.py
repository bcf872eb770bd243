"""Annotated types, taken apart once: what a value of each may be, with the rules that msgspec does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from msgspec import Meta, Struct, structs

from ..wording import JSON, Words


class Rule(NamedTuple):
    """A restriction that a type cannot express. It is beside `Meta` in an annotation, and msgspec itself ignores it."""

    expected: str = ""
    """The expected value as a text, where the type does not describe it."""
    fault: Callable[[Any], str | None] | None = None
    """Returns what is wrong with a value of the right type, or None."""
    parse: Callable[[str], Any] | None = None
    """Makes the value from a text, instead of msgspec; null is not a text. Raises `ValueError`."""
    secret: bool | None = None
    """Whether no fault may show what was found, here and below. None: where the name is one of a secret."""
    numbers: bool = False
    """Whether `parse` also takes a whole number, as its text."""


def unprintable(text: str) -> str | None:
    """Return what is wrong with a text that is to be shown in one line, or None."""
    return None if text.isprintable() else "must be printable characters"


def fraction(number: float) -> str | None:
    """Return what is wrong with a whole number, which JSON may write as `3.0`, or None."""
    return None if isinstance(number, int) or number.is_integer() else "must be a whole number"


def expected(kind: Any, words: Words = JSON) -> str:
    """Return a text that describes the values of a type."""
    return expected_of(shape_of(kind), words)


class Shape(NamedTuple):
    """A parsed annotation: `base` is its type without bounds, and `kind` with them, as msgspec takes it."""

    kind: Any
    base: Any
    metas: tuple[Meta, ...]
    rule: Rule
    inner: tuple[Shape, ...]
    """The choices of a union; the elements of a list or tuple; the names and the values of an object."""
    nullable: bool = False

    def bound(self, name: str) -> Any:
        return next((found for meta in self.metas if (found := getattr(meta, name)) is not None), None)

    def length_fault(self, length: int, found: str) -> str | None:
        """Return what is wrong with the length of a value, or None. `found` is the text for the length."""
        if not length and self.bound("min_length"):
            return "must not be empty"
        most = self.bound("max_length")
        if most is not None and length > most:
            return f"{found.format(length)}, at most {most:,} are taken"
        return None

    def takes(self, raw: object) -> bool:
        """Return whether a plain value of this Python type is meant for this one of the choices of a union."""
        if isinstance(raw, bool):
            return self.base is bool
        if isinstance(raw, int | float):
            return self.base is float or (self.base is int and isinstance(raw, int))
        if isinstance(raw, list | tuple):
            return self.base in (list, tuple)
        if isinstance(raw, Mapping):
            return self.base is dict or is_struct(self.base)
        return self.base not in (bool, int, float, list, tuple, dict) and not is_struct(self.base)


class StructField(NamedTuple):
    name: str
    shape: Shape
    required: bool


_NO_RULE: Final = Rule()


def shape_of(kind: Any, outer: Rule = _NO_RULE) -> Shape:
    """Return a type taken apart. `outer` is the rule of an annotation around it, which comes first."""
    base, *notes = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    own = next((note for note in notes if isinstance(note, Rule)), _NO_RULE)
    rule = Rule(
        outer.expected or own.expected,
        outer.fault or own.fault,
        outer.parse or own.parse,
        own.secret if outer.secret is None else outer.secret,
        outer.numbers or own.numbers,
    )
    metas = tuple(note for note in notes if isinstance(note, Meta))
    origin, args = get_origin(base), get_args(base)
    if origin in (Union, UnionType):
        choices = [choice for choice in args if choice is not NoneType]
        nullable = len(choices) < len(args)
        if len(choices) == 1:
            return shape_of(choices[0], rule)._replace(nullable=nullable)
        return Shape(kind, Union, metas, rule, tuple(map(shape_of, choices)), nullable)
    if origin in (list, tuple):
        return Shape(kind, origin, metas, rule, (shape_of(args[0]),))
    if origin is dict:
        return Shape(kind, dict, metas, rule, tuple(map(shape_of, args)))
    return Shape(kind, base, metas, rule, ())


@cache
def fields_of(kind: type[Struct]) -> dict[str, StructField]:
    """Return the fields of a struct by their names in documents."""
    return {
        field.encode_name: StructField(field.name, shape_of(field.type), field.required)
        for field in structs.fields(kind)
    }


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


_NAMES: Final = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def expected_of(shape: Shape, words: Words) -> str:
    """Return a text that describes the values of a shape."""
    if shape.rule.expected:
        return shape.rule.expected
    if shape.base is Union:
        choices = dict.fromkeys(expected_of(choice, words) for choice in shape.inner)
        if _NAMES[float] in choices:
            choices.pop(_NAMES[int], None)
        return " or ".join(choices)
    if get_origin(shape.base) is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(shape.base))
    if shape.base in (list, tuple):
        return "a list"
    if shape.base is dict or is_struct(shape.base):
        return words.object
    return _NAMES.get(shape.base, getattr(shape.base, "__name__", str(shape.base))) + _bounds(shape)


def _bounds(shape: Shape) -> str:
    low, above, high = shape.bound("ge"), shape.bound("gt"), shape.bound("le")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    if low is not None:
        return f" of at least {low:,}"
    if above is not None:
        return f" greater than {above:,}" + (f" and of at most {high:,}" if high is not None else "")
    return f" of at most {high:,}" if high is not None else ""
