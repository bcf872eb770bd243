"""The types of values that several keys share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from ..decoding import Rule
from ..model.access import NAME, NAME_RULE
from ..model.rates import RATE_HELP, Rate, parse_rate

Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
Name: TypeAlias = Annotated[
    str,
    Meta(pattern=NAME),
    Rule(NAME_RULE),
]
RateText: TypeAlias = Annotated[Rate | None, Rule(RATE_HELP, parse=parse_rate, secret=False, numbers=True)]
"""A rate as text, see `parse_rate`. None is no limit."""
