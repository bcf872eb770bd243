"""The dispatch stage: from stream entries to recorded outcomes, in one long-lived asyncio process.

    queue.take --> Lanes --> provider.submit --> on_outcome --> policy.decide --> Settler --> queue.settle
     (a reader      (urgent      (bounded           (callback,      (pure)        (batches)     (one atomic
      a lane)        first)       window)            no task)                                    step)

There is one `RouteWorker` for each route (app and platform), with connections, readers and a window of its own, so
that a stalled route does not delay another. No task or future is created per delivery.
"""
