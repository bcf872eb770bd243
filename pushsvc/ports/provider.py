"""A provider as the stages see it: rendering before a push is accepted, and sending."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from msgspec import Struct

from ..errors import Fault, PushsvcError
from ..model.delivery import Delivery, Outcome
from ..model.push import Content, Message, Platform, Route


class RenderError(PushsvcError):
    """A `Content` cannot become a valid request of this provider. Raised before anything is accepted."""

    def __init__(self, faults: Sequence[Fault], *, too_large: bool = False) -> None:
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)
        self.too_large = too_large  # the one fault is the payload's size: HTTP 413


class Renderer(Protocol):
    """The pure half of a provider, by which intake renders a push and checks it against the provider's limits."""

    platform: Platform

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("token",)) -> Message:
        """Render a push once for all its targets. Raises `RenderError` with every fault at once. `starts_at`, in Unix
        ms, is the instant from which its `ttl` runs. `kinds` are the kinds of its targets, on which the allowed fields
        depend."""

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("token",)) -> list[Fault]:
        """Return warnings of the vendor's documentation about a push that is accepted all the same. Cheap where only
        neutral fields were used."""


OnOutcome: TypeAlias = Callable[[Any, Outcome], None]
"""Called with the very object that was submitted, of whichever class of delivery its submitter made it."""


class Uplink(Protocol):
    """The connections to a provider, or to a part of it."""

    @property
    def trouble(self) -> str:
        """Return why no connection is up (`connection refused`, `bad certificate`), or the empty string."""

    @property
    def silence(self) -> float:
        """Return the seconds for which nothing at all has come from there, though a request waited and it was asked
        whether it is there; 0 while it speaks."""


class Provider(Uplink, Protocol):
    """The sending half of a provider, for one route: long-lived connections and a bounded window. The outcome is passed
    to a callback, because a task or a future for each delivery costs more than the sending."""

    route: Route

    @property
    def room(self) -> int:
        """Return how many more deliveries may be submitted now; 0 while no connection is up."""

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        """Send a delivery, and call `on_outcome` exactly once, at the latest after the request timeout. Never blocks or
        raises. Call it only while `room > 0`; `on_outcome` is never called from inside `submit`."""

    def on_room(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever `room` may have risen from 0."""

    @property
    def trouble(self) -> str:
        """As for every `Uplink`, or another reason why nothing is sent, with the prefix `CREDENTIAL`, `REMOVED` or
        `STREAMS`."""

    @property
    def parts(self) -> Mapping[str, Uplink]:
        """Return the parts of the route that have connections of their own, by name. Their trouble is not the
        route's."""

    @property
    def refused(self) -> str:
        """Return the vendor's reason for refusing our credentials before anything can be sent, or the empty string."""

    def remedy(self, reason: str) -> str:
        """Return what an operator can do when our credentials, or a part of them, are refused for `reason`, all
        requests throttled, or the part of this name not reached; empty where the provider has nothing beyond the
        general remedy."""

    async def aclose(self) -> None:
        """Let requests in flight end within the request timeout, then close every connection."""


LOOK: Final = "look at the credentials with `pushsvc check`"
"""What an operator can do when they are refused for a reason for which the provider has no remedy."""

CREDENTIAL: Final = "credential: "
"""The prefix of the `trouble` of a provider whose credentials cannot be read, so that no connection is tried."""

REMOVED: Final = "removed: "
"""The prefix of the `trouble` of a provider that represents an account no longer in the configuration."""

STREAMS: Final = "streams: "
"""The prefix of the `trouble` of a live channel that cannot write the streams of devices. It takes deliveries all the
same, since they may go on at another channel."""


# --- what a provider would be sent, for people to look at -----------------------------------------

TARGET = "<token>"
"""Stands for the address of a target in a preview."""


class Preview(Struct, frozen=True):
    """A request as it would be sent, without credentials and with `TARGET` in place of the address."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    limit: int | None = None
    """The maximum size of the payload in bytes."""
    size: int = 0
    """What counts against it."""
    override: bytes = b"null"
    """The JSON of `overrides.<platform>` of a push that sends the same; null where it needs none."""
