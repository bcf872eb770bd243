"""A connection without a network: every request ends exactly once, whatever the server does and in whatever order.

The server is `h2`, which counts windows and streams for itself and raises when the client oversteps one.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings, strategies as st

from pushsvc.net.http2 import connection, frames
from pushsvc.net.http2.connection import Connection
from pushsvc.net.http2.exchange import Answer, Failure, Request, Response, Stats, Terms
from pushsvc.net.http2.frames import frame
from pushsvc.net.http2.hpack_fields import HTTPS, POST, authority, path

FIELDS = POST + HTTPS + authority("localhost") + path("/")


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after close"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def taken(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


class Bench:
    """A connection, its pool's part played by the test, and the answers by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **terms: Any) -> None:
        self.now = 0.0
        self.stats = Stats()
        self.waiting: deque[Request] = deque()
        self.answers: dict[int, list[Answer]] = {}
        self.given_back: Counter[int] = Counter()
        self.made = 0
        self.wire = Wire()
        self.connection = Connection(
            self, Terms(**terms), self.stats, loop=loop, clock=lambda: self.now, random=lambda: 0.5
        )
        self.connection.connection_made(self.wire)

    def changed(self) -> None:
        pass

    def returned(self, requests: list[Request]) -> None:
        for request in requests:
            self.given_back[request.context] += 1

    def submit(self, body: bytes) -> None:
        self.answers[self.made] = []
        self.waiting.append(Request(FIELDS, body, self.made, self._take, self.now + 10))
        self.made += 1
        self.connection.send(self.waiting, len(self.waiting))

    def _take(self, name: int, answer: Answer) -> None:
        self.answers[name].append(answer)

    def ended(self) -> dict[int, int]:
        """How often each request came to an end or back; those still waiting here are left out."""
        waiting = {request.context for request in self.waiting}
        return {
            name: len(answers) + self.given_back[name] for name, answers in self.answers.items() if name not in waiting
        }


@contextmanager
def bench(**terms: Any) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    try:
        yield Bench(loop, **terms)
    finally:
        loop.close()


GREETING = frames.settings({frames.MAX_CONCURRENT_STREAMS: 100})


# --- against a judge ----------------------------------------------------------------------------


class Judge:
    """The server's end: it raises when the client breaks the protocol."""

    def __init__(self, limit: int, initial_window: int) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False))
        given = {SettingCodes.MAX_CONCURRENT_STREAMS: limit, SettingCodes.INITIAL_WINDOW_SIZE: initial_window}
        self.h2.local_settings = Settings(client=False, initial_values=given)
        self.h2.initiate_connection()
        self.bodies: dict[int, bytearray] = {}
        self.complete: list[int] = []
        self.open: list[int] = []

    def hear(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, events.RequestReceived):
                self.bodies[event.stream_id] = bytearray()
                self.open.append(event.stream_id)
            elif isinstance(event, events.DataReceived):
                self.bodies[event.stream_id] += event.data
            elif isinstance(event, events.StreamEnded):
                self.complete.append(event.stream_id)
            elif isinstance(event, events.StreamReset) and event.stream_id in self.open:
                self.open.remove(event.stream_id)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([0, 1, 50, 300, 3000, 20_000, 70_000])),
        st.tuples(st.just("grant"), st.integers(1, 30_000)),
        st.tuples(st.just("grant stream"), st.integers(1, 5000)),
        st.tuples(st.just("initial window"), st.sampled_from([0, 1, 200, 5000, 65_535])),
        st.tuples(st.just("limit"), st.sampled_from([0, 1, 3, 100])),
        st.tuples(st.just("answer"), st.integers(0, 600)),
        st.tuples(st.just("reset"), st.sampled_from([0, 2, 7, 8])),
        st.tuples(st.just("pause"), st.just(0)),
        st.tuples(st.just("resume"), st.just(0)),
        st.tuples(st.just("time"), st.integers(1, 6)),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(actions, st.sampled_from([1, 4, 100]), st.sampled_from([0, 500, 65_535]), st.integers(0, 2**16))
