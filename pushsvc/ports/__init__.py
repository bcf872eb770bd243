"""The few Protocols by which the stages meet the world. Runtime joins the two sides.

Every method that talks to Redis raises `StoreUnavailable` when it cannot, and nothing else on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from ..errors import Fault, PushsvcError
from ..model import (
    ApiKey,
    Content,
    Delivery,
    DeliveryRow,
    End,
    FeedbackEvent,
    Lane,
    Message,
    Outcome,
    Platform,
    Push,
    PushStatus,
    Receipt,
    Route,
    Settlement,
)
from ..model.rates import Rate
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken

# --- providers ----------------------------------------------------------------------------------


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
NOTE: Final = "note:"
"""Begins the name of a route in `DeliveryQueue.beat` that does send, and of which an operator should know something."""


# --- the queue ----------------------------------------------------------------------------------


class PushStore(Protocol):
    """Intake's side of the queue."""

    @property
    def pending(self) -> int:
        """Deliveries of all apps that have not ended, as far as is heard of them, and those that are being written."""
        ...

    def pending_of(self, app: str) -> int:
        """Those of `pending` that are the app's."""
        ...

    async def recount(self, apps: Iterable[str]) -> int:
        """`pending`, after a look at everything that waits for these apps, and for others that were removed."""
        ...

    async def accept(self, push: Push) -> None:
        """Write the push durably, whole or not at all. Concurrent calls share round trips. Counts in `pending` from its
        first step on."""
        ...

    async def accept_once(self, pushes: Sequence[Push], *, key: bytes, record: bytes) -> bytes | None:
        """Write all pushes of one call and the record under its idempotency key, in one atomic step.

        Where a record is kept already, nothing is written and that record is returned. Each push must be `beside` the
        key. A record is kept for 24 hours.
        """
        ...

    def beside(self, app: str, push_id: str, key: bytes) -> bool:
        """Whether a push of this id and the record of this key can be written in one step."""
        ...

    async def recall(self, app: str, key: bytes) -> bytes | None:
        """The record that is kept under an idempotency key, or None."""
        ...

    async def status(self, app: str, push_id: str) -> PushStatus | None: ...

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        """Those of many pushes, each an app and an id, in one round trip."""
        ...

    async def deliveries(
        self, app: str, push_id: str, *, outcome: End | None, cursor: str, limit: int
    ) -> tuple[list[DeliveryRow], str | None] | None:
        """Rows in the order of their index, and the cursor of the next page. None: no such push."""
        ...

    async def cancel(self, app: str, push_id: str) -> PushStatus | None:
        """Cancel what has not been sent. None: no such push. Raises `Conflict` when it is already done.

        Waits up to two seconds until each dispatcher has said that it holds nothing of the push any more and how many
        of its deliveries it has in flight: those stay `queued` until they are answered, all others are `cancelled`.
        Where a dispatcher says nothing in that time (it is paused, or has died), its deliveries count as they stand
        until it speaks or another takes them over: it sends nothing once its sign of life has run out.
        Of a push that is still scheduled nothing is ever sent, and its deliveries leave no rows.
        """
        ...

    async def ping(self) -> None: ...


class DeliveryQueue(Protocol):
    """The dispatcher's side of the queue: one consumer of the group, by its name."""

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        """Up to about `targets` targets of one lane; waits up to `wait_ms` for the first. Unsettled until `settle`."""
        ...

    async def settle(self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]) -> int:
        """One atomic step a shard: outcomes, retries, dead letters, receipts, counts, and `finished` acknowledged.

        Idempotent: a delivery that has ended, or moved on to a later turn, is left as it is.
        Returns how many of the settlements took effect.
        """
        ...

    async def promote(self, route: Route, now: int) -> int:
        """Move retries that are due back into their lanes, atomically. Returns how many deliveries."""
        ...

    async def launch(self, app: str, now: int) -> int:
        """Move scheduled pushes that are due into their lanes, atomically: each once, or not at all where it was
        cancelled before. Returns how many pushes; call again while it returns any.
        """
        ...

    async def reclaim(self, route: Route) -> list[Taken]:
        """Take over entries of consumers that are gone, at the targets without an outcome."""
        ...

    async def lapsed(self, route: Route, lane: Lane, now: int) -> list[Taken]:
        """Take what nobody has taken yet and whose time was over at `now` (Unix ms), also from behind what is not to be
        taken now. A part of the lane is looked at in each call, until all of it has been."""
        ...

    async def enrol(self, app: str) -> None:
        """Called before anything of an app is taken: from now on a revocation waits for this consumer's word."""
        ...

    async def revoked(self, apps: Collection[str], wait_ms: int) -> Sequence[News]:
        """What was taken back of these apps since the last call; waits up to `wait_ms` for it. Each is acknowledged,
        in this order. Apps that are not named any more are no longer followed."""
        ...

    async def acknowledge(self, news: News, in_flight: Mapping[str, int]) -> None:
        """Confirm that nothing of what `news` names will be submitted any more. `in_flight` has, by push id, the
        deliveries that are in flight, or answered and not settled. No `settle` of the app may be under way."""
        ...

    def forget(self, refs: Iterable[EntryRef]) -> None:
        """These entries are held no longer: `take` hands them out anew, as far as they are still this consumer's."""
        ...

    def release(self, route: Route) -> None:
        """Send no more for this route: what was read and not settled is taken anew when somebody asks again."""
        ...

    @property
    def history(self) -> int:
        """Another number once another server answers: what was read before is not sent any more, and comes again."""
        ...

    @property
    def replicated(self) -> bool:
        """Whether `settle` returns only when a failover cannot undo it."""
        ...

    async def beat(self, held: Mapping[str, str] | None = None, worked: Mapping[str, float] | None = None) -> None:
        """Say that this consumer lives; due every few seconds, or others take its entries over.

        `held` says which routes it holds, `app/platform` and why, for whoever asks; None leaves that as it was. A
        name that begins with `NOTE` is of a route that sends. `worked` says how many seconds ago this consumer saw a
        route, or a part of one, work: what others said of it before that and died is over.
        """
        ...

    async def retire(self) -> None:
        """Say that this consumer ends: others may take its unsettled entries over at once."""
        ...


