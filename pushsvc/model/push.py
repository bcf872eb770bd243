"""A push and its parts: content, messages, targets, pushes and chunks. Frozen values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypedDict

import msgspec
from msgspec import Meta, Raw, Struct

from ..decoding import Rule, fraction

Platform: TypeAlias = str
"""The name of a provider in `providers.REGISTRY`: `apns`, `fcm`."""

Lane = Literal["urgent", "normal", "bulk"]

LANES: tuple[Lane, ...] = ("urgent", "normal", "bulk")

ActivityEvent = Literal["start", "update", "end"]

ACTIVITY_EVENTS: tuple[ActivityEvent, ...] = ("start", "update", "end")

ACTIVITY_ALERT = ("title", "body", "sound")
"""The fields of a notification that the alert of a Live Activity supports."""


Via = Literal["auto", "live", "provider"]
"""The channels of a push: those that the rules of the app choose, only the live channel, or only the provider."""

VIAS: tuple[Via, ...] = ("auto", "live", "provider")


PushState = Literal["scheduled", "expanding", "sending", "done", "cancelled"]


MAX_TTL: Final = 2_419_200
"""28 days in seconds, FCM's limit and its default (https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan)."""

MIN_ACK_WITHIN: Final = 0.1
MAX_ACK_WITHIN: Final = 3600
"""The bounds in seconds of the time that a device has to acknowledge a push."""

MAX_COLLAPSE: Final = 64
"""Characters of `collapse`: as many as a collapse id of APNs, where each is a byte, so that every provider can carry it
(https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns)."""

MAX_BADGE: Final = 2**31 - 1

UNREAD: Final = "unread"
"""The badge that is the number of the user's unread pushes when it is sent."""
MAX_UNREAD: Final = 99_999

if TYPE_CHECKING:
    Badge: TypeAlias = int | Literal["unread"]
else:
    # JSON may write a whole number as `3.0`; reading a push document makes an `int` of it.
    Badge = Annotated[int, Meta(ge=0, le=MAX_BADGE)] | Annotated[float, Meta(ge=0, le=MAX_BADGE)] | Literal["unread"]

_BADGE: Final = (
    "The number on the app's icon (Apple), where 0 removes it. On Android how many items a notification stands for: "
    "there 0 has no effect, and a badge alone shows nothing. `unread` is how many pushes in the device's stream of the "
    f"live channel the user has not read when it is sent, at most {MAX_UNREAD:,}; where that is not known there is no "
    "badge, so something else to show is needed beside it."
)


def _badge_fault(badge: float | str) -> str | None:
    return None if isinstance(badge, str) else fraction(badge)


