"""Instants as people give them at a shell: `2026-12-01T09:00:00Z`, `2026-12-01`, or `2h`, meaning two hours ago."""

from __future__ import annotations

import re
import time
from datetime import datetime

import typer

_AGO = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_instant(text: str, *, option: str, now: float | None = None) -> int | None:
    """Unix milliseconds; None for an empty text. A time without an offset is the machine's own. `now` in Unix seconds.

    Ends with wrong usage (2) where it is neither.
    """
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    if ago:
        return int(((time.time() if now is None else now) - int(ago[1]) * _SECONDS[ago[2]]) * 1000)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{option}: {text!r} is no instant: give 2026-12-01T09:00:00Z, or 30m, 2h, 7d for that long ago"
        ) from None
