"""The live channel's twin in plain lists: streams by the ordinals of devices, inboxes that never overflow."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from pushsvc.model.delivery import Arrival
from pushsvc.model.push import Platform
from pushsvc.model.routing import CARRIERS
from pushsvc.ports.live import (
    EVENTS,
    MAX_NAMED,
    Acked,
    Append,
    Appended,
    Connected,
    Cut,
    EventCounts,
    EventReport,
    InboxItem,
    LiveContent,
    LivePush,
    LiveRoute,
    Page,
    Position,
    Presence,
    Publication,
    Read,
    Received,
    Receiver,
    Reference,
    Refused,
    Unread,
)
from pushsvc.rules.audience import owner_of
from pushsvc.rules.life import SILENT, seen
from pushsvc.store.layout import SEEN_EVERY
from pushsvc.store.live.facts import WITHDRAWN, hour_of

if TYPE_CHECKING:
    from .registry import MemoryRegistry
    from .state import State

COUNTED = 50
"""The most unread pushes of which a connect counts those that are still open."""
CUT = 0
"""The instant of a connection that is to be ended."""


@dataclass
class Stream:
    """The stream of a device."""

    epoch: str
    entries: list[Reference] = field(default_factory=list)
    top: int = 0
    acked: int = 0
    read: int = 0
    alone: set[int] = field(default_factory=set)
    """The offsets of what no other channel carries on."""
    floor: int = 0
    """The last offset that was removed because the stream was full or it was too old."""
    lost: int = 0
    route: LiveRoute | None = None
    since: int = 0

    def after(self, offset: int) -> list[Reference]:
        return [entry for entry in self.entries if entry.offset > offset]

    @property
    def unread(self) -> int:
        return len(self.after(self.read))

    def open_after(self, offset: int, now: int) -> int:
        return sum(each.push.expires_at > now for each in self.after(offset))

    def prev(self, offset: int) -> int:
        """What stands before an offset: an entry, or what was lost."""
        return max(
            [entry.offset for entry in self.entries if entry.offset < offset] + [self.floor * (self.floor < offset)]
        )

    def missing(self, offset: int) -> int:
        return min(self.floor - offset, self.lost) if self.floor > offset else 0

    def lose(self, entry: Reference) -> None:
        self.entries.remove(entry)
        self.floor, self.lost = max(self.floor, entry.offset), self.lost + 1


class LiveState:
    """Everything; several consumers share it."""

    def __init__(self) -> None:
        self.streams: dict[tuple[str, int], Stream] = {}
        """By app and ordinal."""
        self.refused: dict[tuple[str, str], int] = {}
        self.gateways: dict[tuple[str, str], tuple[int, int]] = {}
        """By app and gateway, until when its sign of life is valid, and its connections."""
        self.inboxes: dict[str, list[InboxItem]] = defaultdict(list)
        self.pushes: dict[tuple[str, str], LivePush] = {}
        """What streams know of each push, by app and id."""
        self.contents: dict[tuple[str, str], bytes] = {}
        self.readers: dict[tuple[str, str], set[str] | None] = {}
        """The devices that each content is for; None where these are many."""
        self.displaced: dict[tuple[str, str, str], tuple[Reference | None, tuple[Reference, ...]]] = {}
        """What a push has replaced and overrun in the stream of a device, by app, push and device."""
        self.seen: dict[tuple[str, str], set[tuple[str, int]]] = defaultdict(set)
        self.epochs = itertools.count(1)
        self.poked = asyncio.Event()

    def withdraw(self, app: str, push_id: str, at: int) -> None:
        known = self.pushes.get((app, push_id), LivePush(push_id, at, WITHDRAWN, "normal"))
        push = self.pushes[app, push_id] = replace(known, expires_at=WITHDRAWN)
        for (owner, _), stream in self.streams.items():
            stream.entries[:] = [
                replace(each, push=push) if (owner, each.push.id) == (app, push_id) else each for each in stream.entries
            ]

    def erase(self, app: str, device_ids: Collection[str]) -> None:
        """Remove the contents that were for these devices alone."""
        for (owner, name), readers in self.readers.items():
            if owner == app and readers and readers <= set(device_ids):
                self.contents.pop((owner, name), None)
            elif owner == app and readers:
                readers.difference_update(device_ids)

    def new_epoch(self) -> str:
        return f"{next(self.epochs):08x}"

    def gone(self, app: str, ordinal: int, now: int, *, stays: bool) -> None:
        """A device is gone. `stays`: its id is that of another one now."""
        stream = self.streams.pop((app, ordinal), None)
        route = None if stream is None else stream.route
        if route is not None and self.gateways.get((app, route.gateway), (0, 0))[0] > now:
            self.inboxes[route.gateway].append(Cut(app, route.connection, "moved" if stays else "revoked"))
            self.poked.set()

    def is_connected(self, app: str, ordinal: int, now: int) -> bool:
        stream = self.streams.get((app, ordinal))
        route = None if stream is None or stream.since == CUT else stream.route
        return route is not None and self.gateways.get((app, route.gateway), (0, 0))[0] > now

    def waiting(self, app: str, ordinal: int, device_id: str, now: int) -> list[Arrival]:
        """What its device has not acknowledged."""
        stream = self.streams.get((app, ordinal))
        left = [] if stream is None else [each for each in stream.after(stream.acked) if each.push.expires_at > now]
        return [each.push.arrival(each.index, each.platform, device_id, now) for each in left]

    def renew(self, app: str, ordinal: int) -> None:
        """A device has another user."""
        stream = self.streams.get((app, ordinal))
        if stream is not None:
            top = stream.top
            self.streams[app, ordinal] = Stream(
                *(self.new_epoch(), [], top, top, top, set(), top, 0, stream.route, stream.since)
            )


class MemoryLive:
    """`Live` in memory."""

    def __init__(self, state: State, registry: MemoryRegistry) -> None:
        self._state = state
        self._live = state.live
        self._registry = registry

    def lose_streams(self) -> None:
        """Lose what a flushed server loses first."""
        self._live.streams.clear()

    # --- streams ----------------------------------------------------------------------------------

    def _ordinal(self, app: str, device_id: str) -> int | None:
        kept = self._state.devices[app].get(device_id)
        return None if kept is None else kept.n

    def _stream(self, app: str, device_id: str) -> Stream | None:
        ordinal = self._ordinal(app, device_id)
        return None if ordinal is None else self._live.streams.get((app, ordinal))

    def _begun(self, app: str, device_id: str) -> Stream | None:
        """The stream, which begins now if there is none; None without a device."""
        ordinal = self._ordinal(app, device_id)
        if ordinal is None:
            return None
        return self._live.streams.setdefault((app, ordinal), Stream(self._live.new_epoch()))

    def _connection(self, app: str, stream: Stream) -> LiveRoute | None:
        """Where the device has a connection, also one that is to be ended."""
        route = stream.route
        until, _ = self._live.gateways.get((app, route.gateway), (0, 0)) if route else (0, 0)
        return route if until > self._state.clock() else None

    def _route(self, app: str, stream: Stream, gateway: str = "") -> LiveRoute | None:
        if stream.route is None or stream.since == CUT:
            return None
        return stream.route if stream.route.gateway == gateway else self._connection(app, stream)

    def _aged(self, app: str, entry: Reference) -> bool:
        age = (hour_of(self._state.clock()) - hour_of(entry.push.at)) % 65536
        return self._state.config.history_hours(app) < age < 32768

    async def append(
        self, app: str, push: LivePush, receivers: Sequence[Receiver], *, platform: Platform
    ) -> list[Appended]:
        return (await self.append_all(app, [Append(push, receivers, platform)]))[0]

    async def append_all(
        self, app: str, appends: Sequence[Append], contents: Sequence[LiveContent] = ()
    ) -> list[list[Appended]]:
        await self.keep_all(app, contents)
        return [
            [self._append(app, each, push, receiver) for receiver in each.receivers]
            for each in appends
            for push in [self._live.pushes.setdefault((app, each.push.id), each.push)]
        ]

    def _append(self, app: str, append: Append, push: LivePush, receiver: Receiver) -> Appended:
        if push.expires_at == WITHDRAWN:
            return Appended("withdrawn")
        platform = append.platform
        name = receiver.device_id
        if append.now_or_never and self._ordinal(app, name) is not None and self._stream(app, name) is None:
            return Appended("away")
        kept = self._state.devices[app].get(name)
        if kept is not None and receiver.owner not in (None, owner_of(kept.device)):
            return Appended("moved")
        stream = self._begun(app, receiver.device_id)
        if stream is None:
            return Appended("absent")
        replaced: Reference | None = None
        overrun: tuple[Reference, ...] = ()
        carried: tuple[Reference, ...] = ()
        known = next((entry for entry in stream.entries if entry.push == push), None)
        rivals = [entry for entry in stream.entries if push.collapse and entry.push.collapse == push.collapse]
        if known is not None:
            status, offset = "known", known.offset
            replaced, overrun = self._live.displaced.get((app, push.id, name), (None, ()))
        elif append.now_or_never and self._route(app, stream) is None:
            return Appended("away", 0, 0, stream.unread, stream.epoch)
        elif any((rival.push.at, rival.push.id) > (push.at, push.id) for rival in rivals):
            return Appended("superseded", 0, 0, stream.unread, stream.epoch, self._route(app, stream))
        else:
            for rival in rivals:
                if rival.offset > stream.acked:
                    replaced = rival
                    stream.entries.remove(rival)
            over = len(stream.entries) - self._state.config.history_of(app) + 1
            acked = len(stream.entries) - len(stream.after(stream.acked))
            online = self._route(app, stream) is not None and acked < over
            first = min(acked + 2 * self._state.config.window_of(app), len(stream.entries) - over) if online else 0
            lost = stream.entries[first : first + max(over, 0)]
            now = self._state.clock()
            waited = [each for each in lost if each.offset > stream.acked and each.push.expires_at > now]
            overrun = tuple(each for each in waited if each.offset in stream.alone)
            if self._route(app, stream) is not None:
                carried = tuple(each for each in waited if each.offset not in stream.alone)
            for entry in lost:
                stream.lose(entry)
            stream.top += 1
            stream.entries.append(Reference(stream.top, receiver.index, platform, push))
            status, offset = "new", stream.top
            self._live.displaced[app, push.id, name] = replaced, overrun
        if append.alone or platform in CARRIERS:
            stream.alone.add(offset)
        else:
            stream.alone.discard(offset)
        return Appended(
            "new" if status == "new" else "known",
            offset,
            stream.prev(offset),
            stream.unread,
            stream.epoch,
            self._route(app, stream),
            replaced,
            overrun,
            carried,
        )

    async def keep_all(self, app: str, contents: Sequence[LiveContent]) -> None:
        for push, body, device_ids in contents:
            self._live.contents.setdefault((app, push.id), body)
            known = self._live.readers.setdefault((app, push.id), set())
            if known is not None:
                known.update(device_ids)
                if not device_ids or len(known) > MAX_NAMED:
                    self._live.readers[app, push.id] = None

    async def withdraw(self, app: str, push_id: str, at: int) -> None:
        self._live.withdraw(app, push_id, at)

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        return {name: self._live.contents[app, name] for name in push_ids if (app, name) in self._live.contents}

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
        if refused := await self.admits(app, device_id, issued_at=issued_at):
            return refused
        stream = self._begun(app, device_id)
        assert stream is not None
        replaced = self._connection(app, stream)
        stream.route, stream.since = route, self._state.clock() // 1000 * 1000
        if replaced == route:
            replaced = None
        valid = position is not None and position.epoch == stream.epoch and position.offset <= stream.top
        since = asked = position.offset if position is not None and valid else stream.acked
        since = min(since, stream.acked) if unacked else since
        shown: list[Publication] = []
        for entry in stream.after(since):
            if self._aged(app, entry):
                stream.lose(entry)
            elif len(shown) < limit and entry.push.expires_at <= self._state.clock():
                stream.entries.remove(entry)
            else:
                shown.append(self._publication(stream, entry))
        if valid and stream.floor <= asked and not (shown and shown[0].offset < stream.floor):
            since = max(since, stream.floor)
        page = Page(stream.epoch, stream.top, shown[:limit], len(shown) > limit, stream.missing(since), stream.floor)
        ahead = stream.missing(asked) if valid else 0
        open_now = stream.open_after(stream.read, self._state.clock())
        unread = open_now if stream.unread <= COUNTED else stream.unread
        return Connected(since, valid and not ahead, page, stream.acked, unread, replaced, ahead)

    @staticmethod
    def _publication(stream: Stream, entry: Reference) -> Publication:
        return Publication(entry.offset, stream.prev(entry.offset), entry.index, entry.push)

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        stream = self._stream(app, device_id)
        if stream is None or stream.route != route:
            return False
        stream.route = None
        if self._state.devices[app][device_id].device.pruned_for not in SILENT:
            await self._note_life(app, device_id)
        return True

    async def acking(
        self, app: str, positions: Sequence[tuple[str, Position]], given: Sequence[Sequence[int] | None] = ()
    ) -> list[Acked]:
        offsets = given or [None] * len(positions)
        return [self._ack(app, *each, own, look=True) for each, own in zip(positions, offsets, strict=True)]

    async def ack(
        self, app: str, positions: Sequence[tuple[str, Position]], ended: Sequence[Sequence[int] | None] = ()
    ) -> list[Acked]:
        given = ended or [None] * len(positions)
        return [self._ack(app, *each, own, look=False) for each, own in zip(positions, given, strict=True)]

    def _ack(self, app: str, device_id: str, position: Position, ended: Sequence[int] | None, *, look: bool) -> Acked:
        stream = self._stream(app, device_id)
        if stream is None:
            return Acked("unknown")
        before, acked, newly = stream.acked, stream.acked, []
        fault = self._fault(stream, position)
        if not fault and position.offset > acked:
            covered = [each for each in stream.after(acked) if each.offset <= position.offset]
            named, now = set(ended or ()), self._state.clock()
            newly = [
                each
                for each in covered
                if ended is None or each.push.expires_at > now or (look and each.offset in named)
            ]
            if ended is not None and not look:
                if not {each.offset for each in newly} <= named:
                    return Acked("open", [], acked, len(stream.after(acked)), before)
                newly = []
            acked = position.offset
        if not look:
            stream.acked = acked
        return Acked(fault, newly, acked, len(stream.after(acked)), before)

    @staticmethod
    def _fault(stream: Stream, position: Position) -> Literal["", "epoch", "offset"]:
        if position.epoch not in ("", stream.epoch):
            return "epoch"
        return "offset" if position.offset > stream.top else ""

    async def read(self, app: str, device_id: str, position: Position) -> Read:
        stream = self._stream(app, device_id)
        if stream is None:
            return Read("unknown")
        if fault := self._fault(stream, position):
            return Read(fault)
        newly = [each.push for each in stream.after(stream.read) if each.offset <= position.offset]
        user = self._state.devices[app][device_id].device.user
        ids = [kept.device.id for kept in self._state.devices[app].values() if user and kept.device.user == user]
        unread: dict[str, int] = {}
        routes: dict[str, LiveRoute] = {}
        for name in dict.fromkeys((device_id, *ids)):
            other = self._stream(app, name)
            if other is None:
                continue
            read = max([each.offset for each in other.entries if each.push in newly], default=0)
            other.read = max(other.read, position.offset if name == device_id else read)
            unread[name] = other.open_after(other.read, self._state.clock())
            if route := self._route(app, other):
                routes[name] = route
                await self.poke({route.gateway: [Unread(app, route.connection, unread[name])]})
        return Read("", unread, routes)

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
        stream = self._stream(app, device_id)
        if stream is None:
            return None
        if epoch not in ("", stream.epoch):
            return Page(stream.epoch, stream.top, [], False, 0)
        copy = Stream(stream.epoch, list(stream.entries), stream.top, floor=stream.floor, lost=stream.lost)
        asked = [
            each
            for each in stream.entries
            if since is None or (each.offset < since if reverse else each.offset > since)
        ]
        shown: list[Publication] = []
        for entry in reversed(asked) if reverse else asked:
            if self._aged(app, entry):
                copy.floor, copy.lost = max(copy.floor, entry.offset), copy.lost + 1
            elif entry.push.expires_at > self._state.clock():
                shown.append(self._publication(copy, entry))
                if len(shown) > limit:
                    break
                continue
            if not reverse:
                copy.entries.remove(entry)
        more = len(shown) > limit
        reaches = not reverse and (not more or shown[:limit][-1].offset > copy.floor)
        missing = copy.missing(since or 0) if reaches else 0
        return Page(copy.epoch, copy.top, shown[:limit], more, missing, copy.floor)

    async def presence(self, app: str, device_ids: Sequence[str], *, gateway: str = "") -> list[Presence | None]:
        found: list[Presence | None] = []
        for name in device_ids:
            stream = self._stream(app, name)
            if self._ordinal(app, name) is None:
                found.append(None)
            elif stream is None:
                found.append(Presence("", 0, 0, 0, 0, None, 0))
            else:
                route = self._route(app, stream, gateway)
                now, since = self._state.clock(), stream.since if route else 0
                unacked, unread = (stream.open_after(offset, now) for offset in (stream.acked, stream.read))
                found.append(Presence(stream.epoch, stream.top, stream.acked, unacked, unread, route, since))
        return found

    async def revoke(self, app: str, device_id: str) -> int:
        now = self._state.clock()
        self._live.refused[app, device_id] = now
        stream = self._stream(app, device_id)
        if stream is not None:
            route, stream.since = self._connection(app, stream), CUT
            if route:
                await self.poke({route.gateway: [Cut(app, route.connection, "revoked")]})
        return now

    async def admits(self, app: str, device_id: str, *, issued_at: int) -> Refused | None:
        if self._ordinal(app, device_id) is None:
            return Refused("unknown")
        if issued_at < self._live.refused.get((app, device_id), 0):
            return Refused("revoked")
        await self._note_life(app, device_id)
        return None

    async def _note_life(self, app: str, device_id: str) -> None:
        now = self._state.clock()
        device = self._state.devices[app][device_id].device
        if now - device.last_seen_at >= SEEN_EVERY or device.last_seen_at <= device.pruned_at:
            await self._registry.revise(app, [device_id], lambda device: seen(device, now))

    async def holds(self, app: str, device_id: str, push_id: str) -> bool:
        stream = self._stream(app, device_id)
        now = self._state.clock()
        return stream is not None and any(
            each.push.id == push_id and each.push.expires_at > now for each in stream.entries
        )

    # --- gateways ---------------------------------------------------------------------------------

    @property
    def lifetime(self) -> float:
        return self._state.config.alive_ttl

    async def beat(self, gateway: str, connections: Mapping[str, int]) -> set[str]:
        now = self._state.clock()
        lapsed = {app for app in connections if self._live.gateways.get((app, gateway), (0, 0))[0] <= now}
        for app, count in connections.items():
            self._live.gateways[app, gateway] = now + int(self.lifetime * 1000), count
        return lapsed

    async def leave(self, gateway: str, apps: Sequence[str]) -> None:
        for app in apps:
            self._live.gateways.pop((app, gateway), None)

    async def gateways(self, app: str) -> dict[str, int]:
        now = self._state.clock()
        return {
            gateway: count
            for (owner, gateway), (until, count) in self._live.gateways.items()
            if owner == app and until > now
        }

    async def last_signs(self, app: str) -> dict[str, int]:
        return dict.fromkeys(await self.gateways(app), self._state.clock())

    async def poke(self, items: Mapping[str, Sequence[InboxItem]]) -> None:
        for gateway, own in items.items():
            self._live.inboxes[gateway] += own
        self._live.poked.set()

    def inbox(self, gateway: str) -> MemoryInbox:
        return MemoryInbox(self._live, gateway)

    # --- events -----------------------------------------------------------------------------------

    async def report(self, app: str, reports: Sequence[EventReport], *, log: bool = False) -> list[Platform | None]:
        return [self._report(app, each) for each in reports]

    def _report(self, app: str, report: EventReport) -> Platform | None:
        ordinal = self._ordinal(app, report.device_id)
        seen = self._live.seen[app, report.push_id]
        if ordinal is None or (app, report.push_id) not in self._state.pushes or (report.event, ordinal) in seen:
            return None
        seen.add((report.event, ordinal))
        return self._state.devices[app][report.device_id].device.platform

    async def events(self, app: str, push_ids: Sequence[str]) -> list[EventCounts]:
        found = [Counter(event for event, _ in self._live.seen[app, name]) for name in push_ids]
        return [EventCounts(*(counts[event] for event in EVENTS)) for counts in found]


class MemoryInbox:
    """`Inbox` in memory."""

    def __init__(self, live: LiveState, gateway: str) -> None:
        self._live = live
        self._items = live.inboxes[gateway]
        self._read = 0

    async def receive(self, wait_ms: int) -> Received:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_ms / 1000
        while self._read == len(self._items) and loop.time() < until:
            self._live.poked.clear()
            try:
                async with asyncio.timeout(until - loop.time()):
                    await self._live.poked.wait()
            except TimeoutError:
                break
        found = self._items[self._read :]
        self._read = len(self._items)
        return Received(found)
