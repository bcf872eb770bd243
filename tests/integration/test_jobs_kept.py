"""The store that jobs which follow each other share, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from redis import Redis
from rq.job import JobStatus
from rq.timeouts import JobTimeoutException

from pushsvc.errors import StoreUnavailable
from pushsvc.jobs import QUEUE, Context, kept, make_job_class, make_worker
from pushsvc.jobs.kept import REST, KeptStore
from pushsvc.jobs.worker import make_queue
from pushsvc.ports.store import Store
from pushsvc.runtime.state.figures import Current
from pushsvc.settings.schema import Settings

from .servers import KINDS, Server, running_server, wait_until


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as found:
        yield found


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
        """Wait until the job is cancelled: a function of jobs."""
        async with context.connect(self.server.url, self.settings) as store:
            self.stores.append(store)
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.waits = f"cancelled, {await store.registry.count('shop')} devices"
                raise

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
    context = Context(Current(jobs.settings), jobs.server.url, run=jobs.kept.run, connect=jobs.kept.connect)
    job_class = make_job_class({"wait": jobs.wait}, context)
    with Redis(unix_socket_path=str(jobs.server.folder / "socket")) as connection:
        queue = make_queue(QUEUE, connection, job_class)
        job = queue.enqueue_call("wait", timeout=1)
        make_worker(queue, name="test-wait", job_class=job_class, maintenance=30).work(burst=True)
        assert job.get_status(refresh=True) == JobStatus.FAILED
        result = job.latest_result()
        assert result is not None
        assert "JobTimeoutException" in str(result.exc_string)
    assert jobs.waits == "cancelled, 0 devices"
    assert jobs.stores == [first, first]
    assert jobs.run() is not first


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


def test_connections_that_the_server_has_closed_are_opened_again(jobs: Jobs) -> None:
    first = jobs.run()
    for line in jobs.connections():
        jobs.server.command(f"CLIENT KILL ID {line.split()[0].removeprefix(b'id=').decode()}")
    assert jobs.connections() == []
    assert jobs.run() is first
