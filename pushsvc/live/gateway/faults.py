"""Unexpected errors in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

from ... import telemetry
from ...errors import StoreUnavailable


def report(error: Exception) -> None:
    """Log an unexpected error, without its text, which may quote contents. That Redis is not available is not one."""
    if not isinstance(error, StoreUnavailable):
        telemetry.get_logger("live").error("live_task_failed", **telemetry.unforeseen(error))


async def all_of(works: Iterable[Awaitable[None]]) -> None:
    """Do all of these at once. Where some fail, all others end before the first failure is raised."""
    ended = await asyncio.gather(*works, return_exceptions=True)
    errors = [error for error in ended if isinstance(error, Exception)]
    for error in errors[1:]:
        report(error)
    if errors:
        raise errors[0]
