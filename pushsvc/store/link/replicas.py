"""Writes that replicas have before they are answered: `queue.durability = "replicas"`.

A primary answers before its replicas have what it wrote, and a failover discards what none of them has. WAIT returns
how many have acknowledged what its own connection wrote (https://redis.io/docs/latest/commands/wait/), so it is sent
in one pipeline with the writes, on one connection; in a cluster, on one to the node of their slot. A mark, a write of
its own, precedes it, for a step whose work is already done and that writes nothing; see durable.py.

The scripts of `PROMISES` wait, whose success is reported to a caller: an accepted push, a cancel, a change of a device,
an erasure. So does `record`, as of the outcomes of a dispatcher, a batch at a time: until replicas have a batch the
dispatcher keeps it, and records it again on the server that takes over, so that nothing is sent a second time. While it
is kept, little more is sent; see dispatch/settling.py. A launch or a retry's return that is lost happens again, because
the server that takes over has the whole of one step or nothing.

How many must have it is judged by `Quorum`. One replica is not enough for the failover that sentinels make on demand:
one is promoted while another still follows, and acknowledges, what is about to be thrown away. So all replicas that a
primary has and that keep up are waited for, from the first write on: a primary is asked for them before it, and at the
start of a process, which may fall into a failover, the sentinels too. When one is missing nothing is promised until the
sentinels have named the same primary for `GRACE` seconds: it has failed, and is not waited for any more, or it was
promoted, and they have named that one. In a cluster its primaries are the sentinels: most of them must say that the
slot is that node's, since no other gets it without their votes.

ROLE follows WAIT in the same pipeline: what has been demoted meanwhile promises nothing, and the offsets that replicas
have acknowledged say who keeps up (https://redis.io/docs/latest/commands/role/).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, NamedTuple

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import ConnectionError as NoConnection

from ...errors import StoreError, StoreUnavailable
from ...telemetry import StateLog, get_logger
from ..keys import HASH_KEY, mark_in_slot_of
from .connect import store_faults
from .durable import MARK_LIFE
from .link import LOOK, Command, Link, ScriptCall
from .sentinels import GRACE, Address

PROMISES: Final = frozenset(
    {
        *("accept", "cancel", "probe"),
        "registry_apply",
        *("disown", "rewait", "unschedule"),  # the steps of an erasure, besides those that are recorded
    }
)
WAIT_MS: Final = 2000
"""How long replicas may take, in milliseconds; then the result is reported as unknown."""
SAMPLE: Final = 1.0
"""Seconds between two samples of how far the primary has written. A replica reports its offset each second."""
NEVER: Final = float("-inf")
TRY: Final = 60.0
"""Seconds between two tries to wait for a replica that keeps up but did not acknowledge in time."""


class Role(NamedTuple):
    """The answer of a primary to ROLE: how far it has written, and how far each connected replica has received it."""

    written: int
    acknowledged: tuple[int, ...]


def read_role(answer: Any) -> Role | None:
    """Parse the answer to ROLE. None: this user may not ask. Raises `StoreUnavailable` if it is no primary any more."""
    if isinstance(answer, Exception):
        return None
    if answer[0] != b"master":
        raise StoreUnavailable("the server of Redis that was asked is not the primary any more")
    return Role(int(answer[1]), tuple(int(replica[2]) for replica in answer[2]))


class Quorum:
    """Decides how many replicas of one primary must have a write. Pure: times are in seconds of any clock."""

    def __init__(self, least: int, *, strict: bool, all_of_them: bool) -> None:
        """Start with `least` replicas. `strict`: never fewer. `all_of_them`: as many as the primary has."""
        self._floor = least if strict else 0
        self._most = inf if all_of_them else max(1, least)
        self.wanted = least
        self.unseen = all_of_them
        """Whether the replicas are still unknown: ask by ROLE and `look` before the first write."""
        self._in_step = 0
        self._written = (0, 0)
        """How far the primary had written at the last two observations that count."""
        self._sampled = NEVER
        self._doubted: float | None = None
        self._try_at = 0.0

    def look(self, role: Role | None, now: float) -> None:
        """Record which replicas exist. A replica keeps up if it has what the primary had written a second or two
        ago."""
        self.unseen = False
        if role is None:
            return
        if now - self._sampled >= SAMPLE:
            self._written = (self._written[1], role.written)
            self._sampled = now
        self._in_step = sum(has > 0 and has >= self._written[0] for has in role.acknowledged)

    def expect(self, replicas: int) -> None:
        """Expect at least the `replicas` that the sentinels know: one that is not connected may be being promoted."""
        self.wanted = max(self.wanted, replicas)

    def _needed(self, now: float) -> int:
        return max(self.wanted, self._at_most(self._in_step) if now >= self._try_at else 0)

    def _at_most(self, replicas: int) -> int:
        return int(min(replicas, self._most))

    def asked(self, now: float) -> int:
        """Return how many replicas to wait for. If too few exist, the answer is negative anyway and comes at once."""
        needed = self._needed(now)
        if self._doubted is not None and self._in_step < needed:
            return max(1, self._floor)
        return needed

    def judge(self, acknowledged: int, role: Role | None, *, now: float, confirmed: float) -> bool:
        """Return whether a write that `acknowledged` replicas have is safe. `confirmed` is when the sentinels last
        named this server as the primary."""
        self.look(role, now)
        if acknowledged >= self._needed(now):
            self._doubted = None
            self.wanted = max(self.wanted, self._at_most(acknowledged))
            return True
        if self._doubted is None:
            self._doubted = now
        if acknowledged >= self._floor and confirmed - self._doubted >= GRACE:
            self.wanted = max(self._floor, acknowledged)
            self._doubted = None
            if self._in_step > acknowledged:
                self._try_at = now + TRY
            return True
        return False


class ReplicatedLink(Link):
    def __init__(self, url: str, *, name: str, timeout: float, least: int, strict: bool) -> None:
        """Use `least` replicas at first; with `strict`, never fewer."""
        super().__init__(url, name=name, timeout=timeout)
        self._least = least
        self._strict = strict
        self._quorums: dict[str, Quorum] = {}
        self._missing = StateLog("store", "replicas_missing", "replicas_still_missing", "replicas_acknowledge")
        self.on_change(self._quorums.clear)

    @property
    def waits(self) -> bool:
        return True

    @property
    def durability(self) -> str:
        if self._strict:
            return f"replicas: at least {self._least} of them have it, else the answer is 503"
        return "replicas: those that the primary has" if self._least else "memory: the primary has no replica (yet)"

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if name not in PROMISES:
            return await super().script(name, keys, args)
        return (await self.guarded(mark_in_slot_of(keys[0]), [(name, keys, args)]))[0]

    async def guarded_call(self, *command: Any) -> Any:
        return self.raised(await self._with_replicas(str(command[1]), [command], mark=False))[0]

    async def record(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self.guarded(mark_in_slot_of(keys[0]), [(name, keys, args)], repeat=False))[0]

    async def guarded(self, mark: str, calls: Sequence[ScriptCall], *, repeat: bool = True) -> list[Any]:
        history = self.history

        async def run(commands: Sequence[Command]) -> list[Any]:
            if not repeat:
                self.require(history)
            return await self._with_replicas(mark, commands, mark=True, repeat=repeat)

        return await self.by_digest(calls, run)

    async def _with_replicas(
        self, key: str, commands: Sequence[Command], *, mark: bool, repeat: bool = True
    ) -> list[Any]:
        """Return the answers in the order of the commands, or one fault for all if replicas do not have the writes."""
        if self.sentinels is None or not repeat:
            return await self._on_replicas(key, commands, mark=mark, repeat=repeat)
        may_break = True
        while True:
            history = self.history
            try:
                return await self._on_replicas(key, commands, mark=mark, repeat=False)
            except StoreUnavailable as error:
                # Another primary has other replicas: it is asked for them before it is asked to write. An attempt that
                # only finds it has asked it nothing.
                broken = may_break and isinstance(error.__cause__, NoConnection)
                if not (broken or self.history != history):
                    raise
                may_break = False

    async def _on_replicas(self, key: str, commands: Sequence[Command], *, mark: bool, repeat: bool) -> list[Any]:
        history = self.history
        quorum = self._quorums.get(key if self.cluster else "")
        if quorum is None:
            quorum = Quorum(self._least, strict=self._strict, all_of_them=self.sentinels is not None)
            self._quorums[key if self.cluster else ""] = quorum
        if quorum.unseen:
            if self.sentinels is not None and not self.history:
                # Later on we know what the sentinels have replaced: the old primary, which may not follow yet.
                quorum.expect(await self.sentinels.replicas())
            (role,) = await self.pinned(key, [("ROLE",)], 0)
            quorum.look(read_role(role), time.monotonic())
            self.require(history)
        asked = quorum.asked(time.monotonic())
        marked = [("SET", key, 1, "PX", MARK_LIFE)] if mark else []
        barrier: list[Command] = [*marked, ("WAIT", asked, WAIT_MS), ("ROLE",)]
        *answers, acknowledged, answered = await self.pinned(key, [*commands, *barrier], WAIT_MS, repeat=repeat)
        if mark:
            refused = answers.pop()
            if isinstance(refused, Exception):
                return [*answers[:-1], refused] if answers else [refused]
        if isinstance(acknowledged, Exception):
            raise StoreUnavailable(f"Redis does not say which replicas have it: {acknowledged}")
        role = read_role(answered)
        if acknowledged and not self._least:
            self._least = 1  # from now on one is missed when it goes
        now = time.monotonic()
        safe = quorum.judge(acknowledged, role, now=now, confirmed=self._confirmed(history))
        if not safe and self.cluster:
            safe = quorum.judge(acknowledged, role, now=now, confirmed=await self._elected(key))
        if not safe:
            self._missing.begin(key, acknowledged=acknowledged, wanted=quorum.wanted)
            raise StoreUnavailable(f"{acknowledged} of {quorum.wanted} replicas of Redis have it")
        self._missing.end(key)
        return answers

    def _confirmed(self, history: int) -> float:
        """Return when the sentinels last named the server that was the primary in this history."""
        return self.sentinels.confirmed if self.sentinels is not None and self.history == history else NEVER

    async def _elected(self, key: str) -> float:
        """Return when most primaries of the cluster last named this node as the owner of the key's slot."""
        client, asked = self._waiting, time.monotonic()
        if not isinstance(client, RedisCluster):
            return NEVER
        node, primaries = client.get_node_from_key(key), client.get_primaries()
        if node is None:
            return NEVER
        named: Address = (str(node.host), int(node.port))
        slot = key_slot(key.encode())

        async def owner_by(primary: ClusterNode) -> Address | None:
            with suppress(StoreError), store_faults():
                async with asyncio.timeout(LOOK):
                    slots = await client.execute_command("CLUSTER", "SLOTS", target_nodes=primary)
                    return owner_of(slot, slots, primary.host)
            return None

        owners = await asyncio.gather(*map(owner_by, primaries))
        return asked if owners.count(named) * 2 > len(primaries) else NEVER


