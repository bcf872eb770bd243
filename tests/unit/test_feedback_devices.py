"""The feedback stage and the registry: who is pruned, who is kept, and what a crash or a race in between changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Delivery, Outcome, Sent, Settlement, TokenDead, TokenSuspect
from pushsvc.model.devices import Device
from pushsvc.model.push import Route, Target
from pushsvc.rules.freeze import FreezePolicy
from pushsvc.rules.policy import SENT, PrunePolicy
from pushsvc.stages.feedback import LINGER, FeedbackConfig

from ..fakes import MemoryStore
from .dispatch_fakes import memory_store, now_ms, push
from .test_feedback import events, judging, pruned
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
GOOD = Sent(status=200)
GONE = TokenDead(status=404, reason="Unregistered")
SUSPECT = TokenSuspect(status=400, reason="BadDeviceToken")
HOUR = 3600.0


def device(name: str, **fields: Any) -> Device:
    known: dict[str, Any] = {"platform": "apns", "token": f"token-{name}", "registered_at": now_ms()}
    return Device(id=name, **{**known, **fields})


async def report(
    store: MemoryStore,
    outcomes: dict[str, Outcome],
    *,
    by_device: bool = True,
    at: int = 0,
    asked_at: int | None = None,
) -> None:
    """Let a push to the tokens of these devices be answered, now or at an instant."""
    name = f"p{next(store._state.numbers)}"
    document = push(name, *(f"token-{each}" for each in outcomes))
    await store.pushes.accept(document)
    for taken in await store.queue.take(Route("shop", "apns"), "normal", targets=10_000, wait_ms=0):
        settlements = []
        for target in taken.chunk.targets:
            each = target.token.removeprefix("token-")
            own = Target(target.index, target.token, each if by_device else None)
            outcome = outcomes[each]
            answer = Settlement(
                *(Delivery(taken.chunk, own), outcome, SENT, at or now_ms(), "hash", outcome.reason), asked_at=asked_at
            )
            settlements.append(answer)
        await store.queue.settle("shop", settlements, [taken.ref])


GOOD_ONES = {f"good-{number}": GOOD for number in range(4)}
"""They vouch for us: with them, a suspect token is to blame itself."""


async def judged(store: MemoryStore, config: FeedbackConfig = FeedbackConfig()) -> list[tuple[str | None, str]]:  # noqa: B008  # frozen
    """Run the stage until no receipt is left; device and action of all events so far."""
    async with judging(store, "shop", config=config):
        await until(lambda: not store._state.receipts["shop"].entries)
    return [(event.device_id, event.action) for event in await events(store)]


async def state_of(store: MemoryStore, name: str) -> tuple[str, int, bool]:
    """Its state, its strikes, and whether its token is suppressed."""
    found = await store.registry.get("shop", name)
    assert found is not None
    return found.state, found.strikes, ("shop", "apns", found.token) in store._state.suppressed


@pytest.fixture
async def store() -> MemoryStore:
    """A store with a device that was registered an hour ago."""
    store = memory_store()
    await store.registry.put("shop", device("phone"))
    await asyncio.sleep(HOUR)
    return store


async def test_a_dead_device_becomes_a_tombstone_and_its_neighbour_does_not(store: MemoryStore) -> None:
    before = pruned("shop")
    await store.registry.put("shop", device("other"))
    await asyncio.sleep(1)
    await report(store, {"phone": GONE, "other": GOOD})
    assert await judged(store) == [("phone", "pruned")]
    assert await state_of(store, "phone") == ("pruned", 0, True)
    assert await state_of(store, "other") == ("active", 0, False)
    assert pruned("shop") - before == 1
    found = await store.registry.get("shop", "phone")
    assert found is not None
    assert found.pruned_for == "Unregistered"
    # A second answer of the same kind has nothing new to report.
    await asyncio.sleep(1)
    await report(store, {"phone": GONE})
    assert await judged(store) == [("phone", "pruned")]
    # Registered again, it is as good as new.
    await store.registry.put("shop", device("phone"))
    assert await state_of(store, "phone") == ("active", 0, False)


async def test_a_raw_token_is_judged_as_the_device_that_has_it(store: MemoryStore) -> None:
    await report(store, {"phone": GONE, "nobody": GONE}, by_device=False)
    assert await judged(store) == [("phone", "pruned"), (None, "suppressed")]
    assert await state_of(store, "phone") == ("pruned", 0, True)
    assert ("shop", "apns", "token-nobody") in store._state.suppressed


async def test_a_device_is_pruned_at_its_third_strike(store: MemoryStore) -> None:
    for hours, state, strikes in ((0, "active", 1), (6, "active", 1), (6, "active", 2), (12, "pruned", 2)):
        await asyncio.sleep(hours * HOUR)
        await report(store, {"phone": SUSPECT, **GOOD_ONES})
        await judged(store)
        assert (await state_of(store, "phone"))[:2] == (state, strikes)
    assert [action for _, action in await judged(store)] == ["suspected"] * 3 + ["pruned"]


async def test_suspicion_counts_only_where_others_were_accepted(store: MemoryStore) -> None:
    for _ in range(4):
        await report(store, {"phone": SUSPECT})
        await judged(store)
        await asyncio.sleep(12 * HOUR)
    assert await state_of(store, "phone") == ("active", 0, False)
    assert [action for _, action in await judged(store)] == ["suspected"] * 4


async def test_a_registration_clears_the_strikes(store: MemoryStore) -> None:
    for _ in range(4):
        await report(store, {"phone": SUSPECT, **GOOD_ONES})
        await judged(store)
        await asyncio.sleep(12 * HOUR)
        await store.registry.put("shop", device("phone"))
        await asyncio.sleep(1)
    assert await state_of(store, "phone") == ("active", 0, False)


async def test_a_token_that_moved_is_left_alone(store: MemoryStore) -> None:
    at = now_ms()
    await asyncio.sleep(1)
    # The same phone, signed in as somebody else: the token leaves the old device.
    await store.registry.put("shop", device("other", user="u2", token="token-phone"))
    await report(store, {"phone": GONE}, at=at)
    assert await judged(store) == [("phone", "kept")]
    assert await state_of(store, "other") == ("active", 0, False)


async def test_several_answers_for_one_device_at_once_are_one_change(store: MemoryStore) -> None:
    at = now_ms()
    for _ in range(3):
        await report(store, {"phone": SUSPECT, **GOOD_ONES}, at=at)
    assert await judged(store) == [("phone", "suspected")]
    assert await state_of(store, "phone") == ("active", 1, False)
    at = now_ms()
    for _ in range(3):
        await report(store, {"phone": GONE}, at=at)
    assert await judged(store) == [("phone", "suspected"), ("phone", "pruned")]


# --- the freeze -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "count"), [(GONE, 1000), (SUSPECT, 200)])
async def test_a_burst_of_bad_answers_freezes_before_its_first_prune(
    outcome: Outcome, count: int, capsys: pytest.CaptureFixture[str], store: MemoryStore
) -> None:
    names = [f"d{number}" for number in range(count)]
    await store.registry.put_many("shop", [device(name, strikes=2) for name in names])
    await asyncio.sleep(20)
    await report(store, dict.fromkeys([f"g{number}" for number in range(5000)], GOOD))
    await asyncio.sleep(20)
    # The first receipts are there a while before the rest of the burst.
    async with judging(store, "shop"):
        await report(store, dict.fromkeys(names[:3], outcome))
        await asyncio.sleep(LINGER / 2)
        await report(store, dict.fromkeys(names[3:], outcome))
        await until(lambda: not store._state.receipts["shop"].entries)
        assert {event.action for event in await events(store)} == {"kept"}
        assert await store.registry.count("shop") == count + 1
        # Corrected: with good answers it thaws, and says so without another receipt.
        await report(store, dict.fromkeys([f"g{number}" for number in range(5000)], GOOD))
        await asyncio.sleep(3)
        await report(store, {"phone": GONE})
        await until(lambda: not store._state.receipts["shop"].entries)
    assert (await events(store))[-1].action == "pruned"
    assert not store._state.suppressed.keys() - {("shop", "apns", "token-phone")}
    reported = "".join(capsys.readouterr())
    assert reported.count("pruning_frozen") == reported.count("pruning_thawed") == 1


async def test_an_operator_can_have_it_pruned_anyway_for_a_while(store: MemoryStore) -> None:
    route = Route("shop", "apns")
    config = FeedbackConfig(freeze=FreezePolicy(dead_answers=2), prune_anyway={route: now_ms() + 60_000})
    await report(store, dict.fromkeys(["phone", "a", "b"], GONE), by_device=False)
    assert [action for _, action in await judged(store, config)] == ["pruned", "suppressed", "suppressed"]
    await asyncio.sleep(60)
    await report(store, dict.fromkeys(["c", "d", "e"], GONE), by_device=False)
    assert [action for _, action in await judged(store, config)][3:] == ["kept"] * 3


async def test_few_answers_are_judged_a_second_later_and_many_at_once(store: MemoryStore) -> None:
    loop = asyncio.get_running_loop()
    for good, lingers in ((0, True), (500, False)):
        await report(store, {**dict.fromkeys([f"g{number}" for number in range(good)], GOOD), "nobody": GONE})
        began = loop.time()
        async with judging(store, "shop"):
            await until(lambda: not store._state.receipts["shop"].entries)
            assert (loop.time() - began >= LINGER) == lingers


async def test_what_is_in_hand_at_a_stop_is_judged_by_the_next(store: MemoryStore) -> None:
    await report(store, {"phone": GONE})
    async with judging(store, "shop"):
        await asyncio.sleep(LINGER / 2)
    assert await events(store) == []
    assert await judged(store) == [("phone", "pruned")]


# --- crashes and races ------------------------------------------------------------------------------

STEPS = [
    (GONE, "registry.holders"),
    (GONE, "suppressions.add"),
    (GONE, "registry.prune"),
    (GONE, "receipts.record"),
    (SUSPECT, "registry.holders"),
    (SUSPECT, "registry.strike"),
    (SUSPECT, "receipts.record"),
]


def lose(store: MemoryStore, where: str, *, done: bool, meanwhile: Callable[[], Awaitable[Any]] | None = None) -> None:
    """Let one call fail as if Redis had gone, before it was done or after; something may happen before the next."""
    port = getattr(store, where.partition(".")[0])
    method = where.partition(".")[2]
    real = getattr(port, method)

    async def losing(*arguments: Any) -> Any:
        setattr(port, method, real)
        if done:
            await real(*arguments)
        if meanwhile is not None:
            await meanwhile()
        raise StoreUnavailable("connection reset")

    setattr(port, method, losing)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("outcome", "where"), STEPS)
async def test_a_crash_between_two_changes_changes_nothing(
    outcome: Outcome, where: str, done: bool, store: MemoryStore
) -> None:
    lose(store, where, done=done)
    await report(store, {"phone": outcome, **GOOD_ONES})
    dead = outcome is GONE
    assert await judged(store) == [("phone", "pruned" if dead else "suspected")]
    assert await state_of(store, "phone") == (("pruned", 0, True) if dead else ("active", 1, False))


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("outcome", "where"), STEPS)
async def test_a_registration_after_a_crash_undoes_it(
    outcome: Outcome, where: str, done: bool, store: MemoryStore
) -> None:
    async def register() -> None:
        await asyncio.sleep(1)
        await store.registry.put("shop", device("phone"))

    lose(store, where, done=done, meanwhile=register)
    await report(store, {"phone": outcome, **GOOD_ONES})
    await judged(store)
    assert await state_of(store, "phone") == ("active", 0, False)


@pytest.mark.parametrize("where", ["suppressions.add", "registry.prune", "receipts.record"])
async def test_a_registration_in_between_is_never_left_suppressed(where: str, store: MemoryStore) -> None:
    port, method = getattr(store, where.partition(".")[0]), where.partition(".")[2]
    real = getattr(port, method)

    async def with_a_registration(*arguments: Any) -> Any:
        await asyncio.sleep(1)
        await store.registry.put("shop", device("phone"))
        await store.registry.put("shop", device("nobody"))
        return await real(*arguments)

    setattr(port, method, with_a_registration)
    await report(store, {"phone": GONE, "nobody": GONE}, by_device=False)
    await judged(store)
    assert await state_of(store, "phone") == ("active", 0, False)
    assert await state_of(store, "nobody") == ("active", 0, False)


@pytest.mark.parametrize("since", [None, -1000, 86_400_000])
@pytest.mark.parametrize("where", ["suppressions.add", "registry.prune", "receipts.record", ""])
async def test_a_registration_while_the_request_was_on_its_way_is_good(
    where: str, since: int | None, store: MemoryStore
) -> None:
    """Its write may be slower than the answer, and the judgement of that: its instant counts."""
    asked_at = now_ms()
    await asyncio.sleep(20)
    registered_at = asked_at + 9000

    async def register() -> None:
        for name in ("phone", "nobody"):
            await store.registry.put("shop", device(name, registered_at=registered_at))

    if where:
        port, method = getattr(store, where.partition(".")[0]), where.partition(".")[2]
        real = getattr(port, method)

        async def with_a_registration(*arguments: Any) -> Any:
            await register()
            return await real(*arguments)

        setattr(port, method, with_a_registration)
    gone = TokenDead(status=404, reason="Unregistered", since=None if since is None else asked_at + since)
    await report(store, {"phone": gone, "nobody": gone}, by_device=False, asked_at=asked_at)
    await judged(store)
    if not where:
        await register()
    assert await state_of(store, "phone") == ("active", 0, False)
    assert await state_of(store, "nobody") == ("active", 0, False)


async def test_a_strike_of_an_earlier_registration_does_not_count(store: MemoryStore) -> None:
    real = store.registry.strike

    async def after_a_registration(*arguments: Any) -> list[bool]:
        await store.registry.put("shop", device("phone"))
        return await real(*arguments)

    store.registry.strike = after_a_registration  # type: ignore[assignment,method-assign]  # only to be late
    await report(store, {"phone": SUSPECT, **GOOD_ONES})
    assert await judged(store) == [("phone", "kept")]
    assert await state_of(store, "phone") == ("active", 0, False)


async def test_a_command_that_ran_twice_because_its_answer_was_lost_is_known(store: MemoryStore) -> None:
    """The client asks again by itself, and the second time the registry says that nothing took effect."""
    for method in ("prune", "strike"):
        real = getattr(store.registry, method)

        async def twice(*arguments: Any, real: Any = real) -> Any:
            await real(*arguments)
            return await real(*arguments)

        setattr(store.registry, method, twice)
    await report(store, {"phone": SUSPECT, **GOOD_ONES})
    assert await judged(store) == [("phone", "suspected")]
    assert await state_of(store, "phone") == ("active", 1, False)
    await report(store, {"phone": GONE})
    assert (await judged(store))[1:] == [("phone", "pruned")]
    assert await state_of(store, "phone") == ("pruned", 1, True)


async def test_a_device_that_is_gone_meanwhile_is_reported_as_kept(store: MemoryStore) -> None:
    real = store.registry.prune

    async def after_its_end(*arguments: Any) -> list[bool]:
        await store.registry.remove("shop", "phone")
        return await real(*arguments)

    store.registry.prune = after_its_end  # type: ignore[assignment,method-assign]  # only to be late
    await report(store, {"phone": GONE})
    assert await judged(store) == [("phone", "kept")]
    assert not store._state.suppressed


async def test_one_strike_is_enough_where_the_operator_says_so(store: MemoryStore) -> None:
    await report(store, {"phone": SUSPECT, **GOOD_ONES})
    config = FeedbackConfig(prune=PrunePolicy(strikes=1))
    assert await judged(store, config) == [("phone", "pruned")]
