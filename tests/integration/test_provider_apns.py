"""APNs end to end: render, send over the real transport, the simulator verifies and answers, classify."""

from __future__ import annotations

import time
import tomllib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.lab.simulator import SimulatorConfig, apns_token
from pushsvc.lab.simulator.apns import REASONS, TOPIC_SUFFIXES
from pushsvc.model.delivery import (
    BadNotification,
    Misconfigured,
    Outcome,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
)
from pushsvc.model.push import Content, Notification
from pushsvc.providers.apns.classify import _REASONS
from pushsvc.providers.apns.fields import NAMESPACE

from .provider_rig import Rig, own, rigged


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged("apns", tmp_path) as rig:
        yield rig


GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
EXAMPLES: list[dict[str, Any]] = tomllib.loads((GOLDEN / "examples.toml").read_text())["apns"]
TOKEN = "ab" * 32


async def test_apples_examples_arrive_byte_for_byte_with_the_right_headers(rig: Rig) -> None:
    for row in EXAMPLES:
        text = (GOLDEN / "examples" / row["file"]).read_bytes().strip()
        given = own("apns", b'{"payload": ' + text + b"}", push_type=row.get("push_type"))
        (outcome,) = await rig.send(TOKEN, content=given)
        assert type(outcome) is Sent, (row["file"], outcome)
        received = rig.simulator.record.apns.requests()[-1]
        fields = received.fields
        push_id = fields.get("apns-collapse-id", "")
        expected = {name: value.replace("PUSH-ID", push_id) for name, value in row["headers"].items()}

        assert received.body == text
        assert {name: fields[name] for name in expected} == expected
        assert fields["apns-topic"] == row["topic"]
        assert fields.keys() - expected.keys() == {
            ":method",
            ":scheme",
            ":path",
            ":authority",
            "authorization",
            "apns-topic",
            "apns-id",
        }


async def test_every_push_type_is_accepted_on_its_topic(rig: Rig) -> None:
    for push_type in TOPIC_SUFFIXES:
        # The topic of `mdm` no suffix makes; the simulator has it as the bundle id's own.
        topic = b'"headers":{"apns-topic":"%b"},' % rig.simulator.config.topic.encode() if push_type == "mdm" else b""
        given = own("apns", b"{" + topic + b'"payload":{"aps":{},"x":1}}', push_type=push_type)
        assert [type(outcome) for outcome in await rig.send(TOKEN, content=given)] == [Sent], push_type


async def test_a_chunk_shares_its_headers_and_each_delivery_has_its_own_id(tmp_path: Path) -> None:
    tokens = [f"{number:064x}" for number in range(200)]
    async with rigged("apns", tmp_path) as rig:
        full = Content(
            notification=Notification(title="Grüße", body="\U0001f680", badge=0, sound="default", thread="t"),
            data={"order": "7"},
            ttl=3600,
            collapse="order-7",
        )
        outcomes = await rig.send(*tokens, content=full)
        record = rig.simulator.record.apns

        ids = [str(uuid.uuid5(NAMESPACE, f"push-1:{index}")) for index in range(200)]
        assert outcomes == [Sent(status=200, provider_id=own_id) for own_id in ids]
        assert (record.accepted, record.distinct, record.duplicates) == (200, 200, 0)
        assert all(
            record.requests(apns_id=own_id)[0].fields[":path"].endswith(token)
            for own_id, token in zip(ids, tokens, strict=True)
        )
        assert rig.simulator.record.apns.traffic.connections == 1


async def test_a_repeat_carries_the_same_id(rig: Rig) -> None:
    await rig.send(TOKEN)
    rig._pushes = 0
    await rig.send(TOKEN)

    assert rig.simulator.record.apns.duplicates == 1


async def test_every_reason_of_apple_is_known_and_has_its_class(tmp_path: Path) -> None:
    kinds: dict[str, type[Outcome]] = {
        "notification": BadNotification,
        "topic": Misconfigured,
        "suspect": TokenSuspect,
        "suspect for the topic": TokenSuspect,
        "identity": Misconfigured,
        "dead": TokenDead,
        "throttled": Throttled,
        "throttled route": Throttled,
        "unavailable": Unavailable,
    }
    async with rigged("apns", tmp_path) as rig:
        for reason, status in REASONS.items():
            (outcome,) = await rig.send(apns_token(f"since-1700000000123,{reason}", "a"))
            assert type(outcome) is kinds[_REASONS[status, reason]], reason
            assert (outcome.status, outcome.reason) == (status, reason)
            if isinstance(outcome, TokenDead):
                assert outcome.since == 1_700_000_000_123


