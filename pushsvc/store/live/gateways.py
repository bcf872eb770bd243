"""`LiveGateways` over Redis: signs of life in one hash of an app, and a stream for each gateway's inbox.

A sign of life is a field with the instant until which it is valid, as in workers.py: Redis has one write for each
gateway and app every few seconds, however many devices are connected, and the routes of a gateway that died end
together.

An inbox is a stream of its gateway alone, with numbered entries. It is read without being consumed, so that a read may
be repeated, and the next read removes what the last one has returned; a reader that finds a number left out has lagged
further than the inbox is long, or the inbox has expired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ...ports.live import InboxItem, Received
from .. import keys
from ..link.link import Link
from ..link.unreadable import readable
from ..part import StorePart

MOST: Final = 10_000
"""The approximate maximum number of entries of an inbox."""
LIFETIME: Final = 60_000
"""Milliseconds after which an inbox expires that nothing reads or writes."""
FORGOTTEN: Final = 3_600_000
"""Milliseconds after which a gateway that gives no sign of life is removed from the hash."""
_AT_ONCE: Final = 100
"""Entries that are read at once."""
_ENTRY: Final = 256 << 10
"""The bytes of one entry at which further items begin another one."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[InboxItem]).decode


class RedisGateways(StorePart):
    """See `ports.live.LiveGateways`."""

    @property
    def lifetime(self) -> float:
        """See `StoreConfig.alive_ttl`."""
        return self._config.alive_ttl

    async def beat(self, gateway: str, connections: Mapping[str, int]) -> set[str]:
        now = self._clock()
        until = now + int(self.lifetime * 1000)
        name = gateway.encode()
        known = await self._link.many([("HGETALL", keys.gateways(app)) for app in connections])
        commands: list[tuple[Any, ...]] = []
        lapsed = set()
        for (app, count), fields in zip(connections.items(), known, strict=True):
            if _read(fields.get(name, b""))[0] <= now:
                lapsed.add(app)
            commands.append(("HSET", keys.gateways(app), gateway, f"{until} {count}"))
            gone = [other for other, word in fields.items() if other != name and _read(word)[0] < now - FORGOTTEN]
            if gone:
                commands.append(("HDEL", keys.gateways(app), *gone))
        await self._link.many(commands)
        return lapsed

    async def leave(self, gateway: str, apps: Sequence[str]) -> None:
        await self._link.many([("HDEL", keys.gateways(app), gateway) for app in apps])

    async def gateways(self, app: str) -> dict[str, int]:
        return {name: connections for name, (_, connections) in (await self._living(app)).items()}

    async def last_signs(self, app: str) -> dict[str, int]:
        return {name: until - int(self.lifetime * 1000) for name, (until, _) in (await self._living(app)).items()}

    async def _living(self, app: str) -> dict[str, tuple[int, int]]:
        """Return until when the sign of life of each living gateway is valid, and its connections."""
        now, words = self._clock(), await self._link.call("HGETALL", keys.gateways(app))
        return {name.decode(): read for name, word in words.items() if (read := _read(word))[0] > now}

    async def poke(self, items: Mapping[str, Sequence[InboxItem]]) -> None:
        calls = [
            ("live_poke", [keys.inbox(gateway)], [MOST, LIFETIME, entry])
            for gateway, own in items.items()
            for entry in entries_of(own)
        ]
        if calls:
            await self._link.scripts(calls)

    def inbox(self, gateway: str) -> RedisInbox:
        return RedisInbox(self._link, keys.inbox(gateway))


class RedisInbox:
    """See `ports.live.Inbox`."""

    def __init__(self, link: Link, key: str) -> None:
        self._link = link
        self._key = key
        self._place = "0"
        self._number = 0
        self._history = link.history

    async def receive(self, wait_ms: int) -> Received:
        # Another primary may lack what this one had, and its clock may be behind: none of its ids is known.
        history = self._link.history
        lost = history != self._history
        if lost:
            self._place = "0"
        # What was read before leaves with this round trip: its items have not waited for that.
        _, answer, _ = await self._link.wait(
            [
                ("XTRIM", self._key, "MINID", self._place),
                ("XREAD", "COUNT", _AT_ONCE, "BLOCK", max(1, wait_ms), "STREAMS", self._key, self._place),
                ("PEXPIRE", self._key, LIFETIME),
            ],
            wait_ms,
        )
        entries = dict(answer or ()).get(self._key.encode(), ())
        self._history = history
        found: list[InboxItem] = []
        for entry_id, fields in entries:
            number = int(fields[b"n"])
            items = readable(_decode, fields[b"i"], "live_inbox")
            lost = lost or number != self._number + 1 or items is None
            found += items or ()
            self._place, self._number = entry_id.decode(), number
        return Received(found, lost)


def entries_of(items: Sequence[InboxItem]) -> list[bytes]:
    """Return the entries of an inbox that carry these items."""
    found: list[list[msgspec.Raw]] = []
    size = _ENTRY
    for item in items:
        raw = msgspec.Raw(_encode(item))
        if size + len(raw) > _ENTRY:
            found.append([])
            size = 0
        found[-1].append(raw)
        size += len(raw)
    return [_encode(entry) for entry in found]


def _read(word: bytes) -> tuple[int, int]:
    """Return until when a sign of life is valid, and its connections; one that cannot be read is over."""
    parts = word.split(b" ")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() else (0, 0)
