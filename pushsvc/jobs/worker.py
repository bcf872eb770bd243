"""rq's Job and Worker with everything taken out that would run what stands in Redis."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from ..errors import PushsvcError, StoreUnavailable
from ..telemetry import JOBS, REDIS
from .functions import Context, Function

DEQUEUE: Final = 2
"""Seconds that one wait for a job lasts. Between two of them a failover is noticed."""


class NotAllowed(PushsvcError):
    """A job names a function that is not in the table."""


def make_job_class(functions: Mapping[str, Function], context: Context | None) -> type[Job]:
    """A Job that runs functions of this table, by name, and calls nothing else that stands in Redis."""

    class AllowedJob(Job):
        """Without its callbacks and webhooks: they are names and addresses that anybody may have written."""

        def restore(self, raw_data: Any) -> Any:
            restored = super().restore(raw_data)
            self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
            self._stopped_callback = None
            self.webhooks = []
            return restored

        @property
        def func(self) -> Callable[..., Any]:
            name = self.func_name
            function = functions.get(name) if isinstance(name, str) and self.instance is None else None
            if function is None:
                raise NotAllowed("the job names a function that is not in the table of pushsvc.jobs.functions")
            return function

        def _execute(self) -> Any:
            known, result = "unknown", "failed"
            try:
                function = self.func
                known = str(self.func_name)
                if context is None:
                    raise NotAllowed("this process only enqueues")
                answer = asyncio.run(function(context, *self.args, **self.kwargs))
                result = "done"
                REDIS.end("job")
                return answer
            except StoreUnavailable as error:
                # No fault of the job, which goes on when its lease is over: not one to keep and to quote for each try.
                REDIS.begin("job", error=type(error).__name__)
                return None
            finally:
                JOBS.labels(known, result).inc()

    return AllowedJob


class JobsWorker(SimpleWorker):
    """One process, no forks, no remote commands: `rq`'s pub/sub channel is not listened to.

    Signals are the process's: rq's own handlers ask Redis before they stop anything, and a Redis that is away would
    keep the worker alive.
    """

    at_work = False
    """Whether a job is under way, or what came of it is being recorded."""
    stop_was_requested = False

    @property
    def dequeue_timeout(self) -> int:
        """Seconds that one wait for a job lasts. Short, so that a server that has silently gone is noticed as soon
        as by the rest of the process: rq's own wait is its lifetime in Redis, 45 s."""
        return DEQUEUE

    @property
    def connection_timeout(self) -> int:
        """Seconds that the connection may be silent: a little more than a wait."""
        return DEQUEUE + 2

    def subscribe(self) -> None:
        """Nobody may stop jobs or the worker by a message."""

    def unsubscribe(self) -> None:
        """There is nothing to leave."""

    def _install_signal_handlers(self) -> None:
        """None: see `process.Stopping`."""

    def execute_job(self, job: Job, queue: Queue) -> None:
        self.at_work = True
        try:
            super().execute_job(job, queue)
        finally:
            self.at_work = False
        if self.stop_was_requested:
            raise StopRequested

    def stop(self) -> None:
        """End after the job that is under way. Raises `StopRequested` where there is none: to be called by a signal's
        handler, so that it ends whatever the worker waits for."""
        self.stop_was_requested = True
        if not self.at_work:
            raise StopRequested

    def procline(self, message: str) -> None:
        """The process keeps the name that its operator knows."""


class RedisAwayFilter(logging.Filter):
    """Drops what rq logs at each try while Redis is away, with a traceback in places: that is a state, which
    `telemetry.REDIS` logs when it begins and when it ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = sys.exception()
        if isinstance(error, RedisError):
            REDIS.begin("jobs", error=type(error).__name__)
            return False
        return True


REDIS_AWAY: Final = RedisAwayFilter()


def make_queue(name: str, connection: Redis, job_class: type[Job]) -> Queue:
    """The queue, in JSON."""
    return Queue(name, connection=connection, job_class=job_class, serializer=JSONSerializer)


def make_worker(
    queue: Queue, *, name: str, job_class: type[Job], maintenance: int, worker_ttl: int = 60, result_ttl: int = 300
) -> JobsWorker:
    """A worker of that queue. Spans in seconds: `maintenance` between two looks for abandoned jobs."""
    worker = JobsWorker(
        [queue],
        name=name,
        connection=queue.connection,
        job_class=job_class,
        serializer=JSONSerializer,
        default_result_ttl=result_ttl,
        maintenance_interval=maintenance,
        worker_ttl=worker_ttl,
        log_job_description=False,
    )
    worker.log.addFilter(REDIS_AWAY)
    return worker
