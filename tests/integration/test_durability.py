"""`queue.durability = "fsync"`: 202 when the disk of Redis has it. On servers with WAITAOF, and on one without."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from pushsvc.api.server import serve
from pushsvc.errors import ConfigError, StoreUnavailable
from pushsvc.model.push import Route
from pushsvc.store import Store, StoreConfig, keys, open_store
from pushsvc.store.link.durable import FLIGHTS, Durable
from pushsvc.store.link.link import Command

from ..timers import EARLY
from .harness import apns
from .processes import Processes, open_site
from .servers import Server, ask, halve, running_server
from .test_intake_kit import ALERT, CONFIG, LOOP as LOOP, Service, call
from .test_store_kit import make_push

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")
NEVER = ("--appendonly", "yes", "--appendfsync", "no")
STRICT = StoreConfig(consumer="a", fsync=True)
HASTY = StoreConfig(consumer="a", fsync=True, timeout=0.3)
Story = Callable[[Store, Server], Awaitable[None]]


@asynccontextmanager
async def opened(
    config: StoreConfig = STRICT, options: tuple[str, ...] = ALWAYS
) -> AsyncIterator[tuple[Store, Server]]:
    with running_server("valkey", tcp=True, options=options) as server:
        async with asyncio.timeout(60), open_store(server.url, config) as store:
            yield store, server


@contextmanager
def monitored(server: Server) -> Iterator[list[tuple[str, str]]]:
    """Record address and name of each command while the block lasts, in order, from MONITOR."""
    seen: list[tuple[str, str]] = []
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"MONITOR\r\n")
        lines = connection.makefile("r", errors="replace")
        assert lines.readline() == "+OK\n"

        def read() -> None:
            for line in lines:
                _, _, rest = line.partition("[")
                place, _, words = rest.partition("] ")
                seen.append((place.split()[-1], words.split()[0].strip('"').lower()))
                if "the-end" in line:
                    return

        thread = threading.Thread(target=read)
        thread.start()
        yield seen
        server.command("ECHO", "the-end")
        thread.join(20)


async def waits(store: Store) -> int:
    """How often WAITAOF was called."""
    stats = await store.link.call("INFO", "commandstats")
    return int(stats.get("cmdstat_waitaof", {"calls": 0})["calls"])


# --- the barrier ----------------------------------------------------------------------------------


async def test_each_push_waits_on_its_own_connection_for_what_that_has_written() -> None:
    async with opened() as (store, server):
        # The server learns the scripts.
        await store.pushes.accept(make_push("warm"))
        await store.pushes.accept_once([make_push("up")], key=b"w" * 16, record=b"r")
        with monitored(server) as seen:
            await store.pushes.accept(make_push("p"))
            await store.pushes.accept_once([make_push("q")], key=b"k" * 16, record=b"r")
            assert await store.pushes.recall("shop", b"k" * 16) == b"r"
        ours = [(place, name) for place, name in seen if place != "lua" and name != "echo"]
        assert [name for _, name in ours] == [
            *("evalsha", "set", "waitaof"),
            *("evalsha", "set", "waitaof"),
            *("get", "evalsha", "set", "waitaof"),
        ]
        places = [place for place, _ in ours]
        assert len(set(places[0:3])) == len(set(places[3:6])) == len(set(places[7:10])) == 1

        # What the server does not know goes again alone, and is waited for as well.
        count = ("live_poke", [keys.inbox("gate")], [100, 60_000, b""])
        await store.link.script(*count)
        with monitored(server) as seen:
            answers = await Durable(store.link, timeout=5.0).scripts("mark", [count, ("now", ["mark"], []), count])
        assert (len(answers), answers[0], answers[2]) == (3, 2, 3)
        assert [name for place, name in seen if place != "lua" and name != "echo"] == [
            *("evalsha", "evalsha", "evalsha", "set", "waitaof"),
            *("eval", "set", "waitaof"),
        ]


async def test_without_it_nobody_waits() -> None:
    async with opened(StoreConfig(consumer="a")) as (store, _):
        await asyncio.gather(*(store.pushes.accept(make_push(f"p{number}")) for number in range(10)))
        await store.pushes.accept_once([make_push("q")], key=b"k" * 16, record=b"r")
        assert await waits(store) == 0


async def test_many_pushes_share_a_barrier() -> None:
    async with opened() as (store, _):
        await store.link.call("CONFIG", "RESETSTAT")
        plain = [store.pushes.accept(make_push(f"p{number}")) for number in range(300)]
        keyed = [
            store.pushes.accept_once([make_push(f"k{number}")], key=f"{number:016}".encode(), record=b"r")
            for number in range(100)
        ]
        assert await asyncio.gather(*plain, *keyed) == [None] * 400
        assert await waits(store) <= 2 * FLIGHTS
        repeats = [
            store.pushes.accept_once([make_push(f"again{number}")], key=f"{number:016}".encode(), record=b"other")
            for number in range(100)
        ]
        assert await asyncio.gather(*repeats) == [b"r"] * 100
        taken = await store.queue.take(Route("shop", "apns"), "normal", targets=1000, wait_ms=0)
        assert len(taken) == 400 == store.pushes.pending


async def test_what_the_disk_does_not_get_is_not_answered_for_not_even_when_it_is_said_again() -> None:
    async with opened(HASTY, NEVER) as (store, server):
        # The server has it in memory and in the file; that it was flushed it never says.
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="disk of Redis did not have it within 300 ms"):
                await store.pushes.accept(make_push("p"))
            # The next try comes by another connection, which has nothing of its own to wait for.
            server.command("CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(StoreUnavailable):
            await store.pushes.accept_once([make_push("q")], key=b"k" * 16, record=b"r")
        server.command("CLIENT", "KILL", "TYPE", "normal")
        # Its record is there by now, and says no more than the call that left it.
        with pytest.raises(StoreUnavailable):
            await store.pushes.recall("shop", b"k" * 16)
        with pytest.raises(StoreUnavailable):
            await store.pushes.accept_once([make_push("other")], key=b"k" * 16, record=b"r")
        assert await store.pushes.recall("shop", b"x" * 16) is None
        await store.link.call("CONFIG", "SET", "appendfsync", "always")
        await store.pushes.accept(make_push("p"))
        assert await store.pushes.recall("shop", b"k" * 16) == b"r"
        taken = await store.queue.take(Route("shop", "apns"), "normal", targets=10, wait_ms=0)
        assert [each.chunk.push_id for each in taken] == ["p", "q"]


async def test_over_http_it_is_503_and_a_repeat_under_the_key_is_safe() -> None:
    async with opened(HASTY, NEVER) as (store, _):
        service = Service(store.pushes, ring=store.keys)  # type: ignore[arg-type]  # all that it asks
        key = {"Idempotency-Key": "order 7"}
        async with serve(service.app(CONFIG), CONFIG) as service.url:
            for _ in range(2):
                answer = await call(service, "POST", "/v1/push", ALERT, headers=key)
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert "Idempotency-Key" in answer.json["detail"]
            batch = await call(service, "POST", "/v1/push/batch", [ALERT, ALERT])
            assert batch.status == 503
            await store.link.call("CONFIG", "SET", "appendfsync", "always")
            answer = await call(service, "POST", "/v1/push", ALERT, headers=key)
            assert (answer.status, answer.headers["idempotent-replay"]) == (202, "true")
        gauges = await store.gauges({"shop": ("apns",)})
        assert gauges.pending["normal"] == 1 + 2


async def test_a_server_that_comes_without_waitaof_is_503_not_a_fault_of_ours() -> None:
    """As after a failover to one that is older."""
    with running_server("redis") as server:
        async with open_store(server.url, STRICT) as store:
            with pytest.raises(StoreUnavailable, match="does not say when it has flushed"):
                await store.pushes.accept(make_push("p"))


@pytest.mark.parametrize("answers", [1, 20, 60])
async def test_whatever_was_answered_survives_the_servers_death(answers: int) -> None:
    """What a killed server has written to its file stays; that it has *flushed* it is what the tests above show."""

    async def post(folder: Path) -> list[str]:
        accepted: list[str] = []
        with running_server("valkey", folder=folder, options=ALWAYS) as server:
            async with open_store(server.url, STRICT) as store:
                service = Service(store.pushes, ring=store.keys)  # type: ignore[arg-type]  # as above

                async def caller() -> None:
                    while (answer := await call(service, "POST", "/v1/push", ALERT)).status == 202:
                        accepted.append(answer.json["id"])

                async with serve(service.app(CONFIG), CONFIG) as service.url:
                    callers = asyncio.gather(*(caller() for _ in range(16)))
                    while len(accepted) < answers:
                        await asyncio.sleep(0.001)
                    server.kill()
                    await callers
        return accepted

    with TemporaryDirectory(prefix="ps-") as name:
        folder = Path(name)
        accepted = await post(folder)
        with running_server("valkey", folder=folder, options=ALWAYS) as server:
            async with open_store(server.url, StoreConfig(consumer="a")) as store:
                for push_id in accepted:
                    assert await store.pushes.status("shop", push_id) is not None, push_id


# --- the probe ------------------------------------------------------------------------------------


async def test_a_server_that_flushes_says_how_long_it_takes() -> None:
    async with opened() as (store, _):
        assert 0 <= await store.pushes.require_durable(["shop", "news"]) < 5


@pytest.mark.parametrize(
    ("kind", "options", "why", "remedy"),
    [
        ("redis", ALWAYS, "does not have WAITAOF", "use Redis 7.2 or newer, or Valkey"),
        # As long as Valkey has this fault; when it has not any more, `everysec` is good enough there too.
        ("valkey", EVERYSEC, "says that it has flushed before it has", "set its appendfsync to always"),
        ("valkey", (), "keeps no append-only file", "set appendonly yes"),
        ("valkey", NEVER, "did not flush a write within 0.3 s", "set its appendfsync to always"),
    ],
)
async def test_a_server_that_cannot_keep_the_promise_is_named_with_the_remedy(
    kind: str, options: tuple[str, ...], why: str, remedy: str
) -> None:
    with running_server(kind, options=options) as server:  # type: ignore[arg-type]  # one of KINDS
        async with open_store(server.url, HASTY) as store:
            with pytest.raises(ConfigError) as caught:
                await store.pushes.require_durable(["shop"])
        assert caught.value.path == "queue.durability"
        assert why in caught.value.message
        assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("policy", "seconds", "good"),
    [
        (b"everysec", 0.55, True),  # two flushes a second apart, as Redis 8 makes them
        (b"everysec", 0.001, False),  # .. and as Valkey says that it does
        (b"always", 0.001, True),
        (ResponseError("NOPERM"), 0.001, False),
        (ResponseError("NOPERM"), 0.55, True),
    ],
)
async def test_a_flush_that_comes_too_soon_is_not_believed(policy: Any, seconds: float, good: bool) -> None:
    class Answering:
        async def pinned(self, key: str, commands: Sequence[Command], wait_ms: int) -> list[Any]:
            assert [command[0] for command in commands][:2] == ["SET", "WAITAOF"]
            await asyncio.sleep(seconds)
            reported = [b"appendfsync", policy] if isinstance(policy, bytes) else policy
            return [b"OK", [1, 0], reported][: len(commands)]

    durable = Durable(Answering(), timeout=5.0)  # type: ignore[arg-type]  # this is all it asks of a link
    if good:
        assert seconds - EARLY <= await durable.probe("mark") < 5
    else:
        with pytest.raises(ConfigError, match="before it has"):
            await durable.probe("mark")


async def test_a_user_that_may_not_wait_gets_a_reason() -> None:
    async with opened() as (store, _):
        await store.link.call("ACL", "SETUSER", "default", "-waitaof")
        with pytest.raises(ConfigError, match="let this user run WAITAOF"):
            await store.pushes.require_durable(["shop"])


# --- the service ----------------------------------------------------------------------------------


def test_the_start_fails_where_the_promise_cannot_be_kept_and_check_says_why(
    tmp_path: Path, processes: Processes
) -> None:
    with open_site(tmp_path) as site, running_server("redis", options=ALWAYS) as server:
        environ = {**site.environ, "PUSHSVC__REDIS__URL": server.url, "PUSHSVC__QUEUE__DURABILITY": "fsync"}
        commands = (["serve"], ["serve", "-n", "2"], ["up"], ["check"])
        for command in [processes.start(*words, **environ) for words in commands]:
            assert command.wait() == 1, command.output()
            assert "queue.durability" in command.output()
            assert "it does not have WAITAOF" in command.output()
            assert "use Redis 7.2 or newer, or Valkey" in command.output()


def test_the_embedded_store_keeps_it(tmp_path: Path, processes: Processes) -> None:
    with open_site(tmp_path) as site:
        environ = {**site.environ, "PUSHSVC__QUEUE__DURABILITY": "fsync"}
        code, out, err = processes.run("check", **environ)
        assert code == 0, err
        assert "fsync: a flush takes" in out
        up = processes.start("up", **environ)
        up.until("pushsvc listens on")
        pushes = [site.api.push(apns("ok", number)) for number in range(5)]
        socket_path = tmp_path / "store" / "store.sock"
        assert b"always" in ask(socket_path, "CONFIG GET appendfsync")
        stats = ask(socket_path, "INFO commandstats")
        assert int(stats.partition(b"cmdstat_waitaof:calls=")[2].partition(b",")[0]) >= 5
        for push in pushes:
            assert site.api.until_done(push) == {"total": 1, "sent": 1}
        assert up.end() == 0


# --- a cluster ------------------------------------------------------------------------------------


async def test_in_a_cluster_it_waits_for_the_node_of_the_slot() -> None:
    def calls(node: Server) -> int:
        stats = ask(node.folder / "socket", "INFO commandstats")
        return int(stats.partition(b"cmdstat_waitaof:calls=")[2].partition(b",")[0] or 0)

    with (
        running_server("valkey", tcp=True, cluster=True, options=ALWAYS) as one,
        running_server("valkey", tcp=True, cluster=True, options=ALWAYS) as two,
    ):
        halve(one, two)
        url = f"redis+cluster://127.0.0.1:{one.port}"
        config = StoreConfig(consumer="a", fsync=True, shards=8)
        async with asyncio.timeout(60), open_store(url, config) as store:
            assert await store.pushes.require_durable(["shop"]) >= 0
            for node in (one, two):
                node.command("CONFIG", "RESETSTAT")
            pushes = [make_push(f"p{number}") for number in range(40)]
            await asyncio.gather(*(store.pushes.accept(push) for push in pushes))
            shards = {keys.shard_of(push.id, 8) for push in pushes}
            assert len(shards) == 8
            slots = {shard: key_slot(keys.mark("shop", shard).encode()) for shard in shards}
            there = [sum(slot < 8192 for slot in slots.values()), sum(slot >= 8192 for slot in slots.values())]
            assert min(there) > 0
            assert [calls(one) >= there[0], calls(two) >= there[1]] == [True, True]
            assert calls(one) + calls(two) <= 2 * FLIGHTS * 8

            # A slot that has moved: the barrier goes where the write goes.
            shard, slot = next((shard, slot) for shard, slot in slots.items() if slot < 8192)
            one.command("FLUSHALL")
            owner = two.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()
            for node in (two, one):
                assert node.command("CLUSTER", "SETSLOT", str(slot), "NODE", owner).startswith(b"+OK")
            for node in (one, two):
                node.command("CONFIG", "RESETSTAT")
            push = next(push for push in map(make_push, map(str, range(1000))) if keys.shard_of(push.id, 8) == shard)
            await store.pushes.accept(push)
            assert calls(two) >= 1
            assert two.command("EXISTS", keys.push("shop", shard, push.id)) == b":1\r\n"
