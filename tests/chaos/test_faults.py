"""One fault after the other under load, and the books balance after each.

    make chaos          100,000 deliveries a fault
    PUSHSVC_CHAOS_DELIVERIES=4000 PUSHSVC_CHAOS_SEED=7 pytest tests/chaos -s

After each fault: the sum of all status documents is what was accepted, every one of them has ended as it should,
every accepted delivery is in the simulator's record, and what arrived twice arrived under the same identity
(`apns-id`; for FCM the whole message) and was in flight at the fault.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from .rig import DELIVERIES, LONG, SEED, UNRECORDED, WINDOW, Rig, open_rig

pytestmark = pytest.mark.chaos

BLOWS = 5 if LONG else 1
"""How often a fault strikes in one load."""
SPAN = 30.0 if LONG else 2.0
"""Seconds that a lasting trouble lasts."""
IN_FLIGHT = sum(WINDOW.values())
TIMEOUT = 10
"""Seconds after which a request is given up. What is given up may have been accepted, so this is longer than a
simulator takes that has to share its core."""

Fault = Callable[[Rig], Awaitable[None]]


async def under_load(rig: Rig, fault: Fault, blows: int = BLOWS) -> None:
    """Post the load, and let the fault strike `blows` times, evenly spread over it."""
    load = asyncio.create_task(rig.load())
    try:
        for blow in range(blows):
            await rig.arrived((blow + 1) / (blows + 2))
            await fault(rig)
        await load
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def account(rig: Rig, name: str, *, repeats: int) -> None:
    """Everything that must be true afterwards; at most `repeats` deliveries may have arrived more than once."""
    ledger = rig.ledger
    started = time.monotonic()
    counts = await rig.balance()
    await rig.drained()
    record = await rig.record()
    twice = record["accepted"] - record["distinct"]
    print(
        f"\n{name:<22} seed {SEED}: accepted {ledger.accepted:,} in {len(ledger.pushes):,} pushes,"
        f" doubtful {ledger.doubtful:,}; ended {dict(counts)} {time.monotonic() - started:.1f} s after the load;"
        f" arrived {record['accepted']:,}, repeats {twice:,} (bound {repeats:,})"
    )
    assert ledger.accepted >= DELIVERIES
    assert counts["total"] == ledger.accepted
    assert counts["invalid"] + counts["suppressed"] == len(ledger.dead)
    assert counts["sent"] == ledger.accepted - len(ledger.dead)
    assert set(counts) <= {"total", "sent", "invalid", "suppressed"}
    living = ledger.accepted - len(ledger.dead)
    assert living <= record["distinct"] <= living + ledger.doubtful
    # As many identities as living tokens: whatever came twice for a token came under one identity.
    nameless = sum(record[platform]["distinct_tokens"] for platform in ("apns", "fcm")) - record["distinct"]
    assert len(ledger.dead) <= nameless <= len(ledger.dead) + ledger.doubtful_dead
    assert 0 <= twice <= repeats


async def roll(rig: Rig) -> None:
    """Every process is stopped, one after the other."""
    for part in ("serve", "dispatch", "jobs"):
        for _ in range(len(rig.pids(part))):
            await rig.kill(part, signal.SIGTERM)


async def reload(rig: Rig) -> None:
    """SIGHUP to the supervisor, with connections of another window in the file each time."""
    file = rig.playground.config_file
    senders = len(rig.pids("dispatch"))
    connections = (await asyncio.to_thread(rig.playground.simulator.state))["apns"]["connections"]
    wanted = 3 if connections == 2 * senders else 2
    text = file.read_text().replace("connections = 3\n", "")
    file.write_text(text.replace(".apns]\n", ".apns]\nconnections = 3\n") if wanted == 3 else text)
    before = {part: rig.pids(part) for part in ("serve", "dispatch", "jobs")}
    os.kill(os.getpid(), signal.SIGHUP)

    async def exchanged() -> bool:
        state = await asyncio.to_thread(rig.playground.simulator.state)
        return bool(state["apns"]["connections"] == wanted * senders)

    await rig.until("the new connections have taken the old ones' place", exchanged)
    assert {part: rig.pids(part) for part in before} == before, "a reload ends no process"


async def test_processes_killed_stopped_and_reloaded() -> None:
    async with open_rig(seed="processes", serve=2, dispatch=2, RETRY__REQUEST_TIMEOUT=str(TIMEOUT)) as rig:
        await under_load(rig, reload)
        await account(rig, "SIGHUP", repeats=0)
        await rig.begin()
        await under_load(rig, lambda rig: rig.kill("serve"))
        await account(rig, "kill -9 serve", repeats=0)
        await rig.begin()
        await under_load(rig, lambda rig: rig.kill("dispatch"))
        await account(rig, "kill -9 dispatch", repeats=BLOWS * (IN_FLIGHT + UNRECORDED))
        await rig.begin()
        await under_load(rig, lambda rig: rig.kill("jobs"))
        await account(rig, "kill -9 jobs", repeats=0)

        async def all_reported() -> bool:
            return set(await rig.feedback_tokens()) >= rig.ledger.dead

        await rig.until("feedback reports each dead token", all_reported)
        await rig.begin()
        await under_load(rig, roll)
        await account(rig, "rolling restart", repeats=0)


async def storm(rig: Rig) -> None:
    """Ten GOAWAYs, some orderly and some at once."""
    for _ in range(10):
        await rig.control("goaway", graceful=rig.rng.random() < 0.5)
        await asyncio.sleep(0.05)


async def silence(rig: Rig) -> None:
    """No answers for longer than the request timeout."""
    await rig.control("stall", on=True)
    await asyncio.sleep(max(SPAN, TIMEOUT) + 2)
    await rig.control("stall", on=False)


async def refuse(rig: Rig) -> None:
    """Good credentials are called bad for a while."""
    await rig.control("credentials", refuse=True)
    await asyncio.sleep(min(SPAN, 20))
    await rig.control("credentials", refuse=False)


async def test_connections_and_providers_in_trouble() -> None:
    async with open_rig(seed="providers", RETRY__REQUEST_TIMEOUT=str(TIMEOUT)) as rig:
        await under_load(rig, lambda rig: rig.control("drop"), 3 * BLOWS)
        # What was on the wire may have been accepted: its answer went down with the connection.
        await account(rig, "connections cut", repeats=3 * BLOWS * IN_FLIGHT)
        await rig.begin()
        await under_load(rig, storm, 2 * BLOWS)
        await account(rig, "GOAWAY storm", repeats=0)
        await rig.begin()
        await under_load(rig, lambda rig: rig.control("unavailable", seconds=SPAN), 1)
        await account(rig, f"503 for {SPAN:.0f} s", repeats=0)
        await rig.begin()
        await under_load(rig, silence, 1)
        # The simulator judges at the end what it held and nobody waits for any more.
        await account(rig, "silent provider", repeats=IN_FLIGHT)
        await rig.begin()
        await under_load(rig, refuse, 1)
        await account(rig, "credentials refused", repeats=0)


async def test_redis_goes_and_comes_back() -> None:
    """What it has answered is on its disk at SIGKILL if it syncs always, and at SIGTERM in any case."""

    async def restart(rig: Rig, number: signal.Signals) -> None:
        await asyncio.to_thread(rig.store.stop, number)
        await asyncio.sleep(0.5 * BLOWS)
        await asyncio.to_thread(rig.store.start)

    async with open_rig(seed="redis", RETRY__REQUEST_TIMEOUT=str(TIMEOUT)) as rig:
        for number, fsync in ((signal.SIGKILL, "always"), (signal.SIGTERM, "everysec")):
            await asyncio.to_thread(rig.store.sync, fsync)
            await rig.begin()
            await under_load(rig, partial(restart, number=number))
            await account(rig, f"Redis {number.name}", repeats=0)
