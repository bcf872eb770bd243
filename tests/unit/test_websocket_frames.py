"""The frames of both sides of a WebSocket, against the library `websockets` in both directions, and by RFC 6455."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from pushsvc.net.websocket import frames
from pushsvc.net.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, VIOLATION, Event, MessageReader

LIMIT = 66_000

LENGTHS = st.one_of(st.integers(0, 20), st.sampled_from([124, 125, 126, 127, 300]))
CONTROL = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))


KEY = b"\x01\x80\xff\x5a"


def masked(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return a client's frame."""
    return frames.client_frame(opcode, payload, KEY, final=final)


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[Frame], list[Event]]:
    """Return what a client sends, whole messages and fragments with control frames between, and what it means."""
    sent: list[Frame] = []
    means: list[Event] = []
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        if opcode == TEXT:
            payload = draw(st.text(max_size=40)).encode()
        else:
            payload = draw(st.binary(min_size=1, max_size=1)) * draw(LENGTHS)
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for n, piece in enumerate(pieces):
            for kind, said in draw(st.lists(CONTROL, max_size=2)):
                sent.append(Frame(Opcode(kind), said))
                means.append((kind, said))
            sent.append(Frame(Opcode(0 if n else opcode), piece, fin=n == len(pieces) - 1))
        means.append((opcode, payload))
    return sent, means


def read(data: bytes, cuts: list[int], limit: int = LIMIT, *, masked: bool = True) -> list[Event]:
    """Return all events of `data`, fed in the pieces that `cuts` make."""
    reader = MessageReader(limit, masked=masked)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [event for a, b in itertools.pairwise(places) for event in reader.feed(data[a:b])]


@given(messages(), st.lists(st.integers(0, 5000), max_size=8), st.booleans())
def test_what_websockets_sends_is_read_however_it_is_cut(
    case: tuple[list[Frame], list[Event]], cuts: list[int], masked: bool
) -> None:
    sent, means = case
    data = b"".join(frame.serialize(mask=masked) for frame in sent)
    assert read(data, cuts, masked=masked) == means
    (refused,) = read(data, cuts, masked=not masked)[-1:]
    assert frames.close_code(refused[1]) == frames.PROTOCOL_ERROR


@given(messages(), st.binary(min_size=4, max_size=4))
def test_websockets_reads_what_a_client_sends(case: tuple[list[Frame], list[Event]], key: bytes) -> None:
    sent, _ = case
    server = Protocol(SERVER, state=OPEN)
    server.receive_data(
        b"".join(frames.client_frame(each.opcode, bytes(each.data), key, final=each.fin) for each in sent)
    )
    assert server.parser_exc is None
    assert server.events_received() == sent


@pytest.mark.parametrize("size", [0, 125, 126, 127, 65_535, 65_536])
def test_all_forms_of_a_length(size: int) -> None:
    payload = b"x" * size
    data = Frame(Opcode.BINARY, payload).serialize(mask=True)
    for cuts in ([], list(range(16)), [1, 2, 9, 10, 13, 14, size, len(data) - 1]):
        assert read(data, cuts) == [(BINARY, payload)]
    client = Protocol(CLIENT, state=OPEN)
    client.receive_data(frames.frame(BINARY, payload))
    (event,) = client.events_received()
    assert isinstance(event, Frame)
    assert bytes(event.data) == payload


@given(messages())
def test_every_byte_may_come_alone(case: tuple[list[Frame], list[Event]]) -> None:
    sent, means = case
    data = b"".join(frame.serialize(mask=True) for frame in sent)[:3000]
    assert read(data, list(range(len(data)))) == read(data, [])
    assert read(data, []) == means[: len(read(data, []))]


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=8), LENGTHS), max_size=4), st.data())
def test_websockets_reads_what_is_sent(sent: list[tuple[int, bytes, int]], data: st.DataObject) -> None:
    client = Protocol(CLIENT, state=OPEN)
    payloads = [(kind, unit * size) for kind, unit, size in sent]
    written = b"".join(frames.frame(kind, payload) for kind, payload in payloads)
    written += frames.frame(PING, b"still there") + frames.frame(CLOSE, frames.close_payload(4501, "replaced"))
    cut = data.draw(st.integers(0, len(written)))
    client.receive_data(written[:cut])
    client.receive_data(written[cut:])
    read = [(int(event.opcode), bytes(event.data)) for event in client.events_received() if isinstance(event, Frame)]
    assert read[:-2] == payloads
    assert read[-2] == (PING, b"still there")
    assert client.close_rcvd is not None
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (4501, "replaced")
    # And its answers are read here: the pong and the close frame.
    answers = read_all(b"".join(client.data_to_send()))
    assert answers[0] == (PONG, b"still there")
    assert frames.close_code(answers[1][1]) == 4501


def read_all(data: bytes) -> list[Event]:
    return read(data, [])


