"""What `pushsvc check` finds about the live channel: tokens, channels, addresses, origins and TLS. Only files are read;
no gateway is asked."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...model.finding import Finding
from ...providers.files import check_dates, check_private
from ...settings.live import AppLive, LiveSettings
from ...settings.schema import PARTS, AppSettings, Settings
from ..live_files import SPARE_FILES, live_tls, read_public_key
from ..plans import live_endpoints

SOON: Final = 14 * 86400
"""Seconds before the end of a certificate from which on it is a warning: renewals by ACME come a month before it."""


def check_live(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Yield the findings about the live channel with their places in the configuration; none where no app has it."""
    apps = {name: app for name, app in settings.apps.items() if app.live is not None}
    if not apps:
        return
    yield from check_port(settings)
    yield from check_endpoints(settings)
    yield from _tls(settings.live, time.time())
    yield from check_origins(settings.live)
    yield from check_files(settings.live, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    for name, app in apps.items():
        assert app.live is not None
        yield from _tokens(f"apps.{name}.live", app.live)
        yield from check_channels(f"apps.{name}.live", app, app.live)


def check_port(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Yield a finding where another part of the service listens on the gateway's port. Pure."""
    port, metrics = settings.live.port, settings.metrics.port
    if not port:
        return
    others = {
        "the port of the API (server.port)": port == settings.server.port,
        "among those of `/metrics` (metrics.port and the next ones)": metrics <= port < metrics + len(PARTS),
    }
    for which, is_the_same in others.items():
        if is_the_same:
            what = f"{port} is {which}: on one machine the second to start ends with an error"
            yield "live.port", Finding("warning", what, "choose another port")


def check_endpoints(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Yield the findings about the addresses that are announced to devices. Pure."""
    live, part = settings.live, "live.endpoints"
    announced = live_endpoints(settings)
    if not announced:
        what = "live.port is chosen at the start, so no address can be announced to devices"
        yield part, Finding("error", what, "set one of both")
        return
    shown = ", ".join(live.endpoints) or f"{live.host}:{live.port}"
    fix = 'name the address of the gateway, or of its proxy: ["https://push.example.com"]'
    if any(_is_local(urlsplit(each.endpoint).hostname or "") for each in announced):
        yield part, Finding("warning", f"devices are given {shown}, where other machines cannot reach it", fix)
    elif any(each.endpoint.startswith(("ws:", "http:")) for each in announced):
        what = f"devices are given {shown}: without TLS, which phones and browsers refuse, since tokens are in it"
        yield part, Finding("warning", what, "begin it with https:// or wss://; a proxy ends TLS, or live.tls_cert")
    else:
        yield part, Finding("ok", f"devices are given {shown}")
        if not live.tls_cert and not live.proxies:
            what = "behind a proxy that is not named here all devices have its address: `deny` knows no networks"
            yield "live.proxies", Finding("warning", what, 'name its network, as in ["127.0.0.1"]')


def check_origins(live: LiveSettings) -> Iterator[tuple[str, Finding]]:
    """Yield the findings about web pages. Pure."""
    if "*" in live.allowed_origins:
        fix = 'name the pages that need it, as in ["https://shop.example"]'
        yield "live.allowed_origins", Finding("warning", "every web page that has a token may connect", fix)
    elif live.allowed_origins:
        pages = ", ".join(live.allowed_origins)
        yield "live.allowed_origins", Finding("ok", f"pages of {pages} may connect, besides the gateway's own host")


def check_files(live: LiveSettings, most: int) -> Iterator[tuple[str, Finding]]:
    """Yield a finding where a process may open at most `most` files, and needs more for its connections. Pure."""
    needed = live.max_connections + live.max_connections // 8 + SPARE_FILES
    if most != resource.RLIM_INFINITY and most < needed:
        what = f"a process may open {most:,} files here: too few for {live.max_connections:,} connections"
        fix = f"allow {needed:,}: LimitNOFILE= of systemd, ulimit -n; or lower it"
        yield "live.max_connections", Finding("warning", what, fix)


def check_channels(part: str, app: AppSettings, live: AppLive) -> Iterator[tuple[str, Finding]]:
    """Yield the findings about the order of channels. Pure."""
    orders = {live.order, *(rule.order for rule in live.rules)}
    if not app.providers:
        yield f"{part}.order", Finding("ok", "the app has no provider: the live channel alone reaches its devices")
    elif orders == {"provider"}:
        what = "no device uses the live channel, unless a push says `via`"
        yield f"{part}.order", Finding("warning", what, 'name "live" in the order, or in that of a rule')
    else:
        rules = f", and {len(live.rules)} for devices that rules select" if live.rules else ""
        yield f"{part}.order", Finding("ok", f"the order of channels is {live.order}{rules}")


def _tokens(part: str, live: AppLive) -> Iterator[tuple[str, Finding]]:
    if live.secret:
        yield f"{part}.secret", Finding("ok", "connect tokens are signed and verified by HS256")
    if not live.public_key_file:
        return
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from ...live.protocol.tokens import public_keys

    place = f"{part}.public_key_file"
    try:
        keys = public_keys(read_public_key(live.public_key_file, place))
    except ConfigError as error:
        yield error.path, Finding("error", error.message, error.remedy)
        return
    kinds = [f"RS256 with {key.key_size:,} bits" if isinstance(key, RSAPublicKey) else "ES256" for key in keys]
    alone = "" if live.secret else "; without a `secret` the API issues none"
    yield place, Finding("ok", f"connect tokens of others are verified by {' and '.join(kinds)}{alone}")


def _tls(live: LiveSettings, now: float) -> Iterator[tuple[str, Finding]]:
    if not live.tls_cert:
        return
    try:
        live_tls(live)
    except ConfigError as error:
        yield error.path, Finding("error", error.message, error.remedy)
        return
    from cryptography.x509 import load_pem_x509_certificates

    certificate = load_pem_x509_certificates(Path(live.tls_cert).read_bytes())[0]
    fix = "renew it: it is read again when it changes"
    yield "live.tls_cert", check_dates(live.tls_cert, certificate, now, soon=SOON, remedy=fix)
    yield from (("live.tls_key", finding) for finding in check_private(live.tls_key or live.tls_cert))


def _is_local(host: str) -> bool:
    """Return whether only this machine reaches a host, or none does: the address on which all are listened on."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
