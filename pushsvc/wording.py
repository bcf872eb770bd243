"""How faults speak of places and values: never with a long value, and with none that is secret. Pure."""

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
    """Characters of a text that may be shown although it is no short word: whoever wrote the file has it before him."""


JSON: Final = Words("an object", "field")
TOML: Final = Words("a section", "key", longest=100)

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}").fullmatch
_SHORT_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,15}").fullmatch


def join(path: str, name: str) -> str:
    """`to` and `tokens` make `to.tokens`; a name that is no plain word is quoted, a long one only measured."""
    if _PLAIN_NAME(name):
        return f"{path}.{name}" if path else name
    if len(name) > 40:
        return f"{path}[a name of {len(name)} characters]"
    return f"{path}[{json.dumps(name)}]"


def names(given: Iterable[str]) -> str:
    """The names in back-ticks, with commas."""
    return ", ".join(f"`{name}`" for name in given)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`did you mean ..?`, or what is known where nothing is near and the list is short."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"


def show(raw: object, words: Words = JSON, *, secret: bool = False) -> str:
    """What was found, in words; itself only where it is short and no secret."""
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
