"""All routes of one process: started and drained together; routes can be added, changed and removed meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ...background import boot_clock, pulse, until_pulse
from ...errors import StoreUnavailable
from ...model.push import Platform, Route
from ...ports.limits import Limiter
from ...ports.provider import Provider
from ...ports.queue import NOTE, DeliveryQueue
from ...telemetry import REDIS, get_logger
from ..outage import Patience
from .agenda import Agenda
from .config import DispatchConfig
from .context import DispatchContext, Environments
from .lease import Lease
from .limits import RouteLimits
from .preemption import Preemption
from .revoking import RevocationLog
from .route import RouteWorker
from .settling import Settler

FOLLOW_WAIT: Final = 1.0
"""Seconds of one wait for revocations; an app that is added meanwhile is followed after it."""
FOLLOW_PAUSE: Final = 0.2
"""Seconds until it is tried again at the latest: the caller that takes something back waits for the answer."""


class Dispatcher:
    """Sends what the queue holds for the routes of `providers` until it is stopped, then drains. The caller opens and
    closes the providers. `run` must be called in their event loop."""

    def __init__(
        self,
        queue: DeliveryQueue,
        providers: Iterable[Provider],
        config: DispatchConfig,
        *,
        hash_token: Callable[[Platform], Callable[[str], str]],
        limiter: Limiter | None = None,
        limits: Mapping[Route, RouteLimits] | None = None,
        environments: Environments | None = None,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        lease_clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._queue = queue
        self._providers = list(providers)
        self._config = config
        self._limits = limits or {}
        self._wall_clock = wall_clock
        self._revocations = RevocationLog()
        self._lease = Lease(config.takeover, lease_clock, self._give_up)
        self._context = DispatchContext(
            queue,
            config,
            hash_token,
            limiter,
            environments or (lambda app: {}),
            wall_clock,
            jitter,
            self._lease,
            Preemption(),
            self._revocations,
        )
        self._routes: dict[Route, _RunningRoute] = {}
        self.notes: dict[Route, str] = {}
        """Notes for operators about routes that do send. The caller writes them here."""
        self._settlers: dict[str, tuple[Settler, asyncio.Task[None]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        """The closing of providers that were replaced or removed, and may have requests in flight."""
        self._fault: asyncio.Future[None] | None = None
        self._draining = self._stopping = False
        self._log = get_logger("dispatch")

    def held(self) -> dict[str, str]:
        """Return the routes that do not send now, `app/platform`, and parts of them, `app/platform/part`, and why."""
        return {name: why for running in self._routes.values() for name, why in running.worker.held.items()}

    def worked(self) -> dict[str, float]:
        """Return the seconds since each route, or part of one, was last seen to work, without those that never were."""
        return {name: ago for running in self._routes.values() for name, ago in running.worker.worked.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; then let what is in flight end and record it, within `drain_timeout`."""
        # A task that ends by itself is a fault, and the process must not live on without it.
        self._fault = asyncio.get_running_loop().create_future()
        for provider in self._providers:
            self.add(provider)
        beating = self._watch(asyncio.create_task(self._beat(), name="beat"))
        following = self._watch(asyncio.create_task(self._follow(), name="follow"))
        launching = self._watch(asyncio.create_task(self._launch(), name="launch"))
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            either: list[asyncio.Future[Any]] = [stopped, self._fault]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._fault.done():
                self._fault.result()
            launching.cancel()
            await self._drain()
            for running in self._routes.values():
                running.worker.flush_metrics()
        finally:
            self._stopping = True
            for running in self._routes.values():
                running.worker.stop()
            for settler, _ in self._settlers.values():
                settler.close()
            tasks = [running.reading for running in self._routes.values()] + [
                task for _, task in self._settlers.values()
            ]
            for task in (beating, following, launching, *tasks, stopped):
                task.cancel()
            await asyncio.gather(beating, following, launching, *tasks, stopped, return_exceptions=True)
            self._fault.cancel()

    # --- routes that come, change and go, while `run` runs -------------------------------------------

    def add(self, provider: Provider) -> None:
        """Serve the route of this provider. A route that comes after the stop is not served: it would send."""
        if self._draining:
            return
        app = provider.route.app
        if app not in self._settlers:
            settler = Settler(app, self._queue, self._wake_all, self._expect)
            task = self._watch(asyncio.create_task(settler.run(), name=f"settle:{app}"))
            self._settlers[app] = (settler, task)
        limits = self._limits.get(provider.route, RouteLimits())
        worker = RouteWorker(self._context, provider, self._settlers[app][0], limits)
        reading = self._watch(asyncio.create_task(worker.run(), name=provider.route.name))
        self._routes[provider.route] = _RunningRoute(worker, provider, reading)

    def limit(self, limits: Mapping[Route, RouteLimits]) -> None:
        """Apply these limits from now on, to running routes and to those that are added later."""
        self._limits = limits
        for route, running in self._routes.items():
            # One that is not named is about to go: it keeps its limits until then.
            if (own := limits.get(route)) is not None:
                running.worker.limit(own)

    def replace(self, provider: Provider) -> None:
        """Use this provider from now on. The caller closes the old one, whose answers are still recorded."""
        if (running := self._routes.get(provider.route)) is not None:
            self._leave(running.provider)
            running.provider = provider
            running.worker.use(provider)

    async def remove(self, route: Route) -> None:
        """Stop sending for a route: what is in flight ends and is recorded, the rest waits in Redis, for another
        process that still serves the route, too."""
        running = self._routes.pop(route, None)
        if running is None:
            return
        running.worker.stop()
        running.reading.cancel()
        await asyncio.gather(running.reading, return_exceptions=True)
        leaving = self._leave(running.provider)
        await running.worker.hand_back()
        await leaving
        await self._settlers[route.app][0].drain()
        running.worker.flush_metrics()
        running.worker.forget_metrics()
        self._queue.release(route)

    def _leave(self, provider: Provider) -> asyncio.Task[None]:
        leaving = asyncio.create_task(provider.aclose(), name=f"leave:{provider.route.name}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return leaving

    def _watch(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        def ended(task: asyncio.Task[None]) -> None:
            fault = self._fault
            if task.cancelled() or fault is None or fault.done() or self._stopping:
                return
            error = task.exception()
            if error is not None:
                fault.set_exception(error)

        task.add_done_callback(ended)
        return task

    async def _drain(self) -> None:
        self._log.info("draining")
        self._draining = True
        for running in self._routes.values():
            running.worker.stop()
            running.reading.cancel()
        try:
            async with asyncio.timeout(self._config.drain_timeout):
                await asyncio.gather(*(running.provider.aclose() for running in self._routes.values()), *self._leaving)
                for settler, _ in self._settlers.values():
                    await settler.drain()
                self._stopping = True  # a sign of life after the retirement would keep others waiting
                await self._queue.retire()
        except (TimeoutError, StoreUnavailable) as error:
            # Nothing is lost: what is unrecorded is unacknowledged, and another consumer takes it over.
            self._log.warning("drain_incomplete", error=str(error) or type(error).__name__)
        else:
            self._log.info("drained")

    async def _beat(self) -> None:
        """Report a sign of life every `beat_every` seconds, and within a second when a route becomes held or open."""
        loop, step = asyncio.get_running_loop(), min(1.0, self._config.beat_every)
        reported: dict[str, str] | None = None
        due, missed = 0.0, 0
        while not self._stopping:
            held = self.held()
            held |= {f"{NOTE}{route.name}": text for route, text in self.notes.items()}
            if held != reported or loop.time() >= due:
                asked_at = self._lease.clock()
                lapsed = not self._lease.holds
                try:
                    await self._queue.beat(held, self.worked())
                    if self._queue.missed != missed:
                        missed, lapsed = self._queue.missed, True
                        self._lease.lapse()
                    self._lease.renew(asked_at)
                    if lapsed:
                        self._wake_all()
                    reported = held
                    due = loop.time() + self._config.beat_every - step / 2  # the pulse that is nearest to it
                    REDIS.end("beat")
                except StoreUnavailable as error:
                    REDIS.away("beat", error)
            await pulse(step)

    async def _follow(self) -> None:
        """Apply revocations and acknowledge them, because their callers wait for it."""
        wait_ms = int(FOLLOW_WAIT * 1000)
        patience = Patience("follow", longest=FOLLOW_PAUSE)
        while not self._stopping:
            async with patience:
                apps = {route.app for route in self._routes}
                for news in await self._queue.revoked(apps, wait_ms):
                    self._revocations.add(news.revoked, asyncio.get_running_loop().time())
                    own = [running.worker for route, running in self._routes.items() if route.app == news.app]
                    for worker in own:
                        await worker.revoke(news.revoked)
                    await self._settlers[news.app][0].acknowledge(news)

    def _give_up(self) -> None:
        for running in self._routes.values():
            running.worker.give_up()

    async def _launch(self) -> None:
        """Launch the scheduled pushes of our apps when they are due.

        Each process looks, and the store ensures that each push is launched once. The apps alternate, so that a
        million pushes of one app, all for nine o'clock, do not delay those of another. An app that is no longer
        configured keeps its schedule, because no dispatcher would send what is launched.
        """
        agenda, loop = Agenda(self._config.ask_every), asyncio.get_running_loop()
        while not self._stopping:
            now, crowded = int(self._wall_clock() * 1000), False
            try:
                if agenda.take(now, loop.time()):
                    for app in {route.app for route in self._routes}:
                        due = await self._queue.next_launch(app)
                        agenda.note(due)
                        if due is not None and due <= now and not self._stopping:
                            await self._queue.launch(app, now)
                            due = await self._queue.next_launch(app)
                            crowded |= due is not None and due <= now
                REDIS.end("launch")
            except StoreUnavailable as error:
                REDIS.away("launch", error)
                crowded = False
            left = max(self._config.launch_every, agenda.left(int(self._wall_clock() * 1000)))
            await asyncio.sleep(0 if crowded else min(left, until_pulse(self._config.ask_every)))

    def _expect(self, route: Route, due_at: int) -> None:
        if (running := self._routes.get(route)) is not None:
            running.worker.retries.expect(due_at)

    def _wake_all(self) -> None:
        for running in self._routes.values():
            running.worker.wake()


@dataclass
class _RunningRoute:
    """The worker of a route, its provider, and the task that runs it."""

    worker: RouteWorker
    provider: Provider
    reading: asyncio.Task[None]
