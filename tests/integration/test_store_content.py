"""The content of a large push stands once beside it, for as long as anything waits for it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pushsvc.model.codec import encode_audience
from pushsvc.model.delivery import BadNotification, Ended, Retry, Unavailable
from pushsvc.model.devices import ToAll
from pushsvc.model.push import Message, Push, Target
from pushsvc.store import Store, StoreConfig, keys, open_store
from pushsvc.store.queue import contents

from .servers import KINDS, Server
from .test_store_kit import ROUTE, all_of, make_push, moment, new_store, settlement, take, take_all
from .test_store_replay import replay

FAILED, BAD = Ended("failed", dead_letter=True), BadNotification(status=400)
HOUR = 3_600_000
TEXT = Message("apns", b'{"aps":{"alert":"' + b"x" * 2000 + b'"}}', {"apns-priority": "10"})


BACKENDS = KINDS


def large(push_id: str = "p", targets: int = 100, **more: Any) -> Push:
    return msgspec.structs.replace(make_push(push_id, targets, **more), messages={"apns": TEXT})


async def content(store: Store, push_id: str = "p") -> tuple[int, int]:
    """How many fields its content has, and how long it lives, in ms; negative where it does not."""
    key = keys.content("shop", 0, push_id)
    return await store.link.call("HLEN", key), await store.link.call("PTTL", key)


async def test_entries_retries_and_what_is_scheduled_name_it(store: Store) -> None:
    await store.pushes.accept(large())
    await store.pushes.accept(large("later", send_at=moment() - 1))
    await store.pushes.accept(large("small", 32))
    fields, life = await content(store)
    assert fields == 1
    assert HOUR < life <= HOUR + contents.GRACE
    assert (await content(store, "small"))[0] == 0
    assert await store.queue.launch("shop", moment()) == 1
    found = await take_all(store)
    assert [each.chunk.message for each in found if each.chunk.push_id != "small"] == [TEXT, TEXT]
    (own,) = [each for each in found if each.chunk.push_id == "p"]
    ends = [settlement(own.chunk, n, Retry(moment() + 100 * n, 2), Unavailable()) for n in range(100)]
    await store.queue.settle("shop", ends, [own.ref])
    retries = await store.link.call("ZRANGE", keys.retries("shop", 0, "apns"), 0, -1)
    assert (len(retries), max(map(len, retries)) < 150) == (100, True)
    assert await store.queue.promote(ROUTE, moment() + 10_000) == 100
    again = await take_all(store)
    assert all(each.chunk.message == TEXT and each.chunk.attempt == 2 for each in again)


async def test_it_goes_with_the_last_delivery(store: Store) -> None:
    await store.pushes.accept(large())
    (taken,) = await take(store)
    ends, refs = all_of(taken)
    await store.queue.settle("shop", ends[:-1], [])
    assert (await content(store))[0] == 1
    await store.queue.settle("shop", ends[-1:], refs)
    assert (await content(store))[0] == 0
    for push_id, send_at in (("scheduled", moment() + HOUR), ("cancelled", None)):
        await store.pushes.accept(large(push_id, send_at=send_at))
        await store.pushes.cancel("shop", push_id)
    assert ((await content(store, "scheduled"))[0], (await content(store, "cancelled"))[0]) == (0, 1)
    (taken,) = await take(store)
    assert set(taken.skip.values()) == {"cancelled"}
    await store.queue.settle("shop", *all_of(taken))
    assert (await content(store, "cancelled"))[0] == 0


async def test_dead_letters_keep_it_and_their_replay_uses_it_up(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", dead_ttl=10 * 3600)) as store:
        await store.pushes.accept(large())
        (taken,) = await take(store)
        ends = [settlement(taken.chunk, n, *((FAILED, BAD) if n < 3 else ())) for n in range(100)]
        await store.queue.settle("shop", ends, [taken.ref])
        fields, life = await content(store)
        assert (fields, 9 * HOUR < life <= 10 * HOUR + contents.GRACE) == (2, True)
        assert await replay(store) == (3, 0)
        again = await take_all(store)
        assert all(each.chunk.message == TEXT for each in again)
        assert (await content(store))[1] > HOUR
        for each in again:
            await store.queue.settle("shop", *all_of(each))
        assert (await content(store))[0] == 0


async def test_a_replay_leaves_letters_whose_content_is_gone(store: Store) -> None:
    await store.pushes.accept(large())
    (taken,) = await take(store)
    await store.queue.settle("shop", *all_of(taken, FAILED, BAD))
    await store.link.call("DEL", keys.content("shop", 0, "p"))
    assert await replay(store) == (0, 100)


async def test_the_end_of_a_status_does_not_touch_it(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", status_ttl=1)) as store:
        await store.pushes.accept(large())
        await store.link.call("DEL", keys.push("shop", 0, "p"))
        (taken,) = await take(store)
        assert taken.chunk.message == TEXT
        ends = [settlement(taken.chunk, n, Retry(moment(), 2), Unavailable()) for n in range(100)]
        await store.queue.settle("shop", ends, [taken.ref])
        await store.queue.promote(ROUTE, moment())
        (taken,) = await take(store)
        assert taken.chunk.message == TEXT


async def test_an_entry_whose_content_was_lost_is_set_aside_unless_it_is_over(server: Server, store: Store) -> None:
    quarantine = keys.quarantine("shop", 0)
    for push_id in ("lost", "settled", "expired"):
        created_at = moment() - 2 * HOUR if push_id == "expired" else moment()
        await store.pushes.accept(large(push_id, created_at=created_at))
    (settled,) = [each for each in await take_all(store) if each.chunk.push_id == "settled"]
    await store.queue.settle("shop", *all_of(settled))
    for push_id in ("lost", "settled", "expired"):
        await store.link.call("DEL", keys.content("shop", 0, push_id))
    async with open_store(server.url, StoreConfig(consumer="a")) as other:
        (taken,) = await take_all(other)
        assert (taken.chunk.push_id, set(taken.skip.values()), set(taken.why.values())) == (
            "expired",
            {"expired"},
            {"ttl"},
        )
        assert len(await other.queue.settle("shop", *all_of(taken))) == 100
    assert await store.link.call("XLEN", quarantine) == 1
    status = await store.pushes.status("shop", "lost")
    assert status is not None
    assert status.counts.queued == 100


async def test_one_process_reads_it_once(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    asked: list[Any] = []
    many = store.link.many

    async def counting(commands: Any, **more: Any) -> Any:
        asked.extend(command for command in commands if command[0] == "HGET" and ":v:" in command[1])
        return await many(commands, **more)

    monkeypatch.setattr(store.link, "many", counting)
    await store.pushes.accept(large(targets=2000))
    while taken := await take(store, targets=500):
        assert all(each.chunk.message == TEXT for each in taken)
    assert len(asked) == 1
    # It keeps a few, whatever comes.
    monkeypatch.setattr(contents, "MOST", 3)
    for number in range(10):
        await store.pushes.accept(large(str(number), 40))
    assert all(each.chunk.message == TEXT for each in await take_all(store))
    assert len(asked) == 11
    assert len(store.queue._opener._contents._kept) == 3


async def test_that_of_an_audience_stands_beside_its_expansion(store: Store) -> None:
    push = msgspec.structs.replace(large(), targets={}, audience=encode_audience(ToAll()))
    await store.pushes.accept(push)
    record = await store.link.call("HGETALL", keys.expansion("shop", 0, "p"))
    assert not any(TEXT.body in value for value in record.values())
    at = await store.expansions.load("shop", "p")
    assert at is not None
    at = await store.expansions.advance(at, {"apns": [Target(0, "t-0")]}, cursor="x", lease=1)
    (taken,) = await take(store)
    assert taken.chunk.message == TEXT
    await store.queue.settle("shop", *all_of(taken))
    assert (await content(store))[0] == 1
    assert at is not None
    await store.expansions.advance(at, {}, cursor=None, lease=1)
    assert (await content(store))[0] == 0
