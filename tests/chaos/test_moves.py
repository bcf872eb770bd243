"""A phone becomes another's while a broadcast waits for it: with real processes, both platforms, wherever it may wait.

    PUSHSVC_CHAOS_MOVES=10000 pytest tests/chaos -k moves -s

Each device plays one of the stories below while the push is on its way, and the simulator's record says what went out
after the call that changed the device was answered.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import pytest

from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.model.devices import Device
from pushsvc.model.push import Platform
from pushsvc.store import open_store

from .rig import Rig, open_rig

pytestmark = pytest.mark.chaos

DEVICES = int(os.environ.get("PUSHSVC_CHAOS_MOVES", "72"))
"""Devices of one broadcast."""
CALLERS = 32
"""Calls at a time."""
STREAMS = 2 if DEVICES < 1000 else 10
"""Requests in flight on a connection, so that nearly all waits in memory or in a lane."""
LATENCY = 0.4
IN_FLIGHT = 2 * 2 * STREAMS
"""Requests of one platform that two dispatchers have on the way, on two connections each."""
WAIT = 2.0 if DEVICES < 1000 else 60.0
"""Seconds until a delivery that was refused for a while goes again, at least half of it."""

LONGEST = 120.0 + DEVICES / 25
"""Seconds until a wait is given up: a change is a call that waits for both dispatchers, and there are as many of them
as devices."""

Story = Literal["login", "logout", "delete", "leave", "renew", "stay"]
STORIES: tuple[Story, ...] = ("login", "logout", "delete", "leave", "renew", "stay")
PLATFORMS: tuple[Platform, ...] = ("apns", "fcm")
REASONS = {("login", "moved"), ("logout", "moved"), ("delete", "moved"), ("leave", "unsubscribed")}
OK = {"apns": "ok", "fcm": "ok"}
AGAIN = {"apns": "IdleTimeout.1", "fcm": "ok"}
"""Of APNs each delivery waits for itself."""
FAILED = {"apns": "BadCollapseId.1", "fcm": "BAD_REQUEST.1"}


class Phone(NamedTuple):
    """A device of the audience, what happens to it, and the token that it has after `renew`."""

    device: Device
    story: Story
    renewed: str


def phones(topic: str, scenarios: Mapping[str, str]) -> list[Phone]:
    """The audience; each token plays the scenario of its platform."""
    before = int(time.time() * 1000) - 60_000
    made = []
    for number, (story, platform) in zip(range(DEVICES), itertools.cycle(itertools.product(STORIES, PLATFORMS))):
        make = apns_token if platform == "apns" else fcm_token
        name = f"{topic}-{number}"
        device = Device(
            id=name, platform=platform, token=make(scenarios[platform], name), user=f"ann-{number}", topics=(topic,),
            registered_at=before, last_seen_at=before,
        )  # fmt: skip
        made.append(Phone(device, story, make("ok", f"{name}-renewed")))
    return made


class Audience:
    """A topic and the push to it."""

    def __init__(self, rig: Rig, topic: str, scenarios: Mapping[str, str] = OK) -> None:
        self.rig = rig
        self.topic = topic
        self.phones = phones(topic, scenarios)
        self.answered: dict[str, float] = {}
        """By device, when the call that changed it was answered."""
        self.push = ""

    async def begin(self) -> None:
        await self.rig.control("calm")
        await self.rig.control("streams", limit=STREAMS)
        await self.rig.begin()
        async with open_store(self.rig.store.url) as store:
            for start in range(0, DEVICES, 500):
                await store.registry.put_many("demo", [phone.device for phone in self.phones[start : start + 500]])

    async def post(self) -> None:
        document = {"to": {"topic": self.topic}, "notification": {"title": "for ann"}}
        async with self.rig.session.post("/v1/push", json=document) as answer:
            assert answer.status == 202
            self.push = (await answer.json())["id"]

    async def counts(self) -> dict[str, int]:
        async with self.rig.session.get(f"/v1/push/{self.push}") as answer:
            assert answer.status == 200
            document = await answer.json()
        return dict(document["counts"])

    async def expanded(self) -> bool:
        return (await self.counts())["total"] == DEVICES

    async def refused(self) -> bool:
        """Whether all wait for another attempt."""
        record = await self.rig.record()
        return bool(record["apns"]["total"] >= DEVICES // 2 and record["fcm"]["total"])

    async def all_failed(self) -> bool:
        return (await self.counts())["failed"] == DEVICES

    async def ended(self) -> bool:
        async with self.rig.session.get(f"/v1/push/{self.push}") as answer:
            document = await answer.json()
        return bool(document["state"] == "done" and not document["counts"]["failed"])

    async def move(self) -> float:
        """Play the stories. Seconds that the slowest call took."""
        gate = asyncio.Semaphore(CALLERS)
        slowest = 0.0

        async def one(phone: Phone) -> None:
            nonlocal slowest
            async with gate:
                began = time.monotonic()
                await self._play(phone)
                slowest = max(slowest, time.monotonic() - began)
                self.answered[phone.device.id] = time.time()

        await asyncio.gather(*(one(phone) for phone in self.phones if phone.story != "stay"))
        return slowest

    async def _play(self, phone: Phone) -> None:
        device, path = phone.device, f"/v1/devices/{phone.device.id}"
        document: dict[str, str | None] = {"platform": device.platform, "token": device.token, "user": device.user}
        match phone.story:
            case "delete":
                await self._call("DELETE", path)
            case "leave":
                await self._call("DELETE", f"/v1/topics/{self.topic}/devices/{device.id}")
            case "login":
                await self._call("PUT", path, {**document, "user": f"bob-{device.id}"})
            case "logout":
                await self._call("PUT", path, {**document, "user": None})
            case "renew":
                await self._call("PUT", path, {**document, "token": phone.renewed})

    async def _call(self, method: str, path: str, document: Any = None) -> None:
        """Repeated where Redis was too slow for an answer: a deleted device is a 404 then."""
        again = False
        while True:
            async with self.rig.session.request(method, path, json=document) as answer:
                if answer.status != 503:
                    assert answer.status in (200, 204) or (again and answer.status == 404), await answer.text()
                    return
            again = True

    async def account(self, name: str, slowest: float, *, before: int = 0) -> None:
        """Hold what the simulator has received against the stories. `before` is how many deliveries may have been in
        flight, or accepted, when their stories began."""
        received: dict[str, list[tuple[float, bool]]] = {}
        for platform in PLATFORMS:
            path = f"/record/{platform}?limit={20 * DEVICES}"
            found = await asyncio.to_thread(self.rig.playground.simulator.call, "GET", path)
            for request in found["requests"]:
                received.setdefault(token_of(request), []).append((request["at"], request["status"] == 200))
        late: list[float] = []
        accepted: Counter[Story] = Counter()
        for phone in self.phones:
            old, new = received.get(phone.device.token, []), received.get(phone.renewed, [])
            if phone.device.id in self.answered:
                late += [at - self.answered[phone.device.id] for at, _ in old if at > self.answered[phone.device.id]]
            arrivals = sum(good for _, good in old + new)
            assert arrivals <= 1, f"{phone.story} came {arrivals} times"
            accepted[phone.story] += arrivals
        counts = await self.counts()
        print(
            f"\n{name}: {DEVICES:,} devices, {len(self.answered):,} changed, the slowest call took {slowest:.2f} s;"
            f" {len(late)} requests after the answer {[round(1000 * each) for each in late[:8]]} ms;"
            f" accepted {dict(accepted)}; { ({key: count for key, count in counts.items() if count}) }"
        )
        async with self.rig.session.get(f"/v1/push/{self.push}/deliveries?limit=1000&outcome=suppressed") as answer:
            rows = (await answer.json())["items"]
        story_of = {phone.device.id: phone.story for phone in self.phones}
        assert rows
        assert {(story_of[row["device_id"]], row["reason"]) for row in rows} <= REASONS
        each = Counter(phone.story for phone in self.phones)
        assert accepted["stay"] == each["stay"]
        assert accepted["renew"] == each["renew"]
        assert counts["sent"] == accepted.total()
        assert counts["sent"] + counts["suppressed"] == counts["total"] == DEVICES
        assert len(late) <= IN_FLIGHT * len(PLATFORMS), "only what was in flight may be later than the answer"
        assert accepted.total() <= each["stay"] + each["renew"] + before


def token_of(request: dict[str, Any]) -> str:
    path = dict(request["headers"])[":path"]
    if path.startswith("/3/device/"):
        return str(path.rsplit("/", 1)[-1])
    return str(msgspec.json.decode(request["body"])["message"]["token"])


Hold = Callable[[Audience, bool], Awaitable[None]]


class Wait(NamedTuple):
    """Where a push may wait while phones change hands."""

    name: str
    hold: Hold
    """Make it wait, before it is posted, and let it go on (False)."""
    waits: Callable[[Audience], Awaitable[bool]] = Audience.expanded
    """Whether all of it does."""
    scenarios: Mapping[str, str] = OK
    before: int = 0
    """Deliveries that may have been in flight, or accepted, when the stories began."""


async def stalled(audience: Audience, hold: bool) -> None:
    await audience.rig.control("stall", on=hold)


async def unavailable(audience: Audience, hold: bool) -> None:
    await audience.rig.control("unavailable", on=hold, platform="fcm")


async def refused(audience: Audience, hold: bool) -> None:
    await audience.rig.control("credentials", refuse=hold)


async def slow(audience: Audience, hold: bool) -> None:
    if hold:
        await audience.rig.control("latency", seconds=LATENCY)


async def failed(audience: Audience, hold: bool) -> None:
    """Each fails once; the dead letters are replayed."""
    if not hold:
        async with audience.rig.session.post("/v1/failed/replay", json={"push": audience.push}) as answer:
            assert answer.status == 202, await answer.text()
            assert (await answer.json())["matched"] == DEVICES


WAITS = (
    Wait("in memory and in its lane", stalled, before=2 * IN_FLIGHT),
    Wait("for its retry", unavailable, Audience.refused, AGAIN, before=DEVICES),
    Wait("on a held route", refused),
    Wait("as dead letters", failed, Audience.all_failed, FAILED),
    Wait("while it is sent", slow, before=DEVICES),
)


async def play(rig: Rig, wait: Wait) -> None:
    """A broadcast waits, the phones change hands, it goes on."""
    audience = Audience(rig, wait.name.replace(" ", "-"), wait.scenarios)
    await audience.begin()
    began = time.monotonic()
    await wait.hold(audience, True)
    await audience.post()
    await rig.until(f"it waits {wait.name}", lambda: wait.waits(audience), LONGEST)
    waiting = time.monotonic()
    slowest = await audience.move()
    moved = time.monotonic()
    await wait.hold(audience, False)
    await rig.until(f"what waited {wait.name} has ended", audience.ended, LONGEST)
    ended = time.monotonic()
    await audience.account(wait.name, slowest, before=wait.before)
    print(f"posted in {waiting - began:.1f} s, moved in {moved - waiting:.1f} s, ended in {ended - moved:.1f} s")


async def test_nothing_reaches_a_token_that_is_anothers_by_now() -> None:
    retry: dict[str, Any] = {"RETRY__BASE": str(WAIT), "RETRY__CAP": str(2 * WAIT)}
    # A loaded machine must neither give up a request that is on its way, nor take over from one that lives.
    retry |= {"RETRY__REQUEST_TIMEOUT": "100", "DISPATCH__TAKEOVER": "60"}
    retry |= {"RETRY__APNS_5XX": str(WAIT), "RETRY__FCM_5XX": str(WAIT)}
    async with open_rig(seed="moves", dispatch=2, keep=10 * DEVICES, **retry) as rig:
        for wait in WAITS:
            await play(rig, wait)
