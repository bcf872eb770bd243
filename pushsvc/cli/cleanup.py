"""`pushsvc cleanup`: remove data that is no longer needed. For cron; `pushsvc jobs` does the same once a day.

In the store it needs the configuration, but no other part of the service. Over the API `pushsvc jobs` does it, for the
one app of the key; several apps are cleaned in the store.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from .access import Key, Url, key_of
from .operator.operator import CleanedUp, configuration, named_by_option, open_operator
from .output import Json, counted, print_json, print_table
from .process import print_message
from .progress import open_bars
from .running import run
from .service.parts import until_signalled

if TYPE_CHECKING:
    from ..stages.cleanup import Progress


def cleanup(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    share: Annotated[
        float,
        typer.Option("--share", min=0.01, max=1, help="The share of time it may use, from 0.01 to 1.", metavar="S"),
    ] = 1.0,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Remove data that is no longer needed: old tombstones, stale and suspect devices, orphans, expired records.

    Stale and suspect devices become tombstones first; `pushsvc devices restore` restores them. If another cleanup is
    running, this one says so and exits with 0. Ctrl-C or SIGTERM stops it between two steps. Ages are measured by the
    clock of Redis; nothing is removed if this machine's clock differs from it by more than a minute. With an API key
    `pushsvc jobs` does it, in its own share of the time, and this command waits; with --share, or where several
    apps are configured, it works in the store.
    """
    context.obj.step_back(10)  # Processes that serve requests on this machine have precedence.
    began = time.monotonic()
    if share < 1.0:  # which only this process can keep
        if url and named_by_option(context):
            raise typer.BadParameter("--share is for a cleanup by this command: leave it out with --url")
        url = key = ""
    # A key is of one app: a service that is not named by --url is asked for no cleanup of several.
    settings = configuration(context.obj, needed=not (url and key_of(key, "")))
    strict = not dry_run and (isinstance(settings, ConfigError) or len(settings.apps) == 1)
    apps, cleaned = run(_cleanup(context, url, key, share, strict=strict, dry_run=dry_run, quiet=json))
    seconds = time.monotonic() - began
    if (elsewhere := cleaned.elsewhere) is not None:
        if json:
            print_json({"state": "elsewhere", "holder": elsewhere})
        else:
            print(f"another cleanup is running, in {elsewhere or 'another process'}; this one did nothing")
        return
    rows = sorted((app, what, count) for (app, what), count in cleaned.removed.items() if count)
    total = sum(count for _, _, count in rows)
    if json:
        counts: dict[str, dict[str, int]] = {app: {} for app in apps}
        for app, what, count in rows:
            counts[app][what] = count
        report = {"dry_run": dry_run, "total": total, "seconds": round(seconds, 3), "apps": counts}
        print_json({"state": "stopped" if cleaned.left else "done", **report})
    else:
        if rows:
            titles = ("app", "what", "would be removed" if dry_run else "removed")
            print_table(titles, [[app, what, f"{count:,}"] for app, what, count in rows])
        records = counted(total, "record")
        print(f"{records} would be removed" if dry_run else f"{records} removed in {seconds:,.1f} s")
    if cleaned.left:
        print_message(f"interrupted: {cleaned.left}")
        raise typer.Exit(130)


async def _cleanup(
    context: typer.Context, url: str, key: str, share: float, *, strict: bool, dry_run: bool, quiet: bool
) -> tuple[Sequence[str], CleanedUp]:
    """Return the apps, and what was removed of them."""
    stop = until_signalled(hang_up=True)
    async with open_operator(context, "", url, key, changes=strict) as operator:
        with _display(quiet) as show:
            return operator.apps, await operator.clean_up(share=share, dry_run=dry_run, stop=stop, show=show)


@contextmanager
def _display(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar for each sweep at a terminal, or nothing."""
    with open_bars(sys.stderr, "share", "remaining", quiet=quiet, transient=True) as bars:
        tasks = {}

        def show(progress: Progress) -> None:
            if progress.sweep not in tasks:
                tasks[progress.sweep] = bars.add_task(progress.sweep, total=1.0)
            bars.update(tasks[progress.sweep], completed=progress.done)

        yield show
