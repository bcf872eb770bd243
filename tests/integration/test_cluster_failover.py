"""What was read from one node of a cluster is nothing to the node that takes over from it.

The replica that is promoted was held behind, so that it gives the ids and the numbers of what it has lost to other
entries. A slot that moves takes its entries along: what was read of them stays valid.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeVar

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Ended, TokenDead
from pushsvc.ports.entries import Taken
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.ports.live import Cut, Received
from pushsvc.store import Store, StoreConfig, keys, open_store
from pushsvc.store.erase.logs import Log
from pushsvc.store.erase.subjects import Subjects
from pushsvc.store.link import cluster as cluster_nodes, link, primaries, replicas
from pushsvc.store.part import StoreContext

from .servers import suspended, wait_until
from .test_store_kit import ROUTE, all_of, make_push, moment, take, take_all
from .test_store_replay import fail_all
from .topologies import ClusterRig, Node, SlotMove, is_ok, running_cluster

T = TypeVar("T")
Way = Literal["FORCE", "TAKEOVER", "kill"]

LANE = keys.lane("shop", 0, "apns", "normal")
DEAD = Ended("failed"), TokenDead(status=410, reason="Unregistered")
CONFIG = StoreConfig(consumer="a", replicas=0)


class Shard:
    """The primary that has a key, and its replica."""

    def __init__(self, rig: ClusterRig, key: str) -> None:
        self.rig = rig
        self.old = rig.holder(key)
        self.new = rig.replica_of(self.old)
        self._held = False

    def hold_behind(self) -> None:
        """Let the replica receive nothing from here on."""
        wait_until(self._is_in_step)
        self._held = True
        self.old.ask("ACL", "SETUSER", "default", "-psync", "-sync")
        self.old.ask("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: not is_linked(self.new))

    def _is_in_step(self) -> bool:
        (_, written, _), (*_, received) = role_of(self.old), role_of(self.new)
        return int(received) >= int(written)

    def fail_over(self, way: Way = "TAKEOVER") -> None:
        wait_until(lambda: self._held or self._is_in_step())
        if way == "kill":
            self.old.send(signal.SIGKILL)
        else:
            self.new.ask("CLUSTER", "FAILOVER", way)
        living = [node for node in self.rig.nodes if way != "kill" or node is not self.old]
        wait_until(lambda: is_primary(self.new) and agree(living), 30)

    def other_entry(self, key: str, entry: str, *fields: str | bytes, group: str = "") -> None:
        """Give an entry of another kind this id on the new primary, pending for the same consumer in a group."""
        self.new.ask("DEL", key)
        self.new.ask("XADD", key, entry, *(fields or ("c", "another")))
        if group:
            self.new.ask("XGROUP", "CREATE", key, group, "0")
            self.new.ask("XREADGROUP", "GROUP", group, "a", "STREAMS", key, ">")


def let_follow(primary: Node) -> None:
    """Let replicas follow again. SYNC stays forbidden: a replica tries it after a PSYNC that was refused just before,
    and would acknowledge nothing."""
    primary.ask("ACL", "SETUSER", "default", "+psync")


def role_of(node: Node) -> Sequence[Any]:
    role: Sequence[Any] = node.ask("ROLE")  # type: ignore[assignment]
    return role


def is_primary(node: Node) -> bool:
    return bool(role_of(node)[0] == "master")


def agree(nodes: Sequence[Node]) -> bool:
    """Whether all know the same primaries, of the same epochs and with the same slots. Of failovers that follow faster,
    one may win for some of them only."""
    views = set()
    for node in nodes:
        lines = [line.split() for line in str(node.ask("CLUSTER", "NODES")).splitlines()]
        views.add(frozenset((name, master, epoch, *slots) for name, _, _, master, _, _, epoch, _, *slots in lines))
    return len(views) == 1


def is_linked(replica: Node) -> bool:
    return "'master_link_status': 'up'" in str(replica.ask("INFO", "replication"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterRig]:
    with running_cluster() as rig:
        yield rig


@pytest.fixture
def rig(cluster: ClusterRig) -> ClusterRig:
    """Every primary is empty, and has a replica that is in step."""
    for node in cluster.nodes:
        if not node.answers():
            node.start()
            wait_until(node.answers)
        let_follow(node)
    wait_until(lambda: all(is_ok(node) for node in cluster.nodes) and agree(cluster.nodes), 30)
    wait_until(lambda: all(is_primary(node) or is_linked(node) for node in cluster.nodes), 30)
    for node in cluster.nodes:
        node.ask("ACL", "SETUSER", "default", "+@all")
    for node in cluster.primaries():
        node.ask("FLUSHALL")
    return cluster


@asynccontextmanager
async def opened(rig: ClusterRig, config: StoreConfig = CONFIG) -> AsyncIterator[Store]:
    async with asyncio.timeout(60), open_store(rig.url, config) as store:
        yield store


async def insist(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat this until the cluster is available."""
    while True:
        with suppress(StoreUnavailable):
            return await work()
        await asyncio.sleep(0.02)


