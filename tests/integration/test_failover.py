"""What a Redis that fails over, forgets or loses an answer must not do: lose a push, or leave one unsent forever."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from redis import exceptions as faults
from redis.crc import key_slot
from structlog.testing import capture_logs

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Ended, Retry, TokenDead
from pushsvc.ports.keyring import make_key
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.store import Store, StoreConfig, keys, open_store
from pushsvc.store.cleanup.leftovers import _part
from pushsvc.store.keyring.keyring import EMPTIED_FOR
from pushsvc.store.link import replicas, scripts, sentinels, sync_sentinels, together
from pushsvc.store.link.connect import open_sync_redis
from pushsvc.store.link.direct import DirectConnection
from pushsvc.store.link.link import Link
from pushsvc.store.link.sentinels import SentinelReport, Sentinels
from pushsvc.store.link.sync_sentinels import SyncSentinels
from pushsvc.store.queue import lanes

from .servers import KINDS, Kind, Server, halve, running_server, suspend, wait_until
from .test_store_kit import (
    ROUTE,
    accept_together,
    all_of,
    entries_of,
    make_push,
    moment,
    new_world,
    settlement,
    take,
    take_all,
)
from .test_store_replay import fail_all
from .topologies import MASTER, SlotMove, running_sentinels


class CuttingProxy:
    """Stands before a server, and cuts one connection when the answer to a script is on its way."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.cut = 0
        self._server_port = port
        self._sha = b""
        self._serving: set[asyncio.Task[None]] = set()

    def lose_the_answer_to(self, script: str) -> None:
        self._sha = scripts.load(script).sha.encode()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await asyncio.gather(*self._serving)  # each ends when its client has gone

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        doomed = False

        async def ask() -> None:
            nonlocal doomed
            while data := await reader.read(65536):
                if self._sha and self._sha in data:
                    self._sha, doomed = b"", True
                up_writer.write(data)

        async def answer() -> None:
            while data := await up_reader.read(65536):
                if doomed:
                    self.cut += 1
                    return
                writer.write(data)

        tasks = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, up_writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_answer_of_a_read_leaves_nothing_lying(kind: Kind) -> None:
    """The server has handed the entries out, and as their consumer lives nobody would take them over."""
    with running_server(kind, tcp=True) as server:
        port = server.port
        proxy = CuttingProxy(port)
        async with proxy.running():
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
                await take(store)
                for number in range(20):
                    await store.pushes.accept(make_push(f"p{number}", 50))
                proxy.lose_the_answer_to("take")
                with pytest.raises(StoreUnavailable):
                    await take(store, targets=500)
                assert proxy.cut == 1
                taken = await take_all(store)
                assert sorted(each.chunk.push_id for each in taken) == sorted(f"p{number}" for number in range(20))


async def test_who_was_thought_dead_learns_it_by_its_next_sign_of_life() -> None:
    """Its clocks may have stood still with it, so that only the store knows that others have taken over."""
    with running_server("redis") as server:
        url = server.url
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            for _ in range(3):
                await store.queue.beat()
            assert store.queue.missed == 0
            await store.link.call("DEL", keys.alive("a"))
            await store.queue.beat()
            await store.queue.beat()
            assert store.queue.missed == 1


