"""The functions that jobs may run, by name. A job with another name fails, and nothing is imported for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..errors import StoreError
from ..model.codec import CodecError
from ..ports.cleanup import ClocksApart
from ..ports.expansion import Waiting
from ..ports.store import Store
from ..rules.bound import most_of
from ..runtime.plans import channel_rules, cleanup_plan, eraser, route_table
from ..runtime.reload import Current
from ..runtime.store import connect
from ..settings.schema import Settings
from ..stages import replay as replays
from ..stages.cleanup import LOCK, Progress, clean
from ..stages.expand import fanout
from ..stages.expand.fair_queue import FairQueue
from ..telemetry import get_logger

SLICE = 0.5
"""Seconds after which a long job goes to the end of the queue, if other jobs wait. It is short because a caller may be
waiting for the first delivery to an audience."""
BACKGROUND = 0.1
"""The same for jobs that no caller waits for."""
LONGEST = 60.0
"""Seconds after which a job ends in any case and is enqueued again: rq assumes that jobs are short."""
LOOK = 0.1
"""Seconds for which a known length of the queue is used again, while there is room."""


@dataclass(frozen=True)
class Context:
    """The state of the process for a function. `store_url` is the URL of pushsvc's own store."""

    current: Current
    store_url: str
    stopping: Callable[[], bool] = lambda: False
    """Returns whether the process has been asked to end: a function then returns between two steps."""
    waiting: Callable[[], bool] = lambda: False
    """Returns whether other jobs wait."""
    fair_queue: FairQueue = field(default_factory=FairQueue)
    """Chooses the audience to expand next."""
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
    """Runs the function of a job."""
    connect: Callable[[str, Settings], AbstractAsyncContextManager[Store]] = connect
    """Connects to the store for short jobs, which follow each other fast."""

    @property
    def settings(self) -> Settings:
        return self.current.settings


class Slice:
    """The time that a job may use, beginning now."""

    def __init__(self, context: Context, most: float = LONGEST) -> None:
        """Begin a slice. `most`: seconds after which the slice is over, if other jobs wait."""
        self._context = context
        self._most = min(SLICE, most)
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        spent = time.monotonic() - self._began
        if self._context.stopping() or spent > LONGEST:
            return True
        return spent > self._most and self._context.waiting()


Function: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


async def replay(context: Context, app: str, job: str) -> dict[str, int]:
    """Run a replay until it is complete, the slice is over or the process is to end. Returns what this slice did. A
    killed replay continues after its last step."""
    piece = Slice(context, BACKGROUND)
    async with connect(context.store_url, context.settings) as store:
        return await replays.run(
            store.dead,
            app,
            job,
            lease=context.settings.jobs.takeover,
            over=lambda: piece.over,
            now=store.clock,
        )


async def expand(context: Context) -> dict[str, int]:
    """Expand audiences in fair order, each for a slice, until none waits or other jobs do. Returns the number of
    deliveries made. A killed expansion continues after its last step."""
    settings, piece, made = context.settings, Slice(context), 0
    full: set[tuple[str, bool]] = set()
    async with context.connect(context.store_url, settings) as store:
        lapsed = await store.expansions.lapsed(await removed_apps(store, settings))
        while not piece.over:
            due = (*await store.expansions.due(settings.apps), *lapsed)
            waiting = [each for each in due if (each.app, each.lane == "urgent") not in full]
            if not waiting:
                break
            which = context.fair_queue.choose(waiting)
            lapsed = [each for each in lapsed if each != which]
            began = time.monotonic()
            run = await _expand_one(context, store, which)
            context.fair_queue.use(which, time.monotonic() - began)
            made += run.made
            if run.end == "full":
                full.add((which.app, which.lane == "urgent"))  # urgent ones may go on: see `most_of`
    return {"made": made}


async def removed_apps(store: Store, settings: Settings) -> set[str]:
    return {route.app for route in await store.workers.routes()} - settings.apps.keys()


