"""The open streams of one connection: requests out, answers in. It knows no transport; bytes to write go to `out`.

A request is *open* from the moment its HEADERS frame is in `out` until it is answered; before that it belongs to the
pool. It leaves here in exactly one way: answered, or in `returned`, where only requests go of which the protocol says
that the server has not processed them (above a GOAWAY's last stream, or REFUSED_STREAM; RFC 9113 6.8 and 8.7).

Source: RFC 9113 5 and 8, https://www.rfc-editor.org/rfc/rfc9113#section-8
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from . import frames
from .exchange import (
    BROKEN,
    REFUSED,
    RESET,
    TIMED_OUT,
    TOO_LARGE,
    Answer,
    Failure,
    Request,
    Response,
    Stats,
    Terms,
)
from .frames import END_STREAM, MAX_STREAM, ConnectionFault
from .hpack_fields import BlockReader, Source
from .outflow import Outflow

MAX_REFUSALS: Final = 8
"""How often a request is sent again after REFUSED_STREAM before it fails."""


class Streams:
    """The streams of a connection by id, and the events that they handle. `count_control` is called for each frame
    without effect, `complain` with each exception that a callback raised."""

    __slots__ = (
        "_blocks",
        "_complain",
        "_count_control",
        "_stats",
        "_terms",
        "answered",
        "next_stream",
        "open",
        "out",
        "outflow",
        "refused",
        "returned",
    )

    def __init__(
        self,
        terms: Terms,
        stats: Stats,
        *,
        count_control: Callable[[], None],
        complain: Callable[[Exception], None],
    ) -> None:
        self.open: dict[int, Request] = {}
        self.next_stream = 1
        self.out: list[bytes] = []
        """Frames to write."""
        self.outflow = Outflow()
        self.answered = 0
        self.returned: list[Request] = []
        """Requests that the server has not processed, and will not."""
        self.refused = False
        """Whether a stream was refused since the owner last reset this to False."""
        self._blocks = BlockReader()
        self._terms, self._stats, self._count_control, self._complain = terms, stats, count_control, complain

    @property
    def ids_left(self) -> int:
        """Stream ids run out: a connection ends before they do (RFC 9113 5.1.1)."""
        return (MAX_STREAM - self.next_stream) // 2 + 1

    def send(self, waiting: deque[Request], count: int) -> None:
        """Open streams for up to `count` requests from the left of `waiting`."""
        self.next_stream = self.outflow.open(self.out, waiting, count, self.open, self.next_stream)

    # --- frames of a stream ---------------------------------------------------------------------

    def headers(self, stream: int, flags: int, block: bytes) -> None:
        """Handle a complete header block: the head of an answer, an informational response, or trailers."""
        status, source = self._blocks.read(block)
        request = self.open.get(stream)
        if request is None:
            self._stray(stream)
        elif flags & END_STREAM and status >= 200 and not request.status:
            self._finish(stream, request, Response(status, b"", source))
        elif flags & END_STREAM and request.status and not status:  # trailers
            self._finish(stream, request, Response(request.status, b"".join(request.chunks or ()), request.source))
        else:
            self._begin(stream, request, flags, status, source)

    def data(self, stream: int, flags: int, payload: bytes) -> None:
        """Handle a part of an answer's body."""
        request = self.open.get(stream)
        if request is None:
            self._stray(stream)
        elif not request.status:
            self._break(stream)
        elif request.received + len(payload) > self._terms.body_limit:
            self._answer(self._drop(stream, frames.CANCEL), TOO_LARGE)
        elif flags & END_STREAM:
            if request.chunks is not None:
                request.chunks.append(payload)
                payload = b"".join(request.chunks)
            self._finish(stream, request, Response(request.status, payload, request.source))
        elif payload:
            request.received += len(payload)
            if request.chunks is None:
                request.chunks = []
            request.chunks.append(payload)
        else:
            self._count_control()  # nothing, and not even the end: only a flood is made of these

    def reset(self, stream: int, code: int) -> None:
        """Handle RST_STREAM."""
        request = self.open.pop(stream, None)
        if request is None:
            self._stray(stream)
            self._count_control()
            return
        self.outflow.unfinished.pop(stream, None)
        if code != frames.REFUSED_STREAM:
            self._answer(request, RESET)
            return
        self.refused = True
        request.refusals += 1
        if request.refusals > MAX_REFUSALS:
            self._answer(request, REFUSED)
        else:
            self.returned.append(request)

    def window(self, stream: int, increment: int) -> None:
        """Handle a WINDOW_UPDATE of a stream."""
        if stream not in self.open:
            self._stray(stream)
        elif code := self.outflow.grant_stream(stream, increment):
            self._break(stream, code)

    # --- all streams at once --------------------------------------------------------------------

    def take_back(self, last_stream: int) -> None:
        """Handle GOAWAY: return the requests on streams above `last_stream`, which were not processed."""
        for stream in [stream for stream in self.open if stream > last_stream]:
            self.outflow.unfinished.pop(stream, None)
            self.returned.append(self.open.pop(stream))

    def expire(self, now: float) -> tuple[int, float]:
        """Give up on what is overdue. Returns how many that were, and the earliest deadline left (or infinity)."""
        nearest, late = float("inf"), []
        for stream, request in self.open.items():
            if request.deadline <= now:
                late.append(stream)
            elif request.deadline < nearest:
                nearest = request.deadline
        # First every stream, then every callback: a callback may come back here.
        for request in [self._drop(stream, frames.CANCEL) for stream in late]:
            self._answer(request, TIMED_OUT)
        self._stats.timeouts += len(late)
        return len(late), nearest

    def end(self, failure: Failure) -> None:
        """End all requests with `failure`, because the connection has ended."""
        requests = list(self.open.values())
        self.open.clear()
        self.outflow.unfinished.clear()
        for request in requests:
            self._answer(request, failure)

    # --- steps ----------------------------------------------------------------------------------

    def _begin(self, stream: int, request: Request, flags: int, status: int, source: Source) -> None:
        if request.status:  # a second head, or trailers that do not end
            self._break(stream)
        elif status >= 200:
            request.status, request.source = status, source
        elif status >= 100 and not flags & END_STREAM:
            self._count_control()  # informational: the answer is still to come
        else:
            self._break(stream)

    def _finish(self, stream: int, request: Request, answer: Response) -> None:
        del self.open[stream]
        if stream in self.outflow.unfinished:  # answered before all was sent (RFC 9113 8.1): send no more
            del self.outflow.unfinished[stream]
            self.out.append(frames.rst_stream(stream, frames.CANCEL))
        self.answered += 1
        try:
            request.on_answer(request.context, answer)
        except Exception as error:
            self._complain(error)

    def _break(self, stream: int, code: int = frames.PROTOCOL_ERROR) -> None:
        self._stats.protocol_errors += 1
        self._answer(self._drop(stream, code), BROKEN)

    def _drop(self, stream: int, code: int) -> Request:
        self.out.append(frames.rst_stream(stream, code))
        self.outflow.unfinished.pop(stream, None)
        return self.open.pop(stream)

    def _answer(self, request: Request, answer: Answer) -> None:
        try:
            request.on_answer(request.context, answer)
        except Exception as error:
            self._complain(error)

    def _stray(self, stream: int) -> None:
        """Handle a frame on a stream that is not open: allowed if it was open before (we reset it), else a fault."""
        if stream >= self.next_stream or not stream & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"a frame on stream {stream}, which was never opened")
