"""The primaries of a cluster, each known by its replication id, and connections that notice another one.

A server gets a new replication id when it starts, and when it is promoted
(https://redis.io/docs/latest/operate/oss_and_stack/management/replication/): what it has may lack the latest of what
its predecessor had. A slot that moves between two primaries brings its keys along, and both keep their ids.

redis-py follows a slot to its new node within a call. So the connection itself asks its node: when it opens, and before
a command where no connection has asked that node for `LOOK` seconds. A replica is asked each time, since it may be
promoted. What may be done on no other primary than the present one is checked after that, just before it is sent, and
again when it is answered.

A primary that was a replica meanwhile, and is the primary again within `LOOK`, has another id, which is asked for too
late: the ids of the past, which it also has, say no more. A cluster does not do so by itself in that time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from redis.asyncio.cluster import NodesManager, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.cluster import PRIMARY
from redis.exceptions import ResponseError

from .sentinels import Address

LOOK: Final = 1.0
"""Seconds between two questions to a primary."""
_FIELD: Final = re.compile(rb"^(role|master_replid):(\w+)", re.MULTILINE)

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each command of the block is sent, once the node is known, and after the block; it raises to
    prevent that what it checks is done, or used."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)
    check()


class Primaries:
    """The primaries that this process has met."""

    def __init__(self, changed: Callable[[Address], None]) -> None:
        """Call `changed` at once when another server turns out to be a primary."""
        self._changed = changed
        self._met: set[bytes] = set()
        self._due: dict[Address, float] = {}
        self.complete = False
        """Whether all present ones were met: any other one is new then."""

    def is_due(self, address: Address) -> bool:
        """Return whether the node has to be asked."""
        return time.monotonic() >= self._due.get(address, 0.0)

    def note(self, address: Address, info: bytes | None) -> None:
        """Take a node's answer to INFO. None: it did not say, as where this user may not ask; then its address has to
        do, and it must be one that takes writes."""
        fields = dict(_FIELD.findall(info or b""))
        if fields.get(b"role") == b"slave":
            self._due.pop(address, None)
            return
        name = fields.get(b"master_replid")
        if name is None and address not in self._due:
            name = repr(address).encode()
        self._due[address] = time.monotonic() + LOOK
        if name is None or name in self._met:
            return
        self._met.add(name)
        if self.complete:
            self._changed(address)


class _Asking(AbstractConnection):
    """To be mixed in before one of redis-py's kinds of connection."""

    primaries: Primaries
    nodes: NodesManager
    host: str
    port: int
    _asks = False

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._asks:
            self._asks = True
            try:
                await self._ask(check_health)
            finally:
                self._asks = False
            if (check := _check.get()) is not None:
                check()
            check_health = False
        await super().send_packed_command(command, check_health)

    async def _ask(self, check_health: bool) -> None:
        address = self.host, int(self.port)
        if self.is_connected:
            if check_health:
                await self.check_health()  # type: ignore[no-untyped-call]  # redis-py gives it no types
            if not self.primaries.is_due(address):
                return
        else:
            await self.connect()  # type: ignore[no-untyped-call]  # as above
        await self.send_command("INFO", "replication", check_health=False)
        info = None
        with suppress(ResponseError):
            info = await self.read_response(disable_decoding=True)
        if info is None:
            node = self.nodes.get_node(*address)
            if node is None or node.server_type != PRIMARY:
                return  # it may be a replica, and is another primary once it is promoted
        self.primaries.note(address, info)


def follow_primaries(client: RedisCluster, primaries: Primaries) -> None:
    """Let each connection of a client that has none yet ask its node."""
    kind = client.connection_kwargs["connection_class"]
    asking = type(kind.__name__, (_Asking, kind), {"primaries": primaries, "nodes": client.nodes_manager})
    client.connection_kwargs["connection_class"] = asking
    for node in client.startup_nodes:
        node.connection_class = asking
