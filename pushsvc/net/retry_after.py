"""The `Retry-After` header, as seconds. Pure: the clock is an argument.

https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")

LONGEST: Final = 86_400.0
"""Seconds. A longer wait is taken for a mistake of the server and cut to this."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the number of seconds to wait, or None if the answer has no readable `Retry-After`.

    A date is compared with the answer's own `Date`, so that a wrong local clock has no effect. `now` (Unix seconds) is
    used if the answer has none.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        # The length is cut first: int() refuses thousands of digits. A fraction, which RFC 9110 does not know and some
        # servers send, is rounded up: no request may come too soon.
        whole, _, fraction = value.partition(".")
        return min(LONGEST, float(int(whole[:12] or "0") + (fraction.strip("0") != "")))
    until = instant(value)
    if until is None:
        return None
    sent = instant(headers.get("date", ""))
    return min(LONGEST, max(0.0, until - (now if sent is None else sent)))


def instant(text: str) -> float | None:
    """Return an HTTP date as Unix seconds, or None."""
    try:
        date = parsedate_to_datetime(text)
        return (date.replace(tzinfo=UTC) if date.tzinfo is None else date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
