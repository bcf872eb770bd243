"""A provider that wants less of everything, and pushes that it refuses for a topic of their own.

PUSHSVC_CHAOS_THROTTLED=20000 PUSHSVC_CHAOS_OWN_TOPIC=500 pytest tests/chaos/test_throttled.py -s
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from .neighbours import Pair, Platform, Stopwatch, compared, in_turns, open_pair, p99, targets, total
from .rig import cases

pytestmark = pytest.mark.chaos

THROTTLED = int(os.environ.get("PUSHSVC_CHAOS_THROTTLED", "2000"))
"""Deliveries that meet the throttle."""
OWN_TOPIC = int(os.environ.get("PUSHSVC_CHAOS_OWN_TOPIC", "100"))
"""Deliveries that are refused for their own topic."""
ROUNDS = 5 if OWN_TOPIC >= 500 else 2
"""Turns without and beside them."""
LONG = THROTTLED >= 20_000
SPAN = 12.0 if LONG else 3.0
RETRY_AFTER = 5 if LONG else 1
IN_FLIGHT = {"apns": 2 * 1000, "fcm": 2 * 100}
"""Requests at once at most: connections by the streams that the simulator allows on each."""
A_FEW = 4
"""Requests a second that are no more than probes."""
DEFAULTS: dict[str, Any] = {"RETRY__ATTEMPTS": "8", "RETRY__BASE": "1", "RETRY__CAP": "900", "RETRY__APNS_5XX": "5"}


@pytest.mark.parametrize(("platform", "status"), cases(("fcm", 429), ("apns", 503), ("fcm", 503)))
async def test_a_throttle_of_the_whole_route_slows_everything_to_probes(platform: Platform, status: int) -> None:
    async with open_pair(seed=f"throttle {platform} {status}", **DEFAULTS) as pair:
        name = "throttle" if status == 429 else "unavailable"
        fields = {"rate": 1e-9} if status == 429 else {"on": True}
        await asyncio.to_thread(pair.second.control, name, platform=platform, retry_after=RETRY_AFTER, **fields)
        if status == 429:
            # The first of a burst of one passes.
            await pair.post(targets(platform, "first", 1), other=True)
            await pair.rig.until("the burst is used up", lambda: past(pair, platform, 1))
        before = await total(pair.second, platform)
        began = time.monotonic()
        pushes = [await pair.post(targets(platform, f"{n}", 1000), other=True) for n in range(THROTTLED // 1000)]
        seen: list[int] = []
        while time.monotonic() - began < SPAN:
            await asyncio.sleep(SPAN / 12)
            seen.append(await total(pair.second, platform) - before)
        async with pair.rig.session.get("/readyz") as answer:
            held = (await answer.json()).get("held", {})
        await asyncio.to_thread(pair.second.control, "calm", platform=platform)
        await asyncio.to_thread(pair.second.control, "latency", platform=platform, seconds=0.05)
        over = time.monotonic()
        for push in pushes:

            async def done(push: str = push) -> bool:
                counts = await pair.counts(push, other=True)
                assert counts.keys() <= {"total", "sent", "queued", "retrying"}, counts
                return counts.get("sent") == 1000

            await pair.rig.until("each delivery is sent", done)
        print(
            f"\n{status} with Retry-After {RETRY_AFTER} under {THROTTLED:,} ({platform}): requests each"
            f" {SPAN / 12:.2f} s {seen}; all sent {time.monotonic() - over:.1f} s after its end; held {list(held)}"
        )
        assert held
        assert seen[-1] <= IN_FLIGHT[platform] + A_FEW * SPAN
        # What was in flight has come back by the middle; from then on there are probes alone.
        assert seen[-1] - seen[len(seen) // 2] <= A_FEW * SPAN


async def past(pair: Pair, platform: Platform, count: int) -> bool:
    return await total(pair.second, platform) >= count


async def test_pushes_refused_for_their_own_topic_delay_nobody() -> None:
    async with open_pair(seed="own topic", **DEFAULTS) as pair:
        watch = Stopwatch(pair, pair.second, "apns", other=True)
        own = {"apns": {"headers": {"apns-topic": "com.example.shop.voip", "apns-push-type": "voip"}}}
        bad: list[str] = []

        async def refused(number: int) -> None:
            for each in range(OWN_TOPIC // ROUNDS):
                scenario = ("TopicDisallowed", "BadTopic")[each % 2]
                tokens = targets("apns", f"bad-{number}-{each}", 1, scenario)
                bad.append(await pair.post(tokens, other=True, overrides=own))

        @asynccontextmanager
        async def busy(number: int) -> AsyncIterator[None]:
            posting = asyncio.create_task(refused(number))
            yield
            await posting

        await watch.seconds(1.0)
        without, beside = await in_turns(watch, 4.0 if OWN_TOPIC >= 500 else 1.0, ROUNDS, busy)
        for push in bad:

            async def ended(push: str = push) -> bool:
                return (await pair.counts(push, other=True)).get("failed") == 1

            await pair.rig.until("each refused one has ended", ended)
        print(f"\n{len(bad)} refused for their own topic: {compared(without, beside)}")
        async with pair.rig.session.get("/readyz") as answer:
            assert not (await answer.json()).get("held")
        # The suite shares its cores: there only what waits for the refused ones is a fault, and that takes seconds.
        assert p99(beside) < (max(1.5 * p99(without), 250.0) if LONG else 5000.0)
