"""The live channel over HTTP: tokens of devices, their revocation, and who is online."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from pushsvc.api import answers
from pushsvc.api.config import ApiLive
from pushsvc.live.config import LiveAppConfig
from pushsvc.live.protocol.tokens import Claims, Verifier, issue
from pushsvc.model.instants import instant
from pushsvc.model.live import endpoints_of
from pushsvc.model.status import LiveCounts
from pushsvc.ports.live import Connected, Cut, EventReport, LivePush, LiveRoute, Receiver

from .test_intake_devices import ask, faults
from .test_intake_kit import ALERT, NOW, Service, running
from .test_registry import device

SECRET = "5" * 32


def sign(device_id: str, now: float, ttl: float, token_id: str) -> str:
    return issue("shop", device_id, SECRET, now=now, ttl=ttl, token_id=token_id)


LIVE = ApiLive(token_ttl=3600, sign=sign, endpoints=endpoints_of("https://push.example"))
ENDPOINTS = [
    {"transport": "websocket", "endpoint": "wss://push.example/connection/websocket"},
    {"transport": "http_stream", "endpoint": "https://push.example/connection/http_stream"},
    {"transport": "sse", "endpoint": "https://push.example/connection/sse"},
]
CALLS = (
    ("POST", "/v1/devices/a/token"),
    ("DELETE", "/v1/devices/a/token"),
    ("GET", "/v1/users/u/presence"),
    ("GET", "/v1/live"),
)


Caller = tuple[Service, aiohttp.ClientSession]


@asynccontextmanager
async def calling(live: ApiLive | None = LIVE, key: str = "registrar") -> AsyncIterator[Caller]:
    headers = {"Authorization": f"Bearer {key}"}
    async with running(live=live) as service, aiohttp.ClientSession(service.url, headers=headers) as session:
        await service.registry.put_many("shop", [device("a", user="u"), device("b", user="u"), device("c")])
        yield service, session


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as caller:
        yield caller


@pytest.fixture
def service(caller: Caller) -> Service:
    return caller[0]


@pytest.fixture
def session(caller: Caller) -> aiohttp.ClientSession:
    return caller[1]


async def connect(service: Service, device_id: str, number: int, issued_at: int = NOW) -> Any:
    live = service.memory.live
    await live.beat("gate", {"shop": number})
    return await live.connect("shop", device_id, LiveRoute("gate", number), issued_at=issued_at)


@pytest.mark.parametrize(("body", "ttl"), [(None, 3600), ({}, 3600), ({"ttl": 60.0}, 60), ({"ttl": None}, 3600)])
async def test_a_token_is_what_the_gateway_takes(body: Any, ttl: int, session: aiohttp.ClientSession) -> None:
    status, answer = await ask(session, "POST", "/v1/devices/a/token", body)
    assert (status, answer["endpoints"], answer["expires_at"]) == (200, ENDPOINTS, instant(NOW + ttl * 1000))
    claims = Verifier({"shop": LiveAppConfig(secret=SECRET)}).verify(answer["token"], NOW / 1000)
    assert isinstance(claims, Claims)
    assert claims == Claims("shop", "a", NOW // 1000 + ttl, NOW, claims.id)
    assert claims.id


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"ttl": 3601}, {"ttl": "must be at most 3,600, the `live.token_ttl` of the app"}),
        ({"ttl": 0}, {"ttl": "expected a whole number of seconds, at least 1, found the number 0"}),
        ({"ttl": 1.5}, {"ttl": "must be a whole number"}),
        ({"ttl": "1h"}, {"ttl": "expected a whole number of seconds, at least 1, found a string"}),
        ({"tll": 1}, {"tll": "unknown field; did you mean `ttl`?"}),
        ([], {"$": "expected an object, found a list"}),
    ],
)
async def test_what_is_wrong_with_a_request_for_a_token_is_named(
    body: Any, fault: dict[str, str], session: aiohttp.ClientSession
) -> None:
    assert await faults(session, "POST", "/v1/devices/a/token", body) == fault


async def test_a_device_that_nobody_knows_has_no_token(session: aiohttp.ClientSession) -> None:
    for method in ("POST", "DELETE"):
        status, problem = await ask(session, method, "/v1/devices/nobody/token")
        assert (status, problem["detail"]) == (404, "No device has this id.")


async def test_an_app_without_the_channel_or_without_a_secret_learns_what_it_lacks() -> None:
    async with calling(live=None) as (_, session):
        for method, path in CALLS:
            status, problem = await ask(session, method, path)
            assert status == 409
            assert problem["detail"] == "shop has no live channel: add [apps.shop.live] to the configuration."
        _, shown = await ask(session, "GET", "/v1/devices/a")
        assert not {"online", "connected_at", "unacked"} & shown.keys()
    async with calling(live=ApiLive(token_ttl=60)) as (_, session):
        status, problem = await ask(session, "POST", "/v1/devices/a/token")
        assert status == 409
        assert "[apps.shop.live] has only `public_key_file`" in problem["detail"]
        assert await ask(session, "DELETE", "/v1/devices/a/token") == (204, {})


async def test_other_keys_are_refused() -> None:
    async with calling(key="pusher") as (_, session):
        for method, path in CALLS:
            assert (await ask(session, method, path))[0] == 403


@pytest.mark.parametrize("path", ["/v1/devices/a/token", "/v1/devices/a"])
async def test_revoking_and_removing_end_the_connection(
    path: str, service: Service, session: aiohttp.ClientSession
) -> None:
    inbox = service.memory.live.inbox("gate")
    assert isinstance(await connect(service, "a", 1), Connected)
    assert await ask(session, "DELETE", path) == (204, {})
    assert set((await inbox.receive(0)).items) == {Cut("shop", 1, "revoked")}
    assert await connect(service, "a", 2, issued_at=NOW - 1)


async def test_who_is_online(service: Service, session: aiohttp.ClientSession) -> None:
    live = service.memory.live
    assert isinstance(await connect(service, "b", 7), Connected)
    push = LivePush("p", NOW, NOW + 60_000, "normal", 1)
    await live.append("shop", push, [Receiver("b", 0)], platform="apns")
    (present,) = await live.presence("shop", ["b"])
    assert present is not None
    state = {"online": True, "unacked": 1, "connected_at": instant(present.connected_at)}
    away = {"id": "a", "platform": "apns", "online": False, "unacked": 0, "unread": 0}
    there = {"id": "b", "platform": "apns", "unread": 1, **state}
    answer = {"online": True, "items": [away, there]}
    assert await ask(session, "GET", "/v1/users/u/presence") == (200, answer)
    assert await ask(session, "GET", "/v1/users/nobody/presence") == (200, {"online": False, "items": []})
    _, shown = await ask(session, "GET", "/v1/devices/b")
    assert {name: shown[name] for name in state} == state
    _, shown = await ask(session, "GET", "/v1/devices/c")
    assert (shown["online"], shown["unacked"], "connected_at" in shown) == (False, 0, False)


async def test_the_connections_of_the_app(service: Service, session: aiohttp.ClientSession) -> None:
    assert await ask(session, "GET", "/v1/live") == (200, {"connections": 0, "gateways": []})
    await service.memory.live.beat("two", {"shop": 2, "news": 9})
    await service.memory.live.beat("one", {"shop": 1})
    gateways = [{"gateway": "one", "connections": 1}, {"gateway": "two", "connections": 2}]
    assert await ask(session, "GET", "/v1/live") == (200, {"connections": 3, "gateways": gateways})


async def test_a_status_shows_what_devices_have_reported_and_what_the_channel_has_carried(
    service: Service, session: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": "Bearer full"}
    _, accepted = await ask(session, "POST", "/v1/push", ALERT, headers=headers)
    push = service.store.pushes[accepted["id"]]
    await service.memory.pushes.accept(push)
    reports = [EventReport(push.id, device_id, "shown") for device_id in ("a", "b")]
    assert all(await service.memory.live.report("shop", [*reports, EventReport(push.id, "a", "opened")]))
    path = f"/v1/push/{push.id}"
    events = {"arrived": 0, "shown": 2, "opened": 1, "dismissed": 0}
    for method in ("GET", "DELETE"):
        _, status = await ask(session, method, path, headers=headers)
        assert status["events"] == events
        assert status["live"] == {"acked": 0, "fallback": 0, "waiting": 0}
    known = await service.store.status("shop", push.id)
    assert known is not None
    live = {"acked": 3, "fallback": 2, "waiting": 1}
    assert msgspec.json.decode(answers.status(replace(known, live=LiveCounts(**live))))["live"] == live


async def test_a_push_chooses_its_channels_alone_and_in_a_batch(
    service: Service, session: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": "Bearer full"}
    to: dict[str, Any] = {"to": {"devices": ["a"]}, "data": {"order": "7"}}
    chosen = ({"via": "live", "ack_within": 2.5}, {"via": "provider"}, {"via": None})
    want = [
        ("live", ["live"], "apns:live"),
        ("provider", ["apns", "fcm"], "apns"),
        ("auto", ["apns", "fcm", "live"], "apns"),
    ]
    for fields in chosen:
        assert (await ask(session, "POST", "/v1/push", {**to, **fields}, headers=headers))[0] == 202
    batch = [{**to, **fields} for fields in chosen]
    assert (await ask(session, "POST", "/v1/push/batch", batch, headers=headers))[0] == 200
    made = list(service.store.pushes.values())
    assert [(push.via, sorted(push.messages), *push.targets) for push in made] == [*want, *want]
    assert {push.messages["live"].headers.get("ack-within") for push in made[::3]} == {"2.5"}


async def test_a_push_of_the_live_channel_alone_is_warned_of_a_given_life_longer_than_that_of_streams() -> None:
    """The default life is longer too, and no word of the caller: it is not warned of."""
    async with calling(live=ApiLive(3600, sign, history_age=3600)) as (_, session):
        headers, to = {"Authorization": "Bearer full"}, {"to": {"devices": ["a"]}, "data": {"a": "b"}}
        warned = []
        for fields in ({"via": "live"}, {"via": "live", "ttl": 3601}, {"via": "live", "ttl": 3600}, {"ttl": 3601}):
            status, made = await ask(session, "POST", "/v1/push", {**to, **fields}, headers=headers)
            assert status == 202
            warned.append([(each["path"], each["message"]) for each in made.get("warnings", ())])
        text = "a device that is away for longer than 3,600 seconds (`live.history_age`) does not get it: no other"
        warning = [("ttl", f"{text} channel carries it. Give a `ttl` of at most that")]
        assert warned == [[], warning, [], []]


async def test_a_device_of_the_live_channel_has_no_token_and_no_provider(session: aiohttp.ClientSession) -> None:
    status, shown = await ask(session, "PUT", "/v1/devices/web", {"platform": "live"})
    assert (status, shown["platform"], "token" in shown) == (201, "live", False)
    document = {"platform": "live", "token": "ab"}
    assert await faults(session, "PUT", "/v1/devices/web", document) == {"token": "leave it out: live has no addresses"}
    headers = {"Authorization": "Bearer full"}
    made = {}
    for via in ("auto", "live", "provider"):
        push = {"to": {"devices": ["web"]}, "data": {"a": "b"}, "via": via}
        _, made[via] = await ask(session, "POST", "/v1/push", push, headers=headers)
    assert [each["deliveries"] for each in made.values()] == [1, 1, 0]
    assert (made["provider"]["unreached"], made["provider"]["warnings"][0]["path"]) == (1, "to")
    message = "live is not configured for the app shop: add [apps.shop.live] to the configuration"
    async with calling(live=None) as (_, session):
        assert await faults(session, "PUT", "/v1/devices/web", {"platform": "live"}) == {"platform": message}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"via": "live", "data": {"a": "x" * 65_500}}, 202),
        ({"via": "live", "data": {"a": "x" * 65_530}}, 413),
        ({"via": "auto", "data": {"a": "x" * 5_000}}, 413),
        ({"via": "live", "overrides": {"apns": {"payload": {"aps": {}}}}}, 422),
        ({"via": "live", "to": {"tokens": [{"platform": "apns", "token": "ab"}]}, "data": {"a": "b"}}, 422),
        ({"via": "live", "live_activity": {"event": "end"}}, 422),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_only_the_live_channel_carries_may_be_larger(
    fields: dict[str, Any], status: int, session: aiohttp.ClientSession
) -> None:
    document = {"to": {"all": True}, **fields}
    headers = {"Authorization": "Bearer full"}
    assert (await ask(session, "POST", "/v1/push", document, headers=headers))[0] == status
