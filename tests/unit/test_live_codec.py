"""Commands and replies of the client protocol: both formats agree, and the official schema reads what we write."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pushsvc.live.protocol.codec import JSON, PROTOBUF, Codec, ConnectResult, Rendered, render
from pushsvc.live.protocol.codes import BAD_REQUEST, SHUTDOWN, TOO_MANY_REQUESTS
from pushsvc.live.protocol.commands import Command
from pushsvc.live.protocol.requests import ack_of, requested_by
from pushsvc.net.protobuf import MalformedMessage

from . import centrifuge_schema as schema

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
OFFSET = st.integers(0, 2**53 - 1)
DATA = st.dictionaries(TEXT, st.integers() | TEXT, max_size=2)

ACKS = st.fixed_dictionaries(
    {
        "ack": OFFSET
        | st.fixed_dictionaries({"offset": OFFSET}, optional={"epoch": st.sampled_from(["", "e", "other"])})
    },
    optional={"offset": OFFSET},
)

METHODS = st.sampled_from(["", '"method": "ack", ', '"method": "read", ', '"x": 1, '])

COMMANDS = st.fixed_dictionaries(
    {"id": st.integers(1, 2**32 - 1)},
    optional={
        "connect": st.fixed_dictionaries(
            {},
            optional={
                "token": TEXT,
                "data": DATA,
                "name": TEXT,
                "subs": st.dictionaries(
                    TEXT,
                    st.fixed_dictionaries({}, optional={"recover": st.booleans(), "epoch": TEXT, "offset": OFFSET}),
                    max_size=3,
                ),
                "flag": st.integers(0, 2**40),
            },
        ),
        "subscribe": st.fixed_dictionaries({"channel": TEXT}, optional={"token": TEXT, "recover": st.booleans()}),
        "unsubscribe": st.fixed_dictionaries({"channel": TEXT}),
        "publish": st.fixed_dictionaries({"channel": TEXT, "data": DATA}),
        "presence": st.fixed_dictionaries({"channel": TEXT}),
        "presence_stats": st.fixed_dictionaries({"channel": TEXT}),
        "history": st.fixed_dictionaries(
            {"channel": TEXT},
            optional={
                "limit": st.integers(-(2**31), 2**31 - 1),
                "since": st.fixed_dictionaries({}, optional={"offset": OFFSET, "epoch": TEXT}),
                "reverse": st.booleans(),
            },
        ),
        "ping": st.just({}),
        "send": st.fixed_dictionaries({"data": DATA}),
        "rpc": st.fixed_dictionaries({"data": DATA, "method": TEXT}),
        "refresh": st.fixed_dictionaries({"token": TEXT}),
        "sub_refresh": st.fixed_dictionaries({"channel": TEXT}),
    },
)


def fill(message: Any, values: dict[str, Any]) -> None:
    """Set the fields of a message of the schema; payloads are JSON in both formats."""
    message.SetInParent()
    for name, value in values.items():
        if name == "data":
            message.data = json.dumps(value).encode()
        elif name == "subs":
            for channel, subscription in value.items():
                fill(message.subs[channel], subscription)
        elif isinstance(value, dict):
            fill(getattr(message, name), value)
        else:
            setattr(message, name, value)


def plain(value: Any) -> Any:
    """Return a command as plain values without defaults, so that both formats can be compared."""
    if hasattr(value, "__struct_fields__"):
        found = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {name: each for name, each in found.items() if each not in (None, "", 0, False, {})} or True
    if isinstance(value, dict):
        return {name: plain(each) or True for name, each in value.items()}
    return json.loads(bytes(value)) if type(value).__name__ == "Raw" else value


@given(st.lists(COMMANDS, min_size=1, max_size=4))
def test_a_batch_of_commands_is_the_same_in_both_formats(batch: list[dict[str, Any]]) -> None:
    messages = []
    for values in batch:
        message = schema.Command()
        fill(message, values)
        messages.append(message)
    from_json = list(JSON.commands("\n".join(map(json.dumps, batch)).encode()))
    from_protobuf = list(PROTOBUF.commands(schema.delimited(*messages)))
    assert [plain(each) for each in from_json] == [plain(each) for each in from_protobuf]
    assert [each.id for each in from_json] == [values["id"] for values in batch]


@given(st.integers(0, 2**32), ACKS | OFFSET, METHODS)
def test_an_acknowledgement_that_is_decoded_at_once_is_what_the_command_asks_for(
    command_id: int, data: Any, method: str
) -> None:
    message = f'{{"rpc": {{{method}"data": {json.dumps(data)}}}, "id": {command_id}}}'.encode()
    ack = JSON.ack(message)
    usual = isinstance(data, dict) and data.keys() == {"ack"} and method in ("", '"method": "ack", ')
    assert (ack is not None) == (usual and 0 < command_id < 2**32)
    if ack is not None:
        [command] = JSON.commands(message)
        assert ack_of(ack.id, ack.rpc.data.ack, "e") == requested_by(command, "e")
        assert JSON.ack(message + b"\n" + message) is None


@given(st.binary(max_size=64))
@pytest.mark.parametrize("codec", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_any_bytes_are_commands_or_malformed(codec: Codec, data: bytes) -> None:
    with suppress(MalformedMessage):
        found = list(codec.commands(data))
        assert found
        assert all(isinstance(each, Command) for each in found)


@given(COMMANDS, st.data())
def test_a_cut_protobuf_message_is_malformed(values: dict[str, Any], data: st.DataObject) -> None:
    message = schema.Command()
    fill(message, values)
    whole = schema.delimited(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(MalformedMessage):
        list(PROTOBUF.commands(whole[:cut]))


@given(st.binary(max_size=40))
def test_what_the_official_parser_takes_as_a_command_is_one(body: bytes) -> None:
    try:
        official = schema.Command.FromString(body)
    except Exception:
        return
    try:
        [ours] = PROTOBUF.commands(bytes([len(body)]) + body)
    except MalformedMessage:
        assert any(byte & 7 in (3, 4) for byte in body), "only groups, which are gone from the language, are refused"
        return
    assert (ours.id or 0) == official.id
    assert (ours.rpc is not None) == official.HasField("rpc")
    assert (ours.send is not None) == official.HasField("send")
    if ours.refresh is not None:
        assert (ours.refresh.token or "") == official.refresh.token


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n\n{}",
        b"[]",
        b"1",
        b"null",
        b'{"id":-1}',
        b'{"id":4294967296}',
        b'{"id":"1"}',
        b'{"rpc":[]}',
        b"[" * 50000,
        b'{"rpc":{"data":' + b"[" * 60000,
        b'{"connect":{"token":1}}',
        b'{"id":1,"connect":{"token":"\xff"}}',
    ],
)
def test_malformed_json(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        list(JSON.commands(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"\x05\x08", b"\xff" * 11, b"\x02\x08\x80", b"\x01\x0b", b"\x02\x00\x00", b"\x04\x22\x02\x0a\x05"],
)
def test_malformed_protobuf(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        list(PROTOBUF.commands(data))


def test_nulls_of_json_are_fields_that_are_not_there() -> None:
    nulls = b'{"id":1,"connect":{"token":null,"data":null,"subs":{"device":null}},"rpc":null}'
    [command] = JSON.commands(nulls)
    assert command.connect is not None
    assert not command.connect.token
    assert command.rpc is None


def test_a_token_is_not_shown() -> None:
    commands = [*JSON.commands(b'{"id":1,"connect":{"token":"SECRET"}}\n{"id":2,"refresh":{"token":"SECRET"}}')]
    assert "SECRET" not in repr(commands)


# --- Replies ---

ERRORS = st.sampled_from([BAD_REQUEST, TOO_MANY_REQUESTS])
IDS = st.integers(1, 2**32 - 1)


def both(reply: str, *arguments: Any) -> tuple[dict[str, Any], Any]:
    """Return one reply as JSON has it, and as the official schema reads the Protobuf."""
    line = getattr(JSON, reply)(*arguments)
    assert b"\n" not in line
    [message] = schema.replies(getattr(PROTOBUF, reply)(*arguments))
    return json.loads(line), message


@given(DATA, OFFSET, OFFSET, st.integers(0, 10**6), st.booleans())
def test_a_publication_is_the_same_in_both_formats(
    data: dict[str, Any], offset: int, prev: int, unread: int, pretty: bool
) -> None:
    body = {"id": "p1", "data": data}
    rendered = render("p1", json.dumps(body, indent=2 if pretty else None).encode())
    whole = body | {"prev": prev, "unread": unread}
    pushed = json.loads(JSON.push(rendered, offset, prev, unread))
    assert pushed == {"push": {"channel": "device", "pub": {"data": whole, "offset": offset}}}
    [message] = schema.replies(PROTOBUF.push(rendered, offset, prev, unread))
    expected = schema.Reply()
    expected.push.channel = "device"
    expected.push.pub.data = message.push.pub.data
    expected.push.pub.offset = offset
    assert message == expected
    assert json.loads(message.push.pub.data) == whole


def test_a_large_content_is_a_notice() -> None:
    body = json.dumps({"id": "p1", "data": "x" * 4096}).encode()
    notice = json.loads(JSON.push(render("p1", body), 5, 4, 1))
    assert notice["push"]["pub"]["data"] == {"id": "p1", "notice": True, "size": len(body), "prev": 4, "unread": 1}
    assert b"notice" not in bytes(render("p1", body, inline=len(body)))


@given(IDS, TEXT, TEXT, st.integers(1, 2**31), OFFSET, st.booleans(), st.lists(OFFSET, max_size=3), st.integers(0, 900))
def test_a_connect_is_the_same_in_both_formats(
    command_id: int, client: str, epoch: str, ttl: int, offset: int, recovered: bool, pubs: list[int], ping: int
) -> None:
    rendered = Rendered(b'{"id":"p1"')

    def result(codec: Codec) -> ConnectResult:
        return ConnectResult(
            client=client,
            version="pushsvc",
            ttl=ttl,
            data=b'{"window":32}',
            epoch=epoch,
            offset=offset,
            recovered=recovered,
            was_recovering=True,
            publications=[codec.publication(rendered, each, 0, 0) for each in pubs],
            ping=ping,
            session="s",
            node="n",
        )

    line = json.loads(JSON.connect(command_id, result(JSON)))
    [message] = schema.replies(PROTOBUF.connect(command_id, result(PROTOBUF)))
    connect, device = message.connect, message.connect.subs["device"]
    assert line["id"] == message.id == command_id
    assert line["connect"] == {
        "client": connect.client,
        "version": connect.version,
        "expires": connect.expires,
        "ttl": connect.ttl,
        "data": json.loads(connect.data),
        "session": connect.session,
        "node": connect.node,
        "subs": {
            "device": {
                "recoverable": device.recoverable,
                "positioned": device.positioned,
                "epoch": device.epoch,
                "offset": device.offset,
                "recovered": device.recovered,
                "was_recovering": device.was_recovering,
            }
            | (
                {"publications": [{"data": json.loads(p.data), "offset": p.offset} for p in device.publications]}
                if pubs
                else {}
            )
        },
    } | ({"ping": connect.ping, "pong": connect.pong} if ping else {})
    assert (client, ttl, epoch, offset, ping, bool(ping)) == (
        connect.client,
        connect.ttl,
        device.epoch,
        device.offset,
        connect.ping,
        connect.pong,
    )


@given(IDS, ERRORS, TEXT, st.integers(1, 2**31), OFFSET)
def test_other_replies_are_the_same_in_both_formats(
    command_id: int, error: Any, text: str, ttl: int, offset: int
) -> None:
    line, message = both("error", command_id, error)
    assert line == {
        "id": command_id,
        "error": {"code": error.code, "message": error.message, "temporary": error.temporary},
    }
    assert (message.id, message.error.code) == (command_id, error.code)
    assert (message.error.message, message.error.temporary) == (error.message, error.temporary)

    line, message = both("refresh", command_id, text, "v", ttl)
    assert line == {"id": command_id, "refresh": {"client": text, "version": "v", "expires": True, "ttl": ttl}}
    assert message.refresh.client == text
    assert (message.refresh.ttl, message.refresh.expires) == (ttl, True)

    line, message = both("rpc", command_id, b'{"a":1}')
    assert line == {"id": command_id, "rpc": {"data": {"a": 1}}}
    assert (message.id, message.rpc.data) == (command_id, b'{"a":1}')

    line, message = both("history", command_id, text, offset, [])
    assert line == {"id": command_id, "history": {"publications": [], "epoch": text, "offset": offset}}
    assert (message.history.epoch, message.history.offset) == (text, offset)

    line, message = both("unsubscribe", command_id)
    assert line == {"id": command_id, "unsubscribe": {}}
    assert message.HasField("unsubscribe")

    line, message = both("message", b'{"unread":3}')
    assert line == {"push": {"message": {"data": {"unread": 3}}}}
    assert message.push.message.data == b'{"unread":3}'

    line, message = both("disconnect", SHUTDOWN)
    assert line == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
    assert (message.push.disconnect.code, message.push.disconnect.reason) == (3001, "shutdown")

    line, message = both("ping")
    assert line == {}
    assert message == schema.Reply()


def test_a_page_of_history_holds_its_publications() -> None:
    rendered = render("p1", b'{"id":"p1"}')
    for codec in (JSON, PROTOBUF):
        page = codec.history(1, "e", 9, [codec.publication(rendered, each, each - 1, 0) for each in (8, 9)])
        if codec is JSON:
            assert [each["offset"] for each in json.loads(page)["history"]["publications"]] == [8, 9]
        else:
            assert [each.offset for each in schema.replies(page)[0].history.publications] == [8, 9]


@given(st.lists(st.sampled_from(["rpc", "error", "ping"]), min_size=1, max_size=5))
def test_a_batch_is_taken_apart_again(kinds: list[str]) -> None:
    for codec in (JSON, PROTOBUF):
        made = {"rpc": codec.rpc(1, b"{}"), "error": codec.error(2, BAD_REQUEST), "ping": codec.ping()}
        batch = codec.batch([made[kind] for kind in kinds])
        if codec is JSON:
            assert [list(json.loads(line)) for line in batch.split(b"\n")] == [
                list(json.loads(made[kind])) for kind in kinds
            ]
        else:
            assert [each.id for each in schema.replies(batch)] == [{"rpc": 1, "error": 2, "ping": 0}[k] for k in kinds]
