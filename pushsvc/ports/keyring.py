"""API keys that are kept in the store."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from ..model.access import ApiKey, Scope
from ..model.rates import Rate


class KeyRing(Protocol):
    """API keys in the store, made with `pushsvc keys new`, in addition to those of the configuration."""

    async def add(self, key: ApiKey) -> bool:
        """Add a key. Returns False, and changes nothing, where its app has another one of that name."""

    async def all(self) -> list[ApiKey]: ...

    async def find(self, sha256: str) -> ApiKey | None: ...

    async def revoke(self, name: str, app: str) -> bool: ...

    async def note_use(self, hashes: Collection[str], *, configured: Collection[str] = ()) -> None:
        """Note that the keys with these SHA-256 are in use now, where that was not noted within the last hour. What is
        noted of one that was revoked meanwhile is removed: it is neither in the store nor `configured`."""

    async def last_used(self, hashes: Sequence[str]) -> list[int | None]:
        """Return when each of these keys was last noted to be in use, in Unix ms."""


PREFIX: Final = "pushsvc_"
"""Lets secret scanners recognize a key that was committed somewhere."""


def make_key(app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None, *, now: int) -> tuple[str, ApiKey]:
    """Return the text of a new key, which is kept nowhere, and the key. `now` is in Unix ms."""
    text = PREFIX + secrets.token_urlsafe(32)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return text, ApiKey(name=name, app=app, sha256=sha256, scopes=scopes, created_at=now, intake=intake)
