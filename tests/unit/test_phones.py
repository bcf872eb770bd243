"""The pure parts of simulated phones: what they have shown, their behaviours, and their half of both formats."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, strategies as st

from pushsvc.lab.phones.behaviour import ORDINARY, Behaviour, UnknownBehaviour, assign, parse, shares
from pushsvc.lab.phones.fleet import Pace
from pushsvc.lab.phones.shown import Hole, Shown
from pushsvc.lab.phones.wire import JSON, PROTOBUF, WIRES, Connected, Ended, Reply, Wire
from pushsvc.live.protocol import codec
from pushsvc.live.protocol.codes import SHUTDOWN, ReplyError
from pushsvc.net.protobuf import MalformedMessage
from pushsvc.ports.live import Position

from ..phone_verdict import judge

CODECS = {"json": codec.JSON, "protobuf": codec.PROTOBUF}
each_wire = pytest.mark.parametrize("wire", [JSON, PROTOBUF], ids=["json", "protobuf"])


# --- what was shown ---------------------------------------------------------------------------------


def shown(*publications: tuple[str, int, int], recovered: bool = False) -> Shown:
    """Return what a phone has shown that connected from nothing, or came back to offset 0."""
    found = Shown()
    found.connected("e", 0, recovered=False, asked=False)
    if recovered:
        found.reached = 0
        found.connected("e", 0, recovered=True, asked=True)
    for push, offset, prev in publications:
        found.published(push, offset, prev)
    return found


def test_each_once_and_in_order_is_what_must_be() -> None:
    found = shown(("a", 1, 0), ("b", 2, 1), ("b", 2, 1), ("c", 7, 2))
    assert (list(found.pushes), found.repeats, found.reached) == (["a", "b", "c"], 1, 7)
    assert judge(["a", "b", "c"], found).holds
    assert str(judge(["a", "b", "c"], found)) == "received once, in order"


def test_a_hole_is_named_and_nothing_behind_it_is_acknowledged_until_it_is_filled() -> None:
    found = shown(("a", 1, 0), ("d", 4, 3))
    assert (found.holes, found.reached) == ([Hole("e", 1, 4)], 1)
    assert str(judge(["a", "b", "d"], found)) == "missing b; offsets never received 2..3"
    for push, offset, prev in (("b", 2, 1), ("c", 3, 2), ("d", 4, 3)):
        found.published(push, offset, prev)
    assert (found.reached, found.repeats, found.late, found.holes) == (4, 1, ["b", "c"], [])


def test_what_comes_behind_others_is_late_and_what_was_not_sent_is_foreign() -> None:
    found = shown(("b", 2, 1), ("a", 1, 0))
    assert (found.late, found.holes) == (["a"], [])
    assert str(judge(["b"], found)) == "not sent to it a; late a"


def test_after_a_loss_that_was_said_the_next_publication_begins_anew() -> None:
    found = shown(("a", 1, 0), recovered=True)
    found.connected("e", 9, recovered=False, asked=True, missing=4)
    assert (found.lost, found.missing, found.reached, found.recover_from) == (1, 4, None, Position("e", 9))
    found.published("f", 6, 5)
    assert (found.holes, found.reached, found.recover_from) == ([], 6, Position("e", 6))


def test_what_did_not_follow_its_connect_is_not_acknowledged() -> None:
    """The connection broke between the answer, which names the top, and the publications behind it."""
    found = Shown()
    found.connected("e", 40, recovered=False, asked=False, acked=7)
    found.connected("e", 40, recovered=True, asked=True)
    found.published("new", 41, 40)
    assert (found.reached, found.holes) == (7, [Hole("e", 7, 41)])


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_a_verdict_holds_only_for_what_was_sent(sent: list[int], received: list[int]) -> None:
    pushes = sorted(set(received))
    found = shown(*((f"p{push}", place + 1, place) for place, push in enumerate(pushes)))
    verdict = judge([f"p{push}" for push in sent], found)
    assert verdict.holds == (set(sent) == set(pushes))


# --- behaviours -------------------------------------------------------------------------------------


def test_words_become_behaviours_and_shares_phones() -> None:
    assert parse("") == ORDINARY
    assert parse("ack=never,stay=30,away=0,nat=240,vanish") == Behaviour(
        ack=math.inf, stay=30, away=0, nat=240, vanish=True
    )
    assert parse("ack=0.5,torn,doubled,read=900,heartbeat=60,background") == Behaviour(
        ack=0.5, torn=True, doubled=True, read=900, heartbeat=60, foreground=False
    )
    found = assign(10, shares(["20%:ack=never", "10%:torn"]))
    assert [sum(each == kind for each in found) for kind in (parse("ack=never"), parse("torn"), ORDINARY)] == [2, 1, 7]


@pytest.mark.parametrize(
    "kind", ["ack=soon", "nat=0", "stay=-1", "away=inf", "read=nan", "eaten", "vanish=1", "=", "ack"]
)
def test_words_that_are_none_are_named(kind: str) -> None:
    with pytest.raises(UnknownBehaviour, match="is not a behaviour of a phone: ack="):
        parse(kind)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["ack=never"], "'ack=never' has no share of the phones: write 10%:ack=never"),
        (["ack=nver"], "'ack=nver' is not a behaviour of a phone: ack="),
        (["10%:ack=nver"], "'ack=nver' is not a behaviour of a phone: ack="),
        (["101%:torn"], "add up to more than 100%"),
        (["60%:torn", "60%:torn"], "add up to more than 100%"),
    ],
)
def test_shares_that_are_none_are_refused(kinds: list[str], message: str) -> None:
    with pytest.raises(UnknownBehaviour, match=message):
        shares(kinds)


@given(st.integers(0, 200), st.lists(st.integers(0, 30), max_size=3))
def test_every_phone_has_one_behaviour(count: int, percent: list[int]) -> None:
    kinds = [f"{share}%:heartbeat={number + 1}" for number, share in enumerate(percent)]
    assert len(assign(count, shares(kinds))) == count


def test_pauses_grow_are_spread_and_stay_bounded() -> None:
    pace, random = Pace(), Random("pauses")
    for attempt in (1, 2, 5, 100):
        pauses = [pace.back_off(attempt, random) for _ in range(200)]
        most = min(20.0, 0.5 + min(20.0, 0.5 * 2 ** (attempt - 1)))
        assert min(pauses) >= 0.5
        assert max(pauses) <= most
        assert max(pauses) - min(pauses) > 0.7 * (most - 0.5)


# --- the wire ---------------------------------------------------------------------------------------


@each_wire
def test_the_gateway_reads_what_a_phone_writes(wire: Wire) -> None:
    gateway = CODECS[wire.name]
    position = Position("epoch", 2**53 - 1)
    (command,) = gateway.commands(wire.connect(1, "token", {"heartbeat": 60}, position))
    assert command.connect is not None
    assert command.connect.subs is not None
    asked = command.connect.subs["device"]
    assert asked is not None
    assert (command.id, command.connect.token, bytes(command.connect.data)) == (1, "token", b'{"heartbeat":60}')
    assert (asked.recover, asked.epoch, asked.offset) == (True, "epoch", 2**53 - 1)
    (command,) = gateway.commands(wire.connect(1, "token", {}, None))
    assert command.connect is not None
    assert not command.connect.subs
    (command,) = gateway.commands(wire.rpc(300, "ack", {"ack": 7}))
    assert command.rpc is not None
    assert (command.id, command.rpc.method, bytes(command.rpc.data)) == (300, "ack", b'{"ack":7}')
    (command,) = gateway.commands(wire.refresh(2, "newer"))
    assert command.refresh is not None
    assert command.refresh.token == "newer"
    (command,) = gateway.commands(wire.pong)
    assert (command.id, command.rpc, command.connect) == (0, None, None)


@each_wire
def test_a_phone_reads_what_the_gateway_writes(wire: Wire) -> None:
    gateway = CODECS[wire.name]
    rendered = codec.render("p1", b'{"id":"p1","at":"2026-01-01T00:00:00Z"}')
    publications = [gateway.publication(rendered, 5, 4, 1), gateway.publication(rendered, 6, 5, 2)]
    result = codec.ConnectResult("c", "v", 60, b'{"missing":3}', "e", 4, True, True, publications, 25)
    message = gateway.batch(
        [
            gateway.connect(1, result),
            gateway.push(rendered, 5, 4, 1),
            gateway.ping(),
            gateway.error(2, ReplyError(109, "token expired", temporary=True)),
            gateway.refresh(3, "c", "v", 90),
            gateway.rpc(4, b"{}"),
            gateway.disconnect(SHUTDOWN),
            gateway.message(b'{"unread":4}'),
        ]
    )
    connect, push, ping, error, refresh, rpc, end, other = wire.replies(message)
    assert isinstance(connect.connect, Connected)
    device = connect.connect.subs["device"]
    assert (connect.id, connect.connect.ttl, connect.connect.ping, connect.connect.data.missing) == (1, 60, 25, 3)
    assert (device.epoch, device.offset, device.recovered) == ("e", 4, True)
    assert [(each.offset, each.data.id, each.data.prev) for each in device.publications] == [(5, "p1", 4), (6, "p1", 5)]
    assert push.push is not None
    assert push.push.pub == device.publications[0]
    assert ping.is_ping
    assert error == Reply(id=2, error=Ended(109, "token expired", True))
    assert refresh.refresh is not None
    assert refresh.refresh.ttl == 90
    assert rpc == Reply(id=4)
    assert end.push is not None
    assert end.push.disconnect is not None
    assert end.push.disconnect.code == 3001
    assert other.push is not None
    assert not other.is_ping


@each_wire
@given(message=st.binary(max_size=60))
def test_bytes_that_are_no_replies_are_malformed(wire: Wire, message: bytes) -> None:
    try:
        list(wire.replies(message))
    except MalformedMessage:
        return


def test_both_formats_are_known_by_name() -> None:
    assert list(WIRES) == ["json", "protobuf"]
