"""The live channel as a provider: contents, appends, pokes, and the outcome of each delivery."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from pushsvc.errors import StoreError, StoreUnavailable
from pushsvc.model.delivery import Delivery, Expired, Obsolete, Outcome, Sent, Unavailable, Unconfirmed
from pushsvc.model.devices import Device
from pushsvc.model.push import (
    Chunk,
    Content,
    Fallback,
    LiveActivity,
    Message,
    Notification,
    Platform,
    Push,
    Route,
    Target,
)
from pushsvc.ports.live import Appended, LiveRoute, Poke, Position
from pushsvc.ports.provider import STREAMS, RenderError
from pushsvc.providers.live import RENDERER, open_provider
from pushsvc.providers.live.batch import CONTENTS
from pushsvc.providers.live.render import LIMIT
from pushsvc.providers.live.send import KEPT_FOR, LASTS, QUIET, RECORDED, TRIES, WINDOW, LiveProvider
from pushsvc.rules.audience import owner_of
from pushsvc.store import StoreConfig

from ..fakes import MemoryStore
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
NOW = 1_750_000_000_000
ROUTE = Route("shop", "live")
ANN = owner_of(Device(id="", platform="apns", token="", user="ann"))
THEN = Fallback("apns", Message("apns", b'{"aps":{}}'))
AGAIN = Fallback("live", Message("live", b"{}"))
WRITTEN = Unconfirmed(reason="written", within=10.0)
AWAY = Unconfirmed(reason="away")


class Desk:
    """A provider on the twin of the store; `phone-0` to `phone-3` are registered."""

    def __init__(self, store: MemoryStore, provider: LiveProvider) -> None:
        self.store = store
        self.provider = provider

    async def online(self, *devices: str, gateway: str = "g") -> None:
        await self.store.live.beat(gateway, {"shop": 1})
        for number, device in enumerate(devices, 1):
            await self.store.live.connect("shop", device, LiveRoute(gateway, number), issued_at=NOW)

    async def send(self, *chunks: Chunk) -> list[Outcome]:
        """Submit everything at once; returns the outcomes in the order of submission."""
        found: dict[int, Outcome] = {}
        deliveries = [Delivery(chunk, target) for chunk in chunks for target in chunk.targets]
        done = asyncio.Event()

        def answered(delivery: Delivery, outcome: Outcome) -> None:
            assert id(delivery) not in found
            found[id(delivery)] = outcome
            if len(found) == len(deliveries):
                done.set()

        for delivery in deliveries:
            self.provider.submit(delivery, answered)
        assert not found
        await done.wait()
        return [found[id(delivery)] for delivery in deliveries]

    async def pokes(self, gateway: str = "g") -> list[Poke]:
        received = await self.store.live.inbox(gateway).receive(0)
        return [item for item in received.items if isinstance(item, Poke)]

    async def stream(self, device: str) -> list[str]:
        page = await self.store.live.history("shop", device)
        return [] if page is None else [each.push.id for each in page.publications]


@asynccontextmanager
async def opened(config: StoreConfig | None = None) -> AsyncIterator[Desk]:
    store = MemoryStore(config, clock=lambda: NOW)
    devices = [Device(id=f"phone-{n}", platform="apns", token=f"{n:064x}", user="ann") for n in range(4)]
    await store.registry.put_many("shop", devices)
    provided = open_provider(ROUTE, live=store.live, arrivals=store.arrivals, ack_within=10.0, clock=lambda: NOW)
    async with provided as provider:
        yield Desk(store, provider)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with opened() as desk:
        yield desk


def chunk(
    *devices: str, name: str = "p", then: Sequence[Fallback] = (), collapse: str = "", at: int = NOW, **fields: Any
) -> Chunk:
    headers = fields.pop("headers", {})
    message = Message("live", b'{"data":{"a":"1"}}', headers, collapse=collapse, since=at if collapse else 0)
    targets = tuple(Target(index, f"token-{index}", device, owner=ANN) for index, device in enumerate(devices))
    total = fields.pop("total", len(devices))
    made = Chunk(name, "shop", "live", "normal", total, at, NOW + 60_000, message, targets)
    return replace(made, home="apns", fallbacks=tuple(then), **fields)


def test_a_push_is_rendered_once_for_all_devices() -> None:
    content = Content(
        notification=Notification(title="Hi", badge=3), data={"order": "7"}, collapse="order-7", ack_within=2.5, ttl=0
    )
    message = RENDERER.render(content, push_id="p", starts_at=NOW)
    assert msgspec.json.decode(message.body) == {
        "notification": {"title": "Hi", "badge": 3},
        "data": {"order": "7"},
        "collapse": "order-7",
    }
    assert (message.platform, message.collapse, message.since) == ("live", "order-7", NOW)
    assert message.headers == {"ack-within": "2.5", "now-or-never": "1"}
    plain = RENDERER.render(Content(data={"a": "1"}, silent=True), push_id="p", starts_at=NOW)
    assert plain == Message("live", b'{"data":{"a":"1"}}')
    assert RENDERER.warnings(content, message) == []


def test_what_the_caller_gives_for_the_live_channel_is_merged() -> None:
    own = msgspec.Raw(b'{"notification":{"title":null,"body":"b"},"price":1.10}')
    content = Content(notification=Notification(title="Hi"), overrides={"live": own})
    message = RENDERER.render(content, push_id="p", starts_at=NOW)
    assert message.body == b'{"notification":{"body":"b"},"price":1.10}'
    alone = RENDERER.render(Content(overrides={"live": msgspec.Raw(b'{"x":[1]}')}), push_id="p", starts_at=NOW)
    assert alone.body == b'{"x":[1]}'


@pytest.mark.parametrize(
    ("content", "path", "text"),
    [
        (Content(overrides={"live": msgspec.Raw(b'{"id":"x"}')}), "overrides.live.id", "set by the service"),
        (Content(overrides={"live": msgspec.Raw(b"{}")}), "overrides.live", "nothing to send"),
        (Content(overrides={"live": msgspec.Raw(b"[]")}), "overrides.live", "must be a JSON object"),
        (Content(live_activity=LiveActivity("end"), data={"a": "b"}), "live_activity", "Apple"),
        (Content(data={"a": "x" * LIMIT}), "data", "65,553 bytes for the live channel, the limit is 65,536"),
    ],
)
def test_what_the_live_channel_cannot_carry_is_refused(content: Content, path: str, text: str) -> None:
    with pytest.raises(RenderError) as caught:
        RENDERER.render(content, push_id="p", starts_at=NOW)
    (fault,) = caught.value.faults
    assert fault.path == path
    assert text in fault.message
    assert caught.value.too_large == ("bytes" in text)


async def test_a_connected_device_is_poked_and_the_others_go_on(desk: Desk) -> None:
    await desk.online("phone-1", "phone-2")
    sent = chunk("phone-0", "phone-1", "phone-2", then=[THEN])
    assert await desk.send(sent) == [AWAY, WRITTEN, WRITTEN]
    (poke,) = await desk.pokes()
    assert [(each.connection, each.index) for each in poke.recipients] == [(1, 1), (2, 2)]
    assert msgspec.json.decode(poke.body) == {
        "id": "p",
        "at": "2025-06-15T15:06:40.000Z",
        "expires_at": "2025-06-15T15:07:40.000Z",
        "lane": "normal",
        "data": {"a": "1"},
    }
    assert await desk.store.live.contents("shop", ["p"]) == {"p": poke.body}
    # It stands in each stream, also in that of the device which is away; a repeat adds nothing.
    assert await desk.send(sent) == [AWAY, WRITTEN, WRITTEN]
    assert [await desk.stream(f"phone-{n}") for n in range(4)] == [["p"], ["p"], ["p"], []]


async def test_the_time_to_acknowledge_is_that_of_the_push_or_of_the_app(desk: Desk) -> None:
    await desk.online("phone-1")
    for_itself = chunk("phone-1", name="q", headers={"ack-within": "2.5"})
    assert await desk.send(chunk("phone-1"), for_itself) == [WRITTEN, replace(WRITTEN, within=2.5)]


async def test_where_a_provider_is_asked_first_it_stands_in_the_stream_and_nobody_is_poked(desk: Desk) -> None:
    await desk.online("phone-1")
    first = Unconfirmed(reason="provider_first")
    assert await desk.send(chunk("phone-0", "phone-1", then=[THEN, AGAIN])) == [first, first]
    assert await desk.pokes() == []
    assert await desk.stream("phone-1") == ["p"]
    # The provider could not deliver it: now the device is looked for.
    assert await desk.send(chunk("phone-0", "phone-1", turn=3)) == [AWAY, WRITTEN]
    assert len(await desk.pokes()) == 1
    assert await desk.stream("phone-1") == ["p"]


async def test_now_or_never_is_for_connected_devices(desk: Desk) -> None:
    await desk.online("phone-1")
    now = {"now-or-never": "1"}
    assert await desk.send(chunk("phone-0", "phone-1", headers=now)) == [Expired(reason="ttl"), WRITTEN]
    assert await desk.send(chunk("phone-0", "phone-1", name="q", headers=now, then=[THEN])) == [AWAY, WRITTEN]
    assert [await desk.stream(f"phone-{n}") for n in (0, 1)] == [[], ["p", "q"]]


async def test_a_later_push_takes_the_place_of_an_earlier_one(desk: Desk) -> None:
    await desk.online("phone-1")
    older, newer = (chunk("phone-1", name=name, collapse="c", at=NOW + at) for name, at in (("p", 1), ("q", 2)))
    await desk.store.pushes.accept(_accepted("p"))
    assert await desk.send(older) == [WRITTEN]
    assert await desk.send(newer) == [WRITTEN]
    assert await desk.send(chunk("phone-1", name="o", collapse="c")) == [Obsolete(reason="superseded")]
    assert await desk.stream("phone-1") == ["q"]
    status = await desk.store.pushes.status("shop", "p")
    assert status is not None
    assert status.counts.suppressed == 1
    found = await desk.store.pushes.deliveries("shop", "p", outcome=None, cursor="", limit=10)
    assert found is not None
    assert [(row.device_id, row.reason) for row in found[0]] == [("phone-1", "superseded")]


async def test_what_a_full_stream_has_no_room_for_ends_where_nothing_else_carries_it_on() -> None:
    async with opened(StoreConfig(history=2)) as desk:
        for name in ("p", "q", "r"):
            await desk.store.pushes.accept(_accepted(name))
        await desk.send(chunk("phone-1"))
        # One batch: of its own as well.
        outcomes = await desk.send(*(chunk("phone-1", name=name) for name in ("q", "r", "s", "t")))
        assert outcomes == [AWAY] * 4
        assert await desk.stream("phone-1") == ["s", "t"]
        for name in ("p", "q", "r"):
            found = await desk.store.pushes.deliveries("shop", name, outcome=None, cursor="", limit=10)
            assert found is not None
            assert [(row.outcome, row.reason) for row in found[0]] == [("suppressed", "overflow")]
        await desk.store.pushes.accept(_accepted("u"))
        await desk.send(*(chunk("phone-2", name=name, then=[THEN]) for name in ("u", "v", "w")))
        status = await desk.store.pushes.status("shop", "u")
        assert status is not None
        assert status.counts.suppressed == 0
        assert await desk.stream("phone-2") == ["v", "w"]


async def test_what_a_full_stream_of_a_connected_device_has_no_room_for_goes_on_at_the_next_channel() -> None:
    async with opened(StoreConfig(history=5, window=1)) as desk:
        carried: list[str] = []

        async def noted(app: str, arrivals: Sequence[Any]) -> int:
            carried.extend(each.push_id for each in arrivals)
            return len(arrivals)

        arrivals: Any = desk.provider._arrivals
        arrivals.fall_back = noted
        await desk.online("phone-1")
        await desk.send(*(chunk("phone-1", name=name, then=[THEN]) for name in "pqrstu"))
        while not carried:
            await asyncio.sleep(RECORDED / 10)
        assert carried == ["r"]
        assert await desk.stream("phone-1") == ["p", "q", "s", "t", "u"]


async def test_what_was_replaced_ends_also_where_the_poke_fails_or_redis_does_not_take_it_at_once(desk: Desk) -> None:
    await desk.online("phone-1")
    for name in ("p", "q"):
        await desk.store.pushes.accept(_accepted(name))
    ended: list[str] = []
    live: Any = desk.store.live
    arrivals: Any = desk.provider._arrivals
    poke, suppress = live.poke, arrivals.suppress

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    async def noted(app: str, found: Sequence[Any], why: str) -> int:
        ended.extend(each.push_id for each in found)
        return int(await suppress(app, found, why))

    assert await desk.send(chunk("phone-1", collapse="c")) == [WRITTEN]
    live.poke, arrivals.suppress = away, noted
    newer = chunk("phone-1", name="q", collapse="c", at=NOW + 1)
    assert await desk.send(newer) == [Unavailable(reason="store_away")]
    assert ended == ["p"]
    live.poke, arrivals.suppress = poke, away
    assert await desk.send(newer, chunk("phone-1", name="r", collapse="c", at=NOW + 2)) == [WRITTEN, WRITTEN]
    arrivals.suppress = noted
    assert await desk.send(chunk("phone-2", name="s")) == [AWAY]
    assert ended == ["p", "p", "q"], "the repeat names it again, which changes nothing"


async def test_what_was_displaced_ends_also_where_the_answer_of_the_append_is_lost() -> None:
    async with opened(StoreConfig(history=2)) as desk:
        live: Any = desk.store.live
        append_all = live.append_all

        async def lost(*args: Any) -> Any:
            await append_all(*args)
            live.append_all = append_all
            raise StoreUnavailable("away")

        for name in ("p", "q"):
            await desk.store.pushes.accept(_accepted(name))
        await desk.send(chunk("phone-1", name="p"), chunk("phone-1", name="q", collapse="c"))
        newer = chunk("phone-1", name="r", collapse="c", at=NOW + 1), chunk("phone-1", name="s")
        live.append_all = lost
        assert await desk.send(*newer) == [AWAY] * 2  # it is sent again in halves
        for name, why in (("p", "overflow"), ("q", "superseded")):
            found = await desk.store.pushes.deliveries("shop", name, outcome=None, cursor="", limit=10)
            assert found is not None
            assert [(row.outcome, row.reason) for row in found[0]] == [("suppressed", why)]


async def test_what_was_cancelled_on_its_way_to_the_streams_ends_so(desk: Desk) -> None:
    await desk.online("phone-1")
    assert await desk.send(chunk("phone-1")) == [WRITTEN]
    for name in ("p", "q"):
        await desk.store.live.withdraw("shop", name, NOW)
    cancelled = Obsolete(reason="cancelled", end="cancelled")
    again, first = (
        chunk("phone-1", "phone-2", then=[THEN]),
        chunk("phone-1", name="q", headers={"now-or-never": "1"}),
    )
    assert await desk.send(again, first) == [cancelled] * 3
    assert [poke.push.id for poke in await desk.pokes()] == ["p"]
    assert [await desk.stream(f"phone-{n}") for n in (1, 2)] == [[], []]


def _accepted(name: str) -> Push:
    targets: dict[Platform, tuple[Target, ...]] = {"apns:live": (Target(0, "token-0", "phone-1"),)}
    return Push(name, "shop", "normal", NOW, NOW + 60_000, {"live": Message("live", b"{}")}, targets)


async def test_a_device_that_is_gone_is_not_waited_for(desk: Desk) -> None:
    await desk.store.registry.put("shop", Device(id="phone-3", platform="apns", token=f"{3:064x}", user="bob"))
    assert await desk.send(chunk("phone-3", name="of ann")) == [Obsolete(reason="moved")]
    assert await desk.stream("phone-3") == []
    assert await desk.send(chunk("phone-9", then=[THEN])) == [Obsolete(reason="moved")]

    async def _present(app: str, ids: Sequence[str]) -> list[Any]:
        return [Position("e", 0) for _ in ids]

    # Its stream is there, and this version cannot read it.
    live: Any = desk.store.live
    live.presence = _present
    assert await desk.send(chunk("phone-9", then=[THEN])) == [Unavailable(reason="unreadable")]


@pytest.mark.parametrize("step", ["append_all", "poke"])
async def test_while_redis_is_away_nobody_is_to_blame_and_a_repeat_is_harmless(step: str, desk: Desk) -> None:
    await desk.online("phone-1")
    live: Any = desk.store.live
    works = getattr(live, step)

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    setattr(live, step, away)
    (outcome,) = await desk.send(chunk("phone-1"))
    assert outcome == Unavailable(reason="store_away")
    setattr(live, step, works)
    assert await desk.send(chunk("phone-1", turn=2)) == [WRITTEN]
    assert len(await desk.pokes()) == 1
    assert await desk.stream("phone-1") == ["p"]


@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (ValueError("secret"), "internal_error", "a fault, ValueError"),
        (StoreError("Redis refused: no"), "internal_error", "Redis refused: no"),
        (StoreUnavailable("Redis refused: WRONGTYPE"), "store_away", "Redis refused: WRONGTYPE"),
    ],
)
async def test_an_error_of_one_push_fails_no_other(error: Exception, reason: str, text: str, desk: Desk) -> None:
    live: Any = desk.store.live
    append_all, calls = live.append_all, Counter[str]()

    async def broken(app: str, given: Sequence[Any], contents: Sequence[Any]) -> Any:
        calls.update(["tries"])
        if "p2" in [each.push.id for each in given]:
            raise error
        return await append_all(app, given, contents)

    live.append_all = broken
    failed = Unavailable(reason=reason)
    sent = [chunk("phone-0", "phone-1", name=f"p{n}") for n in range(5)]
    assert await desk.send(*sent) == [AWAY] * 4 + [failed] * 2 + [AWAY] * 4
    assert calls["tries"] <= 7
    assert await desk.stream("phone-0") == ["p0", "p1", "p3", "p4"]
    assert desk.provider.trouble.startswith(f"{STREAMS}cannot be written ({text})")
    live.append_all = append_all
    assert await desk.send(sent[2]) == [AWAY, AWAY]


@pytest.mark.parametrize(("seconds", "tries"), [(0.0, TRIES), (5.0, 1)])
async def test_where_everything_fails_a_batch_is_given_up(seconds: float, tries: int, desk: Desk) -> None:
    calls = 0
    live: Any = desk.store.live

    async def away(*_: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(seconds)
        raise StoreUnavailable("Redis is away")

    live.append_all = away
    sent = [chunk("phone-0", name=f"p{n}") for n in range(100)]
    assert await desk.send(*sent) == [Unavailable(reason="store_away")] * 100
    assert calls == tries


async def test_a_caller_that_fails_keeps_no_other_from_its_outcome(desk: Desk) -> None:
    sent = chunk("phone-0", "phone-1")
    found: list[Outcome] = []
    woken = asyncio.Event()
    desk.provider.on_room(woken.set)

    def fails(delivery: Delivery, outcome: Outcome) -> None:
        raise ValueError("a fault")

    desk.provider.submit(Delivery(sent, sent.targets[0]), fails)
    while desk.provider.room:
        desk.provider.submit(Delivery(sent, sent.targets[1]), lambda _, outcome: found.append(outcome))
    await woken.wait()
    assert len(found) == WINDOW - 1
    assert await desk.send(sent) == [AWAY, AWAY]
    desk.provider.submit(Delivery(sent, sent.targets[0]), fails)
    await desk.provider.aclose()
    assert set(found) == {AWAY}


async def test_trouble_is_shown_until_the_store_has_worked_for_a_while(desk: Desk) -> None:
    loop = asyncio.get_running_loop()
    live: Any = desk.store.live
    append_all, presence = live.append_all, live.presence

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("Redis is away")

    live.append_all = live.presence = away
    assert desk.provider.trouble == ""
    assert await desk.send(chunk("phone-1")) == [Unavailable(reason="store_away")]
    await asyncio.sleep(2 * QUIET)
    assert "Redis is away" in desk.provider.trouble
    # It is looked for without any push. That the store answers is no sign that it takes appends.
    live.presence = presence
    await until(lambda: not desk.provider.trouble, LASTS + 1)
    await desk.send(chunk("phone-1"))
    await asyncio.sleep(QUIET - 1)
    assert desk.provider.trouble
    await desk.send(chunk("phone-1"))
    # One success among failures does not end it.
    live.append_all = append_all
    assert await desk.send(chunk("phone-1")) == [AWAY]
    assert desk.provider.trouble
    began = loop.time()
    await until(lambda: not desk.provider.trouble, LASTS + 1)
    assert LASTS <= loop.time() - began <= LASTS + 0.5


async def test_a_batch_ends_at_its_bytes_as_well_and_a_content_is_stored_once(desk: Desk) -> None:
    kept: list[list[str]] = []
    appended: list[list[str]] = []
    live: Any = desk.store.live
    append_all = live.append_all

    async def appends(app: str, given: Sequence[Any], contents: Sequence[Any]) -> Any:
        appended.append([each.push.id for each in given])
        if contents:
            kept.append([each.push.id for each in contents])
        return await append_all(app, given, contents)

    live.append_all = appends
    large = [
        replace(chunk("phone-0", name=f"p{n}"), total=100, message=Message("live", b'{"d":"' + b"x" * size + b'"}'))
        for n, size in enumerate([CONTENTS + 1, CONTENTS // 2, CONTENTS // 3, CONTENTS // 3])
    ]
    assert await desk.send(*large, replace(large[3], starts_at=NOW)) == [AWAY] * 5
    assert appended == [["p0"], ["p1", "p2"], ["p3", "p3"]]
    assert kept == [["p0"], ["p1", "p2"], ["p3"]]
    # The next part of a broadcast a moment later, and much later.
    assert await desk.send(large[1]) == [AWAY]
    assert len(kept) == 3
    await asyncio.sleep(KEPT_FOR)
    assert await desk.send(large[1]) == [AWAY]
    assert kept[3:] == [["p1"]]
    # Of a small push, or one whose number of deliveries is unknown, each part names its devices.
    await desk.send(*[chunk(f"phone-{n}", name="p9", total=total) for n, total in ((1, 4), (2, 4), (3, 0))])
    await desk.send(chunk("phone-0", name="p9", total=0))
    assert kept[4:] == [["p9"], ["p9"]]
    desk.store.live._live.erase("shop", ["phone-1", "phone-2", "phone-3"])
    assert await live.contents("shop", ["p9"])
    desk.store.live._live.erase("shop", ["phone-0"])
    assert not await live.contents("shop", ["p9"])
    assert await desk.stream("phone-0") == ["p0", "p1", "p2", "p3", "p9"]


async def test_deliveries_of_one_turn_of_the_loop_are_one_batch_in_their_order(desk: Desk) -> None:
    calls: list[int] = []
    live: Any = desk.store.live
    works = live.append_all

    async def counted(app: str, appends: Sequence[Any], contents: Sequence[Any]) -> list[list[Appended]]:
        calls.append(sum(len(each.receivers) for each in appends))
        answer: list[list[Appended]] = await works(app, appends, contents)
        return answer

    live.append_all = counted
    chunks = [chunk("phone-0", "phone-1", name=f"p{n}") for n in range(5)]
    room = desk.provider.room
    assert await desk.send(*chunks) == [AWAY] * 10
    assert calls == [10]
    assert await desk.stream("phone-0") == [f"p{n}" for n in range(5)]
    assert desk.provider.room == room


async def test_a_device_gets_what_is_drawn_of_several_pushes_in_turn_in_that_order(desk: Desk) -> None:
    first, second = chunk("phone-0", "phone-1", "phone-2", name="a"), chunk("phone-1", "phone-3", name="b")
    drawn = [(first, 0), (second, 0), (first, 1), (second, 1), (first, 2)]
    answered: list[Outcome] = []
    for each, place in drawn:
        desk.provider.submit(Delivery(each, each.targets[place]), lambda _, outcome: answered.append(outcome))
    await until(lambda: len(answered) == len(drawn), 1)
    assert await desk.stream("phone-1") == ["b", "a"]
    assert await desk.stream("phone-2") == ["a"]


async def test_a_dry_run_is_appended_nowhere(desk: Desk) -> None:
    assert await desk.send(chunk("phone-1", dry_run=True)) == [Sent(reason="dry_run")]
    assert await desk.stream("phone-1") == []


async def test_closing_waits_for_what_was_submitted(desk: Desk) -> None:
    answered: list[Outcome] = []
    sent = chunk("phone-1")
    desk.provider.submit(Delivery(sent, sent.targets[0]), lambda _, outcome: answered.append(outcome))
    await desk.provider.aclose()
    assert answered == [AWAY]
