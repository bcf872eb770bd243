"""What the tests of intake share: ports that live in memory, a server on a real socket, raw HTTP. And that they work.

The renderers here judge sizes about as the real ones do; the real ones are tested with their providers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import uvloop

from pushsvc.api.app import build_app
from pushsvc.api.config import ApiApp, ApiConfig, ApiLive, Keyless
from pushsvc.api.http.dispatch import CallDispatcher
from pushsvc.api.ports import ApiPorts
from pushsvc.api.pushes.backlog import Backlog
from pushsvc.api.pushes.waits import Waits
from pushsvc.api.server import serve
from pushsvc.errors import Conflict, Fault, NotFound, RequestError, StoreUnavailable
from pushsvc.model.access import ApiKey, Scope
from pushsvc.model.codec import decode_audience
from pushsvc.model.delivery import End, Receipt
from pushsvc.model.push import Content, Message, Push
from pushsvc.model.rates import Rate
from pushsvc.model.routing import table_of
from pushsvc.model.status import Counts, DeliveryRow, FeedbackEvent, PushStatus
from pushsvc.ports.channels import Channel, Storage
from pushsvc.ports.conditions import Condition
from pushsvc.ports.erasure import Erasure
from pushsvc.ports.keyring import KeyRing
from pushsvc.ports.limits import Limiter
from pushsvc.ports.provider import RenderError
from pushsvc.ports.pushes import DevicePush, DevicePushes, KeptPush, ListedPush, PushFilter
from pushsvc.ports.receipts import EventPage
from pushsvc.ports.registry import Registry
from pushsvc.rules.bound import Bound
from pushsvc.runtime.providers import addresses, renderers

from ..fakes import MemoryStore
from ..fakes.admin import FixedAdministration
from ..fakes.letters import MemoryDeadLetters

TOKEN = "8f3c" * 16
NOW = 1_796_115_600_000
ALERT: dict[str, Any] = {"to": {"tokens": [{"platform": "apns", "token": TOKEN}]}, "notification": {"title": "x"}}


class Apns:
    platform = "apns"

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("token",)) -> Message:
        return _message(self.platform, content)

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("token",)) -> list[Fault]:
        return []


class Fcm:
    platform = "fcm"

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("token",)) -> Message:
        return _message(self.platform, content)

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("token",)) -> list[Fault]:
        return []


def _message(platform: str, content: Content) -> Message:
    if content.collapse == "break":
        raise ZeroDivisionError(content.collapse)
    body = msgspec.json.encode((content.notification, content.data, content.overrides.get(platform)))
    if len(body) > 4096:
        fault = Fault("notification", f"makes a payload of {len(body):,} bytes for {platform}; at most 4,096 are taken")
        raise RenderError([fault], too_large=True)
    return Message(platform, body)


@dataclass
class Store:
    """`PushStore`, `ReceiptLog` and `KeyRing` in one. `away` makes each call fail, `gate` makes `accept` wait."""

    pushes: dict[str, Push] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    rows: list[DeliveryRow] = field(default_factory=list)
    feedback: list[tuple[str, FeedbackEvent]] = field(default_factory=list)
    missing_to: str = ""
    keys: dict[str, ApiKey] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    records: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    finds: int = 0
    away: bool = False
    gate: asyncio.Event | None = None
    waiting: int = 0
    """Calls that have come to the gate."""
    asked: list[Any] = field(default_factory=list)

    def _come(self) -> None:
        if self.away:
            raise StoreUnavailable("connection refused")

    @property
    def pending(self) -> int:
        return sum(push.total for push in self.pushes.values())

    def pending_of(self, app: str) -> int:
        return sum(push.total for push in self.pushes.values() if push.app == app)

    async def recount(self, apps: Iterable[str]) -> int:
        self._come()
        return self.pending

    async def note_refused(self, bounds: Iterable[Bound]) -> None:
        self._come()

    async def refused(self) -> list[Bound]:
        return []

    async def accept(self, push: Push) -> None:
        self._come()
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        self.pushes[push.id] = push

    async def accept_once(self, pushes: Sequence[Push], *, key: bytes, record: bytes) -> bytes | None:
        self._come()
        kept = self.records.setdefault((pushes[0].app, key), record)
        if kept is not record:
            return kept
        for push in pushes:
            self.pushes[push.id] = push
        return None

    def beside(self, app: str, push_id: str, key: bytes) -> bool:
        return True

    async def recall(self, app: str, key: bytes) -> bytes | None:
        self._come()
        return self.records.get((app, key))

    async def status(self, app: str, push_id: str) -> PushStatus | None:
        self._come()
        push = self.pushes.get(push_id)
        if push is None or push.app != app:
            return None
        counts = Counts(total=push.total, queued=push.total)
        return PushStatus(push.id, app, push.first_state, push.created_at, push.created_at, counts, push.send_at)

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        return [await self.status(*push) for push in pushes]

    async def recent(
        self, app: str, which: PushFilter, *, cursor: str, limit: int
    ) -> tuple[list[ListedPush], str | None]:
        own = [push for push in self.pushes.values() if push.app == app and which.key in ("", push.key)]
        found = [(await self.status(app, push.id), push) for push in reversed(own)]
        return [ListedPush(status, push.lane, push.key) for status, push in found if status is not None][:limit], None

    async def schedules(self, app: str, *, cursor: str, limit: int) -> tuple[list[ListedPush], str | None]:
        return [], None

    async def kept(self, app: str, push_id: str) -> KeptPush | None:
        push, status = self.pushes.get(push_id), await self.status(app, push_id)
        if push is None or status is None:
            return None
        listed = ListedPush(status, push.lane, push.key)
        audience = decode_audience(push.audience) if push.audience else None
        return KeptPush(listed, dict(push.messages), audience, dry_run=push.dry_run, via=push.via)

    async def due(self, app: str, until: int | None = None) -> int:
        return 0

    async def deliveries(
        self, app: str, push_id: str, *, outcome: End | None, cursor: str, limit: int
    ) -> tuple[list[DeliveryRow], str | None] | None:
        self._come()
        self.asked.append((outcome, cursor, limit))
        if await self.status(app, push_id) is None:
            return None
        return self.rows, "12" if self.rows else None

    async def to_device(self, app: str, device_id: str, token_hash: str, *, cursor: str, limit: int) -> DevicePushes:
        found = [DevicePush(push.id, push.created_at, row) for push in self.pushes.values() for row in self.rows]
        return DevicePushes(found[:limit], len(self.pushes), 0, NOW if found else None, None)

    async def cancel(self, app: str, push_id: str) -> PushStatus | None:
        status = await self.status(app, push_id)
        if push_id in self.done:
            raise Conflict("Every delivery of this push has ended: there is nothing left to cancel.")
        if status is None:
            return None
        counts = Counts(total=status.counts.total, cancelled=status.counts.total)
        return msgspec.structs.replace(status, state="cancelled", counts=counts)

    async def ping(self) -> None:
        self._come()

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        raise AssertionError("intake takes no receipts")

    async def record(self, app: str, done: Any) -> None:
        raise AssertionError("intake records no receipts")

    async def events(self, app: str, *, after: str, limit: int) -> EventPage[FeedbackEvent]:
        self._come()
        self.asked.append((after, limit))
        found = [(number, event) for number, event in self.feedback if number > after][:limit]
        return EventPage(found, self.missing_to if after and self.missing_to > after else "")

    async def add(self, key: ApiKey) -> bool:
        if any((each.app, each.name) == (key.app, key.name) for each in self.keys.values()):
            return False
        self.keys[key.sha256] = key
        return True

    async def all(self) -> list[ApiKey]:
        return list(self.keys.values())

    async def find(self, sha256: str) -> ApiKey | None:
        self._come()
        self.finds += 1
        return self.keys.get(sha256)

    async def revoke(self, name: str, app: str) -> bool:
        own = [key.sha256 for key in self.keys.values() if (key.name, key.app) == (name, app)]
        for sha256 in own:
            del self.keys[sha256]
        return bool(own)

    async def note_use(self, hashes: Collection[str], *, configured: Collection[str] = ()) -> None:
        for sha256 in {*hashes} & {*configured, *self.keys}:
            self.uses.setdefault(sha256, NOW)

    async def last_used(self, hashes: Sequence[str]) -> list[int | None]:
        return [self.uses.get(sha256) for sha256 in hashes]


@dataclass
class Channels:
    """Broadcast channels in memory, the same for every app. `error` makes each call fail."""

    kept: dict[str, Storage] = field(default_factory=dict)
    error: RequestError | None = None
    asked: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def of(self, app: str) -> AsyncIterator[Channels]:
        self.asked.append(app)
        if self.error is not None:
            raise self.error
        yield self

    async def create(self, storage: Storage) -> Channel:
        channel_id = base64.b64encode(f"channel/{len(self.kept)}?".encode()).decode()
        self.kept[channel_id] = storage
        return Channel(channel_id, storage)

    async def all(self) -> list[str]:
        return list(self.kept)

    async def get(self, channel_id: str) -> Channel:
        if channel_id not in self.kept:
            raise NotFound("no such channel")
        return Channel(channel_id, self.kept[channel_id])

    async def delete(self, channel_id: str) -> None:
        await self.get(channel_id)
        del self.kept[channel_id]


def api_key(text: str, app: str, *scopes: Scope) -> ApiKey:
    return ApiKey(text, app, hashlib.sha256(text.encode()).hexdigest(), scopes)


CONFIG = ApiConfig(port=0, shutdown_timeout=5.0, body_timeout=5.0)


@dataclass
class Reported:
    """Conditions that a test has set."""

    failing: dict[str, str]
    holding: dict[str, str]

    async def ready(self) -> Mapping[str, str]:
        return self.failing

    async def held(self) -> Mapping[str, str]:
        return self.holding

    async def now(self) -> list[Condition]:
        return [
            Condition(kind="held", severity="critical", what=route, cause=why, remedy="look")
            for route, why in self.holding.items()
        ]

    async def metrics(self) -> bytes:
        return b"# HELP x y\n"


class Erasures:
    """Removes the devices of users at once, and remembers how many each had."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._erased: dict[tuple[str, str], int] = {}

    async def erase(self, app: str, user: str, *, wait: float) -> Erasure:
        if ids := [each.id for each in await self._registry.of_user(app, user)]:
            self._erased[app, user] = len(await self._registry.revise(app, ids, lambda device: None))
        return Erasure(self._erased.get((app, user), 0), True)


