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
