"""Instants of callers, in RFC 3339 with an offset; internally they are in Unix ms. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta

from ...decoding import Rule
from ...errors import Fault, InvalidRequest
from ...model import instants
from ...model.instants import RFC3339

DAYS_AHEAD: Final = 366
"""How far ahead a push may be scheduled: a year, including leap years."""

_LOST_PLUS: Final = re.compile(r" (?=\d\d:\d\d\Z)", re.ASCII)
"""A bare `+` in a query is decoded as a space."""


def parse_instant(text: str) -> int:
    """Return an instant in RFC 3339 as Unix milliseconds. Raises `ValueError` with what is wrong."""
    if not RFC3339.fullmatch(text) and RFC3339.fullmatch(_LOST_PLUS.sub("+", text)):
        raise ValueError("has a space before its offset: in a URL the `+` is written `%2B`")
    return instants.parse_instant(text)


def instant_fault(text: str) -> str | None:
    """Return what is wrong with a caller's instant, or None."""
    try:
        parse_instant(text)
    except ValueError as error:
        return str(error)
    return None


def read_instants(values: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return `since` and `until` of query parameters in Unix ms. Raises `InvalidRequest` with every fault."""
    given = [(name, values[name]) for name in ("since", "until")]
    faults = [Fault(name, fault) for name, text in given if text is not None and (fault := instant_fault(text))]
    if faults:
        raise InvalidRequest("The query parameters are not valid.", faults=faults)
    return parse_bounds(values["since"], values["until"])


def parse_bounds(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Return the bounds of a span of time in Unix ms. Raises `ValueError` with what is wrong."""
    return None if since is None else parse_instant(since), None if until is None else parse_instant(until)


Instant = Annotated[
    str,
    Meta(extra_json_schema={"format": "date-time"}, examples=["2026-12-01T09:00:00Z"]),
    Rule(instants.INSTANT, fault=instant_fault),
]


def parse_send_at(text: str, now: int) -> int | None:
    """Return when a push is to be sent, in Unix ms, or None for at once, which an instant in the past means too. Raises
    `ValueError` with what is wrong."""
    at = parse_instant(text)
    if at > now + DAYS_AHEAD * 86_400_000:
        raise ValueError(f"must not be more than {DAYS_AHEAD} days ahead")
    return at if at > now else None
