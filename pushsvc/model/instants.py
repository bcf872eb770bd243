"""Instants and spans as text: RFC 3339 against Unix milliseconds, `2h` against seconds. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
"""Seconds of each unit of a span."""

INSTANT: Final = "an instant like 2026-12-01T09:00:00Z"
"""What is expected where an instant is."""

RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_FIRST: Final = -62_135_596_800_000
_LAST: Final = 253_402_300_799_000
"""The beginning of the year 1 and the end of the year 9999, between which the calendar is."""


@lru_cache(maxsize=1024)
def instant(unix_ms: int) -> str:
    """Return an instant in Unix milliseconds as RFC 3339 in UTC with milliseconds. One outside of the years 1 to 9999
    becomes the nearest within."""
    return (_EPOCH + max(_FIRST, min(unix_ms, _LAST)) * _MS).isoformat(timespec="milliseconds")[:-6] + "Z"


def parse_instant(text: str) -> int:
    """Return an instant in RFC 3339, with its offset, as Unix milliseconds. A leap second, which Unix time has not, is
    the second after it. Raises `ValueError` with what is wrong."""
    if not RFC3339.fullmatch(text):
        raise ValueError("must be an instant as in RFC 3339, with its offset: 2026-12-01T09:00:00Z")
    try:
        if text[17:19] != "60":
            return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MS
        after = datetime.fromisoformat(f"{text[:17]}59{text[19:]}".upper()).astimezone(UTC) + timedelta(seconds=1)
        if (after.day, after.hour, after.minute, after.second) == (1, 0, 0, 0):  # it ends a month in UTC: section 5.7
            return (after - _EPOCH) // _MS
    except (ValueError, OverflowError):
        pass
    raise ValueError("is a date or time that does not exist")


def parse_span(text: str) -> int | None:
    """Return a span such as `90s`, `30m`, `2h`, `7d` or `1w` in seconds, or None where the text is not one."""
    span = _SPAN.fullmatch(text)
    return int(span[1]) * UNITS[span[2]] if span else None
