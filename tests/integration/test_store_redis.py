"""What only real servers show: faults, lost answers, strange entries, lifetimes, shards and slots."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pushsvc.errors import StoreUnavailable
from pushsvc.model.access import ApiKey
from pushsvc.model.codec import decode_chunk, decode_entry, encode_audience, encode_chunk, encode_event
from pushsvc.model.delivery import BadNotification, Ended, Retry, TokenDead, Unavailable
from pushsvc.model.devices import ByUsers, Device, ToAll
from pushsvc.model.push import LANES, Message, Route, Target
from pushsvc.model.rates import Rate
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.entries import Taken
from pushsvc.ports.expansion import Waiting
from pushsvc.ports.figures import FlowNote
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.ports.limits import Bucket, Question
from pushsvc.ports.live import EventReport, LiveContent, LivePush, LiveRoute, Receiver
from pushsvc.ports.receipts import EventPage
from pushsvc.ports.registry import Prune
from pushsvc.ports.webhooks import WebhookCallNote
from pushsvc.rules.bound import Bound
from pushsvc.runtime.providers import addresses
from pushsvc.store import Store, StoreConfig, keys, layout, open_store
from pushsvc.store.feedback import log
from pushsvc.store.link.link import Link
from pushsvc.store.link.replicas import ReplicatedLink
from pushsvc.store.queue.letter import decode_dead
from pushsvc.store.queue.settling import SHORT_MS

from .servers import KINDS, Server, running_server
from .test_store_kit import (
    ROUTE,
    accept_together,
    all_of,
    entries_of,
    eraser,
    make_push,
    moment,
    new_store,
    settlement,
    take,
    take_all,
)

FAILED = Ended("failed", dead_letter=True)
INVALID = Ended("invalid")
DEAD = TokenDead(status=410, reason="Unregistered")
Story = Callable[[Store], Awaitable[None]]


BACKENDS = KINDS


Call = Callable[[Link], Awaitable[Any]]


@pytest.mark.parametrize(
    "call",
    [
        lambda link: link.call("PING"),
        lambda link: link.script("lifetimes", [], []),
        lambda link: link.many([("PING",), ("PING",)]),
        lambda link: link.wait([("PING",)], 1000),
    ],
    ids=["call", "script", "many", "wait"],
)
async def test_a_cancellation_ends_a_call_wherever_it_stands(server: Server, call: Call) -> None:
    """redis-py swallows one while it connects: a worker that is asked to end would retry forever."""

    async def cancelled_after(turns: int) -> bool:
        """Whether the call had been answered by then; else it must have ended by the cancellation."""
        link = Link(server.url, name="cancelled", timeout=5.0)
        answered = asyncio.Event()

        async def ask() -> None:
            await call(link)
            answered.set()

        asking = asyncio.create_task(ask())
        for _ in range(turns):
            await asyncio.sleep(0)
        done = answered.is_set()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert done or asking.cancelled(), turns
        await link.aclose()
        return done

    turns = 0
    while not await cancelled_after(turns):
        turns += 1
    assert turns > 5


# --- strange entries ------------------------------------------------------------------------------


async def test_entries_that_cannot_be_decoded_are_put_aside(store: Store) -> None:
    lane = keys.lane("shop", 0, "apns", "normal")
    secret = b"\x02token-of-a-newer-version"
    await store.link.call("XADD", lane, "*", "c", secret, "n", 1)
    await store.link.call("XADD", lane, "*", "something", "else")
    await store.link.call("XADD", lane, "*", "c", b"\x01\xc1")
    await store.pushes.accept(make_push("p"))
    with capture_logs() as logs:
        taken = await take_all(store)
    assert [each.chunk.push_id for each in taken] == ["p"]
    assert [line["log_level"] for line in logs] == ["error"] * 3
    assert "token" not in str(logs)
    kept = await store.link.call("XRANGE", keys.quarantine("shop", 0), "-", "+")
    assert [fields[b"b"] for _, fields in kept] == [secret, b"else", b"\x01\xc1"]
    assert {fields[b"from"] for _, fields in kept} == {lane.encode()}
    await store.queue.settle("shop", *all_of(taken[0]))
    figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
    assert (figures.quarantined, await entries_of(store)) == (3, 0)


@pytest.mark.parametrize("way", ["read", "waited for", "taken over", "expired"])
async def test_of_pushes_that_share_an_entry_only_those_that_cannot_be_decoded_are_put_aside(
    way: str, store: Store
) -> None:
    call, lane = store.link.call, keys.lane("shop", 0, "apns", "normal")
    await accept_together(store, *(make_push(f"p{number}") for number in range(layout.TOGETHER)))
    ((name, fields),) = await call("XRANGE", lane, "-", "+")
    blobs = [encode_chunk(chunk) for chunk in decode_entry(fields[b"c"])[0]]
    newer, torn = b"\x7f" + blobs[3][1:], blobs[7][:-9] + b"\xc1" * 9
    await call("XDEL", lane, name)
    entry = fields[b"c"].replace(blobs[3], newer).replace(blobs[7], torn)
    await call("XADD", lane, "*", "c", entry, "n", len(blobs))
    await call("XGROUP", "CREATE", lane, keys.DISPATCH, 0)
    if way == "taken over":
        await call("XREADGROUP", "GROUP", keys.DISPATCH, "gone", "STREAMS", lane, ">")
    ways: dict[str, Callable[[], Awaitable[list[Taken]]]] = {
        "read": lambda: take(store),
        "waited for": lambda: take(store, wait_ms=100),
        "taken over": lambda: store.queue.reclaim(ROUTE),
        "expired": lambda: store.queue.lapsed(ROUTE, "normal", moment() + 3_600_000),
    }
    with capture_logs() as logs:
        found = [*await ways[way](), *await take(store)]
    assert [each.chunk.push_id for each in found] == [f"p{n}" for n in range(layout.TOGETHER) if n not in (3, 7)]
    assert [line["event"] for line in logs] == ["entry_quarantined"]
    ((_, kept),) = await call("XRANGE", keys.quarantine("shop", 0), "-", "+")
    assert [each.blob for each in decode_entry(kept[b"b"])[1]] == [newer, torn]  # an entry again for who can read it
    for each in found:
        await store.queue.settle("shop", *all_of(each))
    assert await entries_of(store) == 0


async def test_receipts_and_retries_that_cannot_be_decoded_are_put_aside(store: Store) -> None:
    await store.link.call("XADD", keys.receipts("shop", 0), "*", "r", b"\x02new")
    await store.link.call("ZADD", keys.retries("shop", 0, "apns"), 1, "gibberish")
    assert await store.receipts.take("shop", limit=5, wait_ms=0) == []
    assert await store.queue.promote(ROUTE, moment()) == 0
    figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
    assert (figures.quarantined, figures.receipts) == (2, 0)


async def test_a_pending_entry_that_was_deleted_is_forgotten(server: Server, store: Store) -> None:
    for push_id in ("p", "q"):
        await store.pushes.accept(make_push(push_id))
    await take_all(store)
    lane = keys.lane("shop", 0, "apns", "normal")
    (entry_id, _), *_ = await store.link.call("XRANGE", lane, "-", "+")
    await store.link.call("XDEL", lane, entry_id)
    async with open_store(server.url, StoreConfig(consumer="a")) as again:
        with capture_logs() as logs:
            assert [taken.chunk.push_id for taken in await take(again)] == ["q"]
        assert logs == []
        assert (await store.link.call("XPENDING", lane, "dispatch"))["pending"] == 1


# --- faults ---------------------------------------------------------------------------------------


def _lose_answers(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script run, once, and lose its answer on the way back."""
    run = store.link._run
    lost = False

    async def losing(client: Any, which: str, *args: Any) -> Any:
        nonlocal lost
        answer = await run(client, which, *args)
        if which == name and not lost:
            lost = True
            raise StoreUnavailable("the answer was lost")
        return answer

    monkeypatch.setattr(store.link, "_run", losing)


