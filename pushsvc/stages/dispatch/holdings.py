"""What a route has in memory and has not sent: from admission until it is drawn or revoked.

Admitted entries wait in the gate until the limits admit them, and then in the lanes. A revocation reaches them in
either (see `revoking.py`), and so does the expiry of the process's own lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from ...model.delivery import Delivery, Ended, Retry, Verdict
from ...model.devices import Environment
from ...model.push import LANES, Lane, Route, Target
from ...model.routing import CARRIERS, platform_of
from ...ports.entries import Revoked, Taken
from ...ports.limits import Limiter
from ...rules.policy import left_out, look_again
from .context import DispatchContext
from .lanes import Choice, Lanes, OpenEntry, Withdrawn
from .limits import RATE_LIMITED, Gate, RouteLimits
from .metrics import RouteMetrics
from .parts import Parts
from .rechecks import Rechecks
from .recorder import Recorder, waits
from .revoking import chosen_by, everything
from .settling import Settler

NO_ROUTE: Final = "no_route"
UNREACHABLE: Final = Ended("failed")
"""Ends without a dead letter, because it could not be replayed as it is."""

RECALLED: Final = "recalled"
CANCELLED: Final = Ended("cancelled")
DROPPED: Final = Ended("suppressed")
"""Ends because the limits of the app drop what exceeds them."""

BREATH: Final = 500
"""Deliveries taken back before others get the loop again."""

PART_HELD: Final = "part_held"

OTHER_ACCOUNT: Final = "other_account"
"""The reason of what goes on by another account at the same provider: its device has another environment by now."""


class Mark(NamedTuple):
    """A point in time, to determine later what has been revoked since, and whether the lease ran out or another server
    became the primary."""

    revocation: int
    generation: int
    history: int


class Holdings:
    """The entries of one route, by their place. `clock` returns monotonic seconds, `wall_clock` Unix seconds."""

    def __init__(
        self,
        context: DispatchContext,
        route: Route,
        settler: Settler,
        recorder: Recorder,
        parts: Parts,
        metrics: RouteMetrics,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """Start without entries. `wake` is called when there may be something to draw."""
        self.lanes = Lanes()
        self.gate: Gate | None = None
        self.space: dict[Lane, asyncio.Event] = {lane: asyncio.Event() for lane in LANES}
        """Set while a lane has room for more."""
        self._enqueue = self.lanes.add
        self._queue, self._config = context.queue, context.config
        self._wall_clock, self._random = context.wall_clock, context.random
        self._lease, self._revocations = context.lease, context.revocations
        self._environments = context.environments
        self._settler = settler
        self._recorder = recorder
        self._parts = parts
        self._metrics = metrics
        self._preemption = context.preemption
        self._clock = clock
        self._wake = wake
        self._route = route
        self.rechecks = Rechecks(context, route.app, self.lanes, settler, answered=self._ready)

    def _ready(self) -> None:
        """Go on after an answer of the store or of the limits."""
        self.signal_space()
        self._wake()

    # --- the limits -----------------------------------------------------------

    def open_gate(self, limiter: Limiter) -> Gate:
        """Return the gate for what is admitted after `ask_first`."""
        self.gate = Gate(
            self._route,
            RouteLimits(),
            limiter,
            self.lanes,
            asking=lambda: partial(self._pass, self.mark()),
            refuse=self._refuse,
            wake=self._ready,
            congested=lambda: self._settler.congested,
            overtaken=lambda lane: lane in self._preemption.overtaken(self._route, self._clock()),
        )
        return self.gate

    def ask_first(self) -> None:
        """Send everything that is admitted from now on through the gate. This is never undone, so that nothing
        overtakes the entries that wait in the gate."""
        assert self.gate is not None
        self._enqueue = self.gate.add

    def _refuse(self, entry: OpenEntry, target: Target, wait_ms: int, limits: RouteLimits) -> None:
        """Let a target that is over its limit wait in Redis, without costing an attempt, or end it."""
        now = int(self._wall_clock() * 1000)
        chunk = entry.chunk
        if entry.revoked:
            # Its push was cancelled during the question, and has been reported as cancelled.
            self._recorder.settle(Delivery(chunk, target), entry, CANCELLED, now, CANCELLED.end)
            return
        # Nothing was asked of this provider before: what comes from the live channel has one turn behind it.
        first = 1 + (bool(chunk.home) and chunk.channel not in CARRIERS)
        drops = limits.on_exceed == "drop" and chunk.turn == first
        verdict = DROPPED if drops else waits(chunk, now, wait_ms, counted=False)
        self._metrics.limited()
        self._recorder.settle(Delivery(chunk, target), entry, verdict, now, RATE_LIMITED)

    # --- room -----------------------------------------------------------------

    def signal_space(self) -> None:
        low_water = self._config.prefetch - self._config.prefetch // 4
        for lane in LANES:
            if self.held(lane) <= low_water:
                self.space[lane].set()
        if self.gate is not None:
            self.gate.refill()

    def held(self, lane: Lane) -> int:
        """Return the number of targets of a lane that are in memory and not yet sent."""
        size = self.lanes.size[lane]
        return size if self.gate is None else size + self.gate.size[lane]

    def expired(self, now: int) -> Withdrawn:
        """Remove and return the waiting targets that had expired at `now` (Unix ms)."""
        over = self.lanes.expired(now)
        if self.gate is not None:
            over += self.gate.sift(lambda entry: entry.left if entry.chunk.expires_at <= now else ())
        return over

    # --- admitted -------------------------------------------------------------

    def admit(self, taken: list[Taken], mark: Mark) -> None:
        """Take what was read, asked for at `mark`: it may be sent, less what was taken back since. Where that is not
        known any more, all of it is read again; so it is if another primary has answered, which may not know yet what
        was sent."""
        if not taken:
            return
        unchanged = self.mark() == mark._replace(revocation=self._revocations.number)
        if not self._lease.holds or not unchanged or not self._revocations.knows(mark.revocation):
            self._queue.forget([each.ref for each in taken])
            return
        now = int(self._wall_clock() * 1000)
        revoked = self._revocations.since(mark.revocation)
        for each in taken:
            ref, chunk, skip = each.ref, each.chunk, each.skip
            targets = tuple(t for t in chunk.targets if t.index not in skip) if skip else chunk.targets
            entry = OpenEntry(ref, chunk, targets, now)
            if not entry.unsettled:
                self._settler.finish(entry)
                continue
            self._settler.hold(entry)
            if chunk.home:
                self.rechecks.needed = True
            for target in chunk.targets if skip else ():
                if target.index in skip:
                    end = skip[target.index]
                    reason = each.why.get(target.index, end)
                    verdict = left_out(chunk, end, reason, now)
                    if revoked is not None and chunk.push_id in revoked.pushes:
                        verdict, reason = CANCELLED, CANCELLED.end
                    self._recorder.settle(Delivery(chunk, target), entry, verdict, now, reason)
            if revoked is not None:
                self._take_back(entry, revoked)  # first: a cancel is reported before its push ends in another way
            if not chunk.message.body and chunk.unreachable:
                for target in entry.targets:
                    self._recorder.settle(Delivery(chunk, target), entry, UNREACHABLE, now, NO_ROUTE)
                continue
            if each.environments:
                self._redirect(entry, each.environments, now)
            if chunk.part:
                self._hold_part(entry, now)
            if each.again or chunk.counted:
                self.lanes.add(entry)
            else:
                self._enqueue(entry)
        if self.gate is not None:
            self.gate.refill()
        self._wake()

    def _redirect(self, entry: OpenEntry, environments: Mapping[int, Environment], now: int) -> None:
        """Let targets whose devices have another environment by now go on by the account that the app has there."""
        chunk, accounts = entry.chunk, self._environments(entry.chunk.app)
        own, platform = accounts.get(chunk.channel), platform_of(chunk.channel)
        if own is None:
            return
        gone = tuple(target for target in entry.left if environments.get(target.index, own) != own)
        entry.without(gone)
        reached = {there: route for route, there in accounts.items() if platform_of(route) == platform}
        for target in gone:
            route = reached.get(environments[target.index])
            verdict: Verdict = UNREACHABLE
            if route is not None:
                verdict = Retry(now, chunk.attempt, counted=chunk.counted, channel=route)
            reason = NO_ROUTE if route is None else OTHER_ACCOUNT
            self._recorder.settle(Delivery(chunk, target), entry, verdict, now, reason)

    def _hold_part(self, entry: OpenEntry, now: int) -> None:
        """Send one target of a held part of the route as a probe, or none; the others wait for another try."""
        admitted = self._parts.admits(entry.chunk.part, self._clock()) if entry.targets else None
        if admitted is None:
            return
        waiting, entry.targets = entry.targets[admitted:], entry.targets[:admitted]
        jitter, chunk = self._random(), entry.chunk
        verdict = look_again(chunk, now=now, jitter=jitter, policy=self._config.retry, part=chunk.part)
        for target in waiting:
            self._recorder.settle(Delivery(chunk, target), entry, verdict, now, PART_HELD)

    # --- taken back -----------------------------------------------------------

    def mark(self) -> Mark:
        """Return the present moment, for an answer that arrives later."""
        return Mark(self._revocations.number, self._lease.generation, self._queue.history)

    async def revoke(self, revoked: Revoked) -> None:
        """Remove what is revoked, which the caller has just added to the `RevocationLog`: then none of it waits."""
        held = self._settler.held(revoked.pushes)
        if not held and not revoked.tokens and not revoked.entries:
            return
        for entry in held:
            entry.revoked = True
        await self._let_all_go(chosen_by(revoked))

    async def hand_back(self) -> None:
        """Return everything that waits here to Redis, without costing an attempt, for the process that serves the route
        now."""
        await self._let_all_go(everything)

    async def _let_all_go(self, choose: Choice) -> None:
        asked = self.lanes.sift(choose)
        waiting = [] if self.gate is None else self.gate.sift(choose)
        self.signal_space()
        done = 0
        for counted, found in ((True, asked), (False, waiting)):
            for entry, targets in found:
                self._let_go(entry, targets, counted=counted)
                done += len(targets)
                if done >= BREATH:
                    done = 0
                    await asyncio.sleep(0)

    def withdraw(self) -> int:
        """Let go of all that waits here; returns how many deliveries."""
        given_up = self.lanes.sift(everything)
        if self.gate is not None:
            given_up += self.gate.sift(everything)
        self._settler.drop(given_up)
        self.signal_space()
        return sum(len(targets) for _, targets in given_up)

    def _take_back(self, entry: OpenEntry, revoked: Revoked, *, counted: bool = False) -> None:
        """Remove what is revoked from an entry that is in no queue."""
        gone = chosen_by(revoked)(entry)
        entry.without(gone)
        self._let_go(entry, gone, counted=counted)

    def _let_go(self, entry: OpenEntry, targets: tuple[Target, ...], *, counted: bool) -> None:
        """End the targets of a cancelled push; return others to Redis, without costing an attempt, to be checked
        again."""
        now = int(self._wall_clock() * 1000)
        chunk = entry.chunk
        verdict: Verdict = CANCELLED
        if not entry.revoked:
            verdict = waits(chunk, now, 0, counted=counted or chunk.counted)
        reason = CANCELLED.end if entry.revoked else RECALLED
        for target in targets:
            self._recorder.settle(Delivery(chunk, target), entry, verdict, now, reason)

    def _pass(self, mark: Mark, entries: Sequence[OpenEntry]) -> None:
        """Move entries that the limits admitted to the lanes. The limits were asked at `mark`. Where it is not known
        any more what was taken back since, everything is returned to Redis to be checked again."""
        if mark.generation != self._lease.generation:
            withdrawn = [(entry, entry.left) for entry in entries]
            for entry, left in withdrawn:
                entry.without(left)
            self._settler.drop(withdrawn)
            return
        revoked, known = self._revocations.since(mark.revocation), self._revocations.knows(mark.revocation)
        add = self.lanes.add
        for entry in entries:
            if not known:
                left = entry.left
                entry.without(left)
                self._let_go(entry, left, counted=True)
            elif revoked is not None:
                self._take_back(entry, revoked, counted=True)
            add(entry)
