"""Authentication and authorisation: `Authorization: Bearer <key>` against the SHA-256 of the known keys.

A key is looked up by its hash and never compared, so the time that it takes reveals nothing about the key. Keys of the
configuration are in memory; others are looked up in the `KeyRing`, whose answers, including negative ones, are used for
a few seconds. While the store is away, a key is worth what the last answer said, for a bounded time, and only for the
calls that show the state of the service, which an operator looks at then: they read and change nothing of an app.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from aiohttp import hdrs
from msgspec import Struct

from ...errors import Forbidden, RequestError, StoreUnavailable, Unauthorized
from ...model.access import ApiKey, Scope
from ...ports.keyring import KeyRing
from ..call import Call
from ..config import ApiConfig, Keyless
from ..ports import ServedApp
from .exchange import KEYLESS, UNCHECKED, UNTRUSTED, Caller
from .problems import Challenge
from .request import ApiRequest

FORWARDED: Final = (
    *("Forwarded", "Via", "X-Real-IP", "X-Forwarded-For"),
    *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server"),
)
"""The headers that proxies add."""
LOOK_UP: Final = 1.0
"""Seconds in which the store must find a key whose last answer may be used instead, before a scraper gives up."""
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

    async def caller(self, request: ApiRequest, *, outage: bool = False) -> Caller:
        """Return the caller of a request. With `outage` the last answer about a key counts while the store is away.
        Raises `Unauthorized` with its challenge."""


class _Known(Struct, frozen=True):
    at: float
    key: ApiKey | None


class StoredKeys:
    """The keys of a `KeyRing`, with its last answers. `monotonic` gives seconds."""

    def __init__(self, ring: KeyRing, config: ApiConfig, monotonic: Callable[[], float]) -> None:
        self._ring = ring
        self._config = config
        self._monotonic = monotonic
        self._cache: dict[str, _Known] = {}

    async def find(self, sha256: str, *, outage: bool) -> ApiKey | None:
        """Return the key with this hash, or None. With `outage` the last answer counts while the store is away. Raises
        `StoreUnavailable`."""
        config, now, known = self._config, self._monotonic(), self._cache.get(sha256)
        if known is not None and now - known.at < config.key_cache_seconds:
            return known.key
        try:
            async with asyncio.timeout(LOOK_UP if outage else None):
                key = await self._ring.find(sha256)
        except (StoreUnavailable, TimeoutError) as error:
            if outage and known is not None and now - known.at < config.key_outage_seconds:
                return known.key
            if isinstance(error, StoreUnavailable):
                raise
            raise StoreUnavailable(f"Redis is not available: it has not answered for {LOOK_UP} s") from None
        # The oldest first: a flood of unknown keys costs look-ups, not memory.
        self._cache.pop(sha256, None)
        while len(self._cache) >= config.key_cache_size:
            del self._cache[next(iter(self._cache))]
        self._cache[sha256] = _Known(now, key)
        return key


class BearerKeys:
    """Authentication by API keys: those of the apps' configuration, and stored ones."""

    def __init__(self, apps: Mapping[str, ServedApp], stored: StoredKeys) -> None:
        self._apps = apps
        self._configured = {key.sha256.lower(): Caller(app, key) for app in apps.values() for key in app.keys}
        self._stored = stored

    def known(self, request: ApiRequest) -> Caller | None:
        """Return the owner of the request's key, if the key of its head is known to be one of the configuration."""
        sha256 = request.parsed.bearer
        return self._configured.get(sha256) if sha256 else None

    async def caller(self, request: ApiRequest, *, outage: bool = False) -> Caller:
        """Return the owner of the request's key. Raises `Unauthorized` with its challenge."""
        scheme, _, text = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        text = text.strip()
        if not text or scheme.lower() != "bearer":
            raise NoKey("Send the API key in the header `Authorization: Bearer <key>`.")
        sha256 = request.parsed.bearer = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        return self._configured.get(sha256) or await self.owner(sha256, outage=outage)

    async def owner(self, sha256: str, *, session: bool = False, outage: bool = False) -> Caller:
        """Return the owner of the key with this hash. Raises `Unauthorized` with its challenge where no app has it."""
        found = self._configured.get(sha256)
        if found is None:
            key = await self._stored.find(sha256, outage=outage)
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


def _forwarded(request: ApiRequest) -> bool:
    """Return whether a proxy says that it has passed the request on: it comes from this machine, its sender may not."""
    return any(name in request.headers for name in FORWARDED)


async def admit(call: Call, request: ApiRequest, authentication: Authentication, *, keyless: Keyless) -> Caller:
    """Return the caller if the call is allowed: `KEYLESS`, `UNTRUSTED` or `UNCHECKED` where it needs no key. Raises the
    refusal otherwise. `keyless` requests need no key for figures and details of the service."""
    if not call.scopes or (not call.keyed and (keyless == "all" or (keyless == "direct" and not _forwarded(request)))):
        return KEYLESS
    try:
        caller = authentication.known(request) or await authentication.caller(request, outage=not call.keyed)
        request.caller = caller
        scopes = caller.key.scopes
        for scope in call.scopes:
            if scope in scopes:
                return caller
        raise MissingScope(call.scopes, caller.key)
    except (RequestError, StoreUnavailable) as error:
        if call.others == "answered":
            return UNCHECKED if isinstance(error, StoreUnavailable) else UNTRUSTED
        raise
