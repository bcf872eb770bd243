"""Reports which processes live, and what no process serves: on `/readyz`, in `stats`, by a metric and in the log.

An accepted push that no dispatcher reads waits silently until its `ttl` is over. So each process reports every few
seconds what it serves, and the report is valid for the takeover time. What is configured and in no valid report is
unserved. A process of `jobs` that does not reach the queue of its jobs serves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from ...background import repeated
from ...errors import StoreError
from ...model.push import Route
from ...ports.conditions import Condition, condition
from ...ports.store import Store
from ...ports.work import Configured, RemovedRoute, Worker
from ...settings.schema import Settings
from ..plans import routes_of
from ..reload import Current
from .removal import removal_of

_WITHOUT: Final = {
    "dispatch": "nothing is sent",
    "feedback": "dead tokens are not pruned, webhooks receive no events",
    "jobs": "audiences, replays, webhooks and cleanups wait",
    "live": "no device is online",
}
_START: Final = "start it, or restart the one that hangs"
_QUEUE: Final = "restore the Redis of `jobs.url`; jobs then continue automatically"
REPORTS: Final = 0.4
"""The time between two reports as a share of the time for which one is valid: one may be lost."""
LEAVING: Final = 2.0
"""Seconds within which a process that ends reports it: without Redis its last report expires by itself."""


def unserved(
    settings: Settings, processes: Collection[Worker], removed: Iterable[RemovedRoute] = ()
) -> list[Condition]:
    """Return what is configured and no living process serves: routes, parts, and parts for an app. Where no dispatcher
    lives, `removed` routes are not held, so they are included."""
    workers = [worker for worker in processes if worker.lives]
    found: list[Condition] = []

    def add(what: str, cause: str, remedy: str, app: str = "", since: int | None = None) -> None:
        found.append(condition("unserved", what, cause, remedy, since=since, app=app))

    if not _dispatched(workers):
        for each in removed:
            add(each.route.name, *removal_of(each, settings.apps), app=each.route.app)
    names = {
        "dispatch": {route.name: route.app for route in routes_of(settings)},
        "live": {name: name for name, app in settings.apps.items() if app.live},
    }
    for part, without in _WITHOUT.items():
        if part == "live" and not names[part]:
            continue
        served = [worker.serves for worker in workers if worker.part == part]
        last = max((worker.last_sign for worker in processes if worker.part == part), default=None)
        absent = f"no `pushsvc {part}` runs, or it hangs: {without}"
        if not served and part != "dispatch":
            add(part, absent, _START, since=last)
            continue
        everything = frozenset[str]().union(*served)
        if part == "jobs" and not everything:
            add(part, f"no `pushsvc jobs` reaches the Redis of its queue: {without}", _QUEUE)
            continue
        for name, app in names.get(part, dict(zip(settings.apps, settings.apps, strict=True))).items():
            if name in everything:
                continue
            what = name if part == "dispatch" else f"{part} {name}"
            if served:
                cause = f"no `pushsvc {part}` that runs knows it: {without}"
                add(what, cause, "start them all with the same configuration", app)
            else:
                add(what, absent, _START, app, last)
    return found


async def read_unserved(settings: Settings, store: Store, processes: Collection[Worker]) -> list[Condition]:
    """Return what is unserved (see `unserved`), reading removed routes where they are needed. Raises
    `StoreUnavailable`."""
    removed = () if _dispatched(processes) else await store.removed(routes_of(settings))
    return unserved(settings, processes, removed)


def _dispatched(workers: Collection[Worker]) -> bool:
    return any(worker.part == "dispatch" and worker.lives for worker in workers)


@asynccontextmanager
async def reporting(
    store: Store,
    current: Current,
    part: str,
    serves: Callable[[], Iterable[str]],
    routes: Callable[[], Iterable[Route]] = tuple,
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Report while the block lasts that this process lives, what it serves and which routes it has in its
    configuration. The first report precedes the block; the yielded function reports a change at once."""

    async def report() -> None:
        with suppress(StoreError):  # a report that could not be written is the same as none
            configured = Configured(current.refused_since, tuple(current.unapplied), current.refusal)
            await store.workers.report(part, serves(), routes(), configured)

    await report()
    try:
        async with repeated(REPORTS * store.workers.lifetime, report, "reporting"):
            yield report
    finally:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVING):
                await store.workers.leave(part)
