"""Decodes plain values of JSON and TOML into annotated structs: strictly, and with every fault at once. Pure.

msgspec stops at its first fault, but an author wants to correct all faults of a document together. So structs, objects
and lists are walked here; single values are left to msgspec, including bounds and patterns. The accepted values and the
results are those of `msgspec.convert` for the same types, except for what the `Rule`s of the types and the `checks` of
the structs refuse. A value of type `msgspec.Raw` stays the plain value that it is.

A required field that is null is missing. No fault repeats a long value, or any value under a name of a secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct, structs

from .errors import Fault
from .redaction import is_secret, scrub_text
from .wording import JSON, Words, did_you_mean, join, show

WRONG: Final[Any] = type("Wrong", (), {"__repr__": lambda self: "WRONG", "__slots__": ()})()
"""Represents a value that could not be decoded; the reason is among the faults."""


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


Check = Callable[[Any], Iterable[tuple[str, str]]]
"""Yields the faults of a struct that no single field has, each as the path below it and a message. Fields that could
not be decoded are `WRONG`."""
Checks = Mapping[type[Struct], Check]
NO_CHECKS: Final[Checks] = MappingProxyType({})


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
    return _Walk(faults, checks).value(_shape(kind), raw, path, None)


def unprintable(text: str) -> str | None:
    """Return what is wrong with a text that is to be shown in one line, or None."""
    return None if text.isprintable() else "must be printable characters"


def fraction(number: float) -> str | None:
    """Return what is wrong with a whole number, which JSON may write as `3.0`, or None."""
    return None if isinstance(number, int) or number.is_integer() else "must be a whole number"


def expected(kind: Any, words: Words = JSON) -> str:
    """Return a text that describes the values of a type."""
    return _expected(_shape(kind), words)


# --- types, taken apart once ------------------------------------------------------------------------


class _Shape(NamedTuple):
    """A parsed annotation: `base` is its type without bounds, and `kind` with them, as msgspec takes it."""

    kind: Any
    base: Any
    metas: tuple[Meta, ...]
    rule: Rule
    inner: tuple[_Shape, ...]
    """The choices of a union; the elements of a list or tuple; the names and the values of an object."""
    nullable: bool = False

    def bound(self, name: str) -> Any:
        return next((found for meta in self.metas if (found := getattr(meta, name)) is not None), None)

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


class _Field(NamedTuple):
    name: str
    shape: _Shape
    required: bool


_NO_RULE: Final = Rule()


def _shape(kind: Any, outer: Rule = _NO_RULE) -> _Shape:
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
            return _shape(choices[0], rule)._replace(nullable=nullable)
        return _Shape(kind, Union, metas, rule, tuple(map(_shape, choices)), nullable)
    if origin in (list, tuple):
        return _Shape(kind, origin, metas, rule, (_shape(args[0]),))
    if origin is dict:
        return _Shape(kind, dict, metas, rule, tuple(map(_shape, args)))
    return _Shape(kind, base, metas, rule, ())


@cache
def _fields(kind: type[Struct]) -> dict[str, _Field]:
    return {field.encode_name: _Field(field.name, _shape(field.type), field.required) for field in structs.fields(kind)}


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


_NAMES: Final = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _expected(shape: _Shape, words: Words) -> str:
    if shape.rule.expected:
        return shape.rule.expected
    if shape.base is Union:
        choices = dict.fromkeys(_expected(choice, words) for choice in shape.inner)
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


def _bounds(shape: _Shape) -> str:
    low, above, high = shape.bound("ge"), shape.bound("gt"), shape.bound("le")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    if low is not None:
        return f" of at least {low:,}"
    if above is not None:
        return f" greater than {above:,}" + (f" and of at most {high:,}" if high is not None else "")
    return f" of at most {high:,}" if high is not None else ""


# --- the fast way: what msgspec has taken -----------------------------------------------------------


def right(value: Struct, checks: Checks = NO_CHECKS) -> bool:
    """Return whether a struct that msgspec has decoded has no fault by the rules of its types and the `checks`
    either."""
    for name, test in _tests(type(value)):
        item = getattr(value, name)
        if item is not None and not test(item, checks):
            return False
    check = checks.get(type(value))
    return check is None or not any(True for _ in check(value))


_Test = Callable[[Any, Checks], bool]


@cache
def _tests(kind: type[Struct]) -> list[tuple[str, _Test]]:
    return [(field.name, test) for field in _fields(kind).values() if (test := _test(field.shape)) is not None]


def _test(shape: _Shape) -> _Test | None:
    """Return the test that a value of this shape must pass, or None where its type is sufficient."""
    if is_struct(shape.base):
        return right
    inner = [_test(each) for each in shape.inner]
    fault = shape.rule.fault
    if fault is None and inner.count(None) == len(inner):
        return None
    if shape.base is Union and any(test not in (None, right) for test in inner):
        raise TypeError(f"a choice of {shape.kind} has a rule: give it to the union")

    def passes(value: Any, checks: Checks) -> bool:
        if shape.base is Union:
            return (fault is None or fault(value) is None) and (not isinstance(value, Struct) or right(value, checks))
        for test, items in zip(inner, (value,) if shape.base is not dict else (value, value.values()), strict=False):
            if test is not None and not all(item is None or test(item, checks) for item in items):
                return False
        return fault is None or fault(value) is None

    return passes


# --- the walk ---------------------------------------------------------------------------------------


def _own_faults(error: Exception, fields: Collection[str]) -> Iterable[tuple[str, str]]:
    """Yield the faults that a struct's own `__post_init__` has found, each an argument of what it raised, with the name
    of its field, which stands in front of a colon where there is one."""
    for text in map(str, error.args):
        name, colon, rest = text.partition(": ")
        yield (name, scrub_text(rest)) if colon and name in fields else ("", scrub_text(text))


def _length_fault(shape: _Shape, length: int, found: str) -> str | None:
    """Return what is wrong with the length of a value, or None. `found` is the text for the length."""
    if not length and shape.bound("min_length"):
        return "must not be empty"
    most = shape.bound("max_length")
    if most is not None and length > most:
        return f"{found.format(length)}, at most {most:,} are taken"
    return None


class _Walk:
    """The decoding of one document."""

    def __init__(self, faults: Faults, checks: Checks) -> None:
        self._faults = faults
        self._checks = checks

    def value(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
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

    def _read(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
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

    def _parsed(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
        rule = shape.rule
        assert rule.parse is not None
        if isinstance(raw, str) or (rule.numbers and isinstance(raw, int) and not isinstance(raw, bool)):
            try:
                return rule.parse(str(raw))
            except ValueError:
                pass
        return self._wrong(shape, raw, path, secret)

    def _struct(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if not isinstance(raw, Mapping):
            return self._wrong(shape, raw, path, secret)
        faults, before = self._faults, len(self._faults)
        fields = _fields(shape.base)
        values: dict[str, Any] = {}
        for name, item in raw.items():
            field = fields.get(name)
            if field is None:
                faults(join(path, name), self._unknown(name, fields))
            elif item is not None or field.shape.nullable or not field.required:
                values[field.name] = self.value(field.shape, item, join(path, name), secret)
        for name, field in fields.items():
            if field.required and field.name not in values:
                faults(join(path, name), f"is missing: expected {_expected(field.shape, faults.words)}")
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
        self, kind: type[Struct], fields: Mapping[str, _Field], values: Mapping[str, Any], path: str, *, known: bool
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

    def _unknown(self, name: str, fields: Mapping[str, _Field]) -> str:
        text = f"unknown {self._faults.words.field}"
        if len(name) > 40 or not self._faults.suggestions:
            return text
        self._faults.suggestions -= 1
        return f"{text}; {did_you_mean(name, fields)}"

    def _object(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
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

    def _list(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if not isinstance(raw, list | tuple):
            return self._wrong(shape, raw, path, secret)
        if not self._counted(shape, raw, path):
            return WRONG
        (item,) = shape.inner
        return shape.base(self.value(item, value, f"{path}[{place}]", secret) for place, value in enumerate(raw))

    def _counted(self, shape: _Shape, raw: Collection[object], path: str) -> bool:
        """Return whether there are as many entries as there may be. Too many are refused without a look at each."""
        fault = _length_fault(shape, len(raw), "has {:,} entries")
        if fault is not None:
            self._faults(path, fault)
        return fault is None

    def _wrong(self, shape: _Shape, raw: Any, path: str, secret: bool | None) -> Any:
        if isinstance(raw, str) and shape.base is str and not shape.rule.expected:
            fault = _length_fault(shape, len(raw), "is {:,} characters long")
            if fault is not None:
                self._faults(path, fault)
                return WRONG
        hidden = is_secret(path.rpartition(".")[2]) if secret is None else secret
        found = show(raw, self._faults.words, secret=hidden)
        self._faults(path, f"expected {_expected(shape, self._faults.words)}, found {found}")
        return WRONG
