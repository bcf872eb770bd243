"""Checks of a webhook without a call: where its host name leads, and whether that address is allowed."""

from __future__ import annotations

import asyncio
import socket
from typing import Final
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...model.finding import Finding
from ...net.public_address import is_public
from .caller import tls_context
from .config import WebhookConfig

RESOLVE_TIME: Final = 5.0


async def check(config: WebhookConfig, app: str) -> list[Finding]:
    """Return the findings on one webhook, which never quote its URL's path. Resolves its name, connects to nothing."""
    found = [await _check_host(config, app)]
    if urlsplit(config.url).scheme == "http":
        found.append(Finding("warning", "http:// shows device tokens to every network on the way", "use https://"))
    if config.ca_file:
        try:
            tls_context(config, app)
            found.append(Finding("ok", f"trusts the certificate authorities of {config.ca_file} and no others"))
        except ConfigError as error:
            found.append(Finding("error", error.message, error.remedy))
    return found


async def _check_host(config: WebhookConfig, app: str) -> Finding:
    parts = urlsplit(config.url)
    host = parts.hostname or ""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIME):
            answers = await loop.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else "no such name"
        return Finding("warning", f"{host}: {why}", "correct `url`, or the resolver of this machine")
    addresses = sorted({str(place[0]) for *_, place in answers})
    refused = [] if config.allow_private else [address for address in addresses if not is_public(address)]
    if len(refused) == len(addresses):
        return Finding(
            "error",
            f"{host} leads to {', '.join(refused)}, not to the public internet",
            "correct `url`, or set `allow_private = true` where the receiver is yours",
        )
    if refused:
        return Finding("warning", f"{host} leads to {', '.join(refused)} too, which will not be called")
    return Finding("ok", f"{host} leads to {', '.join(addresses)}", f"`pushsvc webhooks test --app {app}` calls it")
