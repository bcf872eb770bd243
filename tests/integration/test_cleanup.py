"""Cleanup over real servers: what goes and what stays, counted before and after; races, steps, a cluster."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
from msgspec import structs

from pushsvc.jobs import Context, functions
from pushsvc.model.delivery import BadNotification, Ended
from pushsvc.model.rates import Rate
from pushsvc.ports.cleanup import ClocksApart
from pushsvc.ports.limits import Bucket
from pushsvc.ports.registry import PrunedFilter
from pushsvc.runtime.providers import addresses
from pushsvc.runtime.reload import Current
from pushsvc.settings.schema import AppSettings, Settings
from pushsvc.stages.cleanup import LOCK, clean, sweeps
from pushsvc.store import Store, keys, open_store, wall_clock
from pushsvc.store.cleanup.cleanups import RedisCleanups
from pushsvc.store.registry.orphans import Orphans
from pushsvc.store.registry.wire import Digests
from pushsvc.store.revoke.suppression import ERASED_AT, ERASING_AT

from .cleanup_rig import (
    AGES,
    CONFIG,
    DAY,
    Removed,
    dump,
    index_key,
    make_aged,
    make_bystanders,
    make_devices,
    make_orphans,
    make_statuses,
    numbered,
    pack,
    run,
    tombstone,
)
from .registry_audit import audit
from .servers import KINDS, Server, running_server
from .test_registry import device
from .test_store_kit import ROUTE, World, make_push, moment, new_world, settlement, take

BACKENDS = KINDS


def unlived(kept: dict[bytes, Any]) -> dict[bytes, Any]:
    """Without the signs of life, which come and go by themselves."""
    return {name: value for name, value in kept.items() if not name.startswith(b"ps:alive:")}


async def open_real(world: World) -> Store:
    store = await world.store()
    assert isinstance(store, Store)
    return store


async def test_what_has_outlived_its_use_goes_and_the_dry_run_knew_it(server: Server) -> None:
    async with new_world(server, CONFIG) as world:
        store = await open_real(world)
        expected: Removed = Counter()
        for app in ("shop", "news"):
            for make in (make_devices, make_orphans, make_aged, make_statuses):
                expected += await make(store, app)
        await make_bystanders(store)
        before = await dump(store)
        assert await run(store, dry_run=True, apps=("shop", "news")) == expected
        assert unlived(await dump(store)) == unlived(before)
        assert await run(store, apps=("shop", "news")) == expected
        for app in ("shop", "news"):
            left = Counter(each.id.partition("-")[0] for each in (await audit(store, app)).values())
            assert left == {"good": 40, "stale": 5, "suspect": 4, "young": 2, "witness": 1}
        after = await dump(store)
        untouched = ("quarantine", "receipts", "failed", "under-way", "good", "elsewhere", "somebody", "q:", "pending")
        for name, value in before.items():
            if any(part in name.decode() for part in untouched):
                assert after[name] == value, name
            if "under-way" in name.decode():
                assert await store.link.call("PTTL", name) == -1, name
        assert await run(store, dry_run=True, apps=("shop", "news")) == Counter()
        assert await run(store, apps=("shop", "news")) == Counter()


async def test_what_is_left_lives_for_a_while_again(server: Server) -> None:
    async with new_world(server, CONFIG) as world:
        store = await open_real(world)
        await make_statuses(store)
        await run(store)
        names = [name for name in await dump(store) if name not in (b"ps:hash_key", b"ps:format")]
        assert names
        lifetimes = await store.link.many([("PTTL", name) for name in names])
        assert all(0 < left <= 30 * 86_400_000 for left in lifetimes), dict(zip(names, lifetimes, strict=True))
        young = await store.link.call("PTTL", "ps:{shop.0}:p:young")
        assert 0.9 * 86_400_000 < young <= 86_400_000
        assert await store.link.call("PTTL", "ps:{shop.0}:b:young") == pytest.approx(young, abs=1000)


async def test_no_new_lifetime_ends_before_the_use_of_its_key(server: Server) -> None:
    """The content of a push that is due in a year, and the counts of rate limits over some weeks."""
    async with new_world(server, CONFIG) as world:
        store = await open_real(world)
        later = make_push("later", 40, send_at=moment() + 366 * DAY)
        await store.pushes.accept(later)
        await store.limiter.admit(ROUTE, Rate(2, 40 * 86400), ["token"])
        await store.limiter.admit(ROUTE, Rate(2, 40 * 86400), ["token"])
        await store.limiter.lease(Bucket("shop.0", "app", Rate(2, 40 * 86400), burst=40 * 86400.0), 2)
        names = [name for name in await dump(store) if any(part in name for part in (b":v:", b":lim:", b":bucket:"))]
        before = await store.link.many([("PTTL", name) for name in names])
        assert len(names) == 4
        assert min(before) > 19 * DAY
        await store.link.many([("PERSIST", name) for name in names])
        await run(store)
        after = await store.link.many([("PTTL", name) for name in names])
        place = names.index(keys.content("shop", 0, "later").encode())
        before.pop(place)
        assert after.pop(place) == -1
        assert all(left > span - DAY for left, span in zip(after, before, strict=True))
        await store.pushes.cancel("shop", "later")
        await run(store)
        assert keys.content("shop", 0, "later").encode() not in await dump(store)


async def test_much_goes_in_many_small_steps(server: Server) -> None:
    async with new_world(server, CONFIG) as world:
        store = await open_real(world)
        expected = await make_devices(store, times=60) + await make_aged(store, many=1300)
        call = store.link.call
        lost = list(range(900_000, 902_000))
        # A dense container, two sparse ones, and one behind a gap.
        bitmap = bytearray(512)
        for n in lost:
            bitmap[n % 4096 // 8] |= 0x80 >> n % 8
        await call("HSET", keys.topic("shop", "lost"), "219", bytes(bitmap), "#", 2400)
        for number in (220, 222, 4000):
            await call("HSET", keys.topic("shop", "lost"), str(number), pack(*range(100)))
        await store.link.many([("ZADD", keys.tombstones("shop", "fcm:lost"), 1, n) for n in lost])
        orphans = sum(bin(byte).count("1") for byte in bitmap) + 300 + len(lost)
        expected += Counter({("shop", "orphans"): orphans})
        steps: list[int] = []
        for dry_run in (True, False):
            plan = sweeps(
                store.registry, store.leftovers, store.live, ["shop"], AGES, clock=lambda: moment(), dry_run=dry_run
            )

            async def note(progress: Any) -> None:
                steps.append(sum(progress.removed.values()))
                assert 0 <= progress.done <= 1

            assert Counter((await clean(plan, share=1.0, after=note)).removed) == expected
        assert max(steps) <= 1300  # a dry run counts a sorted set at once; nothing else takes more than a page
        assert sum(1 for step in steps if step >= 500) >= 10
        await audit(store)


async def test_what_becomes_right_meanwhile_is_left_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the step: the lost id is registered, the device that an entry was not about becomes it."""
    async with new_world(server, CONFIG) as world:
        store = await open_real(world)
        await make_orphans(store)
        script = store.link.script
        digest = Digests(store.hash_key, store.config.addresses).of("lost")

        async def late(name: str, names: Any, args: Any) -> Any:
            if name == "registry_repair" and not raced:
                raced.append(True)
                assert await store.registry.remove("shop", "witness")
                await store.registry.put("shop", device("lost"))
            return await script(name, names, args)

        raced: list[bool] = []
        monkeypatch.setattr(store.link, "script", late)
        await run(store)
        assert raced
        ordinals = {name: n for n, name in (await numbered(store, "shop")).items()}
        place = (index_key("shop", "i", digest), digest[2:])
        assert int(await store.link.call("HGET", *place)) == ordinals["lost"]
        assert await store.registry.get("shop", "lost") == device("lost")
        await run(store)
        await audit(store)


