"""Times as users type them: `2026-12-01T09:00:00Z`, `2026-12-01`, or `2h` for two hours ago or ahead."""

from __future__ import annotations

import time
from datetime import datetime

import typer

from ..model.instants import parse_span


def parse_instant(text: str, *, option: str, now: float | None = None, ahead: bool = False) -> int | None:
    """Return a time in Unix milliseconds, or None for an empty text.

    A time without an offset is in the machine's time zone. `2h` means two hours before `now` (Unix seconds), or after
    it with `ahead`. Ends with wrong usage (2) for anything else.
    """
    if not text:
        return None
    if (seconds := parse_span(text)) is not None:
        return int(((time.time() if now is None else now) + (seconds if ahead else -seconds)) * 1000)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        meaning = "from now" if ahead else "ago"
        raise typer.BadParameter(
            f"{option}: {text!r} is not a time: give 2026-12-01T09:00:00Z, or 30m, 2h, 7d for that long {meaning}"
        ) from None
