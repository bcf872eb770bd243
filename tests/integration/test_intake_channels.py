"""`/v1/channels` over HTTP: who may, what is refused, what is shown; and how ids travel in a path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from pushsvc.errors import BadGateway, Conflict, Unavailable

from .test_intake_kit import Service, running_in_thread


@pytest.fixture
def service() -> Iterator[Service]:
    with running_in_thread() as service:
        yield service


def calling(service: Service, key: str = "full") -> aiohttp.ClientSession:
    return aiohttp.ClientSession(service.url, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
async def session(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    async with calling(service) as session:
        yield session


def path(channel_id: str) -> str:
    """The path of a channel, as a caller writes it."""
    return f"/v1/channels/{quote(channel_id, safe='')}"


async def test_a_channel_is_made_listed_read_and_deleted(service: Service, session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/channels", json={"storage": "latest"}) as answer:
        made = await answer.json()
        assert answer.status == 201
        assert made == {"id": made["id"], "storage": "latest"}
        location = answer.headers["Location"]
    assert made["id"].endswith("=")
    assert location == path(made["id"])
    async with session.get(location) as answer:
        assert (answer.status, await answer.json()) == (200, made)
    async with session.get("/v1/channels") as answer:
        assert (answer.status, await answer.json()) == (200, {"channels": [made["id"]]})
    async with session.delete(path(made["id"])) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
        assert "Content-Type" not in answer.headers
    for method in ("GET", "DELETE"):
        async with session.request(method, path(made["id"])) as answer:
            assert answer.status == 404
            assert (await answer.json(content_type=None))["type"] == "/docs/guide/reference/errors.md#not-found"
    assert set(service.channels.asked) == {"shop"}


@pytest.mark.parametrize("channel_id", ["a/b+c==", "++//==", "-_", "x" * 512])
async def test_every_character_of_base64_travels_in_a_path(service: Service, channel_id: str) -> None:
    service.channels.kept[channel_id] = "none"
    async with calling(service) as session, session.get(path(channel_id)) as answer:
        assert (answer.status, await answer.json()) == (200, {"id": channel_id, "storage": "none"})


@pytest.mark.parametrize("channel_id", ["a b", "ä", "x" * 513, "\x00", "{}"])
async def test_what_no_id_can_be_is_not_asked_for(
    service: Service, channel_id: str, session: aiohttp.ClientSession
) -> None:
    async with session.delete(path(channel_id)) as answer:
        assert answer.status == 404
    assert service.channels.asked == []


@pytest.mark.parametrize(
    ("body", "status", "faults"),
    [
        ({}, 422, {"storage": 'is missing: expected one of "none", "latest"'}),
        ({"storage": None}, 422, {"storage": 'is missing: expected one of "none", "latest"'}),
        (
            {"storage": 1, "policy": 0, "name": "x"},
            422,
            {
                "storage": 'expected one of "none", "latest", found the number 1',
                "policy": "unknown field; known: storage",
                "name": "unknown field; known: storage",
            },
        ),
        ({"storage": ["none"]}, 422, {"storage": 'expected one of "none", "latest", found a list'}),
        ([], 422, {"$": "expected an object, found a list"}),
        (b"", 400, {}),
        (b"{", 400, {}),
        (b'{"storage": "\xff"}', 400, {}),
    ],
    ids=str,
)
async def test_a_wrong_body_makes_no_channel(
    service: Service, body: Any, status: int, faults: dict[str, str], session: aiohttp.ClientSession
) -> None:
    sent: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
    headers = {"Content-Type": "application/json"}
    async with session.post("/v1/channels", headers=headers, **sent) as answer:
        problem = await answer.json(content_type=None)
    assert answer.status == status
    assert {fault["path"]: fault["message"] for fault in problem.get("errors", [])} == faults
    assert service.channels.asked == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Conflict("APNs answers 400 FeatureNotEnabled: .."), 409, "conflict"),
        (BadGateway("APNs answers 403 InvalidProviderToken: .."), 502, "bad-gateway"),
        (Unavailable("APNs answers 503 Shutdown: ..", retry_after=7), 503, "unavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_the_provider_says_is_a_problem_document(
    service: Service, error: Any, status: int, kind: str
) -> None:
    service.channels.error = error
    async with calling(service) as session:
        for method, where in (("GET", "/v1/channels"), ("GET", "/v1/channels/x"), ("DELETE", "/v1/channels/x")):
            async with session.request(method, where) as answer:
                problem = await answer.json(content_type=None)
            assert (answer.status, problem["type"]) == (status, f"/docs/guide/reference/errors.md#{kind}")
            assert problem["detail"] == error.detail
            assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)


@pytest.mark.parametrize(("key", "status"), [("pusher", 200), ("admin", 200), ("reader", 403), ("nobody", 401)])
async def test_who_pushes_may_manage_channels(service: Service, key: str, status: int) -> None:
    async with calling(service, key) as session, session.get("/v1/channels") as answer:
        assert answer.status == status


async def test_unknown_parameters_are_refused(service: Service, session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/channels", params={"storage": "none"}, json={"storage": "none"}) as answer:
        assert answer.status == 422
    assert service.channels.kept == {}
