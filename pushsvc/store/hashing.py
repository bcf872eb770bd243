"""Tokens as hashes: a short one to show, a longer one to look up. Both are keyed with the store's own random key.

They are keyed, because a reader of the log could match a bare hash of a device token against a list of known tokens.
What is shown and what is limited uses `same`, the form in which its platform compares tokens; a suppression concerns
exactly the text that was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from ..model.address import Form

MADE: Final = 1 << 13
"""The digests of the limiter that are kept: more than deliveries are in flight. The rows of a broadcast need none."""


def token_hash(key: bytes, token: str, same: Form = str) -> str:
    """Return 16 hex characters, the only form of a token that logs, metrics and status documents may show."""
    return token_hasher(key, same)(token)


def token_hasher(key: bytes, same: Form) -> Callable[[str], str]:
    """Return `token_hash` for the tokens of one platform, which it compares by `same`."""
    copy = _keyed(key).copy
    made = _made(key, same)

    def hashed(token: str) -> str:
        known = made.pop(token, None)
        if known is not None:
            return known.hex()
        digest = copy()
        digest.update(same(token).encode())
        return digest.hexdigest()

    return hashed


@lru_cache(maxsize=16)
def _keyed(key: bytes) -> blake2b:
    """Return an 8-byte hash that contains the key only: copying it takes half the time of a new one."""
    return blake2b(digest_size=8, key=key)


@lru_cache(maxsize=64)
def _made(key: bytes, same: Form) -> dict[str, bytes]:
    """Return the digests that the limiter has made: the same token is hashed for the row of its delivery next."""
    return {}


def token_digest(key: bytes, token: str) -> bytes:
    """Return the 16 bytes that represent a token in the suppression list."""
    return blake2b(token.encode(), digest_size=16, key=key).digest()


def limiter_digests(key: bytes) -> Callable[[Iterable[str], Form], list[bytes]]:
    """Return a function from the tokens of a platform to the 8 bytes that represent each of them in the limiter."""
    copy = _keyed(key).copy

    def digests(tokens: Iterable[str], same: Form) -> list[bytes]:
        found = []
        made = _made(key, same)
        if len(made) > MADE:
            made.clear()
        for token in tokens:
            digest = copy()
            digest.update(same(token).encode())
            made[token] = made_now = digest.digest()
            found.append(made_now)
        return found

    return digests
