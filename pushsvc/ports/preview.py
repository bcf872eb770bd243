"""What a provider would be sent for a push, for people to look at."""

from __future__ import annotations

from msgspec import Struct

TARGET = "<token>"
"""Stands for the address of a target in a preview."""


class Preview(Struct, frozen=True):
    """A request as it would be sent, without credentials and with `TARGET` in place of the address."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    limit: int | None = None
    """The maximum size of the payload in bytes."""
    size: int = 0
    """What counts against it."""
    override: bytes = b"null"
    """The JSON of `overrides.<platform>` of a push that sends the same; null where it needs none."""
