"""Simulated phones against the gateway with real streams: each behaviour, and the verdict on what they have shown."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pushsvc.cli.simulator.phones import Plan, Signed, rows, run_phones
from pushsvc.lab.phones.behaviour import ORDINARY, Behaviour
from pushsvc.lab.phones.fleet import Fleet, FleetConfig, Pace, open_fleet
from pushsvc.lab.phones.phone import Phone, State
from pushsvc.lab.phones.shown import Shown
from pushsvc.lab.phones.tokens import SecretTokens
from pushsvc.live.protocol.codes import SHUTDOWN

from ..phone_verdict import judge
from .servers import Server, running_server
from .test_live_gateway import LOOP as LOOP, SECRET, World, running

PATIENCE = 20.0
PACE = Pace(first=0.02, most=0.2, answer_within=1.0, ping_grace=0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("valkey") as found:
        yield found


class Scene:
    """A gateway, its phones, and what they were sent."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        self.world = world
        self.fleet = fleet
        self.phones = list(fleet.phones.values())
        self.sent: list[str] = []

    async def push(self, count: int = 1, size: int = 0) -> None:
        """Push to all phones."""
        for _ in range(count):
            self.sent.append((await self.world.push(*self.fleet.phones, size=size))[0])

    async def until(self, reached: Callable[[], bool]) -> None:
        deadline = self.fleet.wheel.now() + PATIENCE
        while not reached():
            assert self.fleet.wheel.now() < deadline, [
                (each.device, each.state, each.behaviour, str(judge(self.sent, each.shown))) for each in self.phones
            ]
            await asyncio.sleep(0.02)

    async def until_online(self) -> None:
        await self.until(lambda: self.fleet.online == len(self.phones))

    async def until_shown(self) -> None:
        await self.until(lambda: all(len(each.shown.pushes) == len(self.sent) for each in self.phones))

    def verdicts(self) -> list[str]:
        """Return what is wrong, phone by phone."""
        verdicts = [(each.device, judge(self.sent, each.shown)) for each in self.phones]
        return [f"{device}: {verdict}" for device, verdict in verdicts if not verdict.holds]

    def confirmed(self, phone: Phone) -> list[str]:
        return [push for device, push in self.world.confirmed if device == phone.device]


@asynccontextmanager
async def acting(
    server: Server, behaviours: Sequence[Behaviour], *, ttl: float = 3600.0, **options: Any
) -> AsyncIterator[Scene]:
    async with running(server, devices=len(behaviours), **options) as world:
        url = world.sockets.url.replace("http", "ws")
        async with open_fleet(FleetConfig(url=url, pace=PACE), SecretTokens("shop", SECRET, ttl)) as fleet:
            for number, behaviour in enumerate(behaviours):
                fleet.add(f"phone-{number}", behaviour)
            fleet.start()
            yield Scene(world, fleet)


async def test_each_push_is_shown_once_and_acknowledged_whatever_the_frames_look_like(server: Server) -> None:
    kinds = [ORDINARY, Behaviour(ack=0.2), Behaviour(torn=True), Behaviour(doubled=True), Behaviour(ack=math.inf)]
    async with acting(server, kinds * 4) as scene:
        await scene.push(3)  # for those who connect later
        await scene.until_online()
        await scene.push(37)
        acking = [each for each in scene.phones if each.behaviour.ack < math.inf]
        await scene.until(lambda: all(len(scene.confirmed(each)) == 40 for each in acking))
        await scene.until(lambda: all(len(each.shown.pushes) == 32 for each in scene.phones if each not in acking))
        assert [each for each in scene.phones if scene.confirmed(each) and each not in acking] == []
        assert [str(judge(scene.sent, each.shown)) for each in acking] == ["received once, in order"] * len(acking)
        assert {each.wire.name for each in scene.phones} == {"json", "protobuf"}
        assert not scene.fleet.figures.faults


async def test_what_the_gateway_reports_as_acknowledged_is_not_acknowledged(server: Server) -> None:
    async with acting(server, [ORDINARY] * 4) as scene:
        await scene.until_online()
        assert scene.fleet.figures.acks == 0, "nothing was sent"
        await scene.push()
        await scene.until(lambda: len(scene.world.confirmed) == len(scene.phones))
        assert scene.fleet.figures.acks == len(scene.phones)
        for phone in scene.phones:  # They begin anew, and the gateway names the offset that they have acknowledged.
            phone.leave()
            phone.shown = Shown()
            phone.start()
        await scene.until_online()
        assert [each.shown.reached for each in scene.phones] == [1] * len(scene.phones)
        assert scene.fleet.figures.acks == len(scene.phones)


