"""Lists and counts dead letters: reads them in the order of their failure, filters them here, and leaves out tokens.
The stream has no index by push or reason: dead letters are few in comparison, and a filter over 100,000 of them takes
about a second. A cursor is `<shard>-<entry id>` of the last one examined."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext

from ...errors import Fault, InvalidRequest
from ...model.routing import platform_of
from ...ports.letters import DeadFilter, DeadGroup, DeadRow
from .. import keys
from ..config import StoreConfig
from ..link.link import Link
from ..link.unreadable import readable
from ..part import StoreContext, StorePart
from ..queue.letter import DeadLetter, decode_dead

PAGE = 1000
"""Dead letters that a caller with a process of its own reads in one round trip."""
STEP = 250
"""The same for callers that share the process with others: some milliseconds."""
LOOK = 20_000
"""Dead letters examined in one call: a filter that matches few of them returns early with a cursor."""
GROUPED = 100_000
"""Dead letters of a shard that a call which groups them examines: about a second."""
SAMPLE = 3
SLACK = 3_600_000
"""Milliseconds by which the clocks of a dispatcher and of Redis may differ. The id of an entry is Redis' time of its
recording, never long before the failure, but as long after it as Redis was away."""

_CURSOR = re.compile(r"([0-9]{1,3})-([0-9]{1,19}-[0-9]{1,19})")
"""Any number of 19 digits fits into the 64 bits of an id's half."""


def fits(letter: DeadLetter, which: DeadFilter) -> bool:
    return (
        (not which.push or letter.push_id == which.push)
        and (not which.platform or platform_of(letter.platform) == which.platform)
        and (not which.reason or letter.reason == which.reason)
        and (which.since is None or letter.at >= which.since)
        and (which.until is None or letter.at < which.until)
    )


def row_of_letter(cursor: str, letter: DeadLetter) -> DeadRow:
    """Return a letter as it may be shown, without its token."""
    return DeadRow(
        id=cursor,
        push_id=letter.push_id,
        platform=platform_of(letter.platform),
        device_id=letter.target.device_id,
        token_hash=letter.token_hash,
        reason=letter.reason,
        status=letter.status,
        attempts=letter.attempts,
        at=letter.at,
    )


def parse_cursor(cursor: str) -> tuple[int, str]:
    """Return the shard and the entry id; an empty cursor is the beginning. Raises `InvalidRequest`."""
    if not cursor:
        return 0, ""
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
    return int(found[1]), found[2]


def shards_meant(app: str, which: DeadFilter, config: StoreConfig) -> Iterable[int]:
    """Return the shards whose dead letters may be selected: those of one push are in one shard."""
    shards = config.shards_of(app)
    return [keys.shard_of(which.push, shards)] if which.push else range(shards)


def first_id(which: DeadFilter) -> str:
    """Return the id of the stream entry at which to begin."""
    return str(max(0, (which.since or 0) - SLACK))


async def letters(
    link: Link,
    app: str,
    shard: int,
    *,
    after: str,
    first: str,
    last: str = "+",
    page: int = PAGE,
    lock: AbstractAsyncContextManager[None] | None = None,
) -> AsyncIterator[list[tuple[str, DeadLetter]]]:
    """Yield pages of entry ids and dead letters, up to and including `last`, each read with `lock` acquired. Unreadable
    letters are left out."""
    start = f"({after}" if after else first
    while True:
        async with lock or nullcontext():
            answer = await link.call("XRANGE", keys.dead(app, shard), start, last, "COUNT", page)
            found = []
            for entry_id, fields in answer:
                letter = readable(decode_dead, fields.get(b"d", b""), "dead_letter", app)
                if letter is not None:
                    found.append((entry_id.decode(), letter))
            if lock is not None:
                await asyncio.sleep(0)
        yield found
        if len(answer) < page:
            return
        start = f"({answer[-1][0].decode()}"


class RedisLetters(StorePart):
    """The half of `DeadLetters` that reads."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._lock = asyncio.Semaphore(1)
        """Allows one reader of all letters at a time to read a page, so that several readers delay no other work."""

    async def page(self, app: str, which: DeadFilter, *, cursor: str, limit: int) -> tuple[list[DeadRow], str | None]:
        """Return a page, shard by shard, oldest first in each."""
        from_shard, after = parse_cursor(cursor)
        rows: list[DeadRow] = []
        looked = 0
        for shard in shards_meant(app, which, self._config):
            if shard < from_shard:
                continue
            own = after if shard == from_shard else ""
            async for found in self._steps(app, shard, own, which):
                for entry_id, letter in found:
                    if fits(letter, which):
                        if len(rows) == limit:
                            return rows, rows[-1].id
                        rows.append(row_of_letter(f"{shard}-{entry_id}", letter))
                looked += len(found)
                if looked >= LOOK and found:
                    return rows, f"{shard}-{found[-1][0]}"
        return rows, None

    async def groups(self, app: str, which: DeadFilter) -> tuple[list[DeadGroup], bool]:
        found: dict[tuple[str, str], list[DeadRow]] = {}
        spans: dict[tuple[str, str], tuple[int, int, int]] = {}
        looked, complete = 0, True
        for shard in shards_meant(app, which, self._config):
            async for page in self._steps(app, shard, "", which):
                for entry_id, letter in page:
                    if not fits(letter, which):
                        continue
                    key = platform_of(letter.platform), letter.reason
                    count, first, last = spans.get(key, (0, letter.at, letter.at))
                    spans[key] = count + 1, min(first, letter.at), max(last, letter.at)
                    if len(sample := found.setdefault(key, [])) < SAMPLE:
                        sample.append(row_of_letter(f"{shard}-{entry_id}", letter))
                looked += len(page)
                if looked >= GROUPED:
                    complete = False
                    break
        groups = [DeadGroup(*key, *spans[key], sample) for key, sample in found.items()]
        return sorted(groups, key=lambda group: -group.count), complete

    def _steps(
        self, app: str, shard: int, after: str, which: DeadFilter
    ) -> AsyncIterator[list[tuple[str, DeadLetter]]]:
        return letters(self._link, app, shard, after=after, first=first_id(which), page=STEP, lock=self._lock)

    async def count(self, app: str, which: DeadFilter) -> int:
        if which == DeadFilter():
            lengths = [("XLEN", keys.dead(app, shard)) for shard in range(self._config.shards_of(app))]
            return sum(await self._link.many(lengths))
        counted = 0
        for shard in shards_meant(app, which, self._config):
            async for found in self._steps(app, shard, "", which):
                counted += sum(1 for _, letter in found if fits(letter, which))
        return counted
