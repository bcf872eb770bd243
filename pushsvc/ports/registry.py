"""The registry: the devices, their users and their topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from ..errors import PushsvcError
from ..model.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from ..model.push import Platform

MOST_OF_USER = 1000
"""The maximum number of devices of a user. A user is a person: a name that stands for many belongs into no `user`."""
MOST_TOPICS = 1000
"""The maximum number of topics of a device."""


class UserFull(PushsvcError):
    """These devices, by id, would give their user more than `MOST_OF_USER`. Nothing of the call took effect."""

    def __init__(self, device_ids: Sequence[str]) -> None:
        super().__init__(f"a user has at most {MOST_OF_USER:,} devices")
        self.device_ids = tuple(device_ids)


class TopicsFull(PushsvcError):
    """The device would be subscribed to more than `MOST_TOPICS` topics."""

    def __init__(self) -> None:
        super().__init__(f"a device is subscribed to at most {MOST_TOPICS:,} topics")


class Members(Struct, frozen=True):
    """A page of an audience, without pruned devices."""

    devices: list[Device]
    cursor: str | None
    """The `after` of the next page, or None after the last one. A page may be empty without being the last."""
    done: float = 0.0
    """The part of a `scan` that is complete, from 0 to 1."""


class Prune(Struct, frozen=True):
    """A device to prune, if it is still as it was judged."""

    device_id: str
    token: str
    """The token that was judged. Nothing happens when the device has another one by now."""
    registered_at: int
    """The registration that was judged. Nothing happens when there is another one by now."""
    reason: str
    at: int
    """The instant of the answer, in Unix ms."""
    push_id: str = ""
    """The push that was answered so, if it was one."""

    def __repr__(self) -> str:
        return f"Prune({self.device_id!r}, {self.reason}, at={self.at})"


class Holding(Struct, frozen=True):
    """Names a device by its id or, where that is None, by its token."""

    device_id: str | None
    platform: Platform
    token: str

    def __repr__(self) -> str:
        return f"Holding({self.device_id!r}, {self.platform})"


class Strike(Struct, frozen=True):
    """A suspect answer to count, if the device is still as it was judged."""

    device_id: str
    token: str
    registered_at: int
    """As of `Prune`."""
    at: int
    """The instant of the answer, in Unix ms."""
    count: int
    """The number of the device's strikes including this one."""
    after: int
    """The instant of the previous strike, as it was read. Nothing happens when another strike was counted since."""
    reason: str = ""
    push_id: str = ""
    """The push that was answered so."""

    def __repr__(self) -> str:
        return f"Strike({self.device_id!r}, {self.count}, at={self.at})"


class PrunedFilter(Struct, frozen=True, omit_defaults=True):
    """Selects tombstones; an empty field does not narrow. Instants are in Unix ms, `until` is exclusive."""

    platform: Platform = ""
    reason: str = ""
    since: int | None = None
    until: int | None = None


Judge: TypeAlias = Callable[[Device], Device | None]
"""Returns what becomes of a device: itself where nothing changes, a changed device, or None to remove it. It must
keep id, platform and token, and may be called more than once."""


class Registry(Protocol):
    """Devices by id, token, user and topic. Every change is one atomic step that keeps all indexes consistent. A token
    belongs to one device of the app: when it is registered for another one, the earlier device is removed. Tokens are
    in their canonical form; see `model.address`. Times are in Unix ms."""

    async def put(self, app: str, device: Device) -> tuple[Device, bool]:
        """Register or refresh a device. Returns the stored device, and whether it is new. Raises `UserFull`.

        `registered_at` and `last_seen_at` of `device` are the present instant, also where the token is the same as
        before: the app has just received it from the provider. Topics are kept; strikes and tombstone are removed, and
        the suppression of the token is lifted.
        """

    async def put_many(self, app: str, devices: Sequence[Device]) -> list[bool]:
        """Import up to some hundred devices, in one step and in order. Returns whether each is new. Raises `UserFull`.
        Unlike `put`, this stores the whole device as it is, with its times, topics, strikes and tombstone."""

    async def get(self, app: str, device_id: str) -> Device | None: ...

    async def holders(self, app: str, wanted: Sequence[Holding]) -> list[Device | None]:
        """Return the device that each names, tombstones included, or None."""

    async def remove(self, app: str, device_id: str) -> bool:
        """Remove a device. Returns False where there was none."""

    async def of_user(self, app: str, user: str) -> list[Device]: ...

    async def subscribe(self, app: str, topic: str, device_id: str) -> bool:
        """Subscribe a device, and begin the topic with its first subscriber. Returns False where there is no such
        device. Raises `TopicsFull`."""

    async def unsubscribe(self, app: str, topic: str, device_id: str) -> bool: ...

    async def topic_size(self, app: str, topic: str) -> int | None:
        """Return the number of active devices that are subscribed, or None where there is no such topic."""

    async def count(self, app: str) -> int:
        """Return the number of active devices of the app."""

    async def members(
        self, app: str, audience: ByDevices | ByUsers | ByTopic | ToAll, *, after: str, limit: int
    ) -> Members:
        """Return a page of an audience, of about `limit` devices. `after` is empty at first. No device is in two pages.

        Devices that are registered after the first page was read are in no page, also where one was deleted and
        registered again under its id. No device is missed that existed before the first page and stayed. Names of
        `ByDevices` mean the devices that have them. A device that changes between two users of `ByUsers` during the
        paging may be returned for both or for neither.
        """

    async def scan(self, app: str, *, after: str, limit: int) -> Members:
        """Return a page of all devices, like `members` of `ToAll` but with tombstones."""

    async def page(self, app: str, *, after: str, limit: int) -> Members:
        """Return up to `limit` devices, tombstones included, in the order of their first registration. A page may be
        short or empty without being the last."""

    async def topics(self, app: str, *, after: str, limit: int) -> tuple[list[tuple[str, int]], str | None]:
        """Return topics after the name `after`, in the order of their names, each with its number of active devices;
        and the `after` of the next page, or None after the last one."""

    async def revise(
        self, app: str, device_ids: Sequence[str], judge: Judge, *, dry_run: bool = False, erases: bool = False
    ) -> list[tuple[Device, Device | None]]:
        """Judge up to some hundred devices in their present state and apply the judgement, in one step. Returns the
        changes that took place, or with `dry_run` would: each device before and after. The caller has chosen the
        devices by an earlier state; the judgement of the present one counts. A caller that `erases` devices ends what
        waits in their streams itself."""

    # --- tombstones -----------------------------------------------------------------------------

    async def prune(self, app: str, prunes: Sequence[Prune]) -> list[bool]:
        """Make tombstones. Returns for each whether it took effect."""

    async def strike(self, app: str, strikes: Sequence[Strike]) -> list[bool]:
        """Count suspect answers. Returns for each whether it took effect."""

    async def pruned(self, app: str, which: PrunedFilter) -> int:
        """Return the number of tombstones that are selected."""

    async def restore(self, app: str, which: PrunedFilter, *, limit: int) -> int:
        """Restore up to `limit` tombstones with their users, tags and topics, in one step. Returns their number; call
        it again while it returns any."""
