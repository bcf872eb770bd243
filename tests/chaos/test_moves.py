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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import pytest

from pushsvc.devices import Device
from pushsvc.model import Platform
from pushsvc.simulator import apns_token, fcm_token
from pushsvc.store import open_store

from .rig import Rig, open_rig

pytestmark = pytest.mark.chaos

DEVICES = int(os.environ.get("PUSHSVC_CHAOS_MOVES", "72"))
"""Devices of one broadcast."""
CALLERS = 32
"""Calls at a time."""
STREAMS = 2 if DEVICES < 1000 else 10
"""Requests in flight on a connection, so that nearly all waits in memory or in a lane."""
LATENCY = 0.4 if DEVICES < 1000 else 0.1
IN_FLIGHT = 2 * STREAMS
"""Requests of one platform that two dispatchers have on the way."""
WAIT = 2.0 if DEVICES < 1000 else 60.0
"""Seconds until a delivery that was refused for a while goes again, at least half of it."""

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
            await store.registry.put_many("demo", [phone.device for phone in self.phones])

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

    async def ended(self) -> bool:
        async with self.rig.session.get(f"/v1/push/{self.push}") as answer:
            document = await answer.json()
        return bool(document["state"] == "done")

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
        async with self.rig.session.request(method, path, json=document) as answer:
            assert answer.status in (200, 204), await answer.text()

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


Wait = Callable[[Rig], Awaitable[None]]


async def in_memory_and_in_its_lane(rig: Rig) -> None:
    audience = Audience(rig, "memory")
    await audience.begin()
    await rig.control("stall", on=True)
    await audience.post()
    await rig.until("the audience is expanded", audience.expanded)
    slowest = await audience.move()
    await rig.control("stall", on=False)
    await rig.until("it has ended", audience.ended)
    await audience.account("memory", slowest, before=2 * IN_FLIGHT)


async def for_its_retry(rig: Rig) -> None:
    audience = Audience(rig, "retry", AGAIN)
    await audience.begin()
    await rig.control("unavailable", on=True, platform="fcm")
    await audience.post()
    await rig.until("each was refused", audience.refused)
    slowest = await audience.move()
    await rig.control("unavailable", on=False, platform="fcm")
    await rig.until("it has ended", audience.ended)
    await audience.account("retry", slowest, before=DEVICES)


async def on_a_held_route(rig: Rig) -> None:
    audience = Audience(rig, "held")
    await audience.begin()
    await rig.control("credentials", refuse=True)
    await audience.post()
    await rig.until("the audience is expanded", audience.expanded)
    slowest = await audience.move()
    await rig.control("credentials", refuse=False)
    await rig.until("it has ended", audience.ended)
    await audience.account("held", slowest)


async def as_dead_letters(rig: Rig) -> None:
    audience = Audience(rig, "dead", FAILED)
    await audience.begin()
    await audience.post()

    async def all_failed() -> bool:
        return (await audience.counts())["failed"] == DEVICES

    await rig.until("all are dead letters", all_failed)
    slowest = await audience.move()
    async with rig.session.post("/v1/failed/replay", json={"push": audience.push}) as answer:
        assert answer.status == 202
        assert (await answer.json())["matched"] == DEVICES

    async def replayed() -> bool:
        counts = await audience.counts()
        return counts["failed"] == 0 and await audience.ended()

    await rig.until("all are replayed", replayed)
    await audience.account("dead letters", slowest)


async def while_it_is_sent(rig: Rig) -> None:
    audience = Audience(rig, "live")
    await audience.begin()
    await rig.control("latency", seconds=LATENCY)
    await audience.post()
    await rig.until("the audience is expanded", audience.expanded)
    slowest = await audience.move()
    await rig.until("it has ended", audience.ended)
    await audience.account("live", slowest, before=DEVICES)


WAITS: Sequence[Wait] = (
    in_memory_and_in_its_lane,
    for_its_retry,
    on_a_held_route,
    as_dead_letters,
    while_it_is_sent,
)


def test_nothing_reaches_a_token_that_is_anothers_by_now() -> None:
    async def main() -> None:
        retry: dict[str, Any] = {"RETRY__BASE": str(WAIT), "RETRY__CAP": str(2 * WAIT)}
        retry |= {"RETRY__APNS_5XX": str(WAIT), "RETRY__FCM_5XX": str(WAIT)}
        async with open_rig(seed="moves", dispatch=2, keep=10 * DEVICES, **retry) as rig:
            for wait in WAITS:
                began = time.monotonic()
                await wait(rig)
                print(f"{wait.__name__}: {time.monotonic() - began:.1f} s")

    asyncio.run(main())
