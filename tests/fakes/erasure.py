"""Erasure in the twin in memory: everything is looked through at once, since nothing can move meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from pushsvc.model.codec import decode_audience, encode_audience
from pushsvc.model.push import Chunk, Target
from pushsvc.model.routing import platform_of
from pushsvc.model.status import DeliveryRow
from pushsvc.ports.erasure import Erasure
from pushsvc.store.erase.audiences import names_nobody, without_names
from pushsvc.store.erase.subjects import ErasureRecord, Subjects, joined, key_of
from pushsvc.store.revoke.suppression import ERASED

from .registry import MemoryRegistry
from .state import Record, State


class MemoryErasures:
    """`Erasures` in memory. An erasure is done when it has begun."""

    def __init__(self, state: State, registry: MemoryRegistry, hash_key: bytes) -> None:
        self._state = state
        self._registry = registry
        self._hash_key = hash_key

    def _who(self, user: str, subject: ErasureRecord) -> Subjects:
        return Subjects({user: subject}, self._hash_key, self._state.config.addresses)

    async def erase(self, app: str, user: str, *, wait: float) -> Erasure:
        devices = await self._registry.remove_user(app, user)
        subject = joined(None, user=user, devices=devices, suppressed=0)
        removed: Counter[str] = Counter()
        if not devices:
            removed["pushes"] += self._forget_name(
                app, Subjects({user: subject}, self._hash_key, self._state.config.addresses)
            )
            if removed["pushes"]:
                return Erasure(0, True, dict(removed))
        while devices:
            who = self._who(user, subject)
            removed += self._look(app, who)
            if not who.learnt:
                break
            subject = replace(subject, devices=(*subject.devices, *who.learnt[user]))
        key = app, key_of(user, self._hash_key)
        if devices:
            self._state.erased[key] = Erasure(len(devices), True, dict(removed))
        return self._state.erased.get(key, Erasure(0, True))

    async def unfinished(self, apps: Sequence[str]) -> list[str]:
        return []

    async def work(self, app: str, *, stopping: Callable[[], bool]) -> bool:
        return True

    def _look(self, app: str, who: Subjects) -> Counter[str]:
        state = self._state
        removed: Counter[str] = Counter()
        for (owner, _), record in state.pushes.items():
            if owner == app:
                removed["statuses"] += _disown(record, who)
                removed["deliveries"] += self._cancel(record, who)
        removed["pushes"] += self._forget_name(app, who)
        for (owner, _, _), stream in state.lanes.items():
            for entry_id, chunk in list(stream.entries.items()) if owner == app else ():
                if left := _without(chunk, who):
                    stream.entries[entry_id] = left
                else:
                    stream.remove(entry_id)
        for route, waiting in state.retries.items():
            if route.app == app:
                waiting[:] = [(due, left) for due, chunk in waiting if (left := _without(chunk, who))]
        letters = state.dead[app]
        for number, letter in list(letters.items()):
            if who.of(letter.target.device_id, letter.platform, letter.target.token):
                del letters[number]
                removed["dead_letters"] += 1
        receipts = state.receipts[app]
        for entry_id, receipt in list(receipts.entries.items()):
            if who.of(receipt.device_id, receipt.platform, receipt.token):
                receipts.remove(entry_id)
                removed["receipts"] += 1
        events = state.events[app]
        kept = [(place, event) for place, event in events if not who.of(event.device_id, event.platform, event.token)]
        removed["events"] += len(events) - len(kept)
        events[:] = kept
        reported = state.reported[app]
        own = [(place, event) for place, event in reported if not who.of_id(event.device_id)]
        removed["events"] += len(reported) - len(own)
        reported[:] = own
        state.live.erase(app, who.device_ids)
        for platform, token in who.tokens:
            for name in self._state.config.addresses.routes_of(platform):
                removed["suppressions"] += state.suppressed.pop((app, name, token), None) is not None
        return +removed

    def _cancel(self, record: Record, who: Subjects) -> int:
        """End what has not ended, and delete the push's audience. Returns the number of deliveries that ended."""
        ended, now = 0, self._state.clock()
        for platform, targets in record.push.targets.items():
            for target in targets:
                mine = who.of(target.device_id, platform, target.token)
                if mine and target.index not in record.ended and record.state != "cancelled":
                    record.ended[target.index] = "cancelled"
                    record.rows[target.index] = DeliveryRow(
                        platform_of(platform), None, "", "cancelled", ERASED, 0, 0, "", now
                    )
                    record.turns.pop(target.index, None)
                    ended += 1
        if ended and len(record.ended) == record.push.total:
            record.state = "done"
        bare = {
            platform: tuple(
                Target(target.index, "") if who.of(target.device_id, platform, target.token) else target
                for target in targets
            )
            for platform, targets in record.push.targets.items()
        }
        record.push = replace(record.push, targets=bare)
        return ended

    def _forget_name(self, app: str, who: Subjects) -> int:
        """How many pushes ended because they named nobody else."""
        ended = 0
        for (owner, _), record in self._state.pushes.items():
            if owner == app and record.push.audience:
                before = decode_audience(record.push.audience)
                audience = without_names(before, who.users, who.device_ids)
                record.push = replace(record.push, audience=encode_audience(audience))
                if record.walk is not None and audience != before and names_nobody(audience):
                    record.walk, record.launched = None, True
                    record.state = "done" if record.left == 0 else "sending"
                    ended += 1
        return ended


def _disown(record: Record, who: Subjects) -> int:
    own = [index for index, row in record.rows.items() if who.of_row(row.device_id, row.token_hash)]
    for index in own:
        record.rows[index] = replace(record.rows[index], device_id=None, token_hash="", provider_id="", unique_id="")
    return len(own)


def _without(chunk: Chunk, who: Subjects) -> Chunk | None:
    left = tuple(target for target in chunk.targets if not who.of(target.device_id, chunk.platform, target.token))
    return replace(chunk, targets=left) if left else None
