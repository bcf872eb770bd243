"""FCM end to end: render, send over the real transport, the simulator verifies and answers, classify."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.lab.simulator import fcm_token
from pushsvc.lab.simulator.fcm import ERRORS
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
from pushsvc.providers.reasons import RENEWED

from .provider_rig import Rig, own, rigged


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged("fcm", tmp_path) as rig:
        yield rig


GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
EXAMPLES: list[dict[str, Any]] = tomllib.loads((GOLDEN / "examples.toml").read_text())["fcm"]
TOKEN = "dQw4w9WgXcQ:APA91b-example"
FULL = Notification(
    title="Grüße",
    subtitle="Two parcels",
    body="\U0001f680",
    image="https://example.com/7.png",
    sound="default",
    badge=3,
    link="https://example.com/orders/7",
    category="ORDER",
    thread="orders",
    channel="orders",
)


async def test_firebases_examples_arrive_byte_for_byte(rig: Rig) -> None:
    for row in EXAMPLES:
        page = (GOLDEN / "examples" / row["file"]).read_text().strip()
        opening, _, rest = page.partition('"token":"bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1...",')
        message = "{" + rest.rstrip().removesuffix("}").rstrip()
        (outcome,) = await rig.send(
            "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1...", content=own("fcm", message.encode())
        )
        received = rig.simulator.record.fcm.requests()[-1]

        assert isinstance(outcome, Sent), row["file"]
        assert outcome.provider_id.startswith("projects/example-shop/messages/")
        assert received.body.endswith(message[1:].encode() + b"}")
        assert list(json.loads(received.body)["message"].items()) == list(json.loads(page)["message"].items())
        assert received.fields["content-type"] == "application/json; charset=UTF-8"
        assert opening.strip().startswith("{")


@pytest.mark.parametrize(
    "content",
    [
        Content(notification=Notification(title="Hi")),
        Content(notification=FULL, data={"order": "7"}, priority="high", ttl=3600, collapse="order-7"),
        Content(notification=FULL, priority="normal", ttl=0),
        Content(data={"order": "7"}),
        Content(silent=True, data={"order": "7"}, priority="high", ttl=60),
        Content(silent=True),
        own("fcm", b'{"android_v2":{"background_sync":{},"ttl":"5s"}}', silent=True, ttl=60),
        own("fcm", b'{"androidV2":{"ttl":"5s"},"fcmOptions":{"analyticsLabel":"a"}}', notification=FULL),
        own(
            "fcm", b'{"android":{"collapseKey":"k","notification":{"channelId":"c"}}}', notification=FULL, collapse="x"
        ),
    ],
    ids=["title", "full", "ttl 0", "data", "silent", "silent alone", "v2 sync", "v2", "other spelling"],
)
async def test_what_we_render_passes_the_schema(content: Content, rig: Rig) -> None:
    targets = {"token": TOKEN, "fid": "fid-1", "topic": "news", "condition": "'a' in topics && 'b' in topics"}
    for kind, target in targets.items():
        (outcome,) = await rig.send(target, content=content, kind=kind)
        assert type(outcome) is Sent, (kind, outcome)


async def test_a_chunk_arrives_once_each(tmp_path: Path) -> None:
    tokens = [f"token-{number}" for number in range(300)]
    async with rigged("fcm", tmp_path) as rig:
        outcomes = await rig.send(*tokens)
        record = rig.simulator.record.fcm

        assert {type(outcome) for outcome in outcomes} == {Sent}
        assert len({outcome.provider_id for outcome in outcomes if isinstance(outcome, Sent)}) == 300
        assert (record.accepted, record.distinct, record.duplicates) == (300, 300, 0)


EXPECTED: dict[str, Outcome] = {
    "INVALID_ARGUMENT": TokenSuspect(status=400, reason="INVALID_ARGUMENT"),
    "UNREGISTERED": TokenDead(status=404, reason="UNREGISTERED"),
    "SENDER_ID_MISMATCH": TokenSuspect(status=403, reason="SENDER_ID_MISMATCH"),
    "THIRD_PARTY_AUTH_ERROR": Misconfigured(status=401, reason="THIRD_PARTY_AUTH_ERROR", part="apple"),
    "APNS_AUTH_ERROR": Misconfigured(status=401, reason="APNS_AUTH_ERROR", part="apple"),
    "QUOTA_EXCEEDED": Throttled(status=429, reason="QUOTA_EXCEEDED", scope="route"),
    "UNAVAILABLE": Unavailable(status=503, reason="UNAVAILABLE"),
    "INTERNAL": Unavailable(status=500, reason="INTERNAL"),
    "UNSPECIFIED_ERROR": BadNotification(status=500, reason="UNSPECIFIED_ERROR"),
    "NOT_FOUND": Misconfigured(status=404, reason="NOT_FOUND"),
    "PERMISSION_DENIED": Misconfigured(status=403, reason="PERMISSION_DENIED"),
    "UNAUTHENTICATED": Misconfigured(status=401, reason="UNAUTHENTICATED"),
    "BAD_REQUEST": BadNotification(status=400, reason="INVALID_ARGUMENT"),
}


async def test_every_error_of_google_is_known_and_has_its_class(rig: Rig) -> None:
    assert EXPECTED.keys() == ERRORS.keys()
    for word, expected in EXPECTED.items():
        assert await rig.send(fcm_token(word, "a")) == [expected], word


async def test_waits_are_read_from_the_answer(rig: Rig) -> None:
    (seconds,) = await rig.send(fcm_token("retry-after-7,QUOTA_EXCEEDED", "a"))
    (date,) = await rig.send(fcm_token("retry-at-90,UNAVAILABLE", "a"))
    (bare,) = await rig.send(fcm_token("status-502,empty", "a"))

    assert isinstance(seconds, Throttled)
    assert seconds.retry_after == 7.0
    assert isinstance(date, Unavailable)
    assert date.retry_after is not None
    assert 80 < date.retry_after <= 91
    assert bare == Unavailable(status=502, reason="unknown_502")


async def test_a_payload_that_fcm_refuses_is_not_the_tokens_fault(rig: Rig) -> None:
    given = own("fcm", b'{"notification":{"title":"Hi","colour":"red"}}')
    assert await rig.send(TOKEN, content=given) == [BadNotification(status=400, reason="INVALID_ARGUMENT")]


class _Ahead:
    """A clock that runs ahead of the access token's issue, so that a refusal is answered with a new one."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_revoked_access_tokens_are_replaced_once_and_every_message_arrives(tmp_path: Path) -> None:
    clock = _Ahead()
    async with rigged("fcm", tmp_path, clock=clock) as rig:
        await rig.send(TOKEN)
        clock.now += 60
        rig.simulator.control("revoke")
        tokens = [f"token-{number}" for number in range(50)]
        outcomes = await rig.send(*tokens)
        left = [token for token, outcome in zip(tokens, outcomes, strict=True) if outcome == RENEWED]
        assert len(left) < 50, "one has tried the new token"
        outcomes += await rig.send(*left)
        record = rig.simulator.record.fcm

        assert {type(outcome) for outcome in outcomes if outcome != RENEWED} == {Sent}
        assert record.totals.keys() == {"200", "401 UNAUTHENTICATED"}
        assert (record.accepted, record.duplicates) == (51, 0)
        assert len({item.fields["authorization"] for item in record.requests()}) == 2


