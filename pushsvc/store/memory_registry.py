"""The registry's twin in plain dictionaries. It decides as Redis' does, at the same `Desk`, and keeps no index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from ..devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from ..model import Platform
from ..ports.registry import MOST_OF_USER, Judge, Members, Prune, PrunedFilter, UserFull
from .memory_state import State
from .registry_changes import Desk, Kept
from .registry_wire import is_meant, label_of

T = TypeVar("T")


class MemoryRegistry:
    """`Registry` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def put(self, app: str, device: Device) -> tuple[Device, bool]:
        result = self._change(app, lambda desk: desk.register(device))
        self._lift(app, [device])
        return result

    async def put_many(self, app: str, devices: Sequence[Device]) -> list[bool]:
        new = self._change(app, lambda desk: [desk.put(device) for device in devices])
        self._lift(app, [device for device in devices if device.state == "active"])
        return new

    async def get(self, app: str, device_id: str) -> Device | None:
        return self._desk(app).devices.get(device_id)

    async def by_token(self, app: str, platform: Platform, token: str) -> Device | None:
        return self._desk(app).owner(platform, token)

    async def remove(self, app: str, device_id: str) -> bool:
        return self._change(app, lambda desk: desk.remove(device_id) is not None)

    async def of_user(self, app: str, user: str) -> list[Device]:
        return self._desk(app).of_user(user)

    async def remove_user(self, app: str, user: str) -> list[Device]:
        return self._change(app, lambda desk: desk.remove_user(user))

    async def subscribe(self, app: str, topic: str, device_id: str) -> bool:
        return self._change(app, lambda desk: desk.subscribe(device_id, topic))

    async def unsubscribe(self, app: str, topic: str, device_id: str) -> bool:
        return self._change(app, lambda desk: desk.unsubscribe(device_id, topic))

    async def topic_size(self, app: str, topic: str) -> int | None:
        found = [device for device in self._devices(app) if topic in device.topics]
        return len(_active(found)) if found else None

    async def count(self, app: str) -> int:
        return len(_active(self._devices(app)))

    async def members(
        self, app: str, audience: ByDevices | ByUsers | ByTopic | ToAll, *, after: str, limit: int
    ) -> Members:
        def page(wanted: Callable[[Device], bool]) -> Members:
            return self._page(app, lambda device: device.state == "active" and wanted(device), after, limit)

        match audience:
            case ByDevices(ids):
                known = self._desk(app).devices
                distinct, first = list(dict.fromkeys(ids)), int(after or 0)
                found = _active(known[each] for each in distinct[first : first + limit] if each in known)
                return Members(found, str(first + limit) if first + limit < len(distinct) else None)
            case ByUsers(users):
                return page(lambda device: device.user in users)
            case ByTopic(topic):
                return page(lambda device: topic in device.topics)
            case ToAll():
                return page(lambda _: True)

    async def scan(self, app: str, *, after: str, limit: int) -> Members:
        return self._page(app, lambda _: True, after, limit)

    async def revise(
        self, app: str, device_ids: Sequence[str], judge: Judge, *, dry_run: bool = False
    ) -> list[tuple[Device, Device | None]]:
        if dry_run:
            return self._desk(app).revise(device_ids, judge)
        return self._change(app, lambda desk: desk.revise(device_ids, judge))

    async def prune(self, app: str, prunes: Sequence[Prune]) -> list[bool]:
        return self._change(app, lambda desk: [desk.prune(prune) for prune in prunes])

    async def strike(self, app: str, device_id: str, token: str, at: int) -> int:
        return self._change(app, lambda desk: desk.strike(device_id, token, at))

    async def restore(self, app: str, which: PrunedFilter, *, limit: int) -> int:
        devices = self._tombstones(app, which)[:limit]
        for device in devices:
            self._state.suppressed.pop((app, device.platform, device.token), None)
        return self._change(app, lambda desk: sum(desk.restore(device.id) for device in devices))

    async def bury(self, app: str, before: int, *, limit: int, dry_run: bool = False) -> int:
        devices = self._tombstones(app, PrunedFilter(until=before))
        if dry_run:
            return len(devices)
        return self._change(app, lambda desk: sum(desk.bury(device.id, before) for device in devices[:limit]))

    # --- what stands in the dictionary ------------------------------------------------------------

    def _devices(self, app: str) -> Iterable[Device]:
        return self._state.devices[app].values()

    def _desk(self, app: str) -> Desk:
        return Desk(Kept(n, b"", device) for n, device in self._state.devices[app].items())

    def _change(self, app: str, decide: Callable[[Desk], T]) -> T:
        desk = self._desk(app)
        result = decide(desk)
        changes = desk.changes()
        crowded = {
            device.user
            for device in (change.after for change in changes)
            if device is not None and device.user is not None and len(desk.of_user(device.user)) > MOST_OF_USER
        }
        if crowded:
            raise UserFull([change.after.id for change in changes if change.after and change.after.user in crowded])
        devices = self._state.devices[app]
        for change in changes:
            n = next(self._state.numbers) if change.before is None else change.before.n
            if change.after is None:
                del devices[n]
            else:
                devices[n] = change.after
        return result

    def _lift(self, app: str, devices: Iterable[Device]) -> None:
        suppressed = self._state.suppressed
        for device in devices:
            key = (app, device.platform, device.token)
            if suppressed.get(key, device.registered_at + 1) <= device.registered_at:
                del suppressed[key]

    def _page(self, app: str, wanted: Callable[[Device], bool], after: str, limit: int) -> Members:
        first = int(after or 0)
        numbered = ((n, device) for n, device in self._state.devices[app].items() if n >= first and wanted(device))
        page = list(islice(numbered, limit))
        return Members([device for _, device in page], str(page[-1][0] + 1) if len(page) == limit else None)

    def _tombstones(self, app: str, which: PrunedFilter) -> list[Device]:
        return [
            device
            for device in self._devices(app)
            if device.state == "pruned"
            and is_meant(label_of(device), which)
            and (which.since is None or device.pruned_at >= which.since)
            and (which.until is None or device.pruned_at < which.until)
        ]


def _active(devices: Iterable[Device]) -> list[Device]:
    return [device for device in devices if device.state == "active"]
