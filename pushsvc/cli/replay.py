"""`pushsvc replay`: have `pushsvc jobs` send dead letters again, and show the progress.

The replay is a record in the store: it continues if this command ends or its worker is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import NotFound
from ..ports.letters import DeadFilter, DeadLetters, ReplaySpec, ReplayStatus
from .failed import AppName, Platform, PushId, Reason, Since, Until, apps_of, chosen
from .output import Json, counted, going_on, print_json
from .running import run

if TYPE_CHECKING:
    from ..settings import Settings

LOOK = 0.2
"""Seconds between two looks."""
PATIENCE = 10.0
"""Seconds after which the command reports that no worker has started the replay."""


def replay(
    context: typer.Context,
    push: PushId = "",
    app: AppName = "",
    platform: Platform = "",
    reason: Reason = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Send at most this many again; 0: all.", metavar="N")
    ] = 0,
    rate: Annotated[
        float, typer.Option("--rate", min=0, help="Deliveries per second; 0: as fast as possible.", metavar="N")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be sent again.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it to finish.")] = False,
    stop: Annotated[
        str, typer.Option("--stop", "--cancel", help="Stop this replay and do nothing else.", metavar="JOB")
    ] = "",
    json: Json = False,
) -> None:
    """Send dead letters again. Exit with 1 if the replay has failed.

    The replay is done when all of them are in the queue again; those that fail again become dead letters again, see
    `pushsvc failed`. A replayed dead letter is the same delivery of the same push; its ttl starts again, even if it
    had expired. Needs a running `pushsvc jobs` (or `pushsvc up`). If this command is interrupted or the worker is
    killed, the replay continues, and nothing is sent twice. `--stop JOB` stops it: what was not sent again stays a
    dead letter.
    """
    if stop:
        settings = context.obj.settings()
        run(_stop(settings, apps_of(settings, app), stop, json=json))
        return
    which = chosen(push, platform, reason, since, until)
    if 0 < rate < 0.1:
        raise typer.BadParameter("--rate: at least 0.1")
    settings = context.obj.settings()
    good = run(_replay(settings, apps_of(settings, app), which, limit, rate, dry_run=dry_run, detach=detach, json=json))
    if not good:
        raise typer.Exit(1)


async def _stop(settings: Settings, apps: list[str], job: str, *, json: bool) -> None:
    from ..runtime import open_running_store

    async with open_running_store(settings) as store:
        for app in apps:
            if status := await store.dead.stop(app, job):
                break
        else:
            raise NotFound(f"no app has a replay {job!r}; replays are kept for a week")
    if json:
        print_json(status)
    else:
        print(f"{status.job}  {status.spec.app}: {status.state}, {status.moved:,} were sent again")


async def _replay(
    settings: Settings,
    apps: list[str],
    which: DeadFilter,
    limit: int,
    rate: float,
    *,
    dry_run: bool,
    detach: bool,
    json: bool,
) -> bool:
    from ..runtime import open_running_store

    async with open_running_store(settings) as store:
        meant = share({app: await store.dead.count(app, which) for app in apps}, limit)
        matched = sum(meant.values())
        if dry_run or not matched:
            if json:
                print_json({"matched": matched, "apps": meant, "jobs": []})
            else:
                kept = sum([await store.dead.count(app, DeadFilter()) for app in apps])
                fit = f"{matched:,} of {counted(kept, 'dead letter')} would be sent again"
                print(fit if matched else f"no dead letter of {kept:,} matches: nothing to send again")
            return True
        asked = [
            await store.dead.request(ReplaySpec(app, which, count if limit else 0, rate))
            for app, count in meant.items()
            if count
        ]
        if not detach:
            with going_on(lambda: _left(asked)):
                for place, each in enumerate(asked):
                    asked[place] = await _follow(store.dead, each, quiet=json)
    if json:
        print_json({"matched": matched, "apps": meant, "jobs": [msgspec.to_builtins(each) for each in asked]})
    elif detach:
        for each in asked:
            print(f"{each.job}  {each.spec.app}")
    elif moved := sum(each.moved for each in asked):
        queued = f"{counted(moved, 'delivery', 'deliveries')} back in the queue"
        print(f"{queued}; `pushsvc failed` lists those that fail again")
    return not any(each.state in ("failed", "stopped") for each in asked)


def _left(asked: Sequence[ReplayStatus]) -> str:
    """Return the note about replays that continue after this command."""
    jobs = ", ".join(f"{each.job} of {each.spec.app}" for each in asked if each.state in ("queued", "running"))
    return f"`pushsvc jobs` continues the replay {jobs}; `pushsvc replay --stop JOB` stops it"


def share(matched: dict[str, int], limit: int) -> dict[str, int]:
    """Split `limit` over the apps and return the number of dead letters for each; 0 means no limit."""
    left = limit or sum(matched.values())
    meant = {}
    for app, count in matched.items():
        meant[app] = min(count, left)
        left -= meant[app]
    return meant


async def _follow(dead: DeadLetters, status: ReplayStatus, *, quiet: bool) -> ReplayStatus:
    loop = asyncio.get_running_loop()
    began, warned = loop.time(), False
    with _display(status, quiet) as show:
        while status.state in ("queued", "running"):
            await asyncio.sleep(LOOK)
            status = await dead.replay(status.spec.app, status.job) or status
            show(status)
            if status.state == "queued" and not warned and loop.time() - began > PATIENCE:
                warned = True
                typer.echo("no worker has started the replay yet: is `pushsvc jobs` running?", err=True)
    if status.state == "stopped":
        typer.echo(f"the replay {status.job} was stopped", err=True)
    if status.state == "failed":
        typer.echo(f"pushsvc: the replay {status.job} has failed: {status.error}", err=True)
    return status


@contextmanager
def _display(status: ReplayStatus, quiet: bool) -> Iterator[Callable[[ReplayStatus], None]]:
    limit = status.spec.limit
    total = min(status.matched, limit) if limit else status.matched
    if quiet:
        yield lambda status: None
    elif sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn()) as progress:
            task = progress.add_task(f"replaying {status.spec.app}", total=total)
            yield lambda status: progress.update(task, completed=status.moved + status.skipped)
    else:
        last = ""

        def show(status: ReplayStatus) -> None:
            nonlocal last
            line = f"{status.spec.app}: {status.state}, {status.moved:,} of {total:,}"
            line += f", {status.skipped:,} skipped" if status.skipped else ""
            if line != last:
                print(line, flush=True)
                last = line

        yield show