async def test_waits_are_read_from_the_answer(rig: Rig) -> None:
    (seconds,) = await rig.send(apns_token("retry-after-7,TooManyRequests", "a"))
    (date,) = await rig.send(apns_token("retry-at-90,ServiceUnavailable", "a"))
    (unknown,) = await rig.send(apns_token("status-502,empty", "a"))
    (refused,) = await rig.send(apns_token("status-418", "a"))

    assert seconds == Throttled(status=429, reason="TooManyRequests", retry_after=7.0)
    assert isinstance(date, Unavailable)
    assert date.retry_after is not None
    assert 80 < date.retry_after <= 91
    assert unknown == Unavailable(status=502, reason="unknown_502")
    assert refused == BadNotification(status=418, reason="unknown_418")


async def test_one_bad_token_does_not_touch_its_neighbours(tmp_path: Path) -> None:
    async with rigged("apns", tmp_path, request_timeout=1.0) as rig:
        tokens = [TOKEN, apns_token("Unregistered", "a"), apns_token("reset", "a"), apns_token("stall", "a"), "cd" * 32]
        outcomes = await rig.send(*tokens)

        assert [type(outcome) for outcome in outcomes] == [Sent, TokenDead, Unavailable, Unavailable, Sent]
        assert outcomes[3] == Unavailable(reason="timeout", maybe_sent=True)


class _Behind:
    """A clock that can be moved; it begins at the real time, which signs the tokens."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_an_expired_token_is_replaced_and_the_push_arrives(tmp_path: Path) -> None:
    clock = _Behind()
    async with rigged("apns", tmp_path, clock=clock, simulator=SimulatorConfig(token_updates=False)) as rig:
        clock.ahead = 21 * 60
        (outcome,) = await rig.send(apns_token("ExpiredProviderToken.1", "a"))
        received = rig.simulator.record.apns.requests()

        assert type(outcome) is Sent
        assert [item.status for item in received] == [403, 200]
        assert len({item.fields["authorization"] for item in received}) == 2
        (outcome,) = await rig.send(apns_token("ExpiredProviderToken", "b"))
        assert outcome == Misconfigured(status=403, reason="ExpiredProviderToken")


async def test_an_unrelated_key_gets_a_connection_of_its_own(rig: Rig) -> None:
    await rig.send(TOKEN)
    (outcome,) = await rig.send(apns_token("UnrelatedKeyIdInToken.1", "a"))
    received = rig.simulator.record.apns.requests()

    assert type(outcome) is Sent
    assert [item.connection for item in received] == [1, 1, 2]


async def test_refused_credentials_and_recovery(rig: Rig) -> None:
    rig.simulator.break_credentials("apns")
    assert await rig.send(TOKEN) == [Misconfigured(status=403, reason="InvalidProviderToken")]
    rig.simulator.restore_credentials("apns")
    assert [type(outcome) for outcome in await rig.send(TOKEN)] == [Sent]


async def test_a_topic_that_is_not_the_apps_is_whose_fault_chose_it(tmp_path: Path) -> None:
    foreign = own("apns", b'{"headers":{"apns-topic":"com.example.other"},"payload":{"aps":{"alert":"Hi"}}}')
    async with rigged("apns", tmp_path) as rig:
        assert await rig.send(TOKEN, content=foreign) == [BadNotification(status=400, reason="TopicDisallowed")]
    async with rigged("apns", tmp_path, topic="com.example.wrong") as rig:
        assert await rig.send(TOKEN) == [Misconfigured(status=400, reason="TopicDisallowed")]


async def test_a_certificate_in_place_of_a_token(tmp_path: Path) -> None:
    async with rigged("apns", tmp_path, certificate=True) as rig:
        outcomes = await rig.send(TOKEN, "cd" * 32)
        assert [type(outcome) for outcome in outcomes] == [Sent, Sent]
        assert "authorization" not in rig.simulator.record.apns.requests()[0].fields


async def test_a_dry_run_sends_nothing(rig: Rig) -> None:
    await rig.until(lambda: rig.provider.room)
    assert await rig.send(TOKEN, dry_run=True) == [Sent(reason="dry_run")]
    assert rig.simulator.record.apns.total == 0


async def test_nothing_listens_there_is_trouble_and_no_room(tmp_path: Path) -> None:
    async with rigged("apns", tmp_path, endpoint="https://127.0.0.1:1") as rig:
        await rig.until(lambda: "127.0.0.1:1" in rig.provider.trouble and "refused" in rig.provider.trouble.lower())
        assert rig.provider.room == 0


@pytest.mark.parametrize("size", [4096, 5120])
async def test_the_largest_payload_is_accepted(tmp_path: Path, size: int) -> None:
    text = b'{"aps":{},"a":"' + b"x" * (size - 17) + b'"}'
    given = own("apns", b'{"payload":' + text + b"}", push_type="voip" if size > 4096 else "alert")
    async with rigged("apns", tmp_path) as rig:
        assert len(text) == size
        assert [type(outcome) for outcome in await rig.send(TOKEN, content=given)] == [Sent]
