"""Two apps on one service, a simulator for what is in trouble and another for what is not, and how soon pushes arrive.

`crossed`: the app `demo` has its APNs at the calm simulator and its FCM at the troubled one, `other` the reverse. So a
trouble meets an APNs route and an FCM route at once, each beside a healthy route of the same app.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from pushsvc.cli.output import percentile
from pushsvc.lab.playground import Playground
from pushsvc.lab.simulator import SimulatorHandle, apns_token, fcm_token, simulator_process
from pushsvc.model.push import Lane

from .rig import LATENCY, Rig, open_rig

Platform = Literal["apns", "fcm"]

KEY = "key-of-the-other-app"
OTHER = {"Authorization": f"Bearer {KEY}"}
"""Headers of a call for the app `other`."""
KEEP = 50_000
"""Requests that a simulator keeps whole: those of a whole test."""
GAP = 0.05
"""Seconds between two urgent pushes that are measured."""
TOPICS = 40
"""So that one of them gets a push every 2 s."""

_KEYS = """
[apps.other]
[[apps.other.keys]]
name = "other"
sha256 = "{sha256}"
scopes = ["push", "devices", "feedback", "admin"]
"""
_APNS = """
[apps.{app}.apns]
key_file = "{each.credentials.apns_key_file}"
key_id = "{each.credentials.key_id}"
team_id = "{each.credentials.team_id}"
topic = "{each.credentials.topic}"
endpoint = "{each.apns_url}"
ca_file = "{each.credentials.ca_file}"
"""
_FCM = """
[apps.{app}.fcm]
service_account_file = "{each.credentials.service_account_file}"
endpoint = "{each.fcm_url}"
ca_file = "{each.credentials.ca_file}"
"""


@dataclass
class Pair:
    """A service with the apps `demo` and `other`, and its two simulators."""

    rig: Rig
    first: SimulatorHandle
    second: SimulatorHandle
    numbers: Iterator[int] = field(default_factory=count)
    """Of the pushes that are measured: the simulators' records keep those of every stopwatch."""

    async def post(self, tokens: list[dict[str, str]], *, other: bool = False, **fields: Any) -> str:
        """One push of an app; its id."""
        document = {"to": {"tokens": tokens}, "notification": {"title": "x"}, **fields}
        async with self.rig.session.post("/v1/push", json=document, headers=OTHER if other else {}) as answer:
            reported = await answer.json()
            assert answer.status == 202, reported
            return str(reported["id"])

    async def counts(self, push: str, *, other: bool = False) -> dict[str, int]:
        async with self.rig.session.get(f"/v1/push/{push}", headers=OTHER if other else {}) as answer:
            assert answer.status == 200
            counts: dict[str, int] = (await answer.json())["counts"]
            assert counts["total"] == sum(count for name, count in counts.items() if name != "total"), counts
            return {name: count for name, count in counts.items() if count}

    async def put_device(self, device: str, token: str, topic: str, *, other: bool = False) -> None:
        """Register an iPhone that follows the topic."""
        headers = OTHER if other else {}
        body = {"platform": "apns", "token": token}
        async with self.rig.session.put(f"/v1/devices/{device}", json=body, headers=headers) as answer:
            assert answer.status in (200, 201), await answer.text()
        async with self.rig.session.put(f"/v1/topics/{topic}/devices/{device}", headers=headers) as answer:
            assert answer.status == 204, await answer.text()

    async def topics_of_one(self, *, other: bool = False) -> list[str]:
        """Register devices of which each alone follows a topic; the topics."""
        topics = [f"few-{number}" for number in range(TOPICS)]
        for topic in topics:
            await self.put_device(topic, apns_token("ok", topic), topic, other=other)
        return topics


def targets(platform: Platform, name: str, count: int, scenario: str = "ok") -> list[dict[str, str]]:
    """Return this number of targets, distinguished by `name`."""
    make = apns_token if platform == "apns" else fcm_token
    return [{"platform": platform, "token": make(scenario, f"{name}-{number}")} for number in range(count)]


async def total(handle: SimulatorHandle, platform: Platform) -> int:
    """Requests that a simulator has had on a platform."""
    return int((await asyncio.to_thread(handle.record))[platform]["total"])


