"""The wall clock of a process is an hour off: it jumps while it sends, or is wrong from the start and then put right.

The clock is an argument of the store and of the dispatcher, so it can be set here without setting the machine's. The
processes of a whole service read theirs through a module that Python loads before anything else.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pushsvc.lab.simulator import Simulator, SimulatorConfig, apns_token, fcm_token
from pushsvc.model.push import Content, Lane, Push, Route, Target
from pushsvc.providers import REGISTRY
from pushsvc.rules.policy import RetryPolicy
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.store import open_store

from ..integration.servers import running_server
from .rig import cases, open_rig

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
async def test_a_jump_of_the_clock_loses_nothing_and_repeats_nothing(tmp_path: Path, jump: float) -> None:
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
            hash_token=store.token_hash,
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


SHIFT = """
import datetime
import os
import sys
import time

if {"serve", "dispatch", "feedback", "jobs"} & set(sys.orig_argv):
    seconds, nanoseconds = time.time, time.time_ns

    def off():
        try:
            with open(os.environ["CLOCK_OFF"]) as file:
                return int(file.read() or 0)
        except OSError:
            return 0

    time.time = lambda: seconds() + off()
    time.time_ns = lambda: nanoseconds() + off() * 1_000_000_000

    import google.auth._helpers as google

    right = google.utcnow
    google.utcnow = lambda: right() + datetime.timedelta(seconds=off())
"""
"""A `sitecustomize` that sets the wall clock of each part by a file; the providers' and Redis' clocks stay right."""

WRONG = HOUR + 120
"""Seconds: what is signed for an hour by a clock so far behind has ended when it is shown."""
OFF = [
    pytest.param((WRONG,), id="ahead"),
    pytest.param((-WRONG,), id="behind"),
    pytest.param((0, WRONG), id="set ahead"),
    pytest.param((0, -WRONG), id="set back"),
]


@pytest.mark.parametrize("clocks", cases(*OFF))
async def test_a_clock_that_was_wrong_at_the_start_and_is_put_right(
    clocks: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the providers refuse because of it waits without a loss, is said, and flows once the clock is right."""
    off = tmp_path / "off"
    (tmp_path / "sitecustomize.py").write_text(SHIFT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("CLOCK_OFF", str(off))

    def set_clock(seconds: float) -> None:
        beside = tmp_path / "off.new"
        beside.write_text(str(int(seconds)))
        beside.replace(off)

    set_clock(clocks[0])
    async with open_rig(seed=f"clock {clocks}") as rig:
        pushes = []

        async def post(name: str) -> None:
            tokens = [
                {"platform": platform, "token": make("ok", f"{name}-{index}")}
                for platform, make in (("apns", apns_token), ("fcm", fcm_token))
                for index in range(100)
            ]
            body = {"to": {"tokens": tokens}, "notification": {"title": name}, "ttl": 600}
            async with rig.session.post("/v1/push", json=body) as answer:
                assert answer.status == 202, await answer.text()
                pushes.append((await answer.json())["id"])

        async def sent() -> bool:
            for push in pushes:
                async with rig.session.get(f"/v1/push/{push}") as answer:
                    counts = (await answer.json())["counts"]
                assert counts["total"] == counts["sent"] + counts["queued"] + counts["retrying"] == 200, counts
                if counts["sent"] < 200:
                    return False
            return True

        if len(clocks) > 1:
            await post("right")
            await rig.until("what was posted before is sent", sent)
            set_clock(clocks[1])
        await post("wrong")
        held: dict[str, str] = {}

        async def both_held() -> bool:
            async with rig.session.get("/readyz") as answer:
                held.update((await answer.json()).get("held", {}))
            return {"demo/apns", "demo/fcm"} <= held.keys()

        async def nothing_held() -> bool:
            async with rig.session.get("/readyz") as answer:
                return "held" not in await answer.json()

        if len(clocks) == 1:  # What was signed while it was right may still hold.
            await rig.until("both routes are held", both_held)
            assert all("clock" in text for text in held.values()), held
        await post("still-wrong")
        set_clock(0)
        began = time.monotonic()
        await rig.until("everything is sent", sent)
        await rig.until("nothing is held", nothing_held)
        took = time.monotonic() - began
        with capsys.disabled():
            print(f"\nclock off by {clocks}: everything flows {took:.1f} s after it is right")
