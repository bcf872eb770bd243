"""Connections that many callers share: `store/link/direct.py` over servers that are stopped, killed and flushed."""

from __future__ import annotations

import asyncio
import gc
import re
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import pytest
from redis import exceptions as faults

from pushsvc.errors import ABSENT_REDIS, StoreUnavailable
from pushsvc.store import keys
from pushsvc.store.link.connect import close_redis, open_redis
from pushsvc.store.link.direct import Direct, direct_of
from pushsvc.store.link.link import Link, ScriptCall

from .paused import PausedLoop, paused
from .servers import KINDS, Server, running_server, suspended
from .test_failover import until


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param, tcp=True) as server:
        yield server


@asynccontextmanager
async def connections(server: Server, timeout: float) -> AsyncIterator[Direct]:
    server.flush()
    short = open_redis(server.url, name="a", timeout=timeout)
    blocking = open_redis(server.url, name="b", blocking=True)
    direct = direct_of(short, blocking)
    assert direct is not None
    try:
        yield direct
    finally:
        await direct.aclose()
        await close_redis(short)
        await close_redis(blocking)


@asynccontextmanager
async def opened(server: Server, *, timeout: float = 5.0) -> AsyncIterator[Direct]:
    async with asyncio.timeout(30), connections(server, timeout) as direct:
        yield direct


@pytest.fixture
async def direct(server: Server) -> AsyncIterator[Direct]:
    async with opened(server) as direct:
        yield direct


async def test_each_caller_gets_its_own_answers_on_one_connection(server: Server) -> None:
    large = b"x" * 3_000_000
    async with opened(server) as direct:
        await direct.ask([("SET", "large", large), ("RPUSH", "list", 1, "b")], 5)

        async def one(number: int) -> list[Any]:
            middle = ("GET", "large") if number % 50 == 7 else ("LRANGE", "list", 0, -1)
            return await direct.ask([("ECHO", number), middle, ("NOT-A-COMMAND", 1)], 10)

        answers = await asyncio.gather(*map(one, range(200)))
        for number, (said, found, refused) in enumerate(answers):
            assert said == b"%d" % number
            assert found == (large if number % 50 == 7 else [b"1", b"b"])
            assert isinstance(refused, faults.ResponseError)
        assert await direct.ask([], 5) == []
        names = (await direct.ask([("CLIENT", "LIST")], 5))[0]
        assert names.count(b"name=pushsvc:a") == 1


async def test_what_is_asked_in_one_turn_of_the_loop_is_written_together(direct: Direct) -> None:
    async def reads() -> int:
        (stats,) = await direct.ask([("INFO", "stats")], 5)
        return int(re.findall(rb"total_reads_processed:(\d+)", stats)[0])

    for _ in range(3):
        before = await reads()
        answers = await asyncio.gather(*(direct.ask([("ECHO", number)], 5) for number in range(100)))
        assert answers == [[b"%d" % number] for number in range(100)]
        assert await reads() - before <= 3  # the first, the others, and this question


async def test_a_caller_that_is_cancelled_leaves_the_others_their_answers(direct: Direct) -> None:
    await direct.ask([("PING",)], 5)
    callers = [asyncio.create_task(direct.ask([("INCR", "n"), ("ECHO", number)], 5)) for number in range(9)]
    await asyncio.sleep(0)
    callers[4].cancel()
    answers: list[Any] = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers.pop(4), asyncio.CancelledError)
    assert [answer[1] for answer in answers] == [b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"8"]
    assert await direct.ask([("GET", "n")], 5) == [b"9"]


async def test_a_wait_that_is_cancelled_is_given_nothing_more(server: Server, direct: Direct) -> None:
    waiting = asyncio.create_task(direct.wait([("BLPOP", "list", 20)], 25))
    await until(lambda: b"blocked_clients:1" in server.command("INFO clients"))
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await until(lambda: b"blocked_clients:0" in server.command("INFO clients"))
    assert await direct.ask([("RPUSH", "list", "x"), ("LLEN", "list")], 5) == [1, 1]
    # Its connection is gone; what waits next has another one, which is used again.
    for _ in range(3):
        assert await direct.wait([("BLPOP", "list", 0.01), ("PING",)], 5) in (
            [[b"list", b"x"], b"PONG"],
            [None, b"PONG"],
        )
    names = (await direct.ask([("CLIENT", "LIST")], 5))[0]
    assert names.count(b"name=pushsvc:b") == 1


