"""Signs of life: when a process takes the others for gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from pushsvc.store import StoreConfig, keys
from pushsvc.store.link.link import Link
from pushsvc.store.part import StoreContext
from pushsvc.store.work.liveness import Liveness
from pushsvc.store.work.workers import RedisWorkers, machine_of


def context_of(redis: object) -> StoreContext:
    return StoreContext(cast(Link, redis), StoreConfig(consumer="a"), b"", lambda: 1)


class Signs:
    """Redis, which executes commands in their order; the test decides when their answers arrive."""

    def __init__(self) -> None:
        self.signs: dict[str, int] = {}
        self.answers: list[asyncio.Future[None]] = []

    async def call(self, name: str, key: str, value: int, *_: Any) -> int | None:
        before = self.signs.get(key)
        self.signs[key] = value
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return before

    async def many(self, commands: list[tuple[str, str]]) -> list[int]:
        return [int(key in self.signs) for _, key in commands]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "crossed"])
async def test_only_one_that_was_silent_itself_lets_others_renew_first(order: tuple[int, ...]) -> None:
    """At the start two parts give the first sign of life at once, and it is no sign of an outage that there was none
    before; of two that renew it after an outage, one finds that it had expired."""

    async def twice(redis: Signs, liveness: Liveness) -> set[str]:
        redis.answers.clear()
        beats = [asyncio.create_task(liveness.beat()) for _ in order]
        await asyncio.sleep(0)
        for place in order:
            redis.answers[place].set_result(None)
            await beats[place]
        return await liveness.gone({"a", "b"})

    redis = Signs()
    liveness = Liveness(context_of(redis))
    assert await twice(redis, liveness) == {"b"}
    del redis.signs[keys.alive("a")]
    assert await twice(redis, liveness) == set()


def test_a_report_is_over_where_its_process_has_ended_on_this_very_machine(tmp_path: Path) -> None:
    """Two hosts may have one name, and both have the first namespace of processes; an id says nothing across them."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    other_boot = tmp_path / "boot_id"
    other_boot.write_text("another\n")

    def report(machine: str) -> bytes:
        more = f'{{"at":1,"machine":"{machine}","pid":{ended.pid},"configured":{{}}}}'
        return f"2000 shop\n{more}".encode()

    machines = {b"serve here": machine_of(), b"serve there": machine_of(other_boot), b"serve x": machine_of(tmp_path)}
    assert machine_of(tmp_path) == ""

    class Redis:
        async def many(self, _: Any) -> list[Any]:
            return [(1, 0), {field: report(machine) for field, machine in machines.items()}]

    known = asyncio.run(RedisWorkers(context_of(Redis())).known())
    assert [worker.consumer for worker in known] == ["there", "x"]
