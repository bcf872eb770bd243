"""The queue as dispatchers see it: entries are read, settled and handed over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from ..model.delivery import Arrival, Settlement
from ..model.push import Chunk, Lane, Route
from .entries import EntryRef, News, Taken

NOTE: Final = "note:"
"""The prefix of a name in `DeliveryQueue.beat` that is of a route which does send, with a note for the operator."""


class DeliveryQueue(Protocol):
    """The dispatcher's side of the queue: one consumer of the group, by its name."""

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        """Read entries with up to about `targets` targets of one lane, and wait up to `wait_ms` for the first. An entry
        stays with this consumer until `settle`."""

    def drained(self, route: Route, lane: Lane) -> bool:
        """Return whether the latest `take` has left nothing in the lane."""

    async def outstanding(self, app: str, chunks: Sequence[Chunk]) -> list[list[int]]:
        """Return for each of these chunks which of its targets, by index, still await an outcome in its turn."""

    async def settle(
        self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> Sequence[Settlement]:
        """Record outcomes, retries, dead letters, receipts and counts, and acknowledge `finished`, in one atomic step a
        shard. Idempotent: a delivery that has ended, or moved on to a later turn, does not change. Returns those
        that took effect."""

    async def promote(self, route: Route, now: int) -> int:
        """Move due retries back into their lanes, atomically, lane after lane, less those of which everything was
        acknowledged. Returns the number of deliveries; call it again while it returns any."""

    async def next_retry(self, route: Route) -> int | None:
        """Return when `promote` has work next, in Unix ms, or None if nothing waits."""

    async def next_launch(self, app: str) -> int | None:
        """Return when `launch` has work next, in Unix ms, or None if nothing is scheduled."""

    async def launch(self, app: str, now: int) -> int:
        """Move due scheduled pushes into their lanes, atomically, lane after lane: each once, or never where it was
        cancelled. Returns the number of pushes; call it again while it returns any."""

    async def reclaim(self, route: Route) -> list[Taken]:
        """Take over the entries of dead consumers, with the targets that have no outcome."""

    async def lapsed(self, route: Route, lane: Lane, now: int) -> list[Taken]:
        """Take entries that no consumer has read and that had expired at `now` (Unix ms), also from behind others. Each
        call examines a part of the lane, until all of it was examined."""

    async def enrol(self, app: str) -> None:
        """Register this consumer for an app, before it reads anything of it: from then on a revocation waits for its
        confirmation."""

    async def revoked(self, apps: Collection[str], wait_ms: int) -> Sequence[News]:
        """Return the revocations of these apps since the last call, and wait up to `wait_ms` for the first. Acknowledge
        each, in this order. Apps that are no longer named are no longer followed."""

    async def acknowledge(self, news: News, in_flight: Mapping[str, int]) -> None:
        """Confirm that nothing that `news` names will be submitted any more. No `settle` of the app may be under way.
        `in_flight` has, by push id, the number of deliveries that are in flight, or answered and not settled."""

    def forget(self, refs: Iterable[EntryRef]) -> None:
        """Drop these entries: `take` returns them again where they still belong to this consumer."""

    def release(self, route: Route) -> None:
        """Stop sending for this route. What was read and not settled is read again when `take` is called for it."""

    @property
    def history(self) -> int:
        """Return a number that changes when another server answers: what was read before is then not sent, and is read
        again."""

    @property
    def replicated(self) -> bool:
        """Return whether `settle` only returns when a failover cannot undo it."""

    async def beat(self, held: Mapping[str, str] | None = None, worked: Mapping[str, float] | None = None) -> None:
        """Report that this consumer lives. It is due every few seconds, or others take its entries over.

        `held` has the routes that it holds, as `app/platform` with the reason; None leaves the last report as it was. A
        name with the prefix `NOTE` is of a route that sends. `worked` has the seconds since this consumer saw a route,
        or a part of one, work: older reports of dead consumers about it are then over.
        """

    @property
    def missed(self) -> int:
        """Return how often a beat has found that the last one was over: others may have taken over since."""

    async def retire(self) -> None:
        """Report that this consumer ends: others may take its unsettled entries over at once."""


class Arrivals(Protocol):
    """Acknowledgements of devices, which end deliveries."""

    async def arrived(self, app: str, arrivals: Sequence[Arrival]) -> int:
        """End as `sent` the deliveries that devices have acknowledged, one atomic step a shard. Nothing older with
        their `collapse` is sent to their devices any more.

        Their turn does not matter: every reader of them finds them ended. Deliveries that have ended, and those of a
        cancelled push, do not change. Returns the number of deliveries that ended.
        """

    async def suppress(self, app: str, arrivals: Sequence[Arrival], why: str) -> int:
        """End as `suppressed`, with the reason `why`, deliveries that no device can acknowledge any more: a later push
        with their `collapse` has taken their place in the stream, the stream has no room for them, or the device has
        changed.

        Those that a provider has been asked about, or is to be asked about now, do not change: its answer decides.
        Returns the number of deliveries that ended.
        """

    async def fall_back(self, app: str, arrivals: Sequence[Arrival]) -> int:
        """Let deliveries that wait for their devices go on at their next channel now: a full stream has no room for
        them, so no device can acknowledge them. Others do not change, nor do those of a very large push: they wait for
        their time. Returns the number of those that go on."""
