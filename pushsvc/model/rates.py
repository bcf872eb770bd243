"""Rates as users write them: `240/min`, `10/s`, `500/10s`, and `0` for none; and the limits of a provider's account."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from .instants import UNITS

_UNITS = ("s", "sec", "second", "m", "min", "minute", "h", "hour", "d", "day")
_WRITTEN = (("day", 86400), ("h", 3600), ("min", 60), ("s", 1))
_RATE = re.compile(r"\s*(\d{1,12})\s*/\s*(\d{1,6})?\s*([a-z]+)\s*", re.ASCII)

RATE_HELP = "a rate such as `240/min`, `10/s`, `500/10s` (units s, min, h, day), or `0` for no limit"


class Rate(Struct, frozen=True):
    """`count` pushes in each `seconds`, which may all come at once. "No limit" is `None`, not a rate of zero."""

    count: int
    seconds: int

    def __str__(self) -> str:
        unit, seconds = next(each for each in _WRITTEN if self.seconds % each[1] == 0)
        units = self.seconds // seconds
        return f"{self.count}/{'' if units == 1 else units}{unit}"

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


def parse_rate(text: str) -> Rate | None:
    """Return the rate, or None for `0`. Raises `ValueError` with what is allowed."""
    if text.strip() == "0":
        return None
    match = _RATE.fullmatch(text)
    seconds = int(match[2] or 1) * UNITS[match[3][0]] if match and match[3] in _UNITS else 0
    if not match or not seconds or not int(match[1]):
        raise ValueError(f"expected {RATE_HELP}")
    return Rate(int(match[1]), seconds)


class AccountLimits(Struct, frozen=True):
    """The limits of a provider's account, which several apps may share. None means no limit."""

    account: str = ""
    """The name of the account that shares `quota`: FCM's project id."""
    quota: Rate | None = None
    ramp: float = 0.0
    """Seconds from the slowest rate to the whole quota; 0 is at once."""
    collapsible: Rate | None = None
    """The limit for collapsible messages to one device."""
    is_collapsible: Callable[[bytes], bool] | None = None
    """Whether a rendered `Message.body` is one of those. Pure."""
