"""The users that are being erased, their devices, and how these are recognised in stored data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...model.address import Addresses
from ...model.devices import Device
from ...model.push import Platform
from ...model.routing import CARRIERS, platform_of
from ..hashing import token_hash

Counts: TypeAlias = Counter[tuple[str, str]]
"""The numbers of removed things, by record key and kind."""
FoundDevices: TypeAlias = Mapping[str, Iterable[tuple[str, Platform, str]]]
"""Devices by record key, each with its id, platform and token."""


class ErasureRecord(Struct, frozen=True):
    """An erasure that is under way, as Redis stores it."""

    user: str
    devices: tuple[tuple[str, Platform, str], ...]
    """Id, platform and token of each device. A token that was found later for an id is a further element with that
    id."""
    erased: int
    """The number of devices."""
    removed: dict[str, int] = {}
    asked: int = 0
    """The number of requests that found devices of this user: a pass that began before the last one may have missed
    what was accepted between the requests."""

    def __repr__(self) -> str:
        return f"ErasureRecord({self.erased} devices)"


encode_record = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(ErasureRecord).decode


def key_of(user: str, hash_key: bytes) -> str:
    """Return the key of a user's record, from which the user cannot be recognised."""
    return blake2b(user.encode(), digest_size=16, key=hash_key).hexdigest()


def joined(record: ErasureRecord | None, *, user: str, devices: Iterable[Device], suppressed: int) -> ErasureRecord:
    """Return the record with these devices added. `suppressed` is the number of their tokens that were suppressed
    already. It counts a further request, so that a running pass does not end it."""
    record = record or ErasureRecord(user, (), 0)
    record = replace(record, asked=record.asked + 1)
    own = [(device.id, device.platform, device.token) for device in devices]
    new = [each for each in own if each not in record.devices]
    if not new:
        return record
    joined = replace(record, devices=(*record.devices, *new), erased=record.erased + len(new))
    return noted(joined, removed={"suppressions": suppressed} if suppressed else {}) or joined


def with_devices(record: ErasureRecord | None, *, devices: Iterable[tuple[str, Platform, str]]) -> ErasureRecord | None:
    """Return the record with further tokens of its devices."""
    return record and replace(record, devices=(*record.devices, *sorted({*devices}.difference(record.devices))))


def noted(record: ErasureRecord | None, *, removed: Mapping[str, int]) -> ErasureRecord | None:
    """Return the record with these counts added."""
    return record and replace(record, removed=dict(Counter(record.removed) + Counter(removed)))


class Subjects:
    """The users of one pass. A device id identifies its user whatever the token is, and a token whatever the device
    is."""

    def __init__(
        self,
        records: Mapping[str, ErasureRecord],
        hash_key: bytes,
        addresses: Addresses,
        keep: Callable[[FoundDevices], Awaitable[None]] | None = None,
    ) -> None:
        """Recognise the users of these records. `keep` records tokens that are found later."""
        self._keep = keep
        self._hash_key = hash_key
        self._addresses = addresses
        self._by_id: dict[str, str] = {}
        self._by_token: dict[tuple[Platform, str], str] = {}
        self._by_hash: dict[str, str] = {}
        self._device_of: dict[str, str] = {}
        """A device id of each record, to store another form of its token under."""
        self.tokens: set[tuple[Platform, str]] = set()
        self._found: dict[str, set[tuple[str, Platform, str]]] = {}
        """By record key, devices with a token that was not known, such as one of an earlier registration. These are
        searched for too."""
        for key, record in records.items():
            for device_id, platform, token in record.devices:
                self._by_id[device_id] = key
                self._device_of[key] = device_id
                self._know(key, platform, token)
        self.keys = frozenset(records)
        self.users = {record.user: key for key, record in records.items()}

    @property
    def identities(self) -> list[str]:
        """Return the texts by which these tokens are compared."""
        return [text for _, text in self._by_token]

    @property
    def routes(self) -> list[Platform]:
        own = {route for platform, _ in self.tokens for route in self._addresses.routes_of(platform)}
        return sorted(own.union(CARRIERS))

    @property
    def device_ids(self) -> frozenset[str]:
        return frozenset(self._by_id)

    def of_id(self, device_id: str) -> str | None:
        """Return the record key of a device's user, or None."""
        return self._by_id.get(device_id)

    def of(self, device_id: str | None, platform: Platform, token: str) -> str | None:
        """Return the record key of the user of a device or token, or None. `platform` may be the name of a route."""
        platform = platform_of(platform)
        key = self._by_token.get(self._addresses.identity(platform, token))
        if key is None and device_id is not None:
            key = self._by_id.get(device_id)
        if key is not None and (platform, token) not in self.tokens:
            device_id = device_id or self._device_of[key]
            self._found.setdefault(key, set()).add((device_id, platform, token))
            self._know(key, platform, token)
        return key

    async def keep_found(self) -> None:
        """Have the tokens recorded that `of` has found since the last call. A keeper calls this before it removes what
        it found them in: nothing else may name them."""
        if self._found and self._keep is not None:
            await self._keep(self._found)
        self._found = {}

    def of_row(self, device_id: str | None, hashed: str) -> str | None:
        """Return the record key of a row's user, by a device id or the hash of a token, or None."""
        key = self._by_hash.get(hashed)
        return key if key is not None or device_id is None else self._by_id.get(device_id)

    def within(self, blob: bytes) -> str | None:
        """Return the record key of a token, or a name or id of at least 8 characters, that is in undecodable bytes, or
        None."""
        by_text = {text: key for (_, text), key in self._by_token.items()}
        for names in (by_text, self._by_id, self.users):
            for name, key in names.items():
                if len(name) >= 8 and any(form in blob for form in _forms(name)):
                    return key
        return None

    def _know(self, key: str, platform: Platform, token: str) -> None:
        self._by_token[self._addresses.identity(platform, token)] = key
        self._by_hash[token_hash(self._hash_key, token, self._addresses.same_of(platform))] = key
        self.tokens.add((platform, token))


def _forms(name: str) -> list[bytes]:
    """Return the forms of a text in an entry: a large push's chunk stores hexadecimal tokens as bytes."""
    forms = [name.encode()]
    if len(name) >= 32:
        with suppress(ValueError):
            forms.append(bytes.fromhex(name))
    return forms
