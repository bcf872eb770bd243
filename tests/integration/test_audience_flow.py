"""From an audience to the phones: the whole service, with `pushsvc jobs` as a process of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.model.devices import Device
from pushsvc.ports.store import Store
from pushsvc.runtime.store import open_configured_store

from .harness import Service, running_service
from .test_replay_flow import worker

NEWS = {"notification": {"title": "Rain tonight"}}


def device(number: int, scenario: str = "ok", **fields: Any) -> Device:
    """Every third one an Android phone."""
    if number % 3:
        platform, token = "apns", apns_token(scenario, str(number))
    else:
        platform, token = "fcm", fcm_token(scenario, str(number))
    named: dict[str, Any] = {"topics": ("news",), **fields}
    now = int(time.time() * 1000)  # what has not been seen for 270 days, a cleanup prunes
    return Device(id=f"d{number}", platform=platform, token=token, registered_at=now, last_seen_at=now, **named)


@asynccontextmanager
async def opened(folder: Path, extra: str = "") -> AsyncIterator[tuple[Service, Store]]:
    async with (
        running_service(folder, extra=extra) as service,
        open_configured_store(service.settings) as store,
        worker(folder),
    ):
        yield service, store


async def post(service: Service, to: dict[str, Any], **fields: Any) -> str:
    status, body = await service.post({"to": to, **(fields or NEWS)})
    assert status == 202, body
    return str(body["id"])


async def test_every_way_to_name_an_audience_reaches_it_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as (service, store):
        crowd = [
            device(n, user=f"u{n // 3}", tags={"level": n % 10}, topics=("news",) if n % 2 else ()) for n in range(1500)
        ]
        for start in range(0, len(crowd), 500):
            await store.registry.put_many("shop", crowd[start : start + 500])
        expected: dict[str, tuple[int, dict[str, Any]]] = {
            "topic": (750, {"topic": "news"}),
            "where": (450, {"where": "tags.level > 6 and not user == null"}),
            "all": (1500, {"all": True}),
            "users": (6, {"users": ["u7", "u8", "nobody"]}),
            "devices": (900, {"devices": [f"d{n}" for n in range(600, 2000)]}),
            "nobody": (0, {"topic": "olds"}),
        }
        pushes = {name: await post(service, to) for name, (_, to) in expected.items()}
        for name, push in pushes.items():
            count = expected[name][0]
            assert await service.done(push) == ({"total": count, "sent": count} if count else {}), name
        total = sum(count for count, _ in expected.values())
        record = service.simulator.record
        assert record.apns.accepted + record.fcm.accepted == total
        assert record.apns.duplicates == record.fcm.duplicates == 0
        rows = await service.rows(pushes["users"])
        assert sorted(row["device_id"] for row in rows) == [f"d{n}" for n in range(21, 27)]
        assert len(await service.rows(pushes["where"])) == 450


async def test_what_a_device_did_not_take_is_reported_with_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as (service, store):
        crowd = [device(1, "BadPriority.1"), device(2, "Unregistered"), device(4, "ServiceUnavailable.1"), device(5)]
        await store.registry.put_many("shop", crowd)
        push = await post(service, {"topic": "news"})
        assert await service.done(push) == {"total": 4, "sent": 2, "failed": 1, "invalid": 1}
        rows = {row["device_id"]: row["outcome"] for row in await service.rows(push)}
        assert rows == {"d1": "failed", "d2": "invalid", "d4": "sent", "d5": "sent"}
        async with service.session.get("/v1/failed") as answer:
            (letter,) = (await answer.json())["items"]
        assert (letter["push_id"], letter["device_id"]) == (push, "d1")
        async with service.session.post("/v1/failed/replay", json={"push": push}) as answer:
            assert (await answer.json())["matched"] == 1

        async def replayed() -> bool:
            return bool((await service.status(push))["counts"]["sent"] == 3)

        await service.until("the dead letter is sent", replayed)
        assert await service.done(push) == {"total": 4, "sent": 3, "invalid": 1}


async def test_an_expansion_waits_for_room_in_the_queue_and_can_be_cancelled(tmp_path: Path) -> None:
    """The providers take 2,000 a step and no more than `max_pending` wait: it goes on as they are sent."""
    async with opened(tmp_path, "[queue]\nmax_pending = 1500\n") as (service, store):
        crowd = [device(n, "slow-400") for n in range(6000)]
        for start in range(0, len(crowd), 500):
            await store.registry.put_many("shop", crowd[start : start + 500])
        first, second = await post(service, {"topic": "news"}), await post(service, {"all": True}, **NEWS, lane="bulk")

        async def begun() -> bool:
            document = await service.status(second)
            pending = (await store.gauges({"shop": ("apns", "fcm")})).pending
            assert sum(pending.values()) <= 1500 + 2 * 2000, pending
            return bool(document["counts"]["sent"] and document["state"] == "expanding")

        await service.until("the second is on its way", begun)
        async with service.session.delete(f"/v1/push/{second}") as answer:
            cancelled = await answer.json()
        assert cancelled["state"] in ("sending", "cancelled")  # what is in flight comes to its end
        assert 0 < cancelled["counts"]["total"] < 6000
        assert await service.done(first) == {"total": 6000, "sent": 6000}

        async def ended() -> bool:
            return bool((await service.status(second))["state"] == "cancelled")

        await service.until("the second has ended", ended)
        after = await service.status(second)
        assert after["counts"]["total"] == cancelled["counts"]["total"]
        assert service.simulator.record.apns.duplicates == service.simulator.record.fcm.duplicates == 0