async def test_what_is_pending_and_not_held_is_found_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A promoted replica may call pending what was acknowledged on the old primary, and nothing here failed."""
    with running_server() as server:
        url = server.url
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            assert await take(store) == []
            await store.pushes.accept(make_push("p"))
            lane = keys.lane("shop", 0, "apns", "normal")
            assert await store.link.call("XREADGROUP", "GROUP", "dispatch", "a", "STREAMS", lane, ">")
            assert await take(store) == []
            (state,) = (each for each in store.queue._lanes.values() if each.key == lane)
            state.look_at -= lanes.LOOK
            (taken,) = await take(store)
            assert taken.chunk.push_id == "p"
            state.look_at -= lanes.LOOK
            assert await take(store) == []  # it is held now


WAYS = {
    # how entries come to a consumer: the method of the link and the word that it begins with
    "take": ("read", "take"),
    "wait": ("wait", "XREADGROUP"),
    "resume": ("call", "XREADGROUP"),
    "reclaim": ("read", "reclaim"),
    "lapsed": ("read", "lapse"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_an_old_primary_handed_out_is_read_again_from_the_new_one(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary changes when the answer has arrived and is not decoded yet."""
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            link, queue = store.link, store.queue
            method, word = WAYS[way]
            ask = getattr(link, method)
            reads: list[int] = []

            async def then_change(*args: Any, **more: Any) -> Any:
                if way == "wait":
                    await other.pushes.accept(make_push("p"))
                answer = await ask(*args, **more)
                if str(args[0][0][0] if method == "wait" else args[0]) == word:
                    reads.append(link.history)
                    if len(reads) == 1:
                        link.drop()
                return answer

            assert await take(store) == []
            other = await world.store("b")
            if way != "wait":
                await other.pushes.accept(make_push("p"))
            if way == "reclaim":
                await take(other)
                await world.kill("b")
            elif way == "resume":
                lane = keys.lane("shop", 0, "apns", "normal")
                await link.call("XREADGROUP", "GROUP", "dispatch", "a", "STREAMS", lane, ">")
                queue.recheck_all()
            monkeypatch.setattr(link, method, then_change)
            if way == "reclaim":
                found = await queue.reclaim(ROUTE)
            elif way == "lapsed":
                found = await queue.lapsed(ROUTE, "normal", moment() + 10**10)
            else:
                found = await take(store, wait_ms=5000 if way == "wait" else 0)
            assert reads[0] == 0
            assert not found or len(reads) > 1
            (taken,) = found or await take(store)
            assert (taken.chunk.push_id, taken.ref.history, taken.again) == ("p", 1, True)
            assert len(await queue.settle("shop", *all_of(taken))) == 1


async def test_what_several_shards_of_a_new_primary_hand_out_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary changes when a read has begun and none of its shards is asked yet."""
    with running_server() as server:
        async with new_world(server, StoreConfig(shards=2)) as world:
            store = await world.store()
            assert isinstance(store, Store)
            assert await take(store) == []
            await store.pushes.accept(make_push("p"))

            async def after_a_change(calls: Any) -> Any:
                if not store.link.history:
                    store.link.drop()
                return await together.all_of(calls)

            monkeypatch.setattr("pushsvc.store.queue.queue.all_of", after_a_change)
            (taken,) = await take(store)
            assert (taken.chunk.push_id, taken.ref.history) == ("p", 1)


async def test_what_an_old_primary_handed_out_finishes_nothing_on_the_new_one() -> None:
    """Its answer comes when the same entries were read again, and is recorded behind one from the new primary."""
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await accept_together(store, make_push("a"), make_push("b"))
            await store.pushes.accept(make_push("c"))
            before = await take_all(store)
            store.link.drop()
            again = await take_all(store)
            assert len(again) == len(before) == 3
            finished = [again[0].ref, *(each.ref for each in before[1:])]
            await store.queue.settle("shop", [settlement(each.chunk, 0) for each in again], finished)
            assert await entries_of(store) == 2
            assert await take_all(store) == []  # all that is left is in work here
            await store.queue.settle("shop", [], [each.ref for each in again[1:]])
            assert await entries_of(store) == 0


class Naming:
    """What all sentinels say: one server is the primary."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
        self.word = SentinelReport(1, False, ("127.0.0.1", port))

        async def ask(sentinels: Sentinels, sentinel: object) -> SentinelReport:
            return self.word

        async def none(sentinels: Sentinels) -> int:
            return 0

        monkeypatch.setattr(Sentinels, "_ask", ask)
        monkeypatch.setattr(Sentinels, "replicas", none)
        monkeypatch.setattr(SyncSentinels, "_ask", lambda sentinels, sentinel: self.word)

    def switch(self, port: int) -> None:
        """Another one is, from now on."""
        self.word = SentinelReport(self.word.epoch + 1, False, ("127.0.0.1", port))


