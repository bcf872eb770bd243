"""What the simulated APNs verifies of broadcasts and of calls about their channels, reason by reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pushsvc.lab.simulator import ScenarioError, channel_id
from pushsvc.lab.simulator.apns import Session, Verifier
from pushsvc.lab.simulator.broadcast import REASONS, Channels, accept, refuse, scenario_of
from pushsvc.lab.simulator.broadcasts import Broadcasts
from pushsvc.lab.simulator.hpack import new_decode
from pushsvc.lab.simulator.provider import Decision
from pushsvc.lab.simulator.switches import Switches

from .test_simulator_apns import IDENTITY, NOW, TOPIC, UUID, provider_token

ONE, EVERY, SEND = f"/1/apps/{TOPIC}/channels", f"/1/apps/{TOPIC}/all-channels", f"/4/broadcasts/apps/{TOPIC}"
WANTED = b'{"message-storage-policy":1,"push-type":"LiveActivity"}'
OWN_ID = b"11111111-2222-4333-8444-555555555555"


class Desk:
    """The broadcasts of one APNs, and a channel of each policy."""

    def __init__(self, *, most: int = 10, enabled: bool = True) -> None:
        self.channels = Channels(most=most, enabled=enabled)
        self.switches = Switches()
        self.broadcasts = Broadcasts(
            Verifier(IDENTITY),
            self.channels,
            self.switches,
            echo=lambda given: OWN_ID if given is None else given,
            unique_id=lambda: None,
            retry_after=lambda step, now: None if step.retry_after is None else str(step.retry_after).encode(),
        )
        self.none, self.latest = (self.make(policy) for policy in (0, 1))

    def make(self, policy: int) -> str:
        reason, channel = self.channels.create(TOPIC, WANTED.replace(b"1", str(policy).encode()))
        assert reason is None
        return channel

    def ask(self, method: str, path: str, body: bytes = b"", *, extra: int = 0, **headers: Any) -> Decision:
        """A request. A header that is None is left out; `extra` of them are there twice."""
        usual = {"authorization": provider_token().decode(), "apns_request_id": UUID.decode()}
        given = {":method": method, ":path": path, **usual, **headers}
        fields = {name.replace("_", "-").encode(): text.encode() for name, text in given.items() if text is not None}
        return self.broadcasts.decide(fields, len(fields) + extra, body, Session(), NOW)

    def send(self, channel: str | None, body: bytes = b'{"aps":{}}', path: str = SEND, **headers: Any) -> Decision:
        """A broadcast."""
        usual = {"apns_push_type": "liveactivity", "apns_priority": "10", "apns_expiration": "0"}
        return self.ask("POST", path, body, **{**usual, "apns_channel_id": channel, **headers})


def reported(decision: Decision) -> tuple[int, str, dict[str, str], Any]:
    """Status, reason, headers and body of an answer."""
    answer = decision[0]
    fields = {field[0].decode(): field[1].decode() for field in new_decode()(answer.block, True)}
    status = int(fields.pop(":status"))
    assert status == answer.status
    return status, answer.reason, fields, json.loads(answer.body) if answer.body else None


# --- channels -----------------------------------------------------------------------------------


def test_a_channel_is_made_read_listed_and_deleted() -> None:
    desk = Desk()
    status, reason, fields, body = reported(desk.ask("POST", ONE, WANTED))
    made = fields["apns-channel-id"]
    assert (status, reason, body) == (201, "channel", None)
    assert fields == {"apns-request-id": UUID.decode(), "apns-channel-id": made}
    read = reported(desk.ask("GET", ONE, apns_channel_id=made))
    assert read[0] == 200
    assert read[3] == {"message-storage-policy": 1, "push-type": "LiveActivity"}
    assert reported(desk.ask("GET", EVERY))[3] == {"channels": [desk.none, desk.latest, made]}
    assert reported(desk.ask("DELETE", ONE, apns_channel_id=made))[0] == 204
    assert reported(desk.ask("GET", ONE, apns_channel_id=made))[3] == {"reason": "ChannelNotRegistered"}
    assert reported(desk.ask("GET", EVERY))[3] == {"channels": [desk.none, desk.latest]}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "reason"),
    [
        ("POST", "/1/apps/", WANTED, {}, "BadPath"),
        ("POST", f"/1/apps/{TOPIC}", WANTED, {}, "BadPath"),
        ("POST", f"/1/apps/{TOPIC}/topics", WANTED, {}, "BadPath"),
        ("PUT", ONE, WANTED, {}, "MethodNotAllowed"),
        ("POST", EVERY, WANTED, {}, "MethodNotAllowed"),
        ("POST", ONE, WANTED, {"apns_request_id": "42"}, "BadMessageId"),
        ("POST", ONE, WANTED, {"apns_request_id": None}, None),
        ("POST", ONE, WANTED, {"authorization": None}, "MissingProviderToken"),
        ("POST", ONE, WANTED, {"authorization": "bearer x"}, "InvalidProviderToken"),
        ("POST", ONE, WANTED, {"authorization": provider_token(NOW - 3601).decode()}, "ExpiredProviderToken"),
        ("POST", "/1/apps/com.example.other/channels", WANTED, {}, "TopicMismatch"),
        ("GET", f"/1/apps/{TOPIC}.push-type.liveactivity/all-channels", b"", {}, "TopicDisallowed"),
        ("POST", ONE, b"", {}, "BadRequestPayload"),
        ("POST", ONE, b"{", {}, "BadRequestPayload"),
        ("POST", ONE, b"[]", {}, "BadRequestParams"),
        ("POST", ONE, b'{"push-type":"LiveActivity"}', {}, "BadRequestParams"),
        ("POST", ONE, b'{"message-storage-policy":2,"push-type":"LiveActivity"}', {}, "BadRequestParams"),
        ("POST", ONE, b'{"message-storage-policy":true,"push-type":"LiveActivity"}', {}, "BadRequestParams"),
        ("POST", ONE, WANTED[:-1] + b',"id":"x"}', {}, "BadRequestParams"),
        ("POST", ONE, b'{"message-storage-policy":1}', {}, "MissingPushType"),
        ("POST", ONE, b'{"message-storage-policy":1,"push-type":"alert"}', {}, "InvalidPushType"),
        ("GET", ONE, b"", {}, "MissingChannelId"),
        ("GET", ONE, b"", {"apns_channel_id": "not base64!"}, "BadChannelId"),
        ("GET", ONE, b"", {"apns_channel_id": "AAAA"}, "ChannelNotRegistered"),
        ("DELETE", ONE, b"", {"apns_channel_id": "AAAA"}, "ChannelNotRegistered"),
        ("DELETE", ONE, b"", {"apns_channel_id": channel_id("TooManyRequests", "a")}, "TooManyRequests"),
        ("GET", "/2/apps/x/channels", b"", {}, "BadPath"),
    ],
)
def test_what_is_wrong_with_a_call_about_channels(
    method: str, path: str, body: bytes, headers: dict[str, Any], reason: str | None
) -> None:
    answer = Desk().ask(method, path, body, **headers)[0]
    assert answer.reason == (reason or "channel")
    assert answer.status == (REASONS[reason] if reason else 201)


def test_repeated_headers_are_refused() -> None:
    assert reported(Desk().ask("POST", ONE, WANTED, extra=1))[1] == "BadRequestParams"


def test_there_are_as_many_channels_as_there_may_be() -> None:
    desk = Desk(most=3)
    assert reported(desk.ask("POST", ONE, WANTED))[0] == 201
    assert reported(desk.ask("POST", ONE, WANTED))[1] == "CannotCreateChannelConfig"
    desk.ask("DELETE", ONE, apns_channel_id=desk.none)
    assert reported(desk.ask("POST", ONE, WANTED))[0] == 201


def test_broadcasts_are_switched_on_at_apples_site() -> None:
    desk = Desk()
    desk.channels.enabled = False
    asked = [desk.ask("POST", ONE, WANTED), desk.ask("GET", EVERY), desk.ask("GET", ONE), desk.send(desk.none)]
    assert [reported(decision)[:2] for decision in asked] == [(400, "FeatureNotEnabled")] * 4


# --- broadcasts ---------------------------------------------------------------------------------


def test_a_broadcast_is_accepted_and_recorded_by_its_channel_and_id() -> None:
    desk = Desk()
    decision = desk.send(desk.none)
    status, reason, fields, body = reported(decision)
    assert (status, reason, body) == (200, "", None)
    assert fields == {"apns-request-id": UUID.decode()}
    assert decision[1:] == (desk.none.encode(), UUID, None)
    without_id = desk.send(desk.none, apns_request_id=None)
    assert reported(without_id)[2] == {"apns-request-id": OWN_ID.decode()}
    assert without_id[2] == desk.none.encode() + b'{"aps":{}}'


@pytest.mark.parametrize(
    ("change", "body", "reason"),
    [
        ({"path": "/4/broadcasts/apps/"}, b"{}", "BadPath"),
        ({"path": SEND + "/x"}, b"{}", "BadPath"),
        ({"path": SEND + ".push-type.liveactivity"}, b"{}", "TopicDisallowed"),
        ({"path": "/4/broadcasts/apps/com.example.other"}, b"{}", "TopicMismatch"),
        ({"authorization": None}, b'{"aps":{}}', "MissingProviderToken"),
        ({"apns_push_type": None}, b'{"aps":{}}', "MissingPushType"),
        ({"apns_push_type": "alert"}, b'{"aps":{}}', "InvalidPushType"),
        ({"apns_push_type": "LiveActivity"}, b'{"aps":{}}', None),
        ({"apns_priority": None}, b'{"aps":{}}', "BadPriority"),
        ({"apns_priority": "7"}, b'{"aps":{}}', "BadPriority"),
        ({"apns_priority": "1"}, b'{"aps":{}}', None),
        ({"apns_expiration": None}, b'{"aps":{}}', "BadExpirationDate"),
        ({"apns_expiration": "soon"}, b'{"aps":{}}', "BadExpirationDate"),
        ({"apns_expiration": "1800000060"}, b'{"aps":{}}', "BadExpirationDate"),
        ({}, b"", "PayloadEmpty"),
        ({}, b"{}", "PayloadEmpty"),
        ({}, b"{", "BadRequestPayload"),
        ({}, b'{"aps":{}}' + b" " * 5110, None),
        ({}, b'{"aps":{}}' + b" " * 5111, "PayloadTooLarge"),
        ({"apns_channel_id": None}, b'{"aps":{}}', "MissingChannelId"),
        ({"apns_channel_id": "=="}, b'{"aps":{}}', "BadChannelId"),
        ({"apns_channel_id": "AAAA"}, b'{"aps":{}}', "ChannelNotRegistered"),
    ],
)
def test_what_is_wrong_with_a_broadcast(change: dict[str, Any], body: bytes, reason: str | None) -> None:
    desk = Desk()
    assert desk.send(desk.none, body, **change)[0].reason == (reason or "")


def test_only_a_channel_that_stores_takes_an_expiration() -> None:
    desk = Desk()
    assert reported(desk.send(desk.latest, apns_expiration="1800000060"))[0] == 200
    assert reported(desk.send(desk.none, apns_expiration="1800000060"))[1] == "BadExpirationDate"


def test_a_channel_plays_the_scenario_in_its_id() -> None:
    desk = Desk()
    channel = channel_id("retry-after-7,ServiceUnavailable.1,status-418.1,ChannelNotRegistered.1", "a")
    answers = [reported(desk.send(channel)) for _ in range(4)]
    assert [answer[:2] for answer in answers] == [
        (503, "ServiceUnavailable"), (418, "SomethingNew"), (400, "ChannelNotRegistered"), (200, ""),
    ]  # fmt: skip
    assert answers[0][2]["retry-after"] == "7"
    desk.broadcasts.reset_scenarios()
    assert reported(desk.send(channel))[0] == 503
    with pytest.raises(ScenarioError, match="unknown action 'Unregistered'"):
        channel_id("Unregistered", "a")
    assert scenario_of(channel_id("ok", "b").encode()) == "sim:ok:b"


def test_the_switches_hold_for_broadcasts_too() -> None:
    desk = Desk()

    def reasons() -> list[str]:
        return [reported(desk.send(desk.none))[1], reported(desk.ask("GET", EVERY))[1]]

    desk.switches.unavailable(float("inf"))
    assert reasons() == ["Service Unavailable"] * 2
    desk.switches.calm()
    desk.switches.credentials_refused = True
    assert reasons() == ["InvalidProviderToken"] * 2
    desk.switches.calm()
    desk.switches.throttle(0.001, 1.0)
    assert reasons() == ["", "TooManyRequests"]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_an_answer(reason: str) -> None:
    answer = refuse(reason, UUID)
    fields = {field[0]: field[1] for field in new_decode()(answer.block, True)}
    assert fields == {
        b":status": str(REASONS[reason]).encode(), b"content-type": b"application/json", b"apns-request-id": UUID,
    }  # fmt: skip
    assert json.loads(answer.body) == {"reason": reason}
    assert refuse(reason, UUID, empty=True).body == b""


def test_the_sandbox_gives_an_id_of_its_own() -> None:
    assert (b"apns-unique-id", b"u", False) in new_decode()(accept(UUID, unique=b"u").block, True)


@given(path=st.binary(max_size=60), channel=st.binary(max_size=40), body=st.binary(max_size=60))
def test_no_request_crashes_it(path: bytes, channel: bytes, body: bytes) -> None:
    desk = Desk()
    fields = {b":method": b"POST", b":path": path, b"authorization": provider_token(), b"apns-channel-id": channel}
    for where in (path, SEND.encode(), ONE.encode()):
        answer = desk.broadcasts.decide({**fields, b":path": where}, len(fields), body, Session(), NOW)[0]
        assert answer.status in {201, *REASONS.values()}