async def assert_ends_no_other(shard: Shard, store: Store, taken: Taken) -> None:
    """Settle what the former primary handed out, while another entry has its id on the new one."""
    shard.other_entry(LANE, taken.ref.entry_id, group=keys.DISPATCH)
    await insist(lambda: store.queue.settle("shop", *all_of(taken)))
    assert (store.link.history, shard.new.ask("XLEN", LANE)) == (1, 1)


@pytest.mark.parametrize("way", ["FORCE", "TAKEOVER", "kill"])
async def test_what_a_former_primary_handed_out_ends_nothing_on_the_next(rig: ClusterRig, way: Way) -> None:
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        shard.hold_behind()
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        shard.fail_over(way)
        await assert_ends_no_other(shard, store, taken)


async def test_a_replica_that_does_not_say_what_it_is_is_another_primary_once_it_is_promoted(rig: ClusterRig) -> None:
    shard = Shard(rig, LANE)
    for node in rig.nodes:
        node.ask("ACL", "SETUSER", "mute", "on", ">word", "~*", "&*", "+@all", "-info")
    # It is asked which node has which slot.
    url = f"redis+cluster://mute:word@127.0.0.1:{shard.new.port}"
    async with asyncio.timeout(60), open_store(url, CONFIG) as store:
        shard.hold_behind()
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        shard.fail_over()
        await assert_ends_no_other(shard, store, taken)


async def test_what_replicas_confirm_ends_nothing_on_the_next_primary(rig: ClusterRig) -> None:
    shard = Shard(rig, LANE)
    async with opened(rig, StoreConfig(consumer="a", replicas=1)) as store:
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        shard.fail_over()
        wait_until(lambda: is_linked(shard.old))
        await assert_ends_no_other(shard, store, taken)


async def test_what_another_client_has_learnt_first_stops_a_record_that_is_on_its_way(
    rig: ClusterRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its primary is known as it begins, and the next one by another connection before it is sent."""
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        execute, failed_over = RedisCluster.execute_command, False

        async def after_others(client: Any, *command: Any, **more: Any) -> Any:
            nonlocal failed_over
            if client is store.link._waiting and not failed_over:
                failed_over = True
                shard.fail_over()
                shard.other_entry(LANE, taken.ref.entry_id, group=keys.DISPATCH)
                await store.link.call("XLEN", LANE)
            return await execute(client, *command, **more)

        monkeypatch.setattr(RedisCluster, "execute_command", after_others)
        with pytest.raises(StoreUnavailable, match="another server"):
            await store.queue.settle("shop", *all_of(taken))
        assert (store.link.history, shard.new.ask("XLEN", LANE)) == (1, 1)


async def test_what_the_next_primary_has_is_read_anew(rig: ClusterRig) -> None:
    """It has the entry too, and knows nothing of what became of it."""
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("p"))
        await take(store)
        shard.fail_over()
        (taken,) = await insist(lambda: take_all(store))
        assert (taken.chunk.push_id, taken.ref.history) == ("p", 1)
        assert len(await store.queue.settle("shop", *all_of(taken))) == 1
        assert shard.new.ask("XLEN", LANE) == 0


@pytest.mark.parametrize("shards", [1, 3])
async def test_a_wait_that_goes_on_at_the_next_primary_loses_nothing(
    rig: ClusterRig, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait blocks in one shard, and looks into several again and again."""
    shard = Shard(rig, LANE)
    name = next(name for name in map(str, range(9)) if keys.shard_of(name, shards) == 0)
    async with opened(rig, StoreConfig(consumer="a", replicas=0, shards=shards)) as store:
        read, looked = store.link.read, asyncio.Event()

        async def then_note(*args: Any) -> Any:
            answer = await read(*args)
            looked.set()
            return answer

        monkeypatch.setattr(store.link, "read", then_note)
        waiting = asyncio.create_task(take(store, wait_ms=500))
        await looked.wait()
        while shards == 1 and "'blocked_clients': 0" in str(shard.old.ask("INFO", "clients")):
            await asyncio.sleep(0.005)
        shard.fail_over()
        await store.pushes.accept(make_push(name))
        found = []
        with suppress(StoreUnavailable):
            found = await waiting
        (taken,) = found or await insist(lambda: take_all(store))
        assert (taken.chunk.push_id, taken.ref.history) == (name, 1)


async def test_what_has_ended_is_not_handed_out_by_a_primary_that_was_behind(rig: ClusterRig) -> None:
    """It does not know that the entry was read; a process that starts then learns what was recorded since."""
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("p"))
        shard.hold_behind()
        (taken,) = await take(store)
        shard.fail_over()
        await insist(lambda: store.queue.settle("shop", *all_of(taken)))
        assert shard.new.ask("XLEN", LANE) == 1
        async with opened(rig, StoreConfig(consumer="b", replicas=0)) as other:
            assert await take_all(other) == []
        assert shard.new.ask("XLEN", LANE) == 0


