"""The registry's twin in plain dictionaries. It decides as Redis' does, with the same `ChangeSet`, and keeps no more
indexes than its tests' patience needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from pushsvc.model.delivery import Arrival
from pushsvc.model.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from pushsvc.ports.registry import MOST_OF_USER, Holding, Judge, Members, Prune, PrunedFilter, Strike, UserFull
from pushsvc.rules.audience import MOVED, PRUNED
from pushsvc.rules.life import lives_on, seen
from pushsvc.store.hashing import token_digest
from pushsvc.store.queue.arrivals import EndOfAny
from pushsvc.store.registry.changes import (
    ChangeSet,
    DeviceChange,
    Kept,
    joining_of,
    read_place,
    spare,
    successors_of,
    tokens_to_recheck,
    written_place,
)
from pushsvc.store.registry.wire import DeviceQuery, held_by, is_meant, label_of, stream_action

from .state import State

T = TypeVar("T")


class MemoryRegistry:
    """`Registry` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def put(self, app: str, device: Device) -> tuple[Device, bool]:
        about = DeviceQuery(ids=[device.id], tokens=[(device.platform, device.token)])
        result = self._change(app, about, lambda changes: changes.register(device))
        self._state.lift(app, [device])
        return result

    async def put_many(self, app: str, devices: Sequence[Device]) -> list[bool]:
        about = DeviceQuery(
            ids=[device.id for device in devices],
            tokens=[(device.platform, device.token) for device in devices],
        )
        new = self._change(app, about, lambda changes: [changes.put(device) for device in devices])
        self._state.lift(app, _active(devices))
        return new

    async def get(self, app: str, device_id: str) -> Device | None:
        return self._change_set(app, DeviceQuery(ids=[device_id])).devices.get(device_id)

    async def holders(self, app: str, wanted: Sequence[Holding]) -> list[Device | None]:
        change_set = self._change_set(app, held_by(wanted))
        return [change_set.holder(each) for each in wanted]

    async def remove(self, app: str, device_id: str) -> bool:
        return self._change(app, DeviceQuery(ids=[device_id]), lambda changes: changes.remove(device_id) is not None)

    async def of_user(self, app: str, user: str) -> list[Device]:
        return self._change_set(app, DeviceQuery(users=[user])).of_user(user)

    async def subscribe(self, app: str, topic: str, device_id: str) -> bool:
        return self._change(app, DeviceQuery(ids=[device_id]), lambda changes: changes.subscribe(device_id, topic))

    async def unsubscribe(self, app: str, topic: str, device_id: str) -> bool:
        return self._change(app, DeviceQuery(ids=[device_id]), lambda changes: changes.unsubscribe(device_id, topic))

    async def topic_size(self, app: str, topic: str) -> int | None:
        found = [kept.device for kept in self._kept(app) if topic in kept.device.topics]
        return len(_active(found)) if found else None

    async def count(self, app: str) -> int:
        return len(_active(kept.device for kept in self._kept(app)))

    async def revise(
        self, app: str, device_ids: Sequence[str], judge: Judge, *, dry_run: bool = False, erases: bool = False
    ) -> list[tuple[Device, Device | None]]:
        about = DeviceQuery(ids=device_ids)
        if dry_run:
            return self._change_set(app, about).revise(device_ids, judge)
        return self._change(app, about, lambda changes: changes.revise(device_ids, judge), erases=erases)

    # --- paging -----------------------------------------------------------------------------------

    async def members(
        self, app: str, audience: ByDevices | ByUsers | ByTopic | ToAll, *, after: str, limit: int
    ) -> Members:
        first, bound = read_place(after)
        bound = bound or max((kept.n + 1 for kept in self._kept(app)), default=1)

        def page(wanted: Callable[[Device], bool]) -> Members:
            found = self._page(app, lambda device: _is_reached(device) and wanted(device), first, limit, bound)
            return Members(found.devices, None if found.cursor is None else written_place(int(found.cursor), bound))

        match audience:
            case ByDevices(ids):
                distinct = list(dict.fromkeys(ids))
                asked = distinct[first : first + limit]
                found = list(filter(_is_reached, self._change_set(app, DeviceQuery(ids=asked)).devices.values()))
                return Members(found, str(first + limit) if first + limit < len(distinct) else None)
            case ByUsers(users):
                return page(lambda device: device.user in users)
            case ByTopic(topic):
                return page(lambda device: topic in device.topics)
            case ToAll():
                return page(lambda _: True)

    async def scan(self, app: str, *, after: str, limit: int) -> Members:
        return self._page(app, lambda _: True, int(after or 0), limit)

    async def page(self, app: str, *, after: str, limit: int) -> Members:
        return self._page(app, lambda _: True, int(after or 0), limit)

    async def topics(self, app: str, *, after: str, limit: int) -> tuple[list[tuple[str, int]], str | None]:
        sizes: Counter[str] = Counter()
        for kept in self._kept(app):
            for topic in kept.device.topics:
                sizes[topic] += kept.device.state == "active"
        names = sorted((name for name in sizes if name.encode() > after.encode()), key=str.encode)
        found = names[:limit]
        return [(name, sizes[name]) for name in found], found[-1] if len(names) > limit else None

    def _page(
        self, app: str, wanted: Callable[[Device], bool], first: int, limit: int, bound: float = math.inf
    ) -> Members:
        in_order = sorted(self._kept(app), key=lambda kept: kept.n)
        found = (kept for kept in in_order if first <= kept.n < bound and wanted(kept.device))
        page = list(islice(found, limit))
        return Members([kept.device for kept in page], str(page[-1].n + 1) if len(page) == limit else None)

    # --- tombstones -------------------------------------------------------------------------------

    async def prune(self, app: str, prunes: Sequence[Prune]) -> list[bool]:
        about = DeviceQuery(ids=[prune.device_id for prune in prunes])
        return self._change(app, about, lambda changes: [changes.prune(prune) for prune in prunes])

    async def strike(self, app: str, strikes: Sequence[Strike]) -> list[bool]:
        about = DeviceQuery(ids=[strike.device_id for strike in strikes])
        return self._change(app, about, lambda changes: [changes.strike(strike) for strike in strikes])

    async def pruned(self, app: str, which: PrunedFilter) -> int:
        return len(self._tombstones(app, which))

    async def restore(self, app: str, which: PrunedFilter, *, limit: int) -> int:
        devices = self._tombstones(app, which)[:limit]
        self._state.lift(app, devices, always=True)
        ids = [device.id for device in devices]
        return self._change(app, DeviceQuery(ids=ids), lambda changes: sum(map(changes.restore, ids)))

    def _tombstones(self, app: str, which: PrunedFilter) -> list[Device]:
        return [
            kept.device
            for kept in self._kept(app)
            if kept.device.state == "pruned"
            and is_meant(label_of(kept.device), which)
            and (which.since is None or kept.device.pruned_at >= which.since)
            and (which.until is None or kept.device.pruned_at < which.until)
        ]

    # --- what stands in the dictionaries ----------------------------------------------------------

    def _kept(self, app: str) -> Iterable[Kept]:
        return self._state.devices[app].values()

    def _change_set(self, app: str, about: DeviceQuery) -> ChangeSet:
        known, owners = self._state.devices[app], self._state.owners[app]
        tokens = [self._state.config.addresses.identity(*token) for token in about.tokens]
        ids = dict.fromkeys((*about.ids, *(owners[token] for token in tokens if token in owners)))
        found = {device_id: known[device_id] for device_id in ids if device_id in known}
        if about.users:
            found |= {kept.device.id: kept for kept in known.values() if kept.device.user in about.users}
        return ChangeSet(found.values(), self._state.config.addresses)

    def _change(self, app: str, about: DeviceQuery, decide: Callable[[ChangeSet], T], *, erases: bool = False) -> T:
        change_set = self._change_set(app, about)
        result = decide(change_set)
        changes = change_set.changes()
        state = self._state
        devices, owners, crowds = state.devices[app], state.owners[app], state.crowds[app]
        identity = state.config.addresses.identity
        try:
            crowds.update(_moves(crowds, changes))
        except UserFull:
            for user, joining in joining_of(changes).items():
                stones = spare(self._change_set(app, DeviceQuery(users=[user])).of_user(user), joining)
                if stones:
                    self._change(app, DeviceQuery(ids=stones), partial(_remove, ids=stones))
                    return self._change(app, about, decide)
            raise
        state.moved |= {(app, platform, token_digest(b"", token)) for platform, token in tokens_to_recheck(changes)}
        state.successors |= {(app, *each) for each in successors_of(changes)}
        given = {change.after.id for change in changes if change.after is not None}
        alive = set()
        waiting: dict[str, list[Arrival]] = {PRUNED: [], MOVED: []}
        for change in changes:
            if change.before is not None:
                old, new = change.before.device, change.after
                del owners[identity(old.platform, old.token)]
                del devices[old.id]
                gone = new is None or new.id != old.id
                fate = "" if gone else stream_action(old, new)
                if fate == "prune" and state.live.is_connected(app, change.before.n, state.clock()):
                    alive.add(change.before.n)
                elif gone or fate:
                    why = PRUNED if new is not None and new.state == "pruned" else MOVED
                    waiting[why] += state.live.waiting(app, change.before.n, old.id, state.clock())
                    if gone:
                        state.live.gone(app, change.before.n, state.clock(), stays=old.id in given)
                    else:
                        state.live.renew(app, change.before.n)
        for why, arrivals in waiting.items():
            if not erases:
                state.end_any(app, arrivals, EndOfAny("suppressed", why))
        for change in changes:
            if (new := change.after) is not None:
                n = next(self._state.numbers) if change.before is None else change.before.n
                new = seen(new, state.clock()) if n in alive else new
                devices[new.id] = Kept(n, b"", new)
                owners[identity(new.platform, new.token)] = new.id
        return result


def _remove(change_set: ChangeSet, ids: Iterable[str]) -> None:
    for device_id in ids:
        change_set.remove(device_id)


def _moves(crowds: Counter[str], changes: Sequence[DeviceChange]) -> Counter[str]:
    """By how many devices each user grows. Raises UserFull."""
    moves: Counter[str] = Counter()
    joining: list[tuple[str, str]] = []
    for change in changes:
        left = None if change.before is None else change.before.device.user
        joined = None if change.after is None else change.after.user
        if left == joined:
            continue
        if left is not None:
            moves[left] -= 1
        if joined is not None and change.after is not None:
            moves[joined] += 1
            joining.append((joined, change.after.id))
    full = [device_id for user, device_id in joining if crowds[user] + moves[user] > MOST_OF_USER]
    if full:
        raise UserFull(full)
    return moves


def _active(devices: Iterable[Device]) -> list[Device]:
    return [device for device in devices if device.state == "active"]


def _is_reached(device: Device) -> bool:
    return device.state == "active" or lives_on(device)
