"""One HTTP/2 connection to a provider, as an asyncio protocol: many requests in one write, many answers in one read.

There is no task, future or timer a request: `streams` holds what is open, the pool sweeps the deadlines. Here is what
concerns the connection as a whole::

    dialled --SETTINGS--> usable --GOAWAY | renew | ids run out--> draining --last answer--> leaving --> closed
       |                    |                                         |                         ^
       +--------------------+----- fault, dead peer, lost ------------+-------------------------+

A usable connection has no room for a moment while it rests (it refused a stream), while its transport is full, while
its send window is shut, and while a PING is unanswered.

Source: RFC 9113, https://www.rfc-editor.org/rfc/rfc9113
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

import structlog

from . import frames
from .exchange import BROKEN, LOST, Failure, Request, Stats, Terms
from .frames import DATA, HEADERS, MAX_STREAM, MAX_WINDOW, ConnectionFault, FrameReader
from .hpack_fields import BlockFault
from .streams import Streams

_log = structlog.get_logger(__name__)

REST: Final = (0.05, 2.0)
"""Seconds that a connection rests after it refused a stream: full jitter below the first, doubled up to the second."""
MAX_CONTROL: Final = 2_000
"""Frames that do nothing, without an answer in between, that we take within `CONTROL_SPAN` seconds."""
CONTROL_SPAN: Final = 10.0
CLOSE_GRACE: Final = 2.0
"""Seconds that the server has to close the connection after our GOAWAY."""
_PING: Final = frames.frame(frames.PING, 0, 0, b"pushsvc\0")
WRITE_HIGH: Final = 1 << 20
"""Bytes that the transport may buffer before writing pauses: more than a full window of pushes takes."""


class Owner(Protocol):
    """The pool, as its connections see it."""

    def changed(self) -> None:
        """Handle a change of the room."""

    def returned(self, requests: list[Request]) -> None:
        """Take back requests that the server has not processed and will not process."""


class Connection(asyncio.Protocol):
    """A connection. Made by the event loop's `create_connection`, driven by its pool.

    `ready` ends with the server's first SETTINGS, or with the error that came instead. `retired` ends when no new
    stream will be opened any more, `closed` when the transport is gone. `end` is why, for people to read.
    """

    def __init__(
        self,
        owner: Owner,
        terms: Terms,
        stats: Stats,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        random: Callable[[], float],
        name: str = "",
    ) -> None:
        self._owner, self._terms, self._stats = owner, terms, stats
        self._loop, self._clock, self._random, self._name = loop, clock, random, name
        self.ready: asyncio.Future[None] = loop.create_future()
        self.retired: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.end = "lost"
        self.last_received = clock()
        self.asked_at = 0.0
        """When the first request was sent after which one was always open."""
        self.streams = Streams(terms, stats, count_control=self._count_control, complain=self._complain)
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._limit = 0
        self._usable = self._greeted = self._leaving = False
        self._paused = self._resting = False
        self._strikes, self._answered_at_strike = 0, 0
        self._control, self._control_since = 0, clock()
        self._inquired_at: float | None = None
        """When `inquire` has sent its PING; None once something came."""
        self._probe: asyncio.TimerHandle | None = None
        self._abort: asyncio.TimerHandle | None = None

    # --- what the pool asks ---------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many requests `send` would take now, short of what the send window allows."""
        streams = self.streams
        if not self._usable or self._paused or self._resting or self._probe is not None or streams.outflow.window <= 0:
            return 0
        return max(0, min(self._limit - len(streams.open), streams.ids_left))

    def send(self, waiting: deque[Request], count: int) -> None:
        """Open streams for up to `count` requests from the left of `waiting`, in one write."""
        count = min(count, self.room, len(waiting))
        if count > 0:
            if not self.streams.open:
                self.asked_at = self._clock()
            self.streams.send(waiting, count)
            self._flush()
            if self.streams.next_stream > MAX_STREAM:
                self.end = "stream ids used up"
                self.retire()

    def retire(self) -> None:
        """Open no more streams; close when the last open one has ended."""
        self._usable = False
        _finish(self.retired)
        if not self.streams.open:
            self.close()

    def close(self) -> None:
        """Send GOAWAY and close. Requests that are still open are lost."""
        self._leave(frames.NO_ERROR, LOST)

    def abort(self) -> None:
        """Close without waiting for anything."""
        self.close()
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> float:
        """End requests whose deadline has passed. Returns the earliest remaining deadline, or infinity."""
        overdue, nearest = self.streams.expire(now)
        if overdue:
            if now - self.last_received >= self._terms.request_timeout / 2:
                self.probe()  # not one byte came while they waited: is the peer alive?
            self._settle()
        silent = now - self.last_received >= self._terms.request_timeout
        if silent and self._usable and not self.room and not self.streams.open and self._probe is None:
            self.end = "no room for as long as a request may take"  # such as a send window that is never opened again
            self.retire()
        return nearest

    def inquire(self, now: float) -> None:
        """Send a PING that takes no room and fails no request, once until something comes. An idle connection that says
        nothing for the request timeout is probed, and so replaced."""
        if not self._greeted or self._leaving:
            return
        if self._inquired_at is None:
            self._inquired_at = now
            self.streams.out.append(_PING)
            self._flush()
        elif not self.streams.open and now - self._inquired_at >= self._terms.request_timeout:
            self.probe()

    def probe(self) -> None:
        """Send a PING, and no requests until something comes. Any incoming data proves that the peer is alive; silence
        for the request timeout closes the connection."""
        if self._probe is None and self._greeted and not self._leaving:
            self.streams.out.append(_PING)
            self._probe = self._loop.call_later(self._terms.request_timeout, self._look_again)
            self._flush()

    # --- callbacks of the transport -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._fail_ready(ConnectionError("the server does not speak HTTP/2 (ALPN did not choose h2)"))
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.streams.out.append(frames.opening(self._terms.receive_window))
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.last_received = self._clock()
        self._inquired_at = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        streams = self.streams
        answered = streams.answered
        try:
            for kind, flags, stream, payload in self._reader.feed(data):
                if self._leaving:
                    break
                if not self._greeted:
                    self._read_first_frame(kind, flags)
                if kind == HEADERS:
                    streams.headers(stream, flags, payload)
                elif kind == DATA:
                    streams.data(stream, flags, payload)
                else:
                    self._handle(kind, flags, stream, payload)
        except ConnectionFault as fault:
            self._break(fault.code, str(fault))
        except BlockFault as fault:
            self._break(frames.COMPRESSION_ERROR, str(fault))
        if streams.answered != answered:
            self._stats.answers += streams.answered - answered
            self._control = 0
        if streams.refused:
            streams.refused = False
            self._rest()
        self._return_credit()
        self._settle()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._leaving and not self.retired.done() and self.ready.done():
            self._stats.connections_lost += 1
        self._usable, self._leaving, self._transport = False, True, None
        for timer in (self._probe, self._abort):
            if timer is not None:
                timer.cancel()
        self._fail_ready(exc or ConnectionError("the server closed the connection before it sent its SETTINGS"))
        _finish(self.retired)
        _finish(self.closed)
        self.streams.end(LOST)
        self._owner.changed()

    # --- frames of the connection ---------------------------------------------------------------

    def _read_first_frame(self, kind: int, flags: int) -> None:
        if kind != frames.SETTINGS or flags & frames.ACK:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the server's first frame is not SETTINGS")
        self._greeted = self._usable = True
        self._limit = self._terms.window

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big") & MAX_WINDOW
            if stream:
                self.streams.window(stream, increment)
            else:
                self.streams.outflow.grant(increment)
        elif kind == frames.RST_STREAM:
            self.streams.reset(stream, int.from_bytes(payload, "big"))
        elif kind == frames.GOAWAY:
            self._handle_goaway(payload)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._follow(payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self._count_control()
            self.streams.out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        # The rest is an acknowledgement, a priority or a type that we do not know: RFC 9113 4.1 has us ignore it.

    def _follow(self, payload: bytes) -> None:
        self._count_control()
        for setting, value in frames.read_settings(payload):
            if setting == frames.MAX_CONCURRENT_STREAMS:
                self._limit = min(value, self._terms.window)
            elif setting == frames.INITIAL_WINDOW_SIZE:
                self.streams.outflow.set_initial(value)
            elif setting == frames.MAX_FRAME_SIZE:
                self.streams.outflow.set_largest(value)
            elif setting == frames.ENABLE_PUSH and value:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a SETTINGS frame in which a server enables push")
        self.streams.out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        _finish(self.ready)

    def _handle_goaway(self, payload: bytes) -> None:
        """Handle GOAWAY: continue the streams up to its last one and return the others to the pool."""
        last_stream, code, reason = frames.read_goaway(payload)
        self._stats.goaways += 1
        self._stats.last_goaway = f"{code} {reason}".rstrip()
        self.end = f"GOAWAY {self._stats.last_goaway}"
        in_flight = len(self.streams.open)
        self.streams.take_back(last_stream)
        taken_back = in_flight - len(self.streams.open)
        _log.info(
            "http2_goaway", origin=self._name, code=code, reason=reason, in_flight=in_flight, taken_back=taken_back
        )
        self._usable = False
        _finish(self.retired)

    # --- steps ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Finish an event: write what can be written, return requests that must go elsewhere, close when nothing is
        left."""
        streams = self.streams
        if streams.outflow.unfinished and not self._paused:
            streams.outflow.resume(streams.out)
        self._flush()
        if streams.returned:
            returned, streams.returned = streams.returned, []
            self._owner.returned(returned)
        if not streams.open and not self._usable and self.retired.done():
            self.close()
        self._owner.changed()

    def _flush(self) -> None:
        out = self.streams.out
        if out and self._transport is not None and not self._leaving:
            self._transport.write(b"".join(out))
        out.clear()

    def _return_credit(self) -> None:
        consumed = self._reader.consumed
        if consumed * 2 >= self._terms.receive_window:
            self._reader.consumed = 0
            self.streams.out.append(frames.window_update(0, consumed))

    def _rest(self) -> None:
        """Pause a connection that refused a stream, longer if it refuses again after the pause."""
        if not self._resting:
            self._strikes = self._strikes + 1 if self.streams.answered == self._answered_at_strike else 1
            self._answered_at_strike = self.streams.answered
            self._resting = True
            longest = min(REST[1], REST[0] * 2 ** (self._strikes - 1))
            self._loop.call_later(longest * self._random(), self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._owner.changed()

    def _count_control(self) -> None:
        self._control += 1
        if self._control > MAX_CONTROL:
            now = self._clock()
            if now - self._control_since < CONTROL_SPAN:
                raise ConnectionFault(frames.ENHANCE_YOUR_CALM, f"{MAX_CONTROL} control frames without effect")
            self._control, self._control_since = 0, now

    def _complain(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "on_answer raised", "exception": error, "protocol": self})

    # --- ends -----------------------------------------------------------------------------------

    def _leave(self, code: int, failure: Failure) -> None:
        if self._leaving:
            return
        self._usable = False
        _finish(self.retired)
        if self._transport is not None:
            self.streams.out.append(frames.goaway(code))
            self._flush()
            self._leaving = True
            self._transport.close()
            self._abort = self._loop.call_later(CLOSE_GRACE, self._transport.abort)
        self._leaving = True
        self.streams.end(failure)

    def _break(self, code: int, message: str) -> None:
        self._stats.protocol_errors += 1
        self.end = message
        _log.warning("http2_protocol_error", origin=self._name, error=message)
        self._fail_ready(ConnectionError(f"the server breaks the HTTP/2 protocol: {message}"))
        self._leave(code, BROKEN)

    def _look_again(self) -> None:
        """Give up once what has come is read: after a pause of the process, timers may come first."""
        self._probe = self._loop.call_later(self._terms.request_timeout / 100, self._give_up)

    def _give_up(self) -> None:
        self._stats.dead_peers += 1
        self.end = "no answer to a PING"
        _log.warning("http2_dead_peer", origin=self._name, in_flight=len(self.streams.open))
        self.abort()

    def _fail_ready(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # so that asyncio does not complain when no task awaits it any more


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
