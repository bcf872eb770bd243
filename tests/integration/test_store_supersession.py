"""Of pushes with the same `collapse` to one target the later one stays, whatever has to be sent again: over every
backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pushsvc.model.delivery import Arrival, Ended, Outcome, Retry, Unavailable, Unconfirmed, Verdict
from pushsvc.model.devices import Device
from pushsvc.model.push import Lane, Message, Push, Route, Target
from pushsvc.model.routing import path_name
from pushsvc.ports.entries import Taken, token_mark
from pushsvc.ports.letters import ReplaySpec
from pushsvc.store import Store, StoreConfig, keys

from .servers import Server
from .test_store_kit import (
    ROUTE,
    SENT,
    AnyStore,
    World,
    all_of,
    backend_server,
    make_push,
    moment,
    new_store,
    new_world,
    settlement,
    take,
    take_all,
)

BUSY = Unavailable(status=503)
FAILED = Ended("failed", dead_letter=True)
SHARDS = StoreConfig(shards=3)


def order_push(
    push_id: str, *, since: int | None = None, token: str = "t", collapse: str = "order-7", lane: Lane = "normal"
) -> Push:
    """One delivery of a message with `collapse`."""
    since = moment() if since is None else since
    message = Message("apns", b"{}", collapse=collapse, since=since)
    push = make_push(push_id, created_at=since, lane=lane)
    return msgspec.structs.replace(push, messages={"apns": message}, targets={"apns": (Target(0, token),)})


def to(push: Push, target: Target) -> Push:
    """The push, to this target."""
    return msgspec.structs.replace(push, targets={"apns": (target,)})


def broadcast(push: Push, others: int = 39) -> Push:
    """The push, to tokens of its own as well."""
    more = tuple(Target(index, f"{push.id}-{index}") for index in range(1, others + 1))
    return msgspec.structs.replace(push, targets={"apns": push.targets["apns"] + more})


async def settled(
    store: AnyStore, taken: Taken, verdict: Verdict | None = None, outcome: Outcome | None = SENT
) -> None:
    """All of the entry."""
    settlements, refs = all_of(taken, verdict, outcome)
    settlements = [msgspec.structs.replace(each, entry_id=taken.ref.entry_id) for each in settlements]
    for some, ended in ((settlements, []), ([], refs)):  # as where the last target needs no settlement
        await store.queue.settle("shop", some, ended)


async def sent(store: AnyStore, push: Push) -> None:
    """Accepted by us and by the provider."""
    await store.pushes.accept(push)
    for taken in await take(store, push.lane):
        await settled(store, taken)


async def places_of_waits(store: Store) -> int:
    """The number of places in which something waits."""
    names = [
        await store.link.call("KEYS", f"{keys.prefix('shop', shard)}w:*") for shard in range(SHARDS.shards_of("shop"))
    ]
    return sum(map(len, names))


async def waits(store: AnyStore, push: Push, verdict: Retry | Ended | None = None) -> None:
    """Accepted by us, and refused for the moment."""
    await store.pushes.accept(push)
    (taken,) = await take(store)
    await settled(store, taken, verdict or Retry(moment(), 2), BUSY)


async def due(store: AnyStore) -> Taken:
    """What comes back from its wait."""
    await store.queue.promote(ROUTE, moment() + 10_000)
    (taken,) = await take(store)
    return taken


def superseded(taken: Taken) -> bool:
    assert (taken.skip == {}) == (taken.why == {})
    assert not taken.skip or (taken.skip, taken.why) == ({0: "suppressed"}, {0: "superseded"})
    return bool(taken.skip)


async def test_what_waits_ends_once_a_later_one_was_accepted(server: Server | None) -> None:
    async with new_world(server, SHARDS) as world:
        first, second = await world.store("first"), await world.store("second")
        await waits(first, order_push("a"))
        await sent(second, order_push("b", since=moment() + 1))
        again = await due(first)
        assert superseded(again)
        end = settlement(again.chunk, 0, Ended("suppressed"), None, reason="superseded")
        await first.queue.settle("shop", [end], [again.ref])
        status = await second.pushes.status("shop", "a")
        assert status is not None
        assert (status.state, status.counts.suppressed) == ("done", 1)
        rows = await first.pushes.deliveries("shop", "a", outcome=None, cursor="", limit=9)
        assert rows is not None
        assert (rows[0][0].reason, rows[0][0].attempts) == ("superseded", 1)


async def test_what_is_in_flight_while_a_later_one_is_accepted_ends_as_well(server: Server | None) -> None:
    async with new_world(server, SHARDS) as world:
        store = await world.store()
        await store.pushes.accept(order_push("a"))
        (flying,) = await take(store)
        await sent(store, order_push("b", since=moment() + 1))
        await store.queue.settle("shop", [settlement(flying.chunk, 0, Retry(moment(), 2), BUSY)], [flying.ref])
        assert superseded(await due(store))


async def test_what_waits_in_another_lane_or_with_another_dispatcher_ends_as_well(world: World) -> None:
    holder, other = await world.store("holder"), await world.store("other")
    for store in (holder, other):
        await store.queue.enrol("shop")
    await holder.pushes.accept(order_push("held", lane="bulk"))
    (held,) = await take(holder, "bulk")
    assert not superseded(held)
    await holder.pushes.accept(order_push("in the lane", lane="bulk"))
    await sent(other, order_push("z", since=moment() + 1))
    (news,) = await holder.queue.revoked({"shop"}, 1000)
    assert news.revoked.tokens == {token_mark("t")}
    await holder.queue.settle("shop", [settlement(held.chunk, 0, Retry(moment(), 1), None)], [held.ref])
    await holder.queue.promote(ROUTE, moment())
    for _ in range(2):
        (taken,) = await take(other, "bulk", targets=1)
        assert superseded(taken)
        end = settlement(taken.chunk, 0, Ended("suppressed"), None, reason="superseded")
        await other.queue.settle("shop", [end], [taken.ref])
    if isinstance(other, Store):
        assert await other.link.call("KEYS", f"{keys.prefix('shop', 0)}w:*") == []


async def test_what_was_accepted_is_remembered_until_half_a_day_or_many_others_have_passed() -> None:
    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await sent(store, order_push("b", since=moment() + 1))
            for number, known in enumerate([True, True, False]):
                if number:
                    await store.link.call("HSET", keys.latest("shop", 0), "@", 1)
                    await sent(store, order_push(f"another{number}", token="u"))
                await store.pushes.accept(order_push(f"a{number}"))
                (taken,) = await take(store)
                assert superseded(taken) == known
                await store.queue.settle("shop", [settlement(taken.chunk, 0, Ended("expired"), None)], [taken.ref])
            assert await store.link.call("KEYS", f"{keys.prefix('shop', 0)}w:*") == []


@pytest.mark.parametrize("many", [False, True])
async def test_what_was_accepted_before_the_clock_was_set_back_ends_nothing_later(many: bool) -> None:
    """Neither until the clock has caught up with it, nor then, once something later was accepted."""
    now, hour = moment(), 3_600_000
    with backend_server("redis") as server:
        config = StoreConfig(consumer="a", shards=3)
        assert server is not None
        async with new_store(server, config, clock=lambda: now) as store:
            now += hour
            await sent(store, order_push("z", since=now))
            now -= hour
            push = order_push("b", since=now)
            await store.pushes.accept(broadcast(push) if many else push)
            (taken,) = await take(store)
            assert not superseded(taken)
            await settled(store, taken, Retry(now, 2), BUSY)
            await sent(store, order_push("c", since=now + 1))
            assert superseded(await due(store))
            now += hour
            await store.pushes.accept(order_push("d", since=now - hour + 2))
            (taken,) = await take(store)
            assert not superseded(taken)


@pytest.mark.parametrize("many", [False, True])
async def test_what_was_sent_to_another_device_before_the_clock_was_set_back_hides_nothing(many: bool) -> None:
    now, hour = moment(), 3_600_000
    with backend_server("redis") as server:
        assert server is not None
        async with new_store(server, StoreConfig(consumer="a"), clock=lambda: now) as store:
            push = order_push("b", since=now - 1, lane="bulk")
            await store.pushes.accept(broadcast(push) if many else push)
            await store.pushes.accept(order_push("a", since=now - 2))
            (flying,) = await take(store)
            await sent(store, order_push("c", since=now))
            now += hour
            await sent(store, order_push("z", since=now, token="other"))
            now -= hour
            if not many:
                await settled(store, flying)
            (taken,) = await take(store, "bulk")
            assert superseded(taken)


async def test_what_is_sent_again_after_the_clock_was_set_back_hides_nothing() -> None:
    """Its time is still to come. What was accepted since then stays known, and it ends as soon as it waits no more."""
    now, hour = moment(), 3_600_000
    with backend_server("redis") as server:
        assert server is not None
        async with new_store(server, StoreConfig(consumer="a"), clock=lambda: now) as store:
            await store.pushes.accept(order_push("a"))
            (flying,) = await take(store)
            await sent(store, order_push("z", since=now + hour))
            await settled(store, flying, Retry(now, 2), BUSY)
            again = await due(store)
            assert not superseded(again)
            await sent(store, order_push("b", since=now + 1))
            await settled(store, again, Retry(now, 2), BUSY)
            await sent(store, order_push("y", since=now + hour))
            last = await due(store)
            assert superseded(last)
            await settled(store, last, Ended("suppressed"), None)
            assert await places_of_waits(store) == 0


async def test_what_is_taken_over_ends_as_well(world: World) -> None:
    killed, other = await world.store("killed"), await world.store("other")
    await killed.pushes.accept(order_push("a"))
    (flying,) = await take(killed)
    await sent(other, order_push("b", since=moment() + 1))
    await world.kill("killed")
    (again,) = await other.queue.reclaim(ROUTE)
    assert again.chunk == flying.chunk
    assert superseded(again)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: order_push("b", since=moment() + 1, token="u"), id="another token"),
        pytest.param(lambda: order_push("b", since=moment() + 1, collapse="order-8"), id="another collapse"),
        pytest.param(lambda: order_push("b", since=moment() - 1), id="an earlier one"),
        pytest.param(lambda: order_push("9", since=moment()), id="an earlier id of the same instant"),
        pytest.param(
            lambda: msgspec.structs.replace(order_push("b", since=moment() + 1), dry_run=True), id="a dry run"
        ),
    ],
)
async def test_nothing_else_supersedes(server: Server | None, other: Callable[[], Push]) -> None:
    async with new_world(server, SHARDS) as world:
        store = await world.store()
        await waits(store, order_push("a"))
        await sent(store, other())
        assert not superseded(await due(store))


async def test_a_later_one_that_was_not_accepted_supersedes_nothing(world: World) -> None:
    store = await world.store()
    await waits(store, order_push("a"))
    await waits(store, order_push("b", since=moment() + 1), FAILED)
    assert not superseded(await due(store))


async def test_what_was_accepted_itself_goes_again_where_that_was_not_recorded(world: World) -> None:
    store = await world.store()
    await waits(store, order_push("a"))
    again = await due(store)
    assert not superseded(again)
    # Its acceptance is recorded before its end, and a process may die in between: nothing is behind itself.
    other = msgspec.structs.replace(again.chunk, turn=7)
    assert len(await store.queue.settle("shop", [settlement(other, 0)], [])) == 0
    store.queue.forget([again.ref])
    (again,) = await take(store)
    assert not superseded(again)


async def test_who_holds_what_has_been_superseded_is_notified(world: World) -> None:
    holder, other = await world.store("holder"), await world.store("other")
    for store in (holder, other):
        await store.queue.enrol("shop")
    await waits(holder, order_push("a"))
    held = await due(holder)
    assert not superseded(held)
    await sent(other, order_push("b", since=moment() + 1))
    (news,) = await holder.queue.revoked({"shop"}, 1000)
    assert news.revoked.tokens == {token_mark("t")}
    # It gives back what it holds, as a retry, and finds why as it takes it again.
    await holder.queue.settle("shop", [settlement(held.chunk, 0, Retry(moment(), 2), None)], [held.ref])
    assert superseded(await due(holder))
    if isinstance(other, Store):  # the store in memory revokes more than it must
        await sent(other, order_push("c", since=moment() + 2))
        assert await holder.queue.revoked({"shop"}, 1) == []


async def test_what_a_device_has_acknowledged_stands_for_accepted(server: Server | None) -> None:
    """Both were left to the provider, since nobody was there; the device comes and shows the later one."""
    async with new_world(server, SHARDS) as world:
        store = await world.store()
        await store.registry.put_many("shop", [Device(id="phone", platform="apns", token="t")])
        for number, name in enumerate("ab"):
            push = order_push(name, since=moment() + number)
            live = Message("live", b"{}", collapse="order-7", since=moment() + number)
            target = Target(0, "t", "phone")
            push = msgspec.structs.replace(
                push, messages=push.messages | {"live": live}, targets={path_name("apns", ("live", "apns")): (target,)}
            )
            await store.pushes.accept(push)
            (taken,) = await take_all(store, route=Route("shop", "live"))
            settled = settlement(taken.chunk, 0, Retry(moment(), 1, channel="apns"), Unconfirmed())
            await store.queue.settle("shop", [settled], [taken.ref])
        arrival = Arrival("b", 0, 1, "normal", "apns", "phone", moment(), collapse="order-7", since=moment() + 1)
        assert await store.queue.arrived("shop", [arrival]) == 1
        (left,) = await take_all(store)
        assert (left.chunk.push_id, superseded(left)) == ("a", True)


async def test_a_dead_letter_that_is_replayed_is_no_later_one() -> None:
    with backend_server("valkey") as server:
        async with new_world(server, SHARDS) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await waits(store, order_push("a"), FAILED)
            await sent(store, order_push("b", since=moment() + 1))
            job = (await store.dead.request(ReplaySpec("shop"))).job
            while not (await store.dead.step("shop", job, most=10)).over:
                pass
            (taken,) = await take(store)
            assert superseded(taken)


@pytest.mark.parametrize("forgotten", [False, True], ids=["at once", "minutes later"])
async def test_a_device_has_one_place_by_its_old_and_its_new_token(server: Server | None, forgotten: bool) -> None:
    """A push that waited for the old token would be sent to the new one, behind a later push that is there already."""
    async with new_world(server, SHARDS) as world:
        store = await world.store()
        phone = Device(id="phone", platform="apns", token="t", registered_at=moment())
        for newest in ("at the new token", "at the old token"):
            later = newest == "at the new token"
            token, name = ("u", "new") if later else ("v", "old")
            await store.registry.put("shop", phone)
            old, new = (Target(0, each, "phone") for each in (phone.token, token))
            await waits(store, to(order_push(f"a-{name}", collapse=name), old))
            if not later:
                await sent(store, to(order_push(f"b-{name}", since=moment() + 1, collapse=name), old))
            phone = msgspec.structs.replace(phone, token=token)
            await store.registry.put("shop", phone)
            if later:
                await sent(store, to(order_push(f"b-{name}", since=moment() + 1, collapse=name), new))
            if forgotten and isinstance(store, Store):
                for shard in range(SHARDS.shards_of("shop")):
                    await store.link.call("DEL", keys.latest("shop", shard), keys.latest_before("shop", shard))
            again = await due(store)
            assert [target.token for target in again.chunk.targets] == [token]
            assert superseded(again), newest
            end = settlement(again.chunk, 0, Ended("suppressed"), None, reason="superseded")
            await store.queue.settle("shop", [end], [again.ref])


async def test_what_a_step_costs_does_not_grow_with_what_waits() -> None:
    """Thousands of pushes with one `collapse` to one device: none of them reads the others."""

    def orders(digest: str, first: int, count: int, *span: int) -> list[str | int]:
        found: list[str | int] = []
        for number in range(first, first + count):
            found += (digest, f"{number:014d}p", *span)
        return found

    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            names = [keys.latest("shop", 0), keys.latest_before("shop", 0)]

            async def spent_on(*lists: list[Any]) -> int:
                """The microseconds of the server for one step."""
                arguments = [keys.prefix("shop", 0), moment(), msgspec.msgpack.encode([*lists, ["a"]]), "a"]
                await store.link.call("CONFIG", "RESETSTAT")
                await store.link.script("supersede", names, arguments)
                stats = await store.link.call("INFO", "commandstats")
                return max(int(each["usec"]) for name, each in stats.items() if name.startswith("cmdstat_evalsha"))

            async def accepted(digest: str, number: int) -> int:
                order = orders(digest, number, 1)[1]
                return await spent_on([("of a collapse", order, [digest])], [], orders(digest, number + 1, 1))

            for first in range(0, 20_000, 1000):
                await spent_on([], orders("many", first, 1000, 60_000), [])
            await spent_on([], orders("few", 0, 40, 60_000), [])
            spent = {digest: min([await accepted(digest, n) for n in range(0, 40, 2)]) for digest in ("few", "many")}
            assert spent["many"] < 10 * spent["few"], spent


# --- broadcasts -----------------------------------------------------------------------------------


SIZES = pytest.mark.parametrize(("older", "newer"), [(0, 39), (39, 0), (39, 39)], ids=["newer", "older", "both"])
"""How many targets of its own each of two pushes has beside one that they share."""


@SIZES
async def test_a_broadcast_that_waits_in_a_lane_ends_where_a_later_push_was_accepted(
    older: int, newer: int, server: Server | None
) -> None:
    async with new_world(server, SHARDS) as world:
        store = await world.store()
        await store.pushes.accept(broadcast(order_push("a", lane="bulk"), older))
        await sent(store, broadcast(order_push("b", since=moment() + 1), newer))
        (taken,) = await take(store, "bulk")
        assert superseded(taken)
        await settled(store, taken)
        await sent(store, broadcast(order_push("c", since=moment() + 2), older))
        if isinstance(store, Store):
            assert await places_of_waits(store) == 0


@SIZES
async def test_who_holds_a_broadcast_is_notified_of_a_later_push(older: int, newer: int, world: World) -> None:
    holder, other = await world.store("holder"), await world.store("other")
    for store in (holder, other):
        await store.queue.enrol("shop")
    await holder.pushes.accept(broadcast(order_push("a", lane="bulk"), older))
    (held,) = await take(holder, "bulk")
    assert not superseded(held)
    for number, name in enumerate("bc", 1):
        await sent(other, broadcast(order_push(name, since=moment() + number), newer))
        (news,) = await holder.queue.revoked({"shop"}, 1000)
        assert token_mark("t") in news.revoked.tokens
        assert not news.revoked.tokens & {token_mark(f"a-{index}") for index in range(1, older + 1)}
    await settled(holder, held, Retry(moment(), 2), None)
    if isinstance(other, Store):  # what waits for its time is with nobody
        await sent(other, broadcast(order_push("d", since=moment() + 3), newer))
        assert await holder.queue.revoked({"shop"}, 1) == []


@SIZES
async def test_a_broadcast_that_is_retried_ends_however_much_later(
    older: int, newer: int, server: Server | None
) -> None:
    async with new_world(server, SHARDS) as world:
        store = await world.store()
        await waits(store, broadcast(order_push("a"), older))
        await sent(store, broadcast(order_push("b", since=moment() + 1), newer))
        if isinstance(store, Store):
            for shard in range(SHARDS.shards_of("shop")):
                await store.link.call("DEL", keys.latest("shop", shard), keys.latest_before("shop", shard))
        again = await due(store)
        assert len(again.chunk.targets) == 1 + older
        assert superseded(again)
        await settled(store, again)
        if isinstance(store, Store):
            assert await places_of_waits(store) == 0


async def test_a_broadcast_waits_in_one_place_until_its_last_entry_ends() -> None:
    config = msgspec.structs.replace(SHARDS, chunk_size=30)
    with backend_server("redis") as server:
        async with new_world(server, config) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await store.queue.enrol("shop")
            await sent(store, broadcast(order_push("0", since=moment() - 1)))
            await store.pushes.accept(broadcast(order_push("a")))
            taken = await take(store)
            assert len(taken) == 2
            assert await places_of_waits(store) == SHARDS.shards_of("shop")
            for number, (each, notified) in enumerate(zip(taken, (1, 0), strict=True), 1):
                await settled(store, each)
                await sent(store, order_push(f"b{number}", since=moment() + number))
                assert len(await store.queue.revoked({"shop"}, 1)) == notified
            assert await places_of_waits(store) == 0


@pytest.mark.parametrize("others", [0, 39])
@pytest.mark.parametrize("ending", ["sent", "retried", "failed"])
async def test_a_late_answer_leaves_its_successor_to_notify(others: int, ending: str, server: Server | None) -> None:
    """A dispatcher was thought dead, and another one has its entry by now."""
    verdicts: dict[str, Verdict] = {"retried": Retry(moment(), 2), "failed": FAILED}
    verdict = verdicts.get(ending)
    async with new_world(server, SHARDS) as world:
        late, heir = await world.store("late"), await world.store("heir")
        await heir.queue.enrol("shop")
        await late.pushes.accept(broadcast(order_push("a"), others))
        (before,) = await take(late)
        await world.kill("late")
        (after,) = await heir.queue.reclaim(ROUTE)
        await settled(late, before, verdict, None if verdict else SENT)
        await sent(late, order_push("b", since=moment() + 1))
        if verdict or isinstance(heir, Store):  # the twin sees that all of the entry has ended
            (news,) = await heir.queue.revoked({"shop"}, 1000)
            assert token_mark("t") in news.revoked.tokens
        await settled(heir, after, Ended("suppressed"), None)
        if isinstance(heir, Store) and not verdict:
            assert await places_of_waits(heir) == 0


async def test_messages_without_collapse_leave_nothing() -> None:
    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            plain = order_push("a", collapse="")
            await waits(store, plain)
            await sent(store, order_push("b", since=moment() + 1, collapse=""))
            assert not superseded(await due(store))
            assert await store.link.call("KEYS", f"{keys.prefix('shop', 0)}latest*") == []
            assert await store.link.call("KEYS", f"{keys.prefix('shop', 0)}w:*") == []
