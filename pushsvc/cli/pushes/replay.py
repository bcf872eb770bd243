"""`pushsvc replay`: have `pushsvc jobs` send dead letters again, and show the progress.

The replay is a record in the store: it continues if this command ends or its worker is killed. It is requested over the
API where a key is known, or else in the store of the configuration.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import Annotated

import msgspec
import typer

from ...errors import NotFound
from ...ports.letters import DeadFilter, ReplaySpec, ReplayStatus
from ..access import Key, Url
from ..operator.operator import Operator, operate
from ..output import Json, counted, note_interrupt, print_json
from ..process import print_message
from ..progress import ChangedLines, open_bars
from .failed import AppName, Platform, PushId, Reason, Since, Until, chosen, warn_of_reason

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
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Send dead letters again. Exit with 1 if the replay has failed, and with 0 if no dead letter matches.

    The replay is done when all of them are in the queue again; those that fail again become dead letters again, see
    `pushsvc failed`. A replayed dead letter is the same delivery of the same push; its ttl starts again, even if it
    had expired. Needs a running `pushsvc jobs` (or `pushsvc up`). If this command is interrupted or the worker is
    killed, the replay continues, and nothing is sent twice. `--stop JOB` stops it: what was not sent again stays a
    dead letter.
    """
    if stop:
        _stop(context, app, url, key, stop, json=json)
        return
    which = chosen(push, platform, reason, since, until)
    if 0 < rate < 0.1:
        raise typer.BadParameter("--rate: at least 0.1")

    def act(operator: Operator) -> Awaitable[bool]:
        return _replay(operator, which, limit, rate, dry_run=dry_run, detach=detach, json=json)

    if not operate(context, app, url, key, act, changes=not dry_run):
        raise typer.Exit(1)


def _stop(context: typer.Context, app: str, url: str, key: str, job: str, *, json: bool) -> None:
    status = operate(context, app, url, key, lambda operator: operator.stop_replay(job), changes=True)
    if status is None:
        raise NotFound(f"no app has a replay {job!r}; replays are kept for a week")
    if json:
        print_json(status)
    else:
        print(f"{status.job}  {status.spec.app}: {status.state}, {status.moved:,} were sent again")


async def _replay(
    operator: Operator, which: DeadFilter, limit: int, rate: float, *, dry_run: bool, detach: bool, json: bool
) -> bool:
    meant = share(dict(await operator.matched(which)), limit)
    matched = sum(meant.values())
    warn_of_reason(which, matched)
    if dry_run or not matched:
        if json:
            print_json({"matched": matched, "apps": meant, "jobs": []})
        else:
            kept = sum((await operator.matched(DeadFilter())).values())
            fit = f"{matched:,} of {counted(kept, 'dead letter')} would be sent again"
            print(fit if matched else f"no match among {counted(kept, 'dead letter')}, so nothing was replayed")
        return True
    asked = [
        await operator.replay(ReplaySpec(app, which, count if limit else 0, rate))
        for app, count in meant.items()
        if count
    ]
    if not detach:
        with note_interrupt(lambda: _left(asked)):
            for place, each in enumerate(asked):
                asked[place] = await _follow(operator, each, quiet=json)
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


async def _follow(operator: Operator, status: ReplayStatus, *, quiet: bool) -> ReplayStatus:
    loop = asyncio.get_running_loop()
    began, warned, total = loop.time(), False, status.matched
    lines = ChangedLines(quiet=quiet)
    async with aclosing(operator.replaying(status.spec.app, status.job, LOOK)) as looks:
        with open_bars(sys.stdout, "count", "elapsed", quiet=quiet) as bars:
            task = bars.add_task(f"replaying {status.spec.app}", total=total)
            while status.state in ("queued", "running"):
                found = await anext(looks)
                status = status if found is None else found
                bars.update(task, completed=status.moved + status.skipped)
                skipped = f", {status.skipped:,} skipped" if status.skipped else ""
                lines.show(f"{status.spec.app}: {status.state}, {status.moved:,} of {total:,}{skipped}")
                if status.state == "queued" and not warned and loop.time() - began > PATIENCE:
                    warned = True
                    print_message("no worker has started the replay yet: is `pushsvc jobs` running?")
    if status.state == "stopped":
        print_message(f"the replay {status.job} was stopped")
    if status.state == "failed":
        print_message(f"pushsvc: the replay {status.job} has failed: {status.error}")
    return status