@dataclass
class Service:
    """A running server, its store, and what it says of its readiness. `now` is its clock in seconds, for key caches."""

    store: Store
    url: str = ""
    failing: dict[str, str] = field(default_factory=dict)
    now: float = 0.0
    keyless: Keyless = "all"
    holding: dict[str, str] = field(default_factory=dict)
    backlog: Backlog | None = None
    waits: Waits | None = None
    limiter: Limiter | None = None
    limit: Rate | None = None
    live: ApiLive | None = None
    ring: KeyRing | None = None
    memory: MemoryStore = field(default_factory=lambda: MemoryStore(clock=lambda: NOW))
    channels: Channels = field(default_factory=Channels)
    erasures: Erasures = field(init=False)

    def __post_init__(self) -> None:
        self.erasures = Erasures(self.registry)

    @property
    def dead(self) -> MemoryDeadLetters:
        return self.memory.dead

    @property
    def registry(self) -> Registry:
        return self.memory.registry

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def app(self, config: ApiConfig) -> CallDispatcher:
        return build_app(self.ports(config), self.apps(), keyless=self.keyless)

    def apps(self) -> dict[str, ApiApp]:
        return {
            "shop": ApiApp(
                "shop",
                frozenset({"apns", "fcm"} | ({"live"} if self.live is not None else set())),
                (
                    api_key("pusher", "shop", "push"),
                    api_key("reader", "shop", "feedback"),
                    api_key("admin", "shop", "admin"),
                    api_key("none", "shop", "devices"),
                    api_key("registrar", "shop", "devices"),
                    api_key("full", "shop", "push", "feedback", "admin"),
                ),
                routes=table_of({"apns": "production"}),
                limit=self.limit,
                live=self.live,
            ),
            "news": ApiApp(
                "news",
                frozenset({"fcm"}),
                (api_key("newsie", "news", "push"), api_key("newsroom", "news", "devices")),
            ),
        }

    def ports(self, config: ApiConfig) -> ApiPorts:
        return ApiPorts(
            pushes=self.store,
            receipts=self.store,
            keys=self.ring or self.store,
            dead=self.dead,
            registry=self.registry,
            erasures=self.erasures,  # type: ignore[arg-type]  # a part of the port
            suppressions=self.memory.suppressions,
            channels=self.channels,
            live=self.memory.live,
            renderers={"apns": Apns(), "fcm": Fcm(), "live": renderers()["live"]},
            addresses=addresses(),
            conditions=Reported(self.failing, self.holding),
            admin=FixedAdministration(),
            config=config,
            waits=self.waits or Waits(self.store, most=config.max_waiting),
            clock=lambda: NOW,
            monotonic=lambda: self.now,
            backlog=self.backlog,
            limiter=self.limiter,
        )


