"""What a check has found, and what a reason means."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True):
    """One thing that a check of a part of the configuration has found."""

    level: Literal["ok", "warning", "error"]
    what: str
    """One sentence; never holds key material."""
    remedy: str = ""
    """What to do about it, if there is a fault."""
    expires: float | None = None
    """When the credential ends, Unix seconds, where it does."""


class Explained(Struct, frozen=True):
    """What a provider's reason means, and what an operator can do about it: one sentence each."""

    meaning: str
    remedy: str
    retryable: bool = False
    """Whether a replay may succeed as soon as the provider takes pushes, though nothing of the push is corrected."""
