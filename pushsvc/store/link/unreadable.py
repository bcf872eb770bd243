"""Records that this version of pushsvc cannot read, as after a rollback: left out, counted and logged.

A record that is one of many, on a page or in a batch, is left out and the others are processed. A request for exactly
that record is refused with `Unreadable`. Streams move such entries into quarantine instead; see quarantine.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from ...model.codec import CodecError
from ...telemetry import UNREADABLE, AppRecord, SharedRecord, StateLog

T = TypeVar("T")

_logs: dict[tuple[str, str], StateLog] = {}


def readable(decode: Callable[[bytes], T], blob: bytes, what: AppRecord | SharedRecord, app: str = "") -> T | None:
    """Return the record, or None for one that cannot be decoded, which is counted and logged under `what`."""
    try:
        return decode(blob)
    except (CodecError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        note(what, app, error)
        return None


def note(what: AppRecord | SharedRecord, app: str, error: Exception) -> None:
    """Count a record that cannot be read, and log it at growing intervals. A page that is read each second must not
    write a line each second. The line does not show the record, which may contain a token."""
    UNREADABLE.labels(app, what).inc()
    log = _logs.get((app, what))
    if log is None:
        log = _logs[app, what] = StateLog(
            "store", "record_unreadable", "records_unreadable", "records_readable", level="error"
        )
    why = str(error).partition(":")[0] if isinstance(error, CodecError) else type(error).__name__
    log.begin(app=app, record=what, error=why)
