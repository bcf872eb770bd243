"""Writes that replicas have before they are answered: `queue.durability = "replicas"`.

A primary answers before its replicas have what it wrote, and a failover throws away what none of them has. WAIT tells
how many have acknowledged what its own connection wrote (https://redis.io/docs/latest/commands/wait/), so it goes out
in one pipeline with the writes, on one connection; in a cluster, on one to the node of their slot. In front of it goes
a mark, a write of its own, for a step that finds its work done and writes nothing; see durable.py.

What waits is what somebody is told of and relies on, the scripts of `PROMISES`: a push that was accepted, a cancel, a
change of a device, an erasure. So does what a dispatcher records, a batch at a time: until replicas have it the
dispatcher keeps it, and records it again on the server that takes over, so that nothing is sent a second time. While it
is kept, little more is sent; see dispatch/settling.py. A launch or a retry's return that is lost comes about again,
because the server that takes over has the whole of one step or nothing.

How many must have it is judged by `Quorum`. One replica is not enough for the failover that sentinels make on demand:
one is promoted while another still follows, and acknowledges, what is about to be thrown away. So all replicas that a
primary has are waited for. When one is missing nothing is promised until the sentinels have named the same primary for
`GRACE` seconds: it has failed, and is not waited for any more, or it was promoted, and they have named that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ..errors import StoreUnavailable
from ..telemetry import StateLog, get_logger
from .keys import HASH_KEY, mark_beside
from .link import Command, Link, ScriptCall

PROMISES: Final = frozenset(
    {
        *("accept", "once", "cancel", "probe"),
        "registry_apply",
        *("disown", "forget", "requeue", "rewait", "unschedule"),  # the steps of an erasure
    }
)
WAIT_MS: Final = 2000
"""How long replicas may take; then the answer is that nobody knows."""
GRACE: Final = 3.0
"""Seconds until a replica that is missing is known not to have been promoted: a sentinel asks each second who is a
primary, and tells the others at once."""
UNWATCHED: Final = 30.0
"""The same where no sentinel can say so: a primary of a cluster that is cut off stops by itself, after 15 s or so."""
TRY: Final = 60.0
"""Seconds between two tries to wait for a replica that is connected but did not acknowledge."""
_MARK_LIFE: Final = 60_000


class Quorum:
    """How many replicas of one primary must have a write. Pure: instants are in seconds of any clock."""

    def __init__(self, least: int, *, strict: bool, all_of_them: bool) -> None:
        """`strict`: fewer than `least` never do. `all_of_them`: as many as the primary has are waited for."""
        self._floor = least if strict else 0
        self._all = all_of_them
        self.wanted = least
        self._connected = 0
        self._doubted: float | None = None
        self._try_at = 0.0

    def asked(self, now: float) -> int:
        """How many to wait for. While in doubt nothing is promised, so nothing is waited for either."""
        if self._doubted is not None:
            return max(1, self._floor)
        return max(self.wanted, self._connected if self._all and now >= self._try_at else 0)

    def judge(self, asked: int, acknowledged: int, connected: int, *, now: float, confirmed: float) -> bool:
        """Whether a write is safe that `acknowledged` of the `asked` replicas have. `confirmed` is when the sentinels
        last said that this is the primary."""
        self._connected = connected
        if acknowledged >= self.wanted:
            self._doubted = None
            if acknowledged < asked:
                self._try_at = now + TRY
            elif self._all:
                self.wanted = max(self.wanted, acknowledged)
            return True
        if self._doubted is None:
            self._doubted = now
        if acknowledged >= self._floor and confirmed - self._doubted >= GRACE:
            self.wanted = max(self._floor, acknowledged)
            self._doubted = None
            self._try_at = now + TRY
            return True
        return False


class ReplicatedLink(Link):
    """A link whose promises are kept by replicas too."""

    def __init__(self, url: str, *, name: str, timeout: float, least: int, strict: bool) -> None:
        """`least` replicas at first; `strict`: and never fewer."""
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
    def promise_is(self) -> str:
        if self._strict:
            return f"replicas: at least {self._least} of them have it, else the answer is 503"
        return "replicas: those that the primary has" if self._least else "memory: the primary has no replica (yet)"

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if name not in PROMISES:
            return await super().script(name, keys, args)
        return (await self.guarded(mark_beside(keys[0]), [(name, keys, args)]))[0]

    async def promise(self, *command: Any) -> Any:
        return self.raised(await self._with_replicas(str(command[1]), [command], mark=False))[0]

    async def guarded(self, mark: str, calls: Sequence[ScriptCall]) -> list[Any]:
        return await self._guarded(mark, calls)

    async def record(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self._guarded(mark_beside(keys[0]), [(name, keys, args)], repeat=False))[0]

    async def _guarded(self, mark: str, calls: Sequence[ScriptCall], *, repeat: bool = True) -> list[Any]:
        async def run(commands: Sequence[Command]) -> list[Any]:
            return await self._with_replicas(mark, commands, mark=True, repeat=repeat)

        return await self.by_digest(calls, run)

    async def _with_replicas(
        self, key: str, commands: Sequence[Command], *, mark: bool, repeat: bool = True
    ) -> list[Any]:
        """The answers, in the order of the commands; a fault in the place of all where replicas do not have them."""
        clock = asyncio.get_running_loop().time
        quorum = self._quorums.get(key if self.cluster else "")
        if quorum is None:
            quorum = Quorum(self._least, strict=self._strict, all_of_them=self.sentinels is not None)
            self._quorums[key if self.cluster else ""] = quorum
        asked = quorum.asked(clock())
        marked = [("SET", key, 1, "PX", _MARK_LIFE)] if mark else []
        barrier: list[Command] = [*marked, ("WAIT", asked, WAIT_MS), ("ROLE",)]
        *answers, acknowledged, role = await self.pinned(key, [*commands, *barrier], WAIT_MS, repeat=repeat)
        if mark:
            refused = answers.pop()
            if isinstance(refused, Exception):
                return [*answers[:-1], refused] if answers else [refused]
        if isinstance(acknowledged, Exception):
            raise StoreUnavailable(f"Redis does not say which replicas have it: {acknowledged}")
        now = clock()
        confirmed = self.confirmed if self.sentinels is not None else now - UNWATCHED + GRACE
        if acknowledged and not self._least:
            self._least = 1  # from now on one is missed when it goes
        connected = len(role[2]) if isinstance(role, list) and role[0] == b"master" else acknowledged
        if not quorum.judge(asked, acknowledged, connected, now=now, confirmed=confirmed):
            self._missing.begin(key, acknowledged=acknowledged, wanted=quorum.wanted)
            raise StoreUnavailable(f"{acknowledged} of {quorum.wanted} replicas of Redis have it")
        self._missing.end(key)
        return answers


async def open_link(url: str, *, name: str, timeout: float, replicas: int | None) -> Link:
    """A link that waits for at least as many replicas, for none, or with None for those that a Redis that fails over
    has at the moment. Raises ConfigError, `StoreUnavailable`."""
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
    """How many replicas the primary has; None where this user may not wait for them."""
    waited, role = await link.pinned(HASH_KEY, [("WAIT", 0, 1), ("ROLE",)], 0)
    for answer in (waited, role):
        if isinstance(answer, Exception):
            get_logger("store").warning("replicas_unknown", error=str(answer)[:200], mend="allow WAIT and ROLE")
            return None
    return len(role[2]) if role[0] == b"master" else 0
