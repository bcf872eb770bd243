"""The live channel and a provider in one dispatcher, in virtual time: when the provider is asked, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Arrival, BadNotification, Misconfigured, Outcome, Sent
from pushsvc.model.devices import Device
from pushsvc.model.push import Chunk, Message, Push, Route, Target
from pushsvc.model.routing import path_name
from pushsvc.ports.live import LiveRoute, Poke
from pushsvc.providers.live import open_provider
from pushsvc.rules.audience import owner_of
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.stages.dispatch.limits import RouteLimits

from ..fakes import MemoryStore
from .dispatch_fakes import FakeProvider, memory_store, now_ms, push as plain_push
from .test_dispatch_dispatcher import HOURLY, Counting, limited, running
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
WITHIN = 10.0
LIFE = 600.0
"""Seconds that a push lives; a while later nothing more becomes of it."""
PHONE = Device(id="phone", platform="apns", token="0f" * 32, user="ann")
LIVE_FIRST = path_name("apns", ("live", "apns"))
PROVIDER_FIRST = path_name("apns", ("live", "apns", "live"))
ONLY_LIVE = path_name("apns", ("live",))


class Scene:
    """A dispatcher with a live route and a provider that says `answer`; one phone, online or not."""

    def __init__(self, store: MemoryStore, *, online: bool, answer: Outcome) -> None:
        self.store = store
        self.online = online
        self.asked_at: list[float] = []
        self.provider = FakeProvider()
        self.provider.says = lambda delivery: self._note(answer)
        self.limiter = Counting()
        self.dispatcher: Dispatcher = limited(
            store.queue, self.limiter, RouteLimits(per_token=HOURLY, on_exceed="drop"), self.provider
        )

    def _note(self, answer: Outcome) -> Outcome:
        self.asked_at.append(round(self.now, 1))
        return answer

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def push(self, path: str, ttl: float = LIFE, *, name: str = "p", plain: int = 0, collapse: str = "") -> None:
        """A push to the phone, and to so many tokens that only the provider reaches."""
        target = Target(0, PHONE.token, PHONE.id, PHONE.kind, owner_of(PHONE))
        targets = {path: (target,), "apns": tuple(Target(number, f"{number:064x}") for number in range(1, plain + 1))}
        bodies = {"live": b'{"data":{}}', "apns": b"{}"}
        messages = {key: Message(key, body, collapse=collapse, since=now_ms()) for key, body in bodies.items()}
        push = Push(name, "shop", "normal", now_ms(), now_ms() + int(ttl * 1000), messages, targets)
        await self.store.pushes.accept(push)

    async def pokes(self) -> Sequence[Poke]:
        received = await self.store.live.inbox("g").receive(0)
        return [item for item in received.items if isinstance(item, Poke)]

    async def ack(self, name: str = "p") -> None:
        entries = [each for stream in self.store._state.live.streams.values() for each in stream.entries]
        (entry,) = [each for each in entries if each.push.id == name]
        push = entry.push
        arrival = Arrival(push.id, entry.index, 1, "normal", entry.platform, PHONE.id, now_ms())
        arrival = msgspec.structs.replace(arrival, collapse=push.collapse, since=push.at)
        assert await self.store.arrivals.arrived("shop", [arrival]) in (0, 1)

    async def counts(self, name: str = "p") -> tuple[dict[str, int], tuple[int, int, int]]:
        status = await self.store.pushes.status("shop", name)
        assert status is not None
        assert status.live is not None
        counts = {name: getattr(status.counts, name) for name in status.counts.__struct_fields__ if name != "total"}
        live = (status.live.acked, status.live.fallback, status.live.waiting)
        return {name: count for name, count in counts.items() if count}, live

    def lose_streams(self) -> Any:
        """Make appends fail. Returns the method to put back."""
        live: Any = self.store.live
        works = live.append_all

        async def away(*_: Any) -> Any:
            raise StoreUnavailable("Redis is away")

        live.append_all = away
        return works

    @property
    def left(self) -> list[str]:
        """Entries that are not acknowledged."""
        return [entry_id for stream in self.store._state.lanes.values() for entry_id in stream.entries]

    @property
    def state(self) -> str:
        return self.store._state.pushes["shop", "p"].state


@asynccontextmanager
async def scene(*, online: bool, answer: Outcome = Sent(status=200)) -> AsyncIterator[Scene]:  # noqa: B008  # frozen
    store = memory_store()
    await store.registry.put_many("shop", [PHONE])
    if online:
        store._state.live.gateways["shop", "g"] = (1 << 60, 1)
        await store.live.connect("shop", PHONE.id, LiveRoute("g", 1), issued_at=0)
    found = Scene(store, online=online, answer=answer)
    opened = open_provider(
        Route("shop", "live"), live=store.live, arrivals=store.arrivals, ack_within=WITHIN, clock=now_ms
    )
    async with opened as live:
        found.dispatcher._providers.append(live)
        async with running(found.dispatcher):
            yield found


@pytest.mark.parametrize("path", [LIVE_FIRST, ONLY_LIVE])
async def test_online_and_acknowledged_the_provider_is_never_asked(path: str) -> None:
    async with scene(online=True) as own:
        await own.push(path)
        await asyncio.sleep(3.0)
        assert len(await own.pokes()) == 1
        assert await own.counts() == ({"retrying": 1}, (0, 0, 1))
        await own.ack()
        await asyncio.sleep(LIFE + 100.0)
        assert await own.counts() == ({"sent": 1}, (1, 0, 0))
        assert own.asked_at == []


@pytest.mark.parametrize(
    ("online", "ttl", "at"),
    [(False, LIFE, 0.0), (True, LIFE, WITHIN), (True, 4.0, 2.0)],
    ids=["away", "silent", "short"],
)
async def test_the_provider_is_asked_once(online: bool, ttl: float, at: float) -> None:
    async with scene(online=online) as own:
        await own.push(LIVE_FIRST, ttl)
        await until(lambda: own.state == "done")
        await own.ack()  # too late: counted once
        await asyncio.sleep(LIFE + 100.0)
        (asked,) = own.asked_at
        assert at <= asked <= at + 0.5
        assert await own.counts() == ({"sent": 1}, (0, 1, 0))


async def test_what_is_acknowledged_while_the_provider_is_full_is_not_sent_by_it() -> None:
    async with scene(online=False) as own:
        own.provider.widen(0)
        await own.push(LIVE_FIRST, name="read", plain=2)
        await own.push(PROVIDER_FIRST, name="shown")
        await own.push(LIVE_FIRST, name="unread")
        await asyncio.sleep(LIFE / 2)
        assert await own.counts("read") == ({"queued": 2, "retrying": 1}, (0, 1, 0))
        await own.ack("read")
        await own.ack("shown")
        own.provider.widen(1000)
        await asyncio.sleep(60.0)
        names = [(delivery.chunk.push_id, delivery.target.index) for delivery in own.provider.submitted]
        assert sorted(names) == [("read", 1), ("read", 2), ("unread", 0)]
        assert await own.counts("read") == ({"sent": 3}, (1, 0, 0))
        assert await own.counts("shown") == ({"sent": 1}, (1, 0, 0))
        assert await own.counts("unread") == ({"sent": 1}, (0, 1, 0))
        assert own.left == []


async def test_nothing_older_of_its_collapse_follows_what_was_acknowledged() -> None:
    async with scene(online=False) as own:
        own.provider.widen(0)
        for name in ("v1", "v2", "v3"):
            await own.push(LIVE_FIRST, name=name, collapse="score" if name != "v3" else "")
            await asyncio.sleep(10.0)
        await own.ack("v2")
        await asyncio.sleep(10.0)
        own.provider.widen(1000)
        await asyncio.sleep(60.0)
        assert [delivery.chunk.push_id for delivery in own.provider.submitted] == ["v3"]
        assert (await own.counts("v1"))[0] == {"suppressed": 1}
        assert await own.counts("v2") == ({"sent": 1}, (1, 0, 0))


async def test_while_redis_is_away_what_may_be_acknowledged_waits_and_other_lanes_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scene(online=False) as own:
        own.provider.widen(0)
        await own.push(LIVE_FIRST, name="carried")
        await asyncio.sleep(10.0)
        queue, away = own.store.queue, True
        outstanding = queue.outstanding

        async def ask(app: str, chunks: Sequence[Chunk]) -> list[list[int]]:
            if away:
                raise StoreUnavailable("connection refused")
            return await outstanding(app, chunks)

        monkeypatch.setattr(queue, "outstanding", ask)
        own.provider.widen(1000)
        await own.store.pushes.accept(plain_push("other", "token", lane="urgent"))
        await asyncio.sleep(10.0)
        assert [delivery.chunk.push_id for delivery in own.provider.submitted] == ["other"]
        away = False
        await asyncio.sleep(10.0)
        assert [delivery.chunk.push_id for delivery in own.provider.submitted] == ["other", "carried"]


async def test_nothing_that_is_acknowledged_goes_as_a_probe_of_a_held_route() -> None:
    async with scene(online=False, answer=Misconfigured(status=403, reason="InvalidProviderToken")) as own:
        await own.push(LIVE_FIRST, name="first")
        await until(lambda: bool(own.asked_at))  # the route is held from here on
        for name in ("second", "third"):
            await own.push(LIVE_FIRST, name=name)
        await asyncio.sleep(1.0)
        for name in ("first", "second", "third"):
            await own.ack(name)
        asked = len(own.asked_at)
        await asyncio.sleep(600.0)
        assert len(own.asked_at) == asked
        assert own.left == []


async def test_the_provider_comes_first_and_what_it_cannot_deliver_is_left_to_the_device() -> None:
    async with scene(online=True, answer=BadNotification(status=400, reason="BadTopic")) as own:
        await own.push(PROVIDER_FIRST)
        await until(lambda: bool(own.asked_at))
        await asyncio.sleep(60.0)
        assert own.asked_at[0] <= 0.5
        assert len(await own.pokes()) == 1
        assert await own.counts() == ({"retrying": 1}, (0, 0, 1))
        await own.ack()
        assert await own.counts() == ({"sent": 1}, (1, 0, 0))
        await asyncio.sleep(LIFE + 100.0)
        assert len(own.asked_at) == 1


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("path", [LIVE_FIRST, PROVIDER_FIRST, ONLY_LIVE])
async def test_what_is_cancelled_on_its_way_to_the_stream_is_shown_to_nobody_and_ends_so(
    path: str, online: bool
) -> None:
    async with scene(online=online) as own:
        live: Any = own.store.live
        works, begun, goes = live.append_all, asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            begun.set()
            await goes.wait()
            return await works(*arguments)

        live.append_all = slow
        await own.push(path)
        await begun.wait()
        status = await own.store.pushes.cancel("shop", "p")
        assert status is not None
        assert (status.state, status.counts.queued) == ("sending", 1)
        goes.set()
        await until(lambda: not own.left)
        connected = await live.connect("shop", PHONE.id, LiveRoute("g", 2), issued_at=0)
        assert connected.page.publications == []
        await asyncio.sleep(LIFE + 100.0)
        status = await own.store.pushes.status("shop", "p")
        assert status is not None
        assert (status.state, status.counts.cancelled, status.live) == ("cancelled", 1, None)
        assert (own.asked_at, await own.pokes()) == ([], [])


async def test_what_only_the_live_channel_carries_expires() -> None:
    for online in (True, False):
        async with scene(online=online) as own:
            await own.push(ONLY_LIVE, 30.0)
            began = own.now
            await until(lambda own=own: own.state == "done")  # type: ignore[misc]  # bound for the loop
            assert 30.0 <= own.now - began <= 31.0
            assert await own.counts() == ({"expired": 1}, (0, 0, 0))
            assert own.asked_at == []


@pytest.mark.parametrize(("ttl", "at"), [(LIFE, 0.5), (0.9, 0.0)], ids=["long", "short"])
@pytest.mark.parametrize("path", [LIVE_FIRST, PROVIDER_FIRST])
async def test_trouble_at_the_live_channel_keeps_nothing_from_the_provider(path: str, ttl: float, at: float) -> None:
    async with scene(online=True) as own:
        own.lose_streams()
        await own.push(path, ttl)
        await until(lambda: own.state == "done")
        (asked,) = own.asked_at
        assert at <= asked <= at + 0.6
        status = await own.store.pushes.status("shop", "p")
        assert status is not None
        assert status.counts.sent == 1
        await until(lambda: bool(own.dispatcher.held()))
        (why,) = own.dispatcher.held().values()
        assert why.startswith("streams: cannot be written (Redis is away)")


async def test_an_acknowledgement_ends_what_stands_in_a_stream_though_the_live_channel_failed_after_that() -> None:
    async with scene(online=True) as own:
        live: Any = own.store.live
        append_all = own.lose_streams()

        async def halfway(*args: Any) -> Any:
            await append_all(*args)
            raise StoreUnavailable("Redis is away")

        live.append_all = halfway
        own.provider.says = None
        await own.push(LIVE_FIRST)
        await until(lambda: bool(own.provider.open))
        await own.ack()
        assert await own.counts() == ({"sent": 1}, (1, 0, 0))
        own.provider.answer(Sent(status=200))
        await asyncio.sleep(10.0)
        assert await own.counts() == ({"sent": 1}, (1, 0, 0))


async def test_what_only_the_live_channel_carries_waits_until_its_trouble_is_over() -> None:
    async with scene(online=True) as own:
        append_all = own.lose_streams()
        await own.push(ONLY_LIVE)
        await asyncio.sleep(60.0)
        assert list(own.dispatcher.held()) == ["shop/live"]
        assert await own.pokes() == []
        own.store.live.append_all = append_all  # type: ignore[method-assign]  # as it was
        await asyncio.sleep(120.0)
        assert own.dispatcher.held() == {}
        assert len(await own.pokes()) == 1
        await own.ack()
        assert await own.counts() == ({"sent": 1}, (1, 0, 0))


async def test_a_provider_that_carries_on_what_no_device_took_drops_it_over_the_limit() -> None:
    async with scene(online=False) as own:
        own.limiter.wait_ms = 3_600_000
        await own.push(LIVE_FIRST)
        await until(lambda: own.state == "done", 10.0)
        assert await own.counts() == ({"suppressed": 1}, (0, 1, 0))
        assert own.asked_at == []
