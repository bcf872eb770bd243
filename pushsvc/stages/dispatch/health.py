"""Whether a route may send, and how much: a state machine with the clock as an argument. No I/O.

         +---------------- works (false alarm) ----------------+
         v                                                     |
    +--> open --- trouble of the whole route --> held --- a probe that works --> opening --- full rate --> open
    |                                             ^ |                              |
    |                                             +-+ a probe in trouble           |
    |                                             ^   (the next one later)         |
    |                                             +------- trouble again ----------+

**What is trouble of the whole route.** A refusal of the credentials, or a throttle that names the route, is so by one
answer (`evidence.AT_ONCE`). A 5xx, a time-out or a broken connection may be one delivery's own: it takes `ENOUGH` of
them, for different tokens, with no answer in between that the provider works. One token alone never holds a route by
these. The pushes in trouble since something worked are the *suspects*. Trouble that is older than the longest wait for
a retry does not count any more.

**Trouble of a push's own.** Tokens of a `FEW` suspects alone may hold a route, and a single refusal does, but then a
delivery of any other push goes as a probe at once; of more suspects, one of a lane that has none of them. Where that
works the trouble was the suspects' own: the route is open, or opening if they were many, and for `GUILT` seconds they
prove nothing against it while anything works. `SOON` after the last answer that works they do again: a push that an
outage met is not bad, and may be all that is sent in the next one. So a push that breaks its provider, or that
something on the way refuses as if it were the credentials, delays the others by one round trip, and uses up its
attempts. Of refusals of fewer than `ENOUGH` tokens only these tokens are the cause, whichever push a probe of another
token was of: the rest of a broadcast may still be the first to meet credentials that are no longer good. What was
refused before a correction was not a push's own.

Trouble of fewer tokens that nothing which works has followed is reported all the same: it may be all that was sent.

**While held** nothing goes but a probe at a time: the first after `FIRST_PROBE` seconds, each later one after twice the
span, up to `LAST_PROBE`, or after what the provider asked for. The lanes have these probes in turn, from urgent on. Of
a lane come first the pushes that are not suspect and, in every other round, the suspect whose trouble is the oldest: so
whatever is bad, and however much of it comes, what is good is probed in time. Whatever works ends a hold for 5xx,
time-outs and broken connections; refused credentials and a throttle end by a probe alone, because answers to what went
before do not know of them.

**Opening** lets a rate through that doubles each `STEP` in which something worked. After a throttle it doubles up to
half the rate at which the provider said stop, and grows by `GENTLE` from there. Credentials that are good again open
the route at once: the provider was never in trouble.

**Whose fault it is** (`blame`): while the route is held, a trouble is the route's and costs the delivery nothing. Where
others have worked within `QUIET`, it is the delivery's own. Otherwise the cause is unknown (nothing else was sent): it
costs nothing for `BENEFIT` seconds from the push's first trouble on, so that an outage ends no lone delivery, and an
attempt each after that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from ...model.push import LANES, Lane
from ...rules.policy import LONGEST, Blame
from .evidence import AT_ONCE, Cause

FIRST_PROBE: Final = 1.0
LAST_PROBE: Final = 30.0
PROBE_LIFE: Final = 300.0
"""Seconds after which an unanswered probe no longer counts."""
OTHERS: Final = 0.25
"""Seconds between two probes with pushes that were not seen in trouble."""
ENOUGH: Final = 5
"""The number of tokens in trouble, one after the other, that hold a route."""
CONFIRMED: Final = 0.5
"""Seconds for which a hold by several answers must last before it is reported: what is in flight may disprove it."""
SOON: Final = 5.0
"""Seconds after which trouble of too few tokens to hold the route is reported (that of a single one after `QUIET`), and
for which something that worked shows that the trouble of a push which was found to be the cause is its own."""
QUIET: Final = 60.0
BENEFIT: Final = 3600.0
FIRST_RATE: Final = 16.0
"""Deliveries a second with which a route opens again."""
FULL_RATE: Final = 16384.0
"""At this rate it is open."""
STEP: Final = 0.25
GENTLE: Final = 1.05
FEW: Final = 3
SUSPECTS: Final = 256
"""The number of pushes that are remembered as seen in trouble."""
GUILT: Final = 600.0
UNBOUNDED: Final = 1 << 30


class Trouble(Struct, frozen=True):
    """The reason why a route is held."""

    cause: Cause
    reason: str
    """The provider's reason, or one of pushsvc."""
    status: int = 0

    @property
    def label(self) -> str:
        """The label of the metric: the vendor's reason for refused credentials, otherwise the cause."""
        return self.reason if self.cause == "credentials" else self.cause


