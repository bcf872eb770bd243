"""Where a walk through the store goes on, as text between two steps."""

from __future__ import annotations

from typing import Self

import msgspec
from msgspec import Struct


class Cursor(Struct, frozen=True, array_like=True):
    """A place in a walk. Its fields begin at their defaults, and what is yet to be done is never empty text."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the place that `written` gave, or the beginning for an empty text. Raises `MsgspecError`."""
        return msgspec.json.decode(text, type=cls) if text else cls()

    def written(self) -> str:
        """Return the place as text."""
        return msgspec.json.encode(self).decode()


class SetCursor(Cursor, frozen=True, array_like=True):
    """A place in several sets or streams, which are gone through one after the other."""

    place: int = 0
    """Which of them, from 0."""
    position: str = ""
    """Where in it: an entry id, or a cursor of Redis."""


class ListingCursor(Cursor, frozen=True, array_like=True):
    """A place in a walk through all keys."""

    listing: str | None = ""
    """Where to list on, or None after the last key."""
    waiting: tuple[str, ...] = ()
    """Keys that were listed and are not gone through yet."""
