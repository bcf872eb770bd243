"""A provider as the stages see it: rendering before a push is accepted, and sending."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeAlias

from ..errors import Fault, PushsvcError
from ..model.delivery import Delivery, Outcome
from ..model.push import Content, Message, Platform, Route
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken


class RenderError(PushsvcError):
    """A `Content` cannot become a valid request of this provider. Pure; raised before anything is accepted."""

    def __init__(self, faults: Sequence[Fault], *, too_large: bool = False) -> None:
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)
        self.too_large = too_large  # the one fault is the payload's size: HTTP 413


class Renderer(Protocol):
    """The pure half of a provider, which intake uses: what would be sent, and is it within the limits?"""

    platform: Platform

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("token",)) -> Message:
        """Render once a push, not once a target. `starts_at`, in Unix ms, is from when on its `ttl` runs; `kinds` are
        those of the targets that it is for: what may be sent depends on them.

        Raises `RenderError` with every fault at once.
        """
        ...

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("token",)) -> list[Fault]:
        """What the vendor's pages say against a rendered push that is taken all the same. Cheap where the neutral
        fields alone made it."""
        ...

    def token_fault(self, token: str, kind: str) -> str | None:
        """Why this cannot be a token of the provider, or None. Generous: the provider knows best."""
        ...


OnOutcome: TypeAlias = Callable[[Delivery, Outcome], None]


class Provider(Protocol):
    """The sending half of a provider, for one route: long-lived connections and a bounded window.

    A callback carries the outcome rather than a task or a future a delivery: those cost more than the sending.
    """

    route: Route

    @property
    def room(self) -> int:
        """How many more deliveries may be submitted right now; 0 while no connection is up."""
        ...

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        """Send it. Never blocks, never raises; calls `on_outcome` exactly once, at the latest at the request timeout.

        Only to be called while `room > 0`; `on_outcome` is never called from inside `submit`.
        """
        ...

    def on_room(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever `room` may have risen from 0."""
        ...

    @property
    def trouble(self) -> str:
        """Why no connection is up (`connection refused`, `bad certificate`), or the empty string."""
        ...

    @property
    def refused(self) -> str:
        """The vendor's word by which it refuses who we are before anything can be sent, or the empty string."""
        ...

    def remedy(self, reason: str) -> str:
        """What an operator can do where this is why our credentials, or a part of them, are refused; may be empty."""
        ...

    async def aclose(self) -> None:
        """Let what is in flight end within the request timeout, then close every connection."""
        ...


CREDENTIAL: Final = "credential: "
"""Begins the `trouble` of a provider whose credentials cannot be read: no connection is even tried."""

REMOVED: Final = "removed: "
"""Begins the `trouble` of a provider that stands for an account which is no longer in the configuration."""
