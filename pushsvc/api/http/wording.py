"""How faults speak of places and values: JSON's own words, and never a token or a long value. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_SHORT_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,15}")


def join(path: str, name: str) -> str:
    """`to` and `tokens` make `to.tokens`; a name that is no plain word is quoted, a long one only measured."""
    if _PLAIN_NAME.fullmatch(name):
        return f"{path}.{name}" if path else name
    if len(name) > 40:
        return f"{path}[a name of {len(name)} characters]"
    return f"{path}[{json.dumps(name)}]"


def kind(value: Any) -> str:
    """What `value` is, in JSON's words, without saying it unless it is short and cannot be a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            text = repr(value) if isinstance(value, float) or abs(value) < 10**20 else "of more than 20 digits"
            return f"the number {text}"
        case str():
            return f'"{value}"' if _SHORT_WORD.fullmatch(value) else "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def expected(what: str, value: Any) -> str:
    """`expected a string, found the number 5`."""
    return f"expected {what}, found {kind(value)}"


def secret_kind(value: Any) -> str:
    """As `kind`, where even a short text may be a token."""
    return "a string" if isinstance(value, str) else kind(value)


def names(given: Collection[str]) -> str:
    """The names in back-ticks, with commas."""
    return ", ".join(f"`{name}`" for name in given)
