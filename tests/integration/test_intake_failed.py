"""`/v1/failed` and its replays over HTTP: who may, what is refused, what is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from pushsvc.model.delivery import BadNotification, Ended
from pushsvc.ports.letters import DeadFilter, ReplaySpec

from ..fakes import MemoryStore
from .test_intake_kit import Service
from .test_store_kit import make_push, settlement, take

FAILED = Ended("failed", dead_letter=True)
PUSH = "01939a2f-3c5e-7000-8000-0123456789ab"


async def fail(store: MemoryStore, targets: int) -> None:
    await store.pushes.accept(make_push(PUSH, targets))
    for taken in await take(store):
        bad = BadNotification(status=400, reason="BadTopic")
        own = [settlement(taken.chunk, target.index, FAILED, bad) for target in taken.chunk.targets]
        await store.queue.settle("shop", own, [taken.ref])


@pytest.fixture
async def session(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    """Calls a service that has five dead letters."""
    store = MemoryStore()
    await fail(store, 5)
    service.dead._state = store.dead._state
    async with aiohttp.ClientSession(service.url, headers={"Authorization": "Bearer pusher"}) as session:
        yield session


async def test_dead_letters_are_paged_without_their_tokens(session: aiohttp.ClientSession) -> None:
    async with session.get("/v1/failed", params={"limit": "3", "push": PUSH, "reason": "BadTopic"}) as answer:
        text, page = await answer.text(), await answer.json()
    assert answer.status == 200
    assert len(page["items"]) == 3
    assert f"{PUSH}-0" not in text
    assert page["items"][0]["status"] == 400
    assert set(page["items"][0]) == {
        *("id", "push_id", "platform", "device_id", "token_hash", "reason", "status", "attempts", "at")
    }
    async with session.get("/v1/failed", params={"cursor": page["cursor"]}) as answer:
        rest = await answer.json()
    assert (len(rest["items"]), rest["cursor"]) == (2, None)
    async with session.get("/v1/failed", params={"since": "2100-01-01T00:00:00+01:00"}) as answer:
        assert (await answer.json())["items"] == []
    async with session.get("/v1/failed", params={"since": "yesterday", "until": "2026-13-01T00:00:00Z"}) as answer:
        assert answer.status == 422
        assert [fault["path"] for fault in (await answer.json())["errors"]] == ["since", "until"]
    async with session.get("/v1/failed", headers={"Authorization": "Bearer reader"}) as answer:
        assert answer.status == 403
    async with session.get("/v1/failed", headers={"Authorization": "Bearer newsie"}) as answer:
        assert (await answer.json())["items"] == []


async def test_a_replay_is_asked_for_and_followed(service: Service, session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/failed/replay", json={"dry_run": True, "limit": 4}) as answer:
        assert (answer.status, await answer.json()) == (202, {"job": None, "matched": 4})
    document = {"push": PUSH, "platform": "apns", "since": "2020-01-01T00:00:00Z", "rate": 10}
    async with session.post("/v1/failed/replay", json=document) as answer:
        reported = await answer.json()
        assert (answer.status, reported["matched"]) == (202, 5)
        path = answer.headers["Location"]
    status = await service.dead.replay("shop", reported["job"])
    assert status is not None
    since = 1_577_836_800_000
    assert status.spec == ReplaySpec("shop", DeadFilter(PUSH, "apns", since=since), 0, 10.0)
    await service.dead.step("shop", reported["job"], most=2)
    async with session.get(path) as answer:
        shown = await answer.json()
    assert (shown["state"], shown["matched"], shown["moved"], shown["skipped"]) == ("running", 5, 2, 0)
    for wrong in ("ffff", "../x", "%00"):
        async with session.get(f"/v1/failed/replay/{wrong}") as answer:
            assert answer.status == 404
    async with session.get(path, headers={"Authorization": "Bearer newsie"}) as answer:
        assert answer.status == 404
    async with session.post("/v1/failed/replay", json={}) as answer:
        assert (await answer.json())["matched"] == 3
    async with session.delete(path, headers={"Authorization": "Bearer newsie"}) as answer:
        assert answer.status == 404
    async with session.delete(path) as answer:
        shown = await answer.json()
        assert (answer.status, shown["state"], shown["moved"]) == (200, "stopped", 2)
    assert (await service.dead.step("shop", reported["job"], most=2)).over


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_reason_that_nothing_has_is_warned_of(dry_run: bool, session: aiohttp.ClientSession) -> None:
    for reason, paths in (("BadTopc", ["reason"]), ("BadTopic", [])):
        asked = {"reason": reason, "dry_run": dry_run}
        async with session.post("/v1/failed/replay", json=asked) as answer:
            found = await answer.json()
        assert (answer.status, bool(found["matched"])) == (202, not paths)
        assert [warning["path"] for warning in found.get("warnings", [])] == paths


@pytest.mark.parametrize(
    ("body", "status", "paths"),
    [
        (b"{", 400, []),
        (b"", 400, []),
        (b"[]", 422, ["$"]),
        (b'{"limit": 0, "rate": "fast", "since": 5, "pusch": "x"}', 422, ["limit", "rate", "since", "pusch"]),
        (b'{"limit": true, "dry_run": 1, "push": "", "until": "soon"}', 422, ["limit", "dry_run", "push", "until"]),
    ],
)
async def test_every_fault_of_a_replay_is_named(
    body: bytes, status: int, paths: list[str], service: Service, session: aiohttp.ClientSession
) -> None:
    async with session.post("/v1/failed/replay", data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == status
        assert [fault["path"] for fault in (await answer.json()).get("errors", [])] == paths
    assert await service.dead.unfinished() == []
