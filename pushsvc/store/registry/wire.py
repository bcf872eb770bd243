"""Arguments and answers of the registry's scripts: digests, ordinals and documents in flat lists. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import Struct

from ...errors import Unreadable
from ...model.address import NO_ADDRESSES, Addresses
from ...model.devices import Device
from ...model.push import Platform
from ...ports.live import Cut, InboxItem
from ...ports.registry import Holding, PrunedFilter
from ...rules.audience import MOVED, PRUNED
from ...rules.life import lives_on
from ..link.unreadable import readable
from .changes import Address, ChangeSet, DeviceChange, Kept
from .documents import decode_device, encode_device

NONE = b""


class DeviceQuery(Struct, frozen=True, kw_only=True):
    ids: Sequence[str] = ()
    tokens: Sequence[Address] = ()
    users: Sequence[str] = ()
    most: int = 1_000_000
    """The number of devices above which no further users are read."""


def held_by(wanted: Sequence[Holding]) -> DeviceQuery:
    return DeviceQuery(
        ids=[each.device_id for each in wanted if each.device_id is not None],
        tokens=[(each.platform, each.token) for each in wanted if each.device_id is None],
    )


class Reading(Struct, frozen=True):
    """The devices that were found, and the state of the indexes, which fences the changes based on them."""

    change_set: ChangeSet
    ids: dict[str, bytes]
    tokens: dict[Address, bytes]
    users_read: int
    unreadable: frozenset[int] = frozenset()
    """Ordinals of documents that this version cannot read: they are in no change set."""
    following: int = 0
    """The ordinal that the next new device has."""

    def hides(self, ordinal: bytes | None) -> bool:
        """Return whether the index led to a document that cannot be read."""
        return bool(self.unreadable) and bool(ordinal) and int(ordinal or 0) in self.unreadable


def shows(device_id: str) -> Callable[[Reading], None]:
    """Return a check that raises `Unreadable` if the device with that id cannot be read."""

    def check(found: Reading) -> None:
        if found.hides(found.ids.get(device_id)):
            raise Unreadable("The device", device_ids=[device_id])

    return check


def spares(devices: Sequence[Device]) -> Callable[[Reading], None]:
    """Return a check that raises Unreadable where the id or the token of one of these belongs to a device that cannot
    be read: its topics and its places in the indexes would be lost."""

    def check(found: Reading) -> None:
        if found.unreadable:
            places = [(found.ids.get(each.id), found.tokens.get((each.platform, each.token))) for each in devices]
            hidden = [each.id for each, own in zip(devices, places, strict=True) if any(map(found.hides, own))]
            if hidden:
                raise Unreadable("A device with this id or token", device_ids=hidden)

    return check


class Digests:
    """Keyed digests, so that collisions cannot be constructed, and a copy of Redis does not reveal device owners."""

    def __init__(self, hash_key: bytes, addresses: Addresses = NO_ADDRESSES) -> None:
        self._identity = addresses.identity
        self._copy = blake2b(digest_size=12, key=hash_key).copy  # cheaper than a new keyed hash

    def of(self, text: str) -> bytes:
        digest = self._copy()
        digest.update(text.encode())
        return digest.digest()

    def of_address(self, address: Address) -> bytes:
        return self.of("\0".join(self._identity(*address)))

    def ask(self, question: DeviceQuery) -> list[Any]:
        """Return the question as registry_find.lua takes it."""
        return [
            len(question.ids),
            len(question.tokens),
            len(question.users),
            question.most,
            *map(self.of, question.ids),
            *map(self.of_address, question.tokens),
            *map(self.of, question.users),
        ]

    def arguments(self, found: Reading, changes: Iterable[DeviceChange]) -> list[Any]:
        """Return the arguments of registry_apply.lua, behind the prefix and the bound."""
        args: list[Any] = []
        for change in changes:
            args += self._arguments_of(found, change)
        return args

    def _arguments_of(self, found: Reading, change: DeviceChange) -> list[Any]:
        """Return the arguments for one change."""
        before, old, after = change.before, change.old, change.after
        taken = None if after is None else (after.platform, after.token)
        loses = NONE if old is None else self.of_address((old.platform, old.token))
        gains = NONE if taken is None else self.of_address(taken)
        kept_token = loses == gains
        renamed = old is None or after is None or old.id != after.id
        left, joined = (None if device is None else device.user for device in (old, after))
        stone, new_stone = _tombstone(old), _tombstone(after)
        topics = _topics(old, after)
        return [
            NONE if before is None else before.n,
            NONE if before is None else before.blob,
            NONE if after is None else encode_device(after),
            self.of(old.id) if renamed and old is not None else NONE,
            self.of(after.id) if renamed and after is not None else NONE,
            found.ids.get(after.id, NONE) if renamed and after is not None else NONE,
            NONE if kept_token else loses,
            NONE if kept_token else gains,
            NONE if kept_token or taken is None else found.tokens.get(taken, NONE),
            NONE if left is None or left == joined else self.of(left),
            NONE if joined is None or left == joined else self.of(joined),
            _counts(after) - _counts(old),
            NONE if stone is None or stone == new_stone else stone[0],
            NONE if new_stone is None or stone == new_stone else new_stone[0],
            0 if new_stone is None else new_stone[1],
            stream_action(old, after),
            len(topics) // 3,
            *topics,
        ]


def stream_action(old: Device | None, new: Device | None) -> str:
    """Return what registry_apply.lua does with the stream of a device that remains."""
    if old is None or new is None:
        return ""
    if (old.user, old.platform) != (new.user, new.platform):
        return "renew"
    became_tombstone = old.state == "active" and new.state == "pruned"
    return "prune" if became_tombstone and not lives_on(new) else ""


class Departed(NamedTuple):
    """A delivery that waited in the stream of a device that has changed."""

    device_id: str
    why: str
    place: int
    """Its index in its push."""
    platform: Platform
    push: bytes
    """What streams know of its push; see live/facts.py."""


def waiting_of(changes: Sequence[DeviceChange], flat: Sequence[Any]) -> list[Departed]:
    """Parse what registry_apply.lua answers about deliveries that no longer wait for their devices."""
    found = []
    for place, index, platform, push in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True):
        change = changes[place]
        why = PRUNED if change.after is not None and change.after.state == "pruned" else MOVED
        if change.old is not None:
            found.append(Departed(change.old.id, why, index, platform.decode(), push))
    return found


def cuts_of(app: str, ended: Sequence[Any]) -> dict[str, list[InboxItem]]:
    """Parse what registry_apply.lua answers about connections of devices that are gone, by gateway."""
    cuts: dict[str, list[InboxItem]] = {}
    for gateway, connection, moved in zip(ended[::3], ended[1::3], ended[2::3], strict=True):
        cuts.setdefault(gateway.decode(), []).append(Cut(app, connection, "moved" if moved else "revoked"))
    return cuts


def read_found(question: DeviceQuery, answer: Sequence[Any], addresses: Addresses, app: str = "") -> Reading:
    """Parse the answer of registry_find.lua to a question."""
    known, users_read, following, *flat = answer
    kept, unreadable = [], set()
    for n, blob in zip(flat[::2], flat[1::2], strict=True):
        device = readable(decode_device, blob, "device", app)
        if device is None:
            unreadable.add(int(n))
        else:
            kept.append(Kept(n, blob, device))
    return Reading(
        ChangeSet(kept, addresses),
        dict(zip(question.ids, known, strict=False)),
        dict(zip(question.tokens, known[len(question.ids) :], strict=True)),
        users_read,
        frozenset(unreadable),
        following,
    )


def label_of(device: Device) -> str:
    """Return the label under which a tombstone is stored."""
    return f"{device.platform}:{device.pruned_for}"


def is_meant(label: str, which: PrunedFilter) -> bool:
    """Return whether tombstones of that label match the filter, apart from their time."""
    platform, _, reason = label.partition(":")
    return which.platform in ("", platform) and which.reason in ("", reason)


def _counts(device: Device | None) -> int:
    return 0 if device is None or device.state != "active" else 1


def _tombstone(device: Device | None) -> tuple[str, int] | None:
    return None if device is None or device.state != "pruned" else (label_of(device), device.pruned_at)


def _topics(old: Device | None, new: Device | None) -> list[Any]:
    """Return, for each topic that changes, its name, joined or left, and the change of its count."""
    had, has = (frozenset(() if device is None else device.topics) for device in (old, new))
    counted, counts = _counts(old), _counts(new)
    flat: list[Any] = []
    if had == has and counted == counts:
        return flat
    for topic in had | has:
        moved = (topic in has) - (topic in had)
        change = counts * (topic in has) - counted * (topic in had)
        if moved or change:
            flat += (topic, moved, change)
    return flat