async def test_a_service_account_that_google_refuses_holds_the_room_and_recovers(tmp_path: Path) -> None:
    clock = _Ahead()
    async with rigged("fcm", tmp_path, clock=clock) as rig:
        await rig.send(TOKEN)
        clock.now += 60
        rig.simulator.break_credentials("fcm", token_endpoint=True)
        assert await rig.send(TOKEN) == [Misconfigured(status=401, reason="invalid_grant")]
        assert rig.provider.room == 0
        assert "refuses the service account: invalid_grant" in rig.provider.trouble
        rig.simulator.restore_credentials("fcm")
        await rig.until(lambda: rig.provider.room)
        assert [type(outcome) for outcome in await rig.send(TOKEN)] == [Sent]


async def test_another_project_is_a_misconfiguration(tmp_path: Path) -> None:
    async with rigged("fcm", tmp_path, project_id="another", warned=True) as rig:
        assert await rig.send(TOKEN) == [Misconfigured(status=404, reason="NOT_FOUND")]


async def test_a_dry_run_is_checked_and_not_delivered(rig: Rig) -> None:
    (outcome,) = await rig.send(TOKEN, dry_run=True)
    record = rig.simulator.record.fcm

    assert outcome == Sent(status=200, provider_id="projects/example-shop/messages/fake_message_id")
    assert (record.total, record.accepted) == (1, 0)


async def test_the_token_endpoint_is_trusted_by_the_same_ca_file_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    async with rigged("fcm", tmp_path) as rig:
        assert [type(outcome) for outcome in await rig.send(TOKEN)] == [Sent]
