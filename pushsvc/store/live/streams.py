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

import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache, partial
from itertools import chain
from struct import Struct as Layout, pack
from typing import Any, Final, NamedTuple

from ...errors import Unreadable
from ...ports.live import (
    MAX_BATCH,
    Acked,
    Connected,
    Cut,
    InboxItem,
    LiveRoute,
    Page,
    Position,
    Presence,
    Publication,
    Read,
    Refused,
    Unread,
)
from ...ports.registry import Registry
from ...rules.life import seen
from .. import keys
from ..config import DAY
from ..link.commit import GroupCommit
from ..link.connect import store_faults
from ..link.link import ScriptCall
from ..part import StoreContext
from .appends import RedisAppends, text_of
from .facts import digest_of, hour_of
from .gateways import RedisGateways

REFUSED: Final = 400 * DAY * 1000
"""Milliseconds for which a revocation is kept: longer than any token is valid."""
_AT_ONCE: Final = 32
"""Connects of one round trip: those that come while one is under way share the next. When all devices come back at once
other callers of Redis wait behind the connects of each gateway that it has read, of which 16 KB are 70: with 256 in a
round trip a PING took up to 155 ms, with 32 up to 9 ms."""
_ENDS: Final = 50
"""Ends of connections of one script, which keeps Redis from others for less than a millisecond."""
_ENDS_AT_ONCE: Final = 100
"""The same of one round trip. When all connections are cut at once the others wait here."""
_REFUSED: Final = {"": None, "unknown": Refused("unknown"), "revoked": Refused("revoked")}


_DEVICES: Final = 16_384
"""Devices of which a process keeps the digest, in about 3 MB: to make one takes longer than to pack all that is asked
with it."""
_ASKED: Final = Layout(">12sddH")
"""A device and a position in live_ack.lua, before the offsets that are named."""
_ASKED_OF_ONE: Final = Layout(">12sddHI")
"""The same with one offset, as nearly all have."""
_ALL: Final = 0xFFFF
"""Their number where it may be any."""


class End(NamedTuple):
    """A connection that is to end."""

    device_id: str
    route: LiveRoute


