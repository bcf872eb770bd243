"""Administration: the state of an app and of the service behind it, as documents that the API answers and the command
line prints.

Every document is about one app. What all apps share (processes, cleanups, the configuration) is shown to each, without
figures of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Raw, Struct, field

from ..model.access import ApiKey, Scope
from ..model.documents import Time
from ..model.finding import Explained
from ..model.instants import instant
from ..model.push import Lane, Platform, Push, Route
from .keyring import KeyRing
from .live import LiveGateways

Seconds = Annotated[float, Meta(description="Seconds.")]
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


class WebhookCallRow(Struct, frozen=True):
    """A call of a webhook."""

    at: Time
    id: Annotated[str, Meta(description="The id of the batch; a repeated call has the same.")]
    events: int
    attempt: int
    status: Annotated[int, Meta(description="The HTTP status of the answer; 0 without an answer.")]
    reason: str
    seconds: float
    result: Literal["delivered", "failed", "halved", "given_up", "off"]


class DeadBatchRow(Struct, frozen=True):
    """A batch of events that was given up. Its events are kept as long as all events."""

    id: str
    events: int
    attempts: int
    reason: str
    at: Time
    after: str
    last: str


class DeadBatches(Struct, frozen=True):
    """The batches of all webhooks of the app that were given up, the oldest of each webhook first."""

    batches: list[DeadBatchRow]


class WebhookState(Struct, frozen=True, kw_only=True):
    """The webhook of the app for one kind of events."""

    kind: Literal["feedback", "event"]
    host: str
    state: Literal["ok", "failing", "off"]
    reason: str
    failing_since: Time | None
    failures: Annotated[int, Meta(description="Consecutive calls that failed.")]
    attempts: Annotated[int, Meta(description="Calls made for the present batch.")]
    waiting_since: Annotated[Time | None, Meta(description="When the oldest event that waits was recorded.")]
    lag: Annotated[float, Meta(description="The age of the oldest event that waits, in seconds; 0 without one.")]
    next_call_in: Annotated[float | None, Meta(description="Seconds until the next call after a failure.")]
    cursor: Annotated[str, Meta(description="The id of the last event that was sent or given up.")]
    dead: Annotated[int, Meta(description="The batches that were given up.")]
    asked: Annotated[int, Meta(description="The batches among them that are to be delivered again.")]
    trouble: Annotated[str, Meta(description="What an operator should know, with the remedy; else empty.")]
    dead_batches: Annotated[list[DeadBatchRow], Meta(description="The newest 20.")] = []
    calls: Annotated[list[WebhookCallRow], Meta(description="The last 50 calls, the newest first.")] = []


class WebhookStates(Struct, frozen=True):
    """The webhooks of the app."""

    webhooks: list[WebhookState]


class WebhookTest(Struct, frozen=True):
    """The result of a call without events."""

    ok: bool
    host: str
    status: Annotated[int, Meta(description="The HTTP status of the answer; 0 without an answer.")]
    reason: str
    seconds: float


class Redelivery(Struct, frozen=True):
    """Batches that are to be delivered again, before new events."""

    batches: int
    events: int


class CleanupAnswer(Struct, frozen=True):
    """A cleanup that was requested, or that is running already."""

    state: Literal["requested", "running"]
    began_at: Time | None
    holder: Annotated[str, Meta(description="The process that is cleaning up at this moment; empty if none is.")] = ""


class CleanupCount(Struct, frozen=True):
    """What a cleanup would remove of the app."""

    state: Literal["counted"]
    removed: dict[str, int]
    total: int
    complete: Annotated[bool, Meta(description="Whether everything was counted in the time that a call has.")]
    place: Annotated[str | None, Meta(description="Give it as `place` to count the rest; null where it is complete.")]


class CheckFinding(Struct, frozen=True):
    """One thing that a check has found. `part` is a dotted key of the configuration, `fix` the remedy."""

    part: str
    level: Literal["ok", "warning", "error"]
    what: str
    fix: str = ""
    expires: Annotated[float | None, Meta(description="When the credential expires, in Unix seconds.")] = None


class CheckAnswer(Struct, frozen=True):
    """The findings of a check."""

    ok: Annotated[bool, Meta(description="Whether there is no error.")]
    findings: list[CheckFinding]


class KeyRow(Struct, frozen=True):
    """An API key without its text."""

    app: str
    name: str
    scopes: tuple[Scope, ...]
    intake: Annotated[str | None, Meta(description="The limit for pushes that are posted with it.")]
    created_at: Time | None
    kept_in: Literal["configuration", "store"]
    last_used_at: Annotated[
        Time | None,
        Meta(description="When it was last noted to be in use: once an hour at most; null if it never was."),
    ] = None


def key_row(key: ApiKey, kept_in: Literal["configuration", "store"], used: int | None = None) -> KeyRow:
    """Return a key as lists show it. `used` is when it was last noted to be in use, in Unix ms."""
    made = instant(key.created_at) if key.created_at else None
    limit = None if key.intake is None else str(key.intake)
    return KeyRow(key.app, key.name, key.scopes, limit, made, kept_in, None if used is None else instant(used))


async def key_rows(ring: KeyRing, configured: Sequence[ApiKey], app: str = "") -> list[KeyRow]:
    """Return keys of the configuration with those of the store, of one app or of all, by app and name."""
    stored = [key for key in await ring.all() if app in ("", key.app)]
    used = await ring.last_used([key.sha256.lower() for key in (*configured, *stored)])
    kept: list[Literal["configuration", "store"]] = ["configuration"] * len(configured)
    kept += ["store"] * len(stored)
    found = [key_row(*each) for each in zip((*configured, *stored), kept, used, strict=True)]
    return sorted(found, key=lambda row: (row.app, row.name))


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


class PreviewedMessage(Struct, frozen=True):
    """A request to a provider as it would be sent, without credentials, or the content for the live channel."""

    route: str
    platform: Platform
    method: str
    path: Annotated[str, Meta(description="`<token>` stands for the address of a target.")]
    headers: dict[str, str]
    body: Annotated[Raw, Meta(description="The JSON.")]
    bytes: Annotated[int, Meta(description="What counts against the limit.")]
    limit: int | None
    deliveries: Annotated[int | None, Meta(description="The targets of this route; null where they are not counted.")]
    override: Annotated[
        Raw, Meta(description="`overrides.<platform>` of a push that sends the same; null where it needs none.")
    ]


class FreezeShare(Struct, frozen=True):
    """Shares, or numbers, of dead and of suspect answers."""

    dead: float
    suspect: float


class GuardState(Struct, frozen=True, kw_only=True):
    """The guard of a route against mass pruning."""

    route: str
    frozen: bool
    why: str
    answers: Annotated[AnswerCounts, Meta(description="Within the window.")]
    share: Annotated[FreezeShare, Meta(description="Of these answers, from 0 to 1.")]
    limit: Annotated[FreezeShare, Meta(description="The shares above which pruning freezes.")]
    least: Annotated[FreezeShare, Meta(description="The numbers of answers below which it does not.")]
    window: Seconds
    prune_anyway_until: Annotated[Time | None, Meta(description="Until when it prunes nevertheless.")]
    waits_for: Annotated[str, Meta(description="What ends the freeze; empty without one.")]


class PruneCount(Struct, frozen=True):
    """Feedback events of one day, platform, reason and action."""

    day: str
    platform: Platform
    reason: str
    action: str
    count: int


class FeedbackState(Struct, frozen=True):
    """The guards of the app's routes, and what was pruned in the last week."""

    routes: list[GuardState]
    days: list[PruneCount]
    complete: Annotated[bool, Meta(description="Whether all events of the week were counted.")]
    receipts: Annotated[int, Meta(description="Answers that `pushsvc feedback` has not processed yet.")]


