"""What waits for accounts that were taken out of the configuration."""

from __future__ import annotations

from msgspec import Struct

from ..model import Route


class RemovedRoute(Struct, frozen=True):
    """A route that no configuration in use has any more, while deliveries wait for it."""

    route: Route
    waiting: int
    """Deliveries of the route that have not ended; those that wait for a retry among them."""
    scheduled: int = 0
    """Deliveries of the app whose push waits for its time, where the app has no account left at all: by then nobody
    knows of which route they are."""
