"""Orphans: entries of the registry's indexes that lead to no device, or to one that does not match.

Every change of the registry keeps its indexes consistent (registry_apply.lua), so an orphan indicates a bug, or a
backup of which only a part was restored. It is harmful: a topic with a missing device cannot be paged.

An index is read in pieces, then the devices that it leads to; wrong entries are removed in one step that takes place
only if both are unchanged (registry_repair.lua). A device that cannot be read counts as matching: it was written by a
newer pushsvc.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from ...model.address import Addresses
from ...model.codec import CodecError
from ...model.devices import Device
from .. import keys
from ..link.link import Link
from .documents import decode_device
from .topic_members import members_of, without
from .wire import Digests, label_of

Index: TypeAlias = Literal["i", "k", "u"]
"""The indexes by id, token and user."""
INDEXES: tuple[Index, ...] = ("i", "k", "u")
_BUCKETS = 1024
"""Buckets looked at in one step, where most are empty: Redis is occupied for a millisecond or two."""
_DEVICES = 100
"""The approximate number of devices that are read in one step: a millisecond in which Redis does nothing else."""
_CONTAINERS = 16
"""Containers of a topic asked for at once: 8 KB."""


class Repair(Struct, frozen=True):
    """The arguments of registry_repair.lua for one place of an index."""

    kind: Literal["field", "member"]
    key: str
    name: bytes
    before: bytes
    after: bytes
    entries: int
    judged: Sequence[tuple[int, bytes]]
    """Ordinals and documents."""

    def arguments(self) -> list[Any]:
        judged = [part for pair in self.judged for part in pair]
        return [self.kind, self.key, self.name, self.before, self.after, self.entries, len(self.judged), *judged]


class Orphans:
    """Finds orphans, and removes them unless it is a dry run. Positions are opaque; '' is the first, None means the
    end."""

    def __init__(self, link: Link, hash_key: bytes, addresses: Addresses) -> None:
        self._link = link
        self._digests = Digests(hash_key, addresses)

    async def in_buckets(self, app: str, index: Index, first: int, *, dry_run: bool) -> tuple[int, int]:
        """Examine some buckets of an index from `first` on. Returns the number of orphans, and the next bucket."""
        following, flat, read = await self._link.script(
            "registry_buckets", [keys.device_counts(app)], [keys.devices(app), index, first, _BUCKETS, _DEVICES]
        )
        found = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        documents = dict(zip(read[::2], read[1::2], strict=True))
        repairs = []
        for number, field, value in found:
            listed = [int(n) for n in value.split(b",")]
            digest = number.to_bytes(2, "big") + field
            wrong = [n for n in listed if not self._is_about(index, digest, documents[n])]
            if wrong or len(set(listed)) < len(listed):
                right = [n for n in dict.fromkeys(listed) if n not in wrong]
                repairs.append(
                    Repair(
                        "field",
                        f"{index}:{number:04x}",
                        field,
                        value,
                        b",".join(b"%d" % n for n in right),
                        len(listed) - len(right),
                        [(n, documents[n]) for n in dict.fromkeys(listed)],
                    )
                )
        return await self._repair(app, repairs, dry_run=dry_run), following

    async def in_topic(self, app: str, topic: str, position: str, *, dry_run: bool) -> tuple[int, str | None]:
        """Examine some members of a topic."""
        key = keys.topic(app, topic)
        number, _, first = (position or "0:0").partition(":")
        containers = await self._containers(key, int(number))
        if not containers:
            return 0 if position else await self._without_members(app, topic, dry_run=dry_run), None
        repairs: list[Repair] = []
        looked, least = 0, int(first) if containers[0][0] == int(number) else 0
        for number_found, value in containers:
            members = [n for n in sorted(members_of(number_found, value)) if n >= least]
            some = members[: _DEVICES - looked]
            documents = await self._documents(app, some)
            wrong = [n for n in some if not _has_topic(topic, documents[n])]
            if wrong:
                judged = [(n, documents[n]) for n in wrong]
                left = without(number_found, value, wrong)
                name = b"%d" % number_found
                repairs.append(Repair("field", f"t:{topic}", name, value, left, len(wrong), judged))
            looked += len(some)
            if looked >= _DEVICES:
                break
            least = 0
        done = await self._repair(app, repairs, dry_run=dry_run)
        if looked >= _DEVICES:
            return done, f"{number_found}:{some[-1] + 1}"
        return done, f"{number_found + 1}:0"

    async def of_label(self, app: str, label: str, position: str, *, dry_run: bool) -> tuple[int, str | None]:
        """Examine some tombstones of a label."""
        following, members = await self._link.call(
            "ZSCAN", keys.tombstones(app, label), position or 0, "COUNT", _DEVICES
        )
        ordinals = [int(member) for member, _ in members]
        documents = await self._documents(app, ordinals)
        wrong = [n for n in ordinals if not _has_label(label, documents[n])]
        repairs = [Repair("member", f"x:{label}", b"%d" % n, b"", b"", 1, [(n, documents[n])]) for n in wrong]
        done = await self._repair(app, repairs, dry_run=dry_run)
        return done, str(int(following)) if int(following) else None

    async def _without_members(self, app: str, topic: str, *, dry_run: bool) -> int:
        """Remove a topic that has a count and no members. Returns the number of orphans."""
        count = await self._link.call("HGET", keys.topic(app, topic), "#")
        repairs = [] if count is None else [Repair("field", f"t:{topic}", b"#", count, b"", 1, [])]
        return await self._repair(app, repairs, dry_run=dry_run)

    async def _containers(self, key: str, first: int) -> list[tuple[int, bytes]]:
        """Return the next containers of a topic from that number on, in order."""
        numbers = range(first, first + _CONTAINERS)
        values = await self._link.call("HMGET", key, *numbers)
        found = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
        if not found:
            later = [int(name) for name in await self._link.call("HKEYS", key) if name != b"#" and int(name) >= first]
            if later:
                return await self._containers(key, min(later))
        return found

    async def _documents(self, app: str, ordinals: Iterable[int]) -> dict[int, bytes]:
        distinct = list(dict.fromkeys(ordinals))
        if not distinct:
            return {}
        args = [keys.devices(app), *distinct]
        return dict(
            zip(distinct, await self._link.script("registry_read", [keys.device_counts(app)], args), strict=True)
        )

    async def _repair(self, app: str, repairs: Sequence[Repair], *, dry_run: bool) -> int:
        """Carry out the repairs. Returns the number of removed entries."""
        if dry_run or not repairs:
            return sum(repair.entries for repair in repairs)
        args = [keys.devices(app), *(part for repair in repairs for part in repair.arguments())]
        answer = await self._link.script("registry_repair", [keys.device_counts(app)], args)
        return sum(repair.entries for repair, took_place in zip(repairs, answer, strict=True) if took_place)

    def _is_about(self, index: Index, digest: bytes, document: bytes) -> bool:
        device = _device(document)
        if device is None or device == "unreadable":
            return device is not None
        if index == "i":
            return self._digests.of(device.id) == digest
        if index == "k":
            return self._digests.of_address((device.platform, device.token)) == digest
        return device.user is not None and self._digests.of(device.user) == digest


def _device(document: bytes) -> Device | Literal["unreadable"] | None:
    if not document:
        return None
    try:
        return decode_device(document)
    except CodecError:
        return "unreadable"


def _has_topic(topic: str, document: bytes) -> bool:
    device = _device(document)
    return device is not None and (device == "unreadable" or topic in device.topics)


def _has_label(label: str, document: bytes) -> bool:
    device = _device(document)
    return device is not None and (device == "unreadable" or (device.state == "pruned" and label_of(device) == label))
