"""`pushsvc devices restore`: restore pruned devices.

Each step is complete, so the command can be interrupted and repeated.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ...ports.registry import PrunedFilter
from ..instants import parse_instant
from ..output import Json, counted, print_json
from ..progress import open_bars
from ..pushes.failed import AppName, Platform, apps_of, require_platform
from ..running import run

if TYPE_CHECKING:
    from ...settings import Settings

STEP = 500
"""Devices that are restored in one step."""

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
    json: Json = False,
) -> None:
    """Restore pruned devices with their users, tags and topics.

    The suppression of their tokens is lifted.
    """
    require_platform(platform)
    which = PrunedFilter(
        platform=platform,
        reason=reason,
        since=parse_instant(since, option="--since"),
        until=parse_instant(until, option="--until"),
    )
    settings = context.obj.settings()
    run(_restore(settings, apps_of(settings, app), which, dry_run=dry_run, json=json))


async def _restore(settings: Settings, apps: list[str], which: PrunedFilter, *, dry_run: bool, json: bool) -> None:
    from ...runtime import open_existing_store, open_running_store

    restored = dict.fromkeys(apps, 0)
    async with (open_running_store if dry_run else open_existing_store)(settings) as store:
        matched = {app: await store.registry.pruned(app, which) for app in apps}
        with open_bars(sys.stdout, "count", "elapsed", quiet=json or dry_run) as bars:
            task = bars.add_task("restoring", total=sum(matched.values()))
            for app in apps if not dry_run else ():
                while step := await store.registry.restore(app, which, limit=STEP):
                    restored[app] += step
                    bars.advance(task, step)
    if json:
        print_json({"matched": sum(matched.values()), "restored": sum(restored.values()), "apps": restored})
    elif dry_run:
        print(f"{counted(sum(matched.values()), 'device')} would be restored")
    else:
        print(f"{counted(sum(restored.values()), 'device')} restored")
