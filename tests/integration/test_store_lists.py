"""Lists of pushes: in one order, whole, and read by what they return and not by what is stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from pushsvc.model.access import ApiKey
from pushsvc.model.codec import encode_audience
from pushsvc.model.devices import ToAll
from pushsvc.model.push import Push, Target
from pushsvc.ports.expansion import Waiting
from pushsvc.ports.figures import SLOT, FlowNote
from pushsvc.ports.pushes import PushFilter
from pushsvc.store import Store, StoreConfig, keys, layout
from pushsvc.store.hashing import token_hash
from pushsvc.store.link.link import AT_ONCE
from pushsvc.store.pushes import kept, listing, pushes
from pushsvc.store.pushes.listing import listed

from .servers import KINDS, Server
from .test_store_kit import accept_together, all_of, make_push, moment, new_store, take_all

EVERY = PushFilter()
HOUR = 3_600_000


BACKENDS = KINDS


class Watched:
    """Counts what is asked of the server in `many`, and the entries and pushes that it answers."""

    def __init__(self, store: Store) -> None:
        self.commands: Counter[str] = Counter()
        self.most = 0
        self.entries = self.bytes = self.largest = 0
        self.read: set[str] = set()
        self._many = store.link.many
        store.link.many = self  # type: ignore[method-assign]

    async def __call__(self, commands: Sequence[tuple[Any, ...]], **more: Any) -> list[Any]:
        self.commands.update(command[0] for command in commands)
        self.most = max(self.most, len(commands))
        answers = await self._many(commands, **more)
        for command, answer in zip(commands, answers, strict=True):
            if command[0] in ("XREVRANGE", "XRANGE"):
                self.read.add(command[1])
                self.entries += len(answer)
                size = sum(len(value) for _, fields in answer for value in fields.values())
                self.bytes += size
                self.largest = max(self.largest, size)
        return answers


async def accept(store: Store, count: int, **fields: Any) -> list[str]:
    """Accept pushes together; their ids."""
    pushes = [msgspec.structs.replace(make_push(str(uuid4()), 0), **fields) for _ in range(count)]
    await asyncio.gather(*map(store.pushes.accept, pushes))
    return [push.id for push in pushes]


async def write(store: Store, count: int) -> None:
    """Accept pushes in a write each."""
    prefix, counters = keys.prefix("shop", 0), keys.pending("shop", 0)
    parts = [store.pushes._pack(make_push(str(uuid4()), 0)) for _ in range(count)]
    words = [prefix, store.config.status_ttl * 1000, HOUR, 0]
    await store.link.scripts([("accept", [counters], [*words, *part.args]) for part in parts])


async def walk(store: Store, which: PushFilter = EVERY, *, limit: int) -> list[str]:
    """All pages of a list."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = await store.pushes.recent("shop", which, cursor=cursor, limit=limit)
        assert len(page) <= limit
        found += [each.status.id for each in page]
    return found


async def test_every_page_goes_on_where_the_last_one_ended(server: Server) -> None:
    async with new_store(server, StoreConfig(shards=3)) as store:
        groups = []
        for count in (1, 40, 3, 1, 17, 200):
            began = now = await store.link.call("TIME")
            while now[0] == began[0] and now[1] // 1000 == began[1] // 1000:  # of one instant the shards have an order
                now = await store.link.call("TIME")
            groups.append(await accept(store, count))
        whole = await walk(store, limit=1000)
        assert sorted(whole) == sorted(push for group in groups for push in group)
        newest: list[set[str]] = [set(group) for group in reversed(groups)]
        for group in newest:
            own, whole = whole[: len(group)], whole[len(group) :]
            assert set(own) == group
        whole = await walk(store, limit=1000)
        for limit in (1, 7, 100):
            assert await walk(store, limit=limit) == whole