async def test_a_device_that_is_seen_meanwhile_stays(server: Server) -> None:
    async with new_world(server, CONFIG) as world:
        store = await open_real(world)
        await make_devices(store)
        fresh = device("stale-0-0", platform="fcm", last_seen_at=moment(), registered_at=moment())
        page = await store.registry.scan("shop", after="", limit=1000)
        await store.registry.put("shop", fresh)

        class Behind:
            """A registry whose page was read before the device was seen."""

            revise = store.registry.revise

            async def scan(self, app: str, *, after: str, limit: int) -> Any:
                return page

        plan = sweeps(Behind(), store.leftovers, store.live, ["shop"], AGES, clock=lambda: moment(), dry_run=False)  # type: ignore[arg-type]  # all that is asked of it
        assert (await clean(plan, share=1.0)).removed[("shop", "stale")] == 4
        assert await store.registry.get("shop", "stale-0-0") == fresh


async def test_one_holds_the_lock_until_it_lets_go_or_is_gone(world: World) -> None:
    locks = (await open_real(world)).locks
    assert await locks.hold(LOCK, "a", lease=30.0)
    assert not await locks.hold(LOCK, "b", lease=30.0)
    await locks.release(LOCK, "b")
    assert await locks.holder(LOCK) == "a"
    assert await locks.hold(LOCK, "a", lease=0.05)
    while not await locks.hold(LOCK, "b", lease=30.0):
        await asyncio.sleep(0.01)
    assert not await locks.hold(LOCK, "a", lease=30.0)
    await locks.release(LOCK, "a")
    assert await locks.holder(LOCK) == "b"


