"""The simulator's HTTP/2 connection, spoken to by the `h2` library over a transport that is a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes
from hypothesis import given, settings, strategies as st

from pushsvc.lab.simulator import frames
from pushsvc.lab.simulator.hpack import Headers
from pushsvc.lab.simulator.http2 import Answer, Connection
from pushsvc.lab.simulator.inflow import Limits, Traffic

REQUEST = [(":method", "POST"), (":path", "/"), (":scheme", "https"), (":authority", "here"), ("x-note", "a b c")]


class ListTransport(asyncio.Transport):
    """Keeps what is written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.over = ""
        self.reading = True
        self.wrote = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.wrote.set()

    def close(self) -> None:
        self.over = "closed"

    def abort(self) -> None:
        self.over = "aborted"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Echo:
    """Answers 200 with the body, or does what `act` does."""

    def __init__(self, limit: int = 100, act: Callable[[Connection, int], None] | None = None) -> None:
        self.limit = limit
        self.act = act
        self.seen: list[tuple[int, Headers, bytes]] = []

    def opened(self, connection: Connection) -> int:
        return self.limit

    def request(self, connection: Connection, stream: int, headers: Headers, body: bytes) -> None:
        self.seen.append((stream, headers, body))
        if self.act is None:
            connection.answer(stream, Answer(200, "", frames.header_block(200, [(b"x-a", b"b" * 200)]), body))
        else:
            self.act(connection, stream)


class Line:
    """A client (h2) and a server connection, joined."""

    def __init__(self, echo: Echo | None = None, limits: Limits | None = None) -> None:
        self.echo = echo or Echo()
        self.traffic = Traffic()
        self.crowd: set[Connection] = set()
        self.transport = ListTransport()
        self.server = Connection(self.echo, limits or Limits(), self.traffic, self.crowd)
        self.server.connection_made(self.transport)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.events: list[Event] = []

    def exchange(self, piece: int = 1 << 20) -> list[Event]:
        """Carry bytes both ways until nobody has more to say. Returns the client's new events."""
        events: list[Event] = []
        while True:
            data = self.client.data_to_send()
            for start in range(0, len(data), piece):
                self.server.data_received(data[start : start + piece])
            back, self.transport.written = bytes(self.transport.written), bytearray()
            events += self.client.receive_data(back) if back else []
            if not back and not data:
                break
        self.events += events
        return events

    def post(self, body: bytes = b"{}", extra: list[tuple[str, str]] | None = None, **options: Any) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, REQUEST + (extra or []), end_stream=not body)
        if body:
            self.client.send_data(stream, body, end_stream=True, **options)
        return stream

    async def answered(self) -> None:
        """Wait until no request is without its answer."""
        while self.server.open_streams:
            self.transport.wrote.clear()
            await asyncio.wait_for(self.transport.wrote.wait(), 10)

    def raw(self, data: bytes) -> list[Event]:
        """Bytes that h2 would never send."""
        self.server.data_received(data)
        return self.exchange()


