"""What becomes of a delivery that ends or waits, as it is handed over to be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...model.delivery import Delivery, Outcome, Retry, Settlement, Verdict
from ...model.push import Chunk, Target
from ...model.status import ROWS_FOR_ALL
from ...rules.policy import EXPIRED, SENT
from .lanes import OpenEntry
from .settling import Settler

DUE_STEP_MS: Final = 100
"""What waits for a limit falls due on such steps, so that the targets of one entry stay together in one entry."""


class Recorder:
    """Hands the ends of one route's deliveries to its settler."""

    def __init__(self, settler: Settler, hash_token: Callable[[str], str]) -> None:
        self._settler = settler
        self._hash_token = hash_token

    def settle(
        self,
        delivery: Delivery,
        entry: OpenEntry,
        outcome: Outcome | None,
        verdict: Verdict,
        now: int,
        reason: str,
        asked_at: int | None = None,
    ) -> None:
        """This has become of it; without an outcome where the provider was not asked."""
        # A broadcast keeps no row for what was sent, so nobody would read the hash.
        silent = verdict is SENT and entry.chunk.total > ROWS_FOR_ALL
        settlement = Settlement(
            delivery, outcome, verdict, now, "" if silent else self._hash_token(delivery.target.token), reason, asked_at
        )
        self._settler.add(settlement, entry)

    def expire(self, entry: OpenEntry, targets: tuple[Target, ...], now: int) -> None:
        """Their time is over."""
        for target in targets:
            self.settle(Delivery(entry.chunk, target), entry, None, EXPIRED, now, "ttl")


def waits(chunk: Chunk, now: int, wait_ms: int, *, counted: bool) -> Verdict:
    """Return the verdict that sends it again after `wait_ms`, as the same attempt, or ends it where it has expired by
    then."""
    due_at = -(-(now + max(1, wait_ms)) // DUE_STEP_MS) * DUE_STEP_MS
    return EXPIRED if due_at >= chunk.expires_at else Retry(due_at, chunk.attempt, chunk.part, counted)
