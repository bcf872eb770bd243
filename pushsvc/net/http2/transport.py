"""The pool of HTTP/2 connections to one provider: what every push travels over.

We frame HTTP/2 ourselves, as a client and no more than that, for two reasons. It is several times cheaper than any
library: `tests/bench/transport.py` (one pinned core for the client, 400 bytes of headers and 200 of body, 1000 streams
on one connection, a shared 2-core machine) measured, in CPU microseconds a request and requests a second:

====================  =================  ======================  =================
client                200, no body       410 with a body         nghttpd
====================  =================  ======================  =================
this pool             4.2 us, 133,000/s  5.7 us, 153,000/s       4.4 us, 97,000/s
pyreqwest (hyper)     36 us, 24,000/s    35 us, 24,000/s         33 us, 24,000/s
httpx (h2)            840 us, 1,200/s    900 us, 1,100/s         930 us, 1,000/s
====================  =================  ======================  =================

(Our rates are bounded by the server, which has the other core.) And only the owner of the streams knows which of them a
GOAWAY left unprocessed: exactly those are sent again, once.

The API is a callback a request and an integer of room, because a task or a future a request would cost more than the
request itself. The parts::

    Pool (who waits, who is up, deadlines) -- dial (DNS, TCP, TLS, ALPN)
      +- Silence (does the server say anything?)
      +- Connection (http2: lifecycle, SETTINGS, GOAWAY, PING)
           +- Streams (requests out, answers in) -- Outflow (send windows) -- hpack_fields, frames (bytes)
"""

from __future__ import annotations

import asyncio
import random as _random
import ssl as _ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

import structlog

from ..dial import Origin, describe, dial, prepare
from ..proxy import Proxy
from .connection import Connection
from .exchange import (
    CLOSING,
    NEVER_SENT,
    UNREACHABLE,
    Answer as Answer,
    Failure as Failure,
    OnAnswer as OnAnswer,
    Request,
    Response as Response,
    Stats as Stats,
    Terms,
)
from .hpack_fields import HTTPS as HTTPS, POST as POST, authority as authority, field as field, path as path
from .silence import Silence

_log = structlog.get_logger(__name__)

BACKOFF: Final = (0.1, 10.0)
"""Seconds before connecting again: full jitter below the first, doubled with each failure up to the second."""
SHARE: Final = 64
"""Requests that a connection gets in one write, before it is another's turn. Half of a burst on each of two connections
would be two writes, which cost twice as much."""
STUCK: Final = 3.0
"""Seconds without room and without a request under way after which this is a trouble: a connection rests for less."""
LISTEN: Final = 1.0
"""Seconds between two looks whether the server says anything, while requests wait for it."""


