"""What the simulated APNs verifies, reason by reason."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pushsvc.lab.simulator.apns import REASONS, Identity, Session, Verifier, accept, refuse
from pushsvc.lab.simulator.hpack import new_decode

NOW = 1_800_000_000.0
TOPIC = "com.example.shop"
KEY = ec.generate_private_key(ec.SECP256R1())
IDENTITY = Identity(key_id="KEY1234567", team_id="TEAM123456", public_key=KEY.public_key(), topics=frozenset({TOPIC}))
UUID = b"6f1d3a3e-3b1e-4d3e-8f3a-1234567890ab"
BODY = b'{"aps":{"alert":"hello"}}'


def provider_token(iat: float = NOW, key: Any = KEY, **claims: Any) -> bytes:
    text = jwt.encode({"iss": "TEAM123456", "iat": int(iat), **claims}, key, "ES256", {"kid": "KEY1234567"})
    return b"bearer " + text.encode()


GOOD = {
    b":method": b"POST",
    b":path": b"/3/device/" + b"ab" * 32,
    b"authorization": provider_token(),
    b"apns-topic": TOPIC.encode(),
    b"apns-push-type": b"alert",
    b"apns-priority": b"10",
    b"apns-id": UUID,
    b"apns-expiration": b"0",
}


def judge(
    change: dict[bytes, bytes | None] | None = None,
    *,
    body: bytes = BODY,
    session: Session | None = None,
    now: float = NOW,
    count: int | None = None,
    verifier: Verifier | None = None,
) -> str | None:
    fields = {name: value for name, value in {**GOOD, **(change or {})}.items() if value is not None}
    verifier = Verifier(IDENTITY) if verifier is None else verifier
    return verifier.judge(fields, len(fields) if count is None else count, body, session or Session(), now)


def test_a_right_request_is_accepted() -> None:
    assert judge() is None


def test_only_what_apple_requires_is_required() -> None:
    optional: list[bytes] = [b"apns-push-type", b"apns-priority", b"apns-id", b"apns-expiration"]
    assert judge(dict.fromkeys(optional)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b":path": b"/"}, "BadPath"),
        ({b":path": b"/3/devices/abcd"}, "BadPath"),
        ({b":method": b"GET"}, "MethodNotAllowed"),
        ({b":path": b"/3/device/"}, "MissingDeviceToken"),
        ({b":path": b"/3/device/abc"}, "BadDeviceToken"),
        ({b":path": b"/3/device/xyxy"}, "BadDeviceToken"),
        ({b":path": b"/3/device/" + b"ab" * 201}, "BadDeviceToken"),
        ({b":path": b"/3/device/" + b"AB" * 100}, None),
        ({b"apns-topic": None}, "MissingTopic"),
        ({b"apns-topic": b""}, "BadTopic"),
        ({b"apns-topic": b"com example"}, "BadTopic"),
        ({b"apns-topic": b"com.example.other"}, "TopicDisallowed"),
        ({b"apns-topic": TOPIC.encode() + b".voip"}, "BadTopic"),
        ({b"apns-topic": TOPIC.encode() + b".voip", b"apns-push-type": None}, None),
        ({b"apns-push-type": b"shout"}, "InvalidPushType"),
        ({b"apns-priority": b"7"}, "BadPriority"),
        ({b"apns-priority": b"1"}, None),
        ({b"apns-push-type": b"background", b"apns-priority": b"10"}, "BadPriority"),
        ({b"apns-push-type": b"background", b"apns-priority": None}, "BadPriority"),
        ({b"apns-push-type": b"background", b"apns-priority": b"5"}, None),
        ({b"apns-id": b"42"}, "BadMessageId"),
        ({b"apns-id": UUID.upper()}, "BadMessageId"),
        ({b"apns-expiration": b"tomorrow"}, "BadExpirationDate"),
        ({b"apns-expiration": b"-1"}, "BadExpirationDate"),
        ({b"apns-collapse-id": b"x" * 64}, None),
        ({b"apns-collapse-id": b"x" * 65}, "BadCollapseId"),
        ({b"authorization": None}, "MissingProviderToken"),
        ({b"authorization": b"basic abc"}, "InvalidProviderToken"),
        ({b"authorization": b"bearer abc"}, "InvalidProviderToken"),
        ({b"authorization": b"bearer \xff"}, "InvalidProviderToken"),
        ({b"authorization": provider_token(iss="TEAM000000")}, "InvalidProviderToken"),
        ({b"authorization": provider_token(NOW + 600)}, "InvalidProviderToken"),
        ({b"authorization": provider_token(key=ec.generate_private_key(ec.SECP256R1()))}, "InvalidProviderToken"),
        ({b"authorization": provider_token(NOW - 3601)}, "ExpiredProviderToken"),
        ({b"authorization": provider_token(NOW - 3599)}, None),
    ],
)
def test_headers(change: dict[bytes, bytes | None], reason: str | None) -> None:
    assert judge(change) == reason


@pytest.mark.parametrize(
    ("push_type", "suffix", "priority"),
    [
        ("alert", "", "10"),
        ("background", "", "5"),
        ("voip", ".voip", "10"),
        ("complication", ".complication", "10"),
        ("controls", ".push-type.controls", "10"),
        ("widgets", ".push-type.widgets", "10"),
        ("fileprovider", ".pushkit.fileprovider", "10"),
        ("liveactivity", ".push-type.liveactivity", "5"),
        ("location", ".location-query", "10"),
        ("mdm", "", "10"),
        ("pushtotalk", ".voip-ptt", "10"),
    ],
)
def test_each_push_type_has_its_topic(push_type: str, suffix: str, priority: str) -> None:
    right = {b"apns-push-type": push_type.encode(), b"apns-priority": priority.encode()}
    assert judge({**right, b"apns-topic": f"{TOPIC}{suffix}".encode()}) is None
    wrong = ".voip" if suffix != ".voip" else ""
    assert judge({**right, b"apns-topic": f"{TOPIC}{wrong}".encode()}) == "BadTopic"


def test_live_activities_take_priority_5_or_10() -> None:
    activity = {b"apns-push-type": b"liveactivity", b"apns-topic": f"{TOPIC}.push-type.liveactivity".encode()}
    assert [judge({**activity, b"apns-priority": value}) for value in (b"1", b"5", b"10")] == [
        "BadPriority",
        None,
        None,
    ]


def test_repeated_headers() -> None:
    assert judge(count=len(GOOD) + 1) == "DuplicateHeaders"


@pytest.mark.parametrize(
    ("body", "push_type", "reason"),
    [
        (b"", "alert", "PayloadEmpty"),
        (b"{}", "alert", "PayloadEmpty"),
        (b"[1]", "alert", "PayloadEmpty"),
        (b"not json", "alert", "PayloadEmpty"),
        (b'{"aps":{}}' + b" " * 4086, "alert", None),
        (b'{"aps":{}}' + b" " * 4087, "alert", "PayloadTooLarge"),
        (b'{"aps":{}}' + b" " * 5110, "voip", None),
        (b'{"aps":{}}' + b" " * 5111, "voip", "PayloadTooLarge"),
    ],
)
def test_payloads(body: bytes, push_type: str, reason: str | None) -> None:
    suffix = ".voip" if push_type == "voip" else ""
    change: dict[bytes, bytes | None] = {
        b"apns-push-type": push_type.encode(),
        b"apns-topic": f"{TOPIC}{suffix}".encode(),
    }
    assert judge(change, body=body) == reason


def test_a_token_that_was_good_expires_on_the_same_connection() -> None:
    session, verifier = Session(), Verifier(IDENTITY)
    assert judge(session=session, verifier=verifier) is None
    assert judge(session=session, verifier=verifier, now=NOW + 3600) is None
    assert judge(session=session, verifier=verifier, now=NOW + 3601) == "ExpiredProviderToken"


def test_a_new_token_within_20_minutes_is_one_too_many_on_that_connection() -> None:
    session, verifier = Session(), Verifier(IDENTITY)
    newer: dict[bytes, bytes | None] = {b"authorization": provider_token(NOW + 600)}
    assert judge(session=session, verifier=verifier) is None
    assert judge(newer, session=session, verifier=verifier, now=NOW + 600) == "TooManyProviderTokenUpdates"
    assert judge(session=session, verifier=verifier, now=NOW + 601) is None, "the old one is still good"
    assert judge(newer, session=Session(), verifier=verifier, now=NOW + 600) is None, "on another connection it is fine"
    assert judge(newer, session=session, verifier=verifier, now=NOW + 1200) is None, "20 minutes later too"


def test_token_updates_may_be_free() -> None:
    identity = Identity(IDENTITY.key_id, IDENTITY.team_id, IDENTITY.public_key, IDENTITY.topics, token_updates=False)
    session, verifier = Session(), Verifier(identity)
    assert judge(session=session, verifier=verifier) is None
    newer: dict[bytes, bytes | None] = {b"authorization": provider_token(NOW + 1)}
    assert judge(newer, session=session, verifier=verifier, now=NOW + 1) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({b"apns-topic": None}, None),
        ({b"apns-topic": b"com.example.other"}, "TopicDisallowed"),
        ({b"apns-push-type": b"voip", b"apns-topic": TOPIC.encode() + b".voip"}, None),
        ({b"apns-push-type": b"location", b"apns-topic": TOPIC.encode() + b".location-query"}, "TopicDisallowed"),
        ({b"authorization": b"bearer nonsense"}, None),
    ],
)
def test_a_certificate_stands_in_for_tokens(change: dict[bytes, bytes | None], reason: str | None) -> None:
    assert judge({b"authorization": None, **change}, session=Session(certificate=TOPIC)) == reason


def test_answers_are_apples() -> None:
    assert new_decode()(accept(UUID).block, True) == [(b":status", b"200", False), (b"apns-id", UUID, False)]
    assert accept(UUID).body == b""
    gone = refuse("Unregistered", UUID, timestamp=1700000000123)
    assert new_decode()(gone.block, True) == [(b":status", b"410", False), (b"apns-id", UUID, False)]
    assert json.loads(gone.body) == {"reason": "Unregistered", "timestamp": 1700000000123}
    assert json.loads(refuse("BadTopic", UUID, timestamp=1).body) == {"reason": "BadTopic"}, "the 410 has it alone"
    later = refuse("ServiceUnavailable", UUID, retry_after=b"7", empty=True)
    assert (b"retry-after", b"7", False) in new_decode()(later.block, True)
    assert later.body == b""


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_an_answer(reason: str) -> None:
    answer = refuse(reason, UUID)
    assert new_decode()(answer.block, True)[0] == (b":status", str(REASONS[reason]).encode(), False)
    assert json.loads(answer.body)["reason"] == reason


def test_a_signature_is_verified_once_and_not_once_a_push(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    verify = jwt.decode

    def decode(*given: Any, **options: Any) -> Any:
        verified.append(1)
        return verify(*given, **options)

    monkeypatch.setattr(jwt, "decode", decode)
    verifier = Verifier(IDENTITY)
    for session in (Session(), Session()):
        for _ in range(10):
            assert judge(session=session, verifier=verifier) is None
    assert len(verified) == 1
