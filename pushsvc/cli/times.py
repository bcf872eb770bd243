"""Times as commands print them."""

from __future__ import annotations

from datetime import UTC, datetime


def time_of(at: int) -> str:
    """Return Unix milliseconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
