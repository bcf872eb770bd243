"""What a gateway does when its streams fail, or a device leaves at an awkward moment: with scripted streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from prometheus_client import REGISTRY

from pushsvc import telemetry
from pushsvc.errors import (
    Conflict,
    InvalidRequest,
    MalformedBody,
    NotFound,
    StoreError,
    StoreUnavailable,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreadable,
)
from pushsvc.live.config import LiveAppConfig, LiveConfig
from pushsvc.live.gateway import Gateway, open_gateway
from pushsvc.live.gateway.acks import LINGER, QUIET, Acks
from pushsvc.live.gateway.admission import CONNECTING, ENOUGH, STALLED, Admission
from pushsvc.live.gateway.connection import Connection
from pushsvc.live.gateway.gateway import CALLS_AT_ONCE
from pushsvc.live.gateway.http import HttpCalls
from pushsvc.live.gateway.metrics import GatewayMetrics
from pushsvc.live.peer import FaultKind, Request
from pushsvc.live.protocol import codes
from pushsvc.live.protocol.effects import AckRequested
from pushsvc.live.protocol.tokens import issue
from pushsvc.live.wheel import Wheel
from pushsvc.model.delivery import Arrival
from pushsvc.model.live import denied, own_endpoints
from pushsvc.model.rates import Rate
from pushsvc.ports.live import (
    Acked,
    Connected,
    Cut,
    EventReport,
    InboxItem,
    LivePush,
    LiveRoute,
    Page,
    Poke,
    Position,
    Presence,
    Received,
    Recipient,
    Reference,
    Refused,
    Unread,
)

from .virtual_time import run

SECRET = "s" * 40
AWAY = StoreUnavailable("Redis is away.")
BROKEN = Unreadable("The stream of the device", device_ids=["phone"])
EMPTY = Page("e", 0, [], False, 0)
PUSH = LivePush("p1", 0, 2**40, "normal")


class Streams:
    """Streams whose answers a test sets; an exception is raised. `calls` are the names of what was called."""

    lifetime = 3.0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.connected: Any = Connected(0, False, EMPTY, 0, 0, None)
        self.pages: list[Any] = []
        self.looked: Any = []
        self.acknowledged: list[Sequence[tuple[str, Position]]] = []
        self.acks: list[list[Acked]] = []
        self.shown: list[list[list[int] | None]] = []
        self.routes: list[Any] = []
        self.lapsed: list[set[str]] = []
        self.received: list[Any] = []
        self.refused: Refused | None = None
        self.held: dict[str, bytes] = {}
        self.reported: list[EventReport] = []
        self.compared: list[list[str]] = []
        self.poked: list[Mapping[str, Sequence[InboxItem]]] = []
        self.pokes: list[Any] = []
        self.gone: list[tuple[str, int]] = []
        self.goings: list[Any] = []

    def _answer(self, name: str, answer: Any) -> Any:
        self.calls.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def connect(self, app: str, device_id: str, route: LiveRoute, **more: Any) -> Any:
        return self._answer("connect", self.connected)

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        self.gone.append((device_id, route.connection))
        return bool(self._answer("disconnect", self.goings.pop(0) if self.goings else True))

    async def history(self, app: str, device_id: str, **more: Any) -> Any:
        return self._answer("history", self.pages.pop(0))

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        return {name: b'{"id":"%b"}' % name.encode() for name in push_ids}

    async def admits(self, app: str, device_id: str, *, issued_at: int) -> Refused | None:
        return self.refused

    async def holds(self, app: str, device_id: str, push_id: str) -> bool:
        return push_id in self.held

    async def report(self, app: str, reports: Sequence[EventReport], *, log: bool = False) -> list[str | None]:
        self.reported += reports
        return ["fcm" if each.push_id in self.held else None for each in reports]

    async def read(self, app: str, device_id: str, position: Position) -> Any:
        return self._answer("read", BROKEN)

    async def acking(self, app: str, positions: Sequence[tuple[str, Position]], given: Sequence[Any]) -> Any:
        self.shown.append([each and list(each) for each in given])
        return self._answer("acking", self.looked)

    async def ack(
        self, app: str, positions: Sequence[tuple[str, Position]], ended: Sequence[Sequence[int]]
    ) -> list[Acked]:
        self.acknowledged.append(positions)
        return self.acks.pop(0) if self.acks else [Acked("") for _ in positions]

    async def presence(self, app: str, device_ids: Sequence[str], *, gateway: str) -> Any:
        self.compared.append(list(device_ids))
        return self._answer("presence", self.routes.pop(0))

    async def poke(self, items: Mapping[str, Sequence[InboxItem]]) -> None:
        self.poked.append(items)
        self._answer("poke", self.pokes.pop(0))

    async def beat(self, gateway: str, connections: Mapping[str, int]) -> set[str]:
        return self.lapsed.pop(0)

    def inbox(self, gateway: str) -> Streams:
        return self

    async def receive(self, wait_ms: int) -> Any:
        if not self.received:
            await asyncio.Event().wait()
        return self._answer("receive", self.received.pop(0))


class Line:
    """A transport that keeps what is written."""

    format = "json"
    session = ""
    frame_pings = False
    buffered = 0
    paused = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.code = 0
        self.written: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        self.written += [msgspec.json.decode(line) for line in data.splitlines()]

    def known(self) -> None:
        self.is_known = True

    def close(self, code: int, reason: str) -> None:
        self.code = code


class World:
    """A gateway over scripted streams; its pauses are noted and not waited for."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.confirmed: list[Arrival] = []
        self.pauses: list[float] = []
        self.now = 1000.0
        config = LiveConfig(apps={"shop": LiveAppConfig(secret=SECRET)})
        self.gateway = Gateway(config, self.streams, self.confirm, Wheel(lambda: self.now))  # type: ignore[arg-type]  # scripted
        self.gateway.signs.settled = True
        self.gateway.signs._given_at = dict.fromkeys(config.apps, self.now)
        self.gateway.pause = self.pause  # type: ignore[method-assign]  # waits for nothing

    async def confirm(self, app: str, ended: Sequence[Arrival]) -> None:
        self.confirmed += ended

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def token(self, device: str = "phone") -> str:
        return issue("shop", device, SECRET, now=time.time(), ttl=60.0, token_id="t")

    def request(self, method: str, path: str, body: bytes = b"", **query: str) -> Request:
        """Return a plain call with the device's token."""
        headers = {"authorization": f"Bearer {self.token()}"}
        params = {"id": path.rpartition("/")[2]}
        return Request(method=method, path=path, query=query, headers=headers, body=body, params=params)

    def ask(self, transport: str = "websocket", *, device: str = "phone") -> tuple[Connection, Line]:
        """Return a new connection that has sent its connect."""
        line = Line(transport)
        connection = Connection(self.gateway, line, Request(method="GET", path="/", address="192.0.2.1"))  # type: ignore[arg-type]  # scripted
        connection.received(msgspec.json.encode({"id": 1, "connect": {"token": self.token(device)}}))
        return connection, line

    async def done(self) -> None:
        """Wait until nothing is under way."""
        while self.gateway._tasks:
            await asyncio.gather(*self.gateway._tasks, return_exceptions=True)

    async def beat(self) -> None:
        """Give a sign of life, and do what follows."""
        await self.gateway.signs.give()
        await self.gateway.signs.catch_up()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_device_that_leaves_in_the_moment_of_its_connect_is_forgotten(world: World) -> None:
    connection, _ = world.ask()
    connection.lost(True)
    await world.done()
    assert (world.gateway.connections, world.streams.calls) == ({}, [])


