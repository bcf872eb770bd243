"""A delivery: the provider's answer, the decision about it, and what is recorded. Frozen values."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from .push import Chunk, Lane, Platform, Target

End = Literal["sent", "failed", "invalid", "expired", "suppressed", "cancelled"]

ENDS: tuple[End, ...] = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")
"""The states in which a delivery ends. Every delivery ends in exactly one of them."""
SUPERSEDED: Final = "superseded"
"""The reason of a delivery that ends because a later push with the same `collapse` was accepted."""


class Delivery(Struct, frozen=True, gc=False):
    """One notification to one target: the unit of sending, retrying and counting."""

    chunk: Chunk
    target: Target
    passed: tuple[int, int] | None = None
    """When it was queued, and when it was taken from there to be sent, in Unix ms; None where that is not known."""

    @property
    def cancelled(self) -> bool:
        """Whether its push was cancelled after it was submitted."""
        return False

    def is_over(self, now: float) -> bool:
        """Return whether it must not be sent again: it has expired, or was cancelled. `now` is in Unix seconds."""
        return self.cancelled or self.chunk.expires_at <= now * 1000


class _Answer(Struct, frozen=True, kw_only=True, gc=False):
    status: int = 0
    """The provider's HTTP status; 0 when there was no answer."""
    reason: str = ""
    """The provider's reason (`BadDeviceToken`, `UNREGISTERED`) or one of pushsvc in lower case (`timeout`). Low
    cardinality."""


class Sent(_Answer, frozen=True):
    """The provider accepted it."""

    provider_id: str = ""
    unique_id: str = ""
    """A second id that the provider gave the message: APNs does so in the sandbox, for its console."""


class Throttled(_Answer, frozen=True):
    """Too many requests. The wait costs no attempt."""

    retry_after: float | None = None
    scope: Literal["token", "route"] = "token"
    """What the provider throttles: this token, or the whole route."""


class Unavailable(_Answer, frozen=True):
    """The provider is in trouble or did not answer. Worth another try."""

    retry_after: float | None = None
    maybe_sent: bool = False
    """Whether the provider may have processed the request."""
    part: str = ""
    """The part of the route that is in trouble, if it has connections of its own: it says nothing about the rest."""


class BadNotification(_Answer, frozen=True):
    """Our request is wrong; another try would be refused as well. The token is not to blame."""


class Misconfigured(_Answer, frozen=True):
    """The provider refused our credentials or topic. The route is held; the delivery waits."""

    part: str = ""
    """The refused part of the route (`apple`: FCM's credential for Apple), if the rest of it works."""
    chosen: bool = False
    """Whether the push chose something itself that may be what is refused: then it is no proof against the route."""


class TokenSuspect(_Answer, frozen=True):
    """The token and our identity disagree: wrong environment, wrong topic, wrong sender. Not proof of death."""


class TokenDead(_Answer, frozen=True):
    """The provider reports that the token is no longer valid."""

    since: int | None = None
    """The time at which the provider learnt it, in Unix milliseconds by the clock of the store, if it says so (APNs
    410)."""


class Expired(_Answer, frozen=True):
    """The delivery expired before it was sent. Nothing was transmitted."""


class Unconfirmed(_Answer, frozen=True):
    """Only the device's acknowledgement ends it as sent: it was written to the device, or no device was there."""

    within: float = 0.0
    """The time in seconds after which the next channel carries it on; 0 if no device was there."""


class Obsolete(_Answer, frozen=True):
    """Nothing is to be sent any more: a later push has taken its place, its device is gone, or it was cancelled."""

    end: Literal["suppressed", "cancelled"] = "suppressed"
    """How the delivery ends."""


Outcome: TypeAlias = (
    Sent
    | Throttled
    | Unavailable
    | BadNotification
    | Misconfigured
    | TokenSuspect
    | TokenDead
    | Expired
    | Obsolete
    | Unconfirmed
)
"""Every possible outcome of an attempt. Closed: a `match` on it ends in `assert_never`."""


class Ended(Struct, frozen=True, gc=False):
    """The delivery is over."""

    end: End
    dead_letter: bool = False
    """Keep it for the operator to look at and to replay."""


class Retry(Struct, frozen=True, gc=False):
    """The delivery is sent again at `due_at`, as attempt number `attempt`."""

    due_at: int
    attempt: int
    part: str = ""
    """The part of the route that it waits for."""
    counted: bool = True
    """Whether the limits have counted the delivery already, so that they are not applied again."""
    channel: Platform = ""
    """The fallback, or the other account at the same provider, that carries it from then on; empty: the same channel.
    It goes there at once if it is due."""


Verdict: TypeAlias = Ended | Retry


class Settlement(Struct, frozen=True, gc=False):
    """What is recorded of one attempt, in one atomic step together with others."""

    delivery: Delivery
    outcome: Outcome | None
    """None if nothing was attempted, because the delivery was cancelled or suppressed."""
    verdict: Verdict
    at: int
    token_hash: str
    """The short keyed hash of the token, the only form of it that a status row or a log may show."""
    reason: str = ""
    asked_at: int | None = None
    """When the request was sent, if one was: its answer is no evidence about anything later."""
    entry_id: str = ""
    """The queue entry that the delivery was taken from: its retry is void once that belongs to another consumer."""


class Arrival(Struct, frozen=True, gc=False):
    """A device's acknowledgement of a delivery, at any time and whichever channel carries the delivery by then."""

    push_id: str
    index: int
    total: int
    """The `total` of the chunk that it came in."""
    lane: Lane
    platform: Platform
    """The `platform` of that chunk."""
    device_id: str | None
    at: int
    """When it was acknowledged, in Unix milliseconds."""
    channel: Platform = "live"
    """The channel that the device acknowledges on, which was the first to carry it if no turn is recorded for it."""
    collapse: str = ""
    since: int = 0
    """Both as in its message: nothing older with the same `collapse` is sent to the device after it."""


class Receipt(Struct, frozen=True, array_like=True):
    """What feedback needs to know of a delivery whose token the provider reported as dead or suspect."""

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
    """When the request was sent that this answers."""

    @property
    def knows_until(self) -> int:
        """The time up to which this is evidence: that of the request. It says nothing about later registrations."""
        return self.at if self.asked_at is None else self.asked_at

    def __repr__(self) -> str:
        return f"Receipt({self.app}/{self.platform} {self.token_hash} {self.kind} {self.reason} at={self.at})"
