"""The gateway with the official client in both formats, real sockets and real streams."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
import msgspec
import pytest
import uvloop
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    Client,
    ClientEventHandler,
    ConnectedContext,
    ConnectingContext,
    DisconnectedContext,
    ErrorContext,
    ServerPublicationContext,
    ServerSubscribedContext,
)
from msgspec.structs import replace
from prometheus_client import REGISTRY

from pushsvc.errors import StoreUnavailable
from pushsvc.live.config import LiveAppConfig, LiveConfig
from pushsvc.live.gateway import Gateway, open_gateway
from pushsvc.live.gateway.connection import Connection
from pushsvc.live.gateway.http import routes
from pushsvc.live.protocol.codes import INSUFFICIENT_STATE as INSUFFICIENT, REVOKED, SHUTDOWN, SLOW
from pushsvc.live.protocol.effects import Effect
from pushsvc.live.protocol.session import Session
from pushsvc.live.protocol.tokens import issue
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.live.sockets.server import Sockets, serve
from pushsvc.live.sockets.transports import LongConnection
from pushsvc.live.wheel import Deadline, running_wheel
from pushsvc.live_client import LiveClient, Message
from pushsvc.model.delivery import Arrival
from pushsvc.model.devices import Device
from pushsvc.model.status import DeviceEvent
from pushsvc.ports.live import Appended, LiveContent, LivePush, Receiver, Unread, pokes_of
from pushsvc.ports.store import Store
from pushsvc.store import open_store
from pushsvc.store.config import StoreConfig

from .live_rig import masked, upgrade_request
from .servers import Server, running_server, suspended
from .test_store_kit import make_push

SECRET = "s" * 40
PATIENCE = 20.0
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("valkey") as found:
        yield found


class Home(Protocol):
    """Where a phone connects, and what makes its tokens."""

    @property
    def url(self) -> str: ...
    def token(self, device: str, *, ttl: float = ...) -> str: ...


class Phone(ClientEventHandler):  # type: ignore[misc]  # its base has no types
    """A device with the official client, which notes what it sees."""

    def __init__(self, world: Home, name: str, *, protobuf: bool, ttl: float = 3600.0) -> None:
        self.name = name
        self.protobuf = protobuf
        self.connects: list[ConnectedContext] = []
        self.recoveries: list[bool] = []
        self.ends: list[int] = []
        self.breaks: list[int] = []
        """The codes after which it connects again by itself, 0 for its first connect."""
        self.errors: list[Any] = []
        self.shown: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.patience = PATIENCE
        self._world = world
        url = world.url.replace("http", "ws") + "/connection/websocket"
        self.client = Client(
            url + ("?format=protobuf" if protobuf else ""),
            token=world.token(name, ttl=ttl),
            get_token=self.new_token,
            events=self,
            use_protobuf=protobuf,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.2,
        )

    async def new_token(self) -> str:
        return self._world.token(self.name)

    def data(self, content: Any) -> Any:
        """JSON, in either format."""
        return msgspec.json.decode(content) if isinstance(content, bytes) else content

    async def call(self, method: str, content: Any) -> Any:
        """Call a method of the gateway."""
        result = await self.client.rpc(method, msgspec.json.encode(content) if self.protobuf else content)
        return self.data(result.data)

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(self.patience):
            while not reached():
                self.changed.clear()
                await self.changed.wait()

    def _note(self, place: list[Any], what: Any) -> None:
        place.append(what)
        self.changed.set()

    async def on_connected(self, ctx: ConnectedContext) -> None:
        self._note(self.connects, ctx)

    async def on_connecting(self, ctx: ConnectingContext) -> None:
        self._note(self.breaks, ctx.code)

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        self._note(self.ends, ctx.code)

    async def on_subscribed(self, ctx: ServerSubscribedContext) -> None:
        self._note(self.recoveries, ctx.recovered)

    async def on_error(self, ctx: ErrorContext) -> None:
        self._note(self.errors, ctx)

    async def on_publication(self, ctx: ServerPublicationContext) -> None:
        self._note(self.shown, self.data(ctx.pub.data) | {"offset": ctx.pub.offset})


class World:
    """A gateway with its store, and what it confirmed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.gateway: Gateway
        self.sockets: Sockets
        self.confirmed: list[tuple[str, str]] = []
        self.drain = 0.1
        self._names = itertools.count(1)

    @property
    def url(self) -> str:
        return self.sockets.url

    async def confirm(self, app: str, ended: Sequence[Arrival]) -> None:
        self.confirmed += [(each.device_id or "", each.push_id) for each in ended]

    def token(self, device: str, *, ttl: float = 3600.0, age: float = 0.0) -> str:
        return issue("shop", device, SECRET, now=time.time() - age, ttl=ttl, token_id=f"t{next(self._names)}")

    async def push(
        self, *devices: str, collapse: str = "", body: bytes | None = None, size: int = 0
    ) -> tuple[str, list[Appended]]:
        """Append a push, and poke. With a `size` the content has so many bytes more."""
        now = int(time.time() * 1000)
        push = LivePush(f"push-{next(self._names)}", now, now + HOUR_MS, "normal", len(devices), collapse)
        await self.store.pushes.accept(make_push(push.id, len(devices), created_at=now))
        content = body or msgspec.json.encode({"id": push.id, "notification": {"title": "hi" + "x" * size}})
        receivers = [Receiver(name, index) for index, name in enumerate(devices)]
        await self.store.live.keep_all("shop", [LiveContent(push, content)])
        appended = await self.store.live.append("shop", push, receivers, platform="fcm")
        await self.store.live.poke(pokes_of("shop", push, receivers, appended))
        return push.id, appended

    async def http(self, method: str, path: str, token: str, **more: Any) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.sockets.url + path, headers={"Authorization": f"Bearer {token}"}, **more
            ) as answer,
        ):
            return answer.status, await answer.json()