async def _expand_one(context: Context, store: Store, which: Waiting) -> fanout.Run:
    """Expand one audience for a slice. A failure is logged and the audience postponed, so that it is not chosen again
    at once."""
    settings, log = context.settings, get_logger("jobs").bind(app=which.app, push=which.push_id)
    lease = int(settings.jobs.takeover * 1000)
    if not await store.expansions.take_up(which, lease=lease):
        return fanout.Run(0, "left")
    until = time.monotonic() + SLICE
    try:
        run = await fanout.expand(
            which.app,
            which.push_id,
            expansions=store.expansions,
            registry=store.registry,
            routes=route_table(settings, which.app),
            channels=channel_rules(settings, which.app),
            lease=lease,
            may_continue=lambda: time.monotonic() < until and not context.stopping(),
            has_room=_room(store, settings, which),
            now=store.clock,
        )
    except CodecError as error:
        await store.expansions.set_aside(which, str(error).partition(":")[0])
        return fanout.Run(0, "left")
    except StoreError:
        raise  # Redis is away or very slow: the lease runs out, and another process takes it up
    except Exception as error:
        wait = await store.expansions.put_off(which, type(error).__name__)
        log.error("expansion_failed", error=type(error).__name__, again_in=wait / 1000, exc_info=True)
        return fanout.Run(0, "left")
    if run.late:
        log.warning("audience_expired", made=run.made)
    log.info("push_expanded", made=run.made, end=run.end)
    return run


def _room(store: Store, settings: Settings, which: Waiting) -> Callable[[int], Awaitable[bool]]:
    """Return a function that takes the number of deliveries made here and returns whether the queue has room: within
    the bounds of `most_of` on the deliveries of all apps that wait, and on those of this one. One process exceeds
    the limit by at most a step; several processes by what the others make between two counts."""
    until, full_at = 0.0, 0
    app, most = which.app, settings.queue.max_pending
    bound = most_of(most, which.lane)
    share = most_of(settings.queue_shares().get(app, most), which.lane)

    async def has_room(made: int) -> bool:
        nonlocal until, full_at
        if made >= full_at or time.monotonic() >= until:
            await store.pushes.recount(settings.apps)
            room = bound - store.pushes.pending
            full_at = made + min(room, share - store.pushes.pending_of(app))
            until = time.monotonic() + LOOK
        return made < full_at

    return has_room


async def cleanup(context: Context) -> dict[str, int]:
    """Continue the running cleanup for a slice. Returns what this slice removed. A killed cleanup continues with its
    last step."""
    settings, piece = context.settings, Slice(context, BACKGROUND)
    async with connect(context.store_url, settings) as store:
        cleanups = store.cleanups
        async with store.locks.held(LOCK, lease=settings.jobs.takeover) as lost:
            record = await cleanups.record()
            if lost is None or record.place is None:
                return {}  # another process runs it, or it is complete
            try:
                clock = await cleanups.clock()
            except ClocksApart as error:
                await cleanups.give_up()
                get_logger("jobs").error("cleanup_refused", error=str(error))
                return {}

            async def note(progress: Progress) -> None:
                await cleanups.note(progress.removed, place=progress.place)

            cleaned = await clean(
                cleanup_plan(settings, store, clock),
                share=settings.cleanup.share,
                place=record.place,
                stopping=lambda: lost() or piece.over,
                after=note,
            )
            if cleaned.place is None:
                whole = (await cleanups.record()).removed
                await cleanups.finish(whole)
                get_logger("jobs").info("cleanup_done", removed=sum(whole.values()))
    return {f"{app} {what}": count for (app, what), count in cleaned.removed.items()}


async def erase(context: Context, app: str) -> bool:
    """Continue the erasures of an app for a slice. Returns whether nothing is left to do. A killed erasure continues
    with its last step."""
    piece = Slice(context)
    async with connect(context.store_url, context.settings) as store:
        return await eraser(store).work(app, stopping=lambda: piece.over)


FUNCTIONS: Mapping[str, Function] = {
    "replay": replay,
    "expand": expand,
    "cleanup": cleanup,
    "erase": erase,
}
