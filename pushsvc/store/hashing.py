"""Tokens as hashes: a short one to show, a longer one to look up. Both are keyed with the store's own random key.

They are keyed, because a reader of the log could match a bare hash of a device token against a list of known tokens.
What is shown and what is limited uses a token's `identity`, which is cut off in place here, once or twice for each
delivery; a suppression concerns exactly the text that was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b

from ..model.identity import REGISTRATION


def token_hash(key: bytes, token: str) -> str:
    """Return 16 hex characters, the only form of a token that logs, metrics and status documents may show."""
    digest = _keyed(key).copy()
    digest.update(token.partition(REGISTRATION)[0].encode())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _keyed(key: bytes) -> blake2b:
    """Return an 8-byte hash that contains the key only: copying it takes half the time of a new one."""
    return blake2b(digest_size=8, key=key)


def token_digest(key: bytes, token: str) -> bytes:
    """Return the 16 bytes that represent a token in the suppression list."""
    return blake2b(token.encode(), digest_size=16, key=key).digest()


def limiter_digests(key: bytes) -> Callable[[Sequence[str]], list[bytes]]:
    """Return a function from tokens to the 8 bytes that represent each of them in the limiter."""
    copy = _keyed(key).copy

    def digests(tokens: Sequence[str]) -> list[bytes]:
        found = []
        for token in tokens:
            digest = copy()
            digest.update(token.partition(REGISTRATION)[0].encode())
            found.append(digest.digest())
        return found

    return digests
