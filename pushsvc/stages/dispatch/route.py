"""The worker of one route: reads its lanes and keeps the provider's window full."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from ...background import pulse
from ...errors import StoreUnavailable
from ...model.delivery import SUPERSEDED, Delivery
from ...model.push import LANES, Route, Target
from ...ports.entries import Revoked
from ...ports.provider import Provider
from ...telemetry import REDIS, get_logger
from .congestion import Congestion
from .context import DispatchContext
from .flights import Flight, Flights
from .health import UNBOUNDED
from .holdings import Holdings
from .lanes import SLICE, OpenEntry
from .limits import Gate, Pacer, RouteLimits
from .metrics import RouteMetrics
from .reader import Reader
from .recorder import Recorder
from .replacing import REPLACED, Replacing
from .retries import Retries
from .settling import Settler
from .watch import RouteWatch

BURST: Final = 64
"""Deliveries submitted before other routes and the sockets get the loop again. Four times as many made urgent pushes
behind a broadcast wait about four times as long (`tests/bench/lanes.py`)."""

RESERVE: Final = 0.05
"""The share of the window that only urgent deliveries may use."""


class RouteWorker:
    """Sends for one route until stopped. All its methods run in one event loop."""

    def __init__(self, context: DispatchContext, provider: Provider, settler: Settler, limits: RouteLimits) -> None:
        self.route: Route = provider.route
        self._provider = provider
        self._settler = settler
        self._queue, self._config = context.queue, context.config
        self._wall_clock, self._random = context.wall_clock, context.random
        self._lease, self._preemption = context.lease, context.preemption
        self._loop = asyncio.get_running_loop()
        self._metrics = RouteMetrics(self.route)
        self._watch = RouteWatch(self.route, self._config.retry, self._metrics, self._loop.time())
        self.health = self._watch.health
        self._later: asyncio.TimerHandle | None = None
        self._later_at = 0.0
        self._stopping = False
        self._pump_scheduled = False
        self._congestion = Congestion(self._loop.time())
        self._replacing = Replacing()
        recorder = Recorder(settler, context.hash_token)
        self._settle, self._expire = recorder.settle, recorder.expire
        self._flights = Flights(
            *(context, self._watch, self._metrics, recorder, self._congestion, self._replacing),
            on_judged=self._pump_unless_scheduled,
        )
        self._holdings = Holdings(
            *(context, self.route, settler, recorder, self._watch.parts, self._metrics),
            clock=self._loop.time,
            wake=self.wake,
        )
        self._lanes = self._holdings.lanes
        self._rechecks = self._holdings.rechecks
        self.retries = Retries(context, self.route)
        self._reader = Reader(context, self.route, settler, self._holdings, in_flight=lambda: self._flights.in_flight)
        self._log = get_logger("dispatch").bind(app=self.route.app, platform=self.route.platform)
        self._gate: Gate | None = None
        self._pacer: Pacer | None = None
        if context.limiter is not None:
            self._gate = self._holdings.open_gate(context.limiter)
            self._pacer = Pacer((), context.limiter, wake=self.wake)
            self.limit(limits)
        provider.on_room(self.wake)

    # --- reading ------------------------------------------------------------

    async def run(self) -> None:
        """Read, promote and take over entries until cancelled."""
        await self._reader.enrol()
        async with asyncio.TaskGroup() as tasks:
            for lane in LANES:
                tasks.create_task(self._reader.read(lane))
            for part in (self._gate, self._pacer):
                if part is not None:
                    tasks.create_task(part.run())
            tasks.create_task(self._rechecks.run())
            tasks.create_task(self._each(self._rest, self._promote))
            tasks.create_task(self._each(partial(pulse, self._config.reclaim_every), self._reader.reclaim))
            tasks.create_task(self._each(partial(pulse, self._config.lapse_every), self._lapse))

    def stop(self) -> None:
        """Submit nothing more. What was read and not sent stays in Redis for another process."""
        self._stopping = self._reader.stopping = True

    @property
    def held(self) -> dict[str, str]:
        """The route and its parts that currently do not send, with the reason."""
        now = self._loop.time()
        return self._watch.held(self._provider, now, now - self._flights.unanswered_since)

    @property
    def worked(self) -> dict[str, float]:
        """Seconds since the route, and each of its parts that was in question, was last seen to work."""
        return self._watch.seconds_since_work(self._loop.time())

    def use(self, provider: Provider) -> None:
        """Use another provider of the same route from now on, even if the route is held. Outcomes of what the old one
        has in flight are still recorded; its owner closes it."""
        self._provider = provider
        self._flights.begin_anew(self._loop.time())
        provider.on_room(self.wake)
        self.health.probe_now()
        self.wake()

    def limit(self, limits: RouteLimits) -> None:
        if self._gate is not None and self._pacer is not None:
            self._gate.use(limits)
            self._pacer.use(limits.paced(self.route))
            if limits.gated:
                self._holdings.ask_first()
            self.wake()

    async def _each(self, pause: Callable[[], Awaitable[None]], step: Callable[[], Awaitable[None]]) -> None:
        who = ("upkeep", self.route, step.__name__)
        while not self._stopping:
            try:
                await step()
                REDIS.end(who)
            except StoreUnavailable as error:
                REDIS.away(who, error)
            await pause()

    async def _promote(self) -> None:
        self.flush_metrics()
        self._look()
        await self.retries.promote()

    async def _rest(self) -> None:
        busy = self._flights.in_flight or any(self._holdings.held(lane) for lane in LANES)
        await self.retries.rest(idle=not busy and self.health.is_open and bool(self._provider.room))

    async def _lapse(self) -> None:
        if self.health.trouble is not None or self._provider.trouble:
            await self._reader.lapse()

    def _look(self) -> None:
        """Publish the state of the route; while it does not send, end expired deliveries in memory, and read on."""
        at = self._loop.time()
        self._watch.tick(self._provider, at, at - self._flights.unanswered_since)
        if not self.health.is_open or not self._provider.room:
            now = int(self._wall_clock() * 1000)
            for entry, targets in self._holdings.expired(now):
                self._expire(entry, targets, now)
            self._holdings.signal_space()

    def flush_metrics(self) -> None:
        self._metrics.flush()
        self._settler.flush_metrics()

    def forget_metrics(self) -> None:
        self._metrics.held(set())

    async def revoke(self, revoked: Revoked) -> None:
        """Remove what is revoked, which the caller has just added to the `RevocationLog`: then none of it waits."""
        await self._holdings.revoke(revoked)

    async def hand_back(self) -> None:
        """Return everything that waits here to Redis, because this process no longer serves the route."""
        await self._holdings.hand_back()

    def give_up(self) -> None:
        """Drop what is not in flight, because the lease has lapsed and others may have taken it over."""
        self._log.warning("lease_lapsed", withdrawn=self._holdings.withdraw())

    # --- sending ------------------------------------------------------------

    def wake(self) -> None:
        """Look soon whether something can be sent."""
        if not self._pump_scheduled and self._lanes and not self._stopping:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump_unless_scheduled(self) -> None:
        if not self._pump_scheduled:
            self._pump()

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
        flights = self._flights
        reserve = int((room + flights.in_flight) * RESERVE)
        budget = min(room, BURST, allowance)
        pacer, permits = self._pacer, None
        if pacer:
            budget, permits = self._paced(pacer, budget)
        granted, fresh = budget, 0
        now = int(self._wall_clock() * 1000)
        if self._rechecks.needed:
            self._rechecks.look(budget, now)
        history = self._queue.history
        submit, on_outcome = self._provider.submit, flights.take
        overtaken = self._preemption.overtaken(self.route, started)
        calm, lean = self._congestion.calm, self._congestion.lean
        self._congestion.choose(started, lean=bool(overtaken))
        lease, look_at = self._lease, budget - SLICE
        while budget > 0 and self._lanes:
            if budget <= look_at:
                # A stop of the whole process may have come between two slices.
                if not lease.holds:
                    break
                look_at = budget - SLICE
            drawn = self._lanes.draw(
                budget,
                spare=min(room - reserve, calm.limit - flights.in_flight),
                lean=lean.limit - flights.in_flight,
                overtaken=overtaken,
                permits=permits,
            )
            if not drawn:
                break
            for entry, targets in drawn:
                chunk = entry.chunk
                if entry.ref.history != history:
                    # Read from a server that is no longer the primary: it is read again from the new one.
                    self._settler.drop([(entry, targets)])
                    continue
                if chunk.expires_at <= now:
                    self._expire(entry, targets, now)
                    continue
                if chunk.message.collapse:
                    targets = self._latest(entry, targets, now)
                passed = entry.passed
                for target in targets:
                    submit(Flight(chunk, target, passed, entry, started, now, False), on_outcome)
                sent = len(targets)
                flights.expect(sent, started)
                budget -= sent
                room -= sent
                if permits is not None and not entry.counted:
                    permits -= sent
                    fresh += sent
        self._holdings.signal_space()
        if pacer:
            pacer.spend(fresh, granted - budget - fresh)
        if allowance != UNBOUNDED:
            health.spend(granted - budget, started)
        if granted > 0 >= budget and room > 0 and self._lanes:
            self.wake()

    def _probe(self, started: float, room: int) -> None:
        """Send one delivery of a held route if a probe is due, and schedule the next check."""
        health = self.health
        due = health.allowance(started) > 0
        if not due and not health.wants_others(started):
            self._wake_at(health.look_at(started))
            return
        now = int(self._wall_clock() * 1000)
        is_fresh = partial(self._rechecks.is_fresh, now=now)
        drawn = None
        if room > 0:
            drawn = self._lanes.draw_probe(
                *(health.probe_lanes(due=due), health.suspects),
                suspects_first=health.suspects_first,
                only_others=not due,
                is_fresh=is_fresh,
            )
        if drawn is None:
            if not due:
                self._wake_at(health.look_at(started))
            return  # The pump is woken when there is room, something to send, or an answer of the store.
        entry, target = drawn
        self._holdings.signal_space()  # whatever becomes of it
        if entry.ref.history != self._queue.history:
            self._settler.drop([(entry, (target,))])
            self.wake()
            return
        if entry.chunk.expires_at <= now:
            self._expire(entry, (target,), now)
            self.wake()
            return
        if entry.chunk.message.collapse and not self._latest(entry, (target,), now):
            self.wake()
            return
        health.spend(1, started)
        self._flights.expect(1, started)
        self._provider.submit(Flight(entry.chunk, target, entry.passed, entry, started, now, True), self._flights.take)

    def _latest(self, entry: OpenEntry, targets: tuple[Target, ...], now: int) -> tuple[Target, ...]:
        """Return the targets without those that a later push with the same `collapse` has reached: they end here."""
        ahead, behind = self._replacing.split(entry.chunk, targets, now)
        for target in behind:
            self._settle(Delivery(entry.chunk, target), entry, REPLACED, now, SUPERSEDED)
        return ahead

    def _wake_at(self, when: float) -> None:
        """Call the pump at `when`, with one timer however often this is called."""
        if self._later is not None:
            if self._later_at <= when:
                return
            self._later.cancel()
        self._later, self._later_at = self._loop.call_at(when, self._ring), when

    def _ring(self) -> None:
        """Run the pump when the timer fires. It may fire early, by the resolution of the event loop's clock (uvloop: 1
        ms); the pump then asks for the same time again."""
        self._later = None
        self.wake()

    # --- limits -------------------------------------------------------------

    def _paced(self, pacer: Pacer, budget: int) -> tuple[int, int]:
        """Return how many may go, and how many of those that no limit has counted."""
        again, permits = pacer.permits_again(), pacer.permits()
        counted = self._lanes.counted
        fresh = sum(self._lanes.size.values()) - counted
        if again < min(budget, counted + fresh) or permits < min(budget, fresh):
            # The pump is woken when there are more.
            pacer.want(min(budget, fresh), min(budget, counted))
        return max(0, min(budget, again)), max(0, permits)
