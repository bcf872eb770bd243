"""Plain values, as TOML has them, to frozen structs: strict, and with every fault at once.

msgspec alone stops at its first fault; an operator wants to mend a file in one go. So the structs are walked here,
and only the single values are left to msgspec, bounds and patterns included.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from .errors import Fault
from .model.rates import RATE_HELP, Rate, parse_rate
from .telemetry import is_secret, scrub_text

Report = Callable[[str, str], None]
"""Takes the dotted path of a value and what is wrong with it."""


class Faults(list[Fault]):
    """Collects what is wrong; call it with a path and a message."""

    def __call__(self, path: str, message: str) -> None:
        self.append(Fault(path, message))


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean ..?)`, or what there is where nothing is near."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(names))}"


def decode_struct(raw: object, kind: type[Struct], path: str, faults: Faults) -> Any:
    """`raw` as a struct of type `kind`, or None after reporting every fault in it."""
    if not isinstance(raw, Mapping):
        faults(path, f"expected a section [{path}], found {show(path, raw)}")
        return None
    fields = {field.encode_name: field for field in structs.fields(kind)}
    before = len(faults)
    for name in raw:
        if name not in fields:
            faults(join(path, str(name)), f"unknown key, {did_you_mean(str(name), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in raw:
            values[field.name] = decode(raw[name], field.type, join(path, name), faults)
        elif field.required:
            faults(join(path, name), f"missing, expected {expected(field.type)}")
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        # A rule of the struct's own `__post_init__`; it names its key in front of a colon where there is one.
        name, colon, rest = str(error).partition(": ")
        at_key = bool(colon) and name in fields
        faults(join(path, name) if at_key else path, scrub_text(rest if at_key else str(error)))
        return None


def decode(raw: object, kind: Any, path: str, faults: Faults) -> Any:
    """`raw` as a value of type `kind`: a struct, a tuple of structs, or a single value."""
    if is_struct(kind):
        return decode_struct(raw, kind, path, faults)
    if (element := struct_element(kind)) is not None:
        if not isinstance(raw, list | tuple):
            faults(path, f"expected a list of sections [[{path}]], found {show(path, raw)}")
            return None
        return tuple(decode_struct(item, element, f"{path}[{index}]", faults) for index, item in enumerate(raw))
    if isinstance(raw, str) and "\0" in raw:
        faults(path, "holds a NUL character, which no path, host or secret may have")
        return None
    if kind == Rate | None:
        if isinstance(raw, str | int) and not isinstance(raw, bool):
            try:
                return parse_rate(str(raw))
            except ValueError:
                pass
        faults(path, f"expected {RATE_HELP}, found {show('rate', raw)}")  # a rate is no secret, `per_token` neither
        return None
    try:
        return msgspec.convert(raw, kind, dec_hook=_plain)
    except msgspec.ValidationError:
        faults(path, f"expected {expected(kind)}, found {show(path, raw)}")
        return None


def _plain(kind: type, raw: object) -> object:
    if kind is Path and isinstance(raw, str):
        return Path(raw)
    raise msgspec.ValidationError("not of this type")


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct) and kind is not Rate


def struct_element(kind: Any) -> type[Struct] | None:
    """The struct of which `kind` is a list or tuple, or None."""
    if get_origin(kind) in (tuple, list) and is_struct(get_args(kind)[0]):
        return cast(type[Struct], get_args(kind)[0])
    return None


def show(path: str, raw: object) -> str:
    """What was found, in words; a secret only by its kind."""
    name = path.rpartition(".")[2]
    match raw:
        case Mapping():
            return "a section"
        case list() | tuple() if raw and len(raw) <= 5 and all(isinstance(item, str | int | float) for item in raw):
            return f"the list {', '.join(show(path, item) for item in raw)}"
        case list() | tuple():
            return "a list"
        case str() if is_secret(name) or name in ("sha256", "headers"):
            # Whoever mistakes the hash for the key, or one text for a section of them, would find it in the error.
            return f"a text of {len(raw)} characters"
        case str():
            return repr(scrub_text(raw if len(raw) <= 100 else raw[:100] + ".."))
        case bool():
            return str(raw).lower()
        case int() | float() if is_secret(name):
            return "a number"
        case _:
            return repr(raw)


_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    NoneType: "nothing",
}


def expected(kind: Any) -> str:
    """The values that a type allows, in words."""
    origin = get_origin(kind)
    if origin is Annotated:
        base, *metas = get_args(kind)
        for meta in metas:
            if isinstance(meta, msgspec.Meta):
                return meta.description or (expected(base) + _bounds(meta))
        return expected(base)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(expected(choice) for choice in get_args(kind) if choice is not NoneType)
    if origin in (tuple, list, set, frozenset):
        return f"a list of which each is {expected(get_args(kind)[0])}"
    if origin is dict and get_args(kind)[1] is str:
        return "a section in which each value is a text"
    if origin is dict or is_struct(kind):
        return "a section"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _bounds(meta: msgspec.Meta) -> str:
    low, high = meta.ge, meta.le
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    if meta.gt is not None:
        return f" greater than {meta.gt}" + (f" and of at most {high}" if high is not None else "")
    if high is not None:
        return f" of at most {high}"
    return f" that matches {meta.pattern}" if meta.pattern else ""
