"""`ErasureSteps` over Redis: the records of erasures, and the passes through the keepers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...errors import Unreadable
from ...model.devices import Device
from ...model.push import Platform
from ...ports.erasure import Erasure, KeeperStep
from ...telemetry import get_logger
from .. import keys
from ..link.link import Link
from ..link.unreadable import readable
from ..live import RedisLive
from ..part import StoreContext, StorePart
from ..registry.registry import RedisRegistry
from ..revoke.suppression import Suppression
from .passes import Keeper
from .subjects import (
    ErasureRecord,
    FoundDevices,
    Subjects,
    decode_record,
    encode_record,
    joined,
    key_of,
    noted,
    with_devices,
)

log = get_logger("store")
REPORT_TTL = 3600
_LONGEST = 600_000
"""Milliseconds after which a mark has a record that names it, unless nothing does."""
_PRESENT = "pass"
"""The field of the current pass; the other fields are digests, which are longer."""


class _Pass(Struct, frozen=True, array_like=True):
    """A pass that is under way: its users, and its place."""

    keys: dict[str, int]
    """The keys of its records, each with the value of `ErasureRecord.asked` when the pass began."""
    place: str = ""
    again: bool = False
    """Whether it has found further tokens, so that another pass follows: they may be where this one has been."""


_encode_pass = msgspec.msgpack.Encoder().encode
_decode_report = msgspec.json.Decoder(Erasure).decode
_decode_pass = msgspec.msgpack.Decoder(_Pass).decode


class RedisErasures(StorePart):
    """Implements `ports.erasure.ErasureSteps`."""

    def __init__(
        self,
        context: StoreContext,
        registry: RedisRegistry,
        suppression: Suppression,
        live: RedisLive,
        keepers: Mapping[str, Keeper],
    ) -> None:
        super().__init__(context)
        self._addresses = context.config.addresses
        self._registry = registry
        self.suppression = suppression
        self._live = live
        self.keepers = keepers

    async def record(self, app: str, user: str, devices: Sequence[Device]) -> bool:
        tokens = [(device.platform, device.token) for device in devices]
        suppressed = await self.suppression.known(app, tokens)
        key = key_of(user, self._hash_key)
        await self.change(app, key, partial(joined, user=user, devices=devices, suppressed=suppressed))
        confirmed = await self.mark(app, key, tokens, wait=True)
        # The dispatchers, which append to the streams, know of it, and the registry still has the devices.
        await self._live.forget(app, [device.id for device in devices])
        return confirmed

    async def hides(self, app: str, user: str) -> bool:
        return await self._registry.hides_of_user(app, user)

    async def forget_name(self, app: str, user: str, cursor: str) -> tuple[Mapping[str, int], str | None]:
        who = self.subjects({key_of(user, self._hash_key): ErasureRecord(user, (), 0)})
        step = await self.keepers["audiences"].step(app, who, cursor)
        return {what: count for (_, what), count in step.removed.items()}, step.cursor

    async def under_way(self, app: str, user: str) -> Erasure | None:
        blob = await self._link.call("HGET", keys.erase(app), key_of(user, self._hash_key))
        record = None if blob is None else _read(app, blob)
        return None if record is None else Erasure(record.erased, False, record.removed)

    async def report(self, app: str, user: str) -> Erasure:
        report = await self._link.call("GET", keys.erased(app, key_of(user, self._hash_key)))
        return (None if report is None else readable(_decode_report, report, "erasure", app)) or Erasure(0, True)

    async def waiting(self, apps: Sequence[str]) -> list[str]:
        counts = await self._link.many([("HLEN", keys.erase(app)) for app in apps])
        return [app for app, count in zip(apps, counts, strict=True) if count]

    async def open_pass(self, app: str) -> RedisErasurePass | None:
        fields = {name.decode(): blob for name, blob in (await self._link.call("HGETALL", keys.erase(app))).items()}
        kept = fields.pop(_PRESENT, None)
        # Records of a newer version that this one cannot read are left to it.
        read = {key: readable(decode_record, blob, "erasure", app) for key, blob in fields.items()}
        records = {key: record for key, record in read.items() if record is not None}
        present = None if kept is None else readable(_decode_pass, kept, "erasure", app)
        if present is None or not records.keys() & present.keys.keys():
            present = _Pass({key: record.asked for key, record in records.items()})
        own = {key: records[key] for key in present.keys if key in records}
        if not own:
            await self._link.call("HDEL", keys.erase(app), _PRESENT)
            return None
        return RedisErasurePass(self, self._link, app, present, own)

    def subjects(
        self, records: Mapping[str, ErasureRecord], keep: Callable[[FoundDevices], Awaitable[None]] | None = None
    ) -> Subjects:
        return Subjects(records, self._hash_key, self._addresses, keep)

    # --- records ----------------------------------------------------------------------------------

    async def change(
        self, app: str, key: str, become: Callable[[ErasureRecord | None], ErasureRecord | None]
    ) -> ErasureRecord | None:
        """Change a record by `become`, and repeat that where another process changed it at the same time."""
        while True:
            blob = await self._link.call("HGET", keys.erase(app), key)
            record = become(None if blob is None else _read(app, blob))
            after = b"" if record is None else encode_record(record)
            if after == (blob or b"") or await self.swap(app, key, blob or b"", after):
                return record

    async def mark(self, app: str, key: str, tokens: Sequence[tuple[Platform, str]], *, wait: bool = False) -> bool:
        """Stop all sending to tokens of a record, unless its erasure has ended: nothing would end their marks. Returns
        whether all dispatchers have applied it; with `wait`, this waits for them."""
        confirmed = await self.suppression.erasing(app, tokens, wait=wait)
        if await self._link.call("HGET", keys.erase(app), key) is None:
            await self.suppression.erased(app, tokens)
        return confirmed

    async def end_marks(self, app: str, key: str, now: int) -> None:
        """End the marks in a list of tokens that belong to no erasure, at `now` in Unix ms. A process that stood still
        for longer than its lease, or an earlier version, may have left them."""
        marks = await self.suppression.marks(key, until=now - _LONGEST)
        if not marks:
            return
        fields = await self._link.call("HGETALL", keys.erase(app))
        fields.pop(_PRESENT.encode(), None)
        records = [readable(decode_record, blob, "erasure", app) for blob in fields.values()]
        named = {
            self.suppression.locate(app, token)[1]
            for record in records
            if record is not None
            for _, _, token in record.devices
        }
        left = {digest: score for digest, score in marks.items() if digest not in named}
        if left and None not in records:
            await self.suppression.end_marks(key, left, now)
            log.warning("erasure_marks_ended", app=app, count=len(left))

    async def swap(self, app: str, key: str, before: bytes, after: bytes) -> bool:
        """Replace a record, or remove it. Returns False where it is another one by now, and another than `after`."""
        answer: Any = await self._link.script("swap", [keys.erase(app)], [key, before, after])
        return bool(answer)


def _read(app: str, blob: bytes) -> ErasureRecord:
    """Decode a record. Raises `Unreadable`."""
    record = readable(decode_record, blob, "erasure", app)
    if record is None:
        raise Unreadable("The erasure of this user that is under way")
    return record


class RedisErasurePass:
    """Implements `ports.erasure.ErasurePass`."""

    def __init__(
        self, erasures: RedisErasures, link: Link, app: str, present: _Pass, own: Mapping[str, ErasureRecord]
    ) -> None:
        self._erasures = erasures
        self._link = link
        self._app = app
        self._present = present
        self._who = erasures.subjects(own, self._learn)

    @property
    def place(self) -> str:
        return self._present.place

    async def step(self, keeper: str, cursor: str) -> KeeperStep:
        return await self._erasures.keepers[keeper].step(self._app, self._who, cursor)

    async def note(self, keeper: str, stepped: KeeperStep, place: str) -> None:
        for key in {key for key, _ in stepped.removed}:
            own = {what: count for (each, what), count in stepped.removed.items() if each == key}
            await self._erasures.change(self._app, key, partial(noted, removed=own))
        await self._become(replace(self._present, place=place))

    async def _learn(self, found: FoundDevices) -> None:
        """Record further tokens of these users, and stop all sending to them. A process that dies before the end of
        this has removed nothing yet, so that the next one finds them again."""
        if not self._present.again:
            await self._become(replace(self._present, again=True))
        for key, devices in found.items():
            tokens = [(platform, token) for _, platform, token in devices]
            await self._erasures.suppression.erasing(self._app, tokens)
            if await self._erasures.change(self._app, key, partial(with_devices, devices=devices)) is None:
                await self._erasures.suppression.erased(self._app, tokens)

    async def _become(self, present: _Pass) -> None:
        self._present = present
        await self._link.call("HSET", keys.erase(self._app), _PRESENT, _encode_pass(present))

    async def end(self) -> None:
        """End the pass: remove the last traces, then the finished records, then the pass."""
        app, suppression = self._app, self._erasures.suppression
        for key, asked in self._present.keys.items() if not self._present.again else ():
            blob = await self._link.call("HGET", keys.erase(app), key)
            record = None if blob is None else _read(app, blob)
            if record is None or record.asked != asked:
                continue
            tokens = [(platform, token) for _, platform, token in record.devices]
            await suppression.erased(app, tokens)
            report = msgspec.json.encode(Erasure(record.erased, True, record.removed))
            await self._link.call("SET", keys.erased(app, key), report, "EX", REPORT_TTL)
            if not await self._erasures.swap(app, key, blob, b""):
                await self._erasures.mark(app, key, tokens)  # it was requested again
        await self._link.call("HDEL", keys.erase(app), _PRESENT)
