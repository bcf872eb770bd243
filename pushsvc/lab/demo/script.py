"""The script of the demo, act by act, over the public API only. Each act checks its own result."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from ...client import AsyncClient
from ...errors import PushsvcError
from ..phones.fleet import Fleet, FleetConfig, open_fleet
from ..phones.phone import Phone, State
from ..phones.tokens import ApiTokens
from ..playground import Playground
from ..simulator import apns_token, fcm_token
from .view import View

PATIENCE = 30.0
HELD = re.compile(r'^pushsvc_route_held\{[^}]*platform="(\w+)",reason="(\w+)"[^}]*\} 1', re.MULTILINE)


class DemoError(PushsvcError):
    """The demo saw something that must not be."""


class Scene:
    """The service as a caller sees it: posts pushes, follows them, reads feedback and metrics."""

    def __init__(self, api: AsyncClient, live_url: str, playground: Playground, view: View) -> None:
        self.view = view
        self.live_url = live_url
        self.simulator = playground.simulator
        self._api = api
        self._counts: dict[str, dict[str, int]] = {}
        self._serial = 0

    def apns(self, scenario: str = "ok", count: int = 1) -> list[dict[str, str]]:
        """Return targets at the simulated APNs that answer by `scenario`."""
        return [{"platform": "apns", "token": apns_token(scenario, self._unique())} for _ in range(count)]

    def fcm(self, scenario: str = "ok", count: int = 1) -> list[dict[str, str]]:
        """Return targets at the simulated FCM that answer by `scenario`."""
        return [{"platform": "fcm", "token": fcm_token(scenario, self._unique())} for _ in range(count)]

    async def register(self, device: str, target: dict[str, str], *topics: str, **fields: Any) -> None:
        """Register a device with PUT, and subscribe it to topics."""
        await self._api.request("PUT", f"/v1/devices/{device}", {**target, **fields})
        for topic in topics:
            await self._api.subscribe(topic, device)

    @asynccontextmanager
    async def phones(self) -> AsyncIterator[Fleet]:
        """Open a fleet of phones, whose tokens the API gives."""
        async with open_fleet(FleetConfig(url=self.live_url), ApiTokens(self._api)) as fleet:
            yield fleet

    async def asked(self) -> int:
        """Return how many requests both providers have accepted so far."""
        record = await asyncio.to_thread(self.simulator.record)
        return int(record["accepted"])

    async def get(self, path: str) -> Any:
        """Return the JSON document at `path`."""
        return msgspec.json.decode((await self._api.request("GET", path)).body)

    async def send(self, to: Sequence[dict[str, str]] | dict[str, Any], title: str, **fields: Any) -> str:
        """Post a push to tokens or to an audience. Returns its id."""
        receivers = to if isinstance(to, dict) else {"tokens": list(to)}
        body = {"to": receivers, "notification": {"title": title}, **fields}
        answer = await self._api.request("POST", "/v1/push", body)
        return str(msgspec.json.decode(answer.body)["id"])

    async def wait_until(self, what: str, reached: Callable[[], bool]) -> None:
        """Wait for something that the phones do."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not reached():
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"after {PATIENCE:.0f} s still not so: {what}")
            await asyncio.sleep(0.02)

    async def until(self, push: str, reached: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """Follow a push until its counts are as wanted."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            document = await self.get(f"/v1/push/{push}")
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
        """Follow a push until all of its deliveries have ended. Returns the counts."""
        counts = await self.until(push, lambda counts: counts["total"] > 0 == counts["queued"] + counts["retrying"])
        return counts if (await self.get(f"/v1/push/{push}"))["state"] == "done" else await self.until_done(push)

    async def held(self) -> str:
        """Return the routes that are held according to `/metrics`."""
        metrics = (await self._api.request("GET", "/metrics")).body.decode()
        return ", ".join(f"{platform} ({reason})" for platform, reason in HELD.findall(metrics))

    async def until_held(self, wanted: bool) -> str:
        """Wait until some route is held, or none is. Returns the held routes."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while bool(held := await self.held()) != wanted:
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"routes held: {held or 'none'} after {PATIENCE:.0f} s")
            self.view.show(self.totals(), held)
            await asyncio.sleep(0.05)
        self.view.show(self.totals(), held)
        return held

    async def feedback(self) -> list[dict[str, Any]]:
        """Return the items of `GET /v1/feedback`."""
        items: list[dict[str, Any]] = (await self.get("/v1/feedback"))["items"]
        return items

    def totals(self) -> dict[str, int]:
        """Return the counts of all pushes of the demo, added up."""
        totals: dict[str, int] = {}
        for counts in self._counts.values():
            for name, count in counts.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    async def background_traffic(self) -> None:
        """Send pushes of all kinds until cancelled."""
        mixed = self.apns(count=30) + self.fcm(count=30) + self.apns("ServiceUnavailable.1", 3)
        push = await self.send(mixed, "Something is going on", lane="bulk")
        counts = await self.until_done(push)
        self.view.log("sent", f"{counts['sent']} of {counts['total']}")
        await asyncio.sleep(1.0)

    def _unique(self) -> str:
        self._serial += 1
        return f"demo{self._serial}"