async def test_a_page_of_few_pushes_reads_few(store: Store) -> None:
    await accept(store, 10)
    await store.link.call("XADD", keys.recent("shop", 0), "*", "p", b"".join([listed(make_push("x"))] * 1200))
    watched = Watched(store)
    page, cursor = await store.pushes.recent("shop", EVERY, cursor="", limit=1)
    assert not page, "the statuses of a large entry are not there"
    assert cursor
    assert watched.commands["HMGET"] <= listing.ASK + listing.STEP
    await store.link.call("XTRIM", keys.recent("shop", 0), "MAXLEN", 0)
    await accept(store, 3000)
    watched = Watched(store)
    page, cursor = await store.pushes.recent("shop", EVERY, cursor="", limit=1)
    assert len(page) == 1
    assert watched.commands == {"XREVRANGE": 1, "HMGET": 1}
    assert watched.entries <= 3
    assert watched.bytes < 3000

    # A filter that fits nothing looks at so many pushes, and a state at so many statuses, with yields between.
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    for which, most in (PushFilter(key="nobody"), listing.LOOK), (PushFilter(state="cancelled"), listing.ASK):
        watched, turns = Watched(store), 0
        asking = asyncio.create_task(others())
        assert await walk(store, which, limit=100) == []
        asking.cancel()
        assert turns >= 3000 / listing.STEP
        assert watched.most <= listing.STATUSES
        page, cursor = await store.pushes.recent("shop", which, cursor="", limit=100)
        assert (cursor is None) == (most > 3000)


async def test_the_last_pushes_of_a_device_are_found_in_bounded_steps(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "LOOK_FOR_DEVICE", 20)
    monkeypatch.setattr(pushes, "_LOOK", 500)
    async with new_store(server) as store:

        async def send(count: int, own: Target | None = None, *, settled: bool = True) -> str:
            push = make_push(str(uuid4()), count)
            others = push.targets["apns"]
            if own is not None:
                others = (*others[: own.index], own, *others[own.index + 1 :])
            await store.pushes.accept(msgspec.structs.replace(push, targets={"apns": others}))
            for taken in await take_all(store) if settled else ():
                await store.queue.settle("shop", *all_of(taken))
            return push.id

        async def look(limit: int = 100) -> tuple[list[str], list[tuple[int, int]]]:
            found: list[str] = []
            steps: list[tuple[int, int]] = []
            cursor: str | None = ""
            while cursor is not None:
                page = await store.pushes.to_device(
                    "shop", "phone", token_hash(bytes(32), "t"), cursor=cursor, limit=limit
                )
                found += [each.push_id for each in page.found]
                steps.append((page.looked, page.unlisted))
                cursor = page.cursor
                assert page.since is None or all(page.since <= each.created_at for each in page.found)
            return found, steps

        assert await look() == ([], [(0, 0)])
        wanted = [await send(1, Target(0, "t")), await send(2, Target(1, "former", device_id="phone"))]
        await accept(store, 20)
        wanted.append(await send(40, Target(7, "t", device_id="phone")))
        await send(1001, Target(900, "t", device_id="phone"))
        await send(1, Target(0, "another", device_id="phone-2"))
        wanted.append(await send(400, Target(399, "t", device_id="phone")))
        await send(400)
        await send(1, Target(0, "t", device_id="phone"), settled=False)
        # A step ends after the rows of two pushes of 400, after 20 pushes, or with what was asked for.
        assert await look() == (wanted[::-1], [(3, 0), (20, 1), (5, 0)])
        assert await look(limit=1) == (wanted[::-1], [(3, 0), (3, 1), (20, 0), (1, 0), (1, 0)])


async def test_one_push_is_found_among_many_by_when_it_came(store: Store) -> None:
    key, at = keys.recent("shop", 0), store.clock()
    push = msgspec.structs.replace(
        make_push(str(uuid4()), lane="bulk", created_at=at), dry_run=True, via="live", key="backend"
    )
    await accept_together(store, make_push(str(uuid4()), lane="bulk", created_at=at), push)
    others = b"".join(listed(make_push(str(uuid4()))) for _ in range(layout.LISTED))
    # Also where the clock of Redis is behind or ahead, so that others stand between.
    for skew, between in ((0, 0), (-20_000, 200), (20_000, 200)):
        ids = [f"{at + step}-{number}" for step in (-50_000, 50_000) for number in range(1, 500)]
        ids += [f"{at + skew // 2}-{number}" for number in range(1, between + 1)]
        entries = [(each, others) for each in ids] + [(f"{at + skew}-1", others + listed(push))]
        entries.sort(key=lambda entry: tuple(map(int, entry[0].split("-"))))
        await store.link.call("DEL", key)
        await store.link.many([("XADD", key, each, "p", blob) for each, blob in entries])
        watched = Watched(store)
        found = await store.pushes.kept("shop", push.id)
        assert found is not None
        assert (found.listed.lane, found.listed.key, found.dry_run, found.via) == ("bulk", "backend", True, "live")
        assert watched.entries <= 2 * (between + 2 * listing.ENTRIES)
        assert watched.largest <= listing.ENTRIES * (len(others) + 100)
    await store.link.call("DEL", key)
    found = await store.pushes.kept("shop", push.id)
    assert found is not None
    assert (found.listed.lane, found.listed.key, found.via) == (None, "", None)
    assert found.dry_run, "what waits of it says so"


