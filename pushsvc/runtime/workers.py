"""Reports which processes live, and what no process serves: on `/readyz`, in `stats`, by a metric and in the log.

An accepted push that no dispatcher reads waits silently until its `ttl` is over. So each process reports every few
seconds what it serves, and the report is valid for the takeover time. What is configured and in no valid report is
unserved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from .. import telemetry
from ..background import in_background
from ..errors import StoreError
from ..model.push import Route
from ..ports.removed import RemovedRoute
from ..ports.store import Store
from ..ports.workers import Worker
from ..settings import Settings
from .accounts import removal_of
from .figures import Current
from .flow import noting
from .plans import routes_of

_WITHOUT: Final = {
    "dispatch": "nothing is sent",
    "feedback": "dead tokens are not pruned, webhooks receive no events",
    "jobs": "audiences, replays, webhooks and cleanups wait",
    "live": "no device is online",
}
LEAVING: Final = 2.0
"""Seconds within which a process that ends reports it: without Redis its last report expires by itself."""
_LOG: Final = telemetry.StateLog("serve", "unserved", "unserved_still", "served_again", level="error")


def unserved(settings: Settings, workers: Collection[Worker], removed: Iterable[RemovedRoute] = ()) -> dict[str, str]:
    """Return what is configured and no living process serves, with the reason, by `app/platform`, or by part and app.
    Where no dispatcher lives, `removed` routes are not held, so they are included."""
    found: dict[str, str] = {}
    if not _dispatched(workers):
        found = {each.route.name: str(removal_of(each, settings.apps)) for each in removed}
    names = {
        "dispatch": [route.name for route in routes_of(settings)],
        "live": [name for name, app in settings.apps.items() if app.live],
    }
    for part, without in _WITHOUT.items():
        if part == "live" and not names[part]:
            continue
        served = [worker.serves for worker in workers if worker.part == part]
        if not served and part != "dispatch":
            found[part] = f"no `pushsvc {part}` runs, or it hangs: {without}"
            continue
        why = (
            f"no `pushsvc {part}` that runs knows it: start them all with the same configuration"
            if served
            else f"no `pushsvc {part}` runs, or it hangs: {without}"
        )
        everything = frozenset[str]().union(*served)
        for name in names.get(part, settings.apps):
            if name not in everything:
                found[name if part == "dispatch" else f"{part} {name}"] = why
    return found


async def read_unserved(settings: Settings, store: Store, workers: Collection[Worker]) -> dict[str, str]:
    """Return what is unserved (see `unserved`), reading removed routes where they are needed. Raises
    `StoreUnavailable`."""
    removed = () if _dispatched(workers) else await store.removed(routes_of(settings))
    return unserved(settings, workers, removed)


def _dispatched(workers: Collection[Worker]) -> bool:
    return any(worker.part == "dispatch" for worker in workers)


@asynccontextmanager
async def reporting(
    store: Store,
    part: str,
    serves: Callable[[], Iterable[str]],
    routes: Callable[[], Iterable[Route]] = tuple,
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Report while the block lasts that this process lives, what it serves and which routes it has in its
    configuration. The first report precedes the block; the yielded function reports a change at once."""
    every = store.workers.lifetime / 4

    def apps() -> Collection[str]:
        return list(serves()) if part == "serve" else ()

    async def report() -> None:
        with suppress(StoreError):  # a report that could not be written is the same as none
            await store.workers.report(part, serves(), routes())

    async def keep_reporting() -> None:
        while True:
            await asyncio.sleep(every)
            await report()

    await report()
    try:
        async with in_background(keep_reporting(), "reporting"), noting(store.flow, apps):
            yield report
    finally:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVING):
                await store.workers.leave(part)


@asynccontextmanager
async def watching(store: Store, current: Current) -> AsyncIterator[None]:
    """Log while the block lasts what no process serves for longer than a start takes."""
    every = store.workers.lifetime / 3

    async def watch() -> None:
        before: dict[str, str] = {}
        while True:
            await asyncio.sleep(every)
            with suppress(StoreError):
                found = await read_unserved(current.settings, store, await store.workers.living())
                lasting = {name: why for name, why in found.items() if name in before}
                before = found
                if lasting:
                    _LOG.begin(unserved=lasting)
                else:
                    _LOG.end()

    async with in_background(watch(), "unserved"):
        yield
