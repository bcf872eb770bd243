"""Computes the changes of devices. Pure: a `ChangeSet` is filled, modified, and read.

Every change of the registry has three steps: read the devices that may be concerned, decide what becomes of them, and
write the difference in one atomic step that takes place only if nothing that was read has changed meanwhile. So the
rules (a token belongs to one device, what is counted, what a tombstone keeps) are defined here once, and the script
that writes contains none of them: it receives the changes of each index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from ...model.address import Addresses
from ...model.devices import Device, revived
from ...model.push import Platform
from ...ports.registry import MOST_OF_USER, MOST_TOPICS, Holding, Judge, Prune, Strike, TopicsFull

Address: TypeAlias = tuple[Platform, str]
"""A platform and a token. What two of them are compared by belongs to one device of the app."""


class Kept(Struct, frozen=True):
    """A device as it was read: its ordinal and its document's bytes."""

    n: int
    blob: bytes
    device: Device


class DeviceChange(Struct, frozen=True):
    """A device before and after: None before it is new, None after it is gone. Its id changes where another device
    takes its token over."""

    before: Kept | None
    after: Device | None

    @property
    def old(self) -> Device | None:
        return None if self.before is None else self.before.device


class ChangeSet:
    """Devices as they were read, and as they are to be written."""

    def __init__(self, found: Iterable[Kept], addresses: Addresses) -> None:
        self._found = list(found)
        self._identity = addresses.identity
        self._places = {kept.device.id: kept for kept in self._found}
        """Which document that was read becomes that of a device."""
        self.devices = {device_id: kept.device for device_id, kept in self._places.items()}

    @cached_property
    def _owners(self) -> dict[Address, str]:
        """Whose an address is: of those that were read with it, the device that was registered last. Most readers of
        many devices do not ask."""
        identity = self._identity
        found = sorted((kept.device for kept in self._places.values()), key=lambda device: device.registered_at)
        return {identity(device.platform, device.token): device.id for device in found}

    def before(self, ordinal: int) -> list[Device]:
        """Return the devices as they were read, those with a smaller ordinal."""
        return [kept.device for kept in self._found if kept.n < ordinal]

    def owner(self, platform: Platform, token: str) -> Device | None:
        device_id = self._owners.get(self._identity(platform, token))
        return None if device_id is None else self.devices[device_id]

    def holder(self, holding: Holding) -> Device | None:
        if holding.device_id is None:
            return self.owner(holding.platform, holding.token)
        return self.devices.get(holding.device_id)

    def put(self, device: Device) -> bool:
        """Register the device, and return whether it is new. It takes the place of any other device with its token,
        which is removed: a reader that pages through an audience meets each token at one place, whatever its device is
        called."""
        owner = self.owner(device.platform, device.token)
        old = self.devices.get(device.id)
        if old is not None:
            self._release_token(old)
        if owner is not None and owner.id != device.id:
            self.remove(owner.id)
            if (place := self._places.pop(owner.id, None)) is not None:
                self._places[device.id] = place
        self.devices[device.id] = device
        self._owners[self._identity(device.platform, device.token)] = device.id
        return old is None

    def register(self, device: Device) -> tuple[Device, bool]:
        """Return the device with the topics that it has had; strikes and tombstone go."""
        old = self.devices.get(device.id)
        fresh = revived(device, topics=() if old is None else old.topics)
        return fresh, self.put(fresh)

    def remove(self, device_id: str) -> Device | None:
        device = self.devices.pop(device_id, None)
        if device is not None:
            self._release_token(device)
        return device

    def _release_token(self, device: Device) -> None:
        identity = self._identity(device.platform, device.token)
        if self._owners.get(identity) == device.id:
            del self._owners[identity]

    def subscribe(self, device_id: str, topic: str) -> bool:
        device = self.devices.get(device_id)
        if device is not None and topic not in device.topics:
            if len(device.topics) >= MOST_TOPICS:
                raise TopicsFull
            self.devices[device_id] = replace(device, topics=(*device.topics, topic))
        return device is not None

    def unsubscribe(self, device_id: str, topic: str) -> bool:
        device = self.devices.get(device_id)
        if device is None or topic not in device.topics:
            return False
        self.devices[device_id] = replace(device, topics=tuple(each for each in device.topics if each != topic))
        return True

    def prune(self, prune: Prune) -> bool:
        device = self._judged(prune)
        if device is None or device.state == "pruned":
            return False
        # The push of an older strike has not caused this: where the answer is of none, none is named.
        self.devices[device.id] = replace(
            *(device,), state="pruned", pruned_at=prune.at, pruned_for=prune.reason, judged_by=prune.push_id
        )
        return True

    def strike(self, strike: Strike) -> bool:
        device = self._judged(strike)
        if device is None or device.struck_at != strike.after:
            return False
        self.devices[device.id] = replace(
            *(device,), strikes=strike.count, struck_at=strike.at, struck_for=strike.reason, judged_by=strike.push_id
        )
        return True

    def _judged(self, judgement: Prune | Strike) -> Device | None:
        """Return the device that was judged, unless it has another token or was registered again meanwhile."""
        device = self.devices.get(judgement.device_id)
        judged = judgement.token, judgement.registered_at
        return None if device is None or (device.token, device.registered_at) != judged else device

    def restore(self, device_id: str) -> bool:
        device = self.devices.get(device_id)
        if device is None or device.state != "pruned":
            return False
        self.devices[device_id] = revived(device)
        return True

    def revise(self, device_ids: Iterable[str], judge: Judge) -> list[tuple[Device, Device | None]]:
        changes: list[tuple[Device, Device | None]] = []
        for device_id in device_ids:
            device = self.devices.get(device_id)
            revised = device if device is None else judge(device)
            if device is None or revised is device:
                continue
            if revised is None:
                self.remove(device_id)
            else:
                self.devices[device_id] = revised
            changes.append((device, revised))
        return changes

    def of_user(self, user: str) -> list[Device]:
        return [device for device in self.devices.values() if device.user == user]

    def changes(self) -> list[DeviceChange]:
        """Return the changes to write, removals first."""
        places = {device_id: self._places.get(device_id) for device_id in self.devices}
        used = {kept.n for kept in places.values() if kept is not None}
        found = [DeviceChange(kept, None) for kept in self._found if kept.n not in used]
        for device_id, device in self.devices.items():
            kept = places[device_id]
            if kept is None or kept.device != device:
                found.append(DeviceChange(kept, device))
        return found


