"""Connections of the server: problem documents for unreadable requests, and bounds on what strangers can occupy.

A connection costs a file descriptor, and opening one needs no key. So connections without a complete request are closed
after `first_request` seconds, and there are never more than `most`: a further one closes those that have been idle
longest, beginning with those that never sent a request, up to an eighth of `most` at once. Nothing is done for this
while there is room; idle connections are only searched when there is none.

What arrives of a body after its answer is read and discarded, so that the client reads the answer before the connection
is closed, but only for a limited time and size.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

import structlog
from aiohttp import StreamReader, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import FilteringBoundLogger

from ..config import ApiConfig
from .heads import Head, body_of, left_of, read_head
from .problems import crash, respond, unreadable
from .request import ApiRequest

_log: FilteringBoundLogger = structlog.get_logger("intake")

_receive: Final = web.RequestHandler.data_received

_LINGER: Final = 5.0
"""Seconds for which the rest of a body is read after its answer."""
_REPORT_EVERY: Final = 60.0
"""Seconds between two log lines about a full server."""


def most_connections(asked: int) -> int:
    """Return the bound on connections: the configured one, but leaving descriptors for the store and the log."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return asked if soft == resource.RLIM_INFINITY else max(1, min(asked, soft * 3 // 4))


class Connections:
    """All connections of one server."""

    def __init__(self, server: web.Server, config: ApiConfig) -> None:
        self._server = server
        self._config = config
        self._most = most_connections(config.max_connections)
        self._open: dict[Connection, None] = {}
        self._reported_at = float("-inf")

    def __len__(self) -> int:
        return len(self._open)

    def make(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, self._server, self._config)

    def opened(self, connection: Connection) -> None:
        """Register a new connection, which may close others, or itself."""
        self._open[connection] = None
        if len(self._open) > self._most:
            self._make_room(connection)

    def closed(self, connection: Connection) -> None:
        self._open.pop(connection, None)

    def _make_room(self, newest: Connection) -> None:
        idle = [each for each in self._open if each is not newest and each.idle]
        # Sorting is stable and the dictionary is in the order of opening: of the silent connections the oldest is
        # closed first.
        idle.sort(key=lambda each: each.idle_since)
        going = idle[: max(1, self._most // 8)] or [newest]
        now = asyncio.get_running_loop().time()
        if now - self._reported_at >= _REPORT_EVERY:
            self._reported_at = now
            _log.warning(
                "connections_full",
                most=self._most,
                idle=len(idle),
                remedy="raise server.max_connections and the limit of open files (ulimit -n), or restrict access",
            )
        for each in going:
            self._open.pop(each, None)
            each.force_close()


class Connection(web.RequestHandler):
    """A connection of the server."""

    __slots__ = (
        "_connections",
        "_first_request",
        "_head",
        "_held",
        "_left",
        "_lent",
        "_linger",
        "_to_come",
        "_unread",
        "_whole",
    )

    def __init__(self, connections: Connections, server: web.Server, config: ApiConfig) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=config.keepalive_timeout,
            access_log=None,  # type: ignore[arg-type]  # the same as aiohttp's own runners pass
            lingering_time=_LINGER,
            auto_decompress=False,
        )
        self._keepalive = True  # or the timer of an idle connection does nothing, which not each aiohttp begins with
        self._connections = connections
        self._linger = config.body_limit
        self._unread: StreamReader | None = None
        self._left = 0
        self._head: Head | None = None
        """The head of the last whole request, which the next is likely to have too."""
        self._whole: tuple[Head, StreamReader] | None = None
        """A whole request that has not begun."""
        self._to_come: int | None = 0
        """How much of a request that aiohttp parses is still to come; None: it is not known, and aiohttp parses all
        that follow."""
        self._lent = False
        """Whether aiohttp's own loop over the requests runs."""
        self._held = False
        """Whether the parser has kept what it was given when reading was paused."""
        self._first_request = self._loop.call_later(config.first_request, self._close_silent)

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, or for the rest of a request's headers."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not self._messages

    @property
    def idle_since(self) -> float:
        """Since when it is idle, by the loop's clock; a connection that never sent a request is before all others."""
        return self._next_keepalive_close_time - self._keepalive_timeout if self._request_count else 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._first_request.cancel()
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._unread is not None:
            if self._unread.is_eof():
                self._unread = None
            else:
                self._left -= len(data)
                if self._left < 0:
                    self.force_close()
                    return
        if self._to_come == 0 and data and self.idle and self._take(data):
            return
        if self._to_come is not None:
            self._to_come = left_of(data, self._to_come)
        _receive(self, data)

    def _take(self, data: bytes) -> bool:
        """Return whether the data are a whole request, which is then begun without the parser."""
        head = self._head
        body = None if head is None else head.body_in(data)
        if body is None:
            head = self._head = read_head(data)
            body = None if head is None else head.body_in(data)
        waiter = self._waiter
        if head is None or body is None or body[1] != len(data) or waiter is None:
            return False
        self._whole = head, body_of(data[body[0] :])
        self._request_count += 1
        if self._lent:
            self._lent = False
            waiter.cancel()  # what waits in aiohttp's loop, which ends so
        else:
            waiter.set_result(None)
        return True

    async def start(self) -> None:
        """Answer whole requests, and lend the connection to aiohttp's loop for all others."""
        while not self._force_close:
            if self._whole is None and not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            if self._whole is not None:
                await self._answer(*self._whole)
                continue
            self._lent = True
            try:
                await super().start()
                return  # the connection has ended
            except asyncio.CancelledError:
                if self._lent or self._task_handler is None or self._task_handler.cancelling():
                    raise

    async def _answer(self, head: Head, body: StreamReader) -> None:
        """Answer a whole request, as aiohttp's loop does, but in the task of the connection and by fewer calls."""
        self._whole = None
        make, handle = self._request_factory, self._request_handler
        if make is None or handle is None or self._task_handler is None:
            return  # the client has gone
        request: Any = make(head.message, body, self, StreamWriter(self, self._loop), self._task_handler)
        request.parsed = head.parsed
        self._request_in_progress, self._current_request = True, request
        kept: bool | None = False
        try:
            try:
                response: Any = await handle(request)
            except Exception as error:
                response = self.handle_error(request, 500, error)
            data, transport = response.encoded(request), self.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError
            transport.write(data)
            if self._paused:
                await self._drain_helper()
            kept = response.keep_alive
        except ConnectionError:
            pass  # the client has gone
        except Exception as error:
            self.log_exception("Unhandled exception", exc_info=error)
        finally:
            self._request_in_progress, self._current_request = False, None
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
            if not kept or self._close:
                self.force_close()
        if self._force_close:
            return
        self._next_keepalive_close_time = at = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(at, self._process_keepalive)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused: aiohttp calls this for each piece of a body, and then parses nothing and
        starts the transport once more."""
        if self._reading_paused or self._held:
            self._held = not resume_parser
            super().resume_reading(resume_parser)

    def leave(self, body: StreamReader) -> None:
        """Read and discard a bounded rest of the body of a request that was answered."""
        self._unread, self._left = body, self._linger

    def _close_silent(self) -> None:
        if not self._request_count:
            self.force_close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log errors that a client caused only for debugging, where aiohttp would log a traceback. One is the
        `RuntimeError` of what is left of a body, when its connection was closed."""
        error = kw.get("exc_info")
        closed = self.transport is None and isinstance(error, RuntimeError)
        if closed or isinstance(error, web.RequestPayloadError | HttpProcessingError | ConnectionError):
            _log.debug("unreadable", error=type(error).__name__)
        else:
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> Any:
        if request.writer.output_size > 0:
            # A part of an answer was sent already, so no other can be.
            raise ConnectionError
        assert isinstance(request, ApiRequest)  # the server makes no others
        if status < 500:
            error = unreadable(exc)
            _log.debug("unreadable", status=error.status, error=type(exc).__name__, request_id=request.id)
            response = respond(error)
        else:
            response = crash(request, exc or RuntimeError())
        response.force_close()
        return response
