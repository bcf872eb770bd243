"""Deliveries to APNs, against a pool without a network: the requests, the answers, and what is sent again."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from aioapns.connection import JWTAuthorizationHeaderProvider
from hypothesis import given, strategies as st
from msgspec import structs

from pushsvc.model.delivery import (
    BadNotification,
    Delivery,
    Misconfigured,
    Sent,
    Throttled,
    TokenDead,
    Unavailable,
)
from pushsvc.model.push import Message, Route
from pushsvc.net.http2.exchange import Failure
from pushsvc.net.http2.hpack_fields import field, path
from pushsvc.ports.provider import Provider
from pushsvc.providers.apns import Config, fields, open_provider
from pushsvc.providers.apns.fields import NAMESPACE, apns_id

from .credential_files import write_p8
from .provider_fakes import CREATED_AT, PUSH_ID, Cancelled, Clock, FakePool, Outcomes, chunk, never_indexed, response

ALERT = Message("apns", b'{"aps":{"alert":"Hi"}}', {"apns-push-type": "alert", "apns-priority": "10"})
TOKEN = "ab" * 32
ROUTE = Route("shop", "apns")


class Opened:
    """One provider on a fake pool, with its outcomes and its clocks."""

    def __init__(self, provider: Provider, pools: list[FakePool], clock: Clock, ttl_clock: Clock) -> None:
        self.provider = provider
        self.pool, *self.others = pools
        self.clock = clock
        self.ttl_clock = ttl_clock
        self.outcomes = Outcomes()

    def send(self, message: Message = ALERT, *tokens: str, **options: Any) -> None:
        made = chunk(message, *(tokens or (TOKEN,)), **options)
        for target in made.targets:
            self.provider.submit(Delivery(made, target), self.outcomes)


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Opened]:
    pools: list[FakePool] = []

    def open_pool(origin: str, **options: Any) -> FakePool:
        pools.append(FakePool(origin, **options))
        return pools[-1]

    clock, ttl_clock = Clock(), Clock()
    async with open_provider(
        ROUTE, config, request_timeout=10.0, clock=clock, ttl_clock=ttl_clock, open_pool=cast(Any, open_pool)
    ) as provider:
        yield Opened(provider, pools, clock, ttl_clock)
    assert all(pool.closed for pool in pools)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    key_file, _ = write_p8(tmp_path)
    return Config(topic="com.example.shop", key_file=key_file, key_id="ABC123DEFG", team_id="DEF123GHIJ")


@pytest.fixture
async def it(config: Config) -> AsyncIterator[Opened]:
    async with opened(config) as it:
        yield it


# --- requests -----------------------------------------------------------------------------------


async def test_an_expiration_of_ours_is_the_end_of_the_chunk(it: Opened) -> None:
    headers = {**ALERT.headers, "apns-expiration": "7"}
    for dated, said in (("apns-expiration", str(CREATED_AT // 1000 + 3600)), ("", "7")):
        it.send(Message("apns", b"{}", headers, dated=dated))
        assert it.pool.requests[-1].headers["apns-expiration"] == said


async def test_the_request_has_every_field_once_and_the_pseudo_fields_first(tmp_path: Path) -> None:
    key_file, public = write_p8(tmp_path)
    config = Config(topic="com.example.shop", key_file=key_file, key_id="ABC123DEFG", team_id="DEF123GHIJ")
    async with opened(config) as it:
        headers = {**ALERT.headers, "apns-expiration": "0", "apns-collapse-id": "größe"}
        it.send(Message("apns", b"{}", headers))
        request = it.pool.requests[0]
        pairs = request.pairs

        assert [name for name, _ in pairs[:4]] == [":method", ":scheme", ":authority", ":path"]
        got = request.headers
        authorization = got.pop("authorization")
        assert got == {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "api.push.apple.com",
            ":path": f"/3/device/{TOKEN}",
            "apns-topic": "com.example.shop",
            "apns-push-type": "alert",
            "apns-priority": "10",
            "apns-expiration": "0",
            "apns-collapse-id": "größe",
            "apns-id": str(uuid.uuid5(NAMESPACE, f"{PUSH_ID}:0")),
        }
        assert request.body == b"{}"
        scheme, _, text = authorization.partition(" ")
        assert scheme == "bearer"
        assert jwt.get_unverified_header(text) == {"alg": "ES256", "kid": "ABC123DEFG", "typ": "JWT"}
        claims = jwt.decode(text, public, algorithms=["ES256"])
        assert claims.keys() == {"iss", "iat"}
        assert claims["iss"] == "DEF123GHIJ"
        assert never_indexed(request.fields, "authorization", authorization)
        assert never_indexed(request.fields, ":path", f"/3/device/{TOKEN}")


@pytest.mark.parametrize(
    ("push_type", "topic"),
    [
        ("alert", "com.example.shop"),
        ("background", "com.example.shop"),
        ("voip", "com.example.shop.voip"),
        ("complication", "com.example.shop.complication"),
        ("controls", "com.example.shop.push-type.controls"),
        ("widgets", "com.example.shop.push-type.widgets"),
        ("fileprovider", "com.example.shop.pushkit.fileprovider"),
        ("liveactivity", "com.example.shop.push-type.liveactivity"),
        ("location", "com.example.shop.location-query"),
        ("mdm", "com.example.shop"),
        ("pushtotalk", "com.example.shop.voip-ptt"),
    ],
)
async def test_each_push_type_has_its_topic(push_type: str, topic: str, it: Opened) -> None:
    it.send(Message("apns", b"{}", {"apns-push-type": push_type}))
    it.send(Message("apns", b"{}", {"apns-push-type": push_type, "apns-topic": "com.example.clip"}))

    assert [request.headers["apns-topic"] for request in it.pool.requests] == [topic, "com.example.clip"]
    assert all(request.headers["apns-push-type"] == push_type for request in it.pool.requests)


BROADCAST = Message(
    "apns",
    b'{"aps":{"event":"update"}}',
    {"apns-push-type": "liveactivity", "apns-priority": "5", "apns-expiration": "0"},
)
CHANNEL = "dHN0LXNyY2gtY2hubA=="


async def test_a_broadcast_goes_to_the_path_of_the_bundle_id(it: Opened) -> None:
    extra = {**BROADCAST.headers, "apns-topic": "x", "apns-collapse-id": "y", "apns-of-tomorrow": "z"}
    it.send(BROADCAST, CHANNEL, kind="channel")
    it.send(Message("apns", b"{}", extra), CHANNEL, kind="channel")
    it.send(ALERT)
    first, second, third = it.pool.requests
    got = first.headers
    assert got.pop("authorization").startswith("bearer ")
    assert [name for name, _ in first.pairs[:4]] == [":method", ":scheme", ":authority", ":path"]
    assert got == {
        ":method": "POST",
        ":scheme": "https",
        ":authority": "api.push.apple.com",
        ":path": "/4/broadcasts/apps/com.example.shop",
        "apns-channel-id": CHANNEL,
        "apns-request-id": apns_id(PUSH_ID, 0),
        "apns-push-type": "liveactivity",
        "apns-priority": "5",
        "apns-expiration": "0",
    }
    assert first.body == BROADCAST.body
    assert second.headers == {**first.headers, "apns-of-tomorrow": "z"}
    assert third.headers[":path"] == f"/3/device/{TOKEN}"
    first.answer(response(200))
    second.answer(response(400, {"reason": "ChannelNotRegistered"}))
    assert [outcome for _, outcome in it.outcomes] == [
        Sent(status=200, provider_id=apns_id(PUSH_ID, 0)),
        TokenDead(status=400, reason="ChannelNotRegistered"),
    ]


async def test_broadcasts_of_another_host_have_their_own_connection(config: Config) -> None:
    apart = structs.replace(config, broadcast_endpoint="https://api-broadcast.push.apple.com/")
    async with opened(apart) as it:
        it.send(BROADCAST, CHANNEL, kind="channel")
        it.send(ALERT)
        (request,) = it.others[0].requests
        assert it.others[0].origin == "https://api-broadcast.push.apple.com"
        assert request.headers[":authority"] == "api-broadcast.push.apple.com"
        assert it.others[0].options["connections"] == 1
        assert [r.headers[":path"] for r in it.pool.requests] == [f"/3/device/{TOKEN}"]
        request.answer(response(403, {"reason": "UnrelatedKeyIdInToken"}))
        assert (it.pool.renewals, it.others[0].renewals) == (1, 1)
        assert len(it.others[0].requests) == 2
        assert it.others[0].requests[1].headers["apns-request-id"] == apns_id(PUSH_ID, 0)


async def test_the_trouble_of_the_host_of_broadcasts_is_a_part_of_its_own(config: Config, it: Opened) -> None:
    assert it.provider.parts == {}, "at the same host, it is the trouble of the route"
    it.send(BROADCAST, CHANNEL, kind="channel")
    it.pool.requests[0].answer(Failure("unreachable", False))
    assert it.outcomes.last == Unavailable(reason="unreachable")
    apart = structs.replace(config, broadcast_endpoint="https://api-broadcast.push.apple.com/")
    async with opened(apart) as other:
        (pool,) = other.others
        pool.trouble = "api-broadcast.push.apple.com:443: connection refused"
        assert {name: uplink.trouble for name, uplink in other.provider.parts.items()} == {"broadcasts": pool.trouble}
        assert other.provider.trouble == ""
        assert "`broadcast_endpoint`" in other.provider.remedy("broadcasts")
        other.send(BROADCAST, CHANNEL, kind="channel")
        pool.requests[0].answer(Failure("unreachable", False))
        assert other.outcomes.last == Unavailable(reason="unreachable", part="broadcasts")
        other.send(ALERT)
        other.pool.requests[0].answer(Failure("unreachable", False))
        assert other.outcomes.last == Unavailable(reason="unreachable")


async def test_neighbours_share_all_but_path_and_id_and_chunks_do_not_mix(it: Opened) -> None:
    voip = Message("apns", b'{"voip":1}', {"apns-push-type": "voip"})
    it.send(ALERT, "aa", "bb")
    it.send(voip, "cc", push_id="other")
    it.send(ALERT, "dd")

    seen = [(r.headers[":path"][-2:], r.headers["apns-id"], r.headers["apns-push-type"]) for r in it.pool.requests]
    assert seen == [
        ("aa", apns_id(PUSH_ID, 0), "alert"),
        ("bb", apns_id(PUSH_ID, 1), "alert"),
        ("cc", apns_id("other", 0), "voip"),
        ("dd", apns_id(PUSH_ID, 0), "alert"),
    ]
    assert [request.body for request in it.pool.requests] == [ALERT.body, ALERT.body, voip.body, ALERT.body]


@given(push_id=st.text(max_size=40), index=st.integers(0, 10**6))
def test_the_id_is_the_uuid5_of_push_and_target(push_id: str, index: int) -> None:
    made = apns_id(push_id, index)

    assert made == str(uuid.uuid5(NAMESPACE, f"{push_id}:{index}"))
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made)


@given(name=st.sampled_from(["apns-collapse-id", "apns-expiration", "apns-x"]), value=st.text(max_size=300))
def test_a_field_by_the_short_way_is_the_same_field(name: str, value: str) -> None:
    assert _built(lambda: fields.field_of(name, value)) == _built(lambda: field(name, value))
    assert _built(lambda: fields.device_path(value)) == _built(lambda: path("/3/device/" + value))


def _built(make: Callable[[], bytes]) -> bytes | None:
    try:
        return make()
    except ValueError:
        return None


def test_the_namespace_stays_what_it_is() -> None:
    # A delivery that was sent before an update and is repeated after it must carry the same id.
    assert apns_id("push", 7) == "6abbc0d6-2d05-5bdd-bc16-77f45887a6e1"


async def test_topics_that_callers_choose_do_not_pile_up(it: Opened) -> None:
    for number in range(600):
        it.send(Message("apns", b"{}", {"apns-push-type": "alert", "apns-topic": f"com.example.t{number}"}))

    assert it.pool.requests[-1].headers["apns-topic"] == "com.example.t599"
    assert len(it.provider._common) <= 256  # type: ignore[attr-defined]  # what must stay bounded is private


async def test_a_dry_run_sends_nothing_and_is_answered_later(it: Opened) -> None:
    it.send(ALERT, TOKEN, dry_run=True)
    assert not it.outcomes
    await asyncio.sleep(0)

    assert it.outcomes.last == Sent(reason="dry_run")
    assert not it.pool.requests


async def test_a_field_that_http2_cannot_carry_is_a_bad_notification(it: Opened) -> None:
    it.send(Message("apns", b"{}", {"apns-push-type": "alert", "apns-collapse-id": "a\nb"}))
    it.send(ALERT, "to ken")
    assert not it.outcomes
    await asyncio.sleep(0)

    assert [outcome for _, outcome in it.outcomes] == [BadNotification(reason="malformed_request")] * 2
    it.send(ALERT)
    assert len(it.pool.requests) == 1


async def test_the_pool_is_opened_as_configured(tmp_path: Path) -> None:
    key_file, _ = write_p8(tmp_path)
    config = Config(
        topic="com.example.shop",
        key_file=key_file,
        key_id="ABC123DEFG",
        team_id="DEF123GHIJ",
        endpoint="https://127.0.0.1:8443/",
        connections=5,
        window=77,
    )
    async with opened(config) as it:
        assert it.pool.origin == "https://127.0.0.1:8443"
        options = {name: it.pool.options[name] for name in ("connections", "window", "request_timeout")}
        assert options == {"connections": 5, "window": 77, "request_timeout": 10.0}
        it.send()
        assert it.pool.requests[0].headers[":authority"] == "127.0.0.1:8443"
        it.pool.room, it.pool.trouble, it.pool.silence = 3, "refused", 7.0
        assert (it.provider.room, it.provider.trouble, it.provider.silence) == (3, "refused", 7.0)
        assert it.provider.route == ROUTE
        it.provider.on_room(lambda: None)
        assert len(it.pool.wakes) == 1


# --- answers ------------------------------------------------------------------------------------


async def test_each_answer_reaches_its_own_delivery_once(it: Opened) -> None:
    it.send(ALERT, "aa", "bb", "cc")
    first, second, third = it.pool.requests
    third.answer(Failure("timeout", True))
    first.answer(response(200))
    second.answer(response(410, {"reason": "Unregistered", "timestamp": 5}))

    assert [(delivery.target.token, outcome) for delivery, outcome in it.outcomes] == [
        ("cc", Unavailable(reason="timeout", maybe_sent=True)),
        ("aa", Sent(status=200, provider_id=apns_id(PUSH_ID, 0))),
        ("bb", TokenDead(status=410, reason="Unregistered", since=5)),
    ]


@pytest.mark.parametrize("ahead", [-3600, 0, 3600])
async def test_the_death_of_a_token_is_dated_by_the_clock_of_registrations(ahead: int, it: Opened) -> None:
    it.ttl_clock.now += ahead
    it.send(ALERT)
    died_at = int(it.clock.now * 1000) - 60_000
    it.pool.requests[0].answer(response(410, {"reason": "Unregistered", "timestamp": died_at}))
    ((_, outcome),) = it.outcomes
    assert outcome == TokenDead(status=410, reason="Unregistered", since=died_at + 1000 * ahead)


def refused(reason: str, **headers: str) -> Any:
    return response(403, {"reason": reason}, headers)


async def test_one_delivery_tries_a_new_token_and_what_the_old_one_failed_follows_it(it: Opened) -> None:
    it.send(ALERT, "aa", "bb", "cc")
    old = it.pool.requests[0].headers["authorization"]
    it.clock.now += 1300  # more than the 20 minutes that a token must last
    for request in it.pool.requests[:2]:
        request.answer(refused("ExpiredProviderToken"))
    (trial,) = it.pool.requests[3:]
    assert it.provider.room == 0, "nothing else goes until it is known whether the new one is any better"
    trial.answer(response(200))
    assert it.provider.room > 0
    it.pool.requests[2].answer(refused("ExpiredProviderToken"))
    again = it.pool.requests[3:]
    fresh = {request.headers["authorization"] for request in again}

    assert [request.headers[":path"][-2:] for request in again] == ["aa", "cc"]
    assert [request.headers["apns-id"] for request in again] == [apns_id(PUSH_ID, 0), apns_id(PUSH_ID, 2)]
    assert len(fresh) == 1  # one new token for all
    assert old not in fresh
    again[1].answer(refused("ExpiredProviderToken"))
    assert [outcome for _, outcome in it.outcomes] == [
        Sent(status=200, provider_id=apns_id(PUSH_ID, 0)),
        Unavailable(reason="renewed"),  # it has waited: whether it may still go, its submitter knows
        Misconfigured(status=403, reason="ExpiredProviderToken"),
    ]
    assert len(it.pool.requests) == 5


@pytest.mark.parametrize("older", [False, True], ids=["it would try the new token", "the new token is good"])
@pytest.mark.parametrize("over", ["expired", "cancelled"])
async def test_what_is_over_when_it_is_refused_is_not_sent_again(over: str, older: bool, it: Opened) -> None:
    made = chunk(ALERT, TOKEN)
    it.provider.submit((Cancelled if over == "cancelled" else Delivery)(made, made.targets[0]), it.outcomes)
    it.clock.now += 1300
    if older:
        it.send()
        it.pool.requests[1].answer(refused("ExpiredProviderToken"))
        it.pool.requests[2].answer(response(200))
    before = len(it.pool.requests)
    if over == "expired":
        it.ttl_clock.now = made.expires_at / 1000
    it.pool.requests[0].answer(refused("ExpiredProviderToken"))
    assert it.outcomes.last == Unavailable(reason="renewed")
    assert len(it.pool.requests) == before
    assert it.provider.room > 0
    it.send()
    assert it.pool.requests[-1].headers["authorization"] != it.pool.requests[0].headers["authorization"]


async def test_a_broadcast_that_is_over_is_not_sent_again_for_a_channel_that_keeps_nothing(it: Opened) -> None:
    made = chunk(Message("apns", b"{}", {"apns-push-type": "liveactivity"}), CHANNEL, kind="channel")
    it.provider.submit(Cancelled(made, made.targets[0]), it.outcomes)
    it.pool.requests[0].answer(response(400, {"reason": "BadExpirationDate"}))
    assert (it.outcomes.last, len(it.pool.requests)) == (Unavailable(reason="renewed"), 1)


async def test_a_young_token_that_is_called_expired_is_not_made_anew_and_nothing_is_sent_twice(it: Opened) -> None:
    for _ in range(5):
        it.send()
        it.pool.requests[-1].answer(refused("ExpiredProviderToken"))
        it.clock.now += 200

    assert len({request.headers["authorization"] for request in it.pool.requests}) == 1
    assert len(it.outcomes) == len(it.pool.requests) == 5


async def test_a_clock_that_is_put_right_makes_a_new_token(it: Opened) -> None:
    it.clock.now += 3600  # it ran ahead when the token was signed
    it.send()
    it.clock.now -= 3600 - 5
    it.send()
    first, second = (request.headers["authorization"] for request in it.pool.requests)
    assert first != second
    it.clock.now -= 7200
    it.pool.requests[-1].answer(refused("ExpiredProviderToken"))
    assert it.pool.requests[-1].headers["authorization"] not in (first, second)


@pytest.mark.parametrize("off", [3720, -3720])
async def test_after_a_clock_that_was_wrong_for_a_while_the_token_before_is_used_again(off: int, it: Opened) -> None:
    """A third within 20 minutes would be TooManyProviderTokenUpdates."""
    used = []
    for seconds in (0, off, 5 - off, 1700, 200):
        it.clock.now += seconds
        it.send()
        used.append(it.pool.requests[-1].headers["authorization"])

    assert used[0] == used[2] == used[3]
    assert len({used[0], used[1], used[4]}) == 3


async def test_what_a_wrong_clock_signed_and_is_refused_when_it_is_right_goes_with_the_token_before(it: Opened) -> None:
    it.send()
    before = it.pool.requests[-1].headers["authorization"]
    it.clock.now -= 3720
    it.send()
    wrong = it.pool.requests[-1]
    it.clock.now += 3720
    wrong.answer(refused("ExpiredProviderToken"))
    assert wrong.headers["authorization"] != before == it.pool.requests[-1].headers["authorization"]
    assert not it.outcomes


@pytest.mark.parametrize("age", [5, 1900])
@pytest.mark.parametrize("off", [3720, -3720])
async def test_a_clock_that_is_put_right_during_a_signature_leaves_no_token_of_the_wrong_time(
    off: int, age: int, it: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[float] = []

    class Signer(JWTAuthorizationHeaderProvider):
        def get_header(self) -> str:
            signed.append(it.clock.now)
            it.clock.now -= off * (len(signed) == 1)
            return f"bearer {len(signed)}"

    monkeypatch.setattr("aioapns.connection.JWTAuthorizationHeaderProvider", Signer)
    it.send()
    before = it.pool.requests[-1].headers["authorization"]
    right = it.clock.now + age
    it.clock.now = right + off
    it.send()
    it.send()
    last = it.pool.requests[-1].headers["authorization"]
    assert (signed, last) == (([right + off], before) if age == 5 else ([right + off, right], "bearer 2"))


async def test_what_the_last_token_failed_goes_with_the_next_one(it: Opened) -> None:
    it.send(ALERT, "aa")
    it.clock.now += 1900
    it.send(ALERT, "bb")
    it.pool.requests[0].answer(refused("ExpiredProviderToken"))
    _, next_one, again = it.pool.requests
    assert again.headers[":path"].endswith("aa")
    assert again.headers["authorization"] == next_one.headers["authorization"]
    assert it.provider.room > 0
    assert not it.outcomes


async def test_a_refusal_says_how_far_our_clock_is_from_theirs(it: Opened) -> None:
    assert "clock" in it.provider.remedy("ExpiredProviderToken")
    assert "clock" not in it.provider.remedy("BadTopic")
    it.send()
    it.clock.now = 1_792_000_000.0
    it.pool.requests[-1].answer(refused("ExpiredProviderToken", date="Wed, 14 Oct 2026 16:46:40 GMT"))
    assert "clock is 3,600 s ahead" in it.provider.remedy("ExpiredProviderToken")


async def test_a_token_is_replaced_after_30_minutes_without_being_asked(it: Opened) -> None:
    used = []
    for seconds in (0, 1700, 200, 1500, 400):
        it.clock.now += seconds
        it.send()
        used.append(it.pool.requests[-1].headers["authorization"])

    assert used[0] == used[1] != used[2] == used[3] != used[4]


async def test_apns_may_ask_for_fewer_new_tokens(it: Opened) -> None:
    it.clock.now += 1700
    it.send()
    before = it.pool.requests[-1].headers["authorization"]
    it.pool.requests[-1].answer(response(429, {"reason": "TooManyProviderTokenUpdates"}))
    assert it.outcomes.last == Throttled(status=429, reason="TooManyProviderTokenUpdates", scope="route")
    used = []
    for seconds in (1100, 150):
        it.clock.now += seconds
        it.send()
        used.append(it.pool.requests[-1].headers["authorization"])

    assert used[0] == before != used[1]


@pytest.mark.parametrize("reason", ["UnrelatedKeyIdInToken", "InvalidProviderToken"])
async def test_a_connection_that_refuses_our_key_is_replaced_before_the_refusal_is_reported(
    reason: str, it: Opened
) -> None:
    it.send(ALERT, "aa", "bb", "cc")
    for request in it.pool.requests[:3]:
        request.answer(refused(reason))
    assert it.pool.renewals == 1
    assert [request.headers[":path"][-2:] for request in it.pool.requests[3:]] == ["aa"]
    it.pool.requests[3].answer(response(200))
    assert len(it.pool.requests) == 4
    assert [type(outcome) for _, outcome in it.outcomes] == [Sent, Unavailable, Unavailable]


async def test_refused_for_good_it_costs_one_more_request_and_connections_ever_more_seldom(it: Opened) -> None:
    it.send(ALERT, "aa", "bb", "cc")
    for request in it.pool.requests[:3]:
        request.answer(refused("InvalidProviderToken"))
    it.pool.requests[3].answer(refused("InvalidProviderToken"))
    assert [outcome for _, outcome in it.outcomes] == [Misconfigured(status=403, reason="InvalidProviderToken")] * 3
    assert len(it.pool.requests) == 4
    renewals = []
    for _ in range(40):
        it.provider._replaced_at -= 5.0  # type: ignore[attr-defined]  # five seconds later
        it.send()
        it.pool.requests[-1].answer(refused("InvalidProviderToken"))
        if it.provider.room == 0:
            it.pool.requests[-1].answer(refused("InvalidProviderToken"))
        renewals.append(it.pool.renewals)
    assert renewals.index(2) < 4
    assert renewals[-1] <= 5


async def test_a_push_that_named_its_own_topic_replaces_no_connection(it: Opened) -> None:
    it.send(Message("apns", b"{}", {"apns-push-type": "alert", "apns-topic": "com.example.other"}))
    it.pool.requests[-1].answer(refused("InvalidProviderToken"))
    assert it.pool.renewals == 0
    assert it.outcomes.last == Misconfigured(status=403, reason="InvalidProviderToken", chosen=True)


async def test_a_push_that_names_the_topic_of_the_account_chose_nothing(it: Opened) -> None:
    named = Message("apns", b"{}", {"apns-push-type": "alert", "apns-topic": "com.example.shop"})
    it.send(named)
    it.pool.requests[-1].answer(refused("InvalidProviderToken"))
    assert it.pool.renewals == 1
    it.pool.requests[-1].answer(refused("InvalidProviderToken"))
    it.send(named)
    it.pool.requests[-1].answer(response(410, {"reason": "Unregistered"}))
    assert [outcome for _, outcome in it.outcomes] == [
        Misconfigured(status=403, reason="InvalidProviderToken"),
        TokenDead(status=410, reason="Unregistered"),
    ]


async def test_an_expired_token_is_replaced_whatever_topic_the_push_names(it: Opened) -> None:
    it.clock.now += 1300
    it.send(Message("apns", b"{}", {"apns-push-type": "alert", "apns-topic": "com.example.other"}))
    it.pool.requests[-1].answer(refused("ExpiredProviderToken"))
    it.pool.requests[-1].answer(response(200))
    assert isinstance(it.outcomes.last, Sent)


@pytest.mark.parametrize("reason", ["BadCertificate", "Forbidden", "BadTopic"])
async def test_no_other_refusal_is_sent_again(reason: str, it: Opened) -> None:
    it.send()
    it.pool.requests[0].answer(response(400 if reason == "BadTopic" else 403, {"reason": reason}))

    assert len(it.pool.requests) == len(it.outcomes) == 1
    assert isinstance(it.outcomes.last, Misconfigured)
