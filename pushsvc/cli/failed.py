"""`pushsvc failed`: list dead letters with their reasons.

It reads the store, so it needs the configuration, but no API key.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import ConfigError
from ..model.instants import instant
from ..ports.letters import DeadFilter, DeadLetters, DeadRow
from ..wording import did_you_mean
from .instants import parse_instant
from .output import Json, print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ..settings import Settings

COLUMNS = ("at", "app", "push_id", "platform", "reason", "status", "attempts", "device_id", "token_hash")
PAGE = 1000
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

PushId = Annotated[str, typer.Option("--push", help="Only dead letters of this push.", metavar="ID")]
AppName = Annotated[str, typer.Option("--app", help="Only those of this app; by default all apps.", metavar="APP")]
Platform = Annotated[str, typer.Option("--platform", help="Only those of this platform.", metavar="PLATFORM")]
Reason = Annotated[str, typer.Option("--reason", help="Only those that failed with this reason.", metavar="REASON")]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        help="Only those that failed since this time: 2026-12-01T09:00:00Z, or 2h.",
        metavar="TIME",
    ),
]
Until = Annotated[str, typer.Option("--until", help="Only those that failed before this time.", metavar="TIME")]


def failed(
    context: typer.Context,
    push: PushId = "",
    app: AppName = "",
    platform: Platform = "",
    reason: Reason = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many rows.", metavar="N")] = 100,
    json: Json = False,
) -> None:
    """List dead letters: deliveries that failed permanently. `pushsvc replay` sends them again."""
    which = chosen(push, platform, reason, since, until)
    settings = context.obj.settings()
    run(_failed(settings, apps_of(settings, app), which, limit, json=json))


def chosen(push: str, platform: str, reason: str, since: str, until: str) -> DeadFilter:
    """Return the filter that the options describe. Ends with wrong usage for an unknown platform or a malformed id."""
    require_platform(platform)
    if push and not _UUID.fullmatch(push):
        raise typer.BadParameter(f"--push: {push!r} is not the id of a push; ids are UUIDs")
    return DeadFilter(
        push=push.lower(),
        platform=platform,
        reason=reason,
        since=parse_instant(since, option="--since"),
        until=parse_instant(until, option="--until"),
    )


def require_platform(platform: str) -> None:
    """End with wrong usage (2) if the platform is unknown."""
    if platform:
        from ..runtime import renderers

        known = renderers()
        if platform not in known:
            raise typer.BadParameter(f"--platform: unknown platform {platform!r}; {did_you_mean(platform, known)}")


def apps_of(settings: Settings, app: str) -> list[str]:
    """Return the named app, or all apps. Raises `ConfigError` for an unknown app, and if no app is configured."""
    if not settings.apps:
        settings.require_apps()
    if app and app not in settings.apps:
        known = ", ".join(settings.apps) or "none"
        raise ConfigError(f"apps.{app}", "no such app in the configuration", f"it has {known}")
    return [app] if app else list(settings.apps)


async def rows_of(dead: DeadLetters, app: str, which: DeadFilter, limit: int) -> AsyncIterator[DeadRow]:
    """Yield up to `limit` matching dead letters, fetching page by page."""
    cursor: str | None = ""
    while cursor is not None and limit > 0:
        rows, cursor = await dead.page(app, which, cursor=cursor, limit=min(PAGE, limit))
        for row in rows:
            yield row
        limit -= len(rows)


async def _failed(settings: Settings, apps: list[str], which: DeadFilter, limit: int, *, json: bool) -> None:
    from ..runtime import open_running_store

    found: list[tuple[str, DeadRow]] = []
    async with open_running_store(settings) as store:
        matched = sum([await store.dead.count(app, which) for app in apps])
        for app in apps:
            found += [(app, row) async for row in rows_of(store.dead, app, which, limit - len(found))]
    shown = [{**msgspec.structs.asdict(row), "app": app, "at": instant(row.at)} for app, row in found]
    if json:
        print_json({"matched": matched, "items": shown})
        return
    print_table(COLUMNS, [[_cell(row[name]) for name in COLUMNS] for row in shown])
    if matched > len(found):
        typer.echo(f"{len(found):,} of {matched:,}; --limit shows more", err=True)


def _cell(value: object) -> str:
    return "" if value is None else str(value)