async def test_who_moves_between_networks_misses_nothing(server: Server) -> None:
    kinds = [Behaviour(stay=0.3, away=0.05), Behaviour(stay=0.3, away=0.05, vanish=True, ack=0.05)]
    async with acting(server, kinds * 5) as scene:
        for _ in range(20):
            await scene.push(5)
            await scene.until(lambda: scene.fleet.figures.moves > len(scene.sent))
        for phone in scene.phones:
            phone.behaviour = ORDINARY
        await scene.until_shown()
        await scene.until(lambda: len(scene.world.confirmed) == 100 * len(scene.phones))
        assert scene.verdicts() == []
        assert scene.fleet.figures.recovered > 10


async def test_a_network_that_forgets_is_found_out_by_the_pings_of_both_sides(server: Server) -> None:
    async with acting(server, [Behaviour(nat=0.3, heartbeat=1.0)] * 4, heartbeat_min=1.0, pong_within=0.3) as scene:
        await scene.until_online()
        await scene.until(lambda: scene.fleet.figures.unanswered["online"] >= len(scene.phones))
        for phone in scene.phones:
            phone.behaviour = ORDINARY
        await scene.push(3)
        await scene.until_shown()
        assert scene.verdicts() == []
        assert scene.fleet.figures.darkened >= len(scene.phones)


async def test_who_reads_slowly_is_cut_and_disturbs_nobody(server: Server) -> None:
    async with acting(
        server,
        [Behaviour(read=1.0, heartbeat=1.0), ORDINARY, ORDINARY],
        inline=65_536,
        heartbeat_min=1.0,
        pong_within=0.3,
    ) as scene:
        await scene.until_online()
        slow, *others = scene.phones
        for _ in range(30):
            await scene.push(size=30_000)
        await scene.until(lambda: scene.fleet.figures.unanswered["online"] > 0)
        await scene.until(lambda: all(len(each.shown.pushes) == 30 for each in others))
        slow.behaviour = ORDINARY
        await scene.until_shown()
        assert scene.verdicts() == []
        assert {each.code for each in others} == {0}


async def test_tokens_are_renewed_before_they_expire_and_after(server: Server) -> None:
    async with acting(server, [ORDINARY, ORDINARY], ttl=2.0) as scene:
        first, second = scene.phones
        await scene.until_online()
        second.leave()
        tokens: list[str] = []
        for _ in range(2):  # two more than the first: by then the token of before has expired
            tokens.append(first.token)
            await scene.until(lambda: first.token not in tokens)
        assert first.code == 0
        second.start()  # with the token of before, which has expired
        await scene.until_online()
        assert scene.fleet.figures.errors == {109: 1}


async def test_a_restart_brings_all_back_and_an_end_for_good_does_not(server: Server) -> None:
    async with acting(server, [ORDINARY] * 4) as scene:
        await scene.until_online()
        for connection in list(scene.world.gateway.connections.values()):
            connection.end(SHUTDOWN)
        await scene.until(lambda: scene.fleet.figures.ended[SHUTDOWN.code] == len(scene.phones))
        await scene.push()
        await scene.until_shown()
        assert scene.fleet.figures.recovered == len(scene.phones)
        await scene.world.store.live.revoke("shop", scene.phones[0].device)
        await scene.until(lambda: scene.phones[0].state is State.ENDED)
        assert scene.phones[0].code == 3503
        assert scene.fleet.online == len(scene.phones) - 1


async def test_the_command_reports_what_its_phones_have_seen(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(server, devices=10) as world:
        url = world.sockets.url.replace("http", "ws")
        plan = Plan(count=10, kinds=["20%:ack=never", "10%:stay=0.02,away=0"], gateway=url, seconds=1.5, every=0.5)
        command = asyncio.create_task(run_phones(plan, Signed("shop", SECRET), quiet=False))
        for _ in range(5):
            await world.push(*(f"phone-{number}" for number in range(10)))
        found = await command
        assert (found.phones, found.shown, found.holds) == (10, 50, True)
        assert len(world.confirmed) == 8 * 5
        assert found.moves > 0
        assert found.lost == 0
        reported = dict(rows(found))
        assert re.fullmatch(
            r"50 pushes, \d+ repeats? dropped; [\d,]+ acknowledgements? sent, each .*", reported["shown"]
        )
        assert reported["order"] == "each push once, in order"
        without = f"{found.connects}; after a break {found.recovered} went on without a gap"
        assert reported["connects"] == f"{without}, 0 with one that the gateway announced"
        first, *lines = capsys.readouterr().err.splitlines()
        assert first.startswith(f"10 phones at {url}, seed ")
        assert " of 10 online, 50 shown, " in lines[-1]