async def test_a_device_that_leaves_during_its_connect_leaves_no_route(world: World) -> None:
    connection, _ = world.ask()
    world.streams.disconnect = None  # type: ignore[assignment,method-assign]  # replaced below
    gone: list[int] = []

    async def disconnect(app: str, device_id: str, route: LiveRoute) -> bool:
        gone.append(route.connection)
        return True

    async def connect(*_: Any, **more: Any) -> Any:
        connection.lost(False)
        await asyncio.sleep(0)
        gone.append(0)  # the step itself
        return world.streams.connected

    world.streams.connect, world.streams.disconnect = connect, disconnect  # type: ignore[method-assign]  # scripted
    await world.done()
    assert (gone[-1], world.gateway.connections) == (1, {})


@pytest.mark.parametrize("fault", [AWAY, BROKEN], ids=["away", "unreadable"])
async def test_a_connect_that_fails_is_answered_and_leaves_no_route(fault: Exception, world: World) -> None:
    world.streams.connected = fault
    _, line = world.ask()
    await world.done()
    assert [each["error"]["code"] for each in line.written] == [100]
    assert (world.streams.calls, world.gateway.connections) == (["connect", "disconnect"], {})


@pytest.mark.parametrize(("transport", "waits"), [("websocket", 0), ("sse", 3), ("http_stream", 3)])
async def test_a_busy_gateway_answers_late_where_clients_come_back_at_once(
    transport: str, waits: int, world: World
) -> None:
    world.gateway.signs.settled = False
    for _ in range(3):
        _, line = world.ask(transport)
        await world.done()
        assert [each["error"]["code"] for each in line.written] == [100]
    assert len(world.pauses) == waits
    assert world.pauses == sorted(set(world.pauses)), "each waits longer"


async def test_a_command_that_fails_is_answered(world: World) -> None:
    connection, line = world.ask()
    await world.done()
    connection.received(b'{"id": 2, "rpc": {"method": "read", "data": {"offset": 0}}}')
    await world.done()
    assert (line.written[-1]["id"], line.written[-1]["error"]["code"]) == (2, 100)


async def test_a_stream_that_cannot_be_read_ends_the_connection(world: World) -> None:
    connection, line = world.ask()
    await world.done()
    world.streams.pages = [AWAY, BROKEN]
    connection.appended("e", 3, 3)
    await world.done()
    assert (line.code, len(world.pauses)) == (codes.INSUFFICIENT_STATE.code, 1)


async def test_a_connection_that_falls_silent_speaks_against_its_heartbeat(world: World) -> None:
    agreed = []
    for end in (codes.SHUTDOWN, None, codes.NO_PONG):  # None: the app has crashed
        connection, _ = world.ask()
        await world.done()
        if end is not None:
            connection.end(end)
        connection.lost(end is not None)
        await world.done()
        agreed.append(world.gateway.heartbeats.agree(("shop", "phone"), None, foreground=None))
    assert agreed[:2] == [25.0, 25.0]
    assert agreed[2] < 25.0


def test_codes_that_clients_make_up_are_counted_together() -> None:
    metrics = GatewayMetrics()
    for code in (1000, 3001, 4501, 3777, 4999):
        metrics.disconnected("codes", code)
    (family,) = telemetry.LIVE_DISCONNECTS.collect()
    found = {
        each.labels["code"]: each.value
        for each in family.samples
        if each.labels["app"] == "codes" and each.name.endswith("_total")
    }
    assert found == {"1000": 1, "3001": 1, "4501": 1, "other": 2}


async def test_what_is_appended_during_an_acknowledgement_is_not_acknowledged_by_it(world: World) -> None:
    gateway, streams = world.gateway, world.streams
    reference = Reference(1, 0, "fcm", PUSH)
    streams.looked = [Acked("", [reference]), Acked("offset"), Acked("", [reference])]
    loop = asyncio.create_task(gateway.acks.run())
    answers = await asyncio.gather(*(gateway.acks.ack("shop", "phone", Position("e", each)) for each in (1, 2, 1)))
    loop.cancel()
    assert [each.fault for each in answers] == ["", "offset", ""]
    assert [[position.offset for _, position in each] for each in streams.acknowledged] == [[1, 1]]
    assert [(each.push_id, each.index) for each in world.confirmed] == [("p1", 0)]


async def test_deliveries_of_two_streams_of_a_device_end_though_their_offsets_are_the_same(world: World) -> None:
    given = [Reference(1, 0, "fcm", LivePush(name, 0, 2**40, "normal")) for name in ("p1", "p2")]
    loop = asyncio.create_task(world.gateway.acks.run())
    acks = world.gateway.acks
    asked = (acks.ack("shop", "phone", Position(epoch, 1), [own]) for epoch, own in zip("de", given, strict=True))
    await asyncio.gather(*asked)
    loop.cancel()
    assert [len(each) for each in world.streams.acknowledged] == [2], "in one step"
    assert [each.push_id for each in world.confirmed] == ["p1", "p2"]


async def test_a_stream_is_asked_only_what_its_connection_does_not_know(world: World) -> None:
    gateway, streams = world.gateway, world.streams
    known, others = Reference(2, 0, "fcm", PUSH), Reference(1, 0, "apns", LivePush("p0", 0, 2**40, "normal"))
    loop = asyncio.create_task(gateway.acks.run())
    assert (await gateway.acks.ack("shop", "phone", Position("e", 2), [known])).fault == ""
    assert "acking" not in streams.calls
    assert [(each.push_id, each.platform) for each in world.confirmed] == [("p1", "fcm")]
    # The stream has one more: it is asked, and what has ended already is not ended again.
    streams.acks, streams.looked = [[Acked("open")]], [Acked("", [others, known])]
    assert (await gateway.acks.ack("shop", "phone", Position("e", 2), [known])).fault == ""
    assert streams.calls.count("acking") == 1
    ended = [(each.push_id, each.platform) for each in world.confirmed]
    assert ended == [("p1", "fcm"), ("p1", "fcm"), ("p0", "apns")]
    loop.cancel()


