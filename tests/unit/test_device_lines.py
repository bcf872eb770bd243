"""Devices as lines of a file: what is written is read again, and whatever else stands in a file is named and passed."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import typer
from hypothesis import given, strategies as st

from pushsvc.api.devices.importing import BadLine, read_device
from pushsvc.api.rules import Rules
from pushsvc.cli.devices.files import LONGEST, entries, format_of
from pushsvc.cli.devices.lines import (
    BadHeader,
    Format,
    columns,
    csv_of,
    document_of,
    header,
    ndjson_of,
)
from pushsvc.model.devices import Device
from pushsvc.model.instants import instant
from pushsvc.providers import REGISTRY
from pushsvc.runtime.providers import addresses

NOW = 1_790_000_000_000
KNOWN = addresses()
RULES = Rules("shop", frozenset(REGISTRY), KNOWN)

# --- round trips ------------------------------------------------------------------------------------

printable = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(str.isprintable)
names = printable.filter(lambda text: text not in (".", ".."))
values = st.one_of(
    st.text(max_size=20),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(-1e15, 1e15),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
instants = st.integers(1, NOW)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    platform = draw(st.sampled_from(["apns", "fcm"]))
    pruned = draw(st.booleans())
    kind = draw(st.sampled_from(["token", "fid"])) if platform == "fcm" else "token"
    if platform == "apns":
        token = draw(st.binary(min_size=32, max_size=32)).hex()
    else:
        token = draw(st.text("abcXYZ019_-", min_size=22, max_size=22))
    return Device(
        id=draw(names),
        platform=platform,
        token=token,
        kind=kind,
        user=draw(st.none() | names),
        tags=draw(st.dictionaries(printable, values, max_size=4)),
        locale=draw(st.none() | printable),
        timezone=draw(st.none() | printable),
        app_version=draw(st.none() | printable),
        environment=draw(st.sampled_from(["production", "sandbox"])),
        registered_at=draw(instants),
        last_seen_at=draw(instants),
        topics=tuple(draw(st.lists(names, max_size=4, unique=True))),
        strikes=draw(st.integers(0, 5)),
        struck_at=draw(st.just(0) | instants),
        state="pruned" if pruned else "active",
        pruned_at=draw(instants) if pruned else 0,
        pruned_for=draw(st.sampled_from(["Unregistered", "stale"])) if pruned else "",
    )


def written(many: list[Device], form: Format) -> bytes:
    return (
        ndjson_of(many, KNOWN)
        if form == "ndjson"
        else header(KNOWN, tombstones=True) + csv_of(many, KNOWN, tombstones=True)
    )


def read(blob: bytes, form: Format) -> list[Device]:
    found = []
    for entry in entries(io.BytesIO(blob), form, KNOWN):
        if entry.fault is not None:
            raise entry.fault
        found.append(read_device(entry.value, RULES, NOW))
    return found


@pytest.mark.parametrize("form", ["ndjson", "csv"])
@given(many=st.lists(devices(), max_size=4))
def test_what_is_written_is_read_again_and_written_the_same(form: Format, many: list[Device]) -> None:
    blob = written(many, form)
    back = read(blob, form)
    assert back == many
    assert written(back, form) == blob


def test_the_lines_as_they_are_documented() -> None:
    device = Device(
        id="phone",
        platform="fcm",
        token="dQw4w9WgXcQ",
        user="anna",
        tags={"plan": "pro", "beta": True},
        registered_at=NOW,
        last_seen_at=NOW + 5,
        topics=("news", "sport"),
    )
    assert ndjson_of([device], KNOWN) == (
        b'{"id":"phone","platform":"fcm","token":"dQw4w9WgXcQ","user":"anna","tags":{"plan":"pro","beta":true},'
        b'"environment":"production","registered_at":"2026-09-21T14:13:20.000Z",'
        b'"last_seen_at":"2026-09-21T14:13:20.005Z","topics":["news","sport"]}\n'
    )
    assert header(KNOWN, tombstones=False) + csv_of([device], KNOWN, tombstones=False) == (
        b"id,platform,token,fid,user,tags,locale,timezone,app_version,environment,registered_at,last_seen_at,topics,"
        b"strikes,struck_at\n"
        b'phone,fcm,dQw4w9WgXcQ,,anna,"{""plan"":""pro"",""beta"":true}",,,,production,2026-09-21T14:13:20.000Z,'
        b"2026-09-21T14:13:20.005Z,news sport,,\n"
    )
    assert set(document_of(device, KNOWN)) <= set(columns(KNOWN, tombstones=True))


def test_what_a_line_leaves_out() -> None:
    (device,) = read(
        b'{"id": "phone", "platform": "fcm", "token": "dQw4w9WgXcQ", "user": null, "nickname": null}\n', "ndjson"
    )
    assert device == Device(id="phone", platform="fcm", token="dQw4w9WgXcQ", registered_at=NOW, last_seen_at=NOW)
    blob = b'{"id": "phone", "platform": "fcm", "fid": "dQw4w9WgXcQ", "registered_at": "2026-01-01T01:00:00+01:00"}'
    (device,) = read(blob, "ndjson")
    assert (device.kind, device.registered_at, device.last_seen_at) == ("fid", 1_767_225_600_000, 1_767_225_600_000)


# --- bad lines --------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"id": "phone", "platform": "fcm", "token": "dQw4w9WgXcQ"}
BAD: list[tuple[Any, list[str]]] = [
    ([], ["$"]),
    ({}, ["id", "platform", "token"]),
    ({**GOOD, "id": "a b"}, ["id"]),
    ({**GOOD, "id": 7}, ["id"]),
    ({**GOOD, "plattform": "fcm"}, ["plattform"]),
    ({**GOOD, "platform": "fcn"}, ["platform"]),
    ({**GOOD, "fid": "x"}, ["$"]),
    ({**GOOD, "tags": {"a": {}}}, ["tags.a"]),
    ({**GOOD, "environment": "test", "locale": ""}, ["environment", "locale"]),
    ({**GOOD, "registered_at": "yesterday", "last_seen_at": 5}, ["registered_at", "last_seen_at"]),
    ({**GOOD, "registered_at": "1969-12-31T23:59:59Z"}, ["registered_at"]),
    ({**GOOD, "topics": "news"}, ["topics"]),
    ({**GOOD, "topics": ["news", "a b", 5]}, ["topics[1]", "topics[2]"]),
    ({**GOOD, "topics": [f"t{n}" for n in range(1001)]}, ["topics"]),
    ({**GOOD, "strikes": -1}, ["strikes"]),
    ({**GOOD, "strikes": True}, ["strikes"]),
    ({**GOOD, "state": "gone"}, ["state"]),
    ({**GOOD, "state": "pruned"}, ["pruned_at", "pruned_for"]),
    ({**GOOD, "pruned_for": "stale"}, ["pruned_for"]),
    ({**GOOD, "state": "pruned", "pruned_at": "2026-01-01T00:00:00Z", "pruned_for": "a\nb"}, ["pruned_for"]),
]


@pytest.mark.parametrize(("value", "paths"), BAD)
def test_every_fault_of_a_line_is_named(value: Any, paths: list[str]) -> None:
    with pytest.raises(BadLine) as caught:
        read_device(value, RULES, NOW)
    assert sorted(fault.path for fault in caught.value.faults) == sorted(paths)
    assert "dQw4w9WgXcQ" not in str(caught.value)


def faults(blob: bytes, form: Format) -> list[tuple[int, str]]:
    """Line numbers and what is wrong there, of those that could not even be read."""
    every = entries(io.BytesIO(blob), form, KNOWN)
    return [(entry.line, str(entry.fault)) for entry in every if entry.fault is not None]


def test_lines_of_json_that_cannot_be_read() -> None:
    long = b'{"id": "' + b"x" * LONGEST + b'"}'
    blob = b"\xef\xbb\xbf{}\n\n  \r\n{\n\xff\xfe\n" + long + b"\n[1]\r\n" + b"[" * 5000 + b"\n" + b"x" * 200_000
    reported = faults(blob, "ndjson")
    assert [line for line, _ in reported] == [4, 5, 6, 8, 9]
    assert "longer than" in reported[2][1]
    assert "longer than" in reported[4][1]
    assert [entry.line for entry in entries(io.BytesIO(blob), "ndjson", KNOWN) if entry.fault is None] == [1, 7]


def test_lines_of_csv_that_cannot_be_read() -> None:
    blob = (
        b"\xef\xbb\xbfid,platform,token,tags,topics,strikes\r\n"
        b"a,fcm,t,,,\r\n"
        b"b,fcm\r\n"
        b'c,fcm,t,"{""plan"":\n""two lines""}",news  sport,2\r\n'
        b'c,fcm,t,"{""plan"": ""one line""}",news  sport,2\r\n'
        b"\r\n"
        b"d,fcm,t,{oops,,\r\n"
        b"e,fcm,t,,,two\r\n"
        b"f\xff,fcm,t,,,\r\n"
        b"g,fcm," + b"x" * 200_000 + b",,,\r\n"
        b"h,fcm,t,,,\r\n"
        b'i,fcm,"t'
    )
    assert [line for line, _ in faults(blob, "csv")] == [3, 4, 5, 10, 11, 13]
    good = [entry for entry in entries(io.BytesIO(blob), "csv", KNOWN) if entry.fault is None]
    assert [entry.line for entry in good] == [2, 6, 8, 9, 12]
    assert good[1].value == {
        "id": "c",
        "platform": "fcm",
        "token": "t",
        "tags": {"plan": "one line"},
        "topics": ["news", "sport"],
        "strikes": 2,
    }
    assert good[1].text == 'c,fcm,t,"{""plan"": ""one line""}",news  sport,2'


def test_every_fault_of_a_row_is_named() -> None:
    blob = b"id,platform,token,tags,strikes,environment\nd,fcn,t,{oops,two,test\n"
    (entry,) = entries(io.BytesIO(blob), "csv", KNOWN)
    with pytest.raises(BadLine) as caught:
        read_device(entry.value, RULES, NOW)
    assert sorted(fault.path for fault in caught.value.faults) == ["environment", "platform", "strikes", "tags"]


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("id,platform,tokens", "'tokens'"),
        ("id,platform,token,id", "id twice"),
        ("id,token", "lacks platform"),
        ('"id', "not a header"),
    ],
)
def test_headers_that_are_refused(line: str, reported: str) -> None:
    with pytest.raises(BadHeader, match=reported):
        list(entries(io.BytesIO(line.encode()), "csv", KNOWN))


def test_an_open_quote_spoils_its_own_line_only() -> None:
    blob = (
        b"id,platform,token,user\n"
        + b"".join(b"a%d,fcm,%022d,u\n" % (number, number) for number in range(500))
        + b'bad,fcm,t,"Ann\n'
        + b"".join(b'b%d,fcm,%022d,"u"\n' % (number, number) for number in range(500))
    )
    found = list(entries(io.BytesIO(blob), "csv", KNOWN))
    assert [entry.line for entry in found] == list(range(2, 1003))
    bad = [entry for entry in found if entry.fault is not None]
    assert [(entry.line, entry.text) for entry in bad] == [(502, 'bad,fcm,t,"Ann')]
    assert "a quote is not closed" in str(bad[0].fault)


@given(garbage=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and bool(line.strip()))))
@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_every_line_is_counted_whatever_stands_before_it(form: Format, garbage: list[bytes]) -> None:
    """A reader recovers at the next physical line: the good one behind any others is found."""
    good = b"x,fcm,t" if form == "csv" else b'{"id": "x"}'
    head = b"id,platform,token\n" if form == "csv" else b""
    found = list(entries(io.BytesIO(head + b"\n".join([*garbage, good, b""])), form, KNOWN))
    assert found[-1].fault is None
    assert found[-1].text.encode() == good
    # Only what is white space to the format is no record, and a byte order mark at the beginning.
    reported = {entry.line for entry in found}
    first = 2 if form == "csv" else 1
    skipped = [line for number, line in enumerate(garbage, first) if number not in reported]
    assert all(not line.removeprefix(b"\xef\xbb\xbf").strip() for line in skipped)


def test_an_empty_file_has_no_devices() -> None:
    assert list(entries(io.BytesIO(), "csv", KNOWN)) == list(entries(io.BytesIO(), "ndjson", KNOWN)) == []


@given(blob=st.binary(max_size=300), form=st.sampled_from(["csv", "ndjson"]))
def test_no_bytes_break_the_reader(blob: bytes, form: Format) -> None:
    blob = (header(KNOWN, tombstones=True) if form == "csv" else b"") + blob
    lines = [entry.line for entry in entries(io.BytesIO(blob), form, KNOWN)]
    assert lines == sorted(lines)
    for entry in entries(io.BytesIO(blob), form, KNOWN):
        msgspec.json.encode(entry.text)
        if entry.fault is None:
            with suppress(BadLine):
                assert isinstance(read_device(entry.value, RULES, NOW), Device)


def test_the_format_is_named_or_seen() -> None:
    assert [format_of(name, "") for name in ("a.csv", "b.NDJSON", "c.jsonl", "-")] == [
        "csv",
        "ndjson",
        "ndjson",
        "ndjson",
    ]
    assert format_of("-", "csv") == format_of("a.ndjson", "csv") == "csv"
    for name, reported in (("devices.txt", ""), ("a.csv", "xml")):
        with pytest.raises(typer.BadParameter, match="--format"):
            format_of(name, reported)


@pytest.mark.parametrize("name", ["registered_at", "last_seen_at"])
def test_nobody_was_registered_in_the_future(name: str) -> None:
    line = {"id": "d", "platform": "apns", "token": "AB12"}
    ahead = {**line, name: instant(NOW + 60_000)}
    assert read_device(ahead, RULES, NOW).token == "ab12"
    with pytest.raises(BadLine, match="future"):
        read_device({**line, name: instant(NOW + 61_000)}, RULES, NOW)
