"""The story that the demo tells, act by act, over the public API only. Each act checks what it shows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from ..errors import PushsvcError
from ..simulator import apns_token, fcm_token
from .demo_view import View
from .playground import Playground

PATIENCE = 30.0
HELD = re.compile(r'^pushsvc_route_held\{[^}]*platform="(\w+)",reason="(\w+)"[^}]*\} 1', re.MULTILINE)


class DemoError(PushsvcError):
    """The demo saw something that must not be."""


class Scene:
    """The service as a caller sees it: posts pushes, follows them, reads feedback and metrics."""

    def __init__(self, url: str, playground: Playground, view: View) -> None:
        self.view = view
        self.simulator = playground.simulator
        self._session = aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {playground.api_key}"})
        self._counts: dict[str, dict[str, int]] = {}
        self._serial = 0

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, trace)

    def apns(self, scenario: str = "ok", count: int = 1) -> list[dict[str, str]]:
        """Targets at the simulated APNs that answer by `scenario`."""
        return [{"platform": "apns", "token": apns_token(scenario, self._unique())} for _ in range(count)]

    def fcm(self, scenario: str = "ok", count: int = 1) -> list[dict[str, str]]:
        """Targets at the simulated FCM that answer by `scenario`."""
        return [{"platform": "fcm", "token": fcm_token(scenario, self._unique())} for _ in range(count)]

    async def send(self, tokens: Sequence[dict[str, str]], title: str, **fields: Any) -> str:
        """POST one push; its id."""
        body = {"to": {"tokens": list(tokens)}, "notification": {"title": title}, **fields}
        async with self._session.post("/v1/push", json=body) as answer:
            document = await answer.json()
            if answer.status != 202:
                raise DemoError(f"POST /v1/push answered {answer.status}: {document.get('detail')}")
            return str(document["id"])

    async def until(self, push: str, reached: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """Follow a push until its counts are as wanted."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            async with self._session.get(f"/v1/push/{push}") as answer:
                document = await answer.json()
            counts: dict[str, int] = document["counts"]
            self._counts[push] = counts
            self.view.show(self.totals(), await self.held())
            if counts["total"] != sum(count for name, count in counts.items() if name != "total"):
                raise DemoError(f"the counts of {push} do not balance: {counts}")
            if reached(counts):
                return counts
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"push {push} stands at {counts} after {PATIENCE:.0f} s")
            await asyncio.sleep(0.05)

    async def until_done(self, push: str) -> dict[str, int]:
        """Follow a push until nothing of it is queued."""
        return await self.until(push, lambda counts: not counts["queued"] and not counts["retrying"])

    async def held(self) -> str:
        """The routes that `/metrics` says are held."""
        async with self._session.get("/metrics") as answer:
            return ", ".join(f"{platform} ({reason})" for platform, reason in HELD.findall(await answer.text()))

    async def until_held(self, wanted: bool) -> str:
        """Wait until some route is held, or none is."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while bool(held := await self.held()) != wanted:
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"routes held: {held or 'none'} after {PATIENCE:.0f} s")
            self.view.show(self.totals(), held)
            await asyncio.sleep(0.05)
        self.view.show(self.totals(), held)
        return held

    async def feedback(self) -> list[dict[str, Any]]:
        """What `GET /v1/feedback` tells."""
        async with self._session.get("/v1/feedback") as answer:
            items: list[dict[str, Any]] = (await answer.json())["items"]
            return items

    def totals(self) -> dict[str, int]:
        """The counts of all pushes of the demo, added up."""
        totals: dict[str, int] = {}
        for counts in self._counts.values():
            for name, count in counts.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    async def background_traffic(self) -> None:
        """A little of everything, for as long as somebody watches."""
        mixed = self.apns(count=30) + self.fcm(count=30) + self.apns("ServiceUnavailable.1", 3)
        push = await self.send(mixed, "Something is going on", lane="bulk")
        counts = await self.until_done(push)
        self.view.say("sent", f"{counts['sent']} of {counts['total']}")
        await asyncio.sleep(1.0)

    def _unique(self) -> str:
        self._serial += 1
        return f"demo{self._serial}"


async def play(scene: Scene) -> None:
    """All acts. Raises `DemoError` when one does not end as it should."""
    for act in (sent, retried, pruned, held, totals):
        await act(scene)


def expect(counts: dict[str, int], **wanted: int) -> None:
    """Raises `DemoError` when a count differs."""
    for name, count in wanted.items():
        if counts[name] != count:
            raise DemoError(f"expected {name}={count}, the status document says {counts}")


async def sent(scene: Scene) -> None:
    push = await scene.send(scene.apns() + scene.fcm(), "Order 7 shipped", lane="urgent")
    scene.view.say("accepted", f"one push to an iPhone and an Android phone, id {push}")
    expect(await scene.until_done(push), sent=2)
    scene.view.say("sent", "both providers took it")
    push = await scene.send(scene.apns(count=2500) + scene.fcm(count=2500), "News", lane="bulk")
    scene.view.say("accepted", "one push to 5,000 tokens, lane bulk")
    expect(await scene.until_done(push), sent=5000)
    scene.view.say("sent", "5,000 of 5,000")


async def retried(scene: Scene) -> None:
    push = await scene.send(scene.apns("ServiceUnavailable.2", 3) + scene.apns(), "Twice unavailable")
    await scene.until(push, lambda counts: counts["retrying"] > 0)
    scene.view.say("retry", "APNs answers 503 to three of four; they wait in Redis, with back-off and jitter")
    expect(await scene.until_done(push), sent=4)
    scene.view.say("sent", "all four, the three at their third attempt")
    push = await scene.send(scene.fcm("INTERNAL.1") + scene.apns("BadPriority"), "One is refused")
    expect(await scene.until_done(push), sent=1, failed=1)
    scene.view.say("failed", "one refused for good (BadPriority): kept as a dead letter; its neighbour was sent")


async def pruned(scene: Scene) -> None:
    dead = scene.apns("Unregistered")
    push = await scene.send(dead + scene.apns(), "To a phone that is gone")
    expect(await scene.until_done(push), invalid=1, sent=1)
    scene.view.say("dead", "APNs says 410 Unregistered: that delivery ends as `invalid`")
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (events := [event for event in await scene.feedback() if event["token"] == dead[0]["token"]]):
        if asyncio.get_running_loop().time() > deadline:
            raise DemoError("the dead token never came up in /v1/feedback")
        await asyncio.sleep(0.05)
    scene.view.say("dead", f"feedback: reason {events[0]['reason']}, action {events[0]['action']}")
    push = await scene.send(dead + scene.apns(), "Once more to the same phones")
    expect(await scene.until_done(push), suppressed=1, sent=1)
    scene.view.say("dead", "the next push does not go to it any more: `suppressed`")


async def held(scene: Scene) -> None:
    await asyncio.to_thread(scene.simulator.break_credentials, "apns")
    scene.view.say("held", "APNs refuses our credentials from now on")
    push = await scene.send(scene.apns(count=200) + scene.fcm(count=200), "Through a bad minute")
    where = await scene.until_held(True)
    counts = await scene.until(push, lambda counts: counts["sent"] >= 200)
    scene.view.say("held", f"{where}: {counts['sent']} sent by FCM, {counts['total'] - counts['sent']} wait, 0 failed")
    await asyncio.to_thread(scene.simulator.mend_credentials, "apns")
    scene.view.say("mended", "the credentials are good again; the next probe finds out by itself")
    await scene.until_held(False)
    expect(await scene.until_done(push), sent=400)
    scene.view.say("resumed", "400 of 400 sent, no token lost")


async def totals(scene: Scene) -> None:
    counts = scene.totals()
    ends = ", ".join(f"{name} {counts[name]:,}" for name in ("sent", "failed", "invalid", "suppressed"))
    record = await asyncio.to_thread(scene.simulator.record)
    duplicates = sum(record[platform]["duplicates"] for platform in ("apns", "fcm"))
    scene.view.say("totals", f"{counts['total']:,} accepted = {ends}")
    scene.view.say("totals", f"by the simulator's record {duplicates} of them arrived twice")
    if duplicates:
        raise DemoError(f"the simulator accepted {duplicates} pushes twice")