async def test_entries_whose_read_was_lost_come_again(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    for push_id in ("p", "q"):
        await store.pushes.accept(make_push(push_id))
    held = await take(store, targets=1)
    _lose_answers(store, "take", monkeypatch)
    with pytest.raises(StoreUnavailable):
        await take(store)
    (again,) = await take(store)
    assert {held[0].chunk.push_id, again.chunk.push_id} == {"p", "q"}
    assert await take(store) == []


async def test_entries_whose_take_over_was_lost_come_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    async with open_store(server.url, StoreConfig(consumer="gone")) as gone:
        await gone.pushes.accept(make_push("p", 2))
        (taken,) = await take(gone)
        await gone.queue.settle("shop", [settlement(taken.chunk, 0)], [])
    _lose_answers(store, "reclaim", monkeypatch)
    with pytest.raises(StoreUnavailable):
        await store.queue.reclaim(ROUTE)
    (again,) = await take(store)
    assert [target.index for target in again.chunk.targets] == [1]


async def test_a_wait_that_is_cancelled_loses_nothing(store: Store) -> None:
    got: list[str] = []
    for number in range(30):
        waiting = asyncio.create_task(take(store, wait_ms=20_000))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        writing = asyncio.create_task(store.pushes.accept(make_push(f"p{number}")))
        for _ in range(number % 11):
            await asyncio.sleep(0)
        waiting.cancel()
        await writing
        found = await asyncio.gather(waiting, return_exceptions=True)
        if not isinstance(found[0], BaseException):
            got += [taken.chunk.push_id for taken in found[0]]
    deadline = asyncio.get_running_loop().time() + 20
    while len(got) < 30:
        got += [taken.chunk.push_id for taken in await take(store, wait_ms=10)]
        assert asyncio.get_running_loop().time() < deadline
    assert sorted(got) == sorted(f"p{number}" for number in range(30))


async def test_settling_whose_answer_was_lost_counts_once(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    await store.pushes.accept(make_push("p", 3))
    (taken,) = await take(store)
    _lose_answers(store, "settle", monkeypatch)
    ends = [settlement(taken.chunk, index, INVALID, DEAD) for index in range(3)]
    with pytest.raises(StoreUnavailable):
        await store.queue.settle("shop", ends, [taken.ref])
    assert len(await store.queue.settle("shop", ends, [taken.ref])) == 0
    assert len(await store.receipts.take("shop", limit=10, wait_ms=0)) == 3
    figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
    assert (figures.total_pending, await entries_of(store)) == (0, 0)


async def test_connections_that_break_are_replaced(server: Server, store: Store) -> None:
    await asyncio.gather(*(store.pushes.status("shop", "p") for _ in range(20)))
    server.command("CLIENT KILL TYPE normal SKIPME yes")
    await asyncio.gather(*(store.pushes.accept(make_push(f"p{number}")) for number in range(20)))
    assert len(await take_all(store)) == 20


async def test_a_wait_may_be_longer_than_the_time_limit_of_a_round_trip(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", timeout=0.3)) as store:
        assert await take(store, wait_ms=700) == []


async def test_a_server_that_is_gone_and_comes_back() -> None:
    async def story(store: Store, first: Server, stack: ExitStack) -> None:
        await store.pushes.accept(make_push("p"))
        first.kill()
        with pytest.raises(StoreUnavailable):
            await store.pushes.accept(make_push("q"))
        for attempt in (
            store.pushes.status("shop", "p"),
            store.pushes.cancel("shop", "p"),
            store.pushes.ping(),
            take(store, wait_ms=50),
            store.queue.promote(ROUTE, moment()),
            store.queue.launch("shop", moment()),
            store.queue.reclaim(ROUTE),
            store.queue.beat(),
            store.receipts.take("shop", limit=5, wait_ms=50),
            store.keys.all(),
            store.gauges({"shop": ("apns",)}),
        ):
            with pytest.raises(StoreUnavailable, match="Redis is not available"):
                await attempt
        stack.enter_context(running_server("valkey", folder=first.folder))
        await store.pushes.accept(make_push("r"))
        assert [taken.chunk.push_id for taken in await take(store)] == ["r"]

    with TemporaryDirectory(prefix="ps-") as folder, ExitStack() as stack:
        first = stack.enter_context(running_server("valkey", folder=Path(folder)))
        async with open_store(first.url, StoreConfig(consumer="a")) as store:
            await story(store, first, stack)


@pytest.mark.parametrize("cluster", [False, True])
async def test_a_lane_that_nothing_was_ever_read_from_counts_as_no_error(cluster: bool) -> None:
    before = REGISTRY.get_sample_value("pushsvc_redis_errors_total")
    with running_server("valkey", tcp=True, cluster=cluster) as server:
        url = f"redis{'+cluster' * cluster}://127.0.0.1:{server.port}"
        async with open_store(url, StoreConfig(consumer="a")) as store:
            for lane in LANES:
                assert await take(store, lane) == []
    assert REGISTRY.get_sample_value("pushsvc_redis_errors_total") == before


async def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        async with open_store(f"unix://{tmp_path}/nothing"):
            raise AssertionError("there is nothing to open")


async def _look_at_everything(server: Server) -> None:
    """What only reads needs no memory: an operator looks at a full Redis by the same calls."""
    async with open_store(server.url) as store:
        assert await store.pushes.status("shop", "before") is not None
        await store.pushes.deliveries("shop", "before", outcome=None, cursor="", limit=10)
        assert (await store.gauges({"shop": ("apns",)})).apps["shop"].dead_letters == 0
        assert (await store.dead.page("shop", DeadFilter(), cursor="", limit=10))[0] == []
        assert await store.held() == {}
        assert await store.keys.all() == []
        assert await store.registry.get("shop", "nobody") is None
        assert await store.registry.of_user("shop", "nobody") == []
        await store.receipts.events("shop", after="", limit=10)
        await store.cleanups.record()


@pytest.mark.parametrize(
    ("refuse", "remedy"),
    [
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("ACL SETUSER default -evalsha", "ACL SETUSER default +evalsha"),
        ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd"),
        ("ACL SETUSER default -hset", "ACL SETUSER default +hset"),
    ],
)
async def test_what_refuses_a_push_refuses_readiness(server: Server, refuse: str, remedy: str, store: Store) -> None:
    await store.pushes.ping()
    server.command(*refuse.split())
    try:
        with pytest.raises(StoreUnavailable):
            await store.pushes.accept(make_push("p"))
        await store.pushes.ping()  # valid for a second for every caller
        store.pushes._probed_at -= 1.0
        with pytest.raises(StoreUnavailable):
            await store.pushes.ping()
    finally:
        server.command(*remedy.split())


async def test_a_full_memory_refuses_a_push_whole(server: Server, store: Store) -> None:
    await store.pushes.accept(make_push("before"))
    await store.link.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable):
            await store.pushes.accept(make_push("p", 2000))
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.pushes.ping()
        await _look_at_everything(server)
    finally:
        await store.link.call("CONFIG", "SET", "maxmemory", "0")
    assert await store.pushes.status("shop", "p") is None
    assert [taken.chunk.push_id for taken in await take_all(store)] == ["before"]


# --- cost -----------------------------------------------------------------------------------------


async def _calls(store: Store, command: str) -> int:
    stats = await store.link.call("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_concurrent_accepts_share_round_trips(store: Store) -> None:
    await store.pushes.accept(make_push("warm"))
    await store.link.call("CONFIG", "RESETSTAT")
    plain = [store.pushes.accept(make_push(f"p{number}")) for number in range(250)]
    once = [store.pushes.accept_once([make_push(f"q{n}")], key=b"%d" % n, record=b"r") for n in range(250)]
    await asyncio.gather(*plain, *once)
    assert await _calls(store, "evalsha") <= 2


async def test_a_push_that_cannot_be_encoded_fails_alone(store: Store) -> None:
    """Of those that are written together the others are accepted, and none waits for what was never written."""
    half = msgspec.structs.replace(make_push("half"), targets={"apns": (Target(0, "\ud800"),)})
    pushes = [make_push("p"), half, make_push("q"), make_push("r", 2)]
    ends = await asyncio.gather(*(store.pushes.accept(push) for push in pushes), return_exceptions=True)
    assert [end if end is None else type(end) for end in ends] == [None, UnicodeEncodeError, None, None]
    assert store.pushes.pending == store.pushes.pending_of("shop") == 4
    assert sorted(taken.chunk.push_id for taken in await take_all(store)) == ["p", "q", "r"]
    assert store.pushes.pending == await store.pushes.recount(["shop"])


async def test_a_trickle_is_waited_for_without_a_look_before_each_wait(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait returns at once where something is there, so a look goes before it only where the wait before it left
    something."""
    looks: list[str] = []
    read = Link.read

    async def counted(link: Link, name: str, *args: Any) -> Any:
        looks.append(name)
        return await read(link, name, *args)

    monkeypatch.setattr(Link, "read", counted)
    async with new_store(server) as store:

        async def comes(push_id: str, *, count: int = 1) -> int:
            """Accept this number of pushes during a wait, each with an entry, and take them. Returns the number of
            reads."""
            looks.clear()
            waiting = asyncio.create_task(take(store, wait_ms=20_000))
            while not (await store.link.call("INFO", "clients"))["blocked_clients"]:
                await asyncio.sleep(0.001)
            await asyncio.gather(*(store.pushes.accept(make_push(f"{push_id}-{n}", 2)) for n in range(count)))
            got = len(await waiting)
            while got < count:
                got += len(await take(store, wait_ms=20_000))
            assert got == count
            return looks.count("take")

        assert await comes("first") == 1
        assert [await comes(f"trickle-{number}") for number in range(3)] == [0, 0, 0]
        assert await take(store, wait_ms=1) == []
        assert await comes("after-a-pause") == 0
        assert await comes("flood", count=300) > 0


async def test_the_suppression_list_is_asked_only_when_there_is_one(server: Server) -> None:

    server.command("CONFIG RESETSTAT")
    async with new_store(server) as store:
        await store.pushes.accept(make_push("p", 3))
        (taken,) = await take(store)
        assert await _calls(store, "zmscore") == 0
        assert await _calls(store, "zrange") == 0
        ends = [settlement(taken.chunk, index, INVALID, DEAD) for index in range(3)]
        await store.queue.settle("shop", ends, [taken.ref])
        await _suppress_all(store)
        await store.pushes.accept(msgspec.structs.replace(make_push("p", 3), id="q"))
        (marked,) = await take(store)
        assert len(marked.skip) == 3
        assert await _calls(store, "zmscore") == 1


async def _mixed(store: Store) -> None:
    """Pushes with a record and pushes without, at once: the second group of each shard has both."""
    plain = [store.pushes.accept(make_push(f"p{number}")) for number in range(40)]
    keyed = []
    for number in range(40):
        key = f"{number:016}".encode()
        own = next(name for name in (f"k{number}-{n}" for n in range(1000)) if store.pushes.beside("shop", name, key))
        keyed.append(store.pushes.accept_once([make_push(own)], key=key, record=b"r"))
    assert await asyncio.gather(*plain[:1], *keyed, *plain[1:]) == [None] * 80
    assert len(await take_all(store)) == 80 == store.pushes.pending


async def test_pushes_with_and_without_a_record_share_round_trips(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", shards=3)) as store:
        await _mixed(store)
        await store.link.call("SCRIPT", "FLUSH")
        await store.link.call("FLUSHALL")
        await store.link.call("CONFIG", "RESETSTAT")
        await _mixed(store)
        assert await _calls(store, "get") < 500


async def test_they_do_so_in_a_cluster_too() -> None:
    with running_server("valkey", tcp=True, cluster=True) as server:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with asyncio.timeout(60), open_store(url, StoreConfig(consumer="a", shards=3)) as store:
            await _mixed(store)


async def _suppress_all(store: Store) -> int:
    found = await store.receipts.take("shop", limit=1000, wait_ms=0)
    events = [FeedbackEvent(each.at, each.platform, each.token, each.reason, "suppressed") for _, each in found]
    await store.receipts.record("shop", [(*each, event) for each, event in zip(found, events, strict=True)])
    return len(found)


# --- lifetimes ------------------------------------------------------------------------------------


def _documented() -> list[tuple[re.Pattern[str], str, bool | None]]:
    """The table of keys.py: name, type, and whether the key itself runs out; None: once what it is about is done."""
    rows = re.findall(r"^\| (`ps:[^|]+`) +\| (\w+) +\| ([^|]+)\|", keys.__doc__ or "", re.MULTILINE)
    named = [(name, kind, lifetime) for names, kind, lifetime in rows for name in re.findall("`([^`]+)`", names)]
    assert len(named) >= 18
    found = []
    for name, kind, lifetime in named:
        pattern = re.escape(name).replace("ps:T:", r"ps:\{[a-z]+\.\d\}:").replace("ps:D:", r"ps:\{[a-z]+\.devices\}:")
        pattern = re.sub("<[^>]+>", "[^:]+", pattern)
        pattern = re.sub(r"\\{(owner|gateway)\\}", r"\\{[^}]+\\}", pattern)
        runs_out = ("TTL", "days", "minutes", "seconds", "24 h")
        expires: bool | None = (lifetime.strip().endswith(runs_out) and ":" not in lifetime) or "renewed" in lifetime
        if lifetime.startswith("once done:"):
            expires = None
        found.append((re.compile(pattern + "$"), kind, expires))
    return found


async def test_every_key_is_as_documented(server: Server, store: Store) -> None:
    for push_id, total in (("one", 1), ("some", 6), ("large", 1001), ("stays", 1)):
        await store.pushes.accept(make_push(push_id, total))
    taken = [each for each in await take_all(store) if each.chunk.push_id != "stays"]
    for each in taken:
        first, *rest = each.chunk.targets
        kinds = [
            settlement(each.chunk, first.index, Retry(moment(), 2), Unavailable()),
            *(settlement(each.chunk, target.index, INVALID, DEAD) for target in rest[:2]),
            *(settlement(each.chunk, target.index, FAILED, BadNotification()) for target in rest[2:4]),
            *(settlement(each.chunk, target.index) for target in rest[4:-1]),
        ]
        await store.queue.settle("shop", kinds, [])
    collapsing = Message("apns", b"{}", collapse="order-7", since=moment())
    await store.pushes.accept(msgspec.structs.replace(make_push("c", 2, lane="urgent"), messages={"apns": collapsing}))
    (each,) = await take_all(store, "urgent")
    await store.link.call("HSET", keys.latest("shop", 0), "@", 1)  # half a day is over
    ends = [settlement(each.chunk, 0), settlement(each.chunk, 1, Retry(moment(), 2), Unavailable())]
    await store.queue.settle("shop", ends, [each.ref])
    old = encode_event(FeedbackEvent(1, "apns", "t", "Unregistered", "suppressed"))
    await store.link.call("XADD", keys.events("shop", 0), "1-1", "e", old)
    assert await _suppress_all(store) == 6  # of `some`, and of each chunk of `large`
    await store.pushes.cancel("shop", "large")
    for each in (await store.link.call("XRANGE", keys.lane("shop", 0, "apns", "normal"), "-", "+"))[:1]:
        assert decode_chunk(each[1][b"c"]).push_id == "one"
    await store.link.call("XADD", keys.lane("shop", 0, "apns", "bulk"), "*", "c", "?")
    with capture_logs():
        await take(store, "bulk")
    await store.keys.add(ApiKey("backend", "shop", "a" * 64, ()))
    await store.keys.note_use(["a" * 64])
    await store.dead.request(ReplaySpec("shop"))
    assert await store.locks.hold("sweep", "a", lease=60)
    await store.limiter.admit(ROUTE, Rate(10, 86_400), ["token"], question=Question("normal", 1))
    await store.limiter.lease(Bucket("shop.0", "app", Rate(10, 60), burst=60.0), 1)
    await store.pushes.accept_once([make_push("once", 1)], key=b"sixteen digest b", record=b"record")
    for lane in keys.BEFORE_BULK:
        await store.pushes.accept(make_push(f"scheduled {lane}", 1, lane=lane, send_at=moment() + 60_000))
    await store.pushes.accept(msgspec.structs.replace(make_push("many", 0), audience=encode_audience(ToAll())))
    await store.queue.beat({"shop/apns": "unreachable"})
    await store.flow.note(FlowNote("process", "mark", store.flow.slot, {"shop": {"accepted": 1}}))
    await store.answers.release("shop", "apns", moment() + 60_000)
    await store.pushes.ping()
    await store.pushes.note_refused([Bound("", 8, 10, refused=4)])
    await store.workers.report("dispatch", ["shop/apns"], [Route("shop", "apns")])
    replicated = ReplicatedLink(server.url, name="a", timeout=5.0, least=0, strict=False)
    await replicated.guarded(keys.mark_in_slot_of(keys.devices("shop")), [])
    await replicated.aclose()
    async with open_store(server.url, StoreConfig(fsync=True)) as strict:
        with pytest.raises(StoreUnavailable):  # neither of these servers keeps an append-only file
            await strict.pushes.accept(make_push("strict"))
    for name in ("living", "pruned"):
        device = Device(id=name, platform="apns", token=f"token of {name}", user="u", registered_at=moment())
        await store.registry.put("shop", device)
        await store.registry.subscribe("shop", "news", name)
    other = Device(id="living", platform="apns", token="token of living", user="v", registered_at=moment())
    await store.registry.put("shop", other)
    pruned = Prune("pruned", "token of pruned", moment(), "Unregistered", moment() + 60_000)
    assert await store.registry.prune("shop", [pruned]) == [True]
    async with store.webhooks.claimed("shop", "place", lease=30) as claim:
        assert claim is not None
        batch = await claim.next(1)
        assert batch is not None
        await claim.note(WebhookCallNote(moment(), batch.id, 1, 1, 400, "http_400", 0.1, "given_up"))
        assert await claim.give_up(batch, "http_400")
    assert await store.webhooks.ask_again("shop", await store.webhooks.dead("shop")) == 1

    live, at_hand = store.live, LivePush("scheduled urgent", moment(), moment() + 60_000, "normal", 1)
    await live.beat("gate", {"shop": 0})
    await live.keep_all("shop", [LiveContent(at_hand, b"{}")])
    await live.append("shop", at_hand, [Receiver("living", 0)], platform="apns")
    for number, name in enumerate(("replaced", "replacing")):
        collapsed = LivePush(name, moment() + number, moment() + 60_000, "normal", 1, collapse="order-7")
        await live.keep_all("shop", [LiveContent(collapsed, b"{}")])
        await live.append("shop", collapsed, [Receiver("living", 0)], platform="apns")
    await live.connect("shop", "living", LiveRoute("gate", 1), issued_at=moment())
    await store.link.call("XADD", keys.events("shop", 0, "event"), "1-1", "e", "?")
    report = EventReport("scheduled urgent", "living", "shown")
    assert await live.report("shop", [report], log=True) == ["apns"]
    async with store.event_webhooks.claimed("shop", "place", lease=30):
        pass
    await live.revoke("shop", "living")

    await store.cleanups.finish({})
    await store.workers.report("dispatch", ["shop"], [ROUTE])
    for name, token in (("gone", "nobody's"), ("held", "some-0")):
        await store.registry.put("shop", Device(id=name, platform="apns", token=token, user=name))
    assert (await eraser(store).erase("shop", "gone", wait=60.0)).done
    await store.queue.enrol("shop")
    revoked = keys.revoked("shop", 0)
    while not any(b"e" in each for _, each in await store.link.call("XRANGE", revoked, "-", "+")):
        # Its entry is held by ourselves.
        assert not (await eraser(store).erase("shop", "held", wait=0.2)).done
    await store.link.call("DEL", keys.HASH_KEY)
    with capture_logs() as logs:
        while not logs:  # the process looks each second whether it is there
            await asyncio.sleep(0.01)

    documented = _documented()
    seen = set()
    for key in await store.link.call("KEYS", "*"):
        name = key.decode()
        ((pattern, kind, expires),) = [row for row in documented if row[0].match(name)]
        seen.add(pattern)
        assert (await store.link.call("TYPE", name)).decode() == kind, name
        if expires is None:
            about = re.sub(r":[brp]:", ":p:", name)
            state, total = await store.link.call("HMGET", about, "st", "n")
            expires = state == b"done" or (total == b"1" and about == name)  # all of them live for a day at most
        assert (await store.link.call("PTTL", name) > 0) == expires, name
    assert seen == {pattern for pattern, _, _ in documented}


@pytest.mark.parametrize("days", [0.1, 28])
async def test_a_waiting_push_to_one_target_takes_a_small_status_and_an_entry(store: Store, days: float) -> None:
    """The bytes of a queued delivery are bounded by the shapes of its keys, whatever the server's allocator does."""
    made = [make_push(f"push-{number}", 1) for number in range(100)]
    span = round(days * 86_400_000)
    pushes = [msgspec.structs.replace(push, expires_at=push.created_at + span) for push in made]
    await asyncio.gather(*map(store.pushes.accept, pushes))
    call, lane, recent = store.link.call, keys.lane("shop", 0, "apns", "normal"), keys.recent("shop", 0)
    shared = {keys.HASH_KEY, keys.FORMAT, keys.pending("shop", 0), recent, lane}
    statuses = {keys.push("shop", 0, push.id) for push in pushes}
    assert {key.decode() for key in await call("KEYS", "*")} - shared == statuses
    for key in statuses:
        assert sorted(await call("HKEYS", key)) == [b"at", b"n", b"st"]
        assert await call("OBJECT", "ENCODING", key) in (b"listpack", b"ziplist")
    assert await call("XLEN", recent) < 10  # a write has one entry
    message = len(msgspec.msgpack.encode(pushes[0].messages["apns"]))
    token = len(pushes[0].targets["apns"][0].token)
    entries = [fields for _, fields in await call("XRANGE", lane, "-", "+")]
    assert [int(fields[b"n"]) for fields in entries] == [layout.TOGETHER] * 6 + [4]
    assert sum(len(fields[b"c"]) for fields in entries) < 100 * (90 + message + token)


@pytest.mark.parametrize("total", [1, 2, 1001])
async def test_a_status_lives_from_its_end_on(server: Server, total: int) -> None:
    async with new_store(
        server, StoreConfig(consumer="a", status_ttl=100, dead_ttl=300), clock=lambda: moment()
    ) as store:
        call = store.link.call
        kept = [keys.push("shop", 0, "p"), keys.rows("shop", 0, "p"), keys.prefix("shop", 0) + "b:p"]

        async def lifetimes() -> set[int]:
            return {left for left in [await call("PTTL", key) for key in kept] if left != -2}

        await store.pushes.accept(msgspec.structs.replace(make_push("p", total), expires_at=moment() + 2 * SHORT_MS))
        assert await lifetimes() == {-1}
        first, *rest = await take_all(store)
        await store.queue.settle("shop", *all_of(first, Retry(moment(), 2), Unavailable()))
        for taken in rest:
            await store.queue.settle("shop", *all_of(taken))
        assert await lifetimes() == {-1}
        await store.queue.promote(ROUTE, moment())
        (again,) = await take_all(store)
        await store.queue.settle("shop", *all_of(again, FAILED, BadNotification()))
        # A replay opens it again.
        assert all(290_000 < left <= 300_000 for left in await lifetimes())
        job = (await store.dead.request(ReplaySpec("shop"))).job
        assert await call("PTTL", keys.replay("shop", 0, job)) == -1
        assert (await store.dead.step("shop", job, most=1000)).moved == len(again.chunk.targets)
        assert await lifetimes() == {-1}
        await store.dead.finish("shop", job)
        assert await call("PTTL", keys.replay("shop", 0, job)) > 0
        (last,) = await take_all(store)
        await store.queue.settle("shop", *all_of(last))
        assert all(90_000 < left <= 100_000 for left in await lifetimes())
        assert await call("EXISTS", keys.prefix("shop", 0) + "t:p") == 0


@pytest.mark.parametrize("end", ["page", "cancel", "set_aside", "erasure"])
async def test_a_status_with_failed_deliveries_lives_as_long_as_dead_letters_however_it_ends(
    server: Server, end: str
) -> None:
    """The audience of a push ends after all deliveries that it has found have failed."""
    async with new_store(server, StoreConfig(consumer="a", status_ttl=100, dead_ttl=300)) as store:
        anna = Device(id="d", platform="apns", token="t", user="anna", registered_at=moment(), last_seen_at=moment())
        await store.registry.put_many("shop", [anna])
        audience = encode_audience(ByUsers(("anna",)))
        await store.pushes.accept(msgspec.structs.replace(make_push("p", 0), audience=audience))
        at = await store.expansions.load("shop", "p")
        assert at is not None
        found = {"apns": [Target(0, "other", "other")]}
        at = await store.expansions.advance(at, found, cursor="more", lease=0)
        assert at is not None
        (taken,) = await take_all(store)
        await store.queue.settle("shop", *all_of(taken, FAILED, BadNotification()))
        if end == "page":
            await store.expansions.advance(at, {}, cursor=None, lease=0)
        elif end == "cancel":
            await store.pushes.cancel("shop", "p")
        elif end == "set_aside":
            await store.expansions.set_aside(Waiting("shop", "p", "normal", 0), "x")
        else:
            assert (await eraser(store).erase("shop", "anna", wait=30.0)).done
        status = await store.pushes.status("shop", "p")
        assert status is not None
        assert (status.state, status.counts.failed) == ("cancelled" if end == "cancel" else "done", 1)
        for key in (keys.push("shop", 0, "p"), keys.rows("shop", 0, "p"), keys.prefix("shop", 0) + "b:p"):
            assert 270_000 < await store.link.call("PTTL", key) <= 300_000, key


async def test_the_status_of_a_short_push_to_one_target_lives_from_its_acceptance_on(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", status_ttl=100), clock=lambda: moment()) as store:

        async def left_of(push_id: str) -> int:
            left: int = await store.link.call("PTTL", keys.push("shop", 0, push_id))
            return left

        life = make_push("soon", 1).expires_at - moment()
        for name in ("soon", "late", "again"):
            await store.pushes.accept(make_push(name, 1))
        taken = {each.chunk.push_id: each for each in await take_all(store)}
        ends, refs = all_of(taken["soon"])
        await store.queue.settle("shop", ends, refs)
        ends, refs = all_of(taken["late"])  # its end was recorded after its life was over
        await store.queue.settle("shop", [msgspec.structs.replace(end, at=moment() + life + 1) for end in ends], refs)
        await store.queue.settle("shop", *all_of(taken["again"], Retry(moment(), 2), Unavailable()))
        assert life + 90_000 < await left_of("again") <= life + 100_000
        await store.queue.promote(ROUTE, moment())
        (again,) = await take_all(store)
        await store.queue.settle("shop", *all_of(again))
        assert life + 90_000 < await left_of("soon") <= life + 100_000
        assert 90_000 < await left_of("late") <= 100_000
        assert 90_000 < await left_of("again") <= 100_000


async def test_an_audience_that_waits_longer_than_a_status_is_kept_whole(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", status_ttl=1)) as store:
        push = msgspec.structs.replace(make_push("p", 0), audience=encode_audience(ToAll()))
        await store.pushes.accept(push)
        await store.pushes.accept(make_push("q", 1))
        await asyncio.sleep(1.2)  # the retention of statuses is a second
        at = await store.expansions.load("shop", "p")
        assert at is not None
        found = {"apns": [Target(0, "t", "d")]}
        assert await store.expansions.advance(at, found, cursor=None, lease=0) is not None
        for taken in await take_all(store):
            assert len(await store.queue.settle("shop", *all_of(taken))) == 1
        for push_id in ("p", "q"):
            status = await store.pushes.status("shop", push_id)
            assert status is not None
            assert (status.state, status.counts.sent) == ("done", 1)


async def test_a_push_stays_cancelled_for_as_long_as_a_delivery_may_wait(server: Server) -> None:

    now = [moment()]
    async with new_store(server, StoreConfig(consumer="a"), clock=lambda: now[0]) as store:
        await store.pushes.accept(make_push("old", 1))
        await store.pushes.cancel("shop", "old")
        now[0] += 10 * 86_400_000  # longer than its status is kept
        await store.pushes.accept(make_push("new", 1))
        await store.pushes.cancel("shop", "new")
        assert all(taken.skip == {0: "cancelled"} for taken in await take_all(store))


@pytest.mark.parametrize("total", [1, 2, 1001])
async def test_deliveries_outlive_their_status(total: int, store: Store) -> None:
    """A status that has run out is not counted any more, but what was accepted still travels."""
    await store.pushes.accept(make_push("p", total))
    for taken in await take_all(store):
        await store.link.call("DEL", keys.push("shop", 0, "p"))
        ends, refs = all_of(taken, Retry(moment(), 2), Unavailable())
        assert len(await store.queue.settle("shop", ends, refs)) == len(ends)
    assert await store.queue.promote(ROUTE, moment()) == total
    for taken in await take_all(store):
        ends, refs = all_of(taken, INVALID, DEAD)
        assert len(await store.queue.settle("shop", ends, refs)) == len(ends)
    assert await store.pushes.status("shop", "p") is None
    figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
    assert (figures.total_pending, figures.retry_pending["apns"], figures.receipts) == (0, 0, total)


async def test_a_suppression_ends_with_its_time(server: Server) -> None:
    now = moment()
    async with new_store(server, StoreConfig(consumer="a", suppression_ttl=10 * 86400), clock=lambda: now) as store:
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        await store.queue.settle("shop", *all_of(taken, INVALID, DEAD))
        await _suppress_all(store)
        for days, expected in ((9, {0: "suppressed"}), (2, {})):
            now += days * 86_400_000
            push = msgspec.structs.replace(make_push("p"), id=f"p{now}")
            await store.pushes.accept(push)
            (again,) = await take(store)
            assert again.skip == expected


async def test_cancelled_pushes_leave_the_list_when_they_have_ended(store: Store) -> None:
    for push_id, total in (("one", 1), ("two", 2), ("large", 1001)):
        await store.pushes.accept(make_push(push_id, total))
        await store.pushes.cancel("shop", push_id)
    assert await store.link.call("ZCARD", keys.cancelled("shop", 0)) == 3
    for taken in await take_all(store):
        await store.queue.settle("shop", *all_of(taken))
    assert await store.link.call("ZCARD", keys.cancelled("shop", 0)) == 0


async def test_a_cancel_notifies_the_streams_of_an_app_that_has_a_live_channel_and_writes_nothing_else(
    store: Store,
) -> None:
    for channel, notified in (("apns", 0), ("live", 1)):
        await store.workers.report("dispatch", [], [Route("shop", channel)])
        await store.pushes.accept(make_push(channel))
        await store.pushes.cancel("shop", channel)
        assert len(await store.link.call("KEYS", f"{keys.devices('shop')}pushes:*")) == notified


async def test_consumers_that_are_gone_leave_the_group(server: Server, store: Store) -> None:
    async with open_store(server.url, StoreConfig(consumer="gone")) as gone:
        await gone.pushes.accept(make_push("p"))
        await take(gone)
        await take(gone, "urgent")
    await take(store)
    lane = keys.lane("shop", 0, "apns", "normal")
    assert len(await store.link.call("XINFO", "CONSUMERS", lane, "dispatch")) == 2
    assert len(await store.queue.reclaim(ROUTE)) == 1
    assert len(await store.link.call("XINFO", "CONSUMERS", lane, "dispatch")) == 1
    urgent = keys.lane("shop", 0, "apns", "urgent")
    assert await store.link.call("XINFO", "CONSUMERS", urgent, "dispatch") == []


async def test_nobody_takes_over_from_the_living_when_redis_was_away(server: Server, store: Store) -> None:
    async with open_store(server.url, StoreConfig(consumer="b")) as other:
        await store.pushes.accept(make_push("p"))
        await take(store)
        await take(other)
        for lapse in (other.queue.reclaim(ROUTE), other.queue.beat()):
            # Redis was away for so long that every sign of life has run out.
            await store.link.call("DEL", keys.alive("a"), keys.alive("b"))
            await lapse
            assert await other.queue.reclaim(ROUTE) == []
        await store.queue.beat()
        other.queue._liveness._blind_until = 0.0  # the time in which all renew theirs is over
        assert await other.queue.reclaim(ROUTE) == []
        await store.queue.retire()
        assert len(await other.queue.reclaim(ROUTE)) == 1


async def test_what_is_forgotten_while_the_lane_is_looked_through_is_found_by_the_same_look(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """A dispatcher whose lease had lapsed reads again while late answers of what it had sent are being recorded: the
    rest of their entries is given up when the look has already passed over them."""
    await store.pushes.accept(make_push("p"))
    (taken,) = await take(store)
    given_up = [taken.ref]
    ask = store.link.call

    async def call(*command: Any, **more: Any) -> Any:
        answer = await ask(*command, **more)
        if command[0] == "XREADGROUP" and command[-1] != "0":
            store.queue.forget(given_up)
            given_up.clear()
        return answer

    store.queue._states(ROUTE, "normal")[0].lost(0.0)  # as where an entry is given up of which nothing is in flight
    monkeypatch.setattr(store.link, "call", call)
    (again,) = await take(store)
    assert again.ref == taken.ref
    assert await take(store) == []


# --- dead letters ---------------------------------------------------------------------------------


async def test_dead_letters_hold_what_a_replay_needs(store: Store) -> None:
    push = make_push("p", 3, lane="bulk")
    await store.pushes.accept(push)
    (taken,) = await take(store, "bulk")
    bad = BadNotification(status=400, reason="PayloadTooLarge")
    ends = [settlement(taken.chunk, index, FAILED, bad) for index in (0, 2)]
    await store.queue.settle("shop", [*ends, settlement(taken.chunk, 1)], [taken.ref])
    await store.queue.settle("shop", ends, [taken.ref])
    letters = [
        decode_dead(fields[b"d"]) for _, fields in await store.link.call("XRANGE", keys.dead("shop", 0), "-", "+")
    ]
    assert [letter.target for letter in letters] == [taken.chunk.targets[0], taken.chunk.targets[2]]
    assert {(letter.push_id, letter.platform, letter.reason, letter.attempts) for letter in letters} == {
        ("p", "apns", "PayloadTooLarge", 1)
    }
    assert "p-0" not in repr(letters)
    for letter in letters:
        chunk = decode_chunk(letter.head)
        assert (chunk.message, chunk.targets, chunk.lane) == (push.messages["apns"], (), "bulk")


# --- large ----------------------------------------------------------------------------------------


async def test_a_push_to_a_hundred_thousand(store: Store) -> None:
    total = 100_000
    await store.pushes.accept(make_push("p", total, lane="bulk"))
    while taken := await take(store, "bulk", targets=5000):
        for each in taken:
            ends = [
                settlement(each.chunk, target.index, INVALID, DEAD)
                if target.index % 100 == 0
                else settlement(each.chunk, target.index)
                for target in each.chunk.targets
            ]
            assert len(await store.queue.settle("shop", ends, [each.ref])) == len(ends)
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert (status.state, status.counts.sent, status.counts.invalid) == ("done", 99_000, 1000)
    assert await store.link.call("STRLEN", keys.prefix("shop", 0) + "b:p") == total // 8
    page = await store.pushes.deliveries("shop", "p", outcome="invalid", cursor="", limit=5000)
    assert page is not None
    assert (len(page[0]), page[1]) == (1000, None)


async def test_a_filter_that_fits_nothing_answers_with_a_cursor(store: Store) -> None:
    await store.pushes.accept(make_push("p", 30_000))
    for each in await take_all(store):
        await store.queue.settle("shop", *all_of(each, Ended("failed"), BadNotification()))
    page = await store.pushes.deliveries("shop", "p", outcome="expired", cursor="", limit=10)
    assert page == ([], "19999")
    assert await store.pushes.deliveries("shop", "p", outcome="expired", cursor="19999", limit=10) == ([], None)


# --- shards and slots -----------------------------------------------------------------------------


async def _whole_life(store: Store) -> None:
    """Everything a push can meet, over several shards."""
    for number in range(30):
        # Every other one goes the way of a schedule.
        await store.pushes.accept(make_push(f"p{number}", 2, send_at=moment() + 1 if number % 2 else None))
    await store.pushes.accept(make_push("never", 2, send_at=moment() + 1))
    cancelled = await store.pushes.cancel("shop", "never")
    assert cancelled is not None
    assert cancelled.counts.cancelled == 2
    assert await store.queue.launch("shop", moment() + 1) == 15
    await store.pushes.cancel("shop", "p7")
    taken = await take_all(store)
    assert len({each.ref.shard for each in taken}) == 3
    assert {each.chunk.push_id for each in taken if each.skip} == {"p7"}
    settlements, finished = [], []
    for each in taken:
        if each.skip:
            ends, _ = all_of(each)
        else:
            ends = [
                settlement(each.chunk, 0, INVALID, DEAD),
                settlement(each.chunk, 1, Retry(moment(), 2), Unavailable()),
            ]
        settlements += ends
        finished.append(each.ref)
    assert len(await store.queue.settle("shop", settlements, finished)) == 60
    assert await store.queue.promote(ROUTE, moment()) == 29
    for each in await take_all(store):
        await store.queue.settle("shop", *all_of(each, FAILED, BadNotification(status=400)))
    for number in range(30):
        status = await store.pushes.status("shop", f"p{number}")
        assert status is not None
        assert status.counts.total == 2
        assert (status.counts.invalid, status.counts.failed) == ((0, 0) if number == 7 else (1, 1))

    seen: list[str] = []
    assert await _suppress_all(store) == 29
    deadline = asyncio.get_running_loop().time() + 20
    cursor = ""
    while len(seen) < 29:
        page = await store.receipts.events("shop", after=cursor, limit=4)
        assert page.missing_to == ""
        seen += [event.token for _, event in page.events]
        cursor = page.events[-1][0] if page.events else cursor
        assert asyncio.get_running_loop().time() < deadline
    assert sorted(seen) == sorted(f"p{number}-0" for number in range(30) if number != 7)

    for number in range(30):
        again = msgspec.structs.replace(make_push(f"p{number}", 2), id=f"again{number}")
        await store.pushes.accept(again)
    marked = await take_all(store)
    assert [each.skip for each in marked if each.chunk.targets[0].token != "p7-0"] == [{0: "suppressed"}] * 29
    figures = await store.gauges({"shop": ("apns",), "other": ("fcm",)})
    assert figures.apps["shop"].suppressed["apns"] == 29
    assert figures.pending["normal"] == 60 == store.pushes.pending
    assert figures.apps["shop"].dead_letters == 29

    async with _another(store, "heir") as heir:
        await store.queue.retire()
        heirs = await heir.queue.reclaim(ROUTE)
        assert len(heirs) == 30
        for each in heirs:
            await heir.queue.settle("shop", *all_of(each))
        waiting = asyncio.create_task(take(heir, "urgent", wait_ms=20_000))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done, "there is nothing yet"
        await heir.pushes.accept(make_push("last", lane="urgent"))
        assert [each.chunk.push_id for each in await waiting] == ["last"]
        assert await heir.receipts.take("shop", limit=5, wait_ms=30) == []


@asynccontextmanager
async def _another(store: Store, consumer: str) -> AsyncIterator[Store]:
    async with open_store(_urls[id(store)], msgspec.structs.replace(store.config, consumer=consumer)) as other:
        yield other


_urls: dict[int, str] = {}
SHARDED = StoreConfig(consumer="a", shards={"shop": 3})


async def test_an_app_over_several_shards(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(log, "SETTLED", 2)
    async with new_store(server, SHARDED) as store:
        _urls[id(store)] = server.url
        await _whole_life(store)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_step_stays_in_one_slot(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one node: it has all slots, and refuses whatever touches two of them at once."""

    monkeypatch.setattr(log, "SETTLED", 2)

    with running_server(kind, tcp=True, cluster=True) as server:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with asyncio.timeout(60), open_store(url, SHARDED) as store:
            _urls[id(store)] = url
            await _whole_life(store)


async def test_a_master_that_sentinels_know() -> None:
    with (
        running_server("valkey", tcp=True) as server,
        running_server("valkey", tcp=True, sentinel_of=server) as sentinel,
    ):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            await store.pushes.accept(make_push("p"))
            (taken,) = await take(store, wait_ms=1000)
            assert len(await store.queue.settle("shop", *all_of(taken))) == 1
        assert b"ps:keys" not in server.command("KEYS", "*")
        assert b"ps:{shop.0}:p:p" in server.command("KEYS", "*")


async def test_clients_say_who_they_are(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="the one")) as store:
        await take(store, wait_ms=1)
        names = set(re.findall(rb"name=(\S+)", await store.link.call("CLIENT", "LIST")))
        assert {b"pushsvc:the-one", b"pushsvc:the-one:reader"} <= names


async def test_taking_and_taking_over_at_once_hand_out_each_entry_once(server: Server, store: Store) -> None:
    for number in range(60):
        await store.pushes.accept(make_push(f"p{number}"))
    async with open_store(server.url, StoreConfig(consumer="gone")) as gone:
        await take(gone, targets=30)
    async with open_store(server.url, StoreConfig(consumer="before")) as before:
        await take(before, targets=20)
    # This one has pending entries of its own, those of the dead to take over, and new ones, all at the same time.
    async with open_store(server.url, StoreConfig(consumer="before")) as after:
        steps = [step for _ in range(8) for step in (take(after), after.queue.reclaim(ROUTE))]
        found = [taken.chunk.push_id for some in await asyncio.gather(*steps) for taken in some]
        found += [taken.chunk.push_id for taken in await take_all(after)]
    assert sorted(found) == sorted(f"p{number}" for number in range(60))


async def test_several_promote_at_once(store: Store) -> None:
    for number in range(700):
        await store.pushes.accept(make_push(f"p{number}"))
    for taken in await take_all(store):
        await store.queue.settle("shop", *all_of(taken, Retry(moment(), 2), Unavailable()))
    moved = await asyncio.gather(*(store.queue.promote(ROUTE, moment()) for _ in range(4)))
    assert sum(moved) == 700
    again = await take_all(store)
    assert sorted(each.chunk.push_id for each in again) == sorted(f"p{number}" for number in range(700))


async def test_an_empty_store_has_figures(store: Store) -> None:
    gauges = await store.gauges({"shop": ("apns", "fcm")})
    assert gauges.pending == dict.fromkeys(LANES, 0)
    assert gauges.retry_pending == 0
    assert (await store.gauges({})).apps == {}
    assert await store.queue.reclaim(Route("shop", "fcm")) == []
    assert await store.receipts.events("shop", after="", limit=3) == EventPage([])


async def test_an_installation_is_suppressed_for_a_day_and_any_token_until_it_is_lifted(server: Server) -> None:
    now = moment()
    installation = "cQ7_dE-fGhIjKlMnOpQrSt"
    registration = f"{installation}:APA91bTest"
    async with new_store(server, StoreConfig(consumer="a", addresses=addresses()), clock=lambda: now) as store:
        tokens = {registration: 0, installation: 1}
        await store.suppressions.add("shop", [("fcm", token, now) for token in tokens])

        async def suppressed() -> set[str]:
            push = make_push(f"at-{now}-{len(tokens)}", platforms=["fcm"], created_at=now)
            targets = tuple(Target(index, token) for token, index in tokens.items())
            await store.pushes.accept(msgspec.structs.replace(push, targets={"fcm": targets}, lane="normal"))
            (taken,) = await store.queue.take(Route("shop", "fcm"), "normal", targets=10, wait_ms=0)
            return {token for token, index in tokens.items() if index in taken.skip}

        now += 23 * 3_600_000
        assert await suppressed() == {installation, registration}
        now += 2 * 3_600_000
        assert await suppressed() == {registration}
        assert await store.suppressions.remove("shop", [("fcm", registration)]) == 1
        now += 1
        assert await suppressed() == set()
        assert await store.suppressions.remove("shop", [("fcm", registration)]) == 0
