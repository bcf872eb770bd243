"""Rate limits that hold over all processes together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ..model.push import Route
from ..model.rates import Rate


class Bucket(Struct, frozen=True):
    """A rate that many processes share. Equal `owner` and `name` denote the same bucket."""

    owner: str
    """The app, or the account at a provider."""
    name: str
    rate: Rate
    burst: float
    """The burst that is allowed, in seconds of the rate."""
    ramp: float = 0.0
    """Seconds of use in which the rate grows from the slowest to the full one; 0 is at once."""


class Grant(Struct, frozen=True):
    """The answer of a bucket: permits to use soon, or else the time after which enough will be available."""

    granted: int
    wait_ms: int = 0


class Question(Struct, frozen=True):
    """Identifies a question to the limiter, so that a repeat of it, sent because the answer was lost, is counted
    once."""

    asker: str
    """The asker, which asks one question after the other, among all askers of this process."""
    number: int
    """The number of the question, higher than that of any earlier one of this process."""
    again: bool = False
    """Whether the question was asked before, and may have been counted."""


class Limiter(Protocol):
    """Rates that hold over all processes together, by the clock of the server that stores them."""

    async def admit(
        self,
        route: Route,
        rate: Rate,
        tokens: Sequence[str],
        *,
        family: str = "all",
        question: Question | None = None,
    ) -> Sequence[tuple[int, int]]:
        """Count one push to each token. A token over `rate` is not counted.

        Returns, for each token that is over the rate, its place in `tokens` and the milliseconds to wait; the waits of
        several pushes to one token are spread out. `family` separates the counts of different limits of one token. With
        a `question`, the same one may be asked again after `StoreUnavailable`, with the same tokens.
        """

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Grant:
        """Take up to `wanted` permits of a bucket, or none where it has fewer than `least`. Permits count whether they
        are used or not. A negative `wanted` returns unused permits. `question` is as for `admit`."""
