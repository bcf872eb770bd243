"""A single request to a provider, for a check: its answer, or why there is none."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from ..model.finding import Finding
from ..net.dial import UNANSWERED
from ..net.http2.exchange import Response
from ..net.http2.transport import Pool, answer_of
from ..net.proxy import proxy_for
from .clocks import SIGNIFICANT, clock_hint, clock_skew

TIMEOUT: Final = 10.0
"""Seconds that a connection may take, and then an answer."""
NOTICED: Final = 5.0
"""Seconds of clock skew from which on it is reported."""
_NOT_ACCEPTED: Final = ("before it sent its SETTINGS", "reset by peer", " alert ")
"""Parts of the errors of a server that refuses the client's certificate: in TLS 1.3 after the handshake."""
_LOOK: Final = 0.02
"""Seconds between two looks at a connection that is being opened."""


class ProbeResult(Struct, frozen=True):
    """What came of a request: an answer, or the reason why there is none."""

    answer: Response | None
    trouble: str = ""
    skew: float = 0.0
    """Seconds by which the provider's clock is ahead of ours, by the `Date` of its answer; 0 without one."""


async def ask(url: str, context: ssl.SSLContext, proxy: str, fields: bytes = b"", body: bytes = b"") -> ProbeResult:
    """Connect to the origin of `url` and send a request; without `fields` only connect. `proxy` as configured. Raises
    `CredentialError` for a proxy that cannot be used."""
    way = proxy_for(url, proxy, os.environ)
    # Without a limit for requests that wait: nothing is sent before there is a connection.
    async with Pool(
        url, ssl=context, proxy=way, connections=1, request_timeout=TIMEOUT, connect_timeout=TIMEOUT
    ) as pool:
        while not pool.room:
            if pool.stats.connects_failed:
                return ProbeResult(None, pool.trouble)
            await asyncio.sleep(_LOOK)
        if not fields:
            return ProbeResult(None)
        answer = await answer_of(pool, fields, body)
        if isinstance(answer, Response):
            return ProbeResult(answer, skew=clock_skew(answer.headers, time.time()))
        silent = answer.reason == "timeout"
        why = f"{UNANSWERED} {TIMEOUT:g} s" if silent else f"no answer ({answer.reason.replace('_', ' ')})"
        return ProbeResult(None, pool.trouble or f"{host_of(url)}: {why}")


def host_of(url: str) -> str:
    return urlsplit(url).netloc


def unreached(trouble: str, certificate: str = "") -> Finding:
    """Return the finding about a host that gives no answer. `certificate` is the file of ours that it was shown."""
    what = trouble if UNANSWERED in trouble else f"cannot be reached: {trouble}"
    remedy = way_remedy(trouble)
    if certificate and any(sign in trouble for sign in _NOT_ACCEPTED):
        remedy = (
            f"it may not accept {certificate}: see that this is a certificate of the app and of the environment, and "
            f"neither expired nor revoked. If it is right: {remedy}"
        )
    return Finding("error", what, remedy)


def way_remedy(trouble: str) -> str:
    """Return what to do about a host that gives no answer."""
    if UNANSWERED in trouble:
        return (
            "it is down, or something else answers in its place: look at its status page, then at `endpoint` and "
            "`proxy`; pushes wait meanwhile"
        )
    if "certificate" in trouble:
        return "give its authority in `ca_file`, or correct what answers in its place"
    if "HTTP/2" in trouble or "TLS" in trouble:
        return "something on the way ends TLS: let it pass, or name it in `proxy`"
    if "look-up" in trouble:
        return "correct `endpoint`, or the resolver of this machine"
    return "let this machine connect to it: the firewall, or `proxy`"


def judge_skew(skew: float, name: str) -> list[Finding]:
    """Return a finding where the clocks differ by more than an answer takes. Pure."""
    if abs(skew) < NOTICED:
        return []
    what = f"this machine's clock is {abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} that of {name}"
    if abs(skew) >= SIGNIFICANT:
        return [Finding("error", what, clock_hint(skew))]
    return [Finding("warning", what, "synchronize the clock, as by NTP (timedatectl)")]
