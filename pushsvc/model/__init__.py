"""The nouns of pushsvc: frozen values that every stage shares. Nothing here does anything.

Times are integers: Unix milliseconds for instants (`*_at`), seconds for spans unless the name says `_ms`.
A device token is a secret: the structs that hold one leave it out of their `repr`.

How one becomes the next::

    Content --render--> Message --+
                                  +--> Push --split--> Chunk --(one a target)--> Delivery
    tokens  ------------> Target -+                                                 |
                                                                                provider
                                                                                    v
                                   Settlement <--policy.decide-- Verdict <------ Outcome
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from .rates import Rate

Platform: TypeAlias = str
"""The name of a provider in `providers.REGISTRY`: `apns`, `fcm`."""

Lane = Literal["urgent", "normal", "bulk"]
LANES: tuple[Lane, ...] = ("urgent", "normal", "bulk")

Scope = Literal["push", "devices", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = ("push", "devices", "feedback", "admin")

End = Literal["sent", "failed", "invalid", "expired", "suppressed", "cancelled"]
ENDS: tuple[End, ...] = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")
"""The ways in which a delivery ends. Every delivery ends in exactly one of them."""

ROWS_FOR_ALL = 1000
"""Pushes of up to so many deliveries keep a row for each of them; larger ones only for those not `sent`."""

ActivityEvent = Literal["start", "update", "end"]
ACTIVITY_EVENTS: tuple[ActivityEvent, ...] = ("start", "update", "end")
ACTIVITY_ALERT = ("title", "body", "sound")
"""What the alert of a Live Activity can have of a notification."""

PushState = Literal["scheduled", "expanding", "sending", "done", "cancelled"]


# --- what the caller asks for -------------------------------------------------------------------


class Notification(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The neutral notification, rendered to each provider's own form."""

    title: str | None = None
    subtitle: str | None = None
    body: str | None = None
    image: str | None = None
    sound: str | None = None
    badge: int | None = None
    link: str | None = None
    category: str | None = None
    thread: str | None = None
    channel: str | None = None


class LiveActivity(Struct, frozen=True, omit_defaults=True):
    """What becomes of a Live Activity (Apple). The objects are the caller's own JSON, untouched."""

    event: ActivityEvent
    content_state: dict[str, Raw] | None = None
    attributes_type: str | None = None
    """With `attributes`: which activity is started."""
    attributes: dict[str, Raw] | None = None
    alert: dict[str, Raw] | None = None
    """Apple's alert; where it is left out, the push's notification is."""
    stale_date: int | None = None
    """Unix seconds."""
    dismissal_date: int | None = None
    """Unix seconds."""
    relevance_score: float | None = None
    input_push_channel: str | None = None
    """The broadcast channel that the started activity listens to."""
    input_push_token: bool = False
    """The started activity gets a token of its own, to be updated by."""


class Content(Struct, frozen=True, omit_defaults=True):
    """What to say, without to whom: the validated push document less `to`, `send_at` and `lane`."""

    notification: Notification | None = None
    live_activity: LiveActivity | None = None
    data: dict[str, str] | None = None
    priority: Literal["high", "normal"] | None = None
    push_type: str | None = None
    silent: bool = False
    ttl: int | None = None
    """Seconds after which nothing is sent any more, from acceptance or from `send_at` on."""
    collapse: str | None = None
    dry_run: bool = False
    overrides: dict[Platform, Raw] = msgspec.field(default_factory=dict)
    """Per platform the caller's own JSON object, untouched."""


Span: TypeAlias = tuple[int, int]
"""Of digits in a body: where they begin, and how many."""


class Message(Struct, frozen=True, array_like=True):
    """A `Content` rendered for one provider: the bytes that travel, less what differs by target."""

    platform: Platform
    body: bytes
    """Empty where no route of the app reaches the targets: they end as `failed`, reason `no_route`.

    APNs: the JSON payload. FCM: the JSON of the `message` object without its target."""
    headers: dict[str, str] = {}
    """Request headers that the push itself decides, by lower-case name."""
    spans: tuple[Span, ...] = ()
    """Where the body says for how many seconds it is to be kept: those that are left when it is sent go in there."""
    collapse: str = ""
    """Where the caller gave one: of messages to one target with the same value the latest replaces the others."""
    since: int = 0
    """With `collapse`, from when on its push was to be sent first (Unix ms): which of two is the later one."""


# --- to whom ------------------------------------------------------------------------------------


