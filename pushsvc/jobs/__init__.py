"""The rq worker: what is done once, not once a push.

    worker.py     rq's Job and Worker, made safe: an allow-list of functions, JSON, nothing of Redis is imported
    functions.py  the functions, by name
    webhooks.py   the webhooks of all apps, in the companion's loop: no job
    process.py    one process: the worker on the main thread, its companion (metrics, schedule, webhooks) on another

Why not rq's defaults. Its worker runs any importable name that stands in a job, so that whoever can write to Redis
could run code here: ours looks the name up in a table. It forks for each job (97 jobs/s against 457 without, on one
core of a 2-core machine, rq 3.0) for the sake of jobs that crash; ours are few, long, and stop between two steps
when the process is asked to end, which a fork would not hear. An abandoned job is noticed by rq after minutes; ours
are records with a lease in Redis, and rq only says who runs them next: a killed worker's replay is enqueued again
`jobs.takeover` seconds after its last step.
"""

from .functions import FUNCTIONS, Context
from .process import QUEUE, run_jobs
from .worker import NotAllowed, make_job_class, make_worker

__all__ = ["run_jobs", "FUNCTIONS", "Context", "QUEUE", "NotAllowed", "make_job_class", "make_worker"]
