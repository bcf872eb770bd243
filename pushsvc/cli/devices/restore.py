"""`pushsvc devices restore`: restore pruned devices.

Each step is complete, so the command can be interrupted and repeated.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import Annotated

import typer

from ...ports.registry import PrunedFilter
from ..access import Key, Url
from ..instants import instant_option
from ..operator.operator import Operator, operate
from ..output import Json, counted, print_json
from ..progress import open_bars
from ..pushes.failed import AppName, Platform, require_platform

Reason = Annotated[
    str, typer.Option("--reason", help="Only those that were pruned with this reason.", metavar="REASON")
]
Since = Annotated[
    str,
    typer.Option("--since", help="Only those pruned since this time: 2026-12-01T09:00:00Z, or 2h.", metavar="TIME"),
]
Until = Annotated[str, typer.Option("--until", help="Only those pruned before this time.", metavar="TIME")]


def restore(
    context: typer.Context,
    app: AppName = "",
    platform: Platform = "",
    reason: Reason = "",
    since: Since = "",
    until: Until = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be restored.")] = False,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Restore pruned devices with their users, tags and topics.

    The suppression of their tokens is lifted.
    """
    require_platform(platform)
    which = PrunedFilter(
        platform=platform,
        reason=reason,
        since=instant_option(since, option="--since"),
        until=instant_option(until, option="--until"),
    )
    matched, restored = operate(
        *(context, app, url, key),
        lambda operator: _restore(operator, which, dry_run=dry_run, quiet=json),
        changes=not dry_run,
    )
    if json:
        print_json({"matched": matched, "restored": sum(restored.values()), "apps": restored})
    elif dry_run:
        print(f"{counted(matched, 'device')} would be restored")
    else:
        print(f"{counted(sum(restored.values()), 'device')} restored")


async def _restore(
    operator: Operator, which: PrunedFilter, *, dry_run: bool, quiet: bool
) -> tuple[int, dict[str, int]]:
    """Return how many devices match, and how many of each app were restored."""
    restored = dict.fromkeys(operator.apps, 0)
    matched = sum((await operator.pruned(which)).values())
    if not dry_run:
        with open_bars(sys.stdout, "count", "elapsed", quiet=quiet) as bars:
            task = bars.add_task("restoring", total=matched)
            async with aclosing(operator.restoring(which)) as steps:
                async for app, step in steps:
                    restored[app] += step
                    bars.advance(task, step)
    return matched, restored
