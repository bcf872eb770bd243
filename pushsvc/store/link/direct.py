"""Connections that many callers share: commands are written at once, one behind the other, and answered in that order.

redis-py takes a connection from a pool for each command, waits there for the answer, and gives it back. Its pool, locks
and checks cost more than the bytes: for a push of its own a fifth of the whole service. So the short commands of a
process share one connection, on which a command is written before the earlier ones are answered; what blocks, and what
is large, has one of its own. A connection lasts until it breaks.

redis-py still opens each connection, and this protocol takes over its transport: TLS, user, database and name are set,
and behind sentinels the server has said that it is the primary. A connection that breaks fails everything that waits on
it: whether it was done is unknown. An answer that is late fails only its own caller, and is discarded when it comes.
Nothing more is asked on such a connection, which may be dead, and it ends when no caller waits on it any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, cast

import hiredis
from redis import exceptions as faults
from redis._parsers import BaseParser
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from .packed import pack

PAUSE: Final = 0.05
"""Seconds until a command whose connection broke is tried once more."""
READ: Final = 0.02
"""Seconds in which what has arrived is read before an answer counts as late."""
NOT_PRIMARY: Final = "the server is not the primary any more"
_CLOSED: Final = "the store is closed"
_NOTHING: Final = object()
"""The parser's answer where the next reply is not complete."""


class _Asked:
    """Commands written together, and the replies to them so far."""

    __slots__ = ("answers", "future", "missing", "until")

    def __init__(self, missing: int, until: float, future: asyncio.Future[list[Any]]) -> None:
        self.missing = missing
        self.until = until
        self.future = future
        self.answers: list[Any] = []


class DirectConnection(asyncio.Protocol):
    """An open connection. Replies are bytes, numbers, lists, None, and what the server refuses as an exception."""

    def __init__(self, opened: AbstractConnection, on_lost: Callable[[DirectConnection], None]) -> None:
        """Take over a connection that redis-py has opened. `on_lost` is called when it ends. Raises redis-py's
        `ConnectionError` if it has ended already."""
        stream, writer = opened._reader, opened._writer
        if stream is None or writer is None or stream.at_eof() or writer.transport.is_closing():
            raise faults.ConnectionError("the server closed the connection")
        self._opened = opened
        self._on_lost = on_lost
        self._transport = writer.transport
        # The stream gets the end of the connection, which it waits for, and nothing else.
        self._stream = self._transport.get_protocol()
        self._replies = hiredis.Reader(
            protocolError=faults.InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOTHING
        )
        self._asked: deque[_Asked] = deque()
        self._wrote = False
        """Whether commands were written in this turn of the loop: what is asked now waits for its end."""
        self._unsent: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._look_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self.spent = False
        """Whether nothing more may be asked on it: an answer is late, or it has ended."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when its socket is closed."""
        self._transport.set_protocol(self)

    def ask(self, commands: Sequence[tuple[Any, ...]], seconds: float) -> asyncio.Future[list[Any]]:
        """Write commands together. The future has one reply for each, within `seconds`; it raises redis-py's
        `ConnectionError` or `TimeoutError`, after which each of them may have been done."""
        if self.spent:
            raise faults.ConnectionError("the connection has ended")
        data = b"".join([pack(command) for command in commands])
        if self._wrote:
            self._unsent.append(data)
        else:
            try:
                self._transport.write(data)
            except RuntimeError as error:  # uvloop has closed the socket, and connection_lost is still to come
                self.drop("the connection was lost")
                raise faults.ConnectionError("the connection was lost") from error
            self._wrote = True
            self._loop.call_soon(self._write_rest)
        until = self._loop.time() + seconds
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._asked.append(_Asked(len(commands), until, future))
        if until < self._look_at:
            self._plan_look(until)
        return future

    def _write_rest(self) -> None:
        """Write what was asked after the first commands of a turn: one system call here, one read at the server."""
        self._wrote = False
        if self._unsent and not self._ended:
            data = b"".join(self._unsent)
            self._unsent.clear()
            try:
                self._transport.write(data)
            except RuntimeError:  # as above
                self.drop("the connection was lost")

    def data_received(self, data: bytes) -> None:
        """Give the replies in these bytes to those who wait for them."""
        if self._ended:
            return
        replies, asked = self._replies, self._asked
        try:
            replies.feed(data)
            while (reply := replies.gets()) is not _NOTHING:
                first = asked[0]
                first.answers.append(reply)
                first.missing -= 1
                if not first.missing:
                    asked.popleft()
                    if not first.future.done():
                        first.future.set_result(first.answers)
        except (faults.InvalidResponse, IndexError):
            self.drop("the server sent an invalid reply")
        if self.spent:
            self._end_if_unused()

    def connection_lost(self, error: Exception | None) -> None:
        self._stream.connection_lost(error)
        self.drop("the server closed the connection" if error is None else f"the connection was lost: {error}")
        if not self.closed.done():
            self.closed.set_result(None)

    def drop(self, why: str) -> None:
        """End the connection, and fail at once what waits for a reply."""
        if self._ended:
            return
        self._ended = self.spent = True
        self._on_lost(self)
        self._transport.abort()
        self._opened._reader = self._opened._writer = None
        if self._timer is not None:
            self._timer.cancel()
        for each in self._asked:
            if not each.future.done():
                each.future.set_exception(faults.ConnectionError(why))
        self._asked.clear()
        self._unsent.clear()

    def _plan_look(self, at: float) -> None:
        """Set the timer. There is one, however many commands are sent."""
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        """Fail what is late now, once what has arrived is read: after a pause of the process, timers may come first."""
        self._timer = self._loop.call_later(READ, self._fail_late, self._loop.time())

    def _fail_late(self, now: float) -> None:
        """Fail what was late at `now`. Its place in the order of the replies stays."""
        self._look_at = inf
        for each in self._asked:
            if each.until > now:
                self._look_at = min(self._look_at, each.until)
                continue
            self.spent = True
            if not each.future.done():
                each.future.set_exception(faults.TimeoutError("Redis did not answer in time"))
        if self._look_at < inf:
            self._plan_look(self._look_at)
        if self.spent:
            self._end_if_unused()

    def _end_if_unused(self) -> None:
        if all(each.future.done() for each in self._asked):
            self.drop("an answer was late")


