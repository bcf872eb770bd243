"""The gate and the pacer, with a limiter that says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from pushsvc.errors import StoreUnavailable
from pushsvc.model.push import Chunk, Lane, Message, Route, Target
from pushsvc.model.rates import AccountLimits, Rate
from pushsvc.ports.entries import EntryRef
from pushsvc.ports.limits import Bucket, Grant, Question
from pushsvc.rules.permits import PERMIT_LIFE
from pushsvc.stages.dispatch.lanes import Lanes, OpenEntry
from pushsvc.stages.dispatch.limits import BATCH, READY, SMALL, Gate, Pacer, RouteLimits

ROUTE = Route("shop", "fcm")
RATE = Rate(240, 60)


class FakeLimiter:
    """Refuses the tokens of `over`; gives leases from `permits`; is away for the next `faults` calls."""

    def __init__(self, *, over: Sequence[str] = (), permits: int = 0, faults: int = 0) -> None:
        self.over = set(over)
        self.permits = permits
        self.faults = faults
        self.asked: list[tuple[str, list[str]]] = []
        self.leased: list[tuple[str, int]] = []
        self.questions: list[tuple[Question | None, object]] = []
        """With what was asked, also where nobody was answered."""

    async def admit(
        self, route: Route, rate: Rate, tokens: Sequence[str], *, family: str = "all", question: Question | None = None
    ) -> Sequence[tuple[int, int]]:
        self.questions.append((question, list(tokens)))
        self._fail()
        self.asked.append((family, list(tokens)))
        return [(place, 1000) for place, token in enumerate(tokens) if token in self.over]

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Grant:
        self.questions.append((question, wanted))
        self._fail()
        self.leased.append((bucket.name, wanted))
        granted = min(wanted, self.permits)
        self.permits -= granted
        return Grant(granted, 0 if granted else 20)

    def _fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise StoreUnavailable("away")


class Rig:
    """A gate in front of lanes, and what came of it."""

    def __init__(self, limits: RouteLimits, limiter: FakeLimiter) -> None:
        self.ready = Lanes()
        self.overtaken: set[Lane] = set()
        self.refused: list[tuple[str, int]] = []
        self.by: list[RouteLimits] = []
        self.woken = asyncio.Event()
        self.gate = Gate(
            ROUTE,
            limits,
            limiter,
            self.ready,
            asking=lambda: self.admit,
            refuse=self.refuse,
            wake=self.woken.set,
            congested=lambda: False,
            overtaken=lambda lane: lane in self.overtaken,
        )

    def admit(self, entries: Sequence[OpenEntry]) -> None:
        for entry in entries:
            self.ready.add(entry)

    def refuse(self, entry: OpenEntry, target: Target, wait: int, limits: RouteLimits) -> None:
        self.refused.append((target.token, wait))
        self.by.append(limits)

    def add(self, *tokens: str, lane: Lane = "normal", body: bytes = b"{}", **fields: Any) -> None:
        targets = tuple(Target(index, token) for index, token in enumerate(tokens))
        chunk = Chunk("p", "shop", "fcm", lane, len(targets), 0, 1 << 50, Message("fcm", body), targets)
        self.gate.add(OpenEntry(EntryRef("shop", 0, "fcm", lane, "1-0"), replace(chunk, **fields), targets))
        self.gate.refill()

    def drawn(self) -> list[str]:
        tokens = []
        while drawn := self.ready.draw(1000):
            tokens += [target.token for _, targets in drawn for target in targets]
        return tokens


@asynccontextmanager
async def rigged(limits: RouteLimits, limiter: FakeLimiter) -> AsyncIterator[Rig]:
    rig = Rig(limits, limiter)
    running = asyncio.create_task(rig.gate.run())
    async with asyncio.timeout(20):
        yield rig
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_no_limits_no_gate_and_no_pacer() -> None:
    assert not RouteLimits().gated
    assert RouteLimits().paced(ROUTE) == []


def test_limits_say_where_they_are_kept() -> None:
    delay = RouteLimits(per_app=RATE, account=AccountLimits(account="p", quota=Rate(600_000, 60), ramp=60.0))
    assert not delay.gated
    assert [(bucket.owner, bucket.name, bucket.ramp) for bucket in delay.paced(ROUTE)] == [
        ("shop.0", "app", 0.0),
        ("fcm/p", "quota", 60.0),
    ]
    drop = RouteLimits(per_app=RATE, on_exceed="drop")
    assert drop.gated
    assert drop.paced(ROUTE) == []


async def test_who_is_over_the_limit_is_taken_out_and_the_rest_passes_in_order() -> None:
    async with rigged(RouteLimits(per_token=RATE), FakeLimiter(over="xy")) as rig:
        rig.add("a", "x", "b")
        rig.add("x")
        rig.add("c", "y")
        await rig.woken.wait()
        assert rig.drawn() == ["a", "b", "c"]
        assert rig.refused == [("x", 1000), ("x", 1000), ("y", 1000)]
        assert set(rig.gate.size.values()) == {0}


async def test_it_asks_for_little_more_than_is_sent_next() -> None:
    limiter = FakeLimiter()
    async with rigged(RouteLimits(per_token=RATE), limiter) as rig:
        for number in range(40):
            rig.add(*(f"{number}-{target}" for target in range(100)), lane="bulk")
        await rig.woken.wait()
        await asyncio.sleep(0)
        assert READY <= rig.ready.size["bulk"] < BATCH + 100
        rig.add("now", lane="urgent")
        rig.woken.clear()
        await rig.woken.wait()
        assert [target.token for _, targets in rig.ready.draw(10) for target in targets] == ["now"]
        total = 0
        while rig.gate.size["bulk"]:
            rig.woken.clear()
            total += len(rig.drawn())
            rig.gate.refill()
            await rig.woken.wait()
        assert total + len(rig.drawn()) == 4000
        assert max(len(tokens) for _, tokens in limiter.asked) <= BATCH + 100


async def test_nothing_passes_while_redis_is_away_and_nothing_is_lost() -> None:
    limiter = FakeLimiter(faults=1)
    async with rigged(RouteLimits(per_token=RATE), limiter) as rig:
        rig.add("a")
        await rig.woken.wait()
        assert rig.drawn() == ["a"]
    assert limiter.faults == 0


@pytest.mark.parametrize("limits", [RouteLimits(per_token=RATE), RouteLimits(per_app=RATE, on_exceed="drop")])
async def test_a_question_without_an_answer_is_asked_again_as_the_same(limits: RouteLimits) -> None:
    """It may have been counted. So it keeps its number and its tokens, though the lane is overtaken meanwhile."""
    limiter = FakeLimiter(faults=1, permits=1000)
    async with rigged(limits, limiter) as rig:
        tokens = [str(number) for number in range(SMALL + 10)]
        rig.add(*tokens)
        while limiter.faults:
            await asyncio.sleep(0)
        rig.overtaken = {"normal"}
        await rig.woken.wait()
        (first, what), (second, again), *_ = limiter.questions
        assert first is not None
        assert again == what
        assert second == replace(first, again=True)
        rig.woken.clear()
        rig.add("x")
        await rig.woken.wait()
        third = limiter.questions[-1][0]
        assert third is not None
        assert third.number > first.number
        assert not third.again


async def test_only_collapsible_messages_are_asked_for_a_second_time() -> None:
    limiter = FakeLimiter()
    account = AccountLimits(collapsible=Rate(20, 3600), is_collapsible=lambda body: body == b"collapse")
    async with rigged(RouteLimits(per_token=RATE, account=account), limiter) as rig:
        rig.add("a", "b")
        rig.add("c", body=b"collapse")
        await rig.woken.wait()
        assert rig.drawn() == ["a", "b", "c"]
    assert limiter.asked == [("all", ["a", "b", "c"]), ("collapsible", ["c"])]


async def test_the_apps_rate_may_drop_the_rest() -> None:
    limiter = FakeLimiter(permits=3)
    async with rigged(RouteLimits(per_app=RATE, on_exceed="drop"), limiter) as rig:
        rig.add("a", "b")
        rig.add("c", "d", "e")
        await rig.woken.wait()
        assert rig.drawn() == ["a", "b", "c"]
        assert rig.refused == [("d", 20), ("e", 20)]


async def test_what_the_live_channel_could_not_deliver_was_counted_for_the_app_there() -> None:
    limits = RouteLimits(per_token=RATE, per_app=Rate(1, 1), on_exceed="drop")
    async with rigged(limits, FakeLimiter(over=["over"], permits=0)) as rig:
        rig.add("a", "b")
        rig.add("c", "over", home="fcm", turn=2)
        await rig.woken.wait()
        assert rig.refused == [("over", 1000), ("a", 20), ("b", 20)]
        assert (rig.ready.size["normal"], rig.ready.counted) == (1, 1)
        assert rig.drawn() == ["c"]


async def test_an_urgent_push_does_not_wait_for_the_answer_to_a_question_about_others() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(FakeLimiter):
        async def admit(
            self,
            route: Route,
            rate: Rate,
            tokens: Sequence[str],
            *,
            family: str = "all",
            question: Question | None = None,
        ) -> Sequence[tuple[int, int]]:
            if len(tokens) > 1:
                asked.set()
                await answer.wait()
            return await super().admit(route, rate, tokens, family=family)

    limiter = Slow()
    async with rigged(RouteLimits(per_token=RATE), limiter) as rig:
        rig.add(*(f"b{n}" for n in range(BATCH)), lane="bulk")
        await asked.wait()
        rig.add("u", lane="urgent")
        while not rig.ready.size["urgent"]:
            rig.woken.clear()
            await rig.woken.wait()
        assert limiter.asked == [("all", ["u"])]
        assert not rig.ready.size["bulk"]
        answer.set()
        while rig.ready.size["bulk"] < BATCH:
            rig.woken.clear()
            await rig.woken.wait()


async def test_who_is_overtaken_asks_small_questions() -> None:
    tokens = [f"b{n}" for n in range(2 * SMALL + 10)]
    over = [tokens[0], tokens[SMALL], tokens[2 * SMALL + 9]]
    limiter = FakeLimiter(over=over)
    async with rigged(RouteLimits(per_token=RATE), limiter) as rig:
        rig.overtaken = {"bulk"}
        rig.add(*tokens, lane="bulk")
        while not rig.ready.size["bulk"]:
            rig.woken.clear()
            await rig.woken.wait()
        assert [len(asked) for _, asked in limiter.asked] == [SMALL, SMALL, 10]
        assert rig.refused == [(token, 1000) for token in over]
        assert rig.drawn() == [token for token in tokens if token not in over]


async def test_a_refusal_goes_by_the_limits_that_were_asked() -> None:
    """Else what an earlier `drop` refuses for an hour would wait that hour under a later `delay`."""

    class Slow(FakeLimiter):
        async def admit(self, *arguments: Any, **options: Any) -> Sequence[tuple[int, int]]:
            asked.set()
            await answer.wait()
            return await super().admit(*arguments, **options)

    before, later = RouteLimits(per_token=RATE, on_exceed="drop"), RouteLimits(per_app=RATE)
    asked, answer = asyncio.Event(), asyncio.Event()
    async with rigged(before, Slow(over=["over"])) as rig:
        rig.add("over")
        rig.gate.refill()
        await asked.wait()
        rig.gate.use(later)
        answer.set()
        await rig.woken.wait()
        assert rig.refused == [("over", 1000)]
        assert rig.by == [before]


async def test_what_waits_is_asked_for_by_the_limits_of_that_moment() -> None:
    limiter = FakeLimiter(over="x", faults=1)
    async with rigged(RouteLimits(per_token=RATE), limiter) as rig:
        rig.add("a", "x", lane="urgent")
        while limiter.faults:  # Redis is away at the first try: the question lasts
            await asyncio.sleep(0)
        rig.add("b", "x", lane="urgent", body=b"collapse")
        account = AccountLimits(collapsible=RATE, is_collapsible=lambda body: body == b"collapse")
        rig.gate.use(RouteLimits(account=account))
        while rig.ready.size != {"urgent": 2, "normal": 0, "bulk": 0}:
            rig.woken.clear()
            await rig.woken.wait()
        assert limiter.asked == [("all", ["a", "x"]), ("collapsible", ["b", "x"])]
        assert rig.refused == [("x", 1000), ("x", 1000)]
        rig.gate.use(RouteLimits())
        rig.add("x", "x", lane="bulk")
        while not rig.ready.size["bulk"]:
            rig.woken.clear()
            await rig.woken.wait()
        assert rig.drawn() == ["a", "b", "x", "x"]
        assert len(limiter.asked) == 2


async def test_the_pacer_draws_on_other_buckets_and_keeps_the_permits_of_those_that_stay() -> None:
    limiter = FakeLimiter(permits=60)
    app, quota = Bucket("shop.0", "app", Rate(100, 1), 1.0), Bucket("fcm/p", "quota", Rate(10_000, 1), 1.0)

    woken = asyncio.Event()
    pacer = Pacer((), limiter, wake=woken.set, clock=lambda: 100.0)
    assert not pacer
    running = asyncio.create_task(pacer.run())
    pacer.use([quota])
    assert pacer
    async with asyncio.timeout(20):
        pacer.want(40)
        await woken.wait()
        assert pacer.permits() == 40
        pacer.use([app, quota])
        assert pacer.permits() == 0
        woken.clear()
        pacer.want(40)
        await woken.wait()
        assert limiter.leased == [("quota", 40), ("app", 5)]
        assert pacer.permits() == 5
        pacer.use([quota])
        assert pacer.permits() == 40
        pacer.use([Bucket("fcm/p", "quota", Rate(20_000, 1), 1.0)])
        assert pacer.permits() == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_pacer_wakes_nobody_who_has_as_much_as_may_be_in_hand() -> None:
    limiter, wakes = FakeLimiter(permits=60), list[int]()
    pacer = Pacer([Bucket("shop.0", "app", Rate(100, 1), 1.0)], limiter, wake=lambda: wakes.append(pacer.permits()))
    running = asyncio.create_task(pacer.run())
    pacer.want(40)
    for _ in range(20):
        await asyncio.sleep(0)
        if wakes:
            pacer.want(40)  # as the pump, which something else keeps from sending
    assert (wakes, limiter.leased) == ([5], [("app", 5)])
    pacer.spend(5)
    pacer.want(40)
    for _ in range(20):
        await asyncio.sleep(0)
    assert wakes == [5, 5]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_pacer_gives_the_least_of_its_buckets_and_forgets_what_was_not_used() -> None:
    now = 100.0
    limiter = FakeLimiter(permits=60)
    buckets = [Bucket("shop.0", "app", Rate(100, 1), 1.0), Bucket("fcm/p", "quota", Rate(10_000, 1), 1.0)]

    woken = asyncio.Event()
    pacer = Pacer(buckets, limiter, wake=woken.set, clock=lambda: now)
    running = asyncio.create_task(pacer.run())
    assert pacer.permits() == 0
    pacer.want(40)
    async with asyncio.timeout(20):
        await woken.wait()
        assert limiter.leased == [("app", 5), ("quota", 40)]
        assert pacer.permits() == 5
        pacer.spend(3)
        assert pacer.permits() == 2
        now += PERMIT_LIFE
        assert pacer.permits() == 0
        woken.clear()
        pacer.want(40)
        await woken.wait()
        assert pacer.permits() == 5
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_entries_that_were_not_asked_for_can_be_withdrawn() -> None:
    rig = Rig(RouteLimits(per_token=RATE), FakeLimiter())
    for tokens in (("a", "b"), ("c",)):
        rig.add(*tokens, lane="bulk")
    taken = rig.gate.sift(lambda own: own.left)
    assert [[target.token for target in left] for _, left in taken] == [["a", "b"], ["c"]]
    assert rig.gate.size["bulk"] == 0
    assert rig.gate.sift(lambda own: own.left) == []


async def test_what_is_being_asked_for_is_back_in_its_place_when_the_gate_ends() -> None:
    asked = asyncio.Event()

    class Silent(FakeLimiter):
        async def admit(self, *_: Any, **__: Any) -> Sequence[tuple[int, int]]:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with rigged(RouteLimits(per_token=RATE), Silent()) as rig:
        for tokens in (("a", "b"), ("c",)):
            rig.add(*tokens)
        await asked.wait()
        assert rig.gate.size["normal"] == 0
    taken = rig.gate.sift(lambda own: own.left)
    assert [[target.token for target in left] for _, left in taken] == [["a", "b"], ["c"]]
    assert rig.gate.size["normal"] == 0
