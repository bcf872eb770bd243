"""The provider: addresses, rendering, classification and sending over the product's own HTTP/2 pool."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from pushsvc.decoding import Rule
from pushsvc.errors import Fault
from pushsvc.model.address import AddressKind
from pushsvc.model.defaults import Defaults
from pushsvc.model.delivery import (
    BadNotification,
    Delivery,
    Misconfigured,
    Outcome,
    Sent,
    Throttled,
    TokenDead,
    Unavailable,
)
from pushsvc.model.finding import Finding
from pushsvc.model.push import Content, Message, Platform, Route
from pushsvc.model.rates import AccountLimits, Rate
from pushsvc.net.http2.transport import POST, Answer, Pool, Response, field, path
from pushsvc.net.retry_after import retry_after
from pushsvc.ports.provider import OnOutcome, Preview, RenderError, Uplink
from pushsvc.providers.endpoint import check_ca, host_fields, tls_context

PLATFORM: Final[Platform] = "threepart"
LIMIT: Final = 3000
DEFAULTS: Final = Defaults(server_error=7.0, throttled=11.0, stale=100 * 86400.0)
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,200}=*").fullmatch
_ENDPOINT: Final = re.compile(r"https://[a-z0-9.:-]+/[!-~]*").fullmatch


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[apps.NAME.threepart]`."""

    endpoint: str
    ca_file: str = ""
    connections: int = 1


# --- addresses --------------------------------------------------------------------------------------


Key = Annotated[str, Rule(fault=lambda text: None if _KEY(text) else "must be base64url")]


class Keys(Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a receiver."""

    p256dh: Key
    auth: Key


class Subscription(Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser gives: where it is reached, and two keys."""

    endpoint: str
    keys: Keys


_read: Final = msgspec.json.Decoder(Subscription).decode


def _fits(text: str) -> object:
    return _ENDPOINT(_read(text).endpoint)


def _canonical(text: str) -> str:
    """Without the padding of the keys, which clients write or leave out."""
    given = _read(text)
    keys = Keys(given.keys.p256dh.rstrip("="), given.keys.auth.rstrip("="))
    return msgspec.json.encode(Subscription(given.endpoint, keys)).decode()


def _endpoint(text: str) -> str:
    return _read(text).endpoint


ADDRESSES: Final = {
    "subscription": AddressKind(
        _fits,
        "must have an endpoint https://HOST/PATH",
        _canonical,
        same=_endpoint,
        device=True,
        parts=Subscription,
        description="The subscription of a browser.",
    )
}

# --- rendering and judging --------------------------------------------------------------------------


class Renderer:
    """The pure half."""

    platform: Platform = PLATFORM

    def render(
        self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("subscription",)
    ) -> Message:
        assert set(kinds) <= set(ADDRESSES)
        body = msgspec.json.encode({"notification": content.notification, "data": content.data})
        if len(body) > LIMIT:
            raise RenderError([Fault("notification", f"makes {len(body):,} bytes, at most {LIMIT:,}")], too_large=True)
        return Message(PLATFORM, body)

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("subscription",)) -> list[Fault]:
        return []


RENDERER: Final = Renderer()


def classify(answer: Answer, now: float) -> Outcome:
    """What an answer says about the delivery."""
    if not isinstance(answer, Response):
        return Unavailable(reason=answer.reason, maybe_sent=answer.maybe_sent)
    status = answer.status
    match status:
        case 201:
            return Sent(status=status)
        case 404 | 410:
            return TokenDead(status=status, reason=str(status))
        case 401 | 403:
            return Misconfigured(status=status, reason=str(status))
        case 429:
            return Throttled(status=status, reason=str(status), retry_after=retry_after(answer.headers, now))
        case _ if status >= 500:
            wait = retry_after(answer.headers, now)
            return Unavailable(status=status, reason=str(status), maybe_sent=True, retry_after=wait)
        case _:
            return BadNotification(status=status, reason=str(status))


def account_limits(config: Config) -> AccountLimits:
    """What the provider allows to the account."""
    return AccountLimits(account=config.endpoint, quota=Rate(1_000_000, 60))


def check(config: Config) -> list[Finding]:
    """What can be said without a network."""
    return [*check_ca(config.ca_file), Finding("ok", f"sends by {config.endpoint}")]


def preview(config: Config, message: Message, *, push_id: str, expires_at: int, dry_run: bool) -> Preview:
    """The request without its keys."""
    return Preview("POST", urlsplit(config.endpoint).path, dict(message.headers), message.body)


# --- sending ----------------------------------------------------------------------------------------


class ThreePartProvider:
    """The sending half: the path is that of the endpoint, the keys are header fields."""

    def __init__(self, route: Route, config: Config, pool: Pool, clock: Callable[[], float]) -> None:
        self.route = route
        self._pool = pool
        self._clock = clock
        self._head = POST + host_fields(config.endpoint)

    @property
    def room(self) -> int:
        return self._pool.room

    @property
    def trouble(self) -> str:
        return self._pool.trouble

    @property
    def silence(self) -> float:
        return self._pool.silence

    @property
    def parts(self) -> Mapping[str, Uplink]:
        return {}

    @property
    def refused(self) -> str:
        return ""

    def on_room(self, wake: Callable[[], None]) -> None:
        self._pool.on_room(wake)

    def remedy(self, reason: str) -> str:
        return ""

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        to = _read(delivery.target.token)
        fields = path(urlsplit(to.endpoint).path) + field("p256dh", to.keys.p256dh) + field("auth", to.keys.auth)
        self._pool.submit(self._head + fields, delivery.chunk.message.body, (delivery, on_outcome), self._on_answer)

    def _on_answer(self, context: Any, answer: Answer) -> None:
        delivery, on_outcome = context
        on_outcome(delivery, classify(answer, self._clock()))

    async def aclose(self) -> None:
        await self._pool.aclose()


@asynccontextmanager
async def open_provider(
    route: Route,
    config: Config,
    *,
    request_timeout: float,
    clock: Callable[[], float] = time.time,
    ttl_clock: Callable[[], float] = time.time,
) -> AsyncIterator[ThreePartProvider]:
    """Open the connections of one route."""
    async with Pool(
        config.endpoint,
        ssl=tls_context(config.ca_file),
        connections=config.connections,
        window=100,
        request_timeout=request_timeout,
    ) as pool:
        yield ThreePartProvider(route, config, pool, clock)