async def test_a_connection_knows_what_it_was_given_by_a_poke(world: World) -> None:
    gateway, streams = world.gateway, world.streams
    connection, _ = world.ask()
    await world.done()
    loop = asyncio.create_task(gateway.acks.run())
    for offset, platform in ((1, "fcm"), (2, "live"), (3, "")):  # the last one is of an older version
        push = LivePush(f"p{offset}", 0, 2**40, "normal")
        recipient = Recipient(connection.number, "e", offset, offset - 1, 1, 7)
        await gateway._take(Poke("shop", push, [recipient], b'{"id":"p"}', platform=platform))
    streams.looked = [Acked("")]
    for offset, asked in ((2, 0), (3, 1)):
        connection.received(b'{"id":%d,"rpc":{"method":"ack","data":{"ack":%d}}}' % (offset + 10, offset))
        await gateway.acks.all_taken()
        assert streams.calls.count("acking") == asked
    found = [(each.push_id, each.index, each.platform) for each in world.confirmed]
    assert found == [("p1", 7, "fcm"), ("p2", 7, "live")]
    loop.cancel()


async def test_a_stream_is_asked_with_what_its_connection_was_given(world: World) -> None:
    gateway, streams = world.gateway, world.streams
    connection, _ = world.ask()
    await world.done()
    loop = asyncio.create_task(gateway.acks.run())
    streams.looked = [Acked("")]
    for offset, platform in ((1, "fcm"), (2, ""), (3, "fcm")):
        push = LivePush(f"p{offset}", 0, 2**40, "normal")
        recipient = Recipient(connection.number, "e", offset, offset - 1, 1, 7)
        await gateway._take(Poke("shop", push, [recipient], b'{"id":"p"}', platform=platform))
    connection.received(b'{"id":9,"rpc":{"method":"ack","data":{"ack":2}}}')
    await gateway.acks.all_taken()
    # The stream has more than the connection knows of.
    streams.acks = [[Acked("open")]]
    connection.received(b'{"id":10,"rpc":{"method":"ack","data":{"ack":3}}}')
    await gateway.acks.all_taken()
    connection.received(b'{"rpc":{"method":"ack","data":{"ack":3}}}')
    assert streams.shown == [[[1, 2]], [[3]]]
    loop.cancel()


async def test_a_repeated_acknowledgement_ends_all_that_it_covers_as_sent(world: World) -> None:
    gateway, streams = world.gateway, world.streams
    connection, _ = world.ask()
    await world.done()
    loop = asyncio.create_task(gateway.acks.run())
    push = LivePush("p1", 0, 2**40, "normal")
    await gateway._take(Poke("shop", push, [Recipient(connection.number, "e", 1, 0, 1, 7)], b'{"id":"p"}', platform=""))
    for looked in (AWAY, Acked("")):
        streams.looked = looked if looked is AWAY else [looked]
        connection.received(b'{"id":9,"rpc":{"method":"ack","data":{"ack":1}}}')
        await gateway.acks.all_taken()
    assert streams.shown == [[[1]], [None]]
    push = LivePush("p2", 0, 2**40, "normal")
    await gateway._take(Poke("shop", push, [Recipient(connection.number, "e", 2, 1, 1, 7)], b'{"id":"p"}', platform=""))
    connection.received(b'{"id":10,"rpc":{"method":"ack","data":{"ack":2}}}')
    await gateway.acks.all_taken()
    await gateway.acks.ack("shop", "phone", Position("e", 2))
    assert streams.shown[2:] == [[None], [None]], "one that failed may stand behind it; of HTTP nothing is known"
    loop.cancel()


async def test_an_acknowledgement_that_waits_for_redis_goes_on_with_what_a_later_one_was_given(world: World) -> None:
    connection, _ = world.ask()
    await world.done()
    taken, acks = list[tuple[int, Any]](), [AWAY]

    async def ack(app: str, device_id: str, position: Position, given: Any, shown: Any) -> Acked:
        if acks:
            connection._do(AckRequested(0, 2, "e", None, (2,)))
            raise acks.pop()
        taken.append((position.offset, shown))
        return Acked("")

    world.gateway.acks.ack = ack  # type: ignore[method-assign,assignment]  # scripted
    connection.session._window.top = 2
    connection._do(AckRequested(0, 1, "e", None, (1,)))
    await world.done()
    assert taken == [(2, (1, 2))]


