"""What waits for accounts that were taken out of the configuration."""

from __future__ import annotations

from msgspec import Struct

from ..model.push import Route


class RemovedRoute(Struct, frozen=True):
    """A route that no configuration in use has any more, while deliveries wait for it."""

    route: Route
    waiting: int
    """Deliveries of the route that have not ended; those that wait for a retry among them."""
    pushes: int = 0
    """Pushes of the app that wait for their time, or for their audience to be looked up, where the app has no account
    left at all. Of which route they are shows once they have begun."""
