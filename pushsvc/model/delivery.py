"""A delivery: what a provider answered, what follows for the delivery, and what is recorded of it. Frozen values."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from .push import Chunk, Platform, Target

End = Literal["sent", "failed", "invalid", "expired", "suppressed", "cancelled"]

ENDS: tuple[End, ...] = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")
"""The ways in which a delivery ends. Every delivery ends in exactly one of them."""


class Delivery(Struct, frozen=True, gc=False):
    """One notification to one target: the unit of sending, retrying and counting."""

    chunk: Chunk
    target: Target


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
