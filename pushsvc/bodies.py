"""Decodes a body into a document, or refuses it: with the place where it is not JSON, or every fault at once. Pure."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Struct

from .decoding import NO_CHECKS, Checks, Enough, Faults, decode, right
from .errors import Fault, InvalidRequest, MalformedBody, summary
from .wording import join

LIMIT: Final = 1000
"""The maximum number of listed faults."""
T = TypeVar("T", bound=Struct)

_plain = msgspec.json.Decoder().decode
_BYTE: Final = re.compile(r"^(?:JSON is malformed: )?(?P<what>.*?)(?: \(byte (?P<byte>\d+)\))?$")


def read_document(body: bytes, kind: type[T], checks: Checks = NO_CHECKS) -> T:
    """Return the document of a body. Raises `MalformedBody`, or `InvalidRequest` with every fault."""
    return read_value(parse(body), kind, checks)


def read_value(value: Any, kind: type[T], checks: Checks = NO_CHECKS) -> T:
    """Return the document of a JSON value. Raises `InvalidRequest` with every fault."""
    value, faults, more = judged(value, kind, checks)
    if faults:
        raise InvalidRequest(summary(len(faults), more), faults=faults)
    return cast(T, value)


def judged(value: Any, kind: type[Struct], checks: Checks = NO_CHECKS) -> tuple[Any, list[Fault], bool]:
    """Return the document of a JSON value, up to `LIMIT` faults, and whether there are others. A valid one is decoded
    by msgspec, which is faster; only an invalid one is examined."""
    with suppress(msgspec.ValidationError):
        document = msgspec.convert(value, kind)
        if right(document, checks):
            return document, [], False
    return examined(value, kind, checks)


def examined(value: Any, kind: type[Struct], checks: Checks = NO_CHECKS) -> tuple[Any, list[Fault], bool]:
    """Return the same as `judged`, by the slower decoder alone."""
    faults = Faults(limit=LIMIT)
    try:
        return decode(value, kind, "", faults, checks), faults, False
    except Enough:
        return None, faults, True


def parse(body: bytes) -> Any:
    """Return any JSON value. Raises `MalformedBody` with the place of the fault."""
    if not body.strip(b" \t\r\n"):
        raise MalformedBody("The body is empty; a JSON object was expected.")
    utf8(body)
    try:
        return _plain(body)
    except RecursionError:
        raise MalformedBody("The JSON is nested too deeply.") from None
    except msgspec.ValidationError:
        raise MalformedBody("A number is out of range: beyond a 64-bit float, or of thousands of digits.") from None
    except msgspec.MsgspecError as error:
        raise MalformedBody(explain(body, str(error))) from None


def utf8(body: bytes) -> None:
    """Raise `MalformedBody` with the offset of the first byte that is not UTF-8."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: byte {error.start} (0x{body[error.start]:02x}).") from None


def explain(body: bytes, message: str) -> str:
    """Return what is wrong with bytes that msgspec called malformed in `message`, with line and column from 1."""
    text = body.decode()
    if text.startswith("\ufeff"):
        return "The body begins with a byte order mark; send it without."
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # The standard library is slower and explains better.
        return f"Not JSON: {error.msg}, line {error.lineno}, column {error.colno}."
    except (ValueError, RecursionError):
        pass
    # It also accepts what JSON does not have: NaN, Infinity, lone surrogates.
    match = _BYTE.match(message)
    if match is None or match["byte"] is None:
        return "Not JSON: a lone surrogate (\\ud800 to \\udfff) in a string."
    before = body[: int(match["byte"])].decode(errors="replace")
    line = before.count("\n") + 1
    column = len(before) - before.rfind("\n")
    return f"Not JSON: {match['what']}, line {line}, column {column}."


def repeats(body: bytes) -> list[Fault]:
    """Return a fault for each name that occurs twice in one object."""
    names: dict[str, None] = {}

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                names[name] = None
            seen.add(name)

    # The standard library's bounds on digits and depth differ from msgspec's: the names found by then must suffice.
    with suppress(ValueError, RecursionError):
        json.loads(body, object_pairs_hook=look)
    return [Fault(join("", name), "is given more than once in one object") for name in list(names)[:LIMIT]]
