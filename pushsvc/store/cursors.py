"""Cursors: the places at which walks through the store continue, as texts."""

from __future__ import annotations

from typing import Self

import msgspec
from msgspec import Struct


class Cursor(Struct, frozen=True, array_like=True):
    """A place in a walk. Defaults are the beginning, and the text of any other place is not empty."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the place that `written` gave, or the beginning for an empty text. Raises `MsgspecError`."""
        return msgspec.json.decode(text, type=cls) if text else cls()

    def written(self) -> str:
        """Return the place as text."""
        return msgspec.json.encode(self).decode()


class SetCursor(Cursor, frozen=True, array_like=True):
    """A place in several sets or streams that are visited one after the other."""

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