class Target(Struct, frozen=True, array_like=True, gc=False):
    """One receiver of a push. `index` is its place in the push, from 0, the same on every platform."""

    index: int
    token: str
    device_id: str | None = None
    kind: str = "token"
    """What `token` is to the provider: `token`, FCM's `fid`, or one of APNs' `channel`, `activity`, `push_to_start`."""
    owner: bytes = b""
    """Of a target that came from the registry, and so has a `device_id`: `audience.owner_of` its device."""

    def __repr__(self) -> str:
        return f"Target(index={self.index}, kind={self.kind!r}, device_id={self.device_id!r})"


class Push(Struct, frozen=True):
    """One accepted call, before it is split into chunks."""

    id: str
    app: str
    lane: Lane
    created_at: int
    expires_at: int
    messages: dict[Platform, Message]
    """By the name of each route that it may use."""
    targets: dict[Platform, tuple[Target, ...]]
    """By the name of their route. One that has no message is a route that the app does not have."""
    dry_run: bool = False
    send_at: int | None = None
    """When it is to be sent, where that was later than its acceptance."""
    audience: bytes = b""
    """Whom it is for, where that is found out page by page (`codec.encode_audience`): then it has no `targets`."""
    only: tuple[Platform, ...] = ()
    """The platforms that it says something to; empty: all."""

    @property
    def starts_at(self) -> int:
        """From when on it is to be sent: its `ttl` and its latency are reckoned from there."""
        return self.created_at if self.send_at is None else self.send_at

    @property
    def total(self) -> int:
        """How many deliveries the push makes."""
        return sum(map(len, self.targets.values()))

    @property
    def first_state(self) -> PushState:
        """Where it stands when it has been accepted."""
        if not self.total and not self.audience:
            return "done"
        if self.send_at is not None:
            return "scheduled"
        return "expanding" if self.audience else "sending"


class Chunk(Struct, frozen=True, array_like=True):
    """What one stream entry holds: one message and the targets of one platform, at most a few hundred."""

    push_id: str
    app: str
    platform: Platform
    lane: Lane
    total: int
    """Deliveries of the whole push; 0 where it is made from an audience, as nobody knows then."""
    starts_at: int
    """From when on it is to be sent: its acceptance, its `send_at`, or its replay."""
    expires_at: int
    message: Message
    targets: tuple[Target, ...]
    attempt: int = 1
    """Which attempt this will be, from 1. Waits that are not the delivery's fault do not raise it."""
    turn: int = 1
    """How often these targets were queued, from 1. It fences: a settlement of an older turn changes nothing."""
    dry_run: bool = False
    part: str = ""
    """The part of its route that these targets were refused for before; see `Misconfigured.part`."""
    topic: str = ""
    """The topic that its push is for, where it is for one: whoever has left it meanwhile is sent nothing."""
    counted: bool = False
    """The limits have counted these deliveries, and do not ask for them again."""

    @property
    def unreachable(self) -> bool:
        """Whether no route of the app reaches these targets: nothing is sent to them."""
        return not self.message.body


class Route(Struct, frozen=True, order=True):
    """Deliveries that share a fate: one app's credentials at one provider."""

    app: str
    platform: Platform
    """The name of the account: that of the platform, or of the platform and an environment (see `routing`)."""

    @property
    def name(self) -> str:
        """`app/platform`, as people and Redis have it."""
        return f"{self.app}/{self.platform}"


class Delivery(Struct, frozen=True, gc=False):
    """One notification to one target: the unit of sending, retrying and counting."""

    chunk: Chunk
    target: Target


# --- what the provider said ---------------------------------------------------------------------


class _Answer(Struct, frozen=True, kw_only=True, gc=False):
    status: int = 0
    """The provider's HTTP status; 0 when there was no answer."""
    reason: str = ""
    """The provider's own word (`BadDeviceToken`, `UNREGISTERED`) or ours in lower case (`timeout`). Low cardinality."""


class Sent(_Answer, frozen=True):
    """The provider accepted it."""

    provider_id: str = ""
    unique_id: str = ""
    """Another id of the provider's for it, where it gave one: APNs does in the sandbox, for its console."""


class Throttled(_Answer, frozen=True):
    """Too many requests. The wait costs no attempt."""

    retry_after: float | None = None
    scope: Literal["token", "route"] = "token"
    """Whom the provider throttles: this token, or everything of the route."""


class Unavailable(_Answer, frozen=True):
    """The provider is in trouble or did not answer. Worth another try."""

    retry_after: float | None = None
    maybe_sent: bool = False
    """The request may have been processed: nobody can know."""


class BadNotification(_Answer, frozen=True):
    """Our request is wrong; another try would be refused as well. The token is not to blame."""


