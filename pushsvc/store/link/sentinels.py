"""The primary that the sentinels name, and connections that use no other server.

redis-py asks the first sentinel that answers, and only when it opens a connection: open connections stay with the old
primary after a failover. A failover by `SENTINEL FAILOVER` leaves that one a primary for about ten seconds more, and
discards what it accepted meanwhile (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/). So all
sentinels are asked, also once a second, and their answers are compared:

- A higher configuration epoch is newer. The sentinel that leads a failover names the new primary before it publishes
  the new epoch, so it precedes the others of its epoch.
- An accepted answer takes precedence over an older epoch for `MEMORY` seconds: a sentinel that is cut off names the old
  primary. After that the current answer counts, as after a new set-up of the sentinels.
- A new connection asks its server for its ROLE before it is used, and is used only while the sentinels name that
  server: a primary that was frozen and wakes up still calls itself one for some ten seconds.

All clients of a process share one `Sentinels`, so that all of them learn of another primary at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import ConnectionError as NoConnection, RedisError, ResponseError

from ...errors import StoreUnavailable
from .packed import Packed

GRACE: Final = 3.0
"""Seconds until a missing replica is known not to have been promoted. A sentinel asks each second who is a primary, and
informs the others at once."""
MEMORY: Final = 30.0
"""Seconds for which a newer answer takes precedence over an older one."""

Address = tuple[str, int]


class SentinelReport(NamedTuple):
    epoch: int
    leads: bool
    """Whether it leads a failover, and names the server that it promotes."""
    address: Address
    down: bool = False

    @property
    def rank(self) -> tuple[int, bool]:
        return self.epoch, self.leads


def elect(reports: Iterable[SentinelReport], believed: SentinelReport | None) -> SentinelReport | None:
    """Return the newest answer, unless `believed` is newer still, or None if no sentinel names a living primary."""
    newest = max((report for report in reports if not report.down), key=lambda report: report.rank, default=None)
    if newest is None or (believed is not None and believed.rank > newest.rank):
        return believed if newest is not None else None
    return newest


def read_report(address: Any, master: Any) -> SentinelReport | None:
    """Parse SENTINEL GET-MASTER-ADDR-BY-NAME and SENTINEL MASTER. None: this sentinel does not know the master."""
    if not address or isinstance(master, Exception) or not master:
        return None
    fields = dict(zip(master[::2], master[1::2], strict=True))
    named = (address[0].decode(), int(address[1]))
    own = (fields[b"ip"].decode(), int(fields[b"port"]))
    flags = fields[b"flags"].split(b",")
    leads = named != own
    return SentinelReport(
        int(fields[b"config-epoch"]), leads, named, not leads and (b"s_down" in flags or b"o_down" in flags)
    )


def present_of(replicas: Any) -> int:
    """Return how many of the answer to SENTINEL REPLICAS may have been promoted: those that have not been down for
    `GRACE` seconds. A promotion ends the connections of all sentinels to its server."""
    if isinstance(replicas, Exception):
        return 0
    found = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in replicas]
    return sum(int(fields.get(b"s-down-time", 0)) < GRACE * 1000 for fields in found)


class Sentinels(Sentinel):
    def __init__(self, nodes: list[Address], master: str, *, timeout: float, options: dict[str, Any]) -> None:
        options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **options}
        super().__init__(nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        self._name = master
        self._timeout = timeout
        self._believed: SentinelReport | None = None
        self._believed_at = 0.0
        self._switched: list[Callable[[Address], None]] = []
        self.confirmed = float("-inf")
        """When the sentinels were last asked and named `address`, by `time.monotonic`."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def address(self) -> Address | None:
        return None if self._believed is None else self._believed.address

    def on_switch(self, switched: Callable[[Address], None]) -> None:
        """Call this at once whenever the sentinels name another primary than before."""
        self._switched.append(switched)

    async def discover_master(self, service_name: str) -> Address:
        """Return where the primary is. Raises redis-py's `MasterNotFoundError`."""
        asked = time.monotonic()
        reports = await asyncio.gather(*(self._ask(sentinel) for sentinel in self.sentinels))
        known = [report for report in reports if report is not None]
        now = time.monotonic()
        elected = elect(known, self._believed if now - self._believed_at < MEMORY else None)
        if elected is None:
            raise MasterNotFoundError(f"the sentinels name no living primary {service_name!r}")
        before, self._believed = self.address, elected
        if elected in known:
            self._believed_at, self.confirmed = now, asked
        if before not in (None, elected.address):
            for switched in self._switched:
                switched(elected.address)
        return elected.address

    async def replicas(self) -> int:
        """Return how many replicas the primary may have, by the sentinel that knows most of them. Raises
        `StoreUnavailable` if none answers."""
        answers = await asyncio.gather(
            *(self._answers(each, [("SENTINEL", "REPLICAS", self._name)]) for each in self.sentinels)
        )
        known = [answer for (answer,) in answers if answer is not None]
        if not known:
            raise StoreUnavailable("no sentinel says which replicas there are")
        return max(map(present_of, known))

    async def _ask(self, sentinel: Redis) -> SentinelReport | None:
        address, master = await self._answers(
            sentinel, [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name), ("SENTINEL", "MASTER", self._name)]
        )
        return None if isinstance(address, Exception) else read_report(address, master)

    async def _answers(self, sentinel: Redis, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Return the answers of one sentinel, with faults among them, or None for each if it does not answer."""
        try:
            async with asyncio.timeout(self._timeout), sentinel.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
                return answers
        except (RedisError, OSError, TimeoutError):
            return [None] * len(commands)


class _Checked(Packed, SentinelManagedConnection):
    """A connection to the server that the sentinels name. It is trusted if that server says that it is a primary, and
    the sentinels have named no other meanwhile."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            # redis-py, which repeats a command whose connection broke, would use the previous address by itself.
            await self.connect()  # type: ignore[no-untyped-call]  # redis-py gives it no types
        await super().send_packed_command(command, check_health)

    async def connect_to(self, address: Address) -> None:
        await super().connect_to(address)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        try:
            await self.send_command("ROLE", check_health=False)
            role = (await self.read_response(disable_decoding=True))[0]
        except ResponseError:
            role = b"master"  # this user may not ask: what the sentinels report has to do
        if role != b"master":
            await self.disconnect()
            raise NoConnection("the server that the sentinels name is not a primary (yet)")
        if self.connection_pool.sentinel_manager.address != address:
            await self.disconnect()
            raise NoConnection("the sentinels have named another primary meanwhile")


class _CheckedTLS(_Checked, SentinelManagedSSLConnection):
    """The same over TLS."""


def primary_client(sentinels: Sentinels, master: str, *, tls: bool, **options: Any) -> Redis:
    """Return a client of the current primary, not connected yet."""
    kind = _CheckedTLS if tls else _Checked
    client: Redis = sentinels.master_for(master, connection_class=kind, max_connections=100_000, **options)
    return client


def drop_connections(client: Redis) -> None:
    """End every connection of the client at once, including those in use, whose answers are lost.

    This is done as if the server had closed them, and redis-py treats it so: its own `disconnect` would remove the
    parser from a read, and let other tasks run while it waits.
    """
    pool = client.connection_pool
    for connection in (*pool._in_use_connections, *pool._available_connections):
        if connection._writer is not None:
            connection._writer.transport.abort()
