"""`serve`, `dispatch`, `feedback`, `live`: the parts of the service, each scalable with `--processes`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Literal, Protocol

import typer
import uvloop
from structlog.typing import FilteringBoundLogger

from .. import runtime, telemetry
from ..settings import Settings
from ..telemetry import systemd
from .files import temporary_folder
from .supervisor import LIFELINE, Child, Supervisor, watch_lifeline

Processes = Annotated[int, typer.Option("--processes", "-n", min=0, help="The number of processes; 0: as configured.")]


LEAVING = 20.0
"""Seconds that a gateway may take beside `live.drain`: for the last close frames, and for what devices have asked."""


class RunPart(Protocol):
    def __call__(
        self, settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]
    ) -> Coroutine[None, None, None]: ...


def serve(context: typer.Context, processes: Processes = 0) -> None:
    """Run the HTTP API."""
    settings = context.obj.settings()
    _run_part("serve", processes or settings.server.processes, runtime.run_api, settings, context)


def dispatch(context: typer.Context, processes: Processes = 0) -> None:
    """Run the workers that send to the providers."""
    settings = context.obj.settings()
    _run_part("dispatch", processes or settings.dispatch.processes, runtime.run_dispatch, settings, context)


def feedback(context: typer.Context, processes: Processes = 0) -> None:
    """Run the loop that acts on dead tokens."""
    settings = context.obj.settings()
    _run_part("feedback", processes or 1, runtime.run_feedback, settings, context)


def live(context: typer.Context, processes: Processes = 0) -> None:
    """Run the gateway to which devices connect."""
    settings = context.obj.settings()
    settings.require_live()
    _run_part("live", processes or settings.live.processes, runtime.run_live, settings, context)


def until_signalled(*, hang_up: bool = False) -> asyncio.Event:
    """Return an event that is set by SIGTERM, SIGINT or the end of the supervisor.

    With `hang_up`, SIGHUP sets it too, as commands want it; for a part of the service SIGHUP means a reload. From now
    on systemd gets signs of life, and a word of the stop.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        systemd.notify_stopping()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hang_up else [])):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            loop.add_signal_handler(number, end)
    watch_lifeline(stop)
    systemd.keep_watchdog()
    return stop


def _run_part(
    part: Literal["serve", "dispatch", "feedback", "live"],
    processes: int,
    run: RunPart,
    settings: Settings,
    context: typer.Context,
) -> None:
    log = telemetry.get_logger(part)

    async def one() -> None:
        stop = until_signalled()
        await run(settings, stop, listening=lambda where: report_ready(log, where))
        log.info("stopped", pid=os.getpid())

    async def many() -> None:
        settings.require_apps()
        stop = until_signalled()
        # The copies share one embedded store, which this process owns, and one exposition of their metrics.
        async with runtime.redis_url(settings) as url:
            await runtime.require_store(settings, url, durable=part == "serve")
            with temporary_folder("pushsvc-metrics-", settings.store.data_dir) as folder:
                environ = child_environ(context, url, folder)
                if section := {"serve": "SERVER", "live": "LIVE"}.get(part):  # they share one port
                    environ[f"PUSHSVC__{section}__PROCESSES"] = str(processes)
                children = [Child(part, (part, "--processes", "1"), copies=processes)]
                async with Supervisor(
                    children,
                    environ=environ,
                    grace=grace_of(settings),
                    metrics=telemetry.SharedFolder(folder),
                ) as supervisor:
                    await supervisor.until_started(stop)
                    systemd.notify_ready()
                    await stop.wait()

    if processes == 1 or LIFELINE in os.environ:
        with telemetry.tracing(settings.traces.share, part):
            uvloop.run(one())
    else:
        uvloop.run(many())


def report_ready(log: FilteringBoundLogger, where: str) -> None:
    """Log that this process is ready and where it works, and let systemd know."""
    log.info("ready", at=where, pid=os.getpid())
    systemd.notify_ready()


def grace_of(settings: Settings) -> float:
    """Return the seconds that the stop of a part may take."""
    return max(settings.server.shutdown_timeout + 5, settings.dispatch.drain_timeout + 5, settings.live.drain + LEAVING)


def child_environ(context: typer.Context, url: str, metrics: Path) -> dict[str, str]:
    """Return the environment of supervised processes: the same configuration, this store, metrics in one folder."""
    environ = dict(os.environ)
    if context.obj.config is not None:
        environ["PUSHSVC_CONFIG"] = str(context.obj.config)
    environ["PUSHSVC__REDIS__URL"] = url
    environ.update(telemetry.prepare_multiprocess(metrics))
    return environ
