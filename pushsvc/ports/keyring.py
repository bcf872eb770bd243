"""API keys that are kept in the store."""

from __future__ import annotations

from typing import Protocol

from ..model.access import ApiKey
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken


class KeyRing(Protocol):
    """API keys in the store, made with `pushsvc keys new`, in addition to those of the configuration."""

    async def add(self, key: ApiKey) -> None: ...

    async def all(self) -> list[ApiKey]: ...

    async def find(self, sha256: str) -> ApiKey | None: ...

    async def revoke(self, name: str, app: str) -> bool: ...
