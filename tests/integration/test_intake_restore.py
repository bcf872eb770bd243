"""`POST /v1/devices/restore` over HTTP: who may, what is refused, what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from pushsvc.api.devices import tombstones
from pushsvc.model.devices import Device
from pushsvc.ports.registry import Prune

from .test_intake_kit import Service
from .test_store_kit import moment

PATH = "/v1/devices/restore"


@pytest.fixture
async def session(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """Six pruned devices: three of each platform, an hour apart; those of FCM first."""
    devices = [
        Device(id=f"d{number}", platform="fcm" if number < 3 else "apns", token=f"t{number}", user="u")
        for number in range(6)
    ]
    await service.registry.put_many("shop", devices)
    await service.registry.prune(
        "shop",
        [
            Prune(
                device.id,
                device.token,
                device.registered_at,
                "Unregistered" if number % 2 else "stale",
                moment() + number * 3_600_000,
            )
            for number, device in enumerate(devices)
        ],
    )
    async with aiohttp.ClientSession(service.url, headers={"Authorization": "Bearer none"}) as session:
        yield session


async def restore(session: aiohttp.ClientSession, **document: Any) -> tuple[int, Any]:
    async with session.post(PATH, json=document) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_what_is_meant_comes_back(service: Service, session: aiohttp.ClientSession) -> None:
    assert await restore(session, dry_run=True) == (200, {"restored": 0, "left": 6})
    assert await restore(session, platform="apns", reason="stale") == (200, {"restored": 1, "left": 0})
    assert await restore(session, since="2000-01-01T00:00:00Z", until="2000-01-02T00:00:00Z", platform=None) == (
        200,
        {"restored": 0, "left": 0},
    )
    assert await service.registry.count("shop") == 1
    assert await restore(session) == (200, {"restored": 5, "left": 0})
    assert len(await service.registry.of_user("shop", "u")) == 6


async def test_one_call_restores_so_many(monkeypatch: pytest.MonkeyPatch, session: aiohttp.ClientSession) -> None:
    monkeypatch.setattr("pushsvc.api.devices.calls.MOST", 4)

    assert await restore(session) == (200, {"restored": 4, "left": 2})
    assert await restore(session) == (200, {"restored": 2, "left": 0})
    assert tombstones.MOST == 10_000


async def test_another_app_and_another_scope_restore_nothing(session: aiohttp.ClientSession) -> None:
    for key, status in (("newsie", 403), ("pusher", 403), ("nobody", 401)):
        async with session.post(PATH, json={}, headers={"Authorization": f"Bearer {key}"}) as answer:
            assert answer.status == status
    async with session.post(PATH, json={}, headers={"Authorization": "Bearer admin"}) as answer:
        assert await answer.json() == {"restored": 6, "left": 0}


@pytest.mark.parametrize(
    ("body", "status", "paths"),
    [
        (b"{", 400, []),
        (b"", 400, []),
        (b"\xff", 400, []),
        (b"[]", 422, ["$"]),
        (b'{"platform": 1, "reason": "", "since": 5, "until": "soon"}', 422, ["platform", "reason", "since", "until"]),
        (b'{"dry_run": 1, "platfrom": "apns"}', 422, ["dry_run", "platfrom"]),
    ],
)
async def test_every_fault_is_named_and_nothing_is_done(
    body: bytes, status: int, paths: list[str], service: Service, session: aiohttp.ClientSession
) -> None:
    async with session.post(PATH, data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == status
        assert [fault["path"] for fault in (await answer.json()).get("errors", [])] == paths
    assert await service.registry.count("shop") == 0
