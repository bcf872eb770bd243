"""Scripts that share round trips: those of one round trip go together with the next, and each has its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from pushsvc.errors import StoreError, StoreUnavailable
from pushsvc.store.link.link import ScriptCall
from pushsvc.store.link.shared import SharedScripts


def call(name: str) -> ScriptCall:
    return name, ["key"], [name]


async def test_what_is_asked_during_a_round_trip_shares_the_next() -> None:
    trips: list[list[str]] = []
    turn = asyncio.Event()

    async def run(calls: Sequence[ScriptCall]) -> list[Any]:
        trips.append([name for name, _, _ in calls])
        await turn.wait()
        return [ResponseError("no") if name == "bad" else name.upper() for name, _, _ in calls]

    scripts = SharedScripts(run, most=3)
    first = asyncio.create_task(scripts.run(call("a")))
    while not trips:
        await asyncio.sleep(0)
    later = [asyncio.create_task(scripts.run(call(name))) for name in ("b", "bad", "c", "d")]
    await asyncio.sleep(0)
    turn.set()
    answers = await asyncio.gather(first, *later, return_exceptions=True)
    assert trips == [["a"], ["b", "bad", "c"], ["d"]]
    assert [each for each in answers if isinstance(each, str)] == ["A", "B", "C", "D"]
    assert isinstance(answers[2], StoreError), "the fault of one is no other's"


async def test_what_a_round_trip_raises_is_raised_to_all_of_it() -> None:
    async def run(calls: Sequence[ScriptCall]) -> list[Any]:
        raise StoreUnavailable("away")

    scripts = SharedScripts(run, most=3)
    for found in await asyncio.gather(*(scripts.run(call(name)) for name in "ab"), return_exceptions=True):
        with pytest.raises(StoreUnavailable):
            raise found if isinstance(found, BaseException) else AssertionError(found)
