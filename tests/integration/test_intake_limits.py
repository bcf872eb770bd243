"""Limits of apps and keys at intake over real servers: exact over processes, and of both all or none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from pushsvc.errors import StoreUnavailable, TooManyRequests
from pushsvc.intake import limits
from pushsvc.intake.limits import IntakeLimits
from pushsvc.model import ApiKey
from pushsvc.rates import Rate
from pushsvc.store import open_store

from .servers import KINDS, Server, running_server

SLOW = ApiKey("slow", "shop", "a" * 64, ("push",), intake=Rate(5, 3600))
OTHER = ApiKey("other", "shop", "b" * 64, ("push",))


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as running:
        yield running


def play(server: Server, act: Callable[[IntakeLimits, IntakeLimits], Awaitable[None]], **rates: Rate) -> None:
    """Two processes, each with a connection and permits of its own."""

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        async with open_store(server.url) as one, open_store(server.url) as two:
            first, second = (IntakeLimits(store.limiter, rates, monotonic=clock) for store in (one, two))
            await act(first, second)

    server.flush()
    asyncio.run(main())


async def count(own: IntakeLimits, key: ApiKey, pushes: int = 1) -> str:
    """The refusal, or the empty string."""
    try:
        await own.count(key, pushes)
    except TooManyRequests as error:
        return error.detail if error.retry_after else "it does not say when to come again"
    return ""


def test_a_keys_limit_is_exact_over_processes(server: Server) -> None:
    async def act(first: IntakeLimits, second: IntakeLimits) -> None:
        told = await asyncio.gather(*(count((first, second)[n % 2], SLOW) for n in range(40)))
        assert told.count("") == 5
        assert set(told) == {"", "The key 'slow' may post 5 pushes in 3600 s, and has done so."}
        assert await count(first, OTHER) == ""

    play(server, act)


def test_what_the_app_refuses_does_not_count_for_the_key(server: Server) -> None:
    async def act(first: IntakeLimits, second: IntakeLimits) -> None:
        assert await count(first, OTHER, 3) == ""
        assert await count(second, SLOW, 2) == "The app may post 3 pushes in 3600 s, and has done so."
        # The key's permits are in hand again: it is the app that refuses, not the key.
        assert await count(second, SLOW, 5) == "The app may post 3 pushes in 3600 s, and has done so."

    play(server, act, shop=Rate(3, 3600))


def test_a_key_whose_rate_is_changed_has_the_new_one_at_once(server: Server) -> None:
    async def act(first: IntakeLimits, second: IntakeLimits) -> None:
        assert await count(first, SLOW, 5) == ""
        assert await count(first, SLOW) != ""
        fast = ApiKey(SLOW.name, SLOW.app, SLOW.sha256, SLOW.scopes, intake=Rate(100, 1))
        # What was used stays used, up to a burst: there is room again after one of its intervals, not after an hour.
        async with asyncio.timeout(20):
            while await count(first, fast):
                await asyncio.sleep(0.01)

    play(server, act)


def test_permits_in_hand_are_of_a_bounded_number_of_keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_KEYS", 3)

    async def act(first: IntakeLimits, second: IntakeLimits) -> None:
        keys = [ApiKey(f"k{n}", "shop", f"{n}" * 64, ("push",), intake=Rate(1, 3600)) for n in range(10)]
        for key in keys:
            assert await count(first, key) == ""
        assert len(first._keys) == 3
        # Redis still knows those that were forgotten here.
        for key in keys:
            assert await count(first, key) != ""

    play(server, act)


def test_without_redis_it_cannot_be_said(server: Server) -> None:
    async def main() -> None:
        with running_server("valkey") as short:
            async with open_store(short.url) as store:
                own = IntakeLimits(store.limiter, {}, monotonic=asyncio.get_running_loop().time)
                short.kill()
                with pytest.raises(StoreUnavailable):
                    await own.count(SLOW)

    asyncio.run(main())
