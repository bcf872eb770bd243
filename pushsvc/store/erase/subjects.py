"""Who is being erased: the devices that a user had, and how they are known again wherever they turn up. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...model.devices import Device
from ...model.identity import identity, recognised
from ...model.push import Platform
from ...model.routing import platform_of, routes_of
from ..hashing import token_hash

Counts: TypeAlias = Counter[tuple[str, str]]
"""How many of what were removed, by the key of a record and what."""


class ErasureRecord(Struct, frozen=True):
    """An erasure as Redis keeps it while it is under way."""

    user: str
    devices: tuple[tuple[str, Platform, str], ...]
    """Id, platform and token of each. A token that was met later under such an id is another one with that id."""
    erased: int
    """How many devices that were."""
    removed: dict[str, int] = {}
    asked: int = 0
    """How often devices of this user were found when the erasure was asked for: a pass that began before the latest of
    these calls may have gone by what was accepted between them."""

    def __repr__(self) -> str:
        return f"Record({self.erased} devices)"


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(ErasureRecord).decode


def key_of(user: str, hash_key: bytes) -> str:
    """What a record stands under: it tells nobody whose it is."""
    return blake2b(user.encode(), digest_size=16, key=hash_key).hexdigest()


def joined(record: ErasureRecord | None, *, user: str, devices: Iterable[Device], suppressed: int) -> ErasureRecord:
    """Return the record with these devices added. `suppressed` of their tokens were suppressed already. It counts one
    more request, so that a pass that is under way does not end it."""
    record = record or ErasureRecord(user, (), 0)
    record = replace(record, asked=record.asked + 1)
    own = [(device.id, device.platform, device.token) for device in devices]
    new = [each for each in own if each not in record.devices]
    if not new:
        return record
    joined = replace(record, devices=(*record.devices, *new), erased=record.erased + len(new))
    return noted(joined, removed={"suppressions": suppressed} if suppressed else {}) or joined


def learnt(record: ErasureRecord | None, *, devices: Iterable[tuple[str, Platform, str]]) -> ErasureRecord | None:
    """The record with further tokens of its devices."""
    return record and replace(record, devices=(*record.devices, *sorted(devices)))


def noted(record: ErasureRecord | None, *, removed: Mapping[str, int]) -> ErasureRecord | None:
    """The record with so many more removed."""
    return record and replace(record, removed=dict(Counter(record.removed) + Counter(removed)))


class Subjects:
    """All whom one pass erases. A device id leads to its user whatever the token, a token whatever the device."""

    def __init__(self, records: Mapping[str, ErasureRecord], hash_key: bytes) -> None:
        self._hash_key = hash_key
        self._by_id: dict[str, str] = {}
        self._by_token: dict[tuple[Platform, str], str] = {}
        self._by_hash: dict[str, str] = {}
        self._device_of: dict[str, str] = {}
        """By key the id of a device, under which another form of its token is kept."""
        self.tokens: set[tuple[Platform, str]] = set()
        self.learnt: dict[str, set[tuple[str, Platform, str]]] = {}
        """By key, devices with a token that nobody knew of: of an earlier registration. They are searched for too."""
        for key, record in records.items():
            for device_id, platform, token in record.devices:
                self._by_id[device_id] = key
                self._device_of[key] = device_id
                self._know(key, platform, token)
        self.keys = frozenset(records)
        self.users = {record.user: key for key, record in records.items()}

    @property
    def routes(self) -> list[Platform]:
        """The names of the routes by which these tokens can be sent to."""
        return sorted({route for platform, _ in self.tokens for route in routes_of(platform)})

    @property
    def device_ids(self) -> frozenset[str]:
        return frozenset(self._by_id)

    def of_id(self, device_id: str) -> str | None:
        """The key of whose device this is, or None."""
        return self._by_id.get(device_id)

    def of(self, device_id: str | None, platform: Platform, token: str) -> str | None:
        """The key of whose it is, or None. `platform` may be the name of a route."""
        platform = platform_of(platform)
        token = recognised(platform, token)
        key = self._by_token.get((platform, identity(token)))
        if key is None and device_id is not None:
            key = self._by_id.get(device_id)
        if key is not None and (platform, token) not in self.tokens:
            device_id = device_id or self._device_of[key]
            self.learnt.setdefault(key, set()).add((device_id, platform, token))
            self._know(key, platform, token)
        return key

    def of_row(self, device_id: str | None, hashed: str) -> str | None:
        """The same of what shows a token as its hash."""
        key = self._by_hash.get(hashed)
        return key if key is not None or device_id is None else self._by_id.get(device_id)

    def within(self, blob: bytes) -> str | None:
        """Whose token, or name or id of some length, stands in bytes that nobody can read."""
        by_text = {text: key for (_, text), key in self._by_token.items()}
        for names in (by_text, self._by_id, self.users):
            for name, key in names.items():
                if len(name) >= 8 and any(form in blob for form in _forms(name)):
                    return key
        return None

    def _know(self, key: str, platform: Platform, token: str) -> None:
        self._by_token[platform, identity(token)] = key
        self._by_hash[token_hash(self._hash_key, token)] = key
        self.tokens.add((platform, token))


def _forms(name: str) -> list[bytes]:
    """Return the forms of a text in an entry: a large push's chunk holds hexadecimal tokens as bytes."""
    forms = [name.encode()]
    if len(name) >= 32:
        with suppress(ValueError):
            forms.append(bytes.fromhex(name))
    return forms
