"""A store of another format is brought forward, or refused before anything of it is changed, with what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.errors import StoreFormat
from pushsvc.model.delivery import Retry, Unavailable
from pushsvc.ports.work import Worker
from pushsvc.store import StoreConfig, keys, open_store
from pushsvc.store.form import form
from pushsvc.store.form.form import FORMAT, judge_format
from pushsvc.store.link.link import Link
from pushsvc.store.work.workers import RedisWorkers

from .ports import free_ports
from .processes import own_processes
from .servers import KINDS, Server, running_server
from .test_store_channels import WRITTEN, ack, due_at, indexes_of, push_of, retry_later, take_live
from .test_store_kit import ROUTE, all_of, counts, make_push, moment, new_store, take_all

CONFIG = """
[server]
port = {port}
[live]
port = {live_port}
[metrics]
port = 0
[apps.shop.live]
secret = "0123456789abcdef0123456789abcdef"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(KINDS[0]) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as running:
        yield running


def calls(server: Server, *commands: tuple[Any, ...]) -> list[Any]:
    async def story() -> list[Any]:
        link = Link(server.url, name="other", timeout=5.0)
        try:
            return [await link.call(*command) for command in commands]
        finally:
            await link.aclose()

    return asyncio.run(story())


async def opened(server: Server) -> None:
    async with open_store(server.url):
        pass


def test_a_store_is_marked_once_and_a_newer_one_is_refused_untouched(server: Server, tmp_path: Path) -> None:
    calls(server, ("FLUSHALL",))
    asyncio.run(opened(server))
    asyncio.run(opened(server))
    assert calls(server, ("GET", keys.FORMAT)) == [str(FORMAT).encode()]

    calls(server, ("FLUSHALL",), ("SET", keys.FORMAT, FORMAT + 1))
    with pytest.raises(StoreFormat, match="run the newer version that wrote it"):
        asyncio.run(opened(server))
    config = tmp_path / "pushsvc.toml"
    port = free_ports(2)
    config.write_text(CONFIG.format(port=port, live_port=port + 1))
    environ = {"PUSHSVC_CONFIG": str(config), "PUSHSVC__REDIS__URL": server.url}
    with own_processes(tmp_path) as processes:
        for words in (("up",), ("dispatch", "--processes", "2"), ("check",)):
            code, out, err = processes.run(*words, **environ)
            said = out + err
            assert code == 1, said
            assert f"the store has format {FORMAT + 1}, and this version of pushsvc reads format {FORMAT} alone" in said
            assert "or restore a backup from before the upgrade" in said
    assert calls(server, ("KEYS", "*")) == [[keys.FORMAT.encode()]]


@pytest.mark.parametrize(
    ("stored", "remedy"),
    [
        (str(FORMAT).encode(), None),
        (str(FORMAT + 1).encode(), "newer version"),
        (str(FORMAT - 1).encode(), "versions in between"),
        (b"v2", "Redis of pushsvc"),
        (b"\xff", "Redis of pushsvc"),
        (b"", "Redis of pushsvc"),
        (None, "Redis of pushsvc"),  # it was removed between two reads
    ],
)
def test_each_format_has_its_answer(stored: bytes | None, remedy: str | None) -> None:
    fault = judge_format(stored)
    assert (fault is None) == (remedy is None)
    assert fault is None or (remedy and remedy in fault.fix)


# --- format 1 -------------------------------------------------------------------------------------

TURNS = keys.prefix("shop", 0) + "t:"
RECENT = keys.recent("shop", 0)


async def write_as_format_1(link: Link) -> None:
    """Give each recorded turn a field of its own."""
    for name in await link.call("KEYS", f"{TURNS}*"):
        for field, blob in (await link.call("HGETALL", name)).items():
            if field.startswith(b"#"):
                first, records = int(field[1:]) * keys.TURNS, blob[1 + keys.TURNS :].split(b"\n")
                numbers = enumerate(blob[1 : 1 + keys.TURNS])
                flat = [part for at, number in numbers if number for part in (first + at, records[number - 1])]
                await link.many([("HDEL", name, field), ("HSET", name, *flat)])
    await link.call("SET", keys.FORMAT, 1)


