"""Secrets and signatures of webhooks as in Standard Webhooks: HMAC-SHA256 over id, time and body. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
LEAST: Final = 24
MOST: Final = 64
"""Bytes of a secret: "at least 24 bytes (192 bits, 512 maximum)"."""


def parse_secret(text: str) -> bytes:
    """Return the key of a secret as it is written: `whsec_` and base64. Raises ValueError, which does not quote it."""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST <= len(key) <= MOST:
        raise ValueError(
            f"expected `{PREFIX}` and the base64 of {LEAST} to {MOST} random bytes, as `pushsvc webhooks secret` makes"
        )
    return key


def write_secret(key: bytes) -> str:
    """Return the secret as both sides write it down."""
    return PREFIX + base64.b64encode(key).decode()


def sign(keys: Sequence[bytes], message_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of one call: a signature by each key, so that a receiver may know the old secret or the new
    one. `at` is the instant of the call in Unix seconds, another one for each attempt."""
    signed = f"{message_id}.{at}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