class Notification(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What the user sees, rendered to each provider's own form."""

    title: str | None = None
    subtitle: str | None = None
    body: str | None = None
    image: Annotated[str | None, Meta(description="The URL of a picture.")] = None
    sound: Annotated[str | None, Meta(examples=["default"])] = None
    badge: Annotated[
        Badge | None,
        Meta(description=_BADGE),
        Rule(f"a whole number from 0 to {MAX_BADGE:,}, or `{UNREAD}`", fault=_badge_fault),
    ] = None
    link: Annotated[str | None, Meta(description="Where a tap leads.")] = None
    category: Annotated[str | None, Meta(description="The APNs category, the Android click action.")] = None
    thread: Annotated[str | None, Meta(description="Notifications of one thread are grouped.")] = None
    channel: Annotated[str | None, Meta(description="The Android notification channel.")] = None


class NotificationDocument(TypedDict, total=False):
    """A `Notification` as a Python client writes it."""

    title: str
    subtitle: str
    body: str
    image: str
    sound: str
    badge: int | Literal["unread"]
    link: str
    category: str
    thread: str
    channel: str


class LiveActivity(Struct, frozen=True, omit_defaults=True):
    """The change of a Live Activity (Apple). The objects are the caller's own JSON, unchanged."""

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
    """Whether the started activity gets a token of its own, by which it can be updated."""


class Content(Struct, frozen=True, omit_defaults=True):
    """What to send, without the receivers: the validated push document without `to`, `send_at` and `lane`."""

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
    ack_within: float | None = None
    """Seconds that a device of the live channel has to acknowledge it; None: as the app says."""
    overrides: dict[Platform, Raw] = msgspec.field(default_factory=dict)
    """Per platform the caller's own JSON object, untouched."""


Span: TypeAlias = tuple[int, int]
"""A span of digits in a body: its start and its length."""


class Message(Struct, frozen=True, array_like=True):
    """A `Content` rendered for one provider: the bytes that travel, less what differs by target."""

    platform: Platform
    body: bytes
    """Empty where no route of the app reaches the targets: they end as `failed`, reason `no_route`.

    APNs: the JSON payload. FCM: the JSON of the `message` object without its target."""
    headers: dict[str, str] = {}
    """Request headers that the push itself decides, by lower-case name."""
    spans: tuple[Span, ...] = ()
    """The places in the body that hold the seconds until expiry. The remaining seconds are inserted when it is sent."""
    instants: tuple[Span, ...] = ()
    """The places in the body that hold the expiry in Unix seconds. The expiry of the chunk is inserted when it is sent.
    """
    dated: str = ""
    """The name of the header that holds the same, if the push service chose its value."""
    collapse: str = ""
    """The collapse key, if the caller gave one: the latest message to a target with the same key replaces the others.
    """
    since: int = 0
    """With `collapse`, from when on its push was to be sent first (Unix ms): which of two is the later one."""
    counts: bool = False
    """Whether the number of unread pushes is filled in for each device when it is sent: see `providers.badges`."""


class Target(Struct, frozen=True, array_like=True, gc=False):
    """One receiver of a push. `index` is its position in the push, from 0, over all platforms."""

    index: int
    token: str
    device_id: str | None = None
    kind: str = "token"
    """The kind of `token`: `token`, FCM's `fid`, or one of APNs' `channel`, `activity`, `push_to_start`."""
    owner: bytes = b""
    """`audience.owner_of` the device, for a target from the registry, which has a `device_id`."""

    def __repr__(self) -> str:
        return f"Target(index={self.index}, kind={self.kind!r}, device_id={self.device_id!r})"


class CountedTarget(Target, frozen=True, gc=False):
    """A target with what is known of its device when it is sent. It is stored as a target."""

    unread: int | None = None


class Push(Struct, frozen=True, omit_defaults=True):
    """One accepted call, before it is split into chunks."""

    id: str
    app: str
    lane: Lane
    created_at: int
    expires_at: int
    messages: dict[Platform, Message]
    """The messages, by the name of each route that the push may use."""
    targets: dict[Platform, tuple[Target, ...]]
    """The targets, by their path: the name of their route, or `routing.path_name` where other channels carry them too.
    A route without a message is one that the app does not have."""
    dry_run: bool = False
    send_at: int | None = None
    """When it is to be sent, if that is later than its acceptance."""
    audience: bytes = b""
    """The receivers, if they are determined page by page (`codec.encode_audience`): then there are no `targets`."""
    only: tuple[Platform, ...] = ()
    """The platforms that it has content for; empty: all."""
    via: Via = "auto"
    key: str = ""
    """The name of the API key that it was posted with."""
    trace: bytes = b""
    """The trace that it is part of, as `telemetry.traces` has it; empty: none."""

    @property
    def starts_at(self) -> int:
        """The time from which on it is to be sent. Its `ttl` and its latency count from there."""
        return self.created_at if self.send_at is None else self.send_at

    @property
    def total(self) -> int:
        """How many deliveries the push makes."""
        return sum(map(len, self.targets.values()))

    @property
    def first_state(self) -> PushState:
        if not self.audience and not any(self.targets.values()):
            return "done"
        if self.send_at is not None:
            return "scheduled"
        return "expanding" if self.audience else "sending"


class Fallback(Struct, frozen=True, array_like=True):
    """A channel that carries deliveries on if those before it could not deliver them."""

    channel: Platform
    message: Message
    """Its message, which is empty where the content stands beside the push, under the name of the channel."""


class Chunk(Struct, frozen=True, array_like=True):
    """The content of one queue entry: one message and the targets of one platform, at most a few hundred."""

    push_id: str
    app: str
    channel: Platform
    """The route that carries it: in its lane the chunk is queued."""
    lane: Lane
    total: int
    """The number of deliveries of the whole push; 0 for an audience, whose size is not known yet."""
    starts_at: int
    """From when on it is to be sent: its acceptance, its `send_at`, or its replay."""
    expires_at: int
    message: Message
    """The message. The entry of a large push holds only its `variant`, and this is empty until it has been looked up.
    """
    targets: tuple[Target, ...]
    attempt: int = 1
    """Which attempt this will be, from 1. Waits that are not the delivery's fault do not raise it."""
    turn: int = 1
    """How often these targets were queued, from 1. It is the fencing token: a settlement of an older turn changes
    nothing."""
    dry_run: bool = False
    part: str = ""
    """The part of its route that these targets were refused for before; see `Misconfigured.part`."""
    topic: str = ""
    """The topic of the push, if it has one: devices that have left it meanwhile are sent nothing."""
    counted: bool = False
    """Whether the limits have counted these deliveries already."""
    variant: str = ""
    """The name of the message among the contents of its push; empty if the push has no message for these targets."""
    home: Platform = ""
    """The route whose addresses these targets have, if a device may acknowledge these deliveries, whichever channel
    carries them; else empty."""
    fallbacks: tuple[Fallback, ...] = ()
    """The channels that follow, in their order."""
    trace: bytes = b""
    """That of its push. It is the last field, which is not stored where it is empty."""

    @property
    def platform(self) -> Platform:
        """The route whose addresses these targets have."""
        return self.home or self.channel

    @property
    def unreachable(self) -> bool:
        """Whether no route of the app reaches these targets: nothing is sent to them."""
        return not self.variant and not self.message.body

    @property
    def lacks_content(self) -> bool:
        """Whether the message has not been looked up yet, or is gone."""
        return bool(self.variant) and not self.message.body


class Route(Struct, frozen=True, order=True):
    """Deliveries that share a fate: one app's credentials at one provider."""

    app: str
    platform: Platform
    """The name of the account: that of the platform, or of the platform and an environment (see `routing`)."""

    @property
    def name(self) -> str:
        """`app/platform`, as people and Redis have it."""
        return f"{self.app}/{self.platform}"


JsonObject: TypeAlias = dict[str, Any]
"""A JSON object in Python."""