def kinds(events: list[Event], kind: type[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


async def test_a_request_and_its_answer() -> None:
    line = Line()
    stream = line.post(b'{"a":1}')
    events = line.exchange()
    [answer], [data], [ended] = (kinds(events, kind) for kind in (ResponseReceived, DataReceived, StreamEnded))
    assert answer.headers == [(":status", "200"), ("x-a", "b" * 200)]
    assert (data.data, ended.stream_id) == (b'{"a":1}', stream)
    [(_, headers, body)] = line.echo.seen
    assert [(h[0].decode(), h[1].decode()) for h in headers] == REQUEST
    assert body == b'{"a":1}'


@settings(max_examples=30, deadline=None)
@given(
    pieces=st.integers(1, 40),
    bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    note=st.text("abcdefgh", max_size=10),
)
async def test_reads_may_be_cut_anywhere(pieces: int, bodies: list[bytes], note: str) -> None:
    line = Line()
    for body in bodies:
        line.post(body, [("x-repeated", note)])
    events = line.exchange(pieces)
    assert [body for _, _, body in line.echo.seen] == bodies
    assert len(kinds(events, StreamEnded)) == len(bodies)


async def test_padding_continuation_priority_and_trailers() -> None:
    line = Line()
    line.post(b"padded", pad_length=9)
    large = [(f"x-{number}", "v" * 3000) for number in range(12)]  # more than a frame: CONTINUATION
    line.post(b"continued", large)
    stream = line.client.get_next_available_stream_id()
    line.client.send_headers(stream, REQUEST, priority_weight=7, priority_depends_on=0)
    line.client.send_data(stream, b"trailed")
    line.client.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    line.post(b"")
    events = line.exchange()
    assert [body for _, _, body in line.echo.seen] == [b"padded", b"continued", b"trailed", b""]
    assert len(kinds(events, StreamEnded)) == 4


async def test_a_body_in_many_frames_beyond_the_windows_gets_its_credit_back() -> None:
    line = Line(limits=Limits(connection_window=65_535, stream_window=20_000))
    line.exchange()
    stream = line.client.get_next_available_stream_id()
    line.client.send_headers(stream, REQUEST)
    sent = 0
    while sent < 200_000:
        size = min(line.client.local_flow_control_window(stream), 16_000, 200_000 - sent)
        assert size > 0, "the server must return credit"
        line.client.send_data(stream, b"x" * size, end_stream=sent + size == 200_000)
        sent += size
        line.exchange()
    assert [len(body) for _, _, body in line.echo.seen] == [200_000]


async def test_held_credit_is_returned_when_asked() -> None:
    line = Line(limits=Limits(connection_window=65_535))
    line.exchange()
    line.server.hold_credit(True)
    for _ in range(4):
        line.post(b"x" * 16_000)
        assert not kinds(line.exchange(), WindowUpdated)
    assert line.client.outbound_flow_control_window == 65_535 - 64_000
    line.server.hold_credit(False)
    line.exchange()
    assert line.client.outbound_flow_control_window == 65_535


async def test_answers_wait_for_the_clients_windows() -> None:
    line = Line()
    line.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    line.exchange()
    stream = line.post(b"y" * 25)
    assert len(kinds(line.exchange(), ResponseReceived)) == 1, "headers are not held back"
    assert [event.data for event in kinds(line.events, DataReceived)] == [b"y" * 10]
    line.client.increment_flow_control_window(9, stream)
    assert [event.data for event in kinds(line.exchange(), DataReceived)] == [b"y" * 9]
    line.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    events = line.exchange()
    assert [event.data for event in kinds(events, DataReceived)] == [b"y" * 6]
    assert len(kinds(events, StreamEnded)) == 1
    assert line.server.open_streams == 0


async def test_a_client_that_returns_no_credit_stalls_after_a_window_of_answers() -> None:
    line = Line()
    answered = 0
    for _ in range(70):
        line.post(b"z" * 1000)
        answered += len(kinds(line.exchange(), StreamEnded))
    assert answered == 65
    assert line.server.open_streams == 5
    line.client.increment_flow_control_window(65_000)
    assert len(kinds(line.exchange(), StreamEnded)) == 5


async def test_a_smaller_header_table_is_acknowledged_in_the_next_block() -> None:
    line = Line()
    line.client.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
    line.exchange()
    line.post(b"")
    line.post(b"")
    line.server.data_received(line.client.data_to_send())
    first, second = (piece[1:2] for piece in bytes(line.transport.written).split(b"\x01\x05\x00\x00\x00")[1:])
    # RFC 7541 sections 4.2 and 6.3: a table size update once, before the next status; then no more.
    assert (first, second) == (b"\x20", b"\x88")


async def test_ping_and_unknown_frames() -> None:
    line = Line()
    line.client.ping(b"12345678")
    assert [event.ping_data for event in kinds(line.exchange(), PingAckReceived)] == [b"12345678"]
    assert not kinds(line.raw(frames.frame(0x77, 3, 0, b"whatever")), ConnectionTerminated)
    assert not kinds(line.raw(frames.frame(frames.PRIORITY, 0, 9, b"\0" * 5)), ConnectionTerminated)
    line.post()
    assert len(kinds(line.exchange(), StreamEnded)) == 1


_ENDLESS = frames.frame(frames.CONTINUATION, 0, 1, b"\0" * 16_384) * 5


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        (REQUEST, False),
        (REQUEST[:1], True),
        ([*REQUEST, (":path", "/")], True),
        ([*REQUEST[:4], (":method", "POST")], True),
        ([*REQUEST[:4], (":protocol", "x")], True),
        ([*REQUEST, ("Upper", "x")], True),
        ([*REQUEST, ("connection", "close")], True),
        ([*REQUEST, ("x", "y\n")], True),
    ],
)
async def test_malformed_requests_are_reset(headers: list[tuple[str, str]], wrong: bool) -> None:
    line = Line()
    line.exchange()
    block = b"".join(frames.literal(name.encode(), value.encode()) for name, value in headers)
    line.server.data_received(frames.frame(frames.HEADERS, 5, 1, block))
    assert (line.transport.written == frames.rst_stream(1, 1)) == wrong
    assert len(line.echo.seen) == (not wrong)
    assert line.traffic.protocol_errors == wrong


