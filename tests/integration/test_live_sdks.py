"""The live channel as apps have it: the official SDKs with our receiving side, against a real gateway.

One story for all: centrifuge-js in Node and in a browser by WebSocket, HTTP streaming and SSE, in JSON and Protobuf,
and centrifuge-python. What the SDKs do by themselves is only a test if nobody helps them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    Client,
    ClientEventHandler,
    ConnectedContext,
    DisconnectedContext,
    ErrorContext,
    ServerSubscribedContext,
)

from pushsvc.live.gateway.connection import Connection
from pushsvc.live.protocol.codes import SHUTDOWN
from pushsvc.live_client import LiveClient, Message, State, connect_data
from pushsvc.model.devices import Device

from ..node import needs_node, node
from .chromium import CHROMIUM, browser
from .ports import free_ports
from .servers import Server, running_server
from .test_live_gateway import LOOP as LOOP, PATIENCE, World, running, world as world

HERE = Path(__file__).parent
SDK = HERE.parent / "vendor" / "centrifuge-js" / "centrifuge.protobuf.js"
MODULE = HERE.parents[1] / "pushsvc" / "live" / "clients" / "pushsvc-live.js"
BIG = "x" * 5000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("valkey") as found:
        yield found


class Phone:
    """What a phone has reported, and what it can be asked to do."""

    def __init__(self, name: str, call: Callable[[str, list[Any]], Awaitable[Any]]) -> None:
        self.name = name
        self.call = call
        self.reported: dict[str, list[Any]] = defaultdict(list)
        self._changed = asyncio.Event()

    def heard(self, event: str, value: Any) -> None:
        self.reported[event].append(value)
        self._changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not reached():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} has seen only {dict(self.reported)}") from None

    async def until_reported(self, event: str, count: int) -> None:
        await self.until(lambda: len(self.reported[event]) >= count)

    @property
    def shown(self) -> list[str]:
        return [each["id"] for each in self.reported["shown"]]


class Setup:
    """A phone's endpoints, its tokens in the order in which it gets them, and how often its handler fails."""

    def __init__(self, world: World, device: str, transport: str, form: str, *, ttl: float = 3600.0) -> None:
        self.format = form
        base = world.sockets.url
        address = base.replace("http", "ws", 1) if transport == "websocket" else base
        self.endpoints = [{"transport": transport, "endpoint": f"{address}/connection/{transport}"}]
        self.tokens = [world.token(device, ttl=ttl), *(world.token(device) for _ in range(4))]
        self.fails = 0


NewPhone = Callable[[Setup], Awaitable[Phone]]


@asynccontextmanager
async def in_python() -> AsyncIterator[NewPhone]:
    made: list[LiveClient] = []

    async def new(setup: Setup) -> Phone:
        protobuf = setup.format == "protobuf"
        phone = Phone(f"python {setup.format}", lambda call, arguments: getattr(live, call)(*arguments))

        class Events(ClientEventHandler):  # type: ignore[misc]  # its base has no types
            async def on_connected(self, ctx: ConnectedContext) -> None:
                phone.heard("connected", "websocket")

            async def on_subscribed(self, ctx: ServerSubscribedContext) -> None:
                phone.heard("recovered", ctx.recovered)

            async def on_disconnected(self, ctx: DisconnectedContext) -> None:
                phone.heard("ended", ctx.code)

            async def on_error(self, ctx: ErrorContext) -> None:
                phone.heard("trouble", ctx)

        class Kept:
            async def load(self) -> State | None:
                return None

            async def save(self, state: State) -> None:
                phone.heard("saved", state)

        async def new_token() -> str:
            phone.heard("token", True)
            return setup.tokens.pop(0)

        async def show(message: Message) -> None:
            phone.heard("handling", message.id)
            if setup.fails:
                setup.fails -= 1
                raise RuntimeError("the handler fails")
            phone.heard("shown", {"id": message.id, "offset": message.offset, "data": message.data})

        (endpoint,) = setup.endpoints
        client = Client(
            endpoint["endpoint"] + ("?format=protobuf" if protobuf else ""),
            events=Events(),
            token=setup.tokens.pop(0),
            get_token=new_token,
            use_protobuf=protobuf,
            data=connect_data(heartbeat=30, protobuf=protobuf),
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.2,
        )
        live = LiveClient(
            client,
            show,
            on_missing=lambda count: phone.heard("missing", count),
            on_unread=lambda count: phone.heard("unread", count),
            on_error=lambda error: phone.heard("error", error),
            storage=Kept(),
        )
        made.append(live)
        return phone

    yield new
    for live in made:
        await live.disconnect()


