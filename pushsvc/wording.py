"""The words in which faults name places and values: never with a long value or a secret one. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from .redaction import scrub_text


class Words(NamedTuple):
    """What a format calls its parts."""

    object: str
    field: str
    longest: int = 0
    """Characters of a text that may be shown although it is no short word: the author of the file has it at hand."""


JSON: Final = Words("an object", "field")
TOML: Final = Words("a section", "key", longest=100)

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}").fullmatch
_SHORT_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,15}").fullmatch


def join(path: str, name: str) -> str:
    """Return the path of a field: `to.tokens` for `to` and `tokens`.

    A name that is no plain word is quoted; of a long one only the length is given.
    """
    if _PLAIN_NAME(name):
        return f"{path}.{name}" if path else name
    if len(name) > 40:
        return f"{path}[a name of {len(name)} characters]"
    return f"{path}[{json.dumps(name)}]"


def names(given: Iterable[str]) -> str:
    """Return the names in back-ticks, separated by commas."""
    return ", ".join(f"`{name}`" for name in given)


def other_port(section: str) -> str:
    """Return the remedy for an address that cannot be listened on: the key that sets it, and its variable."""
    key, variable = f"{section}.port", f"PUSHSVC__{section.upper()}__PORT"
    return f"choose another host or port: `{key}` in the configuration, or {variable}"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a hint at the most similar known name, or the list of known names if none is similar."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"


def show(raw: object, words: Words = JSON, *, secret: bool = False) -> str:
    """Return a description of a value. It repeats the value only if that is short and no secret."""
    match raw:
        case None:
            return "null"
        case bool():
            return str(raw).lower()
        case int() | float():
            if secret:
                return "a number"
            return f"the number {raw}" if isinstance(raw, float) or abs(raw) < 10**20 else "a number of many digits"
        case str():
            shown = not secret and (len(raw) <= words.longest or _SHORT_WORD(raw))
            return json.dumps(scrub_text(raw), ensure_ascii=False) if shown else "a string"
        case list() | tuple():
            return "a list"
        case Mapping():
            return words.object
        case _:
            return f"a {type(raw).__name__}"
