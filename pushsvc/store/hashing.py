"""Tokens as hashes: a short one to show, a longer one to look up. Both are keyed with the store's own random key.

Keyed, because a bare hash of a device token can be matched against a list of known tokens by whoever reads the log.
What is shown and what is limited goes by a token's `identity`; a suppression is about the very text that was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from ..identity import identity


def token_hash(key: bytes, token: str) -> str:
    """16 hex characters: all of a token that logs, metrics and status documents may show."""
    return blake2b(identity(token).encode(), digest_size=8, key=key).hexdigest()


def token_digest(key: bytes, token: str) -> bytes:
    """16 bytes, by which the suppression list knows a token."""
    return blake2b(token.encode(), digest_size=16, key=key).digest()


def limiter_digests(key: bytes) -> Callable[[Sequence[str]], list[bytes]]:
    """Tokens as the limiter knows them, by 8 bytes each."""
    copy = blake2b(digest_size=8, key=key).copy  # a copy of a keyed hash is cheaper than a new one

    def digests(tokens: Sequence[str]) -> list[bytes]:
        found = []
        for token in tokens:
            digest = copy()
            digest.update(identity(token).encode())
            found.append(digest.digest())
        return found

    return digests
