"""What a job may be: the functions, by name. A name that is not here fails its job and is never imported."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rq.timeouts import BaseTimeoutException

from ..errors import StoreError
from ..model.codec import CodecError
from ..ports.cleanup import ClocksApart
from ..ports.expansion import Waiting
from ..ports.store import Store
from ..runtime import Current, cleanup_plan, connect, eraser, route_table
from ..settings import Settings
from ..stages import replay as replays
from ..stages.cleanup import LOCK, Progress, clean
from ..stages.expand import fanout
from ..stages.expand.turns import Turns
from ..telemetry import get_logger

SLICE = 0.5
"""Seconds after which a long job lets others have their turn, where there are any: it goes to the end of the queue.
So short, because somebody may wait for the first delivery to an audience."""
BACKGROUND = 0.1
"""The same for what nobody waits for."""
LONGEST = 60.0
"""Seconds after which it ends in any case, and is enqueued again: rq believes jobs to be short."""
LOOK = 0.1
"""Seconds for which what is known of the queue's length is good enough, while there is room."""


@dataclass(frozen=True)
class Context:
    """What a function is given by its process. `store_url` is that of pushsvc's store."""

    current: Current
    store_url: str
    stopping: Callable[[], bool] = lambda: False
    """Whether the process has been asked to end: return between two steps."""
    waiting: Callable[[], bool] = lambda: True
    """Whether there are other jobs to be done."""
    turns: Turns = field(default_factory=Turns)
    """Whose audience was looked up when."""

    @property
    def settings(self) -> Settings:
        """The configuration as it is now."""
        return self.current.settings


class Turn:
    """The time that a job has for itself, from now on."""

    def __init__(self, context: Context, most: float = LONGEST) -> None:
        """At most so many seconds where others wait."""
        self._context = context
        self._most = min(SLICE, most)
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        spent = time.monotonic() - self._began
        if self._context.stopping() or spent > LONGEST:
            return True
        return spent > self._most and self._context.waiting()


Function: TypeAlias = Callable[..., Awaitable[Any]]


async def replay(context: Context, app: str, job: str) -> dict[str, int]:
    """Run a replay for a while: until it is done, or its slice is over, or the process is to end.

    Killed at any point, it goes on where its last step ended. What was moved in this slice.
    """
    turn = Turn(context, BACKGROUND)
    async with connect(context.store_url, context.settings) as store:
        return await replays.run(
            store.dead,
            app,
            job,
            lease=context.settings.jobs.takeover,
            over=lambda: turn.over,
            now=store.clock,
            passes=(BaseTimeoutException,),
        )


async def expand(context: Context) -> dict[str, int]:
    """Look up audiences, each for a slice, in fair turns, until nothing waits or other jobs do.

    Killed at any point, each goes on where its last step ended. How many deliveries were made.
    """
    settings, turn, made = context.settings, Turn(context), 0
    full: set[str] = set()
    async with connect(context.store_url, settings) as store:
        lapsed = await store.expansions.lapsed(await removed_apps(store, settings))
        while not turn.over:
            waiting = [each for each in (*await store.expansions.due(settings.apps), *lapsed) if each.app not in full]
            if not waiting:
                break
            which = context.turns.choose(waiting)
            lapsed = [each for each in lapsed if each != which]
            began = time.monotonic()
            run = await _expand_one(context, store, which)
            context.turns.use(which, time.monotonic() - began)
            made += run.made
            if run.end == "full":
                full.add(which.app)
    return {"made": made}


async def removed_apps(store: Store, settings: Settings) -> set[str]:
    """The apps that are not in the configuration any more."""
    return {route.app for route in await store.workers.routes()} - settings.apps.keys()


async def _expand_one(context: Context, store: Store, which: Waiting) -> fanout.Run:
    """For a slice. What ends it in vain is said, and it is put off: it must not be the next one again at once."""
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
            lease=lease,
            go_on=lambda: time.monotonic() < until and not context.stopping(),
            has_room=_room(store, settings, which.app),
            now=store.clock,
        )
    except CodecError as error:
        await store.expansions.set_aside(which, str(error).partition(":")[0])
        return fanout.Run(0, "left")
    except (StoreError, BaseTimeoutException):
        raise  # Redis is away or very slow: the lease runs out, and somebody takes it up
    except Exception as error:
        wait = await store.expansions.put_off(which)
        log.error("expansion_failed", error=type(error).__name__, again_in=wait / 1000, exc_info=True)
        return fanout.Run(0, "left")
    if run.late:
        log.warning("audience_expired", made=run.made)
    log.info("push_expanded", made=run.made, end=run.end)
    return run


def _room(store: Store, settings: Settings, app: str) -> Callable[[int], Awaitable[bool]]:
    """Whether fewer deliveries than `queue.max_pending` wait, of all apps together, and of this one fewer than its
    share, after so many were made here.

    One process passes the bound by a step at most; several by what the others make between two looks.
    """
    until, full_at = 0.0, 0
    share = settings.queue_shares().get(app, settings.queue.max_pending)

    async def has_room(made: int) -> bool:
        nonlocal until, full_at
        if made >= full_at or time.monotonic() >= until:
            await store.pushes.recount(settings.apps)
            room = settings.queue.max_pending - store.pushes.pending
            full_at = made + min(room, share - store.pushes.pending_of(app))
            until = time.monotonic() + LOOK
        return made < full_at

    return has_room


async def cleanup(context: Context) -> dict[str, int]:
    """Go on with the cleanup that is under way, for a slice. What was removed in it.

    Killed at any point, it goes on where its last step began.
    """
    settings, turn = context.settings, Turn(context, BACKGROUND)
    async with connect(context.store_url, settings) as store:
        cleanups = store.cleanups
        async with store.locks.held(LOCK, lease=settings.jobs.takeover) as lost:
            record = await cleanups.record()
            if lost is None or record.place is None:
                return {}  # somebody is at it, or it is done
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
                stopping=lambda: lost() or turn.over,
                after=note,
            )
            if cleaned.place is None:
                whole = (await cleanups.record()).removed
                await cleanups.finish(whole)
                get_logger("jobs").info("cleanup_done", removed=sum(whole.values()))
    return {f"{app} {what}": count for (app, what), count in cleaned.removed.items()}


async def erase(context: Context, app: str) -> bool:
    """Go on with the erasures of an app, for a slice. Whether there is nothing left to do.

    Killed at any point, it goes on where its last step began.
    """
    turn = Turn(context)
    async with connect(context.store_url, context.settings) as store:
        return await eraser(store).work(app, stopping=lambda: turn.over)


FUNCTIONS: Mapping[str, Function] = {
    "replay": replay,
    "expand": expand,
    "cleanup": cleanup,
    "erase": erase,
}
