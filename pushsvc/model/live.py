"""What the parts of the service share about the live channel: the order of channels, the addresses that are
announced to devices, and who is refused. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from .devices import name_fault

Order: TypeAlias = Literal["live, provider", "provider", "provider, live", "live"]
"""The channels that are tried for a device, in their order."""

Transport: TypeAlias = Literal["websocket", "http_stream", "sse"]
PATHS: Final[dict[Transport, str]] = {
    "websocket": "/connection/websocket",
    "http_stream": "/connection/http_stream",
    "sse": "/connection/sse",
}
"""The path of each transport on a gateway, in the order in which devices try them."""

RESERVED: Final = ("id", "at", "expires_at", "lane", "unread", "prev", "notice", "size")
"""The fields of what a device gets that the service sets: a push document cannot."""


class Endpoint(Struct, frozen=True):
    """One way to the gateway, as the official SDKs take it in their list of transports."""

    transport: Transport
    endpoint: str
    """Its URL: `ws://` or `wss://` for WebSocket, otherwise `http://` or `https://`."""


def endpoints_of(text: str) -> tuple[Endpoint, ...]:
    """Return the endpoints that an address of the configuration names.

    The address of a gateway, `https://push.example.com`, means all transports there; so does one with a folder, for a
    proxy that strips it. `wss://..` means WebSocket alone, and a URL that ends in the path of a transport that one
    alone. Raises `ValueError` with what is expected.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(_EXPECTED) from None
    plain = text.isascii() and text.isprintable() and " " not in text and not (parts.query or parts.fragment)
    if parts.scheme not in _SCHEMES or not parts.hostname or port == 0 or parts.username is not None or not plain:
        raise ValueError(_EXPECTED)
    secure = parts.scheme in ("https", "wss")
    folder, named = _named(parts.path.rstrip("/"))
    if parts.scheme in ("ws", "wss"):
        if named not in (None, "websocket"):
            raise ValueError(f"{PATHS[named]} is a path of HTTP: begin it with http:// or https://")
        # A path of its own is that of a proxy, which is taken as it is.
        path = parts.path if parts.path.strip("/") else PATHS["websocket"]
        return (_endpoint("websocket", secure, parts.netloc, path),)
    transports = tuple(PATHS) if named is None else (named,)
    return tuple(_endpoint(each, secure, parts.netloc, folder + PATHS[each]) for each in transports)


def own_endpoints(host: str, port: int, *, secure: bool) -> tuple[Endpoint, ...]:
    """Return the endpoints of a gateway that is reached under the address on which it listens."""
    shown = f"[{host}]" if ":" in host else host
    return endpoints_of(f"http{'s' if secure else ''}://{shown}:{port}")


def _named(path: str) -> tuple[str, Transport | None]:
    """Return the path without that of the transport in which it ends, and the transport."""
    for transport, ending in PATHS.items():
        if path.endswith(ending):
            return path.removesuffix(ending), transport
    return path, None


def _endpoint(transport: Transport, secure: bool, netloc: str, path: str) -> Endpoint:
    scheme = ("wss" if secure else "ws") if transport == "websocket" else ("https" if secure else "http")
    return Endpoint(transport, f"{scheme}://{netloc}{path}")


_SCHEMES: Final = ("https", "http", "wss", "ws")
_EXPECTED: Final = "expected https://HOST[:PORT] of a gateway or its proxy, or wss://HOST[:PORT] for WebSocket alone"


Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Denied(NamedTuple):
    networks: tuple[Network, ...] = ()
    ids: frozenset[str] = frozenset()


def denied(entries: Iterable[str]) -> Denied:
    """Return the networks and the ids of devices among the entries of `live.deny`.

    An address, or a network such as `203.0.113.0/24`, is a network, and everything else the id of a device. Raises
    `ValueError` for what is nearly an address, because as an id it would let a whole network in.
    """
    networks: list[Network] = []
    ids: list[str] = []
    for entry in entries:
        network = _network(entry)
        if network is not None:
            networks.append(network)
        elif name_fault(entry) is not None or _ADDRESS_LIKE.fullmatch(entry):
            raise ValueError("expected a network such as 203.0.113.0/24 or 2001:db8::/32, or the id of a device")
        else:
            ids.append(entry)
    return Denied(tuple(networks), frozenset(ids))


def network(text: str) -> Network:
    """Return the network that a text names, which may be one address. Raises `ValueError` with what is expected."""
    found = _network(text)
    if found is None:
        raise ValueError("expected a network or an address, such as 203.0.113.0/24 or 2001:db8::7")
    return found


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Return whether an address lies in one of these networks, also one of IPv4 that is written as IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


_ADDRESS_LIKE: Final = re.compile(
    r"[0-9]+(?:\.[0-9]+){3}|[0-9.]*\.[0-9.]*/[0-9.]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*/[0-9]*"
)


def client_address(peer: str, forwarded_for: str, proxies: Sequence[Network]) -> str:
    """Return the address from which a client connects: that of the other end, or, where this is one of our proxies, the
    last one in `X-Forwarded-For` that is none of them. What stands before it may have been written by the client."""
    address = peer
    for entry in reversed(forwarded_for.split(",")):
        if not is_in(address, proxies):
            break
        match = _FORWARDED.fullmatch(entry.strip())
        if match is None or _network(match[1] or match[2]) is None:
            break
        address = match[1] or match[2]
    return address


_FORWARDED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+(?=:[0-9]+\Z)|[0-9A-Fa-f:.]+)(?::[0-9]+)?")
"""An address, which some proxies write with its port."""


def _network(text: str) -> Network | None:
    """Return the network that a text names, one of IPv4 that is written as IPv6 as the former, or None."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED))


_MAPPED: Final = 96
"""The bits of `::ffff:0:0/96`, under which IPv6 has the addresses of IPv4."""
