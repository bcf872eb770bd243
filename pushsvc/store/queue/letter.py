"""A dead letter: what is needed to list a delivery that failed for good, and to send it again.

It has the chunk that the delivery came in, without targets, as it is encoded in a queue entry: with its message, or of
a large push with the name of the variant. The form is versioned as codec's are.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ...model.codec import form
from ...model.push import Platform, Target
from ...telemetry import DEAD_LETTERS_DROPPED, StateLog


class DeadLetter(Struct, frozen=True, array_like=True):
    """One delivery that failed permanently. `at` is in Unix ms."""

    push_id: str
    platform: Platform
    target: Target
    token_hash: str
    reason: str
    status: int
    attempts: int
    at: int
    turn: int = 1
    """The turn in which it failed. A replay is a later turn, so that settlements of this one no longer count."""
    head: bytes = b""
    """The encoded chunk without targets."""

    def __repr__(self) -> str:
        return f"DeadLetter({self.push_id}[{self.target.index}] {self.platform} {self.reason} at={self.at})"


_logs: dict[str, StateLog] = {}


def note_dropped(app: str, count: int) -> None:
    """Count dead letters that were removed for later ones, and log that at growing intervals."""
    DEAD_LETTERS_DROPPED.labels(app).inc(count)
    log = _logs.get(app)
    if log is None:
        log = _logs[app] = StateLog("store", "dead_letters_dropped", "dead_letters_dropped", "dead_letters_kept")
    log.begin(app=app, dropped=count, remedy="replay them, or raise queue.dead_letters_max")


encode_dead, decode_dead = form(msgspec.msgpack.Decoder(DeadLetter), "a dead letter")