async def play(scene: Scene) -> None:
    """Run all acts. Raises `DemoError` when one does not end as it should."""
    for act in (sent, registered, online, retried, pruned, held, totals):
        await act(scene)


def expect(counts: dict[str, int], **wanted: int) -> None:
    """Compare counts with the expected ones. Raises `DemoError` if any differs."""
    for name, count in wanted.items():
        if counts[name] != count:
            raise DemoError(f"expected {name}={count}, the status document has {counts}")


async def sent(scene: Scene) -> None:
    push = await scene.send(scene.apns() + scene.fcm(), "Order 7 shipped", lane="urgent")
    scene.view.log("accepted", "one push to an iPhone and an Android phone")
    expect(await scene.until_done(push), sent=2)
    scene.view.log("sent", "both providers accepted it")
    push = await scene.send(scene.apns(count=2500) + scene.fcm(count=2500), "News", lane="bulk")
    scene.view.log("accepted", "one push to 5,000 tokens, lane bulk")
    expect(await scene.until_done(push), sent=5000)
    scene.view.log("sent", "5,000 of 5,000")


async def registered(scene: Scene) -> None:
    for device, target in (("ann-phone", scene.apns()), ("ann-tablet", scene.fcm()), ("bob-phone", scene.fcm())):
        user = device.partition("-")[0]
        await scene.register(device, target[0], "news", user=user, tags={"plan": "pro" if user == "ann" else "free"})
    scene.view.log("devices", "Ann's phone and tablet, Bob's phone; all follow topic `news`")
    expect(await scene.until_done(await scene.send({"users": ["ann"]}, "For Ann")), sent=2)
    expect(await scene.until_done(await scene.send({"where": "tags.plan == 'free'"}, "For who pays nothing")), sent=1)
    expect(await scene.until_done(await scene.send({"topic": "news"}, "News for all")), sent=3)
    scene.view.log("sent", "2 to user ann, 1 where tags.plan == 'free', 3 to the topic")


async def online(scene: Scene) -> None:
    await scene.register("dora-phone", scene.fcm()[0], user="dora")
    await scene.register("dora-desk", {"platform": "live"})
    async with scene.phones() as phones:
        phone, desk = phones.add("dora-phone"), phones.add("dora-desk")
        phones.start()
        await scene.wait_until("both are online", lambda: phones.online == 2)
        scene.view.log("online", "Dora's phone (FCM) and desktop (live only) have connected")

        before = await scene.asked()
        push = await scene.send({"devices": ["dora-phone"]}, "You are online")
        expect(await scene.until_done(push), sent=1)
        await shown(scene, phone, push, asked=before)
        scene.view.log("online", "the phone has acknowledged a push: no provider is asked")

        phone.drop_traffic()
        push = await scene.send({"devices": ["dora-phone"]}, "Are you there?")
        expect(await scene.until_done(push), sent=1)
        await expect_provider_requests(scene, before + 1)
        scene.view.log("silent", "its network drops everything: after 2 s FCM is asked, once")
        phone.leave()
        phone.start()
        await shown(scene, phone, push, asked=before + 1)
        scene.view.log("back", "the phone gets its whole stream, and drops what it has shown")

        desk.leave()
        await scene.wait_until("the desktop is away", lambda: desk.state is State.AWAY)
        push = await scene.send({"devices": ["dora-desk"]}, "For later")
        await scene.until(push, lambda counts: counts["total"] > 0)
        scene.view.log("live", "the desktop is away and has no provider: its push waits")
        desk.start()
        expect(await scene.until_done(push), sent=1)
        await shown(scene, desk, push, asked=before + 1)
        scene.view.log("live", "it is back, and gets it")


