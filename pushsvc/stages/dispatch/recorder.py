"""Passes the outcomes and verdicts of deliveries on to be recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from ...model.delivery import Delivery, Outcome, Retry, Settlement, Unconfirmed, Verdict
from ...model.push import Chunk, Platform, Target
from ...model.status import ROWS_FOR_ALL
from ...rules.policy import EXPIRED, SENT
from .lanes import OpenEntry
from .settling import Settler

DUE_STEP_MS: Final = 100
"""The granularity of due times for deliveries that wait for a limit, so that the targets of an entry stay together."""


class Recorder:
    """Hands the ends of one route's deliveries to its settler."""

    def __init__(self, settler: Settler, hash_token: Callable[[Platform], Callable[[str], str]]) -> None:
        self.add = settler.add
        """Hands over settlements with their entries."""
        self._hasher_of = cache(hash_token)
        """A token is hashed in the form of its own platform, whichever channel carries the delivery."""

    def settle(self, delivery: Delivery, entry: OpenEntry, verdict: Verdict, now: int, reason: str) -> None:
        """Record the verdict on a delivery that the provider was not asked about."""
        self.add([(self.settlement(delivery, entry, None, verdict, now, reason), entry)])

    def settlement(
        self,
        delivery: Delivery,
        entry: OpenEntry,
        outcome: Outcome | None,
        verdict: Verdict,
        now: int,
        reason: str,
        asked_at: int | None = None,
    ) -> Settlement:
        """Return what is recorded of a delivery. `outcome` is None if the provider was not asked."""
        # A broadcast keeps no row of what was sent, and no push one of what waits for its device: no hash is needed.
        chunk = entry.chunk
        waits_for_device = type(verdict) is Retry and type(outcome) is Unconfirmed
        silent = waits_for_device or (verdict is SENT and chunk.total > ROWS_FOR_ALL)
        hashed = "" if silent else self._hasher_of(chunk.home or chunk.channel)(delivery.target.token)
        return Settlement(delivery, outcome, verdict, now, hashed, reason, asked_at, entry.ref.entry_id)

    def expire(self, entry: OpenEntry, targets: tuple[Target, ...], now: int) -> None:
        for target in targets:
            self.settle(Delivery(entry.chunk, target), entry, EXPIRED, now, "ttl")


def waits(chunk: Chunk, now: int, wait_ms: int, *, counted: bool) -> Verdict:
    """Return the verdict that retries after `wait_ms` as the same attempt, or ends it if it will have expired."""
    due_at = -(-(now + max(1, wait_ms)) // DUE_STEP_MS) * DUE_STEP_MS
    return EXPIRED if due_at >= chunk.expires_at else Retry(due_at, chunk.attempt, chunk.part, counted)
