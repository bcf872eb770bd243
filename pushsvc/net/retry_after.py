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
    """How many seconds to wait, or None where the answer does not say so in a form that can be read.

    A date is measured against the answer's own `Date`: where both come from the server, a clock of ours that is wrong
    does not matter. `now`, in Unix seconds, stands in where the answer has none.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        # The length is cut first: int() refuses thousands of digits. A fraction, which RFC 9110 does not know and some
        # servers send, is rounded up: nobody is to come too soon.
        whole, _, fraction = value.partition(".")
        return min(LONGEST, float(int(whole[:12] or "0") + (fraction.strip("0") != "")))
    until = instant(value)
    if until is None:
        return None
    sent = instant(headers.get("date", ""))
    return min(LONGEST, max(0.0, until - (now if sent is None else sent)))


def instant(text: str) -> float | None:
    """An HTTP date as Unix seconds, or None."""
    try:
        date = parsedate_to_datetime(text)
        return (date.replace(tzinfo=UTC) if date.tzinfo is None else date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
