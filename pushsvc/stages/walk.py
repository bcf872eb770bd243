"""A walk through the store in bounded steps, with a rest after each, so that other work is not slowed down.

The rest is as long as the step times what the configured share of the time leaves to others. So it grows by itself on
a machine that is busy, where a step takes longer. A walk that was left, or whose process died, goes on from its place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

NAP: Final = 0.1
"""Seconds between two checks, during a rest, whether to stop."""


class Stepped(Protocol):
    @property
    def cursor(self) -> str | None:
        """The cursor at which the next step begins, or None if the leg is over."""

    @property
    def wait(self) -> float:
        """The least number of seconds until there may be more to do."""


S = TypeVar("S", bound=Stepped)


class Leg(Struct, Generic[S], frozen=True):
    """One part of a walk: steps from cursor to cursor through the store. The first step gets an empty cursor."""

    name: str
    """Unique within a walk; without a space at its end."""
    step: Callable[[str], Awaitable[S]]


async def walk(
    legs: Sequence[Leg[S]],
    *,
    share: float,
    place: str,
    stopping: Callable[[], bool],
    after: Callable[[str, S, str], Awaitable[None]],
) -> str | None:
    """Take the steps of all legs, one leg after the other, from `place` on, until none is left or `stopping()` is true.

    `share` is the fraction of the time that the steps may use, above 0 and up to 1. After each step, `after` is called
    with the name of the leg, the result of the step, and the place from which the walk would continue. Returns that
    place if the walk was stopped, or None if it is complete. A place in a leg that no longer exists means the beginning
    of the walk, and a cursor that a step cannot read means the beginning of its leg.
    """
    names = [leg.name for leg in legs]
    name, _, cursor = place.partition("\n")
    first = names.index(name) if name in names else 0
    if name not in names:
        cursor = ""
    given = True
    for at in range(first, len(legs)):
        leg, following = legs[at], names[at + 1] if at + 1 < len(legs) else ""
        while True:
            began = time.monotonic()
            try:
                stepped = await leg.step(cursor)
            except (ValueError, msgspec.MsgspecError):
                if not (given and cursor):
                    raise
                stepped = await leg.step("")
            given = False
            over = stepped.cursor is None
            cursor = stepped.cursor or ""
            place = f"{following}\n" if over else f"{leg.name}\n{cursor}"
            await after(leg.name, stepped, place)
            if over and not following:
                return None
            await _rest(max(stepped.wait, (time.monotonic() - began) * (1 / share - 1)), stopping)
            if stopping():
                return place
            if over:
                break
    return None


async def _rest(seconds: float, stopping: Callable[[], bool]) -> None:
    while seconds > 0 and not stopping():
        await asyncio.sleep(min(seconds, NAP))
        seconds -= NAP