def tokens_to_recheck(changes: Iterable[DeviceChange]) -> list[tuple[Platform, str]]:
    """Return the tokens, as waiting targets hold them, of devices that change for a push: see presence.py. Changes of a
    tombstone have no effect on a push, because its token was marked when it was made."""
    found = []
    for change in changes:
        old, new = change.old, change.after
        if old is None or old.state == "pruned":
            continue
        same = new is not None and (old.id, old.user, old.token, old.kind, old.environment, old.state) == (
            *(new.id, new.user, new.token, new.kind, new.environment, new.state),
        )
        if new is None or not same or not set(old.topics) <= set(new.topics):
            found.append((old.platform, old.token))
    return found


def successors_of(changes: Sequence[DeviceChange]) -> list[tuple[Platform, str, str]]:
    """Return the tokens that a user's phone keeps under a new id, as waiting targets hold them, each with that id: see
    presence.py."""
    existed = {change.old.id for change in changes if change.old is not None}
    found = []
    for change in changes:
        old, new = change.old, change.after
        if old is not None and new is not None and new.id not in existed and old.user == new.user is not None:
            found.append((old.platform, old.token, new.id))
    return found


def joining_of(changes: Iterable[DeviceChange]) -> Counter[str]:
    """Return how many devices each user would gain."""
    found: Counter[str] = Counter()
    for change in changes:
        left = None if change.old is None else change.old.user
        if change.after is not None and change.after.user is not None and change.after.user != left:
            found[change.after.user] += 1
    return found


def spare(devices: Sequence[Device], joining: int) -> list[str]:
    """Return which of a user's tombstones, the oldest first, must be removed so that the joining devices fit: none if
    this is unnecessary or does not help."""
    stones = sorted((each for each in devices if each.state == "pruned"), key=lambda each: each.pruned_at)
    excess = len(devices) + joining - MOST_OF_USER
    return [stone.id for stone in stones[:excess]] if 0 < excess <= len(stones) else []


def read_place(after: str) -> tuple[int, int]:
    """Return where a page of an audience begins, and the ordinal from which on devices came later than its first page;
    0: not known yet."""
    place, _, bound = after.partition(":")
    return int(place or 0), int(bound or 0)


def written_place(place: int, bound: int) -> str:
    """Return a place in the form that `read_place` parses."""
    return f"{place}:{bound}"
