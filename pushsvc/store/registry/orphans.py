"""Entries of the registry's indexes that lead to no device, or to one that they are not about.

Every change of the registry keeps its indexes in agreement (registry_apply.lua), so an orphan tells of a bug or of a
backup of which only a part was restored. It is harmful: a topic that names a device that is gone cannot be paged.

An index is read in pieces, then the devices that it leads to; what is wrong is taken out in one step that takes place
only where both are still what they were (registry_mend.lua). A device that cannot be read counts as whatever the index
says: it was written by a newer pushsvc.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from ...model.codec import CodecError
from ...model.devices import Device
from .. import keys
from ..link.link import Link
from .changes import Kept
from .documents import decode_device, former_token
from .topic_members import members_of, without
from .wire import Digests, label_of

Index: TypeAlias = Literal["i", "k", "u"]
"""By id, token, user."""
INDEXES: tuple[Index, ...] = ("i", "k", "u")
_BUCKETS = 512
"""Buckets looked at in one step, where most are empty."""
_DEVICES = 100
"""Devices read in one step, about: a millisecond in which Redis does nothing else."""
_CONTAINERS = 16
"""Containers of a topic asked for at once: 8 KB."""


class Mend(Struct, frozen=True):
    """What registry_mend.lua is told of one place of an index."""

    kind: Literal["field", "member"]
    key: str
    name: bytes
    before: bytes
    after: bytes
    entries: int
    judged: Sequence[tuple[int, bytes]]
    """Ordinals and documents."""

    def told(self) -> list[Any]:
        judged = [part for pair in self.judged for part in pair]
        return [self.kind, self.key, self.name, self.before, self.after, self.entries, len(self.judged), *judged]


class Orphans:
    """Finds them, and takes them out unless told not to. A position is opaque, '' the first; None: that was all."""

    def __init__(self, link: Link, hash_key: bytes) -> None:
        self._link = link
        self._digests = Digests(hash_key)

    async def in_buckets(self, app: str, index: Index, first: int, *, dry_run: bool) -> tuple[int, int]:
        """Look at some buckets of an index from `first` on; how many orphans, and where to go on."""
        following, flat, read = await self._link.script(
            "registry_buckets", [keys.device_counts(app)], [keys.devices(app), index, first, _BUCKETS, _DEVICES]
        )
        found = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        documents = dict(zip(read[::2], read[1::2], strict=True))
        mends = []
        for number, field, value in found:
            listed = [int(n) for n in value.split(b",")]
            digest = number.to_bytes(2, "big") + field
            wrong = [n for n in listed if not self._is_about(index, digest, documents[n])]
            if wrong or len(set(listed)) < len(listed):
                right = [n for n in dict.fromkeys(listed) if n not in wrong]
                mends.append(
                    Mend(
                        "field",
                        f"{index}:{number:04x}",
                        field,
                        value,
                        b",".join(b"%d" % n for n in right),
                        len(listed) - len(right),
                        [(n, documents[n]) for n in dict.fromkeys(listed)],
                    )
                )
        return await self._mend(app, mends, dry_run=dry_run), following

    async def in_topic(self, app: str, topic: str, position: str, *, dry_run: bool) -> tuple[int, str | None]:
        """Look at some members of a topic."""
        key = keys.topic(app, topic)
        number, _, skipped = (position or "0:0").partition(":")
        containers = await self._containers(key, int(number))
        if not containers:
            return 0 if position else await self._without_members(app, topic, dry_run=dry_run), None
        mends: list[Mend] = []
        looked, at = 0, int(skipped) if containers[0][0] == int(number) else 0
        for number_found, value in containers:
            members = sorted(members_of(number_found, value))
            some = members[at : at + _DEVICES - looked]
            documents = await self._documents(app, some)
            wrong = [n for n in some if not _has_topic(topic, documents[n])]
            if wrong:
                judged = [(n, documents[n]) for n in wrong]
                left = without(number_found, value, wrong)
                name = b"%d" % number_found
                mends.append(Mend("field", f"t:{topic}", name, value, left, len(wrong), judged))
            looked += len(some)
            # What was taken out stands no longer in front of what follows.
            at += len(some) - (0 if dry_run else len(wrong))
            if looked >= _DEVICES:
                break
            at = 0
        done = await self._mend(app, mends, dry_run=dry_run)
        if looked >= _DEVICES:
            return done, f"{number_found}:{at}"
        return done, f"{number_found + 1}:0"

    async def of_label(self, app: str, label: str, position: str, *, dry_run: bool) -> tuple[int, str | None]:
        """Look at some tombstones of a label."""
        rank = int(position or 0)
        members = await self._link.call("ZRANGE", keys.tombstones(app, label), rank, rank + _DEVICES - 1)
        ordinals = [int(member) for member in members]
        documents = await self._documents(app, ordinals)
        wrong = [n for n in ordinals if not _has_label(label, documents[n])]
        mends = [Mend("member", f"x:{label}", b"%d" % n, b"", b"", 1, [(n, documents[n])]) for n in wrong]
        done = await self._mend(app, mends, dry_run=dry_run)
        further = rank + len(members) - (0 if dry_run else done)
        return done, str(further) if len(members) == _DEVICES else None

    async def _without_members(self, app: str, topic: str, *, dry_run: bool) -> int:
        """A topic that has a count and no members goes as a whole."""
        count = await self._link.call("HGET", keys.topic(app, topic), "#")
        mends = [] if count is None else [Mend("field", f"t:{topic}", b"#", count, b"", 1, [])]
        return await self._mend(app, mends, dry_run=dry_run)

    async def _containers(self, key: str, first: int) -> list[tuple[int, bytes]]:
        """The next containers of a topic from that number on, in order."""
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

    async def _mend(self, app: str, mends: Sequence[Mend], *, dry_run: bool) -> int:
        """Carry them out; how many entries went."""
        if dry_run or not mends:
            return sum(mend.entries for mend in mends)
        args = [keys.devices(app), *(part for mend in mends for part in mend.told())]
        answer = await self._link.script("registry_mend", [keys.device_counts(app)], args)
        return sum(mend.entries for mend, took_place in zip(mends, answer, strict=True) if took_place)

    def _is_about(self, index: Index, digest: bytes, document: bytes) -> bool:
        device = _device(document)
        if device is None or device == "unreadable":
            return device is not None
        if index == "i":
            return self._digests.of(device.id) == digest
        if index == "k":
            return self._digests.of_kept(Kept(0, document, device, former_token(document))) == digest
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
