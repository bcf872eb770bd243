"""Every cursor of the API: all pages together are all rows, each once and in order, for every limit and filter."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from pushsvc.model.delivery import BadNotification, End, Ended, TokenDead
from pushsvc.model.devices import ByTopic, Device
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.letters import DeadFilter
from pushsvc.store import StoreConfig
from pushsvc.store.letters import listing as letters
from pushsvc.store.pushes import pushes

from .servers import Server
from .test_intake_kit import Service, call
from .test_store_kit import AnyStore, Backend, World, make_push, moment, new_world, settlement, take_all

BACKENDS: tuple[Backend, ...] = ("memory", "valkey")
LIMITS = (1, 2, 3, 7, 39, 40, 41, 100, 599, 600, 601, 1000)
ENDS: tuple[End, ...] = ("failed", "invalid", "expired", "suppressed")
Page = tuple[list[str], str | None]


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call looks at before it answers with a cursor: little, so that few rows have many ends of a look."""
    monkeypatch.setattr(pushes, "_PAGE", 40)
    monkeypatch.setattr(pushes, "_LOOK", 200)
    monkeypatch.setattr(letters, "STEP", 40)
    monkeypatch.setattr(letters, "LOOK", 200)


async def all_pages(limit: int, ask: Callable[[str, int], Awaitable[Page]]) -> list[str]:
    """Every row, page by page."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        before = cursor
        rows, cursor = await ask(cursor, limit)
        assert len(rows) <= limit
        # An empty cursor would start again, and one that does not move would never end.
        assert cursor is None or (cursor and cursor != before and len(cursor) <= 128)
        found += rows
    return found


async def settle_all(store: AnyStore, push_id: str, total: int, end_of: Callable[[int], End]) -> None:
    """A push whose deliveries end as given, each with its index as its reason."""
    await store.pushes.accept(make_push(push_id, total))
    for taken in await take_all(store):
        ends = []
        for target in taken.chunk.targets:
            end = end_of(target.index)
            outcome = TokenDead(status=410, reason=str(target.index))
            if end == "sent":
                ends.append(settlement(taken.chunk, target.index))
            elif end == "failed":
                refused = BadNotification(status=400, reason=str(target.index))
                ends.append(settlement(taken.chunk, target.index, Ended(end, dead_letter=True), refused))
            else:
                ends.append(settlement(taken.chunk, target.index, Ended(end), outcome))
        await store.queue.settle("shop", ends, [taken.ref])


@pytest.mark.parametrize("total", [30, 600, 1200])
@pytest.mark.parametrize("mixture", ["in turns", "at random", "in stretches"])
async def test_deliveries(server: Server | None, total: int, mixture: str) -> None:
    chance = random.Random(7)
    ends: list[End] = []
    for index in range(total):
        if mixture == "in turns":
            ends.append(("failed", "invalid")[index % 2])
        elif mixture == "at random":
            ends.append(chance.choice((*ENDS, "sent", "sent")))
        else:
            ends.append("failed" if index // 250 % 2 else "expired")
    async with new_world(server) as world:
        store = await world.store()
        await settle_all(store, "p", total, ends.__getitem__)
        for outcome in (None, *ENDS):
            want = [str(index) for index, end in enumerate(ends) if outcome in (None, end) and end != "sent"]

            async def ask(cursor: str, limit: int, outcome: End | None = outcome) -> Page:
                page = await store.pushes.deliveries("shop", "p", outcome=outcome, cursor=cursor, limit=limit)
                assert page is not None
                return [row.reason for row in page[0] if row.outcome != "sent"], page[1]

            for limit in LIMITS[0 if total < 100 else 4 :]:
                assert await all_pages(limit, ask) == want, (outcome, limit)


@pytest.mark.parametrize("shards", [1, 3])
async def test_dead_letters(server: Server | None, shards: int) -> None:
    async with new_world(server, StoreConfig(shards=shards) if server is not None else None) as world:
        store = await world.store()
        for push_id, total in (("p", 300), ("q", 1), ("r", 150)):
            await settle_all(store, push_id, total, lambda index: "failed" if index % 3 else "invalid")
        rows, _ = await store.dead.page("shop", DeadFilter(), cursor="", limit=1000)
        for which in (DeadFilter(), DeadFilter(push="r"), DeadFilter(reason="7"), DeadFilter(platform="fcm")):

            async def ask(cursor: str, limit: int, which: DeadFilter = which) -> Page:
                found, more = await store.dead.page("shop", which, cursor=cursor, limit=limit)
                return [f"{row.push_id} {row.reason}" for row in found], more

            want = {
                (push_id, index)
                for push_id, total in (("p", 300), ("q", 1), ("r", 150))
                for index in range(total)
                if index % 3 and which.push in ("", push_id) and which.reason in ("", str(index)) and not which.platform
            }
            for limit in LIMITS:
                found = await all_pages(limit, ask)
                assert len(found) == len(set(found))
                assert {(each.split()[0], int(each.split()[1])) for each in found} == want
        assert len(rows) <= 300


async def test_feedback(world: World) -> None:
    store = await world.store()
    await settle_all(store, "p", 100, lambda _: "invalid")
    while receipts := await store.receipts.take("shop", limit=1000, wait_ms=0):
        await store.receipts.record(
            "shop",
            [
                (entry, receipt, FeedbackEvent(receipt.at, receipt.platform, receipt.token, receipt.reason, "kept"))
                for entry, receipt in receipts
            ],
        )
    for limit in LIMITS:
        found: list[str] = []
        after = ""
        while events := (await store.receipts.events("shop", after=after, limit=limit)).events:
            assert len(events) <= limit
            found += [event.reason for _, event in events]
            after = events[-1][0]
        assert sorted(found, key=int) == [str(index) for index in range(100)]


async def test_devices_and_topics(server: Server | None) -> None:
    names = [f"d{number:03}" for number in range(300)]
    topics = ["a", "b" * 128, "é", "{x}", "z", *(f"t{number}" for number in range(60))]
    async with new_world(server) as world:
        store = await world.store()
        devices = [
            Device(
                id=name,
                platform="apns",
                token=name.encode().hex().ljust(64, "0"),
                topics=tuple({topics[number % len(topics)], "all"}),
                registered_at=moment(),
                last_seen_at=moment(),
            )
            for number, name in enumerate(names)
        ]
        for start in range(0, 300, 100):
            await store.registry.put_many("shop", devices[start : start + 100])
        for name in names[20:160]:
            await store.registry.remove("shop", name)
        left = [*names[:20], *names[160:]]

        async def page(cursor: str, limit: int) -> Page:
            found = await store.registry.page("shop", after=cursor, limit=limit)
            return [each.id for each in found.devices], found.cursor

        async def members(cursor: str, limit: int) -> Page:
            found = await store.registry.members("shop", ByTopic("all"), after=cursor, limit=limit)
            return [each.id for each in found.devices], found.cursor

        async def list_topics(cursor: str, limit: int) -> Page:
            found, more = await store.registry.topics("shop", after=cursor, limit=limit)
            return [f"{name} {size}" for name, size in found], more

        sizes = dict.fromkeys(topics, 0)
        for name in left:
            sizes[topics[names.index(name) % len(topics)]] += 1
        sizes["all"] = len(left)
        want = [f"{topic} {sizes[topic]}" for topic in sorted(sizes, key=str.encode) if sizes[topic]]
        for limit in LIMITS:
            assert await all_pages(limit, page) == left
            assert await all_pages(limit, members) == left
            assert await all_pages(limit, list_topics) == want


async def test_lists_by_http(service: Service) -> None:
    for number in range(60):
        platform = ("apns", "fcm")[number % 2]
        document = {"platform": platform, "token": f"{number:064x}"}
        path = f"/v1/devices/d{number:02}"
        assert (await call(service, "PUT", path, document, key="registrar")).status == 201
        assert (await call(service, "PUT", f"/v1/topics/t{number % 7}{path[3:]}", key="registrar")).status == 204

    async def listed(path: str, limit: int) -> list[str]:
        async def ask(cursor: str, limit: int) -> Page:
            more = f"&cursor={cursor}" if cursor else ""
            found = await call(service, "GET", f"{path}limit={limit}{more}", key="registrar")
            assert found.status == 200
            return [each.get("id") or each["topic"] for each in found.json["items"]], found.json["cursor"]

        return await all_pages(limit, ask)

    everyone = [f"d{number:02}" for number in range(60)]
    for limit in (1, 7, 30, 60, 100):
        assert await listed("/v1/devices?", limit) == everyone
        assert await listed("/v1/devices?platform=fcm&", limit) == everyone[1::2]
        assert await listed("/v1/devices?state=pruned&", limit) == []
        assert await listed("/v1/devices?topic=t3&", limit) == everyone[3::7]
        assert await listed("/v1/devices?topic=t3&platform=apns&", limit) == everyone[10::14]
        assert await listed("/v1/devices?topic=nobody&", limit) == []
        assert await listed("/v1/topics?", limit) == [f"t{number}" for number in range(7)]
    for path in (
        "/v1/devices?cursor=x",
        "/v1/devices?cursor=1:2",
        "/v1/devices?topic=a%20b",
        "/v1/devices?limit=0",
        "/v1/topics?limit=1001",
    ):
        assert (await call(service, "GET", path, key="registrar")).status == 422
    for path in ("/v1/devices", "/v1/topics"):
        assert (await call(service, "GET", path, key="pusher")).status == 403
