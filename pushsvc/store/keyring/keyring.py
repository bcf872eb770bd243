"""API keys created with `pushsvc keys new`, stored as their SHA-256 in one hash, and the key of all token hashes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from ...background import pulse
from ...errors import StoreError
from ...model.access import ApiKey
from ...ports.figures import EMPTIED_REMEDY
from ...telemetry import get_logger
from .. import keys
from ..link.clock import Clock
from ..link.link import Link
from ..link.unreadable import readable
from ..part import StorePart

USED_EVERY: Final = 3_600_000
"""Milliseconds between two notes that a key is in use."""
KEY_LOOK: Final = 1.0
"""Seconds between two checks of the key of all token hashes."""
EMPTIED_FOR: Final = 86_400_000
"""Milliseconds for which a loss of all data is reported at most: every shift of a day sees it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ApiKey).decode


class RedisKeyRing(StorePart):
    """`KeyRing` over one hash."""

    async def add(self, key: ApiKey) -> bool:
        call = ("key_add", [keys.KEYRING], [key.sha256, _encode(key)])
        (added,) = await self._link.guarded(keys.mark_in_slot_of(keys.KEYRING), [call])
        return bool(added)

    async def all(self) -> list[ApiKey]:
        """Return all keys by app and name, without those that this version cannot read, and so does not accept."""
        read: dict[bytes, ApiKey | None] = {}
        async for part in self._link.values(keys.KEYRING):
            read |= {field: readable(_decode, blob, "api_key") for field, blob in part.items()}
        return sorted(filter(None, read.values()), key=lambda key: (key.app, key.name, key.sha256))

    async def find(self, sha256: str) -> ApiKey | None:
        blob = await self._link.call("HGET", keys.KEYRING, sha256)
        return None if blob is None else readable(_decode, blob, "api_key")

    async def revoke(self, name: str, app: str) -> bool:
        """Remove every key of that name from the app; false when there was none."""
        hashes = [key.sha256 for key in await self.all() if key.name == name and key.app == app]
        if not hashes or not await self._link.guarded_call("HDEL", keys.KEYRING, *hashes):
            return False
        await self._link.call("HDEL", keys.KEY_USES, *hashes)
        return True

    async def note_use(self, hashes: Collection[str], *, configured: Collection[str] = ()) -> None:
        now, wanted = self._clock(), sorted(hashes)
        known = await self.last_used(wanted)
        due = [each for each, at in zip(wanted, known, strict=True) if at is None or now - at >= USED_EVERY]
        if due:
            await self._link.call("HSET", keys.KEY_USES, *(word for each in due for word in (each, now)))
        # Looked at last: the note of a key that is revoked meanwhile is removed there or here.
        if stored := sorted({*wanted}.difference(configured)):
            found = await self._link.call("HMGET", keys.KEYRING, *stored)
            if gone := [each for each, key in zip(stored, found, strict=True) if key is None]:
                await self._link.call("HDEL", keys.KEY_USES, *gone)

    async def last_used(self, hashes: Sequence[str]) -> list[int | None]:
        if not hashes:
            return []
        found = await self._link.call("HMGET", keys.KEY_USES, *hashes)
        return [int(at) if at is not None and at.isdigit() else None for at in found]


async def load_hash_key(link: Link) -> bytes:
    """Return the 32 random bytes that all processes share. The first process creates them permanently."""
    # Read first: a reader may open a Redis that accepts no writes.
    key: bytes | None = await link.call("GET", keys.HASH_KEY)
    if key is None:
        await link.call("SET", keys.HASH_KEY, secrets.token_bytes(32), "NX")
        key = await link.call("GET", keys.HASH_KEY)
    assert key is not None
    return key


async def keep_hash_key(link: Link, clock: Clock, own: bytes, replaced: Callable[[], None]) -> None:
    """Check the key until cancelled, and restore it if it is lost, as when Redis came back empty.

    So all running processes continue with the same key. If there is another one by then, `replaced` is called: a
    process with the old key would not find what others write, and must restart. Either way the loss is noted in the
    store, where a restored backup removes the note with all else.
    """
    log = get_logger("store")
    while True:
        await pulse(KEY_LOOK)
        try:
            kept: bytes | None = await link.call("GET", keys.HASH_KEY)
            if kept != own:
                await link.call("SET", keys.EMPTIED, clock(), "NX", "PX", EMPTIED_FOR)
            if kept is None:
                await link.call("SET", keys.HASH_KEY, own, "NX")
                gone = "all pushes, devices and API keys of the store are gone"
                log.error("store_came_back_empty", remedy=f"{gone}: {EMPTIED_REMEDY}")
        except StoreError:
            continue  # operations in progress report this
        if kept is not None and kept != own:
            log.error("store_was_replaced")
            replaced()
            return


async def read_emptied(link: Link) -> int | None:
    """Return what `keep_hash_key` has noted; None once the store has an API key again."""
    at, stored = await link.many([("GET", keys.EMPTIED), ("HLEN", keys.KEYRING)])
    return int(at) if at is not None and at.isdigit() and not stored else None
