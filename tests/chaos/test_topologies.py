"""Redis that fails over, refuses or forgets, under load: behind sentinels, as a cluster, and alone.

    PUSHSVC_CHAOS_DELIVERIES=60000 pytest tests/chaos/test_topologies.py -s      all rows, a line each

After each fault: nothing that was answered 202 is lost, and each has its status; no process of the service has ended.
Each push has an Idempotency-Key and is posted until it is accepted. Small loads, as in CI, see a fault of each topology
once; larger ones see all of them, on both servers.

What may come twice is bounded by what was being accepted: a dispatcher may have sent a push whose acceptance replicas
did not have yet, and its caller posts it again. What was accepted comes once: a dispatcher keeps an outcome until
replicas have it, and reads from a new primary when it has recorded there what it had sent.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from redis.crc import key_slot

from pushsvc.lab.simulator import apns_token
from pushsvc.store import keys

from ..integration.servers import KINDS, Kind, Server, running_server, wait_until
from ..integration.topologies import ClusterRig, Node, SentinelRig, SlotMove, running_cluster, running_sentinels
from .rig import CALLERS, DELIVERIES, SIZES, Rig, open_rig

pytestmark = pytest.mark.chaos

REPEATS = CALLERS * max(SIZES)
"""What the callers have posted and not heard of, at most."""
ALL = DELIVERIES >= 10_000
"""Whether every fault strikes on every server."""
LANE = keys.lane("demo", 0, "apns", "normal")

SentinelFault = Callable[[SentinelRig], None]
ClusterFault = Callable[[ClusterRig], None]


async def through(
    url: str, name: str, fault: Callable[[], None], *, nodes: Sequence[Node] = (), repeats: int = REPEATS
) -> None:
    """One fault in the middle of the load of the store at `url`, and the account of it in a line."""
    jobs: dict[str, Any] = {} if "+cluster" in url else {"JOBS__URL": ""}
    async with open_rig(seed=url, url=url, DISPATCH__TAKEOVER="15", **jobs) as rig:
        rig.keyed = True
        await meet_and_account(rig, name, fault, nodes, repeats)


async def meet_and_account(rig: Rig, name: str, fault: Callable[[], None], nodes: Sequence[Node], repeats: int) -> None:
    parts = ("serve", "dispatch", "jobs")
    before = {part: rig.pids(part) for part in parts}
    ledger = rig.ledger
    await rig.until("every process is at work", lambda: at_work(before, nodes))
    try:
        await register(rig)
        reached = await meet(rig, fault)
        counts = await rig.balance()
        await rig.drained()
    except AssertionError as error:
        print(f"\n{name:<24} FAILED accepted {ledger.accepted:,}: {error}")
        raise
    record = await rig.record()
    living = ledger.accepted - len(ledger.dead)
    lost = ledger.accepted - sum(record[platform]["distinct_tokens"] for platform in ("apns", "fcm"))
    twice = record["accepted"] - living
    ended = [part for part in parts if not set(before[part]) <= set(rig.pids(part))]
    print(
        f"\n{name:<24} accepted {ledger.accepted:,}, lost {lost:,}, twice {twice:,} (bound {repeats:,}),"
        f" accepting again after {ledger.silence:.1f} s, an audience reached after {reached:.1f} s,"
        f" processes ended {len(ended)}"
    )
    assert ledger.accepted >= DELIVERIES
    assert lost == 0
    # A dead token that came twice was known to be dead the second time.
    again = counts["suppressed"]
    sums = {"total": ledger.accepted, "sent": living, "invalid": len(ledger.dead) - again, "suppressed": again}
    assert counts == +Counter(sums)
    assert 0 <= twice <= repeats
    assert not ended


def at_work(pids: dict[str, list[int]], nodes: Sequence[Node]) -> bool:
    """Whether each of these processes has connections to these servers: one that only starts may fail to."""
    clients = " ".join(str(node.ask("CLIENT", "LIST")) for node in nodes)
    return not nodes or all(f"-{pid}-" in clients for part in pids.values() for pid in part)


async def meet(rig: Rig, fault: Callable[[], None]) -> float:
    """Post the load. The fault strikes when a third of it is accepted, and the load goes on until each caller has been
    answered after it. Returns after how many seconds an audience that was pushed to then was reached."""
    ledger = rig.ledger
    ledger.more = True
    load = asyncio.create_task(rig.load())
    try:
        await rig.until("a third is accepted", lambda: ledger.accepted >= DELIVERIES / 3)
        await asyncio.to_thread(fault)
        audience = asyncio.create_task(reach_audience(rig))
        enough = len(ledger.pushes) + 2 * CALLERS
        await rig.until("pushes are accepted again", lambda: len(ledger.pushes) >= enough)
        ledger.more = False
        await load
        return await audience
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def register(rig: Rig) -> None:
    """A device that follows a topic."""
    body = {"platform": "apns", "token": apns_token("ok", "audience")}
    async with rig.session.put("/v1/devices/audience", json=body) as answer:
        assert answer.status == 201, await answer.text()
    async with rig.session.put("/v1/topics/audience/devices/audience") as answer:
        assert answer.status == 204, await answer.text()


async def reach_audience(rig: Rig) -> float:
    """Push to that topic, which `jobs` look up; seconds until it is done."""
    started = time.monotonic()
    body = msgspec.json.encode({"to": {"topic": "audience"}, "lane": "urgent", "notification": {"title": "chaos"}})
    push = await rig.insist(body, "audience")
    rig.ledger.pushes.append(push)
    rig.ledger.accepted += 1

    async def done() -> bool:
        document = await rig.status(push)
        return document is not None and document["state"] == "done"

    await rig.until("the audience is reached", done)
    return time.monotonic() - started


# --- sentinels ------------------------------------------------------------------------------------


def kill_primary(rig: SentinelRig) -> None:
    rig.named().send(signal.SIGKILL)


def fail_over(rig: SentinelRig) -> None:
    rig.failover()


def freeze_primary(rig: SentinelRig) -> None:
    """Others have taken over when it comes back, and it does not know yet."""
    old = rig.named()
    old.send(signal.SIGSTOP)
    wait_until(lambda: rig.named() is not old, 30)
    time.sleep(1)
    old.send(signal.SIGCONT)


@pytest.mark.parametrize("kind", KINDS if ALL else KINDS[:1])
@pytest.mark.parametrize(
    "fault", [kill_primary, fail_over, freeze_primary] if ALL else [fail_over], ids=lambda fault: fault.__name__
)
async def test_sentinels(kind: Kind, fault: SentinelFault) -> None:
    with running_sentinels(kind) as redis:
        await through(redis.url, f"{kind} {fault.__name__}", lambda: fault(redis), nodes=redis.data)


# --- clusters -------------------------------------------------------------------------------------


def kill_holder(rig: ClusterRig) -> None:
    rig.holder(LANE).send(signal.SIGKILL)


def promote_replica(rig: ClusterRig) -> None:
    """CLUSTER FAILOVER: the primary waits for its replica."""
    old = rig.holder(LANE)
    replica = rig.replica_of(old)
    replica.ask("CLUSTER", "FAILOVER")
    wait_until(lambda: rig.holder(LANE) is replica, 30)


def freeze_holder(rig: ClusterRig) -> None:
    old = rig.holder(LANE)
    replica = rig.replica_of(old)
    old.send(signal.SIGSTOP)
    wait_until(lambda: replica.ask("ROLE")[0] == "master", 30)  # type: ignore[index]
    time.sleep(1)
    old.send(signal.SIGCONT)


def move_slots(rig: ClusterRig) -> None:
    """The slots of the app's deliveries and of its registry go to other primaries."""
    for key in (LANE, keys.device_counts("demo")):
        holder = rig.holder(key)
        other = next(node for node in rig.primaries() if node is not holder)
        move = SlotMove(key_slot(key.encode()), holder.port, other.port)
        move.begin()
        while names := move.keys(100):
            move.carry(names)
        move.end()
        wait_until(lambda key=key, other=other: rig.holder(key) is other, 30)  # type: ignore[misc]  # bound for the loop


@pytest.mark.parametrize("kind", KINDS if ALL else KINDS[-1:])
@pytest.mark.parametrize(
    "fault",
    [kill_holder, promote_replica, freeze_holder, move_slots] if ALL else [promote_replica],
    ids=lambda fault: fault.__name__,
)
async def test_clusters(kind: Kind, fault: ClusterFault) -> None:
    with running_cluster(kind) as redis:
        await through(redis.url, f"{kind} {fault.__name__}", lambda: fault(redis), nodes=redis.nodes)


# --- alone ----------------------------------------------------------------------------------------


def refuse_writes(server: Server) -> None:
    """As where replicas are asked for and none is left."""
    server.command("CONFIG SET min-replicas-to-write 1")
    time.sleep(2)
    server.command("CONFIG SET min-replicas-to-write 0")


@pytest.mark.parametrize("kind", KINDS if ALL else KINDS[:1])
async def test_refused_writes(kind: Kind) -> None:
    with running_server(kind) as redis:
        await through(redis.url, f"{kind} refuse_writes", lambda: refuse_writes(redis), repeats=0)