def test_no_window_is_overstepped_and_no_byte_lost(
    actions: list[tuple[str, int]], limit: int, window: int, seed: int
) -> None:
    draw = random.Random(seed)
    with bench() as mine:
        judge = Judge(limit, window)

        def exchange() -> None:
            for _ in range(3):
                judge.hear(mine.wire.taken())
                data = judge.h2.data_to_send()
                cut = draw.randint(0, len(data))
                for piece in (data[:cut], data[cut:]):
                    if piece:
                        mine.connection.data_received(piece)
                mine.connection._resting = False  # its timer does not run here
                mine.connection.send(mine.waiting, len(mine.waiting))
                streams = mine.connection.streams
                assert streams.outflow.unfinished.keys() <= streams.open.keys()

        exchange()
        for action, value in actions:
            if mine.wire.closed:  # silent and without room for too long: the connection is given up
                break
            stream = draw.choice(judge.open) if judge.open else None
            match action:
                case "submit":
                    mine.submit(draw.randbytes(value))
                case "grant":
                    judge.h2.increment_flow_control_window(value)
                case "grant stream" if stream is not None and stream not in judge.complete:
                    judge.h2.increment_flow_control_window(value, stream)
                case "initial window":
                    judge.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: value})
                case "limit":
                    judge.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: value})
                case "answer" if stream is not None:
                    judge.open.remove(stream)
                    judge.h2.send_headers(stream, [(":status", "200")], end_stream=not value)
                    if value:
                        judge.h2.send_data(stream, b"x" * value, end_stream=True)
                case "reset" if stream is not None:
                    judge.open.remove(stream)
                    judge.h2.reset_stream(stream, value)
                case "pause":
                    mine.connection.pause_writing()
                case "resume":
                    mine.connection.resume_writing()
                case "time":
                    mine.now += value
                    mine.connection.expire(mine.now)
            exchange()
        mine.connection.connection_lost(None)
        assert set(mine.ended().values()) <= {1}
        assert not mine.connection.streams.open
        assert not mine.connection.streams.outflow.unfinished


@settings(max_examples=60)
@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=20), st.integers(0, 70_000), st.integers(0, 2**16))
def test_bodies_arrive_whole_and_in_order_however_credit_comes(sizes: list[int], window: int, seed: int) -> None:
    draw = random.Random(seed)
    bodies = [draw.randbytes(size) for size in sizes]
    with bench() as mine:
        judge = Judge(100, window)
        mine.connection.data_received(judge.h2.data_to_send())
        for body in bodies:
            mine.submit(body)
        for _ in range(1000):
            judge.hear(mine.wire.taken())
            if len(judge.complete) == len(bodies):
                break
            judge.h2.increment_flow_control_window(draw.randint(1, 30_000))
            for stream in judge.bodies.keys() - set(judge.complete):
                if judge.h2.remote_flow_control_window(stream) < 20_000:
                    judge.h2.increment_flow_control_window(draw.randint(1, 9000), stream)
            mine.connection.data_received(judge.h2.data_to_send())
            mine.connection.send(mine.waiting, len(mine.waiting))
        assert [bytes(judge.bodies[2 * number + 1]) for number in range(len(bodies))] == bodies


def test_a_window_that_shrinks_below_zero() -> None:
    """RFC 9113 6.9.2: a new initial window moves the windows of open streams, and they may become negative."""
    with bench() as mine:
        judge = Judge(100, 65_535)

        def exchange() -> int:
            mine.connection.data_received(judge.h2.data_to_send())
            judge.hear(mine.wire.taken())
            return len(judge.bodies[5])

        mine.connection.data_received(judge.h2.data_to_send())
        for _ in range(3):
            mine.submit(bytes(30_000))
        judge.hear(mine.wire.taken())
        assert len(judge.bodies[5]) == 5_535  # the connection's window is used up, the stream's is not
        judge.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        exchange()
        judge.h2.increment_flow_control_window(100_000)
        assert exchange() == 5_535
        judge.h2.increment_flow_control_window(5_535, 5)
        assert exchange() == 5_535
        judge.h2.increment_flow_control_window(1, 5)
        assert exchange() == 5_536
        judge.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        assert exchange() == 30_000
        assert 5 in judge.complete


