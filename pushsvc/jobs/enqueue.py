"""What there is to do, found in the store and enqueued as jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from rq import Queue

from ..ports.store import Store
from ..runtime.plans import eraser
from ..settings.schema import Settings
from ..stages import cleanup
from .functions import removed_apps

TIMEOUT = 180
"""Seconds that a job may take; long ones return after a slice and are enqueued again."""
RESULT_TTL = 300
FAILURE_TTL = 3600
"""Seconds for which rq keeps a failed job with its traceback, which is also in the log."""


async def enqueue_replays(store: Store, queue: Queue, settings: Settings) -> bool:
    """Enqueue each replay that no process works on. Returns whether there is one. It is kept from others before that: a
    job that has run decides when the next one is due."""
    due = await store.dead.unfinished()
    for app, job in due:
        await store.dead.keep(app, job, lease=int(settings.jobs.takeover * 1000))
    await _enqueue_each(queue, "replay", {f"{app}-{job}": (app, job) for app, job in due})
    return bool(due)


async def enqueue_expansions(store: Store, queue: Queue, settings: Settings) -> bool:
    """Enqueue an expansion before all other jobs where audiences wait; the worker chooses the audience when the job
    runs. Returns whether one waits."""
    if not await store.expansions.due(settings.apps):
        return False
    await _enqueue_each(queue, "expand", {"run": ()}, first=True)
    return True


async def enqueue_lapsed(store: Store, queue: Queue, settings: Settings) -> bool:
    """Enqueue an expansion that ends the expired audiences of removed apps."""
    if await store.expansions.lapsed(await removed_apps(store, settings)):
        await _enqueue_each(queue, "expand", {"run": ()})
    return False


async def _enqueue_each(
    queue: Queue, function: str, calls: Mapping[str, tuple[str, ...]], *, first: bool = False
) -> None:
    """Enqueue each call, unless one of the same name waits already; with `first` before all other jobs."""
    if not calls:
        return
    waiting = {job_id.rpartition("-")[0] for job_id in await asyncio.to_thread(queue.get_job_ids)}
    for name, arguments in calls.items():
        if f"{function}-{name}" not in waiting:
            await asyncio.to_thread(
                queue.enqueue_call,
                function,
                args=arguments,
                timeout=TIMEOUT,
                result_ttl=RESULT_TTL,
                failure_ttl=FAILURE_TTL,
                job_id=f"{function}-{name}-{time.time_ns()}",
                description=function,
                at_front=first,
            )


async def enqueue_erasures(store: Store, queue: Queue, settings: Settings) -> bool:
    """Enqueue the erasures of each app that no process works on. Returns whether there is one."""
    apps = {*settings.apps, *await removed_apps(store, settings)}  # requested erasures are completed all the same
    due = await eraser(store).unfinished(sorted(apps))
    await _enqueue_each(queue, "erase", {app: (app,) for app in due})
    return bool(due)


async def enqueue_cleanup(store: Store, queue: Queue) -> bool:
    """Enqueue the running cleanup, unless a process works on it or it is enqueued already. Returns whether one is
    running."""
    record = await store.cleanups.record()
    if record.place is None:
        return False
    if await store.locks.holder(cleanup.LOCK) is None:
        await _enqueue_each(queue, "cleanup", {"run": ()})
    return True
