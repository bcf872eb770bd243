"""The store that jobs which follow each other share, and what ends it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest
from redis import Redis
from rq import Queue
from rq.job import JobStatus
from rq.timeouts import JobTimeoutException

from pushsvc.errors import StoreUnavailable
from pushsvc.jobs import QUEUE, Context, kept, limit, make_job_class, make_worker
from pushsvc.jobs.functions import Function
from pushsvc.jobs.kept import REST, KeptStore
from pushsvc.jobs.worker import make_queue
from pushsvc.ports.store import Store
from pushsvc.runtime.reload import Current
from pushsvc.settings.schema import Settings

from .servers import KINDS, Server, running_server, wait_until


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as found:
        yield found


ENOUGH = 20
"""Seconds after which a job of these tests ends by itself, and fails its test."""


class Jobs:
    """Jobs that note which store they have had."""

    def __init__(self, server: Server) -> None:
        self.server, self.kept, self.settings = server, KeptStore(), Settings()
        self.stores: list[Store] = []
        self.waits = ""
        """How the job has ended that waits without end."""

    def run(self, fault: Exception | None = None) -> Store:
        """Run a job, which raises the fault, and return its store."""

        async def work() -> Store:
            async with self.kept.connect(self.server.url, self.settings) as store:
                assert await store.registry.count("shop") == 0
                self.stores.append(store)
                if fault is not None:
                    raise fault
                return store

        return self.kept.run(work())

    async def wait(self, context: Context) -> None:
        """Wait until the job is cancelled."""
        async with context.connect(self.server.url, self.settings) as store:
            self.stores.append(store)
            try:
                await asyncio.sleep(ENOUGH)
            except asyncio.CancelledError:
                self.waits = f"cancelled, {await store.registry.count('shop')} devices"
                raise

    def fail_at_limit(self, function: Function, *, timeout: int = 1) -> None:
        assert "JobTimeoutException" in self.fail(function, timeout=timeout)

    def fail(self, function: Function, *, timeout: int) -> str:
        """Let a worker run the function, and return how rq has recorded its failure."""
        context = Context(Current(self.settings), self.server.url, run=self.kept.run, connect=self.kept.connect)
        job_class = make_job_class({"work": function}, context)
        with Redis(unix_socket_path=str(self.server.folder / "socket")) as connection:
            queue = make_queue(QUEUE, connection, job_class)
            job = queue.enqueue_call("work", timeout=timeout)
            make_worker(queue, name="test", maintenance=30).work(burst=True)
            assert job.get_status(refresh=True) == JobStatus.FAILED
            assert queue.failed_job_registry.get_job_ids() == [job.id]
            result = job.latest_result()
        assert result is not None
        return str(result.exc_string)

    def connections(self) -> list[bytes]:
        """Return the connections of stores to the server."""
        return [line for line in self.server.command("CLIENT LIST").splitlines() if b" name=pushsvc:" in line]


@pytest.fixture
def jobs(server: Server) -> Iterator[Jobs]:
    server.flush()
    found = Jobs(server)
    yield found
    found.kept.close()
    wait_until(lambda: not found.connections())


def test_jobs_that_follow_each_other_share_a_store(jobs: Jobs) -> None:
    assert jobs.run() is jobs.run() is jobs.run()


def test_a_store_that_has_rested_is_opened_again(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(kept, "boot_clock", lambda: now)
    first = jobs.run()
    now += REST
    assert jobs.run() is first
    now += REST + 0.01
    assert jobs.run() is not first


def test_other_settings_open_another(jobs: Jobs) -> None:
    first = jobs.run()
    jobs.settings = Settings()
    second = jobs.run()
    assert second is not first
    assert jobs.run() is second


def test_so_does_a_redis_that_others_have_initialised(jobs: Jobs) -> None:
    first = jobs.run()
    first.replaced.set()
    assert jobs.run() is not first


@pytest.mark.parametrize("fault", [StoreUnavailable("away"), RuntimeError("a fault of ours")])
def test_a_job_that_fails_ends_it(jobs: Jobs, fault: Exception) -> None:
    first = jobs.run()
    with pytest.raises(type(fault)):
        jobs.run(fault)
    assert jobs.stores == [first, first]
    assert jobs.connections() == []
    assert jobs.run() is not first


def test_a_job_at_its_time_limit_is_cancelled_with_its_store(jobs: Jobs) -> None:
    first = jobs.run()
    jobs.fail_at_limit(jobs.wait)
    assert jobs.waits == "cancelled, 0 devices"
    assert jobs.stores == [first, first]
    assert jobs.run() is not first


async def busy_in_callbacks(context: Context) -> None:
    """Wait in a loop that is always busy with callbacks."""
    until = time.monotonic() + ENOUGH

    def again() -> None:
        spin(0.01)
        if time.monotonic() < until:
            asyncio.get_running_loop().call_soon(again)

    again()
    await asyncio.sleep(ENOUGH)


async def stuck_in_a_callback(context: Context) -> None:
    asyncio.get_running_loop().call_soon(spin, ENOUGH)
    await asyncio.sleep(ENOUGH)


async def stuck_in_its_own_code(context: Context) -> None:
    while True:
        try:
            spin(ENOUGH)
        except Exception:
            continue
        return


async def deaf_to_its_cancellation(context: Context) -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(ENOUGH)
    await asyncio.sleep(ENOUGH)


def spin(seconds: float) -> None:
    """Occupy the thread in Python code, as an endless loop does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize(
    "function", [busy_in_callbacks, stuck_in_a_callback, stuck_in_its_own_code, deaf_to_its_cancellation]
)
def test_a_job_ends_at_its_time_limit_whatever_it_does(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, function: Function
) -> None:
    monkeypatch.setattr(limit, "GRACE", 1.0)
    first = jobs.run()
    jobs.fail_at_limit(function)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert jobs.connections() == []
    assert jobs.run() is not first


def test_a_job_that_is_to_have_no_limit_has_one_nevertheless(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queue, "DEFAULT_TIMEOUT", 1)
    jobs.fail_at_limit(jobs.wait, timeout=-1)


def test_a_timeout_within_a_job_is_not_its_limit(jobs: Jobs) -> None:
    async def slow(context: Context) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(ENOUGH)

    assert "JobTimeoutException" not in jobs.fail(slow, timeout=ENOUGH)


def test_an_interruption_while_it_ends_leaves_the_next_job_nothing_of_it(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = jobs.run()

    def interrupted(_: asyncio.Runner, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        raise JobTimeoutException

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.Runner, "run", interrupted)
        with pytest.raises(JobTimeoutException):
            jobs.kept.close()
    assert jobs.run() is not first


def test_nor_does_one_before_it_ends(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    first = jobs.run()
    with monkeypatch.context() as patched:
        patched.setattr(jobs.kept, "close", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            jobs.run(RuntimeError("a fault of ours"))
    assert jobs.run() is not first


def test_connections_that_the_server_has_closed_are_opened_again(jobs: Jobs) -> None:
    first = jobs.run()
    for line in jobs.connections():
        jobs.server.command(f"CLIENT KILL ID {line.split()[0].removeprefix(b'id=').decode()}")
    assert jobs.connections() == []
    assert jobs.run() is first
