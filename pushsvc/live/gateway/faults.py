"""Unexpected errors in the log."""

from __future__ import annotations

from ... import telemetry
from ...errors import StoreUnavailable


def report(error: Exception) -> None:
    """Log an unexpected error, without its text, which may quote contents. That Redis is not available is not one."""
    if not isinstance(error, StoreUnavailable):
        telemetry.get_logger("live").error("live_task_failed", **telemetry.unforeseen(error))