SENTINELS = "redis+sentinel://127.0.0.1:1/mymaster/0"


async def test_a_command_is_repeated_where_the_sentinels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py would connect to the earlier address: a primary that was frozen, and wakes up as one."""
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        naming = Naming(monkeypatch, old.port)
        link = Link(SENTINELS, name="a", timeout=5)
        async with asyncio.timeout(30):
            waiting = asyncio.create_task(link.call("BLPOP", "list", 0))
            await until(lambda: b"blocked_clients:1" in old.command("INFO clients"))
            naming.switch(new.port)
            await link._waiting.ping()  # whichever client hears of it first
            assert link.history == 1
            await until(lambda: b"blocked_clients:1" in new.command("INFO clients"))
            new.command("RPUSH list x")
            assert tuple(await waiting) == (b"list", b"x")
            await link.aclose()


async def test_a_connection_in_the_making_is_not_used_after_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server was frozen when it was asked for its ROLE, and still calls itself the primary."""
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        naming = Naming(monkeypatch, old.port)
        link = Link(SENTINELS, name="a", timeout=5)
        async with asyncio.timeout(30):
            made: list[Any] = []
            connect_to = sentinels._Checked.connect_to

            async def noted(connection: Any, address: Any) -> None:
                made.append(connection)
                await connect_to(connection, address)

            monkeypatch.setattr(sentinels._Checked, "connect_to", noted)
            suspend(old.process.pid)
            writing = asyncio.create_task(link.call("SET", "written", 1))
            await until(lambda: any(each._writer is not None for each in made))
            # No other party ends it: it has the earlier answer of the sentinels.
            monkeypatch.setattr(link.sentinels, "_switched", [])
            naming.switch(new.port)
            await link._waiting.ping()
            old.process.send_signal(signal.SIGCONT)
            await writing
            assert old.command("EXISTS written") == b":0\r\n"
            assert new.command("EXISTS written") == b":1\r\n"
            await link.aclose()


def test_jobs_go_on_where_the_sentinels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """rq's wait for a job ends, or breaks; the next is at the new primary, whatever the old one calls itself."""
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        naming = Naming(monkeypatch, old.port)
        monkeypatch.setattr(sync_sentinels, "LOOK", 0.0)
        client = open_sync_redis(SENTINELS, name="a")
        assert client.set("here", 1)
        naming.switch(new.port)
        client.rpush("list", "x")
        assert old.command("LLEN list") == b":0\r\n"
        assert new.command("LLEN list") == b":1\r\n"
        assert client.blpop(["list"], 1) == (b"list", b"x")

        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.blpop, ["list"], 20)
            wait_until(lambda: b"blocked_clients:1" in new.command("INFO clients"))
            naming.switch(old.port)
            new.command("CLIENT KILL TYPE normal")
            wait_until(lambda: b"blocked_clients:1" in old.command("INFO clients"))
            old.command("RPUSH list y")
            assert waiting.result(20) == (b"list", b"y")
        client.close()


async def test_the_record_of_a_key_counts_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call had no answer, and what it wrote went with the primary: a repeat is no replay then."""
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        naming = Naming(monkeypatch, old.port)
        async with asyncio.timeout(30), open_store(SENTINELS) as store:
            key = b"k" * 16
            assert await store.pushes.accept_once([make_push("p")], key=key, record=b"r") is None
            assert await store.pushes.recall("shop", key) == b"r"
            call = store.link.call

            async def call_and_switch(*command: object) -> object:
                answer = await call(*command)
                monkeypatch.setattr(store.link, "call", call)
                naming.switch(new.port)
                await cast("Sentinels", store.link.sentinels).discover_master("mymaster")
                return answer

            monkeypatch.setattr(store.link, "call", call_and_switch)
            assert await store.pushes.recall("shop", key) is None


async def test_what_was_to_be_recorded_at_the_old_primary_is_not_recorded_at_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They change while the sentinels are asked for replicas: the entries to acknowledge may be others there."""
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        naming = Naming(monkeypatch, old.port)

        async def replicas_and_switch(sentinels: Sentinels) -> int:
            naming.switch(new.port)
            await sentinels.discover_master("mymaster")
            return 0

        async with asyncio.timeout(30), open_store(SENTINELS, StoreConfig(consumer="a")) as store:
            await store.pushes.accept(make_push("p"))
            (taken,) = await take(store)
            monkeypatch.setattr(Sentinels, "replicas", replicas_and_switch)
            cast("replicas.ReplicatedLink", store.link)._quorums.clear()  # as in a process that only sends
            with pytest.raises(StoreUnavailable, match="another server"):
                await store.queue.settle("shop", *all_of(taken))
            assert new.command("EXISTS", keys.mark("shop", 0)) == b":0\r\n"


