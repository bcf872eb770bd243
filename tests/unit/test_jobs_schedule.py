"""The schedule of `pushsvc jobs`: several processes, a bell that rings all the time, and one that rings once."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from pushsvc.errors import StoreError, StoreUnavailable
from pushsvc.jobs.process import SWEEP
from pushsvc.jobs.schedule import ACTING, FAILED, PAUSE, REST, SOON, Periodic, keep_schedule

from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
TOOK = 0.003
"""Seconds that the work takes."""


class Locks:
    """Locks of all processes, with their owners."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, float]] = {}

    async def hold(self, name: str, owner: str, *, lease: float) -> bool:
        if self._owner(name) not in (None, owner):
            return False
        self._held[name] = (owner, asyncio.get_running_loop().time() + lease)
        return True

    async def release(self, name: str, owner: str) -> None:
        if self._owner(name) == owner:
            del self._held[name]

    def _owner(self, name: str) -> str | None:
        owner, until = self._held.get(name, (None, 0.0))
        return owner if until > asyncio.get_running_loop().time() else None


class Bell:
    """A bell that one process listens to."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.rung.wait(), seconds)
        rung = self.rung.is_set()
        self.rung.clear()
        return rung


class Processes:
    """Processes that share their locks, and when each began and ended the work."""

    def __init__(self, count: int) -> None:
        self.broken = False
        self.acts: list[tuple[float, float]] = []
        self.bells = [Bell() for _ in range(count)]
        self.stop = asyncio.Event()
        self._locks = Locks()
        self.tasks = [asyncio.create_task(self._run(str(number))) for number in range(count)]

    def ring(self) -> None:
        for bell in self.bells:
            bell.rung.set()

    async def _run(self, owner: str) -> None:
        store: Any = SimpleNamespace(locks=self._locks, bell=self.bells[int(owner)])
        sweep = Periodic("sweep", SWEEP, self._act, on_bell=True)
        await keep_schedule(store, [sweep], owner, self.stop, asyncio.Event(), AsyncMock())

    async def _act(self) -> bool:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(TOOK)
        if self.broken:
            raise StoreError("NOPERM")
        self.acts.append((began, asyncio.get_running_loop().time()))
        return False

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(*self.tasks)


async def test_a_bell_that_rings_all_the_time_does_not_let_the_processes_work_all_the_time() -> None:
    now = asyncio.get_running_loop().time
    processes = Processes(3)
    for _ in range(1000):
        processes.ring()
        last = now()
        await asyncio.sleep(0.005)
    # What rang last is found, and then it is quiet.
    await until(lambda: processes.acts[-1][0] >= last, SOON)
    await processes.end()
    acts = processes.acts
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(acts))
    assert 0.5 * last / (REST + TOOK) < len(acts) < last / REST + 2 * last / SWEEP


async def test_what_rings_once_is_looked_at_once_and_immediately() -> None:
    now = asyncio.get_running_loop().time
    processes = Processes(2)
    await asyncio.sleep(3.5 * SWEEP)
    before, rang = len(processes.acts), now()
    processes.ring()
    await asyncio.sleep(REST)
    ((began, _),) = processes.acts[before:]
    assert began - rang < 0.001
    await processes.end()


async def test_a_queue_that_is_not_reached_is_noted_until_it_is() -> None:
    """It may be in another Redis than the store, which is there all the time."""
    fault: Exception | None = None
    noted: list[bool] = []
    stop = asyncio.Event()

    async def act() -> bool:
        if fault is not None:
            raise fault
        return False

    async def note(reached: bool) -> None:
        if noted[-1:] != [reached]:
            noted.append(reached)

    store: Any = SimpleNamespace(locks=Locks(), bell=Bell())
    other = Periodic("lapsed", SWEEP, lambda: asyncio.sleep(0, False))
    periodics = [Periodic("sweep", SWEEP, act, on_bell=True), other]
    keeping = asyncio.create_task(keep_schedule(store, periodics, "a", stop, asyncio.Event(), note))
    expected = [True]
    for now, reached in ((RedisConnectionError(), False), (StoreUnavailable("away"), False), (None, True)):
        await asyncio.sleep(3 * SWEEP)
        assert noted == expected
        fault = now
        expected += [reached] if reached != expected[-1] else []
        await asyncio.sleep(SWEEP + PAUSE)
        assert noted == expected
    stop.set()
    await keeping


async def test_a_process_that_ended_over_its_work_holds_up_the_others_for_a_moment_only() -> None:
    processes = Processes(2)
    await asyncio.sleep(TOOK / 2)
    assert not processes.acts
    processes.tasks.pop(0).cancel()
    await until(lambda: processes.acts, ACTING + SWEEP)
    await processes.end()


async def test_work_that_fails_each_second_is_logged_when_it_begins_and_when_it_goes_on() -> None:
    FAILED.reset()
    processes = Processes(1)
    await until(lambda: processes.acts, SWEEP)
    with capture_logs() as lines:
        processes.broken = True
        await until(lambda: bool(lines), 2 * SWEEP)
        await asyncio.sleep(8)
        processes.broken = False
        count = len(processes.acts)
        await until(lambda: len(processes.acts) > count, 5.0)
    await processes.end()
    assert [line["event"] for line in lines] == ["schedule_failed", "schedule_goes_on"]
    assert (lines[0]["task"], lines[0]["error"]) == ("sweep", "NOPERM")
