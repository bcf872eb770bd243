"""The schedule of a process of jobs: periodic work is done by the process that acquires its lock, which lasts for the
period in Redis, however many processes there are."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct
from redis.exceptions import RedisError

from .. import telemetry
from ..background import until_pulse
from ..errors import StoreError, StoreUnavailable
from ..ports.store import Store
from .worker import REDIS_AWAY

FAILED = telemetry.StateLog("jobs", "schedule_failed", "schedule_still_failed", "schedule_goes_on", level="error")
"""The state in which periodic work fails though Redis answers."""
SOON = 0.2
"""Seconds between two checks while there is work."""
REST = 0.05
"""The minimum number of seconds between two checks after the bell, over all processes."""
ACTING = 1.0
"""Seconds for which no other process repeats a check that a process has begun, if it does not end before."""
PAUSE = 1.0
"""Seconds until what has failed is repeated."""


class Periodic(Struct, frozen=True):
    """Work that one of all processes does every `seconds`, or after the bell if `on_bell`, and never two at once.
    `act` returns whether to act again `SOON`."""

    name: str
    seconds: float
    act: Callable[[], Awaitable[bool]]
    on_bell: bool = False


async def keep_schedule(
    store: Store,
    periodics: list[Periodic],
    owner: str,
    stop: asyncio.Event,
    gone: asyncio.Event,
    note: Callable[[bool], Awaitable[None]],
) -> None:
    """Do each periodic work in its turn until `stop` or `gone`. `note` is called with whether all of it reaches the
    queue of jobs, which may be in another Redis than the store."""
    cut_off: set[str] = set()
    now = asyncio.get_running_loop().time
    ends = [asyncio.ensure_future(each.wait()) for each in (stop, gone)]
    due = dict.fromkeys(periodics, 0.0)
    rung = False
    try:
        while not stop.is_set():
            for each in periodics:
                if now() < due[each] and not (rung and each.on_bell):
                    continue
                wait = 0.0
                try:
                    # The lock is free again when its owner looks the next time.
                    lease = 0.9 * until_pulse(each.seconds)
                    turn = (rung and each.on_bell) or await store.locks.hold(each.name, owner, lease=lease)
                    if turn and await act(store, each, owner):
                        await store.locks.release(each.name, owner)
                        wait = SOON
                    if turn:
                        cut_off.discard(each.name)
                    telemetry.REDIS.end(each.name)
                    FAILED.end(each.name)
                except (StoreUnavailable, RedisError) as error:
                    wait = PAUSE
                    if isinstance(error, RedisError):
                        REDIS_AWAY.report(each.name, error)
                        cut_off.add(each.name)
                    else:
                        telemetry.REDIS.away(each.name, error)
                except StoreError as error:
                    FAILED.begin(each.name, task=each.name, error=str(error))
                    wait = PAUSE
                due[each] = now() + (wait or until_pulse(each.seconds))
                await note(not cut_off)
            rung = await _wait(store, ends, min(due.values()) - now(), rest=REST if rung else 0.0)
            if gone.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
                await stop.wait()
    finally:
        for end in ends:
            end.cancel()


async def _wait(store: Store, ends: Sequence[asyncio.Future[Any]], seconds: float, *, rest: float) -> bool:
    """Wait until the bell rings, one of the ends is done or `seconds` have passed. Returns whether it rang. What rings
    in the first `rest` seconds counts as one ring, after them."""
    if rest and (await asyncio.wait(ends, timeout=rest, return_when=asyncio.FIRST_COMPLETED))[0]:
        return False
    rings = asyncio.ensure_future(store.bell.wait(max(seconds - rest, 0.001)))
    try:
        await asyncio.wait([*ends, rings], return_when=asyncio.FIRST_COMPLETED)
        if rings.done() and (error := rings.exception()) is not None:
            if not isinstance(error, StoreError):
                raise error
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return False
        return rings.done() and rings.result()
    finally:
        rings.cancel()
        await asyncio.gather(rings, return_exceptions=True)


async def act(store: Store, periodic: Periodic, owner: str) -> bool:
    """Do periodic work, and return whether to look again soon: there is more, or another process is doing it or has
    just done it. Frees its lock where it failed, so that the next check repeats it however long the period is."""
    acting = f"{periodic.name}-acting"
    try:
        if not await store.locks.hold(acting, owner, lease=ACTING):
            return True
        soon = await periodic.act()
        await store.locks.hold(acting, owner, lease=REST)
        return soon
    except (StoreError, RedisError):
        await store.locks.release(acting, owner)
        await store.locks.release(periodic.name, owner)
        raise


async def act_each(acts: Sequence[Callable[[], Awaitable[bool]]]) -> bool:
    """Do these at the same time, so that what they ask of Redis is one round trip. Raises an error after all have
    ended: that Redis is away, or else the first."""
    answers = await asyncio.gather(*(act() for act in acts), return_exceptions=True)
    errors = [each for each in answers if isinstance(each, BaseException)]
    if errors:
        raise next((each for each in errors if isinstance(each, StoreUnavailable)), errors[0])
    return any(answers)