def lose_the_answer(
    monkeypatch: pytest.MonkeyPatch, old: Server, new: Server, *, replicated: bool, then: Callable[[], None]
) -> None:
    """The old primary does what a push asks of it, and its connection ends before it answers. With `replicated`, the
    new one, a replica until then, has it too."""
    monkeypatch.setattr(replicas, "WAIT_MS", 200)
    monkeypatch.setattr(replicas, "GRACE", float("-inf"))  # the new one has no replica
    ask, script = DirectConnection.ask, scripts.load("accept")
    lane = keys.lane("shop", 0, "apns", "normal")

    async def lose(connection: DirectConnection, answer: asyncio.Future[Any]) -> None:
        await until(lambda: old.command("XLEN", lane) == b":1\r\n")
        await until(lambda: not replicated or new.command("XLEN", lane) == b":1\r\n")
        new.command("REPLICAOF NO ONE")
        then()
        answer.cancel()
        connection.drop("its answer is lost")
        raise faults.ConnectionError

    def ask_and_lose(connection: DirectConnection, commands: Any, seconds: float) -> Any:
        answer = ask(connection, commands, seconds)
        if not any(script.sha in command for command in commands):
            return answer
        monkeypatch.setattr(DirectConnection, "ask", ask)
        return lose(connection, answer)

    monkeypatch.setattr(DirectConnection, "ask", ask_and_lose)


@asynccontextmanager
async def two_servers(*, replicated: bool) -> AsyncIterator[tuple[Server, Server]]:
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        if replicated:
            new.command("REPLICAOF", "127.0.0.1", str(old.port))
            wait_until(lambda: b"master_link_status:up" in new.command("INFO replication"))
        yield old, new


