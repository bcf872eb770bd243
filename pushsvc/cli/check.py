"""`pushsvc check`: find what would keep the service from working, with the fix beside each fault.

It reads the configuration, connects to the store or tries to start one, inspects the files of each credential and of
the live channel, and resolves the host names of webhooks. With `--online` it also asks each provider, by a request that
is not delivered, and calls each webhook. If a store answers, it lists the routes that are currently held, including
those whose credentials were refused. With `--url` a running service does all this with its own configuration.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import structs

from ..errors import ConfigError
from ..ports.admin import CheckFinding
from .access import Access, App, Key, access
from .files import temporary_folder
from .output import Json, counted, print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ..settings.schema import Settings

MARKS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def check(
    context: typer.Context,
    json: Json = False,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the providers, and call the webhooks without events.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    url: Annotated[
        str,
        typer.Option(
            "--url", help="Ask the running service there instead, with a key of the scope admin.", metavar="URL"
        ),
    ] = "",
    key: Key = "",
    app: App = "",
) -> None:
    """Check the configuration, Redis and each credential, with the fix beside each fault. Exit with 1 on an error.

    Reads files and the store. With --online, Apple and Google are asked whether they accept each credential: by a push
    to a token that does not exist, and by one that is only validated. Routes that the running service currently holds
    are shown as warnings. With --url the running service there checks its own configuration and files, as far as the
    app of the key may see them; otherwise those of this machine are checked, whatever runs.
    """
    rows = run(_asked(access(context.obj, url, key, app), online)) if url else _rows(context.obj, online=online)
    bad = {"error", "warning"} if strict else {"error"}
    good = not any(row.level in bad for row in rows)
    if json:
        print_json({"ok": good, "findings": [structs.asdict(row) for row in rows]})
    else:
        _print(rows)
    if not good:
        raise typer.Exit(1)


def _rows(state: Any, *, online: bool) -> list[CheckFinding]:
    try:
        settings: Settings = state.read()
        state.log(_quiet(settings))
    except ConfigError as error:
        from ..runtime.checks.configuration import check_environment, faults_of

        return [*faults_of(error), *check_environment()]
    return run(_all(settings, online=online))


async def _asked(at: Access, online: bool) -> list[CheckFinding]:
    """Return what the service finds that runs there."""
    from .operator.api import check_service

    return await check_service(at, online=online)


def _quiet(settings: Settings) -> Settings:
    """Return the settings without the log lines of a service, unless `debug` asks for them: the findings have it."""
    if settings.logging.level == "debug":
        return settings
    return structs.replace(settings, logging=structs.replace(settings.logging, level="critical"))


async def _all(settings: Settings, *, online: bool) -> list[CheckFinding]:
    from ..runtime.checks.check import check_all, once

    rows = await check_all(settings, lambda: temporary_folder("pushsvc-check-", settings.store.data_dir))
    if online:
        from ..runtime.checks.online import check_online

        rows = once([*rows, *await check_online(settings)])
    return rows


def _print(rows: Sequence[CheckFinding]) -> None:
    """Print the findings: at a terminal faults first, each with its fix below it; piped one line each."""
    if not sys.stdout.isatty():
        shown = [[row.level, row.part, row.what, row.fix] for row in rows]
        print_table(("", "part", "found", "fix"), shown)
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    order = sorted(rows, key=lambda row: ("error", "warning", "ok").index(row.level))
    for row in order:
        head = Text.assemble((f"{row.level:8}", MARKS[row.level]), (row.part, "bold"))
        console.print(head, soft_wrap=False)
        console.print(Padding(Text(row.what, overflow="fold"), (0, 0, 0, 8)))
        if row.fix and row.level != "ok":
            console.print(Padding(Text.assemble(("fix: ", "bold"), row.fix, overflow="fold"), (0, 0, 0, 8)))
    counts = Counter(row.level for row in rows)
    faults = f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}"
    console.print(Text(f"{faults}, {counts['ok']:,} ok"))
