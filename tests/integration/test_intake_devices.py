"""Devices, users and topics over HTTP: registered, read, removed; what is refused, and who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from yarl import URL

from pushsvc.model.instants import instant
from pushsvc.ports.erasure import UNCONFIRMED, WHAT, Erasure
from pushsvc.ports.registry import MOST_OF_USER, MOST_TOPICS, Prune

from .test_intake_kit import NOW, TOKEN, Service
from .test_registry import device

PHONE: dict[str, Any] = {
    "platform": "apns",
    "token": TOKEN,
    "user": "u1",
    "tags": {"plan": "pro", "beta": True, "age": 41, "score": 1.5, "likes": ["a", "b"], "gone": None},
    "locale": "de-AT",
    "timezone": "Europe/Vienna",
    "app_version": "3.2.0",
    "environment": "sandbox",
}


@pytest.fixture
async def session(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(service.url, headers={"Authorization": "Bearer registrar"}) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, **how: Any
) -> tuple[int, dict[str, Any]]:
    async with session.request(method, path, json=body, **how) as answer:
        text = await answer.read()
        assert bool(text) == (answer.status != 204)
        return answer.status, await answer.json(content_type=None) if text else {}


async def faults(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> dict[str, str]:
    status, problem = await ask(session, method, path, body)
    assert status == 422, problem
    return {fault["path"]: fault["message"] for fault in problem["errors"]}


async def test_a_device_is_registered_refreshed_read_and_removed(
    service: Service, session: aiohttp.ClientSession
) -> None:
    assert (await ask(session, "GET", "/v1/devices/phone"))[0] == 404
    async with session.put("/v1/devices/phone", json=PHONE) as answer:
        assert (answer.status, answer.headers["Location"]) == (201, "/v1/devices/phone")
        shown = await answer.json()
    async with session.put(URL("/v1/devices/a%2Fb", encoded=True), json={**PHONE, "token": "00"}) as answer:
        assert (answer.status, answer.headers["Location"]) == (201, "/v1/devices/a%2Fb")
        assert (await answer.json())["id"] == "a/b"
    assert await service.registry.remove("shop", "a/b")
    assert shown == {
        **PHONE,
        "tags": {name: tag for name, tag in PHONE["tags"].items() if tag is not None},
        "id": "phone",
        "registered_at": instant(NOW),
        "last_seen_at": instant(NOW),
        "topics": [],
        "state": "active",
    }
    assert await ask(session, "GET", "/v1/devices/phone") == (200, shown)
    status, shown = await ask(session, "PUT", "/v1/devices/phone", {"platform": "fcm", "fid": "abc", "user": None})
    assert (status, shown["fid"], shown["user"], shown["tags"]) == (200, "abc", None, {})
    assert "token" not in shown
    assert shown["environment"] == "production"
    assert await ask(session, "DELETE", "/v1/devices/phone") == (204, {})
    assert (await ask(session, "DELETE", "/v1/devices/phone"))[0] == 404
    assert await service.registry.count("shop") == 0


async def test_a_token_moves_to_the_device_that_registers_it(session: aiohttp.ClientSession) -> None:
    await ask(session, "PUT", "/v1/devices/old", PHONE)
    await ask(session, "PUT", "/v1/devices/new", {**PHONE, "user": "u2"})
    assert (await ask(session, "GET", "/v1/devices/old"))[0] == 404
    assert (await ask(session, "GET", "/v1/users/u1/devices"))[1] == {"items": []}
    (own,) = (await ask(session, "GET", "/v1/users/u2/devices"))[1]["items"]
    assert own["id"] == "new"


async def test_users_are_listed_and_erased(service: Service, session: aiohttp.ClientSession) -> None:
    await service.registry.put_many("shop", [device("a", user="u/ü"), device("b", user="u/ü"), device("c")])
    status, listed = await ask(session, "GET", "/v1/users/u%2F%C3%BC/devices")
    assert (status, [each["id"] for each in listed["items"]]) == (200, ["a", "b"])
    nothing = dict.fromkeys(WHAT, 0)
    reported = {"erased": 2, "done": True, "removed": nothing}
    assert await ask(session, "DELETE", "/v1/users/u%2F%C3%BC") == (200, reported)
    assert await ask(session, "DELETE", "/v1/users/u%2F%C3%BC") == (200, reported)
    assert await service.registry.count("shop") == 1


async def test_an_erasure_warns_of_a_dispatcher_that_says_nothing(
    service: Service, session: aiohttp.ClientSession
) -> None:
    async def erase(app: str, user: str, *, wait: float) -> Erasure:
        return Erasure(1, True, {"deliveries": 2}, confirmed=False)

    service.erasures.erase = erase  # type: ignore[method-assign]
    status, reported = await ask(session, "DELETE", "/v1/users/anna")
    assert (status, reported["done"], reported["removed"]["deliveries"]) == (200, True, 2)
    assert reported["warnings"] == [{"path": "user", "message": UNCONFIRMED}]


async def test_topics(service: Service, session: aiohttp.ClientSession) -> None:
    await service.registry.put_many("shop", [device("a"), device("b")])
    assert (await ask(session, "GET", "/v1/topics/news"))[0] == 404
    for path in ("/v1/topics/news/devices/a", "/v1/topics/news/devices/a", "/v1/topics/news/devices/b"):
        assert await ask(session, "PUT", path) == (204, {})
    assert (await ask(session, "PUT", "/v1/topics/news/devices/nobody"))[0] == 404
    assert await ask(session, "GET", "/v1/topics/news") == (200, {"topic": "news", "devices": 2})
    assert (await ask(session, "GET", "/v1/devices/a"))[1]["topics"] == ["news"]
    await service.registry.prune(
        "shop", [Prune("a", device("a").token, device("a").registered_at, "Unregistered", NOW * 2)]
    )
    assert await ask(session, "GET", "/v1/topics/news") == (200, {"topic": "news", "devices": 1})
    for name in ("a", "b", "b", "nobody"):
        assert await ask(session, "DELETE", f"/v1/topics/news/devices/{name}") == (204, {})
    assert (await ask(session, "GET", "/v1/topics/news"))[0] == 404


async def test_a_pruned_device_says_so_and_comes_back(service: Service, session: aiohttp.ClientSession) -> None:
    await ask(session, "PUT", "/v1/devices/phone", PHONE)
    phone = await service.registry.get("shop", "phone")
    assert phone is not None
    await service.registry.prune("shop", [Prune("phone", TOKEN, phone.registered_at, "Unregistered", NOW + 5)])
    _, shown = await ask(session, "GET", "/v1/devices/phone")
    assert (shown["state"], shown["pruned_for"], shown["pruned_at"]) == (
        *("pruned", "Unregistered"),
        instant(NOW + 5),
    )
    status, shown = await ask(session, "PUT", "/v1/devices/phone", PHONE)
    assert (status, shown["state"]) == (200, "active")
    assert "pruned_at" not in shown


async def test_every_fault_is_named_at_once(service: Service, session: aiohttp.ClientSession) -> None:
    found = await faults(
        session,
        "PUT",
        "/v1/devices/a%20b",
        {
            "platform": "apns",
            "token": "not hex",
            "user": "",
            "tags": {
                "ok": "x",
                "": 1,
                "n": {"a": 1},
                "mixed": ["a", 1],
                "long": "x" * 257,
                "many": ["x"] * 257,
                "big": 2**53 + 1,
            },
            "locale": "x" * 65,
            "timezone": 5,
            "app_version": "a\nb",
            "environment": "staging",
            "topics": ["news"],
        },
    )
    assert list(found) == [
        *("device_id", "user", 'tags[""]', "tags.n", "tags.mixed[1]", "tags.long", "tags.many", "tags.big"),
        *("locale", "timezone", "app_version", "environment", "topics", "token"),
    ]
    assert await service.registry.count("shop") == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], {"$"}),
        ({}, {"platform", "token"}),
        ({"platform": "apns"}, {"token"}),
        ({"platform": "apns", "token": None, "fid": None}, {"token"}),
        ({"platform": "fcm", "token": "a", "fid": "b"}, {"$"}),
        ({"platform": "apns", "fid": TOKEN}, {"fid"}),
        ({"platform": "apns", "token": 5}, {"token"}),
        ({"platform": "web", "token": TOKEN}, {"platform"}),
        ({"platform": 1, "token": TOKEN}, {"platform"}),
        ({"platform": "fcm", "token": "a", "tags": []}, {"tags"}),
        ({"platform": "fcm", "token": "a", "tags": {str(n): 1 for n in range(51)}}, {"tags"}),
        ({"platform": "fcm", "token": "a", "tags": {str(n): "x" * 250 for n in range(17)}}, {"tags"}),
        ({"platform": "fcm", "token": "a", "user": "u 1"}, {"user"}),
        ({"platform": "fcm", "token": "a", "user": ".."}, {"user"}),
        ({"platform": "fcm", "token": "a", "user": "x" * 129}, {"user"}),
        ({"platform": "fcm", "token": "a", "tokn": "a"}, {"tokn"}),
    ],
)
async def test_what_is_refused(body: Any, expected: set[str], service: Service, session: aiohttp.ClientSession) -> None:
    found = await faults(session, "PUT", "/v1/devices/a", body)
    assert set(found) == expected
    assert not any(TOKEN in message for message in found.values())
    assert await service.registry.count("shop") == 0


async def test_bodies_that_are_no_json(session: aiohttp.ClientSession) -> None:
    for body in (b"", b"{", b"\xff", b'{"platform": "apns", "token": "a"} x', b'{"tags": {"n": 1e999}}'):
        async with session.put("/v1/devices/a", data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 400
    async with session.put("/v1/devices/a", data=b"x", headers={"Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
    async with session.put("/v1/devices/a?dry=1", json=PHONE) as answer:
        assert answer.status == 422


async def test_names_that_nothing_can_have(session: aiohttp.ClientSession) -> None:
    long = "x" * 129
    assert set(await faults(session, "GET", f"/v1/devices/{long}")) == {"device_id"}
    assert set(await faults(session, "DELETE", "/v1/users/a%00b")) == {"user"}
    assert set(await faults(session, "PUT", f"/v1/topics/a%20b/devices/{long}")) == {"topic", "device_id"}
    assert set(await faults(session, "GET", "/v1/topics/%0A")) == {"topic"}


async def test_bounds_of_users_and_of_topics(service: Service, session: aiohttp.ClientSession) -> None:
    many = [device(f"d{n}", user="u1") for n in range(MOST_OF_USER)]
    await service.registry.put_many("shop", many)
    assert set(await faults(session, "PUT", "/v1/devices/phone", PHONE)) == {"user"}
    topics = tuple(f"t{n}" for n in range(MOST_TOPICS))
    await service.registry.put_many("shop", [replace(many[0], topics=topics)])
    assert set(await faults(session, "PUT", "/v1/topics/more/devices/d0")) == {"topic"}


async def test_who_may(session: aiohttp.ClientSession) -> None:
    await ask(session, "PUT", "/v1/devices/phone", PHONE)
    for method, path in (
        ("PUT", "/v1/devices/phone"),
        ("GET", "/v1/devices/phone"),
        ("DELETE", "/v1/devices/phone"),
        ("GET", "/v1/users/u1/devices"),
        ("DELETE", "/v1/users/u1"),
        ("PUT", "/v1/topics/news/devices/phone"),
        ("DELETE", "/v1/topics/news/devices/phone"),
        ("GET", "/v1/topics/news"),
    ):
        body = PHONE if path == "/v1/devices/phone" and method == "PUT" else None
        for key, status in (("pusher", 403), ("unknown", 401)):
            reported = await ask(session, method, path, body, headers={"Authorization": f"Bearer {key}"})
            assert reported[0] == status
    foreign = {"Authorization": "Bearer newsroom"}
    assert (await ask(session, "GET", "/v1/devices/phone", headers=foreign))[0] == 404
    assert (await ask(session, "DELETE", "/v1/users/u1", headers=foreign))[1]["erased"] == 0
    admin = {"Authorization": "Bearer admin"}
    assert (await ask(session, "GET", "/v1/devices/phone", headers=admin))[0] == 200


async def test_a_suppression_is_lifted_in_either_case_of_the_token(
    service: Service, session: aiohttp.ClientSession
) -> None:
    suppressions = service.memory.suppressions
    for platform, token, named in (("apns", TOKEN, TOKEN.upper()), ("fcm", "F:APA91b-x", "F%3AAPA91b-x")):
        assert (await ask(session, "DELETE", f"/v1/suppressions/{platform}/{named}"))[0] == 404
        await suppressions.add("shop", [(platform, token, NOW)])
        path = URL(f"/v1/suppressions/{platform}/{named}", encoded=True)
        assert (await ask(session, "DELETE", str(path)))[0] == 204
        assert (await ask(session, "DELETE", str(path)))[0] == 404
        await suppressions.add("shop", [(platform, token, NOW)])
        assert (await ask(session, "PUT", "/v1/devices/phone", {"platform": platform, "token": token}))[0] < 300
        assert (await ask(session, "DELETE", str(path)))[0] == 404
    assert (await ask(session, "DELETE", "/v1/suppressions/carrier/pigeon"))[0] == 404
    other = {"Authorization": "Bearer newsroom"}
    await suppressions.add("shop", [("apns", TOKEN, NOW)])
    assert (await ask(session, "DELETE", f"/v1/suppressions/apns/{TOKEN}", headers=other))[0] == 404
