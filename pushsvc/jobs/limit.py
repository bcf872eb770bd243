"""The time limit of a job: its event loop cancels it, and an alarm interrupts it where that does not end it.

rq raises an exception from the handler of an alarm. In an event loop that ends a job only if the alarm comes while the
job itself runs or the loop waits: what a callback raises, the loop logs and forgets, and the job never ends. So the
loop cancels the job. The alarm is for what a loop cannot end: code that never returns to it, and a job that does not
end when it is cancelled.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

from rq.timeouts import BaseDeathPenalty, JobTimeoutException

T = TypeVar("T")

GRACE: Final = 5.0
"""Seconds that a cancelled job has to end by itself, and those between two interruptions. rq counts a job as abandoned
60 s after its limit."""


class NoAlarm(BaseDeathPenalty):
    """Replaces the alarm of rq."""

    def setup_death_penalty(self) -> None:
        """Do nothing, since `limited` sets the limit."""

    def cancel_death_penalty(self) -> None:
        """Do nothing."""


class _Overdue(KeyboardInterrupt):
    """Interrupts a job. An event loop raises a KeyboardInterrupt out of whatever it runs, callbacks included; anything
    else it would log or leave to a task. Nor does `except Exception` of a job or a library catch it."""


def limited(run: Callable[[Coroutine[Any, Any, T]], T], job: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return what `run` returns of the job. Call it on the main thread. Raises `JobTimeoutException` if the job has not
    ended within `seconds`."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE, GRACE)
    try:
        return run(_cancelled_after(seconds, job))
    except _Overdue as error:
        raise _timeout(seconds) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def _cancelled_after(seconds: float, job: Coroutine[Any, Any, T]) -> T:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await job
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise _timeout(seconds) from error


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise _Overdue


def _timeout(seconds: float) -> JobTimeoutException:
    return JobTimeoutException(f"the job has not ended within {seconds:g} s")
