"""The queue as dispatchers see it: entries taken, settled, held and handed over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from ..model.delivery import Settlement
from ..model.push import Lane, Route
from .entries import EntryRef, News, Taken

NOTE: Final = "note:"
"""Begins the name of a route in `DeliveryQueue.beat` that does send, and of which an operator should know something."""


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