def test_goaway_takes_an_unfinished_body_away_and_leaves_another() -> None:
    with bench() as mine:
        judge = Judge(100, 65_535)
        mine.connection.data_received(judge.h2.data_to_send())
        for size in (65_000, 30_000):
            mine.submit(bytes(size))
        judge.hear(mine.wire.taken())
        assert [len(body) for body in judge.bodies.values()] == [65_000, 535]
        mine.connection.data_received(frame(7, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
        assert mine.given_back == {1: 1}
        judge.h2.increment_flow_control_window(100_000)
        mine.connection.data_received(judge.h2.data_to_send())
        judge.hear(mine.wire.taken())
        assert len(judge.bodies[3]) == 535, "the body went on, though its request is on its way elsewhere"

    with bench() as mine:
        judge = Judge(100, 1000)
        mine.connection.data_received(judge.h2.data_to_send())
        mine.submit(bytes(3000))
        mine.connection.data_received(frame(7, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
        judge.hear(mine.wire.taken())
        judge.h2.increment_flow_control_window(2000, 1)
        mine.connection.data_received(judge.h2.data_to_send())
        judge.hear(mine.wire.taken())
        assert judge.complete == [1], "a draining connection still sends what it has begun"


@pytest.mark.parametrize("end", ["reset", "timeout"])
def test_an_unfinished_body_ends_with_its_stream(end: str) -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        for _ in range(3):
            mine.submit(bytes(30_000))
        if end == "reset":
            mine.connection.data_received(frames.rst_stream(5, frames.CANCEL))
        else:
            mine.now += 20
            mine.connection.expire(mine.now)
        assert len(mine.answers[2]) == 1
        mine.wire.taken()
        mine.connection.data_received(frames.window_update(0, 100_000))
        assert mine.wire.taken() == b""


# --- against anything ---------------------------------------------------------------------------

wild = st.lists(
    st.one_of(
        st.builds(
            frame,
            st.integers(0, 10),
            st.integers(0, 255),
            st.sampled_from([0, 1, 3, 5, 7, 9, 2]),
            st.one_of(
                st.binary(max_size=20), st.just(b"\x88"), st.just(b"\x20\x88"), st.binary(min_size=4, max_size=4)
            ),
        ),
        st.builds(
            lambda kind, stream, payload, end: frame(kind, 4 | end, stream, payload),
            st.integers(0, 1),
            st.sampled_from([1, 3, 5, 7, 9]),
            st.sampled_from([b"\x88", b"\x20\x8c", b"x", b""]),
            st.integers(0, 1),
        ),
        st.builds(lambda last: frame(7, 0, 0, last.to_bytes(4, "big") + bytes(4)), st.integers(0, 11)),
        st.builds(
            lambda stream, code: frames.rst_stream(stream, code), st.sampled_from([1, 3, 5, 7]), st.integers(0, 9)
        ),
    ),
    max_size=25,
)


@settings(max_examples=300)
@given(wild, st.integers(1, 6), st.booleans())
def test_every_request_ends_exactly_once_whatever_comes(pieces: list[bytes], requests: int, at_once: bool) -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        for _ in range(requests):
            mine.submit(b"{}")
        for piece in [b"".join(pieces)] if at_once else pieces:
            mine.connection.data_received(piece)
        mine.now += 20
        mine.connection.expire(mine.now)
        assert mine.ended() == dict.fromkeys(range(requests), 1)
        mine.connection.connection_lost(None)
        assert mine.ended() == dict.fromkeys(range(requests), 1)


# --- single rules -------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_servers_settings() -> None:
    with bench() as mine:
        assert mine.connection.room == 0
        mine.submit(b"{}")
        assert len(mine.waiting) == 1
        mine.connection.data_received(GREETING)
        assert mine.connection.room == 100
        assert mine.connection.ready.done()


def test_the_first_block_empties_our_table_and_no_other_does() -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        mine.wire.taken()
        mine.submit(b"{}")
        mine.submit(b"{}")
        data = mine.wire.taken()
        assert data == frame(1, 4, 1, b"\x20" + FIELDS) + frame(0, 1, 1, b"{}") + frame(1, 4, 3, FIELDS) + frame(
            0, 1, 3, b"{}"
        )


def test_many_requests_are_one_write() -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        writes: list[int] = []
        mine.wire.write = lambda data: writes.append(len(data))  # type: ignore[method-assign]  # counts only
        mine.waiting.extend(Request(FIELDS, b"{}", number, mine._take, 10.0) for number in range(50))
        mine.connection.send(mine.waiting, 50)
        assert len(writes) == 1


@pytest.mark.parametrize("count", [connection.MAX_CONTROL, connection.MAX_CONTROL + 1])
@pytest.mark.parametrize("flood", [frame(4, 0, 0), frame(6, 0, 0, bytes(8))], ids=["settings", "ping"])
def test_a_flood_ends_the_connection(flood: bytes, count: int) -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        mine.connection.data_received(flood * (count - 1))  # the greeting counts as well
        assert mine.wire.closed == (count > connection.MAX_CONTROL)
        if mine.wire.closed:
            assert mine.wire.taken().endswith(frames.goaway(frames.ENHANCE_YOUR_CALM))


def test_as_many_frames_over_a_long_time_or_with_answers_in_between_are_no_flood() -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        for _ in range(10):
            mine.connection.data_received(frame(4, 0, 0) * 1500)
            mine.now += 11
        for number in range(10):
            mine.submit(b"")
            mine.connection.data_received(frame(4, 0, 0) * 1500 + frame(1, 5, 2 * number + 1, b"\x88"))
        assert not mine.wire.closed


def test_credit_is_returned_at_half_the_window_padding_and_unwanted_data_included() -> None:
    with bench(receive_window=100_000) as mine:
        mine.connection.data_received(GREETING)
        mine.submit(b"{}")
        mine.connection.data_received(frame(1, 4, 1, b"\x88"))
        mine.wire.taken()
        mine.connection.data_received(frame(0, 8, 1, b"\xff" + bytes(255) + bytes(744)) * 49)  # 49,000 of credit
        assert mine.wire.taken() == b""
        mine.now += 20
        mine.connection.expire(mine.now)
        mine.wire.taken()
        mine.connection.data_received(frame(0, 8, 1, b"\xff" + bytes(255) + bytes(744)))  # its stream is reset by now
        assert mine.wire.taken() == frames.window_update(0, 50_000)
        mine.connection.data_received(frame(0, 0, 1, bytes(10_000)) * 4)
        assert mine.wire.taken() == b""
        mine.connection.data_received(frame(0, 0, 1, bytes(10_000)))
        assert mine.wire.taken() == frames.window_update(0, 50_000)


def test_a_refusing_connection_rests_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        rests: list[float] = []

        def call_later(delay: float, callback: Any) -> None:
            rests.append(delay)
            callback()

        monkeypatch.setattr(mine.connection._loop, "call_later", call_later)
        for number in range(8):
            mine.submit(b"{}")
            mine.connection.data_received(frames.rst_stream(2 * number + 1, frames.REFUSED_STREAM))
        assert rests == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        mine.submit(b"{}")
        mine.connection.data_received(frame(1, 5, 17, b"\x20\x88"))
        mine.submit(b"{}")
        mine.connection.data_received(frames.rst_stream(19, frames.REFUSED_STREAM))
        assert rests[-1] == 0.025
        assert mine.given_back == dict.fromkeys([*range(8), 9], 1)


def test_there_is_no_room_while_a_connection_rests() -> None:
    with bench() as mine:
        mine.connection.data_received(GREETING)
        mine.submit(b"{}")
        mine.submit(b"{}")
        mine.connection.data_received(frames.rst_stream(1, frames.REFUSED_STREAM))
        assert mine.connection.room == 0
        mine.submit(b"{}")
        assert len(mine.waiting) == 1
        mine.connection._rested()
        assert mine.connection.room == 99


def test_values_hold_no_secret_in_their_repr() -> None:
    request = Request(b"authorization: bearer secret", b"secret", "secret", lambda context, answer: None, 0.0)
    response = Response(400, b"secret", {"secret": "secret"})
    assert "secret" not in repr(request) + repr(response)


def test_responses_are_equal_by_what_they_say() -> None:
    assert Response(200, b"", b"\x88\x00\x01a\x01b") == Response(200, b"", {"a": "b"})
    assert Response(200) != Response(201)
    assert Response(200) != Failure("timeout", maybe_sent=True)
