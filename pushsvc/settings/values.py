"""The types of values that several keys share."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from ..decoding import Rule
from ..model.access import NAME, NAME_RULE
from ..model.rates import RATE_HELP, Rate, parse_rate

LONGEST: Final = 100 * 365 * 86_400
"""Seconds of the longest span, 100 years: it is not infinite, and any number of it in milliseconds is exact."""
MOST: Final = 10**12
"""The greatest count: Redis and Lua represent it exactly."""


def _too_long(seconds: float) -> str | None:
    return f"must be at most {LONGEST:,}, which is 100 years" if seconds > LONGEST else None


def too_many(count: int) -> str | None:
    return f"must be at most {MOST:,}" if count > MOST else None


SPAN: Final = Rule(fault=_too_long)
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Positive: TypeAlias = Annotated[float, Meta(gt=0), SPAN]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0), SPAN]
Seconds: TypeAlias = Annotated[int, Meta(ge=1), SPAN]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1), Rule(fault=too_many)]
Name: TypeAlias = Annotated[
    str,
    Meta(pattern=NAME),
    Rule(NAME_RULE),
]
RateText: TypeAlias = Annotated[Rate | None, Rule(RATE_HELP, parse=parse_rate, secret=False, numbers=True)]
"""A rate as text, see `parse_rate`. None is no limit."""
