"""The proxy to a provider and to its token endpoint: one rule for both. Pure.

It is the `proxy` of the account, `http://user:password@host:port`; `none` means none, whatever the environment says.
If it is empty, the environment decides as for curl: `https_proxy` or `HTTPS_PROXY`, else `all_proxy` or `ALL_PROXY`,
lower case first, unless the host is listed in `no_proxy` or `NO_PROXY`. For `http://` the upper-case `HTTP_PROXY` is
not read, because a CGI request could set it. Connections use a tunnel (CONNECT, RFC 9110 9.3.6): the proxy sees only
the host.

Source: https://everything.curl.dev/usingcurl/proxies/env.html
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from ..errors import CredentialError

PORT: Final = 1080
"""The default port of a proxy, as in curl."""
NONE: Final = "none"


class Proxy(Struct, frozen=True):
    """An HTTP proxy. Only `name` may be shown: `url` and `authorization` hold its password."""

    host: str
    port: int
    url: str
    authorization: str = ""
    """The value of `Proxy-Authorization`, or empty."""

    @property
    def name(self) -> str:
        """The proxy as a text for people, without its password."""
        return f"proxy {f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({self.name!r})"


def parse_proxy(text: str) -> Proxy:
    """Parse the URL of a proxy. Raises `ValueError`, whose text does not repeat `text`."""
    expected = "expected http://host:port or http://user:password@host:port, with a percent-encoded password"
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme != "http":
        raise ValueError(f"{expected}; proxies of other kinds, as https:// and socks5://, are not supported")
    if not host or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in host:
        raise ValueError(expected)
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(host, port or PORT, url.rstrip("/"), authorization)


def proxy_fault(text: str) -> str:
    """Return why this cannot be a `proxy` of the configuration, or an empty text."""
    if text in ("", NONE):
        return ""
    try:
        parse_proxy(text)
    except ValueError as error:
        return str(error)
    return ""


def proxy_for(url: str, configured: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy on the way to `url`, or None. Raises `CredentialError` for a variable that cannot be used."""
    if configured == NONE:
        return None
    if configured:
        return parse_proxy(configured)
    parts = urlsplit(url)
    names = [f"{parts.scheme}_proxy", "all_proxy"]
    found = next(((name, value) for name in _both_cases(names) if (value := environ.get(name))), None)
    listed = next((value for name in _both_cases(["no_proxy"]) if (value := environ.get(name))), "")
    if found is None or _is_exempt(parts.hostname or "", listed):
        return None
    try:
        return parse_proxy(found[1])
    except ValueError as error:
        raise CredentialError(found[0], str(error), "correct the variable, or set `proxy` of the account") from None


def _both_cases(names: list[str]) -> list[str]:
    return [each for name in names for each in ((name, name.upper()) if name != "http_proxy" else (name,))]


def _is_exempt(host: str, listed: str) -> bool:
    """Return whether the host, or a parent domain, is listed in `no_proxy`; an address, also by its network."""
    host = host.rstrip(".").lower()
    entries = [entry.strip().lower() for entry in listed.replace(" ", ",").split(",")]
    if "*" in entries:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        bare = [entry.strip(".") for entry in entries]
        return any(entry and (host == entry or host.endswith(f".{entry}")) for entry in bare)
    return any(_holds(entry, address) for entry in entries)


def _holds(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