class Misconfigured(_Answer, frozen=True):
    """Our credentials or topic are refused. The route is held; the delivery waits."""

    part: str = ""
    """The part of the route that is refused (`apple`: FCM's credential for Apple), where the rest of it is not."""
    chosen: bool = False
    """Whether the push chose something itself that may be what is refused: then it is no proof against the route."""


class TokenSuspect(_Answer, frozen=True):
    """The token and our identity disagree: wrong environment, wrong topic, wrong sender. Not proof of death."""


class TokenDead(_Answer, frozen=True):
    """The provider says that the token is no longer valid."""

    since: int | None = None
    """Unix milliseconds at which the provider learnt it, where it says (APNs 410)."""


class Expired(_Answer, frozen=True):
    """Its time was over before it was sent. Nothing went out."""


Outcome: TypeAlias = (
    Sent | Throttled | Unavailable | BadNotification | Misconfigured | TokenSuspect | TokenDead | Expired
)
"""Everything that can come of an attempt. Closed: `match` on it ends in `assert_never`."""


# --- what we make of it -------------------------------------------------------------------------


class Ended(Struct, frozen=True, gc=False):
    """The delivery is over."""

    end: End
    dead_letter: bool = False
    """Keep it for the operator to look at and to replay."""


class Retry(Struct, frozen=True, gc=False):
    """The delivery goes again at `due_at`, as attempt number `attempt`."""

    due_at: int
    attempt: int
    part: str = ""
    """The part of the route that it waits for."""
    counted: bool = True
    """The limits have counted it: they do not ask for it again."""


Verdict: TypeAlias = Ended | Retry


class Settlement(Struct, frozen=True, gc=False):
    """What is to be recorded of one attempt, in one atomic step with its siblings."""

    delivery: Delivery
    outcome: Outcome | None
    """None when nothing was attempted: cancelled, suppressed."""
    verdict: Verdict
    at: int
    token_hash: str
    """The token's short keyed hash: all of it that a status row or a log may show."""
    reason: str = ""
    asked_at: int | None = None
    """When the request left, where there was one: its answer knows of nothing later."""


class Receipt(Struct, frozen=True, array_like=True):
    """What feedback must know of a delivery whose token the provider called dead or suspect."""

    app: str
    platform: Platform
    token: str
    token_hash: str
    kind: Literal["dead", "suspect"]
    reason: str
    at: int
    since: int | None = None
    device_id: str | None = None
    push_id: str = ""
    asked_at: int | None = None
    """When the request left that this answers."""

    @property
    def knows_until(self) -> int:
        """Evidence is as old as the request: of what was registered later it says nothing."""
        return self.at if self.asked_at is None else self.asked_at

    def __repr__(self) -> str:
        return f"Receipt({self.app}/{self.platform} {self.token_hash} {self.kind} {self.reason} at={self.at})"


Action = Literal["suppressed", "pruned", "suspected", "kept"]


class FeedbackEvent(Struct, frozen=True, array_like=True):
    """One row of `GET /v1/feedback`: the caller's own tokens, so the token is whole here."""

    at: int
    platform: Platform
    token: str
    reason: str
    action: Action
    device_id: str | None = None

    def __repr__(self) -> str:
        return f"FeedbackEvent({self.platform} {self.reason} {self.action} at={self.at})"


# --- where a push stands ------------------------------------------------------------------------


class Counts(Struct, frozen=True):
    """`total` is the sum of all the others, always."""

    total: int
    queued: int = 0
    retrying: int = 0
    sent: int = 0
    failed: int = 0
    invalid: int = 0
    expired: int = 0
    suppressed: int = 0
    cancelled: int = 0


class PushStatus(Struct, frozen=True):
    """The status document, with instants in milliseconds."""

    id: str
    app: str
    state: PushState
    created_at: int
    updated_at: int
    counts: Counts
    send_at: int | None = None
    """Of pushes that are, or were, scheduled."""


class DeliveryRow(Struct, frozen=True, array_like=True, gc=False):
    """One row of `GET /v1/push/{id}/deliveries`."""

    platform: Platform
    device_id: str | None
    token_hash: str
    outcome: End
    reason: str
    status: int
    attempts: int
    provider_id: str
    at: int
    unique_id: str = ""


class ApiKey(Struct, frozen=True, omit_defaults=True):
    """An API key as it is kept: its SHA-256 and what it may do, never its text."""

    name: str
    app: str
    sha256: str
    scopes: tuple[Scope, ...]
    created_at: int = 0
    intake: Rate | None = None
    """Of the pushes that may be posted with it; None is no limit of its own."""


JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as Python holds it."""