@asynccontextmanager
async def running(config: ApiConfig = CONFIG, live: ApiLive | None = None) -> AsyncIterator[Service]:
    """A server in this loop. `live` is the live channel of the app `shop`."""
    service = Service(Store(), live=live)
    async with serve(service.app(config), config) as service.url:
        yield service


@contextmanager
def running_in_thread(config: ApiConfig = CONFIG, live: ApiLive | None = None) -> Iterator[Service]:
    """A server in a loop of its own, for clients that are not asynchronous."""
    service = Service(Store(), live=live)
    started = threading.Event()
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        ended = asyncio.Event()
        async with serve(service.app(config), config) as service.url:
            loop = asyncio.get_running_loop()
            stop.append(lambda: loop.call_soon_threadsafe(ended.set))
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    try:
        if not started.wait(20):
            raise TimeoutError("the server did not start")
        yield service
    finally:
        for each in stop:
            each()
        thread.join()


@dataclass(frozen=True)
class Answer:
    """What came back, with the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def errors(self) -> list[tuple[str, str]]:
        return [(error["path"], error["message"]) for error in self.json["errors"]]


async def call(
    service: Service,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = "full",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request. `body` is bytes or anything that JSON can say. Of a stream of events the first line is read."""
    sent = {"Content-Type": "application/json"} if body is not None else {}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    sent.update(headers or {})
    data: bytes | io.BytesIO | None = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
    if isinstance(data, bytes) and len(data) > 1_000_000:
        # The client warns of large bodies that are not files.
        data = io.BytesIO(data)
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.request(method, service.url + path, data=data, headers=sent, allow_redirects=False) as response,
    ):
        endless = response.content_type == "text/event-stream"
        content = await response.content.readline() if endless else await response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, content)


async def raw(service: Service, data: bytes) -> Answer:
    """Send bytes as they are and read one answer."""
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        writer.write(data)
        return await answer(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer on a connection."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)


LOOP = uvloop.new_event_loop
"""The loop that the service runs on; tests of the server itself try asyncio's own as well."""


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; raise when it does not within 20 seconds."""
    async with asyncio.timeout(20):
        while not condition():  # what is waited for sets no event
            await asyncio.sleep(0.005)


async def test_the_kit_takes_a_push(service: Service) -> None:
    assert (await call(service, "POST", "/v1/push", ALERT)).status == 202
    assert len(service.store.pushes) == 1
