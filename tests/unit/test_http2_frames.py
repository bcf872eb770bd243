"""The frame reader and writer: the same frames however the bytes are cut, and a named fault for what may not be."""

from __future__ import annotations

import struct

import pytest
from hyperframe.frame import (
    Frame as PeerFrame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, strategies as st

from pushsvc.net.http2 import frames
from pushsvc.net.http2.frames import ConnectionFault, Frame, FrameReader, frame

streams = st.integers(1, 2**31 - 1)
payloads = st.binary(max_size=60)
flags_apart = st.integers(0, 255).map(lambda flags: flags & 0xD3)  # none of those that change the payload's shape


@st.composite
def padded(draw: st.DrawFn, payload: bytes) -> tuple[int, bytes]:
    """The flag and the payload with or without padding."""
    if not draw(st.booleans()):
        return 0, payload
    padding = draw(st.integers(0, 255))
    return frames.PADDED, bytes([padding]) + payload + bytes(padding)


@st.composite
def one_frame(draw: st.DrawFn) -> tuple[bytes, list[Frame], int]:
    """Bytes of a frame (or of a header block in pieces), the frames to come of it, and the credit that it takes."""
    kind = draw(st.sampled_from(["data", "headers", "block", "ping", "rst", "window", "goaway", "settings", "unknown"]))
    stream, payload, flags = draw(streams), draw(payloads), draw(flags_apart)
    if kind == "data":
        flag, whole = draw(padded(payload))
        return frame(0, flags | flag, stream, whole), [(0, flags | flag, stream, payload)], len(whole)
    if kind == "headers":
        priority = draw(st.sampled_from([b"", b"\x80\x00\x00\x03\x10"]))
        flag, whole = draw(padded(priority + payload))
        flags |= flag | frames.END_HEADERS | (frames.PRIORITISED if priority else 0)
        return frame(1, flags, stream, whole), [(1, flags, stream, payload)], 0
    if kind == "block":
        pieces = draw(st.lists(payloads, min_size=2, max_size=6))
        flags &= ~frames.END_HEADERS
        data = frame(1, flags, stream, pieces[0])
        data += b"".join(frame(9, 0, stream, piece) for piece in pieces[1:-1])
        data += frame(9, frames.END_HEADERS, stream, pieces[-1])
        return data, [(1, flags | frames.END_HEADERS, stream, b"".join(pieces))], 0
    number = {"ping": 6, "rst": 3, "window": 8, "goaway": 7, "settings": 4, "unknown": draw(st.integers(10, 255))}[kind]
    size = {"ping": 8, "rst": 4, "window": 4, "goaway": 12, "settings": 12, "unknown": len(payload)}[kind]
    payload = payload.ljust(size, b"?")[:size]
    if kind in ("ping", "goaway", "settings"):
        stream, flags = 0, 0
    return frame(number, flags, stream, payload), [(number, flags, stream, payload)], 0


def read(data: bytes, cuts: list[int]) -> tuple[list[Frame], tuple[int, str] | None, int]:
    """Frames, the fault that ended the reading, and the credit taken, when `data` comes in the given pieces."""
    reader, out, start = FrameReader(), list[Frame](), 0
    try:
        for cut in [*sorted(cuts), len(data)]:
            out.extend(reader.feed(data[start:cut]))  # keeps what came before a fault
            start = cut
    except ConnectionFault as fault:
        return out, (fault.code, str(fault)), reader.consumed
    return out, None, reader.consumed


@given(st.lists(one_frame(), max_size=12), st.data())
def test_any_cutting_gives_the_same_frames(items: list[tuple[bytes, list[Frame], int]], data: st.DataObject) -> None:
    stream = b"".join(item[0] for item in items)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    got, fault, consumed = read(stream, cuts)
    assert fault is None
    assert got == [made for item in items for made in item[1]]
    assert consumed == sum(item[2] for item in items)


@given(st.lists(one_frame(), min_size=1, max_size=4))
def test_byte_by_byte(items: list[tuple[bytes, list[Frame], int]]) -> None:
    stream = b"".join(item[0] for item in items)
    assert read(stream, list(range(len(stream)))) == read(stream, [])


@given(st.binary(max_size=300), st.lists(one_frame(), max_size=3), st.data())
def test_rubbish_ends_in_a_fault_or_in_frames_and_the_same_however_it_is_cut(
    rubbish: bytes, items: list[tuple[bytes, list[Frame], int]], data: st.DataObject
) -> None:
    stream = b"".join(item[0] for item in items) + rubbish
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=30))
    assert read(stream, cuts) == read(stream, [])


@given(st.binary(max_size=40), st.integers(0, 9), st.integers(0, 255), st.sampled_from([0, 1, 2, 2**31, 2**32 - 1]))
def test_any_known_frame_type_with_any_payload(payload: bytes, kind: int, flags: int, stream: int) -> None:
    data = struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload
    got, fault, _ = read(data, [])
    assert len(got) + (fault is not None) <= 1
    for _, _, seen, left in got:
        assert seen == stream & 2**31 - 1
        assert len(left) <= len(payload)