@pytest.mark.parametrize("replicated", [False, True])
async def test_a_promise_whose_second_attempt_finds_the_new_primary_is_made_there(
    replicated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(30), two_servers(replicated=replicated) as (old, new):
        naming = Naming(monkeypatch, old.port)
        async with open_store(SENTINELS, StoreConfig(consumer="a")) as store:
            await store.pushes.ping()
            await store.link.call("SCRIPT", "LOAD", scripts.load("accept").text)
            lose_the_answer(monkeypatch, old, new, replicated=replicated, then=lambda: naming.switch(new.port))
            key = b"k" * 16
            assert await store.pushes.accept_once([make_push("p")], key=key, record=b"p") is None
            assert store.link.history == 1
            assert await store.pushes.accept_once([make_push("q")], key=key, record=b"q") == b"p"
            assert await store.pushes.recall("shop", key) == b"p"
            assert [each.chunk.push_id for each in await take_all(store)] == ["p"]


@pytest.mark.parametrize("replicated", [False, True])
async def test_a_push_that_may_have_been_accepted_is_sent_once_when_its_call_is_repeated(
    replicated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No primary answers for a while. Where the next one has the push, that one is sent, else that of the repeat."""
    async with asyncio.timeout(30), two_servers(replicated=replicated) as (old, new):
        naming = Naming(monkeypatch, old.port)
        async with open_store(SENTINELS, StoreConfig(consumer="a")) as store:
            await store.pushes.ping()
            await store.link.call("SCRIPT", "LOAD", scripts.load("accept").text)
            lose_the_answer(monkeypatch, old, new, replicated=replicated, then=lambda: naming.switch(1))
            key = b"k" * 16
            with pytest.raises(StoreUnavailable):
                await store.pushes.accept_once([make_push("p")], key=key, record=b"p")
            naming.switch(new.port)
            kept = await store.pushes.accept_once([make_push("q")], key=key, record=b"q")
            assert kept == (b"p" if replicated else None)
            assert await store.pushes.recall("shop", key) == (kept or b"q")
            assert [each.chunk.push_id for each in await take_all(store)] == [(kept or b"q").decode()]


@pytest.mark.parametrize("durability", ["memory", "replicas", "checked"])
async def test_a_record_whose_own_attempt_to_connect_finds_the_new_primary_is_not_made_there(
    durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another entry has the id there that was read from the old one, and the same consumer."""
    url = f"{SENTINELS}?health_check_interval=30" if durability == "checked" else SENTINELS
    config = StoreConfig(consumer="a", replicas=None if durability == "replicas" else 0)
    with running_server(tcp=True) as old, running_server(tcp=True) as new:
        naming = Naming(monkeypatch, old.port)
        async with asyncio.timeout(30), open_store(url, config) as store:
            await store.pushes.accept(make_push("p"))
            (taken,) = await take(store)
            lane = keys.lane("shop", 0, "apns", "normal")
            new.command("XADD", lane, taken.ref.entry_id, "c", "another")
            new.command("XGROUP", "CREATE", lane, keys.DISPATCH, "0")
            new.command("XREADGROUP", "GROUP", keys.DISPATCH, "a", "STREAMS", lane, ">")
            naming.switch(new.port)
            old.command("CLIENT KILL TYPE normal")
            link = store.link
            await until(lambda: not (link._direct and link._direct._all))
            for _ in range(2):  # the first may only find that its connection has ended
                if not link.history:
                    with pytest.raises(StoreUnavailable):
                        await store.queue.settle("shop", *all_of(taken))
            assert link.history == 1
            assert new.command("XLEN", lane) == b":1\r\n"
            await store.queue.settle("shop", *all_of(taken))  # which another server has read
            assert new.command("XLEN", lane) == b":1\r\n"


async def test_what_ends_entries_is_not_asked_a_second_time_of_another_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = keys.lane("shop", 0, "apns", "normal")
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            link, dead = store.link, (Ended("failed"), TokenDead(status=410, reason="Unregistered"))

            async def over(script: str, work: Callable[[], Any]) -> None:
                """Its first attempt to run the script meets a primary that goes at this moment."""
                ask, sha, history = DirectConnection.ask, scripts.load(script).sha, link.history

                def ask_the_next(connection: DirectConnection, commands: Any, seconds: float) -> Any:
                    if link.history == history and any(sha in command for command in commands):
                        link.drop()
                    return ask(connection, commands, seconds)

                with monkeypatch.context() as patched:
                    patched.setattr(DirectConnection, "ask", ask_the_next)
                    with pytest.raises(StoreUnavailable):
                        await work()
                assert link.history == history + 1

            await store.pushes.accept(make_push("settled"))
            (taken,) = await take(store)
            await over("settle", lambda: store.queue.settle("shop", *all_of(taken)))
            assert await entries_of(store) == 1
            (taken,) = await take_all(store)
            await store.queue.settle("shop", all_of(taken, *dead)[0], [])
            store.queue.release(ROUTE)
            await over("forget", lambda: take(store))
            assert await entries_of(store) == 1
            assert await take_all(store) == []
            assert await entries_of(store) == 0

            await link.call("XADD", lane, "*", "c", b"\xff", "n", 1)
            await over("quarantine", lambda: take_all(store))
            assert await entries_of(store) == 1
            assert await take_all(store) == []
            assert await entries_of(store) == 0

            ((entry, receipt),) = await store.receipts.take("shop", limit=10, wait_ms=0)
            await over("record", lambda: store.receipts.record("shop", [(entry, receipt, None)]))
            await store.receipts.record("shop", [(entry, receipt, None)])  # which another server has read
            assert [each for _, each in await store.receipts.take("shop", limit=10, wait_ms=0)] == [receipt]


async def test_what_was_found_to_be_over_is_not_ended_at_a_primary_that_comes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another entry of the same read is set aside when the primary changes."""
    lane = keys.lane("shop", 0, "apns", "normal")
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            link, read = store.link, store.link.read
            await store.pushes.accept(make_push("over"))
            await store.pushes.accept(make_push("newer", 40))
            await store.pushes.accept(make_push("other", lane="urgent"))
            over, newer = await take_all(store)
            await store.queue.settle("shop", all_of(over)[0], [])
            await store.queue.settle("shop", all_of(newer, Retry(moment() + 60_000, 2), None)[0], [])
            await link.call("HSET", "ps:{shop.0}:t:newer", "#0", b"\xff" + bytes(100))
            ((_, other),) = await link.call("XRANGE", keys.lane("shop", 0, "apns", "urgent"), "-", "+")

            async def then_change(name: str, *args: Any) -> Any:
                answer = await read(name, *args)
                if name == "quarantine":
                    link.drop()
                    await link.call("DEL", lane)
                    await link.call("XADD", lane, over.ref.entry_id, "c", other[b"c"])
                return answer

            monkeypatch.setattr(link, "read", then_change)
            store.queue.release(ROUTE)
            assert [each.chunk.push_id for each in await take_all(store)] == ["other"]
            assert link.history == 1


async def test_what_has_lapsed_is_not_claimed_at_another_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = keys.lane("shop", 0, "apns", "bulk")
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            link, call = store.link, store.link.call
            for name in ("read", "lapsed"):
                await store.pushes.accept(make_push(name, lane="bulk", created_at=moment() - 3_700_000))
                await take(store, "bulk", targets=1) if name == "read" else None

            async def then_change(*command: Any) -> Any:
                answer = await call(*command)
                if command[:2] == ("XRANGE", lane) and not link.history:
                    link.drop()
                return answer

            monkeypatch.setattr(link, "call", then_change)
            with pytest.raises(StoreUnavailable):
                await store.queue.lapsed(ROUTE, "bulk", moment())
            held = await link.call("XPENDING", lane, keys.DISPATCH)
            assert (link.history, held["pending"]) == (1, 1)
            assert [each.chunk.push_id for each in await store.queue.lapsed(ROUTE, "bulk", moment())] == ["lapsed"]


async def test_the_primary_changes_after_a_record_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known before the step that acknowledges, which is made at the new one without the entries of the old."""
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await store.pushes.accept(make_push("p"))
            (taken,) = await take(store)
            acknowledged = store.queue._opener.acknowledged

            async def then_change(*args: Any) -> Any:
                store.link.drop()
                return await acknowledged(*args)

            monkeypatch.setattr(store.queue._opener, "acknowledged", then_change)
            assert len(await store.queue.settle("shop", *all_of(taken))) == 1
            assert await entries_of(store) == 1
            assert await take_all(store) == []
            assert await entries_of(store) == 0


async def test_dead_letters_that_were_read_are_not_replayed_on_another_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await fail_all(store, make_push("p"))
            job = (await store.dead.request(ReplaySpec("shop", DeadFilter()))).job
            reopen = store.dead._reopen

            async def reopen_and_change(*args: Any) -> Any:
                store.link.drop()
                return await reopen(*args)

            with monkeypatch.context() as patched:
                patched.setattr(store.dead, "_reopen", reopen_and_change)
                with pytest.raises(StoreUnavailable):
                    await store.dead.step("shop", job, most=10)
            assert (await entries_of(store), await store.dead.count("shop", DeadFilter())) == (0, 1)
            assert (await store.dead.step("shop", job, most=10)).moved == 1
            assert (await entries_of(store), await store.dead.count("shop", DeadFilter())) == (1, 0)


async def test_what_was_cancelled_is_read_anew_from_another_primary() -> None:
    """Its epoch may be one that the old primary had after other cancels."""
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await accept_together(store, make_push("a"), make_push("b"))
            await store.pushes.cancel("shop", "a")
            ended = {each.chunk.push_id: each.skip for each in await take_all(store)}
            assert ended == {"a": {0: "cancelled"}, "b": {}}
            store.link.drop()
            await store.link.call("ZREM", keys.cancelled("shop", 0), "a")
            await store.link.call("ZADD", keys.cancelled("shop", 0), moment(), "b")
            ended = {each.chunk.push_id: each.skip for each in await take_all(store)}
            assert ended["b"] == {0: "cancelled"}


async def test_a_cancel_is_seen_where_an_earlier_one_was_lost() -> None:
    """As by a restart of a store that writes to its disk once a second: nothing says that it is not as it was."""
    with running_server() as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            for push_id in ("a", "b"):
                await store.pushes.accept(make_push(push_id))
                await store.pushes.cancel("shop", push_id)
                assert [each.skip for each in await take_all(store)] == [{0: "cancelled"}]
                await store.link.call("DEL", keys.cancelled("shop", 0), keys.epoch("shop", 0))


async def test_a_process_that_starts_promises_nothing_while_a_replica_may_have_been_promoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves its primary and the sentinels as one that dies, and the other one acknowledges what will be lost."""
    monkeypatch.setattr(replicas, "WAIT_MS", 200)
    monkeypatch.setattr(replicas, "GRACE", 1.0)
    with running_sentinels(sentinels=1, down_after=60_000) as rig:
        rig.data[1].send(signal.SIGKILL)
        wait_until(lambda: "disconnected" in str(rig.sentinels[0].ask("SENTINEL", "REPLICAS", MASTER)))
        async with asyncio.timeout(30), open_store(rig.url) as store:
            # The one that is left may be late as well.
            with pytest.raises(StoreUnavailable, match=r"[01] of 2 replicas"):
                await store.pushes.accept(make_push("p"))
            while True:
                with suppress(StoreUnavailable):
                    return await store.pushes.accept(make_push("p"))


async def until(reached: Callable[[], bool]) -> None:
    while not reached():
        await asyncio.sleep(0.01)


async def test_a_slot_that_moves_is_unavailable_and_loses_nothing() -> None:
    """A script that went on there would make keys a second time, and the move would stop with BUSYKEY."""
    with (
        running_server("redis", tcp=True, cluster=True) as one,
        running_server("redis", tcp=True, cluster=True) as two,
    ):
        halve(one, two)
        url = f"redis+cluster://127.0.0.1:{one.port}"
        async with asyncio.timeout(60), open_store(url, StoreConfig(consumer="a")) as store:
            for number in range(10):
                await store.pushes.accept(make_push(f"p{number}", 40))
            (taken, *_) = await take(store, targets=40)
            slot = key_slot(keys.pending("shop", 0).encode())
            move = SlotMove(slot, *(node.port for node in ((one, two) if slot < 8192 else (two, one))))
            move.begin()
            half = move.keys()[::2]
            for batch in ([], half, None):
                if batch != []:
                    move.carry(batch or move.keys())
                with pytest.raises(StoreUnavailable):
                    await store.pushes.accept(make_push("x"))
                if batch == half:
                    with pytest.raises(StoreUnavailable):
                        await take(store)
                    with pytest.raises(StoreUnavailable):
                        await store.queue.settle("shop", *all_of(taken))
                statuses = await store.pushes.statuses([("shop", f"p{number}") for number in range(10)])
                assert [status and status.counts.total for status in statuses] == [40] * 10
            assert move.keys() == []
            move.end()
            await store.pushes.accept(make_push("x"))
            await store.queue.settle("shop", *all_of(taken))
            later = [each.chunk.push_id for each in await take_all(store)]
            assert sorted([*later, taken.chunk.push_id]) == sorted(["x", *(f"p{number}" for number in range(10))])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_came_back_empty(kind: Kind) -> None:
    """Every process goes on with one hash key; what ends was never counted here, and no counter goes below 0."""
    with running_server(kind) as server:
        url = server.url
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            await store.pushes.accept(make_push("p", 100))
            (taken,) = await take(store)
            assert await store.emptied() is None
            before = store.clock()
            await store.link.call("FLUSHALL")
            with capture_logs() as logs:
                await store.queue.settle("shop", *all_of(taken))
                while not logs:
                    await asyncio.sleep(0.01)
            assert [line["event"] for line in logs] == ["store_came_back_empty"]
            assert "restore a backup" in logs[0]["remedy"]
            assert before <= (await store.emptied() or 0) <= store.clock()
            assert 0 < await store.link.call("PTTL", keys.EMPTIED) <= EMPTIED_FOR
            async with open_store(url) as later:
                assert later.hash_key == store.hash_key
                assert (await later.gauges({"shop": ("apns",)})).pending["normal"] == 0
            assert not store.replaced.is_set()
            await store.pushes.accept(make_push("q"))
            assert [each.chunk.push_id for each in await take(store)] == ["q"]
            _, key = make_key("shop", "web", ("push",), None, now=store.clock())
            assert await store.keys.add(key)
            assert await store.emptied() is None, "a key was made, or a backup restored"


async def test_a_server_that_others_have_begun_anew() -> None:
    with running_server() as server:
        url = server.url
        async with asyncio.timeout(30), open_store(url) as store:
            await store.link.call("SET", keys.HASH_KEY, b"another" * 5)
            with capture_logs():
                await store.replaced.wait()
            assert await store.emptied() is not None


async def test_counters_of_empty_lanes_are_set_right() -> None:
    with running_server() as server:
        url = server.url
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            await take(store)
            wrong = {"apns:normal": 1254, "apns:bulk": -3, "apns:retry": 7, "scheduled": -1}
            fields = [word for pair in wrong.items() for word in pair]
            await store.link.call("HSET", keys.pending("shop", 0), *fields)
            await store.pushes.accept(make_push("p", 5, lane="urgent"))
            store.queue.recheck_all()
            await store.queue.beat()
            gauges = await store.gauges({"shop": ("apns",)})
            assert gauges.pending == {"urgent": 5, "normal": 0, "bulk": 0}
            assert gauges.retry_pending == 0
            assert gauges.apps["shop"].scheduled == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_goes_or_is_none_ends_no_process(kind: Kind) -> None:
    """From Redis 7.2 on a blocked read of a stream that is deleted answers NOGROUP."""
    with running_server(kind) as server:
        url = server.url
        lane = keys.lane("shop", 0, "apns", "normal")
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            await take(store)
            waiting = asyncio.create_task(store.queue.take(ROUTE, "normal", targets=10, wait_ms=5000))
            while not waiting.done() and b"blocked=1" not in (
                b"blocked=%d" % (await store.link.call("INFO", "clients"))["blocked_clients"]
            ):
                await asyncio.sleep(0.01)
            await store.link.call("DEL", lane)
            await store.pushes.accept(make_push("p"))
            try:
                taken = await waiting
            except StoreUnavailable:
                taken = []
            assert [each.chunk.push_id for each in taken or await take_all(store)] == ["p"]
            await store.link.call("SET", lane, "not a stream")
            with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                await take(store)


@pytest.mark.parametrize("cluster", [False, True])
async def test_a_listing_names_its_node_and_begins_again_where_that_is_gone(cluster: bool) -> None:
    with running_server("redis", tcp=True, cluster=cluster) as server:
        url = f"redis+cluster://127.0.0.1:{server.port}" if cluster else server.url
        async with asyncio.timeout(30), open_store(url) as store:
            for number in range(50):
                await store.pushes.accept(make_push(f"p{number}"))
            names, cursor = await store.link.scan("ps:{*", "", 5)
            assert cursor is not None
            assert 0.0 <= _part(cursor) < 1.0
            for at in (cursor, "7@10.0.0.1:6379", "3:0", ""):
                found = set(names) if at == cursor else set()
                following: str | None = at
                while following is not None:
                    names, following = await store.link.scan("ps:{*", following, 5)
                    found |= set(names)
                assert len([name for name in found if b":p:p" in name]) == 50, at
