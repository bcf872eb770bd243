"""API keys as lists show them, from the configuration and from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ...model.access import ApiKey, Scope
from ...model.documents import Time
from ...model.instants import instant
from ..keyring import KeyRing


class KeyRow(Struct, frozen=True):
    """An API key without its text."""

    app: str
    name: str
    scopes: tuple[Scope, ...]
    intake: Annotated[str | None, Meta(description="The limit for pushes that are posted with it.")]
    created_at: Time | None
    kept_in: Literal["configuration", "store"]
    last_used_at: Annotated[
        Time | None,
        Meta(description="When it was last noted to be in use: once an hour at most; null if it never was."),
    ] = None


def key_row(key: ApiKey, kept_in: Literal["configuration", "store"], used: int | None = None) -> KeyRow:
    """Return a key as lists show it. `used` is when it was last noted to be in use, in Unix ms."""
    made = instant(key.created_at) if key.created_at else None
    limit = None if key.intake is None else str(key.intake)
    return KeyRow(key.app, key.name, key.scopes, limit, made, kept_in, None if used is None else instant(used))


async def key_rows(ring: KeyRing, configured: Sequence[ApiKey], app: str = "") -> list[KeyRow]:
    """Return keys of the configuration with those of the store, of one app or of all, by app and name."""
    stored = [key for key in await ring.all() if app in ("", key.app)]
    used = await ring.last_used([key.sha256.lower() for key in (*configured, *stored)])
    kept: list[Literal["configuration", "store"]] = ["configuration"] * len(configured)
    kept += ["store"] * len(stored)
    found = [key_row(*each) for each in zip((*configured, *stored), kept, used, strict=True)]
    return sorted(found, key=lambda row: (row.app, row.name))
