"""An outage of a provider costs no delivery its life, and disturbs nobody else.

    PUSHSVC_CHAOS_OUTAGE=180 PUSHSVC_CHAOS_OUTAGE_DELIVERIES=10000 pytest tests/chaos/test_outages.py -s

With a span of 60 s or more `[retry]` is the default one, with Apple's 15 minutes after a 5xx.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial

import pytest

from pushsvc.lab.simulator import SimulatorHandle

from .neighbours import Pair, Stopwatch, open_pair, p99, says, targets, total
from .rig import cases

pytestmark = pytest.mark.chaos

SPAN = float(os.environ.get("PUSHSVC_CHAOS_OUTAGE", "3"))
"""Seconds that an outage lasts."""
DELIVERIES = int(os.environ.get("PUSHSVC_CHAOS_OUTAGE_DELIVERIES", "1000"))
"""On each of the two routes in trouble."""
CALM = min(SPAN, 10.0)
REAL = {"ATTEMPTS": "8", "BASE": "1", "CAP": "900", "REQUEST_TIMEOUT": "10", "APNS_5XX": "900", "FCM_5XX": "10"}
SHORT = {"ATTEMPTS": "2", "BASE": "0.2", "CAP": "900", "REQUEST_TIMEOUT": "1", "APNS_5XX": "1", "FCM_5XX": "1"}
RETRY = {f"RETRY__{name}": value for name, value in (REAL if SPAN >= 60 else SHORT).items()}
PATIENCE = 1500.0 if SPAN >= 60 else 60.0


async def begin(trouble: str, handle: SimulatorHandle) -> None:
    if trouble == "refused":
        handle.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(handle.process.wait)
    elif trouble == "503":
        await asyncio.to_thread(handle.control, "unavailable", on=True)
    else:
        await asyncio.to_thread(handle.control, "stall", on=True)


async def end(trouble: str, handle: SimulatorHandle) -> None:
    if trouble == "refused":
        assert await asyncio.to_thread(handle.revive)
    elif trouble == "503":
        await asyncio.to_thread(handle.control, "unavailable", on=False)
    else:
        await asyncio.to_thread(handle.control, "stall", on=False)


@pytest.mark.parametrize("trouble", cases("503", "silence", "refused"))
async def test_an_outage_ends_no_delivery_and_disturbs_no_other_route(trouble: str) -> None:
    async with open_pair(seed=f"outage {trouble}", crossed=True, **RETRY) as pair:
        await story(pair, trouble)


async def story(pair: Pair, trouble: str) -> None:
    # Of `demo` the FCM route is in trouble and its APNs is not, of `other` the reverse.
    watches = [Stopwatch(pair, pair.first, "apns", other=False), Stopwatch(pair, pair.first, "fcm", other=True)]
    warm = [await pair.post(targets(p, "warm", 1), other=p == "apns") for p in ("apns", "fcm")]
    for push, other in zip(warm, (True, False), strict=True):
        await pair.rig.until("it is warm", partial(sent, pair, push, 1, other=other))
    without = await asyncio.gather(*(watch.seconds(CALM) for watch in watches))

    await begin(trouble, pair.second)
    began = time.monotonic()
    pushes = {
        "fcm": [await pair.post(targets("fcm", f"{n}", 500)) for n in range(DELIVERIES // 500)],
        "apns": [await pair.post(targets("apns", f"{n}", 500), other=True) for n in range(DELIVERIES // 500)],
    }
    beside = asyncio.gather(*(watch.seconds(SPAN - (time.monotonic() - began)) for watch in watches))
    counted: list[tuple[int, int]] = []
    while time.monotonic() - began < SPAN:
        if trouble != "refused":
            counted.append((await total(pair.second, "apns"), await total(pair.second, "fcm")))
        await asyncio.sleep(min(1.0, SPAN / 4))
    with_trouble = await beside
    async with pair.rig.session.get("/readyz") as answer:
        ready = await answer.json()
    for index, platform in enumerate(("apns", "fcm")):
        meanwhile = [each[index] for each in counted] or [0]
        rate = (meanwhile[-1] - meanwhile[len(meanwhile) // 3]) / (SPAN * 2 / 3)
        print(
            f"\n{trouble} for {SPAN:.0f} s, {platform}, {DELIVERIES:,} deliveries: {meanwhile[-1]:,} requests,"
            f" {rate:.2f}/s in its last two thirds; urgent of the app's other provider {says(without[index])} without,"
            f" {says(with_trouble[index])} beside",
            flush=True,
        )
    print(f"held: {ready.get('held')}")
    await end(trouble, pair.second)
    over = time.monotonic()

    async def drained(platform: str) -> tuple[float, float]:
        """Seconds until 90 % are sent, and until all are."""
        waiting, most = list(pushes[platform]), 0.0
        while waiting:
            await asyncio.sleep(0.2)
            done = 0
            for push in list(waiting):
                counts = await pair.counts(push, other=platform == "apns")
                done += counts.get("sent", 0)
                assert counts.keys() <= {"total", "sent", "queued", "retrying"}, counts
                if counts.get("sent") == counts["total"]:
                    waiting.remove(push)
            if not most and done + 500 * (len(pushes[platform]) - len(waiting)) >= 0.9 * DELIVERIES:
                most = time.monotonic() - over
                print(f"{platform}: 90 % sent {most:.1f} s after the outage", flush=True)
            assert time.monotonic() - over < PATIENCE, f"{platform}: {len(waiting)} pushes have not ended"
        return most, time.monotonic() - over

    apns, fcm = await asyncio.gather(drained("apns"), drained("fcm"))
    record = await asyncio.to_thread(pair.second.record)
    for index, platform in enumerate(("apns", "fcm")):
        most, took = (apns, fcm)[index]
        print(
            f"{trouble}, {platform}: 90 % sent {most:.1f} s and all {took:.1f} s after the outage; failed 0; accepted"
            f" twice {record[platform]['accepted'] - record[platform]['distinct']:,}"
        )
        assert record[platform]["distinct"] >= DELIVERIES
    for calm, busy in zip(without, with_trouble, strict=True):
        # Where it had to wait for the outage it would be seconds; a busy machine is forgiven some.
        # The suite shares its cores: there only what waits for the other provider is a fault.
        assert p99(busy) < (max(2 * p99(calm), 1000.0) if SPAN >= 60 else 5000.0)


async def sent(pair: Pair, push: str, count: int, *, other: bool) -> bool:
    return (await pair.counts(push, other=other)).get("sent") == count
