"""The fan-out stage over the store in memory: the devices that a push reaches, how it continues, when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.errors import StoreUnavailable
from pushsvc.model.codec import encode_audience
from pushsvc.model.devices import Audience, ByDevices, ByTopic, ByUsers, ByWhere, Device, Environment, ToAll
from pushsvc.model.push import Message, Platform, Push
from pushsvc.model.routing import RouteTable, platform_of, table_of
from pushsvc.ports.registry import Members
from pushsvc.rules.channels import NO_LIVE, ChannelRule, ChannelRules
from pushsvc.stages.expand import fanout
from pushsvc.stages.expand.fanout import Run, expand

from ..fakes import MemoryStore

NOW = 1_750_000_000_000
PUSH = Push(
    id="p",
    app="shop",
    lane="normal",
    created_at=NOW,
    expires_at=NOW + 3_600_000,
    messages={platform: Message(platform, b"{}") for platform in ("apns", "fcm")},
    targets={},
)


def device(number: int, **fields: Any) -> Device:
    return Device(id=f"d{number}", token=f"t{number}", **{"platform": "apns", **fields})


ANNA = device(1, user="u1", topics=("news",), tags={"plan": "pro"})
BERT = device(2, user="u1", platform="fcm", kind="fid", topics=("news",), last_seen_at=NOW - 86_400_000)
CLEO = device(3, user="u2", environment="sandbox", topics=("news",), tags={"plan": "pro"})
DORA = device(4, platform="fcm", environment="sandbox", last_seen_at=NOW - 40 * 86_400_000)
EGON = device(5, platform="webpush", topics=("news",))
FAY = device(6, topics=("news",), state="pruned", pruned_at=1)
ALL = [ANNA, BERT, CLEO, DORA, EGON, FAY]


@pytest.fixture
def small_steps() -> Iterator[None]:
    """Ten devices a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fanout, "PAGE", 10)
        patch.setattr(fanout, "ENOUGH", 10)
        yield


async def always(made: int) -> bool:
    return True


class Desk:
    """A store, and a push that is being worked on."""

    def __init__(self, devices: Sequence[Device] = (), audience: Audience | None = None) -> None:
        self.now = NOW
        self.store = MemoryStore(clock=lambda: self.now)
        self.registry: Any = self.store.registry
        self.devices = devices
        self.audience = audience or ToAll()
        self.routes: RouteTable = table_of({"apns": "production"})
        self.channels = NO_LIVE
        self.may_continue: Callable[[], bool] = lambda: True
        self.has_room: Callable[[int], Coroutine[Any, Any, bool]] = always

    async def accept(self, push: Push = PUSH) -> None:
        for start in range(0, len(self.devices), 500):
            await self.store.registry.put_many("shop", self.devices[start : start + 500])
        await self.store.pushes.accept(msgspec.structs.replace(push, audience=encode_audience(self.audience)))

    async def expand(self, **parts: Any) -> Run:
        return await expand(
            "shop",
            "p",
            **{"expansions": self.store.expansions, "registry": self.registry, **parts},
            routes=self.routes,
            channels=self.channels,
            lease=15_000,
            may_continue=self.may_continue,
            has_room=self.has_room,
            now=lambda: self.now,
        )

    async def standing(self) -> tuple[str, int]:
        status = await self.store.pushes.status("shop", "p")
        assert status is not None
        return status.state, status.counts.total

    def targets(self) -> list[tuple[int, str, str, str | None, str]]:
        """Index, platform, token, device and kind of what was put into the lanes, by index."""
        state = self.store._state  # nothing else shows what is in a lane without taking it
        return sorted(
            (target.index, chunk.message.platform, target.token, target.device_id, target.kind)
            for stream in state.lanes.values()
            for chunk in stream.entries.values()
            for target in chunk.targets
        )