@asynccontextmanager
async def opened(
    server: Server,
    config: LiveConfig,
    devices: int = 4,
    store_config: StoreConfig | None = None,
    allowed_origins: tuple[str, ...] = (),
) -> AsyncIterator[World]:
    server.flush()
    async with open_store(server.url, store_config) as store:
        phones = [
            Device(id=f"phone-{n}", platform="fcm", token=f"t{n}", user="ann", registered_at=1, last_seen_at=1)
            for n in range(devices)
        ]
        await store.registry.put_many("shop", phones)
        world = World(store)
        with running_wheel() as wheel:
            async with (
                open_gateway(config, store.live, world.confirm, wheel, wall=time.time, version="test") as gateway,
                serve(
                    SocketsConfig(port=0, node=gateway.id, allowed_origins=allowed_origins),
                    gateway.make_peer,
                    routes(gateway),
                    wheel=wheel,
                    forward=gateway.forward,
                ) as world.sockets,
            ):
                gateway.deliver = world.sockets.deliver
                world.gateway = gateway
                while not gateway.signs.settled:  # its first sign of life
                    await asyncio.sleep(0.01)
                yield world
                await world.sockets.drain(world.drain)


@asynccontextmanager
async def running(
    server: Server,
    *,
    devices: int = 4,
    store_config: StoreConfig | None = None,
    allowed_origins: tuple[str, ...] = (),
    **more: Any,
) -> AsyncIterator[World]:
    app = LiveAppConfig(
        secret=SECRET,
        log_events=True,
        **{key: more.pop(key) for key in ("ack_within", "window", "resend") if key in more},
    )
    config = LiveConfig(apps={"shop": app}, **more)
    async with asyncio.timeout(90), opened(server, config, devices, store_config, allowed_origins) as world:
        yield world


@pytest.fixture
async def world(server: Server) -> AsyncIterator[World]:
    async with running(server) as world:
        yield world


LOOP = uvloop.new_event_loop
both = pytest.mark.parametrize("protobuf", [False, True], ids=["json", "protobuf"])


