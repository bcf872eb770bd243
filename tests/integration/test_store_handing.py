"""What a process accepts is handed to its own dispatcher: read in the step that writes it, judged like what is taken,
and found again where it is lost. Over every backend; what only servers show is at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from redis import exceptions as faults

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Ended, Retry, TokenDead, Unavailable
from pushsvc.model.push import LANES, Lane, Route
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.entries import Taken
from pushsvc.ports.queue import Offer
from pushsvc.store import Store, StoreConfig, keys, open_store
from pushsvc.store.link.direct import Direct
from pushsvc.store.link.link import Command, Link, ScriptCall
from pushsvc.store.link.scripts import load

from .servers import Server, running_server
from .test_store_kit import NOW, ROUTE, AnyStore, World, all_of, counts, make_push, play, settlement, take, take_all

FCM = Route("shop", "fcm")


class Dispatcher:
    """A route that receives what its process accepts, and has room for a number of targets in each lane."""

    def __init__(self, store: AnyStore, *, room: int, route: Route = ROUTE) -> None:
        self.room = room
        self.taken: list[Taken] = []
        self.faults: list[StoreUnavailable] = []
        self.asked: list[Lane] = []
        self._store = store
        self._route = route
        self._came = asyncio.Event()

    def offer(self, lane: Lane) -> Offer | None:
        self.asked.append(lane)
        return Offer(self.room, self._admit) if self.room else None

    def _admit(self, taken: list[Taken]) -> None:
        self.taken += taken
        self._came.set()

    async def run(self) -> None:
        with self._store.queue.receiving(self._route, self.offer) as receive:
            while True:
                try:
                    await receive()
                except StoreUnavailable as error:
                    self.faults.append(error)

    async def until(self, count: int) -> list[Taken]:
        """Wait until this number of entries was received, and return and forget them."""
        while len(self.taken) < count:
            self._came.clear()
            await self._came.wait()
        taken, self.taken = self.taken, []
        return taken


@asynccontextmanager
async def receiving(
    store: AnyStore, *, room: int = 10_000, route: Route = ROUTE, lanes: Sequence[Lane] = LANES
) -> AsyncIterator[Dispatcher]:
    """A dispatcher in this process, which has looked for what it has missed in these lanes."""
    for lane in lanes:
        assert await take(store, lane, route=route) == []
    own = Dispatcher(store, room=room, route=route)
    running = asyncio.create_task(own.run())
    await asyncio.sleep(0)
    try:
        yield own
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def bury(store: AnyStore, name: str, targets: int) -> None:
    """Let the tokens of a push be known as dead."""
    await store.pushes.accept(make_push(name, targets))
    for taken in await take_all(store):
        ends = all_of(taken, Ended("invalid"), TokenDead(status=410, reason="Unregistered"))
        await store.queue.settle("shop", *ends)
    found = await store.receipts.take("shop", limit=1000, wait_ms=0)
    events = [FeedbackEvent(each.at, each.platform, each.token, each.reason, "suppressed") for _, each in found]
    done = [(entry, each, event) for (entry, each), event in zip(found, events, strict=True)]
    await store.receipts.record("shop", done)


# --- received ---------------------------------------------------------------------------------------


def test_what_is_accepted_is_received_and_not_taken(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        async with receiving(store) as own:
            await store.pushes.accept(make_push("p", 3))
            (received,) = await own.until(1)
            assert [target.token for target in received.chunk.targets] == ["p-0", "p-1", "p-2"]
            assert (received.skip, received.again, received.chunk.turn) == ({}, False, 1)
            assert received.chunk.message == make_push("p").messages["apns"]
            assert await take(store) == await take(await world.store("b")) == []
            assert counts(await store.pushes.status("shop", "p")) == {"queued": 3}
            ends, refs = all_of(received)
            later = settlement(received.chunk, 2, Retry(NOW, 2), Unavailable())
            assert len(await store.queue.settle("shop", [*ends[:2], later], refs)) == 3
            assert counts(await store.pushes.status("shop", "p")) == {"sent": 2, "retrying": 1}
            assert await store.queue.promote(ROUTE, NOW) == 1
            (again,) = await take(store)
            await store.queue.settle("shop", *all_of(again))
            assert counts(await store.pushes.status("shop", "p")) == {"sent": 3}

    play(server, story)


def test_each_lane_and_route_receives_its_own(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        async with receiving(store) as own, receiving(store, route=FCM) as other:
            await asyncio.gather(
                *(store.pushes.accept(make_push(lane, 2, lane=lane, platforms=("apns", "fcm"))) for lane in LANES),
                store.pushes.accept(make_push("other", app="other")),
                store.pushes.accept(make_push("later", send_at=NOW + 3_600_000)),
                store.pushes.accept(make_push("nobody", 0)),
            )
            for each, indexes in ((own, [0, 1]), (other, [2, 3])):
                received = await each.until(3)
                assert {taken.chunk.push_id for taken in received} == {taken.ref.lane for taken in received} == {*LANES}
                assert all([target.index for target in taken.chunk.targets] == indexes for taken in received)
        (left,) = await take(store, route=Route("other", "apns"))
        assert left.chunk.push_id == "other"

    play(server, story)


@pytest.mark.parametrize("total", [40, 1201])
def test_what_is_received_of_a_large_push_has_its_content(server: Server | None, total: int) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        async with receiving(store, room=total) as own:
            await store.pushes.accept(make_push("p", total, lane="bulk"))
            received = await own.until(-(-total // 500))
            assert {taken.chunk.message.body for taken in received} == {make_push("p").messages["apns"].body}
            assert sorted(t.index for taken in received for t in taken.chunk.targets) == list(range(total))
            for taken in received:
                await store.queue.settle("shop", *all_of(taken))
            assert counts(await store.pushes.status("shop", "p")) == {"sent": total}

    play(server, story)


def test_calls_with_a_key_are_received_too(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        async with receiving(store) as own:
            calls = [
                store.pushes.accept_once([make_push(f"p{number}", 2)], key=b"%016d" % number, record=b"r")
                for number in range(20)
            ]
            assert await asyncio.gather(*calls, store.pushes.accept(make_push("plain"))) == [None] * 21
            received = await own.until(21)
            assert {taken.chunk.push_id for taken in received} == {"plain", *(f"p{number}" for number in range(20))}
            again = await store.pushes.accept_once([make_push("q")], key=b"%016d" % 1, record=b"other")
            assert again == b"r"
            await store.pushes.accept(make_push("next"))  # the repeat has made nobody unsure
            assert [taken.chunk.push_id for taken in await own.until(1)] == ["next"]

    play(server, story)


# --- left to take -----------------------------------------------------------------------------------


def test_without_room_for_all_of_it_it_waits_in_its_lane(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        async with receiving(store, room=2) as own:
            await store.pushes.accept(make_push("large", 3))
            await store.pushes.accept(make_push("small", 2, lane="urgent"))
            assert [taken.chunk.push_id for taken in await own.until(1)] == ["small"]
            own.room = 0
            await store.pushes.accept(make_push("none", lane="bulk"))
            assert own.taken == []
            for lane, name in (("normal", "large"), ("bulk", "none")):
                (waiting,) = await take(store, lane)  # type: ignore[arg-type]  # literals
                assert waiting.chunk.push_id == name

    play(server, story)


def test_what_waited_before_goes_first(server: Server | None) -> None:
    async def story(world: World) -> None:
        store, other = await world.store(), await world.store("b")
        async with receiving(store) as own:
            for name in ("first", "second"):
                await other.pushes.accept(make_push(name, 2))
            await store.pushes.accept(make_push("third", 3))
            assert [taken.chunk.push_id for taken in await own.until(2)] == ["first", "second"]
            assert [taken.chunk.push_id for taken in await take(store)] == ["third"]

    play(server, story)


def test_after_the_end_of_the_block_nothing_is_received(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        with store.queue.receiving(ROUTE, lambda lane: Offer(10, lambda taken: None)):
            await take(store)
            await store.pushes.accept(make_push("p"))  # read, and nobody has asked for it
        await store.pushes.accept(make_push("q"))
        found = await take_all(store)
        assert [(taken.chunk.push_id, taken.again) for taken in found] == [("p", True), ("q", False)]

    play(server, story)


# --- taken back, or never sent ----------------------------------------------------------------------


def test_what_is_received_leaves_out_whom_a_take_would(server: Server | None) -> None:
    async def story(world: World) -> None:
        store, other = await world.store(), await world.store("b")
        await bury(store, "p", 2)
        async with receiving(store) as own:
            again = msgspec.structs.replace(make_push("p", 3), id="again")
            await store.pushes.accept(again)
            (received,) = await own.until(1)
            assert received.skip == {0: "suppressed", 1: "suppressed"}
            await other.pushes.accept(make_push("cancelled"))
            await store.pushes.cancel("shop", "cancelled")
            await store.pushes.accept(make_push("next"))
            (received,) = await own.until(1)
            assert (received.chunk.push_id, received.skip) == ("cancelled", {0: "cancelled"})
            assert [taken.chunk.push_id for taken in await take(store)] == ["next"]

    play(server, story)


def test_a_cancel_after_the_hand_over_waits_for_the_dispatcher(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        await store.queue.enrol("shop")
        async with receiving(store) as own:
            await store.pushes.accept(make_push("p", 2))
            (received,) = await own.until(1)
            cancelling = asyncio.create_task(store.pushes.cancel("shop", "p"))
            (news,) = await store.queue.revoked(["shop"], 20_000)
            assert news.revoked.pushes == {"p"}
            await store.queue.acknowledge(news, {"p": 1})  # one of the two is on its way
            status = await cancelling
            assert counts(status) == {"queued": 1, "cancelled": 1}
            ends = [settlement(received.chunk, 0), settlement(received.chunk, 1, Ended("cancelled"), None)]
            await store.queue.settle("shop", ends, [received.ref])
            assert counts(await store.pushes.status("shop", "p")) == {"sent": 1, "cancelled": 1}

    play(server, story)


# --- lost -------------------------------------------------------------------------------------------


def test_what_a_dead_process_had_received_is_sent_once_by_another(server: Server | None) -> None:
    async def story(world: World) -> None:
        store, other = await world.store(), await world.store("b")
        async with receiving(store) as own:
            await store.pushes.accept(make_push("p", 2))
            (received,) = await own.until(1)
            assert await other.queue.reclaim(ROUTE) == []  # it lives
            await world.kill("a")
            await other.queue.beat()
            (found,) = await other.queue.reclaim(ROUTE)
            assert (found.ref, found.again) == (received.ref, True)
            await other.queue.settle("shop", *all_of(found))
            assert await store.queue.settle("shop", *all_of(received)) == []
            assert counts(await store.pushes.status("shop", "p")) == {"sent": 2}

    play(server, story)


def test_a_process_that_starts_again_goes_on_with_what_it_had_received(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await world.store()
        async with receiving(store) as own:
            await store.pushes.accept(make_push("p", 2))
            (received,) = await own.until(1)
            await store.queue.settle("shop", [settlement(received.chunk, 0)], [])
        (again,) = await take(await world.store())
        assert [target.index for target in again.chunk.targets] == [1]

    play(server, story)


# --- servers only -----------------------------------------------------------------------------------


async def real_store(world: World) -> Store:
    if not world.real:
        pytest.skip("in memory nothing is lost on the way")
    store = await world.store()
    assert isinstance(store, Store)
    return store


def lose_the_next(monkeypatch: pytest.MonkeyPatch, *, repeats: bool) -> list[int]:
    """Let the next write of pushes take effect and lose its answer. Where it `repeats`, the connection was what broke.
    Returns a list that grows by each write."""
    accept, ask = load("accept").sha, Direct._ask
    writes: list[int] = []

    async def answered(direct: Direct, commands: Sequence[Command], seconds: float) -> list[Any]:
        answers = await ask(direct, commands, seconds)
        if accept in commands[0]:
            writes.append(len(writes))
            if len(writes) == 1:
                raise faults.ConnectionError("lost") if repeats else faults.TimeoutError("late")
        return answers

    monkeypatch.setattr(Direct, "_ask", answered)
    return writes


@pytest.mark.parametrize("repeats", [False, True])
def test_an_answer_that_is_lost_is_found_by_the_next_take(
    server: Server | None, monkeypatch: pytest.MonkeyPatch, repeats: bool
) -> None:
    async def story(world: World) -> None:
        store = await real_store(world)
        async with receiving(store) as own:
            await store.pushes.accept(make_push("warm"))
            await store.queue.settle("shop", *all_of((await own.until(1))[0]))
            writes = lose_the_next(monkeypatch, repeats=repeats)
            if repeats:
                await store.pushes.accept(make_push("p", 2))
            else:
                with pytest.raises(StoreUnavailable):
                    await store.pushes.accept(make_push("p", 2))
            assert len(writes) == 1 + repeats
            await store.pushes.accept(make_push("q"))  # what may have been missed goes first
            assert own.taken == []
            found = await take_all(store)
            assert [(taken.chunk.push_id, taken.again) for taken in found] == [("p", True), ("q", False)]
            for taken in found:
                await store.queue.settle("shop", *all_of(taken))
            assert counts(await store.pushes.status("shop", "p")) == {"sent": 2}

    play(server, story)


def test_an_answer_that_another_primary_overtakes_is_not_trusted(
    server: Server | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(world: World) -> None:
        store = await real_store(world)
        guarded = Link.guarded

        async def overtaken(link: Link, mark: str, calls: Sequence[ScriptCall]) -> list[Any]:
            answers = await guarded(link, mark, calls)
            monkeypatch.setattr(Link, "guarded", guarded)
            link.drop()
            return answers

        async with receiving(store) as own:
            monkeypatch.setattr(Link, "guarded", overtaken)
            await store.pushes.accept(make_push("p"))
            assert own.taken == []
            assert [taken.chunk.push_id for taken in await take(store)] == ["p"]

    play(server, story)


def test_what_is_on_its_way_is_not_taken_for_missed(server: Server | None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(world: World) -> None:
        store = await real_store(world)
        guarded, arrives = Link.guarded, asyncio.Event()

        async def late(link: Link, mark: str, calls: Sequence[ScriptCall]) -> list[Any]:
            answers = await guarded(link, mark, calls)
            await arrives.wait()
            return answers

        async with receiving(store) as own:
            monkeypatch.setattr(Link, "guarded", late)
            accepting = asyncio.create_task(store.pushes.accept(make_push("p")))
            while not await store.link.call("XLEN", keys.lane("shop", 0, "apns", "normal")):
                await asyncio.sleep(0.001)
            store.queue._lanes["shop", 0, "apns", "normal"].look_at = 0.0  # time to look for what it may have missed
            taking = asyncio.create_task(take(store))
            waiting = asyncio.create_task(store.pushes.accept(make_push("q")))  # meanwhile nothing is handed over
            for _ in range(50):  # long enough for a look
                await store.link.call("PING")
            arrives.set()
            await asyncio.gather(accepting, waiting)
            assert [taken.chunk.push_id for taken in await own.until(1)] == ["p"]
            found = await taking or await take(store)
            assert [(taken.chunk.push_id, taken.again) for taken in found] == [("q", False)]

    play(server, story)


def test_a_store_that_is_away_while_it_is_opened_loses_nothing(
    server: Server | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(world: World) -> None:
        store = await real_store(world)
        await bury(store, "dead", 1)
        async with receiving(store) as own:
            many = Link.many

            async def away(link: Link, commands: Sequence[Command], **more: Any) -> list[Any]:
                if commands and commands[0][0] == "ZMSCORE":
                    monkeypatch.setattr(Link, "many", many)
                    raise StoreUnavailable("away")
                return await many(link, commands, **more)

            monkeypatch.setattr(Link, "many", away)
            await store.pushes.accept(make_push("p"))
            await store.pushes.accept(make_push("q", lane="urgent"))
            assert [taken.chunk.push_id for taken in await own.until(1)] == ["q"]
            assert len(own.faults) == 1
            assert [taken.chunk.push_id for taken in await take(store)] == ["p"]

    play(server, story)


def test_a_server_that_has_forgotten_the_scripts_hands_over_once(server: Server | None) -> None:
    async def story(world: World) -> None:
        store = await real_store(world)
        async with receiving(store) as own:
            await store.link.call("SCRIPT", "FLUSH")
            keyed = store.pushes.accept_once([make_push("keyed")], key=b"k" * 16, record=b"r")
            await asyncio.gather(keyed, store.pushes.accept(make_push("p")))
            assert {taken.chunk.push_id for taken in await own.until(2)} == {"keyed", "p"}
            assert await take(store) == []

    play(server, story)


async def sharded(store: Store) -> None:
    """Receive from several shards, where the tokens that are known as dead are listed in any of them."""
    await bury(store, "p", 30)
    async with receiving(store) as own:
        pushes = [msgspec.structs.replace(make_push("p", 30), id=f"p{number}") for number in range(30)]
        await asyncio.gather(*map(store.pushes.accept, pushes))
        received = await own.until(30)
        assert len({taken.ref.shard for taken in received}) == 3
        assert all(taken.skip == dict.fromkeys(range(30), "suppressed") for taken in received)
        assert await take(store) == []
        for taken in received:
            await store.queue.settle("shop", *all_of(taken))
        assert counts(await store.pushes.status("shop", "p7")) == {"suppressed": 30}


def test_shards_are_received_each_by_its_own_step(server: Server | None) -> None:
    async def story(world: World) -> None:
        await sharded(await real_store(world))

    play(server, story, StoreConfig(shards=3))


def test_they_are_received_in_a_cluster_too() -> None:
    async def main(server: Server) -> None:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with asyncio.timeout(60), open_store(url, StoreConfig(consumer="a", shards=3)) as store:
            await sharded(store)

    with running_server("valkey", tcp=True, cluster=True) as server:
        asyncio.run(main(server))


def test_what_waits_for_the_disk_is_received_once_it_is_there() -> None:
    async def main(server: Server) -> None:
        config = StoreConfig(consumer="a", fsync=True)
        async with asyncio.timeout(60), open_store(server.url, config) as store, receiving(store) as own:
            await asyncio.gather(*(store.pushes.accept(make_push(f"p{number}", 2)) for number in range(100)))
            received = await own.until(100)
            assert len({taken.chunk.push_id for taken in received}) == 100
            assert await take(store) == []

    with running_server("valkey", options=("--appendonly", "yes", "--appendfsync", "always")) as server:
        asyncio.run(main(server))
