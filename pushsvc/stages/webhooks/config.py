"""The configuration of the webhook of one app."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from ...rules.policy import RetryPolicy


class WebhookConfig(Struct, frozen=True, kw_only=True):
    """Spans in seconds. URL, keys and headers are left out of `repr`: a URL's path may be a secret too."""

    url: str
    keys: tuple[bytes, ...]
    """Each signs."""
    headers: Mapping[str, str] = {}
    """Sent with each call, as they are configured: credentials of the receiver."""
    allow_private: bool = False
    ca_file: str = ""
    batch: int = 50
    timeout: float = 15.0
    attempts: int = 10
    retry_for: float = 3 * 86400.0
    base: float = 1.0
    cap: float = 3600.0

    @property
    def place(self) -> str:
        """A name for the URL where the URL itself must not be shown."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @property
    def host(self) -> str:
        """All of the URL that a log may show."""
        return urlsplit(self.url).netloc

    @property
    def backoff(self) -> RetryPolicy:
        return RetryPolicy(base=self.base, cap=self.cap)

    def __repr__(self) -> str:
        return f"WebhookConfig(host={self.host!r})"
