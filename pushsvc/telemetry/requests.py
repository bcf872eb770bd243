"""The metrics of HTTP requests, gathered in plain numbers: a request costs one look-up and a few additions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPMethod
from typing import Final

from prometheus_client import Counter

from ..background import repeated
from .gathered import Gathered
from .metrics import ACCEPTED, HTTP_REQUESTS, HTTP_SECONDS

FLUSH_EVERY: Final = 1.0
"""Seconds between two flushes, for the exposition by another process."""
UNMATCHED: Final = "unmatched"
"""The route of all unknown paths, or a scanner would make a metric of each."""
_METHODS: Final = frozenset(HTTPMethod)


class Counted:
    """What has been counted since the last flush."""

    __slots__ = ("_counter", "count")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.count = 0.0

    def add(self, count: float) -> None:
        self.count += count

    def flush(self) -> None:
        if self.count:
            self._counter.inc(self.count)
            self.count = 0.0


class Answered(Counted):
    """The answers of one app, call and code since the last flush."""

    __slots__ = ("seconds",)

    def __init__(self, app: str, method: str, route: str, code: int, seconds: Gathered) -> None:
        super().__init__(HTTP_REQUESTS.labels(app, method, route, str(code)))
        self.seconds = seconds


class RequestMetrics:
    def __init__(self) -> None:
        self._answered: dict[tuple[str, str, str, int], Answered] = {}
        self._seconds: dict[tuple[str, str], Gathered] = {}
        self._accepted: dict[str, Counted] = {}

    def show(self, calls: Iterable[tuple[str, str]]) -> None:
        """Begin the durations of these calls, each a method and a route, so that all are there from the start."""
        for call in calls:
            self._of(*call)

    def answered(self, app: str, method: str, route: str, code: int) -> Answered:
        """Return where the answers of an app (empty without one) to a call are counted. `route` is the path as it is
        documented, or `UNMATCHED`. Keep the value where it is used often."""
        # HEAD is answered where GET is served: it is the same call. Any text may be sent as a method.
        method = "GET" if method == "HEAD" else method if method in _METHODS else "other"
        key = (app, method, route, code)
        found = self._answered.get(key)
        if found is None:
            found = self._answered[key] = Answered(*key, self._of(method, route))
        return found

    def accepted(self, app: str) -> Counted:
        """Return where the accepted deliveries of an app are counted."""
        found = self._accepted.get(app)
        if found is None:
            found = self._accepted[app] = Counted(ACCEPTED.labels(app))
        return found

    def _of(self, method: str, route: str) -> Gathered:
        found = self._seconds.get((method, route))
        if found is None:
            found = self._seconds[method, route] = Gathered(HTTP_SECONDS.labels(method, route))
        return found

    def flush(self) -> None:
        for counted in (*self._answered.values(), *self._accepted.values()):
            counted.flush()
        for seconds in self._seconds.values():
            seconds.flush()

    @asynccontextmanager
    async def flushing(self) -> AsyncIterator[None]:
        """Flush regularly while the block lasts, and at its end."""

        async def flush() -> None:
            self.flush()

        try:
            async with repeated(FLUSH_EVERY, flush, "metrics"):
                yield
        finally:
            self.flush()


HTTP: Final = RequestMetrics()
