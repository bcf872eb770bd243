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

AHEAD: Final = 1000
"""Milliseconds by which an order may be ahead of the present, since clocks differ. One that is further ahead is of a
time before the clock was set back, and it is not known which others are later: it replaces none."""

REPLACED: Final = Ended("suppressed")

_Order: TypeAlias = tuple[int, str]
"""When its push was to be sent first, in Unix ms, and the id of the push."""


class Replacing:
    """The orders that one route's provider has accepted, by `collapse` and token."""

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[str, str], _Order] = OrderedDict()

    def note(self, chunk: Chunk, target: Target, now: int) -> None:
        """Record that a message with a `collapse` was accepted."""
        place, order = (chunk.message.collapse, target.token), _order_of(chunk)
        if chunk.dry_run or _is_ahead(order, now):
            return
        newest = self._newest.pop(place, order)
        self._newest[place] = order if _is_ahead(newest, now) else max(newest, order)
        if len(self._newest) > MOST:
            self._newest.popitem(last=False)

    def split(
        self, chunk: Chunk, targets: tuple[Target, ...], now: int
    ) -> tuple[tuple[Target, ...], tuple[Target, ...]]:
        """Return the targets of a chunk with a `collapse` that may be sent, and those that have a later one."""
        collapse, order, newest = chunk.message.collapse, _order_of(chunk), self._newest
        behind = tuple(target for target in targets if newest.get((collapse, target.token), order) > order)
        behind = tuple(target for target in behind if not _is_ahead(newest[collapse, target.token], now))
        if not behind or chunk.dry_run:
            return targets, ()
        return tuple(target for target in targets if target not in behind), behind


def _order_of(chunk: Chunk) -> _Order:
    return chunk.message.since, chunk.push_id


def _is_ahead(order: _Order, now: int) -> bool:
    return order[0] > now + AHEAD
