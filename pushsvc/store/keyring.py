"""API keys made with `pushsvc keys new`, kept as their SHA-256 in one hash, and the key of all token hashes."""

from __future__ import annotations

import secrets

import msgspec

from ..model import ApiKey
from . import keys
from .link import Link

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ApiKey).decode


class RedisKeyRing:
    """`KeyRing` over one hash."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, key: ApiKey) -> None:
        """The same SHA-256 again replaces the key."""
        await self._link.call("HSET", keys.KEYRING, key.sha256, _encode(key))

    async def all(self) -> list[ApiKey]:
        """By app and name."""
        found = await self._link.call("HVALS", keys.KEYRING)
        return sorted(map(_decode, found), key=lambda key: (key.app, key.name, key.sha256))

    async def find(self, sha256: str) -> ApiKey | None:
        blob = await self._link.call("HGET", keys.KEYRING, sha256)
        return None if blob is None else _decode(blob)

    async def revoke(self, name: str, app: str) -> bool:
        """Remove every key of that name from the app; false when there was none."""
        hashes = [key.sha256 for key in await self.all() if key.name == name and key.app == app]
        return bool(hashes and await self._link.call("HDEL", keys.KEYRING, *hashes))


async def load_hash_key(link: Link) -> bytes:
    """32 random bytes that all processes share: made by the first, kept for good."""
    await link.call("SET", keys.HASH_KEY, secrets.token_bytes(32), "NX")
    key: bytes = await link.call("GET", keys.HASH_KEY)
    return key
