"""`Prefer: wait=N` (RFC 7240): how long a caller prefers to wait for the end of its push before a 202. Pure. An unknown
preference, or one with an invalid value, is ignored (https://www.rfc-editor.org/rfc/rfc7240#section-2). So nothing here
is ever refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from .params import HeaderParam

HEADER: Final = "Prefer"
APPLIED: Final = "Preference-Applied"
LONGEST: Final = 30
"""The longest wait in seconds, to which longer ones are reduced. It is shorter than the timeout of common proxies."""

_NAMED: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_WORD: Final = rf'(?:{_NAMED}|"(?:[^"\\]|\\.)*")'
_PREFERENCE: Final = re.compile(
    rf"[ \t]*(?P<name>{_NAMED})(?:[ \t]*=[ \t]*(?P<value>{_WORD}))?"
    rf"(?:[ \t]*;(?:[ \t]*{_NAMED}(?:[ \t]*=[ \t]*{_WORD})?)?)*[ \t]*(?:,|$)"
)
_NEXT: Final = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)*(?:,|$)')
"""The rest of a part that is not a preference."""


def wait_of(headers: Iterable[str]) -> int | None:
    """Return the seconds to wait, from the values of all `Prefer` headers in order, or None without such a
    preference."""
    for text in headers:
        at = 0
        while at < len(text):
            found = _PREFERENCE.match(text, at)
            if found is not None and found["name"].lower() == "wait":
                # Of a preference that is given twice only the first is considered.
                return _seconds(found["value"] or "")
            end = found or _NEXT.match(text, at)
            at = max(end.end() if end is not None else len(text), at + 1)
    return None


def _seconds(value: str) -> int | None:
    digits = value.strip('"')
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return LONGEST if len(digits) > 9 else min(LONGEST, int(digits))


PARAM: Final = HeaderParam(
    HEADER,
    f"`wait=N`: answer 200 with the status document once every delivery has ended, or 202 as usual after N seconds, "
    f"{LONGEST} at most (RFC 7240). Other preferences are ignored, and so is this one if too many requests wait "
    f"already: `{APPLIED}` states that it was applied.",
    {"type": "string"},
    wait_of,
)