async def test_deliveries_of_format_1_go_on_where_they_were(redis: Server) -> None:
    """One push waits for a retry, a lease of one is taken over in its second turn, and one waits for its devices."""
    async with new_store(redis, StoreConfig(consumer="old")) as old:
        totals = {"retries": 300, "held": 300, "small": 5, "waits": 40}
        for name in ("retries", "held", "small"):
            await old.pushes.accept(make_push(name, totals[name]))
        first = await take_all(old)
        for taken in first:
            due = moment() if taken.chunk.push_id == "held" else moment() + 1
            await old.queue.settle("shop", *all_of(taken, Retry(due, 2), Unavailable()))
        assert await old.queue.promote(ROUTE, moment()) == 300
        (held,) = await take_all(old)
        await old.pushes.accept(push_of("waits", totals["waits"]))
        (waits,) = await take_live(old)
        await old.queue.settle("shop", *all_of(waits, retry_later(), WRITTEN))
        await write_as_format_1(old.link)
        await old.link.call("DEL", keys.alive("old"))

        async with open_store(redis.url, StoreConfig(consumer="new")) as new:
            assert await new.link.call("GET", keys.FORMAT) == b"%d" % FORMAT
            (left,) = await new.queue.reclaim(ROUTE)
            assert (left.chunk.push_id, left.chunk.turn, indexes_of([left])) == ("held", 2, list(range(300)))
            for taken in first:  # an answer of the first turn comes late: it is not counted beside the retry
                assert await new.queue.settle("shop", all_of(taken)[0], []) == []
            assert await new.queue.arrived("shop", ack(waits.chunk, 0, 1)) == 2
            while await new.queue.promote(ROUTE, due_at()):
                pass
            found = await take_all(new)
            indexes = {taken.chunk.push_id: indexes_of([taken]) for taken in found}
            assert indexes == {"retries": list(range(300)), "small": list(range(5)), "waits": list(range(2, 40))}
            for taken in (left, *found):
                took = await new.queue.settle("shop", *all_of(taken))
                assert len(took) == len(taken.chunk.targets)
            for name, total in totals.items():
                status = await new.pushes.status("shop", name)
                assert counts(status) == {"sent": total}
                assert status is not None
                assert status.state == "done"
        assert held.ref.entry_id == left.ref.entry_id


async def test_a_store_of_format_1_is_brought_forward_by_all_who_open_it_once_nobody_uses_it(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "_FIELDS", 100)
    topic = keys.topic("shop", "news")
    many = {str(index).encode(): b"2" for index in range(keys.FEW + 1, 1500)}
    small = {b"0": b"2", b"31": b"3 apns:normal w"}
    async with new_store(redis, StoreConfig(consumer="old")) as store:
        call = store.link.call

        async def write(format_: int | None) -> None:
            await call("FLUSHALL")
            for name, status in (("many", ("n", 1500)), ("few", ("n", keys.FEW)), ("audience", ("n", 2, "x", 1))):
                await call("HSET", keys.push("shop", 0, name), *status)
            await call("HSET", f"{TURNS}many", *(part for pair in many.items() for part in pair), "@live 5", "1")
            for key in (f"{TURNS}few", f"{TURNS}audience", f"{TURNS}gone", topic):
                await call("HSET", key, *(part for pair in small.items() for part in pair))
            await call("XADD", RECENT, "*", "p", "")
            await call("PEXPIRE", RECENT, 60_000)
            if format_ is not None:
                await call("SET", keys.FORMAT, format_)

        async def fields(key: str) -> dict[bytes, bytes]:
            found: dict[bytes, bytes] = await call("HGETALL", key)
            return found

        async def require_forward() -> None:
            assert await call("GET", keys.FORMAT) == b"%d" % FORMAT
            assert await fields(f"{TURNS}few") == await fields(topic) == small
            numbers = bytes((1, *bytes(30), 2, *bytes(96)))
            assert sorted((await fields(f"{TURNS}audience")).values()) in (
                [b"\x01" + numbers + b"2\n3 apns:normal w\n"],
                [b"\x01" + numbers.translate(bytes((0, 2, 1)) + bytes(253)) + b"3 apns:normal w\n2\n"],
            )
            assert await call("PTTL", RECENT) == -1  # each entry has a lifetime
            found = await fields(f"{TURNS}many")
            assert found.pop(b"@live 5") == b"1"
            assert set(found) == {b"#%d" % number for number in range(12)}
            assert sum(blob[1 : 1 + keys.TURNS].count(1) for blob in found.values()) == len(many)

        await write(1)
        await store.workers.report("dispatch", ["shop/apns"])
        with pytest.raises(StoreFormat, match="stop every part of the older version first"):
            await opened(redis)
        assert await call("GET", keys.FORMAT) == b"1"
        assert (await fields(f"{TURNS}many")).items() >= many.items()
        await store.workers.leave("dispatch")
        await asyncio.gather(*(opened(redis) for _ in range(5)))
        await require_forward()

        await write(None)  # from before there was a number
        await store.workers.report("dispatch", ["shop/apns"])
        await opened(redis)
        await require_forward()


async def test_what_others_do_with_the_format_meanwhile_is_seen(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_store(redis, StoreConfig(consumer="old")) as store:

        async def living(_: object) -> list[Worker]:
            await store.link.call("SET", keys.FORMAT, FORMAT)
            return [Worker("dispatch", "new", frozenset())]

        async def bring_forward(link: Link) -> None:
            await link.call("SET", keys.FORMAT, FORMAT + 1)

        await store.link.call("SET", keys.FORMAT, 1)
        with monkeypatch.context() as patch:
            patch.setattr(RedisWorkers, "living", living)
            await opened(redis)
        monkeypatch.setattr(form, "_bring_forward", bring_forward)
        for before in (("SET", keys.FORMAT, 1), ("DEL", keys.FORMAT)):
            await store.link.call(*before)
            with pytest.raises(StoreFormat, match="run the newer version"):
                await opened(redis)
            assert await store.link.call("GET", keys.FORMAT) == b"%d" % (FORMAT + 1)
