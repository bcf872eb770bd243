"""Redis that fails over, under load: behind sentinels and as a cluster.

    PUSHSVC_CHAOS_DELIVERIES=60000 pytest tests/chaos/test_topologies.py -s

After each fault: nothing that was answered 202 is lost, and each has its status; no process of the service has ended;
what came twice was in flight, or had been answered and was not on the replica yet.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from pushsvc.store import keys

from ..integration.servers import KINDS, Kind, wait_until
from ..integration.topologies import ClusterRig, Node, SentinelRig, running_cluster, running_sentinels
from .rig import UNRECORDED, WINDOW, Rig, open_rig
from .test_faults import account, under_load

pytestmark = pytest.mark.chaos

BEHIND = 4000
"""Deliveries that were answered within the second or two in which an old primary is still believed."""
REPEATS = sum(WINDOW.values()) + UNRECORDED + BEHIND
LANE = keys.lane("demo", 0, "apns", "normal")

SentinelFault = Callable[[SentinelRig], None]
ClusterFault = Callable[[ClusterRig], None]


async def through(rig: Rig, name: str, fault: Callable[[], None]) -> None:
    """One fault in the middle of the load, and the account of it."""
    parts = ("serve", "dispatch", "feedback", "jobs")
    before = {part: rig.pids(part) for part in parts}

    async def strike(rig: Rig) -> None:
        await asyncio.to_thread(fault)

    await under_load(rig, strike, 1)
    await account(rig, name, repeats=REPEATS)
    print(f"{'':<22} accepting again after {rig.ledger.silence:.1f} s")
    assert {part: rig.pids(part) for part in parts} == before, "no process has ended"


def play(url: str, act: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_rig(seed=url, url=url, DISPATCH__TAKEOVER="15") as rig:
            rig.keyed = True
            await act(rig)

    asyncio.run(main())


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [kill_primary, fail_over, freeze_primary], ids=lambda fault: fault.__name__)
def test_sentinels(kind: Kind, fault: SentinelFault) -> None:
    with running_sentinels(kind) as redis:
        play(redis.url, lambda rig: through(rig, f"{kind}: {fault.__name__}", lambda: fault(redis)))


# --- clusters -------------------------------------------------------------------------------------


def kill_holder(rig: ClusterRig) -> None:
    rig.holder(LANE).send(signal.SIGKILL)


def promote_replica(rig: ClusterRig) -> None:
    """CLUSTER FAILOVER: the primary waits for its replica."""
    old = rig.holder(LANE)
    replica = _replica_of(rig, old)
    replica.ask("CLUSTER", "FAILOVER")
    wait_until(lambda: rig.holder(LANE) is replica, 30)


def freeze_holder(rig: ClusterRig) -> None:
    old = rig.holder(LANE)
    replica = _replica_of(rig, old)
    old.send(signal.SIGSTOP)
    wait_until(lambda: replica.ask("ROLE")[0] == "master", 30)  # type: ignore[index]
    time.sleep(1)
    old.send(signal.SIGCONT)


def move_slots(rig: ClusterRig) -> None:
    """The slot of the pushes and that of the registry go to another primary, ten keys at a time."""
    for key in (LANE, keys.devices("demo")):
        _move(rig, int(rig.nodes[0].ask("CLUSTER", "KEYSLOT", key)), key)  # type: ignore[call-overload]


def _replica_of(rig: ClusterRig, primary: Node) -> Node:
    own = primary.ask("CLUSTER", "MYID")
    for node in rig.nodes:
        fields = str(node.ask("INFO", "replication"))
        if node is not primary and f"'master_port': {primary.port}" in fields:
            return node
    raise LookupError(own)


def _move(rig: ClusterRig, slot: int, key: str) -> None:
    source = rig.holder(key)
    target = next(node for node in rig.primaries() if node is not source)
    ids = {node.port: str(node.ask("CLUSTER", "MYID")) for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    while names := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)  # type: ignore[misc]
    for node in (target, *(each for each in rig.primaries() if each is not target)):
        try:
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        except ResponseError:
            continue  # a replica by now


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fault", [kill_holder, promote_replica, freeze_holder, move_slots], ids=lambda fault: fault.__name__
)
def test_clusters(kind: Kind, fault: ClusterFault) -> None:
    with running_cluster(kind) as redis:
        play(redis.url, lambda rig: through(rig, f"{kind}: {fault.__name__}", lambda: fault(redis)))
