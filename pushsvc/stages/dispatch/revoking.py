"""Revocations, applied to what one process has in memory.

Each revocation is applied at once to everything that waits in the lanes and the gate, so that what is drawn may be
submitted. What is between two places at that moment (an answer of the store in transit, a question to the limiter) is
checked against all revocations since it left the first of them: `RevocationLog` keeps them in order.
"""

from __future__ import annotations

from collections import deque
from functools import reduce
from operator import or_
from typing import Final

from ...model.push import Target
from ...ports.entries import Revoked, token_mark
from .lanes import Choice, OpenEntry

KEPT: Final = 60.0
"""Seconds for which a revocation is remembered. What is in transit for longer, such as a question to limits that are
away, is checked again from the beginning."""


class RevocationLog:
    """The revocations that one process has applied, by number. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.number = 0
        self._forgotten = 0
        """The number of the latest revocation that is no longer remembered."""
        self._latest: deque[tuple[int, float, Revoked]] = deque()

    def add(self, revoked: Revoked, now: float) -> None:
        while self._latest and self._latest[0][1] < now - KEPT:
            self._forgotten = self._latest.popleft()[0]
        self.number += 1
        self._latest.append((self.number, now, revoked))

    def knows(self, number: int) -> bool:
        """Return whether everything that came after that one is remembered."""
        return number >= self._forgotten

    def since(self, number: int) -> Revoked | None:
        """Return all that came after that one; None where nothing did, which is nearly always."""
        if number == self.number:
            return None
        return reduce(or_, (revoked for at, _, revoked in self._latest if at > number), Revoked())


def chosen_by(revoked: Revoked) -> Choice:
    """Return a predicate for the revoked targets of an entry. An entry of a cancelled push is marked as revoked."""
    pushes, tokens, entries = revoked.pushes, revoked.tokens, revoked.entries

    def choose(entry: OpenEntry) -> tuple[Target, ...]:
        if entry.chunk.push_id in pushes:
            entry.revoked = True
        if entry.revoked or (entries and entry.ref.whole in entries):
            return entry.left
        if tokens:
            return tuple(target for target in entry.left if token_mark(target.token) in tokens)
        return ()

    return choose


def everything(entry: OpenEntry) -> tuple[Target, ...]:
    return entry.left