async def test_what_waits_on_a_lost_connection_fails_and_only_what_may_is_repeated(direct: Direct) -> None:
    kill = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    assert await direct.ask([("INCR", "n")], 5) == [1]
    with pytest.raises(faults.ConnectionError):
        await asyncio.gather(direct.ask([kill], 5), direct.ask([("INCR", "n")], 5))
    assert await direct.ask([("INCR", "n")], 5) == [2]
    calls = direct.ask([kill], 5), direct.ask([("SET", "m", 1)], 5, repeat=True)
    answers: list[Any] = await asyncio.gather(*calls)
    assert answers[1] == [b"OK"]


async def test_what_is_large_has_a_connection_of_its_own_and_is_repeated_as_well(direct: Direct) -> None:
    shared, own = [await direct.ask([("CLIENT", "ID")], 5, alone=alone) for alone in (False, True)]
    assert shared != own == await direct.ask([("CLIENT", "ID")], 5, alone=True)
    kill = direct.ask([("CLIENT", "KILL", "ID", *own)], 5)
    large = direct.ask([("SET", "n", "x" * 100_000)], 5, repeat=True, alone=True)
    assert (await asyncio.gather(kill, large))[1] == [b"OK"]
    assert await direct.ask([("STRLEN", "n")], 5) == [100_000]


async def test_a_silent_server_fails_what_is_late_and_nothing_else(server: Server, direct: Direct) -> None:
    first = await direct.ask([("CLIENT", "ID")], 5)
    with suspended(server.process.pid):
        calls = [direct.ask([("INCR", "n"), ("ECHO", number)], 0.3 if number % 2 else 25) for number in range(6)]
        answers = [asyncio.create_task(call) for call in calls]
        waits = (direct.wait([("BLPOP", "list", 0.1)], 0.3), direct.ask([("PING",)], 0.3, repeat=True))
        for answer in await asyncio.gather(*waits, *answers[1::2], return_exceptions=True):
            assert isinstance(answer, faults.TimeoutError | TimeoutError)
        assert not any(answer.done() for answer in answers[::2])
        # The connection may be dead, so the next command is not asked there.
        answers.append(asyncio.create_task(direct.ask([("CLIENT", "ID")], 25)))
        await asyncio.sleep(0)
    assert await asyncio.gather(*answers[:6:2]) == [[1, b"0"], [3, b"2"], [5, b"4"]]
    assert first != await answers[6] == await direct.ask([("CLIENT", "ID")], 5)
    # Everything on the first connection is answered or late, so that it has ended.
    await until(lambda: server.command("CLIENT LIST").count(b"name=pushsvc:a") == 1)
    assert await direct.wait([("PING",)], 5) == [b"PONG"]


@paused
async def test_what_was_answered_in_a_pause_of_the_process_is_read_before_it_is_late(direct: Direct) -> None:
    loop = cast(PausedLoop, asyncio.get_running_loop())
    first = await direct.ask([("CLIENT", "ID")], 5)
    (connection,) = direct._all
    asking = asyncio.create_task(direct.ask([("CLIENT", "ID")], 5))
    await asyncio.sleep(0)
    select.select([connection._transport.get_extra_info("socket").fileno()], [], [], 5)
    loop.selector.pause = 15.0
    assert await asking == first
    assert loop.selector.paused == 15.0
    assert await direct.ask([("CLIENT", "ID")], 5) == first


async def test_a_connection_whose_answers_are_all_late_ends(server: Server, direct: Direct) -> None:
    await direct.ask([("PING",)], 5)
    with suspended(server.process.pid):
        callers = [asyncio.create_task(direct.ask([("PING",)], seconds)) for seconds in (99, 0.05, 0.1)]
        await asyncio.sleep(0)
        callers[0].cancel()
        (connection,) = direct._all
        await connection.closed
    late = await asyncio.gather(*callers[1:], return_exceptions=True)
    assert [type(answer) for answer in late] == [faults.TimeoutError] * 2


async def test_a_connection_that_opens_too_slowly_fails_who_began_it_and_nobody_who_came_later(server: Server) -> None:
    async with opened(server, timeout=1.0) as direct:
        with suspended(server.process.pid):
            first, *others = [asyncio.create_task(direct.ask([("ECHO", number)], 25)) for number in range(4)]
            with pytest.raises(faults.TimeoutError):
                await first
            assert not any(other.done() for other in others)
        assert await asyncio.gather(*others) == [[b"1"], [b"2"], [b"3"]]