class Pool:
    """Connections to one origin, kept up for hours. An async context manager; open it inside the loop that uses it."""

    def __init__(
        self,
        origin: str,
        *,
        ssl: _ssl.SSLContext,
        proxy: Proxy | None = None,
        connections: int = 2,
        window: int = 1000,
        request_timeout: float = 10.0,
        connect_timeout: float = 10.0,
        ping_after: float = 3600.0,
        body_limit: int = 65_536,
        receive_window: int = 1 << 22,
        clock: Callable[[], float] | None = None,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """Configure a pool. `ssl` must offer HTTP/2. Times are in seconds, limits in bytes. Raises `ValueError` for a
        bad origin."""
        if connections < 1 or window < 1 or request_timeout <= 0:
            raise ValueError("a pool needs a connection, a window of one request and a timeout above 0")
        prepare(ssl)
        self._stats = Stats()
        self._origin, self._ssl, self._proxy = Origin.of(origin), ssl, proxy
        self._size, self._connect_timeout, self._ping_after = connections, connect_timeout, ping_after
        self._terms = Terms(window, request_timeout, body_limit, receive_window)
        self._timeout = request_timeout
        self._clock = clock
        self._random = random
        self._waiting: deque[Request] = deque()
        self._room = 0
        self._stuck_since: float | None = None
        """Since when the connections that are up take no request, although they have none."""
        self._up: list[Connection] = []
        self._alive: set[Connection] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._wakes: list[Callable[[], None]] = []
        self._fault = f"{self._origin}: not connected yet"
        self._epoch = 0
        self._closing = False
        self._drained: asyncio.Future[None] | None = None
        self._flush_due = self._wake_due = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._silence = Silence()
        self._listener: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Pool:
        """Start connecting. `room` and `trouble` show the progress."""
        self._loop = asyncio.get_running_loop()
        self._now = self._clock or self._loop.time
        self._keepers = [self._loop.create_task(self._keep()) for _ in range(self._size)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- what callers use -----------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Free stream slots over all usable connections, less what waits for one; 0 while no connection is up."""
        return max(self._room, 0)

    @property
    def trouble(self) -> str:
        """Why no connection is up, or takes requests, or the empty string."""
        if not self._up:
            return self._fault
        if self._stuck_since is None or self._now() - self._stuck_since < STUCK:
            return ""
        return f"{self._origin}: connected, and the server takes no requests (it allows no streams, or no data)"

    @property
    def silence(self) -> float:
        """The seconds for which not one byte has come, though a request waited and PINGs have asked; 0 while the server
        speaks. No request fails by this."""
        return self._silence.seconds(self._now())

    @property
    def stats(self) -> Stats:
        """Counters since the pool was opened; read them, leave them as they are."""
        self._stats.in_flight = sum(len(connection.streams.open) for connection in self._alive)
        return self._stats

    def on_room(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever `room` may have risen from 0, at most once an iteration of the event loop."""
        self._wakes.append(wake)

    def submit(self, fields: bytes, body: bytes, context: Any, on_answer: OnAnswer) -> None:
        """Send `fields` (pseudo-fields first, see `field`) and `body`, and report the answer by `on_answer(context,
        answer)`.

        Never blocks, never raises. `on_answer` is called exactly once, within the request timeout and never from
        within this call. Beyond `room`, the request waits in the pool.
        """
        if self._closing:
            self._loop.call_soon(on_answer, context, CLOSING)
            return
        self._waiting.append(Request(fields, body, context, on_answer, self._now() + self._timeout))
        self._room -= 1
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def renew(self, ssl: _ssl.SSLContext | None = None) -> None:
        """Open fresh connections, with `ssl` if given, and drain the present ones."""
        if ssl is not None:
            prepare(ssl)
            self._ssl = ssl
        self._epoch += 1
        self._fault = f"{self._origin}: connections are being renewed"
        for connection in self._up.copy():
            connection.retire()
        self._up.clear()
        self.changed()

    async def aclose(self) -> None:
        """Accept no more requests, let those in flight end within the request timeout, and close the connections. Where
        this is cancelled, they close at once. May be called again: later calls wait as well."""
        self._closing = True
        try:
            if self._waiting or self._busy():
                self._drained = self._drained or self._loop.create_future()
                await asyncio.wait([self._drained])
        finally:
            await self._close()

    async def _close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for timer in (self._sweeper, self._listener):
            if timer is not None:
                timer.cancel()
        connections = list(self._alive)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    # --- callbacks of connections ---------------------------------------------------------------

    def changed(self) -> None:
        """Recompute the room and serve waiting requests from it."""
        self._count_room()
        if self._waiting:
            self._flush_soon()
        elif self._drained is not None and not self._drained.done() and not self._busy():
            self._drained.set_result(None)

    def returned(self, requests: list[Request]) -> None:
        """Queue requests that the server did not process before all others, with unchanged deadlines."""
        self._stats.resubmitted += len(requests)
        for request in requests:
            request.rewind()
        self._waiting.extendleft(reversed(requests))
        self._flush_soon()

    # --- the requests ---------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what waits, share by share, each on the connection with the most room."""
        self._flush_due = False
        waiting = self._waiting
        if waiting and self._sweeper is None:
            self._sweep_at(waiting[0].deadline)
        if waiting and self._listener is None:
            self._listener = self._loop.call_later(LISTEN, self._listen)
        while waiting and self._up and (widest := max(self._up, key=_room_of)).room:
            widest.send(waiting, SHARE)
        self._count_room()

    def _count_room(self) -> None:
        room = -len(self._waiting)
        for connection in self._up:
            room += connection.room
        if room > 0 >= self._room and not self._wake_due:
            self._wake_due = True
            self._loop.call_soon(self._wake)
        self._room = room
        if room > 0 or not self._up or self._waiting or self._closing or self._busy():
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = self._now()
            if self._sweeper is None:
                self._sweep_at(self._stuck_since + self._timeout)

    def _wake(self) -> None:
        self._wake_due = False
        for wake in self._wakes:
            if self._room > 0:  # another may have used it up; then the next rise wakes again
                wake()

    def _sweep_at(self, deadline: float) -> None:
        self._sweeper = self._loop.call_later(max(deadline - self._now(), 0.0), self._sweep)

    def _sweep(self) -> None:
        """End what is overdue now, once what has been answered is read: after a pause of the process, timers may come
        first. The wait also lets deadlines close together share a look."""
        self._sweeper = self._loop.call_later(self._timeout / 100, self._end_overdue, self._now())

    def _end_overdue(self, now: float) -> None:
        """End requests that were overdue at `now`, and schedule the next sweep. One timer serves all requests of the
        pool."""
        self._sweeper = None
        overdue = [request for request in self._waiting if request.deadline <= now]
        if overdue:
            self._waiting = deque(request for request in self._waiting if request.deadline > now)
            self._stats.timeouts += len(overdue)
            self._give_up(overdue, NEVER_SENT if self._up else UNREACHABLE)
        nearest = min((request.deadline for request in self._waiting), default=float("inf"))
        for connection in list(self._alive):
            nearest = min(nearest, connection.expire(now))
        self.changed()
        if self._stuck_since is not None:
            nearest = min(nearest, now + self._timeout)  # no request would cause another look
        if nearest < float("inf") and self._sweeper is None:
            self._sweep_at(nearest)

    def _listen(self) -> None:
        """Look whether the server says anything, again while requests wait for it or it is silent."""
        self._listener = None
        received = max((connection.last_received for connection in self._alive), default=-inf)
        asked = min((connection.asked_at for connection in self._alive if connection.streams.open), default=inf)
        now = self._now()
        silent = self._silence.look(now, received=received, asked=asked)
        for connection in list(self._alive) if silent else ():
            connection.inquire(now)
        if silent or asked < inf:
            self._listener = self._loop.call_later(LISTEN, self._listen)

    def _give_up(self, requests: list[Request], failure: Failure) -> None:
        for request in requests:
            try:
                request.on_answer(request.context, failure)
            except Exception as error:
                self._loop.call_exception_handler({"message": "on_answer raised", "exception": error})

    def _busy(self) -> bool:
        return any(connection.streams.open for connection in self._alive)

    # --- the connections ------------------------------------------------------------------------

    def _make(self) -> Connection:
        return Connection(
            self,
            self._terms,
            self._stats,
            loop=self._loop,
            clock=self._now,
            random=self._random,
            name=str(self._origin),
        )

    async def _keep(self) -> None:
        """Keep one connection up: connect, watch, and connect again the moment that it takes no more streams."""
        failures = 0
        while True:
            if failures:
                await asyncio.sleep(min(BACKOFF[1], BACKOFF[0] * 2 ** min(failures - 1, 20)) * self._random())
            epoch = self._epoch
            try:
                connection = await dial(self._origin, self._ssl, self._make, self._connect_timeout, self._proxy)
            except Exception as error:
                # Whatever it is, it is this connect that failed; another one may do better.
                failures += 1
                self._stats.connects_failed += 1
                self._fault = describe(error, self._origin, self._proxy)
                if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th: an outage is no flood of lines
                    _log.warning("http2_connect_failed", origin=str(self._origin), error=self._fault, failures=failures)
                continue
            opened = self._now()
            self._stats.connections_opened += 1
            self._alive.add(connection)
            connection.closed.add_done_callback(partial(self._forget, connection))
            _log.info("http2_connected", origin=str(self._origin))
            if epoch == self._epoch and not connection.retired.done():
                self._up.append(connection)
            else:
                connection.retire()
            self.changed()
            await self._watch(connection)
            if connection in self._up:
                self._up.remove(connection)
            if epoch == self._epoch:
                self._fault = f"{self._origin}: the connection ended ({connection.end})"
            self.changed()
            # A connection that neither answered nor lasted is a failure as well, or a broken server would spin us.
            useful = connection.streams.answered or self._now() - opened > BACKOFF[1]
            failures = 0 if useful or epoch != self._epoch else failures + 1

    def _forget(self, connection: Connection, _: asyncio.Future[None]) -> None:
        self._alive.discard(connection)
        self.changed()

    async def _watch(self, connection: Connection) -> None:
        while not (await asyncio.wait([connection.retired], timeout=self._ping_after))[0]:
            if self._now() - connection.last_received >= self._ping_after:
                connection.probe()


def _room_of(connection: Connection) -> int:
    return connection.room


async def answer_of(pool: Pool, fields: bytes, body: bytes) -> Answer:
    """Send one request and return its answer: for what is rare, since it costs a future."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    pool.submit(fields, body, future, _resolve)
    return await future


def _resolve(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():  # who asked may have given up
        future.set_result(answer)
