"""One process of `pushsvc jobs`: the rq worker on the main thread, which receives signals, and its companion on
another. The companion serves `/metrics` and keeps the schedule."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import count
from types import FrameType
from typing import Any

from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from .. import telemetry
from ..background import in_background
from ..errors import StoreError
from ..ports.store import Store
from ..runtime.parts import REPLACED, judging, quiet_gc
from ..runtime.plans import routes_of
from ..runtime.reload import Current, ask_all, following
from ..runtime.state.figures import serve_part_metrics
from ..runtime.state.flow import noting
from ..runtime.state.workers import reporting
from ..runtime.store import connect, open_sync_redis, redis_url
from ..settings.schema import Settings
from .enqueue import (
    enqueue_cleanup,
    enqueue_erasures,
    enqueue_expansions,
    enqueue_lapsed,
    enqueue_replays,
)
from .functions import FUNCTIONS, Context
from .kept import KeptStore
from .schedule import Periodic, act_each, keep_schedule
from .webhooks import MOST, WebhookTasks
from .worker import REDIS_AWAY, JobsQueue, JobsWorker, make_job_class, make_queue, make_worker

QUEUE = "pushsvc"
LAST = 30.0
"""Seconds after the first signal at which the process ends in any case: less than its supervisor allows. Another
process takes up what a job had not finished, as after a kill."""
MAINTENANCE = 30
SWEEP = 1.0
"""Seconds between two checks for work while there is none. The bell says earlier what callers may be waiting for."""
LAPSED = 5.0
"""Seconds between two checks for expired audiences of apps that are no longer configured."""
PAUSE = 1.0
"""Seconds between two attempts of the worker to reach its Redis."""
GRACE = 2.0
"""Seconds that the companion has to end by itself."""
THREADS = 4 * MOST + 8
"""The maximum number of threads of the companion's loop. It resolves the names of receivers there, and a resolver that
does not answer can block a thread for longer than a call: it must take none from other receivers or from the
schedule."""
LOOK = 60.0
"""Seconds between two checks for the next cleanup."""


class Stopping:
    """Handles SIGTERM and SIGINT while the process works, without asking Redis. A context manager for the main thread.
    The first signal lets the current job return after its step and ends everything else; the second one ends the
    process at once. `failed` returns whether the process sent the first one to itself, because a part of it failed:
    then its exit code is not 0, however it ends. `stopped` returns whether a signal came before: then entering it
    raises `StopRequested`."""

    def __init__(self, failed: Callable[[], bool], stopped: Callable[[], bool] = lambda: False) -> None:
        self.requested = False
        self._failed = failed
        self._stopped = stopped
        self.worker: JobsWorker | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._ask)
        if self._stopped():
            self.__exit__()
            raise StopRequested
        return self

    def __exit__(self, *fault: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.requested = True
        last = threading.Timer(LAST, lambda: os._exit(int(self._failed())))
        last.daemon = True
        last.start()
        if self.worker is None:
            raise StopRequested
        self.worker.stop()


def run_jobs(
    settings: Settings,
    *,
    listening: Callable[[str], None],
    watch: Callable[[asyncio.Event], None] = lambda gone: None,
    stopped: Callable[[], bool] = lambda: False,
    feedback: bool = False,
) -> None:
    """Work until SIGTERM or SIGINT, or not at all where `stopped` returns that one came before. Call it on the main
    thread. Raises `ConfigError`, and the error with which the companion failed. `watch` is called in the companion's
    loop with an event that ends the process when it is set. With `feedback`, receipts are judged there."""
    settings.require_apps()
    logging.getLogger("rq").setLevel(logging.WARNING)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    REDIS_AWAY.at = settings.jobs.shown
    current = Current(settings)
    companion = Companion(current, name, watch, feedback=feedback)
    opened, stops = companion.running(), Stopping(lambda: companion.fault is not None, stopped)
    with suppress(StopRequested), stops as stopping, opened as store_url, closing(KeptStore()) as kept:
        queue: JobsQueue | None = None
        context = Context(
            current,
            store_url,
            stopping=lambda: stopping.requested,
            waiting=lambda: queue is not None and queue.has_jobs(),
            run=kept.run,
            connect=kept.connect,
        )
        job_class = make_job_class(FUNCTIONS, context)
        quiet_gc()
        listening(f"queue {QUEUE} as {name}")
        for attempt in count():
            queue = make_queue(QUEUE, open_sync_redis(settings.jobs.url or store_url, name=name), job_class)
            try:
                queue.connection.ping()
                # A worker registers its name once: the next one after a fault needs another.
                stopping.worker = make_worker(queue, name=f"{name}-{attempt}", maintenance=MAINTENANCE)
                stopping.worker.work(logging_level=None)
            except RedisError as error:
                REDIS_AWAY.report("jobs", error)
            finally:
                queue.connection.close()
            if stopping.requested:
                return
            time.sleep(PAUSE)


class Companion:
    """Serves `/metrics` and keeps the schedule, in a thread with an event loop of its own. When it ends early, so does
    the process. It also keeps `current` up to date."""

    def __init__(self, current: Current, name: str, watch: Callable[[asyncio.Event], None], *, feedback: bool) -> None:
        self._current, self._settings = current, current.settings
        self._name, self._watch, self._feedback = name, watch, feedback
        self.fault: BaseException | None = None
        """Why the process is to end, unless it was asked to."""
        self._ready: Future[str] = Future()
        self._stop = asyncio.Event()
        self._reaches = True
        """Whether it reaches the queue of jobs."""
        self._webhooks: list[WebhookTasks] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="companion", daemon=True)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run beside the block, and yield the store's URL. SIGHUP arrives on the main thread and is passed on. Raises
        its fault at the end."""
        self._thread.start()
        before = signal.signal(signal.SIGHUP, lambda number, frame: self._schedule(ask_all))
        try:
            yield self._ready.result()
        finally:
            signal.signal(signal.SIGHUP, before)
            self._schedule(self._end)
            self._thread.join(timeout=LAST)
            if self.fault is not None:
                raise self.fault

    def _schedule(self, act: Callable[[], None]) -> None:
        """Have the loop of the thread call this, if the thread still runs."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(act)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            elif not self._stop.is_set():
                self.fault = error
                telemetry.get_logger("jobs").error("companion_ended", error=type(error).__name__)
                os.kill(os.getpid(), signal.SIGTERM)

    def _end(self) -> None:
        """End, also while a Redis is waited for that does not answer."""
        self._stop.set()
        for each in self._webhooks:
            each.stop()
        asyncio.get_running_loop().call_later(GRACE, self._cut)

    def _cut(self) -> None:
        if any(each.working for each in self._webhooks):
            asyncio.get_running_loop().call_later(GRACE, self._cut)  # receivers get more time
        elif self._task is not None:
            self._task.cancel()

    async def _main(self) -> None:
        current, settings = self._current, self._settings
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS, "companion"))
        gone = asyncio.Event()
        self._watch(gone)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(redis_url(settings))
            connection = open_sync_redis(settings.jobs.url or url, name=f"{self._name}:schedule")
            stack.callback(connection.close)
            store = await stack.enter_async_context(connect(url, settings))
            telemetry.begin_jobs(FUNCTIONS, [name for name, app in settings.apps.items() if app.webhook.url])
            await serve_part_metrics(stack, settings, "jobs")
            reports = reporting(
                *(store, current, "jobs", lambda: current.settings.apps if self._reaches else ()),
                lambda: routes_of(current.settings),
            )
            report = await stack.enter_async_context(reports)

            async def note(reached: bool) -> None:
                """Report at once where the queue of jobs was lost or is back."""
                if reached != self._reaches:
                    self._reaches = reached
                    await report()

            await stack.enter_async_context(noting(store.flow))
            if self._feedback:
                await stack.enter_async_context(judging(store, current))
            await stack.enter_async_context(following(current, self._stop))
            for each in store.webhook_logs:
                hooks = WebhookTasks(each, current, clock=store.seconds)
                stack.push_async_callback(hooks.close)
                self._webhooks.append(hooks)
            self._ready.set_result(url)
            queue = make_queue(QUEUE, connection, make_job_class(FUNCTIONS, None))
            async with in_background(self._end_replaced(store, gone), "replaced"):
                await keep_schedule(store, self._periodics(store, queue), self._name, self._stop, gone, note)

    async def _end_replaced(self, store: Store, gone: asyncio.Event) -> None:
        """Set `gone` when the store was replaced by another one, which is a fault: the process is started again."""
        await store.replaced.wait()
        self.fault = StoreError(REPLACED)
        gone.set()

    def _periodics(self, store: Store, queue: JobsQueue) -> list[Periodic]:
        current, settings = self._current, self._settings
        sweep = [
            lambda: enqueue_expansions(store, queue, current.settings),
            lambda: enqueue_replays(store, queue, settings),
            *(hooks.start_due for hooks in self._webhooks),
            lambda: enqueue_erasures(store, queue, current.settings),
            lambda: enqueue_cleanup(store, queue),
        ]
        periodics = [
            Periodic("sweep", SWEEP, partial(act_each, sweep), on_bell=True),
            Periodic("lapsed", LAPSED, lambda: enqueue_lapsed(store, queue, current.settings)),
        ]
        if settings.cleanup.every:
            # The record has the beginning of the last one: a lock that lived as long as the period would outlive the
            # process that took it, and a shorter period of a later start.
            every = settings.cleanup.every
            periodics.append(Periodic("cleanup-runs", min(LOOK, every), partial(_request_cleanup, store, every)))
        return periodics


async def _request_cleanup(store: Store, every: float) -> bool:
    await store.cleanups.request(every=every)
    return False
