"""Tokens as hashes: a short one to show, a longer one to look up. Both are keyed with the store's own random key.

Keyed, because a bare hash of a device token can be matched against a list of known tokens by whoever reads the log.
What is shown and what is limited goes by a token's `identity`; a suppression is about the very text that was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b

from ..model.identity import identity


def token_hash(key: bytes, token: str) -> str:
    """16 hex characters: all of a token that logs, metrics and status documents may show."""
    digest = _keyed(key).copy()
    digest.update(identity(token).encode())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _keyed(key: bytes) -> blake2b:
    """A hash of 8 bytes that has taken in nothing but the key: a copy of it costs half of a new one."""
    return blake2b(digest_size=8, key=key)


def token_digest(key: bytes, token: str) -> bytes:
    """16 bytes, by which the suppression list knows a token."""
    return blake2b(token.encode(), digest_size=16, key=key).digest()


def limiter_digests(key: bytes) -> Callable[[Sequence[str]], list[bytes]]:
    """Tokens as the limiter knows them, by 8 bytes each."""
    copy = _keyed(key).copy

    def digests(tokens: Sequence[str]) -> list[bytes]:
        found = []
        for token in tokens:
            digest = copy()
            digest.update(identity(token).encode())
            found.append(digest.digest())
        return found

    return digests
