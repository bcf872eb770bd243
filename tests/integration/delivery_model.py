"""What the machine of a delivery's life knows: requests, pushes, and dispatchers whose provider it answers itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from pushsvc.model.delivery import (
    ENDS,
    BadNotification,
    Delivery,
    Misconfigured,
    Outcome,
    Sent,
    Throttled,
    TokenDead,
    Unavailable,
    Unconfirmed,
)
from pushsvc.model.devices import Device
from pushsvc.model.push import Message, Push, Route, Target
from pushsvc.ports.expansion import Expansion
from pushsvc.ports.provider import OnOutcome
from pushsvc.ports.registry import Members
from pushsvc.rules.audience import owner_of
from pushsvc.rules.policy import RetryPolicy
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.store import token_hash

from ..unit.dispatch_fakes import ROUTE, FakeProvider
from .stepped import Process, SteppedWorld

Report = Callable[["Flight"], None]

TAKEOVER = 12.0
NAMES = ("a", "b")
ANNS = ("ann-1", "ann-2")
"""Tokens of Ann's devices: she may be erased."""
DEAD = ("dead-1", "dead-2")
"""Tokens that may be suppressed, and stay so."""
PHONES = ("phone-1", "phone-2")
"""Devices whose owner and token change. Each token is the device's name and a number."""
SHARED = (*ANNS, *DEAD)
"""Tokens that several pushes go to."""
RETRY = RetryPolicy(attempts=4, base=1.0, cap=4.0, server_error={}, silent={}, throttled={}, held=1.0, part=(1.0, 2.0))
DISPATCH = DispatchConfig(
    retry=RETRY,
    prefetch=8,
    promote_every=0.5,
    launch_every=0.5,
    reclaim_every=4.0,
    beat_every=3.0,
    takeover=TAKEOVER,
    drain_timeout=10.0,
)
OUTCOMES: tuple[Outcome, ...] = (
    Sent(status=200),
    Unavailable(status=503, reason="ServiceUnavailable"),
    Unavailable(reason="timeout", maybe_sent=True),
    Unavailable(reason="refused"),
    TokenDead(status=410, reason="Unregistered"),
    BadNotification(status=400, reason="PayloadEmpty"),
    Throttled(status=429, reason="TooManyRequests", retry_after=1.0),
    Throttled(status=429, reason="TooManyRequests", retry_after=2.0, scope="route"),
    Misconfigured(status=403, reason="InvalidProviderToken"),
)


LIVE = Route("shop", "live")
WITHIN = 3.0
ABSENT = Unconfirmed(reason="absent")
WRITTEN = Unconfirmed(reason="written", within=WITHIN)
LIVE_OUTCOMES: tuple[Outcome, ...] = (WRITTEN, WRITTEN, ABSENT, Unavailable(reason="refused"))


class Flight:
    """A request that a process has sent."""

    def __init__(self, process: Process, delivery: Delivery) -> None:
        self.process = process
        self.delivery = delivery
        self.outcome: Outcome | None = None
        self.answered_at = 0.0
        self.recorded_at = 0.0
        self.deaf: set[Process] = set()
        """Those that stood still when it was recorded, and have not gone on since."""
        self.excused = False
        """Its process was killed or lost its lease: nobody can know what it would have recorded."""
        self.recorded = False


class Provider(FakeProvider):
    """Keeps requests until the machine answers them, and reports each to the machine."""

    def __init__(self, route: Route, report: Report, process: Process) -> None:
        super().__init__(route, room=5)
        self._report = report
        self._process = process
        self.flights: list[Flight] = []

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        super().submit(delivery, on_outcome)
        flight = Flight(self._process, delivery)
        self.flights.append(flight)
        self._report(flight)

    def say(self, outcome: Outcome, count: int) -> None:
        """Answer the oldest ones, when the process next looks at its sockets."""
        answered, self.flights = self.flights[:count], self.flights[count:]
        for flight in answered:
            flight.outcome, flight.answered_at = outcome, self._process.loop.time()
        self._process.loop.call_soon(self.answer, outcome, len(answered))


class Dispatching:
    """A dispatcher in a process."""

    def __init__(self, world: SteppedWorld, name: str, report: Report) -> None:
        self.provider: Provider
        self.live: Provider
        self._world = world
        self._report = report
        self.process = world.start(name, self._main)

    async def _main(self, process: Process) -> None:
        self.provider, self.live = (Provider(route, self._report, process) for route in (ROUTE, LIVE))
        clock = self._world.clock
        key = process.store.hash_key
        await Dispatcher(
            process.store.queue,
            [self.provider, self.live],
            DISPATCH,
            hash_token=lambda route: lambda token: token_hash(key, token),
            wall_clock=clock.seconds,
            jitter=lambda: 0.5,
            lease_clock=lambda: clock.now,
        ).run(process.stop)

    def say_good(self) -> None:
        """Answer everything that is in flight: it is accepted, and nobody is at the live channel."""
        self.provider.say(Sent(status=200), 1000)
        self.live.say(ABSENT, 1000)

    @property
    def over(self) -> bool:
        return self.process.dead or self.process.main.done()


class Model:
    """What is known of a push."""

    def __init__(self, push: Push) -> None:
        self.push = push
        self.targets: list[Target] = [target for targets in push.targets.values() for target in targets]
        """Of an audience those that were found so far."""
        self.page: tuple[Expansion, Members] | None = None
        """What was read of its audience, and is not written yet."""
        self.flights: defaultdict[int, list[Flight]] = defaultdict(list)
        """Those since its last replay."""
        self.cancelling = False
        self.cancelled = False
        """The cancel was answered."""
        self.deaf: set[Process] = set()
        """Those that stood still then, and have not gone on since."""
        self.acknowledged: set[int] = set()
        """Indexes of deliveries that ended by it."""
        self.in_time: set[int] = set()
        """Those of them that waited to be carried on by the provider."""
        self.reported = dict.fromkeys(ENDS, 0)
        self.replayed = False

    @property
    def message(self) -> Message:
        return self.push.messages["apns"]

    @property
    def open(self) -> list[Flight]:
        """In flight, or not recorded; or lost with a process, and open until another one has ended it."""
        return [each for flights in self.flights.values() for each in flights if not each.recorded or each.excused]


class Phone:
    """A device, as the registry has it by what was answered; while it changes, either way is right."""

    def __init__(self) -> None:
        self.states: list[Device | None] = [None]
        self.renewals = 0
        self.changes = 0
        self.deaf: set[Process] = set()

    @property
    def device(self) -> Device | None:
        return self.states[-1]

    def may_get(self, target: Target, topic: str = "") -> bool:
        """Return whether the target's device still has the user that it was for."""
        return any(
            device is not None
            and (device.token, owner_of(device)) == (target.token, target.owner)
            and (not topic or topic in device.topics)
            for device in self.states
        )


class Withdrawn:
    """A token that nothing is sent to any more, for pushes accepted until then."""

    def __init__(self, pushes: Iterable[str], deaf: set[Process], *, later: bool) -> None:
        self.pushes = set(pushes)
        self.deaf = deaf
        self.later = later
        """Also for pushes accepted later."""
