"""What a settlement leaves: the row of the status, and where there is one the dead letter or the receipt. Pure."""

from __future__ import annotations

import msgspec

from ...model.codec import encode_chunk
from ...model.delivery import Ended, Receipt, Sent, Settlement, TokenDead, TokenSuspect
from ...model.push import Chunk
from ...model.routing import platform_of
from ...model.status import DeliveryRow
from .letter import DeadLetter

NOT_SENT = Sent()
"""The ids of a delivery that the provider has not accepted: none."""


def row_of(settlement: Settlement, verdict: Ended) -> DeliveryRow:
    """Return the row of the status for a delivery that has ended."""
    delivery, outcome = settlement.delivery, settlement.outcome
    sent = outcome if type(outcome) is Sent else NOT_SENT
    chunk = delivery.chunk
    return DeliveryRow(
        platform=platform_of(chunk.home) if chunk.home else chunk.message.platform,
        device_id=delivery.target.device_id,
        token_hash=settlement.token_hash,
        outcome=verdict.end,
        reason=settlement.reason or (outcome.reason if outcome else ""),
        status=outcome.status if outcome else 0,
        attempts=attempts_of(settlement),
        provider_id=sent.provider_id,
        at=settlement.at,
        unique_id=sent.unique_id,
        channel=chunk.channel if chunk.home else "",
    )


def head_of(chunk: Chunk) -> bytes:
    """Return the common part of a chunk's dead letters."""
    return encode_chunk(msgspec.structs.replace(chunk, targets=()))


def dead_letter_of(settlement: Settlement, head: bytes) -> DeadLetter:
    """Return the dead letter of a delivery; `head` is the common part of its chunk's."""
    delivery = settlement.delivery
    outcome = settlement.outcome
    return DeadLetter(
        push_id=delivery.chunk.push_id,
        platform=delivery.chunk.platform,
        target=delivery.target,
        token_hash=settlement.token_hash,
        reason=settlement.reason or (outcome.reason if outcome else ""),
        status=outcome.status if outcome else 0,
        attempts=attempts_of(settlement),
        at=settlement.at,
        turn=delivery.chunk.turn,
        head=head,
    )


def receipt_of(settlement: Settlement, outcome: TokenDead | TokenSuspect) -> Receipt:
    """Return the receipt for feedback."""
    delivery = settlement.delivery
    dead = isinstance(outcome, TokenDead)
    return Receipt(
        app=delivery.chunk.app,
        platform=delivery.chunk.platform,
        token=delivery.target.token,
        token_hash=settlement.token_hash,
        kind="dead" if dead else "suspect",
        reason=outcome.reason or settlement.reason,
        at=settlement.at,
        since=outcome.since if isinstance(outcome, TokenDead) else None,
        device_id=delivery.target.device_id,
        push_id=delivery.chunk.push_id,
        asked_at=settlement.asked_at,
    )


def attempts_of(settlement: Settlement) -> int:
    """Return the number of attempts: a delivery that was never sent does not count the attempt that was to come."""
    attempt = settlement.delivery.chunk.attempt
    return attempt if settlement.outcome is not None else attempt - 1
