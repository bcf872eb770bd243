"""Rate limits that hold over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ..model.push import Route
from ..model.rates import Rate
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken


class Bucket(Struct, frozen=True):
    """A rate that many processes share. Equal `owner` and `name` is the same bucket."""

    owner: str
    """The app, or a provider's account."""
    name: str
    rate: Rate
    burst: float
    """Seconds of the rate that may come at once."""
    ramp: float = 0.0
    """Seconds of use from the slowest rate to the whole; 0 is at once."""


class Grant(Struct, frozen=True):
    """What a bucket gave: permits to use soon, or, where there are too few, how long to wait for enough."""

    granted: int
    wait_ms: int = 0


class Question(Struct, frozen=True):
    """Names a question to the limiter, so that it counts once however often it is asked: its answer may be lost."""

    asker: str
    """Who asks one question after the other, among all of this process."""
    number: int
    """Higher than that of any question which this process asked before."""
    again: bool = False
    """It was asked before, and nobody knows whether it was counted."""


class Limiter(Protocol):
    """Rates that hold over all processes together, by the clock of the server that keeps them."""

    async def admit(
        self,
        route: Route,
        rate: Rate,
        tokens: Sequence[str],
        *,
        family: str = "all",
        question: Question | None = None,
    ) -> Sequence[tuple[int, int]]:
        """Count one push to each token. Who is over `rate` is not counted, and comes back as its place in `tokens`
        and the milliseconds to wait; the waits of one token's pushes are spread, so that they do not all come at once.

        `family` keeps the counts of different limits of one token apart. With a `question`, the same one may be asked
        again after `StoreUnavailable`, with the same tokens.
        """
        ...

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Grant:
        """Up to `wanted` permits of a bucket, counted whether they are used or not; none where it has fewer than
        `least`. A negative `wanted` gives back permits that were leased and not used. `question` as with `admit`."""
        ...