async def test_what_waits_is_read_in_steps_of_few_bytes_and_not_at_all_for_a_large_push(store: Store) -> None:
    at, junk = store.clock(), b"x" * 16_000
    lane = keys.lane("shop", 0, "apns", "normal")
    before = [("XADD", lane, f"{at - 30_000}-{number}", "c", junk, "n", 1) for number in range(1, 200)]
    await store.link.many(before)
    small, large = (
        msgspec.structs.replace(make_push(str(uuid4()), many), created_at=at, expires_at=at + 600_000)
        for many in (2, 40)
    )
    for push in (small, large):
        await store.pushes.accept(push)
    await store.link.many([("XADD", lane, "*", "c", junk, "n", 1)] * 200)
    watched = Watched(store)
    found = await store.pushes.kept("shop", small.id)
    assert found is not None
    assert (found.messages, found.ttl) == (dict(small.messages), 600)
    assert lane in watched.read
    assert watched.largest <= kept.STEP
    assert watched.bytes < 20 * kept.STEP
    watched = Watched(store)
    found = await store.pushes.kept("shop", large.id)
    assert found is not None
    assert found.messages == large.messages
    assert watched.read == {keys.recent("shop", 0)}
    # A push of which nothing is left there is looked for within a bound.
    await store.link.call("DEL", lane)
    await store.link.many([("XADD", lane, "*", "c", junk, "n", 1)] * 400)
    watched = Watched(store)
    found = await store.pushes.kept("shop", small.id)
    assert found is not None
    assert (found.messages, found.ttl, found.dry_run) == ({}, None, False)
    assert watched.bytes < kept.LOOK + 2 * kept.STEP


FILL = "for number = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'p', '') end"


async def test_the_list_ends_by_age_and_by_size(store: Store) -> None:
    key, call = keys.recent("shop", 0), store.link.call
    life = StoreConfig().status_ttl * 1000
    await accept(store, 1)
    newest = int((await call("XREVRANGE", key, "+", "-", "COUNT", 1))[0][0].partition(b"-")[0])
    old, young = newest - life - 60_000, newest - life + 600_000

    async def entries(since: int) -> int:
        return len(await call("XRANGE", key, since, since))

    await call("DEL", key)
    for since in (old, young):
        await store.link.many([("XADD", key, f"{since}-{number + 1}", "p", b"") for number in range(500)])
    while await entries(old):  # about one write in a hundred cuts the list
        await write(store, 200)
    assert await entries(young) == 500
    await call("EVAL", FILL, 1, key, layout.LISTED_ENTRIES)
    while await entries(young):
        await write(store, 200)
    assert await call("XLEN", key) >= layout.LISTED_ENTRIES
    await store.link.many([("DEL", key), ("XADD", key, f"{old}-1", "p", b""), ("XADD", key, f"{young}-1", "p", b"")])
    for dry_run, left in ((True, 1), (False, 0)):
        cursor: str | None = ""
        while cursor is not None:
            swept = await store.leftovers.keys(["shop"], cursor=cursor, now=newest, dry_run=dry_run)
            cursor = swept.cursor
            assert not swept.removed
        assert (await entries(old), await entries(young)) == (left, 1)


def audience(name: str, send_at: int) -> Push:
    return msgspec.structs.replace(make_push(name, 0, send_at=send_at), audience=encode_audience(ToAll()), targets={})