@pytest.mark.parametrize(
    ("audience", "reached"),
    [
        (ToAll(), ["d1", "d2", "d3", "d4", "d5"]),
        (ByTopic("news"), ["d1", "d2", "d3", "d5"]),
        (ByTopic("olds"), []),
        (ByUsers(("u1", "u2", "u3", "u1")), ["d1", "d2", "d3"]),
        (ByDevices(("d4", "d6", "d1", "d4", "d9")), ["d1", "d4"]),
        (ByWhere("tags.plan == 'pro' or environment == 'sandbox'"), ["d1", "d3", "d4"]),
        (ByWhere("last_seen > '30d'"), ["d2"]),
        (ByWhere("platform == 'webpush'"), ["d5"]),
    ],
)
async def test_the_receivers_of_a_push(audience: Audience, reached: list[str]) -> None:
    """All but tombstones; also those that no account of the app reaches, who must not be left out silently."""
    desk = Desk(ALL, audience)
    await desk.accept()
    assert await desk.expand() == Run(len(reached), "done")
    found = desk.targets()
    assert sorted(str(row[3]) for row in found) == reached
    assert [row[0] for row in found] == list(range(len(reached)))
    by_id = {device.id: device for device in ALL}
    for _, platform, token, device_id, kind in found:
        own = by_id[str(device_id)]
        assert (platform, token, kind) == (own.platform, own.token, own.kind)
    assert await desk.standing() == ("sending" if reached else "done", len(reached))


@pytest.mark.parametrize(
    ("environments", "sent", "unreachable"),
    [
        ({"apns": "production"}, [("apns", "d1"), ("fcm", "d2")], ["d3"]),
        ({"apns": "sandbox"}, [("apns", "d3"), ("fcm", "d2")], ["d1"]),
        (
            {"apns": "production", "apns_sandbox": "sandbox"},
            [("apns", "d1"), ("apns_sandbox", "d3"), ("fcm", "d2")],
            [],
        ),
    ],
)
async def test_each_goes_by_the_account_of_its_environment(
    environments: dict[Platform, Environment], sent: list[tuple[str, str]], unreachable: list[str]
) -> None:
    """A device that no account reaches is a target all the same, without a message: none is left out silently."""
    desk = Desk(ALL, ByTopic("news"))
    desk.routes = table_of(environments)
    messages = {route: Message(platform_of(route), b"{}") for route in (*environments, "fcm")}
    await desk.accept(msgspec.structs.replace(PUSH, messages=messages))
    assert await desk.expand() == Run(4, "done")
    found: dict[bool, list[tuple[str, str | None]]] = {False: [], True: []}
    for stream in desk.store._state.lanes.values():
        for chunk in stream.entries.values():
            found[chunk.unreachable] += [(chunk.platform, target.device_id) for target in chunk.targets]
    assert sorted(found[False]) == sent
    assert found[True] == [("apns", device_id) for device_id in (*unreachable, "d5")]


async def test_the_channels_of_each_device_are_chosen_when_it_is_found() -> None:
    web = Device(id="d7", platform="live", token="d7", kind="id")
    desk = Desk([ANNA, BERT, CLEO, web])
    desk.channels = ChannelRules("live, provider", (ChannelRule("platform == 'fcm'", "provider"),))
    messages = {name: Message(name, b"{}") for name in ("apns", "fcm", "live")}
    await desk.accept(msgspec.structs.replace(PUSH, messages=messages))
    assert await desk.expand() == Run(4, "done")
    found = {
        target.device_id: (chunk.channel, chunk.platform, [each.channel for each in chunk.fallbacks])
        for stream in desk.store._state.lanes.values()
        for chunk in stream.entries.values()
        for target in chunk.targets
    }
    assert found == {
        "d1": ("live", "apns", ["apns"]),
        "d2": ("fcm", "fcm", []),
        "d3": ("live", "apns_sandbox", []),  # whose account the app does not have
        "d7": ("live", "live", []),
    }


async def test_spans_count_from_when_the_push_starts_not_from_when_it_is_expanded() -> None:
    desk = Desk([device(1, last_seen_at=NOW - 86_400_000 + 1)], ByWhere("last_seen > '1d'"))
    await desk.accept()
    desk.now += 7 * 86_400_000
    assert await desk.expand() == Run(1, "done", late=True)


async def test_many_pages_number_everybody_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "PAGE", 7)
    monkeypatch.setattr(fanout, "ENOUGH", 3)

    desk = Desk([device(n, platform=("apns", "fcm")[n % 3 == 0]) for n in range(500)])
    await desk.accept()
    assert await desk.expand() == Run(500, "done")
    found = desk.targets()
    assert [row[0] for row in found] == list(range(500))
    assert len({row[2] for row in found}) == 500


