"""Hands what this process accepts to a dispatcher in the same process.

The step that writes a push reads it as well, for the consumer of this process, as `take.lua` would: when the push is
answered for, its entry is pending for that consumer, and no other reads it. So a push costs no second round trip, and
whatever becomes of this process, of the answer or of the entry, it is found like any other that was taken: by others
where the process dies, and by the next `take` where an answer was lost. What was read is opened as after a `take`: who
is to be left out is judged there and nowhere else.

    accept ── ask: who receives here, and how much? ── accept.lua: XADD, XREADGROUP ── put ── receive ── Opener.open

A try that is repeated after a lost answer finds its pushes known, and reads nothing. It says so, and the lane is looked
through (`LaneState.lost`).

A dispatcher may read an entry as soon as it is in the lane, whatever its caller is promised. With `queue.durability` =
"fsync" or "replicas" the answer to the step comes behind that of the disk or of the replicas, so that what is handed
over here is sent later than that.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ...model.push import Lane, Platform, Route
from ...ports.entries import Taken
from ...ports.queue import Admit, Offer
from .. import keys
from ..config import StoreConfig
from ..link.link import Link
from ..revoke.presence import DevicePresence, newest_of
from ..revoke.suppression import Suppression
from .entries import LaneRead, Opener, entries_of
from .lanes import LaneState

Place: TypeAlias = tuple[str, int, Platform, Lane]
"""App, shard, platform and lane."""

_pack = msgspec.msgpack.Encoder().encode


class _Asked(NamedTuple):
    """A lane that is read where pushes are put into it."""

    receiver: _Receiver
    state: LaneState
    targets: int
    """How many are put into it."""
    admit: Admit


class _Read(NamedTuple):
    """What a step has read from a lane."""

    of: HandOver
    asked: _Asked
    answer: Sequence[Any]
    """See `take.lua`."""


class _Receiver:
    """A route that receives."""

    def __init__(self, offer: Callable[[Lane], Offer | None]) -> None:
        self.offer = offer
        self.read: deque[_Read] = deque()
        """What is to be opened."""
        self.more = asyncio.Event()
        self.coming: Counter[Lane] = Counter()
        """Targets that are on the way, of which its offers do not know."""
        self.closed = False


class HandOver:
    """The hand-over of one write to a shard: what its scripts are told, and what they answer. Call `put` with each
    answer, then `end`; or only `lost`."""

    def __init__(self, config: StoreConfig, app: str, shard: int, history: int, asked: Sequence[_Asked]) -> None:
        self._config = config
        self._asked = asked
        self.history = history
        """That of the link before the write: at most that of the server which answers."""
        self._under_way = 1
        words: list[Any] = [keys.DISPATCH, config.consumer, keys.epoch(app, shard)]
        for each in asked:
            platform, lane = each.state.place[2:]
            each.receiver.coming[lane] += each.targets
            each.state.expect()
            words += (f"{platform}:{lane}", each.state.key, keys.suppressed(app, shard, platform))
            words += (keys.moved(app, shard, platform), each.state.expected)
        self.words: bytes = _pack(words)
        """See handing.lua."""

    def put(self, told: Sequence[Any] | int | None) -> None:
        """Take what a script says that it has read."""
        if told is None:
            return
        if isinstance(told, int):
            self._lose(self._asked)
            return
        for asked, answer in zip(self._asked, told, strict=True):
            if answer is None or asked.receiver.closed:
                self._lose([asked])
            elif answer and answer[0]:
                self._under_way += 1
                asked.receiver.read.append(_Read(self, asked, answer))
                asked.receiver.more.set()

    def end(self) -> None:
        """Note that the write, or something that it has read, is not under way any more."""
        self._under_way -= 1
        if not self._under_way:
            for each in self._asked:
                each.receiver.coming[each.state.place[3]] -= each.targets
                each.state.came()

    def lost(self) -> None:
        """Note that there is no answer: entries may be pending for this consumer that it does not know."""
        self._lose(self._asked)
        self.end()

    def _lose(self, asked: Sequence[_Asked]) -> None:
        for each in asked:
            each.state.lost(self._config.timeout)


class Handing:
    """Who receives in this process what it accepts."""

    def __init__(
        self,
        link: Link,
        config: StoreConfig,
        lanes: Mapping[Place, LaneState],
        opener: Opener,
        suppression: Suppression,
        presence: DevicePresence,
    ) -> None:
        """Hand over what is put into these `lanes`, once they were taken from."""
        self._link = link
        self._config = config
        self._lanes = lanes
        self._opener = opener
        self._suppression = suppression
        self._presence = presence
        self._receivers: dict[tuple[str, Platform], _Receiver] = {}

    @property
    def receives(self) -> bool:
        """Whether there is any route that receives."""
        return bool(self._receivers)

    def ask(self, app: str, shard: int, lanes: Mapping[tuple[Platform, Lane], int]) -> HandOver | None:
        """Return the hand-over of a write that puts this many targets into lanes of a shard; None where none of them is
        received, or not all of its targets have room. A lane of which something may have been missed is left to `take`,
        which looks for that first."""
        found = []
        for (platform, lane), targets in lanes.items():
            receiver = self._receivers.get((app, platform))
            state = self._lanes.get((app, shard, platform, lane))
            if receiver is None or state is None or state.unsure or state.looking:
                continue
            offer = receiver.offer(lane)
            if offer is not None and targets <= offer.targets - receiver.coming[lane]:
                found.append(_Asked(receiver, state, targets, offer.admit))
        return HandOver(self._config, app, shard, self._link.history, found) if found else None

    @contextmanager
    def receiving(self, route: Route, offer: Callable[[Lane], Offer | None]) -> Iterator[Callable[[], Awaitable[None]]]:
        """See `DeliveryQueue.receiving`."""
        place = route.app, route.platform
        receiver = self._receivers[place] = _Receiver(offer)
        try:
            yield partial(self._receive, route, receiver)
        finally:
            receiver.closed = True
            if self._receivers.get(place) is receiver:
                del self._receivers[place]
            for read in receiver.read:
                read.asked.state.lost(0.0)
                read.of.end()

    async def _receive(self, route: Route, receiver: _Receiver) -> None:
        if not receiver.read:
            receiver.more.clear()
            await receiver.more.wait()
        read = receiver.read[0]
        try:
            taken = await self._open(route, read)
        except BaseException:
            read.asked.state.lost(0.0)
            raise
        else:
            read.asked.admit(taken)
        finally:
            receiver.read.popleft()
            read.of.end()

    async def _open(self, route: Route, read: _Read) -> list[Taken]:
        """Open what was read as after a `take`. One shard knows nothing of tokens that are listed in others."""
        entries, epoch, size, mark, again = read.answer
        sizes, newest = [size], [newest_of(mark)]
        if self._config.shards_of(route.app) > 1:
            sizes = await self._suppression.sizes(route.app, route.platform)
            newest = await self._presence.newest(route.app, route.platform)
        added_again = [each.decode() for each in again]
        opened = LaneRead(read.asked.state, entries_of(entries), read.of.history, int(epoch), added_again)
        return await self._opener.open(route, [opened], sizes, newest)
