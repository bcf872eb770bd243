"""The sections of the live channel: `[live]` of the gateway, and `[apps.NAME.live]` with its rules of an app."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from ..decoding import Rule
from ..model.live import Denied, Order, denied, endpoints_of, network, own_endpoints
from ..model.rates import Rate
from .processes import Processes
from .values import Count, Port, RateText


def _fault(read: Callable[[str], Any]) -> Callable[[str], str | None]:
    """Return the function that says what is wrong with a text that `read` refuses with a `ValueError`."""

    def fault(text: str) -> str | None:
        try:
            read(text)
        except ValueError as error:
            return str(error)
        return None

    return fault


def _denied(entry: str) -> Denied:
    return denied([entry])


def _host_fault(host: str) -> str | None:
    """Return why devices cannot be sent to this host, or None."""
    try:
        own_endpoints(host, 1, secure=False)
    except ValueError:
        return "expected a host name or an address; 0.0.0.0 for all of IPv4, :: for all"
    return None


_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9*._-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?", re.IGNORECASE
)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def _origin_fault(text: str) -> str | None:
    """Return why no browser sends this as the origin of a page, or None."""
    if text in ("*", "null"):
        return None
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return "expected an origin: https://shop.example, https://*.shop.example, or * for every page"
    if match["port"] and match["port"] == _DEFAULT_PORTS.get(match["scheme"].lower()):
        return f"leave {match['port']} out: browsers do not send the default port"
    return None


Seconds = Annotated[float, Meta(ge=1, le=3600)]


class LiveSettings(Struct, frozen=True, kw_only=True):
    """`[live]`: the gateway, to which the devices of all apps with a live channel connect."""

    host: Annotated[str, Rule(fault=_host_fault)] = "127.0.0.1"
    port: Port = 8081
    processes: Processes = 1
    max_connections: Count = 100_000
    """The maximum number of connections of one process."""
    endpoints: tuple[Annotated[str, Rule(fault=_fault(endpoints_of))], ...] = ()
    """The addresses that are announced to devices, in their order; empty: that on which the gateway listens."""
    heartbeat: Seconds = 25.0
    heartbeat_min: Seconds = 4.0
    heartbeat_max: Seconds = 900.0
    pong_within: Annotated[float, Meta(gt=0, le=300)] = 8.0
    drain: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    connects: RateText = Rate(2000, 1)
    """New connections of one process; above it they are answered with a temporary error."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    """By how much gateways leave the CPU to others of their machine: at 10 each has a tenth of what another process has
    that wants it as well. When all devices come back at once, gateways have work for seconds, and devices wait for them
    anyway; those who post a push wait for the API and Redis now. With 50,000 devices and other work on the machine, p99
    of a POST was 22 ms meanwhile, and 47 ms with 5; the last device was back at the same time. A push to 10,000 devices
    beside dispatchers at work was acknowledged by all after 2.8 s, and after 2.1 s with 1."""
    inline: Annotated[int, Meta(ge=0, le=65_536)] = 4096
    """The largest content in bytes that is sent as it is; a larger one is announced, and the device fetches it."""
    allowed_origins: tuple[Annotated[str, Rule(fault=_origin_fault)], ...] = ()
    """Web pages that may connect, besides those of the gateway's own host."""
    deny: tuple[Annotated[str, Rule(fault=_fault(_denied))], ...] = ()
    """Networks and ids of devices that are refused."""
    proxies: tuple[Annotated[str, Rule(fault=_fault(network))], ...] = ()
    """Networks of proxies, whose `X-Forwarded-For` is believed."""
    tls_cert: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        if faults := [*self._faults()]:
            raise ValueError(*faults)

    def _faults(self) -> Iterator[str]:
        if self.heartbeat_min > self.heartbeat_max:
            yield "heartbeat_min: must not be greater than `heartbeat_max`"
        elif not self.heartbeat_min <= self.heartbeat <= self.heartbeat_max:
            yield "heartbeat: must lie between `heartbeat_min` and `heartbeat_max`"
        if self.tls_key and not self.tls_cert:
            yield "tls_cert: needed beside `tls_key`; leave both out where a proxy ends TLS"
        for name in ("tls_cert", "tls_key"):
            if "-----BEGIN" in getattr(self, name):
                yield f"{name}: expected the path of a PEM file, found its content"


class LiveRule(Struct, frozen=True, kw_only=True):
    """`[[apps.NAME.live.rules]]`: the order of channels for the devices that an expression selects."""

    where: str
    """An expression as in `to.where` of a push."""
    order: Order


class AppLive(Struct, frozen=True, kw_only=True):
    """`[apps.NAME.live]`: the live channel of an app. Its `repr` does not show the secret."""

    secret: str = ""
    """Signs and verifies connect tokens (HS256)."""
    old_secret: str = ""
    """Verifies tokens as well, while those that it signed run out after a change of `secret`."""
    public_key_file: str = ""
    """The public keys (PEM) of connect tokens that are signed elsewhere (ES256 or RS256)."""
    token_ttl: Annotated[int, Meta(ge=60, le=366 * 86400)] = 86400
    ack_within: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """How long the acknowledgement of a device is awaited, before the next channel is used."""
    window: Annotated[int, Meta(ge=1, le=500)] = 32
    """Pushes that a connection may have unacknowledged."""
    resend: Annotated[int, Meta(ge=0, le=10)] = 1
    """How often an unacknowledged push is sent again on its connection."""
    history: Annotated[int, Meta(ge=1, le=10_000)] = 200
    """The most pushes that are kept for a device; more than `window`, which may be on their way to it."""
    history_age: Annotated[int, Meta(ge=1, le=366 * 86400)] = 7 * 86400
    """How long they are kept."""
    order: Order = "live, provider"
    """The channels for a device that no rule selects."""
    rules: tuple[LiveRule, ...] = ()
    """The first one that selects a device decides."""

    def __post_init__(self) -> None:
        if faults := [*self._faults()]:
            raise ValueError(*faults)

    def _faults(self) -> Iterator[str]:
        for name in ("secret", "old_secret"):
            if (secret := getattr(self, name)) and (fault := _secret_fault(secret)):
                yield f"{name}: {fault}"
        if self.old_secret and not self.secret:
            yield "secret: needed beside `old_secret`, which only verifies"
        elif not self.secret and not self.public_key_file:
            yield (
                "secret: needed for connect tokens, unless `public_key_file` verifies those that you sign yourself; "
                "`openssl rand -hex 32` makes one"
            )
        if self.history <= self.window:
            yield f"history: must be greater than `window`, {self.window}, which may be on their way to a device"

    def __repr__(self) -> str:
        return f"AppLive(secret_set={bool(self.secret)}, order={self.order!r}, rules={self.rules!r})"


def _secret_fault(secret: str) -> str | None:
    """Return why a text cannot be a key for HS256, without quoting it, or None."""
    if "-----BEGIN" in secret or secret.startswith("ssh-"):
        return "expected a random text, found a key pair's key: its file is `public_key_file`"
    if secret != secret.strip():
        return "begins or ends with a space or a line break: remove it, and where tokens are signed"
    # https://www.rfc-editor.org/rfc/rfc7518#section-3.2
    if len(secret.encode()) < 32:
        return "expected at least 32 bytes, as HS256 needs; `openssl rand -hex 32` makes one"
    return None