# --- feedback -----------------------------------------------------------------------------------


class EventPage(Struct, frozen=True):
    """Feedback events in order, each with its id."""

    events: list[tuple[str, FeedbackEvent]]
    missing_to: str = ""
    """Where retention removed events that follow the cursor: the id of the last one of them."""


class ReceiptLog(Protocol):
    """Receipts in, suppression and feedback events out."""

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        """Receipts with their entry ids, own unacknowledged ones and those of dead consumers first."""
        ...

    async def record(self, app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        """One atomic step: append the events, suppress where the action is `suppressed`, acknowledge the receipts."""
        ...

    async def events(self, app: str, *, after: str, limit: int) -> EventPage: ...


class KeyRing(Protocol):
    """API keys made with `pushsvc keys new`, beside those of the configuration."""

    async def add(self, key: ApiKey) -> None: ...

    async def all(self) -> list[ApiKey]: ...

    async def find(self, sha256: str) -> ApiKey | None: ...

    async def revoke(self, name: str, app: str) -> bool: ...


# --- dead letters -------------------------------------------------------------------------------


class DeadFilter(Struct, frozen=True, omit_defaults=True):
    """Which dead letters are meant; what is left empty does not narrow. Instants in Unix ms, `until` exclusive."""

    push: str = ""
    platform: Platform = ""
    reason: str = ""
    since: int | None = None
    until: int | None = None


class DeadRow(Struct, frozen=True):
    """One dead letter as it may be shown: never its token."""

    id: str
    push_id: str
    platform: Platform
    device_id: str | None
    token_hash: str
    reason: str
    status: int
    attempts: int
    at: int


class ReplaySpec(Struct, frozen=True, omit_defaults=True):
    """What a replay is asked to do. `limit` deliveries, 0: all; `rate` deliveries a second, 0: no bound."""

    app: str
    filter: DeadFilter = DeadFilter()
    limit: int = 0
    rate: float = 0.0


class ReplayStatus(Struct, frozen=True):
    """Where a replay stands."""

    job: str
    spec: ReplaySpec
    state: Literal["queued", "running", "done", "failed", "stopped"]
    created_at: int
    updated_at: int
    matched: int
    """Dead letters that it meant when it was asked for."""
    moved: int = 0
    """Deliveries that are on their way again."""
    skipped: int = 0
    """Dead letters that stay: their push was cancelled, or nothing is known of it any more."""
    error: str = ""


class DeadLetters(Protocol):
    """Deliveries that failed for good, and their way back."""

    async def page(self, app: str, which: DeadFilter, *, cursor: str, limit: int) -> tuple[list[DeadRow], str | None]:
        """Oldest first, and the cursor of the next page. A page may be short, or empty, and still have one."""
        ...

    async def count(self, app: str, which: DeadFilter) -> int: ...

    async def request(self, spec: ReplaySpec) -> ReplayStatus:
        """Ask for a replay of what is there now; a worker takes it up. Dead letters of later are not meant."""
        ...

    async def replay(self, app: str, job: str) -> ReplayStatus | None:
        """Where a replay stands. None: no such replay."""
        ...

    async def stop(self, app: str, job: str) -> ReplayStatus | None:
        """Move no more of its dead letters; a step that is under way ends. What was moved is on its way. A replay that
        has ended stays as it is. None: no such replay."""
        ...


# --- limits -------------------------------------------------------------------------------------


class Bucket(Struct, frozen=True):
    """A rate that many processes share. Equal `owner` and `name` is the same bucket."""

    owner: str
    """The app, or a provider's account."""
    name: str
    rate: Rate
    burst: float
    """Seconds of the rate that may come at once."""
    ramp: float = 0.0
    """Seconds of use from the slowest rate to the whole; 0 is at once."""


class Lease(Struct, frozen=True):
    """What a bucket gave: permits to use soon, or, where there are too few, how long to wait for enough."""

    granted: int
    wait_ms: int = 0


class Question(Struct, frozen=True):
    """Names a question to the limiter, so that it counts once however often it is asked: its answer may be lost."""

    asker: str
    """Who asks one question after the other, among all of this process."""
    number: int
    """Higher than that of any question which this process asked before."""
    again: bool = False
    """It was asked before, and nobody knows whether it was counted."""


class Limiter(Protocol):
    """Rates that hold over all processes together, by the clock of the server that keeps them."""

    async def admit(
        self,
        route: Route,
        rate: Rate,
        tokens: Sequence[str],
        *,
        family: str = "all",
        question: Question | None = None,
    ) -> Sequence[tuple[int, int]]:
        """Count one push to each token. Who is over `rate` is not counted, and comes back as its place in `tokens`
        and the milliseconds to wait; the waits of one token's pushes are spread, so that they do not all come at once.

        `family` keeps the counts of different limits of one token apart. With a `question`, the same one may be asked
        again after `StoreUnavailable`, with the same tokens.
        """
        ...

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Lease:
        """Up to `wanted` permits of a bucket, counted whether they are used or not; none where it has fewer than
        `least`. A negative `wanted` gives back permits that were leased and not used. `question` as with `admit`."""
        ...
