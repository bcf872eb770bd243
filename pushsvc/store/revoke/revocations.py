"""Delivers revocations to the dispatchers that hold what was revoked: one stream per shard and one of the registry,
followed by all of them.

    cancel, erasure,      ps:T:revoked      a dispatcher: drops what it holds     ps:T:heard       the caller waits
    suppression, a   ---> (ids in order) -> and has not submitted, in memory, ---> (consumer -> --> until all have
    moved device                            then acknowledges                      place)           acknowledged

The truth is elsewhere, in the sets that each `take` asks (`cancelled`, `sup`, the registry's): a message only says
that it is time to look again. So a message that is lost, or late, delays a revocation and never undoes it. To add a
kind, write its truth first, let `take` respect it, and then send the affected tokens or pushes; where both are in one
slot, in one step, as a cancel and a change of a device are (`registry_apply.lua`): then none can be lost in between.

A dispatcher enrols before it takes anything of an app; one that is gone is removed after everything that it held was
taken over. Ids of stream entries give the order: a dispatcher that has acknowledged a later place has processed all
before it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from ...errors import StoreError
from ...model.push import Lane
from ...ports.entries import EntryRef, News, Revoked, token_mark
from .. import keys
from ..link.link import Link
from ..part import StoreContext, StorePart
from ..work.liveness import Liveness

LIFETIME = 3_600_000
"""The lifetime of a revocation in milliseconds. A dispatcher that reads none for so long has lost its lease long
before."""
MOST = 500
"""Revocations of one shard that are read at once."""
PATIENCE = 2.0
"""Seconds that the caller of a revocation waits for the dispatchers."""
_POLL = 0.05
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.02
_AFTER = 60.0
"""Seconds at least for which a cancel is still confirmed after its caller has stopped waiting; longer where it takes
longer until a dispatcher that is gone is struck off."""


def marks_text(tokens: Iterable[str]) -> str:
    """Return the value of the field `t` of a revocation: the marks of these tokens."""
    return " ".join(str(mark) for mark in sorted({token_mark(token) for token in tokens}))


def entry_order(entry_id: bytes | str) -> tuple[int, int]:
    """Return the id of a stream entry as a pair of numbers, which can be compared."""
    instant, _, number = (entry_id if isinstance(entry_id, str) else entry_id.decode()).partition("-")
    return int(instant), int(number or 0)


class Following(StorePart):
    """The dispatcher's side, for one consumer."""

    def __init__(self, context: StoreContext, liveness: Liveness) -> None:
        super().__init__(context)
        self._liveness = liveness
        self._begin = f"0-{secrets.randbelow(1 << 32)}"
        """A place before every entry, different from that of an earlier process with our name, which others may
        consider gone."""
        self._places: dict[tuple[str, int], str] = {}
        """The streams that are followed, and how far."""
        self._history = self._link.history
        """The history of the link in which these places are valid."""
        self._lock = asyncio.Lock()
        self._gone: dict[str, float] = {}
        self._look_at = 0.0
        self._enrolled = asyncio.Event()
        """Whether there is anything to follow."""

    async def enrol(self, app: str) -> None:
        """See `DeliveryQueue.enrol`."""
        async with self._lock:
            await self._catch_up()
            parts = (keys.REGISTRY, *range(self._config.shards_of(app)))
            shards = [shard for shard in parts if (app, shard) not in self._places]
            await self._link.many(
                [("HSET", keys.heard(app, shard), self._config.consumer, self._begin) for shard in shards]
            )
            self._places.update({(app, shard): self._begin for shard in shards})
        self._enrolled.set()

    async def _catch_up(self) -> None:
        """Continue at another primary behind what we have acknowledged as it knows it.

        Whatever it has received of the stream up to there has an earlier id, and whatever is written to it a later one.
        What we read behind that on the old one it may not have, and its own ids may be earlier, because its clock is.
        """
        while self._history != (history := self._link.history):
            places, consumer = list(self._places), self._config.consumer
            commands: list[tuple[Any, ...]] = []
            for key in (keys.heard(*place) for place in places):
                commands += (("HSETNX", key, consumer, self._begin), ("HGET", key, consumer))
            answers = await self._link.many(commands)
            if self._link.history == history:
                self._places.update(zip(places, (at.decode() for at in answers[1::2]), strict=True))
                self._history = history

    async def news(self, apps: Collection[str], wait_ms: int) -> list[News]:
        """See `DeliveryQueue.revoked`."""
        async with self._lock:
            await self._catch_up()
            await self._leave([place for place in self._places if place[0] not in apps])
            await self._strike_off()
            streams, history = list(self._places.items()), self._history
        if not streams:
            self._enrolled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._enrolled.wait()
            return []
        if self._link.cluster and len(streams) > 1:
            answers = await self._poll(streams, wait_ms)
        else:
            names = [keys.revoked(*place) for place, _ in streams]
            words = ("XREAD", "COUNT", MOST, "BLOCK", max(1, wait_ms), "STREAMS", *names, *(at for _, at in streams))
            (answer,) = await self._link.wait([words], wait_ms)
            found = dict(answer or ())
            answers = [found.get(name.encode(), ()) for name in names]
        news = []
        for ((app, shard), _), entries in zip(streams, answers, strict=True):
            if entries:
                place = entries[-1][0].decode()
                if self._link.history == history:
                    self._places[app, shard] = place
                news.append(News(app, shard, place, _read(app, shard, entries, history), history))
        return news

    async def _poll(self, streams: Sequence[tuple[tuple[str, int], str]], wait_ms: int) -> list[Any]:
        """Read streams one by one: in a cluster, one command cannot wait for streams in several slots."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_ms / 1000
        while True:
            found = await self._link.many(
                [("XREAD", "COUNT", MOST, "STREAMS", keys.revoked(*place), at) for place, at in streams]
            )
            if any(found) or loop.time() >= until:
                return [answer[0][1] if answer else () for answer in found]
            await asyncio.sleep(_POLL)

    async def acknowledge(self, news: News, in_flight: Mapping[str, int]) -> None:
        """See `DeliveryQueue.acknowledge`."""
        if news.history == self._link.history:  # else it comes again from the new primary, if that has it
            counts = [part for push_id, count in in_flight.items() if count for part in (push_id, count)]
            await self._write_place(news.app, news.shard, news.place, *counts)

    async def _write_place(self, app: str, shard: int, place: str, *counts: str | int) -> None:
        words = [keys.prefix(app, shard), self._config.consumer, place, *counts]
        await self._link.read("acknowledge", [keys.heard(app, shard)], words)  # another primary has other places

    async def end(self) -> None:
        """Remove this consumer, so that no caller waits for it."""
        async with self._lock:
            await self._leave(list(self._places))

    async def _leave(self, places: Sequence[tuple[str, int]]) -> None:
        await self._link.many([("HDEL", keys.heard(*place), self._config.consumer) for place in places])
        for place in places:
            del self._places[place]

    async def _strike_off(self) -> None:
        """Remove consumers that have shown no sign of life for so long that others have taken over what they held."""
        now, span = asyncio.get_running_loop().time(), self._config.alive_ttl
        if now < self._look_at or not self._places:
            return
        self._look_at = now + span / 3
        places = list(self._places)
        answers = await self._link.many([("HKEYS", keys.heard(*place)) for place in places])
        names = [{name.decode() for name in answer} for answer in answers]
        gone = await self._liveness.gone(set().union(*names))
        self._gone = {name: self._gone.get(name, now) for name in gone}
        over = {name for name, since in self._gone.items() if now - since >= span}
        commands: list[tuple[Any, ...]] = []
        for place, found in zip(places, names, strict=True):
            if over & found:
                commands.append(("HDEL", keys.heard(*place), *sorted(over & found)))
        await self._link.many(commands)
        for place, found in zip(places, names, strict=True):
            if self._config.consumer not in found and self._history == self._link.history:
                await self._write_place(*place, self._places[place])  # thought gone, or Redis came back without it


def _read(app: str, shard: int, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]], history: int) -> Revoked:
    pushes: set[str] = set()
    tokens: set[int] = set()
    found: set[EntryRef] = set()
    for _, fields in entries:
        for kind, value in fields.items():
            text = value.decode()
            if kind == b"p":
                pushes.add(text)
            elif kind == b"t":
                tokens.update(int(mark) for mark in text.split())
            elif kind == b"e":
                platform, lane, entry_id = text.split()
                found.add(EntryRef(app, shard, platform, cast(Lane, lane), entry_id, history))
    return Revoked(frozenset(pushes), frozenset(tokens), frozenset(found))


class Revocations(StorePart):
    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._waits: dict[tuple[str, int], _Wait] = {}

    async def announce_tokens(self, app: str, tokens: Iterable[str], *, wait: bool = False) -> bool:
        """Let dispatchers check again what waits for these tokens. With `wait`, returns once they have dropped it. It
        waits for `PATIENCE` at most; returns False if one of them has not acknowledged by then."""
        if marks := marks_text(tokens):
            place = await self._publish(app, 0, "t", marks)
            if wait:
                return await self.applied(app, 0, place)
        return True

    async def recall(self, ref: EntryRef) -> None:
        """Ask the dispatcher that holds the entry to return what was not sent of it."""
        await self._publish(ref.app, ref.shard, "e", f"{ref.platform} {ref.lane} {ref.entry_id}")

    async def _publish(self, app: str, shard: int, kind: str, what: str) -> str:
        """Append a revocation to the stream that dispatchers follow, and return its place."""
        key = keys.revoked(app, shard)
        entry_id, _ = await self._link.many(
            [
                ("XADD", key, "MINID", "~", self._clock() - LIFETIME, "*", kind, what),
                ("PEXPIRE", key, LIFETIME),
            ]
        )
        return cast(bytes, entry_id).decode()

    async def applied(self, app: str, shard: int, place: str, push_id: str = "") -> bool:
        """Return whether all dispatchers have applied the revocations up to `place`, once they have, or after
        `PATIENCE`. A cancelled push is recorded as confirmed then. Raises `StoreUnavailable`."""
        wait = self._waits.get((app, shard))
        if wait is None:
            after = max(_AFTER, 4 * self._config.alive_ttl)
            wait = self._waits[app, shard] = _Wait(self._link, app, shard, after=after)
        return await wait.until(place, push_id)

    async def aclose(self) -> None:
        for wait in self._waits.values():
            wait.close()


class _Confirmation:
    """A cancel whose confirmation is still due, whether its caller waits for it or has given up."""

    __slots__ = ("future", "place", "push_id", "until")

    def __init__(self, place: str, push_id: str, until: float) -> None:
        self.place = entry_order(place)
        self.push_id = push_id
        self.until = until
        self.future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class _Wait:
    """The shared wait for the dispatchers of one shard, so that concurrent callers share its requests.

    A dispatcher that did not respond for all of `PATIENCE`, such as a killed one, counts as silent until it responds:
    no caller waits for it again. It may send what it holds only until its lease expires, and a cancel is confirmed
    once it has responded or was removed, as always. A dispatcher that enrolled later is not silent, however old the
    revocation is that others did not acknowledge.
    """

    def __init__(self, link: Link, app: str, shard: int, *, after: float) -> None:
        """Wait at this shard of an app. A cancel is confirmed for `after` seconds more than its caller waits."""
        self._link = link
        self._after = after
        self._key = keys.heard(app, shard)
        self._prefix = keys.prefix(app, shard)
        self._waiting: list[_Confirmation] = []
        self._places: dict[bytes, tuple[bytes, float]] = {}
        """The last response of each consumer, and since when we know it."""
        self._silent: set[bytes] = set()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def until(self, place: str, push_id: str) -> bool:
        loop = asyncio.get_running_loop()
        waiter = _Confirmation(place, push_id, loop.time() + PATIENCE)
        self._waiting.append(waiter)
        self._more.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._look(), name="revocations")
        await asyncio.wait([waiter.future], timeout=PATIENCE)
        return waiter.future.done() and waiter.future.result()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_LOOK
        while self._waiting:
            self._more.clear()
            waiting = list(self._waiting)
            try:
                acknowledged: dict[bytes, bytes] = await self._link.call("HGETALL", self._key)
                least = min(map(entry_order, acknowledged.values()), default=None)
                ready = {each for each in waiting if least is None or each.place <= least}
                pushes = [each.push_id for each in ready if each.push_id]
                for first in range(0, len(pushes), MOST):
                    await self._link.script("confirm", [self._key], [self._prefix, *pushes[first : first + MOST]])
            except StoreError as error:
                ready = set()
                for each in self._waiting:
                    if loop.time() < each.until and not each.future.done():
                        each.future.set_exception(error)
            else:
                self._answer(waiting, ready, acknowledged)
            now = loop.time()
            self._waiting = [each for each in self._waiting if each not in ready and now < each.until + self._after]
            urgent = any(now < each.until and not each.future.done() for each in self._waiting)
            pause = _FIRST_LOOK if ready else min(_LAST_LOOK if urgent else 1.0, pause * 1.5)
            if urgent:
                await asyncio.sleep(pause)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._more.wait()

    def _answer(
        self, waiting: Sequence[_Confirmation], ready: Collection[_Confirmation], acknowledged: Mapping[bytes, bytes]
    ) -> None:
        """Answer the callers whose revocation has been applied, and those who wait for silent consumers alone."""
        self._note_silent(acknowledged, asyncio.get_running_loop().time())
        active = [place for name, place in acknowledged.items() if name not in self._silent]
        least_active = min(map(entry_order, active), default=None)
        for each in waiting:
            if not each.future.done() and (each in ready or least_active is None or each.place <= least_active):
                each.future.set_result(each in ready)

    def _note_silent(self, acknowledged: Mapping[bytes, bytes], now: float) -> None:
        """Record which consumers have responded, and which were waited for in vain."""
        known = self._places
        self._places = {
            name: known[name] if name in known and known[name][0] == place else (place, now)
            for name, place in acknowledged.items()
        }
        self._silent = {name for name in self._silent if self._places.get(name) == known.get(name)}
        late = [each for each in self._waiting if now >= each.until]
        self._silent |= {
            name
            for name, (place, since) in self._places.items()
            if now >= since + PATIENCE and any(entry_order(place) < each.place for each in late)
        }