async def test_what_was_cancelled_is_read_anew_from_the_next_primary(rig: ClusterRig) -> None:
    """Its epoch is the one that the former had after another cancel."""
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("a"))
        shard.hold_behind()
        await store.pushes.cancel("shop", "a")
        assert {each.chunk.push_id: each.skip for each in await take_all(store)} == {"a": {0: "cancelled"}}
        epoch = str(shard.old.ask("GET", keys.epoch("shop", 0)))
        shard.fail_over()
        await insist(lambda: store.pushes.accept(make_push("b")))
        await insist(lambda: store.pushes.cancel("shop", "b"))
        shard.new.ask("SET", keys.epoch("shop", 0), epoch)
        ended = {each.chunk.push_id: each.skip for each in await insist(lambda: take_all(store))}
        assert ended == {"a": {}, "b": {0: "cancelled"}}


async def test_receipts_of_a_former_primary_acknowledge_none_of_the_next(rig: ClusterRig) -> None:
    stream = keys.receipts("shop", 0)
    shard = Shard(rig, stream)
    async with opened(rig) as store:
        shard.hold_behind()
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        await store.queue.settle("shop", *all_of(taken, *DEAD))
        ((entry, receipt),) = await store.receipts.take("shop", limit=10, wait_ms=0)
        shard.fail_over()
        shard.other_entry(stream, entry.split(":")[1], group=keys.FEEDBACK)
        await insist(lambda: store.receipts.record("shop", [(entry, receipt, None)]))
        assert shard.new.ask("XLEN", stream) == 1


