"""The primary that the sentinels name, and connections that go nowhere else.

redis-py asks the first sentinel that answers, and only when it opens a connection: connections that are open stay with
the old primary after a failover. A failover by `SENTINEL FAILOVER` leaves that one a primary for about ten seconds
more, and throws away what it took meanwhile (https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/).
So all sentinels are asked, each second too, and their word is weighed:

- A higher configuration epoch is newer. The sentinel that leads a failover names the new primary before it tells the
  new epoch, so it goes before the others of its epoch.
- What was believed stays believed against an older epoch for `MEMORY` seconds: a sentinel that is cut off names the
  old primary. After that the present word counts, as after the sentinels were set up anew.
- A new connection asks its server for its ROLE before it is used, and is used only while the sentinels name that
  server: a primary that was frozen and wakes up still calls itself one for some ten seconds.

One `Sentinels` stands behind all clients of a process: whoever hears of another primary first, all hear of it.
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
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError

from .packed import Packed

MEMORY: Final = 30.0
"""Seconds for which a newer word stands against an older one."""

Address = tuple[str, int]


class SentinelReport(NamedTuple):
    """What one sentinel says."""

    epoch: int
    leads: bool
    """It is in the middle of a failover, and names the one that it promotes."""
    address: Address
    down: bool = False

    @property
    def rank(self) -> tuple[int, bool]:
        return self.epoch, self.leads


def elect(words: Iterable[SentinelReport], believed: SentinelReport | None) -> SentinelReport | None:
    """The newest of these words, unless what is believed is newer still; None where nobody names a living primary."""
    newest = max((word for word in words if not word.down), key=lambda word: word.rank, default=None)
    if newest is None or (believed is not None and believed.rank > newest.rank):
        return believed if newest is not None else None
    return newest


def read_word(address: Any, master: Any) -> SentinelReport | None:
    """From SENTINEL GET-MASTER-ADDR-BY-NAME and SENTINEL MASTER; None where this sentinel does not know it."""
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


def living_of(replicas: Any) -> int:
    """How many of the answer to SENTINEL REPLICAS are not down."""
    if not replicas or isinstance(replicas, Exception):
        return 0
    flags = [dict(zip(flat[::2], flat[1::2], strict=True))[b"flags"].split(b",") for flat in replicas]
    return sum(not {b"s_down", b"o_down", b"disconnected"} & set(own) for own in flags)


class Sentinels(Sentinel):
    """All sentinels of one primary."""

    def __init__(
        self,
        nodes: list[Address],
        master: str,
        *,
        timeout: float,
        options: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **options}
        super().__init__(nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        self._name = master
        self._timeout = timeout
        self._clock = clock
        self._believed: SentinelReport | None = None
        self._heard = 0.0
        self._switched: list[Callable[[Address], None]] = []
        self.confirmed = float("-inf")
        """When the sentinels were last asked and named `address`; by the clock."""

    @property
    def name(self) -> str:
        """What the sentinels call the primary."""
        return self._name

    @property
    def address(self) -> Address | None:
        """The primary that was named last."""
        return None if self._believed is None else self._believed.address

    def on_switch(self, switched: Callable[[Address], None]) -> None:
        """Call this at once whenever the sentinels name another primary than before."""
        self._switched.append(switched)

    async def discover_master(self, service_name: str) -> Address:
        """Where the primary is. Raises redis-py's `MasterNotFoundError`."""
        asked = self._clock()
        words = await asyncio.gather(*(self._ask(sentinel) for sentinel in self.sentinels))
        known = [word for word in words if word is not None]
        now = self._clock()
        elected = elect(known, self._believed if now - self._heard < MEMORY else None)
        if elected is None:
            raise MasterNotFoundError(f"the sentinels name no living primary {service_name!r}")
        before, self._believed = self.address, elected
        if elected in known:
            self._heard, self.confirmed = now, asked
        if before not in (None, elected.address):
            for switched in self._switched:
                switched(elected.address)
        return elected.address

    async def replicas(self) -> int:
        """How many living replicas the primary has, by the sentinel that knows most of them."""
        answers = await asyncio.gather(
            *(self._answers(each, [("SENTINEL", "REPLICAS", self._name)]) for each in self.sentinels)
        )
        return max((living_of(answer[0]) for answer in answers), default=0)

    async def _ask(self, sentinel: Redis) -> SentinelReport | None:
        address, master = await self._answers(
            sentinel, [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name), ("SENTINEL", "MASTER", self._name)]
        )
        return None if isinstance(address, Exception) else read_word(address, master)

    async def _answers(self, sentinel: Redis, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Faults are among them; None for each where the sentinel does not answer."""
        try:
            async with asyncio.timeout(self._timeout), sentinel.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
                return answers
        except (RedisError, OSError, TimeoutError):
            return [None] * len(commands)


class _Checked(Packed, SentinelManagedConnection):
    """Connects to whom the sentinels name, each time. Trusted when that server says that it is a primary, and the
    sentinels have named no other meanwhile."""

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
            role = b"master"  # this user may not ask: the sentinels' word has to do
        if role != b"master":
            await self.disconnect()
            raise NoConnection("the server that the sentinels name is not a primary (yet)")
        if self.connection_pool.sentinel_manager.address != address:
            await self.disconnect()
            raise NoConnection("the sentinels have named another primary meanwhile")


class _CheckedTLS(_Checked, SentinelManagedSSLConnection):
    """The same over TLS."""


def primary_client(sentinels: Sentinels, master: str, *, tls: bool, **options: Any) -> Redis:
    """A client of whatever is the primary, not yet connected."""
    kind = _CheckedTLS if tls else _Checked
    client: Redis = sentinels.master_for(master, connection_class=kind, max_connections=100_000, **options)
    return client


def drop_connections(client: Redis) -> None:
    """Every connection of the client ends at once, those in use too: whoever waits on one has a lost answer.

    As a server's end does it, so that redis-py takes it for one: its own `disconnect` pulls the parser away from under
    a read, and lets others go on while it waits.
    """
    pool = client.connection_pool
    for connection in (*pool._in_use_connections, *pool._available_connections):
        if connection._writer is not None:
            connection._writer.transport.abort()
