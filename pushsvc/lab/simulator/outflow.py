"""The sending half of a connection: encodes answers within the windows that the client grants. No I/O.

Header frames are never delayed; bodies wait, in order, until both the connection's and the stream's window have room
(RFC 9113 section 5.2). A client that never returns credit therefore stalls here as it would at Apple.
"""

from __future__ import annotations

from .frames import (
    DATA,
    EMPTY_TABLE,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MAX_FRAME,
    MAX_WINDOW,
    frame,
)

_HEADERS_ONLY = END_HEADERS | END_STREAM
DEFAULT_WINDOW = 65_535


class Outflow:
    """Collects the bytes to write; `take` returns them in one piece."""

    __slots__ = ("_blocked", "_grants", "_initial", "_out", "_shrunk", "_window")

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._window = DEFAULT_WINDOW
        self._initial = DEFAULT_WINDOW
        self._grants: dict[int, int] = {}  # by stream: increments received minus bytes sent
        self._blocked: dict[int, bytes] = {}  # by stream, oldest first: the bytes that wait for a window
        self._shrunk = False

    @property
    def blocked(self) -> int:
        """The number of answers that wait for flow-control credit."""
        return len(self._blocked)

    def put(self, data: bytes) -> None:
        """Queue a frame that no window limits."""
        self._out.append(data)

    def take(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def answer(self, stream: int, block: bytes, body: bytes) -> None:
        """Queue a whole answer. Its body waits while there is no window for it."""
        if self._shrunk:  # RFC 7541 section 4.2: a reduced table size is signalled at the next block
            block, self._shrunk = EMPTY_TABLE + block, False
        if not body:
            self._out.append(HEAD.pack(len(block) << 8 | HEADERS, _HEADERS_ONLY, stream))
            self._out.append(block)
            if self._grants:
                self._grants.pop(stream, None)
            return
        self._out.append(HEAD.pack(len(block) << 8 | HEADERS, END_HEADERS, stream))
        self._out.append(block)
        size = len(body)
        if size <= self._window and size <= self._initial and size <= MAX_FRAME and not self._grants:
            self._window -= size
            self._out.append(HEAD.pack(size << 8 | DATA, END_STREAM, stream))
            self._out.append(body)
        else:
            self._blocked[stream] = body
            self._pump(stream)

    def _pump(self, stream: int) -> None:
        """Send as much of a waiting body as the windows allow."""
        body = self._blocked[stream]
        while True:
            room = min(self._window, self._initial + self._grants.get(stream, 0), MAX_FRAME)
            if room <= 0:
                self._blocked[stream] = body
                return
            part, body = body[:room], body[room:]
            self._window -= len(part)
            self._out.append(frame(DATA, 0 if body else END_STREAM, stream, part))
            if not body:
                self.forget(stream)
                return
            self._grants[stream] = self._grants.get(stream, 0) - len(part)

    def _pump_all(self) -> None:
        for stream in list(self._blocked):
            self._pump(stream)
            if self._window <= 0:
                return

    def forget(self, stream: int) -> None:
        """Forget a stream that has ended."""
        self._blocked.pop(stream, None)
        self._grants.pop(stream, None)

    def widen(self, stream: int, increment: int) -> bool:
        """Handle the client's WINDOW_UPDATE. Returns False when a window would exceed 2^31-1, which is an error."""
        if stream:
            grant = self._grants.get(stream, 0) + increment
            if self._initial + grant > MAX_WINDOW:
                return False
            self._grants[stream] = grant
            if stream in self._blocked:
                self._pump(stream)
            return True
        self._window += increment
        if self._window > MAX_WINDOW:
            return False
        self._pump_all()
        return True

    def resize(self, initial: int) -> None:
        """Handle SETTINGS_INITIAL_WINDOW_SIZE, which applies to open streams as well."""
        self._initial = initial
        self._pump_all()

    def limit_table(self, size: int) -> None:
        """Handle SETTINGS_HEADER_TABLE_SIZE. The table is never used, but a size below the default must be
        signalled."""
        if size < 4096:
            self._shrunk = True

    def waits(self, stream: int) -> bool:
        """Return whether an answer on this stream still waits for a window."""
        return stream in self._blocked