async def test_dead_letters_that_were_read_are_not_replayed_on_the_next_primary(
    rig: ClusterRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = keys.dead("shop", 0)
    shard = Shard(rig, stream)
    async with opened(rig) as store:
        await fail_all(store, make_push("p"))
        await fail_all(store, make_push("q"))
        job = (await store.dead.request(ReplaySpec("shop", DeadFilter()))).job
        (entry, _), (_, other) = await store.link.call("XRANGE", stream, "-", "+")
        reopen = store.dead._reopen

        async def reopen_and_fail_over(*args: Any) -> Any:
            shard.fail_over()
            shard.other_entry(stream, entry.decode(), "d", other[b"d"])
            return await reopen(*args)

        with monkeypatch.context() as patched:
            patched.setattr(store.dead, "_reopen", reopen_and_fail_over)
            with pytest.raises(StoreUnavailable):
                await store.dead.step("shop", job, most=1)
        assert (shard.new.ask("XLEN", LANE), shard.new.ask("XLEN", stream)) == (0, 1)
        assert (await insist(lambda: store.dead.step("shop", job, most=1))).moved == 1
        assert [each.chunk.push_id for each in await insist(lambda: take_all(store))] == ["q"]


async def test_an_erasure_removes_nothing_of_the_next_primary_that_it_has_not_read(
    rig: ClusterRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = keys.dead("shop", 0)
    shard = Shard(rig, stream)
    async with opened(rig) as store:
        await fail_all(store, make_push("p"))
        keeper = Log(context_of(store), "dead_letters", keys.dead, lambda who, fields: "anna")
        call = store.link.call

        async def call_and_fail_over(*command: Any) -> Any:
            answer = await call(*command)
            shard.fail_over()
            shard.other_entry(stream, answer[0][0].decode())
            return answer

        with monkeypatch.context() as patched:
            patched.setattr(store.link, "call", call_and_fail_over)
            with pytest.raises(StoreUnavailable):
                await keeper.step("shop", NOBODY, "")
        assert shard.new.ask("XLEN", stream) == 1


NOBODY: Any = Subjects({}, bytes(32), None)  # type: ignore[arg-type]  # the keeper of this test asks it nothing


def context_of(store: Store) -> StoreContext:
    return StoreContext(store.link, store.config, store.hash_key, store.clock)


async def test_an_inbox_is_read_from_its_beginning_at_the_next_primary(rig: ClusterRig) -> None:
    key = keys.inbox("gate-a")
    shard = Shard(rig, key)
    async with opened(rig) as store:
        inbox = store.live.inbox("gate-a")
        shard.hold_behind()
        await store.live.poke({"gate-a": [Cut("shop", 1, "replaced")]})
        assert await inbox.receive(0) == Received([Cut("shop", 1, "replaced")])
        ((_, fields),) = await store.link.call("XRANGE", key, "-", "+")
        shard.fail_over()
        shard.other_entry(key, "5-0", *(word for field in fields.items() for word in field))
        assert await insist(lambda: store.link.call("XLEN", key)) == 1
        received = await insist(lambda: inbox.receive(0))
        assert received == Received([Cut("shop", 1, "replaced")], lost=True)


async def test_an_inbox_that_learns_of_the_next_primary_by_its_read_looks_again(rig: ClusterRig) -> None:
    key = keys.inbox("gate-a")
    shard = Shard(rig, key)
    async with opened(rig) as store:
        inbox = store.live.inbox("gate-a")
        await store.live.poke({"gate-a": [Cut("shop", 1, "replaced")]})
        assert not (await inbox.receive(0)).lost
        shard.fail_over()
        assert any([(await insist(lambda: inbox.receive(1))).lost for _ in range(2)])


async def test_a_revocation_of_the_next_primary_is_heard_whose_clock_is_behind(rig: ClusterRig) -> None:
    stream = keys.revoked("shop", 0)
    shard = Shard(rig, stream)
    async with opened(rig) as store:
        await store.queue.enrol("shop")
        shard.hold_behind()
        await store.link.call("XADD", stream, f"{moment() + 3_600_000}-0", "p", "lost")
        assert [each.revoked.pushes for each in await store.queue.revoked(["shop"], 1000)] == [{"lost"}]
        shard.fail_over()
        shard.new.ask("XADD", stream, f"{moment()}-0", "p", "found")
        assert await insist(lambda: store.link.call("XLEN", stream)) == 1
        news = await insist(lambda: store.queue.revoked(["shop"], 1000))
        assert [each.revoked.pushes for each in news] == [{"found"}]


async def test_a_node_that_was_started_again_has_another_history(rig: ClusterRig) -> None:
    """It is back before its replica takes over, and has lost everything."""
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        shard.old.send(signal.SIGKILL)
        shard.old.start()
        wait_until(shard.old.answers)
        wait_until(lambda: is_primary(shard.old) and is_ok(shard.old), 30)
        shard.new = shard.old
        shard.other_entry(LANE, taken.ref.entry_id, group=keys.DISPATCH)
        await insist(lambda: store.queue.settle("shop", *all_of(taken)))
        assert (store.link.history, shard.old.ask("XLEN", LANE)) == (1, 1)


async def test_a_primary_that_was_a_replica_meanwhile_has_another_history(
    rig: ClusterRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was asked of it in between, and its connections are open."""
    monkeypatch.setattr(primaries, "LOOK", 0.0)
    monkeypatch.setattr(link, "LOOK", 600.0)
    shard = Shard(rig, LANE)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        shard.fail_over()
        wait_until(lambda: is_linked(shard.old))
        shard.old, shard.new = shard.new, shard.old
        shard.fail_over()
        await assert_ends_no_other(shard, store, taken)


async def test_a_slot_that_moves_takes_what_was_read_of_it_along(rig: ClusterRig) -> None:
    shard = Shard(rig, LANE)
    other = next(node for node in rig.primaries() if node is not shard.old)
    async with opened(rig) as store:
        await store.pushes.accept(make_push("p"))
        (taken,) = await take(store)
        move = SlotMove(key_slot(LANE.encode()), shard.old.port, other.port)
        move.begin()
        move.carry(move.keys())
        move.end()
        assert len(await insist(lambda: store.queue.settle("shop", *all_of(taken)))) == 1
        assert (store.link.history, other.ask("XLEN", LANE)) == (0, 0)
        store.queue.release(ROUTE)
        assert await take_all(store) == []


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_primary_that_was_frozen_hands_out_nothing_once_another_has_taken_over(
    rig: ClusterRig, monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    """It answers what it was asked before it learns of that."""
    monkeypatch.setattr(link, "LOOK", 0.1)
    monkeypatch.setattr(primaries, "LOOK", 600.0)
    shard = Shard(rig, LANE)
    async with opened(rig) as store, opened(rig) as other:
        await take(store)
        await other.pushes.accept(make_push("first"))
        (taken,) = await take(store)
        await store.queue.settle("shop", *all_of(taken))
        if not blocking:
            await other.pushes.accept(make_push("p"))
        wait_until(shard._is_in_step)
        reading, accepting = None, None
        if blocking:
            reading = asyncio.create_task(take(store, wait_ms=30_000))
            while "'blocked_clients': 0" in str(shard.old.ask("INFO", "clients")):
                await asyncio.sleep(0.005)
        assert shard.old.process is not None
        with suspended(shard.old.process.pid):
            if reading is None:
                reading = asyncio.create_task(take(store))
            else:
                accepting = asyncio.create_task(other.pushes.accept(make_push("p")))
            await asyncio.sleep(0)
            shard.new.ask("CLUSTER", "FAILOVER", "TAKEOVER")
            while not store.link.history:
                await asyncio.sleep(0.02)
            await store.pushes.accept(make_push("q"))
        with pytest.raises(StoreUnavailable):
            await reading
        if accepting is not None:
            await asyncio.gather(accepting, return_exceptions=True)


@pytest.mark.parametrize("repeat", [False, True])
async def test_where_a_slot_moves_within_a_batch_what_was_done_is_done_again_only_if_it_may(
    rig: ClusterRig, monkeypatch: pytest.MonkeyPatch, repeat: bool
) -> None:
    """The batch itself moves the slot, between two of its commands."""
    key = keys.mark_in_slot_of(LANE)
    shard, slot = Shard(rig, key), key_slot(key.encode())
    other = next(node for node in rig.primaries() if node is not shard.old)
    away = ("CLUSTER", "SETSLOT", slot, "NODE", str(other.ask("CLUSTER", "MYID")))
    async with opened(rig) as store:
        await store.link.call("SET", key, 10)
        send = cluster_nodes._on_node_of

        async def then_end_the_move(*args: Any) -> Any:
            monkeypatch.undo()
            answers = await send(*args)
            SlotMove(slot, shard.old.port, other.port).end()
            return answers

        monkeypatch.setattr(cluster_nodes, "_on_node_of", then_end_the_move)
        batch = [("INCR", key), ("DEL", key), away, ("INCR", key), ("ROLE",)]
        done, _, _, refused, role = await store.link.pinned(key, batch, 0, repeat=repeat)
        assert (done, refused) == (1 if repeat else 11, 1)
        assert (role[0], other.ask("GET", key)) == (b"master", "1")


async def test_primaries_that_are_announced_as_localhost_are_no_others(rig: ClusterRig) -> None:
    """Else every process would look up all slots each second."""

    def announce(name: str, kind: str, gone: str) -> None:
        for node in rig.nodes:
            node.ask("CONFIG", "SET", "cluster-announce-hostname", name, "cluster-preferred-endpoint-type", kind)
        before = f"['{gone}',", "['?',"
        wait_until(lambda: not any(each in str(node.ask("CLUSTER", "SLOTS")) for node in rig.nodes for each in before))

    announce("localhost", "hostname", "127.0.0.1")
    try:
        async with opened(rig) as store:
            clients = [
                client for client in (store.link._client, store.link._waiting) if isinstance(client, RedisCluster)
            ]
            for client in clients:
                await client.initialize()
            assert len(clients) == 2
            assert not await cluster_nodes.follow(clients, 5.0)
    finally:
        announce("", "ip", "localhost")


async def test_a_replica_that_was_away_is_waited_for_again(rig: ClusterRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the service goes on alone, and no longer than that."""
    monkeypatch.setattr(replicas, "WAIT_MS", 300)
    monkeypatch.setattr(replicas, "GRACE", 0.1)
    shard = Shard(rig, LANE)
    async with opened(rig, StoreConfig()) as store:
        await store.pushes.accept(make_push("before"))
        shard.hold_behind()
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await store.pushes.accept(make_push("alone"))
        await insist(lambda: store.pushes.accept(make_push("alone")))
        let_follow(shard.old)
        (_, written, _) = role_of(shard.old)
        wait_until(lambda: any(int(has) >= int(written) for *_, has in role_of(shard.old)[2]))
        await insist(lambda: store.pushes.accept(make_push("back")))
        assert shard.new.process is not None
        with suspended(shard.new.process.pid), pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await store.pushes.accept(make_push("later"))
