"""`Erasures` over Redis: the records, whose turn it is, and the passes through the keepers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...errors import Unreadable
from ...ports.erasure import Erasure
from .. import keys
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link
from ..link.unreadable import readable
from ..queue.queue import RedisQueue
from ..registry.registry import RedisRegistry
from ..revoke.revocations import Revocations
from ..revoke.suppression import Suppression
from ..work.liveness import Liveness
from ..work.locks import RedisLocks
from .keepers import KeeperStep
from .passes import ORDER, keepers
from .subjects import (
    Counts,
    ErasureRecord,
    Subjects,
    decode_record,
    encode_record,
    joined,
    key_of,
    learnt,
    noted,
)

LEASE = 5.0
"""Seconds after which the turn of a process that has died is over."""
REPORT_TTL = 3600
SHARE = 0.5
"""The part of the time in which a pass works; the rest it leaves to others."""
LOOK = 0.02
"""Seconds between two looks at an erasure that somebody else carries out."""
_PRESENT = "pass"
"""The field in which the present pass stands; the others are digests, which are longer."""


class _Pass(Struct, frozen=True, array_like=True):
    """A pass that is under way: for whom, and where it stands."""

    keys: dict[str, int]
    """With how often each was asked for when it began (`ErasureRecord.asked`)."""
    at: int = 0
    cursor: str = ""


_encode_pass = msgspec.msgpack.Encoder().encode
_decode_report = msgspec.json.Decoder(Erasure).decode
_decode_pass = msgspec.msgpack.Decoder(_Pass).decode


class RedisErasures:
    """See `ports.Erasures`."""

    def __init__(
        self,
        link: Link,
        config: StoreConfig,
        hash_key: bytes,
        *,
        registry: RedisRegistry,
        suppression: Suppression,
        queue: RedisQueue,
        liveness: Liveness,
        revocations: Revocations,
        clock: Clock,
    ) -> None:
        self._link = link
        self._hash_key = hash_key
        self._registry = registry
        self._suppression = suppression
        self._locks = RedisLocks(link)
        self._clock = clock
        self._keepers = keepers(link, config, queue, liveness, revocations, hash_key, clock)

    # --- what callers ask -------------------------------------------------------------------------

    async def erase(self, app: str, user: str, *, wait: float) -> Erasure:
        key = key_of(user, self._hash_key)
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        begun, heard = await self._begin(app, key, user)
        if not begun:
            if (removed := await self._forget_name(app, key, user, deadline)) is not None:
                return Erasure(0, True, removed) if removed else await self._report(app, key)
            await self._change(app, key, partial(joined, user=user, devices=(), suppressed=0))
        while True:
            await self.work(app, stopping=lambda: clock() >= deadline)
            record = await self._record(app, key)
            if record is None:
                return replace(await self._report(app, key), heard=heard)
            if clock() >= deadline:
                return Erasure(record.erased, False, record.removed, heard)
            await asyncio.sleep(LOOK)

    async def unfinished(self, apps: Sequence[str]) -> list[str]:
        asked = [("HLEN", keys.erase(app)) for app in apps] + [("EXISTS", keys.lock(_lock(app))) for app in apps]
        answers = await self._link.many(asked)
        return [
            app
            for app, records, worked_on in zip(apps, answers, answers[len(apps) :], strict=False)
            if records and not worked_on
        ]

    async def work(self, app: str, *, stopping: Callable[[], bool]) -> bool:
        async with self._locks.held(_lock(app), lease=LEASE) as lost:
            if lost is None:
                return False
            while not stopping() and not lost():
                if not await self._work_on(app, lambda: stopping() or lost()):
                    break
            return not await self._link.call("HLEN", keys.erase(app))

    # --- the beginning and the end ----------------------------------------------------------------

    async def _begin(self, app: str, key: str, user: str) -> tuple[bool, bool]:
        """Recorded, marked, out of the registry, in this order. Whether there is anybody to be erased, and whether all
        dispatchers have let go of what they held. All devices go but those that this version cannot read: where one of
        these stays, it raises Unreadable."""
        known, heard = await self._record(app, key), True
        while devices := await self._registry.of_user(app, user):
            tokens = [(device.platform, device.token) for device in devices]
            known = await self._change(
                app,
                key,
                partial(joined, user=user, devices=devices, suppressed=await self._suppression.known(app, tokens)),
            )
            heard &= await self._suppression.erasing(app, tokens, wait=True)
            ids = [device.id for device in devices]
            await self._registry.revise(app, ids, lambda device: None if device.user == user else device)
        if await self._registry.hides_of_user(app, user):
            raise Unreadable("A device of this user, which is not erased,")
        return known is not None, heard

    async def _forget_name(self, app: str, key: str, user: str, deadline: float) -> dict[str, int] | None:
        """Of somebody without devices nothing is kept but a name, in audiences that wait. What was removed of them, or
        None where time was up before all were looked at."""
        who = Subjects({key: ErasureRecord(user, (), 0)}, self._hash_key)
        removed: Counts = Counter()
        cursor: str | None = ""
        while cursor is not None:
            step = await self._keepers["audiences"].step(app, who, cursor)
            removed, cursor = removed + step.removed, step.cursor
            if cursor is not None and asyncio.get_running_loop().time() > deadline:
                return None
        return {what: count for (_, what), count in removed.items()}

    async def _finish(self, app: str, begun: Mapping[str, int]) -> None:
        """The last traces, then the records. One that was asked for again since the pass began is left to the next:
        what was accepted between the two may stand where this pass had been already."""
        for key, asked in begun.items():
            record = await self._record(app, key)
            if record is None or record.asked != asked:
                continue
            tokens = [(platform, token) for _, platform, token in record.devices]
            await self._suppression.erased(app, tokens)
            report = msgspec.json.encode(Erasure(record.erased, True, record.removed))
            await self._link.call("SET", keys.erased(app, key), report, "EX", REPORT_TTL)
            if not await self._swap(app, key, encode_record(record), b""):
                await self._suppression.erasing(app, tokens)

    async def _report(self, app: str, key: str) -> Erasure:
        report = await self._link.call("GET", keys.erased(app, key))
        return (None if report is None else readable(_decode_report, report, "erasure", app)) or Erasure(0, True)

    # --- a pass -----------------------------------------------------------------------------------

    async def _work_on(self, app: str, stopping: Callable[[], bool]) -> bool:
        """Carry on with the pass that is under way, or begin one for all records. False: there are none."""
        fields = {name.decode(): blob for name, blob in (await self._link.call("HGETALL", keys.erase(app))).items()}
        kept = fields.pop(_PRESENT, None)
        # What a newer pushsvc has begun and this one cannot read is left to it.
        read = {key: readable(decode_record, blob, "erasure", app) for key, blob in fields.items()}
        records = {key: record for key, record in read.items() if record is not None}
        present = (None if kept is None else readable(_decode_pass, kept, "erasure", app)) or _Pass(
            {key: record.asked for key, record in records.items()}
        )
        own = {key: records[key] for key in present.keys if key in records}
        if not own:
            await self._link.call("HDEL", keys.erase(app), _PRESENT)
            return bool(records)
        who = Subjects(own, self._hash_key)
        clock = asyncio.get_running_loop().time
        while present.at < len(ORDER):
            began = clock()
            step: KeeperStep = await self._keepers[ORDER[present.at]].step(app, who, present.cursor)
            over = step.cursor is None
            present = _Pass(present.keys, present.at + over, step.cursor or "")
            if step.removed or over:
                await self._note(app, step.removed)
            await self._link.call("HSET", keys.erase(app), _PRESENT, _encode_pass(present))
            if stopping():
                await self._learn(app, who)
                return True
            await asyncio.sleep(max(step.wait, (clock() - began) * (1 / SHARE - 1)))
        if await self._learn(app, who):
            # Tokens of earlier registrations: they may stand where this pass has been already.
            await self._link.call("HDEL", keys.erase(app), _PRESENT)
            return True
        await self._finish(app, present.keys)
        await self._link.call("HDEL", keys.erase(app), _PRESENT)
        return True

    async def _learn(self, app: str, who: Subjects) -> bool:
        """Keep what was learnt on the way; whether that was anything."""
        for key, devices in who.learnt.items():
            await self._suppression.erasing(app, [(platform, token) for _, platform, token in devices])
            await self._change(app, key, partial(learnt, devices=devices))
        return bool(who.learnt)

    async def _note(self, app: str, removed: Counts) -> None:
        for key in {key for key, _ in removed}:
            own = {what: count for (each, what), count in removed.items() if each == key}
            await self._change(app, key, partial(noted, removed=own))

    # --- records ----------------------------------------------------------------------------------

    async def _record(self, app: str, key: str) -> ErasureRecord | None:
        blob = await self._link.call("HGET", keys.erase(app), key)
        return None if blob is None else _read(app, blob)

    async def _change(
        self, app: str, key: str, become: Callable[[ErasureRecord | None], ErasureRecord | None]
    ) -> ErasureRecord | None:
        """Make a record what it shall be, whoever else changes it too."""
        while True:
            blob = await self._link.call("HGET", keys.erase(app), key)
            record = become(None if blob is None else _read(app, blob))
            after = b"" if record is None else encode_record(record)
            if after == (blob or b"") or await self._swap(app, key, blob or b"", after):
                return record

    async def _swap(self, app: str, key: str, before: bytes, after: bytes) -> bool:
        answer: Any = await self._link.script("swap", [keys.erase(app)], [key, before, after])
        return bool(answer)


def _read(app: str, blob: bytes) -> ErasureRecord:
    """Raises Unreadable."""
    record = readable(decode_record, blob, "erasure", app)
    if record is None:
        raise Unreadable("An erasure of this user that is under way")
    return record


def _lock(app: str) -> str:
    return f"erasure-{app}"