async def test_a_sparse_expression_fills_its_steps_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "PAGE", 10)
    monkeypatch.setattr(fanout, "ENOUGH", 5)
    monkeypatch.setattr(fanout, "PAGES", 4)
    steps: list[int] = []

    desk = Desk([device(n, tags={"n": n}) for n in range(200)], ByWhere("tags.n < 4 or tags.n >= 180"))
    await desk.accept()
    advance = desk.store.expansions.advance

    async def counted(at: Any, found: Any, **rest: Any) -> Any:
        steps.append(sum(map(len, found.values())))
        return await advance(at, found, **rest)

    desk.store.expansions.advance = counted  # type: ignore[method-assign]  # watched, not changed
    assert await desk.expand() == Run(24, "done")
    # 40 devices a step where few fit; as soon as there are five, they are written.
    assert steps == [4, 0, 0, 0, 10, 10, 0]


@pytest.mark.usefixtures("small_steps")
async def test_it_stops_between_two_steps_and_goes_on_there() -> None:
    desk = Desk([device(n) for n in range(35)])
    await desk.accept()
    answers = iter([True, True, False])
    desk.may_continue = lambda: next(answers)
    assert await desk.expand() == Run(20, "paused")
    assert await desk.standing() == ("expanding", 20)
    assert [each.push_id for each in await desk.store.expansions.due(["shop"])] == ["p"]
    desk.may_continue = lambda: True
    desk.now = PUSH.expires_at + 1
    assert await desk.expand() == Run(15, "done", late=True)
    assert [row[3] for row in desk.targets()] == [f"d{n}" for n in range(35)]
    assert await desk.expand() == Run(0, "left")


@pytest.mark.usefixtures("small_steps")
async def test_it_waits_while_the_queue_is_full() -> None:
    desk = Desk([device(n) for n in range(35)])
    await desk.accept()

    async def has_room(made: int) -> bool:
        assert made in (0, 10, 20)
        return (await desk.standing())[1] < 15

    desk.has_room = has_room
    assert await desk.expand() == Run(20, "full")
    assert [each.push_id for each in await desk.store.expansions.due(["shop"])] == ["p"]
    assert await desk.expand() == Run(0, "full")
    desk.has_room = always
    assert await desk.expand() == Run(15, "done")


@pytest.mark.usefixtures("small_steps")
async def test_a_cancelled_push_is_left() -> None:
    desk = Desk([device(n) for n in range(35)])
    await desk.accept()

    async def cancelled_after_a_step(made: int) -> bool:
        if made:
            await desk.store.pushes.cancel("shop", "p")
        return True

    desk.has_room = cancelled_after_a_step
    assert await desk.expand() == Run(10, "left")
    assert await desk.standing() == ("cancelled", 10)
    assert await desk.expand() == Run(0, "left")


class Faulty:
    """A registry, or a store of expansions, that breaks at one call: before it does anything, or after it did."""

    def __init__(self, inner: Any, name: str, at: int, *, after: bool) -> None:
        self._inner, self._name, self._left, self._after = inner, name, at, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name != self._name:
            return real

        async def call(*args: Any, **rest: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise StoreUnavailable("gone")
            answer = await real(*args, **rest)
            if self._left == 0:
                raise StoreUnavailable("gone")
            return answer

        return call


@given(
    breaks=st.lists(
        st.tuples(st.sampled_from(["members", "advance", "load"]), st.integers(1, 6), st.booleans()), max_size=6
    )
)
@pytest.mark.usefixtures("small_steps")
def test_whatever_breaks_nobody_is_missed_and_nobody_twice(breaks: list[tuple[str, int, bool]]) -> None:
    async def story() -> None:
        desk = Desk([device(n) for n in range(120)])
        await desk.accept()
        for name, at, after in breaks:
            parts = {"registry": desk.registry, "expansions": desk.store.expansions}
            broken = "registry" if name == "members" else "expansions"
            parts[broken] = Faulty(parts[broken], name, at, after=after)
            with suppress(StoreUnavailable):
                await desk.expand(**parts)
        assert (await desk.expand()).end in ("done", "left")
        assert [row[3] for row in desk.targets()] == [f"d{n}" for n in range(120)]
        assert await desk.standing() == ("sending", 120)

    asyncio.run(story())


async def test_an_empty_page_is_not_the_last() -> None:
    class Halting:
        """Answers with nothing now and then."""

        async def members(self, app: str, audience: object, *, after: str, limit: int) -> Members:
            place = int(after or 0)
            found = [device(place)] if place % 3 == 1 else []
            return Members(found, str(place + 1) if place < 100 else None)

    desk = Desk()
    desk.registry = Halting()
    await desk.accept()
    assert (await desk.expand()).end == "done"
    assert [row[3] for row in desk.targets()] == [f"d{n}" for n in range(1, 101, 3)]