async def test_a_dropped_connection_answers_nothing_that_was_on_its_way(server: Server, direct: Direct) -> None:
    await direct.ask([("PING",)], 5)
    with suspended(server.process.pid):
        callers = [asyncio.create_task(direct.ask([("PING",)], 5)) for _ in range(3)]
        await asyncio.sleep(0)
        direct.drop()
        for answer in await asyncio.gather(*callers, return_exceptions=True):
            assert isinstance(answer, faults.ConnectionError)
    assert await direct.ask([("PING",)], 5) == [b"PONG"]


async def test_a_socket_that_is_closed_already_is_a_lost_connection(server: Server) -> None:
    class Closed(asyncio.Transport):
        """Refuses to write as uvloop does between the end of a socket and `connection_lost`."""

        def __init__(self, real: asyncio.WriteTransport) -> None:
            self.abort = real.abort  # type: ignore[method-assign]

        def write(self, data: Any) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    def close(direct: Direct) -> None:
        (connection,) = direct._all
        connection._transport = Closed(connection._transport)

    async with opened(server) as direct:
        ignored: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: ignored.append(context))
        await direct.ask([("PING",)], 5)
        close(direct)
        assert await direct.ask([("PING",)], 5, repeat=True) == [b"PONG"]
        close(direct)
        with pytest.raises(faults.ConnectionError):
            await direct.ask([("PING",)], 5)
        gc.collect()
        assert not ignored


async def test_a_closed_store_says_so_and_connects_no_more(server: Server, direct: Direct) -> None:
    await direct.ask([("PING",)], 5)
    flying = [asyncio.create_task(direct.wait([("BLPOP", "list", 20)], 25))]
    await until(lambda: b"blocked_clients:1" in server.command("INFO clients"))
    flying.append(asyncio.create_task(direct.wait([("PING",)], 5)))  # which connects meanwhile
    await asyncio.sleep(0)
    await direct.aclose()
    late = direct.ask([("PING",)], 5, repeat=True), direct.wait([("PING",)], 5)
    for answer in await asyncio.gather(*flying, *late, return_exceptions=True):
        assert isinstance(answer, faults.ConnectionError)
        assert str(answer) == "the store is closed"
    await until(lambda: b"name=pushsvc" not in server.command("CLIENT LIST"))


async def test_a_connection_that_cannot_be_opened_fails_all_who_want_it_at_once() -> None:

    with running_server(tcp=True) as server:
        url = server.url

    link = Link(url, name="a", timeout=5)
    async with asyncio.timeout(10):
        calls = (link.script("probe", [keys.PROBE], [1000]) for _ in range(20))
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, StoreUnavailable)
            assert answer.fix == ABSENT_REDIS
        await link.aclose()


async def test_a_script_that_the_server_has_forgotten_is_sent_again(server: Server) -> None:

    server.flush()

    link = Link(server.url, name="a", timeout=5)
    async with asyncio.timeout(10):
        for run in (link.script, link.read, link.record):
            await link.call("SCRIPT", "FLUSH")
            await run("probe", [keys.PROBE], [1000])
        await link.call("SCRIPT", "FLUSH")
        await link.scripts([("probe", [keys.PROBE], [1000])] * 3)
        # Those beside it, which the server knows, do not run again.
        count: ScriptCall = ("live_poke", [keys.inbox("gate")], [100, 60_000, b""])
        read_all = partial(link.read_all, keys.PROBE)
        ways: list[Callable[[list[ScriptCall]], Awaitable[list[Any]]]] = [link.scripts, read_all]
        for number, together in enumerate(ways):
            await link.call("SCRIPT", "FLUSH")
            await link.script(*count)
            answers = await together([count, ("probe", [keys.PROBE], [1000]), count])
            assert (answers[0], answers[2]) == (3 * number + 2, 3 * number + 3)
        await link.aclose()


async def test_a_cluster_and_a_checked_connection_stay_with_redis_py() -> None:
    def direct(url: str) -> Direct | None:
        return direct_of(open_redis(url, name="a"), open_redis(url, name="a", blocking=True))

    assert direct("redis://127.0.0.1:1/0") is not None
    assert direct("redis+sentinel://127.0.0.1:1/mymaster") is not None
    assert direct("redis://127.0.0.1:1/0?health_check_interval=30") is None
    assert direct("redis+cluster://127.0.0.1:1") is None
