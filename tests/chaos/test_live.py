"""The live channel under faults: what was accepted is shown by its device once and in order, and the books balance.

    PUSHSVC_CHAOS_PHONES=1000 PUSHSVC_CHAOS_PUSHES=2000 pytest tests/chaos/test_live.py -s

Some phones are reached by FCM too, others by the live channel alone. After every fault there is the same account: no
accepted push is missing on its phone, none was shown behind a later one, no offset of a stream was passed over in
silence, every delivery has ended as sent, and what no phone has acknowledged FCM has accepted.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pushsvc.lab.phones.behaviour import ORDINARY, Behaviour
from pushsvc.lab.phones.fleet import Fleet, FleetConfig, Pace, open_fleet
from pushsvc.lab.phones.tokens import SecretTokens
from pushsvc.lab.playground import APP
from pushsvc.lab.simulator import fcm_token
from pushsvc.live.protocol.codes import SHUTDOWN
from pushsvc.model.devices import Device
from pushsvc.net.websocket.frames import ABNORMAL
from pushsvc.store import open_store

from ..phone_verdict import judge
from .rig import Rig, open_rig

pytestmark = pytest.mark.chaos

PHONES = int(os.environ.get("PUSHSVC_CHAOS_PHONES", "40"))
PUSHES = int(os.environ.get("PUSHSVC_CHAOS_PUSHES", "150"))
"""Pushes of one story, at least: it goes on until the fault is over."""
CALLERS = 4
TWO_GATEWAYS: dict[str, Any] = {
    "LIVE__PROCESSES": "2",
    "LIVE__HEARTBEAT": "1",
    "LIVE__HEARTBEAT_MIN": "1",
    "LIVE__PONG_WITHIN": "1",
}
PACE = Pace(first=0.1, most=2.0, ping_grace=1.0)
KINDS = (ORDINARY, ORDINARY, Behaviour(ack=0.3), Behaviour(torn=True), Behaviour(stay=2.0, away=0.2, vanish=True))


class Scene:
    """A service, its phones, and what each was sent."""

    def __init__(self, rig: Rig, fleet: Fleet) -> None:
        self.rig = rig
        self.fleet = fleet
        self.sent: dict[str, list[str]] = {device: [] for device in fleet.phones}
        self.over = False
        """The load ends when it is large enough."""

    async def begin(self) -> None:
        """Open a new account, with phones of all kinds."""
        await self.rig.begin()
        self.over = False
        for number, phone in enumerate(self.fleet.phones.values()):
            phone.behaviour = KINDS[number % len(KINDS)]

    async def load(self) -> None:
        """Push to a few phones at a time, each push until it is accepted."""
        await asyncio.gather(*(self._caller(number) for number in range(CALLERS)))

    async def _caller(self, caller: int) -> None:
        rng = random.Random(f"{self.rig.rng.random()} {caller}")
        ledger, devices, call = self.rig.ledger, list(self.sent), 0
        while len(ledger.pushes) < PUSHES or not self.over:
            call += 1
            to = rng.sample(devices, rng.randint(1, min(5, len(devices))))
            lane = rng.choice(("urgent", "normal", "bulk"))
            document = {"to": {"devices": to}, "lane": lane, "notification": {"title": "chaos"}}
            push = await self.rig.insist(msgspec.json.encode(document), f"{self.rig.loads}-{caller}-{call}")
            ledger.pushes.append(push)
            ledger.accepted += len(to)
            for device in to:
                self.sent[device].append(push)
            await asyncio.sleep(0.02)

    async def under_load(self, fault: Callable[[Scene], Awaitable[None]]) -> None:
        """Let something happen while pushes are accepted, from a third of the load on."""
        load = asyncio.create_task(self.load())
        try:
            await self.rig.until(
                "a third is accepted", lambda: len(self.rig.ledger.pushes) >= PUSHES / 3 or load.done()
            )
            await fault(self)
            self.over = True
            await load
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)

    async def until_online(self) -> None:
        await self.rig.until("all phones are online", lambda: self.fleet.online == len(self.fleet.phones))

    async def until_shown(self) -> None:
        phones = self.fleet.phones
        await self.rig.until(
            "every phone has shown what it was sent",
            lambda: all(len(phones[device].shown.pushes) >= len(sent) for device, sent in self.sent.items()),
        )

    async def account(self, name: str, *, repeats: int = 0) -> None:
        """Everything that must be true afterwards; at most `repeats` deliveries may have reached FCM twice."""
        rig, phones = self.rig, self.fleet.phones
        for phone in phones.values():
            phone.behaviour = ORDINARY
        await self.until_online()
        await self.until_shown()
        counts = await rig.balance()
        documents = [await self.document(push) for push in rig.ledger.pushes]
        acked = sum(document["live"]["acked"] for document in documents if "live" in document)
        await rig.drained()
        record = await rig.record()
        twice = record["accepted"] - record["distinct"]
        repeated = sum(phone.shown.repeats for phone in phones.values())
        print(
            f"\n{name}: {len(phones):,} phones, accepted {rig.ledger.accepted:,}, acked {acked:,}, by FCM"
            f" {record['distinct']:,}, twice {twice:,}; repeats dropped {repeated:,},"
            f" ends {dict(self.fleet.figures.ended)}"
        )
        wrong = {device: verdict for device, verdict in self.verdicts().items() if verdict}
        assert wrong == {}
        assert counts == {"total": rig.ledger.accepted, "sent": rig.ledger.accepted}
        assert record["distinct"] >= rig.ledger.accepted - acked, "what nobody has acknowledged, FCM has accepted"
        assert twice <= repeats
        assert not self.fleet.figures.faults

    def verdicts(self) -> dict[str, str]:
        judged = {device: judge(self.sent[device], phone.shown) for device, phone in self.fleet.phones.items()}
        return {device: "" if verdict.holds else str(verdict) for device, verdict in judged.items()}

    async def document(self, push: str) -> dict[str, Any]:
        document = await self.rig.status(push)
        assert document is not None
        return document


def device(number: int) -> Device:
    """Return a device; every fifth is reached by the live channel alone."""
    name, now = f"phone-{number}", int(time.time() * 1000)
    if number % 5 == 4:
        return Device(id=name, platform="live", token=name, registered_at=now, last_seen_at=now)
    return Device(id=name, platform="fcm", token=fcm_token("ok", name), registered_at=now, last_seen_at=now)


@asynccontextmanager
async def open_scene(seed: str, count: int = PHONES, pace: Pace = PACE, **environ: str) -> AsyncIterator[Scene]:
    """Start a service with phones, which behave in the ordinary way."""
    settings: dict[str, Any] = dict(environ)
    async with open_rig(seed=seed, live=True, **settings) as rig:
        devices = [device(number) for number in range(count)]
        async with open_store(rig.store.url) as store:
            for start in range(0, count, 500):
                await store.registry.put_many(APP, devices[start : start + 500])
        secret = (rig.playground.config_file.parent / "live-secret").read_text()
        config = FleetConfig(url=rig.live_url, seed=seed, pace=pace)
        async with open_fleet(config, SecretTokens(APP, secret)) as fleet:
            for each in devices:
                fleet.add(each.id)
            fleet.start()
            scene = Scene(rig, fleet)
            await scene.until_online()
            yield scene


async def killed(scene: Scene) -> None:
    """kill -9 of one process of each part, while networks swallow a third of the connections."""
    for phone in list(scene.fleet.phones.values())[::3]:
        phone.drop_traffic()
    await asyncio.gather(*(scene.rig.kill(part) for part in ("live", "dispatch", "serve", "jobs")))


async def redis_gone(scene: Scene) -> None:
    """Redis is killed and comes back, and all connections are cut at once."""
    await asyncio.to_thread(scene.rig.store.sync, "always")
    await asyncio.to_thread(scene.rig.store.stop, signal.SIGKILL)
    for phone in scene.fleet.phones.values():
        phone.cut()
    await asyncio.to_thread(scene.rig.store.start)


async def rolled(scene: Scene) -> None:
    """Both gateways are restarted, one after the other: every connection gets to know it."""
    rig, ended = scene.rig, scene.fleet.figures.ended
    ended.clear()
    for gateway in rig.pids("live"):
        os.kill(gateway, signal.SIGTERM)
        await rig.until("it has gone", lambda gone=gateway: gone not in rig.pids("live"))  # type: ignore[misc]  # bound for the loop
        await rig.until("another gateway runs", lambda: len(rig.pids("live")) == 2)
    assert ended[SHUTDOWN.code] > 0
    assert ended[ABNORMAL] == 0


async def test_nothing_is_lost_and_nothing_is_shown_twice() -> None:
    async with open_scene("live", **TWO_GATEWAYS) as scene:
        # A dispatcher that is killed may have had answers that it had not recorded.
        for fault, repeats in ((killed, PUSHES), (redis_gone, PUSHES), (rolled, 0)):
            await scene.begin()
            await scene.under_load(fault)
            await scene.account(fault.__name__, repeats=repeats)
