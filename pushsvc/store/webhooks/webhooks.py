"""Webhooks over Redis: their progress in a log of events, the current batch, and batches that were given up.

The events themselves are those of a log, such as that of `GET /v1/feedback`, merged over the shards in one order; a
webhook is a cursor into them, and a batch a pair of ids. Nothing is copied, so that nothing has to be erased twice.

There is one record per app and log (record.py). A worker claims it under a lease, by the clock of Redis (claim.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ...background import lease_kept
from ...ports.webhooks import DeadBatch, Standing
from .. import keys
from ..feedback.log import SETTLED, parse_event_id, start_of
from .claim import RedisWebhookClaim
from .record import WebhookRecords, asking, recorded_at, text

_SHOWN = ("after", "tries", "fails", "why", "since", "off", "at", "own", "until")


class RedisWebhooks(WebhookRecords):
    async def due(self, app: str, place: str) -> bool:
        left, (fields, asked) = await asyncio.gather(
            self._link.script("claim", [keys.hook(app, self.kind)], ["", 0, place]),
            self._link.many(
                [
                    ("HMGET", keys.hook(app, self.kind), "after", "last", "off"),
                    ("EXISTS", keys.hook_asked(app, self.kind)),
                ],
            ),
        )
        after, last, off = map(text, fields)
        if left or off == place:
            return False
        if asked or last:
            return True
        since = (await self._waiting({app: after}))[app]
        if since is None or self._config.shards_of(app) == 1:
            return since is not None
        # Events of several shards have their order, and can be read, when they have settled.
        return since <= self.now() - SETTLED

    @asynccontextmanager
    async def claimed(self, app: str, place: str, *, lease: float) -> AsyncIterator[RedisWebhookClaim | None]:
        owner = secrets.token_hex(8)
        if await self._link.script("claim", [keys.hook(app, self.kind)], [owner, int(lease * 1000), place]):
            yield None
            return
        claim = RedisWebhookClaim(self, app, place, owner, lease)
        async with lease_kept(claim.renew, partial(claim.rest, 0.0), lease=lease, name=f"webhook:{self.kind}:{app}"):
            yield claim

    async def standings(self, places: Mapping[str, str]) -> dict[str, Standing]:
        if not places:
            return {}
        answers = await self._link.many(
            [
                command
                for app in places
                for command in (
                    ("HMGET", keys.hook(app, self.kind), *_SHOWN),
                    ("HLEN", keys.hook_dead(app, self.kind)),
                    ("ZCARD", keys.hook_asked(app, self.kind)),
                )
            ]
        )
        records = {app: answers[3 * at : 3 * at + 3] for at, app in enumerate(places)}
        waiting = await self._waiting({app: text(fields[0]) for app, (fields, _, _) in records.items()})
        now = self.now()
        return {
            app: _standing(places[app], list(map(text, fields)), dead, asked, waiting[app], now)
            for app, (fields, dead, asked) in records.items()
        }

    async def standing(self, app: str, place: str) -> Standing:
        return (await self.standings({app: place}))[app]

    async def _waiting(self, cursors: Mapping[str, str]) -> dict[str, int | None]:
        """Return when the first event behind each app's cursor was recorded, in Unix ms."""
        commands: list[tuple[Any, ...]] = []
        asked: list[str] = []
        for app, after in cursors.items():
            ms, sequence, behind = parse_event_id(after)
            for shard in range(self._config.shards_of(app)):
                start = start_of(ms, sequence, shard <= behind)
                commands.append(("XRANGE", keys.events(app, shard, self.kind), start, "+", "COUNT", 1))
                asked.append(app)
        found: dict[str, list[int]] = {app: [] for app in cursors}
        for app, entries in zip(asked, await self._link.many(commands), strict=True):
            found[app] += [recorded_at(entry.decode()) for entry, _ in entries]
        return {app: min(instants, default=None) for app, instants in found.items()}

    async def ask_again(self, app: str, batches: Sequence[DeadBatch]) -> int:
        asked: int = await self._link.script("ask", self.keys_of(app), asking(batches))
        return asked

    async def resume(self, app: str) -> None:
        await self._link.script("ask", self.keys_of(app), [])


def _standing(
    place: str, fields: Sequence[str], dead: int, asked: int, waiting_since: int | None, now: int
) -> Standing:
    """Return the state of a webhook from its record, whose fields have the order of `_SHOWN`; see claim.lua."""
    after, tries, fails, why, since, off, at, own, until = fields
    moved = at != place
    if moved:
        tries = fails = why = since = ""
    return Standing(
        cursor=after,
        waiting_since=waiting_since,
        attempts=int(tries or 0),
        failures=int(fails or 0),
        reason=why,
        failing_since=int(since) if since else None,
        due_in=max(0, int(until or 0) - now) if own or not moved else 0,
        off=off == place,
        dead=dead,
        asked=asked,
    )
