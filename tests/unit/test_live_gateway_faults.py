"""What a gateway does when its streams fail, or a device leaves at an awkward moment: with scripted streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from pushsvc import telemetry
from pushsvc.errors import InvalidRequest, StoreUnavailable, Unreadable
from pushsvc.live.config import LiveAppConfig, LiveConfig
from pushsvc.live.gateway import Acknowledged, Gateway
from pushsvc.live.gateway.connection import Connection
from pushsvc.live.gateway.http import HttpCalls
from pushsvc.live.gateway.metrics import GatewayMetrics
from pushsvc.live.peer import Request
from pushsvc.live.protocol import codes
from pushsvc.live.protocol.tokens import issue
from pushsvc.live.wheel import Wheel
from pushsvc.ports.live import (
    Acked,
    Connected,
    InboxItem,
    LivePush,
    LiveRoute,
    Page,
    Position,
    Presence,
    Received,
    Recipient,
    Reference,
    Unread,
)

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
        self.routes: list[Any] = []
        self.lapsed: list[set[str]] = []
        self.received: list[Any] = []

    def _answer(self, name: str, answer: Any) -> Any:
        self.calls.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def connect(self, app: str, device_id: str, route: LiveRoute, **more: Any) -> Any:
        return self._answer("connect", self.connected)

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        return bool(self._answer("disconnect", True))

    async def history(self, app: str, device_id: str, **more: Any) -> Any:
        return self._answer("history", self.pages.pop(0))

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        return {}

    async def read(self, app: str, device_id: str, position: Position) -> Any:
        return self._answer("read", BROKEN)

    async def acking(self, app: str, positions: Sequence[tuple[str, Position]]) -> Any:
        return self._answer("acking", self.looked)

    async def ack(self, app: str, positions: Sequence[tuple[str, Position]]) -> list[Acked]:
        self.acknowledged.append(positions)
        return [Acked("") for _ in positions]

    async def presence(self, app: str, device_ids: Sequence[str]) -> Any:
        return self._answer("presence", self.routes.pop(0))

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

    def close(self, code: int, reason: str) -> None:
        self.code = code


class World:
    """A gateway over scripted streams; its pauses are noted and not waited for."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.confirmed: list[Acknowledged] = []
        self.pauses: list[float] = []
        self.now = 1000.0
        config = LiveConfig(apps={"shop": LiveAppConfig(secret=SECRET)})
        self.gateway = Gateway(config, self.streams, self.confirm, Wheel(lambda: self.now))  # type: ignore[arg-type]  # scripted
        self.gateway.settled = True
        self.gateway.pause = self.pause  # type: ignore[method-assign]  # waits for nothing

    async def confirm(self, app: str, ended: Sequence[Acknowledged]) -> None:
        self.confirmed += ended

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def token(self) -> str:
        return issue("shop", "phone", SECRET, now=time.time(), ttl=60.0, token_id="t")

    def ask(self, transport: str = "websocket") -> tuple[Connection, Line]:
        """Return a new connection that has sent its connect."""
        line = Line(transport)
        connection = Connection(self.gateway, line, Request(method="GET", path="/", address="192.0.2.1"))  # type: ignore[arg-type]  # scripted
        connection.received(msgspec.json.encode({"id": 1, "connect": {"token": self.token()}}))
        return connection, line

    async def done(self) -> None:
        """Wait until nothing is under way."""
        while self.gateway._tasks:
            await asyncio.gather(*self.gateway._tasks, return_exceptions=True)

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                await asyncio.sleep(0)


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        await story(World())

    asyncio.run(main())


def test_a_device_that_leaves_in_the_moment_of_its_connect_is_forgotten() -> None:
    async def story(world: World) -> None:
        connection, _ = world.ask()
        connection.lost(True)
        await world.done()
        assert (world.gateway.connections, world.streams.calls) == ({}, [])

    play(story)


def test_a_device_that_leaves_during_its_connect_leaves_no_route() -> None:
    async def story(world: World) -> None:
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

    play(story)


@pytest.mark.parametrize("fault", [AWAY, BROKEN], ids=["away", "unreadable"])
def test_a_connect_that_fails_is_answered_and_leaves_no_route(fault: Exception) -> None:
    async def story(world: World) -> None:
        world.streams.connected = fault
        _, line = world.ask()
        await world.done()
        assert [each["error"]["code"] for each in line.written] == [100]
        assert (world.streams.calls, world.gateway.connections) == (["connect", "disconnect"], {})

    play(story)


@pytest.mark.parametrize(("transport", "waits"), [("websocket", 0), ("sse", 3), ("http_stream", 3)])
def test_a_busy_gateway_answers_late_where_clients_come_back_at_once(transport: str, waits: int) -> None:
    async def story(world: World) -> None:
        world.gateway.settled = False
        for _ in range(3):
            _, line = world.ask(transport)
            await world.done()
            assert [each["error"]["code"] for each in line.written] == [100]
        assert len(world.pauses) == waits
        assert world.pauses == sorted(set(world.pauses)), "each waits longer"

    play(story)


def test_a_command_that_fails_is_answered() -> None:
    async def story(world: World) -> None:
        connection, line = world.ask()
        await world.done()
        connection.received(b'{"id": 2, "rpc": {"method": "read", "data": {"offset": 0}}}')
        await world.done()
        assert (line.written[-1]["id"], line.written[-1]["error"]["code"]) == (2, 100)

    play(story)