_HEADERS = b"\x82\x87\x84\x41\x01a"  # GET https / with an authority


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frames.frame(frames.DATA, 0, 1, b"x"), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 0, b"x"), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 2, _HEADERS), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"), frames.ErrorCode.COMPRESSION_ERROR),
        (frames.frame(frames.HEADERS, 0, 1, _HEADERS) + frames.ping(b"12345678"), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 0, 1, _HEADERS) + frames.frame(9, 4, 3, b""), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 0, 1) + _ENDLESS, frames.ErrorCode.ENHANCE_YOUR_CALM),
        (frames.frame(frames.HEADERS, 0xC, 1, b"\x09a"), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.CONTINUATION, 4, 1, _HEADERS), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.rst_stream(1, 0), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 1, b"x"), frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.window_update(0, 0), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, 1), frames.ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, 2**31 - 1), frames.ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PING, 0, 0, b"x"), frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"x"), frames.ErrorCode.FRAME_SIZE_ERROR),
        (frames.settings([(frames.INITIAL_WINDOW_SIZE, 2**31)]), frames.ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), frames.ErrorCode.PROTOCOL_ERROR),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", frames.ErrorCode.FRAME_SIZE_ERROR),
    ],
)  # fmt: skip
async def test_what_breaks_the_protocol_ends_the_connection_with_its_code(data: bytes, code: int) -> None:
    line = Line()
    line.exchange()
    line.server.data_received(data)
    [goaway] = kinds(line.client.receive_data(bytes(line.transport.written)), ConnectionTerminated)
    assert goaway.error_code == code
    assert line.transport.over == "closed"
    assert line.traffic.protocol_errors == 1


async def test_more_data_than_the_window_is_an_error() -> None:
    line = Line(limits=Limits(connection_window=65_535, stream_window=65_535))
    line.exchange()
    line.server.hold_credit(True)
    line.server.data_received(frames.frame(frames.HEADERS, 4, 1, _HEADERS))
    for _ in range(5):
        line.server.data_received(frames.frame(frames.DATA, 0, 1, b"x" * 16_000))
    reset = line.client.receive_data(bytes(line.transport.written))
    assert [event.error_code for event in kinds(reset, ConnectionTerminated)] == [3]


async def test_http_1_is_refused_with_a_reason() -> None:
    line = Line()
    line.server.data_received(b"POST / HTTP/1.1\r\n\r\n")
    assert line.transport.written.startswith(b"HTTP/1.1 505")
    assert line.transport.over == "closed"


async def test_streams_beyond_an_acknowledged_limit_are_refused() -> None:
    line = Line(Echo(limit=1, act=lambda connection, stream: connection.hold(stream)))
    line.exchange()  # the client has acknowledged the limit of 1
    line.server.data_received(b"".join(frames.frame(frames.HEADERS, 5, stream, _HEADERS) for stream in (1, 3, 5)))
    assert line.transport.written == frames.rst_stream(3, 7) + frames.rst_stream(5, 7)
    assert [stream for stream, _, _ in line.echo.seen] == [1]
    assert line.traffic.refused_streams == 2


