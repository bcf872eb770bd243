"""Which devices have outlived their use, and how a cleanup goes from step to step: without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from pushsvc.model.devices import Device
from pushsvc.ports.cleanup import Swept
from pushsvc.stages.cleanup import Ages, Cleaned, Progress, Sweep, clean, revise
from pushsvc.stages.cleanup.run import sweeps

from ..fakes import MemoryStore

DAY = 86_400_000
NOW = 1_000 * DAY
AGES = Ages(tombstones=30 * 86400, suspects=90 * 86400, stale={"fcm": 270 * 86400}, stale_else=0)

GOOD = Device(id="d", platform="fcm", token="t", registered_at=NOW - 5 * DAY, last_seen_at=NOW - 5 * DAY)


def seen(days: int, **fields: object) -> Device:
    return replace(GOOD, registered_at=NOW - days * DAY, last_seen_at=NOW - days * DAY, **fields)


def pruned(days: int, why: str = "Unregistered") -> Device:
    """A tombstone whose device was last seen a day before."""
    at = NOW - days * DAY
    return replace(GOOD, state="pruned", pruned_at=at, pruned_for=why, last_seen_at=at - DAY)


KEPT = [
    ("seen lately", GOOD, AGES),
    ("exactly as old as may be", seen(270), AGES),
    ("another platform, where none is ever stale", seen(900, platform="apns"), AGES),
    ("struck lately", seen(100, strikes=2, struck_at=NOW - 89 * DAY), AGES),
    ("struck long ago and seen since", replace(GOOD, strikes=1, struck_at=NOW - 200 * DAY), AGES),
    ("no strikes", seen(200, struck_at=NOW - 150 * DAY), AGES),
    ("a young tombstone", pruned(29), AGES),
    ("a young tombstone of a device not seen for long", replace(pruned(29), last_seen_at=0), AGES),
    ("stale, but never asked", seen(900), replace(AGES, stale={"fcm": 0})),
    ("suspect, but never asked", seen(100, strikes=1, struck_at=NOW - 95 * DAY), replace(AGES, suspects=0)),
    ("an old tombstone, but never asked", pruned(900), replace(AGES, tombstones=0)),
]


@pytest.mark.parametrize(("device", "ages"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
def test_these_stay_what_they_are(device: Device, ages: Ages) -> None:
    assert revise(device, NOW, ages) is device


PRUNED = [
    ("stale", seen(271), AGES, "stale"),
    ("stale by the other platforms' age", seen(31, platform="apns"), replace(AGES, stale_else=30 * 86400), "stale"),
    ("struck and silent", seen(100, strikes=1, struck_at=NOW - 91 * DAY), AGES, "suspect"),
    ("struck in the moment in which it was seen", seen(91, strikes=1, struck_at=NOW - 91 * DAY), AGES, "suspect"),
    ("both: stale says more", seen(300, strikes=1, struck_at=NOW - 100 * DAY), AGES, "stale"),
]


@pytest.mark.parametrize(("device", "ages", "why"), [row[1:] for row in PRUNED], ids=[row[0] for row in PRUNED])
def test_these_become_tombstones_that_keep_everything(device: Device, ages: Ages, why: str) -> None:
    assert revise(device, NOW, ages) == replace(device, state="pruned", pruned_at=NOW, pruned_for=why)
    # The answer to a push is the cause of a suspect alone.
    after = revise(replace(device, judged_by="p1"), NOW, ages)
    assert after is not None
    assert after.judged_by == ("p1" if why == "suspect" else "")


def test_an_old_tombstone_goes() -> None:
    assert revise(pruned(31), NOW, AGES) is None
    assert revise(pruned(31, "stale"), NOW, AGES) is None
    # One that lives on is as old as its last sign of life.
    alive = replace(pruned(31), last_seen_at=NOW - 29 * DAY)
    assert revise(alive, NOW, AGES) is alive
    assert revise(replace(pruned(40), last_seen_at=NOW - 31 * DAY), NOW, AGES) is None


def test_a_device_that_is_online_neither_ages_nor_goes() -> None:
    assert revise(GOOD, NOW, AGES, online=True) is GOOD
    for device in (seen(271), seen(100, strikes=1, struck_at=NOW - 91 * DAY), pruned(31)):
        assert revise(device, NOW, AGES, online=True) == replace(device, last_seen_at=NOW)
    for why in ("stale", "suspect"):
        assert revise(pruned(31, why), NOW, AGES, online=True) == replace(GOOD, last_seen_at=NOW)


# --- from step to step ------------------------------------------------------------------------------


def counting(name: str, steps: int, ran: list[str]) -> Sweep:
    """A sweep that removes one thing in each step."""

    async def step(cursor: str) -> Swept:
        at = int(cursor or 0)
        ran.append(f"{name}{at}")
        return Swept({("shop", name): 1}, str(at + 1) if at + 1 < steps else None, (at + 1) / steps)

    return Sweep(name, step)


def run(plan: Sequence[Sweep], place: str = "", stop_after: int = 99) -> tuple[Cleaned, list[Progress]]:
    reported: list[Progress] = []

    async def after(progress: Progress) -> None:
        reported.append(progress)

    cleaned = asyncio.run(
        clean(plan, share=1.0, place=place, stopping=lambda: len(reported) >= stop_after, after=after),
    )
    return cleaned, reported


def test_each_step_is_taken_once_and_counted() -> None:
    ran: list[str] = []
    cleaned, reported = run([counting("a", 2, ran), counting("b", 1, ran), counting("c", 3, ran)])
    assert ran == ["a0", "a1", "b0", "c0", "c1", "c2"]
    assert cleaned == Cleaned({("shop", "a"): 2, ("shop", "b"): 1, ("shop", "c"): 3}, None)
    assert [each.done for each in reported] == [0.5, 1.0, 1.0, 1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize("stop_after", range(1, 6))
def test_it_goes_on_where_it_was_stopped(stop_after: int) -> None:
    ran: list[str] = []
    plan = [counting("a", 2, ran), counting("b", 1, ran), counting("c", 3, ran)]
    first, _ = run(plan, stop_after=stop_after)
    assert first.place is not None
    second, _ = run(plan, place=first.place)
    assert ran == ["a0", "a1", "b0", "c0", "c1", "c2"]
    assert second.place is None
    assert sum(first.removed.values()) + sum(second.removed.values()) == 6


def test_a_place_that_is_in_no_plan_is_the_beginning() -> None:
    ran: list[str] = []
    run([counting("a", 2, ran)], place="gone devices\n77")
    assert ran == ["a0", "a1"]


def test_the_rest_is_as_long_as_the_share_says(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    now = iter(range(0, 1000, 3))

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr("pushsvc.stages.walk.asyncio.sleep", nap)
    monkeypatch.setattr("pushsvc.stages.walk.time.monotonic", lambda: next(now))
    asyncio.run(clean([counting("a", 3, [])], share=0.25))
    assert sum(naps) == pytest.approx(18.0)  # each step takes 3 s: a quarter of 12; there is none after the last
    assert max(naps) == 0.1


def test_a_rest_hears_that_it_is_to_stop() -> None:
    ran: list[str] = []
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    cleaned = asyncio.run(clean([counting("a", 3, ran)], share=1e-9, stopping=stopping))
    assert (ran, cleaned.place) == (["a0"], "a\n1")


async def test_devices_are_revised_page_by_page_and_counted() -> None:
    class Nothing:
        async def indexes(self, app: str, *, cursor: str, now: int = 0, dry_run: bool) -> Swept:
            return Swept({}, None, 1.0)

        async def keys(self, apps: Sequence[str], *, cursor: str, now: int = 0, dry_run: bool) -> Swept:
            return Swept({}, None, 1.0)

    store = MemoryStore()
    registry = store.registry
    many = [seen(300, id=f"stale-{n}", token=f"s{n}") for n in range(700)]
    many += [replace(pruned(40), id=f"old-{n}", token=f"o{n}") for n in range(3)]
    many += [seen(1, id="good", token="g")]
    await registry.put_many("shop", many)
    for dry_run in (True, False):
        plan = sweeps(registry, Nothing(), store.live, ["shop"], AGES, clock=lambda: NOW, dry_run=dry_run)
        cleaned = await clean(plan, share=1.0)
        assert cleaned.removed == {("shop", "stale"): 700, ("shop", "tombstones"): 3}
    assert await registry.count("shop") == 1
    plan = sweeps(registry, Nothing(), store.live, ["shop"], AGES, clock=lambda: NOW, dry_run=False)
    assert (await clean(plan, share=1.0)).removed == {}
