"""`Registry` over Redis: packed documents, and indexes that know a device by a small number.

The registry of an app lives in one slot, `{app.devices}`: each change touches a document and up to six indexes, which
only a single slot can change in one atomic step. Pushes are spread over shards because millions are under way; a
registry is written when an app starts on a phone, and a node holds tens of millions of devices.

A device has an ordinal, a counter's value that is never given again. By it the parts are small:

- documents: lists of 128. A list keeps its elements packed one behind the other, whatever their size, where the
  field of a hash with more than 64 bytes costs some 70 more; and what was read for one page comes in order.
- ids, tokens and users: 65,536 hashes each by the first two bytes of a keyed digest of 12, so that each stays packed
  (up to 512 fields) until an app has 33 million devices. The document is decisive, not the digest: a device
  that was found by a digest is compared with its document.
- topics: the members among 4,096 ordinals are a list of 2-byte numbers, or a bitmap where that is shorter. A topic of
  a million devices costs less than a byte a member, and is paged through with a number for a cursor.
- tombstones keep their document and every index, so that a restored device is what it was; counters and expansions
  leave them out. An ordered set by platform and reason finds them by time.

A million devices, half of each platform, with a UUID, a user, a locale, a timezone, a version, two tags and one or two
topics each, take this many bytes per device (`python -m tests.bench.registry`):

|              | documents |  ids | tokens | users | topics | tables of keys |   all |
|--------------|-----------|------|--------|-------|--------|----------------|-------|
| Valkey 9.1.2 |     202.7 | 21.6 |   21.6 |  20.7 |    0.9 |            3.3 | 270.8 |
| Redis 7.0.15 |     206.1 | 24.0 |   24.0 |  22.7 |    1.0 |            4.4 | 282.1 |

Fewer devices take more each (about 450 bytes at 60,000), since each of the 65,536 hashes has its own overhead.

There is no index of tags or of when a device was last seen: `where` and cleanup go through all documents. A page costs
this process 3.5 to 4.4 us a device and the server 0.3, so a core goes through some 200,000 devices a second; a topic's
page costs the server 3 to 4 us a device.

A registration takes the token off the suppression list where it was put there before. The list lies in another slot,
so that happens after the registration: a process that dies in between leaves a token suppressed that the next refresh
of the device frees. A restored tombstone's token is freed before, since nothing refreshes it: what may be left then is
a tombstone, restored by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from ...model.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from ...ports.registry import Holding, Judge, Members, Prune, PrunedFilter, Strike
from ...rules.life import lives_on
from .. import keys
from ..layout import BLOCK
from ..link.unreadable import readable
from ..part import StoreContext, StorePart
from ..revoke.presence import Marks
from ..revoke.suppression import Suppression
from .changes import ChangeSet, read_place, written_place
from .documents import decode_device
from .steps import EndMoved, Poke, Steps
from .wire import DeviceQuery, held_by, is_meant, shows, spares

T = TypeVar("T")

_PAGE = 500
"""Tombstones in one step."""


class RedisRegistry(StorePart):
    """See `ports.Registry`."""

    def __init__(
        self,
        context: StoreContext,
        suppression: Suppression,
        marks: Marks,
        *,
        poke: Poke,
        end_moved: EndMoved,
    ) -> None:
        """Work on the registries of this Redis. See `Steps` for `poke` and `end_moved`."""
        super().__init__(context)
        self._steps = Steps(context, marks, poke=poke, end_moved=end_moved)
        self._suppression = suppression

    async def put(self, app: str, device: Device) -> tuple[Device, bool]:
        about = _about([device])
        result = await self._steps.change(app, about, lambda changes: changes.register(device), spares([device]))
        await self._suppression.lift(app, [device])
        return result

    async def put_many(self, app: str, devices: Sequence[Device]) -> list[bool]:
        about, check = _about(devices), spares(devices)
        new = await self._steps.change(app, about, lambda changes: [changes.put(device) for device in devices], check)
        await self._suppression.lift(app, [device for device in devices if device.state == "active"])
        return new

    async def get(self, app: str, device_id: str) -> Device | None:
        found = await self._steps.find(app, DeviceQuery(ids=[device_id]))
        shows(device_id)(found)
        return found.change_set.devices.get(device_id)

    async def holders(self, app: str, wanted: Sequence[Holding]) -> list[Device | None]:
        change_set = (await self._steps.find(app, held_by(wanted))).change_set
        return [change_set.holder(each) for each in wanted]

    async def remove(self, app: str, device_id: str) -> bool:
        return await self._change_one(app, device_id, lambda changes: changes.remove(device_id) is not None)

    async def of_user(self, app: str, user: str) -> list[Device]:
        return (await self._steps.find(app, DeviceQuery(users=[user]))).change_set.of_user(user)

    async def hides_of_user(self, app: str, user: str) -> bool:
        """Return whether the user has devices that this version cannot read: `of_user` leaves them out."""
        return bool((await self._steps.find(app, DeviceQuery(users=[user]))).unreadable)

    async def subscribe(self, app: str, topic: str, device_id: str) -> bool:
        return await self._change_one(app, device_id, lambda changes: changes.subscribe(device_id, topic))

    async def unsubscribe(self, app: str, topic: str, device_id: str) -> bool:
        return await self._change_one(app, device_id, lambda changes: changes.unsubscribe(device_id, topic))

    async def topic_size(self, app: str, topic: str) -> int | None:
        size = await self._link.call("HGET", keys.topic(app, topic), "#")
        return None if size is None else int(size)

    async def count(self, app: str) -> int:
        return int(await self._link.call("HGET", keys.device_counts(app), "active") or 0)

    async def revise(
        self, app: str, device_ids: Sequence[str], judge: Judge, *, dry_run: bool = False, erases: bool = False
    ) -> list[tuple[Device, Device | None]]:
        about = DeviceQuery(ids=device_ids)
        if dry_run:
            return (await self._steps.find(app, about)).change_set.revise(device_ids, judge)
        return await self._steps.change(app, about, lambda changes: changes.revise(device_ids, judge), erases=erases)

    async def _change_one(self, app: str, device_id: str, decide: Callable[[ChangeSet], T]) -> T:
        """Change the device with that id, if there is one, and return the change. Raises `Unreadable`."""
        return await self._steps.change(app, DeviceQuery(ids=[device_id]), decide, shows(device_id))

    # --- paging -----------------------------------------------------------------------------------

    async def members(
        self, app: str, audience: ByDevices | ByUsers | ByTopic | ToAll, *, after: str, limit: int
    ) -> Members:
        first, bound = read_place(after)
        match audience:
            case ByDevices(ids):
                return await self._listed(app, ids, first, limit)
            case ByUsers(users):
                return await self._of_users(app, users, first, bound, limit)
            case ByTopic(topic):
                return await self._subscribed(app, topic, first, bound, limit)
            case ToAll():
                return await self._all_devices(app, first, bound, limit)

    async def scan(self, app: str, *, after: str, limit: int) -> Members:
        first = int(after or 0)
        end = first + max(1, limit // BLOCK)
        known, *blocks = await self._blocks(app, first, end)
        devices = self._read(app, (blob for block in blocks for blob in block))
        total = int(known or 0)
        if end * BLOCK >= total:
            return Members(devices, None, 1.0)
        return Members(devices, str(end), end * BLOCK / total)

    async def page(self, app: str, *, after: str, limit: int) -> Members:
        first = int(after or 0)
        block = first // BLOCK
        end = block + 1 + limit // BLOCK
        known, *blocks = await self._blocks(app, block, end)
        devices: list[Device] = []
        for number, blobs in enumerate(blocks, block):
            for place, blob in enumerate(blobs):
                n = number * BLOCK + place
                if n >= first and blob:
                    if len(devices) == limit:
                        return Members(devices, str(n))
                    devices += self._read(app, [blob])
        return Members(devices, str(end * BLOCK) if end * BLOCK < int(known or 0) else None)

    async def topics(self, app: str, *, after: str, limit: int) -> tuple[list[tuple[str, int]], str | None]:
        first = f"({after}" if after else "-"
        found = await self._link.call("ZRANGEBYLEX", keys.topics(app), first, "+", "LIMIT", 0, limit + 1)
        names = [name.decode() for name in found[:limit]]
        sizes = await self._link.many([("HGET", keys.topic(app, name), "#") for name in names])
        return [(name, int(size or 0)) for name, size in zip(names, sizes, strict=True)], (
            names[-1] if len(found) > limit else None
        )

    async def _listed(self, app: str, ids: Sequence[str], first: int, limit: int) -> Members:
        distinct = list(dict.fromkeys(ids))
        page = distinct[first : first + limit]
        known = (await self._steps.find(app, DeviceQuery(ids=page))).change_set.devices
        devices = _reached(known[device_id] for device_id in page if device_id in known)
        return Members(devices, str(first + limit) if first + limit < len(distinct) else None)

    async def _all_devices(self, app: str, first: int, bound: int, limit: int) -> Members:
        end = first + max(1, limit // BLOCK)
        known, *blocks = await self._blocks(app, first, end)
        bound = bound or int(known or 0)
        older = (blob for number, block in enumerate(blocks, first) for blob in block[: max(0, bound - number * BLOCK)])
        return Members(_reached(self._read(app, older)), written_place(end, bound) if end * BLOCK < bound else None)

    async def _of_users(self, app: str, users: Sequence[str], first: int, bound: int, limit: int) -> Members:
        distinct = list(dict.fromkeys(users))
        asked = DeviceQuery(users=distinct[first : first + limit], most=limit)
        found = await self._steps.find(app, asked)
        wanted = set(asked.users)
        bound = bound or found.following
        devices = _reached(device for device in found.change_set.before(bound) if device.user in wanted)
        end = first + found.users_read
        return Members(devices, written_place(end, bound) if end < len(distinct) else None)

    async def _subscribed(self, app: str, topic: str, first: int, bound: int, limit: int) -> Members:
        following, bound, *blobs = await self._link.script(
            "registry_page",
            [keys.topic(app, topic), keys.device_counts(app)],
            [keys.devices(app), first, limit, bound],
        )
        return Members(_reached(self._read(app, blobs)), written_place(following, bound) if following >= 0 else None)

    async def _blocks(self, app: str, first: int, end: int) -> list[Any]:
        """Return the ordinal that the next new device has, and the documents of these blocks."""
        return await self._link.many(
            [
                ("HGET", keys.device_counts(app), "next"),
                *(("LRANGE", keys.device_block(app, number), 1, -1) for number in range(first, end)),
            ]
        )

    # --- tombstones -------------------------------------------------------------------------------

    async def prune(self, app: str, prunes: Sequence[Prune]) -> list[bool]:
        about = DeviceQuery(ids=[prune.device_id for prune in prunes])
        return await self._steps.change(app, about, lambda changes: [changes.prune(prune) for prune in prunes])

    async def strike(self, app: str, strikes: Sequence[Strike]) -> list[bool]:
        about = DeviceQuery(ids=[strike.device_id for strike in strikes])
        return await self._steps.change(app, about, lambda changes: [changes.strike(strike) for strike in strikes])

    async def pruned(self, app: str, which: PrunedFilter) -> int:
        labels = await self._labels(app, which)
        return sum(await self._link.many([("ZCOUNT", keys.tombstones(app, label), *_range(which)) for label in labels]))

    async def restore(self, app: str, which: PrunedFilter, *, limit: int) -> int:
        """Restore matching tombstones, the oldest of each label first."""
        done = 0
        for label in await self._labels(app, which):
            moved, skipped = 1, 0
            while moved and done < limit:
                devices, met = await self._tombstones(app, label, which, skipped, min(_PAGE, limit - done))
                ids = [device.id for device in devices]
                await self._suppression.lift(app, devices, always=True)
                moved = await self._steps.change(app, DeviceQuery(ids=ids), partial(_restore_all, ids)) if ids else 0
                done += moved
                # What cannot be read stays in front of what follows.
                skipped += met - len(devices)
                moved = moved or (met - len(devices))
        return done

    async def _labels(self, app: str, which: PrunedFilter) -> list[str]:
        found = await self._link.call("HKEYS", keys.tombstones(app))
        return sorted(label for label in map(bytes.decode, found) if is_meant(label, which))

    async def _tombstones(
        self, app: str, label: str, which: PrunedFilter, skipped: int, limit: int
    ) -> tuple[list[Device], int]:
        """Return the tombstones after the first `skipped`, and how many were examined, unreadable ones included."""
        members = await self._link.call(
            "ZRANGEBYSCORE", keys.tombstones(app, label), *_range(which), "LIMIT", skipped, limit
        )
        blobs = await self._link.many(
            [("LINDEX", keys.device_block(app, n // BLOCK), 1 + n % BLOCK) for n in map(int, members)]
        )
        return self._read(app, blobs), sum(map(bool, blobs))

    @staticmethod
    def _read(app: str, blobs: Iterable[bytes | None]) -> list[Device]:
        """Return the devices that can be read."""
        found = (readable(decode_device, blob, "device", app) for blob in blobs if blob)
        return [device for device in found if device is not None]


def _about(devices: Iterable[Device]) -> DeviceQuery:
    devices = list(devices)
    return DeviceQuery(
        ids=[device.id for device in devices],
        tokens=[(device.platform, device.token) for device in devices],
    )


def _reached(devices: Iterable[Device]) -> list[Device]:
    return [device for device in devices if device.state == "active" or lives_on(device)]


def _restore_all(ids: Iterable[str], change_set: ChangeSet) -> int:
    return sum(map(change_set.restore, ids))


def _range(which: PrunedFilter) -> tuple[str, str]:
    return (
        "-inf" if which.since is None else str(which.since),
        "+inf" if which.until is None else f"({which.until}",
    )
