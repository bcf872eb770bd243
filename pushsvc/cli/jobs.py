"""`pushsvc jobs`: run the rq workers and the calls of webhooks."""

from __future__ import annotations

import asyncio
import os

import typer
import uvloop

from .. import jobs as work
from .. import runtime, telemetry
from ..settings import Settings
from ..telemetry import systemd
from .files import temporary_folder
from .parts import Processes, child_environ, report_ready, until_signalled
from .supervisor import LIFELINE, Child, Supervisor, watch_lifeline

GRACE = 35.0
"""Seconds that a stop may take. A job returns after its current step; a webhook call in progress may take 30."""


def jobs(context: typer.Context, processes: Processes = 0) -> None:
    """Run the workers for audiences, replays and webhooks."""
    settings = context.obj.settings()
    settings.require_apps()
    log = telemetry.get_logger("jobs")
    if (processes or settings.jobs.processes) == 1 or LIFELINE in os.environ:
        with telemetry.tracing(settings.traces.share, "jobs"):
            work.run_jobs(
                settings,
                listening=lambda where: report_ready(log, where),
                watch=_watch,
            )
        log.info("stopped", pid=os.getpid())
    else:
        uvloop.run(_many(context, settings, processes or settings.jobs.processes))


async def _many(context: typer.Context, settings: Settings, processes: int) -> None:
    stop: asyncio.Event = until_signalled()
    async with runtime.redis_url(settings) as url:
        await runtime.require_store(settings, url, durable=False)
        with temporary_folder("pushsvc-metrics-", settings.store.data_dir) as folder:
            async with Supervisor(
                [Child("jobs", ("jobs", "--processes", "1"), copies=processes)],
                environ=child_environ(context, url, folder),
                grace=GRACE,
                metrics=telemetry.SharedFolder(folder),
            ) as supervisor:
                await supervisor.until_started(stop)
                systemd.notify_ready()
                await stop.wait()


def _watch(stop: asyncio.Event) -> None:
    watch_lifeline(stop)
    systemd.keep_watchdog()
