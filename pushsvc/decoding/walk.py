"""The walk through one document, which finds every fault."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Union

import msgspec
from msgspec import Raw, Struct

from ..errors import Fault
from ..redaction import is_secret, scrub_text
from ..wording import JSON, Words, did_you_mean, join, show
from .checks import NO_CHECKS, Checks
from .shapes import Shape, StructField, expected_of, fields_of, is_struct, shape_of

WRONG: Final[Any] = type("Wrong", (), {"__repr__": lambda self: "WRONG", "__slots__": ()})()
"""Represents a value that could not be decoded; the reason is among the faults."""


class Enough(Exception):
    """The list of faults is full."""


class Faults(list[Fault]):
    """Collects faults; call it with a path and a message. Raises `Enough` beyond `limit` faults."""

    def __init__(self, words: Words = JSON, limit: int | None = None) -> None:
        super().__init__()
        self.words = words
        self.limit = limit
        self.suggestions = 20  # After this many unknown names, looking for similar ones takes too long.

    def __call__(self, path: str, message: str) -> None:
        if len(self) == self.limit:
            raise Enough
        self.append(Fault(path or "$", message))


def decode(raw: object, kind: Any, path: str, faults: Faults, checks: Checks = NO_CHECKS) -> Any:
    """Return the value of type `kind` that `raw` represents. Every fault is added to `faults`; the result is then
    `WRONG`, or a struct of `checks` with `WRONG` in it."""
    return _Walk(faults, checks).value(shape_of(kind), raw, path, None)


def _own_faults(error: Exception, fields: Collection[str]) -> Iterable[tuple[str, str]]:
    """Yield the faults that a struct's own `__post_init__` has found, each an argument of what it raised, with the name
    of its field, which stands in front of a colon where there is one."""
    for text in map(str, error.args):
        name, colon, rest = text.partition(": ")
        yield (name, scrub_text(rest)) if colon and name in fields else ("", scrub_text(text))


class _Walk:
    """The decoding of one document."""

    def __init__(self, faults: Faults, checks: Checks) -> None:
        self._faults = faults
        self._checks = checks

    def value(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if raw is None and shape.nullable and shape.rule.parse is None:
            return None
        if shape.rule.secret is not None:
            secret = shape.rule.secret
        before = len(self._faults)
        value = self._read(shape, raw, path, secret)
        if shape.rule.fault is not None and len(self._faults) == before:
            message = shape.rule.fault(value)
            if message is not None:
                self._faults(path, message)
                return WRONG
        return value

    def _read(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        base = shape.base
        if shape.rule.parse is not None:
            return self._parsed(shape, raw, path, secret)
        if base is Any or base is Raw:
            return raw
        if base is Union:
            choice = next((choice for choice in shape.inner if choice.takes(raw)), None)
            if choice is None:
                return self._wrong(shape, raw, path, secret)
            if choice.base in (int, float):  # A number out of bounds is described by the rule of the whole.
                choice = choice._replace(rule=choice.rule._replace(expected=shape.rule.expected))
            return self.value(choice, raw, path, secret)
        if is_struct(base):
            return self._struct(shape, raw, path, secret)
        if base is dict:
            return self._object(shape, raw, path, secret)
        if base in (list, tuple):
            return self._list(shape, raw, path, secret)
        try:
            return msgspec.convert(raw, shape.kind)
        except (msgspec.ValidationError, OverflowError):
            return self._wrong(shape, raw, path, secret)

    def _parsed(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        rule = shape.rule
        assert rule.parse is not None
        if isinstance(raw, str) or (rule.numbers and isinstance(raw, int) and not isinstance(raw, bool)):
            try:
                return rule.parse(str(raw))
            except ValueError:
                pass
        return self._wrong(shape, raw, path, secret)

    def _struct(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if not isinstance(raw, Mapping):
            return self._wrong(shape, raw, path, secret)
        faults, before = self._faults, len(self._faults)
        fields = fields_of(shape.base)
        values: dict[str, Any] = {}
        for name, item in raw.items():
            field = fields.get(name)
            if field is None:
                faults(join(path, name), self._unknown(name, fields))
            elif item is not None or field.shape.nullable or not field.required:
                values[field.name] = self.value(field.shape, item, join(path, name), secret)
        for name, field in fields.items():
            if field.required and field.name not in values:
                faults(join(path, name), f"is missing: expected {expected_of(field.shape, faults.words)}")
                values[field.name] = WRONG
        check = self._checks.get(shape.base)
        if check is None and len(faults) > before:
            self._rest(shape.base, fields, values, path, known=raw.keys() <= fields.keys())
            return WRONG
        try:
            value = shape.base(**values)
        except (ValueError, TypeError) as error:
            for name, message in _own_faults(error, fields):
                faults(join(path, name) if name else path, message)
            return WRONG
        for below, message in () if check is None else check(value):
            faults(f"{path}{'.' if path and below and below[0] != '[' else ''}{below}", message)
        return value

    def _rest(
        self,
        kind: type[Struct],
        fields: Mapping[str, StructField],
        values: Mapping[str, Any],
        path: str,
        *,
        known: bool,
    ) -> None:
        """Add the faults of `__post_init__` of a struct some of whose fields have faults, if they concern none of
        those. With an unknown name, which may be a misspelt one, fields that are left out are not reported."""
        right = {name: value for name, value in values.items() if value is not WRONG}
        wrong = values.keys() - right.keys()
        # A required text that is wrong is empty here: its faults are left out.
        required = {field.name: "" for field in fields.values() if field.required and field.shape.base is str}
        try:
            kind(**required | right)
        except (ValueError, TypeError) as error:
            for name, message in _own_faults(error, fields):
                concerned = name in wrong or any(f"`{each}`" in message for each in wrong)
                if name and not concerned and (known or name in right):
                    self._faults(join(path, name), message)

    def _unknown(self, name: str, fields: Mapping[str, StructField]) -> str:
        text = f"unknown {self._faults.words.field}"
        if len(name) > 40 or not self._faults.suggestions:
            return text
        self._faults.suggestions -= 1
        return f"{text}; {did_you_mean(name, fields)}"

    def _object(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if not isinstance(raw, Mapping):
            return self._wrong(shape, raw, path, secret)
        if not self._counted(shape, raw, path):
            return WRONG
        key, item = shape.inner
        values = {}
        for name, value in raw.items():
            place = join(path, name)
            values[self.value(key, name, place, secret)] = self.value(item, value, place, secret)
        return values

    def _list(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if not isinstance(raw, list | tuple):
            return self._wrong(shape, raw, path, secret)
        if not self._counted(shape, raw, path):
            return WRONG
        (item,) = shape.inner
        return shape.base(self.value(item, value, f"{path}[{place}]", secret) for place, value in enumerate(raw))

    def _counted(self, shape: Shape, raw: Collection[object], path: str) -> bool:
        """Return whether there are as many entries as there may be. Too many are refused without a look at each."""
        fault = shape.length_fault(len(raw), "has {:,} entries")
        if fault is not None:
            self._faults(path, fault)
        return fault is None

    def _wrong(self, shape: Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if isinstance(raw, str) and shape.base is str and not shape.rule.expected:
            fault = shape.length_fault(len(raw), "is {:,} characters long")
            if fault is not None:
                self._faults(path, fault)
                return WRONG
        hidden = is_secret(path.rpartition(".")[2]) if secret is None else secret
        found = show(raw, self._faults.words, secret=hidden)
        self._faults(path, f"expected {expected_of(shape, self._faults.words)}, found {found}")
        return WRONG
