"""The registry: which devices there are, whose, and what they are subscribed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from ..errors import PushsvcError
from ..model.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from ..model.push import Platform

MOST_OF_USER = 1000
"""Devices of one user. A user is a person: a name that stands for everybody belongs into no `user` at all."""
MOST_TOPICS = 1000
"""Topics of one device."""


class UserFull(PushsvcError):
    """These devices, by id, would give their user more than `MOST_OF_USER`. Nothing of the call was done."""

    def __init__(self, device_ids: Sequence[str]) -> None:
        super().__init__(f"a user has at most {MOST_OF_USER:,} devices")
        self.device_ids = tuple(device_ids)


class TopicsFull(PushsvcError):
    """The device would be subscribed to more than `MOST_TOPICS`."""

    def __init__(self) -> None:
        super().__init__(f"a device is subscribed to at most {MOST_TOPICS:,} topics")


class Members(Struct, frozen=True):
    """A page of an audience, pruned devices left out."""

    devices: list[Device]
    cursor: str | None
    """Give it as `after` to go on; None: the audience has been gone through. A page may be empty and not the last."""
    done: float = 0.0
    """Of a `scan`, which part lies behind, from 0 to 1."""


class Prune(Struct, frozen=True):
    """A device that is to become a tombstone, if it is still what it was judged to be."""

    device_id: str
    token: str
    """Nothing happens when the device has another token by now."""
    reason: str
    at: int
    """The instant of the judgement, Unix ms. Nothing happens when the token was registered anew after it."""

    def __repr__(self) -> str:
        return f"Prune({self.device_id!r}, {self.reason}, at={self.at})"


class Holding(Struct, frozen=True):
    """A device by its id, or, where that is None, the one that has the token."""

    device_id: str | None
    platform: Platform
    token: str

    def __repr__(self) -> str:
        return f"Holding({self.device_id!r}, {self.platform})"


class Strike(Struct, frozen=True):
    """A suspect answer that is to be counted, if the device is still what it was judged to be."""

    device_id: str
    token: str
    at: int
    """The instant of the answer, Unix ms."""
    count: int
    """The device's strikes with this one."""
    after: int
    """The instant of the strike before, as it was read. Nothing happens when there was another one since."""

    def __repr__(self) -> str:
        return f"Strike({self.device_id!r}, {self.count}, at={self.at})"


class PrunedFilter(Struct, frozen=True, omit_defaults=True):
    """Which tombstones are meant; what is left empty does not narrow. Instants in Unix ms, `until` exclusive."""

    platform: Platform = ""
    reason: str = ""
    since: int | None = None
    until: int | None = None


Judge: TypeAlias = Callable[[Device], Device | None]
"""What shall become of a device: itself where nothing is to change, another in its place, or None: it goes. It may not
give it another id, platform or token. It may be asked more than once."""


class Registry(Protocol):
    """Devices by id, token, user and topic; every change is one atomic step that leaves all indexes in agreement.

    A token belongs to one device of the app: registered for another, it leaves the one that had it, which is then
    gone. Tokens are in their canonical form, and two of the same identity are one; see `identity`. Times are Unix
    milliseconds.
    """

    async def put(self, app: str, device: Device) -> tuple[Device, bool]:
        """Register or refresh; the document after it, and whether the device is new.

        `registered_at` and `last_seen_at` of `device` are the present instant, also where the token is the same as
        before: the app has just got it from the provider. Topics are kept; strikes and tombstone go. The token is taken
        off the suppression list. Raises UserFull.
        """
        ...

    async def put_many(self, app: str, devices: Sequence[Device]) -> list[bool]:
        """`put` for an import, at most some hundred at once, in one step and in their order: whether each is new. Here
        the whole device is taken as it stands, with its times, topics, strikes and tombstone. Raises UserFull."""
        ...

    async def get(self, app: str, device_id: str) -> Device | None: ...

    async def holders(self, app: str, wanted: Sequence[Holding]) -> list[Device | None]:
        """For each the device that is meant, be it a tombstone."""
        ...

    async def by_token(self, app: str, platform: Platform, token: str) -> Device | None: ...

    async def remove(self, app: str, device_id: str) -> bool:
        """False: there was none."""
        ...

    async def of_user(self, app: str, user: str) -> list[Device]: ...

    async def remove_user(self, app: str, user: str) -> list[Device]:
        """Remove the user's devices from everything that the registry keeps; what they were."""
        ...

    async def subscribe(self, app: str, topic: str, device_id: str) -> bool:
        """False: there is no such device. A topic begins with its first subscriber. Raises TopicsFull."""
        ...

    async def unsubscribe(self, app: str, topic: str, device_id: str) -> bool: ...

    async def topic_size(self, app: str, topic: str) -> int | None:
        """Devices that are subscribed and active. None: no such topic."""
        ...

    async def count(self, app: str) -> int:
        """Devices of the app that are active."""
        ...

    async def members(
        self, app: str, audience: ByDevices | ByUsers | ByTopic | ToAll, *, after: str, limit: int
    ) -> Members:
        """A page of an audience, about `limit` devices, each device once over all pages. `after` is empty at first.

        Devices that are registered after the first page was read are in none, also where one was deleted and comes
        again under its id: of it there is one place, or none. None that was there before the first page and stayed is
        missed. Names of `ByDevices` mean whoever has them.
        A device that changes hands between two users of `ByUsers` while somebody pages may be met at both, or at
        neither.
        """
        ...

    async def scan(self, app: str, *, after: str, limit: int) -> Members:
        """As `members` of `ToAll`, tombstones too."""
        ...

    async def page(self, app: str, *, after: str, limit: int) -> Members:
        """Up to `limit` devices, tombstones too, in the order in which they were registered first. A page may be short,
        or empty, and not the last."""
        ...

    async def topics(self, app: str, *, after: str, limit: int) -> tuple[list[tuple[str, int]], str | None]:
        """Topics in the order of their names, those behind the name `after`, each with its active devices; and the name
        to go on behind, None where there are no more."""
        ...

    async def revise(
        self, app: str, device_ids: Sequence[str], judge: Judge, *, dry_run: bool = False
    ) -> list[tuple[Device, Device | None]]:
        """Judge each of these devices as it stands, at most some hundred, and make it what it shall be, in one step.

        The changes that took place, or would to a dry run: what a device was, and what it is. Whoever read the devices
        earlier has chosen them by what they were; the judgement that counts is of what they are.
        """
        ...

    async def adopt(self, app: str) -> bool:
        """Bring some of the devices that an earlier pushsvc wrote to the form of today, with the canonical form of
        their tokens; of two that turn out to have one token, the one that was registered later stays. False: all are.
        It may be broken off, and repeated, at any point."""
        ...

    # --- tombstones -----------------------------------------------------------------------------

    async def prune(self, app: str, prunes: Sequence[Prune]) -> list[bool]:
        """Make tombstones; for each whether it took effect."""
        ...

    async def strike(self, app: str, strikes: Sequence[Strike]) -> list[bool]:
        """Count suspect answers; for each whether it took effect."""
        ...

    async def pruned(self, app: str, which: PrunedFilter) -> int:
        """How many tombstones are meant."""
        ...

    async def restore(self, app: str, which: PrunedFilter, *, limit: int) -> int:
        """Bring tombstones back, with their users, tags and topics, at most `limit` in one step; how many. Call it
        again while it returns something."""
        ...

    async def bury(self, app: str, before: int, *, limit: int, dry_run: bool = False) -> int:
        """Remove tombstones that were made before that instant, at most `limit`; how many there are to a dry run."""
        ...
