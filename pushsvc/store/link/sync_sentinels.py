"""The primary that the sentinels name, for clients without an event loop: rq's.

As in `sentinels.py`, all sentinels are asked, a server is used if it says that it is a primary, and a command is
repeated at the server that the sentinels name. No task can follow them beside a blocking client, so a connection asks
them before a command, once a second at most: a wait for a job is short, and after it another primary is noticed.
"""

from __future__ import annotations

import time
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as NoConnection, RedisError, ResponseError
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from .sentinels import MEMORY, Address, SentinelReport, elect, read_report

LOOK = 1.0
"""Seconds between two questions to the sentinels on one connection."""


class SyncSentinels(Sentinel):
    """All sentinels of one primary, asked one after the other."""

    def __init__(self, nodes: list[Address], master: str, *, options: dict[str, Any]) -> None:
        super().__init__(nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        self._name = master
        self._believed: SentinelReport | None = None
        self._believed_at = 0.0

    def discover_master(self, service_name: str) -> Address:
        """Return where the primary is. Raises redis-py's `MasterNotFoundError`."""
        reports = [report for sentinel in self.sentinels if (report := self._ask(sentinel)) is not None]
        now = time.monotonic()
        elected = elect(reports, self._believed if now - self._believed_at < MEMORY else None)
        if elected is None:
            raise MasterNotFoundError(f"the sentinels name no living primary {service_name!r}")
        if elected in reports:
            self._believed_at = now
        self._believed = elected
        return elected.address

    def _ask(self, sentinel: Redis) -> SentinelReport | None:
        try:
            with sentinel.pipeline(transaction=False) as pipe:
                pipe.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)  # type: ignore[no-untyped-call]  # as above
                pipe.execute_command("SENTINEL", "MASTER", self._name)  # type: ignore[no-untyped-call]  # as above
                address, master = pipe.execute(raise_on_error=False)
        except (RedisError, OSError):
            return None
        return None if isinstance(address, Exception) else read_report(address, master)


class _Checked(SentinelManagedConnection):
    """A connection that is trusted if its server says that it is a primary, and while the sentinels name no other."""

    _look_at = 0.0

    def connect_to(self, address: Address) -> None:
        super().connect_to(address)  # type: ignore[no-untyped-call]  # redis-py gives it no types
        try:
            self.send_command("ROLE", check_health=False)  # type: ignore[no-untyped-call]  # as above
            role = self.read_response(disable_decoding=True)[0]
        except ResponseError:
            role = b"master"  # this user may not ask: what the sentinels report has to do
        if role != b"master":
            self.disconnect()  # type: ignore[no-untyped-call]  # as above
            raise NoConnection("the server that the sentinels name is not a primary (yet)")

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        now = time.monotonic()
        if not self.is_connected:
            # redis-py, which repeats a command whose connection broke, would use the previous address by itself.
            self._look_at = now + LOOK
            self.connect()  # type: ignore[no-untyped-call]  # redis-py gives it no types
        elif now >= self._look_at:
            self._look_at = now + LOOK
            if self.connection_pool.get_master_address() != (self.host, self.port):
                self.disconnect()  # type: ignore[no-untyped-call]  # as above
                raise NoConnection("the sentinels name another primary")
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]  # as above


class _CheckedTLS(_Checked, SentinelManagedSSLConnection):
    """The same over TLS."""


def sync_primary_client(sentinels: SyncSentinels, master: str, *, tls: bool, **options: Any) -> Redis:
    """Return a client of the current primary, not connected yet."""
    kind = _CheckedTLS if tls else _Checked
    client: Redis = sentinels.master_for(master, connection_class=kind, **options)  # type: ignore[no-untyped-call]  # redis-py gives it no types
    return client
