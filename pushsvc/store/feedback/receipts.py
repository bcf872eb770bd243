"""The store of the feedback stage: receipts in, suppressions and feedback events out.

A receipt is acknowledged in the step that appends its event. If the suppression list of a token is in another shard,
the token is suppressed before that: suppressing twice is harmless, and none is lost if the process dies in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ...model.codec import CodecError, decode_event, decode_receipt, encode_event
from ...model.delivery import Receipt
from ...model.push import Platform
from ...model.status import FeedbackEvent
from ...rules.policy import dead_until
from .. import keys
from ..part import StoreContext
from ..queue.entries import entries_of
from ..queue.quarantine import set_aside
from ..revoke.suppression import Suppression
from ..work.liveness import Liveness
from .log import EventLog

_POLL = 0.05


class RedisReceipts(EventLog[FeedbackEvent]):
    """`ReceiptLog` over Redis Streams."""

    def __init__(self, context: StoreContext, suppression: Suppression, liveness: Liveness) -> None:
        super().__init__(context, "feedback", decode_event)
        self._suppression = suppression
        self._liveness = liveness
        self._looked: dict[str, float] = {}

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        """Return new receipts. What this consumer took and has not recorded is returned again by each call."""
        loop = asyncio.get_running_loop()
        await self._liveness.beat()
        if loop.time() >= self._looked.get(app, 0.0):
            await self._take_over(app)
            self._looked[app] = loop.time() + self._config.alive_ttl / 3
        # Our sign of life is renewed by the next call.
        deadline = loop.time() + min(wait_ms / 1000, self._config.alive_ttl / 3)
        while True:
            found = await self._read(app, limit)
            left = deadline - loop.time()
            if found or left <= 0 or not await self._wait(app, max(1, int(left * 1000))):
                return found

    async def _read(self, app: str, limit: int) -> list[tuple[str, Receipt]]:
        found: list[tuple[str, Receipt]] = []
        for shard in range(self._config.shards_of(app)):
            room = limit - len(found)
            if room <= 0:
                break
            stream = keys.receipts(app, shard)
            history = self._link.history
            flat = await self._link.script("receipts", [stream], [keys.FEEDBACK, self._config.consumer, room])
            for entry in entries_of(flat):
                try:
                    found.append((f"{shard}:{entry.id}:{history}", decode_receipt(entry.blob)))
                except CodecError as error:
                    quarantine = keys.quarantine(app, shard)
                    await set_aside(self._link, stream, keys.FEEDBACK, quarantine, entry.id, error, history=history)
        return found

    async def _wait(self, app: str, wait_ms: int) -> bool:
        """Wait until there is a new receipt, or the time is over. The receipt becomes pending for this consumer.
        Returns whether there may be one."""
        shards = self._config.shards_of(app)
        if self._link.cluster and shards > 1:
            await asyncio.sleep(min(_POLL, wait_ms / 1000))
            return True
        streams = [keys.receipts(app, shard) for shard in range(shards)]
        command = ("XREADGROUP", "GROUP", keys.FEEDBACK, self._config.consumer, "COUNT", 1, "BLOCK", wait_ms)
        (answer,) = await self._link.wait([(*command, "STREAMS", *streams, *(">" for _ in streams))], wait_ms)
        return bool(answer)

    async def _take_over(self, app: str) -> None:
        """Take over the receipts of dead consumers; the next `take` returns them."""
        streams = [keys.receipts(app, shard) for shard in range(self._config.shards_of(app))]
        departed = await self._liveness.departed(streams, keys.FEEDBACK)
        for stream, names in zip(streams, departed, strict=True):
            if names:
                await self._link.script("reclaim", [stream], [keys.FEEDBACK, self._config.consumer, 1000, *names])

    async def record(self, app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        """Append the events and acknowledge the receipts. A `pruned` token was suppressed before its device was
        pruned."""
        by_shard: dict[int, list[Any]] = {}
        foreign: list[tuple[Platform, str, int]] = []
        present = self._link.history
        for entry, receipt, event in done:
            shard_text, entry_id, history = entry.split(":")
            if int(history) != present:
                continue  # another server is the primary by now: it comes again from there
            shard = int(shard_text)
            route, digest, since = "", b"", dead_until(receipt)
            if event is not None and event.action == "suppressed":
                place, digest = self._suppression.locate(app, receipt.token)
                if place == shard:
                    route = receipt.platform
                    since = self._suppression.counted_from(route, receipt.token, since)
                else:
                    foreign.append((receipt.platform, receipt.token, since))
            blob = encode_event(event) if event is not None else b""
            by_shard.setdefault(shard, []).extend((entry_id, blob, route, digest, since))
        await self._suppression.add(app, foreign)
        oldest = self._suppression.oldest
        for shard, args in by_shard.items():
            self._link.require(present)
            await self._link.read(
                "record",
                [keys.receipts(app, shard), keys.events(app, shard), keys.gone(app, shard)],
                [
                    keys.prefix(app, shard),
                    keys.FEEDBACK,
                    self._config.events_max,
                    max(0, self._clock() - self._config.events_ttl * 1000),
                    oldest,
                    *args,
                ],
            )
        own = [receipt.token for _, receipt, event in done if event is not None and event.action == "suppressed"]
        await self._suppression.announce(app, own)