@asynccontextmanager
async def open_pair(*, seed: str, crossed: bool = False, more: str = "", **setup: Any) -> AsyncIterator[Pair]:
    """Start two simulators and a service with two apps. `more` is configuration added at the end of its file."""
    folder = Path(tempfile.mkdtemp(prefix="ps-"))
    try:
        with simulator_process(folder, latency=LATENCY, keep=KEEP) as second:

            def configure(playground: Playground) -> None:
                first = playground.simulator
                head, _, _ = playground.config_file.read_text().partition("[apps.demo.apns]")
                routes = (
                    _APNS.format(app="demo", each=first),
                    _FCM.format(app="demo", each=second if crossed else first),
                    _KEYS.format(sha256=hashlib.sha256(KEY.encode()).hexdigest()),
                    _APNS.format(app="other", each=second),
                    _FCM.format(app="other", each=first if crossed else second),
                )
                playground.config_file.write_text(head + "".join(routes) + more)

            async with open_rig(seed=seed, keep=KEEP, configure=configure, **setup) as rig:
                yield Pair(rig, rig.playground.simulator, second)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Stopwatch:
    """Urgent pushes, one after the other, and when each arrived at its provider by the simulator's record."""

    def __init__(
        self, pair: Pair, handle: SimulatorHandle, platform: Platform, *, other: bool, topics: Sequence[str] = ()
    ) -> None:
        """With `topics`: each push goes to the next of them. A topic of one device must have its turn seldom enough
        for the limit of what one token gets."""
        self._pair = pair
        self._handle = handle
        self._platform: Platform = platform
        self._other = other
        self._topics = topics

    async def run(self, until: Callable[[], bool]) -> list[float]:
        """Post until stopped. Returns the seconds from each call to its arrival, sorted."""
        posted: dict[str, float] = {}
        lane: Lane = "urgent"
        while not until():
            began = time.time()
            number = next(self._pair.numbers)
            name = f"watch-{number}"
            fields: dict[str, Any] = {"lane": lane, "notification": {"title": name}}
            if self._topics:
                # Notifications of one device are distinguished by their titles.
                fields["to"] = {"topic": self._topics[number % len(self._topics)]}
            posted[name] = began
            await self._pair.post(targets(self._platform, name, 1), other=self._other, **fields)
            await asyncio.sleep(max(0.0, began + GAP - time.time()))
        arrived: dict[str, float] = {}

        async def all_there() -> bool:
            path = f"/record/{self._platform}?limit={KEEP}"
            for request in (await asyncio.to_thread(self._handle.call, "GET", path))["requests"]:
                _, found, rest = request["body"].partition('"watch-')
                if found and request["status"] == 200:
                    arrived.setdefault("watch-" + rest.partition('"')[0], request["at"])
            return posted.keys() <= arrived.keys()

        await self._pair.rig.until("each urgent push has arrived", all_there)
        took = sorted(arrived[name] - began for name, began in posted.items())
        assert not took or took[0] > 0, "a push has the name of an earlier one: it was found before it was posted"
        return took

    async def seconds(self, span: float) -> list[float]:
        """Do the same for this number of seconds."""
        deadline = time.monotonic() + span
        return await self.run(lambda: time.monotonic() > deadline)


async def in_turns(
    watch: Stopwatch, span: float, rounds: int, busy: Callable[[int], AbstractAsyncContextManager[None]]
) -> tuple[list[float], list[float]]:
    """Measure without and beside what `busy` does, in turns, so that whatever else the machine does meets both. Each
    turn of `span` seconds; all the seconds of each kind, in order of length."""
    without: list[float] = []
    beside: list[float] = []
    for number in range(rounds):
        without += await watch.seconds(span)
        async with busy(number):
            beside += await watch.seconds(span)
    return sorted(without), sorted(beside)


def p99(ordered: list[float]) -> float:
    """In milliseconds."""
    return percentile(ordered, 0.99)


def says(ordered: list[float]) -> str:
    """For a line of figures."""
    return f"p50 {percentile(ordered, 0.5):.0f}, p99 {p99(ordered):.0f} ms of {len(ordered)}"


def compared(without: list[float], beside: list[float]) -> str:
    """The same of both, and how they compare."""
    ratios = [percentile(beside, share) / percentile(without, share) for share in (0.5, 0.99)]
    return f"{says(without)} without, {says(beside)} beside: ratio {ratios[0]:.2f} of p50, {ratios[1]:.2f} of p99"
