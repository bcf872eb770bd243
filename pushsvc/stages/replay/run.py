"""The steps of one replay, from where it was left.

Killed at any point, it goes on where its last step ended. Between two steps it is left for others where its rate says
that the next one is not due: nothing waits inside a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...errors import StoreError, Unreadable
from ...ports.letters import Replays, ReplayStep
from ...telemetry import REPLAYED, get_logger

BEHIND: Final = 1000
"""Milliseconds that a replay with a rate may make up for."""
STEP: Final = 500
"""Deliveries that one atomic step moves: it keeps Redis from its other clients for some milliseconds."""


class Pace:
    """Computes when the next step of a replay with a given rate a second is due. Instants in Unix ms.

    It counts from the time at which the step was due, not from its start, so that the rate is kept although no task
    waits for it. A step that is more than `BEHIND` late is made up for only by that much.
    """

    def __init__(self, rate: float, due: int) -> None:
        self._rate = rate
        self._due = due

    def after(self, moved: int, now: int) -> int:
        """Return when the next step is due, after one at `now` that has moved this number."""
        self._due = max(self._due, now - BEHIND) + int(moved / self._rate * 1000)
        return self._due


async def run(
    replays: Replays,
    app: str,
    job: str,
    *,
    lease: float,
    over: Callable[[], bool],
    now: Callable[[], int],
) -> dict[str, int]:
    """Run a replay until it is done, its next step is due later, or `over` returns True between two steps.

    Others leave it alone for `lease` seconds after each step; `now` gives Unix ms. Returns how many deliveries were
    moved and skipped. An error outside a step, and a `StoreError` without Redis, leaves the replay as it is: the lease
    runs out, and another worker continues. Any other error of a step ends it, because the next run would end in the
    same way.
    """
    log = get_logger("jobs")
    milliseconds = int(lease * 1000)
    try:
        status = await replays.replay(app, job)
    except Unreadable:
        await replays.finish(app, job, error="written by a newer pushsvc; go back to it to see what was asked for")
        return {}
    rate = status.spec.rate if status else 0.0
    most = max(1, min(STEP, int(rate))) if rate else STEP
    pace = Pace(rate, await replays.due_at(app, job)) if rate else None
    moved = skipped = 0
    while True:
        await replays.keep(app, job, lease=milliseconds)
        step = await _step(replays, app, job, most)
        moved += step.moved
        REPLAYED.labels(app).inc(step.moved)
        skipped += step.skipped
        if step.lost:
            log.warning("replay_is_run_elsewhere", app=app, job=job)
            break
        if step.over:
            await replays.finish(app, job)
            log.info("replay_done", app=app, job=job, moved=moved, skipped=skipped)
            break
        at = now()
        due = at if pace is None else pace.after(step.moved, at)
        if due > at:
            await replays.put_off(app, job, due)
            break
        if over():
            await replays.keep(app, job, lease=0)
            break
    return {"moved": moved, "skipped": skipped}


async def _step(replays: Replays, app: str, job: str, most: int) -> ReplayStep:
    try:
        return await replays.step(app, job, most=most)
    except StoreError:
        raise
    except Exception as error:
        # The text may hold anything; the type does not.
        await replays.finish(app, job, error=f"stopped by {type(error).__name__}; see the log")
        raise
