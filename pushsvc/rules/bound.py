"""A bound on the deliveries that wait, of all apps together or of one, and how it is named to callers and operators."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..model.push import Lane

RESERVE: Final = 10
"""A bound has a reserve of one part of this many, so that a full queue stops nothing that is urgent."""


def most_of(most: int, lane: Lane) -> int:
    """Return how many deliveries may wait with those of a push of this lane: urgent ones may use the reserve."""
    return most + most // RESERVE if lane == "urgent" else most


class Bound(NamedTuple):
    """A bound. `who` is the app, or empty for all together."""

    who: str
    waits: int
    most: int
    removed: int = 0
    """The part of `waits` whose apps are no longer in the configuration."""
    refused: int = 0
    """The deliveries of the push that was refused, where one was."""

    @property
    def text(self) -> str:
        refused = f", so a push of {self.refused:,} was refused" if self.refused else ""
        if self.who:
            return (
                f"{self.waits:,} deliveries of the app wait; its maximum is {self.most:,} "
                f"(limits.max_pending, or queue.app_share of queue.max_pending){refused}"
            )
        removed = (
            f", {self.removed:,} of them for apps that were removed (see `held` of /readyz)" if self.removed else ""
        )
        return f"{self.waits:,} deliveries wait{removed}; the maximum is {self.most:,} (queue.max_pending){refused}"