async def test_when_deliveries_passed_the_stages_before_is_remembered_of_the_last_ones(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr("pushsvc.live.gateway.acks.CLOCKED", 3)
    acks = world.gateway.acks
    for name, indexes in (("p1", [0, 1]), ("p2", [0, 1])):
        acks.remember(name, indexes, (1, 2, 3, b""))
    loop = asyncio.create_task(acks.run())
    counted = [acked_stages()]
    for offset, index in enumerate((0, 1), start=1):
        world.streams.acks = [[Acked("", acked=offset, before=offset - 1)]]
        await acks.ack("shop", "phone", Position("e", offset), [Reference(offset, index, "fcm", PUSH)])
        counted.append(acked_stages())
    loop.cancel()
    assert [each - counted[0] for each in counted] == [0, 0, 1]


def acked_stages() -> float:
    """How many deliveries were counted with the stages before them."""
    return REGISTRY.get_sample_value("pushsvc_stage_seconds_count", {"stage": "acked"}) or 0.0


def test_acknowledgements_that_follow_one_another_share_a_step() -> None:
    async def main() -> None:
        world, loop = World(), asyncio.get_running_loop()
        acks, acked_at = world.gateway.acks, list[float]()
        acking = asyncio.create_task(acks.run())

        async def ack(device: str) -> None:
            await acks.ack("shop", device, Position("e", 1), [Reference(1, 0, "fcm", PUSH)])
            acked_at.append(loop.time())

        await ack("first")
        assert acked_at.pop() < LINGER, "nothing went before it"
        async with asyncio.TaskGroup() as tasks:
            for name in ("second", "third", "fourth"):
                tasks.create_task(ack(name))
                await asyncio.sleep(LINGER / 4)
        assert [len(each) for each in world.streams.acknowledged] == [1, 3]
        await asyncio.sleep(2 * QUIET)
        acked_at.clear()
        began = loop.time()
        await ack("fifth")
        assert acked_at.pop() - began < LINGER, "nothing went shortly before it"
        acking.cancel()

    run(main())


async def test_an_acknowledgement_that_fails_does_not_keep_the_next_ones_waiting(world: World) -> None:
    loop = asyncio.create_task(world.gateway.acks.run())
    for fault in (ValueError("broken"), AWAY):
        world.streams.looked = fault
        with pytest.raises(type(fault)):
            async with asyncio.timeout(10):
                await world.gateway.acks.ack("shop", "phone", Position("e", 1))
    world.streams.looked = [Acked("")]
    async with asyncio.timeout(10):
        assert (await world.gateway.acks.ack("shop", "phone", Position("e", 1))).fault == ""
    loop.cancel()


async def test_a_comparison_that_failed_is_made_again(world: World) -> None:
    world.ask()
    await world.done()
    world.streams.calls.clear()
    present = Presence("e", 0, 0, 0, 0, LiveRoute(world.gateway.id, 1), 1)
    world.streams.lapsed, world.streams.routes = [{"shop"}, set()], [AWAY, [present], [present]]
    with pytest.raises(StoreUnavailable):
        await world.beat()
    await world.beat()
    assert world.streams.calls == ["presence"] * 2


@pytest.mark.parametrize("received", [[Received([], lost=True)], [AWAY, Received([])]], ids=["lost", "away"])
async def test_what_an_inbox_may_have_lost_is_compared_after_a_sign_of_life_alone(
    received: list[Any], world: World
) -> None:
    _, line = world.ask()
    await world.done()
    world.streams.calls.clear()
    world.streams.received = received
    loop = asyncio.create_task(world.gateway.run_receiving())
    await world.until(lambda: world.gateway.signs._now.is_set())
    assert world.streams.calls.count("presence") == 0, "without a sign of life no connection has a route"
    away, sign = [AWAY], world.streams.beat

    async def beat(*args: Any) -> set[str]:
        if away:
            raise away.pop()
        world.streams.calls.append("sign")
        return await sign(*args)

    world.streams.beat = beat  # type: ignore[method-assign,assignment]  # scripted
    world.streams.lapsed = [set()]
    world.streams.routes = [[Presence("e", 9, 0, 9, 9, LiveRoute(world.gateway.id, 1), 1)]] * 2
    world.streams.pages = [Page("e", 9, [], False, 0)]
    with pytest.raises(StoreUnavailable):
        await world.beat()
    await world.beat()
    await world.done()
    loop.cancel()
    assert [each for each in world.streams.calls if each != "receive"][:2] == ["sign", "presence"]
    assert line.code == 0


@pytest.mark.parametrize(("top", "unread", "corrected"), [(0, 2, []), (0, 1, [1]), (1, 1, [])])
async def test_a_comparison_corrects_what_is_unread(top: int, unread: int, corrected: list[int], world: World) -> None:
    world.streams.connected = Connected(0, False, EMPTY, 0, 2, None)
    connection, line = world.ask()
    await world.done()
    world.streams.routes = [[Presence("e", top, 0, 0, unread, LiveRoute(world.gateway.id, 1), 1)]]
    world.streams.pages = [Page("e", top, [], False, 0)]
    await world.gateway.signs.compare([connection])
    await world.done()
    assert [each["push"]["message"]["data"]["unread"] for each in line.written[1:]] == corrected


async def test_each_connection_has_its_turn_to_be_compared(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr("pushsvc.live.gateway.signs.ROUND", 3.0)

    lines = [world.ask(device=f"phone-{n}")[1] for n in range(5)]
    await world.done()
    world.streams.lapsed = [set()] * 4
    present = [Presence("e", 0, 0, 0, 0, LiveRoute(world.gateway.id, n + 1), 1) for n in range(5)]
    cut = msgspec.structs.replace(present[3], route=None)
    world.streams.routes = [present[:2], [present[2], cut], [present[4]], present[:2]]
    for _ in range(4):
        await world.beat()
    assert world.streams.compared == [
        ["phone-0", "phone-1"],
        ["phone-2", "phone-3"],
        ["phone-4"],
        ["phone-0", "phone-1"],
    ]
    assert [line.code for line in lines] == [0, 0, 0, codes.INSUFFICIENT_STATE.code, 0]


async def test_signs_of_life_are_given_within_a_long_comparison(world: World) -> None:
    world.ask()
    await world.done()
    world.streams.lifetime = 0.03
    signs, compared = asyncio.Semaphore(0), asyncio.Event()

    async def beat(*_: Any) -> set[str]:
        signs.release()
        return {"shop"}

    async def presence(*_: Any, **more: Any) -> Any:
        compared.set()
        await asyncio.Event().wait()

    world.streams.beat, world.streams.presence = beat, presence  # type: ignore[method-assign,assignment]  # scripted
    loop = asyncio.create_task(world.gateway.signs.run())
    await compared.wait()
    for _ in range(3):
        await signs.acquire()
    loop.cancel()


@pytest.fixture
def two_apps(world: World) -> World:
    """Redis is away for `down`, the first app, and there for `shop`."""
    apps = {name: LiveAppConfig(secret=SECRET) for name in ("down", "shop")}
    world.gateway.use(LiveConfig(apps=apps))
    world.gateway.signs._given_at.clear()
    return world


async def test_where_redis_is_away_for_an_app_the_others_have_their_signs(two_apps: World) -> None:
    world, given = two_apps, list[str]()
    _, line = world.ask()
    await world.done()

    async def beat(gateway: str, connections: Mapping[str, int]) -> set[str]:
        if "down" in connections:
            raise AWAY
        given.extend(connections)
        return set(connections)

    world.streams.beat = beat  # type: ignore[method-assign]  # scripted
    world.streams.routes = [[Presence("e", 0, 0, 0, 0, None, 0)]]
    with pytest.raises(StoreUnavailable):
        await world.gateway.signs.give()
    await world.gateway.signs.catch_up()
    assert (given, line.code) == (["shop"], codes.INSUFFICIENT_STATE.code), "and its connections were compared"


async def test_where_redis_is_away_for_an_app_messages_are_forwarded_by_another(two_apps: World) -> None:
    world = two_apps

    async def gateways(app: str) -> dict[str, int]:
        if app == "down":
            raise AWAY
        return {"there": 1}

    world.streams.gateways, world.streams.pokes = gateways, [None]  # type: ignore[attr-defined]  # scripted
    assert await world.gateway.forward("there", "session", b"{}")
    with pytest.raises(StoreUnavailable):
        await world.gateway.forward("elsewhere", "session", b"{}")


async def test_where_redis_is_away_for_an_app_the_others_receive_and_acknowledge(two_apps: World) -> None:
    world, gateway = two_apps, two_apps.gateway
    connection, line = world.ask()
    await world.done()
    contents, waits = world.streams.contents, asyncio.Event()

    async def contents_of(app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        if app == "down":
            raise AWAY
        return await contents(app, push_ids)

    async def confirm(app: str, ended: Sequence[Arrival]) -> None:
        if app == "down":
            await waits.wait()

    world.streams.contents = contents_of  # type: ignore[method-assign]  # scripted
    gateway.acks._confirm = confirm
    recipient = Recipient(connection.number, "e", 1, 0, 1, 0)
    items: list[InboxItem] = [Poke(app, PUSH, [recipient], platform="fcm") for app in ("down", "shop")]
    world.streams.received = [Received(items)]
    receiving, acking = asyncio.create_task(gateway.run_receiving()), asyncio.create_task(gateway.acks.run())
    await world.until(lambda: not world.streams.received and len(line.written) == 2)
    assert gateway.signs._unsure == {"down"}
    reference = Reference(1, 0, "fcm", PUSH)
    stuck = asyncio.create_task(gateway.acks.ack("down", "other", Position("e", 1), [reference]))
    await asyncio.sleep(0)
    acked = await gateway.acks.ack("shop", "phone", Position("e", 1), [reference])
    assert (acked.fault, stuck.done()) == ("", False)
    for task in (stuck, receiving, acking):
        task.cancel()


@pytest.mark.parametrize("beat", [{"shop"}, AWAY, set()], ids=["lapsed", "answer lost", "own clock"])
async def test_after_a_pause_beyond_the_sign_of_life_all_connections_are_compared(beat: Any, world: World) -> None:
    _, line = world.ask()
    await world.done()
    answers = [beat, set()]

    async def give(*_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    world.streams.beat = give  # type: ignore[method-assign,assignment]  # scripted
    world.streams.routes = [[Presence("e", 0, 0, 0, 0, None, 0)]]
    world.gateway.signs._next = list  # type: ignore[method-assign]  # it is not their turn
    if beat == set():
        world.now += world.streams.lifetime
    with suppress(StoreUnavailable):
        await world.gateway.signs.give()
    await world.gateway.signs.give()
    await world.gateway.signs.catch_up()
    assert line.code == codes.INSUFFICIENT_STATE.code


async def test_the_end_of_a_replaced_connection_is_announced_until_its_gateway_has_it(world: World) -> None:
    world.streams.connected = Connected(0, False, EMPTY, 0, 0, LiveRoute("other", 7))
    world.streams.pokes, world.streams.lapsed = [AWAY, AWAY, None], [set()] * 3
    _, line = world.ask()
    await world.done()
    assert "connect" in line.written[0], "the device is connected all the same"
    world.streams.routes = [[Presence("e", 0, 0, 0, 0, LiveRoute(world.gateway.id, 1), 1)]] * 3
    with pytest.raises(StoreUnavailable):
        await world.beat()
    await world.beat()
    await world.beat()
    assert world.streams.poked == [{"other": [Cut("shop", 7, "replaced")]}] * 3


FAULT = StoreError("A script has failed.")


@pytest.mark.parametrize("fault", [AWAY, FAULT], ids=["away", "fault"])
async def test_a_route_that_could_not_be_taken_away_is_taken_away_later(fault: Exception, world: World) -> None:
    connection, _ = world.ask()
    await world.done()
    world.streams.goings, world.streams.lapsed = [fault, fault], [set()] * 3
    connection.lost(False)
    await world.done()
    for _ in range(3):
        await world.beat()
    assert world.streams.gone == [("phone", 1)] * 3


async def test_of_a_device_whose_routes_cannot_be_taken_away_the_first_ones_and_the_last_one_are_kept(
    world: World,
) -> None:
    world.streams.connected = AWAY
    world.streams.goings, world.streams.lapsed = [AWAY] * 20, [set()]
    for _ in range(20):
        world.ask()
        await world.done()
    world.streams.gone.clear()
    await world.beat()
    assert world.streams.gone == [("phone", number) for number in (1, 2, 3, 4, 5, 6, 7, 20)]
    assert world.gateway.departures._left == {"shop": {}}


@pytest.mark.parametrize(
    "item",
    [
        Poke("shop", PUSH, [Recipient(1, "e", 1, 0, 1, 0), Recipient(9, "e", 1, 0, 1, 0)], b'{"id":"p1"}'),
        Cut("shop", 1, "revoked"),
        Unread("shop", 1, 5),
    ],
    ids=["poke", "cut", "unread"],
)
async def test_a_route_that_outlived_its_connection_is_taken_away_when_it_is_used(
    item: InboxItem, world: World
) -> None:
    connection, _ = world.ask()
    await world.done()
    connection.lost(True)
    await world.done()
    for _ in range(2):
        await world.gateway._take(item)
        await world.done()
    assert world.streams.gone == [("phone", 1)] * 2, "at its end, and once more"


async def test_a_connection_that_ended_before_it_was_replaced_has_no_route_to_take_away(world: World) -> None:
    connection, _ = world.ask()
    await world.done()
    connection.lost(True)
    await world.done()
    await world.gateway._take(Cut("shop", 1, "replaced"))
    await world.done()
    assert world.streams.gone == [("phone", 1)], "at its end"


async def test_a_comparison_leaves_a_connect_that_is_under_way_alone(world: World) -> None:
    answer, connect = asyncio.Event(), world.streams.connect

    async def later(*asked: Any, **more: Any) -> Any:
        await answer.wait()
        return await connect(*asked, **more)

    world.streams.connect = later  # type: ignore[method-assign]  # scripted
    connection, line = world.ask()
    world.gateway.add(connection)
    world.streams.routes = [[Presence("e", 0, 0, 0, 0, None, 0)], [None]]
    await world.gateway.signs.compare([connection])
    await world.gateway.signs.compare([connection])
    assert line.code == 0
    answer.set()
    await world.done()


@pytest.mark.parametrize(
    ("page", "recovered"),
    [(Page("e", 1, [], False, 0), True), (Page("other", 1, [], False, 0), False), (Page("e", 9, [], False, 4), False)],
    ids=["whole", "another stream", "overflow"],
)
async def test_a_poll_says_what_was_lost_while_it_waited(page: Page, recovered: bool, world: World) -> None:
    world.streams.connected = Connected(0, True, EMPTY, 0, 0, None)
    world.streams.pages = [page]
    poll = asyncio.create_task(HttpCalls(world.gateway).poll(world.request("GET", "/poll", since="0", epoch="e")))
    await world.until(lambda: "connect" in world.streams.calls and bool(world.gateway.connections))
    (waiting,) = world.gateway.connections.values()
    waiting.published(Recipient(1, "e", 1, 0, 1, 0), None)  # type: ignore[arg-type]  # the content is not looked at
    answer = msgspec.json.decode((await poll).body)
    assert (answer["recovered"], answer["epoch"], answer["missing"]) == (recovered, page.epoch, page.missing)
    await world.done()


async def test_a_poll_whose_client_goes_away_during_its_connect_leaves_no_route(world: World) -> None:
    connect, connecting, answer = world.streams.connect, asyncio.Event(), asyncio.Event()

    async def later(*asked: Any, **more: Any) -> Any:
        connecting.set()
        await answer.wait()
        return await connect(*asked, **more)

    world.streams.connect = later  # type: ignore[method-assign]  # scripted
    world.streams.connected, world.streams.pokes = Connected(0, True, EMPTY, 0, 0, LiveRoute("other", 7)), [None]
    poll = asyncio.create_task(HttpCalls(world.gateway).poll(world.request("GET", "/poll")))
    await connecting.wait()
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    answer.set()
    await world.done()
    assert (world.streams.calls, world.gateway.connections) == (["connect", "poke", "disconnect"], {})


async def test_a_poll_that_is_refused_has_no_route_to_take_away(world: World) -> None:
    world.streams.connected = Refused("revoked")
    with pytest.raises(Unauthorized):
        await HttpCalls(world.gateway).poll(world.request("GET", "/poll"))
    await world.done()
    assert (world.streams.calls, world.gateway.connections) == (["connect"], {})


async def test_a_number_of_any_length_in_a_query_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await HttpCalls(world.gateway).history(world.request("GET", "/history", since="1" * 5000))


OFFSET = "a whole number from 0 to 9,007,199,254,740,991"
NONE = "is missing: expected a whole number"
INSTANT = "an instant like 2026-12-01T09:00:00Z"
EVENT = 'one of "arrived", "shown", "opened", "dismissed"'


@pytest.mark.parametrize(
    ("call", "body", "faults"),
    [
        ("events", {"id": "p", "event": "opend"}, {"event": f'expected {EVENT}, found "opend"'}),
        ("events", {"events": [{"id": "p", "event": 1}]}, {"events[0].event": f"expected {EVENT}, found the number 1"}),
        ("events", {"id": "p", "event": "opened", "at": 5}, {"at": f"expected {INSTANT}, found the number 5"}),
        ("events", {"events": []}, {"events": "must not be empty"}),
        ("events", [], {"$": "expected an object, found a list"}),
        ("ack", {"ack": {"offset": "3", "epoch": "x"}}, {"ack.offset": f"expected {OFFSET}, found a string"}),
        ("ack", {"epoch": "x"}, {"offset": NONE}),
        ("read", {"ofset": 3}, {"ofset": "unknown field; did you mean `offset`?", "offset": NONE}),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_refused_in_the_words_of_the_api(
    call: str, body: Any, faults: dict[str, str], world: World
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await getattr(HttpCalls(world.gateway), call)(world.request("POST", call, msgspec.json.encode(body)))
    assert {fault.path: fault.message for fault in caught.value.faults} == faults
    assert caught.value.detail == f"{len(faults)} fault{'s were' if len(faults) > 1 else ' was'} found."


async def test_the_place_where_a_body_is_not_json_is_named(world: World) -> None:
    for call in ("ack", "read", "events"):
        with pytest.raises(MalformedBody, match="line 2, column 3"):
            await getattr(HttpCalls(world.gateway), call)(world.request("POST", call, b'{"id":\n  x}'))


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        ({}, "Send the device's token in the header `Authorization: Bearer <token>`."),
        ({"authorization": "Basic eDp5"}, "Send the device's token in the header `Authorization: Bearer <token>`."),
        (
            {"authorization": "Bearer x.y.z"},
            "The token is not valid: get a new one, signed with the secret or key of the app in this configuration.",
        ),
    ],
)
async def test_a_wrong_token_is_distinguished_from_none(sent: dict[str, str], detail: str, world: World) -> None:
    with pytest.raises(Unauthorized) as caught:
        await HttpCalls(world.gateway).history(Request(method="GET", path="/v1/live/history", headers=sent))
    assert caught.value.detail == detail


# --- What others can do to a gateway ------------------------------------------------------------------------------


async def test_what_is_missing_at_each_connect_is_counted_once(world: World) -> None:
    def missing() -> float:
        return float(telemetry.LIVE_MISSING.labels("shop")._value.get())

    before = missing()
    for ahead in (2, 0, 0):
        world.streams.connected = Connected(3, False, Page("e", 9, [], False, 5), 3, 0, None, ahead)
        world.ask()
        await world.done()
    assert missing() - before == 2


def send_acks(connection: Connection, *offsets: int) -> None:
    connection.received(b"\n".join(b'{"send": {"data": {"ack": %d}}}' % each for each in offsets))


async def test_acknowledgements_without_answers_are_merged_and_outlive_an_outage(world: World) -> None:
    gateway, taken = world.gateway, []
    world.streams.connected = Connected(0, False, Page("e", 500, [], False, 0), 0, 0, None)
    connection, _ = world.ask()
    await world.done()
    away = [AWAY, AWAY]

    async def ack(app: str, device_id: str, position: Position, *given: Any) -> Acked:
        await asyncio.sleep(0)
        if away:
            raise away.pop()
        taken.append(position.offset)
        return Acked("offset" if position.offset > 500 else "")

    gateway.acks.ack = ack  # type: ignore[method-assign,assignment]  # scripted
    for start in range(0, 400, 40):
        send_acks(connection, *range(start, start + 40), 2**40 + start)
    assert len(gateway._tasks) == 1
    await world.done()
    assert sorted(taken) == [399, 2**40 + 360], "what is beyond the stream stands for nothing in it"
    send_acks(connection, 401)
    await world.done()
    assert taken[-1] == 401
    away.append(AWAY)
    send_acks(connection, 402)
    connection.lost(False)
    await world.done()
    assert taken[-1] == 401, "nobody tries for ever for a device that has gone"


@pytest.mark.parametrize("method", ["published", "unread", "end"])
async def test_a_session_that_fails_ends_alone(method: str, world: World) -> None:
    (broken, line), (_, sound) = world.ask(), world.ask()
    await world.done()

    def fail(*_: object) -> None:
        raise RuntimeError(method)

    double = type("Broken", (Connection,), {"__slots__": (), method: fail})
    broken.__class__ = double
    why: Any = "revoked"
    items: dict[str, list[InboxItem]] = {
        "published": [Poke("shop", PUSH, [Recipient(n, "e", 1, 0, 1, 0) for n in (1, 2)])],
        "unread": [Unread("shop", 1, 5), Unread("shop", 2, 5)],
        "end": [Cut("shop", 1, why), Cut("shop", 2, why)],
    }
    for item in items[method]:
        await world.gateway._take(item)
    assert line.code == 1011
    assert sound.code == (codes.REVOKED.code if method == "end" else 0)
    assert method == "end" or "push" in sound.written[-1]


async def test_a_session_that_fails_at_its_time_ends(world: World) -> None:
    connection, line = world.ask()
    await world.done()
    connection.session = None  # type: ignore[assignment]  # broken
    connection._tick()
    assert line.code == 1011


async def test_a_drain_answers_the_polls_that_wait_and_lets_no_other_wait(world: World) -> None:
    world.streams.connected = Connected(0, True, EMPTY, 0, 0, None)
    world.streams.pages = [EMPTY]
    calls, request = HttpCalls(world.gateway), world.request("GET", "/poll", since="0", epoch="e")
    poll = asyncio.create_task(calls.poll(request))
    await world.until(lambda: bool(world.gateway.connections) and not world.gateway.contents._rendered)
    await asyncio.sleep(0)
    world.gateway.drain(2.0)
    assert not poll.done()
    world.now += 2.5
    for call in world.gateway.wheel.expired():
        call()
    assert (await poll).status == 200
    assert (await calls.poll(request)).status == 200
    await world.done()


async def test_an_interval_is_judged_by_the_time_in_which_it_was_used(world: World) -> None:
    key = ("shop", "phone")
    connection, _ = world.ask()
    await world.done()
    world.now += 100
    connection.received(b'{"id": 2, "rpc": {"method": "heartbeat", "data": {"seconds": 10}}}')
    world.now += 15
    connection.lost(False)
    await world.done()
    learned = world.gateway.heartbeats._learned[key]
    assert learned.proven == 25.0, "the first held for four of its intervals"
    assert learned.strikes == 1, "an end speaks against the second"


@pytest.mark.parametrize("why", ["revoked", "unknown"])
async def test_each_plain_call_of_a_revoked_token_is_refused(why: Any, world: World) -> None:
    calls = HttpCalls(world.gateway)
    world.streams.refused = Refused(why)
    world.streams.connected = Refused(why)
    position, event = b'{"ack": 1}', b'{"id": "p", "event": "shown"}'
    for call, request in (
        (calls.history, world.request("GET", "/history")),
        (calls.poll, world.request("GET", "/poll")),
        (calls.message, world.request("GET", "/messages/p")),
        (calls.ack, world.request("POST", "/ack", position)),
        (calls.read, world.request("POST", "/read", position)),
        (calls.events, world.request("POST", "/events", event)),
    ):
        with pytest.raises(Unauthorized):
            await call(request)
    assert world.streams.calls in (["connect"], ["connect", "disconnect"])
    assert world.streams.reported == []
    await world.done()


async def test_a_device_reads_the_contents_of_its_own_stream_only(world: World) -> None:
    world.streams.held = {"own": b""}
    calls = HttpCalls(world.gateway)
    assert (await calls.message(world.request("GET", "/messages/own"))).body == b'{"id":"own"}'
    with pytest.raises(NotFound):
        await calls.message(world.request("GET", "/messages/anothers"))
    connection, line = world.ask()
    await world.done()
    connection.received(b'{"id": 2, "rpc": {"method": "fetch", "data": {"id": "own"}}}')
    connection.received(b'{"id": 3, "rpc": {"method": "fetch", "data": {"id": "anothers"}}}')
    await world.done()
    answers = {each["id"]: each for each in line.written if each.get("id", 0) > 1}
    assert answers[2]["rpc"]["data"] == {"id": "own"}
    assert answers[3]["error"]["code"] == codes.NOT_FOUND.code


async def test_events_are_counted_by_platform_and_their_time_is_bounded(world: World) -> None:
    def total(name: str) -> float:
        return REGISTRY.get_sample_value(name) or 0.0

    labels = {"app": "shop", "platform": "fcm", "event": "opened"}
    before = REGISTRY.get_sample_value("pushsvc_events_total", labels)
    assert before is not None, "the series is there from the start"
    lag = total("pushsvc_event_lag_seconds_sum"), total("pushsvc_event_lag_seconds_count")
    world.streams.held = {"own": b""}
    calls = HttpCalls(world.gateway)
    for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        event = b'{"id": "own", "event": "opened", "at": "%b"}' % at.encode()
        assert (await calls.events(world.request("POST", "/events", event))).body == b'{"counted":1}'
    event = b'{"events": [{"id": "anothers", "event": "opened"}]}'
    assert (await calls.events(world.request("POST", "/events", event))).body == b'{"counted":0}'
    assert REGISTRY.get_sample_value("pushsvc_events_total", labels) == before + 2
    after = total("pushsvc_event_lag_seconds_sum"), total("pushsvc_event_lag_seconds_count")
    assert (after[0] - lag[0], after[1] - lag[1]) == (7 * 86_400, 2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"apps": {"other": LiveAppConfig(secret=SECRET)}}, codes.INVALID_TOKEN),
        ({"deny_ids": frozenset({"phone"})}, codes.REVOKED),
        ({"deny_networks": denied(["192.0.2.0/24"]).networks}, codes.REVOKED),
        ({"deny_networks": denied(["10.0.0.0/8"]).networks, "deny_ids": frozenset({"phon"})}, None),
    ],
)
async def test_another_configuration_ends_the_connections_that_it_refuses(
    change: dict[str, Any], code: codes.Disconnect | None, world: World
) -> None:
    _, line = world.ask()
    await world.done()
    world.gateway.use(msgspec.structs.replace(world.gateway.config, **change))
    assert line.code == (code.code if code else 0)
    if "deny_ids" in change and code:
        _, line = world.ask()
        await world.done()
        assert line.written[-1]["error"]["code"] == codes.PERMISSION_DENIED.code


async def test_a_connect_after_a_reload_announces_the_present_endpoints(world: World) -> None:
    announced = []
    for host in ("a", "b"):
        endpoints = own_endpoints(host, 9090, secure=False)
        world.gateway.use(msgspec.structs.replace(world.gateway.config, endpoints=endpoints))
        _, line = world.ask(device=host)
        await world.done()
        announced.append(line.written[0]["connect"]["data"]["endpoints"][0]["endpoint"])
    assert announced == ["ws://a:9090/connection/websocket", "ws://b:9090/connection/websocket"]


async def test_a_device_of_an_app_that_is_not_known_yet_is_asked_to_come_again(world: World) -> None:
    config = world.gateway.config
    world.gateway.use(msgspec.structs.replace(config, apps={}))
    _, line = world.ask()
    await world.done()
    assert (line.code, line.written[-1]["error"]) == (
        0,
        {"code": 100, "message": "internal server error", "temporary": True},
    )
    with pytest.raises(Unavailable):
        await HttpCalls(world.gateway).history(world.request("GET", "/history"))
    world.gateway.use(config)
    _, line = world.ask()
    await world.done()
    assert "connect" in line.written[0]


async def test_an_error_beside_a_gateway_is_not_taken_for_its_end(world: World) -> None:
    gateway, config = world.gateway, world.gateway.config
    opened = open_gateway(config, world.streams, world.confirm, gateway.wheel, wall=time.time, version="")  # type: ignore[arg-type]  # scripted
    with pytest.raises(StoreUnavailable):
        async with opened:
            raise AWAY


async def test_a_gateway_ends_with_the_error_of_one_of_its_loops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(acks: Acks) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Acks, "run", fail)
    gateway, config = world.gateway, world.gateway.config
    opened = open_gateway(config, world.streams, world.confirm, gateway.wheel, wall=time.time, version="")  # type: ignore[arg-type]  # scripted
    with pytest.raises(ZeroDivisionError):
        async with opened:
            await asyncio.Event().wait()


# --- Who comes too often ------------------------------------------------------------------------------------------


async def test_who_may_not_connect_or_does_so_all_the_time_takes_no_turn_of_others(world: World) -> None:
    gateway = world.gateway
    gateway.connects = Admission(Rate(30, 1))
    for _ in range(50):
        line = Line("websocket")
        connection = Connection(gateway, line, Request(method="GET", path="/", address="192.0.2.9"))  # type: ignore[arg-type]  # scripted
        connection.received(b'{"id": 1, "connect": {"token": "x.y.z"}}')
    for _ in range(25):
        _, line = world.ask()
    await world.done()
    assert line.written[-1]["error"]["code"] == codes.TOO_MANY_REQUESTS.code, "more than any network makes it"
    _, line = world.ask(device="another")
    await world.done()
    assert "connect" in line.written[-1]


async def test_connects_beyond_what_redis_takes_in_time_are_answered_at_once(world: World) -> None:
    redis = asyncio.Event()

    async def connect(*_: Any, **more: Any) -> Any:
        await redis.wait()
        return world.streams.connected

    world.streams.connect = connect  # type: ignore[method-assign]  # scripted
    lines = [world.ask(device=f"phone-{n}")[1] for n in range(CONNECTING + 3)]
    await world.until(lambda: any(line.written for line in lines))
    for _ in range(5):
        await asyncio.sleep(0)
    answers = [each["error"]["code"] for line in lines for each in line.written]
    assert answers == [100] * 3
    redis.set()
    await world.done()
    assert (world.gateway.connecting.count, sum(bool(line.written) for line in lines)) == (0, CONNECTING + 3)


async def test_no_connection_is_accepted_while_enough_connects_wait_for_redis(world: World) -> None:
    redis = asyncio.Event()

    async def connect(*_: Any, **more: Any) -> Any:
        await redis.wait()
        return world.streams.connected

    world.streams.connect = connect  # type: ignore[method-assign]  # scripted
    accepted = []
    for number in range(ENOUGH + 1):
        accepted.append(world.gateway.accepts())
        world.ask(device=f"phone-{number}")
        await asyncio.sleep(0)
    assert accepted == [True] * ENOUGH + [False]
    world.now += STALLED
    assert world.gateway.accepts(), "Redis is away: who comes is answered"
    redis.set()
    await world.done()
    assert world.gateway.accepts()


async def test_a_device_that_calls_too_often_is_asked_to_wait(world: World) -> None:
    calls = HttpCalls(world.gateway)
    world.streams.pages = [EMPTY] * 1000
    for _ in range(CALLS_AT_ONCE):
        await calls.history(world.request("GET", "/history"))
    with pytest.raises(TooManyRequests):
        await calls.history(world.request("GET", "/history"))
    world.now += 1
    await calls.history(world.request("GET", "/history"))


@pytest.mark.parametrize(
    ("sent", "kind", "code"),
    [
        (b"{", "malformed", 3501),
        (b" " * 65_537, "oversized", 3501),
        (b'{"id":2,"connect":{}}', "second_connect", 3501),
        (b"{}", "pong", 3501),
        (b'{"id":2,"history":{}}', "channel", 3501),
        (b'{"id":2,"rpc":{"method":"fetch","data":{"id":"p"}}}\n' * 2, "doubled_id", 107),
        (b'{"id":2,"of_a_later_version":{}}', "method", 104),
        (b'{"id":2,"rpc":{"method":"later"}}', "method", 104),
        (b'{"id":2,"publish":{"channel":"device","data":{}}}', "channel", 103),
        (b'{"id":2,"rpc":{"method":"ack","data":{"ack":-1}}}', "request", 107),
        (b'{"id":2,"rpc":{"method":"ack","data":{"ack":{"offset":1,"epoch":"old"}}}}', "epoch", 112),
        (b'{"id":2,"history":{"channel":"device","since":{"offset":1,"epoch":"old"}}}', "epoch", 112),
        (b'{"id":2,"history":{"channel":"device","since":{"offset":9007199254740992}}}', "position", 107),
    ],
)
async def test_a_fault_has_its_answer_and_its_counter_and_disturbs_no_other_connection(
    sent: bytes, kind: str, code: int, world: World
) -> None:
    def counted() -> dict[str, float]:
        (metric,) = telemetry.LIVE_FAULTS.collect()
        return {each.labels["kind"]: each.value for each in metric.samples if each.name.endswith("_total")}

    faulty, line = world.ask(device="faulty")
    other, others = world.ask(device="other")
    await world.done()
    before, written = counted(), len(line.written)
    faulty.received(sent)
    after = counted()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {kind: 1}
    answers = [each["error"]["code"] for each in line.written[written:] if "error" in each]
    assert (line.code, answers) == ((code, []) if code >= 3000 else (0, [code]))
    other.received(b'{"id":2,"rpc":{"method":"heartbeat","data":{"seconds":60}}}')
    await world.done()
    assert others.code == 0
    assert [each["id"] for each in others.written if "rpc" in each] == [2]


async def test_an_acknowledgement_by_http_with_another_epoch_is_counted(world: World) -> None:
    world.streams.looked = [Acked("epoch")]
    acking = asyncio.create_task(world.gateway.acks.run())
    before = REGISTRY.get_sample_value("pushsvc_live_faults_total", {"kind": "epoch"}) or 0.0
    with pytest.raises(Conflict):
        await HttpCalls(world.gateway).ack(world.request("POST", "/v1/live/ack", b'{"offset":1,"epoch":"old"}'))
    acking.cancel()
    assert REGISTRY.get_sample_value("pushsvc_live_faults_total", {"kind": "epoch"}) == before + 1


def test_every_series_of_an_app_is_there_before_it_counts_anything() -> None:
    GatewayMetrics().show(["of-no-push"])
    found: dict[str, set[tuple[str, ...]]] = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.labels.get("app") == "of-no-push" and not sample.name.endswith("_created"):
                labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "app")
                found.setdefault(sample.name, set()).add(labels)
                assert sample.value == 0
    ends = ("1000", "1001", "1006", "3001", "3008", "3012", "3500", "3503", "4501", "other")
    assert found.pop("pushsvc_live_disconnects_total") >= {(code,) for code in ends}
    assert found == {
        "pushsvc_live_connections": {("websocket",), ("http_stream",), ("sse",), ("poll",)},
        "pushsvc_live_connects_total": {("ok",), ("refused",), ("busy",)},
        "pushsvc_live_messages_total": {("acked",), ("fallback",), ("expired",), ("dropped",)},
        "pushsvc_live_recoveries_total": {("recovered",), ("lost",)},
        "pushsvc_live_resends_total": {()},
        "pushsvc_live_duplicates_total": {()},
        "pushsvc_live_missing_total": {()},
        "pushsvc_events_total": {
            (event, platform)
            for event in ("arrived", "shown", "opened", "dismissed")
            for platform in ("apns", "fcm", "live")
        },
    }
    kinds = {sample.labels["kind"] for metric in telemetry.LIVE_FAULTS.collect() for sample in metric.samples}
    assert kinds == set(get_args(FaultKind))
    stages = {sample.labels["stage"] for metric in telemetry.STAGE_SECONDS.collect() for sample in metric.samples}
    assert stages == set(telemetry.STAGES)