async def test_a_lower_limit_counts_once_it_is_acknowledged_and_a_higher_one_at_once() -> None:
    line = Line(Echo(limit=3, act=lambda connection, stream: connection.hold(stream)))
    line.exchange()
    line.server.limit_streams(1)
    line.server.data_received(b"".join(frames.frame(frames.HEADERS, 5, stream, _HEADERS) for stream in (1, 3, 5)))
    assert line.traffic.refused_streams == 0, "they were on their way when the limit changed"
    line.server.data_received(frames.frame(frames.SETTINGS, frames.ACK, 0))
    line.server.data_received(frames.frame(frames.HEADERS, 5, 7, _HEADERS))
    assert line.traffic.refused_streams == 1
    line.server.limit_streams(10)
    line.server.data_received(frames.frame(frames.HEADERS, 5, 9, _HEADERS))
    assert line.traffic.refused_streams == 1
    assert line.traffic.peak_streams == 4


async def test_goaway_answers_the_streams_up_to_its_last_one_and_no_other() -> None:
    line = Line(Echo(act=lambda connection, stream: connection.hold(stream)))
    first, second, third = (line.post() for _ in range(3))
    line.exchange()
    line.server.go_away(second, debug=b'{"reason":"Shutdown"}')
    [goaway] = kinds(line.exchange(), ConnectionTerminated)
    assert (goaway.last_stream_id, goaway.additional_data) == (second, b'{"reason":"Shutdown"}')
    assert line.server.open_stream_ids() == [first, second]
    line.server.data_received(frames.frame(frames.HEADERS, 5, third + 2, b"\x82\x87\x84\xbe"))
    assert len(line.echo.seen) == 3, "a stream after GOAWAY is ignored"


async def test_a_graceful_goaway_says_the_real_last_stream_after_a_round_trip() -> None:
    line = Line()
    line.exchange()
    line.server.go_away_gracefully(b"bye")
    written, line.transport.written = bytes(line.transport.written), bytearray()
    assert written == frames.goaway(2**31 - 1, 0, b"bye") + frames.ping(b"farewell")
    block = b"\x82\x87\x84\x41\x01a"
    line.server.data_received(frames.frame(frames.HEADERS, 5, 1, block) + frames.ping(b"farewell", ack=True))
    assert line.transport.written.endswith(frames.goaway(1, 0, b"bye"))
    assert len(line.echo.seen) == 1, "a request that crossed the first GOAWAY is answered"


async def test_a_reset_request_is_forgotten_and_its_late_answer_is_not_sent() -> None:
    late = Answer(200, "", frames.header_block(200))
    line = Line(Echo(act=lambda connection, stream: connection.answer_later(stream, late, 0.01)))
    first, second = line.post(), line.post()
    line.exchange()
    line.client.reset_stream(first)
    line.exchange()
    assert line.server.open_stream_ids() == [second]
    await line.answered()
    assert [event.stream_id for event in kinds(line.exchange(), ResponseReceived)] == [second]
    assert line.traffic.resets_received == 1


async def test_late_answers_leave_in_the_order_in_which_they_are_due() -> None:
    delays = iter((0.03, 0.01, 0.02))
    late = Answer(200, "", frames.header_block(200))
    line = Line(Echo(act=lambda connection, stream: connection.answer_later(stream, late, next(delays))))
    first, second, third = (line.post() for _ in range(3))
    line.exchange()
    await line.answered()
    answered = [event.stream_id for event in kinds(line.exchange(), ResponseReceived)]
    assert answered == [second, third, first]


async def test_held_requests_are_asked_again_and_resets_reach_the_client() -> None:
    echo = Echo()
    request: tuple[Headers, bytes] = ([(b"x", b"y", False)], b"again")
    echo.act = lambda connection, stream: connection.hold(stream, request)
    line = Line(echo)
    first, second = line.post(), line.post()
    line.exchange()
    line.server.reset(first, 7)
    assert [event.stream_id for event in kinds(line.exchange(), StreamReset)] == [first]
    echo.act = None
    line.server.release()
    assert [event.stream_id for event in kinds(line.exchange(), StreamEnded)] == [second]
    assert echo.seen[-1][2] == b"again"


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    line = Line()
    line.server.pause_writing()
    assert not line.transport.reading
    line.server.resume_writing()
    assert line.transport.reading