class RedisStreams(RedisAppends, RedisGateways):
    """See `ports.live.LiveStreams`."""

    def __init__(self, context: StoreContext, registry: Registry) -> None:
        super().__init__(context, registry)
        self._connects: dict[str, GroupCommit[ScriptCall, Any]] = {}
        self._ends: dict[str, GroupCommit[End, bool]] = {}
        self._digest_again = lru_cache(maxsize=_DEVICES)(self._digest)
        """Of devices that acknowledge, as a connected one does again and again."""

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
        unacked: bool = False,
    ) -> Connected | Refused:
        call = self.connect_call(
            app, device_id, route, issued_at=issued_at, position=position, limit=limit, unacked=unacked
        )
        with store_faults():
            fault, *answer = await self._connects_of(app).add(call)
        if fault == b"unreadable":
            raise Unreadable("The stream of the device", device_ids=[device_id])
        if fault:
            return Refused(fault.decode())
        tombstone, epoch, top, since, valid, missing, ahead, floor, acked, unread, more, gateway, connection, found = (
            answer
        )
        if tombstone:
            await self._revive(app, device_id)
        replaced = LiveRoute(gateway.decode(), connection) if gateway else None
        page = Page(text_of(epoch), top, self._publications(app, found), bool(more), missing, floor)
        return Connected(since, bool(valid) and not ahead, page, acked, unread, replaced, ahead)

    def _connects_of(self, app: str) -> GroupCommit[ScriptCall, Any]:
        """Return the connects of an app that wait for their round trip: in a cluster, those of one node. They are never
        repeated: the connection of a device may be another one by then."""
        if app not in self._connects:
            run = partial(self._link.read_all, keys.mark_in_slot_of(keys.devices(app)))
            self._connects[app] = GroupCommit(run, most=_AT_ONCE)
        return self._connects[app]

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        if app not in self._ends:
            self._ends[app] = GroupCommit(partial(self._end, app), most=_ENDS_AT_ONCE)
        return await self._ends[app].add(End(device_id, route))

    async def _end(self, app: str, ends: Sequence[End]) -> list[bool]:
        """End these connections, in one round trip, and return whether each was that of its device."""
        groups = [ends[at : at + _ENDS] for at in range(0, len(ends), _ENDS)]
        answers = await self._link.scripts([self.disconnect_call(app, group) for group in groups])
        return [bool(answer) for answer in chain.from_iterable(answers)]

    def connect_call(
        self,
        app: str,
        device_id: str,
        route: LiveRoute,
        *,
        issued_at: int,
        position: Position | None,
        limit: int,
        unacked: bool = False,
    ) -> ScriptCall:
        """Return the step that makes a connection that of a device."""
        return self._call(
            app,
            "live_connect",
            *(keys.devices(app), self._clock(), self._digest(device_id), route.gateway, route.connection, issued_at),
            *((-1, 0) if position is None else (_number(position.epoch, -1), position.offset)),
            *(limit, *self._age(app), secrets.randbits(32), int(unacked)),
        )

    def disconnect_call(self, app: str, ends: Iterable[End]) -> ScriptCall:
        """Return the step that ends connections, each if it is that of its device."""
        named = [(self._digest(end.device_id), end.route.gateway, end.route.connection) for end in ends]
        return self._call(app, "live_disconnect", keys.devices(app), self._clock(), *chain.from_iterable(named))

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
        return await self.forget(app, [device_id])

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

    async def forget(self, app: str, device_ids: Sequence[str]) -> int:
        """Revoke the tokens of devices, as of those that are being erased. Returns the instant, in Unix ms."""
        now, cuts = self._clock(), defaultdict[str, list[InboxItem]](list)
        for at in range(0, len(device_ids), MAX_BATCH):
            digests = map(self._digest, device_ids[at : at + MAX_BATCH])
            call = self._call(app, "live_revoke", keys.devices(app), now, now - REFUSED, *digests)
            # A device that was reported as refused stays refused after a failover.
            (answer,) = await self._link.guarded(keys.mark_in_slot_of(keys.devices(app)), [call])
            for connection, gateway in answer:
                if gateway:
                    cuts[gateway.decode()].append(Cut(app, connection, "revoked"))
        await self.poke(cuts)
        return now

    # --- what a device has ------------------------------------------------------------------------

    async def acking(
        self, app: str, positions: Sequence[tuple[str, Position]], given: Sequence[Sequence[int] | None] = ()
    ) -> list[Acked]:
        return await self._ack(app, positions, given, look=True)

    async def ack(
        self, app: str, positions: Sequence[tuple[str, Position]], ended: Sequence[Sequence[int] | None] = ()
    ) -> list[Acked]:
        return await self._ack(app, positions, ended, look=False)

    async def _ack(
        self, app: str, positions: Sequence[tuple[str, Position]], ended: Sequence[Sequence[int] | None], *, look: bool
    ) -> list[Acked]:
        asked = []
        for (device_id, at), offsets in zip(positions, ended or [None] * len(positions), strict=True):
            place = self._digest_again(device_id), _number(at.epoch, -1), at.offset
            if offsets is None:
                asked.append(_ASKED.pack(*place, _ALL))
            elif len(offsets) == 1:
                asked.append(_ASKED_OF_ONE.pack(*place, 1, offsets[0]))
            else:
                asked.append(_ASKED.pack(*place, len(offsets)) + pack(f">{len(offsets)}I", *offsets))
        calls = [
            self._call(
                app,
                "live_ack",
                *(keys.devices(app), int(look), b"".join(asked[start : start + MAX_BATCH]), self._clock()),
            )
            for start in range(0, len(asked), MAX_BATCH)
        ]
        answers = await self._link.scripts(calls) if calls else ()
        return [
            Acked("", [], at.offset, 0, answer) if isinstance(answer, int) else self._acked(app, *answer)
            for (_, at), answer in zip(positions, chain.from_iterable(answers), strict=True)
        ]

    def _acked(self, app: str, fault: Any, acked: int, unacked: int, before: int, *flat: Any) -> Acked:
        references = [self._reference(app, *flat[at : at + 4]) for at in range(0, len(flat), 4)]
        newly = [each for each in references if each is not None]
        return Acked(fault.decode(), newly, acked, unacked, before)

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
        items: dict[str, list[InboxItem]] = defaultdict(list)
        for name, at in zip(ids, range(0, len(flat), 3), strict=False):
            count, connection, gateway = flat[at : at + 3]
            if count >= 0:
                unread[name] = count
            if gateway:
                route = routes[name] = LiveRoute(gateway.decode(), connection)
                items[route.gateway].append(Unread(app, connection, count))
        await self.poke(items)
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
        number, top, missing, floor, more, *found = answer
        return Page(text_of(number), top, self._publications(app, found), bool(more), missing, floor)

    # --- forms ------------------------------------------------------------------------------------

    def _age(self, app: str) -> tuple[int, int]:
        """Return the present hour, and for how many hours streams are kept."""
        return hour_of(self._clock()), self._config.history_hours(app)

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


def _presence(answer: Collection[Any]) -> Presence | None:
    if not answer:
        return None
    if len(answer) == 1:
        return Presence("", 0, 0, 0, 0, None, 0)
    epoch, top, acked, unacked, unread, connection, since, gateway = answer
    route = LiveRoute(gateway.decode(), connection) if gateway else None
    return Presence(text_of(epoch), top, acked, unacked, unread, route, since * 1000)


def _number(epoch: str, none: int) -> int:
    """Return the number of an epoch; `none` for an empty one, and one that no stream has for any other text."""
    if not epoch:
        return none
    try:
        return int(epoch, 16) if len(epoch) == 8 else 1 << 32
    except ValueError:
        return 1 << 32