class Direct:
    """The connections of one process to one server, opened on first use and again after they were lost."""

    def __init__(self, short: Redis, blocking: Redis) -> None:
        """Use the addresses and options of these two clients."""
        self._short = short
        self._blocking = blocking
        self._behind_sentinels = isinstance(short.connection_pool, SentinelConnectionPool)
        self._shared: DirectConnection | None = None
        self._opening: asyncio.Task[DirectConnection] | None = None
        self._idle: list[DirectConnection] = []
        """Connections whose wait is over, for the next wait."""
        self._all: set[DirectConnection] = set()
        self._drops = 0
        self._closed = False

    async def ask(
        self, commands: Sequence[tuple[Any, ...]], seconds: float, *, repeat: bool = False, alone: bool = False
    ) -> list[Any]:
        """Return the replies to commands of which none blocks; what the server refuses is among them. With `repeat`,
        all are tried once more if the connection broke. Large ones go `alone`, on a connection of their own: while
        their bytes are on the way, the server answers others. Raises redis-py's exceptions, and `TimeoutError`."""
        if not commands:
            return []
        may_break = repeat
        while True:
            try:
                if alone:
                    return await self.wait(commands, seconds, anywhere=repeat)
                connection = self._shared
                if connection is None or connection.spent:
                    async with asyncio.timeout(seconds):
                        connection = await self._share()
                return self._judged(connection, await connection.ask(commands, seconds))
            except faults.ConnectionError:
                if not may_break:
                    raise
            may_break = False
            await asyncio.sleep(PAUSE)

    async def wait(self, commands: Sequence[tuple[Any, ...]], seconds: float, *, anywhere: bool = False) -> list[Any]:
        """Return the replies to commands of which some block, within `seconds`. They are never repeated. A call that
        is cancelled ends its connection, so that the server gives nothing more to it. Unless they may be asked
        `anywhere`, another primary that is found while a connection is opened is asked nothing: what they name may be
        something else there."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.spent:
                break
        else:
            drops = self._drops
            async with asyncio.timeout(seconds):
                connection = await self._open(self._blocking)
            if drops != self._drops and not anywhere:
                self._idle.append(connection)
                raise faults.ConnectionError(NOT_PRIMARY)
        try:
            answers = await connection.ask(commands, seconds)
        except BaseException:
            connection.drop("the wait has ended")
            raise
        self._idle.append(connection)
        return self._judged(connection, answers)

    def _judged(self, connection: DirectConnection, answers: list[Any]) -> list[Any]:
        """Return the replies. Raises those that say something of the connection instead of the command, as redis-py
        does."""
        for answer in answers:
            if isinstance(answer, faults.ConnectionError):
                raise answer
            if self._behind_sentinels and isinstance(answer, faults.ReadOnlyError):
                connection.drop(NOT_PRIMARY)
                raise faults.ConnectionError(NOT_PRIMARY)
        return answers

    async def _share(self) -> DirectConnection:
        """Return the shared connection. All who miss it at the same time wait for one attempt to open it, and who came
        during one that takes too long waits for the next one as well."""
        while self._opening is not None and not self._opening.done():
            with suppress(faults.TimeoutError):
                return await asyncio.shield(self._opening)
        opening = self._opening = asyncio.create_task(self._open_shared(), name="redis connection")
        opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(opening)

    async def _open_shared(self) -> DirectConnection:
        try:
            self._shared = await self._open(self._short)
        except asyncio.CancelledError:
            raise faults.ConnectionError(_CLOSED) from None
        return self._shared

    async def _open(self, client: Redis) -> DirectConnection:
        pool = client.connection_pool
        opened = pool.connection_class(**{**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)})
        try:
            if not self._closed:
                await opened.connect()  # type: ignore[no-untyped-call]  # redis-py gives it no types
            if self._closed:
                raise faults.ConnectionError(_CLOSED)
            connection = DirectConnection(opened, self._all.discard)
        except BaseException:
            await opened.disconnect(nowait=True)
            raise
        self._all.add(connection)
        return connection

    def drop(self, why: str = NOT_PRIMARY) -> None:
        """End every connection at once: nothing is answered any more."""
        self._drops += 1
        for connection in tuple(self._all):
            connection.drop(why)

    async def aclose(self) -> None:
        """Close the connections. What is in flight fails, and so does every later call."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        closing = [connection.closed for connection in self._all]
        self.drop(_CLOSED)
        if closing:
            await asyncio.wait(closing)


def direct_of(short: Any, blocking: Any) -> Direct | None:
    """Return direct connections for these clients. None: redis-py keeps theirs, because it knows the nodes of a
    cluster, or because the URL asks for a check before each use of an idle connection."""
    if not isinstance(short, Redis) or short.connection_pool.connection_kwargs.get("health_check_interval"):
        return None
    return Direct(short, cast("Redis", blocking))
