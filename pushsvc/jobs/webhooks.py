"""The webhooks of all apps, concurrently in the companion's loop: a slow receiver delays no other app's events.

A call waits for another party's server for up to half a minute. So none is made in an rq worker, where everything after
it would wait as well: audiences, replays, cleanups, the other webhooks. An app has one task at most for
each log, because its events are sent in order. The tasks of a process are bounded; where more apps wait than it has
room for, each ends after a slice and the app that has waited longest is next. A wait after a failure is a due time in
the store (`ports.webhooks`) and occupies no task. Several processes share the apps by the lease of each.

This is not in `feedback`, because pruning must go on whatever receivers do, and because this process already has a loop
beside its worker that checks for due work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from .. import telemetry
from ..errors import ConfigError, StoreError
from ..ports.webhooks import WebhookClaim, Webhooks
from ..runtime.plans import webhook_configs
from ..runtime.reload import Current
from ..settings.schema import Settings
from ..stages.webhooks.caller import open_caller
from ..stages.webhooks.config import WebhookConfig
from ..stages.webhooks.delivery import deliver

MOST: Final = 64
"""The maximum number of apps whose receivers one process calls at the same time."""
SLICE: Final = 0.5
"""Seconds after which an app makes room for another one, where more apps wait than there is room for."""
RECONSIDER: Final = 30.0
"""Seconds until a webhook whose call could not be made is tried again."""
GRACE: Final = 25.0
"""Seconds that a call may still take when the process is to end. The next process repeats a call that takes longer,
with the same id."""


class WebhookTasks:
    """A task for each app with events of one log to send, while it has any. A task ends between two calls when the
    process is to end or the configuration was reloaded; then it is started again with the new one. A killed webhook
    continues with its current batch."""

    def __init__(self, store: Webhooks, current: Current, *, clock: Callable[[], float], most: int = MOST) -> None:
        """Call the receivers of up to `most` apps at the same time. `clock` is that of the store, by which events have
        their times: a batch is given up by its age."""
        self.kind = store.kind
        self._store = store
        self._current = current
        self._clock = clock
        self._most = most
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._began: dict[str, float] = {}
        self._crowded = False
        self._closing = False

    async def start_due(self) -> bool:
        """Start a task for each app with events to send that no process works on, as far as there is room. Returns
        whether any task runs. Raises `StoreError`."""
        settings = self._current.settings
        configs = webhook_configs(settings, self.kind)
        idle = [app for app in configs if app not in self._tasks]
        due = await asyncio.gather(*(self._store.due(app, configs[app].place) for app in idle))
        ready = [app for app, now in zip(idle, due, strict=True) if now]
        ready.sort(key=lambda app: self._began.get(app, 0.0))
        self._began = {app: began for app, began in self._began.items() if app in configs}
        room = self._most - len(self._tasks)
        self._crowded = len(ready) > room
        for app in ready[: 0 if self._closing else room]:
            self._began[app] = time.monotonic()
            task = asyncio.create_task(self._work(app, configs[app], settings), name=f"webhooks:{self.kind}:{app}")
            self._tasks[app] = task
            task.add_done_callback(partial(self._ended, app))
        return self.working

    @property
    def working(self) -> bool:
        return bool(self._tasks)

    def stop(self) -> None:
        self._closing = True

    async def close(self) -> None:
        """Start no other call, and let running ones end."""
        self.stop()
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, app: str, task: asyncio.Task[None]) -> None:
        del self._tasks[app]

    async def _work(self, app: str, config: WebhookConfig, settings: Settings) -> None:
        until = time.monotonic() + SLICE

        def over() -> bool:
            spent = self._crowded and time.monotonic() > until
            return spent or self._closing or self._current.settings is not settings

        try:
            async with self._store.claimed(app, config.place, lease=settings.jobs.takeover) as claim:
                if claim is not None and not over():
                    await _deliver(claim, config, app, over, self._clock)
        except StoreError as error:
            # Redis is away or very slow: the webhook continues when it is back. The schedule logs when that is.
            telemetry.REDIS.away("webhooks", error)


async def _deliver(
    claim: WebhookClaim, config: WebhookConfig, app: str, over: Callable[[], bool], clock: Callable[[], float]
) -> None:
    """Send events until `over`. A webhook that would fail again at once is postponed. Raises `StoreError`."""
    log = telemetry.get_logger("webhooks")
    try:
        async with open_caller(config, app) as caller:
            await deliver(claim, caller, config, app, over=over, clock=clock)
    except ConfigError as error:
        log.error("webhook_cannot_be_called", app=app, error=str(error))
        await claim.rest(RECONSIDER, str(error))
    except StoreError:
        raise
    except Exception as error:
        log.error("webhook_stopped", app=app, error=type(error).__name__, again_in=RECONSIDER, exc_info=True)
        await claim.rest(RECONSIDER, f"{type(error).__name__}, see the log")