async def test_it_is_held_for_as_long_as_its_owner_lives(world: World) -> None:
    store = await open_real(world)
    locks = store.locks
    async with locks.held(LOCK, lease=2.0) as lost:
        assert lost is not None
        async with locks.held(LOCK, lease=2.0) as other:
            assert other is None
        left = 2000
        while (now := await store.link.call("PTTL", keys.lock(LOCK))) <= left:  # until it was renewed
            left = now
            await asyncio.sleep(0.01)
        assert not lost()
        await store.link.call("DEL", keys.lock(LOCK))  # as if the lease had run out
        assert await locks.hold(LOCK, "b", lease=30.0)
        while not lost():
            await asyncio.sleep(0.01)
    assert await locks.holder(LOCK) == "b"


async def test_the_record_counts_the_run_and_all_runs(world: World) -> None:
    cleanups: RedisCleanups = (await open_real(world)).cleanups
    assert (await cleanups.record()).place is None
    await cleanups.request()
    await cleanups.note({("shop", "stale"): 2, ("shop", "orphans"): 1}, place="shop devices\n3")
    await cleanups.request()  # one is under way
    record = await cleanups.record()
    assert (record.place, record.ended_at) == ("shop devices\n3", 0)
    assert record.removed == record.total == {("shop", "stale"): 2, ("shop", "orphans"): 1}
    await cleanups.note({("shop", "stale"): 5})  # another, from the shell
    await cleanups.finish({("shop", "stale"): 5})
    record = await cleanups.record()
    assert record.place is None
    assert record.removed == {("shop", "stale"): 5}
    assert record.total == {("shop", "stale"): 7, ("shop", "orphans"): 1}
    assert record.ended_at >= record.began_at > 0


async def test_the_next_one_is_due_by_the_record_and_not_by_a_lock(server: Server) -> None:
    """A lock for the whole period outlives the process that took it, and a shorter period of a later start."""

    server.flush()

    now = [wall_clock()]
    async with open_store(server.url, CONFIG, clock=lambda: now[0]) as store:

        async def due(every: float) -> bool:
            await store.cleanups.request(every=every)
            found = (await store.cleanups.record()).place is not None
            await store.cleanups.give_up()
            return found

        assert await due(86400.0)
        now[0] += 3_600_000
        assert not await due(86400.0)
        assert await due(3600.0)  # after a restart with another period
        now[0] -= 60_000
        assert await due(86400.0)  # one of the future was begun by a wrong clock


