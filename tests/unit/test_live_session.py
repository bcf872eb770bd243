"""The session of a connection: every command, every answer, and what official clients stumble over."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pushsvc.live.config import LiveAppConfig
from pushsvc.live.protocol import codes
from pushsvc.live.protocol.codec import JSON, PROTOBUF, Rendered, render
from pushsvc.live.protocol.effects import (
    AckRequested,
    Bytes,
    Close,
    ConnectRequested,
    Effect,
    EventReported,
    FaultSeen,
    FetchRequested,
    HeartbeatRequested,
    HistoryRequested,
    MoreRequested,
    Ping,
    ReadRequested,
    RefreshRequested,
    ResendRequested,
    Resent,
)
from pushsvc.live.protocol.limits import Limits
from pushsvc.live.protocol.session import PENDING, Session
from pushsvc.live.protocol.window import MESSAGE
from pushsvc.ports.live import Connected, LivePush, Page, Position, Publication, Recipient

from . import centrifuge_schema as schema

LIMITS = Limits(gateway="g1", version="pushsvc", endpoints=b'[{"transport":"websocket"}]')
APP = LiveAppConfig(window=4, ack_within=10.0, resend=1)
CONTENT = Rendered(b'{"id":"p"')
FULL = dict.fromkeys((f"p{number}" for number in range(300)), CONTENT)


def publication(offset: int, prev: int | None = None) -> Publication:
    push = LivePush(f"p{offset}", 0, 2**40, "normal")
    return Publication(offset, offset - 1 if prev is None else prev, 0, push)


def page(*offsets: int, top: int | None = None, more: bool = False, missing: int = 0, epoch: str = "e") -> Page:
    found = [publication(offset, prev) for prev, offset in zip((None, *offsets), offsets, strict=False)]
    floor = min(offsets) - 1 if missing else 0
    return Page(epoch, max(offsets, default=0) if top is None else top, found, more, missing, floor)


def result(since: int, recovered: bool, stream: Page, acked: int | None = None) -> Connected:
    return Connected(since, recovered, stream, since if acked is None else acked, 7, None)


def recipient(offset: int, prev: int | None = None, epoch: str = "e") -> Recipient:
    return Recipient(1, epoch, offset, offset - 1 if prev is None else prev, 3, 0)


def new(**options: Any) -> Session:
    return Session(JSON, "c1", 0.0, spread=1.0, limits=LIMITS, **options)


def send(session: Session, *commands: dict[str, Any], now: float = 0.0) -> list[Effect]:
    return session.received("\n".join(map(json.dumps, commands)).encode(), now)


def lines(effects: list[Effect]) -> list[dict[str, Any]]:
    """Return the replies among effects; no reply is or has a null."""
    found = [line for each in effects if isinstance(each, Bytes) for line in each.data.split(b"\n")]
    assert not any(b"null" in line for line in found)
    return [json.loads(line) for line in found]


def others(effects: list[Effect]) -> list[Effect]:
    return [each for each in effects if not isinstance(each, Bytes)]


def offsets(effects: list[Effect]) -> list[int]:
    return [line["push"]["pub"]["offset"] for line in lines(effects)]


def connect(session: Session, connected: Connected, subs: dict[str, Any] | None = None, **terms: Any) -> list[Effect]:
    send(session, {"id": 1, "connect": {"token": "t", "subs": subs or {}}})
    arguments = {"heartbeat": 25.0, "ttl": 3600.0, "now": 0.0} | terms
    return session.connected(1, connected, FULL, arguments.pop("app", APP), **arguments)


def opened(**options: Any) -> Session:
    session = new(**options)
    connect(session, result(0, False, page()))
    return session


# --- Connect ---


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        ({}, ConnectRequested(1, "", None, False)),
        ({"token": "t", "name": "js", "version": "1"}, ConnectRequested(1, "t", None, False)),
        (
            {"data": {"heartbeat": 240, "foreground": True, "app_version": "3.1", "other": []}},
            ConnectRequested(1, "", None, False, 240.0, True),
        ),
        (
            {"subs": {"device": {"recover": True, "epoch": "e", "offset": 5}, "other": {"recover": True}}},
            ConnectRequested(1, "", Position("e", 5), True),
        ),
        ({"subs": {"device": {"epoch": "e", "offset": 5}}}, ConnectRequested(1, "", None, False)),
        ({"subs": {"device": None}}, ConnectRequested(1, "", None, False)),
    ],
)
def test_a_connect_is_taken_apart(request_: dict[str, Any], asked: ConnectRequested) -> None:
    assert send(new(), {"id": 1, "connect": request_}) == [asked]


@pytest.mark.parametrize(
    ("request_", "kind", "recover"),
    [
        ({"subs": {"device": {"recover": True, "epoch": "", "offset": 5}}}, "position", True),
        ({"subs": {"device": {"recover": True, "epoch": "e", "offset": 2**53}}}, "position", True),
        ({"data": {"heartbeat": "often"}}, "connect_data", False),
        ({"data": {"heartbeat": -1}}, "connect_data", False),
        ({"data": [1]}, "connect_data", False),
    ],
)
def test_what_is_wrong_beside_the_token_does_not_keep_a_device_away(
    request_: dict[str, Any], kind: Any, recover: bool
) -> None:
    assert send(new(), {"id": 1, "connect": request_}) == [FaultSeen(kind), ConnectRequested(1, "", None, recover)]


def test_a_token_is_not_in_the_repr_of_an_effect() -> None:
    effects = send(new(), {"id": 1, "connect": {"token": "SECRET"}})
    assert "SECRET" not in repr([*effects, RefreshRequested(1, "SECRET")])


def test_the_reply_to_a_first_connect() -> None:
    effects = connect(new(), result(3, False, page(4, 5, top=5)))
    reply, *pushed = lines(effects)
    assert reply == {
        "id": 1,
        "connect": {
            "client": "c1",
            "version": "pushsvc",
            "expires": True,
            "ttl": 3600,
            "ping": 25,
            "pong": True,
            "data": {
                "window": 4,
                "ack_within": 10.0,
                "unread": 7,
                "acked": 3,
                "endpoints": [{"transport": "websocket"}],
            },
            "subs": {
                "device": {
                    "recoverable": True,
                    "positioned": True,
                    "epoch": "e",
                    "offset": 5,
                    "recovered": False,
                    "was_recovering": False,
                }
            },
        },
    }
    assert [(line["push"]["pub"]["offset"], line["push"]["pub"]["data"]) for line in pushed] == [
        (4, {"id": "p", "prev": 3, "unread": 7}),
        (5, {"id": "p", "prev": 4, "unread": 7}),
    ]
    assert all(isinstance(each, Bytes) for each in effects)


ASKED = {"device": {"recover": True, "epoch": "e", "offset": 3}}


@pytest.mark.parametrize(
    ("connected", "offset", "recovered", "publications", "after"),
    [
        (result(3, True, page(4, 5)), 3, True, [4, 5], []),  # the position that was asked for, not the top
        (result(3, True, page(top=3)), 3, True, [], []),
        (result(3, True, page(4, 7, top=9)), 3, True, [4, 7], []),  # 5, 6, 8, 9 were replaced or have expired
        (result(1, False, page(2, 3, top=3)), 3, False, [], [2, 3]),  # of another epoch
        (result(3, False, page(8, 9, missing=4)), 9, False, [], [8, 9]),  # overflow
        (result(3, True, page(299, 300)), 300, False, [], [299]),  # a content is gone
        (result(3, True, page(4, 5, 6, 7, 8, 9)), 3, True, [4, 5, 6, 7], []),  # what the window has room for
        (result(1, True, page(2, 3, 4)), 3, True, [2, 3, 4], []),  # what is not acknowledged comes again
        (result(1, True, page(2, 3, top=3)), 3, True, [2, 3], []),
    ],
)
def test_the_position_after_a_recovery(
    connected: Connected, offset: int, recovered: bool, publications: list[int], after: list[int]
) -> None:
    reply, *pushed = lines(connect(new(), connected, ASKED))
    device = reply["connect"]["subs"]["device"]
    assert (device["offset"], device["recovered"], device["was_recovering"]) == (offset, recovered, True)
    assert [each["offset"] for each in device.get("publications", [])] == publications
    assert ("publications" in device) == bool(publications)
    assert [line["push"]["pub"]["offset"] for line in pushed] == after
    chain = [each["data"]["prev"] for each in device.get("publications", [])]
    assert chain == [connected.since, *publications][: len(chain)]
    gone = 300 in [each.offset for each in connected.page.publications]
    assert reply["connect"]["data"].get("missing", 0) == (0 if recovered else connected.page.missing + gone)


def test_what_is_missing_before_the_position_shows_in_the_chain_alone() -> None:
    stream = Page("e", 9, [publication(2), publication(8, 7), publication(9)], False, 5)
    reply, *pushed = lines(connect(new(), Connected(1, True, stream, 1, 7, None), ASKED))
    device = reply["connect"]["subs"]["device"]
    assert (device["offset"], device["recovered"], pushed) == (3, True, [])
    assert [(each["offset"], each["data"]["prev"]) for each in device["publications"]] == [(2, 1), (8, 7), (9, 8)]
    assert "missing" not in reply["connect"]["data"]


def test_what_was_announced_as_missing_is_not_counted_again() -> None:
    stream = Page("e", 9, [publication(8, 7), publication(9)], False, 7)
    reply, *pushed = lines(connect(new(), Connected(0, False, stream, 0, 7, None, 4), ASKED))
    device = reply["connect"]["subs"]["device"]
    assert (device["offset"], device["recovered"], reply["connect"]["data"]["missing"]) == (9, False, 4)
    assert [line["push"]["pub"]["data"]["prev"] for line in pushed] == [0, 8]


def test_the_connect_reply_is_the_same_in_protobuf() -> None:
    session = Session(PROTOBUF, "c1", 0.0, spread=1.0, limits=LIMITS)
    command = schema.Command(id=1)
    command.connect.token = "t"
    command.connect.data = b'{"heartbeat":240}'
    command.connect.subs["device"].recover = True
    command.connect.subs["device"].epoch = "e"
    command.connect.subs["device"].offset = 3
    assert session.received(schema.delimited(command), 0.0) == [ConnectRequested(1, "t", Position("e", 3), True, 240.0)]
    [effect] = session.connected(1, result(3, True, page(4)), FULL, APP, heartbeat=240.0, ttl=60.0, now=0.0)
    assert isinstance(effect, Bytes)
    [reply] = schema.replies(effect.data)
    device = reply.connect.subs["device"]
    assert (device.offset, device.recovered, device.epoch, device.recoverable) == (3, True, "e", True)
    assert [each.offset for each in device.publications] == [4]
    assert (reply.connect.ping, reply.connect.pong, reply.connect.client) == (240, True, "c1")
    [pushed] = session.published(recipient(5), CONTENT, 0.0)
    assert isinstance(pushed, Bytes)
    [push] = schema.replies(pushed.data)
    assert (push.push.channel, push.push.pub.offset) == ("device", 5)
    assert json.loads(push.push.pub.data) == {"id": "p", "prev": 4, "unread": 3}


def test_a_transport_that_needs_emulation_gets_session_and_node() -> None:
    session = new(emulation="secret")
    [reply] = lines(connect(session, result(0, False, page())))
    assert (reply["connect"]["session"], reply["connect"]["node"]) == ("secret", "g1")
    assert session.disconnect(codes.SHUTDOWN) == [
        Bytes(b'{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}'),
        Close(3001, "shutdown"),
    ]


@pytest.mark.parametrize(
    ("refusal", "line"),
    [
        (codes.TOKEN_EXPIRED, {"code": 109, "message": "token expired", "temporary": False}),
        (codes.TOO_MANY_REQUESTS, {"code": 111, "message": "too many requests", "temporary": True}),
        (codes.INTERNAL, {"code": 100, "message": "internal server error", "temporary": True}),
    ],
)
def test_a_connect_that_ends_in_an_error(refusal: Any, line: dict[str, Any]) -> None:
    session = new()
    send(session, {"id": 1, "connect": {"token": "t"}})
    assert session.due == float("inf"), "the gateway may answer late"
    effects = session.refused(1, refusal)
    assert lines(effects) == [{"id": 1, "error": line}]
    assert not others(effects), "the client closes, and comes back in its own time"
    assert session.connected(1, result(0, False, page()), FULL, APP, heartbeat=25.0, ttl=1.0, now=0.0) == []
    assert session.tick(15.0) == [Close(3011, "force reconnect")]


@pytest.mark.parametrize(
    ("refusal", "close"),
    [
        (codes.INVALID_TOKEN, Close(3500, "invalid token")),
        (codes.REVOKED, Close(3503, "force disconnect")),
        (codes.REPLACED, Close(4501, "replaced")),
        (codes.EXPIRED, Close(3005, "connection expired")),
        (codes.SLOW, Close(3008, "slow")),
    ],
)
def test_a_disconnect_ends_the_session(refusal: Any, close: Close) -> None:
    session = new()
    send(session, {"id": 1, "connect": {}})
    assert session.refused(1, refusal) == [close]
    assert refusal.reconnect is (close.code in (3005, 3008)), "the client comes back by itself"
    assert session.disconnect(codes.SHUTDOWN) == []
    assert send(session, {"id": 2, "rpc": {}}) == []
    assert session.due == float("inf")


BAD = (3501, "bad request")


@pytest.mark.parametrize(
    ("before", "data", "kind"),
    [
        ("new", b'{"id":1,"rpc":{"method":"ack","data":{"ack":1}}}', "before_connect"),
        ("new", b"{}", "before_connect"),
        ("new", b'{"connect":{}}', "before_connect"),
        ("connecting", b'{"id":2,"connect":{}}', "second_connect"),
        ("connecting", b'{"id":2,"history":{"channel":"device"}}', "before_connect"),
        ("open", b'{"id":2,"connect":{}}', "second_connect"),
        ("open", b"{}", "pong"),
        ("open", b'{"rpc":{}}', "pong"),
        ("open", b"", "malformed"),
        ("open", b"{", "malformed"),
        ("open", b'{"id":2,"history":{}}', "channel"),
        ("open", b'{"id":2,"subscribe":{}}', "channel"),
        ("open", b" " * 65_537, "oversized"),
    ],
)
def test_what_ends_the_connection(before: str, data: bytes, kind: Any) -> None:
    session = new()
    if before != "new":
        send(session, {"id": 1, "connect": {}})
    if before == "open":
        session.connected(1, result(0, False, page()), FULL, APP, heartbeat=25.0, ttl=60.0, now=0.0)
    assert session.received(data, 0.0) == [FaultSeen(kind), Close(*BAD)]


def test_commands_before_a_malformed_one_are_taken() -> None:
    effects = opened().received(b'{"id":2,"rpc":{"method":"fetch","data":{"id":"p"}}}\n{"id":3,"ping":{}}\n[', 0.0)
    assert others(effects) == [FetchRequested(2, "p"), FaultSeen("method"), FaultSeen("malformed"), Close(*BAD)]
    assert isinstance(effects[-3], Bytes), "what was answered is written before the end"


@pytest.mark.parametrize(
    ("command", "code", "kind"),
    [
        ({"subscribe": {"channel": "device"}}, 105, "channel"),
        ({"subscribe": {"channel": "news"}}, 103, "channel"),
        ({"unsubscribe": {"channel": "device"}}, 103, "channel"),
        ({"publish": {"channel": "device", "data": {}}}, 103, "channel"),
        ({"sub_refresh": {"channel": "device"}}, 103, "channel"),
        ({"presence": {"channel": "device"}}, 108, "method"),
        ({"presence_stats": {"channel": "device"}}, 108, "method"),
        ({"ping": {}}, 108, "method"),
        ({"history": {"channel": "news"}}, 103, "channel"),
        ({"history": {"channel": "device", "since": {"offset": 1, "epoch": "old"}}}, 112, "epoch"),
        ({"history": {"channel": "device", "since": {"offset": 2**53}}}, 107, "position"),
        ({"rpc": {"method": "unknown"}}, 104, "method"),
        ({"of_a_later_version": {}}, 104, "method"),
        ({"rpc": {"method": "ack"}}, 107, "request"),
        ({"rpc": {"data": {"ack": -1}}}, 107, "request"),
        ({"rpc": {"data": {"ack": 2**53}}}, 107, "request"),
        ({"rpc": {"data": {"ack": True}}}, 107, "request"),
        ({"rpc": {"data": {"ack": {"offset": 1, "epoch": "old"}}}}, 112, "epoch"),
        ({"rpc": {"method": "read", "data": {"offset": 1, "epoch": "old"}}}, 112, "epoch"),
        ({"rpc": {"method": "read", "data": {}}}, 107, "request"),
        ({"rpc": {"method": "event", "data": {"id": "p", "event": "eaten"}}}, 107, "request"),
        ({"rpc": {"method": "event", "data": {"id": "p", "event": "shown", "at": "today"}}}, 107, "request"),
        ({"rpc": {"method": "fetch", "data": {"id": ""}}}, 107, "request"),
        ({"rpc": {"method": "heartbeat", "data": {"seconds": 0}}}, 107, "request"),
    ],
)
def test_what_is_answered_with_an_error(command: dict[str, Any], code: int, kind: Any) -> None:
    session = opened()
    effects = send(session, {"id": 2} | command)
    [line] = lines(effects)
    assert (line["id"], line["error"]["code"], line["error"]["temporary"]) == (2, code, False)
    assert others(effects) == [FaultSeen(kind)]
    assert send(session, {"id": 2, "rpc": {"data": {"ack": 0}}}) == [AckRequested(2, 0, "e")], "the id is free again"


def test_a_subscription_beside_the_connect_is_refused_alone() -> None:
    session = new()
    effects = send(session, {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "news"}})
    assert [line["error"]["code"] for line in lines(effects)] == [103]
    assert ConnectRequested(1, "", None, False) in effects


def test_an_unsubscribe_from_another_channel_is_granted() -> None:
    assert lines(send(opened(), {"id": 2, "unsubscribe": {"channel": "news"}})) == [{"id": 2, "unsubscribe": {}}]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ({"rpc": {"method": "ack", "data": {"ack": 5}}}, AckRequested(2, 5, "e")),
        ({"rpc": {"data": {"ack": 5}}}, AckRequested(2, 5, "e")),
        ({"rpc": {"method": "ack", "data": 5}}, AckRequested(2, 5, "e")),
        ({"rpc": {"method": "ack", "data": {"offset": 5, "epoch": "e"}}}, AckRequested(2, 5, "e")),
        ({"rpc": {"method": "ack", "data": {"ack": {"offset": 5, "epoch": "e"}}}}, AckRequested(2, 5, "e")),
        ({"rpc": {"method": "read", "data": {"offset": 5}}}, ReadRequested(2, 5, "e")),
        ({"rpc": {"method": "event", "data": {"id": "p", "event": "opened"}}}, EventReported(2, "p", "opened", None)),
        (
            {"rpc": {"method": "event", "data": {"id": "0F-P", "event": "opened", "at": "1970-01-01T00:00:01+0000"}}},
            EventReported(2, "0f-p", "opened", 1.0),
        ),
        (
            {"rpc": {"method": "event", "data": {"id": "p", "event": "opened", "at": "2016-12-31T23:59:60Z"}}},
            EventReported(2, "p", "opened", 1_483_228_800.0),
        ),
        ({"rpc": {"method": "fetch", "data": {"id": "p"}}}, FetchRequested(2, "p")),
        ({"rpc": {"method": "fetch", "data": {"id": "0F-P"}}}, FetchRequested(2, "0f-p")),
        ({"rpc": {"method": "heartbeat", "data": {"seconds": 60}}}, HeartbeatRequested(2, 60.0, None)),
        ({"rpc": {"method": "heartbeat", "data": {"foreground": False}}}, HeartbeatRequested(2, None, False)),
        ({"refresh": {"token": "t"}}, RefreshRequested(2, "t")),
        ({"history": {"channel": "device"}}, HistoryRequested(2, None, 0, False)),
        ({"history": {"channel": "device", "limit": -1, "reverse": True}}, HistoryRequested(2, None, 100, True)),
        (
            {"history": {"channel": "device", "limit": 10, "since": {"offset": 4, "epoch": "e"}}},
            HistoryRequested(2, 4, 10, False),
        ),
    ],
)
def test_what_is_asked_is_answered_once(command: dict[str, Any], asked: Any) -> None:
    session = opened()
    assert send(session, {"id": 2} | command) == [asked]
    assert lines(session.done(2)) == [{"id": 2, "rpc": {"data": {}}}]
    assert session.done(2) == []


def test_a_send_acknowledges_without_an_answer() -> None:
    session = opened()
    assert send(session, {"send": {"data": {"ack": 5}}}) == [AckRequested(0, 5, "e")]
    assert session.acked(0, "") == []
    assert send(session, {"send": {"data": {"other": 5}}}) == [FaultSeen("request")]
    assert send(session, {"send": {"data": {"ack": {"offset": 1, "epoch": "old"}}}}) == [FaultSeen("epoch")]


@pytest.mark.parametrize(
    ("fault", "code", "kind"), [("epoch", 112, "epoch"), ("unknown", 112, "epoch"), ("offset", 107, "position")]
)
def test_an_acknowledgement_that_the_stream_refuses(fault: Any, code: int, kind: Any) -> None:
    session = opened()
    send(session, {"id": 2, "rpc": {"data": {"ack": 5}}})
    effects = session.acked(2, fault)
    assert [line["error"]["code"] for line in lines(effects)] == [code]
    assert others(effects) == [FaultSeen(kind)]


def test_an_id_that_is_still_in_use_and_a_flood_of_commands() -> None:
    session = opened()
    read = {"rpc": {"method": "read", "data": {"offset": 1}}}
    effects = send(session, {"id": 2} | read, {"id": 2} | read)
    assert lines(effects) == [{"id": 2, "error": {"code": 107, "message": "bad request", "temporary": False}}]
    assert others(effects) == [ReadRequested(2, 1, "e"), FaultSeen("doubled_id")]
    effects = send(session, *({"id": 10 + number} | read for number in range(PENDING)))
    [line] = lines(effects)
    assert (line["error"]["code"], line["error"]["temporary"]) == (111, True)
    assert others(effects)[-1] == FaultSeen("flood")
    assert lines(session.done(2)) == [{"id": 2, "rpc": {"data": {}}}], "the first of the two is answered"


def test_replies_of_one_message_are_one_message() -> None:
    effects = send(opened(), {"id": 2, "ping": {}}, {"id": 3, "ping": {}}, {"id": 4, "ping": {}})
    assert [line["id"] for line in lines(effects)] == [2, 3, 4]
    assert sum(isinstance(each, Bytes) for each in effects) == 1


def test_a_refresh_names_the_client_again_and_moves_the_end() -> None:
    session = new()
    connect(session, result(0, False, page()), ttl=10.0, heartbeat=900.0)
    assert session.due == 35.0
    send(session, {"id": 2, "refresh": {"token": "t"}})
    assert lines(session.refreshed(2, 100.0, 20.0)) == [
        {"id": 2, "refresh": {"client": "c1", "version": "pushsvc", "expires": True, "ttl": 100}}
    ]
    assert session.due == 145.0
    assert session.tick(145.0) == [Close(3005, "connection expired")]


def test_history_has_its_own_chain_and_only_what_was_asked() -> None:
    session = opened()
    send(session, {"id": 2, "history": {"channel": "device", "limit": 2}})
    found = Page("e", 9, [publication(4, 1), publication(9, 4), publication(10)], True, 0)
    [line] = lines(session.history(HistoryRequested(2, None, 2, False), found, FULL))
    assert line["history"] == {
        "epoch": "e",
        "offset": 9,
        "publications": [
            {"data": {"id": "p", "prev": 1, "unread": 7}, "offset": 4},
            {"data": {"id": "p", "prev": 4, "unread": 7}, "offset": 9},
        ],
    }
    send(session, {"id": 3, "history": {"channel": "device"}})
    [line] = lines(session.history(HistoryRequested(3, None, 0, False), found, FULL))
    assert line["history"] == {"epoch": "e", "offset": 9, "publications": []}
    send(session, {"id": 4, "history": {"channel": "device"}})
    assert lines(session.history(HistoryRequested(4, None, 0, False), None, {}))[0]["error"]["code"] == 112


# --- Pings ---


def test_a_ping_and_its_pong() -> None:
    session = opened()
    assert session.due == 25.0, "spread over the second half of the interval"
    assert session.tick(24.9) == []
    assert session.tick(25.0) == [Bytes(b"{}")]
    assert session.due == 33.0
    assert session.received(b"{}", 25.5) == []
    assert session.due == 50.0
    assert session.tick(50.0) == [Bytes(b"{}")]
    assert session.tick(58.0) == [Close(3012, "no pong")]


def test_the_first_ping_is_spread() -> None:
    due = set()
    for spread in (0.0, 0.5, 1.0):
        session = Session(JSON, "c1", 0.0, spread=spread, limits=LIMITS)
        connect(session, result(0, False, page()), heartbeat=100.0)
        due.add(session.due)
    assert due == {50.0, 75.0, 100.0}


def test_pings_of_websocket() -> None:
    session = new(frame_pings=True)
    [reply] = lines(connect(session, result(0, False, page())))
    assert "ping" not in reply["connect"]
    assert "pong" not in reply["connect"]
    assert session.ponged(1.0) == [], "WebSocket allows a pong without a ping"
    assert session.tick(25.0) == [Ping()]
    assert session.ponged(26.0) == []
    assert session.received(b"{}", 27.0) == [FaultSeen("pong"), Close(*BAD)]


def test_another_heartbeat_is_never_longer_than_what_was_announced() -> None:
    session = opened()
    send(session, {"id": 2, "rpc": {"method": "heartbeat", "data": {"seconds": 10}}})
    assert lines(session.heartbeat(2, 10.0, 1.0)) == [{"id": 2, "rpc": {"data": {"heartbeat": 10.0, "agreed": 10.0}}}]
    assert session.due == 11.0
    send(session, {"id": 3, "rpc": {"method": "heartbeat", "data": {"seconds": 240}}})
    assert lines(session.heartbeat(3, 240.0, 2.0)) == [{"id": 3, "rpc": {"data": {"heartbeat": 25.0, "agreed": 240.0}}}]
    assert session.due == 27.0


def test_a_socket_that_never_connects_is_stale() -> None:
    session = new()
    assert session.due == 15.0
    assert session.tick(15.0) == [Close(3502, "stale")]


# --- Publications ---


def test_publications_are_handed_out_in_order_and_once() -> None:
    session = opened()
    assert offsets(session.published(recipient(1), CONTENT, 0.0)) == [1]
    assert session.published(recipient(1), CONTENT, 0.0) == []
    [line] = lines(session.published(recipient(3, prev=1), CONTENT, 0.0))
    assert line["push"] == {
        "channel": "device",
        "pub": {"data": {"id": "p", "prev": 1, "unread": 3}, "offset": 3},
    }
    assert session.published(recipient(5), CONTENT, 0.0) == [MoreRequested(3, 2)], "4 is missing"
    assert session.published(recipient(6), CONTENT, 0.0) == [], "it is asked for already"
    effects = session.more(page(4, 5, top=5), FULL, 0.0)
    assert offsets(effects) == [4, 5]
    assert others(effects) == [], "the window is full; 6 waits"
    effects = send(session, {"send": {"data": {"ack": 5}}})
    assert effects == [AckRequested(0, 5, "e", shown=(1, 3, 4, 5)), MoreRequested(5, 4)]
    assert offsets(session.more(page(6), FULL, 0.0)) == [6]


def test_what_does_not_fit_into_the_window_waits_in_the_stream() -> None:
    session = opened()
    handed = [offsets(session.published(recipient(number), CONTENT, 0.0)) for number in range(1, 8)]
    assert handed == [[1], [2], [3], [4], [], [], []]
    assert session.waiting == 4
    assert send(session, {"send": {"data": {"ack": 2}}})[1:] == [MoreRequested(4, 2)]
    assert offsets(session.more(page(5, 6, top=7, more=True), FULL, 0.0)) == [5, 6]
    assert session.waiting == 4


def test_a_page_of_which_not_all_fits() -> None:
    session = opened()
    session.published(recipient(2), CONTENT, 0.0)
    effects = session.more(page(1, 2, 3, 4, 5, 6), FULL, 0.0)
    assert offsets(effects) == [1, 2, 3, 4]
    assert send(session, {"send": {"data": {"ack": 4}}})[1:] == [MoreRequested(4, 4)]


def test_what_has_expired_leaves_no_hole() -> None:
    session = opened()
    session.published(recipient(2), CONTENT, 0.0)
    [line] = lines(session.more(page(1, top=4), FULL, 0.0))
    assert line["push"]["pub"]["offset"] == 1
    [line] = lines(session.published(recipient(5, prev=4), CONTENT, 0.0))
    assert line["push"]["pub"]["data"]["prev"] == 1, "what the device had last"


@pytest.mark.parametrize(
    "found",
    [None, page(2, epoch="other"), page(3, missing=1), page(299, 300)],
    ids=["gone", "epoch", "lost", "content"],
)
def test_a_hole_ends_the_connection_and_the_client_recovers(found: Page | None) -> None:
    session = opened()
    session.published(recipient(2), CONTENT, 0.0)
    assert session.more(found, FULL, 0.0) == [Close(3010, "insufficient state")]


def test_a_hole_that_the_connect_has_announced_ends_no_connection_and_a_later_one_does() -> None:
    session = new()
    effects = connect(session, result(0, False, Page("e", 9, [publication(1)], True, 4, 5)))
    assert others(effects) == [MoreRequested(1, 3)]
    effects = session.more(Page("e", 9, [publication(6)], True, 4, 5), FULL, 0.0)
    assert (offsets(effects), others(effects)) == ([6], [MoreRequested(6, 2)])
    found = session.more(Page("e", 9, [publication(9)], False, 2, 8), FULL, 0.0)
    assert found == [Close(3010, "insufficient state")]


def test_news_of_another_stream_end_the_connection() -> None:
    assert opened().published(recipient(1, epoch="other"), CONTENT, 0.0) == [Close(3010, "insufficient state")]


def test_news_that_overtake_the_connect_are_not_lost() -> None:
    session = new()
    send(session, {"id": 1, "connect": {}})
    assert session.published(recipient(1), CONTENT, 0.0) == []
    effects = session.connected(1, result(0, False, page()), FULL, APP, heartbeat=25.0, ttl=60.0, now=0.0)
    assert others(effects) == [MoreRequested(0, 4)]
    assert others(session.more(page(), FULL, 0.0)) == [], "the stream does not have it: it is not asked for again"


def ask_of(session: Session, offset: int) -> Effect:
    (asked,) = (each for each in send(session, {"send": {"data": {"ack": offset}}}) if isinstance(each, AckRequested))
    return asked


def test_after_a_failed_acknowledgement_the_next_one_does_not_say_what_was_given() -> None:
    session = opened()
    for offset in (1, 2, 3, 4):
        session.published(recipient(offset), FULL["p1"], 0.0)
    assert ask_of(session, 1) == AckRequested(0, 1, "e", shown=(1,))
    session.ack_failed()
    assert [ask_of(session, offset) for offset in (1, 2)] == [AckRequested(0, 1, "e"), AckRequested(0, 2, "e")]
    assert ask_of(session, 3) == AckRequested(0, 3, "e", shown=(3,))


def test_what_an_earlier_connection_may_have_given_is_acknowledged_without_saying_what_was() -> None:
    session = new()
    position = {"device": {"recover": True, "epoch": "e", "offset": 3}}
    connect(session, result(0, True, page(1, 3, 4, 5, 6, 7), acked=0), position, app=LiveAppConfig(window=8))
    asked = [ask_of(session, offset) for offset in (1, 3, 4, 6)]
    unknown = [AckRequested(0, 1, "e"), AckRequested(0, 3, "e")]
    assert asked == [*unknown, AckRequested(0, 4, "e", shown=(4,)), AckRequested(0, 6, "e", shown=(5, 6))]


def test_what_was_not_given_is_acknowledged_without_saying_what_was() -> None:
    session = new()
    connect(session, result(0, False, page(1, 2, top=5)))
    assert ask_of(session, 5) == AckRequested(0, 5, "e")


def test_news_that_overtake_a_connect_without_room_come_after_the_acknowledgement() -> None:
    session = new()
    send(session, {"id": 1, "connect": {"subs": {"device": {"recover": True, "epoch": "e", "offset": 0}}}})
    session.published(recipient(5), CONTENT, 0.0)
    recovered = result(0, True, page(1, 2, 3, 4), acked=0)
    effects = session.connected(1, recovered, FULL, APP, heartbeat=25.0, ttl=60.0, now=0.0)
    assert others(effects) == [], "the window is full"
    asked = AckRequested(0, 4, "e", shown=(1, 2, 3, 4))
    assert others(send(session, {"send": {"data": {"ack": 4}}})) == [asked, MoreRequested(4, 4)]
    assert offsets(session.more(page(5), FULL, 0.0)) == [5]


def test_news_of_an_earlier_stream_that_overtake_the_connect_are_passed_over() -> None:
    session = new()
    send(session, {"id": 1, "connect": {}})
    session.published(recipient(9, epoch="old"), CONTENT, 0.0)
    effects = session.connected(1, result(0, False, page()), FULL, APP, heartbeat=25.0, ttl=60.0, now=0.0)
    assert others(effects) == []
    assert offsets(session.published(recipient(1), CONTENT, 0.0)) == [1]


def test_a_client_that_does_not_read_is_given_nothing() -> None:
    session = opened()
    session.pause()
    assert session.published(recipient(1), CONTENT, 0.0) == []
    assert session.resumed() == [MoreRequested(0, 4)]


def test_unread_of_another_device() -> None:
    assert lines(opened().unread(9)) == [{"push": {"message": {"data": {"unread": 9}}}}]
    assert new().unread(9) == []


def test_what_was_acknowledged_before_it_was_given_takes_no_room() -> None:
    session = new()
    connect(session, result(0, False, page(1, 2, 3, 4, 5, 6)))
    assert session.waiting == 4
    assert send(session, {"send": {"data": {"ack": 6}}})[1:] == [MoreRequested(4, 4)]
    assert offsets(session.more(page(5, 6), FULL, 0.0)) == [5, 6]
    assert session.waiting == 0


@pytest.mark.parametrize("recovered", [True, False])
def test_a_recovery_hands_out_no_more_than_the_window_and_pages_on(recovered: bool) -> None:
    session = new()
    effects = connect(session, result(3, recovered, page(4, 5, 6, 7, 8, 9, top=11)), ASKED)
    assert others(effects) == [], "the window is full"
    assert session.waiting == 4
    assert send(session, {"send": {"data": {"ack": 5}}})[1:] == [MoreRequested(7, 2)]
    assert offsets(session.more(page(8, 9, top=11, more=True), FULL, 0.0)) == [8, 9]
    assert send(session, {"send": {"data": {"ack": 9}}})[1:] == [MoreRequested(9, 4)]
    assert offsets(session.more(page(10, 11), FULL, 0.0)) == [10, 11]


def test_a_client_with_a_position_gets_first_what_it_has_not_acknowledged() -> None:
    """A reply named the top of the stream, and the publications behind it were cut off: the SDK has their position."""
    session = new()
    subs = {"device": {"recover": True, "epoch": "e", "offset": 3}}
    assert send(session, {"id": 1, "connect": {"token": "t", "subs": subs}}) == [
        ConnectRequested(1, "t", Position("e", 3), True)
    ]
    session.published(recipient(4), CONTENT, 0.0)
    effects = session.connected(1, result(0, True, page(1, 2, 3)), FULL, APP, heartbeat=25.0, ttl=60.0, now=0.0)
    device = lines(effects)[0]["connect"]["subs"]["device"]
    assert (device["offset"], device["recovered"]) == (3, True)
    assert [each["offset"] for each in device["publications"]] == [1, 2, 3]
    assert others(effects) == [MoreRequested(3, 1)]
    assert offsets(session.more(page(4), FULL, 0.0)) == [4], "before that, nothing which it could acknowledge with them"


# --- Resends ---


def test_what_is_not_acknowledged_is_sent_again_once() -> None:
    session = new()
    connect(session, result(0, False, page()), heartbeat=900.0)
    session.published(recipient(1), CONTENT, 0.0)
    session.published(recipient(2), CONTENT, 2.0)
    assert session.due == 5.0, "half of the time for the ack"
    assert session.tick(5.0) == [ResendRequested(0, 4)]
    effects = session.resend(page(1, 2), FULL, 5.0)
    assert offsets(effects) == [1, 2], "the last one is the last again: it is the position of the client"
    assert others(effects) == [Resent(2)]
    assert session.due > 400.0
    assert session.waiting == 2


def test_what_does_not_fit_in_one_message_is_sent_again_later() -> None:
    session = new()
    connect(session, result(0, False, page()), heartbeat=900.0)
    for offset in (1, 2, 3):
        session.published(recipient(offset), CONTENT, 0.0)
    large = dict.fromkeys(FULL, Rendered(CONTENT + b',"text":"' + b"x" * (MESSAGE // 2) + b'"'))
    given = []
    for now in (5.0, 10.0, 15.0):
        assert session.due == now
        session.tick(now)
        given.append(offsets(session.resend(page(1, 2, 3), large, now)))
    assert given == [[1], [2], [3]]
    assert session.due > 400.0
    assert session.waiting == 3


def test_what_is_acknowledged_is_not_sent_again() -> None:
    session = new()
    connect(session, result(0, False, page()), heartbeat=900.0)
    session.published(recipient(1), CONTENT, 0.0)
    send(session, {"send": {"data": {"ack": 1}}})
    assert session.due > 400.0
    session.published(recipient(2), CONTENT, 1.0)
    assert session.tick(6.0) == [ResendRequested(1, 4)]
    send(session, {"send": {"data": {"ack": 2}}})
    assert session.resend(page(2), FULL, 6.0) == []


def test_without_resends_nothing_is_due() -> None:
    session = new()
    app = LiveAppConfig(window=4, resend=0)
    connect(session, result(3, True, page(4, 5)), ASKED, heartbeat=900.0, app=app)
    assert session.waiting == 2
    assert session.due > 400.0


# --- Always ---


@given(
    st.lists(st.binary(max_size=80) | st.text(max_size=80).map(str.encode), max_size=4), st.booleans(), st.booleans()
)
def test_any_bytes_end_in_effects(messages: list[bytes], protobuf: bool, is_open: bool) -> None:
    session = Session(PROTOBUF if protobuf else JSON, "c", 0.0, spread=0.5, limits=LIMITS)
    if is_open:
        hello = b'{"id":1,"connect":{}}'
        if protobuf:
            command = schema.Command(id=1)
            command.connect.SetInParent()
            hello = schema.delimited(command)
        session.received(hello, 0.0)
        session.connected(1, result(0, False, page()), FULL, APP, heartbeat=25.0, ttl=60.0, now=0.0)
    for message in messages:
        session.received(message, 0.0)


METHODS = st.sampled_from(["ack", "read", "event", "fetch", "heartbeat", "", "x"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ack", "offset", "epoch", "id", "event", "at", "seconds", "foreground", "other"]), inner
        )
    ),
    max_leaves=6,
)


@given(METHODS, JSON_VALUES, st.booleans())
def test_any_request_is_answered(method: str, data: Any, as_send: bool) -> None:
    session = opened()
    if as_send:
        effects = send(session, {"send": {"data": data}})
        assert not lines(effects)
        assert effects
    else:
        effects = send(session, {"id": 2, "rpc": {"method": method, "data": data}})
        assert len(effects) in (1, 2)
        assert lines(effects or []) or others(effects)


def test_a_session_is_small() -> None:
    session = opened()
    for number in range(1, 5):
        session.published(recipient(number), CONTENT, float(number))
    shared = {"_codec", "_limits", "app"}
    own = sys.getsizeof(session) + sum(
        sys.getsizeof(getattr(each, name))
        for each in (session, session._window)
        for name in each.__slots__
        if name not in shared
    )
    assert not any(hasattr(each, "__dict__") for each in (session, session._window))
    assert own < 1024 + 600, "with a window in flight"
    send(session, {"send": {"data": {"ack": 4}}})


def test_a_rendered_content_is_shared() -> None:
    rendered = render("p1", b'{"id":"p1"}')
    for offset in (1, 2):
        session = opened()
        assert offsets(session.published(recipient(offset, prev=0), rendered, 0.0)) == [offset]
