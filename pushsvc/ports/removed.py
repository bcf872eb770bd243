"""What waits for accounts that were removed from the configuration."""

from __future__ import annotations

from msgspec import Struct

from ..model.push import Route


class RemovedRoute(Struct, frozen=True):
    """A route that no configuration in use has, while deliveries wait for it."""

    route: Route
    waiting: int
    """Deliveries of the route that have not ended, including those that wait for a retry."""
    pushes: int = 0
    """Pushes of an app without any account that wait for their time or for their expansion. Their routes are unknown
    until then."""
