"""Any order of accept, schedule, expand, take, settle, retry, replay, cancel, death and take-over: counts balance,
nothing is lost.

hypothesis drives consumers against a store and against a model that knows, for each delivery, only whether it has
ended and which turn it is in. After every step each push's status must be what the model says; in the end everything
that was accepted must have ended exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import cache
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pushsvc.errors import Conflict
from pushsvc.model.codec import encode_audience
from pushsvc.model.delivery import (
    ENDS,
    End,
    Ended,
    Outcome,
    Retry,
    Settlement,
    TokenDead,
    Unavailable,
    Verdict,
)
from pushsvc.model.devices import ToAll
from pushsvc.model.push import Lane, Platform, Route, Target
from pushsvc.ports.entries import EntryRef, Taken
from pushsvc.ports.expansion import Expansion
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.store import StoreConfig, token_hash

from .servers import Server
from .test_store_kit import (
    ROUTE,
    SENT,
    AnyStore,
    Backend,
    World,
    accept_together,
    backend_server,
    entries_of,
    make_push,
    moment,
    settlement,
    take,
)

T = TypeVar("T")
CONSUMERS = ("a", "b", "c")
ACCOUNTS = (ROUTE, Route("shop", "apns_sandbox"))
"""A delivery goes on by the other account where its device has another environment by now."""
PLATFORMS: tuple[Platform, ...] = tuple(route.platform for route in ACCOUNTS)
TOTALS = (1, 1, 2, 3, 7, 40, 170, 1003)
VERDICTS: list[Callable[[], tuple[Verdict, Outcome | None]]] = [
    lambda: (Ended("sent"), SENT),
    lambda: (Ended("invalid"), TokenDead(status=410)),
    lambda: (Ended("failed", dead_letter=True), Unavailable(status=500)),
    lambda: (Retry(moment() + 10, 2), Unavailable(status=503)),
    lambda: (Retry(moment() + 2000, 1), Unavailable(status=429)),
    lambda: (Retry(moment(), 1, channel="apns_sandbox"), None),
]


@cache
def hashed(push_id: str, index: int) -> str:
    """The hash of a token of `make_push`."""
    return token_hash(bytes(32), f"{push_id}-{index}")


class _PushModel:
    """What must be true of a push."""

    def __init__(self, total: int, due: int | None = None) -> None:
        self.total = total
        self.due = due
        """When it is launched; None: it was, or needed not to be."""
        self.cancelled = False
        self.ended: dict[int, End] = {}
        self.turns: dict[int, int] = {}
        self.dead: dict[int, int] = {}
        """Index and turn of dead letters."""
        self.walks: list[Expansion] = []
        """How far the expansion of its audience has come, at each step: the last is the present one."""
        self.expanding = False

    @property
    def never_began(self) -> bool:
        """Cancelled before its time: nobody will ever see one of its deliveries."""
        return self.cancelled and self.due is not None

    @property
    def left(self) -> int:
        """Deliveries that will be handed out and have not ended."""
        return 0 if self.due is not None else self.total - len(self.ended)

    @property
    def state(self) -> str:
        if self.cancelled:
            return "cancelled"
        if self.due is not None:
            return "scheduled"
        if self.expanding:
            return "expanding"
        return "done" if len(self.ended) == self.total else "sending"

    def open(self, index: int, turn: int) -> bool:
        return self.due is None and index not in self.ended and self.turns.get(index, 1) == turn

    def expected(self) -> dict[str, int]:
        found: dict[str, int] = {end: list(self.ended.values()).count(end) for end in ENDS}
        left = self.total - len(self.ended)
        retrying = len([index for index in self.turns if index not in self.ended])
        if self.cancelled:
            found["cancelled"] += left
            return {"total": self.total, "queued": 0, "retrying": 0, **found}
        return {"total": self.total, "queued": left - retrying, "retrying": retrying, **found}


class _Holding:
    """An entry that a process has, forever: a process that was assumed dead may still settle it."""

    def __init__(self, store: AnyStore, taken: Taken) -> None:
        self.store = store
        self.taken = taken
        self.said: set[int] = set()


class StoreMachine(RuleBasedStateMachine):
    """The rules. `server` and `config` are set by each test; no server is the store in memory."""

    server: Server | None = None
    config = StoreConfig(chunk_size=150)

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        if self.server is not None:
            self.server.flush()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.world = World(self.server, self.config)
        self.stack.callback(lambda: self.run(self.world.aclose()))
        self.stores: dict[str, AnyStore] = {name: self.run(self.world.store(name)) for name in CONSUMERS}
        self.pushes: dict[str, _PushModel] = {}
        self.holdings: list[_Holding] = []

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def hold(self, store: AnyStore, taken: list[Taken]) -> None:
        for each in taken:
            model = self.pushes[each.chunk.push_id]
            # What is handed out awaits an outcome in this turn, and knows that its push is cancelled.
            assert all(model.open(target.index, each.chunk.turn) for target in each.chunk.targets)
            if model.cancelled:
                assert each.skip == {target.index: "cancelled" for target in each.chunk.targets}
            else:
                assert each.skip == {}
            self.holdings.append(_Holding(store, each))

    # --- what may happen ------------------------------------------------------------------------

    @rule(
        total=st.sampled_from(TOTALS),
        lane=st.sampled_from(["urgent", "bulk"]),
        wait=st.sampled_from([None, None, 10, 5000]),
        beside=st.sampled_from([0, 0, 1, 4]),
    )
    def accept(self, total: int, lane: Lane, wait: int | None, beside: int) -> None:
        """One push, and single ones in the same write: those share an entry."""
        send_at = None if wait is None else moment() + wait
        totals = {f"p{len(self.pushes) + place}": total if place == beside else 1 for place in range(beside + 1)}
        due = {push_id: send_at if place == beside else None for place, push_id in enumerate(totals)}
        self.pushes |= {push_id: _PushModel(count, due[push_id]) for push_id, count in totals.items()}
        pushes = [make_push(push_id, count, lane=lane, send_at=due[push_id]) for push_id, count in totals.items()]
        self.run(accept_together(self.stores["a"], *pushes))
        self.run(accept_together(self.stores["b"], *pushes))

    @rule(lane=st.sampled_from(["urgent", "bulk"]))
    def accept_for_an_audience(self, lane: Lane) -> None:
        push_id = f"p{len(self.pushes)}"
        self.pushes[push_id] = model = _PushModel(0)
        audience = encode_audience(ToAll())
        push = msgspec.structs.replace(make_push(push_id, 0, lane=lane), targets={}, audience=audience)
        self.run(self.stores["a"].pushes.accept(push))
        model.expanding = True
        at = self.run(self.stores["b"].expansions.load("shop", push_id))
        assert at is not None
        model.walks.append(at)

    @precondition(lambda self: any(model.walks for model in self.pushes.values()))
    @rule(
        data=st.data(),
        consumer=st.sampled_from(CONSUMERS),
        count=st.sampled_from([0, 1, 4, 160, 1003]),
        last=st.booleans(),
    )
    def expand(self, data: st.DataObject, consumer: str, count: int, last: bool) -> None:
        """A step from where it stands, or by somebody who was thought dead, from where it stood."""
        push_id = data.draw(st.sampled_from(sorted(name for name, model in self.pushes.items() if model.walks)))
        model = self.pushes[push_id]
        at = model.walks[-data.draw(st.integers(1, min(2, len(model.walks))))]
        targets = {"apns": [Target(n, f"{push_id}-{n}") for n in range(at.total, at.total + count)]}
        cursor = None if last else f"after {at.step}"
        end = self.run(self.stores[consumer].expansions.advance(at, targets, cursor=cursor, lease=1000))
        if at is not model.walks[-1] or not model.expanding or model.cancelled:
            assert end is None
            return
        assert end == Expansion(at.push, at.step + 1, cursor or "", at.total + count)
        assert self.run(self.stores["b"].expansions.load("shop", push_id)) == (None if last else end)
        model.walks.append(end)
        model.total += count
        model.expanding = not last

    @rule(
        consumer=st.sampled_from(CONSUMERS),
        lane=st.sampled_from(["urgent", "bulk"]),
        wanted=st.sampled_from([1, 300]),
        route=st.sampled_from([ROUTE, *ACCOUNTS]),
    )
    def take(self, consumer: str, lane: Lane, wanted: int, route: Route) -> None:
        store = self.stores[consumer]
        self.hold(store, self.run(take(store, lane, targets=wanted, route=route)))

    @precondition(lambda self: self.holdings)
    @rule(data=st.data(), end=st.sampled_from(VERDICTS), part=st.sampled_from(["all", "some", "mixed"]))
    def settle(self, data: st.DataObject, end: Callable[[], tuple[Verdict, Outcome | None]], part: str) -> None:
        holding = self.holdings[data.draw(st.integers(0, len(self.holdings) - 1))]
        chunk = holding.taken.chunk
        indexes = [target.index for target in chunk.targets]
        if part == "some":
            indexes = indexes[data.draw(st.integers(0, len(indexes) - 1)) :: 2]
        settlements = []
        for place, index in enumerate(indexes):
            verdict, outcome = (VERDICTS[(place + chunk.turn) % len(VERDICTS)] if part == "mixed" else end)()
            settlements.append(settlement(chunk, index, verdict, outcome))
        holding.said |= set(indexes)
        finished = [holding.taken.ref] if len(holding.said) == len(chunk.targets) else []
        self.record(holding.store, settlements, finished)

    @precondition(lambda self: any(holding.taken.skip for holding in self.holdings))
    @rule()
    def settle_what_is_to_be_skipped(self) -> None:
        """All of it in one batch, as a dispatcher does."""
        for store in self.stores.values():
            own = [holding for holding in self.holdings if holding.store is store and holding.taken.skip]
            settlements = [
                settlement(holding.taken.chunk, index, Ended(end), None)
                for holding in own
                for index, end in holding.taken.skip.items()
            ]
            for holding in own:
                holding.said |= set(holding.taken.skip)
            self.record(store, settlements, [holding.taken.ref for holding in own])

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A process says nothing more about an entry: it is handed out again, to it or to the process that has it."""
        holding = self.holdings.pop(data.draw(st.integers(0, len(self.holdings) - 1)))

        async def forget() -> None:
            holding.store.queue.forget([holding.taken.ref])

        self.run(forget())

    def record(self, store: AnyStore, settlements: list[Settlement], finished: list[EntryRef]) -> None:
        effective = []
        for each in settlements:
            chunk, index = each.delivery.chunk, each.delivery.target.index
            model = self.pushes[chunk.push_id]
            if model.open(index, chunk.turn):
                effective.append((chunk.push_id, index, each.verdict))
                if isinstance(each.verdict, Ended):
                    model.ended[index] = each.verdict.end
                    if each.verdict.dead_letter:
                        model.dead[index] = chunk.turn
                else:
                    model.turns[index] = chunk.turn + 1
        took = self.run(store.queue.settle("shop", settlements, finished))
        assert [(each.delivery.chunk.push_id, each.delivery.target.index, each.verdict) for each in took] == effective
        for push_id in {each.delivery.chunk.push_id for each in settlements}:
            self.rows_are_what_happened(push_id)

    @rule(after=st.sampled_from([0, 10, 5000]), consumer=st.sampled_from(CONSUMERS))
    def promote(self, after: int, consumer: str) -> None:
        for route in ACCOUNTS:
            self.run(self.stores[consumer].queue.promote(route, moment() + after))

    @rule(after=st.sampled_from([0, 10, 5000]), consumer=st.sampled_from(CONSUMERS))
    def launch(self, after: int, consumer: str) -> None:
        now = moment() + after
        due = [
            model
            for model in self.pushes.values()
            if model.due is not None and model.due <= now and not model.cancelled
        ]
        assert self.run(self.stores[consumer].queue.launch("shop", now)) == len(due)
        for model in due:
            model.due = None

    @precondition(lambda self: any(model.dead for model in self.pushes.values()))
    @rule(consumer=st.sampled_from(CONSUMERS), most=st.sampled_from([1, 100, 2000]), steps=st.sampled_from([1, 50]))
    def replay(self, consumer: str, most: int, steps: int) -> None:
        """A replay of everything, of which the worker may die half-way: what it has not moved stays dead."""
        dead = self.stores[consumer].dead
        before = {push_id: self.run(dead.count("shop", DeadFilter(push=push_id))) for push_id in self.pushes}
        assert before == {push_id: len(model.dead) for push_id, model in self.pushes.items()}
        job = self.run(dead.request(ReplaySpec("shop"))).job
        moved = 0
        for _ in range(steps):
            step = self.run(dead.step("shop", job, most=most))
            moved += step.moved
            if step.over:
                break
        rows, cursor = self.run(dead.page("shop", DeadFilter(), cursor="", limit=5000))
        assert cursor is None
        assert moved == sum(before.values()) - len(rows)
        indexes = self.run(self.left_dead(consumer))
        for push_id, model in self.pushes.items():
            for index in [index for index in model.dead if (push_id, index) not in indexes]:
                assert not model.cancelled
                model.turns[index] = model.dead.pop(index) + 1
                del model.ended[index]

    async def left_dead(self, consumer: str) -> set[tuple[str, int]]:
        """Push and index of all dead letters, by their token's hash."""
        rows, _ = await self.stores[consumer].dead.page("shop", DeadFilter(), cursor="", limit=5000)
        hashes = {row.token_hash for row in rows}
        return {
            (push_id, index)
            for push_id, model in self.pushes.items()
            for index in range(model.total)
            if hashed(push_id, index) in hashes
        }

    @precondition(lambda self: self.pushes)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        push_id = data.draw(st.sampled_from(sorted(self.pushes)))
        model = self.pushes[push_id]
        if model.state == "done":
            with pytest.raises(Conflict):
                self.run(self.stores["c"].pushes.cancel("shop", push_id))
        else:
            model.cancelled = True
            assert self.run(self.stores["c"].pushes.cancel("shop", push_id)) is not None

    @rule(dead=st.sampled_from(CONSUMERS), heir=st.sampled_from(CONSUMERS))
    def die(self, dead: str, heir: str) -> None:
        """The consumer is thought dead, and another one takes over. It may go on all the same, beside its successor."""
        if dead != heir:
            self.run(self.world.kill(dead))
            for route in ACCOUNTS:
                self.hold(self.stores[heir], self.run(self.stores[heir].queue.reclaim(route)))
            self.stores[dead] = self.run(self.world.store(dead))

    @rule(consumer=st.sampled_from(CONSUMERS))
    def restart(self, consumer: str) -> None:
        """The process starts again with its name; the earlier one may still settle."""
        self.stores[consumer] = self.run(self.world.store(consumer))

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def status_is_what_happened(self) -> None:
        for push_id, model in self.pushes.items():
            status = self.run(self.stores["a"].pushes.status("shop", push_id))
            assert status is not None
            assert msgspec.structs.asdict(status.counts) == model.expected()
            assert status.state == model.state

    def rows_are_what_happened(self, push_id: str) -> None:
        """Of each delivery that has ended, in the order of their indexes; of a large push what was not sent."""
        model = self.pushes[push_id]
        found = self.run(self.stores["a"].pushes.deliveries("shop", push_id, outcome=None, cursor="", limit=5000))
        assert found is not None
        assert [(row.token_hash, row.outcome) for row in found[0]] == [
            (hashed(push_id, index), end)
            for index, end in sorted(model.ended.items())
            if model.total <= 1000 or end != "sent"
        ]

    @invariant()
    def gauges_are_what_happened(self) -> None:
        gauges = self.run(self.stores["a"].gauges({"shop": PLATFORMS}))
        models = self.pushes.values()
        assert sum(gauges.pending.values()) == sum(model.left for model in models)
        assert gauges.apps["shop"].scheduled == sum(model.total for model in models if model.state == "scheduled")

    def teardown(self) -> None:
        """Everybody dies; one newcomer brings everything to its end."""
        try:
            self.finish()
        finally:
            self.stack.close()

    def finish(self) -> None:
        for name in CONSUMERS:
            self.run(self.world.kill(name))
        heir = self.run(self.world.store("heir"))
        self.run(heir.queue.beat())
        self.run(heir.queue.launch("shop", moment() + 10_000))
        for model in self.pushes.values():
            model.due = model.due if model.cancelled else None
            if model.expanding and not model.cancelled:
                self.run(heir.expansions.advance(model.walks[-1], {}, cursor=None, lease=0))
                model.expanding = False
        while True:
            taken: list[Taken] = []
            for route in ACCOUNTS:
                self.run(heir.queue.promote(route, moment() + 10_000))
                taken += self.run(heir.queue.reclaim(route))
                for lane in ("urgent", "bulk"):
                    taken += self.run(take(heir, lane, route=route))
            if not taken:
                break
            before = len(self.holdings)
            self.hold(heir, taken)
            for holding in self.holdings[before:]:
                chunk = holding.taken.chunk
                settlements = [
                    settlement(chunk, target.index, Ended(holding.taken.skip.get(target.index, "sent")))
                    for target in chunk.targets
                ]
                self.record(heir, settlements, [holding.taken.ref])
        self.status_is_what_happened()
        for push_id, model in self.pushes.items():
            self.rows_are_what_happened(push_id)
            assert len(model.ended) == (0 if model.never_began else model.total)
        gauges = self.run(heir.gauges({"shop": PLATFORMS}))
        assert (gauges.apps["shop"].total_pending, gauges.retry_pending, gauges.apps["shop"].scheduled) == (0, 0, 0)
        assert self.run(entries_of(heir)) == 0


@pytest.mark.parametrize(("backend", "shards"), [("memory", 1), ("valkey", 1), ("redis", 2)])
def test_any_order_of_steps(backend: Backend, shards: int) -> None:
    config = StoreConfig(chunk_size=150, shards=shards)
    with backend_server(backend) as server:
        machine = type("Machine", (StoreMachine,), {"server": server, "config": config})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=15,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
