"""Unexpected errors in the log."""

from __future__ import annotations

import traceback

from ... import telemetry
from ...errors import StoreUnavailable


def report(error: Exception) -> None:
    """Log an unexpected error, without its text, which may quote contents. That Redis is not available is not one."""
    if not isinstance(error, StoreUnavailable):
        where = "".join(traceback.format_tb(error.__traceback__)[-4:])
        telemetry.get_logger("live").error("live_task_failed", error=type(error).__name__, where=where)