FAULTS = [
    ("too large", frame(0, 0, 1, b"x" * 16_385), frames.FRAME_SIZE_ERROR),
    ("data on the connection", frame(0, 0, 0, b"x"), frames.PROTOCOL_ERROR),
    ("headers on the connection", frame(1, 4, 0, b"\x88"), frames.PROTOCOL_ERROR),
    ("reset on the connection", frame(3, 0, 0, b"\0\0\0\0"), frames.PROTOCOL_ERROR),
    ("settings on a stream", frame(4, 0, 1), frames.PROTOCOL_ERROR),
    ("ping on a stream", frame(6, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    ("goaway on a stream", frame(7, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    ("push", frame(5, 4, 1, b"\0\0\0\2\x82"), frames.PROTOCOL_ERROR),
    ("continuation of nothing", frame(9, 4, 1, b"\x88"), frames.PROTOCOL_ERROR),
    ("another frame in a block", frame(1, 0, 1, b"\x88") + frame(0, 0, 1, b"x"), frames.PROTOCOL_ERROR),
    ("another stream in a block", frame(1, 0, 1, b"\x88") + frame(9, 4, 3, b"x"), frames.PROTOCOL_ERROR),
    ("short reset", frame(3, 0, 1, b"\0\0\0"), frames.FRAME_SIZE_ERROR),
    ("short priority", frame(2, 0, 1, b"\0\0\0\0"), frames.FRAME_SIZE_ERROR),
    ("long ping", frame(6, 0, 0, bytes(9)), frames.FRAME_SIZE_ERROR),
    ("short window update", frame(8, 0, 0, bytes(3)), frames.FRAME_SIZE_ERROR),
    ("short goaway", frame(7, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
    ("odd settings", frame(4, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
    ("settings in an acknowledgement", frame(4, 1, 0, bytes(6)), frames.FRAME_SIZE_ERROR),
    ("headers too short for their priority", frame(1, 0x24, 1, b"\0\0\0\0"), frames.FRAME_SIZE_ERROR),
    ("padding beyond the frame", frame(0, 8, 1, b"\x02x"), frames.PROTOCOL_ERROR),
    ("no room for the padding's length", frame(0, 8, 1, b""), frames.PROTOCOL_ERROR),
    ("endless block", frame(1, 0, 1) + frame(9, 0, 1, bytes(16_384)) * 5, frames.ENHANCE_YOUR_CALM),
    ("endless empty block", frame(1, 0, 1) + frame(9, 0, 1) * 40, frames.ENHANCE_YOUR_CALM),
]


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_faults_come_after_the_good_frames_before_them(data: bytes, code: int) -> None:
    good = frame(1, 5, 1, b"\x88")
    got, fault, _ = read(good + data, [])
    assert got == [(1, 5, 1, b"\x88")]
    assert fault is not None
    assert fault[0] == code


def peer_reads(data: bytes) -> list[PeerFrame]:
    out = []
    while data:
        item, size = PeerFrame.parse_frame_header(memoryview(data[:9]))
        item.parse_body(memoryview(data[9 : 9 + size]))
        out.append(item)
        data = data[9 + size :]
    return out


def test_what_we_write_another_library_reads() -> None:
    reset, window, goaway, settings = peer_reads(
        frames.rst_stream(7, frames.CANCEL)
        + frames.window_update(0, 70_000)
        + frames.goaway(frames.ENHANCE_YOUR_CALM)
        + frames.settings({frames.HEADER_TABLE_SIZE: 0, frames.MAX_FRAME_SIZE: 20_000})
    )
    assert isinstance(reset, RstStreamFrame)
    assert (reset.stream_id, reset.error_code) == (7, 8)
    assert isinstance(window, WindowUpdateFrame)
    assert (window.stream_id, window.window_increment) == (0, 70_000)
    assert isinstance(goaway, GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code) == (0, 0xB)
    assert isinstance(settings, SettingsFrame)
    assert settings.settings == {1: 0, 5: 20_000}


@pytest.mark.parametrize("receive_window", [1000, 65_535, 65_536, 1 << 22])
def test_the_opening(receive_window: int) -> None:
    opening = frames.opening(receive_window)
    assert opening.startswith(frames.PREFACE)
    first, *rest = peer_reads(opening.removeprefix(frames.PREFACE))
    assert isinstance(first, SettingsFrame)
    assert first.settings == {1: 0, 2: 0, 4: 1 << 24, 6: 65_536}
    assert sum(item.window_increment for item in rest if isinstance(item, WindowUpdateFrame)) == max(
        0, receive_window - 65_535
    )


@given(st.binary(min_size=1, max_size=200), st.integers(1, 50), st.booleans())
def test_a_long_header_block_is_cut(block: bytes, largest: int, end_stream: bool) -> None:
    data = frames.headers(5, block, largest, end_stream=end_stream)
    first = peer_reads(data)[0]
    assert isinstance(first, HeadersFrame)
    assert ("END_STREAM" in first.flags) == end_stream
    got, fault, _ = read(data, [])
    if len(block) <= largest * (frames.MAX_CONTINUATIONS + 1):
        assert got == [(1, frames.END_HEADERS | (frames.END_STREAM if end_stream else 0), 5, block)]
    else:
        assert fault is not None


@pytest.mark.parametrize(
    ("debug", "reason"),
    [
        (b'{"reason":"Shutdown"}', "Shutdown"),
        (b"max_age", "max_age"),
        (b"", ""),
        (b"ab" * 32, ""),
        (b'{"reason":"' + b"ab" * 32 + b'"}', ""),
        (b'{"reason":7}', ""),
        (b'["x"]', ""),
        (b"\xff\xfe", ""),
        (b"[" * 10_000, ""),
        (b"line\nbreak", ""),
    ],
)
def test_goaway_keeps_a_short_plain_reason_and_nothing_else(debug: bytes, reason: str) -> None:
    assert frames.read_goaway(struct.pack(">II", 2**31 + 5, 2) + debug) == (5, 2, reason)