@pytest.mark.parametrize("apart", [-400 * 86_400_000, -61_000, -30_000, 0, 30_000, 61_000, 400 * 86_400_000])
async def test_redis_clock_decides_and_a_wrong_one_removes_nothing(server: Server, apart: int) -> None:
    """What a cleanup removes is gone for good: one machine's clock is not enough for it."""

    server.flush()

    async with open_store(server.url, CONFIG, clock=lambda: wall_clock() + apart) as store:
        devices = [device(f"d{n}", platform="fcm", last_seen_at=wall_clock()) for n in range(40)]
        await store.registry.put_many("shop", devices)
        if abs(apart) > 60_000:
            with pytest.raises(ClocksApart, match="nothing is cleaned up before they agree"):
                await store.cleanups.clock()
        else:
            clock = await store.cleanups.clock()
            assert abs(clock() - wall_clock()) < 5_000
            plan = sweeps(store.registry, store.leftovers, store.live, ["shop"], AGES, clock=clock, dry_run=False)
            assert (await clean(plan, share=1.0)).removed == {}
        # And `pushsvc jobs` leaves it at a line in the log, until the next one is due.
        settings = structs.replace(Settings(), apps={"shop": AppSettings(name="shop")})
        await store.cleanups.request()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functions, "connect", lambda url, settings: nullcontext(store))
            await functions.cleanup(Context(Current(settings), server.url))
        assert [each.state for each in (await store.registry.scan("shop", after="", limit=100)).devices] == [
            "active"
        ] * 40
        record = await store.cleanups.record()
        assert record.place is None or abs(apart) <= 60_000
        assert record.ended_at == 0 or abs(apart) <= 60_000