def test_a_stream_that_cannot_be_read_ends_the_connection() -> None:
    async def story(world: World) -> None:
        connection, line = world.ask()
        await world.done()
        world.streams.pages = [AWAY, BROKEN]
        connection.appended("e", 3, 3)
        await world.done()
        assert (line.code, len(world.pauses)) == (codes.INSUFFICIENT_STATE.code, 1)

    play(story)


def test_a_connection_that_falls_silent_speaks_against_its_heartbeat() -> None:
    async def story(world: World) -> None:
        agreed = []
        for end in (codes.SHUTDOWN, codes.NO_PONG):
            connection, _ = world.ask()
            await world.done()
            connection.end(end)
            connection.lost(True)
            await world.done()
            agreed.append(world.gateway.heartbeats.agree(("shop", "phone"), None, foreground=None))
        assert agreed[0] == 25.0
        assert agreed[1] < 25.0

    play(story)


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


def test_what_is_appended_during_an_acknowledgement_is_not_acknowledged_by_it() -> None:
    async def story(world: World) -> None:
        gateway, streams = world.gateway, world.streams
        reference = Reference(1, 0, "fcm", PUSH)
        streams.looked = [Acked("", [reference]), Acked("offset"), Acked("", [reference])]
        loop = asyncio.create_task(gateway.run_acking())
        answers = await asyncio.gather(*(gateway.ack("shop", "phone", Position("e", each)) for each in (1, 2, 1)))
        loop.cancel()
        assert [each.fault for each in answers] == ["", "offset", ""]
        assert [[position.offset for _, position in each] for each in streams.acknowledged] == [[1, 1]]
        assert [each.reference.offset for each in world.confirmed] == [1]

    play(story)


def test_an_acknowledgement_that_fails_does_not_keep_the_next_ones_waiting() -> None:
    async def story(world: World) -> None:
        loop = asyncio.create_task(world.gateway.run_acking())
        for fault in (ValueError("broken"), AWAY):
            world.streams.looked = fault
            with pytest.raises(type(fault)):
                async with asyncio.timeout(10):
                    await world.gateway.ack("shop", "phone", Position("e", 1))
        world.streams.looked = [Acked("")]
        async with asyncio.timeout(10):
            assert (await world.gateway.ack("shop", "phone", Position("e", 1))).fault == ""
        loop.cancel()

    play(story)


def test_a_comparison_that_failed_is_made_again() -> None:
    async def story(world: World) -> None:
        world.ask()
        await world.done()
        world.streams.calls.clear()
        present = Presence("e", 0, 0, 0, 0, LiveRoute(world.gateway.id, 1), 1)
        world.streams.lapsed, world.streams.routes = [{"shop"}, set(), set()], [AWAY, [present]]
        with pytest.raises(StoreUnavailable):
            await world.gateway.beat()
        await world.gateway.beat()
        await world.gateway.beat()
        assert world.streams.calls == ["presence", "presence"]

    play(story)


def test_what_an_inbox_may_have_lost_is_compared() -> None:
    async def story(world: World) -> None:
        world.ask()
        await world.done()
        world.streams.calls.clear()
        present = Presence("e", 0, 0, 0, 0, LiveRoute(world.gateway.id, 1), 1)
        unread: list[InboxItem] = [Unread("shop", 1, 5)]
        world.streams.received = [AWAY, Received([], lost=True), Received(unread), Received([])]
        world.streams.routes = [AWAY, [present]]
        loop = asyncio.create_task(world.gateway.run_receiving())
        await world.until(lambda: not world.streams.received)
        loop.cancel()
        assert world.streams.calls.count("presence") == 2

    play(story)


def test_a_comparison_leaves_a_connect_that_is_under_way_alone() -> None:
    async def story(world: World) -> None:
        connection, line = world.ask()
        world.gateway.add(connection)
        world.streams.routes = [[Presence("e", 0, 0, 0, 0, None, 0)], [None]]
        await world.gateway.compare(["shop"])
        await world.gateway.compare(["shop"])
        assert line.code == 0
        await world.done()

    play(story)


@pytest.mark.parametrize(
    ("page", "recovered"),
    [(Page("e", 1, [], False, 0), True), (Page("other", 1, [], False, 0), False), (Page("e", 9, [], False, 4), False)],
    ids=["whole", "another stream", "overflow"],
)
def test_a_poll_says_what_was_lost_while_it_waited(page: Page, recovered: bool) -> None:
    async def story(world: World) -> None:
        world.streams.connected = Connected(0, True, EMPTY, 0, 0, None)
        world.streams.pages = [page]
        request = Request(
            method="GET",
            path="/v1/live/poll",
            query={"since": "0", "epoch": "e"},
            headers={"authorization": f"Bearer {world.token()}"},
        )
        poll = asyncio.create_task(HttpCalls(world.gateway).poll(request))
        await world.until(lambda: "connect" in world.streams.calls and bool(world.gateway.connections))
        (waiting,) = world.gateway.connections.values()
        waiting.published(Recipient(1, "e", 1, 0, 1, 0), None)  # type: ignore[arg-type]  # the content is not looked at
        answer = msgspec.json.decode((await poll).body)
        assert (answer["recovered"], answer["epoch"], answer["missing"]) == (recovered, page.epoch, page.missing)
        await world.done()

    play(story)


def test_a_number_of_any_length_in_a_query_is_refused() -> None:
    async def story(world: World) -> None:
        request = Request(
            method="GET",
            path="/v1/live/history",
            query={"since": "1" * 5000},
            headers={"authorization": f"Bearer {world.token()}"},
        )
        with pytest.raises(InvalidRequest):
            await HttpCalls(world.gateway).history(request)

    play(story)
