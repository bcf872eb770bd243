"""Job and Worker of rq without everything that would run what Redis contains."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from ..errors import PushsvcError, StoreUnavailable
from ..runtime.store import store_error
from ..telemetry import JOBS, REDIS
from .enqueue import RESULT_TTL
from .functions import Context, Function
from .limit import NoAlarm, limited

DEQUEUE: Final = 2
"""Seconds that one wait for a job lasts. A failover is noticed between two of them."""


class NotAllowed(PushsvcError):
    """A job names a function that is not in the table."""


def make_job_class(functions: Mapping[str, Function], context: Context | None) -> type[Job]:
    """Return a Job class that runs functions of this table, by name, and calls nothing else that Redis names."""

    class AllowedJob(Job):
        """A job without callbacks and webhooks, since those are names and addresses that any client of Redis may have
        written."""

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
                # rq takes a negative limit as none.
                seconds = self.timeout if self.timeout and self.timeout > 0 else Queue.DEFAULT_TIMEOUT
                answer = limited(context.run, function(context, *self.args, **self.kwargs), seconds)
                result = "done"
                REDIS.end("job")
                return answer
            except StoreUnavailable as error:
                # Not a fault of the job, which continues when its lease is over: it must not be kept and logged for
                # each try.
                REDIS.away("job", error)
                return None
            finally:
                JOBS.labels(known, result).inc()

    return AllowedJob


class JobsWorker(SimpleWorker):
    """A worker of one process, without forks and without remote commands: it does not subscribe to rq's pub/sub
    channel. Signals are handled by the process: rq's own handlers ask Redis before they stop anything, so that a Redis
    that is away would keep the worker alive. The time limit of a job is that of limit.py."""

    death_penalty_class = NoAlarm
    at_work = False
    """Whether a job is running or its result is being recorded."""
    stop_was_requested = False

    @property
    def dequeue_timeout(self) -> int:
        """Return the seconds that one wait for a job lasts: short, to notice a lost server soon. rq's own wait is the
        worker's lifetime in Redis, 45 s."""
        return DEQUEUE

    @property
    def connection_timeout(self) -> int:
        """Return the seconds that the connection may be silent: a little longer than a wait."""
        return DEQUEUE + 2

    def subscribe(self) -> None:
        """Subscribe to nothing: no client may stop jobs or the worker by a message."""

    def unsubscribe(self) -> None:
        """Do nothing, since there is no subscription."""

    def _install_signal_handlers(self) -> None:
        """Install no signal handlers; see `process.Stopping`."""

    def execute_job(self, job: Job, queue: Queue) -> None:
        self.at_work = True
        try:
            super().execute_job(job, queue)
        finally:
            self.at_work = False
        if self.stop_was_requested:
            raise StopRequested

    def stop(self) -> None:
        """End after the current job. Raises `StopRequested` where there is none: call it from a signal handler, so that
        it interrupts every wait of the worker."""
        self.stop_was_requested = True
        if not self.at_work:
            raise StopRequested

    def procline(self, message: str) -> None:
        """Do nothing: the process keeps the name that its operator knows."""


class RedisAwayFilter(logging.Filter):
    """Drops what rq logs at each try while Redis is away, sometimes with a traceback: `telemetry.REDIS` logs when that
    state begins and when it ends."""

    at = ""
    """Where the Redis of rq is, if it is not that of the store."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = sys.exception()
        if isinstance(error, RedisError):
            self.report("jobs", error)
            return False
        return True

    def report(self, who: str, error: RedisError) -> None:
        """Report that the part `who` waits for the Redis of rq because of this error."""
        fault = store_error(error)
        assert fault is not None  # every error of redis-py has one
        REDIS.away(who, fault, what="the queue of jobs, in rq:*", **({"at": self.at} if self.at else {}))


REDIS_AWAY: Final = RedisAwayFilter()


class JobsQueue(Queue):
    """A queue whose every answer shows that its Redis does all that a worker needs."""

    @classmethod
    def dequeue_any(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            found = super().dequeue_any(*args, **kwargs)
        except DequeueTimeout:
            REDIS.end("jobs")
            raise
        REDIS.end("jobs")
        return found

    def has_jobs(self) -> bool:
        """Return whether jobs wait. Where its Redis does not say so, which is reported, they may: what asks is a job,
        whose own Redis may be another and well."""
        try:
            return bool(self.count)
        except RedisError as error:
            REDIS_AWAY.report("jobs", error)
            return True


def make_queue(name: str, connection: Redis, job_class: type[Job]) -> JobsQueue:
    """Return a queue whose jobs are in JSON."""
    return JobsQueue(name, connection=connection, job_class=job_class, serializer=JSONSerializer)


def make_worker(queue: Queue, *, name: str, maintenance: int) -> JobsWorker:
    """Return a worker of a queue. Spans are in seconds: `maintenance` is between two checks for abandoned jobs."""
    worker = JobsWorker(
        [queue],
        name=name,
        queue_class=JobsQueue,
        connection=queue.connection,
        job_class=queue.job_class,
        serializer=JSONSerializer,
        default_result_ttl=RESULT_TTL,
        maintenance_interval=maintenance,
        worker_ttl=60,
        log_job_description=False,
    )
    worker.log.addFilter(REDIS_AWAY)
    return worker
