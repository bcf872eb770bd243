"""The state of an app in one document, and its rates."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ...model.documents import Time
from ...model.instants import instant
from ...model.push import Lane, Platform
from ..live import LiveGateways
from .webhooks import WebhookState

Rate = Annotated[float | None, Meta(description="Per second, over the last half minute; null while it is not known.")]


class Cause(Struct, frozen=True, kw_only=True):
    """A condition that an operator should know, with its cause and its remedy."""

    kind: str
    severity: Literal["critical", "warning"]
    what: Annotated[str, Meta(description="What it concerns: a route, a part of the service, the queue, an app.")]
    app: Annotated[str, Meta(description="The app, or empty where it concerns the whole service.")] = ""
    reason: Annotated[str, Meta(description="A short label, as metrics have it.")] = ""
    cause: str
    remedy: str = ""
    since: Time | None = None
    waiting: Annotated[int | None, Meta(description="The deliveries that wait because of it, if this is known.")] = None
    routes: Annotated[list[str], Meta(description="The routes of the app that it concerns.")] = []


class Verdict(Struct, frozen=True):
    """The state of the app in one sentence, with every cause, the worst first."""

    state: Literal["ok", "warning", "critical"]
    text: str
    causes: list[Cause]


class LaneFigures(Struct, frozen=True, kw_only=True):
    """A lane of the app."""

    lane: Lane
    waiting: Annotated[int, Meta(description="Deliveries that have not ended, including those that wait for a retry.")]
    oldest_age: Annotated[
        float | None,
        Meta(description="The age in seconds of the oldest delivery that could be sent now; null without one."),
    ]
    in_rate: Rate
    out_rate: Rate
    through_in: Annotated[
        float | None, Meta(description="Seconds until everything that waits is sent at the present rate, if it is.")
    ]


class AnswerCounts(Struct, frozen=True):
    """What a provider has answered about tokens lately."""

    sent: int = 0
    dead: int = 0
    suspect: int = 0


class RouteState(Struct, frozen=True, kw_only=True):
    """A route of the app."""

    route: str
    platform: Platform
    state: Literal["sending", "throttled", "held", "unserved"]
    since: Time | None
    reason: str
    remedy: str
    frozen: Annotated[str, Meta(description="Why its pruning is frozen; empty while it is not.")]
    waiting: int
    lanes: Annotated[dict[Lane, int], Meta(description="`waiting` by lane.")]
    retrying: int
    unacknowledged: Annotated[int, Meta(description="Deliveries among `waiting` that a phone has to acknowledge.")]
    workers: Annotated[int, Meta(description="The living dispatchers that serve it.")]
    sent_rate: Rate
    failed_rate: Rate
    p50: Annotated[float | None, Meta(description="Seconds until the provider answers, of the last five minutes.")]
    p99: float | None
    answers: Annotated[AnswerCounts, Meta(description="Answers about tokens within the last ten minutes.")]
    failed: Annotated[
        int, Meta(description="Deliveries of its platform that ended as `failed` within the last ten minutes.")
    ] = 0
    expires_at: Annotated[Time | None, Meta(description="When its credential expires, if it does.")]


class Process(Struct, frozen=True):
    """A living process."""

    name: str
    last_sign: Time


class PartState(Struct, frozen=True):
    """A part of the service with its living processes."""

    part: str
    count: int
    processes: list[Process]


class QueueState(Struct, frozen=True):
    """What waits of the app, and how much may wait."""

    waiting: int
    limit: int
    full: Annotated[str, Meta(description="Why pushes are refused with 429; empty while they are not.")]
    counted: Annotated[
        int, Meta(description="Deliveries that count against `limit`: `waiting` and scheduled ones.")
    ] = 0


class Rates(Struct, frozen=True):
    """Deliveries of the app per second, over the last half minute; null while not known."""

    accepted: float | None
    sent: float | None
    failed: float | None
    invalid: float | None


class GatewayState(Struct, frozen=True):
    """A gateway of the live channel, and how many devices of the app are connected to it."""

    gateway: str
    connections: int
    last_sign: Annotated[Time, Meta(description="When it gave its last sign of life.")]


class LiveState(Struct, frozen=True):
    """The live channel of the app."""

    connections: int
    gateways: list[GatewayState]


async def live_state(live: LiveGateways, app: str) -> LiveState:
    """Return the connections of an app by gateway."""
    gateways, signs = await live.gateways(app), await live.last_signs(app)
    found = [GatewayState(name, gateways[name], instant(signs[name])) for name in sorted(gateways.keys() & signs)]
    return LiveState(sum(gateways.values()), found)


class CleanupState(Struct, frozen=True):
    """The cleanups of the service, and what the present one, or else the last one, has removed of the app."""

    running: bool
    began_at: Time | None
    ended_at: Time | None
    removed: dict[str, int]


class ReloadState(Struct, frozen=True):
    """The configuration of the process that answers."""

    ok: bool
    at: Annotated[Time | None, Meta(description="When the configuration in use was read.")]
    refused_since: Annotated[
        Time | None, Meta(description="When the configuration on disk was refused; null while it is in use.")
    ]
    restart: Annotated[list[str], Meta(description="Sections that have changed on disk and wait for a restart.")]


class AppStats(Struct, frozen=True, kw_only=True):
    """The state of an app."""

    app: str
    at: Time
    verdict: Verdict
    lanes: list[LaneFigures]
    routes: list[RouteState]
    workers: list[PartState]
    queue: QueueState
    retrying: int
    unacknowledged: Annotated[
        int, Meta(description="Deliveries that a phone has been sent over the live channel and has not acknowledged.")
    ]
    scheduled: Annotated[
        int,
        Meta(description="Deliveries of scheduled pushes. An audience is counted when it is due."),
    ]
    schedules: Annotated[int, Meta(description="Pushes that wait for their time, those to audiences included.")]
    scheduled_next_hour: Annotated[int, Meta(description="Those of them whose time comes within the next hour.")]
    dead_letters: int
    receipts: Annotated[int, Meta(description="Answers that `pushsvc feedback` has not processed yet.")]
    events: int
    quarantined: Annotated[int, Meta(description="Records that could not be read and were set aside.")]
    suppressed: int
    devices: Annotated[int, Meta(description="Active devices.")]
    rates: Rates
    live: LiveState | None
    webhooks: list[WebhookState]
    cleanup: CleanupState
    reload: ReloadState


class Series(Struct, frozen=True):
    """What was counted in each step; null where no process has counted."""

    name: str
    platform: Platform
    lane: str
    values: list[int | None]


class RateHistory(Struct, frozen=True):
    """Counts of the last hours in steps, the oldest first. Divide by `step` for a rate."""

    from_: Time = field(name="from")
    step: int
    points: int
    series: list[Series]
