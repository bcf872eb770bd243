"""`pushsvc cleanup`: remove data that is no longer needed. For cron; `pushsvc jobs` does the same once a day.

It works on the store directly, so it needs the configuration, but no API key and no other part of the service.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import PushsvcError
from .output import Json, counted, print_json, print_table
from .parts import until_signalled
from .running import run

if TYPE_CHECKING:
    from ..settings import Settings
    from ..stages.cleanup import Cleaned, Progress


class CleanupLost(PushsvcError):
    """Another cleanup has started, because this one showed no sign of life for too long."""


def cleanup(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    share: Annotated[
        float,
        typer.Option("--share", min=0.01, max=1, help="The share of time it may use, from 0.01 to 1.", metavar="S"),
    ] = 1.0,
    json: Json = False,
) -> None:
    """Remove data that is no longer needed: old tombstones, stale and suspect devices, orphans, expired records.

    Stale and suspect devices become tombstones first; `pushsvc devices restore` restores them. If another cleanup is
    running, this one says so and exits with 0. Ctrl-C or SIGTERM stops it between two steps. Ages are measured by the
    clock of Redis; nothing is removed if this machine's clock differs from it by more than a minute.
    """
    settings: Settings = context.obj.settings()
    settings.require_apps()
    if context.obj.alone:  # no process may raise its priority again
        # Processes that serve requests on this machine have precedence.
        os.setpriority(os.PRIO_PROCESS, 0, max(10, os.getpriority(os.PRIO_PROCESS, 0)))
    began = time.monotonic()
    cleaned = run(_cleanup(settings, share, dry_run=dry_run, quiet=json))
    seconds = time.monotonic() - began
    if isinstance(cleaned, str):
        if json:
            print_json({"state": "elsewhere", "holder": cleaned})
        else:
            print(f"another cleanup is running, in {cleaned or 'another process'}: nothing was done here")
        return
    rows = sorted((app, what, count) for (app, what), count in cleaned.removed.items() if count)
    total = sum(count for _, _, count in rows)
    if json:
        apps: dict[str, dict[str, int]] = {app: {} for app in settings.apps}
        for app, what, count in rows:
            apps[app][what] = count
        report = {"dry_run": dry_run, "total": total, "seconds": round(seconds, 3), "apps": apps}
        print_json({"state": "done" if cleaned.place is None else "stopped", **report})
    else:
        if rows:
            titles = ("app", "what", "would go" if dry_run else "gone")
            print_table(titles, [[app, what, f"{count:,}"] for app, what, count in rows])
        records = counted(total, "record")
        print(f"{records} would go" if dry_run else f"{records} gone, in {seconds:,.1f} s")
    if cleaned.place is not None:
        typer.echo("interrupted: the next run removes the rest", err=True)
        raise typer.Exit(130)


async def _cleanup(settings: Settings, share: float, *, dry_run: bool, quiet: bool) -> Cleaned | str:
    """Return the result, or the name of the process that is already cleaning up."""
    from ..runtime import cleanup_plan, open_existing_store, open_running_store
    from ..stages.cleanup import LOCK, clean

    stop = until_signalled(hang_up=True)
    async with (open_running_store if dry_run else open_existing_store)(settings) as store:
        clock = await store.cleanups.clock()
        with _display(quiet) as show:

            async def look(progress: Progress) -> None:
                show(progress)

            if dry_run:  # it changes nothing, so it needs no lease
                plan = cleanup_plan(settings, store, clock, dry_run=True)
                return await clean(plan, share=share, stopping=stop.is_set, after=look)
            async with store.locks.held(LOCK, lease=settings.jobs.takeover) as lost:
                if lost is None:
                    return await store.locks.holder(LOCK) or ""

                async def note(progress: Progress) -> None:
                    show(progress)
                    await store.cleanups.note(progress.removed)
                    if lost():
                        raise CleanupLost(
                            "another cleanup has started meanwhile, because this one did not respond for too long"
                        )

                plan = cleanup_plan(settings, store, clock)
                cleaned = await clean(plan, share=share, stopping=stop.is_set, after=note)
                if cleaned.place is None:
                    await store.cleanups.finish(cleaned.removed)
                return cleaned


@contextmanager
def _display(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar for each sweep at a terminal, or nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def show(progress: Progress) -> None:
            if progress.sweep not in tasks:
                tasks[progress.sweep] = bars.add_task(progress.sweep, total=1.0)
            bars.update(tasks[progress.sweep], completed=progress.done)

        yield show
