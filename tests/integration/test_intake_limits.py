"""Limits of apps and keys at intake over real servers: exact over processes, and of both all or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pushsvc.api.http import limits
from pushsvc.api.http.exchange import Reply
from pushsvc.api.http.limits import ApiLimits
from pushsvc.api.http.problems import AnswerUnread, ClientGone
from pushsvc.errors import ContentTooLarge, NotFound, StoreUnavailable, TooManyRequests
from pushsvc.model.access import ApiKey
from pushsvc.model.rates import Rate
from pushsvc.ports.limits import Grant
from pushsvc.store import open_store

from .servers import KINDS, Server, running_server

SLOW = ApiKey("slow", "shop", "a" * 64, ("push",), intake=Rate(5, 3600))
OTHER = ApiKey("other", "shop", "b" * 64, ("push",))


BACKENDS = KINDS


@asynccontextmanager
async def two(server: Server, **rates: Rate) -> AsyncIterator[tuple[ApiLimits, ApiLimits]]:
    """Two processes, each with a connection and permits of its own."""
    server.flush()
    clock = asyncio.get_running_loop().time
    async with open_store(server.url) as one, open_store(server.url) as other:
        yield ApiLimits(one.limiter, rates, monotonic=clock), ApiLimits(other.limiter, rates, monotonic=clock)


async def count(own: ApiLimits, key: ApiKey, pushes: int = 1) -> str:
    """The refusal, or the empty string."""
    try:
        await own.count(key, pushes)
    except TooManyRequests as error:
        return error.detail if error.retry_after else "it does not say when to come again"
    return ""


async def test_a_keys_limit_is_exact_over_processes(server: Server) -> None:
    async with two(server) as (first, second):
        reported = await asyncio.gather(*(count((first, second)[n % 2], SLOW) for n in range(40)))
        assert reported.count("") == 5
        limit = "The key 'slow' may post 5 pushes in 3600 s (the key's intake)"
        assert {each.partition(";")[0] for each in reported} == {"", limit}
        assert await count(first, OTHER) == ""


async def test_what_the_app_refuses_does_not_count_for_the_key(server: Server) -> None:
    async with two(server, shop=Rate(3, 3600)) as (first, second):
        assert await count(first, OTHER, 3) == ""
        for _ in range(5):
            assert "The app may post 3 pushes in 3600 s (limits.intake); these 2 pass" in await count(second, SLOW, 2)
        third = ApiLimits(second._limiter, {}, monotonic=asyncio.get_running_loop().time)
        assert await count(third, SLOW, 5) == ""


async def test_one_is_no_plural(server: Server) -> None:
    async with two(server, shop=Rate(1, 3600)) as (first, _):
        assert await count(first, OTHER) == ""
        assert "The app may post 1 push in 3600 s" in await count(first, OTHER)


async def test_a_batch_that_can_never_pass_is_refused_for_good(server: Server) -> None:
    async with two(server, shop=Rate(100, 60)) as (first, second):
        for own in (first, second):
            with pytest.raises(ContentTooLarge) as caught:
                await own.count(OTHER, 101)
            assert "may post 100 pushes in 60 s (limits.intake)" in caught.value.faults[0].message
            with pytest.raises(ContentTooLarge):
                await own.count(SLOW, 6)
        assert await count(second, OTHER, 100) == ""


async def test_a_refused_batch_consumes_nothing_and_passes_after_its_retry_after(server: Server) -> None:
    async with two(server, shop=Rate(90, 9)) as (first, second):
        begun = asyncio.get_running_loop().time()
        assert await count(first, OTHER, 60) == ""
        # 40 of 90 are there; 20 more come in 2 seconds, however often somebody asks meanwhile.
        reported = await asyncio.gather(*(count(own, OTHER, 60) for own in (first, second) for _ in range(20)))
        assert {each.partition("; ")[2] for each in reported} == {"these 60 pass in 3 s."}
        assert await count(second, OTHER, 20) == ""
        async with asyncio.timeout(60):
            while refusal := await count(second, OTHER, 40):
                assert "these 40 pass in" in refusal
                await asyncio.sleep(0.05)
        # 60 + 20 + 40 of 90 a 9 s: 30 had to come, each in a tenth of a second.
        assert asyncio.get_running_loop().time() - begun > 2.9


async def test_what_is_refused_for_another_reason_is_given_back(server: Server) -> None:
    async with two(server, shop=Rate(1000, 1)) as (first, second):
        for _ in range(10):
            assert await count(first, SLOW, 5) == ""
            await first.give_back(SLOW, 5)
        assert await count(first, SLOW, 3) == ""
        await first.give_back(SLOW, 1)
        assert await count(second, SLOW, 4) != ""
        assert await count(second, SLOW, 3) == ""


@pytest.mark.parametrize(
    "error",
    [NotFound("no"), StoreUnavailable("away"), ZeroDivisionError(), web.HTTPBadRequest(), ClientGone()],
    ids=repr,
)
async def test_a_call_that_ends_in_an_error_gives_back_its_permits(server: Server, error: Exception) -> None:
    async with two(server, shop=Rate(1000, 1)) as (first, second):

        async def work() -> Reply:
            raise error

        for own in (first, second, first):
            with pytest.raises(type(error)):
                await own.counted(SLOW, 5, work)
        assert await count(second, SLOW, 5) == ""


async def test_a_slow_answer_about_permits_admits_those_who_waited_for_it() -> None:
    now, asked = 0.0, list[int]()

    class SlowLimiter:
        async def lease(self, bucket: object, wanted: int, *, least: int = 1, question: object = None) -> Grant:
            nonlocal now
            now += 2.0
            asked.append(wanted)
            return Grant(wanted, 0)

    limiter: Any = SlowLimiter()
    own = ApiLimits(limiter, {"shop": Rate(10, 1)}, monotonic=lambda: now)
    assert await count(own, OTHER, 3) == ""
    assert len(asked) == 1


async def test_a_client_that_waits_for_the_end_of_its_push_has_been_served(server: Server) -> None:
    async with two(server) as (first, second):

        async def work() -> Reply:
            raise AnswerUnread

        with pytest.raises(AnswerUnread):
            await first.counted(SLOW, 5, work)
        assert await count(second, SLOW) != ""


async def test_a_key_whose_rate_is_changed_has_the_new_one_at_once(server: Server) -> None:
    async with two(server) as (first, _):
        assert await count(first, SLOW, 5) == ""
        assert await count(first, SLOW) != ""
        fast = ApiKey(SLOW.name, SLOW.app, SLOW.sha256, SLOW.scopes, intake=Rate(100, 1))
        # What was used stays used, up to a burst: there is room again after one of its intervals, not after an hour.
        async with asyncio.timeout(20):
            while await count(first, fast):
                await asyncio.sleep(0.01)


async def test_permits_in_hand_are_of_a_bounded_number_of_keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 3)
    async with two(server) as (first, _):
        keys = [ApiKey(f"k{n}", "shop", f"{n}" * 64, ("push",), intake=Rate(1, 3600)) for n in range(10)]
        for key in keys:
            assert await count(first, key) == ""
        assert len(first._keys) == 3
        # Redis still knows those that were forgotten here.
        for key in keys:
            assert await count(first, key) != ""


async def test_without_redis_it_cannot_be_said(server: Server) -> None:
    with running_server("valkey") as short:
        async with open_store(short.url) as store:
            own = ApiLimits(store.limiter, {}, monotonic=asyncio.get_running_loop().time)
            short.kill()
            with pytest.raises(StoreUnavailable):
                await own.count(SLOW)