async def test_schedules_are_paged_also_where_all_are_due_at_one_instant(server: Server) -> None:
    async with new_store(server, StoreConfig(shards=2)) as store:
        names = [f"p{number:03}" for number in range(130)]
        due = moment() + 600_000
        await asyncio.gather(*(store.pushes.accept(make_push(name, send_at=due)) for name in names))
        await store.pushes.accept(audience("audience", due))
        await store.pushes.accept(make_push("early", send_at=due - 1))
        await store.pushes.accept(make_push("late", send_at=due + 1))
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            watched = Watched(store)
            page, cursor = await store.pushes.schedules("shop", cursor=cursor, limit=20)
            assert watched.commands["ZRANGEBYSCORE"] + watched.commands["ZRANGE"] <= 16
            found += [each.status.id for each in page]
        assert found == ["early", "audience", *names, "late"]
        page, cursor = await store.pushes.schedules("shop", cursor="", limit=1000)
        assert len(page) == listing.STATUSES
        assert cursor


async def test_what_is_due_is_counted_without_looking_at_each(store: Store) -> None:
    now = store.clock()
    for number in range(5):
        await store.pushes.accept(make_push(f"p{number}", send_at=now + number * HOUR // 4 + 60_000))
        await store.pushes.accept(audience(f"a{number}", now + number * HOUR // 4 + 60_000))
    await store.pushes.accept(msgspec.structs.replace(audience("running", moment()), send_at=None))
    assert await store.expansions.take_up(Waiting("shop", "running", "normal", now), lease=60_000)
    assert await store.pushes.due("shop", now + HOUR) == 8
    assert await store.pushes.due("shop") == 10
    many = [part for number in range(1000) for part in (now + HOUR // 2 + number, f"x{number}")]
    await store.link.call("ZADD", keys.expansions("shop", 0, "normal"), *many)
    watched = Watched(store)
    assert await store.pushes.due("shop", now + HOUR) == 1008
    assert watched.commands["HMGET"] == 0
    assert watched.commands["HGET"] <= 3


# --- other lists ----------------------------------------------------------------------------------


async def test_keys_are_kept_found_and_revoked(store: Store) -> None:
    ring = store.keys
    one = ApiKey("backend", "shop", "a" * 64, ("push", "devices"), moment())
    two = ApiKey("backend", "other", "b" * 64, ("admin",))
    await ring.add(two)
    await ring.add(one)
    assert await ring.all() == [two, one]
    assert await ring.find("a" * 64) == one
    assert await ring.find("c" * 64) is None
    assert await ring.revoke("backend", "shop")
    assert not await ring.revoke("backend", "shop")
    assert await ring.all() == [two]


async def test_large_hashes_and_many_commands_go_in_parts(store: Store) -> None:
    made = [ApiKey(f"key-{number}", "shop", f"{number:064}", ()) for number in range(1200)]
    fields = [part for key in made for part in (key.sha256, msgspec.json.encode(key))]
    await store.link.call("HSET", keys.KEYRING, *fields)
    assert [key.sha256 for key in await store.keys.all()] == [
        key.sha256 for key in sorted(made, key=lambda key: key.name)
    ]
    parts = [len(part) async for part in store.link.values(keys.KEYRING)]
    assert len(parts) > 1
    trips: list[int] = []
    send = store.link._together

    async def together(commands: Sequence[Any], **more: Any) -> list[Any]:
        trips.append(len(commands))
        return await send(commands, **more)

    store.link._together = together  # type: ignore[method-assign]
    answers = await store.link.many([("GET", f"none-{number}") for number in range(2 * AT_ONCE)] + [("PING",)])
    assert answers == [None] * 2 * AT_ONCE + [answers[-1]]
    assert trips == [AT_ONCE, AT_ONCE, 1]


async def test_a_note_whose_answer_was_lost_counts_once(store: Store) -> None:
    slot = store.flow.slot
    first = FlowNote("process", "a", slot, {"shop": {"accepted": 3}, "news": {"accepted": 1}})
    for _ in range(2):
        await store.flow.note(first)
    await store.flow.note(FlowNote("other", "a", slot, {"shop": {"accepted": 4}}))
    await store.flow.note(first)
    await store.flow.note(FlowNote("process", "b", slot, {"shop": {"accepted": 5, "out:bulk": 1}}))
    assert await store.flow.read("shop", slot, slot) == {slot: {"accepted": 12, "out:bulk": 1}}
    assert await store.flow.read("news", slot - 6, slot + 6) == {slot: {"accepted": 1}}
    assert abs(slot * SLOT - moment() / 1000) < 3600
