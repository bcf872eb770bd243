"""Times as users type them: `2026-12-01T09:00:00Z`, `2026-12-01`, or `2h` for two hours ago or ahead; and as they read
them."""

from __future__ import annotations

import time
from datetime import datetime

import typer

from ..model.instants import RFC3339, parse_instant, parse_span


def age(seconds: float) -> str:
    """Return a span in its largest whole unit, such as `41s`, `12m`, `3h` or `6d`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def age_of(instant: str) -> str:
    """Return how long ago an instant was."""
    return age(max(0.0, time.time() - datetime.fromisoformat(instant).timestamp()))


def instant_option(text: str, *, option: str, now: float | None = None, ahead: bool = False) -> int | None:
    """Return a time in Unix milliseconds, or None for an empty text.

    `2h` means two hours before `now` (Unix seconds), or after it with `ahead`. A time without an offset is in the
    machine's time zone, and refused with `ahead`: when a push is sent must not depend on where the command runs. Ends
    with wrong usage (2) for anything else.
    """
    if not text:
        return None
    if (seconds := parse_span(text)) is not None:
        return int(((time.time() if now is None else now) + (seconds if ahead else -seconds)) * 1000)
    try:
        if RFC3339.fullmatch(text):
            return parse_instant(text)
        at = datetime.fromisoformat(text)
        if not ahead or at.tzinfo is not None:
            return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        meaning = "from now" if ahead else "ago"
        raise typer.BadParameter(
            f"{option}: {text!r} is not a time: give 2026-12-01T09:00:00Z, or 30m, 2h, 7d for that long {meaning}"
        ) from None
    raise typer.BadParameter(f"{option}: {text!r} has no offset from UTC: end it with Z, or with one such as +02:00")