@both
async def test_a_push_is_received_acknowledged_and_confirmed_once(protobuf: bool, world: World) -> None:
    phone = Phone(world, "phone-1", protobuf=protobuf)
    await phone.client.connect()
    await phone.until(lambda: bool(phone.connects))
    assert phone.data(phone.connects[0].data)["window"] == 32
    push, (appended,) = await world.push("phone-1")
    await phone.until(lambda: bool(phone.shown))
    assert [(each["id"], each["offset"], each["prev"], each["unread"]) for each in phone.shown] == [(push, 1, 0, 1)]
    assert await phone.call("ack", {"ack": appended.offset}) == {}
    assert await phone.call("ack", {"ack": {"offset": 1, "epoch": appended.epoch}}) == {}
    assert world.confirmed == [("phone-1", push)]
    assert await phone.call("read", {"offset": 1}) == {"unread": 0}
    assert await phone.call("event", {"id": push, "event": "shown"}) == {"counted": True}
    assert await phone.call("event", {"id": push, "event": "shown"}) == {"counted": False}
    page = await phone.client.history("device", limit=10)
    assert [each.offset for each in page.publications] == [1]
    await phone.client.disconnect()


@both
async def test_who_comes_back_gets_what_was_missed_in_order(protobuf: bool, world: World) -> None:
    phone = Phone(world, "phone-1", protobuf=protobuf)
    await phone.client.connect()
    await phone.until(lambda: bool(phone.connects))
    first, _ = await world.push("phone-1")
    await phone.until(lambda: len(phone.shown) == 1)
    await phone.call("ack", {"ack": 1})
    for connection in list(world.gateway.connections.values()):
        connection.end(INSUFFICIENT)
    missed = [(await world.push("phone-1"))[0] for _ in range(40)]
    await phone.until(lambda: len(phone.shown) >= 32)
    while len(phone.shown) < 41:  # more than the window: it goes on as acknowledgements come
        await phone.call("ack", {"ack": phone.shown[-1]["offset"]})
        seen = len(phone.shown)
        if seen < 41:
            await phone.until(lambda seen=seen: len(phone.shown) > seen)  # type: ignore[misc]  # mypy cannot infer it
    assert [each["id"] for each in phone.shown] == [first, *missed]
    assert phone.recoveries[1:] == [True]
    await phone.client.disconnect()


