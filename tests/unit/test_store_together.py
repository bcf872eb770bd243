"""Calls of several shards at once: their results in order, and no failure while another is under way."""

from __future__ import annotations

import asyncio

import pytest

from pushsvc.store.link.together import all_of


async def say(
    word: str, over: list[str], *, turns: int = 0, fails: bool = False
) -> tuple[str, asyncio.Task[object] | None]:
    for _ in range(turns):
        await asyncio.sleep(0)
    over.append(word)
    if fails:
        raise ValueError(word)
    return word, asyncio.current_task()


async def test_results_are_in_the_order_of_the_calls_and_a_single_one_needs_no_task() -> None:
    over: list[str] = []
    assert await all_of([]) == []
    assert await all_of([say("one", over)]) == [("one", asyncio.current_task())]
    found = await all_of([say("late", over, turns=3), say("early", over)])
    assert [word for word, _ in found] == ["late", "early"]
    assert over == ["one", "early", "late"]


async def test_the_first_failure_is_raised_when_all_are_over() -> None:
    over: list[str] = []
    with pytest.raises(ValueError, match="first"):
        await all_of([say("ok", over, turns=5), say("first", over, turns=2, fails=True), say("x", over, fails=True)])
    assert over == ["x", "first", "ok"]
