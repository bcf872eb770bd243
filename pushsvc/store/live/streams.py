"""`LiveStreams` over Redis: packed streams in the registry's slot, which the scripts alone read and write.

An append must find a device, its stream and its connection in one step, and what a user has read concerns all devices
of the user. So all of this is in the registry's slot `{app.devices}` under the ordinals of the devices: a device that
is not registered has no stream, a stream ends with its device in the registry's own step, and when a device gets
another user, its stream gets another epoch in that step (registry_apply.lua).

A stream is one element of a list of 32, so that a million devices that are away share 31,250 keys:

| bytes           | meaning                                                                                        |
|-----------------|------------------------------------------------------------------------------------------------|
| 1               | version, and which parts follow                                                                |
| 1               | run of the server in which it was appended to last                                             |
| 4, 4            | epoch, top offset                                                                              |
| 4, 4, 4, 4      | where any is not 0: offset that was acknowledged, that was read, up to which something is lost; |
|                 | how many were lost                                                                             |
| 4, 4, 1, name   | of a connected device: connection, seconds since when, gateway; 0 s: it is to be ended          |
| 14 each         | references: hour (2) and digest (4) of the push, platform and index (4), offset (4)            |
| or 18 each      | the same, and a digest of the collapse (4), once any of them has one                           |

What is the same for all devices stands once a push, under its hour and digest, and has a lifetime. A list keeps its
elements packed one behind the other whatever their size, where a hash with a field of more than 64 bytes spends some 70
more on each. Shorter lists are read and written faster.

A broadcast to 100,000 devices that are away takes this many bytes of Redis for each:

|              | the first | the second | the third |
|--------------|-----------|------------|-----------|
| Redis 7.0.15 |      34.4 |       20.0 |       8.0 |
| Valkey 9.1.2 |      29.5 |       14.0 |      14.0 |

Offsets grow by 1. A server that was started again, or has taken over, may have lost its latest writes, and would give
out their offsets a second time, for other pushes: a client that has seen the first would miss the second. So the first
append to a stream after that leaves out as many offsets as could have been given out.

`prev` follows from the references that are left: what was replaced or has expired leaves no hole. What was removed
because the stream was full or too old does: the stream keeps the last such offset, and their number.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from struct import Struct as Layout
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from ...errors import Unreadable
from ...model.push import Platform
from ...ports.live import (
    MAX_BATCH,
    Acked,
    Append,
    Appended,
    Connected,
    Cut,
    InboxItem,
    LiveContent,
    LivePush,
    LiveRoute,
    Page,
    Position,
    Presence,
    Publication,
    Read,
    Receiver,
    Reference,
    Refused,
    Unread,
)
from ...ports.registry import Holding, Registry
from ...rules.audience import owner_of
from ...rules.life import seen
from .. import keys
from ..config import DAY, StoreConfig
from ..link.clock import Clock
from ..link.commit import GroupCommit
from ..link.link import Link, ScriptCall
from ..link.unreadable import readable
from ..registry.wire import Digests
from .facts import HOUR, WITHDRAWN, decode_facts, digest_of, facts_of, hour_of
from .gateways import RedisGateways

BEGINNING: Final = 1_767_225_600
"""Unix seconds of 2026: offsets that follow a new start of the server are at least the seconds since then."""
REFUSED: Final = 400 * DAY * 1000
"""Milliseconds for which a revocation is kept: longer than any token is valid."""
_AT_ONCE: Final = 256
"""Connects of one round trip: those that come while one is under way share the next. When all devices come back at once
a round trip takes as long as it takes to greet those that have come meanwhile, so it must bear as many. Redis serves
others in between: it reads 16 KB of a client at a time."""
_REFUSED: Final = {"": None, "unknown": Refused("unknown"), "revoked": Refused("revoked")}
_STATUS: Final = ("absent", "new", "known", "superseded", "away", "withdrawn", "moved")
_APPENDED: Final = Layout(">BIIIII")
_Places: TypeAlias = list[tuple[int, list[int]]]
Share: TypeAlias = tuple[int, int, int]
"""Places of some appends, and of receivers in each."""


class _Connect:
    """A connect of a device: it waits for a shared round trip, and then has the answer."""

    __slots__ = ("answer", "call")

    def __init__(self, call: ScriptCall) -> None:
        self.call = call
        self.answer: Any = None


class RedisStreams:
    """See `ports.live.LiveStreams`."""

    def __init__(
        self,
        link: Link,
        config: StoreConfig,
        hash_key: bytes,
        registry: Registry,
        gateways: RedisGateways,
        clock: Clock,
    ) -> None:
        self._link = link
        self._config = config
        self._digest = Digests(hash_key).of
        self._registry = registry
        self._gateways = gateways
        self._clock = clock
        self._connects: dict[str, GroupCommit[_Connect]] = {}

    # --- appending --------------------------------------------------------------------------------

    async def append(
        self, app: str, push: LivePush, receivers: Sequence[Receiver], *, platform: Platform
    ) -> list[Appended]:
        return (await self.append_all(app, [Append(push, receivers, platform)]))[0]

    async def append_all(self, app: str, appends: Sequence[Append]) -> list[list[Appended]]:
        found, known = await self._append_all(app, appends, (-1, -1))
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
        self, app: str, appends: Sequence[Append], known: tuple[int, int]
    ) -> tuple[list[list[Appended]], tuple[int, int]]:
        """Append, and return the results beside the numbers of changes of users and of devices by now. `known` are such
        numbers: devices that came or moved since then are `moved`; (-1, -1) stands for some time ago."""
        now, shares = self._clock(), list(shares_of(appends))
        calls = [self._append_call(app, appends, share, now, known) for share in shares]
        # No publication is shown before the replicas have it: after a failover its offset would be another one's.
        answers = await self._link.guarded(keys.mark_beside(keys.devices(app)), calls) if calls else []
        found: list[list[Appended]] = [[] for _ in appends]
        for share, (_, _, *flat) in zip(shares, answers, strict=True):
            for (owner, *_), texts, removed in zip(share, flat[::2], flat[1::2], strict=True):
                replaced = {place: self._reference(app, *rest) for place, *rest in removed}
                found[owner] += [_appended(text, replaced.get(place)) for place, text in enumerate(texts)]
        moves, births = zip(*(answer[:2] for answer in answers), strict=True) if answers else ((0,), (0,))
        return found, (max(moves), max(births))

    def _append_call(
        self, app: str, appends: Sequence[Append], share: Sequence[Share], now: int, known: tuple[int, int]
    ) -> ScriptCall:
        args: list[Any] = [keys.devices(app), now, self._config.history_of(app), secrets.randbits(32)]
        args += (max(0, now // 1000 - BEGINNING), self._config.window_of(app), *known)
        for place, start, end in share:
            append = appends[place]
            facts, until = facts_of(append.push), self._facts_until(app, append.push, now)
            args += (facts.hour, facts.digest, facts.blob, until, facts.collapse, append.platform)
            args += (int(append.now_or_never), end - start)
            for receiver in append.receivers[start:end]:
                args += (self._digest(receiver.device_id), receiver.index)
        return self._call(app, "live_append", *args)

    async def keep_all(self, app: str, contents: Sequence[LiveContent]) -> None:
        now = self._clock()
        shards: dict[int, list[Any]] = defaultdict(list)
        for push, body, device_ids in contents:
            until = max(self._kept_until(app, push), now + HOUR)
            shards[self._shard(app, push.id)] += (push.id, until, body, len(device_ids), *map(self._digest, device_ids))
        calls: list[ScriptCall] = [
            ("live_keep", [keys.live_content(app, shard, args[0])], [keys.prefix(app, shard), *args])
            for shard, args in shards.items()
        ]
        if self._link.cluster:
            # Each slot has replicas of its own. Elsewhere an append, which comes later, waits for this as well.
            await asyncio.gather(*(self._link.guarded(keys.mark_beside(call[1][0]), [call]) for call in calls))
        elif calls:
            await self._link.scripts(calls)

    async def withdraw(self, app: str, push_id: str, at: int) -> None:
        push = LivePush(push_id, at, WITHDRAWN, "normal")
        facts, until = facts_of(push), self._facts_until(app, push, self._clock())
        args = (keys.devices(app), facts.hour, facts.digest, push_id, facts.blob, until)
        await self._link.guarded(keys.mark_beside(keys.devices(app)), [self._call(app, "live_withdraw", *args)])

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        distinct = list(dict.fromkeys(push_ids))
        commands = [("HGET", keys.live_content(app, self._shard(app, name), name), "b") for name in distinct]
        bodies = await self._link.many(commands)
        return {name: body for name, body in zip(distinct, bodies, strict=True) if body is not None}

    # --- connections ------------------------------------------------------------------------------

    async def connect(
        self,
        app: str,
        device_id: str,
        route: LiveRoute,
        *,
        issued_at: int,
        position: Position | None = None,
        limit: int = 100,
    ) -> Connected | Refused:
        connect = _Connect(
            self.connect_call(app, device_id, route, issued_at=issued_at, position=position, limit=limit)
        )
        await self._connects_of(app).add(connect, 0)
        (answer,) = self._link.raised([connect.answer])
        fault, *answer = answer
        if fault == b"unreadable":
            raise Unreadable("The stream of the device", device_ids=[device_id])
        if fault:
            return Refused(fault.decode())
        tombstone, epoch, top, since, valid, missing, acked, unread, more, gateway, connection, found = answer
        if tombstone:
            await self._revive(app, device_id)
        replaced = LiveRoute(gateway.decode(), connection) if gateway else None
        page = Page(_text(epoch), top, self._publications(app, found), bool(more), missing)
        return Connected(since, bool(valid) and not missing, page, acked, unread, replaced)

    def _connects_of(self, app: str) -> GroupCommit[_Connect]:
        """Return the connects of an app that wait for their round trip: in a cluster, those of one node."""
        if app not in self._connects:

            async def write(connects: list[_Connect]) -> None:
                # Never repeated: the connection of a device may be another one by then.
                answers = await self._link.read_all(
                    keys.mark_beside(keys.devices(app)), [each.call for each in connects]
                )
                for connect, answer in zip(connects, answers, strict=True):
                    connect.answer = answer

            self._connects[app] = GroupCommit(write, most=_AT_ONCE)
        return self._connects[app]

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        return bool(await self._link.script(*self.disconnect_call(app, device_id, route)))

    def connect_call(
        self, app: str, device_id: str, route: LiveRoute, *, issued_at: int, position: Position | None, limit: int
    ) -> ScriptCall:
        """Return the step that makes a connection that of a device."""
        return self._call(
            app,
            "live_connect",
            *(keys.devices(app), self._clock(), self._digest(device_id), route.gateway, route.connection, issued_at),
            *((-1, 0) if position is None else (_number(position.epoch, -1), position.offset)),
            *(limit, *self._age(app), secrets.randbits(32)),
        )

    def disconnect_call(self, app: str, device_id: str, route: LiveRoute) -> ScriptCall:
        """Return the step that ends a connection, if it is that of the device."""
        args = (keys.devices(app), self._digest(device_id), route.gateway, route.connection, self._clock())
        return self._call(app, "live_disconnect", *args)

    async def presence(self, app: str, device_ids: Sequence[str], *, gateway: str = "") -> list[Presence | None]:
        found: list[Presence | None] = []
        for at in range(0, len(device_ids), MAX_BATCH):
            batch = map(self._digest, device_ids[at : at + MAX_BATCH])
            args = (keys.devices(app), self._clock(), gateway, *batch)
            found += map(_presence, await self._link.script(*self._call(app, "live_presence", *args)))
        return found

    async def unread(self, app: str, device_ids: Sequence[str]) -> dict[str, int]:
        """Return how many pushes are unread in the streams of these devices, without those that have none."""
        found: dict[str, int] = {}
        distinct = list(dict.fromkeys(device_ids))
        for at in range(0, len(distinct), MAX_BATCH):
            batch = distinct[at : at + MAX_BATCH]
            args = (keys.devices(app), self._clock(), *map(self._digest, batch))
            counts = await self._link.script(*self._call(app, "live_unread", *args))
            found |= {name: count for name, count in zip(batch, counts, strict=True) if count >= 0}
        return found

    async def revoke(self, app: str, device_id: str) -> int:
        now = self._clock()
        await self._revoke(app, [device_id], now)
        return now

    async def admits(self, app: str, device_id: str, *, issued_at: int) -> Refused | None:
        args = (keys.devices(app), self._digest(device_id), issued_at, self._clock())
        fault, *tombstone = await self._link.script(*self._call(app, "live_admits", *args))
        if tombstone == [1]:
            await self._revive(app, device_id)
        return _REFUSED[fault.decode()]

    async def _revive(self, app: str, device_id: str) -> None:
        """Let a tombstone that has given a sign of life be a device again, if it was pruned for silence."""
        await self._registry.revise(app, [device_id], lambda device: seen(device, self._clock()))

    async def holds(self, app: str, device_id: str, push_id: str) -> bool:
        args = (keys.devices(app), self._digest(device_id), digest_of(push_id), push_id, self._clock())
        return bool(await self._link.script(*self._call(app, "live_holds", *args)))

    async def forget(self, app: str, device_ids: Sequence[str]) -> None:
        """Revoke the tokens of devices that are being erased."""
        await self._revoke(app, device_ids, self._clock())

    async def _revoke(self, app: str, device_ids: Sequence[str], now: int) -> None:
        cuts: dict[str, list[InboxItem]] = defaultdict(list)
        for at in range(0, len(device_ids), MAX_BATCH):
            digests = map(self._digest, device_ids[at : at + MAX_BATCH])
            call = self._call(app, "live_revoke", keys.devices(app), now, now - REFUSED, *digests)
            # What a caller was told is refused stays so after a failover.
            (answer,) = await self._link.guarded(keys.mark_beside(keys.devices(app)), [call])
            for connection, gateway in answer:
                if gateway:
                    cuts[gateway.decode()].append(Cut(app, connection, "revoked"))
        await self._gateways.poke(cuts)

    # --- what a device has ------------------------------------------------------------------------

    async def acking(self, app: str, positions: Sequence[tuple[str, Position]]) -> list[Acked]:
        return await self._ack(app, positions, look=True)

    async def ack(self, app: str, positions: Sequence[tuple[str, Position]]) -> list[Acked]:
        return await self._ack(app, positions, look=False)

    async def _ack(self, app: str, positions: Sequence[tuple[str, Position]], *, look: bool) -> list[Acked]:
        calls = [
            self._call(
                app,
                "live_ack",
                *(keys.devices(app), int(look)),
                *(
                    part
                    for device_id, at in positions[first : first + MAX_BATCH]
                    for part in (self._digest(device_id), _number(at.epoch, -1), at.offset)
                ),
            )
            for first in range(0, len(positions), MAX_BATCH)
        ]
        found: list[Acked] = []
        for answer in await self._link.scripts(calls) if calls else ():
            for fault, acked, unacked, *flat in answer:
                references = [self._reference(app, *flat[at : at + 4]) for at in range(0, len(flat), 4)]
                newly = [each for each in references if each is not None]
                found.append(Acked(fault.decode(), newly, acked, unacked))
        return found

    async def read(self, app: str, device_id: str, position: Position) -> Read:
        device = await self._registry.get(app, device_id)
        if device is None:
            return Read("unknown")
        others = [] if device.user is None else await self._registry.of_user(app, device.user)
        ids = [device_id, *(each.id for each in others if each.id != device_id)]
        args = (keys.devices(app), self._clock(), _number(position.epoch, -1), position.offset)
        fault, *flat = await self._link.script(*self._call(app, "live_read", *args, *map(self._digest, ids)))
        unread: dict[str, int] = {}
        routes: dict[str, LiveRoute] = {}
        told: dict[str, list[InboxItem]] = defaultdict(list)
        for name, at in zip(ids, range(0, len(flat), 3), strict=False):
            count, connection, gateway = flat[at : at + 3]
            if count >= 0:
                unread[name] = count
            if gateway:
                route = routes[name] = LiveRoute(gateway.decode(), connection)
                told[route.gateway].append(Unread(app, connection, count))
        await self._gateways.poke(told)
        return Read(fault.decode(), unread, routes)

    async def history(
        self,
        app: str,
        device_id: str,
        *,
        since: int | None = None,
        epoch: str = "",
        limit: int = 100,
        reverse: bool = False,
    ) -> Page | None:
        answer = await self._link.script(
            *self._call(
                app,
                "live_history",
                *(keys.devices(app), self._clock(), self._digest(device_id), _number(epoch, -1)),
                *(-1 if since is None else since, limit, int(reverse), *self._age(app)),
            )
        )
        if answer is None:
            return None
        number, top, missing, more, *found = answer
        return Page(_text(number), top, self._publications(app, found), bool(more), missing)

    # --- forms ------------------------------------------------------------------------------------

    def _call(self, app: str, name: str, *args: Any) -> ScriptCall:
        return name, [keys.device_counts(app)], args

    def _shard(self, app: str, push_id: str) -> int:
        return keys.shard_of(push_id, self._config.shards_of(app))

    def _age(self, app: str) -> tuple[int, int]:
        """Return the present hour, and for how many hours streams are kept."""
        return hour_of(self._clock()), self._config.history_hours(app)

    def _kept_until(self, app: str, push: LivePush) -> int:
        """Return the end of the time in which a stream may refer to the push, and an hour."""
        return (push.at // HOUR + self._config.history_hours(app) + 2) * HOUR

    def _facts_until(self, app: str, push: LivePush, now: int) -> int:
        """Return how long is kept what streams know of a push, and that it was withdrawn."""
        return max(self._kept_until(app, push), now + HOUR)

    def _push(self, app: str, blob: bytes) -> LivePush | None:
        return readable(decode_facts, blob, "live_push", app)

    def _reference(self, app: str, offset: int, index: int, platform: bytes, blob: bytes) -> Reference | None:
        push = self._push(app, blob)
        return None if push is None else Reference(offset, index, platform.decode(), push)

    def _publications(self, app: str, flat: Sequence[Any]) -> list[Publication]:
        """Return the publications that can be read. Their `prev` skips the others."""
        found: list[Publication] = []
        skipped: int | None = None
        for at in range(0, len(flat), 4):
            offset, prev, index, blob = flat[at : at + 4]
            push = self._push(app, blob)
            if push is None:
                skipped = prev if skipped is None else skipped
                continue
            found.append(Publication(offset, prev if skipped is None else skipped, index, push))
            skipped = None
        return found


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


def _appended(text: bytes, replaced: Reference | None) -> Appended:
    if len(text) == 1:
        return Appended(_STATUS[text[0]])
    status, offset, prev, unread, epoch, connection = _APPENDED.unpack_from(text)
    gateway = text[_APPENDED.size :]
    route = LiveRoute(gateway.decode(), connection) if gateway else None
    return Appended(_STATUS[status], offset, prev, unread, _text(epoch), route, replaced)


def _presence(answer: Collection[Any]) -> Presence | None:
    if not answer:
        return None
    if len(answer) == 1:
        return Presence("", 0, 0, 0, 0, None, 0)
    epoch, top, acked, unacked, unread, connection, since, gateway = answer
    route = LiveRoute(gateway.decode(), connection) if gateway else None
    return Presence(_text(epoch), top, acked, unacked, unread, route, since * 1000)


def _text(epoch: int) -> str:
    return f"{epoch:08x}"


def _number(epoch: str, none: int) -> int:
    """Return the number of an epoch; `none` for an empty one, and one that no stream has for any other text."""
    if not epoch:
        return none
    try:
        return int(epoch, 16) if len(epoch) == 8 else 1 << 32
    except ValueError:
        return 1 << 32
