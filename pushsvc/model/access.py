"""API keys and what they allow. Frozen values."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from .rates import Rate

Scope = Literal["push", "devices", "feedback", "admin"]

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"
"""The pattern of the names of apps and of keys."""
NAME_RULE: Final = "1 to 64 letters, digits, `-` or `_`, beginning with a letter or digit"

SCOPES: tuple[Scope, ...] = ("push", "devices", "feedback", "admin")


class ApiKey(Struct, frozen=True, omit_defaults=True):
    """An API key as it is kept: its SHA-256 and what it may do, never its text."""

    name: str
    app: str
    sha256: str
    scopes: tuple[Scope, ...]
    created_at: int = 0
    intake: Rate | None = None
    """The limit for pushes that are posted with this key; None: it has no limit of its own."""
