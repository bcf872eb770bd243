"""HPACK without state: golden bytes of request fields, and answers' blocks from servers of every kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import pytest
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hypothesis import given, strategies as st

from pushsvc.net.http2.hpack_fields import (
    EMPTY_TABLE,
    HTTPS,
    POST,
    BlockFault,
    BlockReader,
    authority,
    field,
    path,
    read_fields,
)


def pairs_of(decoded: Iterable[Any]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in decoded]


GOLDEN = [
    (field("apns-topic", "com.example"), "10 0a 61706e732d746f706963 0b 636f6d2e6578616d706c65"),
    (field("authorization", "bearer x"), "1f 08 08 6265617265722078"),  # static name 23 = 15 + 8
    (field("content-type", b"application/json"), "1f 10 10 6170706c69636174696f6e2f6a736f6e"),  # 31
    (field("accept-charset", ""), "1f 00 00"),  # 15, the first beyond the prefix
    (field("www-authenticate", "x"), "1f 2e 01 78"),  # 61, the last
    (field(":path", "/"), "14 01 2f"),
    (path("/3/device/ab"), "14 0c 2f332f6465766963652f6162"),
    (authority("api.push.apple.com"), "11 12 6170692e707573682e6170706c652e636f6d"),
    (POST, "83"),
    (HTTPS, "87"),
]


@pytest.mark.parametrize(("made", "golden"), GOLDEN)
def test_fields_to_the_byte(made: bytes, golden: str) -> None:
    assert made == bytes.fromhex(golden)


@pytest.mark.parametrize("size", [126, 127, 128, 254, 255, 256, 16_510, 16_511, 16_512])
def test_lengths_beyond_one_byte(size: int) -> None:
    decoder = Decoder(max_header_list_size=100_000)
    assert pairs_of(decoder.decode(field("x", "v" * size))) == [("x", "v" * size)]
    assert pairs_of(decoder.decode(field("n" * size, ""))) == [("n" * size, "")]


names = st.from_regex(r"\A[!#$%&'*+\-.^_`|~0-9a-z]{1,40}\Z").filter(
    lambda name: name not in {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
values = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200).map(str.strip)


@given(st.lists(st.tuples(names, values), max_size=8))
def test_another_library_reads_them_and_keeps_nothing(fields: list[tuple[str, str]]) -> None:
    decoder = Decoder()
    for _ in range(2):  # the second time they mean the same, as no table grew
        block = EMPTY_TABLE + POST + HTTPS + path("/x") + b"".join(field(name, value) for name, value in fields)
        pairs = list(decoder.decode(block))
        assert pairs_of(pairs) == [(":method", "POST"), (":scheme", "https"), (":path", "/x"), *fields]
        assert all(isinstance(pair, NeverIndexedHeaderTuple) for pair in pairs[2:])
        assert len(decoder.header_table.dynamic_entries) == 0


@pytest.mark.parametrize(
    "name", ["", "Apns-Topic", "apns topic", "apns:topic", "a\n", "\x00", "é", ":status", ":", "connection", "upgrade"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a lower-case HTTP field name|has no meaning in HTTP/2"):
        field(name, "x")


@pytest.mark.parametrize(
    "value", ["a\r\nb", "secret\n", "\x00secret", "sec\x7fret", " secret", "secret\t", b"secret\r", "\x1bsecret"]
)
def test_values_that_cannot_be_sent_are_refused_and_not_repeated(value: str | bytes) -> None:
    with pytest.raises(ValueError, match="'authorization' holds a control character") as error:
        field("authorization", value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("value", ["", "x", "/a b", "/a\n", "/\x00"])
def test_paths_that_are_none(value: str) -> None:
    with pytest.raises(ValueError, match=":path"):
        path(value)


# --- answers ------------------------------------------------------------------------------------

answers = st.lists(
    st.tuples(
        st.integers(100, 599),
        st.lists(
            st.tuples(
                st.sampled_from(["apns-id", "retry-after", "date", "content-type", "x-a", "x-b"]),
                st.sampled_from(["", "7", "application/json", "8f3c1a22", "x" * 300]),
            ),
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=12,
)


def joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in fields:
        out[name] = f"{out[name]}, {value}" if name in out else value
    return out


def fields_of(source: bytes | dict[str, str]) -> dict[str, str]:
    return read_fields(source) if isinstance(source, bytes) else source


@given(answers, st.sampled_from(["obeys", "never heard", "enlarges again", "changes its mind"]), st.booleans())
def test_any_server_is_read_rightly(answers: list[tuple[int, list[tuple[str, str]]]], kind: str, huffman: bool) -> None:
    reader, encoder = BlockReader(), Encoder()
    if kind != "never heard":
        encoder.header_table_size = 0
    for number, (status, fields) in enumerate(answers):
        if kind == "enlarges again" and number == 3:
            encoder.header_table_size = 2000
        if kind == "changes its mind" and number:
            encoder.header_table_size = [0, 4096, 100][number % 3]
        block = encoder.encode([(":status", str(status)), *fields], huffman=huffman)
        got, source = reader.read(block)
        assert got == status
        assert fields_of(source) == joined(fields)
    if kind == "never heard":
        assert reader._decoder is not None
    elif kind == "obeys":
        assert reader._decoder is None, "each block can be decoded by itself"


def test_an_obedient_server_costs_no_decoding() -> None:
    reader = BlockReader()
    assert reader.read(b"\x20\x88\x00\x01a\x01b") == (200, {"a": "b"})
    assert reader.read(b"\x88\x00\x01a\x01b") == (200, b"\x88\x00\x01a\x01b")
    assert reader.read(b"\x20\x20\x8c") == (400, b"\x8c")
    assert reader.read(b"\x8e") == (500, b"\x8e")
    assert read_fields(b"\x88\x00\x01a\x01b\x00\x01a\x01c") == {"a": "b, c"}


def test_trailers_have_no_status() -> None:
    reader = BlockReader()
    assert reader.read(b"\x20\x00\x01a\x01b") == (0, {"a": "b"})
    assert reader.read(b"\x00\x01a\x01b") == (0, {"a": "b"})
    assert reader.read(b"") == (0, {})


@pytest.mark.parametrize("status", ["20", "2000", "abc", "²²²", ""])
def test_a_status_that_is_none(status: str) -> None:
    raw = status.encode()
    assert BlockReader().read(b"\x08" + bytes([len(raw)]) + raw)[0] == -1


@pytest.mark.parametrize("block", ["80", "be", "88 be", "40", "88 40 01", "3f ff ff ff ff ff ff", "88 00 05 61"])
@pytest.mark.parametrize("stateless", [False, True])
def test_blocks_that_cannot_be_decoded(block: str, stateless: bool) -> None:
    reader = BlockReader()
    if stateless:
        reader.read(b"\x20\x88")
    data = bytes.fromhex(block)
    if stateless and data[0] == 0x88:
        assert reader.read(data)[0] == 200  # not looked into
        assert read_fields(data) == {}
    else:
        with pytest.raises(BlockFault, match="cannot be decoded"):
            reader.read(data)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_rubbish_is_a_fault_or_a_block(blocks: list[bytes]) -> None:
    reader = BlockReader()
    with contextlib.suppress(BlockFault):
        for block in blocks:
            status, source = reader.read(block)
            assert status >= -1
            assert isinstance(fields_of(source), dict)
