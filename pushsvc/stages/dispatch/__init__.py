"""The dispatch stage: from stream entries to recorded outcomes, in one long-lived asyncio process.

    queue.take --> Lanes --> provider.submit --> on_outcome --> policy.decide --> Settler --> queue.settle
     (a reader      (urgent      (bounded           (callback,      (pure)        (batches)     (one atomic
      a lane)        first)       window)            no task)                                    step)

One `RouteWorker` a route (app and platform): it has connections, readers and a window of its own, so that a stalled
route stands in nobody's way. Nothing here costs a task or a future a delivery.
"""

from .config import DispatchConfig
from .dispatcher import Dispatcher
from .limits import RouteLimits

__all__ = ["Dispatcher", "DispatchConfig", "RouteLimits"]
