"""One route's worker: reads its lanes, keeps the provider's window full, judges what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

from msgspec import Struct

from ..errors import StoreUnavailable
from ..model import (
    LANES,
    ROWS_FOR_ALL,
    Chunk,
    Delivery,
    Ended,
    Lane,
    Outcome,
    Retry,
    Route,
    Sent,
    Settlement,
    Target,
    Verdict,
)
from ..policy import EXPIRED, SENT, RetryPolicy, decide, look_again
from ..ports import DeliveryQueue, Limiter, Provider, Taken
from ..ports.entries import Revoked
from ..telemetry import REDIS, get_logger
from .congestion import Congestion
from .haste import TRICKLE, Haste
from .health import UNBOUNDED
from .lanes import Lanes, OpenEntry
from .lease import Lease, unlimited
from .limits import RATE_LIMITED, Gate, Pacer, RouteLimits
from .revoking import Heard, chosen_by, everything
from .settling import Settler
from .tally import Tally
from .watch import RouteWatch

BURST: Final = 64
"""Deliveries submitted before other routes and the sockets get the loop again. Four times as many made urgent pushes
behind a broadcast wait about four times as long (`tests/bench/lanes.py`)."""

RESERVE: Final = 0.05
"""The share of the window that only urgent deliveries may use."""

DROPPED: Final = Ended("suppressed")

NO_ROUTE: Final = "no_route"
UNREACHABLE: Final = Ended("failed")
"""No dead letter: nobody could send it again as it is."""

RECALLED: Final = "recalled"
CANCELLED: Final = Ended("cancelled")

LAPSED_LOOK: Final = 0.1
"""Seconds between two looks at a sign of life that has run out."""

LANDING: Final = 5.0
"""Seconds that what is in flight at a failover has to come back, before it is read from the new primary again."""
LANDING_LOOK: Final = 0.02

BREATH: Final = 500
"""Deliveries taken back before others get the loop again."""

PART_HELD: Final = "part_held"

DUE_STEP_MS: Final = 100
"""What waits for a limit falls due on such steps, so that the targets of one entry stay together in one entry."""


class DispatchConfig(Struct, frozen=True):
    """How a dispatcher works. Spans in seconds."""

    retry: RetryPolicy = RetryPolicy()
    prefetch: int = 2000
    """Targets a lane holds in memory at most, give or take one entry."""
    read_wait: float = 2.0
    promote_every: float = 0.2
    launch_every: float = 0.2
    """A scheduled push leaves at most about so much after its time."""
    reclaim_every: float = 5.0
    beat_every: float = 4.0
    takeover: float = 15.0
    """How long a sign of life is good for: without a newer one nothing is submitted."""
    drain_timeout: float = 25.0


class Mark(NamedTuple):
    """A moment, to tell later what has been taken back since, and whether our sign of life ran out."""

    heard: int
    generation: int


class Flight(Delivery, frozen=True, gc=False):
    """A delivery on its way: what the callback must know again."""

    entry: OpenEntry
    started: float
    probe: bool


class RouteWorker:
    """Sends for one route until stopped. All its methods run in one event loop."""

    def __init__(
        self,
        provider: Provider,
        queue: DeliveryQueue,
        settler: Settler,
        config: DispatchConfig,
        *,
        hash_token: Callable[[str], str],
        wall_clock: Callable[[], float],
        random: Callable[[], float],
        haste: Haste | None = None,
        heard: Heard | None = None,
        lease: Lease | None = None,
        limiter: Limiter | None = None,
        limits: RouteLimits | None = None,
    ) -> None:
        self.route: Route = provider.route
        self._provider = provider
        self._queue = queue
        self._settler = settler
        self._config = config
        self._hash_token = hash_token
        self._wall_clock = wall_clock
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._lanes = Lanes()
        self._space: dict[Lane, asyncio.Event] = {lane: asyncio.Event() for lane in LANES}
        self._tally = Tally(self.route)
        self._watch = RouteWatch(self.route, config.retry, self._tally, self._loop.time())
        self.health = self._watch.health
        self._later: asyncio.TimerHandle | None = None
        self._later_at = 0.0
        self._stopping = False
        self._history = queue.history
        self._pump_scheduled = False
        self._in_flight = 0
        self._congestion = Congestion(self._loop.time())
        self._haste = haste or Haste()
        self._heard = heard or Heard()
        self._lease = lease or unlimited()
        self._log = get_logger("dispatch").bind(app=self.route.app, platform=self.route.platform)
        self._limits = RouteLimits()
        self._gate: Gate | None = None
        self._pacer: Pacer | None = None
        self._enqueue = self._lanes.add
        if limiter is not None:
            self._gate = Gate(
                self.route,
                self._limits,
                limiter,
                self._lanes,
                asking=lambda: partial(self._pass, self._mark()),
                refuse=self._refuse,
                wake=self._passed,
                congested=lambda: settler.congested,
                overtaken=lambda lane: lane in self._haste.overtaken(self.route, self._loop.time()),
            )
            self._pacer = Pacer((), limiter, wake=self.wake)
            self.limit(limits or self._limits)
        provider.on_room(self.wake)

    # --- reading ------------------------------------------------------------

    async def run(self) -> None:
        """Read, promote and take over until cancelled."""
        await self._enrol()
        async with asyncio.TaskGroup() as tasks:
            for lane in LANES:
                tasks.create_task(self._read(lane))
            for part in (self._gate, self._pacer):
                if part is not None:
                    tasks.create_task(part.run())
            tasks.create_task(self._every(self._config.promote_every, self._promote))
            tasks.create_task(self._every(self._config.reclaim_every, self._reclaim))

    def stop(self) -> None:
        """Submit nothing more. What was read and not sent stays in Redis, for whoever comes next."""
        self._stopping = True

    @property
    def held(self) -> dict[str, str]:
        """What does not send now, the route or a part of it, by its name, and why."""
        return self._watch.held(self._provider, self._loop.time())

    def use(self, provider: Provider) -> None:
        """Send by another provider of the same route from now on, at once also where the route is held.

        What the old one has in flight still comes back here; its owner closes it.
        """
        self._provider = provider
        provider.on_room(self.wake)
        self.health.probe_now()
        self.wake()

    def limit(self, limits: RouteLimits) -> None:
        """Hold the route to these limits from now on."""
        self._limits = limits
        if self._gate is not None and self._pacer is not None:
            self._gate.use(limits)
            self._pacer.use(limits.paced(self.route))
            if limits.gated:
                # Once it has been needed the gate stays in the way, so that nothing overtakes what waits in it.
                self._enqueue = self._gate.add
            self.wake()

    async def _read(self, lane: Lane) -> None:
        space = self._space[lane]
        wait_ms = int(self._config.read_wait * 1000)
        pause = 0.05
        who = ("read", self.route, lane)
        while not self._stopping:
            wanted = self._config.prefetch - self._held(lane)
            if wanted < self._config.prefetch // 4:
                space.clear()
                await space.wait()
                continue
            if not self._lease.holds:
                await asyncio.sleep(LAPSED_LOOK)
                continue
            if self._history != self._queue.history:
                await self._land()
                continue
            mark = self._mark()
            try:
                taken = await self._queue.take(self.route, lane, targets=wanted, wait_ms=wait_ms)
                pause = 0.05
                REDIS.end(who)
            except StoreUnavailable as error:
                REDIS.begin(who, error=str(error))
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
                continue
            if taken and self._held(lane) + sum(len(t.chunk.targets) for t in taken) <= TRICKLE:
                self._haste.note(self.route, lane, self._loop.time())
            self._admit(taken, mark)

    async def _land(self) -> None:
        """Another server is the primary: let go of what was read from the old one, and return when what was sent of it
        is recorded on the new one. Read before that it would be sent again."""
        history = self._queue.history
        self._withdraw()
        last = self._loop.time() + LANDING
        sent: int | None = None
        while self._history != history:  # of several lanes the first to be done speaks for all
            if sent is None and (not self._in_flight or self._loop.time() >= last):
                sent = self._settler.handed_over
            if sent is not None and self._settler.recorded >= sent:
                self._history = history
                return
            await asyncio.sleep(LANDING_LOOK)

    async def _enrol(self) -> None:
        who = ("enrol", self.route)
        while True:
            try:
                await self._queue.enrol(self.route.app)
                REDIS.end(who)
                return
            except StoreUnavailable as error:
                REDIS.begin(who, error=str(error))
                await asyncio.sleep(0.5)

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        who = ("upkeep", self.route, step.__name__)
        while not self._stopping:
            try:
                await step()
                REDIS.end(who)
            except StoreUnavailable as error:
                REDIS.begin(who, error=str(error))
            await asyncio.sleep(seconds)

    async def _promote(self) -> None:
        self._tally.flush()
        self._look()
        await self._queue.promote(self.route, int(self._wall_clock() * 1000))

    def _look(self) -> None:
        """Say how the route is; while nothing goes, end what waits in memory and has expired."""
        self._watch.tick(self._provider, self._loop.time())
        if not self.health.is_open or not self._provider.room:
            now = int(self._wall_clock() * 1000)
            over = self._lanes.expired(now)
            for entry, targets in over:
                self._expire(entry, targets, now)
            if over:
                self._signal_space()

    def flush_metrics(self) -> None:
        """Make the last figures visible."""
        self._tally.flush()

    def forget_metrics(self) -> None:
        """The route is gone: so are the series that say how it is."""
        self._tally.held(set())

    async def _reclaim(self) -> None:
        mark = self._mark()
        if self._lease.holds and self._history == self._queue.history:
            self._admit(await self._queue.reclaim(self.route), mark)

    def _admit(self, taken: list[Taken], mark: Mark) -> None:
        if not taken:
            return
        if not self._lease.holds or mark.generation != self._lease.generation:
            self._queue.forget([each.ref for each in taken])
            return
        now = int(self._wall_clock() * 1000)
        revoked = self._heard.since(mark.heard)
        for each in taken:
            ref, chunk, skip = each.ref, each.chunk, each.skip
            targets = tuple(t for t in chunk.targets if t.index not in skip) if skip else chunk.targets
            entry = OpenEntry(ref, chunk, targets)
            if not entry.unsettled:
                self._settler.finish(entry)
                continue
            self._settler.hold(entry)
            for target in chunk.targets if skip else ():
                if target.index in skip:
                    end = skip[target.index]
                    verdict, reason = Ended(end), each.why.get(target.index, end)
                    if revoked is not None and chunk.push_id in revoked.pushes:
                        verdict, reason = CANCELLED, CANCELLED.end
                    self._settle(Delivery(chunk, target), entry, None, verdict, now, reason)
            if chunk.unreachable:
                for target in targets:
                    self._settle(Delivery(chunk, target), entry, None, UNREACHABLE, now, NO_ROUTE)
                continue
            if chunk.part:
                self._hold_part(entry, now)
            if revoked is not None:
                self._take_back(entry, revoked)
            if each.again or chunk.counted:
                self._lanes.add(entry)
            else:
                self._enqueue(entry)
        if self._gate is not None:
            self._gate.refill()
        self.wake()

    def _hold_part(self, entry: OpenEntry, now: int) -> None:
        """Of a part of the route that is held one target goes as a probe, or none; the others look again later."""
        admitted = self._watch.parts.admits(entry.chunk.part, self._loop.time()) if entry.targets else None
        if admitted is None:
            return
        waiting, entry.targets = entry.targets[admitted:], entry.targets[:admitted]
        jitter, chunk = self._random(), entry.chunk
        verdict = look_again(chunk, now=now, jitter=jitter, policy=self._config.retry, part=chunk.part)
        for target in waiting:
            self._settle(Delivery(chunk, target), entry, None, verdict, now, PART_HELD)

    # --- taken back -----------------------------------------------------------

    def _mark(self) -> Mark:
        """The present moment, for what is asked for now and comes later."""
        return Mark(self._heard.number, self._lease.generation)

    async def revoke(self, revoked: Revoked) -> None:
        """Let go of it: when this returns nothing of it waits here. The caller has added it to `heard` just before."""
        held = [entry for push_id in revoked.pushes for entry in self._settler.held(push_id)]
        if not held and not revoked.tokens and not revoked.entries:
            return
        for entry in held:
            entry.revoked = True
        choose = chosen_by(revoked)
        asked = self._lanes.sift(choose)
        waiting = [] if self._gate is None else self._gate.sift(choose)
        self._signal_space()
        done = 0
        for counted, found in ((True, asked), (False, waiting)):
            for entry, targets in found:
                self._let_go(entry, targets, counted=counted)
                done += len(targets)
                if done >= BREATH:
                    done = 0
                    await asyncio.sleep(0)

    def give_up(self) -> None:
        """Our sign of life has run out: what is not in flight may be another's by now."""
        self._log.warning("lease_lapsed", given_up=self._withdraw())

    def _withdraw(self) -> int:
        """Let go of all that waits here; returns how many deliveries."""
        given_up = self._lanes.sift(everything)
        if self._gate is not None:
            given_up += self._gate.sift(everything)
        self._settler.drop(given_up)
        self._signal_space()
        return sum(len(targets) for _, targets in given_up)

    def _take_back(self, entry: OpenEntry, revoked: Revoked, *, counted: bool = False) -> None:
        """The same for an entry that is in no line."""
        gone = chosen_by(revoked)(entry)
        entry.without(gone)
        self._let_go(entry, gone, counted=counted)

    def _let_go(self, entry: OpenEntry, targets: tuple[Target, ...], *, counted: bool) -> None:
        """Of a cancelled push they end. Others wait in Redis, at no cost of an attempt, to be looked at as they are
        taken again."""
        now = int(self._wall_clock() * 1000)
        chunk = entry.chunk
        verdict: Verdict = CANCELLED
        if not entry.revoked:
            verdict = _waits(chunk, now, 0, counted=counted or chunk.counted)
        reason = CANCELLED.end if entry.revoked else RECALLED
        for target in targets:
            self._settle(Delivery(chunk, target), entry, None, verdict, now, reason)

    def _pass(self, mark: Mark, entry: OpenEntry) -> None:
        """The limits let it go; it was asked for at `mark`."""
        if mark.generation != self._lease.generation:
            left = entry.left
            entry.without(left)
            self._settler.drop([(entry, left)])
            return
        if (revoked := self._heard.since(mark.heard)) is not None:
            self._take_back(entry, revoked, counted=True)
        self._lanes.add(entry)

    # --- sending ------------------------------------------------------------

    def wake(self) -> None:
        """Look soon whether something can be sent."""
        if not self._pump_scheduled and not self._stopping:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._stopping or self._settler.congested or not self._lanes or not self._lease.holds:
            return
        started = self._loop.time()
        room = self._provider.room
        health = self.health
        allowance = UNBOUNDED
        if not health.is_open:
            if health.trouble is not None:
                self._probe(started, room)
                return
            allowance = health.allowance(started)
            if not allowance:
                self._wake_at(health.next_at(started))
                return
        reserve = int((room + self._in_flight) * RESERVE)
        budget = min(room, BURST, allowance)
        pacer, permits = self._pacer, None
        if pacer:
            budget, permits = self._paced(pacer, budget)
        granted, fresh = budget, 0
        now = int(self._wall_clock() * 1000)
        history = self._queue.history
        submit, on_outcome = self._provider.submit, self._on_outcome
        overtaken = self._haste.overtaken(self.route, started)
        calm, lean = self._congestion.calm, self._congestion.lean
        self._congestion.turn(started, lean=bool(overtaken))
        lease = self._lease
        while budget > 0 and lease.holds:
            drawn = self._lanes.draw(
                budget,
                spare=min(room - reserve, calm.limit - self._in_flight),
                lean=lean.limit - self._in_flight,
                overtaken=overtaken,
                permits=permits,
            )
            if drawn is None:
                break
            entry, targets = drawn
            chunk = entry.chunk
            if entry.ref.history != history:
                # Read from a server that is no longer the primary: it is read again from the new one.
                self._settler.drop([(entry, targets)])
                continue
            if chunk.expires_at <= now:
                self._expire(entry, targets, now)
                continue
            for target in targets:
                submit(Flight(chunk, target, entry, started, False), on_outcome)
            self._in_flight += len(targets)
            budget -= len(targets)
            room -= len(targets)
            if permits is not None and not chunk.counted:
                permits -= len(targets)
                fresh += len(targets)
        self._signal_space()
        if pacer:
            pacer.spend(fresh, granted - budget - fresh)
        if allowance != UNBOUNDED:
            health.spend(granted - budget, started)
        if self._gate is not None:
            self._gate.refill()
        if granted > 0 >= budget and room > 0 and self._lanes:
            self.wake()

    def _probe(self, started: float, room: int) -> None:
        """The route is held: send one delivery where it is time for a probe, and come back when it is."""
        health = self.health
        due = health.allowance(started) > 0
        if not due and not health.wants_others(started):
            self._wake_at(health.look_at(started))
            return
        drawn = self._lanes.draw_probe(health.suspects, only_others=not due) if room > 0 else None
        if drawn is None:
            if not due:
                self._wake_at(health.look_at(started))
            return  # The pump is woken when there is room, or something to send.
        entry, target = drawn
        if entry.ref.history != self._queue.history:
            self._settler.drop([(entry, (target,))])
            self.wake()
            return
        now = int(self._wall_clock() * 1000)
        if entry.chunk.expires_at <= now:
            self._expire(entry, (target,), now)
            self.wake()
            return
        health.spend(1, started)
        self._in_flight += 1
        self._provider.submit(Flight(entry.chunk, target, entry, started, True), self._on_outcome)
        self._signal_space()

    def _wake_at(self, when: float) -> None:
        """Call the pump then, by one timer however often this is asked for."""
        if self._later is not None:
            if self._later_at <= when:
                return
            self._later.cancel()
        self._later, self._later_at = self._loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        """The timer has fired: perhaps before its time, by the resolution of the loop's clock (uvloop: 1 ms), so that
        the pump asks for the same instant once more."""
        self._later = None
        self.wake()

    def _signal_space(self) -> None:
        low_water = self._config.prefetch - self._config.prefetch // 4
        for lane in LANES:
            if self._held(lane) <= low_water:
                self._space[lane].set()

    def _held(self, lane: Lane) -> int:
        """Targets of a lane that are in memory and not yet sent."""
        size = self._lanes.size[lane]
        return size if self._gate is None else size + self._gate.size[lane]

    # --- limits -------------------------------------------------------------

    def _paced(self, pacer: Pacer, budget: int) -> tuple[int, int]:
        """How many may go, and how many of those that no limit has counted."""
        again, permits = pacer.permits_again(), pacer.permits()
        counted = self._lanes.counted
        fresh = sum(self._lanes.size.values()) - counted
        if again < min(budget, counted + fresh) or permits < min(budget, fresh):
            # The pump is woken when there are more.
            pacer.want(min(budget, fresh), min(budget, counted))
        return max(0, min(budget, again)), max(0, permits)

    def _passed(self) -> None:
        self._signal_space()
        self.wake()

    def _refuse(self, entry: OpenEntry, target: Target, wait_ms: int) -> None:
        """A target is over its limit: it waits in Redis, at no cost of an attempt, or ends."""
        now = int(self._wall_clock() * 1000)
        chunk = entry.chunk
        drops = self._limits.on_exceed == "drop" and chunk.turn == 1
        verdict = DROPPED if drops else _waits(chunk, now, wait_ms, counted=False)
        self._tally.limited()
        self._settle(Delivery(chunk, target), entry, None, verdict, now, RATE_LIMITED)

    def _expire(self, entry: OpenEntry, targets: tuple[Target, ...], now: int) -> None:
        for target in targets:
            self._settle(Delivery(entry.chunk, target), entry, None, EXPIRED, now, "ttl")

    # --- judging ------------------------------------------------------------

    def _on_outcome(self, delivery: Delivery, outcome: Outcome) -> None:
        assert isinstance(delivery, Flight)
        self._in_flight -= 1
        chunk = delivery.chunk
        now_monotonic = self._loop.time()
        now_wall = self._wall_clock()
        now = int(now_wall * 1000)
        verdict: Verdict = SENT
        if type(outcome) is Sent and outcome.status and not delivery.probe and not chunk.part:
            self.health.worked_at = now_monotonic
            if self.health.watching:
                self.health.worked(now_monotonic)
        else:
            blame = self._watch.judge(
                outcome,
                now_monotonic,
                token=delivery.target.token,
                push=chunk.push_id,
                part=chunk.part,
                probe=delivery.probe,
            )
            if type(outcome) is not Sent:
                policy = self._config.retry
                verdict = decide(chunk, outcome, now=now, jitter=self._random(), policy=policy, blame=blame)
                if type(verdict) is Retry and delivery.entry.revoked:
                    verdict = CANCELLED
        seconds = now_monotonic - delivery.started
        self._congestion.answered(seconds, self._in_flight, now_monotonic)
        self._tally.answered(outcome, chunk.lane, seconds, now_wall - chunk.starts_at / 1000)
        asked_at = now - int(seconds * 1000)
        self._settle(delivery, delivery.entry, outcome, verdict, now, outcome.reason, asked_at)
        self.wake()

    def _settle(
        self,
        delivery: Delivery,
        entry: OpenEntry,
        outcome: Outcome | None,
        verdict: Verdict,
        now: int,
        reason: str,
        asked_at: int | None = None,
    ) -> None:
        # A broadcast keeps no row for what was sent, so nobody would read the hash.
        silent = verdict is SENT and entry.chunk.total > ROWS_FOR_ALL
        settlement = Settlement(
            delivery, outcome, verdict, now, "" if silent else self._hash_token(delivery.target.token), reason, asked_at
        )
        self._settler.add(settlement, entry)


def _waits(chunk: Chunk, now: int, wait_ms: int, *, counted: bool) -> Verdict:
    """It goes again in so many ms, as the same attempt, or has expired by then."""
    due_at = -(-(now + max(1, wait_ms)) // DUE_STEP_MS) * DUE_STEP_MS
    return EXPIRED if due_at >= chunk.expires_at else Retry(due_at, chunk.attempt, chunk.part, counted)
