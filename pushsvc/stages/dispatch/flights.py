"""What one route has in flight at its provider, and the judgement of the answers.

The answers of one turn of the event loop are judged together in the next turn: one reading of the clocks, one look at
the congestion and one hand-over to the settler serve all that came in a read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from ...model.delivery import Delivery, Outcome, Retry, Sent, Settlement, Unavailable, Unconfirmed, Verdict
from ...rules.policy import SENT, Blame, decide
from .congestion import Congestion
from .context import DispatchContext
from .holdings import CANCELLED
from .lanes import OpenEntry
from .metrics import RouteMetrics
from .recorder import Recorder
from .replacing import Replacing
from .watch import RouteWatch


class Flight(Delivery, frozen=True, gc=False):
    """A delivery on its way: what the callback must know again."""

    passed: tuple[int, int]
    entry: OpenEntry
    started: float
    asked_at: int
    """The same in Unix ms."""
    probe: bool

    @property
    def cancelled(self) -> bool:
        return self.entry.revoked


class Flights:
    def __init__(
        self,
        context: DispatchContext,
        watch: RouteWatch,
        metrics: RouteMetrics,
        recorder: Recorder,
        congestion: Congestion,
        replacing: Replacing,
        *,
        on_judged: Callable[[], None],
    ) -> None:
        """Judge with these, and call `on_judged` when answers have made room."""
        self._policy, self._wall_clock, self._jitter = context.config.retry, context.wall_clock, context.random
        self._watch, self._metrics, self._recorder = watch, metrics, recorder
        self._congestion, self._replacing = congestion, replacing
        self._on_judged = on_judged
        self._loop = asyncio.get_running_loop()
        self._came: list[tuple[Flight, Outcome]] = []
        """Those that are not judged yet."""
        self._renewed_at = -inf
        self.in_flight = 0
        """The number of deliveries that were sent and not judged."""
        self.unanswered_since = inf
        """When the last request was answered, or the first was sent after that; infinity while none waits. A time-out
        is no answer."""

    def expect(self, count: int, at: float) -> None:
        """Note that this many more are in flight, from the instant `at` of the loop's clock on."""
        self.in_flight += count
        if count and self.unanswered_since > at:
            self.unanswered_since = at

    def begin_anew(self, at: float) -> None:
        """Note that what was sent up to `at` went to a provider that is no longer in use."""
        self._renewed_at, self.unanswered_since = at, inf

    def take(self, delivery: Flight, outcome: Outcome) -> None:
        """Take an answer, to be judged soon."""
        if not self._came:
            self._loop.call_soon(self._judge)
        self._came.append((delivery, outcome))

    def _judge(self) -> None:
        """Judge what came, and hand it over to be recorded."""
        answers, self._came = self._came, []
        at, wall = self._loop.time(), self._wall_clock()
        now = int(wall * 1000)
        others = self.in_flight - 1
        self.in_flight -= len(answers)
        judged: list[tuple[Settlement, OpenEntry]] = []
        seconds: list[float] = []
        kinds: list[type[Outcome]] = []
        answered = False
        health, settlement_of, delivered = self._watch.health, self._recorder.settlement, self._metrics.delivered
        for delivery, outcome in answers:
            chunk, entry, kind = delivery.chunk, delivery.entry, type(outcome)
            verdict: Verdict = SENT
            try:
                usual = kind is Sent and outcome.status and not (delivery.probe or chunk.part or chunk.message.collapse)
                if usual and not health.watching:
                    health.worked_at, answered = at, True
                else:
                    answered = answered or kind is not Unavailable or outcome.reason != "timeout"
                    verdict = self._verdict(delivery, outcome, at, now)
                settlement = settlement_of(delivery, entry, outcome, verdict, now, outcome.reason, delivery.asked_at)
            except Exception as error:  # the others have nothing to do with it
                self._loop.call_exception_handler({"message": "an answer was not judged", "exception": error})
                continue
            judged.append((settlement, entry))
            kinds.append(kind)
            seconds.append(at - delivery.started)
            delivered[chunk.lane](wall - chunk.starts_at / 1000)
        if answered:
            self.unanswered_since = at if self.in_flight else inf
        if judged:
            self._congestion.answered(seconds, others, at)
            self._metrics.answered(kinds, seconds)
            self._recorder.add(judged)
        self._on_judged()

    def _verdict(self, delivery: Flight, outcome: Outcome, at: float, now: int) -> Verdict:
        """Return what becomes of a delivery after this answer, which may say something about the route as well."""
        chunk, kind = delivery.chunk, type(outcome)
        blame: Blame = "delivery"
        # Most answers say that the provider works, and most of the time that is nothing new.
        works = kind is Unconfirmed or (kind is Sent and outcome.status)
        if works and not delivery.probe and not chunk.part:
            health = self._watch.health
            health.worked_at = at
            if health.watching:
                health.worked(at)
        else:
            token, part = delivery.target.token, chunk.part
            blame = self._watch.judge(
                outcome,
                at,
                token=token,
                push=chunk.push_id,
                lane=chunk.lane,
                part=part,
                probe=delivery.probe,
                outdated=delivery.started <= self._renewed_at,
            )
        if kind is Sent:
            if chunk.message.collapse:
                self._replacing.note(chunk, delivery.target, now)
            return SENT
        verdict = decide(chunk, outcome, now=now, jitter=self._jitter(), policy=self._policy, blame=blame)
        return CANCELLED if type(verdict) is Retry and delivery.entry.revoked else verdict