async def shown(scene: Scene, phone: Phone, push: str, *, asked: int) -> None:
    """Wait until a phone has shown a push. Raises `DemoError` if providers were asked otherwise than `asked` times."""
    await scene.wait_until(f"{phone.device} shows {push}", lambda: push in phone.shown.pushes)
    await expect_provider_requests(scene, asked)
    if phone.shown.holes or phone.shown.late:
        raise DemoError(f"{phone.device} has not shown everything in order")


async def expect_provider_requests(scene: Scene, times: int) -> None:
    """Raise `DemoError` if the providers have accepted another number of requests."""
    if (found := await scene.asked()) != times:
        raise DemoError(f"the providers were asked {found} times, not {times}")


async def retried(scene: Scene) -> None:
    push = await scene.send(scene.apns("ServiceUnavailable.2", 3) + scene.apns(), "Twice unavailable")
    await scene.until(push, lambda counts: counts["retrying"] > 0)
    scene.view.log("retry", "APNs answers 503 to three of four: they wait, with back-off")
    expect(await scene.until_done(push), sent=4)
    scene.view.log("sent", "all four, the three at their third attempt")
    push = await scene.send(scene.fcm("INTERNAL.1") + scene.apns("BadPriority"), "One is refused")
    expect(await scene.until_done(push), sent=1, failed=1)
    scene.view.log("failed", "one is refused permanently (BadPriority) and kept; one is sent")


async def pruned(scene: Scene) -> None:
    (dead,) = scene.apns("Unregistered")
    await scene.register("cid-phone", dead, "news", user="cid")
    push = await scene.send({"topic": "news"}, "One of these phones is gone")
    expect(await scene.until_done(push), invalid=1, sent=3)
    scene.view.log("dead", "APNs answers 410 Unregistered for Cid's phone: it is `invalid`")
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (events := [event for event in await scene.feedback() if event["token"] == dead["token"]]):
        if asyncio.get_running_loop().time() > deadline:
            raise DemoError("the dead token never came up in /v1/feedback")
        await asyncio.sleep(0.05)
    state = (await scene.get("/v1/devices/cid-phone"))["state"]
    scene.view.log("dead", f"feedback: {events[0]['device_id']} {events[0]['action']}, its state is {state}")
    expect(await scene.until_done(await scene.send({"topic": "news"}, "News again")), total=3, sent=3)
    push = await scene.send([dead, *scene.apns()], "To its token all the same")
    expect(await scene.until_done(push), suppressed=1, sent=1)
    scene.view.log("dead", "the topic leaves it out, and its bare token is `suppressed`")


async def held(scene: Scene) -> None:
    await asyncio.to_thread(scene.simulator.break_credentials, "apns")
    scene.view.log("held", "APNs refuses our credentials from now on")
    push = await scene.send(scene.apns(count=200) + scene.fcm(count=200), "Through a bad minute")
    where = await scene.until_held(True)
    counts = await scene.until(push, lambda counts: counts["sent"] >= 200)
    scene.view.log("held", f"{where}: {counts['total'] - counts['sent']} wait, 0 failed")
    await asyncio.to_thread(scene.simulator.restore_credentials, "apns")
    scene.view.log("fixed", "they are valid again; the next probe finds out")
    await scene.until_held(False)
    expect(await scene.until_done(push), sent=400)
    scene.view.log("resumed", "400 of 400 sent, no token lost")


async def totals(scene: Scene) -> None:
    counts = scene.totals()
    ends = ", ".join(f"{name} {counts[name]:,}" for name in ("sent", "failed", "invalid", "suppressed"))
    record = await asyncio.to_thread(scene.simulator.record)
    duplicates = sum(record[platform]["duplicates"] for platform in ("apns", "fcm"))
    scene.view.log("totals", f"{counts['total']:,} accepted = {ends}")
    scene.view.log("totals", f"by the simulator's record {duplicates} of them arrived twice")
    if duplicates:
        raise DemoError(f"the simulator accepted {duplicates} pushes twice")