@both
async def test_what_was_cut_off_behind_the_reply_to_a_connect_is_given_again(
    protobuf: bool, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """The SDK has the position of what it never got, and the app acknowledges only what it has shown."""
    waiting = [(await world.push("phone-1"))[0] for _ in range(3)]
    phone = Phone(world, "phone-1", protobuf=protobuf)
    write = Session._write

    def cut(session: Session, effects: list[Effect], publications: list[bytes]) -> None:
        monkeypatch.setattr(Session, "_write", write)
        effects += session.disconnect(INSUFFICIENT)

    monkeypatch.setattr(Session, "_write", cut)
    await phone.client.connect()
    await phone.until(lambda: len(phone.recoveries) == 2)
    assert phone.recoveries == [False, True]
    waiting.append((await world.push("phone-1"))[0])
    await phone.until(lambda: len(phone.shown) == 4)
    assert [each["id"] for each in phone.shown] == waiting
    await phone.call("ack", {"ack": phone.shown[-1]["offset"]})
    assert world.confirmed == [("phone-1", push) for push in waiting]
    await phone.client.disconnect()


async def test_a_second_connection_replaces_the_first(world: World) -> None:
    first, second = (Phone(world, "phone-1", protobuf=False) for _ in range(2))
    await first.client.connect()
    await first.until(lambda: bool(first.connects))
    await second.client.connect()
    await first.until(lambda: bool(first.ends))
    await second.until(lambda: bool(second.connects))
    assert first.ends == [4501]
    push, _ = await world.push("phone-1")
    await second.until(lambda: bool(second.shown))
    assert ([each["id"] for each in first.shown], [each["id"] for each in second.shown]) == ([], [push])
    await second.client.disconnect()


async def test_who_is_registered_anew_comes_back_and_a_revoked_token_is_cut_and_refused(world: World) -> None:
    phone = Phone(world, "phone-1", protobuf=False)
    await phone.client.connect()
    await phone.until(lambda: bool(phone.connects))
    other = await world.store.registry.get("shop", "phone-2")
    assert other is not None
    await world.store.registry.put("shop", replace(other, id="phone-1"))  # with its token
    await phone.until(lambda: len(phone.connects) == 2)
    assert phone.ends == []
    push, _ = await world.push("phone-1")
    await phone.until(lambda: [each["id"] for each in phone.shown] == [push])
    old = world.token("phone-1", age=5.0)
    await world.store.live.revoke("shop", "phone-1")
    await phone.until(lambda: bool(phone.ends))
    assert phone.ends == [3503]
    assert (await world.http("GET", "/v1/live/poll?wait=0", old))[0] == 401


async def test_wrong_expired_and_unknown_tokens(world: World) -> None:
    stranger = Phone(world, "nobody", protobuf=False)
    await stranger.client.connect()
    await stranger.until(lambda: bool(stranger.ends))
    assert stranger.ends == [3500]
    late = Phone(world, "phone-1", protobuf=False, ttl=-60.0)
    await late.client.connect()
    await late.until(lambda: bool(late.connects))  # it asked for a new token after 109
    await late.client.disconnect()


async def test_a_silent_device_is_sent_it_again_once(server: Server) -> None:
    async with running(server, ack_within=1.0, resend=1) as world:
        phone = Phone(world, "phone-1", protobuf=False)
        await phone.client.connect()
        await phone.until(lambda: bool(phone.connects))
        push, _ = await world.push("phone-1")
        await phone.until(lambda: len(phone.shown) == 2)
        assert [each["id"] for each in phone.shown] == [push, push]
        await phone.client.disconnect()


async def test_a_shutdown_says_so_and_the_device_comes_back(world: World) -> None:
    phone = Phone(world, "phone-1", protobuf=False)
    await phone.client.connect()
    await phone.until(lambda: bool(phone.connects))
    for connection in list(world.gateway.connections.values()):
        connection.end(SHUTDOWN)
    await phone.until(lambda: len(phone.connects) == 2)
    assert phone.ends == []
    await phone.client.disconnect()


@pytest.mark.parametrize("how", ["at once", "repeated", "compared"])
async def test_a_revoked_device_is_cut_off_also_where_the_gateway_was_not_notified(how: str, world: World) -> None:
    phone, live = Phone(world, "phone-1", protobuf=False), world.store.live
    await phone.client.connect()
    await phone.until(lambda: bool(phone.connects))

    async def lost(_: object) -> None:
        raise StoreUnavailable("Redis is away.")

    if how != "at once":
        poke, live.poke = live.poke, lost  # type: ignore[method-assign,assignment]  # between the two calls
        with pytest.raises(StoreUnavailable):
            await live.revoke("shop", "phone-1")
        live.poke = poke  # type: ignore[method-assign]  # as it was
        assert phone.ends == []
    if how != "compared":
        await live.revoke("shop", "phone-1")
    else:
        world.gateway.signs._now.set()
    phone.patience = 5.0
    await phone.until(lambda: phone.ends == [REVOKED.code])
    inbox = live.inbox(world.gateway.id)
    while world.gateway.connections or world.gateway._tasks:
        await asyncio.sleep(0.01)
    await inbox.receive(0)
    await live.revoke("shop", "phone-1")
    assert (await inbox.receive(0)).items == [], "the end is confirmed"


async def test_a_slow_device_is_informed_of_an_overflow_once(server: Server) -> None:
    config = StoreConfig(history=20, window=4)
    async with running(server, window=4, resend=0, store_config=config) as world:
        phone, ready = Phone(world, "phone-1", protobuf=False), asyncio.Event()
        shown, missing = set[int](), list[int | None]()

        async def show(message: Message) -> None:
            await ready.wait()
            shown.add(message.offset)

        live = LiveClient(phone.client, show, on_missing=missing.append)
        await live.connect()
        await phone.until(lambda: bool(phone.connects))
        for _ in range(50):
            await world.push("phone-1")
        ready.set()
        async with asyncio.timeout(10):
            while len(shown) < 20:
                await asyncio.sleep(0.01)
        assert (missing, len(phone.connects)) == ([30], 2)
        await live.disconnect()


async def test_a_pause_of_redis_beyond_the_sign_of_life_ends_no_connection(server: Server) -> None:
    async with running(server, store_config=StoreConfig(alive_ttl=0.9, timeout=0.3)) as world:
        phones = [Phone(world, f"phone-{n}", protobuf=False) for n in range(3)]
        for phone in phones:
            await phone.client.connect()
            await phone.until(lambda phone=phone: bool(phone.connects))  # type: ignore[misc]  # a default
        live, compared, answered = world.store.live, asyncio.Event(), asyncio.Event()
        beat, presence = live.beat, live.presence

        async def late(*args: Any) -> set[str]:
            await answered.wait()
            return await beat(*args)

        async def noted(*asked: Any, **more: Any) -> Any:
            found = await presence(*asked, **more)
            compared.set()
            return found

        live.beat, live.presence = late, noted  # type: ignore[method-assign,assignment]  # the inbox answers first
        with suspended(server.process.pid):
            await asyncio.sleep(1.5)
        await live.poke({world.gateway.id: [Unread("shop", 0, 0)]})
        while not (world.gateway.signs._unsure or compared.is_set()):
            await asyncio.sleep(0.01)
        answered.set()
        await compared.wait()
        push, _ = await world.push(*(phone.name for phone in phones))
        for phone in phones:
            await phone.until(lambda phone=phone: bool(phone.shown))  # type: ignore[misc]  # a default
            assert (phone.breaks, phone.ends, [each["id"] for each in phone.shown]) == ([0], [], [push])
            await phone.client.disconnect()


@both
async def test_messages_are_bounded_in_bytes_however_large_the_contents(server: Server, protobuf: bool) -> None:
    """The official client ends a connection at a message of 1 MB."""
    count = 20
    async with running(server, inline=65_536, ack_within=60.0) as world:
        phone = Phone(world, "phone-1", protobuf=protobuf)
        for turn in (1, 2):
            for _ in range(count):
                await world.push("phone-1", size=60_000)
            await phone.client.connect()
            await phone.until(lambda turn=turn: len(phone.shown) == turn * count)  # type: ignore[misc]  # a default
            page = await phone.client.history("device", limit=100)
            assert 0 < len(page.publications) < count
            await phone.call("ack", {"ack": turn * count})
            await phone.client.disconnect()
        assert [each["offset"] for each in phone.shown] == list(range(1, 2 * count + 1))
        assert (phone.recoveries[-1], phone.breaks) == (True, [0, 0])
        _, page = await world.http("GET", "/v1/live/history", world.token("phone-1"))
        assert (0 < len(page["publications"]) < count, page["more"]) == (True, True)


async def test_plain_http_for_a_short_connection(world: World) -> None:
    token = world.token("phone-1")
    waiting = asyncio.create_task(world.http("GET", "/v1/live/poll?wait=20", token))
    async with asyncio.timeout(PATIENCE):
        while not (await world.store.live.presence("shop", ["phone-1"]))[0].route:  # type: ignore[union-attr]  # registered above
            await asyncio.sleep(0.01)
    push, _ = await world.push("phone-1")
    status, page = await waiting
    assert (status, [each["data"]["id"] for each in page["publications"]]) == (200, [push])
    big = msgspec.json.encode({"id": "big", "data": {"x": "y" * 5000}})
    notice, _ = await world.push("phone-1", body=big)
    status, page = await world.http("GET", f"/v1/live/history?since=1&epoch={page['epoch']}", token)
    assert page["publications"][0]["data"] == {
        "id": notice,
        "notice": True,
        "size": len(big),
        "prev": 1,
        "unread": 2,
    }
    for own in (notice, notice.upper()):
        assert (await world.http("GET", f"/v1/live/messages/{own}", token))[1]["data"]["x"] == "y" * 5000
    assert await world.http("POST", "/v1/live/ack", token, json={"ack": 2}) == (200, {"acked": 2, "unacked": 0})
    assert world.confirmed == [("phone-1", push), ("phone-1", notice)]
    assert await world.http("POST", "/v1/live/read", token, json={"offset": 2}) == (200, {"unread": 0})
    event = {"id": push.upper(), "event": "opened"}
    assert await world.http("POST", "/v1/live/events", token, json=event) == (200, {"counted": 1})
    assert await world.http("POST", "/v1/live/events", token, json={"events": [event]}) == (200, {"counted": 0})
    async with world.store.event_webhooks.claimed("shop", "place", lease=30) as claim:
        batch = claim and await claim.next(9)
        assert batch
        ((_, logged),) = batch.events
        assert isinstance(logged, DeviceEvent)
        assert (logged.push_id, logged.device_id, logged.event) == (push, "phone-1", "opened")
    wrong = [
        ("POST", "/v1/live/ack", {"ack": 9}, 422),
        ("POST", "/v1/live/ack", {"ack": {"offset": 1, "epoch": "other"}}, 409),
        ("POST", "/v1/live/events", {"id": push, "event": "eaten"}, 422),
        ("GET", "/v1/live/history?since=x", None, 422),
        ("GET", "/v1/live/history?since=&epoch=&limit=&reverse=", None, 200),
        ("GET", "/v1/live/messages/none", None, 404),
    ]
    for method, path, body, expected in wrong:
        assert (await world.http(method, path, token, json=body))[0] == expected, path
    assert (await world.http("GET", "/v1/live/history", "x.y.z"))[0] == 401


async def test_what_fails_beside_a_gateway_is_not_taken_for_its_end(server: Server) -> None:
    with pytest.raises(TimeoutError, match="of the story"):
        async with running(server):
            raise TimeoutError("of the story")


async def test_a_device_that_asks_and_does_not_read_is_cut_off_and_holds_no_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    write = LongConnection.write

    def noted(self: LongConnection, data: bytes) -> None:
        nonlocal most
        write(self, data)
        most = max(most, self._io.get_write_buffer_size())

    monkeypatch.setattr(LongConnection, "write", noted)

    before = ended(SLOW.code)
    async with running(server) as world:
        for _ in range(60):
            await world.push("phone-1", body=msgspec.json.encode({"id": "x", "data": {"text": "x" * 3000}}))
        host, port = world.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(upgrade_request())
        writer.write(masked(1, msgspec.json.encode({"id": 1, "connect": {"token": world.token("phone-1")}})))
        await reader.readuntil(b'"connect":')  # and nothing more
        asked = 1
        try:
            async with asyncio.timeout(PATIENCE):
                while world.gateway.connections:
                    asked += 1
                    ask = {"id": asked, "history": {"channel": "device", "limit": 100}}
                    writer.write(masked(1, msgspec.json.encode(ask)))
                    await asyncio.sleep(0.001)
        except ConnectionError:
            pass
        while world.gateway.connections:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        assert 1_048_576 < most < 1_048_576 + 2 * 60 * 3100, "the bound, and the answer that was over it"
    assert ended(SLOW.code) == before + 1


def ended(code: int) -> float:
    labels = {"app": "shop", "code": str(code)}
    return REGISTRY.get_sample_value("pushsvc_live_disconnects_total", labels) or 0.0


async def test_what_a_connection_held_is_freed_at_its_end_without_a_collection(server: Server) -> None:
    kinds = (Connection, Session, LongConnection, Deadline)

    def alive() -> list[int]:
        found = gc.get_objects()
        return [sum(isinstance(each, kind) for each in found) for kind in kinds]

    async with running(server) as world:
        world.gateway.pause = lambda _: asyncio.sleep(0)  # type: ignore[method-assign,assignment]  # not late
        host, port = world.url.removeprefix("http://").split(":")

        async def comes_and_goes(number: int) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            token = world.token("phone-1") if number % 2 else "x.y.z"
            ask = msgspec.json.encode({"id": 1, "connect": {"token": token}})
            if is_stream := number % 8 > 3:
                head = b"POST /connection/http_stream HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(ask)
                writer.write(head + ask)
            else:
                writer.write(upgrade_request() + masked(1, ask))
            await reader.readuntil(b'"connect":' if number % 2 else b"invalid token")
            if number % 4 < 2 and not is_stream:
                writer.write(masked(8, b"\x03\xe8"))
                await reader.read()
            writer.transport.abort()

        for first in (0, 8):
            for number in range(first, first + 8):
                await comes_and_goes(number)
            while world.sockets.connections or world.gateway._tasks or len(world.gateway.wheel):
                await asyncio.sleep(0.001)
            if not first:
                gc.collect()
                gc.disable()
                before = alive()
        try:
            assert alive() == before
        finally:
            gc.enable()
