"""The log of a lasting state: one line when it begins, a few while it lasts, one when it ends.

Failing operations are retried by every route and every task of a process, often several times a second. A line for
each try would hide everything else. A `StateLog` writes the first one, counts the others, writes their number at
growing intervals, and writes how long the state lasted once every affected part has recovered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final

from ..errors import StoreError, StoreUnavailable
from .logs import get_logger

FIRST: Final = 10.0
"""Seconds until a state that lasts is logged again; each interval is twice the one before it."""
LONGEST: Final = 600.0
FORGOTTEN: Final = 60.0
"""Seconds after which a participant that neither failed again nor recovered no longer counts."""


class StateLog:
    """A state of this process that several parts share. Thread-safe. Each part has a name: the state ends when it has
    ended for all of them, so that one success among many failures does not write a pair of lines."""

    def __init__(
        self,
        logger: str,
        began: str,
        lasts: str,
        ended: str,
        *,
        level: str = "warning",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name the three events `began`, `lasts` and `ended`. `clock` returns seconds."""
        self._logger = logger
        self._events = (began, lasts, ended)
        self._level = level
        self._clock = clock
        self._lock = threading.Lock()
        self._affected: dict[Hashable, float] = {}
        self._since = self._due = 0.0
        self._interval = FIRST
        self._suppressed = 0
        self.active = False
        """Whether the state lasts. Ask before `end` where that is called often."""

    def begin(self, who: Hashable = "", **fields: Any) -> None:
        """Report that the state has begun, or continues, for the part `who`. `fields` are added to the line, if one is
        written."""
        with self._lock:
            now = self._clock()
            self._affected[who] = now
            if not self.active:
                self.active = True
                self._since, self._interval, self._suppressed = now, FIRST, 0
                self._due = now + FIRST
                self._write(0, **fields)
                return
            self._suppressed += 1
            if now >= self._due:
                self._write(1, seconds=round(now - self._since, 1), lines_left_out=self._suppressed, **fields)
                self._interval = min(LONGEST, self._interval * 2)
                self._due = now + self._interval
                self._suppressed = 0

    def end(self, who: Hashable = "") -> None:
        """Report that the state has ended for the part `who`, or never began. Cheap while the state does not last."""
        if not self.active:
            return
        with self._lock:
            now = self._clock()
            self._affected.pop(who, None)
            self._affected = {name: at for name, at in self._affected.items() if now - at < FORGOTTEN}
            if not self._affected and self.active:
                self.active = False
                get_logger(self._logger).info(self._events[2], seconds=round(now - self._since, 1))

    def reset(self) -> None:
        """Forget everything, without a line."""
        with self._lock:
            self._affected.clear()
            self.active = False

    def _write(self, event: int, **fields: Any) -> None:
        getattr(get_logger(self._logger), self._level)(self._events[event], **fields)


class RedisLog(StateLog):
    """The state of Redis being unreachable, or refusing what it is asked."""

    at = ""
    """Where the store is, without a password."""

    def away(self, who: Hashable, error: StoreError, **fields: Any) -> None:
        """Report that the part `who` waits for Redis because of this error. A line says where Redis is, what is wrong
        and, where the cause shows it, what to do. `fields` are added."""
        known = {"at": self.at, "error": str(error), "remedy": error.fix if isinstance(error, StoreUnavailable) else ""}
        self.begin(who, **{name: value for name, value in known.items() if value} | fields)


REDIS: Final = RedisLog("store", "redis_away", "redis_still_away", "redis_back")
"""The state of Redis, reported by all parts of this process that wait for it."""
