"""Times as users type them: `2026-12-01T09:00:00Z`, `2026-12-01`, or `2h` for two hours ago or ahead."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import typer

_SPAN = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_LAST = 253_402_300_799_000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_instant(text: str, *, option: str, now: float | None = None, ahead: bool = False) -> int | None:
    """Return a time in Unix milliseconds, or None for an empty text.

    A time without an offset is in the machine's time zone. `2h` means two hours before `now` (Unix seconds), or after
    it with `ahead`. Ends with wrong usage (2) for anything else.
    """
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span:
        seconds = int(span[1]) * _SECONDS[span[2]]
        return int(((time.time() if now is None else now) + (seconds if ahead else -seconds)) * 1000)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        meaning = "from now" if ahead else "ago"
        raise typer.BadParameter(
            f"{option}: {text!r} is not a time: give 2026-12-01T09:00:00Z, or 30m, 2h, 7d for that long {meaning}"
        ) from None


def rfc3339(unix_ms: int) -> str:
    """Return a time in RFC 3339, as the API accepts it.

    Times after the year 9999 become its end, which the API refuses.
    """
    return datetime.fromtimestamp(min(unix_ms, _LAST) / 1000, UTC).isoformat(timespec="milliseconds")