class Administration(Protocol):
    """The state of the service, as one app may see it, and the acts of its operator."""

    async def stats(self, app: str) -> AppStats: ...

    async def rates(self, app: str, *, span: int, step: int) -> RateHistory:
        """Return what was counted in the last `span` seconds, in steps of `step` seconds, a multiple of ten."""

    async def preview(self, push: Push) -> list[PreviewedMessage]:
        """Return what each route of a push would be sent."""

    async def feedback(self, app: str) -> FeedbackState: ...

    def explain(self, platform: Platform, reason: str, status: int) -> Explained:
        """Return what the reason and the status of a failed delivery mean, and what to do about it."""

    async def release(self, route: Route, until: int) -> None:
        """Let a route prune until an instant (Unix ms) though too many of its answers are bad; 0 ends that."""

    def token_hash(self, platform: Platform) -> Callable[[str], str]:
        """Return the function that makes of a token what is shown instead."""

    async def webhooks(self, app: str) -> WebhookStates: ...

    async def test_webhook(self, app: str) -> WebhookTest:
        """Call the webhook without events. Raises `Conflict` where the app has none."""

    async def resume_webhooks(self, app: str) -> None:
        """Continue all webhooks now, whatever their receivers have answered. Raises `Conflict` where there is none."""

    async def dead_batches(self, app: str, *, since: int | None, until: int | None) -> list[DeadBatchRow]:
        """Return the dead batches whose last event was recorded in a span (Unix ms)."""

    async def redeliver(self, app: str, *, since: int | None, until: int | None, dry_run: bool) -> Redelivery:
        """Ask for the dead batches whose last event was recorded in a span (Unix ms) to be delivered again. Raises
        `Conflict` where the app has no webhook."""

    async def clean_up(self) -> CleanupAnswer: ...

    async def count_cleanup(self, app: str, place: str = "") -> CleanupCount:
        """Count what a cleanup would remove of the app, from a `place` on that an earlier count has returned."""

    async def check(self, app: str, *, online: bool = False) -> Sequence[CheckFinding]:
        """Return what a check finds. `online`: the providers are asked, and the webhook is called without events."""
