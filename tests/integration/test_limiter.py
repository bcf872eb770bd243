"""The limiter's scripts against real servers: equal to the pure arithmetic, and exact over processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from pushsvc.errors import StoreUnavailable
from pushsvc.model.push import Route
from pushsvc.model.rates import Rate
from pushsvc.ports.limits import Bucket, Grant, Question
from pushsvc.rules import gcra
from pushsvc.store import Store, StoreConfig, open_store

from ..bench.limiter import judge
from .servers import KINDS, Server, running_server
from .test_failover import CuttingProxy
from .test_store_kit import new_store

ROUTE = Route("shop", "apns")
SHORT, LONG = 2_000_000, 60_000_000


BACKENDS = KINDS


async def server_now(store: Store) -> int:
    seconds, micros = await store.link.call("TIME")
    return int(seconds) * gcra.US + int(micros)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.builds(Rate, st.integers(1, 6), st.integers(1, 100)),
    calls=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=30), min_size=1, max_size=6),
)
async def test_the_script_decides_as_the_model_does(server: Server, rate: Rate, calls: list[list[int]]) -> None:
    """The server's clock goes on while we ask, so the model is asked at its time before and after: where both agree,
    so must the script. Intervals are long beside the test, so that they nearly always do."""
    async with new_store(server) as store:
        interval = gcra.interval_of(rate)
        early: dict[int, int] = {}
        late: dict[int, int] = {}
        for tokens in calls:
            before = await server_now(store)
            waits = dict(await store.limiter.admit(ROUTE, rate, [f"t{token}" for token in tokens]))
            after = await server_now(store)
            for place, token in enumerate(tokens):
                # An early TAT at a late time lets most through, a late one at an early time least.
                most = gcra.admit(early.get(token, 0), after, interval=interval, burst=rate.count)
                least = gcra.admit(late.get(token, 0), before, interval=interval, burst=rate.count)
                if place in waits:
                    assert least.wait, (place, token)
                    assert waits[place] * 1000 >= most.wait
                else:
                    assert not most.wait, (place, token)
                    early[token] = gcra.admit(early.get(token, 0), before, interval=interval, burst=rate.count).tat
                    late[token] = gcra.admit(late.get(token, 0), after, interval=interval, burst=rate.count).tat


async def test_the_waits_of_one_token_are_spread(store: Store) -> None:
    waits = await store.limiter.admit(ROUTE, Rate(10, 1), ["t"] * 30)
    assert [place for place, _ in waits] == list(range(10, 30))
    times = [wait for _, wait in waits]
    assert 80 <= times[0] <= 101
    assert [after - before for before, after in itertools.pairwise(times)] == [100] * 19
    more = await store.limiter.admit(ROUTE, Rate(10, 1), ["t"])
    assert more[0][1] > times[-1]  # behind those that wait already


async def test_a_question_counts_once_however_often_it_is_asked(store: Store) -> None:
    rate, first = Rate(2, 3600), Question("normal", 1)
    again = replace(first, again=True)
    assert not await store.limiter.admit(ROUTE, rate, ["t"], question=first)
    assert not await store.limiter.admit(ROUTE, rate, ["t"], question=again)  # its answer was lost
    assert not await store.limiter.admit(ROUTE, rate, ["t"], question=Question("normal", 2, True))  # or itself
    waits = await store.limiter.admit(ROUTE, rate, ["s", "t"], question=Question("normal", 3))
    assert [place for place, _ in waits] == [1]
    assert await store.limiter.admit(ROUTE, rate, ["s", "t"], question=Question("normal", 3, True)) == waits
    # Each asker has its own, and so has each family.
    assert not await store.limiter.admit(ROUTE, rate, ["u"], question=Question("urgent", 1))
    assert not await store.limiter.admit(ROUTE, rate, ["u"], family="other", question=Question("urgent", 1, True))

    bucket = Bucket("shop.0", "app", Rate(10, 3600), burst=3600.0)
    lease = await store.limiter.lease(bucket, 7, question=first)
    assert await store.limiter.lease(bucket, 7, question=again) == lease == Grant(7)
    assert (await store.limiter.lease(bucket, 7, question=Question("normal", 2))).granted == 3


async def test_families_and_routes_are_counted_apart(store: Store) -> None:
    once = Rate(1, 3600)
    assert not await store.limiter.admit(ROUTE, once, ["t"])
    assert not await store.limiter.admit(ROUTE, once, ["t"], family="other")
    assert not await store.limiter.admit(Route("shop", "fcm"), once, ["t"])
    assert not await store.limiter.admit(Route("bank", "apns"), once, ["t"])
    [(place, wait)] = await store.limiter.admit(ROUTE, once, ["t"])
    assert place == 0
    assert 3_590_000 < wait <= 3_600_000


async def test_a_count_is_not_repeated_blindly() -> None:
    """The driver would repeat it where its connection broke, as a question of its own."""
    with running_server(tcp=True) as server:
        port = server.port
        proxy = CuttingProxy(port)
        async with proxy.running():
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
                rate, question = Rate(2, 3600), Question("normal", 1)
                await store.limiter.admit(ROUTE, rate, ["warm"])  # the server learns the script
                proxy.lose_the_answer_to("limiter")
                with pytest.raises(StoreUnavailable):
                    await store.limiter.admit(ROUTE, rate, ["t"], question=question)
                assert proxy.cut == 1
                assert not await store.limiter.admit(ROUTE, rate, ["t"], question=replace(question, again=True))
                assert not await store.limiter.admit(ROUTE, rate, ["t"])
                assert await store.limiter.admit(ROUTE, rate, ["t"])


async def test_shards_keep_the_places(server: Server) -> None:
    async with new_store(server, StoreConfig(shards=3)) as store:
        tokens = [f"t{number}" for number in range(2500)]
        assert not await store.limiter.admit(ROUTE, Rate(1, 60), tokens)
        again = await store.limiter.admit(ROUTE, Rate(1, 60), [*tokens[::2], "new", *tokens[1::2]])
        assert [place for place, _ in again] == [place for place in range(2501) if place != 1250]


async def test_no_token_is_kept_and_everything_dies(store: Store) -> None:
    await store.limiter.admit(ROUTE, Rate(2, 1), ["secret-token"] * 9)
    await store.limiter.lease(Bucket("shop.0", "app", Rate(5, 1), 1.0), 3)
    names = [name for name in await store.link.call("KEYS", "*") if b":lim:" in name or b":bucket:" in name]
    assert len(names) >= 3
    for name in names:
        assert 0 < await store.link.call("PTTL", name) <= 130_000
        assert b"secret-token" not in str(await store.link.call("HGETALL", name)).encode()


async def test_leases_are_shared_and_end(server: Server, store: Store) -> None:
    bucket = Bucket("shop.0", "app", Rate(10, 3600), 3600.0)
    async with open_store(server.url) as other:
        assert (await store.limiter.lease(bucket, 7)).granted == 7
        assert (await other.limiter.lease(bucket, 7)).granted == 3
        empty = await other.limiter.lease(bucket, 7)
        assert empty.granted == 0
        assert 350_000 < empty.wait_ms <= 360_000


async def test_a_ramp_begins_low(store: Store) -> None:
    bucket = Bucket("fcm/project", "quota", Rate(600_000, 60), 1.0, ramp=60.0)
    first = await store.limiter.lease(bucket, 100_000)
    assert first.granted == int(10_000 * gcra.FLOOR)
    assert (await store.limiter.lease(Bucket("fcm/b", "quota", Rate(600_000, 60), 1.0), 100_000)).granted == 10_000


def test_four_processes_never_exceed_the_limit_of_a_token(server: Server) -> None:
    server.flush()
    asked = json.dumps([server.url, 2.0, 60, "10/s", 0])
    root = Path(__file__).parents[2]
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.limiter", "--ask", asked.replace(", 0]", f", {seed}]")],
            stdout=subprocess.PIPE,
            cwd=root,
        )
        for seed in range(4)
    ]
    results = [json.loads(task.communicate()[0]) for task in tasks]
    granted, worst = judge(results, Rate(10, 1))
    assert granted > 60 * 10
    assert worst <= 0
    assert sum(result["asked"] for result in results) > granted