@asynccontextmanager
async def in_node() -> AsyncIterator[NewPhone]:
    process = await asyncio.create_subprocess_exec(
        *node(),
        str(HERE / "live_node.mjs"),
        str(SDK),
        str(MODULE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    phones: list[Phone] = []
    numbers = itertools.count()
    answers: dict[int, asyncio.Future[Any]] = {}

    async def read() -> None:
        async for line in stdout:
            reported = json.loads(line)
            if "phone" in reported:
                phones[reported["phone"]].heard(reported["event"], reported.get("value"))
            elif "error" in reported:
                answers[reported["number"]].set_exception(AssertionError(reported["error"]))
            else:
                answers[reported["number"]].set_result(reported["result"])
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(AssertionError("Node has ended"))

    def send(**what: Any) -> None:
        stdin.write(json.dumps(what).encode() + b"\n")

    async def new(setup: Setup) -> Phone:
        place = len(phones)

        async def call(name: str, arguments: list[Any]) -> Any:
            number = next(numbers)
            answers[number] = asyncio.get_running_loop().create_future()
            send(phone=place, call=name, argument=arguments, number=number)
            return await answers[number]

        phones.append(Phone(f"node {setup.endpoints[0]['transport']} {setup.format}", call))
        send(phone=place, call="new", argument={**vars(setup), "storage": True})
        return phones[place]

    reading = asyncio.create_task(read())
    try:
        yield new
    finally:
        stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                complaints = (await stderr.read()).decode()
                await process.wait()
        except TimeoutError:
            process.kill()
            raise
        await reading
    lines = [line for line in complaints.splitlines() if "Warning" not in line and "--trace-warnings" not in line]
    assert lines == []


class Door:
    """The streams, which devices may be kept from connecting to for a while."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self._shut: dict[str, asyncio.Event] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._live, name)

    async def connect(self, app: str, device_id: str, *more: Any, **others: Any) -> Any:
        if device_id in self._shut:
            await self._shut[device_id].wait()
        return await self._live.connect(app, device_id, *more, **others)

    @contextmanager
    def shut(self, device_id: str) -> Iterator[None]:
        opened = self._shut[device_id] = asyncio.Event()
        yield
        del self._shut[device_id]
        opened.set()


async def story(world: World, door: Door, new: NewPhone, transport: str, form: str) -> None:
    device = f"{transport}-{form}"
    await world.store.registry.put_many(
        "shop", [Device(id=device, platform="fcm", token=device, user=device, registered_at=1, last_seen_at=1)]
    )
    setup = Setup(world, device, transport, form, ttl=2.0)
    setup.fails = 1
    phone = await new(setup)
    await phone.call("connect", [])
    await phone.until_reported("recovered", 1)
    assert (phone.reported["connected"], phone.reported["recovered"]) == ([transport], [False])

    # Received in order, and acknowledged after the handler, which fails at first.
    pushed = [(await world.push(device))[0] for _ in range(3)]
    await phone.until_reported("error", 1)
    assert not any(name == device for name, _ in world.confirmed)
    await phone.until(lambda: phone.shown == pushed)
    await phone.call("settled", [])
    await confirmed(world, device, pushed)
    assert phone.reported["shown"][0]["data"]["notification"] == {"title": "hi"}

    # Read, events, history.
    assert phone.reported["unread"][-1] == 3
    assert await phone.call("read", []) == 0
    assert [await phone.call("event", [pushed[0], "opened"]) for _ in range(2)] == [True, False]
    page = await phone.call("history", [])
    ids = [each["id"] if isinstance(each, dict) else each.id for each in page]
    assert ids == pushed[::-1]

    # The token was renewed, and the connection goes on.
    await phone.until_reported("token", 1)
    # A content that is too large for the stream is fetched.
    big, _ = await world.push(device, body=msgspec.json.encode({"id": "big", "data": {"text": BIG}}))
    await phone.until(lambda: phone.shown[3:] == [big])
    assert phone.reported["shown"][-1]["data"]["data"] == {"text": BIG}
    assert len(phone.reported["connected"]) == 1

    # A cut: what was appended meanwhile comes once, and what a provider brought meanwhile is not shown again.
    with door.shut(device):
        cut(world, device)
        missed = [(await world.push(device, collapse=collapse))[0] for collapse in ("", "x", "x", "")]
        assert await phone.call("received", [missed[3]]) is True
    await phone.until(lambda: phone.shown[4:] == [missed[0], missed[2]])
    await phone.until_reported("recovered", 2)
    await phone.call("settled", [])
    assert phone.reported["recovered"] == [False, True]
    assert await phone.call("received", [missed[0]]) is False
    await confirmed(world, device, [*pushed, big, missed[0], missed[2], missed[3]])

    # A shutdown: it comes back.
    end(world, device)
    await phone.until_reported("recovered", 3)
    last, _ = await world.push(device)
    await phone.until(lambda: phone.shown[-1:] == [last])
    await phone.call("settled", [])
    assert phone.reported["ended"] == []
    assert phone.reported["missing"] == []

    # Another connection of the device: the first one stays away.
    other = await new(Setup(world, device, transport, form))
    await other.call("connect", [])
    await phone.until(lambda: phone.reported["ended"] == [4501])
    after, _ = await world.push(device)
    await other.until(lambda: other.shown == [after])
    await other.call("settled", [])
    assert (len(phone.reported["connected"]), phone.shown[-1]) == (3, last)
    await confirmed(world, device, [*pushed, big, missed[0], missed[2], missed[3], last, after])
    await other.call("disconnect", [])
    assert (len(phone.reported["error"]), other.reported["error"]) == (1, [])
    assert phone.reported["handling"] == [pushed[0], *phone.shown]


def connections(world: World, device: str) -> list[Connection]:
    found = [each for each in world.gateway.connections.values() if each.device_id == device]
    return [each for each in found if isinstance(each, Connection)]


def cut(world: World, device: str) -> None:
    for connection in connections(world, device):
        connection.line.abort()


def end(world: World, device: str) -> None:
    for connection in connections(world, device):
        connection.end(SHUTDOWN)


async def confirmed(world: World, device: str, pushes: list[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while len([each for name, each in world.confirmed if name == device]) < len(pushes):
            await asyncio.sleep(0.01)
    assert [each for name, each in world.confirmed if name == device] == pushes


@asynccontextmanager
async def in_chromium(origin: str) -> AsyncIterator[NewPhone]:
    """A page that stands at `origin`, which is not the gateway's."""
    files = {
        "/centrifuge.js": (SDK, "text/javascript"),
        "/pushsvc-live.js": (MODULE, "text/javascript"),
        "/live_phone.mjs": (HERE / "live_phone.mjs", "text/javascript"),
        "/live_page.mjs": (HERE / "live_page.mjs", "text/javascript"),
    }
    page_text = '<script src="/centrifuge.js"></script><script type="module" src="/live_page.mjs"></script>'

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        if request.path not in files:
            return web.Response(text=page_text, content_type="text/html")
        path, media = files[request.path]
        return web.Response(text=path.read_text(), content_type=media)

    runner = web.ServerRunner(web.Server(serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(origin.rpartition(":")[2])).start()
    phones: list[Phone] = []
    try:
        async with browser() as page:
            await page.open(f"{origin}/")
            assert await page.look("window.ready") is True

            async def read() -> None:
                while True:
                    for reported in await page.look("next()"):
                        phones[reported["phone"]].heard(reported["event"], reported.get("value"))

            async def new(setup: Setup) -> Phone:
                place = len(phones)

                async def call(name: str, arguments: list[Any]) -> Any:
                    return await page.look(f"call({place}, {json.dumps(name)}, {json.dumps(arguments)})")

                phones.append(Phone(f"chromium {setup.endpoints[0]['transport']} {setup.format}", call))
                await page.look(f"add({place}, {json.dumps({**vars(setup), 'storage': True})})")
                return phones[place]

            reading = asyncio.create_task(read())
            try:
                yield new
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
    finally:
        await runner.cleanup()


async def stories(world: World, new: NewPhone, ways: list[tuple[str, str]]) -> None:
    door: Any = Door(world.gateway.live)
    world.gateway.live = door
    async with asyncio.TaskGroup() as group:
        for transport, form in ways:
            group.create_task(story(world, door, new, transport, form))


async def test_the_story_in_python(world: World) -> None:
    async with in_python() as new:
        await stories(world, new, [("websocket", "json"), ("websocket", "protobuf")])


WAYS = [(transport, form) for transport in ("websocket", "http_stream") for form in ("json", "protobuf")]
WAYS.append(("sse", "json"))


@needs_node
async def test_the_story_in_node(world: World) -> None:
    async with in_node() as new:
        await stories(world, new, WAYS)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; .ci/run installs none either")
async def test_the_story_in_a_browser(server: Server) -> None:
    origin = f"http://127.0.0.1:{free_ports()}"
    async with running(server, allowed_origins=(origin,)) as world, in_chromium(origin) as new:
        await stories(world, new, WAYS)
