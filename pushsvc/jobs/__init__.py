"""The rq worker, for work that is done once rather than once a push.

    worker.py     rq's Job and Worker made safe: an allow-list of functions, JSON, nothing named in Redis is imported
    functions.py  the functions, by name
    kept.py       the event loop and the store that jobs share
    limit.py      the time limit of a job
    webhooks.py   the webhooks of all apps, in the companion's loop instead of in jobs
    enqueue.py    what there is to do, as jobs
    schedule.py   the periodic work of all processes
    process.py    one process: the worker on the main thread, its companion (metrics, schedule, webhooks) on another

These are the reasons against rq's defaults. Its worker runs any importable name in a job, so that a client with write
access to Redis could run code here: ours looks the name up in a table. It forks for each job (97 jobs/s against 457
without, on one core of a 2-core machine, rq 3.0) to survive jobs that crash; ours are few, long, and stop between two
steps when the process is asked to end, of which a fork would not learn. rq notices an abandoned job after minutes; ours
are records with a lease in Redis, and rq only decides who runs them next: the replay of a killed worker is enqueued
again `jobs.takeover` seconds after its last step.
"""

from .functions import FUNCTIONS, Context
from .process import QUEUE, run_jobs
from .worker import NotAllowed, make_job_class, make_worker

__all__ = ["run_jobs", "FUNCTIONS", "Context", "QUEUE", "NotAllowed", "make_job_class", "make_worker"]
