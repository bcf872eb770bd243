"""The dispatch stage: from stream entries to recorded outcomes, in one long-lived asyncio process.

    queue.take --> Lanes --> provider.submit --> on_outcome --> policy.decide --> Settler --> queue.settle
     (a reader      (urgent      (bounded           (callback,      (pure)        (batches)     (one atomic
      a lane)        first)       window)            no task)                                    step)

There is one `RouteWorker` for each route (app and platform), with connections, readers and a window of its own, so
that a stalled route does not delay another. No task or future is created per delivery.
"""

from typing import TYPE_CHECKING

from ...lazily import exports

if TYPE_CHECKING:
    from .config import DispatchConfig as DispatchConfig
    from .dispatcher import Dispatcher as Dispatcher
    from .limits import RouteLimits as RouteLimits
else:
    __getattr__ = exports(
        __name__,
        {
            "config": "DispatchConfig",
            "dispatcher": "Dispatcher",
            "limits": "RouteLimits",
        },
    )