class _Suspect(Struct):
    """A push that was seen in trouble since something worked last."""

    lane: Lane
    since: float
    last_at: float = 0.0


class RouteHealth:
    """The state of one route. Times are seconds of one monotonic clock."""

    def __init__(self, now: float = 0.0) -> None:
        self.trouble: Trouble | None = None
        """The reason why the route is held; None while it is open or opening."""
        self.watching = False
        """Whether an answer that works changes anything. While it is False, `worked_at` is all that need be set."""
        self.worked_at = now
        """When the provider was last seen to work."""
        self.probe_at = 0.0
        self.held_at = 0.0
        self._tokens: set[str] = set()
        self._suspects: OrderedDict[str, _Suspect] = OrderedDict()
        self._guilty: dict[str, float] = {}
        """Pushes that caused their own trouble, with the time until which this is remembered."""
        self._refused: dict[str, float] = {}
        """Pushes and tokens that were refused as if by the credentials while others passed, with the same time. Apart,
        because a push that breaks its provider may still be the first to meet credentials that are no longer good."""
        self._proven = False
        self._since: float | None = None
        """The time of the first trouble after which nothing has worked."""
        self._met: Trouble | None = None
        """The latest since then, if it may be the route's own, and its time."""
        self._met_at = self._troubled_at = now
        self._delay = FIRST_PROBE
        self._probing_until = 0.0
        self._other_at = 0.0
        self._of_lane = False
        """Whether the last probe was an early one of a lane that has no suspect."""
        self._turn = 0
        """The number of probes that were due and went since the route was held."""
        self._rate = 0.0
        """Deliveries a second while opening; 0 while it is not."""
        self._ceiling = FULL_RATE
        self._credit = 0.0
        self._credit_at = 0.0
        self._step_at = 0.0
        self._worked_in_step = False

    # --- what may go --------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.trouble is None and not self._rate

    def allowance(self, now: float) -> int:
        """Return how many deliveries may be sent now: unlimited while open; one probe, or none, while held."""
        if self.trouble is not None:
            return int(now >= self._probing_until and now >= self.probe_at)
        if not self._rate:
            return UNBOUNDED
        self._credit = min(self._rate * STEP, self._credit + (now - self._credit_at) * self._rate)
        self._credit_at = now
        return int(self._credit)

    def next_at(self, now: float) -> float:
        """Return when to ask again, if nothing may be sent now."""
        if self.trouble is None:
            return now + (1.0 - min(self._credit, 0.99)) / max(self._rate, 1.0)
        return max(self.probe_at, self._probing_until if now < self._probing_until else 0.0)

    def wants_others(self, now: float) -> bool:
        """Return whether a delivery that is none of the suspects' may be sent as an early probe."""
        return self._has_others and now >= self._other_at

    def look_at(self, now: float) -> float:
        """Return when to look for something to send: at `next_at`, or earlier for an early probe."""
        at = self.next_at(now)
        return min(at, self._other_at) if self._has_others and now < self._other_at else at

    @property
    def _has_others(self) -> bool:
        return self.trouble is not None and self.trouble.cause != "throttled" and bool(self.probe_lanes(due=False))

    @property
    def suspects(self) -> Mapping[str, float]:
        """Pushes that were seen in trouble since something worked last, and when each was last."""
        return {push: suspect.last_at for push, suspect in self._suspects.items()}

    @property
    def suspects_first(self) -> bool:
        """Whether the turn is that of the suspects: the others may all be bad, without end."""
        return self._turn // len(LANES) % 2 == 1

    def probe_lanes(self, *, due: bool) -> Sequence[Lane]:
        """Return the lanes to take a probe from, the first that has one. An early one, which is not `due`, may be of
        any push that is not suspect if these are few, and otherwise of lanes that have no suspect."""
        if due:
            first = self._turn % len(LANES)
            return LANES[first:] + LANES[:first]
        if len(self._suspects) <= FEW:
            return LANES
        suspected = {suspect.lane for suspect in self._suspects.values()}
        return [lane for lane in LANES if lane not in suspected]

    def spend(self, count: int, now: float) -> bool:
        """Record that `count` deliveries go out. Returns True when they are a probe."""
        if self.trouble is not None:
            early = now < self.probe_at
            self._of_lane = early and len(self._suspects) > FEW
            self._turn += not early
            self._probing_until = now + PROBE_LIFE
            self._other_at = now + OTHERS
            return True
        self._credit -= count
        return False

    def reported_trouble(self, now: float) -> Trouble | None:
        """Return the trouble to report: one that is proven, or has lasted; also one that does not hold the route, where
        nothing has worked since it began, until it is too old to judge."""
        if self.trouble is not None:
            return self.trouble if self._proven or now - self.held_at >= CONFIRMED else None
        if self._since is None or now - self._met_at > LONGEST:
            return None
        return self._met if now - self._since >= (SOON if len(self._tokens) > 1 else QUIET) else None

    # --- what came back -----------------------------------------------------

    def worked(
        self, now: float, *, token: str = "", push: str = "", lane: Lane = "normal", probe: bool = False
    ) -> None:
        """Record that the provider processed a request of this push: it works, and accepts our credentials."""
        self.worked_at = now
        trouble = self.trouble
        if trouble is None:
            if self._rate:
                self._worked_in_step = True
                self._grow(now)
            self._forget()
            return
        if probe:
            self._probing_until = 0.0
        elif trouble.cause in AT_ONCE:
            return  # It went before, or by luck.
        guilty = self._disproven(trouble, token, push, lane) if probe else ()
        if guilty:
            record = self._record(trouble)
            for name in [name for name, until in record.items() if until <= now]:
                del record[name]
            record.update(dict.fromkeys(guilty, now + GUILT))
        # It was never proven, or it was a push's own, or the provider had no trouble at all: nothing calls for caution.
        own = bool(guilty) and len(self._suspects) <= FEW
        at_once = own or not (probe or self._proven) or trouble.cause == "credentials"
        self.trouble = None
        self._forget()
        if at_once:
            self._open()
            return
        self._rate, self._credit, self._credit_at = FIRST_RATE, FIRST_RATE * STEP, now
        self._step_at, self._worked_in_step = now, False
        self.watching = True

    def troubled(
        self,
        trouble: Trouble,
        now: float,
        *,
        token: str = "",
        push: str = "",
        lane: Lane = "normal",
        probe: bool = False,
        wait: float = 0.0,
    ) -> Blame:
        """Record an answer that indicates trouble, and return whose it is. `wait` is the number of seconds without
        requests that the provider asked for."""
        if self.trouble is None and trouble.cause != "throttled":
            record = self._record(trouble)
            # A push may be all that is sent: without it nothing would show that the provider is away.
            if now < record.get(token, 0.0) or (now < record.get(push, 0.0) and now - self.worked_at < SOON):
                return "delivery"
            if now - self._troubled_at > LONGEST:
                self._forget()  # What is not tried any more says nothing of today.
        if self._since is None:
            self._since = now
        self.watching, self._troubled_at = True, now
        suspect = self._remember(token, push, lane, now)
        if trouble.cause != "tokens_throttled":
            self._met, self._met_at = trouble, now
        if self.trouble is not None:
            self._hold_longer(trouble, now, probe, min(wait, LONGEST))
            return "route"
        if trouble.cause in AT_ONCE or len(self._tokens) >= ENOUGH:
            self._hold(trouble, now, min(wait, LONGEST))
            return "route"
        if now - self.worked_at < QUIET or now - suspect.since > BENEFIT:
            return "delivery"
        return "nobody"

    def unjudged(self, now: float, *, probe: bool = False) -> None:
        """Record an answer without evidence, as of what was not sent at all: the next delivery may go instead, and the
        next probe soon."""
        if self.trouble is None:
            self._credit += 1
        elif probe:
            self._probing_until = 0.0
            self.probe_at = max(self.probe_at, now + OTHERS)

    def lost(self, trouble: Trouble, now: float) -> None:
        """Record that no connection is up. The pool reconnects by itself, and the first delivery will be a probe."""
        if self.trouble is None:
            self._hold(trouble, now, 0.0)
            self.probe_at = now

    def probe_now(self) -> None:
        """Allow a probe at once, because something was corrected."""
        self.probe_at = self._probing_until = 0.0
        self._delay, self._turn = FIRST_PROBE, 0
        if self.trouble is not None and self.trouble.cause == "credentials":
            self._tokens.clear()
            self._suspects.clear()

    # --- inside -------------------------------------------------------------

    def _record(self, trouble: Trouble) -> dict[str, float]:
        return self._refused if trouble.cause == "credentials" else self._guilty

    def _disproven(self, trouble: Trouble, token: str, push: str, lane: Lane) -> tuple[str, ...]:
        """Return the pushes, or the tokens, that are the cause of this trouble if a probe of `push` to `token` works:
        few were in trouble and it is none of them, or all of them were of other lanes."""
        if trouble.cause == "throttled":
            return ()
        if trouble.cause == "credentials" and len(self._tokens) < ENOUGH:
            return () if token in self._tokens else tuple(self._tokens)
        is_other = push not in self._suspects and lane in self.probe_lanes(due=False)
        return tuple(self._suspects) if is_other else ()

    def _remember(self, token: str, push: str, lane: Lane, now: float) -> _Suspect:
        if len(self._tokens) < ENOUGH:
            self._tokens.add(token)
        suspect = self._suspects.setdefault(push, _Suspect(lane, now))
        suspect.last_at = now
        self._suspects.move_to_end(push)
        if len(self._suspects) > SUSPECTS:
            self._suspects.popitem(last=False)
        return suspect

    def _forget(self) -> None:
        self._tokens.clear()
        self._suspects.clear()
        self._since = self._met = None
        self.watching = self._rate > 0

    def _open(self) -> None:
        self._rate, self._ceiling, self._delay = 0.0, FULL_RATE, FIRST_PROBE
        self.watching = False

    def _hold(self, trouble: Trouble, now: float, wait: float) -> None:
        if self._rate:
            # It was too early: go on with the spans where they were.
            self._delay = min(LAST_PROBE, self._delay * 2)
            if trouble.cause == "throttled":
                self._ceiling = max(FIRST_RATE, self._rate / 2)
        self.trouble, self.held_at, self._rate = trouble, now, 0.0
        self._proven = trouble.cause in AT_ONCE
        self._probing_until = self._other_at = 0.0
        self._turn = 0
        self.watching = True
        self.probe_at = now + max(self._delay, wait)

    def _hold_longer(self, trouble: Trouble, now: float, probe: bool, wait: float) -> None:
        held = self.trouble
        assert held is not None
        if probe:
            self._probing_until = 0.0
            self._proven = True
            # A provider in trouble says nothing about the credentials, and so no other span either.
            if held.cause != "credentials" or trouble.cause == "credentials":
                if not self._of_lane:
                    self._delay = min(LAST_PROBE, self._delay * 2)
                self.trouble = trouble
            # One that only asks whether the trouble is that of other lanes delays no due one.
            self.probe_at = max(self.probe_at, now + wait) if self._of_lane else now + max(self._delay, wait)
            return
        # It was in flight when the route was held.
        if trouble.cause in AT_ONCE and held.cause not in AT_ONCE:
            self.trouble, self._proven = trouble, True
        self.probe_at = max(self.probe_at, now + wait)

    def _grow(self, now: float) -> None:
        if now - self._step_at < STEP or not self._worked_in_step:
            return
        self._step_at, self._worked_in_step = now, False
        gentle = self._rate >= self._ceiling
        self._rate = self._rate * GENTLE if gentle else min(self._rate * 2, max(self._ceiling, self._rate))
        if self._rate >= FULL_RATE:
            self._open()
