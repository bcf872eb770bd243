"""Instants as callers write them, RFC 3339 with an offset; within, they are Unix milliseconds. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta

DAYS_AHEAD: Final = 366
"""How far ahead a push may be scheduled: a year, whichever it is."""

Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, examples=["2026-12-01T09:00:00Z"])]

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LOST_PLUS: Final = re.compile(r" (?=\d\d:\d\d\Z)", re.ASCII)
"""A bare `+` in a query is a space to whoever reads it."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


def parse_instant(text: str) -> int:
    """RFC 3339 as Unix milliseconds. Raises `ValueError` with what is wrong."""
    if not _INSTANT.fullmatch(text):
        if _INSTANT.fullmatch(_LOST_PLUS.sub("+", text)):
            raise ValueError("has a space before its offset: in a URL the `+` is written `%2B`")
        raise ValueError("must be an instant as in RFC 3339, with its offset: 2026-12-01T09:00:00Z")
    try:
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MS
    except (ValueError, OverflowError):
        raise ValueError("is no instant that the calendar has") from None


def parse_send_at(text: str, now: int) -> int | None:
    """When a push is to be sent; None for at once, which an instant that has passed means too.

    Raises `ValueError` with what is wrong.
    """
    at = parse_instant(text)
    if at > now + DAYS_AHEAD * 86_400_000:
        raise ValueError(f"must not be more than {DAYS_AHEAD} days ahead")
    return at if at > now else None
