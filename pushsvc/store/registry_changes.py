"""What a step makes of the devices that it concerns. Pure: a `Desk` is filled, worked at, and read off.

Every change of the registry is the same three moves: read the devices that may be concerned, decide what they shall
be, and write the difference in one atomic step that takes place only where nothing read has changed meanwhile. So
the rules (a token belongs to one device, who is counted, what a tombstone keeps) stand here once, and the script that
writes knows none of them: it is told which index gains what.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from ..devices import Device
from ..model import Platform
from ..ports.registry import MOST_TOPICS, Holding, Judge, Prune, Strike, TopicsFull


class Kept(Struct, frozen=True):
    """A device as it was read: its ordinal and its document's bytes."""

    n: int
    blob: bytes
    device: Device


class Change(Struct, frozen=True):
    """A device before and after: None before it is new, None after it is gone."""

    before: Kept | None
    after: Device | None


class Desk:
    """Devices as they were read, and as they shall be."""

    def __init__(self, found: Iterable[Kept]) -> None:
        self._before = {kept.device.id: kept for kept in found}
        self.devices = {device_id: kept.device for device_id, kept in self._before.items()}
        self._owners = {(device.platform, device.token): device.id for device in self.devices.values()}

    def owner(self, platform: Platform, token: str) -> Device | None:
        device_id = self._owners.get((platform, token))
        return None if device_id is None else self.devices[device_id]

    def holder(self, holding: Holding) -> Device | None:
        if holding.device_id is None:
            return self.owner(holding.platform, holding.token)
        return self.devices.get(holding.device_id)

    def put(self, device: Device) -> bool:
        """The device as it stands; whether it is new. Whoever else had its token is gone."""
        owner = self.owner(device.platform, device.token)
        if owner is not None and owner.id != device.id:
            self.remove(owner.id)
        old = self.devices.get(device.id)
        if old is not None:
            del self._owners[old.platform, old.token]
        self.devices[device.id] = device
        self._owners[device.platform, device.token] = device.id
        return old is None

    def register(self, device: Device) -> tuple[Device, bool]:
        """The device with the topics that it has had; strikes and tombstone go."""
        old = self.devices.get(device.id)
        fresh = replace(
            device,
            topics=() if old is None else old.topics,
            state="active",
            pruned_at=0,
            pruned_for="",
            strikes=0,
            struck_at=0,
        )
        return fresh, self.put(fresh)

    def remove(self, device_id: str) -> Device | None:
        device = self.devices.pop(device_id, None)
        if device is not None:
            del self._owners[device.platform, device.token]
        return device

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
        device = self.devices.get(prune.device_id)
        if device is None or device.token != prune.token or device.registered_at > prune.at or device.state == "pruned":
            return False
        self.devices[device.id] = replace(device, state="pruned", pruned_at=prune.at, pruned_for=prune.reason)
        return True

    def strike(self, strike: Strike) -> bool:
        device = self.devices.get(strike.device_id)
        if device is None or device.token != strike.token or device.struck_at != strike.after:
            return False
        self.devices[device.id] = replace(device, strikes=strike.count, struck_at=strike.at)
        return True

    def restore(self, device_id: str) -> bool:
        device = self.devices.get(device_id)
        if device is None or device.state != "pruned":
            return False
        self.devices[device_id] = replace(device, state="active", pruned_at=0, pruned_for="", strikes=0, struck_at=0)
        return True

    def bury(self, device_id: str, before: int) -> bool:
        device = self.devices.get(device_id)
        return (
            device is not None
            and device.state == "pruned"
            and device.pruned_at < before
            and bool(self.remove(device_id))
        )

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

    def remove_user(self, user: str) -> list[Device]:
        devices = self.of_user(user)
        for device in devices:
            self.remove(device.id)
        return devices

    def changes(self) -> list[Change]:
        """What is to be written; those that go come first."""
        before, after = self._before, self.devices
        gone = [Change(kept, None) for device_id, kept in before.items() if device_id not in after]
        for device_id, device in after.items():
            kept = before.get(device_id)
            if kept is None or kept.device != device:
                gone.append(Change(kept, device))
        return gone
