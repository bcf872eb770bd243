"""The wall clock of a process jumps, by an hour forth and by an hour back, while it sends.

The clock is an argument of the store and of the dispatcher, so it can be set here without setting the machine's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pushsvc.dispatch import DispatchConfig, Dispatcher
from pushsvc.model import Content, Lane, Push, Route, Target
from pushsvc.policy import RetryPolicy
from pushsvc.providers import REGISTRY
from pushsvc.simulator import Simulator, SimulatorConfig, apns_token
from pushsvc.store import open_store, token_hash

from ..integration.servers import running_server

pytestmark = pytest.mark.chaos

HOUR = 3600.0
DAY_MS = 86_400_000


class JumpingClock:
    """The machine's clock, set wrong by `off` seconds."""

    def __init__(self) -> None:
        self.off = 0.0

    def seconds(self) -> float:
        return time.time() + self.off

    def millis(self) -> int:
        return int(self.seconds() * 1000)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_the_clock_loses_nothing_and_repeats_nothing(tmp_path: Path, jump: float) -> None:
    async def main() -> None:
        clock = JumpingClock()
        with running_server() as server:
            async with Simulator(SimulatorConfig(latency=0.02)) as simulator:
                credentials = simulator.write_credentials(tmp_path)
                config = REGISTRY["apns"].config(
                    key_file=str(credentials.apns_key_file),
                    key_id=credentials.key_id,
                    team_id=credentials.team_id,
                    topic=credentials.topic,
                    endpoint=simulator.apns_url,
                    ca_file=str(credentials.ca_file),
                )
                await _send_through(server.url, clock, config, jump)
                record = simulator.record.apns
                assert (record.accepted, record.duplicates) == (3000, 0)

    asyncio.run(main())


async def _send_through(url: str, clock: JumpingClock, config: Any, jump: float) -> None:
    route = Route("shop", "apns")
    async with (
        open_store(url, clock=clock.millis) as store,
        REGISTRY["apns"].open_provider(route, config, request_timeout=10.0) as provider,
    ):
        dispatcher = Dispatcher(
            store.queue,
            [provider],
            DispatchConfig(retry=RetryPolicy(base=0.05, server_error={})),
            hash_token=partial(token_hash, store.hash_key),
            wall_clock=clock.seconds,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(dispatcher.run(stop))
        for number, off in enumerate((0.0, jump, 0.0)):
            # What is retried waits for a due time of the one clock while the other one begins.
            clock.off = off
            await store.pushes.accept(_push(number, clock.millis()))
        counts: Counter[str] = Counter()
        deadline = time.monotonic() + 60
        while counts["sent"] < 3000:
            assert not running.done(), running.result()
            assert time.monotonic() < deadline, counts
            counts = Counter()
            for number in range(3):
                status = await store.pushes.status("shop", f"push-{number}")
                assert status is not None
                each = msgspec.to_builtins(status.counts)
                assert each["total"] == sum(n for name, n in each.items() if name != "total"), each
                counts.update(each)
            await asyncio.sleep(0.02)
            # A retry that fell due by a clock an hour fast waits for that hour: it is never sent too early.
            clock.off = jump if counts["retrying"] and jump > 0 else 0.0
        assert +counts == {"total": 3000, "sent": 3000}
        stop.set()
        await running


def _push(number: int, now: int) -> Push:
    lane: Lane = "normal"
    message = REGISTRY["apns"].renderer.render(
        msgspec.convert({"notification": {"title": "clock"}}, Content), push_id=f"push-{number}", starts_at=now
    )
    # Once each: a run of retries that are all refused again would be trouble of the route, which is held then.
    scenarios = ["ServiceUnavailable.1" if index % 10 == 0 else "ok" for index in range(1000)]
    return Push(
        id=f"push-{number}",
        app="shop",
        lane=lane,
        created_at=now,
        expires_at=now + DAY_MS,
        messages={"apns": message},
        targets={
            "apns": tuple(
                Target(index, apns_token(scenario, f"{number}-{index}")) for index, scenario in enumerate(scenarios)
            )
        },
    )
