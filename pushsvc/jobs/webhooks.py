"""The webhooks of all apps, side by side in the companion's loop: a slow receiver holds nobody else's events.

A call is I/O: it waits for somebody else's server for up to half a minute. So none is made in a rq worker, where
everything behind it would wait as well: audiences, replays, cleanups, the other webhooks. An app has one task at most,
for its events are told in order; all tasks of a process together are bounded, and where more apps wait than it has
room for, each ends after a slice and whoever has waited longest begins. What is to wait after a failure is a due time
in the store (`ports.webhooks`), and takes no room here. Several processes share the apps by the lease of each.

Why here and not in `feedback`: pruning must go on whatever receivers do, and this process already has a loop beside
its worker that looks at what is due.
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
from ..runtime import Current, webhook_configs
from ..settings import Settings
from ..stages import webhooks
from ..stages.webhooks import WebhookConfig

MOST: Final = 64
"""Apps whose receivers are called at the same time by one process."""
SLICE: Final = 0.5
"""Seconds after which an app lets another one have its place, where there are more that wait than places."""
RECONSIDER: Final = 30.0
"""Seconds until a webhook that cannot even be tried is looked at again."""
GRACE: Final = 25.0
"""Seconds that a call may still take when the process is to end. One that takes longer is repeated by whoever is next,
under the same id."""


class WebhookTasks:
    """A task for each app that has something to tell, as long as it has.

    A task ends between two calls when the process is to end or the configuration has been reloaded; with the new one
    it is started again. Killed at any point, a webhook goes on with the batch that was under way.
    """

    def __init__(self, store: Webhooks, current: Current, *, most: int = MOST) -> None:
        """`most` apps at the same time."""
        self._store = store
        self._current = current
        self._most = most
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._began: dict[str, float] = {}
        self._crowded = False
        self._closing = False

    async def start_due(self) -> None:
        """Start what has something to tell and nobody at work on it, as far as there is room. Raises `StoreError`."""
        settings = self._current.settings
        configs = webhook_configs(settings)
        idle = [app for app in configs if app not in self._tasks]
        due = await asyncio.gather(*(self._store.due(app, configs[app].place) for app in idle))
        ready = [app for app, now in zip(idle, due, strict=True) if now]
        ready.sort(key=lambda app: self._began.get(app, 0.0))
        self._began = {app: began for app, began in self._began.items() if app in configs}
        room = self._most - len(self._tasks)
        self._crowded = len(ready) > room
        for app in ready[: 0 if self._closing else room]:
            self._began[app] = time.monotonic()
            task = asyncio.create_task(self._work(app, configs[app], settings), name=f"webhooks:{app}")
            self._tasks[app] = task
            task.add_done_callback(partial(self._ended, app))

    @property
    def working(self) -> bool:
        """Whether any task is under way."""
        return bool(self._tasks)

    def stop(self) -> None:
        """Begin no other call."""
        self._closing = True

    async def close(self) -> None:
        """Begin no other call, and let those that are under way end."""
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
                    await _deliver(claim, config, app, over)
        except StoreError as error:
            # Redis is away or very slow: it goes on when it can. The schedule logs the end of it.
            telemetry.REDIS.begin("webhooks", error=type(error).__name__)


async def _deliver(claim: WebhookClaim, config: WebhookConfig, app: str, over: Callable[[], bool]) -> None:
    """What would end in the same way at once is put off. Raises `StoreError`."""
    log = telemetry.get_logger("webhooks")
    try:
        async with webhooks.open_caller(config, app) as caller:
            await webhooks.deliver(claim, caller, config, app, over=over)
    except ConfigError as error:
        log.error("webhook_cannot_be_called", app=app, error=str(error))
        await claim.rest(RECONSIDER, str(error))
    except StoreError:
        raise
    except Exception as error:
        log.error("webhook_stopped", app=app, error=type(error).__name__, again_in=RECONSIDER, exc_info=True)
        await claim.rest(RECONSIDER, f"{type(error).__name__}, see the log")