def owner_of(slot: int, slots: Any, host: str) -> Address | None:
    """Return the owner of the slot by the answer of the node at `host` to CLUSTER SLOTS."""
    for first, last, (name, port, *_), *_ in slots:
        if first <= slot <= last:
            return (name.decode() if name else host), int(port)
    return None


async def open_link(url: str, *, name: str, timeout: float, replicas: int | None) -> Link:
    """Return a link that waits for at least as many replicas, for none, or with None for those that a Redis that fails
    over has at the moment. Raises ConfigError, `StoreUnavailable`."""
    link = Link(url, name=name, timeout=timeout)
    if replicas == 0 or (replicas is None and link.sentinels is None and not link.cluster):
        return link
    try:
        present = await _replicas_of(link) if replicas is None else replicas
    finally:
        await link.aclose()
    if present is None:
        return Link(url, name=name, timeout=timeout)
    least = replicas or min(1, present)
    return ReplicatedLink(url, name=name, timeout=timeout, least=least, strict=replicas is not None)


async def _replicas_of(link: Link) -> int | None:
    """Return how many replicas the primary has; None where this user may not wait for them."""
    waited, role = await link.pinned(HASH_KEY, [("WAIT", 0, 1), ("ROLE",)], 0)
    for answer in (waited, role):
        if isinstance(answer, Exception):
            get_logger("store").warning("replicas_unknown", error=str(answer)[:200], remedy="allow WAIT and ROLE")
            return None
    return len(role[2]) if role[0] == b"master" else 0
