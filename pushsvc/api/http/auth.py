"""Authentication and authorisation: `Authorization: Bearer <key>` against the SHA-256 of the known keys.

A key is looked up by its hash and never compared, so the time that it takes reveals nothing about the key. Keys of the
configuration are in memory; others are looked up in the `KeyRing`, whose answers, including negative ones, are used for
a few seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from aiohttp import hdrs
from msgspec import Struct

from ...errors import Forbidden, RequestError, StoreUnavailable, Unauthorized
from ...model.access import ApiKey, Scope
from ...ports.keyring import KeyRing
from ..call import Call
from ..config import Keyless
from ..ports import ServedApp
from .exchange import KEYLESS, UNTRUSTED, Caller
from .problems import Challenge
from .request import ApiRequest

FORWARDED: Final = (
    *("Forwarded", "Via", "X-Real-IP", "X-Forwarded-For"),
    *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server"),
)
"""The headers that proxies add."""
REALM: Final = 'Bearer realm="pushsvc"'


class NoKey(Challenge, Unauthorized):
    """There is no key, or it is not known."""

    def __init__(self, detail: str, *, challenge: str = REALM) -> None:
        super().__init__(detail)
        self.challenge = challenge


class MissingScope(Challenge, Forbidden):
    """The key is known but lacks the scope."""

    def __init__(self, needed: tuple[Scope, ...], key: ApiKey) -> None:
        wanted = " or ".join(f"`{scope}`" for scope in needed)
        has = ", ".join(f"`{scope}`" for scope in key.scopes) or "none"
        super().__init__(f"This call needs the scope {wanted}; the key {key.name!r} has {has}.")
        self.challenge = f'{REALM}, error="insufficient_scope", scope="{" ".join(needed)}"'


class Authentication(Protocol):
    """A way to authenticate callers."""

    @property
    def known(self) -> Callable[[ApiRequest], Caller | None]:
        """Returns the caller of a request whose head came before, if it has a key of the configuration."""

    async def caller(self, request: ApiRequest) -> Caller:
        """Return the caller of a request. Raises `Unauthorized` with its challenge."""


class _Known(Struct, frozen=True):
    until: float
    key: ApiKey | None


class BearerKeys:
    """Authentication by API keys. `monotonic` gives seconds."""

    def __init__(
        self,
        apps: Mapping[str, ServedApp],
        ring: KeyRing,
        *,
        monotonic: Callable[[], float],
        cache_seconds: float,
        cache_size: int,
    ) -> None:
        self._apps = apps
        self._configured = {key.sha256.lower(): Caller(app, key) for app in apps.values() for key in app.keys}
        self._ring = ring
        self._monotonic = monotonic
        self._cache_seconds = cache_seconds
        self._cache_size = cache_size
        self._cache: dict[str, _Known] = {}

    def known(self, request: ApiRequest) -> Caller | None:
        """Return the owner of the request's key, if the key of its head is known to be one of the configuration."""
        sha256 = request.parsed.bearer
        return self._configured.get(sha256) if sha256 else None

    async def caller(self, request: ApiRequest) -> Caller:
        """Return the owner of the request's key. Raises `Unauthorized` with its challenge."""
        scheme, _, text = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        text = text.strip()
        if not text or scheme.lower() != "bearer":
            raise NoKey("Send the API key in the header `Authorization: Bearer <key>`.")
        sha256 = request.parsed.bearer = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return self._configured.get(sha256) or await self.owner(sha256)

    async def owner(self, sha256: str, *, session: bool = False) -> Caller:
        """Return the owner of the key with this hash. Raises `Unauthorized` with its challenge where no app has it."""
        found = self._configured.get(sha256)
        if found is None:
            key = await self._find(sha256)
            if key is None:
                raise NoKey(
                    "The API key is not known. `pushsvc keys list` names the keys, and `pushsvc keys new` makes one.",
                    challenge=f'{REALM}, error="invalid_token"',
                )
            app = self._apps.get(key.app)
            if app is None:
                raise NoKey(
                    f"The key belongs to the app {key.app!r}, which is not configured here.",
                    challenge=f'{REALM}, error="invalid_token"',
                )
        else:
            app, key = found.app, found.key
        return Caller(app, key, session=session)

    async def _find(self, sha256: str) -> ApiKey | None:
        now = self._monotonic()
        known = self._cache.get(sha256)
        if known is not None and known.until > now:
            return known.key
        key = await self._ring.find(sha256)
        # The oldest first: a flood of unknown keys costs look-ups, not memory.
        self._cache.pop(sha256, None)
        while len(self._cache) >= self._cache_size:
            del self._cache[next(iter(self._cache))]
        self._cache[sha256] = _Known(now + self._cache_seconds, key)
        return key


def _forwarded(request: ApiRequest) -> bool:
    """Return whether a proxy says that it has passed the request on: it comes from this machine, its sender may not."""
    return any(name in request.headers for name in FORWARDED)


async def admit(call: Call, request: ApiRequest, authentication: Authentication, *, keyless: Keyless) -> Caller:
    """Return the caller if the call is allowed: `KEYLESS` or `UNTRUSTED` where it needs no key. Raises the refusal
    otherwise. `keyless` requests need no key for figures and details of the service."""
    if not call.scopes or (not call.keyed and (keyless == "all" or (keyless == "direct" and not _forwarded(request)))):
        return KEYLESS
    try:
        caller = request.caller = authentication.known(request) or await authentication.caller(request)
        scopes = caller.key.scopes
        for scope in call.scopes:
            if scope in scopes:
                return caller
        raise MissingScope(call.scopes, caller.key)
    except (RequestError, StoreUnavailable):
        if call.others == "answered":
            return UNTRUSTED
        raise
