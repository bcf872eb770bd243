"""The documents of the API, as a caller has them: what is sent as `TypedDict`, what is answered as structs.

A newer service may answer more fields, which are left out here, and more words in a field, so those are plain `str`.
This is why the service's own documents (`model/status.py`, `api/devices/document.py`) are not these as well: they allow
known words only, and their fields are those of one version. A test compares these with the OpenAPI document. What a
notification holds is said in `model/push.py`, once for both.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, Required, TypedDict, TypeVar

from msgspec import Struct

from ..model.push import Lane, NotificationDocument as NotificationDocument, Via

T = TypeVar("T")


class TokenTarget(TypedDict, total=False):
    """One address at a provider: a token, Firebase installation id (`fid`), broadcast `channel`, topic or condition."""

    platform: Required[str]
    environment: Literal["production", "sandbox"]
    token: str
    channel: str
    activity: str
    push_to_start: str
    fid: str
    topic: str
    condition: str


class ToDocument(TypedDict, total=False):
    """The receivers, in exactly one of these ways."""

    tokens: list[TokenTarget]
    devices: list[str]
    users: list[str]
    topic: str
    where: str
    all: bool


class PushDocument(TypedDict, total=False):
    """One push. Besides `to` it needs `notification`, `live_activity`, `data`, or an override with a payload."""

    to: Required[ToDocument]
    notification: NotificationDocument
    live_activity: dict[str, Any]
    data: dict[str, str]
    lane: Lane
    priority: Literal["high", "normal"]
    push_type: str
    silent: bool
    ttl: int
    collapse: str
    send_at: str
    via: Via
    ack_within: float
    dry_run: bool
    overrides: dict[str, dict[str, Any]]


class DeviceDocument(TypedDict, total=False):
    """A device to register; what is left out of a refresh is gone."""

    platform: Required[str]
    token: str
    fid: str
    user: str
    tags: dict[str, str | float | bool | list[str]]
    locale: str
    timezone: str
    app_version: str
    environment: Literal["production", "sandbox"]


class Fault(Struct, frozen=True):
    """A fault, or a warning, with its place in the document."""

    path: str
    message: str


class Problem(Struct, frozen=True):
    """Why a call, or one push of a batch, is refused (RFC 9457)."""

    title: str
    status: int = 0
    type: str = "about:blank"
    detail: str = ""
    errors: list[Fault] = []
    instance: str | None = None
    retry_after: float | None = None
    """Of a push of a batch: the seconds after which another try may succeed."""


class Accepted(Struct, frozen=True):
    """A push that the service has stored. `deliveries` is None while an audience is looked up."""

    id: str
    state: str
    deliveries: int | None = None
    unreached: int = 0
    warnings: list[Fault] = []


class BatchResult(Struct, frozen=True):
    """What became of one push of a batch: `id` where it was accepted, `error` where it was refused."""

    status: int
    id: str | None = None
    state: str | None = None
    deliveries: int | None = None
    unreached: int = 0
    error: Problem | None = None
    warnings: list[Fault] = []


class Counts(Struct, frozen=True):
    """Deliveries by what became of them. `total` is the sum of the others."""

    total: int = 0
    queued: int = 0
    retrying: int = 0
    sent: int = 0
    failed: int = 0
    invalid: int = 0
    expired: int = 0
    suppressed: int = 0
    cancelled: int = 0


class Status(Struct, frozen=True):
    """Where a push stands."""

    id: str
    app: str
    state: str
    created_at: str
    updated_at: str
    counts: Counts
    send_at: str | None = None
    live: dict[str, int] = {}
    events: dict[str, int] = {}
    held: dict[str, str] = {}
    warnings: list[Fault] = []
    trace_id: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing of the push will change any more."""
        return self.state in ("done", "cancelled") and not (self.counts.queued or self.counts.retrying)


class Delivery(Struct, frozen=True):
    """A delivery that has ended."""

    platform: str
    outcome: str
    reason: str
    status: int
    attempts: int
    token_hash: str
    provider_id: str
    at: str
    channel: str
    device_id: str | None = None
    provider_unique_id: str | None = None


class Device(Struct, frozen=True):
    """A registered device."""

    id: str
    platform: str
    registered_at: str
    last_seen_at: str
    state: str
    environment: str = "production"
    user: str | None = None
    tags: dict[str, str | int | float | bool | list[str]] = {}
    locale: str | None = None
    timezone: str | None = None
    app_version: str | None = None
    topics: list[str] = []
    token: str | None = None
    fid: str | None = None
    pruned_at: str | None = None
    pruned_for: str | None = None
    strikes: int | None = None
    struck_at: str | None = None
    online: bool | None = None
    connected_at: str | None = None
    unacked: int | None = None

    def __repr__(self) -> str:
        return f"Device({self.id!r}, {self.platform}, {self.state}, user={self.user!r})"


class Topic(Struct, frozen=True):
    """A topic and the number of its devices."""

    topic: str
    devices: int


class Erased(Struct, frozen=True):
    """What was removed of a user. Repeat the call while `done` is false."""

    erased: int
    done: bool = True


class FeedbackEvent(Struct, frozen=True):
    """A token that a provider reported as dead or suspect."""

    id: str
    at: str
    platform: str
    token: str
    reason: str
    action: str
    device_id: str | None = None

    def __repr__(self) -> str:
        return f"FeedbackEvent({self.id!r}, {self.at}, {self.platform}, {self.reason}, {self.action})"


class BatchResults(Struct, frozen=True):
    """The answer to a batch."""

    results: list[BatchResult]


class Page(Struct, Generic[T], frozen=True):
    """Items, all or a page, which `cursor` continues."""

    items: list[T]
    cursor: str | None = None
