"""What a job may be: the functions, by name. A name that is not here fails its job and is never imported."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rq.timeouts import BaseTimeoutException

from .. import fanout, webhooks
from ..errors import ConfigError, StoreError
from ..janitor import Progress, clean, holding, process_name
from ..ports.cleanup import ClocksApart
from ..runtime import Current, cleanup_plan, route_table, store_config, webhook_configs
from ..settings import Settings
from ..store import Store, open_store
from ..telemetry import REPLAYED, get_logger

STEP = 500
"""Deliveries that one atomic step moves: it keeps Redis from its other clients for some milliseconds."""
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
    async with open_store(context.store_url, store_config(context.settings)) as store:
        try:
            return await _replay(context, store, app, job)
        except (StoreError, BaseTimeoutException):
            raise  # Redis is away or very slow: its lease runs out, and somebody takes it up
        except Exception as error:
            # The next run would end in the same way. The text may hold anything; the type does not.
            await store.dead.finish(app, job, error=f"stopped by {type(error).__name__}; the log knows more")
            raise


async def _replay(context: Context, store: Store, app: str, job: str) -> dict[str, int]:
    log = get_logger("jobs")
    lease = int(context.settings.jobs.takeover * 1000)
    status = await store.dead.replay(app, job)
    rate = status.spec.rate if status else 0.0
    most = max(1, min(STEP, int(rate))) if rate else STEP
    turn, began, moved, skipped = Turn(context), time.monotonic(), 0, 0
    while True:
        await store.dead.keep(app, job, lease=lease)
        step = await store.dead.step(app, job, most=most)
        moved += step.moved
        REPLAYED.labels(app).inc(step.moved)
        skipped += step.skipped
        if step.lost:
            log.warning("replay_is_run_elsewhere", app=app, job=job)
            break
        if step.over:
            await store.dead.finish(app, job)
            log.info("replay_done", app=app, job=job, moved=moved, skipped=skipped)
            break
        due = began + moved / rate if rate else 0.0
        while (left := due - time.monotonic()) > 0 and not context.stopping():
            await asyncio.sleep(min(left, 0.2))
            await store.dead.keep(app, job, lease=lease)
        if turn.over:
            await store.dead.keep(app, job, lease=0)
            break
    return {"moved": moved, "skipped": skipped}


async def expand(context: Context, app: str, push_id: str) -> dict[str, Any]:
    """Look up the audience of a push for a while: until all are found, or its slice is over, or the queue is full.

    Killed at any point, it goes on where its last step ended. What came of this slice.
    """
    settings = context.settings
    async with open_store(context.store_url, store_config(settings)) as store:
        turn = Turn(context)
        run = await fanout.expand(
            app,
            push_id,
            expansions=store.expansions,
            registry=store.registry,
            routes=route_table(settings, app),
            lease=int(settings.jobs.takeover * 1000),
            go_on=lambda: not turn.over,
            has_room=_room(store, settings, app),
        )
    get_logger("jobs").info("push_expanded", app=app, push=push_id, made=run.made, end=run.end)
    return {"made": run.made, "end": run.end}


def _room(store: Store, settings: Settings, app: str) -> Callable[[int], Awaitable[bool]]:
    """Whether fewer deliveries than `queue.max_pending` wait, of all apps together, and of this one fewer than its
    share, after so many were made here.

    One process passes the bound by a step at most; several by what the others make between two looks.
    """
    until, full_at = 0.0, 0

    async def has_room(made: int) -> bool:
        nonlocal until, full_at
        if made >= full_at or time.monotonic() >= until:
            await store.pushes.recount(settings.apps)
            room = settings.queue.max_pending - store.pushes.pending
            full_at = made + min(room, settings.queue_shares()[app] - store.pushes.pending_of(app))
            until = time.monotonic() + LOOK
        return made < full_at

    return has_room


RECONSIDER = 30.0
"""Seconds until a webhook that cannot even be tried is looked at again."""


async def webhook(context: Context, app: str) -> int:
    """Tell the feedback events of an app for a while: until all are told, or its slice is over, or the receiver does
    not take them.

    Killed at any point, it goes on with the batch that was under way. How many events were told.
    """
    config = webhook_configs(context.settings).get(app)
    if config is None:
        return 0  # It was taken out of the configuration meanwhile.
    turn = Turn(context)
    lease = context.settings.jobs.takeover
    async with (
        open_store(context.store_url, store_config(context.settings)) as store,
        store.webhooks.claimed(app, config.place, lease=lease) as claim,
    ):
        if claim is None:
            return 0  # Somebody is at it already.
        try:
            async with webhooks.open_caller(config, app) as caller:
                return await webhooks.deliver(claim, caller, config, app, over=lambda: turn.over)
        except ConfigError as error:
            get_logger("jobs").error("webhook_cannot_be_called", app=app, error=str(error))
            await claim.rest(RECONSIDER)
            return 0
        except (StoreError, BaseTimeoutException):
            raise  # Redis is away or very slow: it goes on when it can
        except Exception:
            # The next run would end in the same way, at once.
            await claim.rest(RECONSIDER)
            raise


async def cleanup(context: Context) -> dict[str, int]:
    """Go on with the cleanup that is under way, for a slice. What was removed in it.

    Killed at any point, it goes on where its last step began.
    """
    settings, turn = context.settings, Turn(context, BACKGROUND)
    async with open_store(context.store_url, store_config(settings)) as store:
        cleanups, owner = store.cleanups, process_name()
        async with holding(cleanups, owner, lease=settings.jobs.takeover) as lost:
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
    async with open_store(context.store_url, store_config(context.settings)) as store:
        return await store.erasures.work(app, stopping=lambda: turn.over)


FUNCTIONS: Mapping[str, Function] = {
    "replay": replay,
    "expand": expand,
    "webhook": webhook,
    "cleanup": cleanup,
    "erase": erase,
}
