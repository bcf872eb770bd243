"""One record of a newer version, as after a rollback, stops nothing but a call for exactly that record.

`RECORDS` says of every kind of key how one is made that this version cannot read, or why there is none. The story keeps
one of each beside records that are well, and calls every reader.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from pushsvc.errors import Unreadable
from pushsvc.jobs.functions import Context, replay
from pushsvc.model.access import ApiKey
from pushsvc.model.codec import decode_chunk
from pushsvc.model.delivery import BadNotification, Ended, Retry, TokenDead, Unavailable
from pushsvc.model.devices import Audience, ByDevices, ByTopic, ByUsers, Device, ToAll
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.ports.receipts import EventPage
from pushsvc.ports.registry import Holding, Prune, PrunedFilter
from pushsvc.runtime.reload import Current
from pushsvc.settings.schema import Settings
from pushsvc.stages.cleanup import Ages, clean, sweeps
from pushsvc.store import Store, keys
from pushsvc.store.keyring.keyring import RedisKeyRing
from pushsvc.store.part import StoreContext

from .servers import KINDS, Server
from .test_store_channels import WRITTEN, due_at, push_of, retry_later, take_live
from .test_store_kit import ROUTE, all_of, eraser, make_push, moment, names_of_keys, take_all

NEWER = b"\x7fwritten by a newer pushsvc"
FAILED = Ended("failed", dead_letter=True)

RECORDS: dict[str, tuple[str, ...]] = {
    # how the story breaks one, or in brackets why nothing of the kind has a form that could be unknown: the keys
    "XADD": ("ps:T:q:<platform>:<lane>", "ps:T:dead", "ps:T:receipts", "ps:T:events", "ps:T:reported"),
    "ZADD": ("ps:T:retry:<platform>", "ps:T:r:<id>"),
    "LSET": ("ps:T:s:<id>", "ps:D:d:<n / 128>"),
    "HSET": (
        *("ps:T:p:<id>", "ps:T:v:<id>", "ps:T:t:<id>", "ps:T:replay:<job>", "ps:T:hook:dead", "ps:T:erase"),
        *("ps:cleanup", "ps:held", "ps:workers", "ps:keys"),
    ),
    "SET": ("ps:T:erased:<digest>",),
    "(numbers)": (
        *("ps:T:pending", "ps:T:urgent:<platform>", "ps:T:b:<id>", "ps:T:flow:<minute>", "ps:T:epoch", "ps:T:mark"),
        *("ps:T:normal:<platform>",),
        *("ps:T:answers:<platform>:<minute>", "ps:T:lim:<platform>:<family>:<kind>:<number>"),
        *("ps:{owner}:bucket:<name>", "ps:D:mark", "ps:D:count", "ps:D:i:<b>", "ps:D:k:<b>", "ps:D:u:<b>"),
        *("ps:D:t:<topic>", "ps:D:x:<platform>:<why>", "ps:D:x", "ps:D:displaced:<h>:<k>:<b>", "ps:D:moved"),
        *("ps:T:seen:<id>", "ps:bell", "ps:probe", "ps:keys:used", "ps:emptied", "ps:full"),
    ),
    "(ids, names and digests, with numbers)": (
        *("ps:T:scheduled", "ps:T:urgent", "ps:T:normal", "ps:T:expansions:<lane>", "ps:T:cancelled", "ps:T:recalled"),
        *(
            "ps:T:released",
            "ps:T:recent",
            "ps:T:heard",
            "ps:D:heard",
            "ps:T:gone",
            "ps:T:gone:reported",
            "ps:T:latest",
            "ps:T:latest:before",
        ),
        *("ps:T:w:<digest>", "ps:T:sup:<platform>", "ps:T:moved:<platform>", "ps:T:hook", "ps:T:hook:reported"),
        *("ps:T:hook:asked", "ps:D:topics", "ps:D:refused", "ps:D:live", "ps:replays", "ps:lock:<name>"),
        *("ps:alive:<consumer>", "ps:routes"),
    ),
    "(test_jobs_audiences.py has it)": ("ps:T:x:<id>",),
    "(notes for the operator)": ("ps:T:hook:calls",),
    "(ids and numbers; an unknown field is passed over)": ("ps:T:revoked", "ps:D:revoked"),
    "(what this very process was answered less than a minute ago)": ("ps:{owner}:asked:<who>",),
    "(the answer itself; another form is another call, and refused)": ("ps:T:i:<digest>",),
    "(bytes that nobody decodes)": ("ps:T:quarantine",),
    "(test_live_redis.py has it)": (
        *("ps:D:streams:<n / 32>", "ps:D:pushes:<hour>:<b>", "ps:D:gateways", "ps:{gateway}:inbox"),
    ),
    "(the bytes of the caller)": ("ps:T:live:<id>",),
    "(a key)": ("ps:hash_key",),
    "(a number; test_store_redis.py has a newer one)": ("ps:format",),
}


BACKENDS = KINDS


def test_every_kind_of_record_has_its_line() -> None:
    assert sorted(name for names in RECORDS.values() for name in names) == sorted(names_of_keys())


def phone(name: str, *, user: str = "ann", topics: tuple[str, ...] = ("news",)) -> Device:
    return Device(id=name, platform="apns", token=f"token of {name}", user=user, topics=topics, registered_at=moment())


async def _break_device(store: Store, name: str) -> None:
    block = keys.device_block("shop", 0)
    for place, document in enumerate(await store.link.call("LRANGE", block, 1, -1), 1):
        if name.encode() in document:
            await store.link.call("LSET", block, place, NEWER)


async def test_devices(store: Store) -> None:
    registry = store.registry
    names = ("well", "newer", "stone", "newer-stone")
    await registry.put_many("shop", [phone(name) for name in names])
    stones = [
        Prune(name, f"token of {name}", moment(), "Unregistered", moment() + 1) for name in ("newer-stone", "stone")
    ]
    assert await registry.prune("shop", stones) == [True, True]
    for name in ("newer", "newer-stone"):
        await _break_device(store, name)

    audiences: tuple[Audience, ...] = (
        ByDevices(("newer", "well")),
        ByUsers(("ann", "bert")),
        ByTopic("news"),
        ToAll(),
    )
    for audience in audiences:
        page = await registry.members("shop", audience, after="", limit=100)  # type: ignore[arg-type]  # no expression
        assert [each.id for each in page.devices] == ["well"], audience
        assert page.cursor is None
    assert [each.id for each in await registry.of_user("shop", "ann")] == ["well", "stone"]
    assert {each.id for each in (await registry.page("shop", after="", limit=100)).devices} == {"well", "stone"}
    held = [Holding(None, "apns", "token of newer"), Holding("newer", "apns", ""), Holding("well", "apns", "")]
    found = await registry.holders("shop", held)
    assert [each and each.id for each in found] == [None, None, "well"]

    for call in (
        registry.get("shop", "newer"),
        registry.put("shop", phone("newer")),
        registry.put("shop", msgspec.structs.replace(phone("other"), token="token of newer")),
        registry.remove("shop", "newer"),
        registry.subscribe("shop", "sport", "newer"),
        registry.unsubscribe("shop", "news", "newer"),
    ):
        with pytest.raises(Unreadable):
            await call
    with pytest.raises(Unreadable) as refused:
        await registry.put_many("shop", [phone("well"), phone("newer")])
    assert refused.value.device_ids == ("newer",)

    assert (await registry.put("shop", phone("well")))[1] is False
    assert (await registry.put("shop", phone("new")))[1] is True
    assert await registry.prune("shop", [Prune("newer", "token of newer", moment(), "Unregistered", moment() + 1)]) == [
        False
    ]
    assert await registry.restore("shop", PrunedFilter(), limit=100) == 1
    assert await registry.prune("shop", [Prune("stone", "token of stone", moment(), "Unregistered", moment() + 1)]) == [
        True
    ]
    assert await registry.remove("shop", "stone")
    plan = sweeps(registry, store.leftovers, store.live, ["shop"], Ages(), clock=lambda: moment(), dry_run=False)
    assert (await clean(plan, share=1.0)).removed == {}
    # A place in a form that nobody knows is no place.
    for name in ("shop devices", "shop indexes", "keys"):
        assert (await clean(plan, share=1.0, place=f"{name}\n{NEWER!r}")).place is None

    # An erasure that cannot be whole is not called done; what can be read goes.
    with pytest.raises(Unreadable):
        await eraser(store).erase("shop", "ann", wait=30.0)
    await eraser(store).work("shop", stopping=lambda: False)
    assert await registry.of_user("shop", "ann") == []
    assert await store.link.call("LRANGE", keys.device_block("shop", 0), 2, 2) == [NEWER]


async def test_everything_else(server: Server, store: Store) -> None:
    call = store.link.call
    receipts, events = keys.receipts("shop", 0), keys.events("shop", 0)

    # Rows, dead letters and receipts, of a small and of a large push.
    for name, total in (("small", 3), ("large", 40), ("other", 1)):
        await store.pushes.accept(make_push(name, total))
    await call("XADD", keys.lane("shop", 0, "apns", "normal"), "*", "c", NEWER, "n", 1)
    await call("ZADD", keys.retries("shop", 0, "apns"), moment() - 1, b"normal 1 " + NEWER)
    await store.pushes.accept(make_push("scheduled", 2, send_at=moment() - 1))
    await call("LSET", keys.waiting("shop", 0, "scheduled"), 3, NEWER)
    await store.pushes.accept(make_push("content", 40))
    await call("HSET", keys.content("shop", 0, "content"), "apns", NEWER)
    with capture_logs() as logs:
        await store.queue.promote(ROUTE, moment())
        await store.queue.launch("shop", moment())
        taken = await take_all(store)
    assert sorted(each.chunk.push_id for each in taken) == ["large", "other", "small"]
    assert [line["event"] for line in logs].count("entry_quarantined") == 4
    for each in taken:
        dead = TokenDead(status=410, reason="Unregistered")
        end = (Ended("invalid"), dead) if each.chunk.push_id == "other" else (FAILED, BadNotification())
        await store.queue.settle("shop", *all_of(each, *end))
    await call("HSET", keys.push("shop", 0, "small"), 1, NEWER)
    await call("ZADD", keys.rows("shop", 0, "large"), 7, b"7 " + NEWER)
    for name, rows in (("small", 2), ("large", 40)):
        page = await store.pushes.deliveries("shop", name, outcome=None, cursor="", limit=100)
        assert page is not None
        assert (len(page[0]), page[1]) == (rows, None)

    # Dead letters.
    await call("XADD", keys.dead("shop", 0), "*", "d", NEWER)
    rows_of, _ = await store.dead.page("shop", DeadFilter(), cursor="", limit=100)
    assert len(rows_of) == 43
    newer = await store.dead.request(ReplaySpec("shop"))
    await call("HSET", keys.replay("shop", 0, newer.job), "spec", NEWER)
    for answer in (store.dead.replay("shop", newer.job), store.dead.stop("shop", newer.job)):
        with pytest.raises(Unreadable):
            await answer
    own = await store.dead.request(ReplaySpec("shop"))
    context = Context(Current(Settings()), server.url)
    assert await replay(context, "shop", newer.job) == {}
    assert await replay(context, "shop", own.job) == {"moved": 43, "skipped": 0}
    assert await store.dead.unfinished(due=False) == []

    # Receipts and events: for pollers and for webhooks.
    await call("XADD", receipts, "*", "r", NEWER)
    event = FeedbackEvent(moment(), "apns", "token", "Unregistered", "suppressed")
    found = await store.receipts.take("shop", limit=10, wait_ms=0)
    assert [each.token for _, each in found] == ["other-0"]
    for _ in range(3):
        await call("XADD", events, "*", "e", NEWER)
    await store.receipts.record("shop", [(*found[0], event)])
    reported = (await store.receipts.events("shop", after="", limit=2)).events
    assert [each for _, each in reported] == [event]
    await call("XADD", events, "*", "e", NEWER)
    async with store.webhooks.claimed("shop", "place", lease=30) as claim:
        assert claim is not None
        batch = await claim.next(10)
        assert batch is not None
        assert [each for _, each in batch.events] == [event]
        assert await claim.give_up(batch, "http_400")
        await call("HSET", keys.hook_dead("shop", "feedback"), "newer", NEWER)
        (known,) = await store.webhooks.dead("shop")
        assert known.id == batch.id
        await call("ZADD", keys.hook_asked("shop", "feedback"), 0, "newer")
        assert await claim.next(10) is None
    assert await call("HEXISTS", keys.hook_dead("shop", "feedback"), "newer") == 1
    await call("XADD", keys.events("shop", 0, "event"), "*", "e", NEWER)
    async with store.event_webhooks.claimed("shop", "place", lease=30) as claim:
        assert claim is not None
        assert await claim.next(10) is None
    assert not await store.webhooks.due("shop", "place")
    assert (await store.webhooks.standing("shop", "place")).waiting_since is None

    # Keys, erasures, cleanups, processes.
    await store.keys.add(ApiKey("backend", "shop", "a" * 64, ()))
    await call("HSET", keys.KEYRING, "b" * 64, NEWER)
    assert [key.name for key in await store.keys.all()] == ["backend"]
    assert await store.keys.find("b" * 64) is None
    # A name is given once, however many ask for it at the same time; the same key again changes nothing.
    made = [ApiKey("ci", "shop", each * 64, ()) for each in "cdef"]
    added = await asyncio.gather(*map(store.keys.add, made))
    assert sorted(added) == [False, False, False, True]
    assert [await store.keys.add(key) for key in made] == list(added)
    assert await store.keys.add(ApiKey("ci", "news", "0" * 64, ()))
    assert [key.app for key in await store.keys.all() if key.name == "ci"] == ["news", "shop"]
    # The use of a key is noted once an hour at most, and forgotten with the key.
    for minutes, noted in ((0, 0), (59, 0), (61, 61)):
        ring = RedisKeyRing(StoreContext(store.link, store.config, b"", partial(int, moment() + minutes * 60_000)))
        await ring.note_use({"a" * 64})
        assert await ring.last_used(["a" * 64, "c" * 64]) == [moment() + noted * 60_000, None]
    assert await store.keys.revoke("backend", "shop")
    assert await store.keys.last_used(["a" * 64]) == [None]
    # A process that has seen it before may note it afterwards; one of the configuration is not in the store.
    await ring.note_use({"a" * 64, "1" * 64}, configured={"1" * 64})
    assert await ring.last_used(["a" * 64, "1" * 64]) == [None, moment() + 61 * 60_000]
    await store.registry.put("shop", phone("hers"))
    await call("HSET", keys.erase("shop"), "newer", NEWER, "pass", NEWER)
    await call("ZADD", keys.retries("shop", 0, "apns"), moment() * 2, b"\x7fnewer")
    assert (await eraser(store).erase("shop", "ann", wait=30.0)).done
    for key in await call("KEYS", keys.erased("shop", "*")):
        await call("SET", key, NEWER)
    assert (await eraser(store).erase("shop", "ann", wait=30.0)).devices == 0
    await call("HSET", keys.HELD, "gone shop/apns", NEWER)
    await call("HSET", keys.WORKERS, "dispatch newer", NEWER)
    assert await store.held() == {}
    assert await store.workers.living() == []

    # Everything was kept for the newer version.
    assert await call("ZRANGE", keys.retries("shop", 0, "apns"), 0, -1) == [b"\x7fnewer"]
    kept = [fields[b"b"] for _, fields in await call("XRANGE", keys.quarantine("shop", 0), "-", "+")]
    whole = [blob for blob in kept if blob != NEWER]  # the entry whose content it is
    assert [decode_chunk(blob).push_id for blob in whole] == ["content"]
    assert len(kept) == 10


async def test_recorded_turns(store: Store) -> None:
    """Their deliveries are not settled: the entry is set aside, and others of the push and of the batch go on."""
    call, lane = store.link.call, keys.lane("shop", 0, "apns", "normal")
    turns, quarantine = keys.prefix("shop", 0) + "t:large", keys.quarantine("shop", 0)
    await store.pushes.accept(make_push("large", 300))
    (first,) = await take_all(store)
    await store.queue.settle("shop", *all_of(first, Retry(moment(), 2), Unavailable()))
    assert await store.queue.promote(ROUTE, moment())
    (again,) = await take_all(store)
    await store.pushes.accept(make_push("other", 1))
    (other,) = await take_all(store)
    await call("HSET", turns, "#1", NEWER)

    assert await store.queue.outstanding("shop", [again.chunk]) == [list(range(300))]
    for end in ((Retry(moment(), 3), Unavailable()), (FAILED, BadNotification())):
        mine, refs = all_of(again, *end)
        mine = [msgspec.structs.replace(each, entry_id=again.ref.entry_id) for each in mine]
        its, more = all_of(other)
        took = await store.queue.settle("shop", [*mine, *its], [*refs, *more])
        assert {each.delivery.chunk.push_id for each in took} <= {"other"}
    status = await store.pushes.status("shop", "other")
    assert status is not None
    assert status.state == "done"
    assert await call("XLEN", lane) == 1
    with capture_logs() as logs:
        assert await take_all(store) == []
    assert [line["event"] for line in logs] == ["entry_quarantined"]
    ((_, kept),) = await call("XRANGE", quarantine, "-", "+")
    assert decode_chunk(kept[b"b"]).push_id == "large"
    assert await call("XLEN", lane) == 0
    assert await call("HGET", turns, "#1") == NEWER

    # A dead letter stays, and what waits for a device is set aside when it is due.
    await store.pushes.accept(make_push("dead", 40))
    (dead,) = await take_all(store)
    await store.queue.settle("shop", *all_of(dead, FAILED, BadNotification()))
    await call("HSET", keys.prefix("shop", 0) + "t:dead", "#0", NEWER)
    job = (await store.dead.request(ReplaySpec("shop"))).job
    step = await store.dead.step("shop", job, most=100)
    assert (step.moved, step.skipped) == (0, 40)
    await store.pushes.accept(push_of("waits", 40))
    (waits,) = await take_live(store)
    await store.queue.settle("shop", *all_of(waits, retry_later(), WRITTEN))
    await call("HSET", keys.prefix("shop", 0) + "t:waits", "#0", NEWER)
    assert await store.queue.promote(ROUTE, due_at()) == 0
    assert await call("ZCARD", keys.retries("shop", 0, "apns")) == 0
    *_, (_, kept) = await call("XRANGE", quarantine, "-", "+")
    assert (kept[b"from"], kept[b"why"]) == (
        keys.retries("shop", 0, "apns").encode(),
        b"unknown version of its turns",
    )
    assert b"waits" in kept[b"b"]


async def test_nothing_is_set_aside_by_an_id_that_another_server_gave(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """Another server becomes the primary behind the read: there, the id may be that of an entry which can be read."""
    receipts, events, lane = (
        keys.receipts("shop", 0),
        keys.events("shop", 0),
        keys.lane("shop", 0, "apns", "normal"),
    )
    for key, field in ((receipts, "r"), (events, "e"), (lane, "c")):
        await store.link.call("XADD", key, "*", field, NEWER)
    script, many, read = store.link.script, store.link.many, store.link.read

    async def fails_over(ask: Any, *words: Any, **options: Any) -> Any:
        answer = await ask(*words, **options)
        if words[0] in ("receipts", "take") or "XRANGE" in str(words[0]):
            store.link.history += 1
        return answer

    monkeypatch.setattr(store.link, "script", partial(fails_over, script))
    monkeypatch.setattr(store.link, "many", partial(fails_over, many))
    monkeypatch.setattr(store.link, "read", partial(fails_over, read))
    assert await store.receipts.take("shop", limit=10, wait_ms=0) == []
    assert await store.receipts._events("shop", "", 10) == (EventPage([]), True)
    assert await store.queue.take(ROUTE, "normal", targets=10, wait_ms=0) == []
    assert await store.link.call("XLEN", keys.quarantine("shop", 0)) == 0
    assert [await store.link.call("XLEN", key) for key in (receipts, events, lane)] == [1, 1, 1]


async def test_an_unreadable_record_is_logged_at_growing_intervals(store: Store) -> None:
    await store.link.call("HSET", keys.KEYRING, "b" * 64, NEWER)
    with capture_logs() as logs:
        for _ in range(20):
            await store.keys.all()
    assert len([line for line in logs if line["event"] == "record_unreadable"]) <= 1
    assert not any("newer pushsvc" in str(line.values()) for line in logs)
