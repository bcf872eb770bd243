"""What was cancelled is not sent, and what another has taken over is not sent twice: with real processes under load.

    PUSHSVC_CHAOS_CANCEL=10000 PUSHSVC_CHAOS_SINGLES=8000 PUSHSVC_CHAOS_PAUSE=30000 pytest tests/chaos -k revocation -s

counts what the simulator has accepted when the answer of a cancel came, and at the end.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from pushsvc.lab.simulator import apns_token

from ..integration.servers import suspended
from .rig import LONG, Rig, cases, open_rig

pytestmark = pytest.mark.chaos

CANCEL = int(os.environ.get("PUSHSVC_CHAOS_CANCEL", "3000"))
"""Tokens of the push that is cancelled."""
SINGLES = int(os.environ.get("PUSHSVC_CHAOS_SINGLES", "500"))
"""Pushes of one token that are cancelled at once."""
PAUSE = int(os.environ.get("PUSHSVC_CHAOS_PAUSE", "3000"))
"""Deliveries under way when a dispatcher is stopped."""
ENDS = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")
STREAMS = 100
"""Requests in flight on each of a dispatcher's two connections, where a dispatcher is stopped."""
SETTLING = 400
"""Answered deliveries that a dispatcher has not recorded when it is stopped, at most: a batch."""


async def play(*acts: Callable[[Rig], Coroutine[Any, Any, None]], **setup: Any) -> None:
    """One after the other on one service, each with an account of its own."""
    async with open_rig(seed="revocation", **setup) as rig:
        for act in acts:
            await rig.begin()
            await act(rig)


async def post(rig: Rig, *unique: str, lane: str = "normal") -> str:
    tokens = [{"platform": "apns", "token": apns_token("ok", each)} for each in unique]
    document = {"to": {"tokens": tokens}, "lane": lane, "notification": {"title": "x"}}
    async with rig.session.post("/v1/push", json=document) as answer:
        body = await answer.json()
        assert answer.status == 202, body
        return str(body["id"])


async def status(rig: Rig, push: str, method: str = "GET") -> dict[str, Any]:
    async with rig.session.request(method, f"/v1/push/{push}") as answer:
        assert answer.status == 200
        document: dict[str, Any] = await answer.json()
        counts = document["counts"]
        assert counts["total"] == sum(count for name, count in counts.items() if name != "total"), counts
        return document


async def accepted(rig: Rig) -> int:
    return int((await rig.record())["accepted"])


async def cancels(rig: Rig, latency: float, *, limited: bool) -> None:
    """After the answer of a cancel, at most what was in flight goes out."""
    await rig.control("latency", seconds=latency)
    push = await post(rig, *(f"{latency}-{number}" for number in range(CANCEL)))
    seen: list[dict[str, int]] = []

    async def look() -> None:
        while True:
            seen.append((await status(rig, push))["counts"])
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())

    async def begun() -> bool:
        return await accepted(rig) > 0

    await rig.until("some have arrived", begun)
    began = time.monotonic()
    reported = await status(rig, push, "DELETE")
    took = time.monotonic() - began
    at_answer = await accepted(rig)
    in_flight = reported["counts"]["queued"]

    async def ended() -> bool:
        return bool((await status(rig, push))["state"] == "cancelled")

    await rig.until("nothing of the push is open", ended)
    await asyncio.sleep(max(1.0, 2 * latency))
    looking.cancel()
    counts = (await status(rig, push))["counts"]
    after = await accepted(rig) - at_answer
    print(
        f"\ncancel of {CANCEL:,} at {latency} s: {took:.3f} s; then {in_flight:,} in flight; accepted"
        f" {at_answer:,} by then and {after:,} more; {counts}"
    )
    assert reported["state"] == ("sending" if in_flight else "cancelled")
    assert after <= in_flight
    assert counts["sent"] + counts["cancelled"] == CANCEL
    if latency >= 2 or limited:  # there are more than go at once, however late the cancel comes on a busy machine
        assert counts["cancelled"] > 0
    assert counts["sent"] == at_answer + after
    for end in ENDS:
        numbers = [each[end] for each in seen]
        assert numbers == sorted(numbers), end


async def cancels_many(rig: Rig) -> None:
    """Many single pushes are cancelled at once."""
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> str:
        async with gate:
            return await post(rig, f"one-{number}")

    pushes = await asyncio.gather(*(one(number) for number in range(SINGLES)))

    async def cancel(push: str) -> dict[str, int] | None:
        async with gate, rig.session.delete(f"/v1/push/{push}") as answer:
            assert answer.status in (200, 409)  # it has been sent before
            return (await answer.json())["counts"] if answer.status == 200 else None

    before = await accepted(rig)
    began = time.monotonic()
    reported = [counts for counts in await asyncio.gather(*(cancel(push) for push in pushes)) if counts]
    took = time.monotonic() - began
    between = await accepted(rig) - before
    cancelled = sum(each["cancelled"] for each in reported)
    await rig.drained()
    at_the_end = [(await status(rig, push))["counts"] for push in pushes]
    arrived = await accepted(rig)
    after = arrived - before - between
    print(
        f"\n{SINGLES:,} singles: {before:,} sent before; {len(reported):,} cancelled in {took:.2f} s, {cancelled:,}"
        f" confirmed with the answer; {between:,} accepted meanwhile and {after:,} more"
    )
    assert after <= sum(each["queued"] for each in reported)
    assert sum(each["sent"] + each["cancelled"] for each in at_the_end) == SINGLES
    assert sum(each["sent"] for each in at_the_end) == arrived
    assert sum(each["cancelled"] for each in at_the_end) >= cancelled


async def stops_a_dispatcher(rig: Rig) -> None:
    """It sends nothing that another one has taken over."""
    takeover = 3.0
    await rig.control("latency", seconds=0.2)
    # Little is in flight at once, and much waits in memory: what is sent twice says which of them it was.
    await rig.control("streams", limit=STREAMS, platform="apns")
    size = 1000
    for number in range(PAUSE // size):
        await post(rig, *(f"{number}-{target}" for target in range(size)), lane="bulk")

    async def begun() -> bool:
        return await accepted(rig) > PAUSE / 20

    await rig.until("some have arrived", begun)
    victim = rig.pids("dispatch")[0]
    with suspended(victim):
        await asyncio.sleep(2 * takeover)
    await rig.drained()
    await asyncio.sleep(2.0)
    record = await rig.record()
    twice = record["accepted"] - record["distinct"]
    bound = 2 * STREAMS + SETTLING
    print(f"\nSIGSTOP for {2 * takeover:.0f} s of {PAUSE:,}: {twice:,} repeats (bound {bound:,})")
    assert record["distinct"] == PAUSE // size * size
    assert twice <= bound


async def test_what_was_cancelled_or_taken_over_is_not_sent() -> None:
    latencies = cases(2.0, 0.4, 0.02)
    await play(*(partial(cancels, latency=each, limited=False) for each in latencies), stops_a_dispatcher, dispatch=2)


async def test_what_waits_for_a_limit_is_cancelled() -> None:
    limited = [partial(cancels, latency=0.02, limited=True)] if LONG else []
    await play(*limited, cancels_many, dispatch=2, APPS__DEMO__LIMITS__PER_APP="600/min")
