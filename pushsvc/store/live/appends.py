"""Appends to the streams of devices over Redis, and the contents of what is appended. See streams.py for their form."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from struct import Struct as Layout
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from ...model.push import Platform
from ...model.routing import CARRIERS
from ...ports.live import MAX_BATCH, Append, Appended, LiveContent, LivePush, LiveRoute, Receiver, Reference
from ...ports.registry import Holding, Registry
from ...rules.audience import owner_of
from .. import keys
from ..link.link import ScriptCall
from ..link.unreadable import readable
from ..part import StoreContext
from .facts import HOUR, WITHDRAWN, decode_facts, facts_of
from .part import LivePart

BEGINNING: Final = 1_767_225_600
"""Unix seconds of 2026: offsets that follow a new start of the server are at least the seconds since then."""
_STATUS: Final = ("absent", "new", "known", "superseded", "away", "withdrawn", "moved")
_NOWHERE: Final = tuple(map(_STATUS.index, ("absent", "withdrawn", "moved")))
"""The statuses without anything about a stream."""
_APPENDED: Final = Layout(">BIIIIIH")
_RECEIVER: Final = Layout(">12sI")
_Places: TypeAlias = list[tuple[int, list[int]]]
_Known: TypeAlias = tuple[int, int, int]
"""The numbers of the changes of users and of the devices, and of the run of the server that has counted them."""
_UNKNOWN: Final[_Known] = (-1, -1, -1)
Share: TypeAlias = tuple[int, int, int]
"""Places of some appends, and of receivers in each."""


class RedisAppends(LivePart):
    """The part of `ports.live.LiveStreams` that writes pushes, and what all of it needs."""

    def __init__(self, context: StoreContext, registry: Registry) -> None:
        super().__init__(context)
        self._registry = registry

    async def append(
        self, app: str, push: LivePush, receivers: Sequence[Receiver], *, platform: Platform
    ) -> list[Appended]:
        return (await self.append_all(app, [Append(push, receivers, platform)]))[0]

    async def append_all(
        self, app: str, appends: Sequence[Append], contents: Sequence[LiveContent] = ()
    ) -> list[list[Appended]]:
        kept: Sequence[ScriptCall] = ()
        if self._link.cluster:
            await self.keep_all(app, contents)
        else:
            kept = self._keep_calls(app, contents)
        found, known = await self._append_all(app, appends, _UNKNOWN, kept)
        places = _moved(found)
        while places := await self._still_ours(app, appends, places):
            again = [replace(appends[at], receivers=[appends[at].receivers[n] for n in own]) for at, own in places]
            answers, known = await self._append_all(app, again, known)
            for (at, own), results in zip(places, answers, strict=True):
                for place, result in zip(own, results, strict=True):
                    found[at][place] = result
            places = [(places[at][0], [places[at][1][n] for n in own]) for at, own in _moved(answers)]
        return found

    async def _still_ours(self, app: str, appends: Sequence[Append], places: _Places) -> _Places:
        """Return those of these receivers whose device has the user that the push is for."""
        receivers = [appends[at].receivers[place] for at, own in places for place in own]
        wanted = [Holding(each.device_id, "live", "") for each in receivers]
        devices = iter(await self._registry.holders(app, wanted) if wanted else ())
        ours: _Places = []
        for at, own in places:
            pairs = [(place, appends[at].receivers[place].owner, next(devices)) for place in own]
            if left := [n for n, owner, device in pairs if owner is None or (device and owner_of(device) == owner)]:
                ours.append((at, left))
        return ours

    async def _append_all(
        self, app: str, appends: Sequence[Append], known: _Known, before: Sequence[ScriptCall] = ()
    ) -> tuple[list[list[Appended]], _Known]:
        """Append, and return the results beside what is known by now. Devices that came or moved since `known` are
        `moved`; `_UNKNOWN`, or what another server has counted, stands for some time ago. The steps of `before` go
        before all that is appended."""
        now, shares = self._clock(), list(shares_of(appends))
        calls = [self._append_call(app, appends, share, now, known) for share in shares]
        # No publication is shown before the replicas have it: after a failover its offset would be another one's.
        calls = [*before, *calls]
        answers = await self._link.guarded(keys.mark_in_slot_of(keys.devices(app)), calls) if calls else []
        answers = answers[len(before) :]
        found: list[list[Appended]] = [[] for _ in appends]
        for share, (_, _, _, gateways, *flat) in zip(shares, answers, strict=True):
            names = [gateway.decode() for gateway in gateways]
            parts = zip(share, flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
            for (owner, *_), packed, *displaced in parts:
                results = _appended(packed, names)
                if any(displaced):
                    replaced, overrun, carried = (self._references(app, each) for each in displaced)
                    for place in replaced.keys() | overrun.keys() | carried.keys():
                        last = replaced[place][-1] if place in replaced else None
                        others = {"overrun": overrun.get(place, ()), "carried": carried.get(place, ())}
                        results[place] = replace(results[place], replaced=last, **others)
                found[owner] += results
        if not answers:
            return found, _UNKNOWN
        moves, births, runs = zip(*(answer[:3] for answer in answers), strict=True)
        return found, (max(moves), max(births), runs[0]) if len(set(runs)) == 1 else _UNKNOWN

    def _append_call(
        self, app: str, appends: Sequence[Append], share: Sequence[Share], now: int, known: _Known
    ) -> ScriptCall:
        args: list[Any] = [keys.devices(app), now, self._config.history_of(app), secrets.randbits(32)]
        args += (max(0, now // 1000 - BEGINNING), self._config.window_of(app), *known)
        for place, start, end in share:
            append = appends[place]
            facts, until = facts_of(append.push), self._facts_until(app, append.push, now)
            others = not append.alone or append.platform in CARRIERS
            name = append.platform if others else f"{append.platform}:live"
            args += (facts.hour, facts.digest, facts.blob, until, facts.collapse, name)
            receivers = [_RECEIVER.pack(self._digest(own.device_id), own.index) for own in append.receivers[start:end]]
            args += (int(append.now_or_never), b"".join(receivers))
        return self._call(app, "live_append", *args)

    async def keep_all(self, app: str, contents: Sequence[LiveContent]) -> None:
        calls = self._keep_calls(app, contents)
        if self._link.cluster:
            # Each slot has replicas of its own. Elsewhere an append, which comes later, waits for this as well.
            await asyncio.gather(*(self._link.guarded(keys.mark_in_slot_of(call[1][0]), [call]) for call in calls))
        elif calls:
            await self._link.scripts(calls)

    def _keep_calls(self, app: str, contents: Sequence[LiveContent]) -> list[ScriptCall]:
        now = self._clock()
        shards: dict[int, list[Any]] = defaultdict(list)
        for push, body, device_ids in contents:
            until = max(self._kept_until(app, push), now + HOUR)
            shards[self._shard(app, push.id)] += (push.id, until, body, len(device_ids), *map(self._digest, device_ids))
        return [
            ("live_keep", [keys.live_content(app, shard, args[0])], [keys.prefix(app, shard), *args])
            for shard, args in shards.items()
        ]

    async def withdraw(self, app: str, push_id: str, at: int) -> None:
        push = LivePush(push_id, at, WITHDRAWN, "normal")
        facts, until = facts_of(push), self._facts_until(app, push, self._clock())
        args = (keys.devices(app), facts.hour, facts.digest, push_id, facts.blob, until)
        await self._link.guarded(keys.mark_in_slot_of(keys.devices(app)), [self._call(app, "live_withdraw", *args)])

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        distinct = list(dict.fromkeys(push_ids))
        commands = [("HGET", keys.live_content(app, self._shard(app, name), name), "b") for name in distinct]
        bodies = await self._link.many(commands)
        return {name: body for name, body in zip(distinct, bodies, strict=True) if body is not None}

    # --- forms ------------------------------------------------------------------------------------

    def _call(self, app: str, name: str, *args: Any) -> ScriptCall:
        return name, [keys.device_counts(app)], args

    def _kept_until(self, app: str, push: LivePush) -> int:
        """Return the end of the time in which a stream may refer to the push, and an hour."""
        return (push.at // HOUR + self._config.history_hours(app) + 2) * HOUR

    def _facts_until(self, app: str, push: LivePush, now: int) -> int:
        """Return how long is kept what streams know of a push, and that it was withdrawn."""
        return max(self._kept_until(app, push), now + HOUR)

    def _push(self, app: str, blob: bytes) -> LivePush | None:
        return readable(decode_facts, blob, "live_push", app)

    def _references(self, app: str, named: Sequence[Sequence[Any]]) -> dict[int, tuple[Reference, ...]]:
        """Return by the place of a device what a script names of its stream."""
        found: dict[int, tuple[Reference, ...]] = {}
        for place, *rest in named:
            if (reference := self._reference(app, *rest)) is not None:
                found[place] = (*found.get(place, ()), reference)
        return found

    def _reference(self, app: str, offset: int, index: int, platform: bytes, blob: bytes) -> Reference | None:
        push = self._push(app, blob)
        return None if push is None else Reference(offset, index, platform.decode(), push)


def shares_of(appends: Sequence[Append]) -> Iterator[list[Share]]:
    """Yield what each step appends: receivers of some pushes, in their order, `MAX_BATCH` of them in all. Pure."""
    share: list[Share] = []
    room = MAX_BATCH
    for place, each in enumerate(appends):
        start = 0
        while start < len(each.receivers):
            end = min(len(each.receivers), start + room)
            share.append((place, start, end))
            start, room = end, room - (end - start)
            if not room:
                yield share
                share, room = [], MAX_BATCH
    if share:
        yield share


def _moved(found: Sequence[Sequence[Appended]]) -> _Places:
    """Return the places of publications that may be for another user."""
    moved = [(at, [n for n, each in enumerate(results) if each.status == "moved"]) for at, results in enumerate(found)]
    return [(at, own) for at, own in moved if own]


def _appended(packed: bytes, gateways: Sequence[str]) -> list[Appended]:
    """Return the results of a push that live_append.lua has packed."""
    found = []
    for status, offset, prev, unread, epoch, connection, gateway in _APPENDED.iter_unpack(packed):
        if status in _NOWHERE:
            found.append(Appended(_STATUS[status]))
            continue
        route = LiveRoute(gateways[gateway - 1], connection) if gateway else None
        found.append(Appended(_STATUS[status], offset, prev, unread, text_of(epoch), route))
    return found


def text_of(epoch: int) -> str:
    """Return the epoch of a stream as others know it."""
    return f"{epoch:08x}"
