"""Clock skew: a wrong local clock makes good credentials look bad, and the provider's answers show it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..net.retry_after import instant

SIGNIFICANT: Final = 60.0
"""Seconds. Less is what answers take, and no provider minds it."""


def clock_skew(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds by which the server's clock is ahead of ours, by its `Date`, or 0 without one. `now` is in
    Unix seconds."""
    sent = instant(headers.get("date", ""))
    return 0.0 if sent is None else sent - now


def clock_hint(skew: float) -> str:
    """Return a hint for an error text if the clock differs by `skew` seconds."""
    if abs(skew) < SIGNIFICANT:
        return "compare this machine's clock with the true time"
    return f"this machine's clock is {abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead'}: set it (NTP)"
