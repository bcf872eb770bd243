"""Sessions of the console: a key with the scope `admin`, exchanged for a signed cookie.

A session is a signed value and is stored nowhere, so that every process accepts it, and a console still opens while
Redis is away. It names its key by the hash and is worth what the key is worth at each request: a key that is revoked
ends its sessions as fast as it stops to work itself, and nothing that a session can do outlives its key.

A browser sends a cookie with every request, whichever page has caused it. So a session counts only in requests of the
console's own pages: the cookie is `SameSite=Strict`, `Sec-Fetch-Site` or `Origin` must name this site, and every call
that changes anything needs a header that pages of other origins cannot send, because the API allows no origin to.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs

from ... import telemetry
from ...errors import Forbidden
from ..call import Call
from ..http.auth import BearerKeys, NoKey
from ..http.exchange import Caller
from ..http.request import ApiRequest

_log = telemetry.get_logger("console")

COOKIE: Final = "pushsvc_session"
ACT: Final = "X-Pushsvc-Act"
"""The header of every call of the console that changes something: the number that the operator confirmed."""
LIFE: Final = 12 * 3600
"""Seconds after which a session ends."""
SAFE: Final = frozenset({"GET", "HEAD"})


class Foreign(Forbidden):
    """A page of another origin has used the session."""


def sign(secret: bytes, key_sha256: str, until: int) -> str:
    """Return the value of a session of a key, which ends at `until` in Unix seconds."""
    text = f"{until}.{key_sha256}"
    return f"{text}.{_mac(secret, text)}"


def read(secret: bytes, value: str, now: float) -> str | None:
    """Return the SHA-256 of the key of a session, or None where it was not signed with the secret or has ended."""
    if not value.isascii():  # bytes that are not UTF-8 arrive as what cannot be encoded again
        return None
    text, _, mac = value.rpartition(".")
    if not hmac.compare_digest(mac, _mac(secret, text)):
        return None
    until, _, key_sha256 = text.partition(".")
    return key_sha256 if until.isdecimal() and now < int(until) else None


def _mac(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def own_page(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether a page of the console has sent a request, as far as the browser's own headers show it."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get(hdrs.ORIGIN)
    if method not in SAFE and ACT not in headers:
        return False
    if site is not None:
        return site in ("same-origin", "none")
    # Browsers leave it out on plain HTTP; they still name the origin where another page asks, or something changes.
    try:
        return origin is None or urlsplit(origin).netloc == headers.get(hdrs.HOST)
    except ValueError:  # no address
        return False


def log_act(call: Call, request: ApiRequest, names: Mapping[str, str], caller: Caller, status: int) -> None:
    """Log what an operator has done: with which key, on what, and the number that was confirmed. Tokens are left
    out."""
    _log.info(
        "console_act",
        app=caller.app.name,
        key=caller.key.name,
        act=call.name,
        count=request.headers[ACT][:20],
        status=status,
        request_id=request.id,
        **{name: value for name, value in names.items() if name != "token"},
    )


class Sessions:
    """Authentication by API key or session. `clock` gives Unix ms."""

    def __init__(self, keys: BearerKeys, secret: bytes, clock: Callable[[], int]) -> None:
        self._keys = keys
        self.known = keys.known
        self._secret = secret
        self._clock = clock

    async def caller(self, request: ApiRequest, *, outage: bool = False) -> Caller:
        """Return the owner of the request's key, or of its session where it has no key. Raises `Unauthorized` with its
        challenge, or `Foreign`."""
        if hdrs.AUTHORIZATION in request.headers or (value := request.cookies.get(COOKIE)) is None:
            return await self._keys.caller(request, outage=outage)
        key_sha256 = read(self._secret, value, self._clock() / 1000)
        if key_sha256 is None:
            raise NoKey("The session has ended: sign in again.")
        if not own_page(request.method, request.headers):
            raise Foreign(
                "A session is only for the pages of the console: send the API key in the header "
                "`Authorization: Bearer <key>`."
            )
        return await self._keys.owner(key_sha256, session=True, outage=outage)