@given(st.binary(min_size=2, max_size=40), st.lists(st.integers(0, 50), max_size=4))
@example(b"\x81\x00", [])
@example(b"\x88\x81\x00\x00\x00\x00\x00", [])
@example(b"\xf1\x80\x00\x00\x00\x00", [])
def test_what_websockets_refuses_is_refused(data: bytes, cuts: list[int]) -> None:
    server = Protocol(SERVER, state=OPEN, max_size=LIMIT)
    server.receive_data(data)
    events = read(data, cuts)
    assert events == read(data, [])
    refused = bool(events) and events[-1][0] == VIOLATION
    if server.parser_exc is not None:
        assert refused
    elif refused:
        # Stricter here: a text must be UTF-8, and a length is in its shortest form. And no more is waited for than
        # is needed to know: `websockets` reads a frame to its end before it looks at its head.
        code, reason = frames.close_code(events[-1][1]), events[-1][1][2:].decode()
        torn = Protocol(SERVER, state=OPEN)
        torn.receive_data(data + bytes(70_000))
        assert code == frames.INVALID_TEXT or "shortest" in reason or torn.parser_exc is not None
    else:
        whole = [(int(each.opcode), bytes(each.data)) for each in server.events_received() if isinstance(each, Frame)]
        assert [kind for kind, _ in events if kind >= CLOSE] == [kind for kind, _ in whole if kind >= CLOSE]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_the_mask_is_its_own_inverse_and_that_of_the_rfc(payload: bytes, key: bytes) -> None:
    assert frames.unmask(payload, key) == bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))
    assert frames.unmask(frames.unmask(payload, key), key) == payload


@given(st.binary(max_size=6), st.integers(0, 6))
@example(b"\xed\xa0\x80", 1)
@example("\u00e9".encode(), 1)
@example(b"\xf4\x90\x80\x80", 0)
def test_a_text_is_utf_8_as_a_whole_message(payload: bytes, cut: int) -> None:
    try:
        payload.decode()
        expected = [(TEXT, payload)]
    except UnicodeDecodeError:
        expected = [(VIOLATION, frames.close_payload(1007, "a text is not UTF-8"))]
    fragments = masked(TEXT, payload[:cut], final=False) + masked(PING, b"") + masked(0, payload[cut:])
    assert read_all(masked(TEXT, payload)) == expected
    assert read_all(fragments) == [(PING, b""), *expected]


REFUSED = {
    "not masked": (b"\x81\x00", 1002),
    "reserved bit": (masked(TEXT | 0x40, b""), 1002),
    "reserved opcode": (masked(3, b""), 1002),
    "reserved control opcode": (masked(0xB, b""), 1002),
    "fragmented ping": (masked(PING, b"", final=False), 1002),
    "long ping": (b"\x89\xfe\x00\x7e", 1002),
    "continuation of nothing": (masked(0, b""), 1002),
    "a message within a message": (masked(TEXT, b"a", final=False) + masked(TEXT, b"b"), 1002),
    "125 in two bytes": (b"\x82\xfe\x00\x7d", 1002),
    "65535 in eight bytes": (b"\x82\xff" + (0xFFFF).to_bytes(8), 1002),
    "the highest bit": (b"\x82\xff" + (1 << 63).to_bytes(8), 1002),
    "too big": (b"\x82\xff" + (LIMIT + 1).to_bytes(8), 1009),
    "too big together": (masked(BINARY, b"x", final=False) + b"\x80\xff" + LIMIT.to_bytes(8), 1009),
    "close of one byte": (masked(CLOSE, b"\x03"), 1002),
    "close reason": (masked(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_client_may_not_send_ends_in_the_code_of_the_rfc(name: str) -> None:
    data, code = REFUSED[name]
    for cuts in ([], list(range(len(data)))):
        *_, (kind, payload) = read(data, cuts)
        assert (kind, frames.close_code(payload)) == (VIOLATION, code)


def test_nothing_is_read_after_the_end() -> None:
    for end in (b"\x81\x00", masked(CLOSE, b"")):
        reader = MessageReader(LIMIT)
        assert len(reader.feed(end + masked(TEXT, b"more"))) == 1
        assert reader.feed(masked(TEXT, b"more")) == []


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535])
def test_reserved_close_codes_are_refused(code: int) -> None:
    ((kind, payload),) = read_all(masked(CLOSE, code.to_bytes(2)))
    assert (kind, frames.close_code(payload)) == (VIOLATION, 1002)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3500, 4999])
def test_close_codes_are_read(code: int) -> None:
    assert read_all(masked(CLOSE, code.to_bytes(2) + b"why")) == [(CLOSE, code.to_bytes(2) + b"why")]


def test_a_close_frame_may_be_empty() -> None:
    assert read_all(masked(CLOSE, b"")) == [(CLOSE, b"")]
    assert frames.close_code(b"") == frames.NO_CODE


def test_a_long_reason_is_cut_between_characters() -> None:
    payload = frames.close_payload(3500, "é" * 200)
    assert len(payload) <= 125
    assert payload[2:].decode() == "é" * 61


def test_endless_empty_fragments_keep_no_memory() -> None:
    reader = MessageReader(LIMIT)
    reader.feed(masked(TEXT, b"a", final=False))
    for _ in range(1000):
        assert reader.feed(masked(0, b"", final=False)) == []
    assert reader.feed(masked(0, b"b")) == [(TEXT, b"ab")]


def test_a_large_frame_in_small_pieces_is_parsed_when_it_is_whole() -> None:
    payload = bytes(range(256)) * 256
    data = masked(BINARY, payload)
    reader = MessageReader(LIMIT)
    events = [event for n in range(0, len(data), 7) for event in reader.feed(data[n : n + 7])]
    assert events == [(BINARY, payload)]
