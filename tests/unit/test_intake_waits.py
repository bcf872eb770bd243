"""The loop that reads statuses for all waiting requests of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from structlog.testing import capture_logs

from pushsvc.api.pushes.waits import LAST, Waits
from pushsvc.errors import StoreUnavailable
from pushsvc.model.status import PushStatus

from .virtual_time import run


def test_an_unexpected_error_answers_who_waits_and_the_next_ones_are_served() -> None:
    """Redis that is away is none: there the requests wait on."""
    faults: list[Exception] = [StoreUnavailable("away"), ZeroDivisionError("hunter" + "22")]
    done = cast(Any, type("Done", (), {"state": "done"})())

    class Pushes:
        async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
            if faults:
                raise faults.pop(0)
            return [done] * len(pushes)

    async def main() -> None:
        waits, clock = Waits(cast(Any, Pushes()), most=9), asyncio.get_running_loop().time
        assert await waits.until_ended("shop", "p", 30, gone=lambda: False) is None
        assert clock() < 4 * LAST
        assert await waits.until_ended("shop", "p", 30, gone=lambda: False) is done
        await waits.aclose()

    with capture_logs() as logs:
        run(main())
    assert [line["event"] for line in logs] == ["wait_failed"]
    assert "hunter22" not in str(logs)
