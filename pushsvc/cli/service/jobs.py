"""`pushsvc jobs`: run the rq workers and the calls of webhooks, and feedback beside them where that is wanted."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Annotated

import typer

from ...settings.schema import Settings
from ..process import was_stopped
from .parts import Processes, report_ready, run_part

Feedback = Annotated[bool, typer.Option("--feedback", help="Act on dead tokens too, in the same processes.")]


def jobs(context: typer.Context, processes: Processes = 0, feedback: Feedback = False) -> None:
    """Run the workers for audiences, replays and webhooks."""
    settings = context.obj.read()
    settings.require_apps()
    one = partial(_one, feedback=feedback)
    also = ("feedback",) if feedback else ()
    run_part("jobs", processes or settings.jobs.processes, one, settings, context, also)


def _one(settings: Settings, *, feedback: bool) -> None:
    from ...imports import import_redis

    import_redis()  # before rq does
    from ... import jobs as work, telemetry

    log = telemetry.get_logger("jobs")
    ready = partial(report_ready, log)
    work.run_jobs(settings, listening=ready, watch=_watch, stopped=was_stopped, feedback=feedback)
    log.info("stopped", pid=os.getpid())


def _watch(stop: asyncio.Event) -> None:
    from ...telemetry import systemd
    from .supervisor import watch_lifeline

    watch_lifeline(stop)
    systemd.keep_watchdog()
