"""Whatever lies in Redis: bytes are a value of the model, or refused by name, and nothing else is ever raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from pushsvc.model.codec import (
    FEW,
    PACKED,
    VERSION,
    CodecError,
    decode_audience,
    decode_chunk,
    decode_entry,
    decode_event,
    decode_message,
    decode_push,
    decode_receipt,
    decode_row,
    decode_rows,
    encode_audience,
    encode_chunk,
    encode_entry,
    encode_single,
    split,
)
from pushsvc.model.devices import ToAll
from pushsvc.model.push import Chunk, Fallback, Message, Push, Target
from pushsvc.store.queue.letter import decode_dead

DECODERS = (
    decode_chunk,
    decode_message,
    decode_row,
    decode_rows,
    decode_receipt,
    decode_event,
    decode_push,
    decode_audience,
    decode_dead,
)


@pytest.mark.parametrize("decode", DECODERS)
@example(b"\x91\xa1\xff")  # text that is no UTF-8
@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(decode: Callable[[bytes], object], blob: bytes) -> None:
    try:
        value = decode(VERSION + blob)
    except CodecError:
        return
    assert value is not None


@pytest.mark.parametrize("decode", DECODERS)
def test_another_version_is_refused(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(CodecError, match="newer pushsvc"):
        decode(b"\x04\x90")


TOKENS = st.sampled_from(
    ["0f" * 32, "a1" * 32, "A1" * 32, "a1" * 31, "0" * 63, " a" * 32, "", "fcm:token-" + "x" * 54, "ü"]
)
TARGETS = st.lists(
    st.builds(
        Target,
        index=st.integers(0, 3_000_000),
        token=TOKENS,
        device_id=st.none() | st.sampled_from(["", "d-1"]),
        kind=st.sampled_from(["token", "fid"]),
        owner=st.sampled_from([b"", b"12345678"]),
    ),
    max_size=6,
)
MESSAGE = Message("apns", b"{}", {"apns-priority": "10"}, ((1, 2),), ((3, 10),), "apns-expiration", "c", 7)


def chunk_of(targets: Sequence[Target], total: int, variant: str = "apns_sandbox") -> Chunk:
    return Chunk(
        *("p", "shop", "apns_sandbox", "bulk", total, 1, 2, MESSAGE, tuple(targets)),
        attempt=3,
        turn=4,
        dry_run=True,
        part="apple",
        topic="news",
        counted=True,
        variant=variant,
    )


@given(targets=TARGETS, total=st.sampled_from([0, 1, FEW, FEW + 1, 100_000]))
def test_a_chunk_comes_back_and_of_a_large_push_without_its_message(targets: list[Target], total: int) -> None:
    chunk = chunk_of(targets, total)
    large = total == 0 or total > FEW
    expected = msgspec.structs.replace(chunk, message=Message("apns", b"")) if large else chunk
    assert decode_chunk(encode_chunk(chunk)) == expected
    assert (expected.lacks_content, expected.unreachable) == (large, False)


def test_an_entry_of_several_chunks() -> None:
    chunks = [
        chunk_of([Target(0, "0f" * 32)], 1),
        chunk_of([Target(n, f"{n:064x}") for n in range(9)], 9),
        chunk_of([Target(0, "x")], 1),
    ]
    assert encode_entry(chunks[:1]) == encode_chunk(chunks[0])
    for count in range(1, 4):
        assert decode_entry(encode_entry(chunks[:count])) == (chunks[:count], [])


def test_what_cannot_be_read_of_an_entry_stands_apart_and_is_written_again_as_it_is() -> None:
    chunks = [chunk_of([Target(0, f"{n:064x}")], 1) for n in range(3)]
    blobs = [encode_chunk(chunk) for chunk in chunks]
    entry = encode_entry(chunks)
    one = len(blobs[0]) + 4
    for broken, read, left in (
        (entry[:-1], chunks[:2], [blobs[2][:-1]]),  # it was cut off
        (entry[: 1 + one + 2], chunks[:1], [b""]),
        (entry + b"\0", chunks, [b""]),
        (b"\x04" + entry[1:], [], [b"\x04" + entry[1:]]),  # of another version as a whole
        (entry[:1], [], [entry[:1]]),  # there is none
        (entry[: 1 + 4] + b"\x7f" + entry[6:], chunks[1:], [b"\x7f" + blobs[0][1:]]),  # of another version
        (b"", [], [b""]),
    ):
        found, unreadable = decode_entry(broken)
        assert (found, [each.blob for each in unreadable]) == (read, left), broken
    others, unreadable = decode_entry(entry[: 1 + 4] + b"\x7f" + entry[6:])
    again = encode_entry(others[1:], unreadable)
    assert decode_entry(again)[0] == chunks[2:]
    assert [each.blob for each in decode_entry(again)[1]] == [b"\x7f" + blobs[0][1:]]
    assert encode_entry((), unreadable) == b"\x7f" + blobs[0][1:]


@pytest.mark.parametrize(("total", "version", "plain"), [(1, b"\x02", VERSION), (100, b"\x82", PACKED)])
def test_what_a_device_may_acknowledge_is_nothing_that_an_older_reader_knows(
    total: int, version: bytes, plain: bytes
) -> None:
    message = Message("live", b"{}")
    chunk = msgspec.structs.replace(
        chunk_of([Target(0, "0f" * 32, "d")], total, "live"),
        channel="live",
        message=Message("live", b"") if total > FEW else message,
        home="apns",
        fallbacks=(Fallback("apns", Message("apns", b"")),),
    )
    blob = encode_chunk(chunk)
    assert blob[:1] == version
    assert decode_chunk(blob) == chunk
    assert encode_chunk(msgspec.structs.replace(chunk, home=""))[:1] == plain


def test_targets_that_no_route_reaches_travel_with_their_empty_message() -> None:
    chunk = msgspec.structs.replace(chunk_of([Target(0, "t")], 100, ""), message=Message("fcm", b""))
    again = decode_chunk(encode_chunk(chunk))
    assert (again, again.unreachable, again.lacks_content) == (chunk, True, False)


@pytest.mark.parametrize("trace", [b"t" * 24, b"t" * 22 + b"\xc4\x00"])
def test_a_trace_takes_bytes_only_where_there_is_one(trace: bytes) -> None:
    plain = chunk_of([Target(0, "t")], FEW + 1)
    traced = msgspec.structs.replace(plain, trace=trace)
    fields = msgspec.msgpack.decode(encode_chunk(plain)[1:])
    assert msgspec.msgpack.decode(encode_chunk(traced)[1:]) == [*fields, trace]
    assert decode_chunk(encode_chunk(traced)) == msgspec.structs.replace(decode_chunk(encode_chunk(plain)), trace=trace)


MESSAGE = Message("apns", b"{}", {"apns-priority": "10"})
MESSAGES = {"apns": MESSAGE, "live": Message("live", b"{}")}
PUSH = Push("p", "shop", "urgent", 1, 2, MESSAGES, {"apns": (Target(0, "t"),)})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"messages": {"apns": Message("apns", b"{}", dated="apns-expiration", collapse="c", since=1)}},
        {"messages": {"live": MESSAGES["live"]}},
        {"targets": {"apns": (), "apns_sandbox": (Target(0, "t"),)}},
        {"targets": {"apns": (Target(0, "t", "device", "token", b"owner"),), "live": ()}},
        {"targets": {"apns": (Target(0, "t", None, "activity"),)}},
        {"targets": {"live": (Target(0, "t"),)}},
        {"targets": {"apns:live>apns": (Target(0, "t"),)}},
        {"dry_run": True, "lane": "bulk", "trace": b"t" * 24},
        {"audience": encode_audience(ToAll())},
    ],
    ids=lambda changes: "-".join(changes) or "usual",
)
def test_the_chunk_of_one_delivery_is_encoded_as_any_other(changes: dict[str, Any]) -> None:
    push = msgspec.structs.replace(PUSH, **changes)
    (chunk,) = split(push, 1)
    assert encode_single(push) == (chunk.channel, encode_chunk(chunk))


PLAIN = Chunk("p", "shop", "apns", "normal", 1, 1000, 2000, MESSAGE, (Target(0, "t"),), variant="apns")


def test_a_small_push_is_stored_without_the_defaults_at_the_end_of_its_chunk_message_and_target() -> None:
    fields = msgspec.msgpack.decode(encode_chunk(PLAIN)[1:])
    assert fields[7:] == [["apns", b"{}", {"apns-priority": "10"}], [[0, "t"]], 1, 1, False, "", "", False, "apns"]


OF_MESSAGE = (
    {"spans": ((1, 2),)},
    {"instants": ((1, 2),)},
    {"dated": "ttl"},
    {"collapse": "c"},
    {"since": 1},
    {"counts": True},
)
OF_TARGET = ({"device_id": "d"}, {"kind": "fid"}, {"owner": b"o"})
CHANGED = (
    *({"message": msgspec.structs.replace(MESSAGE, **change)} for change in OF_MESSAGE),
    *({"targets": (msgspec.structs.replace(PLAIN.targets[0], **change),)} for change in OF_TARGET),
    *({"home": "apns"}, {"fallbacks": (Fallback("fcm", Message("fcm", b"{}")),)}, {"trace": b"t" * 24}),
    *({"topic": "news"}, {"part": "p"}, {"counted": True}),
)


@pytest.mark.parametrize("change", CHANGED)
def test_a_small_push_is_stored_with_each_field_that_has_another_value(change: dict[str, Any]) -> None:
    chunk = msgspec.structs.replace(PLAIN, **change)
    assert chunk != PLAIN
    assert decode_chunk(encode_chunk(chunk)) == chunk


def test_no_field_with_a_default_is_missing_above() -> None:
    assert {name for change in OF_MESSAGE for name in change} == {*defaults_of(Message)} - {"headers"}
    assert {name for change in OF_TARGET for name in change} == {*defaults_of(Target)}


def defaults_of(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind) if not field.required]


def test_a_target_of_a_large_push_costs_little_more_than_the_bytes_of_its_token() -> None:
    targets = [Target(index, f"{index:064x}") for index in range(500)]
    assert len(encode_chunk(chunk_of(targets, 1000))) < 500 * 32 + 100
    assert len(encode_chunk(chunk_of(targets[:1], 1000))) < 32 + 100


NAMES = st.uuids().map(str) | st.sampled_from(["", "web-1", "ü" * 36, str(UUID(int=7)).upper(), "0" * 36, "-" * 36])


@given(st.lists(st.tuples(NAMES, st.sampled_from([b"", b"12345678"])), min_size=1, max_size=6), st.booleans())
def test_targets_that_are_named_by_their_devices_come_back(found: list[tuple[str, bytes]], uuids: bool) -> None:
    names = [str(UUID(int=index << 90)) if uuids else name for index, (name, _) in enumerate(found)]
    targets = [Target(index, name, name, owner=found[index][1]) for index, name in enumerate(names)]
    blob = encode_chunk(chunk_of(targets, 100))
    assert list(decode_chunk(blob).targets) == targets
    with suppress(CodecError):
        decode_chunk(blob[:-1] + b"\xff")


def test_a_device_of_a_large_push_costs_its_id_and_the_digest_of_its_user() -> None:
    targets = [Target(index, name, name, owner=b"12345678") for index in range(500) for name in [str(uuid4())]]
    assert len(encode_chunk(chunk_of(targets, 1000))) < 500 * (16 + 8) + 100
    short = [Target(index, name, name, owner=b"12345678") for index in range(500) for name in [f"web-{index:05}"]]
    assert len(encode_chunk(chunk_of(short, 1000))) < 500 * (10 + 8) + 100


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packed_chunk_or_refused(blob: bytes) -> None:
    with suppress(CodecError):
        decode_chunk(PACKED + blob)


@pytest.mark.parametrize("column", [0, 1, 4, 5])
def test_columns_that_differ_in_length_are_refused(column: int) -> None:
    targets = [Target(index, f"{index:064x}", "d", owner=b"o") for index in (3, 1, 2)]
    fields = msgspec.msgpack.decode(encode_chunk(chunk_of(targets, 100))[1:])
    assert len(fields[14][column]) % 3 == 0
    fields[14][column] = fields[14][column][: -32 if column == 1 else -1]
    with pytest.raises(CodecError, match="columns"):
        decode_chunk(PACKED + msgspec.msgpack.encode(fields))
