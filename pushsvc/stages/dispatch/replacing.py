"""Keeps what waits in one process from replacing what it has sent later with the same `collapse`. Pure.

An urgent push overtakes a bulk one, also where both wait for a route that is held or for a limit. If they share a
`collapse`, the one that is sent last is the one that stays on the phone. So a route remembers the latest orders that
its provider has accepted, and lets older ones end, before the store knows of it. The store has what any process has
sent, and notifies the others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from ...model.delivery import Ended
from ...model.push import Chunk, Target

MOST: Final = 10_000
"""Orders that are remembered, the latest ones: some megabytes."""

REPLACED: Final = Ended("suppressed")
SUPERSEDED: Final = "superseded"
"""The reason of what has ended because a later one was accepted."""

_Order: TypeAlias = tuple[int, str]
"""When its push was to be sent first, in Unix ms, and the id of the push."""


class Replacing:
    """The orders that one route's provider has accepted, by `collapse` and token."""

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, str], _Order] = OrderedDict()

    def note(self, chunk: Chunk, target: Target) -> None:
        """Record that a message with a `collapse` was accepted."""
        if chunk.dry_run:
            return
        place, order = (chunk.message.collapse, target.token), _order_of(chunk)
        newest = self._newest.pop(place, order)
        self._newest[place] = max(newest, order)
        if len(self._newest) > MOST:
            self._newest.popitem(last=False)

    def split(self, chunk: Chunk, targets: tuple[Target, ...]) -> tuple[tuple[Target, ...], tuple[Target, ...]]:
        """Return the targets of a chunk with a `collapse` that may be sent, and those that have a later one."""
        collapse, order, newest = chunk.message.collapse, _order_of(chunk), self._newest
        behind = tuple(target for target in targets if newest.get((collapse, target.token), order) > order)
        if not behind or chunk.dry_run:
            return targets, ()
        return tuple(target for target in targets if target not in behind), behind


def _order_of(chunk: Chunk) -> _Order:
    return chunk.message.since, chunk.push_id
