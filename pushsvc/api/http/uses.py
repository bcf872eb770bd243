"""The keys that calls are made with, so that an operator sees which are still in use.

A request only adds its key to a set. The store notes each key once an hour at most, whichever process it was used at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from ...background import repeated
from ...errors import StoreError
from ...ports.keyring import KeyRing

NOTE_EVERY: Final = 60.0
"""Seconds between two looks at the keys that were used."""


class KeyUses:
    """The keys that were used since the last note."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._used: set[str] = set()
        self.configured: frozenset[str] = frozenset()
        """The SHA-256 of the keys of the configuration, in lower case."""
        self.see = self._used.add
        """Called with the SHA-256 of the key of a request."""

    async def note(self) -> None:
        """Note the keys that were used since the last call. Without the store they are noted at the next one."""
        used = frozenset(self._used)
        if used:
            with suppress(StoreError):
                await self._ring.note_use({each.lower() for each in used}, configured=self.configured)
                self._used -= used

    @asynccontextmanager
    async def noting(self) -> AsyncIterator[None]:
        """Note them regularly while the block lasts, and at its end."""
        try:
            async with repeated(NOTE_EVERY, self.note, "key-uses"):
                yield
        finally:
            await self.note()
