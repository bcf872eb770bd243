"""The log of a state that lasts: one line when it begins, a few while it lasts, one when it ends.

What fails is tried again, by every route and every task of a process, often several times a second. A line for each try
buries everything else that an operator should read. A `StateLog` writes the first, counts the rest and says their
number at growing intervals, and says how long it lasted when everybody who was affected is well again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final

from .logs import get_logger

FIRST: Final = 10.0
"""Seconds until a state that lasts is logged again; each interval is twice the one before it."""
LONGEST: Final = 600.0
FORGOTTEN: Final = 60.0
"""Seconds after which somebody who neither failed again nor recovered no longer counts: it has ended by itself."""


class StateLog:
    """One state of this process, shared by everybody whom it affects. It may be used from several threads.

    Each passes a name of its own: the state ends when it has ended for all, so that one success among many failures
    does not write a pair of lines.
    """

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
        """`began`, `lasts` and `ended` are the names of the three events; `clock` gives seconds."""
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
        """It has begun for `who`, or still lasts; `fields` go into the line that this writes, if it writes one."""
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
        """It is over for `who`. Costs nothing while the state does not last."""
        if not self.active:
            return
        with self._lock:
            if self._affected.pop(who, None) is None or not self.active:
                return
            now = self._clock()
            self._affected = {name: at for name, at in self._affected.items() if now - at < FORGOTTEN}
            if not self._affected:
                self.active = False
                get_logger(self._logger).info(self._events[2], seconds=round(now - self._since, 1))

    def reset(self) -> None:
        """Forget everything, without a line."""
        with self._lock:
            self._affected.clear()
            self.active = False

    def _write(self, event: int, **fields: Any) -> None:
        getattr(get_logger(self._logger), self._level)(self._events[event], **fields)


REDIS: Final = StateLog("store", "redis_away", "redis_still_away", "redis_back")
"""Whoever waits for Redis in this process says so here."""
