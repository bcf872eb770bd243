"""What one app asks for does not hold another's: audiences, replays, webhooks, broadcasts.

PUSHSVC_CHAOS_DEVICES=100000 PUSHSVC_CHAOS_BULK=50000 pytest tests/chaos/test_two_apps.py -s
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pushsvc.lab.simulator import apns_token
from pushsvc.model.devices import Device
from pushsvc.store import open_store

from ..integration.ports import free_ports
from .neighbours import Pair, Stopwatch, compared, in_turns, open_pair, p99, says, targets
from .rig import LATENCY

pytestmark = pytest.mark.chaos

DEVICES = int(os.environ.get("PUSHSVC_CHAOS_DEVICES", "3000"))
"""Registered with each of the two apps."""
BULK = int(os.environ.get("PUSHSVC_CHAOS_BULK", "3000"))
"""Deliveries of the broadcast that goes beside another app's pushes."""
LONG = DEVICES >= 100_000
ROUNDS = 6 if LONG or BULK >= 50_000 else 1
"""Turns without and beside it."""
SPAN = 15.0 if ROUNDS > 1 else 2.0
EVERY = 0.1
"""Seconds between two pushes to an audience of nobody."""
SLACK = 250.0
"""Milliseconds that a busy machine is forgiven where the figures are small."""
RECEIVER = Path(__file__).parent.parent / "integration" / "webhook_receiver.py"


async def audiences_of_nobody(pair: Pair) -> None:
    for app in ("demo", "other"):
        await register(pair, app, DEVICES)
    topics = await pair.topics_of_one(other=True)
    over = asyncio.Event()
    posted: list[str] = []

    async def nobody() -> None:
        began = time.monotonic()
        while not over.is_set():
            document = {"to": {"where": f"tags.plan == 'none-{len(posted)}'"}, "notification": {"title": "x"}}
            async with pair.rig.session.post("/v1/push", json=document) as answer:
                assert answer.status == 202, await answer.text()
                posted.append((await answer.json())["id"])
            await asyncio.sleep(max(0.0, began + len(posted) * EVERY - time.monotonic()))

    posting = asyncio.create_task(nobody())
    await asyncio.sleep(SPAN / 2)
    watch = Stopwatch(pair, pair.second, "apns", other=True, topics=topics)
    took = await watch.seconds(SPAN)
    over.set()
    await posting
    print(
        f"\n{len(posted)} audiences of nobody of {DEVICES:,}: another app's topic of one {says(took)},"
        f" at most {took[-1]:.2f} s"
    )
    assert took[-1] < (3.0 if LONG else 30.0)
    for push in posted:  # What is measured next must not stand behind them.

        async def ended(push: str = push) -> bool:
            status = await pair.rig.status(push)
            return status is not None and status["state"] == "done"

        await pair.rig.until("each audience of nobody is looked up", ended)


async def register(pair: Pair, app: str, count: int) -> None:
    async with open_store(pair.rig.store.url) as store:
        now = int(time.time() * 1000)
        for first in range(0, count, 500):
            devices = [
                Device(
                    id=f"device-{number}",
                    platform="apns",
                    token=apns_token("ok", f"{app}-{number}"),
                    tags={"plan": "free"},
                    registered_at=now,
                    last_seen_at=now,
                )
                for number in range(first, min(first + 500, count))
            ]
            await store.registry.put_many(app, devices)


async def a_slow_replay_and_a_slow_webhook(pair: Pair, record: Path) -> None:
    watch = Stopwatch(pair, pair.second, "apns", other=True, topics=await pair.topics_of_one(other=True))
    await watch.seconds(1.0)
    without = await watch.seconds(SPAN)
    dead = await pair.post(targets("apns", "refused", 20, "BadPriority"))
    await pair.post(targets("apns", "gone", 20, "Unregistered"))
    await pair.rig.until("dead letters", lambda: failed(pair, dead, 20))
    async with pair.rig.session.post("/v1/failed/replay", json={"rate": 0.1}) as answer:
        assert answer.status == 202, await answer.text()
    await pair.rig.until("the receiver is called", lambda: record.exists() and bool(record.read_text()))
    beside = await watch.seconds(SPAN)
    print(f"\nslow replay and webhook beside another app's topic: {compared(without, beside)}")
    # The suite shares its cores: there only what waits for the other app is a fault, and that takes seconds.
    assert p99(beside) < (max(1.5 * p99(without), SLACK) if LONG else 5000.0)


async def failed(pair: Pair, push: str, count: int) -> bool:
    return (await pair.counts(push)).get("failed") == count


async def bulk(pair: Pair) -> None:
    watch = Stopwatch(pair, pair.second, "apns", other=True)
    await asyncio.to_thread(pair.first.control, "latency", seconds=0.2)
    size = 1000

    @asynccontextmanager
    async def busy(number: int) -> AsyncIterator[None]:
        pushes = [
            await pair.post(targets("apns", f"bulk-{number}-{each}", size), lane="bulk")
            for each in range(BULK // size // ROUNDS)
        ]
        yield
        for push in pushes:

            async def sent(push: str = push) -> bool:
                return (await pair.counts(push)).get("sent") == size

            await pair.rig.until("all of it is sent", sent)

    await watch.seconds(1.0)
    without, beside = await in_turns(watch, 2.0, ROUNDS, busy)
    await asyncio.to_thread(pair.first.control, "latency", seconds=LATENCY)
    print(f"\n{BULK:,} bulk of one app beside another's urgent pushes: {compared(without, beside)}")
    # The suite shares its cores: there only what waits for the other app is a fault, and that takes seconds.
    assert p99(beside) < (max(1.5 * p99(without), SLACK) if LONG else 5000.0)


async def test_what_one_app_asks_for_does_not_hold_another() -> None:
    """Bulk, then audiences of nobody, then a slow replay and a slow webhook of the first app, on one service."""
    secret, port = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(), free_ports()
    more = (
        f'[apps.demo.webhook]\nurl = "http://127.0.0.1:{port}/"\nsecret = "{secret}"\nallow_private = true\nbatch = 1\n'
    )

    with TemporaryDirectory(prefix="ps-") as folder:
        record = Path(folder) / "calls"
        words = [sys.executable, str(RECEIVER), str(port), secret, str(record), '["slow:14", "slow:14", "slow:14"]']
        receiver = await asyncio.create_subprocess_exec(*words)
        try:
            async with open_pair(seed="two apps", more=more) as pair:
                await bulk(pair)
                await audiences_of_nobody(pair)
                await a_slow_replay_and_a_slow_webhook(pair, record)
        finally:
            receiver.kill()
            await receiver.wait()