@pytest.mark.parametrize("ahead", [400 * 86_400, -400 * 86_400])
async def test_what_is_removed_with_a_write_goes_by_redis_clock(
    server: Server, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters, events, suppressions, marks, revocations and cancelled pushes lose what is old when one is added:
    a machine whose clock is a year off must neither remove what the others wrote, nor keep its own forever."""

    async def write(name: str) -> None:
        async with open_store(server.url, structs.replace(CONFIG, consumer=name)) as store:
            for push in (f"failed-{name}", f"open-{name}"):
                await store.pushes.accept(make_push(push, created_at=store.clock()))
            for taken in await take(store):
                if taken.chunk.push_id == f"failed-{name}":
                    failed = settlement(taken.chunk, 0, Ended("failed", True), BadNotification(status=400))
                    await store.queue.settle("shop", [failed], [taken.ref])
            await store.suppressions.add("shop", [("apns", f"dead-{name}", store.clock())])
            await store.registry.put("shop", device(name, user="ann", last_seen_at=store.clock()))
            await store.registry.remove("shop", name)
            await store.pushes.cancel("shop", f"open-{name}")

    async def kept() -> dict[str, int]:
        async with open_store(server.url, CONFIG) as store:
            call = store.link.call
            return {
                "dead letters": await call("XLEN", keys.dead("shop", 0)),
                "suppressed": await call("ZCARD", keys.suppressed("shop", 0, "apns")),
                "moved": await call("ZCARD", keys.moved("shop", 0, "apns")),
                "revoked": await call("XLEN", keys.revoked("shop", 0)),
                "cancelled": await call("ZCARD", keys.cancelled("shop", 0)),
            }

    server.flush()

    await write("right")
    before = await kept()
    assert all(before.values()), before
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + ahead * 1_000_000_000)
    await write("wrong")
    monkeypatch.undo()
    assert await kept() == {name: 2 * count for name, count in before.items()}
    async with open_store(server.url, CONFIG) as store:
        for key in (keys.suppressed("shop", 0, "apns"), keys.moved("shop", 0, "apns")):
            scores = (await store.link.call("ZRANGE", key, 0, -1, "WITHSCORES"))[1::2]
            assert all(abs(float(score) / 1000 - time.time()) < 60 for score in scores), key


@pytest.mark.parametrize("index", ["topic", "label"])
async def test_an_orphan_is_found_although_the_index_shrinks_before_it(index: str, world: World) -> None:
    """After the first step a hundred entries before the orphan go."""
    store = await open_real(world)
    call, pruned_for = store.link.call, PrunedFilter(platform="apns", reason="Unregistered")
    if index == "topic":
        devices = [device(f"d{n}", topics=("news",) if n != 150 else ()) for n in range(250)]
    else:
        devices = [tombstone(f"d{n}", days=1) if n != 150 else device("d150") for n in range(250)]
        devices = [structs.replace(each, pruned_at=each.pruned_at and moment() + n) for n, each in enumerate(devices)]
    await store.registry.put_many("shop", devices)
    ordinals = {name: n for n, name in (await numbered(store, "shop")).items()}
    if index == "topic":
        assert max(ordinals.values()) < 4096
        await call("HSET", keys.topic("shop", "news"), "0", pack(*sorted(ordinals.values())), "#", 250)
    else:
        await call("ZADD", keys.tombstones("shop", "apns:Unregistered"), moment() + 150, ordinals["d150"])
        await call("HINCRBY", keys.tombstones("shop"), "apns:Unregistered", 1)
    orphans = Orphans(store.link, store.hash_key, addresses())
    position: str | None = ""
    removed, steps = 0, 0
    while position is not None:
        if index == "topic":
            found, position = await orphans.in_topic("shop", "news", position, dry_run=False)
        else:
            found, position = await orphans.of_label("shop", "apns:Unregistered", position, dry_run=False)
        removed, steps = removed + found, steps + 1
        if steps == 1 and index == "topic":
            for name in sorted(ordinals, key=ordinals.__getitem__)[:100]:
                assert await store.registry.unsubscribe("shop", "news", name)
        elif steps == 1:
            assert await store.registry.restore("shop", pruned_for, limit=100) == 100
    assert steps > 1
    assert removed == 1


async def test_a_mark_that_no_erasure_names_is_ended(world: World) -> None:
    """An erasure ended, and its token stayed marked. Two others are under way, and one has not recorded its token."""
    store = await open_real(world)
    left, named, new = (device(name, user=name) for name in ("left", "named", "new"))
    await store.erasures.record("shop", "named", [named])
    scores = {}
    for each, age in ((left, -3_600_000), (named, -3_600_000), (new, 0)):
        shard, digest = store.suppressions.locate("shop", each.token)
        scores[digest] = ERASING_AT + moment() + age
        await store.link.call("ZADD", keys.suppressed("shop", shard, "apns"), scores[digest], digest)

    async def changed() -> list[bytes]:
        key = keys.suppressed("shop", 0, "apns")
        found = {digest: float(await store.link.call("ZSCORE", key, digest)) for digest in scores}
        return [digest for digest, score in scores.items() if found[digest] != score]

    await run(store, dry_run=True)
    assert await changed() == []
    await run(store)
    shard, digest = store.suppressions.locate("shop", left.token)
    assert await changed() == [digest]
    score = await store.link.call("ZSCORE", keys.suppressed("shop", shard, "apns"), digest)
    assert float(score) == ERASED_AT + moment() + 1
    await store.link.call("HSET", keys.erase("shop"), "newer", b"\xff")  # an erasure that only a newer version can read
    await store.link.call("ZADD", keys.suppressed("shop", shard, "apns"), scores[digest], digest)
    await run(store)
    assert await changed() == []


async def test_on_a_cluster() -> None:
    with running_server("valkey", tcp=True, cluster=True) as server:
        url = server.url.replace("redis://", "redis+cluster://")
        async with open_store(url, CONFIG) as store:
            expected: Removed = Counter()
            for app in ("shop", "news"):
                for make in (make_devices, make_orphans, make_aged, make_statuses):
                    expected += await make(store, app)
            for dry_run in (True, False):
                assert await run(store, dry_run=dry_run, apps=("shop", "news")) == expected
            assert await run(store, apps=("shop", "news")) == Counter()
            assert abs((await store.cleanups.clock())() - wall_clock()) < 5_000
