"""All routes of one process: started together, drained together."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping

from ..errors import StoreUnavailable
from ..model import Route
from ..ports import DeliveryQueue, Limiter, Provider
from ..telemetry import get_logger
from .limits import RouteLimits
from .route import DispatchConfig, RouteWorker
from .settling import Settler


class Dispatcher:
    """Sends what the queue holds for the routes of `providers` until told to stop, then drains.

    The providers are opened and closed by the caller; `run` must be called in the loop that they live in.
    """

    def __init__(
        self,
        queue: DeliveryQueue,
        providers: Iterable[Provider],
        config: DispatchConfig,
        *,
        hash_token: Callable[[str], str],
        limiter: Limiter | None = None,
        limits: Mapping[Route, RouteLimits] | None = None,
        wall_clock: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._queue = queue
        self._providers = list(providers)
        self._config = config
        self._hash_token = hash_token
        self._limiter = limiter
        self._limits = limits or {}
        self._wall_clock = wall_clock
        self._dice = dice
        self._workers: list[RouteWorker] = []
        self._stopping = False
        self._log = get_logger("dispatch")

    def held(self) -> dict[str, str]:
        """The routes that do not send now, `app/platform`, and why."""
        troubles = {
            f"{worker.route.app}/{worker.route.platform}": worker.health.held_for or provider.trouble
            for worker, provider in zip(self._workers, self._providers, strict=False)
        }
        return {route: why for route, why in troubles.items() if why}

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; then let what is in flight end and record it, within `drain_timeout`."""
        apps = sorted({provider.route.app for provider in self._providers})
        settlers = {app: Settler(app, self._queue, self._wake_all) for app in apps}
        settling = [asyncio.create_task(settler.run(), name=f"settle:{app}") for app, settler in settlers.items()]
        self._workers = [
            RouteWorker(
                provider,
                self._queue,
                settlers[provider.route.app],
                self._config,
                hash_token=self._hash_token,
                wall_clock=self._wall_clock,
                random=self._dice,
                limiter=self._limiter,
                limits=self._limits.get(provider.route),
            )
            for provider in self._providers
        ]
        reading = [
            asyncio.create_task(worker.run(), name=f"{worker.route.app}/{worker.route.platform}")
            for worker in self._workers
        ]
        beating = asyncio.create_task(self._beat(), name="beat")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            # A task that ends by itself is a fault, and the process must not live on without it.
            done, _ = await asyncio.wait([stopped, beating, *reading, *settling], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
            await self._drain(reading, settlers.values())
            for worker in self._workers:
                worker.flush_metrics()
        finally:
            self._stopping = True
            for worker in self._workers:
                worker.stop()
            for settler in settlers.values():
                settler.close()
            for task in (stopped, beating, *reading, *settling):
                task.cancel()
            await asyncio.gather(stopped, beating, *reading, *settling, return_exceptions=True)

    async def _drain(self, reading: list[asyncio.Task[None]], settlers: Iterable[Settler]) -> None:
        self._log.info("draining")
        for worker in self._workers:
            worker.stop()
        for task in reading:
            task.cancel()
        try:
            async with asyncio.timeout(self._config.drain_timeout):
                await asyncio.gather(*(provider.aclose() for provider in self._providers))
                for settler in settlers:
                    await settler.drain()
                await self._queue.retire()
        except (TimeoutError, StoreUnavailable) as error:
            # Nothing is lost: what is unrecorded is unacknowledged, and another consumer takes it over.
            self._log.warning("drain_incomplete", error=str(error) or type(error).__name__)
        else:
            self._log.info("drained")

    async def _beat(self) -> None:
        """A sign of life each `beat_every` seconds, and within a second when another route is held or open again."""
        loop = asyncio.get_running_loop()
        told: dict[str, str] | None = None
        due = 0.0
        while not self._stopping:
            held = self.held()
            if held != told or loop.time() >= due:
                try:
                    await self._queue.beat(held)
                    told = held
                    due = loop.time() + self._config.beat_every
                except StoreUnavailable as error:
                    self._log.warning("beat_waits_for_redis", error=str(error))
            await asyncio.sleep(min(1.0, self._config.beat_every))

    def _wake_all(self) -> None:
        for worker in self._workers:
            worker.wake()
