"""`pushsvc jobs`: run the rq workers and the calls of webhooks."""

from __future__ import annotations

import asyncio
import os

import typer

from ..settings import Settings
from .parts import Processes, report_ready, run_part


def jobs(context: typer.Context, processes: Processes = 0) -> None:
    """Run the workers for audiences, replays and webhooks."""
    settings = context.obj.read()
    settings.require_apps()
    run_part("jobs", processes or settings.jobs.processes, _one, settings, context)


def _one(settings: Settings) -> None:
    from .. import jobs as work
    from .. import telemetry

    log = telemetry.get_logger("jobs")
    work.run_jobs(settings, listening=lambda where: report_ready(log, where), watch=_watch)
    log.info("stopped", pid=os.getpid())


def _watch(stop: asyncio.Event) -> None:
    from ..telemetry import systemd
    from .supervisor import watch_lifeline

    watch_lifeline(stop)
    systemd.keep_watchdog()
