"""`serve`, `dispatch`, `feedback`, `live`: the parts of the service, each scalable with `--processes`.

Nothing that counts metrics is imported before the configuration was read: where there are several processes, that
decides where they are kept (`children.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop

from ...settings.processes import PROCESSES_HELP, parse_processes
from ...settings.schema import Settings
from ..process import print_message, report_started, was_stopped
from .children import LIFELINE, Child, Ready, child_of, forked_parts

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def _count(given: str | int) -> int:
    """Return the number of processes that an option asks for; 0, its default, leaves it to the configuration."""
    text = str(given)
    try:
        return 0 if text == "0" else parse_processes(text)
    except ValueError:
        raise typer.BadParameter(f"expected {PROCESSES_HELP}, or 0 for what is configured; found {text!r}") from None


Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        "-n",
        parser=_count,
        metavar="N",
        help="The number of processes; auto: half of the cores, at least one; 0: as configured.",
    ),
]
Dispatch = Annotated[bool, typer.Option("--dispatch", help="Send to the providers too, in the same processes.")]

FEEDBACK = (
    "pushsvc feedback runs workers of the service until Ctrl-C, and lists nothing: the events are read by "
    "GET /v1/feedback, and sent to webhooks"
)
"""Printed first at a terminal, where a list may be expected."""
SETTLING = 5.0
"""Seconds that a dispatcher may take beside `dispatch.drain_timeout`: to record what came last, and to close."""
LEAVING = 20.0
"""Seconds that a gateway may take beside `live.drain`: for the last close frames, and for what devices have asked."""
JOBS_GRACE = 35.0
"""Seconds that the stop of `jobs` may take: a job returns after its step; a webhook call in progress may take 30."""


def serve(context: typer.Context, processes: Processes = 0, dispatch: Dispatch = False) -> None:
    """Run the HTTP API."""
    settings = context.obj.read()
    also = ("dispatch",) if dispatch else ()
    run_part("serve", processes or settings.server.processes, _looped("serve", *also), settings, context, also)


def dispatch(context: typer.Context, processes: Processes = 0) -> None:
    """Run the workers that send to the providers."""
    settings = context.obj.read()
    one = _looped("dispatch")
    run_part("dispatch", processes or settings.dispatch.processes, one, settings, context)


def feedback(context: typer.Context, processes: Processes = 0) -> None:
    """Run the workers that act on dead tokens, until they are stopped: a part of the service, which lists nothing.

    The events are read by GET /v1/feedback, and sent to webhooks.
    """
    if sys.stderr.isatty() and LIFELINE not in os.environ:
        print_message(FEEDBACK)
    settings = context.obj.read()
    run_part("feedback", processes or 1, _looped("feedback"), settings, context)


def live(context: typer.Context, processes: Processes = 0) -> None:
    """Run the gateway to which devices connect."""
    settings = context.obj.read()
    settings.require_live()
    run = _looped("live")

    def one(settings: Settings) -> None:
        if settings.redis.url:  # An embedded store that this process starts would inherit it.
            context.obj.step_back(settings.live.nice)
        run(settings)

    run_part("live", processes or settings.live.processes, one, settings, context)


def until_signalled(*, hang_up: bool = False) -> asyncio.Event:
    """Return an event that is set by SIGTERM, SIGINT or the end of the supervisor.

    With `hang_up`, SIGHUP sets it too, as commands want it; for a part of the service SIGHUP means a reload. From now
    on systemd gets signs of life, and a word of the stop.
    """
    from ...telemetry import systemd
    from .supervisor import watch_lifeline

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        systemd.notify_stopping()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hang_up else [])):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            loop.add_signal_handler(number, end)
    if was_stopped():
        end()
    watch_lifeline(stop)
    systemd.keep_watchdog()
    return stop


def _looped(part: str, *also: str) -> Callable[[Settings], None]:
    """Return the work of a process of a part, and of those of `also` beside it, in an event loop. They are imported
    when they run."""

    async def work(settings: Settings) -> None:
        from ... import telemetry

        log, stop = telemetry.get_logger(part), until_signalled()
        if part == "live":
            from ...runtime.live import run_live as run
        else:
            from ...runtime.parts import run_parts

            run = partial(run_parts, (part, *also))
        await run(settings, stop, listening=lambda where: report_ready(log, where))
        log.info("stopped", pid=os.getpid())

    return lambda settings: uvloop.run(work(settings))


def run_part(
    part: str,
    processes: int,
    one: Callable[[Settings], Any],
    settings: Settings,
    context: typer.Context,
    also: tuple[str, ...] = (),
) -> None:
    """Run a part until it is asked to stop: by `one`, or in several processes. `also` are the parts that `one` runs
    beside it."""
    if processes == 1 or LIFELINE in os.environ:
        from ... import telemetry

        context.obj.log(settings)
        if LIFELINE not in os.environ:
            warn_of_environment(part)
        with telemetry.tracing(settings.traces.share, part):
            one(settings)
        return
    settings.require_apps()
    children = [child_of(part, processes, also=also)]
    with forked_parts(context.obj, settings, children) as ready:
        uvloop.run(_many(part, children, ready, settings, context))


async def _many(part: str, children: list[Child], ready: Ready, settings: Settings, context: typer.Context) -> None:
    from ...runtime.store import redis_url, require_store
    from ...telemetry import systemd
    from .supervisor import supervised

    stop = until_signalled()
    warn_of_environment(part)
    # The copies share one embedded store, which this process owns, and one exposition of their metrics.
    async with redis_url(settings) as url:
        await require_store(settings, url, stop, durable=part == "serve")
        if stop.is_set():
            return
        own = supervised(children, settings, context.obj.config, url, os.environ, ready)
        async with own as supervisor:
            await supervisor.until_started(stop)
            systemd.notify_ready()
            await stop.wait()


def warn_of_environment(part: str) -> None:
    """Log each variable that is ignored, and would set a key if its underscores were right."""
    from ... import telemetry
    from ...runtime.configuration import misspelt_variables

    for variable, right in misspelt_variables().items():
        telemetry.get_logger(part).warning("variable_ignored", variable=variable, did_you_mean=right)


def report_ready(log: FilteringBoundLogger, where: str) -> None:
    """Log that this process is ready and where it works, and let its supervisor or systemd know."""
    from ...telemetry import systemd

    log.info("ready", at=where, pid=os.getpid())
    report_started()
    systemd.notify_ready()


def grace_of(settings: Settings) -> float:
    """Return the seconds that the stop of a part may take; one that serves and dispatches does these in turn."""
    return max(settings.server.shutdown_timeout + settings.dispatch.drain_timeout + SETTLING, rest_of_stop(settings))


def rest_of_stop(settings: Settings) -> float:
    """Return the seconds that the parts beside the API may take to stop, which they do at the same time, after it."""
    return max(settings.dispatch.drain_timeout + SETTLING, settings.live.drain + LEAVING, JOBS_GRACE)
